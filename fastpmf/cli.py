"""The command line, `fastpmf COMMAND`. It parses, calls and prints."""

import argparse
import os
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import xlogy
from sklearn.exceptions import ConvergenceWarning

from fastpmf import (
    FitInterrupted,
    PoissonNMF,
    Solution,
    Status,
    __version__,
    as_counts,
    poisson_nmf,
    select_n_components,
    show_versions,
)
from fastpmf.counts import Side
from fastpmf.datasets import Dataset, load_stdlib
from fastpmf.io import FORMATS, convert_counts, is_model, read_counts, write_factor, write_table
from fastpmf.model.init import INITS
from fastpmf.model.reading import ORDERS
from fastpmf.solvers import SOLVERS

OK, BAD_INPUT, INTERRUPTED = 0, 2, 130

_FIT_HELP = """\
Fit a Poisson factorization (KL-NMF) to a sparse matrix of counts: rows are cells, documents or
users, columns genes, words or items. The model goes to one .npz file, for `fastpmf transform` and
for PoissonNMF.load in Python.

  fastpmf fit counts.npz -k 20 -o model.npz
  fastpmf fit filtered_feature_bc_matrix.h5 -k 50 --dtype float32 --weights W.npy -o model.npz
  fastpmf fit cells.h5ad --layer counts -k 30 -o model.npz
  fastpmf fit ratings.csv --columns userId,movieId,rating -k 20 -o model.npz
"""
_TRANSFORM_HELP = """\
Explain new rows by a fitted model: the weights W of each row, H staying as it is.

  fastpmf transform model.npz new_counts.npz -o W.npy
"""
_SELECT_HELP = """\
How many components: hold out a tenth of the counts by thinning, fit each number to the rest, and print
a table of what it predicts, per held-out count in nats, with its standard error against the best, and
how alike the components are that different splits find. Recommended is the smallest that is not clearly
worse than the best.

  fastpmf select counts.npz -k 5 10 20 40
  fastpmf select cells.h5ad --layer counts -k 10 20 30 --splits 5 --dtype float32
"""
_TOPICS_HELP = """\
Print the first features of each component of a fitted model: by weight, those that its counts are; by
lift or exclusivity, those that are typical of it, among those that carry at least --least of it.

  fastpmf topics model.npz
  fastpmf topics model.npz -n 20 --by lift --least 0.001 -o topics.csv
"""
_INFO_HELP = """\
Say what a file holds, of counts in any format or of a fitted model.

  fastpmf info cells.h5ad --layer counts
  fastpmf info model.npz
"""
_CONVERT_HELP = """\
Read counts of any format into a folder that later reads map from the disk in no time: canonical CSR as
data.npy, indices.npy and indptr.npy, with the names of rows and columns beside them, where the file has
any. Text, tables and such folders are read a chunk at a time, so that memory is needed for little more
than that; .npz, .h5, .h5ad and .zarr are read whole.

  fastpmf convert filtered_feature_bc_matrix.h5 -o cells
  fastpmf convert purchases.csv --columns customer,product,n -o purchases
  fastpmf fit purchases -k 20 -o model.npz
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
    except (ValueError, TypeError, OSError, MemoryError, ImportError) as error:
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
    fit.add_argument("-k", "--components", type=int, required=True, metavar="K", help="number of components")
    fit.add_argument("-o", "--output", required=True, metavar="MODEL.npz", help="where the model goes")
    fit.add_argument("--weights", metavar="W.npy", help="also write W, rows x components")
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
    transform.add_argument("-o", "--output", required=True, metavar="W.npy", help="where W goes, rows x components")

    select = command("select", _select, "how many components, from held-out counts", _SELECT_HELP)
    select.add_argument("-k", "--components", type=int, nargs="+", required=True, metavar="K", help="numbers to try")
    select.add_argument("--splits", type=int, default=3, metavar="N", help="random splits (default: %(default)s)")
    select.add_argument("--seed", type=int, default=0, help="seed of splits and starts (default: %(default)s)")
    select.add_argument("--dtype", choices=["float32", "float64"], help="floats to work in")

    topics = command("topics", _topics, "the first features of each component of a fitted model", _TOPICS_HELP)
    topics.add_argument("model", metavar="MODEL.npz", help="as `fastpmf fit` wrote it")
    topics.add_argument("-n", "--top", type=int, default=10, metavar="N", help="features (default: %(default)s)")
    topics.add_argument("--by", choices=ORDERS, default="weight", help="what they are ordered by (default: weight)")
    topics.add_argument("--least", type=float, default=0.0, metavar="P", help="share of a component that a feature "
                        "must carry (default: %(default)s)")  # fmt: skip
    topics.add_argument("-o", "--output", metavar="TOPICS.csv", help="component, rank, feature and score, as a table")

    info = command("info", _info, "what a file holds", _INFO_HELP)
    convert = command("convert", _convert, "counts of any format into a folder that is memory-mapped", _CONVERT_HELP)
    convert.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the counts go")

    for made in (fit, transform, select, info, convert):
        made.add_argument("counts", metavar="COUNTS", help=f"file or folder: {', '.join(FORMATS)}")
        made.add_argument("--format", choices=FORMATS, metavar="F", help="one of these (default: by the name)")
        made.add_argument("--layer", metavar="NAME", help="layer of .h5ad or .zarr, or raw; genome of 10x version 2")
        made.add_argument("--columns", metavar="ROW,COLUMN[,COUNT]", help="of csv, tsv and parquet, by name, or by "
                          "number from 0 (default: the first three)")  # fmt: skip
        made.add_argument("--transpose", action="store_true", help="swap rows and columns; 10x Genomics' genes are "
                          "columns before")  # fmt: skip
    for made in (demo, fit, select, convert):
        made.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    for made in (demo, fit, transform, select):
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
    data = read_counts(arguments.counts, **_choices(arguments))
    counts = as_counts(data, name=arguments.counts)
    model = PoissonNMF(
        arguments.components, solver=arguments.solver, init=arguments.init, n_init=arguments.n_init,
        max_iter=arguments.max_iter, tol=arguments.tol, max_time=arguments.max_time, random_state=arguments.seed,
        dtype=arguments.dtype, n_threads=arguments.threads, verbose=not arguments.quiet,
    )  # fmt: skip
    began = time.perf_counter()
    try:
        W, interrupted = model.fit_transform(data._replace(X=counts)), None
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
    W = model.transform(read_counts(arguments.counts, **_choices(arguments)))
    write_factor(arguments.output, W)
    _print(f"{W.shape[0]:,} rows x {W.shape[1]} components in {arguments.output}")


def _select(arguments: argparse.Namespace) -> None:
    found = select_n_components(
        read_counts(arguments.counts, **_choices(arguments)), arguments.components, n_splits=arguments.splits,
        random_state=arguments.seed, dtype=arguments.dtype, n_threads=arguments.threads, verbose=not arguments.quiet,
    )  # fmt: skip
    _print(str(found))


def _topics(arguments: argparse.Namespace) -> None:
    if arguments.output:
        _check_output(arguments.output, ".csv")
        _check_distinct(arguments.output, arguments.model)
    model = PoissonNMF.load(arguments.model)
    top = model.top_features(arguments.top, by=arguments.by, least=arguments.least)
    if arguments.output:
        found = ((k, r, *top_of) for k, pairs in enumerate(map(zip, top.names, top.scores), 1)
                 for r, top_of in enumerate(pairs, 1))  # fmt: skip
        rows = ((k, r, name, f"{score:.6g}") for k, r, name, score in found if name)
        write_table(arguments.output, ("component", "rank", "feature", arguments.by), rows)
        return
    for k, names in enumerate(top.names, 1):
        _print(f"{k:>4}. {'  '.join(filter(None, names))}")


def _info(arguments: argparse.Namespace) -> None:
    if is_model(arguments.counts):
        model = PoissonNMF.load(arguments.counts)
        k, p = model.components_.shape
        _print(f"model of {k} components x {p:,} features, {model.components_.dtype}, "
               f"features {'with' if hasattr(model, 'feature_names_in_') else 'without'} names")  # fmt: skip
        _print(f"objective {model.objective_:.8g} nats after {model.n_iter_} iterations, kkt_residual "
               f"{model.kkt_residual_:.2g} nats per count")  # fmt: skip
        _print(str(model.status_))
        return
    data = read_counts(arguments.counts, **_choices(arguments))
    counts = as_counts(data, name=arguments.counts)
    (n, p), sums = counts.shape, [counts.sums(side) for side in Side]
    _print(f"{n:,} x {p:,} counts, {counts.nnz:,} nonzeros ({counts.nnz / (n * p):.2%}), kept as {counts.dtype}")
    most = counts.to_scipy().data.max(initial=0)
    _print(f"sum {counts.total:,.6g}, mean of rows {counts.total / n:,.4g}, largest {most:,.6g}")
    for side, names, said in zip(sums, (data.row_names, data.column_names), ("rows", "columns"), strict=True):
        named = "no names" if names is None else f"names: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        _print(f"{said}: {int((side == 0).sum()):,} empty; {named}")


def _convert(arguments: argparse.Namespace) -> None:
    _check_distinct(arguments.output, arguments.counts)
    target = Path(arguments.output)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} in")
    began = time.perf_counter()
    stored = convert_counts(arguments.counts, target, verbose=not arguments.quiet, **_choices(arguments))
    n, p = stored.X.shape
    _print(f"{n:,} x {p:,}, {stored.X.nnz:,} nonzeros as {stored.X.data.dtype} in {arguments.output}: "
           f"{time.perf_counter() - began:.1f} s")  # fmt: skip


def _choices(arguments: argparse.Namespace) -> dict[str, Any]:
    """What of a file is to be read."""
    columns = arguments.columns and [int(c) if c.isdigit() else c for c in arguments.columns.split(",")]
    return {
        "format": arguments.format, "layer": arguments.layer, "columns": columns, "transpose": arguments.transpose,
    }  # fmt: skip


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
    assert data.row_names is not None
    assert data.column_names is not None
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
    """A line, or several, without the control characters that names from files may hold."""
    print("".join(c if c.isprintable() or c == "\n" else "?" for c in line), flush=True)  # noqa: T201


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
