"""Pictures of fits: how they came to their objectives, how many components predict best, and where counts differ."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.stats import chi2
from sklearn.utils import check_scalar

from fastpmf.analysis.selection import Selection
from fastpmf.counts import Dataset, as_counts
from fastpmf.counts.labels import MatrixLabels, align, align_factors
from fastpmf.plot._canvas import (
    BLUE,
    GREY,
    components_of,
    drawing,
    grouped,
    line_styles,
    named,
    number_axis,
    one,
    panels,
    short,
)
from fastpmf.utils.validation import check_number, check_option

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLOCK = 1 << 22  # rates that are formed at once
_LEAST = 10.0  # expected counts that the entries of lowest rates need together to be a point
_TIMES = {"seconds": "seconds", "n_iter": "iterations"}


def convergence(
    fits: Any, *, labels: Any = None, x: str = "seconds", best: float | None = None, ax: Any = None
) -> "Axes":
    """How fits came to their objectives: what each was above the best, on a logarithmic axis, by time or iterations.

    Parameters
    ----------
    fits : fitted estimator, Solution or trace, or a list of them
        Of one objective and the same counts: minus the bound of an `HPF` is no divergence.
    labels : array-like of str, optional
        One for each, for the legend.
    x : {"seconds", "n_iter"}, default="seconds"
        Seconds are those of the traces: since each solver began, not counting compilation.
    best : float, optional
        What to measure from, at most the lowest objective of all, which is the default, in nats.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Points that are not above the best, such as the one that is the best, have no place on the axis.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Examples
    --------
    >>> from fastpmf import plot, poisson_nmf
    >>> X = [[4, 0, 2], [0, 3, 0], [2, 0, 1]]
    >>> fits = [poisson_nmf(X, 2, random_state=seed, eval_every=1) for seed in (0, 1)]
    >>> plot.convergence(fits, labels=["seed 0", "seed 1"], x="n_iter").get_xlabel()
    'iterations'
    """
    check_option(x, _TIMES, "x")
    traces = [_trace(fit) for fit in (fits if isinstance(fits, list | tuple) else [fits])]
    if not traces:
        raise ValueError("fits must hold at least one")
    names = named(labels, len(traces), "labels", "fit")
    lowest = min(float(trace["objective"].min()) for trace in traces)
    best = lowest if best is None else best
    check_scalar(best, "best", (int, float, np.number))
    if not -np.inf < best <= lowest < np.inf:
        raise ValueError(f"best must be at most the lowest objective, {lowest:.10g}, and both finite, got {best:.10g}")
    if not any((trace["objective"] > best).any() for trace in traces):
        raise ValueError("fits must hold an objective above the best, as none else has a place on the axis")
    ax = one(ax, 6.4, 4.0)
    for trace, name, style in zip(traces, names, line_styles(len(traces)), strict=True):
        above = trace["objective"] - best
        shown = np.isfinite(above) & (above > 0)
        ax.plot(trace[x][shown], above[shown], label=name, **style)
    ax.set(yscale="log", xlabel=_TIMES[x], ylabel="objective − best (nats)")
    ax.spines[["top", "right"]].set_visible(False)
    if labels is not None:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False)
    return ax


def _trace(fit: Any) -> np.ndarray:
    # Arrays have a method of that name
    trace = np.asarray(fit if isinstance(fit, np.ndarray) else getattr(fit, "trace_", getattr(fit, "trace", None)))
    if not {"n_iter", "objective", "seconds"} <= set(trace.dtype.names or ()) or not len(trace):
        raise TypeError(
            f"fits must be fitted estimators, solutions or traces, got {type(fit).__name__} without a trace"
        )
    return trace


def selection(found: Any, *, ax: Any = None) -> np.ndarray:
    """What each number of components predicts of held-out counts, and whether splits find the same ones.

    Parameters
    ----------
    found : Selection
        Of `select_n_components`.
    ax : array-like of matplotlib Axes, optional
        Two of them, or one where there was a single split.

    Returns
    -------
    ndarray of Axes
        First nats per held-out count: means, with standard errors of how much worse they are than the best, and single
        splits as dots; the recommended number is marked. Then, with several splits, similarity.

    Examples
    --------
    >>> from fastpmf import plot, select_n_components
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=2_000, random_state=0).X
    >>> len(plot.selection(select_n_components(X, [1, 2], random_state=0)))
    2
    """
    if not isinstance(found, Selection):
        raise TypeError(f"found must be what select_n_components returns, got {type(found).__name__}")
    k, scores = found.n_components, found.log_likelihood
    many = scores.shape[1] > 1
    axes = panels(ax, 1 + many, 1, 6.4, 2.6 if many else 3.6, sharex=True)
    axes[0].plot(k, scores, "o", color=GREY, alpha=0.35, markersize=5, markeredgewidth=0)
    axes[0].errorbar(k, found.mean, found.error if many else None, color=BLUE, marker=".", capsize=4)
    axes[0].set_ylabel("nats per held-out count")
    axes[0].annotate(
        f"{found.recommended} recommended", (found.recommended, 1.0), (0, 2), xycoords=("data", "axes fraction"),
        textcoords="offset points", ha="center", va="bottom",
    )  # fmt: skip
    if many:
        axes[1].plot(k, found.similarity, color=BLUE, marker=".")
        axes[1].set(ylabel="similarity of splits", ylim=(0, 1.05))
    for panel in axes:
        panel.axvline(found.recommended, color=GREY, linestyle=":", zorder=0)
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("components")
    return axes


def calibration(X: Any, W: Any, H: Any, exposure: float = 1.0, *, bins: int = 20, ax: Any = None) -> "Axes":
    """Held-out counts against what was expected of them, on average over entries of about the same rate.

    Every entry is counted, the zeros too. All n p rates are formed, some millions at a time: 2 n k p operations and a
    hundred megabytes, about two seconds for 60 million entries on two cores. A random part of the rows says nearly as
    much.

    Parameters
    ----------
    X : matrix of counts of shape (n, p)
        Held-out counts, for example of `thin_counts`.
    W : array-like of shape (n, k)
    H : array-like of shape (k, p) or fitted estimator
    exposure : float, default=1.0
        Their rates are so many times W H: f / (1 - f) after thinning by f.
    bins : int, default=20
        Groups of entries, equally wide in the logarithm of the rate. The lowest rates, as far as they expect fewer
        than ten counts together, are one group more.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        A point for each group that has any entry, with the exact 95 % interval of its mean if its counts were Poisson
        (Garwood), and the diagonal on which expectations are right. A group without counts is a bar from the lower
        edge.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

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
    X, W, H = _read(X, W, H)
    n, expected, observed = _by_rate(exposure * W, H, X)
    if not expected.any() or not observed.any():
        raise ValueError("X must hold a positive count, and W H a positive rate")
    below = expected.cumsum()
    first = int(np.searchsorted(below, min(_LEAST, below[-1])))
    height = np.log(expected[first:] / n[first:])
    edges = np.linspace(height[0], height[-1], bins + 1)[1:-1]
    group = np.append(np.zeros(first, int), 1 + np.searchsorted(edges, height, side="right"))
    n, expected, observed = (np.bincount(group, values) for values in (n, expected, observed))
    n, expected, observed = (values[n > 0] for values in (n, expected, observed))
    low = np.where(observed > 0, chi2.ppf(0.025, 2 * np.maximum(observed, 1e-9)) / 2, 0.0)
    high = chi2.ppf(0.975, 2 * observed + 2) / 2
    x, y = expected / n, observed / n
    ends = min(x.min(), y[y > 0].min()) / 2, max(x.max(), y.max()) * 2
    ax = one(ax, 4.8, 4.6)
    ax.plot(ends, ends, color=GREY, linewidth=1.0, zorder=0)
    bars = (np.stack([observed - low, high - observed]) / n).tolist()
    ax.errorbar(x, y, bars, fmt="o", color=BLUE, markersize=4, capsize=2)
    ax.set(xscale="log", xlim=ends, ylim=ends, aspect="equal")
    ax.set_yscale("log", nonpositive="clip")
    ax.set(xlabel="mean expected count per entry", ylabel="mean observed count per entry")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _by_rate(W: np.ndarray, H: np.ndarray, X: sparse.csr_array) -> np.ndarray:
    """How many entries, and their expected and observed counts, for 32 steps of the rate in each octave, (3, m).

    The first bits of a float are its logarithm, coarsely, and cost nothing.
    """
    sums, step = np.zeros((3, 1 << 16)), max(1, _BLOCK // H.shape[1])
    for start in range(0, len(W), step):
        rates = W[start : start + step] @ H
        place = rates.view(np.int64) >> 47
        part = X[start : start + step].tocoo()
        stored = place[part.row, part.col]
        for total, (at, values) in zip(sums, ((place, None), (place, rates), (stored, part.data)), strict=True):
            total += np.bincount(at.ravel(), None if values is None else values.ravel(), len(total))
    sums = sums[:, sums[0] > 0]
    if sums.shape[1] > 1 and sums[1, 0] == 0:  # rates of zero, which have no logarithm, go with the lowest others
        sums[:, 1] += sums[:, 0]
        sums = sums[:, 1:]
    return sums


def residuals(
    X: Any,
    W: Any,
    H: Any,
    *,
    row_labels: Any = None,
    column_labels: Any = None,
    bins: int = 20,
    ax: Any = None,
) -> "Axes":
    """Where counts are more or fewer than expected: a coarse map of groups of rows and of columns.

    Each cell is (observed - expected) / sqrt(expected) of the sums over it. W H is not formed: what a cell expects is
    the sum of W over its rows times the sum of H over its columns.

    Parameters
    ----------
    X : matrix of counts of shape (n, p)
    W : array-like of shape (n, k)
        Times row exposures where there were any.
    H : array-like of shape (k, p) or fitted estimator
    row_labels : array-like of shape (n,), optional
        Groups of rows, as `labels` of `structure`; by default rows in the order of their totals, in groups with about
        equally many counts, so that cells are about equally sure.
    column_labels : array-like of shape (p,), optional
        Groups of columns, likewise.
    bins : int, default=20
        How many groups, where there are no labels.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Where all is Poisson, as fitted, most cells are within 2 of 0. Counts where none can be are the strongest red.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.residuals([[9, 1], [1, 9]], [[5], [5]], [[1, 1]], row_labels=["ape", "bee"], column_labels=[0, 1])
    >>> ax.images[0].get_array().round(2).tolist()
    [[1.79, -1.79], [-1.79, 1.79]]
    """
    check_scalar(bins, "bins", (int, np.integer), min_val=1)
    labels = MatrixLabels.of(X)
    row_labels = align(row_labels, "row_labels", rows=labels.rows)
    column_labels = align(column_labels, "column_labels", rows=labels.columns)
    X, W, H = _read(X, W, H)
    rows, R = _groups(row_labels, X.sum(axis=1, dtype=np.float64), bins, "row_labels")
    columns, C = _groups(column_labels, X.sum(axis=0, dtype=np.float64), bins, "column_labels")
    observed, expected = (R @ X @ C.T).toarray(), (R @ W) @ (H @ C.T)
    more, none = observed - expected, expected == 0
    values = np.divide(more, np.sqrt(expected), out=np.where(more > 0, np.inf, 0.0), where=~none)
    most = np.abs(values[np.isfinite(values)]).max(initial=0.0) or 1.0
    ax = one(ax, 6.4, 4.8)
    colors = drawing("pyplot").colormaps["RdBu_r"]
    colors = colors.with_extremes(bad=colors(1.0))  # infinite ones are left out as bad
    image = ax.imshow(values, cmap=colors, vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="(observed − expected) / √expected")
    number_axis(ax.yaxis, rows)
    number_axis(ax.xaxis, columns)
    ax.tick_params(axis="x", rotation=90)
    ax.set(ylabel=_title("rows", row_labels), xlabel=_title("columns", column_labels))
    return ax


def _groups(labels: Any, totals: np.ndarray, bins: int, name: str) -> tuple[list[str], sparse.csr_array]:
    """Names of the groups, and an indicator matrix of their members, (m, n)."""
    if labels is not None:
        known, codes = grouped(labels, len(totals), name)
        titles = list(map(short, known))
    else:
        order = np.argsort(totals, kind="stable")
        below = totals[order].cumsum() - totals[order] / 2
        codes = np.empty(len(totals), np.int64)
        codes[order] = below * (bins / (totals.sum() or 1.0))
        _, codes = np.unique(codes, return_inverse=True)
        titles = [_range(totals[codes == g]) for g in range(codes.max() + 1)]
    drawn = np.flatnonzero(codes >= 0)
    return titles, sparse.csr_array((np.ones(len(drawn)), (codes[drawn], drawn)), shape=(len(titles), len(codes)))


def _range(totals: np.ndarray) -> str:
    low, high = (f"{t:.0f}" if t < 1e6 and t.is_integer() else f"{t:.4g}" for t in (totals.min(), totals.max()))
    return low if low == high else f"{low}–{high}"


def _title(things: str, labels: Any) -> str:
    return f"{things}, by their total counts" if labels is None else things


def _read(X: Any, W: Any, H: Any) -> tuple[sparse.csr_array, np.ndarray, np.ndarray]:
    labels = MatrixLabels.of(X)
    if (names := getattr(H, "feature_names_in_", None)) is not None:  # of a fitted model
        H = align(Dataset(H.components_, None, names), "H", columns=labels.columns)
        H = H.X.toarray() if sparse.issparse(H.X) else H.X
    W, H = align_factors(X, W, H)
    counts, W, H = as_counts(X), components_of(W, "W"), components_of(H, "H")
    if len(H) != W.shape[1]:
        raise ValueError(f"H must have {W.shape[1]} rows, as many as W has columns, got {len(H)}")
    if counts.shape != (len(W), H.shape[1]):
        raise ValueError(f"X must have shape {(len(W), H.shape[1])}, as W H has, got {counts.shape}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = W.sum(axis=0) @ H.sum(axis=1)
    if not np.isfinite(total):
        raise ValueError("W and H must be small enough for the sum of W H to be finite")
    return counts.to_scipy(), W, H
