"""Priors, penalties and fixed parts of one factor, and the relative scale of two factors.

The entries u of a factor have Gamma priors of shape >= 1 and rate >= 0, and an optional L2 penalty. With d the sums of
the other factor over the observed entries of a row, plus the rates, the objective of the row is

    f(u) = d . u + ridge . u^2 / 2 - (shape - 1) . log u - sum_j x_j log(u . v_j)

With shape 1 the rate is an L1 penalty. The shape acts like `shape - 1` additional counts that a single component
explains; so each update rule for the likelihood has a counterpart for the posterior mode.

W D and D^-1 H have the same rates for every positive diagonal D, but not the same prior density. The best D is known in
closed form, or by Newton's method if there is a ridge, and needs no pass over the factors: a factor is stored up to its
*units*, W = stored * units and H = stored / units, and priors are converted to the units of the stored factors.
"""

from dataclasses import dataclass

import numpy as np

from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import dot, row_bounds
from fastpmf.kernels.rows import sum_log

# These predicted held-out counts best on text, cells, ratings and baskets, among shapes from 1 to 1.3 and rates from
# 0.01 to 3 times the one that gives the mean of the data. The shape matters; with a rate as low as this, totals are
# hardly shrunk.
AUTO_SHAPE, AUTO_RATE = 1.1, 0.1


@dataclass(frozen=True)
class Terms:
    """The terms of the objective that depend on one factor alone, and its fixed entries, in units of 1; padded.

    Attributes
    ----------
    shape : ndarray of shape (1 or n_rows, K), optional
        shape - 1 of the Gamma prior, dtype of the factor; 0 for fixed and zero entries.
    rate : ndarray of shape (1 or n_rows, K), float64, optional
        Rate of the Gamma prior, or weight of an L1 penalty.
    ridge : ndarray of shape (1 or n_rows, K), float64, optional
        Coefficient of u^2 / 2; as many rows as `shape` if there are both.
    fixed : ndarray of shape (K,), bool, optional
        Components that are not updated.
    zeros : ndarray of shape (n_rows, K), bool, optional
        Entries that stay zero.
    constant : float
        Added to the result of `penalty` so that it is in the user's units.
    """

    shape: np.ndarray | None = None
    rate: np.ndarray | None = None
    ridge: np.ndarray | None = None
    fixed: np.ndarray | None = None
    zeros: np.ndarray | None = None
    constant: float = 0.0

    @property
    def penalised(self) -> bool:
        return self.shape is not None or self.rate is not None or self.ridge is not None

    def extended(self, n_components: int, n_new: int, like: int, width: int) -> "Terms":
        """The terms with `n_new` components more after the first `n_components`, each as `like`; padded to `width`."""
        columns = np.append(np.arange(n_components), np.full(n_new, like))

        def take(A: np.ndarray | None) -> np.ndarray | None:
            if A is None:
                return None
            padding = [(0, 0)] * (A.ndim - 1) + [(0, width - len(columns))]
            return np.ascontiguousarray(np.pad(A[..., columns], padding))

        shape, rate, ridge, fixed, zeros = map(take, (self.shape, self.rate, self.ridge, self.fixed, self.zeros))
        return Terms(shape, rate, ridge, fixed, zeros, self.constant)

    def subproblem(
        self, side: Side, n_components: int, V: np.ndarray, observed: np.ndarray, units: np.ndarray
    ) -> Subproblem:
        """The subproblem of this factor; `observed` are sums of V, (K,) or (n_rows, K), in stored units as V is."""
        if self.rate is not None:
            rate = self.rate * units
            observed = observed + (rate[0] if len(rate) == 1 else rate)
        if self.zeros is not None:
            observed = np.where(self.zeros, np.inf, observed)
        ridge = None
        if self.ridge is not None:
            with np.errstate(under="ignore"):
                ridge = (self.ridge * units * units).astype(V.dtype)
        weight = observed if observed.ndim == 2 else observed[None]
        return Subproblem(side, n_components, V, weight, self.shape, ridge, self.fixed, self.zeros is not None)

    def floor_weights(self, v_sum: np.ndarray) -> np.ndarray:
        """The weights that floors of entries are relative to: sums of the other factor, inf for entries that stay 0."""
        return v_sum if self.zeros is None else np.where(self.zeros, np.inf, v_sum)

    def moments(self, A: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Total shape, sum of rate * A and sum of ridge * A^2 / 2 of each component; `sums` are column sums of A."""
        count = len(A) if self.shape is not None and len(self.shape) == 1 else 1
        shape = np.zeros(len(sums)) if self.shape is None else count * self.shape.sum(axis=0, dtype=np.float64)
        rate, ridge = np.zeros(len(sums)), np.zeros(len(sums))
        if self.rate is not None:
            rate = self.rate[0] * sums if len(self.rate) == 1 else np.einsum("ik,ik->k", self.rate, A)
        if self.ridge is not None:
            ridge = 0.5 * np.einsum("ik,ik,ik->k", np.broadcast_to(self.ridge, A.shape), A, A, dtype=np.float64)
        return shape, rate, ridge

    def penalty(self, A: np.ndarray, sums: np.ndarray, units: np.ndarray) -> float:
        """Negative log prior of the factor A * units up to constants of the prior, in nats."""
        if not self.penalised:
            return 0.0
        shape, rate, ridge = self.moments(A, sums)
        logs = dot(shape, np.log(units)) + log_total(A, self.shape) if self.shape is not None else 0.0
        return dot(rate, units) + dot(ridge * units, units) - logs + self.constant  # 0 times a square could be NaN


NO_TERMS = Terms()


def log_total(A: np.ndarray, shape: np.ndarray) -> float:
    """sum_ik shape_ik log A_ik, float64, in nats; for a padded factor and a shape of (1 or n_rows, K)."""
    bounds = row_bounds(len(A))
    out = np.empty(len(bounds) - 1)
    sum_log(len(out), A, shape, bounds, len(shape) > 1, out)
    return float(out.sum())


def best_units(
    rows: Terms, columns: Terms, factors: list[np.ndarray], sums: list[np.ndarray], units: np.ndarray
) -> np.ndarray:
    """The units, (K,), that maximise the joint prior density while the rates W H stay as they are.

    Let a_k and b_k be the total shapes of the two sides, P_k and Q_k the sums of the factors weighted by rates, and L_k
    and R_k half their squares weighted by ridges. The units minimise, over s > 0,

        P s + Q / s + L s^2 + R / s^2 - (a - b) log s

    which is convex in log s. Without ridges the solution is the root of P s^2 - (a - b) s - Q = 0. A component keeps
    its units if it is fixed, if it has no penalty, or if no minimum exists because only one side is penalised or the
    other is zero.
    """
    if not (rows.penalised and columns.penalised):
        return units.copy()
    moments = rows.moments(factors[0], sums[0]), columns.moments(factors[1], sums[1])
    return best_units_of_moments(rows, columns, moments, units)


Moments = tuple[np.ndarray, np.ndarray, np.ndarray]


def best_units_of_moments(
    rows: Terms, columns: Terms, moments: tuple[Moments, Moments], units: np.ndarray
) -> np.ndarray:
    """`best_units` given the `Terms.moments` of both factors."""
    out = units.copy()
    if not (rows.penalised and columns.penalised):
        return out
    (a, P, L), (b, Q, R) = moments
    excess = a - b
    free = (P + L > 0) & (Q + R > 0) | (P + L > 0) & (excess > 0) | (Q + R > 0) & (excess < 0)
    for terms in (rows, columns):
        if terms.fixed is not None:
            free &= ~terms.fixed
    excess, P, Q, L, R = (x[free] for x in (excess, P, Q, L, R))
    root = np.hypot(excess, 2 * np.sqrt(P) * np.sqrt(Q))
    # The two forms of one root, each where it does not cancel
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.where(excess >= 0, (excess + root) / (2 * P), 2 * Q / (root - excess))
    if L.any() or R.any():
        s = _newton(excess, P, Q, L, R, np.where(np.isfinite(s) & (s > 0), s, 1.0))
    out[free] = s
    return out


def _newton(
    excess: np.ndarray, P: np.ndarray, Q: np.ndarray, L: np.ndarray, R: np.ndarray, s: np.ndarray
) -> np.ndarray:
    """Minimise P s + Q / s + L s^2 + R / s^2 - excess log s over t = log s, by Newton's method with bounded steps."""
    t = np.log(s)
    for _ in range(200):
        up, down = np.exp(t), np.exp(-t)
        slope = P * up - Q * down + 2 * L * up * up - 2 * R * down * down - excess
        step = slope / (P * up + Q * down + 4 * L * up * up + 4 * R * down * down)
        t -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max(initial=0.0) < 1e-14:
            break
    return np.exp(t)
