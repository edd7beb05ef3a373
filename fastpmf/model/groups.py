"""Effects of groups of rows, such as batches, on features.

    x_ij ~ Poisson(c_{g(i), j} sum_k W_ik H_jk),      c_gj ~ Gamma(a, a)

where g(i) is the group of row i. Counts of the model cancel c in the contraction: S_ik = sum_j x_ij / (W_i . H_j) H_jk
as without it. Only the sums of the other factor change: those of H are one vector for each group, sum_j c_gj H_jk, and
those of W one for each feature, sum_g c_gj B_gk with B_gk the sum of W_ik over the rows of g.

Given W and H, with m_gj = B_g . H_j, the c_gj that minimise

    sum_gj  m_gj c_gj - x_gj log c_gj + a (c_gj - 1 - log c_gj),     x_gj the counts of feature j in group g,

are c_gj = (x_gj + a) / (m_gj + a): the posterior mode of log c_gj, and its posterior mean given W and H. So a acts like
`a` counts in each group and feature at the rate without an effect.

The likelihood does not determine the scale of c_j, over the groups, against that of H_j, nor the scale of c_g, over the
features, against that of W in the rows of g. The best ones are in closed form: without a prior of H the mean of c_gj
over the groups is 1, and without one of W so is the mean over the features. Updates of c, W and H in turn reach them
slowly.

In mean-field inference the posterior of c_gj is Gamma(x_gj + a, m_gj + a), where m_gj has the posterior means of W and
H. E[log c_gj] cancels in the allocation of counts to components, so that here too only the sums of the other factor
change, with E[c_gj] in place of c_gj.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import gammaln

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import aligned, dot, row_bounds
from fastpmf.kernels.groups import best_effects, effect_sums, group_rates, group_sums, group_weights


@dataclass(frozen=True, eq=False)
class Groups:
    """The groups of the rows of a matrix of counts.

    Attributes
    ----------
    group : ndarray of shape (n,), int64
        The group of each row, from 0 to n_groups - 1.
    counts : ndarray of shape (p, n_groups), float64
        Sums of the counts of each feature over the rows of each group.
    strength : float
        Shape and rate a of the prior of the effects, > 0.
    start : ndarray of shape (p, n_groups), float64
        The effects before the first update.
    """

    group: np.ndarray
    counts: np.ndarray
    strength: float
    start: np.ndarray

    @classmethod
    def of(cls, counts: Counts, group: np.ndarray, start: np.ndarray, strength: float) -> "Groups":
        """The groups of the rows of these counts; one pass."""
        axis, (n, p), n_groups = counts.storage_axis, counts.shape, start.shape[1]
        member = sparse.csr_array((np.ones(n), group, np.arange(n + 1)), shape=(n, n_groups))
        found = np.zeros((p, n_groups))
        for rows, block in counts.blocks():
            X = block.side(axis)
            matrix = sparse.csr_array((X.data, X.indices, X.indptr), shape=(rows.stop - rows.start, X.n_columns))
            if axis is Side.ROWS:
                found += (matrix.T @ member[rows]).toarray()
            else:
                found[rows] = (matrix @ member).toarray()
        return cls(group, found, strength, np.ascontiguousarray(start))

    def of_counts(self, counts: Counts) -> "Groups":
        """The same groups of rows of other counts; one pass."""
        return Groups.of(counts, self.group, self.start, self.strength)

    @property
    def n_groups(self) -> int:
        return self.counts.shape[1]

    def digest(self) -> bytes:
        """What must be equal for a fit to resume from a checkpoint."""
        return self.group.tobytes() + np.float64(self.strength).tobytes()

    def total(self, of_rows: np.ndarray) -> np.ndarray:
        """Sum of a number of each row over each group, (n_groups,), float64."""
        return np.bincount(self.group, of_rows, self.n_groups)

    def sums(self, W: np.ndarray) -> np.ndarray:
        """Sums of the rows of W over each group, (n_groups, K), float64."""
        bounds, n_groups = row_bounds(len(W)), self.n_groups
        out = aligned((len(bounds) - 1) * n_groups, W.shape[1], np.dtype(float))
        group_sums(len(bounds) - 1, W, self.group, bounds, n_groups, out)
        return out.reshape(-1, n_groups, W.shape[1]).sum(axis=0)

    def row_weights(self, Ht: np.ndarray, effects: np.ndarray) -> np.ndarray:
        """sum_j c_gj H_jk for the group of each row, (n, K), dtype of H."""
        return effect_totals(Ht, effects)[self.group]

    def column_weights(self, W: np.ndarray, effects: np.ndarray) -> np.ndarray:
        """sum_g c_gj B_gk for each feature, (p, K), dtype of W."""
        sums, bounds = aligned(self.n_groups, W.shape[1], W.dtype), row_bounds(len(effects))
        sums[:] = self.sums(W)
        out = aligned(len(effects), W.shape[1], W.dtype)
        group_weights(len(bounds) - 1, effects, sums, bounds, out)
        return out

    def rates(self, W: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """m_gj, the sum of the rates without effects over the rows of each group, (p, n_groups), float64."""
        sums, bounds = aligned(self.n_groups, W.shape[1], np.dtype(float)), row_bounds(len(Ht))
        sums[:] = self.sums(W)
        out = np.empty((len(Ht), self.n_groups))
        group_rates(len(bounds) - 1, Ht, sums, bounds, out)
        return out

    def best_effects(self, rates: np.ndarray) -> np.ndarray:
        """The effects that minimise the objective given the `rates`, (p, n_groups)."""
        return (self.counts + self.strength) / (rates + self.strength)

    def best_effects_of(self, W: np.ndarray, Ht: np.ndarray) -> np.ndarray:
        """The effects that minimise the objective given W and H, (p, n_groups); `best_effects` without rates."""
        sums, bounds = aligned(self.n_groups, W.shape[1], W.dtype), row_bounds(len(Ht))
        sums[:] = self.sums(W)
        out = np.empty((len(Ht), self.n_groups))
        best_effects(len(bounds) - 1, Ht, sums, self.counts, self.strength, bounds, out)
        return out

    def gap(self, effects: np.ndarray, rates: np.ndarray) -> float:
        """How much lower the objective is with the best effects given the `rates`, in nats."""
        ratio = effects / self.best_effects(rates)
        return dot(self.counts + self.strength, ratio - 1 - np.log(ratio))

    def best_scale(self, total: np.ndarray, count: int, shape: np.ndarray, cost: np.ndarray) -> np.ndarray:
        """The scale t by which rows of W or H are multiplied and `count` effects, whose sum is `total`, are divided.

        `shape` is the sum over k of shape - 1 of the prior of the factor's row, and `cost` the sum of its rates times
        the row. t minimises a sum_g (c_g / t + log t) + cost t - shape log t; without a prior it is the mean effect.
        """
        if not shape.any() and not cost.any():
            return total / count
        a, slope = self.strength * total, self.strength * count - shape
        root = np.hypot(slope, 2 * np.sqrt(a * cost))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(slope >= 0, 2 * a / (slope + root), (root - slope) / (2 * cost))

    def log_term(self, effects: np.ndarray) -> float:
        """What the effects add to the sum of x log rate, in nats."""
        return dot(self.counts, np.log(effects))

    def row_log_terms(self, counts: Counts, effects: np.ndarray) -> np.ndarray:
        """What the effects add to the sum of x log rate of each row, (n,), float64; counts stored by rows."""
        out, logs = np.empty(counts.shape[0]), np.log(effects)
        for rows, block in counts.blocks():
            X = block.side(Side.ROWS)
            group = np.repeat(self.group[rows], np.diff(X.indptr))
            terms = sparse.csr_array(
                (X.data * logs[X.indices, group], X.indices, X.indptr), shape=(len(X.indptr) - 1, X.n_columns)
            )
            out[rows] = terms.sum(axis=1)
        return out

    def penalty_and_log_term(self, effects: np.ndarray) -> float:
        """Negative log prior of the effects, in nats, 0 if all are 1; minus `log_term`."""
        a = self.strength
        return a * float((effects - 1).sum()) - dot(self.counts + a, np.log(effects))

    def bound(self, effects: np.ndarray, rates: np.ndarray) -> float:
        """The terms of the evidence lower bound with effects, in nats, where `effects` are their posterior means.

        The posterior of c_gj is Gamma(s, s / E[c_gj]) with s = x_gj + a. The terms are those of the rates, x E[log c],
        E[log p(c)] and -E[log q(c)], in which E[log c] cancels.
        """
        a, s = self.strength, self.counts + self.strength
        own = s * (np.log(effects) - np.log(s) + 1) + gammaln(s) - a * effects - rates * effects
        return float((own + (a * math.log(a) - math.lgamma(a))).sum())


def effect_totals(Ht: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """sum_j c_gj H_jk of each group, (n_groups, K), dtype of H; effects (p, n_groups)."""
    bounds, n_groups = row_bounds(len(Ht)), effects.shape[1]
    out = aligned((len(bounds) - 1) * n_groups, Ht.shape[1], np.dtype(float))
    effect_sums(len(bounds) - 1, Ht, effects, bounds, out)
    return out.reshape(-1, n_groups, Ht.shape[1]).sum(axis=0).astype(Ht.dtype)
