"""Pictures of topics: what each row is made of, what groups of rows are, and how alike topics are."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.utils import check_scalar

from fastpmf.analysis.features import distributions, match_components
from fastpmf.counts.labels import align, labels_of, order_of
from fastpmf.plot._canvas import (
    area_colors,
    components_of,
    drawing,
    grouped,
    labels_of_features,
    named,
    number_axis,
    one,
    proportions,
    short,
)
from fastpmf.utils.validation import check_option, random_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ORDERS = ("principal", "given")


def structure(
    W: Any,
    H: Any = None,
    *,
    labels: Any = None,
    groups: Any = None,
    order: str = "principal",
    names: Any = None,
    max_rows: int = 2000,
    random_state: Any = 0,
    ax: Any = None,
) -> "Axes":
    """Structure plot: the topic proportions of each row, stacked, rows side by side.

    Parameters
    ----------
    W : array-like of shape (n, k)
    H : array-like of shape (k, p) or fitted estimator, optional
        With it proportions are those of each row's expected counts, P(z|row) of `to_topics`; without, W's rows over
        their sums, which depend on the scale that W and H share.
    labels : array-like of shape (n,), optional
        Groups of rows, drawn apart and named. Rows without a label (NaN, None) are left out, with a warning.
    groups : str or array-like of str, optional
        Which groups, and in which order; by default all, in the order of the categories where `labels` are
        categorical, else sorted.
    order : {"principal", "given"}, default="principal"
        Of rows within a group. "principal": rows of one dominant topic side by side, along the first principal
        component of the group's proportions. "given": as they come.
    names : array-like of str, of length k, optional
        Of the components, for the legend; by default their numbers, from 0.
    max_rows : int, default=2000
        With more rows, about as many are drawn at random, of each group its share and at least one.
    random_state : int, RandomState, Generator or None, default=0
        For that choice.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Rows without any mass are left blank, at the end of their group.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    References
    ----------
    N. A. Rosenberg et al., "Genetic structure of human populations", Science 298 (2002); K. K. Dey, C. J. Hsiao and
    M. Stephens, "Visualizing the structure of RNA-seq expression data using grade of membership models", PLOS Genetics
    13 (2017).

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.structure([[3, 1], [0, 2], [1, 4]], labels=["ape", "bee", "bee"])
    >>> ax.get_ylabel()
    'topic proportion'
    """
    labels = align(labels, "labels", rows=labels_of(W, 0)._replace(source="W"))
    P = proportions(W, H)
    n, k = P.shape
    check_option(order, _ORDERS, "order")
    check_scalar(max_rows, "max_rows", (int, np.integer), min_val=1)
    titles, codes = grouped(np.zeros(n, int) if labels is None else labels, n, "labels", groups)
    legend = named(names, k, "names", "component")
    ax = one(ax, 10.0, 3.2)
    rng = random_generator(random_state)
    share = min(1.0, max_rows / np.count_nonzero(codes >= 0))
    members = [np.flatnonzero(codes == g) for g in range(len(titles))]
    if share < 1:
        members = [rng.choice(rows, max(1, round(share * len(rows))), replace=False) for rows in members]
    members = [rows[_in_order(P[rows])] if order == "principal" else np.sort(rows) for rows in members]
    sizes = np.array([len(rows) for rows in members])
    gap = max(1, round(0.008 * sizes.sum())) if len(sizes) > 1 else 0
    starts = np.cumsum(np.append(0, sizes + gap))
    heights = np.full((k, starts[-1] - gap), np.nan)
    for start, rows in zip(starts, members, strict=False):
        heights[:, start : start + len(rows)] = P[rows].T
    tops, colors, step_patch = heights.cumsum(axis=0), area_colors(k), drawing("patches").StepPatch
    # From the top down, each over the one before, so that no background shines through where two meet
    stack = [
        step_patch(tops[z], np.arange(tops.shape[1] + 1.0), facecolor=colors[z], linewidth=0, label=legend[z])
        for z in range(k)[::-1]
    ]
    for patch in stack:
        ax.add_artist(patch)  # `add_patch` would look for the limits of every step, for seconds
    ax.set(xlim=(0, tops.shape[1]), ylim=(0, 1), ylabel="topic proportion", xticks=[])
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    if labels is None:
        ax.set_xlabel("rows")
    else:
        _name_groups(ax, starts[:-1] + sizes / 2, list(map(short, titles)))
    ax.legend(
        handles=stack, loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False, ncols=-(-k // 12), fontsize="small",
        handlelength=1.0, handleheight=1.0, columnspacing=1.0, labelspacing=0.3,
    )  # fmt: skip
    return ax


def _in_order(P: np.ndarray) -> np.ndarray:
    """Rows of one dominant topic side by side, all along the first principal component; those of zeros last.

    That component alone would mix topics where a group has many, and the dominant topic alone would put rows beside
    others that share nothing else.
    """
    C = P - P.mean(axis=0)
    along = C @ np.linalg.svd(C, full_matrices=False)[2][0]
    if along @ P[:, P.sum(axis=0).argmax()] > 0:  # it has no sign of its own: the heaviest topic shall fall
        along = -along
    dominant = P.argmax(axis=1)
    middle = np.bincount(dominant, along) / np.maximum(np.bincount(dominant), 1)
    return np.lexsort((along, middle[dominant], ~P.any(axis=1)))


def _name_groups(ax: Any, middles: np.ndarray, titles: list[str]) -> None:
    """Names below the groups, aslant where they would run into each other."""
    ax.set_xticks(middles, titles)
    ax.tick_params(axis="x", length=0, pad=7)
    inches = ax.bbox.width / ax.figure.dpi / np.diff(ax.get_xlim())[0]
    lengths = np.array([0.09 * (len(title) + 1) for title in titles])
    if (np.diff(middles) * inches < (lengths[1:] + lengths[:-1]) / 2).any():
        for text in ax.get_xticklabels():
            text.set(rotation=40, ha="right", rotation_mode="anchor")


def topic_heatmap(H: Any, other: Any = None, *, ax: Any = None) -> "Axes":
    """How alike components are: the Bhattacharyya coefficient of each pair, of one fit or between two.

    Parameters
    ----------
    H : array-like of shape (k, p) or fitted estimator
        Rows, ordered so that similar ones are neighbours (average linkage, optimal leaf order).
    other : array-like of shape (l, p) or fitted estimator, optional
        Columns, each matched component (`match_components`) below its partner, the rest behind; by default H again.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        0 is nothing in common, 1 the same distribution over features. Ticks are numbers of components, from 0.

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.topic_heatmap([[2, 1, 0], [0, 1, 2]], [[0, 1, 1], [1, 1, 0], [1, 1, 1]])
    >>> ax.images[0].get_array().round(2).tolist()
    [[0.99, 0.41, 0.8], [0.41, 0.99, 0.8]]
    """
    wanted = labels_of_features(H)._replace(source="H", item="column")
    H = components_of(H, "H")
    other_H = H if other is None else components_of(other, "other")
    if (order := order_of(labels_of_features(other), wanted, "other")) is not None:
        other_H = other_H[:, order]
    if other_H.shape[1] != H.shape[1]:
        raise ValueError(f"other must have {H.shape[1]} columns, as many as H, got {other_H.shape[1]}")
    partners, _ = match_components(H, other_H)
    P, Q = (np.sqrt(distributions(A)) for A in (H, other_H))
    rows = np.arange(len(P))
    if len(P) > 2:
        apart = squareform(np.clip(1 - P @ P.T, 0, None), checks=False)
        rows = leaves_list(linkage(apart, "average", optimal_ordering=True))
    matched = rows if other is None else partners[rows]
    columns = np.append(matched[matched >= 0], np.setdiff1d(np.arange(len(Q)), matched))
    ax = one(ax, *(1.8 + 0.2 * np.clip([len(Q), len(P)], 12, 36)))
    _heat(ax, P[rows] @ Q[columns].T, "Bhattacharyya coefficient", 1.0)
    number_axis(ax.yaxis, [str(z) for z in rows])
    number_axis(ax.xaxis, [str(z) for z in columns])
    ax.set(ylabel="component", xlabel="component" if other is None else "component of the other fit")
    return ax


def topic_label_heatmap(W: Any, H: Any = None, *, labels: Any, names: Any = None, ax: Any = None) -> "Axes":
    """Mean topic proportions of each group of rows.

    Parameters
    ----------
    W : array-like of shape (n, k)
    H : array-like of shape (k, p) or fitted estimator, optional
        As in `structure`.
    labels : array-like of shape (n,)
        Groups of rows, as in `structure`.
    names : array-like of str, of length k, optional
        Of the components; by default their numbers, from 0.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        A row for each group, and a column for each component, in the order of the groups that have most of them. Rows
        of W without any mass are left out of the means.

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.topic_label_heatmap([[0, 2], [3, 1], [0, 1]], labels=["ape", "bee", "ape"])
    >>> ax.images[0].get_array().tolist()
    [[1.0, 0.0], [0.25, 0.75]]
    """
    labels = align(labels, "labels", rows=labels_of(W, 0)._replace(source="W"))
    P = proportions(W, H)
    titles, codes = grouped(labels, len(P), "labels")
    legend = named(names, P.shape[1], "names", "component")
    P, codes = P[codes >= 0], codes[codes >= 0]
    sizes = np.bincount(codes, P.any(axis=1))
    sums = np.stack([np.bincount(codes, P[:, z]) for z in range(P.shape[1])], axis=1)
    means = sums / np.maximum(sizes, 1)[:, None]
    columns = np.lexsort((-means.max(axis=0), means.argmax(axis=0)))
    ax = one(ax, *(np.array([2.8, 1.2]) + 0.2 * np.clip([len(legend), len(titles)], 12, 40)))
    _heat(ax, means[:, columns], "mean topic proportion", None)
    number_axis(ax.yaxis, list(map(short, titles)))
    number_axis(ax.xaxis, [legend[z] for z in columns])
    if names is not None:
        ax.tick_params(axis="x", rotation=90)
    ax.set_xlabel("component")
    return ax


def _heat(ax: Any, values: np.ndarray, title: str, highest: float | None) -> None:
    image = ax.imshow(values, cmap="viridis", vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label=title)
