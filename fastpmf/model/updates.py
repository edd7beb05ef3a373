"""The rules: what becomes of a factor U, given S = sum_j x_ij / (u_i . v_j) v_j and the other factor's sums."""

import math
from typing import NamedTuple

import numpy as np

from fastpmf.core.factors import aligned, row_bounds
from fastpmf.core.subproblem import NO_PRIOR, RowPrior, as_weights
from fastpmf.kernels._jit import row_width
from fastpmf.kernels.multiply import multiply
from fastpmf.kernels.rows import NARROW, extrapolate
from fastpmf.kernels.threads import current_threads

# An entry that shrinks at every update ends in an underflow, and then it is locked at 0, whatever the data want later;
# on the way there, arithmetic on subnormal numbers is several times slower. So no entry shrinks below this share of its
# row's counts. It is the only floor here: relative to the data, never raising an entry, and so never the objective.
TINY = 1e-12
RELAXATION = 0.9


class Update(NamedTuple):
    """What a rule knows of a factor once it has gone through it.

    Attributes
    ----------
    sums : ndarray of shape (K,), float64
        Column sums of the updated factor.
    gap : float
        Upper bound, before the update, on what any other U could lower the divergence by while V stays: the sum over
        rows of u_i . v_sum + x_i (max_k S_ik / v_sum_k - 2), x_i the row's sum of counts. In nats; 0 exactly where U is
        optimal given V; NaN where a rate was 0.
    data_term : float, optional
        Sum of x log rate over all entries at the updated factor, in nats, where that came free.
    """

    sums: np.ndarray
    gap: float
    data_term: float | None = None


def multiplicative(
    U: np.ndarray,
    S: np.ndarray,
    weight: np.ndarray,
    out: np.ndarray | None,
    *,
    prior: RowPrior = NO_PRIOR,
    relaxed: bool = False,
) -> Update:
    """U * S / weight, the update of Lee & Seung: the objective never rises, and row sums are matched.

    The weights are the sums of the other factor, plus a prior's rates. A prior's shape and ridge, and fixed components,
    enter as `fastpmf.kernels.multiply` says; the likelihood's (U * S) / v_sum becomes, for a Gamma prior,
    (U * S + shape - 1) / (v_sum + rate), the EM update of the posterior's mode.

    Relaxed, it goes nearly twice as far, and the objective still never rises. The update minimises, entry by entry, a
    bound on it, d u + l u^2 / 2 - c log u, whose least point is u*. Upwards from there it climbs slower than it fell on
    the way, since log is concave: 2 u* - u is no worse than u. Downwards so does it along log u, since exp is convex:
    u*^2 / u is no worse. Nor is anything between u* and these; all the way to them would be to leap to and fro where
    the bound is tight. Row sums are then not matched.

    The gap follows from convexity: with weight - S the gradient in u, no u* is better than u by more than
    (weight - S) . (u - u*), and an optimal u* has u* . weight = x_i.

    Parameters
    ----------
    U, S : ndarray of shape (n_rows, K), padded
    weight : ndarray of shape (K,) or (1 or n_rows, K)
        Column sums of the other factor, or of what of it each row observes, plus a prior's rates. A component with
        weight 0 explains nothing and becomes 0 here too.
    out : ndarray of shape (n_rows, K), optional
        The updated factor; may be S. None: only the gap is wanted.
    prior : RowPrior, optional
    relaxed : bool, default=False
        Go `RELAXATION` of the way from u* to the point as good as u.

    References
    ----------
    D. D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000, theorem 2.
    """
    width, bounds, weight = U.shape[1], row_bounds(len(U)), as_weights(weight, U.dtype)
    shape, ridge, fixed = prior.arrays(width, U.dtype)
    sums, gap = aligned(len(bounds) - 1, width, np.dtype(float)), np.empty(len(bounds) - 1)
    multiply(
        len(gap), U, S, weight, shape, ridge, fixed, bounds, len(weight) > 1, len(shape) > 1, prior.shape is not None,
        prior.general, out is not None, TINY, RELAXATION * relaxed, row_width(U, NARROW), S if out is None else out,
        sums, gap, aligned(current_threads(), width, U.dtype),
    )  # fmt: skip
    return Update(sums.sum(axis=0), finite_sum(gap))


def finite_sum(gaps: np.ndarray) -> float:
    """Their sum, or NaN where one of them is not finite."""
    total = float(gaps.sum())
    return total if math.isfinite(total) else math.nan


def extrapolated(
    new: np.ndarray,
    old: np.ndarray,
    momentum: float,
    totals: np.ndarray,
    weight: np.ndarray,
    out: np.ndarray,
    held: np.ndarray | None = None,
) -> np.ndarray:
    """Where the move from `old` to `new` leads to when it goes on: new + momentum (new - old), and no exact zeros.

    No entry is below `TINY` of its row's counts. In an exact zero, or past it, an extrapolated entry would be locked
    for multiplicative updates, and could leave a positive count with rate 0.

    Parameters
    ----------
    new, old : ndarray of shape (n_rows, K), padded
    momentum : float
    totals : ndarray of shape (n_rows,), float64
        Row sums of the counts.
    weight : ndarray of shape (K,) or (n_rows, K)
        Column sums of the other factor; inf where an entry is to stay 0.
    out : ndarray of shape (n_rows, K)
        May be `old`.
    held : ndarray of shape (K,), bool, optional
        Components that stay.

    Returns
    -------
    ndarray of shape (K,)
        Column sums of `out`, float64.
    """
    bounds = row_bounds(len(new))
    sums = aligned(len(bounds) - 1, new.shape[1], np.dtype(float))
    weight = as_weights(weight, new.dtype)
    fixed = RowPrior(held=held).arrays(new.shape[1], new.dtype)[2]
    extrapolate(
        len(sums), new, old, totals, weight, fixed, bounds, len(weight) > 1, float(momentum), TINY,
        row_width(new, NARROW), out, sums,
    )  # fmt: skip
    return sums.sum(axis=0)


class Statistics(NamedTuple):
    """What online EM remembers of the rows that it has seen; means are over rows, all but n_rows float64.

    Attributes
    ----------
    counts : ndarray of shape (p, K)
        Expected counts of each column from each component, means.
    exposure : ndarray of shape (K,)
        Means of W.
    totals : ndarray of shape (p,)
        Counts of each column, sums.
    n_rows : int
    """

    counts: np.ndarray
    exposure: np.ndarray
    totals: np.ndarray
    n_rows: int

    def blend(self, step: float, batch: "Statistics") -> "Statistics":
        """(1 - step) of these and step of a mini-batch's; then each column has as many counts as in all rows.

        How counts were allotted is told the better the later, how many there are by all rows alike: a column that is
        rare among the latest is not rare. Exposures go along, so that a component's row of H keeps its sum.
        """
        counts, exposure = ((1 - step) * old + step * new for old, new in zip(self[:2], batch[:2], strict=True))
        totals, n_rows = self.totals + batch.totals, self.n_rows + batch.n_rows
        allotted = counts.sum(axis=0)
        counts *= _ratio(totals / n_rows, counts.sum(axis=1))[:, None]
        exposure *= _ratio(counts.sum(axis=0), allotted)
        return Statistics(counts, exposure, totals, n_rows)

    def as_prior(self, n_rows: float, shape: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What `n_rows` rows like those remembered say of H transposed, beside its prior, as a Gamma prior.

        shape is shape - 1 and rate the rate, both (K,); so are (p, K) and (K,) what is returned. Their ratio is the
        most probable H: (n counts + shape) / (n exposure + rate).

        References
        ----------
        O. Cappe and E. Moulines, "Online expectation-maximization algorithm for latent data models", J. R. Stat. Soc. B
        71 (2009), equation 9.
        """
        return n_rows * self.counts + shape, n_rows * self.exposure + rate


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b, and 1 where b is 0."""
    return np.divide(a, b, where=b > 0, out=np.ones_like(b))
