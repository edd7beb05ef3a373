"""The commands, each a function of its parsed arguments that reads, computes, writes and prints."""

import argparse
import io
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import xlogy

from fastpmf import HPF, Checkpoint, FitInterrupted, PoissonNMF, Status, as_counts, plot, poisson_nmf
from fastpmf._show_versions import collect_versions, show_versions
from fastpmf.analysis.selection import SelectionInterrupted, select_n_components
from fastpmf.core.counts import Side
from fastpmf.counts import Dataset
from fastpmf.counts.validation import non_integer_fraction
from fastpmf.datasets import load_stdlib
from fastpmf.io import (
    convert_counts,
    is_model,
    load_model,
    read_counts,
    stream_counts,
    write_factor,
    write_factors,
    write_table,
)
from fastpmf.io.npy import check_target
from fastpmf.io.results import check_factors_path, check_output, csv_line
from fastpmf.utils.extras import import_optional
from fastpmf.utils.files import STANDARD_INPUT, atomic_write, regular_file
from fastpmf.utils.messages import printable
from fastpmf.warmup import warmup as warm_up

STANDARD_OUTPUT = STANDARD_INPUT


def fit(arguments: argparse.Namespace) -> None:
    """Fit a model and write it."""
    check_output(arguments.output, ".npz", name="-o")
    if arguments.weights:
        check_output(arguments.weights, ".npy", name="--weights")
    if arguments.factors:
        check_factors_path(arguments.factors, "--factors")
    check_distinct([arguments.counts], arguments.output, arguments.weights, arguments.factors)
    data = stream(arguments) if arguments.stream else read(arguments)
    counts = data.X if arguments.stream else as_counts(data, name=arguments.counts)
    prior = None if arguments.prior == "none" else arguments.prior
    model = PoissonNMF(
        arguments.components, prior_W=prior, prior_H=prior, solver=arguments.solver, init=arguments.init,
        n_init=arguments.n_init, max_iter=arguments.max_iter, tol=arguments.tol, max_time=arguments.max_time,
        random_state=arguments.seed, dtype=arguments.dtype, n_threads=arguments.threads, verbose=not arguments.quiet,
    )  # fmt: skip
    folder = arguments.checkpoint or arguments.resume
    checkpoint = folder and Checkpoint(folder, arguments.checkpoint_minutes)
    began = time.perf_counter()
    try:
        W = model.fit_transform(data._replace(X=counts), checkpoint=checkpoint, resume=arguments.resume)
        interrupted = None
    except FitInterrupted as error:
        W, interrupted = error.solution.W, error
    seconds = time.perf_counter() - began
    if model.status_ is Status.NON_FINITE:
        raise ValueError(f"{arguments.counts} has counts out of the range of {W.dtype}: {model.status_}")
    _save(model, arguments.output)
    arguments.written = f"the model fitted so far is written: {arguments.output}"
    if arguments.weights:
        write_factor(arguments.weights, W)
        arguments.written += f", {arguments.weights}"
    if arguments.factors:
        write_factors(arguments.factors, W, model, data.row_names)
        arguments.written += f", {arguments.factors}"
    facts = _facts_of_counts(data, counts) | _facts_of_model(model)
    facts |= {"seconds": seconds, "model": arguments.output, "weights": arguments.weights, "factors": arguments.factors}
    n, p = counts.shape
    files = f"model in {arguments.output}"
    files += f", W in {arguments.weights}" if arguments.weights else ""
    files += f", both factors in {arguments.factors}" if arguments.factors else ""
    print_result(
        arguments,
        f"{n:,} x {p:,}, {counts.nnz:,} nonzeros, {arguments.components} components: {model.n_iter_} iterations in "
        f"{seconds:.1f} s\n"
        f"objective {model.objective_:.8g} nats, kkt_residual {model.kkt_residual_:.2g} nats per count\n"
        f"{_status(model)}\n{files}",
        facts,
    )
    if interrupted:
        raise interrupted


def _save(model: PoissonNMF, path: str) -> None:
    """Write a model, which may have taken hours; if that fails, write it to the system's temporary folder."""
    try:
        model.save(path)
    except OSError as error:
        folder = tempfile.mkdtemp(prefix="fastpmf-")
        other = Path(folder) / Path(path).name
        try:
            model.save(other)
        except OSError:
            os.rmdir(folder)
            raise error from None
        raise OSError(f"{path} could not be written: {error.strerror or error}; the model is in {other}") from None


def _status(model: PoissonNMF | HPF) -> str:
    """Why a fit stopped and, if it reached a limit, its kkt_residual and tol."""
    if isinstance(model, HPF) or model.status_ not in (Status.MAX_ITER, Status.MAX_TIME):
        return str(model.status_)
    return (
        f"{model.status_} After {model.n_iter_} of at most {model.max_iter} iterations, kkt_residual is "
        f"{model.kkt_residual_:.2g}, tol {model.tol:.2g}."
    )


def transform(arguments: argparse.Namespace) -> None:
    """Write W of new rows."""
    to_stdout = arguments.output == STANDARD_OUTPUT
    if to_stdout and arguments.json:
        raise ValueError("--json and -o - both write to standard output: give -o a file")
    if not to_stdout:
        check_output(arguments.output, ".npy", name="-o")
        check_distinct([arguments.model, arguments.counts], arguments.output)
    model = load_model(arguments.model).set_params(n_threads=arguments.threads)
    W = _weights(model, *_aligned(read(arguments), model, arguments))
    if to_stdout:
        content = io.BytesIO()  # NumPy would hide the error of a closed pipe
        np.save(content, W, allow_pickle=False)
        sys.stdout.buffer.write(content.getbuffer())
        return
    write_factor(arguments.output, W)
    facts = {"rows": W.shape[0], "components": W.shape[1], "weights": arguments.output}
    print_result(arguments, f"{W.shape[0]:,} rows x {W.shape[1]} components in {arguments.output}", facts)


def _aligned(
    data: Dataset, model: PoissonNMF | HPF, arguments: argparse.Namespace
) -> tuple[Dataset, np.ndarray | None]:
    """New counts aligned with the fitted features if both have names, and which features are not observed."""
    names = getattr(model, "feature_names_in_", None)
    if names is None or data.column_names is None or np.array_equal(data.column_names, names.astype(str)):
        return data, None
    aligned, left_out, missing = data.aligned(names)
    if missing.all():
        raise ValueError("none of the counts' columns has a name that the model was fitted with")
    if left_out:
        print_message(f"fastpmf: {left_out} of {len(data.column_names)} columns were not fitted and are left out")
    if not missing.any():
        return aligned, None
    lacks = f"fastpmf: {arguments.counts} lacks {np.count_nonzero(missing)} of the {len(names)} fitted columns:"
    if arguments.missing == "zero":
        print_message(f"{lacks} treated as counts of 0")
        return aligned, None
    print_message(f"{lacks} treated as not observed; --missing zero treats them as counts of 0")
    return aligned, missing


def _weights(model: PoissonNMF | HPF, data: Dataset, missing: np.ndarray | None) -> np.ndarray:
    """W of all rows, from the observed features."""
    if missing is None:
        return model.transform(data)
    here = np.flatnonzero(~missing)
    observed = data._replace(X=data.X.tocsr()[:, here], column_names=model.feature_names_in_[here])
    return model._with_features(here).transform(observed)


def select(arguments: argparse.Namespace) -> None:
    """Compare numbers of components."""
    if arguments.plot:
        check_output(arguments.plot, ".png", name="--plot")
        check_distinct([arguments.counts], arguments.plot)
        import_optional("matplotlib", "plot", "--plot")
    prior = None if arguments.prior == "none" else arguments.prior
    model = PoissonNMF(1, prior_W=prior, prior_H=prior, max_iter=300, dtype=arguments.dtype)
    try:
        selection, interrupted = select_n_components(
            read(arguments), arguments.components, estimator=model, n_splits=arguments.splits,
            random_state=arguments.seed, n_threads=arguments.threads, verbose=not arguments.quiet,
        ), None  # fmt: skip
    except SelectionInterrupted as error:
        selection, interrupted = error.selection, error
    facts = ("n_components", "log_likelihood", "mean", "error", "similarity", "seconds", "best", "recommended")
    print_result(arguments, str(selection), {name: getattr(selection, name) for name in facts})
    if arguments.plot:
        write_figure(arguments.plot, plot.selection(selection)[0].figure)
    if interrupted:
        arguments.written = "the table is that of the completed splits"
        raise interrupted


def topics(arguments: argparse.Namespace) -> None:
    """List the first features of each component."""
    if arguments.output:
        check_output(arguments.output, ".csv", name="-o")
        check_distinct([arguments.model], arguments.output)
    top = load_model(arguments.model).top_features(arguments.top, by=arguments.by, min_weight=arguments.min_weight)
    components = [
        [(str(name), float(score)) for name, score in zip(*component, strict=True) if name]
        for component in zip(top.names, top.scores, strict=True)
    ]
    if arguments.output:
        table = (
            (k, rank, name, f"{score:.6g}")
            for k, features in enumerate(components)
            for rank, (name, score) in enumerate(features, 1)
        )
        write_table(arguments.output, ("component", "rank", "feature", arguments.by), table)
        if not arguments.json:
            return
    lines = (f"{k:>4}. {'  '.join(printable(name) for name, _ in features)}" for k, features in enumerate(components))
    print_result(arguments, "\n".join(lines), [
        {"component": k, "features": [{"feature": name, arguments.by: score} for name, score in features]}
        for k, features in enumerate(components)
    ])  # fmt: skip


def recommend(arguments: argparse.Namespace) -> None:
    """List the columns of highest rate for each row."""
    if arguments.output:
        check_output(arguments.output, ".csv", name="-o")
        check_distinct([arguments.model, arguments.counts], arguments.output)
    model = load_model(arguments.model).set_params(n_threads=arguments.threads)
    data, missing = _aligned(read(arguments), model, arguments)
    rows = np.arange(data.X.shape[0]).astype(str) if data.row_names is None else data.row_names
    X = data.X
    if arguments.rows:
        if absent := set(arguments.rows) - set(rows.tolist()):
            raise ValueError(f"{arguments.counts} has no row {', '.join(sorted(absent))}")
        chosen = np.concatenate([np.flatnonzero(rows == name) for name in arguments.rows])
        rows, X = rows[chosen], X.tocsr()[chosen]
    data = data._replace(X=X, row_names=rows)
    W = None if missing is None else _weights(model, data, missing)
    best = model.recommend(data, W, arguments.top, exclude_seen=not arguments.seen)
    items = best.indices.astype(str) if best.names is None else best.names
    recommended = [
        (str(row), [(str(item), float(rate)) for item, rate, j in zip(*own, strict=True) if j >= 0])
        for row, *own in zip(best.row_names, items, best.rates, best.indices, strict=True)
    ]
    header = ("row", "rank", "item", "rate")
    table = ((row, r, item, f"{rate:.6g}") for row, own in recommended for r, (item, rate) in enumerate(own, 1))
    if arguments.output:
        write_table(arguments.output, header, table)
    if arguments.json:
        print_result(arguments, "", [
            {"row": row, "items": [{"item": item, "rate": rate} for item, rate in own]} for row, own in recommended
        ])  # fmt: skip
    elif not arguments.output:
        for line in (header, *table):
            print_lines(csv_line(line))


def info(arguments: argparse.Namespace) -> None:
    """Describe a file."""
    with regular_file(arguments.counts, standard_input=True) as path:
        if is_model(path):
            _info_of_model(load_model(path), arguments)
            return
        data = read(arguments, path)
    counts = as_counts(data, name=arguments.counts)
    (n, p), facts = counts.shape, _facts_of_counts(data, counts)
    lines = [
        f"{n:,} x {p:,} counts, {counts.nnz:,} nonzeros ({counts.nnz / (n * p):.2%}), stored as {counts.dtype}",
        f"sum {counts.total:,.6g}, mean of rows {counts.total / n:,.4g}, largest {facts['largest']:,.6g}",
    ]
    for names, axis in ((data.row_names, "rows"), (data.column_names, "columns")):
        text = "no names"
        if names is not None:
            text = f"names: {', '.join(map(printable, names[:3]))}{', …' if len(names) > 3 else ''}"
        lines.append(f"{axis}: {facts[f'empty_{axis}']:,} empty; {text}")
    print_result(arguments, "\n".join(lines), facts)


def _info_of_model(model: PoissonNMF | HPF, arguments: argparse.Namespace) -> None:
    k, p = model.components_.shape
    named, kind, objective = hasattr(model, "feature_names_in_"), type(model).__name__, ""
    if isinstance(model, PoissonNMF):
        objective = f"objective {model.objective_:.8g} nats after {model.n_iter_} iterations, kkt_residual " \
                    f"{model.kkt_residual_:.2g} nats per count\n"  # fmt: skip
    elif hasattr(model, "elbo_"):
        objective = f"bound {model.elbo_:.8g} nats after {model.n_iter_} iterations\n"
    print_result(
        arguments,
        f"{kind} of {k} components x {p:,} features, {model.components_.dtype}, features "
        f"{'with' if named else 'without'} names\n{objective}{_status(model)}",
        {"model": kind, "features": p, "named": named, "dtype": str(model.components_.dtype)} | _facts_of_model(model),
    )


def _facts_of_counts(data: Dataset, counts: Any) -> dict[str, Any]:
    (n, p), (rows, columns) = counts.shape, (counts.sums(side) for side in Side)
    return {
        "n_rows": n, "n_columns": p, "nonzeros": counts.nnz, "dtype": str(counts.dtype), "total": counts.total,
        "largest": counts.largest, "empty_rows": int((rows == 0).sum()),
        "empty_columns": int((columns == 0).sum()), "row_names": data.row_names is not None,
        "column_names": data.column_names is not None,
    }  # fmt: skip


def _facts_of_model(model: PoissonNMF | HPF) -> dict[str, Any]:
    facts = {"n_components": len(model.components_), "n_iter": model.n_iter_, "status": model.status_.name,
             "max_iter": model.max_iter, "tol": model.tol}  # fmt: skip
    if isinstance(model, PoissonNMF):
        return facts | {"objective": model.objective_, "kkt_residual": model.kkt_residual_}
    return facts | {"bound": getattr(model, "elbo_", None)}


def convert(arguments: argparse.Namespace) -> None:
    """Write counts of any format to a folder."""
    check_distinct([arguments.counts], arguments.output)
    check_target(arguments.output)
    replaced = ", replacing the old folder" if os.path.exists(arguments.output) else ""
    began = time.perf_counter()
    _check_format(arguments)
    with regular_file(arguments.counts, standard_input=True) as path:
        X = convert_counts(path, arguments.output, verbose=not arguments.quiet, **_read_options(arguments)).X
    _warn_if_not_whole(X.data)
    (n, p), seconds = X.shape, time.perf_counter() - began
    facts = {"n_rows": n, "n_columns": p, "nonzeros": X.nnz, "dtype": str(X.data.dtype), "folder": arguments.output,
             "seconds": seconds}  # fmt: skip
    line = f"{n:,} x {p:,}, {X.nnz:,} nonzeros as {X.data.dtype} in {arguments.output}: {seconds:.1f} s{replaced}"
    print_result(arguments, line, facts)


def warmup(arguments: argparse.Namespace) -> None:
    """Compile the kernels of fits."""
    facts = []
    for counts_dtype in arguments.counts_dtypes:
        for k in arguments.components:
            print_message(f"compiling for {k} components, {counts_dtype} counts ...")
            seconds = warm_up(k, counts_dtype=counts_dtype, dtype=arguments.dtype)
            facts.append({"n_components": k, "counts_dtype": counts_dtype, "seconds": seconds})
    lines = (f"{f['n_components']:>5} components, {f['counts_dtype']} counts: {f['seconds']:.1f} s" for f in facts)
    print_result(arguments, "\n".join(lines), facts)


def versions(arguments: argparse.Namespace) -> None:
    """Print versions for a bug report."""
    if arguments.json:
        print_result(arguments, "", collect_versions())
    else:
        show_versions()


def demo(arguments: argparse.Namespace) -> None:
    """Fit topics to the words of the standard library, and print them."""
    check_output(arguments.plot, ".png", name="--plot")
    print_lines("Reading the standard library of this Python ...")
    X, modules, words = load_stdlib()
    counts = as_counts(X)
    n, p = counts.shape
    print_lines(f"{n:,} modules x {p:,} words, {counts.total:,.0f} words in {counts.nnz:,} nonzeros")
    print_lines(f"Fitting {arguments.components} topics ...")
    solution = poisson_nmf(
        counts, arguments.components, max_iter=500, tol=2e-3, random_state=0, dtype="float32",
        n_threads=arguments.threads, verbose=not arguments.quiet,
    )  # fmt: skip
    assert modules is not None
    assert words is not None
    mass = solution.W * solution.H.sum(axis=1)  # expected number of words by module and topic
    for k in np.argsort(-mass.sum(axis=0)):
        top_words, top_modules = words[np.argsort(-solution.H[k])[:9]], modules[np.argsort(-mass[:, k])[:4]]
        print_lines(f"\n{k:>2}. {mass[:, k].sum() / mass.sum():>5.1%}  {' '.join(top_words)}")
        print_lines(f"           in {', '.join(top_modules)}")
    # The best fit with one component is row sum x column sum / total; its divergence is the deviance to explain
    sums = (counts.sums(side) for side in Side)
    null = counts.entropy + xlogy(counts.total, counts.total) - sum(xlogy(s, s).sum() for s in sums)
    print_lines(f"\n{solution.status}")
    print_lines(f"deviance explained: {max(0.0, 1 - solution.objective / null):.1%}, relative to a single topic")
    print_lines(f"{solution.n_iter} iterations in {solution.trace['seconds'][-1]:.1f} s, without compilation")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print_lines("no plot of the objective, which needs matplotlib (pip install matplotlib)")
        return
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="iteration", ylabel="objective D(X ‖ WH), nats", title="fastpmf demo")
    axes.plot(solution.trace["n_iter"], solution.trace["objective"], marker=".")
    write_figure(arguments.plot, figure)
    print_lines(f"objective by iteration: {arguments.plot}")


# ── Input and output ────────────────────────────────────────────────────────────────────────────────────────────


def print_result(arguments: argparse.Namespace, lines: str, facts: Any) -> None:
    """Print the result of a command: the lines, or with --json the facts."""
    print_lines(json.dumps(_jsonable(facts), allow_nan=False) if arguments.json else lines)


def _jsonable(value: Any) -> Any:
    """A value for JSON, with null instead of NaN and infinity."""
    if isinstance(value, dict):
        return {name: _jsonable(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_lines(lines: str) -> None:
    """Print without control characters, which names from files may have; escape what the terminal can't show."""
    encoding = sys.stdout.encoding or "utf-8"
    text = "\n".join(map(printable, lines.split("\n"))).encode(encoding, "backslashreplace").decode(encoding)
    print(text, flush=True)  # noqa: T201


def print_message(line: str) -> None:
    """Print a line on standard error."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201


def read(arguments: argparse.Namespace, path: str | os.PathLike[str] | None = None) -> Dataset:
    """Read the counts of a command, from `path` if it is given."""
    _check_format(arguments)
    if path is None:
        with regular_file(arguments.counts, standard_input=True) as path:
            return read(arguments, path)
    data = read_counts(path, **_read_options(arguments))
    _warn_if_not_whole(data.X.data)
    return data


def stream(arguments: argparse.Namespace) -> Dataset:
    """The counts of a command, which are read from their file in each pass."""
    if arguments.counts == STANDARD_INPUT:
        raise ValueError("--stream reads the counts more than once: give a file or folder, not standard input")
    options = _read_options(arguments)
    if options.pop("columns") is not None or options.pop("header") is not None:
        raise ValueError("--columns and --header are for tables, which can't be streamed: convert them first")
    data = stream_counts(arguments.counts, n_threads=arguments.threads, **options)
    _, first = next(data.X.blocks())
    _warn_if_not_whole(first.side(data.X.storage_axis).data)
    return data


def _read_options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("format", "layer", "columns", "header", "feature_types", "feature_names", "transpose")
    return {name: getattr(arguments, name) for name in names}


def _check_format(arguments: argparse.Namespace) -> None:
    if arguments.counts == STANDARD_INPUT and arguments.format is None:
        raise ValueError("standard input has no name with its format: give --format")


def _warn_if_not_whole(counts: np.ndarray) -> None:
    if share := non_integer_fraction(counts):
        print_message(
            f"fastpmf: warning: {share:.0%} of the nonzeros are not whole numbers, as after normalisation or "
            "logarithms; the model is for counts"
        )


def write_figure(path: str, figure: Any) -> None:
    """Write a matplotlib figure as .png."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)


def check_distinct(inputs: list[str], *outputs: str | None) -> None:
    """Raise an error if an output file is the same as an input file or another output file."""
    known = set(map(os.path.realpath, inputs))
    for path in filter(None, outputs):
        if (target := os.path.realpath(path)) in known:
            raise ValueError(f"every output must be a different file, got {path} twice")
        known.add(target)
