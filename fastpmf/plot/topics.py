"""Plots of topics: proportions in each row and in groups of rows, and the similarity of topics."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.utils import check_scalar

from fastpmf.analysis.features import distributions, match_components
from fastpmf.counts.labels import align, labels_of, order_of
from fastpmf.plot._common import (
    area_colors,
    components_of,
    encode_groups,
    feature_labels,
    heat_map,
    matplotlib_module,
    proportions,
    short_names,
    shorten,
    single_axes,
)
from fastpmf.utils.validation import check_option, random_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ORDERS = ("principal", "given")


def structure(
    W: Any, H: Any = None, *, labels: Any = None, groups: Any = None, order: str = "principal", names: Any = None,
    max_rows: int = 2000, random_state: Any = 0, ax: Any = None,
) -> "Axes":  # fmt: skip
    """Structure plot: the topic proportions of each row as a stacked bar, rows side by side.

    Parameters
    ----------
    W : array-like of shape (n, k)
    H : array-like of shape (k, p) or fitted estimator, optional
        If given, proportions are those of the expected counts of each row, P(z|row) of `to_topics`. Otherwise rows of W
        are divided by their sums, which depend on the relative scale of W and H.
    labels : array-like of shape (n,), optional
        Groups of rows, drawn apart and named. Rows without a label (NaN, None) are left out, with a warning.
    groups : str or array-like of str, optional
        The groups to draw, in this order; by default all, in the order of the categories if `labels` are categorical,
        else sorted.
    order : {"principal", "given"}, default="principal"
        Order of the rows in a group. "principal": by dominant topic, and by the first principal component of the
        group's proportions. "given": unchanged.
    names : array-like of str, of length k, optional
        Names of the components, for the legend; by default their numbers, from 0.
    max_rows : int, default=2000
        If there are more rows, draw a random subset of about this size, with the same share of each group and at least
        one row of each.
    random_state : int, RandomState, Generator or None, default=0
        For the random subset.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Rows without mass are blank, at the end of their group.

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
    titles, codes = encode_groups(np.zeros(n, int) if labels is None else labels, n, "labels", groups)
    legend = short_names(names, k, "names", "component")
    ax = single_axes(ax, 10.0, 3.2)
    rng = random_generator(random_state)
    share = min(1.0, max_rows / np.count_nonzero(codes >= 0))
    members = [np.flatnonzero(codes == g) for g in range(len(titles))]
    if share < 1:
        members = [rng.choice(rows, max(1, round(share * len(rows))), replace=False) for rows in members]
    members = [rows[_principal_order(P[rows])] if order == "principal" else np.sort(rows) for rows in members]
    sizes = np.array([len(rows) for rows in members])
    gap = max(1, round(0.008 * sizes.sum())) if len(sizes) > 1 else 0
    starts = np.cumsum(np.append(0, sizes + gap))
    heights = np.full((k, starts[-1] - gap), np.nan)
    for start, rows in zip(starts, members, strict=False):
        heights[:, start : start + len(rows)] = P[rows].T
    tops, colors, step_patch = heights.cumsum(axis=0), area_colors(k), matplotlib_module("patches").StepPatch
    # From the top down, each drawn over the previous one, so that no background is visible between them
    stack = [
        step_patch(tops[z], np.arange(tops.shape[1] + 1.0), facecolor=colors[z], linewidth=0, label=legend[z])
        for z in range(k)[::-1]
    ]
    for patch in stack:
        ax.add_artist(patch)  # `add_patch` would compute the limits of all steps, which takes seconds
    ax.set(xlim=(0, tops.shape[1]), ylim=(0, 1), ylabel="topic proportion", xticks=[])
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    if labels is None:
        ax.set_xlabel("rows")
    else:
        _name_groups(ax, starts[:-1] + sizes / 2, list(map(shorten, titles)))
    ax.legend(
        handles=stack, loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False, ncols=-(-k // 12), fontsize="small",
        handlelength=1.0, handleheight=1.0, columnspacing=1.0, labelspacing=0.3,
    )  # fmt: skip
    return ax


def _principal_order(P: np.ndarray) -> np.ndarray:
    """Rows ordered by dominant topic and by the first principal component, which also orders the topics; zeros last.

    The principal component mixes topics in groups that have many; the dominant topic does not order its rows.
    """
    C = P - P.mean(axis=0)
    score = C @ np.linalg.svd(C, full_matrices=False)[2][0]
    if score @ P[:, P.sum(axis=0).argmax()] > 0:  # its sign is arbitrary: let the largest topic decrease
        score = -score
    dominant = P.argmax(axis=1)
    mean = np.bincount(dominant, score) / np.maximum(np.bincount(dominant), 1)
    return np.lexsort((score, mean[dominant], ~P.any(axis=1)))


def _name_groups(ax: Any, middles: np.ndarray, titles: list[str]) -> None:
    """Names below the groups, rotated if they would overlap."""
    ax.set_xticks(middles, titles)
    ax.tick_params(axis="x", length=0, pad=7)
    inches = ax.bbox.width / ax.figure.dpi / np.diff(ax.get_xlim())[0]
    lengths = np.array([0.09 * (len(title) + 1) for title in titles])
    if (np.diff(middles) * inches < (lengths[1:] + lengths[:-1]) / 2).any():
        for text in ax.get_xticklabels():
            text.set(rotation=40, ha="right", rotation_mode="anchor")


def topic_heatmap(H: Any, other: Any = None, *, ax: Any = None) -> "Axes":
    """Heat map of the similarity of components: the Bhattacharyya coefficient of each pair, in one fit or between two.

    Parameters
    ----------
    H : array-like of shape (k, p) or fitted estimator
        Its components are the rows, ordered by similarity (average linkage, optimal leaf order).
    other : array-like of shape (l, p) or fitted estimator, optional
        Its components are the columns: those matched with a row (`match_components`) in the order of the rows, then the
        others. By default H.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        From 0 for components without common features to 1 for equal distributions. Ticks are numbers of components,
        from 0.

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.topic_heatmap([[2, 1, 0], [0, 1, 2]], [[0, 1, 1], [1, 1, 0], [1, 1, 1]])
    >>> ax.images[0].get_array().round(2).tolist()
    [[0.99, 0.41, 0.8], [0.41, 0.99, 0.8]]
    """
    target = feature_labels(H)._replace(source="H", item="column")
    H = components_of(H, "H")
    other_H = H if other is None else components_of(other, "other")
    if (order := order_of(feature_labels(other), target, "other")) is not None:
        other_H = other_H[:, order]
    if other_H.shape[1] != H.shape[1]:
        raise ValueError(f"other must have {H.shape[1]} columns, as many as H, got {other_H.shape[1]}")
    partners, _ = match_components(H, other_H)
    P, Q = (np.sqrt(distributions(A)) for A in (H, other_H))
    rows = np.arange(len(P))
    if len(P) > 2:
        distances = squareform(np.clip(1 - P @ P.T, 0, None), checks=False)
        rows = leaves_list(linkage(distances, "average", optimal_ordering=True))
    matched = rows if other is None else partners[rows]
    columns = np.append(matched[matched >= 0], np.setdiff1d(np.arange(len(Q)), matched))
    ax = single_axes(ax, *(1.8 + 0.2 * np.clip([len(Q), len(P)], 12, 36)))
    values, row_names, column_names = P[rows] @ Q[columns].T, list(map(str, rows)), list(map(str, columns))
    heat_map(ax, values, row_names, column_names, "Bhattacharyya coefficient", cmap="viridis", vmin=0, vmax=1)
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
        Names of the components; by default their numbers, from 0.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        A row for each group and a column for each component, ordered by the group with its largest mean. Rows of W
        without mass are left out of the means.

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.topic_label_heatmap([[0, 2], [3, 1], [0, 1]], labels=["ape", "bee", "ape"])
    >>> ax.images[0].get_array().tolist()
    [[1.0, 0.0], [0.25, 0.75]]
    """
    labels = align(labels, "labels", rows=labels_of(W, 0)._replace(source="W"))
    P = proportions(W, H)
    titles, codes = encode_groups(labels, len(P), "labels")
    legend = short_names(names, P.shape[1], "names", "component")
    P, codes = P[codes >= 0], codes[codes >= 0]
    sizes = np.bincount(codes, P.any(axis=1))
    sums = np.stack([np.bincount(codes, P[:, z]) for z in range(P.shape[1])], axis=1)
    means = sums / np.maximum(sizes, 1)[:, None]
    columns = np.lexsort((-means.max(axis=0), means.argmax(axis=0)))
    ax = single_axes(ax, *(np.array([2.8, 1.2]) + 0.2 * np.clip([len(legend), len(titles)], 12, 40)))
    row_names, column_names = list(map(shorten, titles)), [legend[z] for z in columns]
    heat_map(ax, means[:, columns], row_names, column_names, "mean topic proportion", cmap="viridis", vmin=0)
    if names is not None:
        ax.tick_params(axis="x", rotation=90)
    ax.set_xlabel("component")
    return ax
