"""Plots of topics: proportions in each row and in groups of rows, and the similarity of topics."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.ndimage import maximum_filter1d, minimum_filter1d
from scipy.spatial.distance import squareform
from sklearn.utils import check_scalar

from fastpmf.analysis.features import distributions, match_components
from fastpmf.counts.labels import labels_of, order_of
from fastpmf.plot._common import (
    component_colors,
    encode_groups,
    groups_of,
    heat_map,
    heat_map_size,
    matplotlib_module,
    proportions,
    short_component_names,
    short_names,
    shorten,
    single_axes,
    text_color,
)
from fastpmf.utils.validation import check_matrix, check_option, random_generator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ORDERS = ("dominant", "principal", "given")
_HEIGHT = 2.6  # of the Axes of the structure plot, in inches
_NAMED_HEIGHT = 0.15  # proportion of a component in a row, from which its name may be written there
_GRID = 1000  # positions along the rows that are tried for the name of a component


def structure(
    W: Any, H: Any = None, *, groupby: Any = None, groups: Any = None, labels: Any = None, order: str = "dominant",
    max_rows: int = 2000, random_state: Any = 0, key: str | None = None, ax: Any = None,
) -> "Axes":  # fmt: skip
    """Structure plot: the topic proportions of each row as a stacked bar, rows side by side.

    Components are stacked by their mean proportion, the largest at the top. The names of those with enough space are
    written where they are at least 15 % of the rows; the legend has all of them.

    Parameters
    ----------
    W : array-like of shape (n, k) or AnnData
        An AnnData object must have the result of a fit by `fastpmf.anndata` in `.obsm`.
    H : array-like of shape (k, p) or fitted estimator, optional
        If given, proportions are those of the expected counts of each row, P(z|row) of `to_topics`. Otherwise rows of W
        are divided by their sums, which depend on the relative scale of W and H; of an AnnData object, the saved
        P(z|row) are drawn.
    groupby : array-like of shape (n,) or str, optional
        Groups of rows, drawn apart and named; a str is a column of `.obs` of an AnnData object. Rows without a group
        (NaN, None) are left out, with a warning. Groups of few rows are drawn wider than their share.
    groups : str or array-like of str, optional
        The groups to draw, in this order; by default all, in the order of the categories if `groupby` is categorical,
        else sorted.
    labels : array-like of str, of length k, optional
        Names of the components, such as `model.top_features(2).titles()`; by default those of the estimator or of the
        AnnData object, or their numbers, from 0.
    order : {"dominant", "principal", "given"}, default="dominant"
        Order of the rows in a group. "dominant": by dominant topic, largest topic first, and by falling proportion of
        it. "principal": by dominant topic, and by the first principal component of the group's proportions, which suits
        gradual changes. "given": unchanged.
    max_rows : int, default=2000
        If there are more rows, draw a random subset of about this size, with the same share of each group and at least
        one row of each.
    random_state : int, RandomState, Generator or None, default=0
        For the random subset.
    key : str, optional
        Name of the result in `.obsm` of an AnnData object, such as "X_hpf" or the `key_added` of the fit; by default
        the only one.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        Rows without mass are blank, at the end of their group. The legend is at the right if it takes at most a fifth
        of the figure's width, else below.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    to_topics : the proportions that are drawn.
    fastpmf.plot.group_heatmap : their means in groups of rows.

    References
    ----------
    N. A. Rosenberg et al., "Genetic structure of human populations", Science 298 (2002); K. K. Dey, C. J. Hsiao and
    M. Stephens, "Visualizing the structure of RNA-seq expression data using grade of membership models", PLOS Genetics
    13 (2017).

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.structure([[3, 1], [0, 2], [1, 4]], groupby=["ape", "bee", "bee"])
    >>> ax.get_ylabel()
    'topic proportion'
    """
    groupby = None if groupby is None else groups_of(groupby, W, "W")
    P = proportions(W, H, key)
    n, k = P.shape
    check_option(order, _ORDERS, "order")
    check_scalar(max_rows, "max_rows", (int, np.integer), min_val=1)
    titles, codes = encode_groups(np.zeros(n, int) if groupby is None else groupby, n, "groupby", groups)
    names, colors = short_component_names(labels, k, H, W, key), component_colors(k)
    members = [np.flatnonzero(codes == g) for g in range(len(titles))]
    n_chosen, rng = sum(map(len, members)), random_generator(random_state)
    if n_chosen > max_rows:
        share = max_rows / n_chosen
        members = [rng.choice(rows, max(1, round(share * len(rows))), replace=False) for rows in members]
    stack = np.argsort(-P.sum(axis=0), kind="stable")[::-1]  # components from the bottom to the top
    members = [rows[_row_order(P[rows], stack, order)] for rows in map(np.sort, members)]
    heights, edges, middles = _side_by_side(P, members)
    tops = heights[stack].cumsum(axis=0)
    own_figure, ax = ax is None, single_axes(ax, 10.0, 3.2)
    ax.figure.figure.draw_without_rendering()  # the layout sets the size of the Axes, and so the space for names
    # From the top down, each drawn over the previous one, so that no background is visible between them
    step_patch = matplotlib_module("patches").StepPatch
    patches = [
        step_patch(top, edges, facecolor=colors[z], linewidth=0, label=names[z])
        for z, top in zip(stack[::-1], tops[::-1], strict=True)
    ]
    for patch in patches:
        ax.add_artist(patch)  # `add_patch` would compute the limits of all steps, which takes seconds
    n_drawn = sum(map(len, members))
    xlabel = f"{n:,} rows" if n_drawn == n else f"{n_drawn:,} of {n:,} rows"
    ax.set(xlim=(0, edges[-1]), ylim=(0, 1), ylabel="topic proportion", xlabel=xlabel, xticks=[])
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    if groupby is not None:
        _name_groups(ax, middles, list(map(shorten, titles)))
    _add_legend(ax, patches, own_figure)
    _name_areas(ax, [names[z] for z in stack], [colors[z] for z in stack], tops, edges)
    return ax


def _row_order(P: np.ndarray, stack: np.ndarray, order: str) -> np.ndarray:
    """Order of the rows of a group; rows without mass last."""
    if order == "given":
        return np.arange(len(P))
    dominant, empty = P.argmax(axis=1), ~P.any(axis=1)
    if order == "dominant":
        return np.lexsort((-P.max(axis=1), -np.argsort(stack)[dominant], empty))
    C = P - P.mean(axis=0)
    score = C @ np.linalg.svd(C, full_matrices=False)[2][0]
    if score @ P[:, P.sum(axis=0).argmax()] > 0:  # its sign is arbitrary: let the largest topic decrease
        score = -score
    # The score alone mixes topics in groups that have many, and the dominant topic alone does not order its rows
    mean = np.bincount(dominant, score) / np.maximum(np.bincount(dominant), 1)
    return np.lexsort((score, mean[dominant], empty))


def _side_by_side(P: np.ndarray, members: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Heights of the bars, (k, m), with NaN in gaps between groups; edges of the bars, (m + 1,); middles of groups."""
    sizes = np.array([len(rows) for rows in members])
    widths = np.maximum(sizes, min(0.025, 0.5 / len(sizes)) * sizes.sum())
    gap = max(1.0, 0.005 * widths.sum())
    blank = np.full((P.shape[1], 1), np.nan)
    heights = [part for rows in members for part in (P[rows].T, blank)]
    steps = [np.append(np.full(m, width / m), gap) for m, width in zip(sizes, widths, strict=True)]
    starts = np.cumsum(np.append(0, widths + gap))[:-1]
    edges = np.cumsum(np.append(0, np.concatenate(steps)))
    return np.concatenate(heights, axis=1)[:, :-1], edges[:-1], starts + widths / 2


def _name_groups(ax: Any, middles: np.ndarray, titles: list[str]) -> None:
    """Names below the groups, rotated if they would overlap."""
    font = "medium" if len(titles) <= 24 else "small" if len(titles) <= 40 else "x-small"
    ax.set_xticks(middles, titles, fontsize=font)
    ax.tick_params(axis="x", length=0, pad=4)
    texts = ax.get_xticklabels()
    boxes = [text.get_window_extent() for text in texts]
    spans = np.array([(box.x0, box.x1) for box in boxes])
    if (spans[1:, 0] < spans[:-1, 1] + 4).any():
        upright = np.diff(spans.mean(axis=1)).min() < 1.6 * boxes[0].height
        for text in texts:
            text.set(rotation=90 if upright else 40, ha="right", va="center" if upright else "top")
            text.set_rotation_mode("anchor")


def _add_legend(ax: Any, patches: list[Any], own_figure: bool) -> None:
    """The legend, at the right if it is small enough, else below. A figure of our own is made as high as needed."""
    figure, k = ax.figure.figure, len(patches)
    look: dict[str, Any] = {
        "handles": patches, "loc": "upper left", "frameon": False, "fontsize": "small", "handlelength": 1.0,
        "handleheight": 1.0, "columnspacing": 1.0, "labelspacing": 0.3, "borderaxespad": 0.0, "handletextpad": 0.5,
    }  # fmt: skip
    legend = ax.legend(bbox_to_anchor=(1.015, 1.0), ncols=-(-k // 16), **look)
    legend.set_in_layout(False)  # else a legend that is too wide would leave no Axes to measure
    figure.draw_without_rendering()
    box, space = legend.get_window_extent(), figure.bbox if own_figure else ax.bbox
    if box.width <= 0.2 * space.width and box.height <= 1.2 * ax.bbox.height:
        legend.set_in_layout(True)
    else:
        entry = 0.35 * figure.dpi + max(text.get_window_extent().width for text in legend.get_texts())
        n_rows = -(-k // int(np.clip(0.92 * space.width // entry, 1, k)))
        legend.remove()
        below = (ax.bbox.y0 - ax.xaxis.get_tightbbox().y0) / figure.dpi + 0.08
        down = matplotlib_module("transforms").ScaledTranslation(0, -below, figure.dpi_scale_trans)
        ax.legend(bbox_to_anchor=(0.0, 0.0), bbox_transform=ax.transAxes + down, ncols=-(-k // n_rows), **look)
    if own_figure:
        figure.draw_without_rendering()
        figure.set_figheight(figure.get_figheight() + _HEIGHT - ax.bbox.height / figure.dpi)
    figure.draw_without_rendering()


def _name_areas(ax: Any, names: list[str], colors: list[str], tops: np.ndarray, edges: np.ndarray) -> None:
    """Write the name of each component into its area, where it fits; `tops` are the upper ends of areas, (k, m)."""
    at = np.searchsorted(edges, (np.arange(_GRID) + 0.5) * edges[-1] / _GRID, side="right") - 1
    tops = np.nan_to_num(tops[:, np.clip(at, 0, tops.shape[1] - 1)])
    lows = np.vstack([np.zeros(_GRID), tops[:-1]])
    tops = np.where(tops - lows >= _NAMED_HEIGHT, tops, lows)
    for name, color, low, high in zip(names, colors, lows, tops, strict=True):
        if not (high > low).any():
            continue
        style = {"color": text_color(color), "fontsize": "small", "ha": "center", "va": "center", "clip_on": True}
        text = ax.text(0.5, 0.5, name, **style)
        for layout, rotation in ((name, 0), (name.replace(" ", "\n"), 0), (name, 90)):
            text.set(text=layout, rotation=rotation)
            box = text.get_window_extent()
            width = int(1.1 * box.width / ax.bbox.width * _GRID) + 4
            if width >= _GRID:
                continue
            floor, ceiling = maximum_filter1d(low, width), minimum_filter1d(high, width)
            space = (ceiling - floor)[width // 2 : _GRID - width // 2]
            if space.max() >= 1.15 * box.height / ax.bbox.height:
                middle = _middle_of_longest_run(space >= 0.95 * space.max()) + width // 2
                text.set_position(((middle + 0.5) / _GRID * edges[-1], (floor[middle] + ceiling[middle]) / 2))
                break
        else:
            text.remove()


def _middle_of_longest_run(at: np.ndarray) -> int:
    starts, ends = np.flatnonzero(np.diff(at, prepend=False, append=False)).reshape(-1, 2).T
    longest = (ends - starts).argmax()
    return int(starts[longest] + ends[longest] - 1) // 2


def similarity_heatmap(
    H: Any, other: Any = None, *, labels: Any = None, other_labels: Any = None, ax: Any = None
) -> "Axes":
    """Heat map of the similarity of components: the Bhattacharyya coefficient of each pair, in one fit or between two.

    Parameters
    ----------
    H : array-like of shape (k, p) or fitted estimator
        Its components are the rows, ordered by similarity (average linkage, optimal leaf order).
    other : array-like of shape (l, p) or fitted estimator, optional
        Its components are the columns: those matched with a row (`match_components`) in the order of the rows, then the
        others. By default H.
    labels, other_labels : array-like of str, of length k and l, optional
        Names of the components; by default those of the estimator, or their numbers, from 0.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        From 0 for components without common features to 1 for equal distributions.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    match_components : the best one-to-one assignment of components.

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.similarity_heatmap([[2, 1, 0], [0, 1, 2]], [[0, 1, 1], [1, 1, 0], [1, 1, 1]])
    >>> ax.images[0].get_array().round(2).tolist()
    [[0.99, 0.41, 0.8], [0.41, 0.99, 0.8]]
    """
    target = labels_of(H, 1)._replace(source="H", item="column")
    labels = labels_of(H, 0).names if labels is None else labels
    other_labels = labels_of(other, 0).names if other_labels is None else other_labels
    H = check_matrix(H, "H").astype(np.float64)
    other_H = H if other is None else check_matrix(other, "other").astype(np.float64)
    if (order := order_of(labels_of(other, 1), target, "other")) is not None:
        other_H = other_H[:, order]
    if other_H.shape[1] != H.shape[1]:
        raise ValueError(f"other must have {H.shape[1]} columns, as many as H, got {other_H.shape[1]}")
    row_names = short_names(labels, len(H), "labels", "component")
    column_names = row_names
    if other is not None:
        column_names = short_names(other_labels, len(other_H), "other_labels", "component of other")
    partners, _ = match_components(H, other_H)
    P, Q = (np.sqrt(distributions(A)) for A in (H, other_H))
    rows = np.arange(len(P))
    if len(P) > 2:
        distances = squareform(np.clip(1 - P @ P.T, 0, None), checks=False)
        rows = leaves_list(linkage(distances, "average", optimal_ordering=True))
    matched = rows if other is None else partners[rows]
    columns = np.append(matched[matched >= 0], np.setdiff1d(np.arange(len(Q)), matched))
    ax = single_axes(ax, *heat_map_size([row_names[z] for z in rows], [column_names[z] for z in columns]))
    heat_map(
        ax, P[rows] @ Q[columns].T, [row_names[z] for z in rows], [column_names[z] for z in columns],
        "similarity", cmap="viridis", vmin=0, vmax=1,
    )  # fmt: skip
    ax.set(ylabel="component", xlabel="component" if other is None else "component of the other fit")
    return ax


def group_heatmap(
    W: Any, H: Any = None, *, groupby: Any, groups: Any = None, labels: Any = None, key: str | None = None,
    ax: Any = None,
) -> "Axes":  # fmt: skip
    """Mean topic proportions of each group of rows.

    Parameters
    ----------
    W : array-like of shape (n, k) or AnnData
    H : array-like of shape (k, p) or fitted estimator, optional
    groupby : array-like of shape (n,) or str
    groups : str or array-like of str, optional
        These are as in `structure`.
    labels : array-like of str, of length k, optional
        Names of the components; by default those of the estimator, or their numbers, from 0.
    key : str, optional
        As in `structure`.
    ax : matplotlib Axes, optional

    Returns
    -------
    Axes
        A row for each group and a column for each component, ordered by the group with its largest mean. Rows of W
        without mass are left out of the means.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    fastpmf.plot.structure : the proportions of each row.

    Examples
    --------
    >>> from fastpmf import plot
    >>> ax = plot.group_heatmap([[0, 2], [3, 1], [0, 1]], groupby=["ape", "bee", "ape"])
    >>> ax.images[0].get_array().tolist()
    [[1.0, 0.0], [0.25, 0.75]]
    """
    groupby = groups_of(groupby, W, "W")
    P = proportions(W, H, key)
    titles, codes = encode_groups(groupby, len(P), "groupby", groups)
    names = short_component_names(labels, P.shape[1], H, W, key)
    P, codes = P[codes >= 0], codes[codes >= 0]
    sizes = np.bincount(codes, P.any(axis=1))
    sums = np.stack([np.bincount(codes, P[:, z]) for z in range(P.shape[1])], axis=1)
    means = sums / np.maximum(sizes, 1)[:, None]
    columns = np.lexsort((-means.max(axis=0), means.argmax(axis=0)))
    row_names, column_names = list(map(shorten, titles)), [names[z] for z in columns]
    ax = single_axes(ax, *heat_map_size(row_names, column_names))
    heat_map(ax, means[:, columns], row_names, column_names, "mean topic proportion", cmap="viridis", vmin=0)
    ax.set(xlabel="component", ylabel="group")
    return ax
