"""cNMF on scikit-learn, on fastpmf, and `fastpmf.consensus`: seconds, divergences, and similarity of programs."""

import argparse
import importlib
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from scipy import sparse
from sklearn.decomposition import non_negative_factorization as sklearn_factorization
from sklearn.decomposition._nmf import _beta_divergence

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

import fastpmf.cnmf
from fastpmf import Consensus, PoissonNMF, consensus, kl_divergence, match_components
from fastpmf.datasets import make_poisson_counts

DESCRIPTION = """\
Run consensus NMF (cNMF, which must be installed: pip install cnmf) with the Kullback-Leibler loss on the same counts
and seeds, in temporary folders: unmodified, on scikit-learn, and on fastpmf with each of --solvers, by
fastpmf.cnmf.patch. Everything between the factorizations is cNMF's own code.

  prepare      high-variance genes, scaled to unit variance ("norm counts"), and counts per million ("TPM")
  factorize    the replicates, one after another
  combine      their spectra in one file
  k_selection  stability and error at this number of programs
  consensus    clusters of spectra, without outliers; their medians, the programs; and three refits: usages of the norm
               counts, spectra of all genes in TPM from these usages, and usages again from the latter

Fits are scored by fastpmf.kl_divergence, in nats per count, per unit of the matrix that was fitted. The median of
spectra can be 0 or nearly 0 in all programs for an entry with counts, which makes the divergence infinite or large.
The consensus is therefore also scored by rates that are 99 % its own and 1 % without structure ("mixed").

cNMF refits the spectra to the transposed TPM matrix, which is CSC, and scikit-learn's updates pair its entries with
rates of other entries. This refit is therefore repeated from the usages of the run on scikit-learn: by scikit-learn
for the same matrix as CSR, and by fastpmf. "reported" is scikit-learn's own loss of the given matrix, which it uses
to stop.

fastpmf.consensus runs on the same norm counts, with as many replicates and the same density threshold, and with
another seed too. So does cNMF, on fastpmf, with another seed: this similarity is what can be expected of any two runs.
Two programs of a run may be nearly equal, since cNMF can divide a dense cluster: "like the next" is the similarity of
each program to the most similar other one.

The similarity of programs, between 0 and 1, is that of fastpmf.match_components. Compilation is not timed. Cells
without counts in the high-variance genes, which cNMF rejects, are left out.
"""
EXAMPLES = """\
  python scripts/examples/cnmf_pipeline.py -k 5 --high-variance-genes 500 --density-threshold 2
  python scripts/examples/cnmf_pipeline.py --data counts.npz -k 10 --replicates 20 --csv cnmf.csv --png cnmf.svg
"""
THEIRS = "scikit-learn"
CSC, CSR, OURS, AGAIN = "scikit-learn, CSC", "scikit-learn, CSR", "fastpmf, CSC", "TPM spectra, same usages"
CONSENSUS, NORM = "fastpmf.consensus", "norm programs"
STEPS = ("prepare", "factorize", "combine", "k_selection", "consensus")
REFITS = ("norm usages", "TPM spectra", "TPM usages")  # of the consensus, in this order
MIN_REPLICATES = 4  # three tenths of them are the neighbours whose distances cNMF averages


class Row(NamedTuple):
    """A row of the table: one number."""

    counts: str
    k: int
    run: str
    measure: str
    what: str
    value: float


class Fit(NamedTuple):
    """A factorization that cNMF called, and its result."""

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
        """Divergence per count by scikit-learn's own loss."""
        return _beta_divergence(self.X, self.W, self.H, 1) / self.X.sum(dtype=np.float64)


class Run(NamedTuple):
    """A run of cNMF: the fits and the seconds of each step, and the result of k_selection."""

    fits: dict[str, list[Fit]]
    seconds: dict[str, float]
    cpu_seconds: dict[str, float]
    stability: float
    error: float

    @property
    def programs(self) -> dict[str, np.ndarray]:
        """Over the genes that were factorized, and over all."""
        usages, spectra, _ = self.fits["consensus"]
        return {NORM: usages.H, "TPM programs": spectra.W.T}


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION, EXAMPLES)
    parser.shared(data=[], seed=0)
    parser.option("-k --components", "programs", 10, type=common.number(int, 2))
    parser.option("--replicates", "replicates; cNMF's default is 100", 8, type=common.number(int, MIN_REPLICATES))
    parser.option("--high-variance-genes", "number of genes to factorize", 2000)
    parser.option("--density-threshold", "of the consensus", 0.5)
    parser.option("--max-nmf-iter", "iterations of each factorization", 1000)
    parser.option("--solvers", "solvers of fastpmf", ["auto", "mu"], choices=["auto", "mu"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ.setdefault("MPLBACKEND", "agg")  # cNMF draws plots too
    try:
        library = importlib.import_module("cnmf.cnmf")
    except ImportError as error:
        parser.error(f"cNMF must be installed (pip install cnmf): {error}")
    matrices, load = common.read_matrices(parser, arguments.data), common.warning_of_load()
    arguments.solvers = list(dict.fromkeys(arguments.solvers))
    common.echo(f"cNMF {common.version_of('cnmf')}, {arguments.replicates} replicates")
    batches = (batch for name, X in matrices.items() for batch in case(library, name, X, arguments))
    total = len(matrices) * (5 + len(arguments.solvers))
    try:
        rows = common.collect(batches, total, arguments, unit="run", counts=matrices, show="run what measure value")
    except RuntimeError as error:  # raised by cNMF if all spectra are outliers
        parser.error(f"cNMF failed: {error}")
    return common.conclude(arguments, partial(plot, rows), [*verdict(rows), *load])


def case(library: Any, name: str, X: Any, arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Rows of the run on scikit-learn, of each on fastpmf, and of the refits from the same usages."""
    runs: dict[str, Run] = {}

    def rows_of(run: str, numbers: dict[tuple[str, str], float]) -> list[Row]:
        return [Row(name, arguments.components, run, *what, value) for what, value in numbers.items()]

    with TemporaryDirectory() as folder:
        left_out = write_counts(library, X, arguments.high_variance_genes, f"{folder}/counts.h5ad")
        if left_out:
            common.echo(f"{name}: {left_out} rows have no counts in the high-variance columns and are left out")
        for label, solver in {THEIRS: None, **{f"fastpmf {solver}": solver for solver in arguments.solvers}}.items():
            run = run_cnmf(library, folder, label, solver, arguments)
            numbers = {("seconds", step): seconds for step, seconds in run.seconds.items()}
            numbers["seconds", "all"] = sum(run.seconds.values())
            numbers["CPU seconds", NORM] = sum(run.cpu_seconds[step] for step in ("factorize", "combine", "consensus"))
            numbers["like the next, median", NORM] = median(like_the_next(run.programs[NORM]))
            replicates = run.fits["factorize"]
            nats = {("nats per count", f"replicate {r}"): fit.nats for r, fit in enumerate(replicates)}
            numbers |= nats | {("nats per count", "median replicate"): median(nats.values())}
            numbers["iterations", "median replicate"] = median(fit.n_iter for fit in replicates)
            for what, fit in zip(REFITS, run.fits["consensus"], strict=True):
                numbers |= {("nats per count", what): fit.nats, ("mixed", what): fit.mixed}
                numbers["iterations", what] = fit.n_iter
            numbers |= {("stability", "k_selection"): run.stability, ("error", "k_selection"): run.error}
            for other, before in runs.items():
                for what, programs in run.programs.items():
                    numbers |= likeness(programs, before.programs[what], other, what)
            runs[label] = run
            yield rows_of(label, numbers)
        programs = {label: run.programs[NORM] for label, run in runs.items()}
        solver, other_seed = arguments.solvers[0], arguments.seed + 1
        again = run_cnmf(library, folder, "another", solver, arguments, other_seed).programs[NORM]
        yield rows_of(f"seed {other_seed}", likeness(again, programs[f"fastpmf {solver}"], f"fastpmf {solver}", NORM))
    X = runs[THEIRS].fits["consensus"][0].X
    numbers = {}
    for label, seed in ((CONSENSUS, arguments.seed), (f"{CONSENSUS}, seed {other_seed}", other_seed)):
        found, numbers["seconds", NORM], numbers["CPU seconds", NORM] = run_consensus(X, seed, arguments)
        H = found.model.components_
        numbers |= {("silhouette", NORM): found.silhouette, ("kept", NORM): found.kept.mean()}
        numbers["like the next, median", NORM] = median(like_the_next(H))
        for other, before in programs.items():
            numbers |= likeness(H, before, other, NORM)
        programs[label] = H
        yield rows_of(label, numbers)
    fits = refit(runs[THEIRS].fits["consensus"][1], arguments)
    rows: list[Row] = []
    for label, fit in fits.items():
        numbers = {"nats per count": fit.nats, "reported": fit.reported, "iterations": fit.n_iter}
        numbers["like fastpmf's, minimum"] = min(match_components(fit.W.T, fits[OURS].W.T)[1])
        rows += rows_of(label, {(measure, AGAIN): value for measure, value in numbers.items()})
    yield rows


def likeness(H: np.ndarray, other: np.ndarray, label: str, what: str) -> dict[tuple[str, str], float]:
    """Similarities of matched programs of two runs."""
    alike = match_components(H, other)[1]
    return {(f"like {label}, median", what): median(alike), (f"like {label}, minimum", what): min(alike)}


def like_the_next(H: np.ndarray) -> list[float]:
    """Similarity of each program to the most similar other one of its run."""
    return [
        max(match_components(H[z : z + 1], other[None])[1][0] for other in np.delete(H, z, axis=0))
        for z in range(len(H))
    ]


def run_consensus(X: Any, seed: int, arguments: argparse.Namespace) -> tuple[Consensus, float, float]:
    """The consensus of fits of the norm counts, its seconds, and its seconds of CPU."""
    k, options = arguments.components, {"random_state": seed, "density_threshold": arguments.density_threshold}
    few = PoissonNMF(k, init="random", max_iter=30, tol=0)
    consensus(X[:200], k, n_replicates=2, estimator=few, random_state=0, density_threshold=2)  # compiles
    began = time.process_time()
    found, seconds = common.timed(lambda: consensus(X, k, n_replicates=arguments.replicates, **options))
    return found, seconds, time.process_time() - began


def write_counts(library: Any, X: Any, n_genes: int, path: str) -> int:
    """Write counts for cNMF without the cells that it would reject; returns the number of these cells."""
    from anndata import AnnData
    from pandas import DataFrame

    rows, columns = np.arange(X.shape[0]), np.arange(X.shape[1])
    X = sparse.csr_matrix(X).astype(np.float32)
    while True:
        part = X[rows][:, columns]
        filled = [np.asarray(part.sum(axis=axis)).ravel() > 0 for axis in (1, 0)]
        if filled[0].all() and filled[1].all():
            cells = AnnData(part, *(DataFrame(index=numbers.astype(str)) for numbers in (rows, columns)))
            genes, _ = library.get_highvar_genes_sparse(library.compute_tpm(cells).X, numgenes=n_genes)
            filled[0] = np.asarray(part[:, genes["high_var"].to_numpy()].sum(axis=1)).ravel() > 0
            if filled[0].all():
                cells.write_h5ad(path)
                return X.shape[0] - len(rows)
        rows, columns = rows[filled[0]], columns[filled[1]]


def run_cnmf(
    library: Any, folder: str, label: str, solver: str | None, arguments: argparse.Namespace, seed: int | None = None
) -> Run:
    """All steps of cNMF, with a record of every factorization."""
    k, fits, seconds, cpu_seconds = arguments.components, {step: [] for step in STEPS}, {}, {}
    seed = arguments.seed if seed is None else seed
    with patch.object(library, "non_negative_factorization", sklearn_factorization), redirect_stdout(io.StringIO()):
        if solver:
            fastpmf.cnmf.patch(solver)
            compile_first(library.non_negative_factorization, k)
        factorization = library.non_negative_factorization

        def recorded(X: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, int]:
            found = factorization(X, **options)
            fits[step].append(Fit(X, *found))
            return found

        library.non_negative_factorization = recorded
        study = library.cNMF(folder, label)
        calls = (
            lambda: study.prepare(
                f"{folder}/counts.h5ad", components=[k], n_iter=arguments.replicates, seed=seed,
                beta_loss="kullback-leibler", num_highvar_genes=arguments.high_variance_genes,
                max_NMF_iter=arguments.max_nmf_iter,
            ),
            study.factorize,
            study.combine,
            lambda: study.k_selection_plot(close_fig=True),
            lambda: study.consensus(k, density_threshold=arguments.density_threshold, show_clustering=False),
        )  # fmt: skip
        for step, call in zip(STEPS, calls, strict=True):
            began = time.process_time()
            _, seconds[step] = common.timed(call)
            cpu_seconds[step] = time.process_time() - began
        chosen = library.load_df_from_npz(study.paths["k_selection_stats"]).iloc[0]
    return Run(fits, seconds, cpu_seconds, float(chosen["silhouette"]), float(chosen["prediction_error"]))


def compile_first(factorization: Callable, k: int) -> None:
    """Compile the kernels that cNMF's calls need."""
    X = make_poisson_counts(60, 50, 3, nnz=1500, random_state=0).X
    options = {"n_components": k, "init": "random", "random_state": 0, "max_iter": 30}
    for matrix in (X.astype(np.float64), X.astype(np.float32).T):
        _, H, _ = factorization(matrix, **options)
        factorization(matrix, H=H, update_H=False, **options)


def refit(fit: Fit, arguments: argparse.Namespace) -> dict[str, Fit]:
    """The refit of TPM spectra from the same usages: that of cNMF, of the matrix as CSR, and by fastpmf."""
    options = {"H": fit.H, "update_H": False, "n_components": len(fit.H), "init": "random", "solver": "mu",
               "beta_loss": "kullback-leibler", "tol": 1e-4, "max_iter": arguments.max_nmf_iter}  # fmt: skip
    rows = fit.X.tocsr()
    return {
        CSC: fit,
        CSR: Fit(rows, *sklearn_factorization(rows, **options)),
        OURS: Fit(fit.X, *fastpmf.non_negative_factorization(fit.X, **options)),
    }


def verdict(rows: list[Row]) -> list[str]:
    """Ratios of seconds, and divergences."""
    lines = []
    for (name,), own in common.group(rows, "counts").items():
        found = {(row.run, row.measure, row.what): row.value for row in own}
        for run in dict.fromkeys(run for run, *_ in found if run.startswith("fastpmf ")):
            ratio = [found[THEIRS, "seconds", what] / found[run, "seconds", what] for what in ("factorize", "all")]
            ends = [found[which, "nats per count", "median replicate"] for which in (THEIRS, run)]
            lines.append(
                f"{name}: on scikit-learn the replicates take {ratio[0]:.3g} times as long as on {run}, all of cNMF "
                f"{ratio[1]:.3g} times; their median divergence is {ends[0]:.4f} and {ends[1]:.4f} nats per count."
            )
        ratio = found[THEIRS, "CPU seconds", NORM] / found[CONSENSUS, "CPU seconds", NORM]
        alike = [found[CONSENSUS, f"like {THEIRS}, {which}", NORM] for which in ("median", "minimum")]
        solver = next(run for run, *_ in found if run.startswith("fastpmf ")).removeprefix("fastpmf ")
        ceiling = next(
            [found[run, f"like fastpmf {solver}, {which}", NORM] for which in ("median", "minimum")]
            for run, *_ in found
            if run.startswith("seed ")
        )
        lines.append(
            f"{name}: the replicates and consensus of cNMF on scikit-learn take {ratio:.3g} times as much CPU as "
            f"fastpmf.consensus on the same counts. The matched similarity of their programs is {alike[0]:.3f} "
            f"(median) and {alike[1]:.3f} (minimum); that of cNMF on fastpmf with two seeds is {ceiling[0]:.3f} and "
            f"{ceiling[1]:.3f}."
        )
        csc, csr, ours = (found[which, "nats per count", AGAIN] for which in (CSC, CSR, OURS))
        lines.append(
            f"{name}: the refit of the TPM spectra has {csc:.4f} nats per count on scikit-learn, which reports "
            f"{found[CSC, 'reported', AGAIN]:.4f}, and {csr:.4f} for the same matrix as CSR; fastpmf's has {ours:.4f}."
        )
    return lines


def plot(rows: list[Row], figure: Any) -> None:
    """For each matrix: seconds of the steps, ends of the replicates, refits of the TPM spectra."""
    cases = common.group(rows, "counts")
    figure.set_size_inches(13, 4 * len(cases))
    panels = figure.subplots(len(cases), 3, squeeze=False)
    for ((name,), own), (steps, ends, refits) in zip(cases.items(), panels, strict=True):
        runs = list(dict.fromkeys(row.run for row in own if row.what == "factorize"))
        for i, run in enumerate(runs):
            seconds = [row.value for row in own if (row.run, row.measure) == (run, "seconds")]
            steps.barh(np.arange(len(seconds)) + 0.25 * i, seconds, 0.25, color=f"C{i}", label=run)
            nats = [row.value for row in own if row.run == run and row.what.startswith("replicate ")]
            ends.plot([i] * len(nats), nats, "o", color=f"C{i}", mfc="none")
        for measure, marker, label in (("nats per count", "ko", "true"), ("reported", "k_", "scikit-learn's own loss")):
            values = [row.value for row in own if (row.what, row.measure) == (AGAIN, measure)]
            refits.plot([CSC, CSR, OURS], values, marker, mfc="none", ms=10, label=label)
        steps.set_yticks(range(len(STEPS) + 1), [*STEPS, "all"])
        steps.set(xscale="log", xlabel="seconds", title=f"{name}, k = {own[0].k}")
        steps.invert_yaxis()
        steps.legend()
        ends.set_xticks(range(len(runs)), runs)
        ends.set(ylabel="nats per count", title="replicates", xlim=(-0.5, len(runs) - 0.5))
        refits.set(ylabel="nats per count", title=AGAIN, xlim=(-0.5, 2.5))
        refits.legend()


if __name__ == "__main__":
    sys.exit(main())
