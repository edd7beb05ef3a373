"""Topics: a factorization read as probabilities, which is PLSI, and why that is the same model. fastpmf rests on this.

**Two names for a rate.** Let W (n x k) and H (k x p) be non-negative, mu = W H, a_z = sum_i W_iz and b_z = sum_j H_zj.
The total of all rates is T = sum_z a_z b_z, that of a row T_i = sum_z W_iz b_z; no mu_ij is needed for them. With

    P(z) = a_z b_z / T      P(i|z) = W_iz / a_z      P(j|z) = H_zj / b_z      P(z|i) = W_iz b_z / T_i

all of them distributions, a rate is a total times a probability, in PLSI's symmetric form and in its asymmetric one:

    mu_ij = T P(i, j)          P(i, j) = sum_z P(z) P(i|z) P(j|z)
    mu_ij = T_i P(j|i)         P(j|i)  = sum_z P(z|i) P(j|z)

Nothing is lost but the scale d_z > 0 in (W_iz d_z) (H_zj / d_z), which no rate depends on. Nor is anything restricted:
any such distributions, with any T or T_i, are those of some W and H, such as W_iz = T_i P(z|i) and H_zj = P(j|z).

**One likelihood.** Let N = sum_ij x_ij and N_i = sum_j x_ij. Put T P(i, j) for mu_ij, and add and subtract log N!:

    log L(W, H) = sum_ij [x_ij log mu_ij - mu_ij - log x_ij!]
                = [log N! - sum_ij log x_ij! + sum_ij x_ij log P(i, j)]  +  [N log T - T - log N!]
                = log Multinomial(X; N, P)  +  log Poisson(N; T)

which says that independent Poisson counts are multinomial once their total is known. So they are row by row, with
T_i P(j|i) for mu_ij:

    log L(W, H) = sum_i log Multinomial(x_i; N_i, P(.|i))  +  sum_i log Poisson(N_i; T_i)

The first term is what PLSI maximises, jointly or for documents of given lengths; the second knows totals alone.

**One maximum.** The two terms share no parameter, and each can be made greatest by itself. N log T - T is so at T = N
whatever P is, and N_i log T_i - T_i at T_i = N_i whatever P(.|i) is. Hence W and H maximise the Poisson likelihood
exactly where their P(.|i) maximise the conditional multinomial one and their row totals are those of X; then T = N, and
their P maximises the joint one. From one W, H whose row totals are those of X to another, all three likelihoods change
by the same number of nats; and with T = N, D(X || W H) = N D(X / N || P), so that divergences are no exception.

**One algorithm.** With P(z|i, j) = W_iz H_zj / mu_ij, a multiplicative half step of W gives

    W_iz b_z  <-  W_iz sum_j x_ij H_zj / mu_ij  =  sum_j x_ij P(z|i, j)        summed over z:  T_i = N_i

so that it matches the row totals, and P(z|i) <- sum_j x_ij P(z|i, j) / N_i is the M-step of PLSI for the mixtures; a
half step of H does both for the columns. PLSI's own EM takes all from the same P(z|i, j), which is `solver="em"`:

    N_z = sum_ij x_ij P(z|i, j)
    P(z) <- N_z / N        P(i|z) <- sum_j x_ij P(z|i, j) / N_z        P(j|z) <- sum_i x_ij P(z|i, j) / N_z

Exposures, backgrounds and priors are no part of this: W and H are read as they are.

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

from fastpmf.core.counts import Side
from fastpmf.core.factors import component_sums, padded
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import Labels, MatrixLabels, align_components, labels_of, order_of
from fastpmf.kernels.threads import threads
from fastpmf.utils.cached import cached_property
from fastpmf.utils.validation import check_factor, check_option

# The power of its mass that a component has in W; the rest is in H.
_SHARES = {"rows": 1.0, "balanced": 0.5, "columns": 0.0}
_NO_LABELS = Labels(None)


@dataclass(frozen=True, eq=False)
class Topics:
    """A factorization W H in the normalised form of PLSI: W H = total * (rows * weights) @ columns.

    Where there is no mass there are exact zeros, not a made-up distribution: a component without any has weight 0, and
    zeros for the distribution of a factor that is zero there; a row without any has zeros in `mixtures`. `to_topics`
    makes one of W and H.

    Attributes
    ----------
    weights : ndarray of shape (k,), float64
        P(z), how much of the expected counts each component explains; sums to 1.
    rows : ndarray of shape (n, k), float32 or float64
        P(row|z); columns sum to 1.
    columns : ndarray of shape (k, p), of the same dtype
        P(column|z); rows sum to 1.
    total : float
        Expected total count, the sum of W H.
    row_labels, column_labels : Labels
        Those of W's rows and of H's columns, which the likelihoods align with those of X; by default none.

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

    @cached_property
    def mixtures(self) -> np.ndarray:
        """P(z|row), shape (n, k), of the factors' dtype: rows sum to 1, or are zero where a row has no mass.

        With them W H = row_totals[:, None] * mixtures @ columns. `to_topics(H.T, W.T).mixtures` is P(z|column).
        """
        joint = self.rows * self.weights
        return _normalised(joint, joint.sum(axis=1, keepdims=True), self.rows.dtype)

    @cached_property
    def row_totals(self) -> np.ndarray:
        """Expected count of each row, shape (n,), float64: the row sums of W H."""
        return self.rows @ (self.total * self.weights)

    @property
    def order(self) -> np.ndarray:
        """Numbers of the components, the heaviest first; of equals the first first."""
        return np.argsort(-self.weights, kind="stable")

    def to_factors(self, scale: str = "rows") -> tuple[np.ndarray, np.ndarray]:
        """W and H with the rates of the factors that this was made of, up to rounding.

        Parameters
        ----------
        scale : {"rows", "balanced", "columns"}, default="rows"
            Where the counts are. "rows": in W, and rows of H sum to 1. "columns": in H, and columns of W sum to 1.
            "balanced": in both alike, the column sums of W being the row sums of H.

        Returns
        -------
        W : ndarray of shape (n, k)
        H : ndarray of shape (k, p)
            Both of the dtype of `rows` and `columns`.

        Raises
        ------
        ValueError
            Another scale, or one under which float32 can't hold W or H.

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
        check_option(scale, _SHARES, "scale")
        mass, share = self.total * self.weights, _SHARES[scale]
        with np.errstate(under="ignore"):
            W, H = self.rows * mass**share, self.columns * mass[:, None] ** (1 - share)
        for A, name in ((W, "W"), (H, "H")):
            if A.max() > np.finfo(dtype := self.rows.dtype).max:
                raise ValueError(f"{name} is out of the range of {dtype} with scale={scale!r}: take W and H in float64")
        with np.errstate(under="ignore"):
            return W.astype(self.rows.dtype, copy=False), H.astype(self.columns.dtype, copy=False)

    def joint_log_likelihood(self, X: Any, *, n_threads: int | None = None) -> float:
        """Log-likelihood of X as N draws of a cell (row, column), N its total: one multinomial of n p cells.

        log N! - sum_ij log x_ij! + sum_ij x_ij log P(i, j), where log x! is log Gamma(x + 1) if counts are not whole.
        With log Poisson(N; total) it adds up to `poisson_log_likelihood`.

        Parameters
        ----------
        X : matrix of counts of shape (n, p)
            Anything that `as_counts` reads.
        n_threads : int, optional
            Threads to use; by default as many as the process may use. The result does not depend on it.

        Returns
        -------
        float
            In nats, computed in float64; -inf where a positive count meets probability 0.

        Raises
        ------
        TypeError, ValueError
            X is not counts, or has another shape.

        Examples
        --------
        >>> from fastpmf.analysis.topics import to_topics
        >>> topics = to_topics([[1], [1]], [[1, 1]])
        >>> round(topics.joint_log_likelihood([[2, 0], [0, 1]]), 6)  # log(3 / 4 ** 3)
        -3.060271
        """
        with threads(n_threads):
            counts, topics = self._read(X, n_threads)
            coefficient = float(gammaln(counts.total + 1)) - counts.log_factorial
            return coefficient + topics._data_term(counts, topics.rows * topics.weights)

    def conditional_log_likelihood(self, X: Any, *, n_threads: int | None = None) -> float:
        """Log-likelihood of X as N_i draws of a column for each row i, N_i its total: a multinomial for each row.

        sum_i log N_i! - sum_ij log x_ij! + sum_ij x_ij log P(j|i), which is the likelihood of documents given their
        lengths. With sum_i log Poisson(N_i; row_totals_i) it adds up to `poisson_log_likelihood`.

        Parameters
        ----------
        X, n_threads
            As in `joint_log_likelihood`.

        Returns
        -------
        float
            In nats, computed in float64; -inf where a positive count meets probability 0.

        Raises
        ------
        TypeError, ValueError
            X is not counts, or has another shape.

        Examples
        --------
        >>> from fastpmf.analysis.topics import to_topics
        >>> topics = to_topics([[1], [1]], [[1, 1]])
        >>> round(topics.conditional_log_likelihood([[2, 0], [0, 1]]), 6)  # log(1 / 2 ** 3)
        -2.079442
        """
        with threads(n_threads):
            counts, topics = self._read(X, n_threads)
            coefficient = float(gammaln(counts.sums(Side.ROWS) + 1).sum()) - counts.log_factorial
            return coefficient + topics._data_term(counts, topics.mixtures)

    def _read(self, X: Any, n_threads: int | None) -> tuple[MemoryCounts, Self]:
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
        """sum_ij x_ij log (U columns)_ij; float64 throughout, so that no probability is rounded on the way."""
        wide = np.dtype(np.float64)
        return float(counts.log_rate(padded(U, wide), padded(self.columns.T, wide)).sum())


def to_topics(W: Any, H: Any) -> Topics:
    """Read factors as PLSI: weights of components, and their distributions over rows and over columns.

    The factors' scale is no matter: W * d and H / d[:, None] give the same topics. From the asymmetric form, they are
    `to_topics(row_totals[:, None] * mixtures, columns)`.

    Parameters
    ----------
    W : array-like of shape (n, k)
        Non-negative.
    H : array-like of shape (k, p)
        Non-negative.

    Returns
    -------
    Topics
        float32 where both factors are, else float64; weights and totals are float64 always.

    Raises
    ------
    TypeError, ValueError
        W and H are not two matrices that can be multiplied, negative, not finite, or so large that the sum of W H is
        not finite.

    Examples
    --------
    >>> from fastpmf.analysis.topics import to_topics
    >>> to_topics([[1, 0], [1, 3]], [[1, 1, 0], [0, 1, 1]]).weights  # of 4 and of 6 expected counts
    array([0.4, 0.6])
    """
    for name, A in (("W", W), ("H", H)):
        if np.ndim(A) != 2 or 0 in np.shape(A):
            raise ValueError(f"{name} must be a matrix with at least one row and one column, got shape {np.shape(A)}")
    W, H = align_components([(W, "W", 1), (H, "H", 0)])
    labels = labels_of(W, 0), labels_of(H, 1)
    W = check_factor(W, np.shape(W), "W")
    H = check_factor(H, (W.shape[1], np.shape(H)[1]), "H")
    dtype = np.dtype(np.float32 if np.result_type(W.dtype, H.dtype) == np.float32 else np.float64)
    w_sum, h_sum = component_sums(W, H)
    with np.errstate(under="ignore"):
        mass = w_sum * h_sum
    total = float(mass.sum())
    return Topics(
        _normalised(mass, np.asarray(total), mass.dtype),
        _normalised(W, w_sum, dtype),
        _normalised(H, h_sum[:, None], dtype),
        total,
        *labels,
    )


def _normalised(A: np.ndarray, sums: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A / sums, and 0 where a sum is 0; divided in float64, rounded once, without a float64 copy."""
    with np.errstate(under="ignore"):
        return np.divide(A, sums, out=np.zeros(A.shape, dtype), where=sums > 0, casting="same_kind")
