"""What a fit says, in terms of its features: which are typical of a component, and whether they belong together.

With P(j|z) = H_zj / sum_j H_zj and, for equal components, P(j) = mean_z P(j|z):

    weight       P(j|z)                       the features that the component's counts are
    lift         P(j|z) / P(j)                those that are more frequent in it than elsewhere; rare ones come first
    exclusivity  P(j|z) / sum_z' P(j|z')      the share of a feature that is this component's; also lift / k

so the last two order features alike, and differ in what they say. `least` keeps features out that carry too little of a
component to tell.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.utils import check_scalar

from fastpmf.analysis.topics import to_topics
from fastpmf.core.counts import Side
from fastpmf.counts import as_counts
from fastpmf.counts.labels import align, align_factors, labels_of
from fastpmf.utils.validation import check_array, check_factor, check_names, check_number, check_option

ORDERS = ("weight", "lift", "exclusivity")


class TopFeatures(NamedTuple):
    """The first features of each component, best first.

    Attributes
    ----------
    indices : ndarray of shape (k, n), int64
        Columns of H; -1 where a component has no more features.
    scores : ndarray of shape (k, n), float64
        What they are ordered by; NaN where there is none.
    names : ndarray of shape (k, n), str
        Names, or numbers where features have no names; "" where there is none.
    """

    indices: np.ndarray
    scores: np.ndarray
    names: np.ndarray

    def titles(self, n: int = 3) -> list[str]:
        """A name for each component: its first n features; "(empty)" for one without any."""
        return [" ".join(filter(None, names[:n])) or "(empty)" for names in self.names]


class Quality(NamedTuple):
    """How good each component is to read, from its first features and the counts.

    Attributes
    ----------
    umass : ndarray of shape (k,), float64
        UMass coherence, nats: mean over pairs of features, the more frequent j before i, of log (D(i, j) + 1) / D(j), D
        the number of rows that hold them; about 0 at best, where they always stand together.
    npmi : ndarray of shape (k,), float64
        Mean over pairs of their normalised pointwise mutual information, between -1, never together, and 1, always.
    exclusivity : ndarray of shape (k,), float64
        Mean share of the features that is this component's, between 1/k and 1.
    effective_features : ndarray of shape (k,), float64
        Exponential of the entropy of P(j|z): as many equally likely features are as uncertain.
    effective_rows : ndarray of shape (k,), float64, or None
        The same of P(i|z), where W was given: over how many rows the component is spread.
    """

    umass: np.ndarray
    npmi: np.ndarray
    exclusivity: np.ndarray
    effective_features: np.ndarray
    effective_rows: np.ndarray | None = None


def distributions(H: Any, name: str = "H") -> np.ndarray:
    """P(j|z) of each component, (k, p), float64; zeros for a component without any mass."""
    H = check_array(H, name)
    if H.ndim != 2:
        raise ValueError(f"{name} must be a matrix, got {H.ndim} dimension(s)")
    H = check_factor(H, H.shape, name).astype(np.float64)
    sums = H.sum(axis=1, keepdims=True)
    return np.divide(H, sums, out=np.zeros_like(H), where=sums > 0)


def top_features(H: Any, n: int = 10, *, by: str = "weight", least: float = 0.0, names: Any = None) -> TopFeatures:
    """The n first features of each component.

    Parameters
    ----------
    H : array-like of shape (k, p)
    n : int, default=10
    by : {"weight", "lift", "exclusivity"}, default="weight"
        "weight": P(j|z). "lift": P(j|z) over its mean over components. "exclusivity": P(j|z) over its sum over
        components. The latter two order alike, and put rare features first.
    least : float, default=0.0
        Leave out features with P(j|z) below this; 1e-3 makes lift and exclusivity say something.
    names : array-like of str, of length p, optional

    Returns
    -------
    TopFeatures

    Examples
    --------
    >>> from fastpmf import top_features
    >>> top_features([[6, 3, 1], [0, 3, 7]], 2, names=["ape", "bee", "cat"]).names.tolist()
    [['ape', 'bee'], ['cat', 'bee']]
    """
    check_option(by, ORDERS, "by")
    check_scalar(n, "n", (int, np.integer), min_val=1)
    check_number(least, "least")
    if least > 1:
        raise ValueError(f"least must be a share of a component, between 0 and 1, got {least}")
    P = distributions(H)
    k, p = P.shape
    labels = check_names(labels_of(H, 1).values if names is None else names, p, "names", "feature")
    scores = P if by == "weight" else exclusivity(P) * (k if by == "lift" else 1)
    scores = np.where((P > 0) & (least <= P), scores, -np.inf)
    first = np.lexsort((-P, -scores), axis=1)[:, :n]  # what is wholly a component's goes by weight
    found = np.take_along_axis(scores, first, axis=1)
    there = found > -np.inf
    return TopFeatures(np.where(there, first, -1), np.where(there, found, np.nan), np.where(there, labels[first], ""))


def exclusivity(P: np.ndarray) -> np.ndarray:
    """P(j|z) over its sum over components; 0 for a feature that has none."""
    sums = P.sum(axis=0)
    return np.divide(P, sums, out=np.zeros_like(P), where=sums > 0)


def topic_quality(X: Any, H: Any, n: int = 10, *, W: Any = None) -> Quality:
    """Coherence, exclusivity and size of each component.

    Parameters
    ----------
    X : matrix of counts of shape (n_rows, p)
        The rows in which features occur together or not: the fitted ones, or others.
    H : array-like of shape (k, p)
    n : int, default=10
        How many features of each component are looked at, by weight.
    W : array-like of shape (n_rows, k), optional
        For the effective number of rows.

    Returns
    -------
    Quality
        NaN where a component has fewer than two features.

    References
    ----------
    D. Mimno et al., "Optimizing semantic coherence in topic models", EMNLP 2011 (UMass); G. Bouma, "Normalized
    (pointwise) mutual information in collocation extraction", GSCL 2009.

    Examples
    --------
    >>> from fastpmf import topic_quality
    >>> topic_quality([[1, 1, 0], [3, 1, 0], [0, 0, 2]], [[2, 1, 0], [0, 1, 1]]).npmi
    array([ 1., -1.])
    """
    W, H = align_factors(X, W, H)
    P = distributions(H)
    counts = as_counts(X)
    if counts.shape[1] != P.shape[1]:
        raise ValueError(f"X must have {P.shape[1]} columns, as H has, got {counts.shape[1]}")
    top = top_features(P, n)
    used = np.unique(top.indices[top.indices >= 0])
    held = sparse.csc_array(counts.to_scipy())[:, used]
    held.data = np.ones(len(held.data))
    together = (held.T @ held).toarray()  # rows that hold both, of the features that are anyone's first
    own, shares = np.full((2, len(P)), np.nan), exclusivity(P)
    exclusive = np.full(len(P), np.nan)
    for z, indices in enumerate(top.indices):
        here = indices[indices >= 0]
        if len(here):
            exclusive[z] = shares[z, here].mean()
        if len(here) < 2:
            continue
        D = together[np.ix_(at := np.searchsorted(used, here), at)]
        own[:, z] = _coherence(D, counts.shape[0])
    rows = None
    if W is not None:
        rows = _effective(distributions(check_factor(check_array(W, "W"), (counts.shape[0], len(P)), "W").T))
    return Quality(own[0], own[1], exclusive, _effective(P), rows)


def _effective(P: np.ndarray) -> np.ndarray:
    """How many equally likely outcomes are as uncertain as each row of P; 0 where there are none."""
    logs = np.log(P, out=np.zeros_like(P), where=P > 0)
    return np.where(P.sum(axis=1) > 0, np.exp(-(P * logs).sum(axis=1)), 0.0)


def _coherence(D: np.ndarray, n_rows: int) -> tuple[float, float]:
    """UMass and NPMI of features that stand together in so many rows, each by itself on the diagonal."""
    often = np.diag(D)
    D = D[np.ix_(order := np.argsort(-often, kind="stable"), order)]
    often = np.diag(D)
    i, j = np.tril_indices(len(D), -1)  # j is the more frequent
    known = often[j] > 0
    umass = np.mean(np.log((D[i, j][known] + 1) / often[j][known])) if known.any() else np.nan
    both, apart = D[i, j] / n_rows, often[i] * often[j] / n_rows**2
    npmi = np.full(len(i), -1.0)
    some = (both > 0) & (both < 1)
    npmi[some] = np.log(both[some] / apart[some]) / -np.log(both[some])
    npmi[both == 1] = 0.0  # in every row, where being together says nothing
    return float(umass), float(npmi.mean())


def match_components(H: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which component of another fit is which, so that they agree best.

    Parameters
    ----------
    H, other : array-like of shape (k, p) and (l, p)

    Returns
    -------
    partners : ndarray of shape (k,), int64
        Row of `other` for each row of H, each at most once; -1 where there are too few.
    similarity : ndarray of shape (k,), float64
        Bhattacharyya coefficient of the two, sum_j sqrt(P(j|z) P'(j|z')), between 0 and 1; NaN without a partner. The
        sum of these is the largest that any matching has (the Hungarian method).

    Examples
    --------
    >>> from fastpmf import match_components
    >>> match_components([[1, 0], [0, 1]], [[0, 5], [1, 0]])[0].tolist()
    [1, 0]
    """
    other = align(other, "other", columns=labels_of(H, 1)._replace(source="H", item="column"))
    P, Q = distributions(H), distributions(other, "other")
    if P.shape[1] != Q.shape[1]:
        raise ValueError(f"other must have {P.shape[1]} features, as H has, got {Q.shape[1]}")
    alike = np.sqrt(P) @ np.sqrt(Q).T
    rows, columns = linear_sum_assignment(-alike)
    partners, similarity = np.full(len(P), -1), np.full(len(P), np.nan)
    partners[rows], similarity[rows] = columns, alike[rows, columns]
    return partners, similarity


def pyldavis_input(X: Any, W: Any, H: Any, names: Any = None) -> dict[str, np.ndarray]:
    """Arguments of `pyLDAvis.prepare`: `pyLDAvis.prepare(**pyldavis_input(X, W, H, names))`.

    Rows and features without counts, and components without mass in what is left, are left out, since pyLDAvis wants
    distributions.

    Parameters
    ----------
    X : matrix of counts of shape (n, p)
    W : array-like of shape (n, k)
    H : array-like of shape (k, p)
    names : array-like of str, of length p, optional
        By default the labels of the columns of X, else numbers.

    Returns
    -------
    dict
        topic_term_dists (k, p), doc_topic_dists (n, k), doc_lengths (n,), vocab (p,) and term_frequency (p,), of what
        is left; the first two are `to_topics(W, H)`'s columns and mixtures.

    Examples
    --------
    >>> from fastpmf import pyldavis_input
    >>> found = pyldavis_input([[2, 2, 0], [1, 2, 1]], [[2, 0], [1, 1]], [[1, 1, 0], [0, 1, 1]], ["ape", "bee", "cat"])
    >>> found["doc_topic_dists"], found["doc_lengths"], found["vocab"].tolist()
    (array([[1. , 0. ],
           [0.5, 0.5]]), array([4., 4.]), ['ape', 'bee', 'cat'])
    """
    W, H = align_factors(X, W, H)
    counts = as_counts(X)
    topics = to_topics(W, H)
    if counts.shape != (len(topics.rows), topics.columns.shape[1]):
        raise ValueError(
            f"X must have the shape of W H, {len(topics.rows), topics.columns.shape[1]}, got {counts.shape}"
        )
    labels = check_names(labels_of(X, 1).values if names is None else names, counts.shape[1], "names", "feature")
    lengths, frequency = (counts.sums(side) for side in Side)
    mixtures = topics.mixtures
    terms = (frequency > 0) & topics.columns.any(axis=0)
    alive = (topics.weights > 0) & topics.columns[:, terms].any(axis=1)
    rows = (lengths > 0) & mixtures[:, alive].any(axis=1)
    # Rounded to float32 they may be further from 1 than pyLDAvis allows
    columns, mixtures = (_shares(A) for A in (topics.columns[alive][:, terms], mixtures[rows][:, alive]))
    return {
        "topic_term_dists": columns,
        "doc_topic_dists": mixtures,
        "doc_lengths": lengths[rows],
        "vocab": labels[terms],
        "term_frequency": frequency[terms],
    }


def _shares(A: np.ndarray) -> np.ndarray:
    A = A.astype(np.float64)
    return A / A.sum(axis=1, keepdims=True)
