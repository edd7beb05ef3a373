"""Hierarchical Poisson factorization: mean-field updates and the evidence lower bound.

    x_ij ~ Poisson(sum_k u_ik v_jk),   u_ik ~ Gamma(a_k, xi_i),   xi_i ~ Gamma(a', a' / b')    rows: activity xi
                                       v_jk ~ Gamma(c_k, eta_j),  eta_j ~ Gamma(c', c' / d')   columns: popularity eta

by shape and rate. In the paper all a_k are equal, and so are all c_k. The posterior is approximated by independent
Gamma distributions of all u, v, xi and eta, and by multinomial distributions of the allocation of each count to
components. Each is set to its optimum given the others, in turn, which never lowers the bound on the log evidence. The
allocations are never formed: with Ũ = exp E[log u],

    shape_ik = a_k + Ũ_ik S_ik,  S_ik = sum_j x_ij / (Ũ_i . Ṽ_j) Ṽ_jk,     rate_ik = E[xi_i] + sum_j E[v_jk]
    xi_i:  shape a' + sum_k a_k,   rate a' / b' + sum_k E[u_ik]

which is the contraction of the multiplicative update with geometric means as factors. Without the hierarchy xi_i is b'.
With effects of groups of rows see `fastpmf.model.groups`. Entries may have shapes of their own, a_k + e_ik with e_ik >=
0: then the shape of the posterior has e_ik more, and that of xi_i the sum of e_ik over k.

Source: P. Gopalan, J. M. Hofman and D. M. Blei, "Scalable recommendation with hierarchical Poisson factorization", UAI
2015 (arXiv:1311.1704), figure 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import digamma, gammaln, polygamma

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import aligned, aligned_copy, column_sums, dot, empty_factor, padded_width, row_bounds
from fastpmf.kernels.posterior import posterior_terms, update_posterior
from fastpmf.kernels.threads import current_threads
from fastpmf.model.groups import Groups
from fastpmf.utils.validation import check_shape_dtype

# Entries of exp E[log u] are raised to this share of the largest in their row: so small that no allocation changes, and
# large enough that a product of two is a normal number.
_MIN_SHARE = {np.dtype(np.float32): 1e-18, np.dtype(np.float64): 1e-150}
_BLOCK = 1 << 13  # rows that `mean_logs` transposes at a time


@dataclass(frozen=True, eq=False)
class EntryShapes:
    """What the prior shapes of single entries have beyond the shape of their component.

    Attributes
    ----------
    rows, components : ndarray of shape (m,), intp
        The entries.
    extra : ndarray of shape (m,), float64
        e_ik > 0 of each.
    """

    rows: np.ndarray
    components: np.ndarray
    extra: np.ndarray

    @classmethod
    def of(cls, extra: np.ndarray) -> "EntryShapes | None":
        """From e (n_rows, n_components); None if it is 0."""
        rows, components = np.nonzero(extra)
        return cls(rows, components, extra[rows, components].astype(np.float64)) if len(rows) else None

    @property
    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        return self.rows, self.components

    def sums(self, n_rows: int) -> np.ndarray:
        """Sums over the components, (n_rows,)."""
        return np.bincount(self.rows, self.extra, n_rows)

    def select_rows(self, rows: slice) -> "EntryShapes":
        here = (self.rows >= rows.start) & (self.rows < rows.stop)
        return EntryShapes(self.rows[here] - rows.start, self.components[here], self.extra[here])

    def add_to(self, S: np.ndarray, U: np.ndarray, times: float) -> None:
        """Add e / (times U) to a contraction S, in place, so that times U S has e more; zeros of U are raised."""
        U[self.entries] = np.maximum(U[self.entries], _MIN_SHARE[U.dtype])
        S[self.entries] += (self.extra / (times * U[self.entries].astype(np.float64))).astype(S.dtype)


@dataclass(frozen=True)
class GammaPrior:
    """Prior of one factor, with the names that the paper uses for rows.

    Attributes
    ----------
    shape : float or tuple of float, of length n_components
        a of all entries, or a_k of those of each component.
    activity_shape : float
        a', shape of the rate of a row.
    activity_mean : float
        b', prior mean of the rate of a row; the prior's rate is activity_shape / activity_mean.
    hierarchical : bool
        Whether the rate of a row has a posterior; otherwise it is activity_mean.
    entries : EntryShapes, optional
        Shapes of single entries.
    """

    shape: float | tuple[float, ...]
    activity_shape: float
    activity_mean: float
    hierarchical: bool = True
    entries: EntryShapes | None = None

    @property
    def activity_rate(self) -> float:
        return self.activity_shape / self.activity_mean

    def shapes(self, n_components: int) -> np.ndarray:
        """The shape of each component, (n_components,), float64."""
        return np.full(n_components, self.shape, dtype=np.float64)

    def entry_shapes(self, n_components: int, n_rows: int) -> np.ndarray:
        """The shape of each entry, (1 or n_rows, n_components), float64; one row if single entries have no own."""
        shapes = self.shapes(n_components)[None]
        if self.entries is None:
            return shapes
        shapes = shapes.repeat(n_rows, axis=0)
        shapes[self.entries.entries] += self.entries.extra
        return shapes

    def posterior_activity_shape(self, n_components: int, n_rows: int) -> float | np.ndarray:
        """Shape of the posterior of the rate of a row: one for all rows, or with shapes of entries one for each."""
        shape = self.activity_shape + self.shape_sum(n_components)
        return shape if self.entries is None else shape + self.entries.sums(n_rows)

    def select_rows(self, rows: slice) -> "GammaPrior":
        """The prior of some rows of the factor."""
        return self if self.entries is None else replace(self, entries=self.entries.select_rows(rows))

    def shape_sum(self, n_components: int) -> float:
        """Sum of the shapes of all components."""
        return math.fsum(self.shape) if isinstance(self.shape, tuple) else n_components * self.shape

    def to_numbers(self) -> list[Any]:
        """All fields but `entries` as a list for a file, as `from_numbers` reads it."""
        shape = list(self.shape) if isinstance(self.shape, tuple) else self.shape
        return [shape, self.activity_shape, self.activity_mean, self.hierarchical]

    @classmethod
    def from_numbers(cls, numbers: Any, n_components: int) -> "GammaPrior":
        """The inverse of `to_numbers`."""
        shape, activity_shape, activity_mean, hierarchical = numbers
        shapes = [float(x) for x in shape] if isinstance(shape, list) else float(shape)
        if isinstance(shapes, list) and len(shapes) != n_components:
            raise ValueError(f"a prior of {len(shapes)} components instead of {n_components}")
        prior = cls(
            tuple(shapes) if isinstance(shapes, list) else shapes, float(activity_shape), float(activity_mean),
            bool(hierarchical),
        )  # fmt: skip
        if not all(0 < x < math.inf for x in (*prior.shapes(n_components), prior.activity_shape, prior.activity_mean)):
            raise ValueError(f"a prior of {numbers}")
        return prior


@dataclass
class GammaFactor:
    """Posteriors of the entries of one factor and of the rates of its rows; padded.

    Attributes
    ----------
    n_components : int
    mean : ndarray of shape (n_rows, K)
        E[u].
    geometric : ndarray of shape (n_rows, K)
        exp E[log u] times exp(offset) of the row.
    shape : ndarray of shape (n_rows, K)
    rate_of_row : ndarray of shape (n_rows,), float64
    weight : ndarray of shape (1 or n_rows, K)
        The rates of the entries are rate_of_row + weight; inf in padding.
    sums : ndarray of shape (K,), float64
        Column sums of `mean`.
    row_sum, offset : ndarray of shape (n_rows,), float64
    activity_shape : float or ndarray of shape (n_rows,)
        Shape of the posteriors of the rates xi of the rows.
    activity_rate : ndarray of shape (n_rows,), float64
    """

    n_components: int = field(metadata={"saved": False})
    mean: np.ndarray
    geometric: np.ndarray
    shape: np.ndarray
    rate_of_row: np.ndarray
    weight: np.ndarray
    sums: np.ndarray
    row_sum: np.ndarray
    offset: np.ndarray
    activity_shape: float | np.ndarray
    activity_rate: np.ndarray

    @classmethod
    def from_arrays(cls, parts: dict[str, Any], n_components: int) -> "GammaFactor":
        """The factor whose attributes were saved by name; a ValueError if a shape or dtype is wrong for the kernels."""
        dtype, n = parts["mean"].dtype, len(parts["mean"])
        width, double = padded_width(n_components, dtype), np.dtype(float)
        activity_shape = parts["activity_shape"]
        if np.ndim(activity_shape):
            activity_shape = check_shape_dtype(activity_shape, (n,), double, "activity_shape")
        found: dict[str, Any] = {"activity_shape": activity_shape if np.ndim(activity_shape) else float(activity_shape)}
        for name in ("mean", "geometric", "shape"):
            found[name] = aligned_copy(check_shape_dtype(parts[name], (n, width), dtype, name))
            if not n or not (np.isfinite(found[name]).all() and (found[name] >= 0).all()):
                raise ValueError(f"{name} that is not finite and >= 0")
        for name in ("rate_of_row", "row_sum", "offset", "activity_rate"):
            found[name] = check_shape_dtype(parts[name], (n,), double, name)
        rows = 1 if len(parts["weight"]) == 1 else n
        found["weight"] = aligned_copy(check_shape_dtype(parts["weight"], (rows, width), dtype, "weight"))
        return cls(n_components, **found, sums=check_shape_dtype(parts["sums"], (width,), double, "sums"))

    @classmethod
    def start(cls, A: np.ndarray, prior: GammaPrior, n_components: int) -> "GammaFactor":
        """A factor with means and geometric means A; it has no posterior before the first `update`."""
        rows, one = np.zeros(len(A)), np.ones((1, A.shape[1]), A.dtype)
        row_sum = A.sum(axis=1, dtype=np.float64)
        shape, rate = prior.posterior_activity_shape(n_components, len(A)), prior.activity_rate + row_sum
        return cls(
            n_components, A, A.copy(), np.zeros_like(A), rows, one, column_sums(A), row_sum, rows.copy(), shape, rate
        )

    def expected_rate(self, prior: GammaPrior) -> np.ndarray:
        """E[xi] of each row."""
        if not prior.hierarchical:
            return np.full(len(self.mean), prior.activity_mean)
        return self.activity_shape / self.activity_rate

    def select_rows(self, rows: Any) -> "GammaFactor":
        """The factor of some rows, by numbers or a slice (views), whose `weight` is set by the next update."""
        selected: dict[str, Any] = {name: getattr(self, name)[rows] for name in ROW_ATTRIBUTES}
        shape = self.activity_shape
        return replace(self, **selected, activity_shape=shape[rows] if isinstance(shape, np.ndarray) else shape)

    @classmethod
    def joined(cls, parts: "list[GammaFactor]", rows: np.ndarray, weight: np.ndarray) -> "GammaFactor":
        """The factor that consists of parts; `rows` are the numbers of their rows, one part after the other."""
        order = np.argsort(rows)
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts])[order] for name in ROW_ATTRIBUTES
        }
        return replace(parts[0], **joined, weight=weight, sums=joined["mean"].sum(axis=0, dtype=np.float64))

    def put(self, rows: slice, part: "GammaFactor") -> None:
        """Replace some rows by those of `part`."""
        for name in ROW_ATTRIBUTES:
            getattr(self, name)[rows] = getattr(part, name)

    def rates(self) -> np.ndarray:
        """Posterior rates of the entries, (n_rows, K)."""
        return self.rate_of_row[:, None].astype(self.mean.dtype) + self.weight


ROW_ATTRIBUTES = ("mean", "geometric", "shape", "rate_of_row", "row_sum", "offset", "activity_rate")


class Step(NamedTuple):
    """A stochastic step.

    Attributes
    ----------
    length : float
        Weight of the mini-batch.
    times : float
        Number of rows that each row of the mini-batch stands for.
    """

    length: float
    times: float


FULL_STEP = Step(1.0, 1.0)


def weights(
    counts: Counts, side: Side, other: GammaFactor, groups: Groups | None = None, effects: np.ndarray | None = None
) -> np.ndarray:
    """Sums of the means of the other factor over the observed entries of each row, (1 or n_rows, K), inf in padding.

    With groups, each mean times the mean of the effect of the entry; `effects` are these means, (p, n_groups).
    """
    if groups is None or effects is None:
        observed = counts.observed_sums(side, other.mean, other.sums)
    else:
        observed = (groups.row_weights, groups.column_weights)[side](other.mean, effects)
    out = np.array(np.atleast_2d(observed), dtype=other.mean.dtype)
    out[:, other.n_components :] = np.inf
    return out


def update(
    counts: Counts, side: Side, factor: GammaFactor, other: GammaFactor, prior: GammaPrior, scratch: np.ndarray,
    step: Step = FULL_STEP,
) -> np.ndarray:  # fmt: skip
    """Set the posteriors of the entries of a factor, then of the rates of its rows, to their optimum, in place.

    Parameters
    ----------
    counts : Counts of shape (n, p)
    side : Side
        Side of the factor.
    factor, other : GammaFactor
    prior : GammaPrior
    scratch : ndarray of shape (n_rows, K)
    step : Step, optional

    Returns
    -------
    ndarray of shape (n_rows,), float64
        As in `update_given_contraction`.
    """
    counts.contract(side, factor.geometric, other.geometric, scratch)
    return update_given_contraction(factor, scratch, weights(counts, side, other), prior, step)


def update_given_contraction(
    factor: GammaFactor, S: np.ndarray, weight: np.ndarray, prior: GammaPrior, step: Step = FULL_STEP
) -> np.ndarray:
    """The update, given the contraction S of the geometric means and the `weights`.

    With a step of length rho on a mini-batch that stands for `times` as many counts it is a step along the natural
    gradient of the bound: parameters become (1 - rho) old + rho (their optimum if all counts were like these).

    Returns
    -------
    ndarray of shape (n_rows,), float64
        How far each row moved, in counts: half the sum of rate |mean - old mean|, the counts that are reallocated to
        another component if rates stay. NaN if a rate is not positive and finite.

    References
    ----------
    M. D. Hoffman, D. M. Blei, C. Wang and J. Paisley, "Stochastic variational inference", JMLR 14 (2013), figure 4.
    """
    U, bounds, n_components = factor.geometric, row_bounds(len(factor.mean)), factor.n_components
    if step != FULL_STEP:
        old, new = (A[:, :n_components] for A in (factor.weight, weight))
        new[:] = (1 - step.length) * old + step.length * step.times * new
    rate_of_row = factor.expected_rate(prior)
    if prior.entries is not None:
        prior.entries.add_to(S, U, float(step.times))
    shapes = empty_factor(1, n_components, U.dtype)
    shapes[0, :n_components] = prior.shapes(n_components)
    sums, moved = aligned(len(bounds) - 1, U.shape[1], np.dtype(float)), np.full(len(U), -1.0)
    try:
        update_posterior(
            len(sums), S, shapes, rate_of_row, weight, bounds, len(weight) > 1, _MIN_SHARE[U.dtype], float(step.length),
            float(step.times), U, factor.mean, factor.shape, sums, factor.row_sum, factor.offset, moved,
            aligned(current_threads(), U.shape[1], U.dtype),
        )  # fmt: skip
    finally:
        if (moved != -1).all():  # the kernel was complete; Ctrl-C as it returns must not separate its results
            factor.rate_of_row, factor.weight, factor.sums = rate_of_row, weight, sums.sum(axis=0)
            if prior.hierarchical:
                factor.activity_shape = prior.posterior_activity_shape(n_components, len(U))
                factor.activity_rate = prior.activity_rate + factor.row_sum
    return 0.5 * moved


def evidence_bound(
    counts: Counts, factors: Sequence[GammaFactor], priors: Sequence[GammaPrior], groups: Groups | None = None,
    effects: np.ndarray | None = None,
) -> float:  # fmt: skip
    """The evidence lower bound of these posteriors, with the optimal allocation of counts, in nats.

    It is E[log p(X, u, v, xi, eta)] - E[log q], exact except for entries raised to `_MIN_SHARE`, in float64. With
    groups it has the terms of their effects, whose posterior means are `effects`, (p, n_groups).
    """
    bounds = sum(factor_bound(factor, prior) for factor, prior in zip(factors, priors, strict=True))
    return data_bound(counts, factors, groups, effects) + bounds


def data_bound(
    counts: Counts, factors: Sequence[GammaFactor], groups: Groups | None = None, effects: np.ndarray | None = None
) -> float:
    """The terms of the bound with counts, and those of effects of groups, in nats."""
    W, H = factors
    logs = float(counts.log_rate(W.geometric, H.geometric).sum())
    for side, factor in zip(Side, factors, strict=True):
        logs -= dot(counts.sums(side), factor.offset)
    if groups is not None and effects is not None:
        return logs + groups.bound(effects, groups.rates(W.mean, H.mean)) - counts.log_factorial
    return logs - counts.rate_total(W.mean, H.mean, W.sums, H.sums) - counts.log_factorial


def factor_bound(factor: GammaFactor, prior: GammaPrior) -> float:
    """The terms of the bound of one factor, in nats."""
    A, bounds, n_components = factor.shape, row_bounds(len(factor.shape)), factor.n_components
    shapes = empty_factor(1, n_components, A.dtype)
    shapes[0, :n_components] = prior.shapes(n_components)
    terms = np.empty(len(bounds) - 1)
    per_row = len(factor.weight) > 1
    posterior_terms(len(terms), A, shapes, factor.rate_of_row, factor.weight, bounds, per_row, terms, np.empty(len(A)))
    return float(terms.sum()) + _row_terms(factor, prior) + _entry_terms(factor, prior)


def _entry_terms(factor: GammaFactor, prior: GammaPrior) -> float:
    """What shapes of single entries add: e E[log u], and log Gamma(a_k) - log Gamma(a_k + e)."""
    if prior.entries is None:
        return 0.0
    at, extra = prior.entries.entries, prior.entries.extra
    weight = np.broadcast_to(factor.weight, factor.mean.shape)[at]
    rate = (factor.rate_of_row[at[0]].astype(weight.dtype) + weight).astype(np.float64)
    own = prior.shapes(factor.n_components)[at[1]]
    log_mean = digamma(factor.shape[at].astype(np.float64)) - np.log(rate)
    return float((extra * log_mean + gammaln(own) - gammaln(own + extra)).sum())


def _row_terms(factor: GammaFactor, prior: GammaPrior) -> float:
    """The terms of the bound with the rates of rows: the rest of E[log p(u | xi)], and those of xi itself."""
    n, total = len(factor.mean), np.full(len(factor.mean), prior.shape_sum(factor.n_components))
    if prior.entries is not None:
        total += prior.entries.sums(n)
    constant = math.fsum(map(math.lgamma, prior.shapes(factor.n_components)))
    if not prior.hierarchical:
        return (
            float(total.sum()) * math.log(prior.activity_mean) - n * constant - prior.activity_mean * factor.sums.sum()
        )
    shape, rate, b = factor.activity_shape, factor.activity_rate, prior.activity_rate
    mean, log_mean = shape / rate, digamma(shape) - np.log(rate)
    out = total * log_mean - constant - mean * factor.row_sum
    out += prior.activity_shape * math.log(b) - math.lgamma(prior.activity_shape) - b * mean
    out += (prior.activity_shape - shape) * log_mean - shape * np.log(rate) + gammaln(shape) + shape
    return float(out.sum())


def best_prior(factor: GammaFactor, prior: GammaPrior) -> GammaPrior:
    """The hyperparameters that maximise the bound while all posteriors stay: empirical Bayes.

    With means over the rows,

        digamma(a_k) = mean E[log u_k] + mean E[log xi]
        b' = mean E[xi],  log a' - digamma(a') = log b' - mean E[log xi]

    Without the hierarchy xi_i = b' = sum_k a_k / mean sum_k E[u_k].

    Each component has its own shape, so the shape of a component that the counts do not support goes to zero, and with
    it its part of all rates (automatic relevance determination). A shared shape would have to suit the supported ones.
    """
    logs = mean_logs(factor)
    if not prior.hierarchical:
        mean = float(factor.sums.sum()) / len(factor.mean)

        def excess(log_total: float) -> float:  # log of the sum of the shapes given b', minus log_total
            return math.log(_inverse_digamma(logs + log_total - math.log(mean)).sum()) - log_total

        low, high = math.log(1e-8), math.log(1e12)
        total = math.exp(high if excess(high) > 0 else low if excess(low) < 0 else brentq(excess, low, high))
        shapes = _inverse_digamma(logs + math.log(total / mean))
        return GammaPrior(tuple(shapes.tolist()), prior.activity_shape, total / mean, hierarchical=False)
    shape, rate = factor.activity_shape, factor.activity_rate
    log_xi, mean = float(np.mean(digamma(shape) - np.log(rate))), float(np.mean(shape / rate))
    shapes = _inverse_digamma(logs + log_xi)
    return GammaPrior(tuple(shapes.tolist()), _shape_of(math.log(mean) - log_xi), mean)


def mean_logs(factor: GammaFactor) -> np.ndarray:
    """Means over the rows of E[log u_k], (n_components,), float64.

    `posterior_terms` sums over the entries of a row, so it gets the transposed factor, a block of rows at a time.
    """
    n, k, dtype = len(factor.mean), factor.n_components, factor.mean.dtype
    per_row = len(factor.weight) > 1
    bounds, logs = np.arange(k + 1), np.zeros(k)
    for first in range(0, n, _BLOCK):
        rows = slice(first, min(first + _BLOCK, n))
        m = rows.stop - rows.start
        shape, weight = empty_factor(k, m, dtype), empty_factor(k if per_row else 1, m, dtype)
        shape[:, :m] = factor.shape[rows, :k].T
        present = (shape[:1] > 0).astype(dtype)  # the kernel skips entries whose prior shape is 0
        if per_row:
            weight[:, :m], rates = factor.rates()[rows, :k].T, np.zeros(k)
        else:
            weight[0, :m], rates = factor.rate_of_row[rows], factor.weight[0, :k].astype(np.float64)
        sums = np.empty(k)
        posterior_terms(k, shape, present, rates, weight, bounds, per_row, np.empty(k), sums)
        logs += sums
    return logs / n


def _inverse_digamma(y: np.ndarray) -> np.ndarray:
    """x > 0 with digamma(x) = y, by Newton's method from Minka's start."""
    low = y < -2.22
    x = np.where(low, -1 / (np.where(low, y, -2.22) - digamma(1.0)), np.exp(np.where(low, 0, y)) + 0.5)
    for _ in range(8):
        x -= (digamma(x) - y) / polygamma(1, x)
    return x


def _shape_of(gap: float) -> float:
    """The shape of a Gamma distribution with log E[u] - E[log u] = gap > 0: log a - digamma(a) = gap, by bisection."""
    low, high = math.log(1e-8), math.log(1e12)
    for _ in range(100):
        middle = 0.5 * (low + high)
        a = math.exp(middle)
        low, high = (middle, high) if middle - digamma(a) > gap else (low, middle)
    return math.exp(0.5 * (low + high))
