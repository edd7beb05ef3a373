"""Plot of the components of many fits, and of what they agree on."""

from typing import Any

import numpy as np

from fastpmf.analysis.consensus import Clusters, similarities
from fastpmf.plot._common import BLUE, GREY, component_colors, hide_frame, panels


def consensus(result: Any, *, ax: Any = None) -> np.ndarray:
    """Similarities of the components of all replicates, their densities, and the stability of the consensus.

    Parameters
    ----------
    result : Consensus
        The result of `fastpmf.consensus`.
    ax : array-like of three matplotlib Axes, optional

    Returns
    -------
    ndarray of Axes
        The first has the similarity of each pair of components of replicates, in the order of the components of the
        consensus, which lines divide; within each, from low to high density, so that outliers are last. Reproducible
        components are bright squares. The second has a histogram of the densities, with the threshold: outliers, to the
        right of it, are grey. The third has the stability of each component of the consensus, grey without any
        component that is kept.

    Raises
    ------
    TypeError
        If an argument has an invalid type.

    See Also
    --------
    consensus : computes what is drawn.

    Examples
    --------
    >>> from fastpmf import consensus, plot
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=2_000, random_state=0).X
    >>> axes = plot.consensus(consensus(X, 2, n_replicates=3, random_state=0))
    >>> axes[0].images[0].get_array().shape
    (6, 6)
    """
    if not isinstance(result, Clusters):
        raise TypeError(f"result must be what consensus returns, got {type(result).__name__}")
    axes = panels(ax, 3, 3, 4.4, 3.6)
    _clustergram(axes[0], result)
    _densities(axes[1], result)
    numbers, colors = np.arange(len(result.stability)), component_colors(len(result.stability))
    colors = [color if n else GREY for color, n in zip(colors, result.n_kept, strict=True)]
    axes[2].bar(numbers, result.stability, color=colors)
    axes[2].set(xlabel="component", ylabel="stability", ylim=(0, 1.05))
    axes[2].xaxis.get_major_locator().set_params(integer=True)
    for panel in axes[1:]:
        hide_frame(panel)
    return axes


def _clustergram(ax: Any, result: Clusters) -> None:
    labels, n_replicates = result.labels.ravel(), len(result.labels)
    order = np.lexsort([result.density.ravel(), labels])
    values = similarities(result.replicates)[np.ix_(order, order)]
    image = ax.imshow(values, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, label="similarity")
    numbers = np.arange(len(result.stability))
    for edge in numbers[1:] * n_replicates - 0.5:
        ax.axhline(edge, color="white", linewidth=0.6)
        ax.axvline(edge, color="white", linewidth=0.6)
    shown = numbers[:: -(-len(numbers) // 20)]
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_ticks((shown + 0.5) * n_replicates - 0.5, list(map(str, shown)), fontsize="small")
    ax.tick_params(length=0)
    ax.set(xlabel="component of the consensus", ylabel="components of replicates")


def _densities(ax: Any, result: Clusters) -> None:
    edges = np.linspace(0, max(result.density.max(), min(result.density_threshold, 1.45)) * 1.02, 41)
    parts = [result.density[result.kept], result.density[~result.kept]]
    ax.hist(parts, edges, stacked=True, color=[BLUE, GREY], label=["kept", "outliers"])
    ax.set(xlabel="mean distance to nearest neighbours", ylabel="components of replicates", xlim=(0, edges[-1]))
    if result.density_threshold < edges[-1]:
        ax.axvline(result.density_threshold, color=GREY, linestyle=":")
    if parts[1].size:
        ax.legend(frameon=False, loc="upper right")
