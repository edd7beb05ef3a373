"""Topics: a factorization as the probabilities of PLSI, and the proof that both are the same model.

**Rates as probabilities.** Let W (n x k) and H (k x p) be non-negative, mu = W H, a_z = sum_i W_iz, b_z = sum_j H_zj.
The sum of all rates is T = sum_z a_z b_z, that of row i is T_i = sum_z W_iz b_z; neither needs any mu_ij. With the
distributions

    P(z) = a_z b_z / T      P(i|z) = W_iz / a_z      P(j|z) = H_zj / b_z      P(z|i) = W_iz b_z / T_i

each rate is a total times a probability, in the symmetric or in the asymmetric form of PLSI:

    mu_ij = T P(i, j)          P(i, j) = sum_z P(z) P(i|z) P(j|z)
    mu_ij = T_i P(j|i)         P(j|i)  = sum_z P(z|i) P(j|z)

Only the scales d_z > 0 in (W_iz d_z) (H_zj / d_z) are lost, on which no rate depends. Conversely, any distributions of
this kind, with any T or T_i, are those of some W and H, for example W_iz = T_i P(z|i) and H_zj = P(j|z).

**One likelihood.** Let N = sum_ij x_ij and N_i = sum_j x_ij. Substitute T P(i, j) for mu_ij; add and subtract log N!:

    log L(W, H) = sum_ij [x_ij log mu_ij - mu_ij - log x_ij!]
                = [log N! - sum_ij log x_ij! + sum_ij x_ij log P(i, j)]  +  [N log T - T - log N!]
                = log Multinomial(X; N, P)  +  log Poisson(N; T)

Independent Poisson counts are multinomial given their total. The same holds row by row, with T_i P(j|i) for mu_ij:

    log L(W, H) = sum_i log Multinomial(x_i; N_i, P(.|i))  +  sum_i log Poisson(N_i; T_i)

PLSI maximises the first term, of all counts or of each row given its total; the second depends on totals only.

**One maximum.** The two terms share no parameter, so each can be maximised separately. N log T - T is largest at T = N
for any P, and N_i log T_i - T_i at T_i = N_i for any P(.|i). Hence W and H maximise the Poisson likelihood
exactly if their P(.|i) maximise the conditional multinomial one and their row totals are those of X; then T = N, and
their P maximises the joint one. Between two pairs W, H whose row totals are those of X, all three likelihoods differ by
the same number of nats. If T = N, D(X || W H) = N D(X / N || P), so the same is true of divergences.

**One algorithm.** With P(z|i, j) = W_iz H_zj / mu_ij, a multiplicative half step of W gives

    W_iz b_z  <-  W_iz sum_j x_ij H_zj / mu_ij  =  sum_j x_ij P(z|i, j)        summed over z:  T_i = N_i

so that it matches the row totals, and P(z|i) <- sum_j x_ij P(z|i, j) / N_i is the M-step of PLSI for the mixtures. A
half step of H does both for the columns. The EM algorithm of PLSI computes all from the same P(z|i, j); `solver="em"`:

    N_z = sum_ij x_ij P(z|i, j)
    P(z) <- N_z / N        P(i|z) <- sum_j x_ij P(z|i, j) / N_z        P(j|z) <- sum_i x_ij P(z|i, j) / N_z

None of this involves exposures, backgrounds or priors.

References
----------
T. Hofmann, "Probabilistic latent semantic indexing", SIGIR 1999.
W. Buntine, "Variational extensions to EM and multinomial PCA", ECML 2002.
E. Gaussier and C. Goutte, "Relation between PLSA and NMF and implications", SIGIR 2005.
C. Ding, T. Li and W. Peng, "On the equivalence between non-negative matrix factorization and probabilistic latent
semantic indexing", Computational Statistics & Data Analysis 52 (2008).
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.special import gammaln

from fastpmf.analysis.features import top_features
from fastpmf.core.counts import Side
from fastpmf.core.factors import component_sums, padded
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import Labels, MatrixLabels, align_components, align_factors, labels_of, order_of
from fastpmf.kernels.threads import threads
from fastpmf.utils.cached import cached_property
from fastpmf.utils.tables import Table, data_frame, shown_as_table, top_weighted
from fastpmf.utils.validation import check_factors, check_names, check_option

_EXPONENTS = {"rows": 1.0, "balanced": 0.5, "columns": 0.0}  # W gets the mass of a component to this power, H the rest
_NO_LABELS = Labels(None)


@shown_as_table
@dataclass(frozen=True, eq=False)
class Topics:
    """A factorization in the normalised form of PLSI: W H = total * (rows * weights) @ columns.

    A component without mass has weight 0, and zeros in place of P(row|z) or P(column|z) if W or H is zero there; a row
    without mass has zeros in `mixtures`. Rows without counts have no mass in a fit without priors; with
    ``prior_W="auto"``, or in `HPF`, the prior gives them a little mass, and mixtures near 1 / k. See `to_topics`.

    Attributes
    ----------
    weights : ndarray of shape (k,), float64
        P(z), the share of each component in the expected counts; sums to 1.
    rows : ndarray of shape (n, k), float32 or float64
        P(row|z); columns sum to 1.
    columns : ndarray of shape (k, p), same dtype as `rows`
        P(column|z); rows sum to 1.
    total : float
        Expected total count, the sum of W H.
    row_labels, column_labels : Labels
        Labels of the rows of W and the columns of H, by which the likelihoods align them with X; none by default.
    component_labels : Labels
        Labels of the rows of H, such as the names of the components of an estimator; none by default.

    See Also
    --------
    to_topics : makes them of factors.
    pyldavis_input : prepares them for pyLDAvis.

    Examples
    --------
    >>> from fastpmf.analysis.topics import to_topics
    >>> topics = to_topics([[1, 0], [1, 3]], [[1, 1, 0], [0, 1, 1]])
    >>> topics.weights, topics.total, topics.order
    (array([0.4, 0.6]), 10.0, array([1, 0]))
    >>> topics.rows
    array([[0.5, 0. ],
           [0.5, 1. ]])
    >>> topics.columns
    array([[0.5, 0.5, 0. ],
           [0. , 0.5, 0.5]])
    >>> topics.mixtures, topics.row_totals
    (array([[1.  , 0.  ],
           [0.25, 0.75]]), array([2., 8.]))
    """

    weights: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    total: float
    row_labels: Labels = _NO_LABELS
    column_labels: Labels = _NO_LABELS
    component_labels: Labels = _NO_LABELS

    @cached_property
    def mixtures(self) -> np.ndarray:
        """P(z|row), (n, k), dtype of the factors: rows sum to 1, or are zero if a row has no mass.

        W H = row_totals[:, None] * mixtures @ columns. P(z|column) is `to_topics(H.T, W.T).mixtures`.
        """
        joint = self.rows * self.weights
        return _normalised(joint, joint.sum(axis=1, keepdims=True), self.rows.dtype)

    @cached_property
    def row_totals(self) -> np.ndarray:
        """Expected count of each row, the row sums of W H, (n,), float64."""
        return self.rows @ (self.total * self.weights)

    @property
    def order(self) -> np.ndarray:
        """Components in order of decreasing weight, (k,), int64; of equal weights the lower number is first."""
        return np.argsort(-self.weights, kind="stable")

    def to_factors(self, scale: str = "rows") -> tuple[np.ndarray, np.ndarray]:
        """W and H with the rates of the original factors, up to rounding.

        Parameters
        ----------
        scale : {"rows", "balanced", "columns"}, default="rows"
            The factor that has the scale of the counts. "rows": W, and the rows of H sum to 1. "columns": H, and the
            columns of W sum to 1. "balanced": both, so that the column sums of W equal the row sums of H.

        Returns
        -------
        W : ndarray of shape (n, k)
        H : ndarray of shape (k, p)
            Both of the dtype of `rows` and `columns`.

        Raises
        ------
        ValueError
            If `scale` is invalid, or W or H would exceed the range of float32.

        Examples
        --------
        >>> from fastpmf.analysis.topics import to_topics
        >>> W, H = to_topics([[1, 0], [1, 2]], [[1, 1, 0], [0, 1, 1]]).to_factors()
        >>> W
        array([[2., 0.],
               [2., 4.]])
        >>> H.sum(axis=1)
        array([1., 1.])
        """
        check_option(scale, _EXPONENTS, "scale")
        mass, exponent, dtype = self.total * self.weights, _EXPONENTS[scale], self.rows.dtype
        with np.errstate(under="ignore"):
            W, H = self.rows * mass**exponent, self.columns * mass[:, None] ** (1 - exponent)
            for A, name in ((W, "W"), (H, "H")):
                if A.max() > np.finfo(dtype).max:
                    raise ValueError(
                        f"{name} is out of the range of {dtype} with scale={scale!r}: take W and H in float64"
                    )
            return W.astype(dtype, copy=False), H.astype(dtype, copy=False)

    def joint_log_likelihood(self, X: Any, *, n_threads: int | None = None) -> float:
        """Log-likelihood of X as N draws of a cell (row, column), N its total: one multinomial over n p cells.

        log N! - sum_ij log x_ij! + sum_ij x_ij log P(i, j), where log x! is log Gamma(x + 1) for counts that are not
        whole. Its sum with log Poisson(N; total) is `poisson_log_likelihood`.

        Parameters
        ----------
        X : matrix of counts of shape (n, p)
            Anything that `as_counts` reads.
        n_threads : int or None, default=None
            Number of threads; None: all that the process may use. The result does not depend on it.

        Returns
        -------
        float
            In nats, computed in float64; -inf if a positive count has probability 0.

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type, shape or value.

        Examples
        --------
        >>> from fastpmf.analysis.topics import to_topics
        >>> topics = to_topics([[1], [1]], [[1, 1]])
        >>> round(topics.joint_log_likelihood([[2, 0], [0, 1]]), 6)  # log(3 / 4 ** 3)
        -3.060271
        """
        with threads(n_threads):
            counts, topics = self._aligned(X, n_threads)
            coefficient = float(gammaln(counts.total + 1)) - counts.log_factorial
            return coefficient + topics._data_term(counts, topics.rows * topics.weights)

    def conditional_log_likelihood(self, X: Any, *, n_threads: int | None = None) -> float:
        """Log-likelihood of each row i of X as N_i draws of a column, N_i its total: one multinomial for each row.

        sum_i log N_i! - sum_ij log x_ij! + sum_ij x_ij log P(j|i), the likelihood of documents given their lengths. Its
        sum with sum_i log Poisson(N_i; row_totals_i) is `poisson_log_likelihood`. Arguments and errors are as in
        `joint_log_likelihood`.

        Returns
        -------
        float
            In nats, computed in float64; -inf if a positive count has probability 0.

        Examples
        --------
        >>> from fastpmf.analysis.topics import to_topics
        >>> topics = to_topics([[1], [1]], [[1, 1]])
        >>> round(topics.conditional_log_likelihood([[2, 0], [0, 1]]), 6)  # log(1 / 2 ** 3)
        -2.079442
        """
        with threads(n_threads):
            counts, topics = self._aligned(X, n_threads)
            coefficient = float(gammaln(counts.sums(Side.ROWS) + 1).sum()) - counts.log_factorial
            return coefficient + topics._data_term(counts, topics.mixtures)

    def to_frame(self, of: str = "mixtures") -> Any:
        """One of the distributions as a pandas DataFrame, with the labels of rows and columns.

        Parameters
        ----------
        of : {"mixtures", "rows", "columns"}, default="mixtures"
            "mixtures": P(z|row), a row for each row of X and a column for each topic. "rows": P(row|z), likewise.
            "columns": P(column|z), a row for each topic and a column for each column of X.

        Returns
        -------
        DataFrame
            Its dtype is that of the factors.

        Raises
        ------
        ImportError
            If pandas is not installed.
        ValueError
            If `of` is invalid.

        Examples
        --------
        >>> from fastpmf.analysis.topics import to_topics
        >>> to_topics([[1, 0], [1, 3]], [[1, 1, 0], [0, 1, 1]]).to_frame()
        component     0     1
        0          1.00  0.00
        1          0.25  0.75
        """
        check_option(of, ("mixtures", "rows", "columns"), "of")
        labels = self.column_labels if of == "columns" else self.row_labels
        frame = data_frame(self.columns.T if of == "columns" else getattr(self, of), labels.values)
        if self.component_labels.names is not None:
            frame.columns = self.component_labels.names
        frame.columns.name = "component"
        return frame.T if of == "columns" else frame

    def _table(self) -> Table:
        top = top_features(self.columns, 8, names=self.column_labels.values)
        top = top._replace(component_names=self.component_labels.names)
        columns = {
            "topic": top.components.tolist(), "share of counts": [f"{w:.1%}" for w in self.weights],
            "top features": top_weighted(top.names, top.scores, top.indices >= 0, 8),
        }  # fmt: skip
        (n, k), p = self.rows.shape, self.columns.shape[1]
        title = f"{k} topics of {n:,} rows and {p:,} columns, {self.total:,.6g} expected counts"
        return Table(title, columns, n_rows=k)

    def _aligned(self, X: Any, n_threads: int | None) -> tuple[MemoryCounts, Self]:
        """X as counts, and these topics with their rows and columns in the order of X."""
        counts, shape = as_counts(X, n_threads=n_threads), (len(self.rows), self.columns.shape[1])
        if counts.shape != shape:
            raise ValueError(f"X must have shape {shape}, which is that of the topics, got {counts.shape}")
        labels, topics = MatrixLabels.of(X), self
        if (order := order_of(self.row_labels, labels.rows, "the topics")) is not None:
            topics = replace(topics, rows=topics.rows[order])
        if (order := order_of(self.column_labels, labels.columns, "the topics")) is not None:
            topics = replace(topics, columns=topics.columns[:, order])
        return counts, topics

    def _data_term(self, counts: MemoryCounts, U: np.ndarray) -> float:
        """sum_ij x_ij log (U columns)_ij, from float64 copies, so that no probability is rounded."""
        wide = np.dtype(np.float64)
        return float(counts.log_rate(padded(U, wide), padded(self.columns.T, wide)).sum())


def to_topics(W: Any, H: Any) -> Topics:
    """Topics of a factorization: weights of components, and their distributions over rows and over columns.

    The result does not depend on the relative scale of the factors: W * d and H / d[:, None] have the same topics. The
    topics of an asymmetric form are `to_topics(row_totals[:, None] * mixtures, columns)`.

    Parameters
    ----------
    W : array-like of shape (n, k)
        Non-negative.
    H : array-like of shape (k, p) or fitted estimator
        Non-negative.

    Returns
    -------
    Topics
        Of dtype float32 if both factors are, else float64; weights and totals are always float64.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type, shape or value, or the sum of W H is infinite.

    See Also
    --------
    Topics : the result.
    pyldavis_input : prepares topics for pyLDAvis.

    Examples
    --------
    >>> from fastpmf.analysis.topics import to_topics
    >>> to_topics([[1, 0], [1, 3]], [[1, 1, 0], [0, 1, 1]]).weights  # of 4 and of 6 expected counts
    array([0.4, 0.6])
    """
    W, H = align_components([(W, "W", 1), (H, "H", 0)])
    labels = labels_of(W, 0), labels_of(H, 1), labels_of(H, 0)
    W, H = check_factors(W, H)
    dtype = np.dtype(np.float32 if np.result_type(W.dtype, H.dtype) == np.float32 else np.float64)
    w_sum, h_sum = component_sums(W, H)
    with np.errstate(under="ignore"):
        mass = w_sum * h_sum
    total = float(mass.sum())
    weights = _normalised(mass, np.asarray(total), mass.dtype)
    return Topics(weights, _normalised(W, w_sum, dtype), _normalised(H, h_sum[:, None], dtype), total, *labels)


def _normalised(A: np.ndarray, sums: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A / sums, and 0 where a sum is 0; divided in float64 and rounded once, without a float64 copy."""
    with np.errstate(under="ignore"):
        return np.divide(A, sums, out=np.zeros(A.shape, dtype), where=sums > 0, casting="same_kind")


def pyldavis_input(X: Any, W: Any, H: Any, names: Any = None) -> dict[str, np.ndarray]:
    """Arguments of `pyLDAvis.prepare`, as in `pyLDAvis.prepare(**pyldavis_input(X, W, H, names))`.

    pyLDAvis requires distributions, so rows and features without counts are left out, and so are components without
    mass in the remaining ones.

    Parameters
    ----------
    X : matrix of counts of shape (n, p)
    W : array-like of shape (n, k)
    H : array-like of shape (k, p) or fitted estimator
    names : array-like of str, of length p, optional
        Names of the features; by default the column labels of X, else numbers.

    Returns
    -------
    dict
        topic_term_dists (k, p), doc_topic_dists (n, k), doc_lengths (n,), vocab (p,) and term_frequency (p,), without
        what is left out. The first two are the columns and mixtures of `to_topics(W, H)`.

    See Also
    --------
    to_topics : topics as probabilities.

    Examples
    --------
    >>> from fastpmf import pyldavis_input
    >>> found = pyldavis_input([[2, 2, 0], [1, 2, 1]], [[2, 0], [1, 1]], [[1, 1, 0], [0, 1, 1]], ["ape", "bee", "cat"])
    >>> found["doc_topic_dists"], found["doc_lengths"], found["vocab"].tolist()
    (array([[1. , 0. ],
           [0.5, 0.5]]), array([4., 4.]), ['ape', 'bee', 'cat'])
    """
    counts, topics = as_counts(X), to_topics(*align_factors(X, W, H))
    if counts.shape != (shape := (len(topics.rows), topics.columns.shape[1])):
        raise ValueError(f"X must have the shape of W H, {shape}, got {counts.shape}")
    names = check_names(labels_of(X, 1).values if names is None else names, shape[1], "names", "feature")
    lengths, frequency = (counts.sums(side) for side in Side)
    terms = (frequency > 0) & topics.columns.any(axis=0)
    alive = (topics.weights > 0) & topics.columns[:, terms].any(axis=1)
    rows = (lengths > 0) & topics.mixtures[:, alive].any(axis=1)
    # In float64: the sums of float32 shares may differ from 1 by more than pyLDAvis accepts
    columns, mixtures = (
        A.astype(np.float64) for A in (topics.columns[alive][:, terms], topics.mixtures[rows][:, alive])
    )
    return {
        "topic_term_dists": columns / columns.sum(axis=1, keepdims=True),
        "doc_topic_dists": mixtures / mixtures.sum(axis=1, keepdims=True),
        "doc_lengths": lengths[rows],
        "vocab": names[terms],
        "term_frequency": frequency[terms],
    }
