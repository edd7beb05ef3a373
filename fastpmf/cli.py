"""The command line: `fastpmf demo`, `fit`, `transform`, `versions`. It parses, calls an estimator and prints."""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.special import xlogy
from sklearn.exceptions import ConvergenceWarning

from fastpmf import FitInterrupted, PoissonNMF, Solution, Status, __version__, as_counts, poisson_nmf, show_versions
from fastpmf.counts import Side
from fastpmf.datasets import Dataset, load_stdlib
from fastpmf.io import read_counts, write_factor
from fastpmf.model.init import INITS
from fastpmf.solvers import SOLVERS

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130

_FIT_HELP = """\
Fit a Poisson factorization (KL-NMF) to a sparse matrix of counts: rows are cells, documents or
users, columns genes, words or items. The model goes to one .npz file, for `fastpmf transform` and
for PoissonNMF.load in Python.

  fastpmf fit counts.npz -k 20 -o model.npz
  fastpmf fit matrix.mtx.gz -k 50 --dtype float32 --weights W.npy -o model.npz
"""
_TRANSFORM_HELP = """\
Explain new rows by a fitted model: the weights W of each row, H staying as it is.

  fastpmf transform model.npz new_counts.npz -o W.npy
"""
_DEMO_HELP = """\
Fit 20 topics to the words of Python's own standard library, as it lies on this machine, and print
them: the main job on real input, with nothing to download.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 bad input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", ConvergenceWarning)
            warnings.filterwarnings(
                "ignore", r"Stopped at max_(iter|time)", ConvergenceWarning
            )  # a fit's status line says it
            warnings.showwarning = lambda message, *_, **__: _say(f"fastpmf: warning: {message}")
            arguments.run(arguments)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        _say(f"fastpmf: error: {error}")
        return BAD_INPUT
    except KeyboardInterrupt as interruption:
        kept = isinstance(interruption, FitInterrupted) and hasattr(arguments, "weights")
        _say(f"fastpmf: interrupted, {'what was fitted so far is written' if kept else 'nothing was written'}")
        return INTERRUPTED
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastpmf", description="Poisson matrix factorization (KL-NMF) of large sparse counts."
    )
    parser.add_argument("--version", action="version", version=f"fastpmf {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, summary: str, description: str) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name, help=summary, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        made.set_defaults(run=run)
        return made

    demo = command("demo", _demo, "20 topics of Python's standard library", _DEMO_HELP)
    demo.add_argument("-k", "--components", type=int, default=20, metavar="K", help="topics (default: %(default)s)")
    demo.add_argument("--plot", default="fastpmf-demo.png", metavar="PNG", help="picture of the objective, where "
                      "matplotlib is installed (default: %(default)s)")  # fmt: skip

    fit = command("fit", _fit, "fit a model to a file of counts", _FIT_HELP)
    fit.add_argument("counts", metavar="COUNTS", help="scipy.sparse .npz, or Matrix Market .mtx or .mtx.gz")
    fit.add_argument("-k", "--components", type=int, required=True, metavar="K", help="number of components")
    fit.add_argument("-o", "--output", required=True, metavar="MODEL.npz", help="where the model goes")
    fit.add_argument("--weights", metavar="W.npy", help="also write W, rows x components")
    fit.add_argument("--transpose", action="store_true", help="the file's columns are the rows of X")
    fit.add_argument("--solver", choices=["auto", *SOLVERS], default="auto", help="cd: coordinate descent, "
                     "extrapolated, which is what auto chooses; em: least memory; mu: the reference")  # fmt: skip
    fit.add_argument("--init", choices=[i for i in INITS if i != "custom"], default="auto", help="start (default: "
                     "%(default)s, which is random)")  # fmt: skip
    fit.add_argument("--n-init", type=int, default=1, metavar="N", help="starts to try, of which the best is finished "
                     "(default: %(default)s)")  # fmt: skip
    fit.add_argument("--max-iter", type=int, default=500, metavar="N", help="most iterations (default: %(default)s)")
    fit.add_argument("--tol", type=float, default=1e-4, metavar="T", help="converged when no other W, nor any other "
                     "H, is better by more than T nats per count (default: %(default)s)")  # fmt: skip
    fit.add_argument("--max-time", type=float, metavar="S", help="stop after S seconds (default: no limit)")
    fit.add_argument("--seed", type=int, default=0, help="seed of the random start (default: %(default)s)")
    fit.add_argument("--dtype", choices=["float32", "float64"], help="floats to work in (default: float32 for "
                     "float32 counts, else float64)")  # fmt: skip

    transform = command("transform", _transform, "weights of new rows under a fitted model", _TRANSFORM_HELP)
    transform.add_argument("model", metavar="MODEL.npz", help="as `fastpmf fit` wrote it")
    transform.add_argument("counts", metavar="COUNTS", help="scipy.sparse .npz, or Matrix Market .mtx or .mtx.gz")
    transform.add_argument("-o", "--output", required=True, metavar="W.npy", help="where W goes, rows x components")
    transform.add_argument("--transpose", action="store_true", help="the file's columns are the rows of X")

    for made in (demo, fit):
        made.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    for made in (demo, fit, transform):
        made.add_argument("-j", "--threads", type=int, metavar="N", help="threads (default: all this process may "
                          "use); the result does not depend on it")  # fmt: skip
    command("versions", lambda _: show_versions(), "what a bug report should say", "Print versions, CPU and threads.")
    return parser


def _fit(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output, ".npz")
    if arguments.weights:
        _check_output(arguments.weights, ".npy")
    _check_distinct(arguments.output, arguments.counts)
    _check_distinct(arguments.weights, arguments.counts, arguments.output)
    X = read_counts(arguments.counts)
    counts = as_counts(X.T if arguments.transpose else X, name=arguments.counts)
    model = PoissonNMF(
        arguments.components, solver=arguments.solver, init=arguments.init, n_init=arguments.n_init,
        max_iter=arguments.max_iter, tol=arguments.tol, max_time=arguments.max_time, random_state=arguments.seed,
        dtype=arguments.dtype, n_threads=arguments.threads, verbose=not arguments.quiet,
    )  # fmt: skip
    began = time.perf_counter()
    try:
        W, interrupted = model.fit_transform(counts), None
    except FitInterrupted as stopped:  # hours of work: keep what there is
        W, interrupted = stopped.solution.W, stopped
    seconds = time.perf_counter() - began
    if model.status_ is Status.NON_FINITE:
        raise ValueError(f"{arguments.counts} holds counts beyond the reach of {W.dtype}: {model.status_}")
    if interrupted and model.n_iter_ == 0:
        raise KeyboardInterrupt  # there is nothing to keep but the random start
    model.save(arguments.output)
    if arguments.weights:
        write_factor(arguments.weights, W)
    n, p = counts.shape
    _print(f"{n:,} x {p:,}, {counts.nnz:,} nonzeros, {arguments.components} components: "
           f"{model.n_iter_} iterations in {seconds:.1f} s")  # fmt: skip
    _print(f"objective {model.objective_:.8g} nats, kkt_residual {model.kkt_residual_:.2g} nats per count")
    _print(str(model.status_))
    _print(f"model in {arguments.output}{f', W in {arguments.weights}' if arguments.weights else ''}")
    if interrupted:
        raise interrupted


def _transform(arguments: argparse.Namespace) -> None:
    _check_output(arguments.output, ".npy")
    _check_distinct(arguments.output, arguments.model, arguments.counts)
    model = PoissonNMF.load(arguments.model).set_params(n_threads=arguments.threads)
    X = read_counts(arguments.counts)
    W = model.transform(X.T if arguments.transpose else X)
    write_factor(arguments.output, W)
    _print(f"{W.shape[0]:,} rows x {W.shape[1]} components in {arguments.output}")


def _demo(arguments: argparse.Namespace) -> None:
    _check_output(arguments.plot, ".png")
    _print("Reading the standard library of this Python ...")
    data = load_stdlib()
    counts = as_counts(data.X)
    n, p = counts.shape
    _print(f"{n:,} modules x {p:,} words, {counts.total:,.0f} words in {counts.nnz:,} nonzeros")
    _print(f"Fitting {arguments.components} topics (the first fit compiles the kernels) ...")
    solution = poisson_nmf(
        counts, arguments.components, max_iter=500, tol=2e-3, random_state=0, dtype="float32",
        n_threads=arguments.threads, verbose=not arguments.quiet,
    )  # fmt: skip
    _print_topics(data, solution)
    # A single component can do no better than row sum x column sum / total: that is the deviance to explain.
    sums = (counts.sums(side) for side in Side)
    null = counts.entropy + xlogy(counts.total, counts.total) - sum(xlogy(s, s).sum() for s in sums)
    _print(f"\n{solution.status}")
    _print(f"deviance explained: {max(0.0, 1 - solution.objective / null):.1%} of what a single topic leaves")
    seconds = solution.trace["seconds"][-1]
    _print(f"{solution.n_iter} iterations in {seconds:.1f} s, compilation included, which only a first run needs")
    _plot(solution, Path(arguments.plot))


def _print_topics(data: Dataset, solution: Solution) -> None:
    mass = solution.W * solution.H.sum(axis=1)  # words that each topic explains in each module
    for rank, k in enumerate(np.argsort(-mass.sum(axis=0)), 1):
        words = data.column_names[np.argsort(-solution.H[k])[:9]]
        modules = data.row_names[np.argsort(-mass[:, k])[:4]]
        _print(f"\n{rank:>2}. {mass[:, k].sum() / mass.sum():>5.1%}  {' '.join(words)}")
        _print(f"           in {', '.join(modules)}")


def _plot(solution: Solution, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        _print("no picture of the objective: that needs matplotlib (pip install matplotlib)")
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="iteration", ylabel="objective D(X ‖ WH), nats", title="fastpmf demo")
    axes.plot(solution.trace["n_iter"], solution.trace["objective"], marker=".")
    figure.savefig(path, dpi=150)
    _print(f"objective by iteration: {path}")


def _check_output(path: str, suffix: str) -> None:
    """Find out before hours of fitting, not after."""
    target = Path(path)
    if target.suffix != suffix:
        raise ValueError(f"the output must be a {suffix} file, got {target.name!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} in")
    if target.is_dir():
        raise IsADirectoryError(f"the output must be a file, {target} is a folder")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"the folder {target.parent.resolve()} can't be written to")


def _check_distinct(output: str | None, *others: str) -> None:
    """Never write over what is read, or one result over another."""
    if output and os.path.realpath(output) in map(os.path.realpath, others):
        raise ValueError(f"every output must be a file of its own, got {output} twice")


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
