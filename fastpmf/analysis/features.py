"""Components described by their features: top features, coherence, and the matching of components of two fits.

With P(j|z) = H_zj / sum_j H_zj and, for components of equal weight, P(j) = mean_z P(j|z), features are ordered by

    weight       P(j|z)                       the most frequent features of the component
    lift         P(j|z) / P(j)                features more frequent there than elsewhere; rare ones come first
    exclusivity  P(j|z) / sum_z' P(j|z')      this component's share of a feature, equal to lift / k: the same order
"""

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.utils import check_scalar

from fastpmf.analysis.dispersion import Overdispersion
from fastpmf.counts import as_counts
from fastpmf.counts.labels import align, align_factors, labels_of
from fastpmf.utils.tables import Table, data_frame, shown_as_table, top_weighted
from fastpmf.utils.validation import check_factor, check_matrix, check_names, check_number, check_option

ORDERS = ("weight", "lift", "exclusivity")


@shown_as_table
class TopFeatures(NamedTuple):
    """The n features of highest score in each component, best first.

    Attributes
    ----------
    indices : ndarray of shape (k, n), int64
        Columns of H; -1 if a component has fewer than n features.
    scores : ndarray of shape (k, n), float64
        The scores that features are ordered by; NaN where the index is -1.
    names : ndarray of shape (k, n), str
        Names of the features, or their numbers if they have no names; "" where the index is -1.
    component_names : ndarray of shape (k,), or None
        Names of the components, if they have any.

    See Also
    --------
    top_features : finds them.

    Examples
    --------
    >>> from fastpmf import top_features
    >>> found = top_features([[6, 3, 1], [0, 3, 7]], 2, names=["ape", "bee", "cat"])
    >>> found.names.tolist(), found.scores.tolist()
    ([['ape', 'bee'], ['cat', 'bee']], [[0.6, 0.3], [0.7, 0.3]])
    """

    indices: np.ndarray
    scores: np.ndarray
    names: np.ndarray
    component_names: np.ndarray | None = None

    @property
    def components(self) -> np.ndarray:
        """Names of the components, (k,), or their numbers if they have no names."""
        return component_labels(self.component_names, len(self.names))

    def titles(self, n: int = 3) -> list[str]:
        """A title for each component: its name if it has one other than its number, else its first n features.

        "(empty)" if it has neither.
        """
        return [
            str(component) if str(component) != str(z) else " ".join(filter(None, names[:n])) or "(empty)"
            for z, (component, names) in enumerate(zip(self.components, self.names, strict=True))
        ]

    def to_frame(self, *, wide: bool = False) -> Any:
        """The table as a pandas DataFrame.

        Parameters
        ----------
        wide : bool, default=False
            False: a row for each feature of each component, with columns component, rank (from 1), feature and score.
            True: the names only, with a row for each rank and a column for each component; "" where a component has
            fewer features.

        Returns
        -------
        DataFrame

        Raises
        ------
        ImportError
            If pandas is not installed.

        Examples
        --------
        >>> from fastpmf import top_features
        >>> top_features([[6, 3, 1], [0, 3, 7]], 2, names=["ape", "bee", "cat"]).to_frame()
           component  rank feature  score
        0          0     1     ape    0.6
        1          0     2     bee    0.3
        2          1     1     cat    0.7
        3          1     2     bee    0.3
        """
        if wide:
            columns = dict(zip(self.components.tolist(), self.names, strict=True))
            frame = data_frame(columns, np.arange(1, self.names.shape[1] + 1), "rank")
            frame.columns.name = "component"
            return frame
        component, rank = valid = np.nonzero(self.indices >= 0)
        columns = {"component": self.components[component], "rank": rank + 1}
        return data_frame(columns | {"feature": self.names[valid], "score": self.scores[valid]})

    def _table(self) -> Table:
        k, n = self.indices.shape
        features = top_weighted(self.names, self.scores, self.indices >= 0, n)
        title = f"Top {n} features of {k} components"
        return Table(title, {"component": self.components.tolist(), "features": features}, n_rows=k)


@shown_as_table
class Quality(NamedTuple):
    """Coherence, exclusivity and size of each component.

    Attributes
    ----------
    umass : ndarray of shape (k,), float64
        UMass coherence in nats: mean over pairs of top features, j the more frequent one, of log((D(i, j) + 1) / D(j)),
        D the number of rows that contain the features. About 0 if they always occur together.
    npmi : ndarray of shape (k,), float64
        Mean normalised pointwise mutual information of these pairs, from -1 (never together) to 1 (always together).
    exclusivity : ndarray of shape (k,), float64
        Mean exclusivity of the top features, from 1/k to 1.
    effective_features : ndarray of shape (k,), float64
        Exponential of the entropy of P(j|z): the number of equally likely features with the same entropy.
    effective_rows : ndarray of shape (k,), float64, or None
        The same for P(i|z); None if W was not given.
    component_names : ndarray of shape (k,), or None
        Names of the components, if they have any.
    overdispersion : Overdispersion, or None
        How much more the counts vary than Poisson counts of the fitted rates; only of a model's `quality`, with W.

    See Also
    --------
    topic_quality : computes it.

    Examples
    --------
    >>> from fastpmf import topic_quality
    >>> quality = topic_quality([[2, 1, 0], [1, 2, 0], [0, 0, 3]], [[1, 1, 0], [0, 0, 1]], 2)
    >>> quality.exclusivity
    array([1., 1.])
    """

    umass: np.ndarray
    npmi: np.ndarray
    exclusivity: np.ndarray
    effective_features: np.ndarray
    effective_rows: np.ndarray | None = None
    component_names: np.ndarray | None = None
    overdispersion: Overdispersion | None = None

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row for each component, and the measures that are not None as columns.

        Raises
        ------
        ImportError
            If pandas is not installed.

        Examples
        --------
        >>> from fastpmf import topic_quality
        >>> quality = topic_quality([[1, 1, 0], [3, 1, 0], [0, 0, 2]], [[2, 1, 0], [0, 1, 1]])
        >>> quality.to_frame()["npmi"].round(6).tolist()
        [1.0, -1.0]
        """
        return data_frame(self._columns(), component_labels(self.component_names, len(self.umass)), "component")

    def _columns(self) -> dict[str, np.ndarray]:
        columns = self._asdict()
        del columns["component_names"], columns["overdispersion"]
        return {name: values for name, values in columns.items() if values is not None}

    def _table(self) -> Table:
        k = len(self.umass)
        columns = {name.replace("_", " "): values.tolist() for name, values in self._columns().items()}
        components = component_labels(self.component_names, k).tolist()
        found = self.overdispersion
        facts = {} if found is None else found.facts()
        return Table(f"Quality of {k} components", {"component": components, **columns}, facts)


def component_labels(names: np.ndarray | None, k: int) -> np.ndarray:
    """The names of the components, or their numbers if they have none, (k,)."""
    return np.arange(k) if names is None else names


def distributions(H: Any, name: str = "H") -> np.ndarray:
    """P(j|z) of each component, (k, p), float64; zeros for a component without mass."""
    H = check_matrix(H, name).astype(np.float64)
    return safe_divide(H, H.sum(axis=1, keepdims=True))


def exclusivity(P: np.ndarray) -> np.ndarray:
    """P(j|z) / sum_z' P(j|z'), (k, p); 0 for a feature that no component has."""
    return safe_divide(P, P.sum(axis=0))


def safe_divide(A: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """A / sums, and 0 where a sum is 0."""
    return np.divide(A, sums, out=np.zeros_like(A), where=sums > 0)


def highest_scores(scores: np.ndarray, n: int, names: np.ndarray, *ties: np.ndarray) -> TopFeatures:
    """The n features of highest score above -inf in each row of scores (k, p).

    Equal scores are ordered by `ties` (k, p), descending, then by number.
    """
    first = np.lexsort([-A for A in (*ties, scores)], axis=1)[:, :n]
    found = np.take_along_axis(scores, first, axis=1)
    valid = found > -np.inf
    return TopFeatures(np.where(valid, first, -1), np.where(valid, found, np.nan), np.where(valid, names[first], ""))


def top_features(H: Any, n: int = 10, *, by: str = "weight", min_weight: float = 0.0, names: Any = None) -> TopFeatures:
    """The n first features of each component.

    Parameters
    ----------
    H : array-like of shape (k, p) or fitted estimator
    n : int, default=10
    by : {"weight", "lift", "exclusivity"}, default="weight"
        "weight": P(j|z). "lift": P(j|z) over its mean over components. "exclusivity": P(j|z) over its sum over
        components. The last two give the same order, with rare features first; ties are ordered by weight.
    min_weight : float, default=0.0
        Leave out features with P(j|z) below this threshold, between 0 and 1. Use about 1e-3 with lift or exclusivity.
    names : array-like of str, of length p, optional
        By default the column labels of H, else numbers.

    Returns
    -------
    TopFeatures

    See Also
    --------
    topic_quality : coherence and exclusivity of these features.
    differential_expression : features that differ between components, with errors.
    fastpmf.plot.top_features : draws them.

    Examples
    --------
    >>> from fastpmf import top_features
    >>> top_features([[6, 3, 1], [0, 3, 7]], 2, names=["ape", "bee", "cat"]).names.tolist()
    [['ape', 'bee'], ['cat', 'bee']]
    """
    check_option(by, ORDERS, "by")
    check_scalar(n, "n", (int, np.integer), min_val=1)
    check_number(min_weight, "min_weight")
    if min_weight > 1:
        raise ValueError(f"min_weight must be between 0 and 1, got {min_weight}")
    component_names, P = labels_of(H, 0).names, distributions(H)
    names = check_names(labels_of(H, 1).values if names is None else names, P.shape[1], "names", "feature")
    scores = P if by == "weight" else exclusivity(P) * (len(P) if by == "lift" else 1)
    top = highest_scores(np.where((P > 0) & (min_weight <= P), scores, -np.inf), n, names, P)
    return top._replace(component_names=component_names)


def topic_quality(X: Any, H: Any, n: int = 10, *, W: Any = None) -> Quality:
    """Coherence, exclusivity and size of each component.

    Parameters
    ----------
    X : matrix of counts of shape (n_rows, p)
        The rows in which co-occurrences of features are counted: those that were fitted, or others.
    H : array-like of shape (k, p) or fitted estimator
    n : int, default=10
        Number of top features (by weight) of each component to use.
    W : array-like of shape (n_rows, k), optional
        Needed for the effective number of rows only.

    Returns
    -------
    Quality
        Coherence is NaN for a component with fewer than two features.

    See Also
    --------
    top_features : the features that are scored.
    component_gains : components that predict held-out counts.

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
    component_names = labels_of(H, 0).names
    W, H = align_factors(X, W, H)
    P, counts = distributions(H), as_counts(X)
    if counts.shape[1] != P.shape[1]:
        raise ValueError(f"X must have {P.shape[1]} columns, as H has, got {counts.shape[1]}")
    top = top_features(P, n)
    used = np.unique(top.indices[top.indices >= 0])
    present = sparse.csc_array(counts.to_scipy())[:, used]
    present.data = np.ones(len(present.data))
    together = (present.T @ present).toarray()  # number of rows that contain both, for all top features
    shares = exclusivity(P)
    umass, npmi, mean_share = np.full((3, len(P)), np.nan)
    for z, indices in enumerate(top.indices):
        features = indices[indices >= 0]
        if len(features):
            mean_share[z] = shares[z, features].mean()
        if len(features) > 1:
            at = np.searchsorted(used, features)
            umass[z], npmi[z] = _coherence(together[np.ix_(at, at)], counts.shape[0])
    rows = None if W is None else _effective(distributions(check_factor(W, (counts.shape[0], len(P)), "W").T))
    return Quality(umass, npmi, mean_share, _effective(P), rows, component_names)


def _effective(P: np.ndarray) -> np.ndarray:
    """Exponential of the entropy of each row of P; 0 for a row of zeros."""
    logs = np.log(P, out=np.zeros_like(P), where=P > 0)
    return np.where(P.any(axis=1), np.exp(-(P * logs).sum(axis=1)), 0.0)


def _coherence(D: np.ndarray, n_rows: int) -> tuple[float, float]:
    """UMass and NPMI of features, from the numbers of rows that contain both of a pair (diagonal: the feature)."""
    order = np.argsort(-np.diag(D), kind="stable")
    i, j = order[np.stack(np.tril_indices(len(D), -1))]  # j is the more frequent one
    both, of_i, of_j = D[i, j], D[i, i], D[j, j]
    known = of_j > 0
    umass = np.mean(np.log((both[known] + 1) / of_j[known])) if known.any() else np.nan
    p, independent = both / n_rows, of_i * of_j / n_rows**2
    npmi = np.full(len(i), -1.0)
    defined = (p > 0) & (p < 1)
    npmi[defined] = np.log(p[defined] / independent[defined]) / -np.log(p[defined])
    npmi[p == 1] = 0.0  # both are in every row, which is uninformative
    return float(umass), float(npmi.mean())


def match_components(H: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
    """One-to-one matching of the components of two fits.

    Parameters
    ----------
    H, other : array-like of shape (k, p) and (l, p), or fitted estimators

    Returns
    -------
    partners : ndarray of shape (k,), int64
        Row of `other` for each row of H, each used at most once; -1 without a partner, if l < k.
    similarity : ndarray of shape (k,), float64
        Bhattacharyya coefficient of the pair, sum_j sqrt(P(j|z) P'(j|z')), between 0 and 1; NaN without a partner. The
        matching maximises the sum of these (Hungarian method).

    See Also
    --------
    top_features : the features of each component.
    fastpmf.plot.similarity_heatmap : draws similarities of components.

    Examples
    --------
    >>> from fastpmf import match_components
    >>> match_components([[1, 0], [0, 1]], [[0, 5], [1, 0]])[0].tolist()
    [1, 0]
    >>> from fastpmf import PoissonNMF
    >>> first, second = (PoissonNMF(2, random_state=seed).fit([[4, 0, 1], [0, 3, 0]]) for seed in (0, 1))
    >>> partners, similarity = match_components(first, second)
    """
    other = align(other, "other", columns=labels_of(H, 1)._replace(source="H", item="column"))
    P, Q = distributions(H), distributions(other, "other")
    if P.shape[1] != Q.shape[1]:
        raise ValueError(f"other must have {P.shape[1]} features, as H has, got {Q.shape[1]}")
    coefficients = np.sqrt(P) @ np.sqrt(Q).T
    rows, columns = linear_sum_assignment(-coefficients)
    partners, similarity = np.full(len(P), -1), np.full(len(P), np.nan)
    partners[rows], similarity[rows] = columns, coefficients[rows, columns]
    return partners, similarity
