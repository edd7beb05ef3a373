"""Pictures of features: those that are typical of each component, and those that tell one from the others."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.isotonic import isotonic_regression
from sklearn.utils import check_scalar

from fastpmf.analysis import features as reading
from fastpmf.analysis.differential import Differential
from fastpmf.plot._canvas import BLUE, GREY, area_colors, components_of, one, panels, short
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TITLES = {"weight": "P(feature | component)", "lift": "lift", "exclusivity": "exclusivity"}


def top_features(
    model: Any,
    n: int = 10,
    *,
    by: str = "weight",
    least: float = 0.0,
    names: Any = None,
    components: Any = None,
    ax: Any = None,
) -> np.ndarray:
    """The n first features of each component, as bars, a panel for each.

    Parameters
    ----------
    model : fitted estimator or array-like of shape (k, p)
        Whose `components_` is H, or H.
    n : int, default=10
    by : {"weight", "lift", "exclusivity"}, default="weight"
        What they are ordered by, which is the bars' length; as `fastpmf.top_features`.
    least : float, default=0.0
        Leave out features with P(j|z) below this.
    names : array-like of str, of length p, optional
        By default the estimator's `feature_names_in_`, else numbers.
    components : array-like of int, optional
        Which ones, and in which order; by default all.
    ax : array-like of matplotlib Axes, optional
        As many as there are components.

    Returns
    -------
    ndarray of Axes, one for each component

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Examples
    --------
    >>> from fastpmf import plot
    >>> axes = plot.top_features([[6, 3, 1], [0, 3, 7]], 2, names=["ape", "bee", "cat"])
    >>> [label.get_text() for label in axes[1].get_yticklabels()]
    ['cat', 'bee']
    """
    H = components_of(model, "model")
    names = getattr(model, "feature_names_in_", None) if names is None else names
    top = reading.top_features(H, n, by=by, least=least, names=names)
    shown, colors = _numbers(components, len(H), "components"), area_colors(len(H))
    n, size = top.scores.shape[1], "small" if n <= 25 else "x-small"
    n_columns = _columns(len(shown))
    longest = max((len(short(name)) for name in top.names[shown].flat), default=0)
    axes = panels(ax, len(shown), n_columns, 1.8 + 0.07 * longest, 0.55 + 0.19 * n, sharex=True)
    for i, (z, panel) in enumerate(zip(shown, axes, strict=True)):
        here = top.indices[z] >= 0
        panel.barh(np.arange(here.sum()), top.scores[z, here], height=0.8, color=colors[z])
        panel.set_yticks(np.arange(here.sum()), list(map(short, top.names[z, here])), fontsize=size)
        panel.set_ylim(n - 0.5, -0.5)
        panel.set_title(f"component {z}", fontsize="medium")
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        if i >= len(shown) - n_columns:  # nothing is below it
            panel.tick_params(labelbottom=True)
            panel.set_xlabel(_TITLES[by])
    return axes


def _numbers(components: Any, k: int, name: str) -> np.ndarray:
    shown = np.arange(k) if components is None else np.atleast_1d(components)
    if shown.ndim != 1 or not len(shown) or shown.dtype.kind not in "iu" or not 0 <= shown.min() <= shown.max() < k:
        raise ValueError(f"{name} must be numbers from 0 to {k - 1}, got {brief(components)}")
    return shown


def _columns(n: int) -> int:
    """Of a grid of n panels that is about square and has few holes."""
    least = min(int(np.ceil(np.sqrt(n))), 6)
    return min(range(least, 7), key=lambda m: (-n % m, m))


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
        Number of features to name: those whose change is largest in size after subtracting z standard errors, which is
        the order of `Differential.top` for increases.
    z : float, optional
        Number of standard errors, >= 0. By default 2, and 0 after shrinkage.
    names : array-like of str, of length p, optional
        By default those of `result`, else numbers.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Features whose error is infinite or zero are left out.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Examples
    --------
    >>> from fastpmf import differential_expression, plot
    >>> found = differential_expression([[8, 2, 9], [1, 2, 9]], [[1, 0], [0, 1]], [[8, 2, 9], [1, 2, 9]])
    >>> plot.differential(found, 0, names=["ape", "bee", "cat"]).get_xlabel()
    'log2 fold change'
    """
    if not isinstance(result, Differential):
        raise TypeError(f"result must be what differential_expression returns, got {type(result).__name__}")
    component = int(_numbers(component, len(result.log2_fold_change), "component")[0])
    check_scalar(n, "n", (int, np.integer), min_val=0)
    change, error = result.log2_fold_change[component], result.standard_error[component]
    names = check_names(result.names if names is None else names, len(change), "names", "feature")
    known = np.isfinite(error) & (error > 0)
    if not known.any():
        raise ValueError(
            f"component must be one with known changes, got {component}, whose errors are infinite or zero"
        )
    x, y, names = change[known], result.z_score[component, known], names[known]
    size = np.abs(x) + result.lower_bound(z)[component, known] - x  # less z standard errors
    first = np.argsort(-size, kind="stable")[:n]
    ax = one(ax, 6.4, 4.8)
    # One picture element each in vector files would be tens of thousands
    ax.plot(x, y, ".", color=GREY, alpha=0.5, markersize=4, markeredgewidth=0, rasterized=True)
    ax.plot(x[first], y[first], "o", color=BLUE, markersize=4)
    ax.axhline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set(xlabel="log2 fold change", ylabel="z score", title=f"component {component}")
    ax.spines[["top", "right"]].set_visible(False)
    _name_points(ax, x[first], y[first], list(map(short, names[first])))
    return ax


def _name_points(ax: Any, x: np.ndarray, y: np.ndarray, names: list[str]) -> None:
    """Names in a column right of the Axes, each as near as can be to the height of its point, a line between them."""
    if not names:
        return
    order = np.argsort(y, kind="stable")
    low, high = ax.get_ylim()
    apart = min(11 / 72 * ax.figure.dpi / ax.bbox.height, 1 / len(names))
    steps = apart * np.arange(len(names))
    # Least squares under a least distance is isotonic regression once that distance is taken off
    at = isotonic_regression((y[order] - low) / (high - low) - steps, y_min=0.0, y_max=1.0 - steps[-1]) + steps
    line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "relpos": (0, 0.5), "shrinkA": 0, "shrinkB": 2}
    for i, height in zip(order, at, strict=True):
        ax.annotate(
            names[i], (x[i], y[i]), (1.03, height), textcoords="axes fraction", va="center", fontsize="small",
            arrowprops=line,
        )  # fmt: skip
