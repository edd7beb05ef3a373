"""The plots of `fastpmf plot NAME`, each a function of its parsed arguments that reads, draws and writes."""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf import Consensus, FactorDraws, plot
from fastpmf import component_gains as compute_gains
from fastpmf.analysis.selection import Selection
from fastpmf.cli.commands import differential_expression, overdispersion_of
from fastpmf.cli.printing import check_figure, print_result, write_figure
from fastpmf.cli.reading import beside_counts, exposure_of, fitted_rows, heldout_rows, load, read_groups
from fastpmf.io import load_model
from fastpmf.utils.files import READ_ERRORS
from fastpmf.utils.progress import stage


def structure(arguments: argparse.Namespace) -> None:
    """Topic proportions of each row."""
    check_figure(arguments.output, "-o/--output")
    if arguments.groups and arguments.groupby is None:
        raise ValueError("argument --groups: it needs --groupby, the group of each row")
    model = load(arguments)
    data, W = fitted_rows(arguments, model)
    groupby = _groups(arguments, "groupby", data, 0)
    _draw(
        arguments, plot.structure, W, model, groupby=groupby, groups=arguments.groups, order=arguments.order,
        max_rows=arguments.max_rows,
    )  # fmt: skip


def group_heatmap(arguments: argparse.Namespace) -> None:
    """Topic proportions of groups of rows."""
    check_figure(arguments.output, "-o/--output")
    model = load(arguments)
    data, W = fitted_rows(arguments, model)
    groupby = _groups(arguments, "groupby", data, 0)
    _draw(arguments, plot.group_heatmap, W, model, groupby=groupby, groups=arguments.groups)


def similarity_heatmap(arguments: argparse.Namespace) -> None:
    """Similarity of components."""
    paths = list(filter(None, (arguments.model, arguments.other)))
    check_figure(arguments.output, "-o/--output")
    _draw(arguments, plot.similarity_heatmap, *map(load_model, paths))


def top_features(arguments: argparse.Namespace) -> None:
    """Top features of each component."""
    check_figure(arguments.output, "-o/--output")
    _draw(
        arguments, plot.top_features, load_model(arguments.model), arguments.top, by=arguments.by,
        min_weight=arguments.min_weight, components=arguments.components,
    )  # fmt: skip


def differential(arguments: argparse.Namespace) -> None:
    """Volcano plot of a component."""
    check_figure(arguments.output, "-o/--output")
    result = differential_expression(arguments)
    _draw(arguments, plot.differential, result, arguments.component, n=arguments.top)


def convergence(arguments: argparse.Namespace) -> None:
    """Objective during fits."""
    check_figure(arguments.output, "-o/--output")
    names = arguments.names or [Path(path).stem for path in arguments.models]
    if len(names) != len(arguments.models):
        raise ValueError(
            f"argument --names: expected {len(arguments.models)} names, one for each model, got {len(names)}"
        )
    models = list(map(load_model, arguments.models))
    _draw(arguments, plot.convergence, models, labels=names, x=arguments.by)


def selection(arguments: argparse.Namespace) -> None:
    """Scores of numbers of components."""
    check_figure(arguments.output, "-o/--output")
    try:
        facts = json.loads(Path(arguments.selection).read_text("utf-8"))
        names = ("n_components", "log_likelihood", "similarity", "seconds")
        found = Selection(*(np.array(facts[name], None if name == "n_components" else np.float64) for name in names))
        for name in ("silhouette", "divergence"):
            if facts.get(name) is not None:
                found = replace(found, **{name: np.array(facts[name], np.float64)})
        n, scores = len(found.n_components), found.log_likelihood
        if not n or scores.ndim != 2 or scores.shape != found.seconds.shape or len(scores) != n:
            raise ValueError
        if any(values is not None and values.shape != (n,) for values in (found.silhouette, found.divergence)):
            raise ValueError
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {arguments.selection}") from None
    except READ_ERRORS:
        raise ValueError(f"{arguments.selection} must be the output of `fastpmf select --json`") from None
    _draw(arguments, plot.selection, found)


def consensus(arguments: argparse.Namespace) -> None:
    """Similarities of the components of all fits of a consensus, and their stability."""
    check_figure(arguments.output, "-o/--output")
    _draw(arguments, plot.consensus, Consensus.load(arguments.model))


def intervals(arguments: argparse.Namespace) -> None:
    """Intervals of the shares of features in components."""
    check_figure(arguments.output, "-o/--output")
    draws = FactorDraws.load(arguments.draws)
    _draw(arguments, plot.intervals, draws, arguments.top, level=arguments.level, components=arguments.components)


def component_gains(arguments: argparse.Namespace) -> None:
    """Contribution of each component to the prediction of held-out counts."""
    check_figure(arguments.output, "-o/--output")
    model = load(arguments)
    data, train, _ = heldout_rows(arguments, model)
    exposure, n_threads = exposure_of(arguments, data, train), arguments.threads
    with stage("computing the contributions of components"):
        gains = compute_gains(train, model, data, exposure=exposure, n_threads=n_threads)
    _draw(arguments, plot.component_gains, gains)


def calibration(arguments: argparse.Namespace) -> None:
    """Held-out counts against rates."""
    check_figure(arguments.output, "-o/--output")
    model = load(arguments)
    data, train, W = heldout_rows(arguments, model)
    exposure = exposure_of(arguments, data, train)
    given = beside_counts(arguments, model, train)
    W, H = _factors(model, W, given)
    _draw(arguments, plot.calibration, data, W, H, exposure=exposure, bins=arguments.bins, **given)


def residuals(arguments: argparse.Namespace) -> None:
    """Where counts differ from the fit."""
    check_figure(arguments.output, "-o/--output")
    model = load(arguments)
    data, W = fitted_rows(arguments, model)
    groups = {
        "groupby": _groups(arguments, "groupby", data, 0),
        "column_groupby": _groups(arguments, "column_groupby", data, 1),
    }
    given = beside_counts(arguments, model, data)
    W, H = _factors(model, W, given)
    _draw(arguments, plot.residuals, data, W, H, **groups, bins=arguments.bins, **given)


def overdispersion(arguments: argparse.Namespace) -> None:
    """Variation of the counts of each feature."""
    check_figure(arguments.output, "-o/--output")
    _draw(arguments, plot.overdispersion, overdispersion_of(arguments), n=arguments.top)


def _factors(model: Any, W: Any, given: dict[str, Any]) -> tuple[Any, Any]:
    """W and the model, or the factors of its rates if there are groups, which are removed from `given`."""
    if "groups" not in given:
        return W, model
    return model.rate_factors(W, groups=given.pop("groups"))


def _groups(arguments: argparse.Namespace, name: str, data: Any, axis: int) -> Any:
    given, option = getattr(arguments, name), f"--{name.replace('_', '-')}"
    return None if given is None else read_groups(given, option, data, arguments, axis=axis)


def _draw(arguments: argparse.Namespace, draw: Callable[..., Any], *given: Any, **options: Any) -> None:
    """Draw a plot with a function of `fastpmf.plot`, write it, and print its path."""
    with stage("drawing the plot"):
        axes = draw(*given, **options)
        figure = np.atleast_1d(np.asarray(axes, dtype=object)).flat[0].figure
        write_figure(arguments.output, figure, arguments.dpi)
    print_result(arguments, f"plot in {arguments.output}", {"plot": arguments.output})
