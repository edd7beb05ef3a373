"""Clusters of the components of several fits of the same counts, each with one component of every fit.

Components are compared as unit vectors v = sqrt(P(j|z)). The product of two is their Bhattacharyya coefficient, the
similarity of `match_components`, and their distance |v - v'| = sqrt(2 - 2 similarity) is between 0 and sqrt(2).
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import silhouette_samples

from fastpmf.analysis.features import safe_divide
from fastpmf.core.counts import Counts, Side
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_number
from fastpmf.utils.warnings import warn

KEEP_ALL = 1.5  # a density threshold above all distances
_MAX_ROUNDS = 100  # of matching; a few are enough


class Replicates(NamedTuple):
    """Fits of the same counts with equally many components, from different starts or samples.

    Attributes
    ----------
    components : ndarray of shape (n_replicates, k, p)
        H of each fit.
    objective : ndarray of shape (n_replicates,), float64
        Final objective of each fit, in nats; of the resampled counts, if they were resampled.

    See Also
    --------
    consensus : makes them, and continues from given ones.

    Examples
    --------
    >>> import numpy as np
    >>> from fastpmf import PoissonNMF, Replicates
    >>> from fastpmf.datasets import make_poisson_counts
    >>> X = make_poisson_counts(100, 50, 2, nnz=2_000, random_state=0).X
    >>> fits = [PoissonNMF(2, random_state=seed).fit(X) for seed in range(3)]
    >>> replicates = Replicates(np.stack([fit.components_ for fit in fits]), np.array([fit.objective_ for fit in fits]))
    >>> replicates.components.shape
    (3, 2, 50)
    """

    components: np.ndarray
    objective: np.ndarray


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Clusters:
    """Clusters of the components of several fits; cluster z has one component of each fit.

    Attributes
    ----------
    replicates : Replicates
    labels : ndarray of shape (n_replicates, k), int64
        Cluster of each component.
    density : ndarray of shape (n_replicates, k), float64
        Mean distance of each component to its nearest neighbours: low if many other fits have it too.
    kept : ndarray of shape (n_replicates, k), bool
        Whether the density is at most `density_threshold`, so that the component is part of its cluster's centre.
    stability : ndarray of shape (k,), float64
        Mean similarity of two components of a cluster, over all pairs of fits: 1 if all fits have the same component.
    distance : ndarray of shape (n_replicates,), float64
        Mean distance of the components of each fit to the centres of their clusters.
    silhouette : float
        Mean silhouette of the components that are kept, between -1 and 1: how much nearer they are to the other ones of
        their cluster than to those of the next. NaN with one component, or if fewer than two clusters have two.
    density_threshold : float
    """

    replicates: Replicates
    labels: np.ndarray
    density: np.ndarray
    kept: np.ndarray
    stability: np.ndarray
    distance: np.ndarray
    silhouette: float
    density_threshold: float

    @property
    def n_kept(self) -> np.ndarray:
        """Number of components in the centre of each cluster, (k,)."""
        return np.bincount(self.labels[self.kept], minlength=self.labels.shape[1])

    @property
    def centres(self) -> np.ndarray:
        """Centre of each cluster, (k, p), float64.

        The mean of the probabilities P(j|z) of its components, which minimises the sum of their Kullback-Leibler
        divergences from it, times the mean of their sums. Of a cluster of outliers only, that of all its components.
        """
        H = self.replicates.components
        _, k, p = H.shape
        used = self.kept | (self.n_kept == 0)[self.labels]
        sums, total, number = np.zeros((k, p)), np.zeros(k), np.bincount(self.labels[used], minlength=k)
        for components, labels, chosen in zip(H, self.labels, used, strict=True):
            mass = components.sum(axis=1, dtype=np.float64)
            sums[labels[chosen]] += safe_divide(components.astype(np.float64), mass[:, None])[chosen]
            total[labels[chosen]] += mass[chosen]
        return sums / number[:, None] * (total / number)[:, None]

    def components(self, counts: Counts) -> np.ndarray:
        """The centres, (k, p); a feature with counts that is in none of them gets its share of all counts in each."""
        H, totals = self.centres, counts.sums(Side.COLUMNS)
        lost = ~H.any(axis=0) & (totals > 0)
        H[:, lost] = totals[lost] / totals.sum() * H.sum(axis=1, keepdims=True)
        return H

    def ordered(self, order: np.ndarray) -> Any:
        """The same with clusters renumbered: cluster `order[z]` becomes cluster z."""
        return replace(self, labels=np.argsort(order)[self.labels], stability=self.stability[order])


def check_replicates(replicates: Any, k: int | None = None, p: int | None = None) -> Replicates:
    """Replicates with arrays of numbers; errors name the argument."""
    if not isinstance(replicates, Replicates):
        raise TypeError(f"replicates must be Replicates, as a Consensus has, or None, got {brief(replicates)}")
    H, objective = np.asarray(replicates.components), np.asarray(replicates.objective, dtype=np.float64)
    if H.ndim != 3 or H.dtype.kind != "f" or H.shape[1:] != (k or H.shape[1], p or H.shape[2]):
        expected = f"(n_replicates, {'k' if k is None else k}, {'p' if p is None else p})"
        raise ValueError(f"replicates must have components of shape {expected}, got shape {H.shape} of {H.dtype}")
    if not np.isfinite(H).all() or (H < 0).any():
        raise ValueError("replicates must have components that are finite and >= 0")
    if objective.shape != H.shape[:1]:
        raise ValueError(f"replicates must have {len(H)} objectives, one for each fit, got shape {objective.shape}")
    return Replicates(H, objective)


def check_thresholds(density_threshold: float, neighbors: float) -> None:
    """Raise an error if an argument of `cluster` has an invalid value."""
    check_number(density_threshold, "density_threshold", positive=True)
    check_number(neighbors, "neighbors", positive=True)
    if neighbors > 1:
        raise ValueError(f"neighbors must be a number above 0 and at most 1, got {neighbors}")


def cluster(replicates: Replicates, *, density_threshold: float = 0.5, neighbors: float = 0.3) -> Clusters:
    """Clusters of the components of replicates.

    The fit most similar to all others is the first set of centres. All fits are matched with the centres one to one,
    and each centre is replaced by the direction of the mean of its vectors, in turn until no component moves; outliers
    are matched, but don't enter the centres. The sum of similarities to the centres never falls.

    Parameters
    ----------
    replicates : Replicates
        At least two.
    density_threshold : float, default=0.5
        The largest density that a component in a centre may have.
    neighbors : float, default=0.3
        Number of nearest neighbours that `density` is the mean distance to, relative to the number of replicates.

    Returns
    -------
    Clusters

    Raises
    ------
    ValueError
        If an argument has an invalid value, or no component is kept.

    Warns
    -----
    UserWarning
        If all components of a cluster are outliers.
    """
    H = replicates.components
    R, k, p = H.shape
    check_thresholds(density_threshold, neighbors)
    V = _unit_vectors(H.reshape(R * k, p))
    similarity = V @ V.T
    apart = _distance(similarity)
    np.fill_diagonal(apart, 0.0)
    nearest = np.partition(apart, n_nearest := max(1, int(neighbors * R)), axis=1)[:, : n_nearest + 1]
    density = nearest.sum(axis=1) / n_nearest  # without the component itself, whose distance is 0
    kept = density <= density_threshold
    if not kept.any():
        raise ValueError(
            f"density_threshold must be at least the lowest density of a component, {density.min():.3g}, got "
            f"{density_threshold:g}"
        )
    labels = _matched(V.reshape(R, k, p), similarity.reshape(R, k, R, k), kept.reshape(R, k))
    flat, pairs = labels.ravel(), np.empty(k)
    for z in range(k):
        own = similarity[np.ix_(flat == z, flat == z)]
        pairs[z] = (own.sum() - np.trace(own)) / (R * (R - 1))
    found = Clusters(
        replicates=replicates, labels=labels, density=density.reshape(R, k), kept=kept.reshape(R, k), stability=pairs,
        distance=np.empty(R), silhouette=_silhouette(apart, flat, kept), density_threshold=float(density_threshold),
    )  # fmt: skip
    if len(outliers := np.flatnonzero(found.n_kept == 0)):
        stabilities = ", ".join(f"{x:.2f}" for x in pairs[outliers])
        warn(
            f"{len(outliers)} of {k} clusters have no component with a density of at most density_threshold="
            f"{density_threshold:g} (their stability is {stabilities}): their centres are the means of all their "
            "components; fit fewer components, or raise density_threshold"
        )
    C = _unit_vectors(found.centres)
    to_centre = _distance((V * C[flat]).sum(axis=1)).reshape(R, k).mean(axis=1)
    return replace(found, distance=to_centre)


def similarities(replicates: Replicates) -> np.ndarray:
    """Similarity of each pair of components of all replicates, (n_replicates k, n_replicates k)."""
    H = replicates.components
    V = _unit_vectors(H.reshape(-1, H.shape[2]))
    return V @ V.T


def _unit_vectors(H: np.ndarray) -> np.ndarray:
    """sqrt(P(j|z)) of each component, float64; zeros for a component without mass."""
    H = H.astype(np.float64)
    return np.sqrt(safe_divide(H, H.sum(axis=1, keepdims=True)))


def _distance(similarity: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(2.0 - 2.0 * similarity, 0.0))


def _matched(V: np.ndarray, similarity: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The cluster of each component, (R, k), from unit vectors (R, k, p) and their products (R, k, R, k)."""
    R, k, p = V.shape
    agreement = np.zeros((R, R))
    for a in range(R):
        for b in range(a):
            rows, columns = linear_sum_assignment(-similarity[a, :, b])
            agreement[a, b] = agreement[b, a] = similarity[a, rows, b, columns].sum()
    C = V[np.argmax(agreement.sum(axis=1))]
    labels = np.full((R, k), -1)
    for _ in range(_MAX_ROUNDS):
        to_centres = (V.reshape(R * k, p) @ C.T).reshape(R, k, k)
        before, labels = labels, np.array([linear_sum_assignment(-S)[1] for S in to_centres])
        if (labels == before).all():
            break
        sums = np.zeros((k, p))
        for vectors, own, chosen in zip(V, labels, kept, strict=True):
            sums[own[chosen]] += vectors[chosen]
        norms = np.sqrt((sums**2).sum(axis=1, keepdims=True))
        C = np.where(norms > 0, safe_divide(sums, norms), C)  # a cluster of outliers only keeps its centre
    return labels


def _silhouette(apart: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> float:
    """Mean silhouette of the components that are kept; NaN if it is not defined."""
    labels = labels[kept]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return np.nan
    return float(silhouette_samples(apart[np.ix_(kept, kept)], labels, metric="precomputed").mean())
