"""Priors, penalties and what is known of a factor: all that a row's objective has beside its counts.

A factor's entries u have Gamma priors of shape >= 1 and rate >= 0, and may be penalised by their squares. A row's
objective is then, with d the sums of the other factor over the row's observed entries, plus the rates,

    f(u) = d . u + ridge . u^2 / 2 - (shape - 1) . log u - sum_j x_j log(u . v_j)

Shape 1 makes the rate an L1 penalty. The shape acts as counts of `shape - 1` that one component alone explains, which
is why each rule for likelihood has its rule for the posterior.

W D and D^-1 H have the same rates for any positive diagonal D, but not the same prior. The best D is known in closed
form, or by Newton's method where there is a ridge, and needs no pass over the factors: a factor is stored up to its
*units*, W = stored * units and H = stored / units, and priors are brought into the units of what is stored.
"""

from dataclasses import dataclass

import numpy as np

from fastpmf.core.factors import dot, row_bounds
from fastpmf.core.subproblem import RowPrior
from fastpmf.kernels.rows import sum_log


@dataclass(frozen=True)
class Terms:
    """Prior, penalty and knowledge of one factor, as the fit is stated, in units of 1; padded.

    Attributes
    ----------
    shape : ndarray of shape (1 or n_rows, K), optional
        The Gamma prior's shape - 1, of the factor's dtype; 0 for entries that are held or zero.
    rate : ndarray of shape (1 or n_rows, K), float64, optional
        The Gamma prior's rate, or the weight of an L1 penalty.
    ridge : ndarray of shape (1 or n_rows, K), float64, optional
        Weight of half the squares. As many rows as `shape`, where there are both.
    held : ndarray of shape (K,), bool, optional
        Components that are known and stay.
    zeros : ndarray of shape (n_rows, K), bool, optional
        Entries that are zero and stay so.
    constant : float
        What `penalty` has to be raised by to be in the user's units.
    """

    shape: np.ndarray | None = None
    rate: np.ndarray | None = None
    ridge: np.ndarray | None = None
    held: np.ndarray | None = None
    zeros: np.ndarray | None = None
    constant: float = 0.0

    @property
    def penalised(self) -> bool:
        return self.shape is not None or self.rate is not None or self.ridge is not None

    def weights(self, observed: np.ndarray, units: np.ndarray) -> np.ndarray:
        """The weights d, from sums of the other factor, (K,) or (n_rows, K), both in stored units."""
        if self.rate is not None:
            rate = self.rate * units
            observed = observed + (rate[0] if len(rate) == 1 else rate)
        if self.zeros is not None:
            observed = np.where(self.zeros, np.inf, observed)
        return observed

    def floor_weights(self, v_sum: np.ndarray) -> np.ndarray:
        """What floors are relative to: the other factor's sums, and inf where an entry is to stay zero."""
        return v_sum if self.zeros is None else np.where(self.zeros, np.inf, v_sum)

    def row_prior(self, units: np.ndarray, dtype: np.dtype) -> RowPrior:
        """The rest of what rules are told, in stored units."""
        with np.errstate(under="ignore"):
            ridge = None if self.ridge is None else (self.ridge * units * units).astype(dtype)
        return RowPrior(self.shape, ridge, self.held, self.zeros is not None)

    def moments(self, A: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each component, from a factor and its column sums: total shape, rate . A, and ridge . A^2 / 2."""
        count = len(A) if self.shape is not None and len(self.shape) == 1 else 1
        shape = np.zeros(len(sums)) if self.shape is None else count * self.shape.sum(axis=0, dtype=np.float64)
        rate, ridge = np.zeros(len(sums)), np.zeros(len(sums))
        if self.rate is not None:
            rate = self.rate[0] * sums if len(self.rate) == 1 else np.einsum("ik,ik->k", self.rate, A)
        if self.ridge is not None:
            ridge = 0.5 * np.einsum("ik,ik,ik->k", np.broadcast_to(self.ridge, A.shape), A, A, dtype=np.float64)
        return shape, rate, ridge

    def penalty(self, A: np.ndarray, sums: np.ndarray, units: np.ndarray) -> float:
        """-log prior, but for constants of the prior, of the factor A * units; nats."""
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
    """The units, (K,), under which the two priors together are most probable, while the rates stay as they are.

    With a_k and b_k the total shapes of the two sides, P_k and Q_k the factors' sums weighted by rates, L_k and R_k
    their halved squares weighted by ridges, they minimise, over s > 0,

        P s + Q / s + L s^2 + R / s^2 - (a - b) log s

    which is convex in log s. Without ridges P s^2 - (a - b) s - Q = 0. They stay at `units` where a component is held,
    where nothing penalises it, and where no s is best, because one side alone is penalised or the other has died: any
    other there might raise the penalty.
    """
    out = units.copy()
    if not (rows.penalised and columns.penalised):
        return out
    (a, P, L), (b, Q, R) = rows.moments(factors[0], sums[0]), columns.moments(factors[1], sums[1])
    more = a - b
    free = (P + L > 0) & (Q + R > 0) | (P + L > 0) & (more > 0) | (Q + R > 0) & (more < 0)
    for terms in (rows, columns):
        if terms.held is not None:
            free &= ~terms.held
    more, P, Q, L, R = (x[free] for x in (more, P, Q, L, R))
    root = np.hypot(more, 2 * np.sqrt(P) * np.sqrt(Q))
    # The two forms of one root, each where it does not cancel
    with np.errstate(divide="ignore", invalid="ignore"):
        s = np.where(more >= 0, (more + root) / (2 * P), 2 * Q / (root - more))
    if L.any() or R.any():
        s = _newton(more, P, Q, L, R, np.where(np.isfinite(s) & (s > 0), s, 1.0))
    out[free] = s
    return out


def _newton(more: np.ndarray, P: np.ndarray, Q: np.ndarray, L: np.ndarray, R: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Minimise P s + Q / s + L s^2 + R / s^2 - more log s over t = log s, by Newton's method with bounded steps."""
    t = np.log(s)
    for _ in range(200):
        up, down = np.exp(t), np.exp(-t)
        slope = P * up - Q * down + 2 * L * up * up - 2 * R * down * down - more
        step = slope / (P * up + Q * down + 4 * L * up * up + 4 * R * down * down)
        t -= np.clip(step, -1.0, 1.0)
        if np.abs(step).max(initial=0.0) < 1e-14:
            break
    return np.exp(t)
