"""Plots of features: the top features of each component, their intervals, and differential expression."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.isotonic import isotonic_regression
from sklearn.utils import check_scalar

from fastpmf.analysis.differential import Differential
from fastpmf.analysis.draws import FactorDraws
from fastpmf.analysis.features import component_labels
from fastpmf.analysis.features import top_features as compute_top_features
from fastpmf.counts.labels import labels_of
from fastpmf.plot._common import (
    GREY,
    component_colors,
    hide_frame,
    matplotlib_module,
    panels,
    short_names,
    shorten,
    single_axes,
)
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_matrix, check_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SCORES = {"weight": "P(feature | component)", "lift": "lift", "exclusivity": "exclusivity"}


def top_features(
    H: Any, n: int = 10, *, by: str = "weight", min_weight: float = 0.0, names: Any = None, components: Any = None,
    labels: Any = None, ax: Any = None,
) -> np.ndarray:  # fmt: skip
    """Bar plots of the n first features of each component, one panel for each.

    Parameters
    ----------
    H : array-like of shape (k, p) or fitted estimator
    n : int, default=10
    by : {"weight", "lift", "exclusivity"}, default="weight"
        The score that orders the features and is the length of their bars; see `fastpmf.top_features`.
    min_weight : float, default=0.0
        Leave out features with P(j|z) below this threshold.
    names : array-like of str, of length p, optional
        Names of the features; by default the estimator's `feature_names_in_` or the columns of H, else numbers.
    components : array-like of int, optional
        The components to draw, in this order; by default all.
    labels : array-like of str, of length k, optional
        Names of all components, for the titles of the panels; by default those of the estimator, or "component 0", ...
    ax : array-like of matplotlib Axes, optional
        One for each component that is drawn.

    Returns
    -------
    ndarray of Axes, one for each component

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    top_features : the same as arrays.

    Examples
    --------
    >>> from fastpmf import plot
    >>> axes = plot.top_features([[6, 3, 1], [0, 3, 7]], 2, names=["ape", "bee", "cat"])
    >>> [label.get_text() for label in axes[1].get_yticklabels()]
    ['cat', 'bee']
    """
    names = labels_of(H, 1).values if names is None else names
    labels = labels_of(H, 0).names if labels is None else labels
    H = check_matrix(H, "H").astype(np.float64)
    titles = [f"component {z}" for z in range(len(H))] if labels is None else labels
    titles = short_names(titles, len(H), "labels", "component")
    top = compute_top_features(H, n, by=by, min_weight=min_weight, names=names)
    drawn, colors = _check_components(components, len(H), "components"), component_colors(len(H))
    n = top.scores.shape[1]
    n_columns = _grid_columns(len(drawn))
    labels_of_rows = [list(map(shorten, top.names[z, top.indices[z] >= 0])) for z in drawn]
    axes = _bar_panels(ax, len(drawn), n_columns, n, _width_of_longest(labels_of_rows, _font(n)))
    longest_bar = top.scores[drawn][top.indices[drawn] >= 0].max(initial=0.0) or 1.0
    for z, panel, features in zip(drawn, axes, labels_of_rows, strict=True):
        positions = np.arange(len(features))
        panel.barh(positions, top.scores[z, top.indices[z] >= 0], height=0.8, color=colors[z])
        panel.set_title(titles[z], fontsize="medium")
    _finish_panels(axes, labels_of_rows, n, n_columns, _SCORES[by], None if ax is not None else longest_bar)
    return axes


def intervals(
    draws: Any, n: int = 10, *, level: float = 0.9, names: Any = None, components: Any = None, labels: Any = None,
    ax: Any = None,
) -> np.ndarray:  # fmt: skip
    """Intervals of P(feature | component) of the n first features of each component, one panel for each.

    Parameters
    ----------
    draws : Bootstrap or PosteriorDraws
        The result of `bootstrap` or `sample_posterior`.
    n : int, default=10
        Number of features, those of the highest means.
    level : float, default=0.9
        Of the intervals.
    names : array-like of str, of length p, optional
        Names of the features; by default those of the draws, else numbers.
    components : array-like of int, optional
        The components to draw, in this order; by default all.
    labels : array-like of str, of length k, optional
        Names of all components, for the titles of the panels; by default those of the draws, or "component 0", ...
    ax : array-like of matplotlib Axes, optional
        One for each component that is drawn.

    Returns
    -------
    ndarray of Axes, one for each component
        A point is the mean of the draws, a line the interval. Components that bootstrap replicates do not identify
        are grey.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    bootstrap, HPF.sample_posterior, PoissonNMF.sample_posterior : compute what is drawn.

    Examples
    --------
    >>> from fastpmf import PoissonNMF, bootstrap, plot
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=1_000, random_state=0).X
    >>> model = PoissonNMF(2, random_state=0).fit(X)
    >>> axes = plot.intervals(bootstrap(model, X, n_replicates=20, random_state=0), 5)
    >>> axes[0].get_xlabel()
    'P(feature | component)'
    """
    if not isinstance(draws, FactorDraws):
        raise TypeError(f"draws must be what bootstrap or sample_posterior returns, got {type(draws).__name__}")
    check_scalar(n, "n", (int, np.integer), min_val=1)
    k, p = draws.H.shape
    titles = component_labels(draws.component_names, k) if labels is None else labels
    if labels is None and draws.component_names is None:
        titles = [f"component {z}" for z in range(k)]
    titles = short_names(titles, k, "labels", "component")
    names = check_names(draws.feature_names if names is None else names, p, "names", "feature")
    drawn, n = _check_components(components, k, "components"), min(n, p)
    shares = draws.feature_shares
    mean, (low, high) = shares.mean, shares.interval(level)
    top = np.argsort(-mean, axis=1, kind="stable")[:, :n]
    colors, known = component_colors(k), getattr(draws, "identified", np.ones(k, bool))
    labels_of_rows = [list(map(shorten, names[top[z]])) for z in drawn]
    n_columns, positions = _grid_columns(len(drawn)), np.arange(n)
    axes = _bar_panels(ax, len(drawn), n_columns, n, _width_of_longest(labels_of_rows, _font(n)))
    longest = max(high[z, top[z]].max() for z in drawn) or 1.0
    for z, panel in zip(drawn, axes, strict=True):
        at, color = top[z], colors[z] if known[z] else GREY
        panel.hlines(positions, low[z, at], high[z, at], color=color, linewidth=2.0, alpha=0.6)
        panel.plot(mean[z, at], positions, "o", color=color, markersize=4)
        panel.set_title(titles[z] if known[z] else f"{titles[z]} (not identified)", fontsize="medium")
    _finish_panels(axes, labels_of_rows, n, n_columns, _SCORES["weight"], None if ax is not None else longest)
    return axes


def _bar_panels(ax: Any, n_panels: int, n_columns: int, n_bars: int, names: float) -> np.ndarray:
    """The Axes in `ax`, or those of a new figure, with the width in inches of the names left of each.

    The layout is computed here, since a constrained layout of 64 panels takes half a minute.
    """
    bars, side, title, bottom = 1.45, 0.3, 0.4, 0.55  # inches
    height, n_rows = 0.19 * n_bars, -(-n_panels // n_columns)
    width, total = names + side + bars, n_rows * (height + title) + bottom
    axes = panels(ax, n_panels, n_columns, width, total / n_rows, layout=None)
    if ax is None:
        axes[0].figure.subplots_adjust(
            left=(names + side / 2) / (n_columns * width), right=1 - side / 2 / (n_columns * width),
            wspace=(names + side) / bars, bottom=bottom / total, top=1 - title / total, hspace=title / height,
        )  # fmt: skip
    return axes


def _finish_panels(
    axes: np.ndarray, features: list[list[str]], n: int, n_columns: int, label: str, longest: float | None
) -> None:
    """Name the features, at most n, and the horizontal axis, which ends after `longest` if it is given."""
    for i, (panel, names) in enumerate(zip(axes, features, strict=True)):
        panel.set_yticks(np.arange(len(names)), names, fontsize=_font(n))
        panel.set_ylim(n - 0.5, -0.5)
        hide_frame(panel)
        panel.tick_params(axis="y", length=0)
        if longest is not None:
            panel.set_xlim(0, 1.05 * longest)
        is_last = i >= len(axes) - n_columns  # there is no panel below
        panel.tick_params(labelbottom=is_last or longest is None)
        if is_last:
            panel.set_xlabel(label)


def _font(n: int) -> str:
    """The size of the names of n features in a panel."""
    return "small" if n <= 25 else "x-small"


def _width_of_longest(names: list[list[str]], font: str) -> float:
    """Width in inches of the widest of these names."""
    text = matplotlib_module("textpath").TextPath
    size = matplotlib_module("font_manager").FontProperties(size=font)
    longest = sorted({name for part in names for name in part}, key=len)[-20:]
    return max((text((0, 0), name, prop=size).get_extents().width / 72 for name in longest if name), default=0.0) + 0.1


def _check_components(components: Any, k: int, name: str) -> np.ndarray:
    numbers = np.arange(k) if components is None else np.atleast_1d(components)
    if (
        numbers.ndim != 1 or not len(numbers) or numbers.dtype.kind not in "iu"
        or not 0 <= numbers.min() <= numbers.max() < k
    ):  # fmt: skip
        raise ValueError(f"{name} must be numbers from 0 to {k - 1}, got {brief(components)}")
    return numbers


def _grid_columns(n: int) -> int:
    """Number of columns of a nearly square grid of n panels with few empty places."""
    smallest = min(int(np.ceil(np.sqrt(n))), 6)
    return min(range(smallest, 7), key=lambda m: (-n % m, m))


def differential(
    result: Any, component: int, *, n: int = 10, z: float | None = None, names: Any = None, ax: Any = None
) -> "Axes":
    """Volcano plot of one component: z scores against log fold changes.

    Parameters
    ----------
    result : Differential
        The result of `fastpmf.differential_expression`.
    component : int
    n : int, default=10
        Number of features to name: those with the largest absolute change after subtracting z standard errors. For
        increases this is the order of `Differential.top`.
    z : float, optional
        Number of standard errors, >= 0. By default 2, or 0 after shrinkage.
    names : array-like of str, of length p, optional
        By default those of `result`, else numbers.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Features whose standard error is infinite or zero are not drawn.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    differential_expression : computes what is drawn.

    Examples
    --------
    >>> from fastpmf import differential_expression, plot
    >>> found = differential_expression([[8, 2, 9], [1, 2, 9]], [[1, 0], [0, 1]], [[8, 2, 9], [1, 2, 9]])
    >>> plot.differential(found, 0, names=["ape", "bee", "cat"]).get_xlabel()
    'log2 fold change'
    """
    if not isinstance(result, Differential):
        raise TypeError(f"result must be what differential_expression returns, got {type(result).__name__}")
    component = int(_check_components(component, len(result.log2_fold_change), "component")[0])
    check_scalar(n, "n", (int, np.integer), min_val=0)
    change, error = result.log2_fold_change[component], result.standard_error[component]
    names = check_names(result.names if names is None else names, len(change), "names", "feature")
    known = np.isfinite(error) & (error > 0)
    if not known.any():
        raise ValueError(
            f"component must be one with known changes, got {component}, whose errors are infinite or zero"
        )
    x, y, names = change[known], result.z_score[component, known], names[known]
    size = np.abs(x) + result.lower_bound(z)[component, known] - x  # absolute change minus z standard errors
    first = np.argsort(-size, kind="stable")[:n]
    ax = single_axes(ax, 6.4, 4.8)
    # Rasterized, since vector files would have an element for each of tens of thousands of points
    ax.plot(x, y, ".", color=GREY, alpha=0.5, markersize=4, markeredgewidth=0, rasterized=True)
    k = len(result.log2_fold_change)
    color, label = component_colors(k)[component], component_labels(result.component_names, k)[component]
    ax.plot(x[first], y[first], "o", color=color, markersize=5, markeredgecolor=GREY, markeredgewidth=0.5)
    ax.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set(xlabel="log2 fold change", ylabel="z score (change / standard error)", title=f"component {label}")
    hide_frame(ax)
    _name_points(ax, x[first], y[first], list(map(shorten, names[first])))
    return ax


def _name_points(ax: Any, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Names in a column right of the Axes, each as close as possible to the height of its point, with a line to it."""
    if not names:
        return
    order = np.argsort(y, kind="stable")
    low, high = ax.get_ylim()
    spacing = min(11 / 72 * ax.figure.dpi / ax.bbox.height, 1 / len(names))
    offsets = spacing * np.arange(len(names))
    # Least squares with a minimum distance is isotonic regression after subtracting the distances
    at = isotonic_regression((y[order] - low) / (high - low) - offsets, y_min=0.0, y_max=1.0 - offsets[-1]) + offsets
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 2}
    for i, height in zip(order, at, strict=True):
        ax.annotate(
            names[i], (x[i], y[i]), (1.03, height), textcoords="axes fraction", va="center", fontsize="small",
            arrowprops=line,
        )  # fmt: skip
