"""The commands, each a function of its parsed arguments that checks, reads, computes, writes and prints."""

import argparse
import io
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import xlogy

from fastpmf import (
    HPF,
    Checkpoint,
    Consensus,
    ConsensusInterrupted,
    DrawsInterrupted,
    FactorDraws,
    FitInterrupted,
    PoissonNMF,
    SeededPrior,
    Status,
    as_counts,
    bootstrap,
    heldout_log_likelihood,
    plot,
    ranking_scores,
    seeded_prior,
    split_entries,
    thin_counts,
)
from fastpmf import consensus as make_consensus
from fastpmf import plan as estimate_memory
from fastpmf._show_versions import collect_versions, show_versions
from fastpmf.analysis.features import component_labels
from fastpmf.analysis.rates import model_rates
from fastpmf.analysis.selection import SelectionInterrupted, select_n_components
from fastpmf.analysis.summary import component_shares, fit_facts
from fastpmf.cli.printing import (
    TABLES,
    check_figure,
    check_table,
    print_lines,
    print_message,
    print_result,
    print_table,
    write_figure,
)
from fastpmf.cli.reading import (
    VALUES_FILE,
    Model,
    beside_counts,
    check_format,
    exposure_of,
    fitted_rows,
    heldout_rows,
    load,
    observed_part,
    read,
    read_for_model,
    read_groups,
    read_matrix,
    read_options,
    read_seeds,
    read_vector,
    read_weights,
    stream,
    warn_if_not_whole,
    weights,
    with_values,
)
from fastpmf.core.counts import Side
from fastpmf.counts import Dataset
from fastpmf.counts.validation import non_integer_fraction
from fastpmf.datasets import load_stdlib
from fastpmf.fitting.problem import SHAPES
from fastpmf.io import (
    convert_counts,
    is_model,
    load_model,
    read_counts,
    write_counts,
    write_factor,
    write_factors,
    write_table,
)
from fastpmf.io.npy import check_target
from fastpmf.io.results import check_factors_path, check_output
from fastpmf.utils.extras import import_optional
from fastpmf.utils.files import STANDARD_INPUT, check_folder, regular_file
from fastpmf.utils.memory import memory_limit, sizes_text
from fastpmf.utils.messages import listed, printable, suggestion
from fastpmf.utils.progress import stage, write_line
from fastpmf.warmup import warmup as warm_up

STANDARD_OUTPUT = STANDARD_INPUT
SECONDS_BETWEEN_LINES = 5.0  # of the fits of `select`
_POISSON_ONLY = (
    "prior", "prior_W", "prior_H", "solver", "row_exposure", "column_exposure", "background", "sample_weight",
    "fixed_W", "fixed_H",
)  # fmt: skip
_HPF_ONLY = ("learn_prior", "a", "c", "a_prime", "c_prime", "no_hierarchy")


def fit(arguments: argparse.Namespace) -> None:
    """Fit a model and write it."""
    check_output(arguments.output, ".npz", name="argument -o/--output")
    if arguments.weights:
        check_output(arguments.weights, ".npy", *TABLES, name="argument --weights")
    if arguments.factors:
        check_factors_path(arguments.factors, "argument --factors")
    if arguments.report:
        check_output(arguments.report, ".html", name="argument --report")
        import_optional("matplotlib", "plot", "--report")
    model = _model(arguments, arguments.components, "auto" if arguments.seed_features else "none")
    if isinstance(arguments.validation, float):
        _check_thinning(arguments, "give --validation a file of held-out counts")
    folder = arguments.checkpoint or arguments.resume
    minutes = arguments.checkpoint_minutes
    if minutes is not None and not folder:
        raise ValueError("argument --checkpoint-minutes: it needs --checkpoint or --resume, the folder to save them in")
    checkpoint = folder and Checkpoint(folder, 10.0 if minutes is None else minutes)
    seeds = _seeds(arguments)
    data = stream(arguments) if arguments.stream else read(arguments)
    if seeds is not None:
        model.set_params(**{"c" if arguments.kind == "hpf" else "prior_H": _seeded_prior(arguments, seeds, data)})
    counts = data.X if arguments.stream else as_counts(data, name=", ".join(arguments.counts))
    beside_X = _beside_fit(arguments, data)
    began = time.perf_counter()
    try:
        W = model.fit_transform(replace(data, X=counts), checkpoint=checkpoint, resume=arguments.resume, **beside_X)
        interrupted = None
    except FitInterrupted as error:
        W = model.W_posterior_.mean if isinstance(model, HPF) else error.solution.W
        interrupted = error
    seconds = time.perf_counter() - began
    if model.status_ is Status.NON_FINITE:
        raise ValueError(f"{', '.join(arguments.counts)}: counts are out of the range of {W.dtype}: {model.status_}")
    _save(model, arguments.output)
    arguments.written = f"the model fitted so far is written: {arguments.output}"
    if arguments.weights:
        _write_weights(arguments.weights, W, model, data.row_names)
        arguments.written += f", {arguments.weights}"
    if arguments.factors:
        write_factors(arguments.factors, W, model, data.row_names)
        arguments.written += f", {arguments.factors}"
    if arguments.report:
        with stage("drawing the report"):
            given = {} if arguments.stream else {"X": data, **beside_counts(arguments, model, data)}
            model.report(arguments.report, W=W, **given)
        arguments.written += f", {arguments.report}"
    facts = _facts_of_counts(data, counts) | _facts_of_model(model)
    facts |= {"seconds": seconds, "model": arguments.output, "weights": arguments.weights,
              "factors": arguments.factors, "report": arguments.report}  # fmt: skip
    n, p = counts.shape
    outputs = {"model": arguments.output, "W": arguments.weights, "both factors": arguments.factors,
               "report": arguments.report}  # fmt: skip
    status = "" if interrupted else f"{_status(model)}\n"  # the message of an interrupt follows
    files = ", ".join(f"{name} in {path}" for name, path in outputs.items() if path)
    print_result(
        arguments,
        f"{n:,} x {p:,}, {counts.nnz:,} nonzeros, {arguments.components} components: {model.n_iter_} iterations in "
        f"{model.trace_['seconds'][-1]:.1f} s, {seconds:.1f} s with preparation and compilation\n"
        f"{_objective(model)}\n{status}{files}",
        facts,
    )
    if interrupted:
        raise interrupted


def _model(arguments: argparse.Namespace, n_components: int, default_prior: str) -> Model:
    """The estimator that the options of `fit` and `select` describe."""
    hpf = arguments.kind == "hpf"
    for name in _POISSON_ONLY if hpf else _HPF_ONLY:
        value = getattr(arguments, name, None)
        if value is not None and value is not False:  # 0 is a value
            option, other = name.replace("_", "-"), "poisson" if hpf else "hpf"
            raise ValueError(f"argument --{option}: an option of --model {other}, got --model {arguments.kind}")
    for name in ("a_prime", "c_prime") if arguments.no_hierarchy else ():
        if getattr(arguments, name) is not None:
            raise ValueError(f"argument --{name.replace('_', '-')}: --no-hierarchy has no use for it")
    if not hpf:
        return _poisson(arguments, n_components, default_prior)
    shapes = {name: getattr(arguments, name) for name in ("a", "c", "a_prime", "c_prime")}
    given = {name: value for name, value in shapes.items() if value is not None}
    if "c" in given and getattr(arguments, "seed_features", None) is not None:
        raise ValueError("argument --c: --seed-features sets the shapes of H")
    options = _how_to_fit(arguments, n_components)
    return HPF(**options, **given, learn_prior=arguments.learn_prior, hierarchy=not arguments.no_hierarchy)


def _how_to_fit(arguments: argparse.Namespace, n_components: int) -> dict[str, Any]:
    """The parameters that both estimators have."""
    prior_groups = getattr(arguments, "prior_groups", None)
    if prior_groups is not None and arguments.row_groups is None:
        raise ValueError("argument --prior-groups: it needs --groups")
    return {
        **({} if prior_groups is None else {"prior_groups": prior_groups}),
        "n_components": n_components, "init": arguments.init, "n_init": arguments.n_init,
        "max_iter": arguments.max_iter, "tol": arguments.tol, "max_time": arguments.max_time,
        "random_state": arguments.seed, "dtype": arguments.dtype, "n_threads": arguments.threads,
        "verbose": not arguments.quiet,
    }  # fmt: skip


def _poisson(arguments: argparse.Namespace, n_components: int, default_prior: str) -> PoissonNMF:
    """The `PoissonNMF` that the options describe."""
    options = _how_to_fit(arguments, n_components)
    for name in ("prior_W", "prior_H"):
        prior = getattr(arguments, name) or arguments.prior or default_prior
        options[name] = None if prior == "none" else prior
    return PoissonNMF(**options, solver=arguments.solver or "auto")


def _seeds(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """The features to expect in components; None without --seed-features."""
    if (arguments.seed_features is None) != (arguments.seed_strength is None):
        given, other = ("features", "strength") if arguments.seed_strength is None else ("strength", "features")
        raise ValueError(f"argument --seed-{given}: it needs --seed-{other}")
    return None if arguments.seed_features is None else read_seeds(arguments.seed_features, "--seed-features")


def _seeded_prior(arguments: argparse.Namespace, seeds: dict[str, Any], data: Dataset) -> SeededPrior:
    """The prior of H with seeds, and for `PoissonNMF` with the shape and the rate of --prior or --prior-H."""
    prior = arguments.prior_H or arguments.prior or "auto"
    if prior == "none":
        raise ValueError("argument --seed-features: it needs a prior of H, got none")
    if data.column_names is None:
        raise ValueError("argument --seed-features: the columns of the counts have no names; see --column-names")
    shape, rate = (SHAPES[prior], prior) if isinstance(prior, str) else prior
    try:
        return seeded_prior(
            data.column_names, seeds, arguments.components, strength=arguments.seed_strength, shape=shape, rate=rate
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"argument --seed-features: {error}") from None


def _beside_fit(arguments: argparse.Namespace, data: Dataset) -> dict[str, Any]:
    """The keyword arguments of `fit_transform` that are read from files."""
    given: dict[str, Any] = {}
    for name, axis in (("row_exposure", 0), ("column_exposure", 1), ("background", 1), ("sample_weight", 0)):
        if (value := getattr(arguments, name)) is not None:
            given[name] = read_vector(value, f"--{name.replace('_', '-')}", data, axis=axis)
    if arguments.row_groups is not None:
        given["groups"] = read_groups(arguments.row_groups, "--groups", data, arguments, axis=0)
    if getattr(arguments, "fixed_W", None) is not None:
        given["fixed_W"] = read_matrix(arguments.fixed_W, "--fixed-W", data.row_names)
    if getattr(arguments, "fixed_H", None) is not None:
        given["fixed_H"] = read_matrix(arguments.fixed_H, "--fixed-H", None, data.column_names)
    if arguments.mask is not None:
        given["mask"] = read_counts(arguments.mask)
    if getattr(arguments, "validation", None) is not None:
        value = arguments.validation
        given["validation"] = (
            value if isinstance(value, float) else with_values(read_counts(value), arguments.values, value)
        )
    return given


def _check_thinning(arguments: argparse.Namespace, advice: str) -> None:
    """Raise an error if counts can't be thinned."""
    if arguments.values == "log2":
        raise ValueError(f"argument --values: log2 makes fractions, and thinning divides whole counts; {advice}")


def _save(model: Model | Consensus, path: str) -> None:
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


def _write_weights(path: str, W: np.ndarray, model: Model, row_names: np.ndarray | None) -> None:
    """Write W as .npy, or as a table with the names or numbers of the rows and of the components."""
    if Path(path).suffix == ".npy":
        write_factor(path, W)
        return
    names = range(len(W)) if row_names is None else row_names
    rows = ([name, *map(repr, w)] for name, w in zip(names, W.tolist(), strict=True))
    components = component_labels(getattr(model, "component_names_", None), W.shape[1])
    write_table(path, ["row", *map(str, components)], rows)


def _objective(model: Model) -> str:
    """The objective or bound of a fit, and its residual."""
    facts = fit_facts(model)
    names = ("objective", "kkt_residual", "evidence lower bound", "residual")
    return ", ".join(f"{name} {facts[name]}" for name in names if name in facts) or "bound unknown"


def _status(model: Model) -> str:
    """Why a fit stopped and, if it reached a limit, after how many iterations."""
    if model.status_ not in (Status.MAX_ITER, Status.MAX_TIME):
        return str(model.status_)
    return f"{model.status_} These were {model.n_iter_} of at most {model.max_iter} iterations."


def transform(arguments: argparse.Namespace) -> None:
    """Write W of new rows."""
    to_stdout = arguments.output == STANDARD_OUTPUT
    if to_stdout and arguments.json:
        raise ValueError("argument --json: it writes to standard output, and so does -o -; give -o a file")
    if not to_stdout:
        check_output(arguments.output, ".npy", *TABLES, name="argument -o/--output")
    model = load(arguments)
    data, missing = read_for_model(arguments, model)
    given = beside_counts(arguments, model, data)
    if arguments.new_groups is not None:
        given["new_groups"] = arguments.new_groups
    W = weights(model, data, missing, **given)
    if to_stdout:
        content = io.BytesIO()  # NumPy would hide the error of a closed pipe
        np.save(content, W, allow_pickle=False)
        sys.stdout.buffer.write(content.getbuffer())
        return
    _write_weights(arguments.output, W, model, data.row_names)
    facts = {"n_rows": W.shape[0], "n_components": W.shape[1], "weights": arguments.output}
    print_result(arguments, f"{W.shape[0]:,} rows x {W.shape[1]} components in {arguments.output}", facts)


def select(arguments: argparse.Namespace) -> None:
    """Compare numbers of components."""
    check_table(arguments)
    check_figure(arguments.plot, "--plot")
    if arguments.holdout == "counts":
        _check_thinning(arguments, "give --holdout rows, the default")
    callback = None if arguments.quiet else _iterations_shown(arguments.max_iter)
    model = _model(arguments, 1, "auto").set_params(verbose=False, callback=callback)
    try:
        selection, interrupted = select_n_components(
            read(arguments), arguments.components, estimator=model, holdout=arguments.holdout,
            n_splits=arguments.splits, fraction=arguments.fraction, own_starts=arguments.own_starts,
            n_replicates=arguments.replicates, random_state=arguments.seed, n_threads=arguments.threads,
            verbose=not arguments.quiet,
        ), None  # fmt: skip
    except SelectionInterrupted as error:
        selection, interrupted = error.selection, error
    measures = [name for name in ("silhouette", "divergence") if getattr(selection, name) is not None]
    columns = ("k", "log_likelihood", "error", "similarity", "seconds", "excess", *measures, "choice")
    choice = {selection.best: "best", selection.recommended: "recommended"}
    ks, seconds = selection.n_components.tolist(), selection.seconds.sum(axis=1)
    excess = np.full(len(ks), np.nan) if selection.excess is None else selection.excess
    values = [
        ks, selection.mean, selection.error, selection.similarity, seconds, excess,
        *(getattr(selection, name) for name in measures),
    ]  # fmt: skip
    rows = [(*row, choice.get(row[0], "")) for row in zip(*values, strict=True)]
    if arguments.json:
        facts = (
            "n_components", "log_likelihood", "mean", "error", "similarity", "seconds", "excess", "silhouette",
            "divergence", "best", "recommended", "best_is_largest",
        )  # fmt: skip
        print_result(arguments, "", {name: getattr(selection, name) for name in facts})
    elif selection.best_is_largest and (arguments.output or not sys.stdout.isatty()):  # as `str` of it says
        print_message(f"fastpmf: the best number, {selection.best}, is the largest that was tried: larger ones may be "
                      "better")  # fmt: skip
    if arguments.output or not arguments.json:
        print_table(argparse.Namespace(output=arguments.output, json=False), columns, rows, str(selection))
    if arguments.plot:
        write_figure(arguments.plot, plot.selection(selection)[0].figure)
    if interrupted:
        arguments.written = "the table is that of the completed splits"
        raise interrupted


def consensus(arguments: argparse.Namespace) -> None:
    """Find what many fits agree on, and write it."""
    check_output(arguments.output, ".npz", name="argument -o/--output")
    if arguments.weights:
        check_output(arguments.weights, ".npy", *TABLES, name="argument --weights")
    check_figure(arguments.plot, "--plot")
    if arguments.resample == "counts":
        _check_thinning(arguments, "give --resample rows")
    callback = None if arguments.quiet else _iterations_shown(arguments.max_iter)
    model = _poisson(arguments, arguments.components, "none").set_params(verbose=False, callback=callback)
    data = read(arguments)
    data = replace(data, X=as_counts(data, name=", ".join(arguments.counts)))
    given = {
        "estimator": model, "random_state": arguments.seed, "n_threads": arguments.threads,
        "density_threshold": arguments.density_threshold, "verbose": not arguments.quiet,
        **_beside_fit(arguments, data),
    }  # fmt: skip
    try:
        found, interrupted = make_consensus(
            data, arguments.components, n_replicates=arguments.replicates, resample=arguments.resample,
            fraction=arguments.fraction, **given,
        ), None  # fmt: skip
    except ConsensusInterrupted as error:
        found = make_consensus(data, arguments.components, replicates=error.replicates, **given)
        interrupted = error
    found.model.set_params(callback=None)
    _save(found, arguments.output)
    arguments.written = f"the consensus of {len(found.distance)} fits is written: {arguments.output}"
    if arguments.weights:
        _write_weights(arguments.weights, found.W, found.model, data.row_names)
        arguments.written += f", {arguments.weights}"
    if arguments.plot:
        write_figure(arguments.plot, plot.consensus(found)[0].figure)
        arguments.written += f", {arguments.plot}"
    columns = ("component", "stability", "kept", "share")
    rows = zip(range(len(found.stability)), found.stability, found.n_kept, found.share, strict=True)
    if arguments.json:
        facts = {name: getattr(found, name) for name in ("stability", "n_kept", "share", "silhouette", "distance")}
        facts |= {"objective": found.replicates.objective, "n_outliers": np.count_nonzero(~found.kept)}
        print_result(arguments, "", facts | {"model": arguments.output, "weights": arguments.weights})
    else:
        print_table(argparse.Namespace(output=None, json=False), columns, rows, str(found))
    if interrupted:
        raise interrupted


def _iterations_shown(max_iter: int) -> Callable[..., None]:
    """A callback of fits that writes the iteration on standard error every few seconds."""
    last = time.perf_counter()

    def show(record: Any, *_: Any) -> None:
        nonlocal last
        if (now := time.perf_counter()) - last >= SECONDS_BETWEEN_LINES:
            last = now
            write_line(f"iteration {record.n_iter:>5} of {max_iter}")

    return show


def topics(arguments: argparse.Namespace) -> None:
    """List the top features of each component."""
    check_table(arguments)
    top = load_model(arguments.model).top_features(arguments.top, by=arguments.by, min_weight=arguments.min_weight)
    rows = [
        (k, rank, str(name), float(score))
        for k, *component in zip(top.components.tolist(), top.names, top.scores, strict=True)
        for rank, (name, score) in enumerate(zip(*component, strict=True), 1)
        if name
    ]
    components = list(map(printable, map(str, top.components)))
    width = max(4, *map(len, components))
    lines = (
        f"{component:>{width}}. {'  '.join(map(printable, filter(None, names)))}"
        for component, names in zip(components, top.names, strict=True)
    )
    print_table(arguments, ("component", "rank", "feature", "score"), rows, "\n".join(lines))


def recommend(arguments: argparse.Namespace) -> None:
    """List the columns of highest rate for each row."""
    check_table(arguments)
    model = load(arguments)
    data, missing = read_for_model(arguments, model)
    rows = np.arange(data.X.shape[0]).astype(str) if data.row_names is None else data.row_names
    W = None if arguments.weights is None else read_weights(arguments, model, data)
    X = data.X
    if arguments.rows:
        if absent := set(arguments.rows) - set(rows.tolist()):
            raise ValueError(f"argument --rows: no row {', '.join(sorted(absent))} in {', '.join(arguments.counts)}")
        chosen = np.concatenate([np.flatnonzero(rows == name) for name in arguments.rows])
        rows, X, W = rows[chosen], X.tocsr()[chosen], None if W is None else W[chosen]
    data = replace(data, X=X, row_names=rows)
    if W is None and missing is not None:
        W = weights(model, data, missing)
    items = None if arguments.items is None else _columns(model, arguments.items, "--items")
    with stage("finding the columns of highest rate"):
        best = model.recommend(data, W, arguments.top, items=items, exclude_seen=not arguments.seen)
    note = "rate: expected count of the item in the row"
    print_table(arguments, ("row", "rank", "item", "rate"), _ranked(best, rows), note=note)


def _ranked(best: Any, rows: Any) -> list[tuple[str, int, str, float]]:
    """Rows of a table of recommendations: row, rank, item and rate."""
    items = best.indices.astype(str) if best.names is None else best.names
    return [
        (str(row), rank, str(item), float(rate))
        for row, *own in zip(rows, items, best.rates, best.indices, strict=True)
        for rank, (item, rate, j) in enumerate(zip(*own, strict=True), 1)
        if j >= 0
    ]


def _columns(model: Model, given: list[str], option: str) -> list[str] | list[int]:
    """The columns of a model that are given: their names, or their numbers if the model has no names."""
    p, names = model.components_.shape[1], getattr(model, "feature_names_in_", None)
    position = {str(name): j for j, name in enumerate(range(p) if names is None else names)}
    for name in given:
        if name not in position:
            known = f"a number from 0 to {p - 1}, since the model has no names" if names is None else "a fitted column"
            raise ValueError(f"argument {option}: expected {known}, got {name!r}{suggestion(name, position)}")
    return [position[name] for name in given] if names is None else given


def similar(arguments: argparse.Namespace) -> None:
    """List the columns most similar to given ones."""
    check_table(arguments)
    model = load_model(arguments.model)
    found = model.similar_items(_columns(model, arguments.of, "ITEM"), arguments.top)
    print_table(arguments, ("item", "rank", "similar", "similarity"), _ranked(found, arguments.of))


def differential(arguments: argparse.Namespace) -> None:
    """List the features whose rate is most increased in each component."""
    check_table(arguments)
    result = differential_expression(arguments)
    top = result.top(arguments.top)
    names = ["log2_fold_change", "standard_error", "against"]
    names += [] if result.false_sign_rate is None else ["false_sign_rate"]
    rows = [
        (top.components[k], rank, str(name), float(score), *(getattr(result, field)[k, j].item() for field in names))
        for k, component in enumerate(zip(top.names, top.scores, top.indices, strict=True))
        for rank, (name, score, j) in enumerate(zip(*component, strict=True), 1)
        if j >= 0
    ]
    print_table(arguments, ("component", "rank", "feature", "lower_bound", *names), rows)


def differential_expression(arguments: argparse.Namespace) -> Any:
    """The result of `differential_expression`, with the options of the command."""
    model = load(arguments)
    data, W = fitted_rows(arguments, model)
    with stage("computing log fold changes"):
        return model.differential_expression(
            data, W, against=arguments.against, pseudocount=arguments.pseudocount,
            standard_errors=arguments.standard_errors, shrink=arguments.shrink,
            **beside_counts(arguments, model, data),
        )  # fmt: skip


def overdispersion(arguments: argparse.Namespace) -> None:
    """Compare the variation of the counts with that of Poisson counts."""
    check_table(arguments)
    found = overdispersion_of(arguments)
    top = found.top(arguments.top)
    names = np.arange(len(found.dispersion)) if found.names is None else found.names
    fields = ("mean_rate", "dispersion", "standard_error", "variance_ratio", "z_score", "p_value", "overdispersed")
    columns = ("feature", *fields)
    rows = [(str(names[j]), *(getattr(found, field)[j].item() for field in fields)) for j in top]
    if arguments.json:
        overall = {field: getattr(found, f"overall_{field}") for field in fields[1:-1]}
        overall |= {"n_overdispersed": np.count_nonzero(found.overdispersed), "n_features": len(names)}
        print_result(arguments, "", overall | {"features": [dict(zip(columns, row, strict=True)) for row in rows]})
    if arguments.output or not arguments.json:
        note = (
            f"All features together: dispersion {found.overall_dispersion:.3g}, variance ratio "
            f"{found.overall_variance_ratio:.3g}, z score {found.overall_z_score:.1f}. "
            f"{np.count_nonzero(found.overdispersed):,} of {len(names):,} features vary more than Poisson counts."
        )
        print_table(argparse.Namespace(output=arguments.output, json=False), columns, rows, note=note)


def overdispersion_of(arguments: argparse.Namespace) -> Any:
    """The result of `overdispersion`, with the options of the command."""
    model = load(arguments)
    data, W = fitted_rows(arguments, model)
    with stage("comparing the counts with their rates"):
        return model.overdispersion(data, W, **beside_counts(arguments, model, data))


def intervals(arguments: argparse.Namespace) -> None:
    """Compute intervals of the shares of features in components."""
    check_table(arguments)
    check_figure(arguments.plot, "--plot")
    if arguments.draws_file:
        check_output(arguments.draws_file, ".npz", name="argument --draws-file")
    model = load(arguments)
    is_hpf = isinstance(model, HPF)
    method = arguments.method or ("posterior" if is_hpf else "rows")
    if is_hpf and method != "posterior":
        raise ValueError(f"argument --method: expected posterior for an HPF model, got {method}")
    for option in ("thin", "burn_in"):
        if method != "posterior" and getattr(arguments, option) is not None:
            raise ValueError(f"argument --{option.replace('_', '-')}: it needs --method posterior")
    if method == "posterior" and getattr(model, "group_effects_", None) is not None:
        raise ValueError("argument --method: expected rows or poisson for a model with groups, got posterior")
    data = read_for_model(arguments, model)[0]
    given = {"random_state": arguments.seed} | beside_counts(arguments, model, data)
    n = arguments.draws or (100 if method == "posterior" else 50)
    try:
        found: FactorDraws
        if method == "posterior":
            steps = {name: value for name in ("thin", "burn_in") if (value := getattr(arguments, name)) is not None}
            found = model.set_params(verbose=not arguments.quiet).sample_posterior(data, n, **steps, **given)
        else:
            found = bootstrap(model, data, n_replicates=n, kind=method, verbose=not arguments.quiet, **given)
        interrupted = None
    except DrawsInterrupted as error:
        found, interrupted = error.draws, error
    files = []
    if arguments.draws_file:
        found.save(arguments.draws_file)
        files.append(arguments.draws_file)
    if arguments.plot:
        axes = plot.intervals(found, arguments.top, level=arguments.level)
        write_figure(arguments.plot, axes[0].figure)
        files.append(arguments.plot)
    (k, p), top = found.H.shape, min(arguments.top, found.H.shape[1])
    mean, (low, high) = found.feature_shares.mean, found.feature_shares.interval(arguments.level)
    in_top, names = found.top_share(top), np.arange(p) if found.feature_names is None else found.feature_names
    components = component_labels(found.component_names, k).tolist()
    columns = ("component", "rank", "feature", "mean", "low", "high", "in_top")
    rows = [
        (components[z], rank, str(names[j]), *(A[z, j].item() for A in (mean, low, high, in_top)))
        for z in range(k)
        for rank, j in enumerate(np.argsort(-mean[z], kind="stable")[:top], 1)
    ]
    print_table(arguments, columns, rows, note=f"\n{found}")
    if arguments.output:
        files.append(arguments.output)
    if interrupted:
        arguments.written = f"the intervals are those of {len(found)} draws"
        if files:
            arguments.written += f", written: {', '.join(files)}"
        raise interrupted


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a model on counts that it was not fitted to."""
    for option in ("exposure", "top"):
        if arguments.train is None and getattr(arguments, option) is not None:
            raise ValueError(f"argument --{option}: it needs --train, the counts that the model was fitted to")
    if arguments.missing is None:
        arguments.missing = "zero" if arguments.train else "unobserved"
    elif arguments.missing == "unobserved" and arguments.train:
        raise ValueError("argument --missing: with --train, expected zero, got unobserved")
    model = load(arguments)
    if arguments.train is None:
        data, missing = read_for_model(arguments, model)
        part, observed = observed_part(model, data, missing)
        given = beside_counts(arguments, model, data)
        facts = _size(data) | {"log_likelihood": part.score(observed, **given)}
        lines = [f"log-likelihood {facts['log_likelihood']:.6g} nats per count, under the best weights of these rows"]
    else:
        data, train, W = heldout_rows(arguments, model)
        with stage("scoring the held-out counts"):
            facts, lines = _heldout_scores(arguments, model, data, train, W)
    print_result(arguments, "\n".join([f"{facts['n_rows']:,} rows, {facts['total']:,.6g} counts", *lines]), facts)


def _size(data: Dataset) -> dict[str, Any]:
    return {"n_rows": data.X.shape[0], "total": float(data.X.sum(dtype=np.float64))}


def _heldout_scores(
    arguments: argparse.Namespace, model: Model, data: Dataset, train: Dataset, W: np.ndarray
) -> tuple[dict[str, Any], list[str]]:
    """Scores of held-out counts, as facts and as lines."""
    fitted = as_counts(train)
    rows, columns = (fitted.sums(side) for side in Side)
    options: dict[str, Any] = {"exposure": exposure_of(arguments, data, train), "n_threads": arguments.threads}
    given = beside_counts(arguments, model, train)
    W, H = model.rate_factors(W, **given) if "groups" in given else model_rates(model, W, **given)
    score = heldout_log_likelihood(train, W, H, data, **options)
    baseline = heldout_log_likelihood(train, rows[:, None], columns[None] / fitted.total, data, **options)
    facts = _size(data) | {"log_likelihood": score, "log_likelihood_without_structure": baseline}
    lines = [
        f"log-likelihood {score:.6g} nats per held-out count, {score - baseline:+.4g} compared with rates "
        "from the totals of rows and columns alone"
    ]
    if arguments.top is not None:
        n = arguments.top
        own = ranking_scores(data, W, H, n, exclude=train)
        popular = ranking_scores(data, np.ones((len(W), 1)), columns[None], n, exclude=train)
        names = ("precision", "recall", "ndcg")
        facts |= {"n": n} | {name: getattr(own, name) for name in names}
        facts |= {"popularity": {name: getattr(popular, name) for name in names}, "n_ranked_rows": own.n_rows}
        lines.append(f"{f'means of {own.n_rows:,} rows':<26}{'precision':>10}{'recall':>10}{'NDCG':>10}   at {n}")
        for name, scores in (("model", own), ("popularity", popular)):
            lines.append(f"{name:<26}{scores.precision:>10.4f}{scores.recall:>10.4f}{scores.ndcg:>10.4f}")
    return facts, lines


def split(arguments: argparse.Namespace) -> None:
    """Divide counts into train and test."""
    if arguments.by == "thinning":
        _check_thinning(arguments, "--by entries moves whole entries")
    check_target(arguments.train)
    check_target(arguments.test)
    data = read(arguments)
    divide = thin_counts if arguments.by == "thinning" else split_entries
    parts = divide(data.X, arguments.fraction, random_state=arguments.seed)
    facts, lines = {}, []
    for name, counts in zip(("train", "test"), parts, strict=True):
        path = getattr(arguments, name)
        write_counts(path, replace(data, X=counts))
        arguments.written = f"{path} is written"
        facts[name] = {"folder": path, "nonzeros": counts.nnz, "total": counts.total}
        lines.append(f"{name}: {counts.total:,.6g} counts in {counts.nnz:,} nonzeros, in {path}")
    print_result(arguments, "\n".join(lines), facts)


def report(arguments: argparse.Namespace) -> None:
    """Write a report on a fitted model."""
    check_output(arguments.output, ".html", name="argument -o/--output")
    import_optional("matplotlib", "plot", "report")
    if arguments.weights and not arguments.counts:
        raise ValueError("argument --weights: it needs COUNTS, whose rows the weights belong to")
    for name, of in (("groupby", "rows have the groups"), ("row_exposure", "rows have the exposures"),
                     ("row_groups", "rows have the groups"), ("mask", "entries are masked")):  # fmt: skip
        if getattr(arguments, name) is not None and not arguments.counts:
            option = name.replace("row_groups", "groups").replace("_", "-")
            raise ValueError(f"argument --{option}: it needs COUNTS, whose {of}")
    model = load(arguments)
    X = W = groupby = None
    given: dict[str, Any] = {}
    if arguments.counts:
        X, W = fitted_rows(arguments, model)
        groupby = arguments.groupby and read_groups(arguments.groupby, "--groupby", X, arguments, axis=0)
        given = beside_counts(arguments, model, X)
    with stage("drawing the report"):
        model.report(arguments.output, X, W, n_top=arguments.top, title=arguments.title, groupby=groupby, **given)
    print_result(arguments, f"report in {arguments.output}", {"report": arguments.output})


def info(arguments: argparse.Namespace) -> None:
    """Describe a file."""
    (source,) = arguments.counts
    with regular_file(source, standard_input=True) as path:
        if is_model(path):
            _info_of_model(load_model(path), arguments)
            return
        check_format(arguments)
        data = read(arguments, [path])
    counts = as_counts(data, name=source)
    (n, p), facts = counts.shape, _facts_of_counts(data, counts)
    facts["not_whole"] = share = non_integer_fraction(counts.to_scipy().data)
    lines = [
        f"{n:,} x {p:,} counts, {counts.nnz:,} nonzeros ({counts.nnz / (n * p):.2%}), stored as {counts.dtype}",
        f"sum {counts.total:,.6g}, mean of rows {counts.total / n:,.4g}, largest {facts['largest']:,.6g}"
        + (f", {share:.0%} of the nonzeros are not whole numbers" if share else ""),
    ]
    for names, axis in ((data.row_names, "rows"), (data.column_names, "columns")):
        text = "no names"
        if names is not None:
            text = f"names: {', '.join(map(printable, names[:3]))}{', …' if len(names) > 3 else ''}"
        lines.append(f"{axis}: {facts[f'empty_{axis}']:,} empty; {text}")
    print_result(arguments, "\n".join(lines), facts)


def _info_of_model(model: Model, arguments: argparse.Namespace) -> None:
    k, p = model.components_.shape
    named = hasattr(model, "feature_names_in_")
    print_result(
        arguments,
        f"{type(model).__name__} of {k} components x {p:,} features, {model.components_.dtype}, features "
        f"{'with' if named else 'without'} names\n{_names(model)}{_objective(model)}\n{_status(model)}",
        _facts_of_model(model) | {"n_features": p, "feature_names": named, "dtype": str(model.components_.dtype)},
    )


def _names(model: Model) -> str:
    """Lines with the names of components and groups, if there are any."""
    lines = ""
    for what, names in (("components", model.component_names_), ("groups", model.group_names_)):
        if names is not None:
            lines += f"{what}: {printable(listed(names.tolist(), 10))}\n"
    return lines


def _facts_of_counts(data: Dataset, counts: Any) -> dict[str, Any]:
    (n, p), (rows, columns) = counts.shape, (counts.sums(side) for side in Side)
    return {
        "n_rows": n, "n_columns": p, "nonzeros": counts.nnz, "dtype": str(counts.dtype), "total": counts.total,
        "largest": counts.largest, "empty_rows": int((rows == 0).sum()),
        "empty_columns": int((columns == 0).sum()), "row_names": data.row_names is not None,
        "column_names": data.column_names is not None,
    }  # fmt: skip


def _facts_of_model(model: Model) -> dict[str, Any]:
    facts = {
        "kind": type(model).__name__, "n_components": len(model.components_), "n_iter": model.n_iter_,
        "status": model.status_.name, "max_iter": model.max_iter, "tol": model.tol,
        "component_names": model.component_names_, "groups": model.group_names_,
    }  # fmt: skip
    if isinstance(model, PoissonNMF):
        return facts | {"objective": model.objective_, "kkt_residual": model.kkt_residual_}
    return facts | {"bound": getattr(model, "elbo_", None), "residual": getattr(model, "residual_", None)}


def convert(arguments: argparse.Namespace) -> None:
    """Write counts to a memory-mapped folder."""
    check_target(arguments.output)
    replaced = ", replacing the old folder" if os.path.exists(arguments.output) else ""
    began = time.perf_counter()
    if len(arguments.counts) > 1 or arguments.row_names or arguments.column_names or arguments.values != "counts":
        write_counts(arguments.output, read(arguments))
        if arguments.values != "counts":
            Path(arguments.output, VALUES_FILE).write_text(f"{arguments.values}\n")
        X = read_counts(arguments.output).X
    else:
        check_format(arguments)
        with regular_file(arguments.counts[0], standard_input=True) as path:
            X = convert_counts(path, arguments.output, verbose=not arguments.quiet, **read_options(arguments)).X
            warn_if_not_whole(X.data, arguments, path)
    (n, p), seconds = X.shape, time.perf_counter() - began
    facts = {"n_rows": n, "n_columns": p, "nonzeros": X.nnz, "dtype": str(X.data.dtype), "folder": arguments.output,
             "seconds": seconds}  # fmt: skip
    line = f"{n:,} x {p:,}, {X.nnz:,} nonzeros as {X.data.dtype} in {arguments.output}: {seconds:.1f} s{replaced}"
    print_result(arguments, line, facts)


def plan(arguments: argparse.Namespace) -> None:
    """Estimate the memory of fits."""
    check_table(arguments)
    if arguments.counts:
        if arguments.shape or arguments.nnz or arguments.counts_dtype:
            raise ValueError("argument COUNTS: expected COUNTS, or --shape and --nnz, got both")
        size: dict[str, Any] = {"shape": as_counts(read(arguments))}
    elif arguments.shape and arguments.nnz:
        size = {"shape": tuple(arguments.shape), "nnz": arguments.nnz, "counts_dtype": arguments.counts_dtype}
    else:
        raise ValueError("argument COUNTS: expected COUNTS, or --shape and --nnz")
    limit, rows = memory_limit(), []
    for k in arguments.components:
        found = estimate_memory(
            **size, n_components=k, dtype=arguments.dtype, solver=arguments.solver or "auto",
            n_threads=arguments.threads,
        )  # fmt: skip
        total = found.input_bytes + found.peak_bytes
        parts = found.input_bytes, found.transpose_bytes, found.factor_bytes
        rows.append((k, *parts, total, limit, "yes" if total <= limit else "no"))
    names = ("input_bytes", "transpose_bytes", "factor_bytes", "total_bytes", "limit_bytes")
    header = "".join(f"{name:>14}" for name in ("counts", "transpose", "factors", "total"))
    lines = [f"{'k':>6}{header}   of {sizes_text(limit)[0]}"]
    for row in rows:
        sizes = "".join(f"{size:>14}" for size in sizes_text(*row[1:5]))
        lines.append(f"{row[0]:>6}{sizes}   {'fits' if row[-1] == 'yes' else 'too large'}")
    print_table(arguments, ("k", *names, "fits"), rows, "\n".join(lines))


def warmup(arguments: argparse.Namespace) -> None:
    """Compile the kernels of fits."""
    facts = []
    for counts_dtype in arguments.counts_dtype or ["uint8"]:
        for k in arguments.components:
            if not arguments.quiet:
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


def completion(arguments: argparse.Namespace) -> None:
    """Print a script of completions for a shell."""
    shtab = import_optional("shtab", "completion", "completion")
    from fastpmf.cli.parser import make_parser  # which imports this module

    print_lines(shtab.complete(make_parser(), arguments.shell))


def demo(arguments: argparse.Namespace) -> None:
    """Fit topics to the words of the standard library, and print them."""
    check_figure(arguments.plot, "--plot")
    folder = Path(arguments.save) if arguments.save else None
    if folder is not None:
        check_folder(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"argument --save: expected a new or an empty folder, got {folder}")
    if not arguments.quiet:
        print_message("counting the words of Python's standard library ...")
    data = load_stdlib()
    counts, modules = as_counts(data), data.row_names
    n, p = counts.shape
    model = PoissonNMF(
        arguments.components, max_iter=500, tol=2e-3, random_state=0, dtype="float32", n_threads=arguments.threads,
        verbose=not arguments.quiet,
    )  # fmt: skip
    W, H = model.fit_transform(data), model.components_
    assert modules is not None
    shares, top = component_shares(W, H), model.top_features(9).names
    found = [(int(k), float(shares[k]), top[k], modules[np.argsort(-W[:, k])[:4]]) for k in np.argsort(-shares)]
    # The best fit with one component is row sum x column sum / total; its divergence is the deviance to explain
    sums = (counts.sums(side) for side in Side)
    null = counts.entropy + xlogy(counts.total, counts.total) - sum(xlogy(s, s).sum() for s in sums)
    explained, seconds = max(0.0, 1 - model.objective_ / null), float(model.trace_["seconds"][-1])
    lines = [f"{n:,} modules x {p:,} words of Python's standard library, {counts.total:,.0f} words in all"]
    for k, share, top_words, top_modules in found:
        lines += [f"\n{k:>2}. {share:>5.1%}  {' '.join(top_words)}", f"           in {', '.join(top_modules)}"]
    lines += [
        f"\n{model.status_}",
        f"deviance explained: {explained:.1%}, relative to a single topic",
        f"{model.n_iter_} iterations in {seconds:.1f} s, without compilation",
    ]
    if arguments.plot:
        axes = plot.convergence(model, x="n_iter")
        write_figure(arguments.plot, axes.figure)
        lines.append(f"objective by iteration: {arguments.plot}")
    if folder is not None:
        folder.mkdir(exist_ok=True)
        write_counts(folder / "counts", data)
        model.save(folder / "model.npz")
        paths = (shlex.quote(str(folder / name)) for name in ("counts", "model.npz"))
        lines.append(_DEMO_SAVED.format(*paths))
    else:
        lines.append(_DEMO_NEXT)
    facts = {
        "n_rows": n, "n_columns": p, "total": counts.total, "n_iter": model.n_iter_, "seconds": seconds,
        "status": model.status_.name, "deviance_explained": explained, "plot": arguments.plot, "saved": arguments.save,
        "topics": [{"component": k, "share": share, "words": w, "modules": m} for k, share, w, m in found],
    }  # fmt: skip
    print_result(arguments, "\n".join(lines), facts)


_DEMO_NEXT = """
Next, a model of your own counts, or of these, which --save DEMO writes to a folder:
  fastpmf fit counts.npz -k 20 -o model.npz
  fastpmf demo --save DEMO"""
_DEMO_SAVED = """
The counts are in {0}, the model is in {1}. Next:
  fastpmf topics {1} -n 15
  fastpmf differential {1} {0} -n 5
and with matplotlib, which `pip install 'fastpmf[plot]'` installs:
  fastpmf report {1} {0} -o report.html"""
