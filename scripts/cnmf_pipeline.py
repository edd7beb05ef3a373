"""cNMF as it is and on fastpmf: the seconds of each step, how near its fits come, and whether the programs agree."""

import argparse
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib import metadata
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from provenance import write_table
from scipy import sparse
from sklearn.decomposition import non_negative_factorization as sklearns
from sklearn.decomposition._nmf import _beta_divergence
from studying import add_outputs, check_outputs, clocked, draw, others_busy, progress, read_matrices, tell

import fastpmf.cnmf
from fastpmf import kl_divergence, match_components
from fastpmf.datasets import make_poisson_counts

DESCRIPTION = """\
Run consensus NMF (cNMF, which must be installed: pip install cnmf) with the Kullback-Leibler loss on the same
counts and seeds, in temporary folders: once as it is, which is on scikit-learn, and once on fastpmf with each
of --solvers, by fastpmf.cnmf.patch. Everything between the factorizations is cNMF's own code.

  prepare      high-variance genes, scaled to unit variance ("norm counts"), and counts per million ("TPM")
  factorize    the replicates, one after another
  combine      their spectra in one file
  k_selection  stability and error at this number of programs
  consensus    clusters of spectra, without outliers; their medians, the programs; and three refits: usages of
               the norm counts, spectra of all genes in TPM from these usages, and usages again from the latter

Fits are scored by fastpmf.kl_divergence: exact, in nats per count, per unit of the matrix that was fitted. The
median of spectra can be 0 or nearly so, in all programs, where there are counts, and then that is infinite, or
large: so the consensus is also scored by rates that are 99 % its own and 1 % without structure ("mixed").

cNMF has the spectra refitted to the TPM matrix transposed, which is CSC then, and scikit-learn's updates take
its entries in another order than their rates. So this one refit is done again, from the usages of the run on
scikit-learn: of the same matrix as CSR, and by fastpmf. Beside the truth stands what scikit-learn's own loss
says of the matrix as it was given ("reported"), which is what it stops by.

Programs are alike, between 0 and 1, as fastpmf.match_components says. Kernels are compiled before any clock
runs. Cells without counts in the high-variance genes, which cNMF refuses, are left out.

examples:
  python scripts/cnmf_pipeline.py -k 5 --high-variance-genes 500 --density-threshold 2
  python scripts/cnmf_pipeline.py --data counts.npz -k 10 --replicates 20 --csv cnmf.csv --png cnmf.svg
"""
THEIRS = "scikit-learn"
CSC, CSR, OURS, AGAIN = "scikit-learn, CSC", "scikit-learn, CSR", "fastpmf, CSC", "TPM spectra, same usages"
STEPS = ("prepare", "factorize", "combine", "k_selection", "consensus")
REFITS = ("norm usages", "TPM spectra", "TPM usages")  # what consensus asks for, in this order
LEAST = 4  # replicates: three tenths of them are the neighbours whose distances cNMF averages


class Line(NamedTuple):
    """A line of the table: one number."""

    counts: str
    k: int
    run: str
    measure: str
    what: str
    value: float


class Fit(NamedTuple):
    """What cNMF asked to be factorized, and what it was given."""

    X: Any
    W: np.ndarray
    H: np.ndarray
    n_iter: int

    @property
    def nats(self) -> float:
        """Divergence per count."""
        return kl_divergence(self.X, self.W, self.H) / self.X.sum(dtype=np.float64)

    @property
    def mixed(self) -> float:
        """Divergence per count of rates that are 99 % the fit's and 1 % without structure."""
        rows, columns = (np.asarray(self.X.sum(axis=axis, dtype=np.float64)).ravel() for axis in (1, 0))
        W, H = np.column_stack([0.99 * self.W, rows]), np.vstack([self.H, 0.01 / rows.sum() * columns])
        return kl_divergence(self.X, W, H) / rows.sum()

    @property
    def reported(self) -> float:
        """Divergence per count as scikit-learn's own loss has it."""
        return _beta_divergence(self.X, self.W, self.H, 1) / self.X.sum(dtype=np.float64)


class Run(NamedTuple):
    """One way through cNMF: the fits and the seconds of each step, and what k_selection says."""

    fits: dict[str, list[Fit]]
    seconds: dict[str, float]
    stability: float
    error: float

    @property
    def programs(self) -> dict[str, np.ndarray]:
        """Of the genes that were factorized, and of all."""
        usages, spectra, _ = self.fits["consensus"]
        return {"norm programs": usages.H, "TPM programs": spectra.W.T}


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", metavar="FILE", help=".npz or .mtx[.gz] (default: the words of Python)")
    parser.add_argument("-k", "--components", type=int, default=10, metavar="K", help="default: %(default)s")
    parser.add_argument("--replicates", type=int, default=8, metavar="N", help="default: %(default)s; cNMF's: 100")
    parser.add_argument("--high-variance-genes", type=int, default=2000, metavar="N", help="default: %(default)s")
    parser.add_argument("--density-threshold", type=float, default=0.5, metavar="D", help="default: %(default)s")
    parser.add_argument("--max-nmf-iter", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--solvers", nargs="+", choices=["auto", "mu"], default=["auto", "mu"], help="default: both")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    add_outputs(parser, "cnmf_pipeline")
    arguments = parser.parse_args()
    if arguments.components < 2 or min(arguments.high_variance_genes, arguments.max_nmf_iter) < 1:
        parser.error("--components must be at least 2, --high-variance-genes and --max-nmf-iter at least 1")
    if arguments.replicates < LEAST:
        parser.error(f"--replicates must be at least {LEAST}: of fewer, cNMF has no neighbours to tell outliers by")
    if not arguments.density_threshold > 0:
        parser.error(f"--density-threshold must be above 0, got {arguments.density_threshold}")
    check_outputs(parser, arguments)
    warnings.simplefilter("ignore")
    os.environ.setdefault("MPLBACKEND", "agg")  # cNMF draws too
    try:
        library = importlib.import_module("cnmf.cnmf")
    except ImportError as error:
        parser.error(f"cNMF must be installed (pip install cnmf): {error}")
    matrices, lines, busy = read_matrices(parser, arguments.data), [], others_busy()
    arguments.solvers = list(dict.fromkeys(arguments.solvers))
    tell(f"cNMF {metadata.version('cnmf')}, {arguments.replicates} replicates")
    n_fits = (1 + len(arguments.solvers)) * (arguments.replicates + 1 + len(REFITS))
    with progress(len(matrices) * n_fits, "fit") as tick:
        for name, X in matrices.items():
            try:
                for found in case(library, name, X, arguments, tick):
                    lines += found
                    write_table(arguments.csv, Line._fields, lines, matrices)  # outlives an interruption
            except RuntimeError as error:  # cNMF's, where no spectrum is near enough to others
                parser.error(f"cNMF ends in {name}: {error}")
            tell_table([line for line in lines if line.counts == name])
    tell(f"table: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, lines))
    tell()
    for sentence in [*verdict(lines), *busy]:
        tell(sentence)
    return 0


def case(library: Any, name: str, X: Any, arguments: argparse.Namespace, tick: Callable) -> Iterator[list[Line]]:
    """Lines of the run on scikit-learn, of each on fastpmf, and of the refits from the same usages."""
    runs: dict[str, Run] = {}

    def told(run: str, numbers: dict[tuple[str, str], float]) -> list[Line]:
        return [Line(name, arguments.components, run, *what, value) for what, value in numbers.items()]

    with TemporaryDirectory() as folder:
        left_out = write_counts(library, X, arguments.high_variance_genes, f"{folder}/counts.h5ad")
        if left_out:
            tell(f"{name}: {left_out} rows have no counts in the high-variance columns, and are left out")
        for label, solver in {THEIRS: None, **{f"fastpmf {solver}": solver for solver in arguments.solvers}}.items():
            run = through(library, folder, label, solver, arguments, tick)
            replicates = run.fits["factorize"]
            numbers = {("seconds", step): took for step, took in run.seconds.items()}
            numbers["seconds", "all"] = sum(run.seconds.values())
            nats = {("nats per count", f"replicate {r}"): fit.nats for r, fit in enumerate(replicates)}
            numbers |= nats | {("nats per count", "median replicate"): median(nats.values())}
            numbers["iterations", "median replicate"] = median(fit.n_iter for fit in replicates)
            for what, fit in zip(REFITS, run.fits["consensus"], strict=True):
                numbers |= {("nats per count", what): fit.nats, ("mixed", what): fit.mixed}
                numbers["iterations", what] = fit.n_iter
            numbers |= {("stability", "k_selection"): run.stability, ("error", "k_selection"): run.error}
            for other, before in runs.items():
                for what, programs in run.programs.items():
                    alike = match_components(programs, before.programs[what])[1]
                    numbers[f"like {other}, median", what] = median(alike)
                    numbers[f"like {other}, least", what] = min(alike)
            runs[label] = run
            yield told(label, numbers)
    fits = again(runs[THEIRS].fits["consensus"][1], arguments)
    for label, fit in fits.items():
        numbers = {"nats per count": fit.nats, "reported": fit.reported, "iterations": fit.n_iter}
        numbers["like fastpmf's, least"] = min(match_components(fit.W.T, fits[OURS].W.T)[1])
        yield told(label, {(measure, AGAIN): value for measure, value in numbers.items()})


def write_counts(library: Any, X: Any, n_genes: int, path: str) -> int:
    """Write counts as cNMF reads them, without the cells that it would refuse; how many these are."""
    from anndata import AnnData
    from pandas import DataFrame

    rows, columns = np.arange(X.shape[0]), np.arange(X.shape[1])
    X = sparse.csr_matrix(X).astype(np.float32)
    while True:
        some = X[rows][:, columns]
        filled = [np.asarray(some.sum(axis=axis)).ravel() > 0 for axis in (1, 0)]
        if filled[0].all() and filled[1].all():
            cells = AnnData(some, *(DataFrame(index=numbers.astype(str)) for numbers in (rows, columns)))
            genes, _ = library.get_highvar_genes_sparse(library.compute_tpm(cells).X, numgenes=n_genes)
            filled[0] = np.asarray(some[:, genes["high_var"].to_numpy()].sum(axis=1)).ravel() > 0
            if filled[0].all():
                cells.write_h5ad(path)
                return X.shape[0] - len(rows)
        rows, columns = rows[filled[0]], columns[filled[1]]


def through(
    library: Any, folder: str, label: str, solver: str | None, arguments: argparse.Namespace, tick: Callable
) -> Run:
    """cNMF from its first step to its last; every factorization that it asks for is taken down."""
    k, fits, seconds = arguments.components, {step: [] for step in STEPS}, {}
    with patch.object(library, "non_negative_factorization", sklearns), redirect_stdout(io.StringIO()):
        if solver:
            fastpmf.cnmf.patch(solver)
            compiled(library.non_negative_factorization, k)
        factorization = library.non_negative_factorization

        def watched(X: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, int]:
            found = factorization(X, **options)
            fits[step].append(Fit(X, *found))
            tick()
            return found

        library.non_negative_factorization = watched
        study = library.cNMF(folder, label)
        calls = (
            lambda: study.prepare(
                f"{folder}/counts.h5ad", components=[k], n_iter=arguments.replicates, seed=arguments.seed,
                beta_loss="kullback-leibler", num_highvar_genes=arguments.high_variance_genes,
                max_NMF_iter=arguments.max_nmf_iter,
            ),
            study.factorize,
            study.combine,
            lambda: study.k_selection_plot(close_fig=True),
            lambda: study.consensus(k, density_threshold=arguments.density_threshold, show_clustering=False),
        )  # fmt: skip
        for step, call in zip(STEPS, calls, strict=True):
            _, seconds[step] = clocked(call)
        chosen = library.load_df_from_npz(study.paths["k_selection_stats"]).iloc[0]
    return Run(fits, seconds, float(chosen["silhouette"]), float(chosen["prediction_error"]))


def compiled(factorization: Callable, k: int) -> None:
    """Have the kernels ready for what cNMF will ask for."""
    X = make_poisson_counts(60, 50, 3, nnz=1500, random_state=0).X
    options = {"n_components": k, "init": "random", "random_state": 0, "max_iter": 30}
    for matrix in (X.astype(np.float64), X.astype(np.float32).T):
        _, H, _ = factorization(matrix, **options)
        factorization(matrix, H=H, update_H=False, **options)


def again(fit: Fit, arguments: argparse.Namespace) -> dict[str, Fit]:
    """The refit of TPM spectra from the same usages: as cNMF has had it, of the matrix as CSR, and by fastpmf."""
    options = {"H": fit.H, "update_H": False, "n_components": len(fit.H), "init": "random", "solver": "mu",
               "beta_loss": "kullback-leibler", "tol": 1e-4, "max_iter": arguments.max_nmf_iter}  # fmt: skip
    rows = fit.X.tocsr()
    return {
        CSC: fit,
        CSR: Fit(rows, *sklearns(rows, **options)),
        OURS: Fit(fit.X, *fastpmf.non_negative_factorization(fit.X, **options)),
    }


def tell_table(lines: list[Line]) -> None:
    """Print what each step took and where it ended, then the refits from the same usages."""
    found = {(line.measure, line.what, line.run): line.value for line in lines}
    for title, told in (
        (f"{lines[0].counts}, k = {lines[0].k}", [line for line in lines if line.what != AGAIN]),
        (AGAIN, [line for line in lines if line.what == AGAIN]),
    ):
        runs = list(dict.fromkeys(line.run for line in told))
        row = "{:<30}{:<18}" + "{:>18}" * len(runs)
        tell(row.format(title, "", *runs))
        for measure, what in dict.fromkeys((line.measure, line.what) for line in told):
            if not what.startswith("replicate "):
                values = [found.get((measure, what, run), "") for run in runs]
                told_as = [f"{x:.5g}" if x != "" else "" for x in values]
                if measure == "seconds":
                    told_as[1:] = [f"{x:.3g} ({values[0] / x:.2g}×)" for x in values[1:]]
                tell(row.format(measure, what if what != AGAIN else "", *told_as))
        tell()


def verdict(lines: list[Line]) -> list[str]:
    """What came of it, in words."""
    told = []
    for name in dict.fromkeys(line.counts for line in lines):
        found = {(line.run, line.measure, line.what): line.value for line in lines if line.counts == name}
        for run in dict.fromkeys(run for run, *_ in found if run.startswith("fastpmf ")):
            took = [found[THEIRS, "seconds", what] / found[run, "seconds", what] for what in ("factorize", "all")]
            ends = [found[which, "nats per count", "median replicate"] for which in (THEIRS, run)]
            told.append(
                f"{name}: on scikit-learn the replicates take {took[0]:.3g} times as long as on {run}, and all of cNMF "
                f"{took[1]:.3g} times; their median ends at {ends[0]:.4f} nats per count, and there at {ends[1]:.4f}."
            )
        csc, csr, ours = (found[which, "nats per count", AGAIN] for which in (CSC, CSR, OURS))
        told.append(
            f"{name}: the refit of the TPM spectra ends at {csc:.4f} nats per count on scikit-learn, which reports "
            f"{found[CSC, 'reported', AGAIN]:.4f}, and at {csr:.4f} of the same matrix as CSR; fastpmf's at {ours:.4f}."
        )
    return told


def paint(figure: Any, lines: list[Line]) -> None:
    """A row of panels for each counts: seconds of the steps, ends of the replicates, refits of the TPM spectra."""
    names = list(dict.fromkeys(line.counts for line in lines))
    figure.set_size_inches(13, 4 * len(names))
    for name, (steps, ends, refit) in zip(names, figure.subplots(len(names), 3, squeeze=False), strict=True):
        own = [line for line in lines if line.counts == name]
        runs = list(dict.fromkeys(line.run for line in own if line.what != AGAIN))
        for i, run in enumerate(runs):
            seconds = [line.value for line in own if (line.run, line.measure) == (run, "seconds")]
            steps.barh(np.arange(len(seconds)) + 0.25 * i, seconds, 0.25, color=f"C{i}", label=run)
            nats = [line.value for line in own if line.run == run and line.what.startswith("replicate ")]
            ends.plot([i] * len(nats), nats, "o", color=f"C{i}", mfc="none")
        for measure, marker, label in (("nats per count", "ko", "true"), ("reported", "k_", "scikit-learn's own loss")):
            values = [line.value for line in own if (line.what, line.measure) == (AGAIN, measure)]
            refit.plot([CSC, CSR, OURS], values, marker, mfc="none", ms=10, label=label)
        steps.set_yticks(range(len(STEPS) + 1), [*STEPS, "all"])
        steps.set(xscale="log", xlabel="seconds", title=f"{name}, k = {own[0].k}")
        steps.invert_yaxis()
        ends.set_xticks(range(len(runs)), runs)
        ends.set(ylabel="nats per count", title="replicates", xlim=(-0.5, len(runs) - 0.5))
        refit.set(ylabel="nats per count", title=AGAIN, xlim=(-0.5, 2.5))
        refit.legend()
    figure.legend(*steps.get_legend_handles_labels(), loc="outside lower left", ncols=len(runs))


if __name__ == "__main__":
    sys.exit(main())
