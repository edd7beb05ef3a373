"""Fewer or more components: which two to merge, the best component in place of two, and new ones where the fit is bad.

The best single component in place of a and b, for the divergence from W_a H_a + W_b H_b, is the product of its margins:

    r = w_a sum(h_a) + w_b sum(h_b),    c = h_a sum(w_a) + h_b sum(w_b),    merged = r c^T / sum(r)

The divergence of the merged component is at most the mass of both times the Jensen-Shannon divergence, weighted by
mass, between the normalised columns of W, or between those of H.

References
----------
Y. Guo and T. E. Holy, "An optimal pairwise merge algorithm improves the quality and consistency of nonnegative matrix
factorization", IEEE Trans. Signal Process. 73 (2025), for least squares; the above is the same for the KL divergence.
"""

import math
from typing import Any

import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import column_sums
from fastpmf.model.groups import Groups

_FROM_ROW = 0.5  # share of a new component that is one row's distribution over the columns; the rest is that of all
_MASS = 0.5  # mass of a new component relative to the mean of the others
_ROWS_AT_ONCE = 1 << 11


def merge(factors: list[np.ndarray], a: int, b: int) -> None:
    """Replace component a, in place, by the best one in place of a and b; its sums are equal in W and H."""
    W, Ht = factors
    w, h = (A[:, [a, b]].astype(np.float64) for A in factors)
    w_sums, h_sums = w.sum(axis=0), h.sum(axis=0)
    scale = np.sqrt((w_sums * h_sums).sum()) or 1.0
    with np.errstate(under="ignore"):
        W[:, a] = (w * (h_sums / scale)).sum(axis=1)
        Ht[:, a] = (h * (w_sums / scale)).sum(axis=1)


def merge_costs(factors: list[np.ndarray], components: np.ndarray) -> np.ndarray:
    """Estimated increase of the divergence for merging each pair of components, (k, k), float64, in nats.

    The Jensen-Shannon divergence of the margins, approximated from their Hellinger distance, which needs no logarithms:
    with masses m and n and overlap sum_i sqrt(p_i q_i), the smaller of 4 m n / (m + n) (1 - overlap) of both sides.
    """
    mass, overlap = np.ones(len(components)), np.zeros((len(components), len(components)))
    for A in factors:
        sums = A.sum(axis=0, dtype=np.float64)[components]
        mass *= sums
        products = np.zeros_like(overlap)
        for start in range(0, len(A), _ROWS_AT_ONCE):
            root = np.sqrt(A[start : start + _ROWS_AT_ONCE, components], dtype=np.float64)
            products += np.einsum("ia,ib->ab", root, root)
        norm = np.sqrt(sums[:, None] * sums)
        np.maximum(overlap, np.divide(products, norm, where=norm > 0, out=np.zeros_like(norm)), out=overlap)
    both = mass[:, None] + mass
    harmonic = np.divide(mass[:, None] * mass, both, where=both > 0, out=np.zeros_like(both))
    return 4 * harmonic * np.maximum(1 - overlap, 0)


def random_components(counts: Counts, n_new: int, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """Random columns to append to W and to H transposed, float64, with sums of 1."""
    W, Ht = (np.abs(rng.standard_normal((n_rows, n_new))) for n_rows in counts.shape)
    return W / W.sum(axis=0), Ht / Ht.sum(axis=0)


def new_components(
    counts: Counts, factors: list[np.ndarray], n_new: int, rng: Any, groups: Groups | None = None,
    effects: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray] | None:  # fmt: skip
    """Components for rows that are fitted badly: columns to append to W and to H transposed, float64.

    Rows are drawn with probabilities proportional to their divergences. A new component has half of the distribution of
    such a row and half of that of all counts, and random weights. Two passes over the counts.

    Parameters
    ----------
    counts : Counts of shape (n, p)
        "Rows" here are those of `storage_axis`.
    factors : [W, Ht]
        Of shapes (n, K) and (p, K), padded.
    n_new : int
    rng : numpy RandomState or Generator
    groups, effects : optional
        Groups of rows and their effects, (p, n_groups).

    Returns
    -------
    (W, Ht) of shapes (n, n_new) and (p, n_new), with sums of 1; None if fewer rows are fitted badly.
    """
    axis = counts.storage_axis
    totals, others = counts.sums(axis), counts.sums(axis.other)
    divergence = _row_divergences(counts, factors, groups, effects)
    weight = np.where(np.isfinite(divergence), np.maximum(divergence, 0), totals)  # infinite: a rate of 0 under a count
    weight[totals == 0] = 0
    if not weight.any():
        return None
    weight /= weight.sum()
    if np.count_nonzero(weight) < n_new:
        return None
    chosen = np.sort(rng.choice(len(weight), n_new, replace=False, p=weight))
    V = np.empty((len(others), n_new))
    V[:] = (1 - _FROM_ROW) * (others / others.sum())[:, None]
    for rows, block in counts.blocks():
        X = block.side(axis)
        for c in np.flatnonzero((chosen >= rows.start) & (chosen < rows.stop)):
            start, stop = X.indptr[chosen[c] - rows.start], X.indptr[chosen[c] - rows.start + 1]
            V[X.indices[start:stop], c] += _FROM_ROW * X.data[start:stop] / totals[chosen[c]]
    U = np.abs(rng.standard_normal((len(totals), n_new))) * totals[:, None]
    U /= U.sum(axis=0)
    return (U, V) if axis is Side.ROWS else (V, U)


def _row_divergences(
    counts: Counts, factors: list[np.ndarray], groups: Groups | None, effects: np.ndarray | None
) -> np.ndarray:
    """Divergence of each row of `storage_axis`, in nats."""
    axis = counts.storage_axis
    U, V = factors[axis], factors[axis.other]
    if groups is None or effects is None:
        observed, logs = counts.observed_sums(axis, V, column_sums(V)), np.zeros(1)
    elif axis is Side.ROWS:
        observed, logs = groups.row_weights(V, effects), groups.row_log_terms(counts, effects)
    else:
        observed, logs = groups.column_weights(V, effects), (groups.counts * np.log(effects)).sum(axis=1)
    out = np.einsum("ik,ik->i", U, np.broadcast_to(observed, U.shape), dtype=np.float64)
    out -= counts.sums(axis) + counts.log_rate(*factors) + logs
    for rows, block in counts.blocks():
        out[rows] += block.side(axis).row_entropies
    return out


def put_components(
    factors: list[np.ndarray], places: np.ndarray, new: tuple[np.ndarray, np.ndarray], scaled: np.ndarray
) -> None:
    """Put new components, in place, into the columns `places`; the total rate of these and of `scaled` stays.

    The sums of each component in `scaled` become equal in W and H.
    """
    w_sums, h_sums = (A[:, scaled].sum(axis=0, dtype=np.float64) for A in factors)
    n_new = new[0].shape[1]
    rest = 1 / math.sqrt(1 + n_new * _MASS / len(scaled))
    mass = rest**2 * _MASS * (w_sums * h_sums).sum() / len(scaled)
    ratio = np.sqrt(np.divide(h_sums, w_sums, where=(w_sums > 0) & (h_sums > 0), out=np.ones(len(scaled))))
    for A, columns, scale in zip(factors, new, (rest * ratio, rest / ratio), strict=True):
        A[:, scaled] *= scale.astype(A.dtype)
        A[:, places] = math.sqrt(mass) * columns
