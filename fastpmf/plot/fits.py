"""Plots of fits: convergence, numbers of components, calibration on held-out counts, residuals, and overdispersion."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.stats import chi2
from sklearn.utils import check_scalar

from fastpmf.analysis.dispersion import Overdispersion
from fastpmf.analysis.rates import align_rates
from fastpmf.analysis.selection import ComponentGains, Selection
from fastpmf.core.factors import component_sums
from fastpmf.counts import as_counts
from fastpmf.counts.labels import MatrixLabels, align
from fastpmf.fitting.problem import vector
from fastpmf.plot._common import (
    BLUE,
    GREY,
    encode_groups,
    groups_of,
    heat_map,
    heat_map_size,
    hide_frame,
    line_styles,
    matplotlib_module,
    panels,
    short_names,
    shorten,
    single_axes,
)
from fastpmf.utils.validation import check_factors, check_number, check_option

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLOCK = 1 << 22  # number of rates in memory at once
_MIN_EXPECTED = 10.0  # expected counts of the group of lowest rates
_BAND = 1.96  # standard deviations on either side, of 95 % of Poisson counts
_BAND_GROUPS = 40  # groups of features of similar rates, with a width of the band for each
_X_LABELS = {"seconds": "time (seconds)", "n_iter": "iterations"}


def convergence(
    fits: Any, *, labels: Any = None, x: str = "seconds", best: float | None = None, ax: Any = None
) -> "Axes":
    """Difference of the objective to the best one during fits, on a logarithmic axis, by time or iterations.

    Parameters
    ----------
    fits : fitted estimator, Solution or trace, or a list of them
        Fits of the same counts with the same objective. Minus the bound of an `HPF` is not a divergence.
    labels : array-like of str, optional
        A name for each fit, for the legend.
    x : {"seconds", "n_iter"}, default="seconds"
        Seconds are counted from the start of each solver, without compilation.
    best : float, optional
        The objective to subtract, in nats; by default the lowest one of all fits, which it must not exceed.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Points with the best objective are not drawn, since their difference is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    PoissonNMF : has the trace that is drawn, `trace_`.

    Examples
    --------
    >>> from fastpmf import plot, poisson_nmf
    >>> X = [[4, 0, 2], [0, 3, 0], [2, 0, 1]]
    >>> fits = [poisson_nmf(X, 2, random_state=seed, eval_every=1) for seed in (0, 1)]
    >>> plot.convergence(fits, labels=["seed 0", "seed 1"], x="n_iter").get_xlabel()
    'iterations'
    """
    check_option(x, _X_LABELS, "x")
    traces = [_trace(fit) for fit in (fits if isinstance(fits, list | tuple) else [fits])]
    if not traces:
        raise ValueError("fits must hold at least one fit")
    names = short_names(labels, len(traces), "labels", "fit")
    lowest = min(float(trace["objective"].min()) for trace in traces)
    best = lowest if best is None else best
    check_scalar(best, "best", (int, float, np.number))
    if not -np.inf < best <= lowest < np.inf:
        raise ValueError(f"best must be finite and at most the lowest objective, {lowest:.10g}, got {best:.10g}")
    if not any((trace["objective"] > best).any() for trace in traces):
        raise ValueError("fits must hold an objective above the best, as others are not drawn")
    ax = single_axes(ax, 6.4, 4.0)
    for trace, name, style in zip(traces, names, line_styles(len(traces)), strict=True):
        difference = trace["objective"] - best
        drawn = np.isfinite(difference) & (difference > 0)
        ax.plot(trace[x][drawn], difference[drawn], label=name, **style)
    ax.set(yscale="log", xlabel=_X_LABELS[x], ylabel="objective above the best (nats)")
    hide_frame(ax)
    if labels is not None:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False)
    return ax


def _trace(fit: Any) -> np.ndarray:
    # Arrays have a method `trace`
    trace = np.asarray(fit if isinstance(fit, np.ndarray) else getattr(fit, "trace_", getattr(fit, "trace", None)))
    if not {"n_iter", "objective", "seconds"} <= set(trace.dtype.names or ()) or not len(trace):
        raise TypeError(
            f"fits must be fitted estimators, solutions or traces, got {type(fit).__name__} without a trace"
        )
    return trace


def selection(result: Any, *, ax: Any = None) -> np.ndarray:
    """Score of each number of components on held-out counts, and similarity of the components of different splits.

    Parameters
    ----------
    result : Selection
        The result of `select_n_components`.
    ax : array-like of matplotlib Axes, optional
        Two Axes, or one if there is a single split; two more if there are replicates.

    Returns
    -------
    ndarray of Axes
        The first has nats per held-out count: means, with standard errors of their difference to the best, and dots for
        single splits; the recommended number is marked. The next has the similarity, if there are several splits. The
        last two have the silhouette of the replicates and the divergence of their consensus, if there are replicates.

    See Also
    --------
    select_n_components : computes what is drawn.

    Examples
    --------
    >>> from fastpmf import plot, select_n_components
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=2_000, random_state=0).X
    >>> len(plot.selection(select_n_components(X, [1, 2], random_state=0)))
    2
    """
    if not isinstance(result, Selection):
        raise TypeError(f"result must be what select_n_components returns, got {type(result).__name__}")
    k, scores = result.n_components, result.log_likelihood
    several = scores.shape[1] > 1
    replicated = result.silhouette is not None
    axes = panels(ax, 1 + several + 2 * replicated, 1, 6.4, 2.6 if several or replicated else 3.6, sharex=True)
    axes[0].plot(k, scores, "o", color=GREY, alpha=0.35, markersize=5, markeredgewidth=0)
    axes[0].errorbar(k, result.mean, result.error if several else None, color=BLUE, marker=".", capsize=4)
    axes[0].set_ylabel("log-likelihood\n(nats per held-out count)")
    axes[0].annotate(
        f"{result.recommended} recommended", (result.recommended, 1.0), (0, 2), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="center", va="bottom",
    )  # fmt: skip
    if several:
        axes[1].plot(k, result.similarity, color=BLUE, marker=".")
        axes[1].set(ylabel="similarity between splits", ylim=(0, 1.05))
    if result.silhouette is not None:
        axes[-2].plot(k, result.silhouette, color=BLUE, marker=".")
        axes[-2].set(ylabel="silhouette of replicates", ylim=(min(0.0, np.nanmin([0, *result.silhouette])), 1.05))
        axes[-1].plot(k, result.divergence, color=BLUE, marker=".")
        axes[-1].set_ylabel("divergence of consensus\n(nats per count)")
    for panel in axes:
        panel.axvline(result.recommended, color=GREY, linestyle=":", zorder=0)
        hide_frame(panel)
        panel.xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("number of components")
    return axes


def component_gains(result: Any, *, labels: Any = None, ax: Any = None) -> "Axes":
    """What each component contributes to the prediction of held-out counts, the largest first.

    Parameters
    ----------
    result : ComponentGains
        The result of `fastpmf.component_gains`.
    labels : array-like of str, of length k, optional
        Names of the components; by default those of the model, if it has any, else their numbers, from 0.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Bars are two standard errors to each side. Components whose gain is not that far above 0 are grey.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    component_gains : computes what is drawn.

    Examples
    --------
    >>> from fastpmf import ComponentGains, plot
    >>> import numpy as np
    >>> ax = plot.component_gains(ComponentGains(np.array([0.1, 0.3, 0.01]), np.array([0.01, 0.02, 0.01])))
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['1', '0', '2']
    """
    if not isinstance(result, ComponentGains):
        raise TypeError(f"result must be what component_gains returns, got {type(result).__name__}")
    labels = result.component_names if labels is None else labels
    names = short_names(labels, len(result.gain), "labels", "component")
    order = np.argsort(-result.gain, kind="stable")
    ax = single_axes(ax, 3.6 + 0.07 * max(map(len, names)), 0.9 + 0.19 * max(len(order), 5))
    for color, chosen in ((BLUE, result.supported[order]), (GREY, ~result.supported[order])):
        at = np.flatnonzero(chosen)
        ax.errorbar(
            result.gain[order][at], at, xerr=2 * result.error[order][at], fmt="o", color=color, markersize=5, capsize=2
        )
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    ax.set_yticks(range(len(order)), [names[z] for z in order], fontsize="small")
    ax.set(ylim=(len(order) - 0.4, -0.6), xlabel="gain (nats per held-out count)", ylabel="component")
    ax.tick_params(axis="y", length=0)
    hide_frame(ax)
    return ax


def calibration(
    X: Any, W: Any, H: Any, *, exposure: float = 1.0, row_exposure: Any = None, bins: int = 20, ax: Any = None
) -> "Axes":
    """Mean held-out count against mean expected count, for groups of entries of similar rate.

    All n p entries are used, zeros included, some millions at a time. This takes 2 n k p operations and about 100 MB;
    about two seconds for 60 million entries on two cores. A random subset of the rows gives nearly the same plot.

    Parameters
    ----------
    X : matrix of counts of shape (n, p)
        Held-out counts, for example from `thin_counts`.
    W : array-like of shape (n, k)
    H : array-like of shape (k, p) or fitted estimator
        Of a fitted estimator, the rates have its column exposures and background.
    exposure : float, default=1.0
        The rates of X are `exposure` times W H: f / (1 - f) after thinning by f.
    row_exposure : float or array-like of shape (n,), optional
        The exposures given to `fit` or `transform`.
    bins : int, default=20
        Number of groups of entries, equally wide in the logarithm of the rate, in addition to one group of the lowest
        rates that together expect fewer than ten counts.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        A point for each group of entries, with the exact 95 % interval of its mean for Poisson counts (Garwood), and
        the diagonal, where means equal expectations. A group without counts is a bar from the lower edge.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    thin_counts : holds out counts.
    fastpmf.plot.residuals : groups of rows and columns where a fit deviates.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import plot
    >>> rng = np.random.default_rng(0)
    >>> W, H = rng.gamma(1.0, size=(50, 3)), rng.gamma(1.0, size=(3, 40))
    >>> plot.calibration(rng.poisson(W @ H), W, H).get_ylabel()
    'mean observed count per entry'
    """
    check_number(exposure, "exposure", positive=True)
    check_scalar(bins, "bins", (int, np.integer), min_val=1)
    X, W, H = _read(X, W, H, row_exposure)
    n, expected, observed = _sums_by_rate(X, exposure * W, H)
    if not expected.any() or not observed.any():
        raise ValueError("X must hold a positive count, and W H a positive rate")
    cumulative = expected.cumsum()
    first = int(np.searchsorted(cumulative, min(_MIN_EXPECTED, cumulative[-1])))
    log_rate = np.log(expected[first:] / n[first:])
    edges = np.linspace(log_rate[0], log_rate[-1], bins + 1)[1:-1]
    group = np.append(np.zeros(first, int), 1 + np.searchsorted(edges, log_rate, side="right"))
    n, expected, observed = (np.bincount(group, values) for values in (n, expected, observed))
    n, expected, observed = (values[n > 0] for values in (n, expected, observed))
    low = np.where(observed > 0, chi2.ppf(0.025, 2 * np.maximum(observed, 1e-9)) / 2, 0.0)
    high = chi2.ppf(0.975, 2 * observed + 2) / 2
    x, y = expected / n, observed / n
    limits = min(x.min(), y[y > 0].min()) / 2, max(x.max(), y.max()) * 2
    ax = single_axes(ax, 4.8, 4.6)
    ax.plot(limits, limits, color=GREY, linewidth=1.0, zorder=0)
    bars = (np.stack([observed - low, high - observed]) / n).tolist()
    ax.errorbar(x, y, bars, fmt="o", color=BLUE, markersize=4, capsize=2)
    ax.set(xscale="log", xlim=limits, ylim=limits, aspect="equal")
    ax.set_yscale("log", nonpositive="clip")
    ax.set(xlabel="mean expected count per entry", ylabel="mean observed count per entry")
    hide_frame(ax)
    return ax


def _sums_by_rate(X: sparse.csr_array, W: np.ndarray, H: np.ndarray) -> np.ndarray:
    """Numbers of entries and their expected and observed counts, in 32 bins of the rate per octave, (3, m).

    The leading bits of a float64 are a coarse logarithm, and index the bins without further computation.
    """
    sums, step = np.zeros((3, 1 << 16)), max(1, _BLOCK // H.shape[1])
    for start in range(0, len(W), step):
        rates = W[start : start + step] @ H
        bin_of = rates.view(np.int64) >> 47
        part = X[start : start + step].tocoo()
        sums[0] += np.bincount(bin_of.ravel(), minlength=sums.shape[1])
        sums[1] += np.bincount(bin_of.ravel(), rates.ravel(), sums.shape[1])
        sums[2] += np.bincount(bin_of[part.row, part.col], part.data, sums.shape[1])
    sums = sums[:, sums[0] > 0]
    if sums.shape[1] > 1 and sums[1, 0] == 0:  # rates of 0 have no logarithm: add them to the lowest positive ones
        sums[:, 1] += sums[:, 0]
        sums = sums[:, 1:]
    return sums


def residuals(
    X: Any, W: Any, H: Any, *, groupby: Any = None, column_groupby: Any = None, row_exposure: Any = None,
    bins: int = 20, ax: Any = None,
) -> "Axes":  # fmt: skip
    """Heat map of standardised differences between observed and expected counts, for groups of rows and of columns.

    Each cell is (observed - expected) / sqrt(expected) of its sums. W H is not formed: the expected count of a cell is
    the sum of W over its rows times the sum of H over its columns.

    Parameters
    ----------
    X : matrix of counts of shape (n, p) or AnnData
        Of an AnnData object, the counts are its `X`.
    W : array-like of shape (n, k)
    H : array-like of shape (k, p) or fitted estimator
        Of a fitted estimator, the rates have its column exposures and background.
    groupby : array-like of shape (n,) or str, optional
        Groups of rows, as in `structure`. By default rows are ordered by their totals and divided into groups with
        similar numbers of counts, so that cells are about equally precise.
    column_groupby : array-like of shape (p,) or str, optional
        Groups of columns, likewise; a str is a column of `.var` of an AnnData object.
    row_exposure : float or array-like of shape (n,), optional
        The exposures given to `fit` or `transform`.
    bins : int, default=20
        Number of groups where none are given.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        If counts are Poisson with the fitted rates, most cells are between -2 and 2. Cells with positive counts and
        rate 0 have the strongest red.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    fastpmf.plot.calibration : held-out counts against their expectations.

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.residuals([[9, 1], [1, 9]], [[5], [5]], [[1, 1]], groupby=["ape", "bee"], column_groupby=[0, 1])
    >>> ax.images[0].get_array().round(2).tolist()
    [[1.79, -1.79], [-1.79, 1.79]]
    """
    check_scalar(bins, "bins", (int, np.integer), min_val=1)
    groupby = None if groupby is None else groups_of(groupby, X, "X")
    if column_groupby is not None:
        column_groupby = groups_of(column_groupby, X, "X", axis=1, argument="column_groupby")
    X, W, H = _read(X.X if hasattr(X, "obsm") else X, W, H, row_exposure)
    rows, R = _indicators(groupby, X.sum(axis=1, dtype=np.float64), bins, "groupby")
    columns, C = _indicators(column_groupby, X.sum(axis=0, dtype=np.float64), bins, "column_groupby")
    observed, expected = (R @ X @ C.T).toarray(), (R @ W) @ (H @ C.T)
    difference = observed - expected
    undefined = np.where(difference > 0, np.inf, 0.0)
    values = np.divide(difference, np.sqrt(expected), out=undefined, where=expected != 0)
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0) or 1.0
    ax = single_axes(ax, *heat_map_size(rows, columns))
    colors = matplotlib_module("pyplot").colormaps["RdBu_r"]
    colors = colors.with_extremes(bad=colors(1.0))  # infinite values are drawn as bad ones
    label = "(observed − expected)\n/ √expected"
    heat_map(ax, values, rows, columns, label, cmap=colors, vmin=-largest, vmax=largest)
    ax.set_ylabel("rows, by their total counts" if groupby is None else "groups of rows")
    ax.set_xlabel("columns, by their total counts" if column_groupby is None else "groups of columns")
    return ax


def overdispersion(result: Any, *, n: int = 5, names: Any = None, ax: Any = None) -> "Axes":
    """Variance of the counts of each feature, relative to that of Poisson counts, by its mean rate.

    Parameters
    ----------
    result : Overdispersion
        The result of `fastpmf.overdispersion`.
    n : int, default=5
        Number of features to name, those of highest z scores among the overdispersed ones; 0 for none.
    names : array-like of str, of length p, optional
        Names of the features; by default those of the result, else their numbers, from 0.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        A point for each feature with a positive rate, blue if it is overdispersed (5 % false discoveries). Of Poisson
        counts, about 95 % of the points are in the grey band, 1.96 standard errors on either side of 1. Both axes are
        logarithmic, and ratios below 0.1 are drawn there.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    fastpmf.overdispersion : computes what is drawn.
    fastpmf.plot.residuals : groups of rows and columns where a fit deviates.

    Examples
    --------
    >>> from fastpmf import PoissonNMF, overdispersion, plot
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=2_000, random_state=0).X
    >>> model = PoissonNMF(2, random_state=0)
    >>> plot.overdispersion(overdispersion(X, model.fit_transform(X), model)).get_xlabel()
    'mean rate of the feature'
    """
    if not isinstance(result, Overdispersion):
        raise TypeError(f"result must be what overdispersion returns, got {type(result).__name__}")
    check_scalar(n, "n", (int, np.integer), min_val=0)
    names = short_names(result.names if names is None else names, len(result.dispersion), "names", "feature")
    drawn = np.flatnonzero(np.isfinite(result.standard_error))
    if not len(drawn):
        raise ValueError("result must hold a feature with a positive rate")
    drawn = drawn[np.argsort(result.mean_rate[drawn], kind="stable")]
    rate, ratio, found = result.mean_rate[drawn], result.variance_ratio[drawn], result.overdispersed[drawn]
    groups = np.array_split(np.arange(len(drawn)), min(_BAND_GROUPS, len(drawn)))
    middle, width = (
        np.array([np.median(values[group]) for group in groups])
        for values in (rate, _BAND * result.variance_error[drawn])
    )
    middle[0], middle[-1] = rate[0], rate[-1]
    bottom = max(0.1, min(0.95, ratio.min(), (1 - width).min()))
    ax = single_axes(ax, 6.4, 4.4)
    ax.fill_between(middle, np.maximum(1 - width, bottom), 1 + width, color=GREY, alpha=0.2, linewidth=0)
    ax.axhline(1.0, color=GREY, linewidth=1.0, zorder=0)
    for chosen, color, label in ((~found, GREY, "others"), (found, BLUE, "overdispersed")):
        y = np.maximum(ratio[chosen], bottom)
        ax.plot(rate[chosen], y, "o", color=color, markersize=4, markeredgewidth=0, alpha=0.8, label=label)
    shown = [j for j in result.top(max(n, 1)) if result.overdispersed[j]][:n]
    for j in shown:
        at = result.mean_rate[j], result.variance_ratio[j]
        ax.annotate(names[j], at, (4, 2), textcoords="offset points", fontsize="small")
    ax.set(xscale="log", yscale="log", xlabel="mean rate of the feature", ylabel="variance relative to Poisson counts")
    ax.legend(frameon=False, loc="upper left")
    hide_frame(ax)
    return ax


def _indicators(labels: Any, totals: np.ndarray, bins: int, name: str) -> tuple[list[str], sparse.csr_array]:
    """Names of the groups, and an indicator matrix of their members, (m, n)."""
    if labels is not None:
        groups, codes = encode_groups(labels, len(totals), name)
        names = list(map(shorten, groups))
    else:
        order = np.argsort(totals, kind="stable")
        middles = totals[order].cumsum() - totals[order] / 2
        codes = np.empty(len(totals), np.int64)
        codes[order] = middles * (bins / (totals.sum() or 1.0))
        _, codes = np.unique(codes, return_inverse=True)
        names = [_range(totals[codes == g]) for g in range(codes.max() + 1)]
    drawn = np.flatnonzero(codes >= 0)
    return names, sparse.csr_array((np.ones(len(drawn)), (codes[drawn], drawn)), shape=(len(names), len(codes)))


def _range(totals: np.ndarray) -> str:
    low, high = (f"{t:.0f}" if t < 1e6 and t.is_integer() else f"{t:.4g}" for t in (totals.min(), totals.max()))
    return low if low == high else f"{low}–{high}"


def _read(X: Any, W: Any, H: Any, row_exposure: Any) -> tuple[sparse.csr_array, np.ndarray, np.ndarray]:
    """X as a sparse array, and the factors of its rates in float64, aligned with X."""
    row_exposure = align(row_exposure, "row_exposure", rows=MatrixLabels.of(X).rows)
    W, H = align_rates(X, W, H)
    counts, (W, H) = as_counts(X), check_factors(W, H)
    if counts.shape != (len(W), H.shape[1]):
        raise ValueError(f"X must have shape {(len(W), H.shape[1])}, as W H has, got {counts.shape}")
    W, H = W.astype(np.float64), H.astype(np.float64)
    if row_exposure is not None:
        W *= vector(row_exposure, len(W), "row_exposure")[:, None]
    component_sums(W, H)  # raises an error if the sum of W H is infinite
    return counts.to_scipy(), W, H
