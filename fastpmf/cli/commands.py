"""What each command does: read, call, write, tell."""

import argparse
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf import HPF, Checkpoint, FitInterrupted, PoissonNMF, Status, as_counts, plot, select_n_components
from fastpmf._show_versions import facts_of_versions, show_versions
from fastpmf.analysis.selection import SelectionInterrupted
from fastpmf.cli.telling import (
    STREAM,
    check_distinct,
    check_format,
    choices,
    counts_file,
    read,
    say,
    show,
    stream,
    tell,
    warn_of_broken,
    write_picture,
)
from fastpmf.core.counts import Side
from fastpmf.counts.named import Dataset
from fastpmf.io import convert_counts, is_model, load_model, write_factor, write_factors, write_table
from fastpmf.io.results import check_factors_path, check_output, csv_line
from fastpmf.utils.extras import needed
from fastpmf.utils.files import check_folder, regular_file
from fastpmf.utils.messages import printable
from fastpmf.warmup import warmup as warm_up


def fit(arguments: argparse.Namespace) -> None:
    """Fit a model, and write it."""
    check_output(arguments.output, ".npz", name="-o")
    if arguments.weights:
        check_output(arguments.weights, ".npy", name="--weights")
    if arguments.factors:
        check_factors_path(arguments.factors, "--factors")
    outputs = [path for path in (arguments.output, arguments.weights, arguments.factors) if path]
    for number, path in enumerate(outputs):
        check_distinct(path, arguments.counts, *outputs[:number])
    data = stream(arguments) if arguments.stream else read(arguments)
    counts = data.X if arguments.stream else as_counts(data, name=arguments.counts)
    prior = None if arguments.prior == "none" else arguments.prior
    model = PoissonNMF(
        arguments.components, prior_W=prior, prior_H=prior, solver=arguments.solver, init=arguments.init,
        n_init=arguments.n_init, max_iter=arguments.max_iter, tol=arguments.tol, max_time=arguments.max_time,
        random_state=arguments.seed, dtype=arguments.dtype, n_threads=arguments.threads, verbose=not arguments.quiet,
    )  # fmt: skip
    folder = arguments.checkpoint or arguments.resume
    saved = {"checkpoint": folder and Checkpoint(folder, arguments.checkpoint_minutes), "resume": arguments.resume}
    began = time.perf_counter()
    try:
        W, interrupted = model.fit_transform(data._replace(X=counts), **saved), None
    except FitInterrupted as stopped:  # hours of work: keep what there is
        W, interrupted = stopped.solution.W, stopped
    seconds = time.perf_counter() - began
    if model.status_ is Status.NON_FINITE:
        raise ValueError(f"{arguments.counts} holds counts beyond the reach of {W.dtype}: {model.status_}")
    _save(model, arguments.output)
    arguments.kept = f"what was fitted so far is written: {arguments.output}"
    if arguments.weights:
        write_factor(arguments.weights, W)
        arguments.kept += f", {arguments.weights}"
    if arguments.factors:
        write_factors(arguments.factors, W, model, data.row_names)
        arguments.kept += f", {arguments.factors}"
    facts = _facts_of_counts(data, counts) | _facts_of_model(model)
    facts |= {"seconds": seconds, "model": arguments.output, "weights": arguments.weights, "factors": arguments.factors}
    n, p = counts.shape
    also = f", W in {arguments.weights}" if arguments.weights else ""
    also += f", both factors in {arguments.factors}" if arguments.factors else ""
    tell(
        arguments,
        f"{n:,} x {p:,}, {counts.nnz:,} nonzeros, {arguments.components} components: {model.n_iter_} iterations in "
        f"{seconds:.1f} s\n"
        f"objective {model.objective_:.8g} nats, kkt_residual {model.kkt_residual_:.2g} nats per count\n"
        f"{_how_far(model)}\n"
        f"model in {arguments.output}{also}",
        facts,
    )
    if interrupted:
        raise interrupted


def _save(model: PoissonNMF, path: str) -> None:
    """Write a model to a path; if that fails, to the system's temporary folder, since it may be hours of work."""
    try:
        model.save(path)
    except OSError as error:
        folder = tempfile.mkdtemp(prefix="fastpmf-")
        rescued = Path(folder) / Path(path).name
        try:
            model.save(rescued)
        except OSError:
            os.rmdir(folder)
            raise error from None
        raise OSError(f"{path} could not be written: {error.strerror or error}; the model is in {rescued}") from None


def _how_far(model: PoissonNMF) -> str:
    """Why a fit stopped and, if it did not converge, how far it got."""
    if model.status_ not in (Status.MAX_ITER, Status.MAX_TIME):
        return str(model.status_)
    return (
        f"{model.status_} After {model.n_iter_} of at most {model.max_iter} iterations kkt_residual is "
        f"{model.kkt_residual_:.2g}, tol {model.tol:.2g}."
    )


def transform(arguments: argparse.Namespace) -> None:
    """W of new rows."""
    streams = arguments.output == STREAM
    if streams and arguments.json:
        raise ValueError("--json and -o - both want standard output: give -o a file")
    if not streams:
        check_output(arguments.output, ".npy", name="-o")
        check_distinct(arguments.output, arguments.model, arguments.counts)
    model = load_model(arguments.model).set_params(n_threads=arguments.threads)
    W = _weights(model, *_as_fitted(read(arguments), model, arguments))
    if streams:
        held = io.BytesIO()  # NumPy's own way into a pipe hides that nobody reads on
        np.save(held, W, allow_pickle=False)
        sys.stdout.buffer.write(held.getbuffer())
        return
    write_factor(arguments.output, W)
    facts = {"rows": W.shape[0], "components": W.shape[1], "weights": arguments.output}
    tell(arguments, f"{W.shape[0]:,} rows x {W.shape[1]} components in {arguments.output}", facts)


def _as_fitted(
    data: Dataset, model: PoissonNMF | HPF, arguments: argparse.Namespace
) -> tuple[Dataset, np.ndarray | None]:
    """New counts aligned with the fitted features if both have names, and a mask of the features not observed."""
    names = getattr(model, "feature_names_in_", None)
    if names is None or data.column_names is None or np.array_equal(data.column_names, names.astype(str)):
        return data, None
    aligned, left_out, missing = data.aligned(names)
    if missing.all():
        raise ValueError("none of the counts' columns has a name that the model was fitted with")
    if left_out:
        say(f"fastpmf: {left_out} of {len(data.column_names)} columns have names that were not fitted: left out")
    if not missing.any():
        return aligned, None
    lacks = f"fastpmf: {arguments.counts} lacks {np.count_nonzero(missing)} of the {len(names)} fitted features:"
    if arguments.missing == "zero":
        say(f"{lacks} taken as counts of 0")
        return aligned, None
    say(f"{lacks} taken as not observed; --missing zero takes them as counts of 0")
    return aligned, missing


def _weights(model: PoissonNMF | HPF, data: Dataset, missing: np.ndarray | None) -> np.ndarray:
    """W of all rows, from the features that were observed."""
    if missing is None:
        return model.transform(data)
    here = np.flatnonzero(~missing)
    observed = data._replace(X=data.X.tocsr()[:, here], column_names=model.feature_names_in_[here])
    return model._of_features(here).transform(observed)


def select(arguments: argparse.Namespace) -> None:
    """A table of numbers of components."""
    if arguments.plot:
        check_output(arguments.plot, ".png", name="--plot")
        check_distinct(arguments.plot, arguments.counts)
        needed("matplotlib", "plot", "--plot")  # told before hours of fitting
    prior = None if arguments.prior == "none" else arguments.prior
    model = PoissonNMF(1, prior_W=prior, prior_H=prior, max_iter=300, dtype=arguments.dtype)
    try:
        found, interrupted = select_n_components(
            read(arguments), arguments.components, estimator=model, n_splits=arguments.splits,
            random_state=arguments.seed, n_threads=arguments.threads, verbose=not arguments.quiet,
        ), None  # fmt: skip
    except SelectionInterrupted as stopped:
        found, interrupted = stopped.selection, stopped
    facts = {
        "n_components": found.n_components, "log_likelihood": found.log_likelihood, "mean": found.mean,
        "error": found.error, "similarity": found.similarity, "seconds": found.seconds, "best": found.best,
        "recommended": found.recommended,
    }  # fmt: skip
    tell(arguments, str(found), facts)
    if arguments.plot:
        write_picture(arguments.plot, plot.selection(found)[0].figure)
    if interrupted:
        arguments.kept = "the table is that of the splits that were done"
        raise interrupted


def topics(arguments: argparse.Namespace) -> None:
    """First features of each component."""
    if arguments.output:
        check_output(arguments.output, ".csv", name="-o")
        check_distinct(arguments.output, arguments.model)
    model = load_model(arguments.model)
    top = model.top_features(arguments.top, by=arguments.by, least=arguments.least)
    rows = [
        (k, r, str(name), float(score))
        for k, (names, scores) in enumerate(zip(top.names, top.scores, strict=True))
        for r, (name, score) in enumerate(zip(names, scores, strict=True), 1)
        if name
    ]
    if arguments.output:
        table = ((*place, f"{score:.6g}") for *place, score in rows)
        write_table(arguments.output, ("component", "rank", "feature", arguments.by), table)
        if not arguments.json:
            return
    lines = "\n".join(f"{k:>4}. {'  '.join(map(printable, filter(None, names)))}" for k, names in enumerate(top.names))
    tell(arguments, lines, [
        {"component": k, "features": [{"feature": f, arguments.by: s} for c, _, f, s in rows if c == k]}
        for k in range(len(top.names))
    ])  # fmt: skip


def recommend(arguments: argparse.Namespace) -> None:
    """Columns of highest rate for each row."""
    if arguments.output:
        check_output(arguments.output, ".csv", name="-o")
        check_distinct(arguments.output, arguments.model, arguments.counts)
    model = load_model(arguments.model).set_params(n_threads=arguments.threads)
    data, missing = _as_fitted(read(arguments), model, arguments)
    rows = np.arange(data.X.shape[0]).astype(str) if data.row_names is None else data.row_names
    X = data.X
    if arguments.rows:
        places: dict[str, list[int]] = {}
        for i, name in enumerate(rows.tolist()):
            places.setdefault(name, []).append(i)
        if absent := [name for name in arguments.rows if name not in places]:
            raise ValueError(f"{arguments.counts} has no row {', '.join(absent)}")
        chosen = [i for name in arguments.rows for i in places[name]]
        rows, X = rows[chosen], X.tocsr()[chosen]
    data = data._replace(X=X, row_names=rows)
    W = None if missing is None else _weights(model, data, missing)
    found = model.recommend(data, W, arguments.top, exclude_seen=not arguments.seen)
    items = found.indices.astype(str) if found.names is None else found.names
    recommended = [
        (str(row), [(str(item), float(rate)) for item, rate, j in zip(*own, strict=True) if j >= 0])
        for row, *own in zip(found.row_names, items, found.rates, found.indices, strict=True)
    ]
    table = ((row, r, item, f"{rate:.6g}") for row, own in recommended for r, (item, rate) in enumerate(own, 1))
    heads = ("row", "rank", "item", "rate")
    if arguments.output:
        write_table(arguments.output, heads, table)
    if arguments.json:
        tell(arguments, "", [
            {"row": row, "items": [{"item": item, "rate": rate} for item, rate in own]} for row, own in recommended
        ])  # fmt: skip
    elif not arguments.output:
        for row in (heads, *table):
            show(csv_line(row))


def info(arguments: argparse.Namespace) -> None:
    """What a file holds."""
    with regular_file(arguments.counts, standard_input=True) as path:
        if is_model(path):
            _info_of_model(load_model(path), arguments)
            return
        check_format(arguments)
        data = read(arguments, path)
    counts = as_counts(data, name=arguments.counts)
    (n, p), facts = counts.shape, _facts_of_counts(data, counts)
    lines = [
        f"{n:,} x {p:,} counts, {counts.nnz:,} nonzeros ({counts.nnz / (n * p):.2%}), kept as {counts.dtype}",
        f"sum {counts.total:,.6g}, mean of rows {counts.total / n:,.4g}, largest {facts['largest']:,.6g}",
    ]
    for names, said in ((data.row_names, "rows"), (data.column_names, "columns")):
        called = (
            "no names"
            if names is None
            else f"names: {', '.join(map(printable, names[:3]))}{', …' if len(names) > 3 else ''}"
        )
        lines.append(f"{said}: {facts[f'empty_{said}']:,} empty; {called}")
    tell(arguments, "\n".join(lines), facts)


def _info_of_model(model: PoissonNMF | HPF, arguments: argparse.Namespace) -> None:
    k, p = model.components_.shape
    named = hasattr(model, "feature_names_in_")
    tell(
        arguments,
        f"{type(model).__name__} of {k} components x {p:,} features, {model.components_.dtype}, "
        f"features {'with' if named else 'without'} names\n"
        f"{_how_good(model)}{_how_far(model) if isinstance(model, PoissonNMF) else model.status_}",
        {"model": type(model).__name__, "features": p, "named": named, "dtype": str(model.components_.dtype)}
        | _facts_of_model(model),
    )


def _facts_of_counts(data: Dataset, counts: Any) -> dict[str, Any]:
    (n, p), (rows, columns) = counts.shape, (counts.sums(side) for side in Side)
    return {
        "n_rows": n, "n_columns": p, "nonzeros": counts.nnz, "dtype": str(counts.dtype), "total": counts.total,
        "largest": counts.largest, "empty_rows": int((rows == 0).sum()),
        "empty_columns": int((columns == 0).sum()), "row_names": data.row_names is not None,
        "column_names": data.column_names is not None,
    }  # fmt: skip


def _how_good(model: PoissonNMF | HPF) -> str:
    """A line on the objective of a fit, where the model has one."""
    if isinstance(model, PoissonNMF):
        return (
            f"objective {model.objective_:.8g} nats after {model.n_iter_} iterations, kkt_residual "
            f"{model.kkt_residual_:.2g} nats per count\n"
        )
    return f"bound {model.elbo_:.8g} nats after {model.n_iter_} iterations\n" if hasattr(model, "elbo_") else ""


def _facts_of_model(model: PoissonNMF | HPF) -> dict[str, Any]:
    facts = {"n_components": len(model.components_), "n_iter": model.n_iter_, "status": model.status_.name,
             "max_iter": model.max_iter, "tol": model.tol}  # fmt: skip
    if isinstance(model, PoissonNMF):
        return facts | {"objective": model.objective_, "kkt_residual": model.kkt_residual_}
    return facts | {"bound": getattr(model, "elbo_", None)}


def convert(arguments: argparse.Namespace) -> None:
    """Counts of any format into a folder."""
    check_distinct(arguments.output, arguments.counts)
    target = Path(arguments.output)
    check_folder(target)
    instead = ", instead of what was there" if target.exists() else ""
    began = time.perf_counter()
    with counts_file(arguments) as path:
        stored = convert_counts(path, target, verbose=not arguments.quiet, **choices(arguments))
    warn_of_broken(stored.X.data)
    (n, p), seconds = stored.X.shape, time.perf_counter() - began
    facts = {"n_rows": n, "n_columns": p, "nonzeros": stored.X.nnz, "dtype": str(stored.X.data.dtype),
             "folder": arguments.output, "seconds": seconds}  # fmt: skip
    said = f"{n:,} x {p:,}, {stored.X.nnz:,} nonzeros as {stored.X.data.dtype} in {arguments.output}: {seconds:.1f} s"
    tell(arguments, said + instead, facts)


def warmup(arguments: argparse.Namespace) -> None:
    """Compile what fits need."""
    facts = []
    for counts_dtype in arguments.counts_dtypes:
        for k in arguments.components:
            say(f"compiling for {k} components, {counts_dtype} counts ...")
            seconds = warm_up(k, counts_dtype=counts_dtype, dtype=arguments.dtype)
            facts.append({"n_components": k, "counts_dtype": counts_dtype, "seconds": seconds})
    lines = (f"{f['n_components']:>5} components, {f['counts_dtype']} counts: {f['seconds']:.1f} s" for f in facts)
    tell(arguments, "\n".join(lines), facts)


def versions(arguments: argparse.Namespace) -> None:
    """What a bug report should say."""
    if arguments.json:
        tell(arguments, "", facts_of_versions())
    else:
        show_versions()
