"""Update rules: the next U, given S_ik = sum_j x_ij / (u_i . v_j) v_jk and the subproblem of U."""

import math
from typing import NamedTuple

import numpy as np

from fastpmf.core.counts import Subproblem, as_weights, fixed_row
from fastpmf.core.factors import aligned, row_bounds
from fastpmf.kernels._jit import row_width
from fastpmf.kernels.multiply import multiply
from fastpmf.kernels.rows import NARROW, extrapolate
from fastpmf.kernels.threads import current_threads

# No entry is reduced below this share of the counts of its row. An entry that shrinks at every update would end as 0,
# which multiplicative updates can't leave, and arithmetic on subnormal numbers on the way is several times slower.
# This is the only floor: it is relative to the data and never raises an entry, so it never raises the objective.
TINY = 1e-12
RELAXATION = 0.9


class Update(NamedTuple):
    """Results of an update other than the factor.

    Attributes
    ----------
    sums : ndarray of shape (K,), float64
        Column sums of the updated factor.
    gap : float
        Upper bound, in nats, on the decrease of the objective that any other U could reach from the U before the
        update while V stays: the sum over rows of u_i . v_sum + x_i (max_k S_ik / v_sum_k - 2), where x_i is the sum
        of counts of the row. 0 exactly if U is optimal given V; NaN if a rate was 0.
    data_term : float
        Sum of x log rate over all entries for the updated factor, in nats; NaN if the update did not compute it.
    """

    sums: np.ndarray
    gap: float
    data_term: float = math.nan


def multiplicative(
    subproblem: Subproblem, U: np.ndarray, S: np.ndarray, out: np.ndarray | None, *, relaxed: bool = False
) -> Update:
    """U * S / weight, the update of Lee & Seung; it never raises the objective, and it matches row sums.

    Shape and ridge of a prior, and fixed components, enter as in `fastpmf.kernels.multiply`. For a Gamma prior the
    update (U * S) / v_sum of the likelihood becomes (U * S + shape - 1) / (v_sum + rate), the EM update of the
    posterior mode.

    The update minimises a bound on the objective, separately for each entry: d u + l u^2 / 2 - c log u, with minimum
    u*. A relaxed update goes nearly twice as far and still never raises the objective. For u* > u the bound rises
    slower beyond u* than it fell before, since log is concave, so 2 u* - u is no worse than u. For u* < u the same
    holds along log u, since exp is convex, so u*^2 / u is no worse. Nor is any point between u* and these. Going all
    the way would oscillate where the bound is tight. Row sums are then not matched.

    The gap follows from convexity: with weight - S the gradient in u, no u* is better than u by more than
    (weight - S) . (u - u*), and an optimal u* satisfies u* . weight = x_i.

    Parameters
    ----------
    subproblem : Subproblem
        A component with weight 0 explains nothing and becomes 0.
    U, S : ndarray of shape (n_rows, K), padded
    out : ndarray of shape (n_rows, K), optional
        The updated factor; may be S. None: compute the gap only.
    relaxed : bool, default=False
        Go the share `RELAXATION` of the way from u* to the most distant point that is as good as u.

    References
    ----------
    D. D. Lee and H. S. Seung, "Algorithms for non-negative matrix factorization", NIPS 2000, theorem 2.
    """
    width, bounds = U.shape[1], row_bounds(len(U))
    weight, shape, ridge, fixed = subproblem.kernel_arrays()
    sums, gap = aligned(len(bounds) - 1, width, np.dtype(float)), np.empty(len(bounds) - 1)
    multiply(
        len(gap), U, S, weight, shape, ridge, fixed, bounds, len(weight) > 1, len(shape) > 1,
        subproblem.shape is not None, subproblem.row_sums_unknown, out is not None, TINY, RELAXATION * relaxed,
        row_width(U, NARROW), S if out is None else out, sums, gap, aligned(current_threads(), width, U.dtype),
    )  # fmt: skip
    return Update(sums.sum(axis=0), finite_sum(gap))


def finite_sum(gaps: np.ndarray) -> float:
    """Sum of gaps, or NaN if one of them is not finite."""
    total = float(gaps.sum())
    return total if math.isfinite(total) else math.nan


def extrapolated(
    new: np.ndarray, old: np.ndarray, momentum: float, totals: np.ndarray, weight: np.ndarray,
    fixed: np.ndarray | None, out: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """new + momentum (new - old), with no entry below `TINY` of the counts of its row.

    An entry that was extrapolated to 0 or below would be locked there for multiplicative updates, and could leave a
    positive count with rate 0.

    Parameters
    ----------
    new, old : ndarray of shape (n_rows, K), padded
    momentum : float
    totals : ndarray of shape (n_rows,), float64
        Row sums of the counts.
    weight : ndarray of shape (K,) or (n_rows, K)
        Column sums of the other factor; inf for entries that stay 0.
    fixed : ndarray of shape (K,), bool, or None
        Components that are not updated.
    out : ndarray of shape (n_rows, K)
        May be `old`.

    Returns
    -------
    ndarray of shape (K,)
        Column sums of `out`, float64.
    """
    bounds = row_bounds(len(new))
    sums = aligned(len(bounds) - 1, new.shape[1], np.dtype(float))
    weight = as_weights(weight, new.dtype)
    extrapolate(
        len(sums), new, old, totals, weight, fixed_row(fixed, new), bounds, len(weight) > 1, float(momentum), TINY,
        row_width(new, NARROW), out, sums,
    )  # fmt: skip
    return sums.sum(axis=0)


class Statistics(NamedTuple):
    """Sufficient statistics of online EM over the rows seen so far; float64, means over rows unless noted.

    Attributes
    ----------
    counts : ndarray of shape (p, K)
        Expected counts of each feature from each component.
    exposure : ndarray of shape (K,)
        Means of W.
    totals : ndarray of shape (p,)
        Sums of the counts of each feature.
    n_rows : int
    """

    counts: np.ndarray
    exposure: np.ndarray
    totals: np.ndarray
    n_rows: int

    def blend(self, step: float, batch: "Statistics") -> "Statistics":
        """(1 - step) times these plus step times those of a mini-batch, rescaled to the totals of all features.

        Later mini-batches allocate counts to components better, so their allocation weighs more. The totals weigh all
        rows equally: a feature that is rare in the latest mini-batch is not rare. Exposures are rescaled too, so that
        the row sums of H stay.
        """
        counts, exposure = ((1 - step) * old + step * new for old, new in zip(self[:2], batch[:2], strict=True))
        totals, n_rows = self.totals + batch.totals, self.n_rows + batch.n_rows
        before = counts.sum(axis=0)
        counts *= _ratio(totals / n_rows, counts.sum(axis=1))[:, None]
        exposure *= _ratio(counts.sum(axis=0), before)
        return Statistics(counts, exposure, totals, n_rows)

    def as_prior(self, n_rows: float, shape: np.ndarray, rate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The information of `n_rows` such rows on H transposed, combined with its prior, as a Gamma prior.

        `shape` is shape - 1 and `rate` the rate, both (1 or p, K). Returns shape - 1, (p, K), and rate, (1 or p, K).
        Their ratio is the posterior mode of H: (n counts + shape) / (n exposure + rate).

        References
        ----------
        O. Cappe and E. Moulines, "Online expectation-maximization algorithm for latent data models", J. R. Stat. Soc. B
        71 (2009), equation 9.
        """
        return n_rows * self.counts + shape, n_rows * self.exposure + rate


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a / b; 1 if b is 0."""
    return np.divide(a, b, where=b > 0, out=np.ones_like(b))
