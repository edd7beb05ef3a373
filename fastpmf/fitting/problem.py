"""From counts, priors and `FitData` to the problem that the solvers minimise.

With exposures r and c, weights w, a background b and fixed parts, the model is

    x_ij ~ Poisson(r_i c_j (W_i . H_j + b_j)),    log-likelihood and log prior of row i times w_i

Solvers see counts w_i x_ij and rates W' H' with W' = diag(w r) W and H' = H diag(c), since w_i D(x_i || mu_i) is
D(w_i x_i || w_i mu_i). Priors are converted to these units, and the background is one more component, which is fixed.
"""

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import dot, empty_factor, padded, padded_width
from fastpmf.core.ranges import check_component_sums, check_entries, check_scale
from fastpmf.counts import MemoryCounts
from fastpmf.counts.masked import hide_entries, weight_rows
from fastpmf.fitting.options import NO_PENALTIES, FitData, KnownEffects, Penalties
from fastpmf.model.groups import Groups
from fastpmf.model.init import seed_start
from fastpmf.model.priors import AUTO_RATE, AUTO_SHAPE, Terms
from fastpmf.solvers import Problem
from fastpmf.utils.cached import cached_property
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_array, check_factor
from fastpmf.utils.warnings import warn

# Shapes of named priors. A shape above 1 acts like shape - 1 counts in each component, too much for many components and
# few counts in a row. There shape 1, an L1 penalty, gave the best recommendations.
SHAPES = {"auto": AUTO_SHAPE, "sparse": 1.0}
_MODERATE = 24  # components that sum to between 2**-24 and 2**24 are of moderate size
REAL_OR_NAN = "real numbers and NaN"  # what a partly fixed factor holds


class FactorPrior(NamedTuple):
    """Prior of one factor in the user's units: shape - 1, rate and ridge, each (1 or n_rows, n_components)."""

    shape: np.ndarray
    rate: np.ndarray
    ridge: np.ndarray


class FixedPart(NamedTuple):
    """The fixed entries of a factor, with components as columns.

    Attributes
    ----------
    values : ndarray of shape (n_rows, n_components), or None
    components : ndarray of shape (n_components,), bool, or None
        Components of which all entries are fixed.
    zeros : ndarray of shape (n_rows, n_components), bool, or None
        Single entries that are fixed at 0.
    """

    values: np.ndarray | None = None
    components: np.ndarray | None = None
    zeros: np.ndarray | None = None


@dataclass(frozen=True)
class FactorSpec:
    """One factor as the solver sees it.

    Attributes
    ----------
    terms : Terms
        Prior and fixed parts, in the units of the solver.
    scale : ndarray of shape (n_rows,), float64
        The factor of the solver is that of the user times this: W' = scale W and H' = H scale.
    fixed : FixedPart
        In the user's units, without a background.
    fixed_values : ndarray of shape (n_rows, K), or None
        Fixed values in the units of the solver, with a background.
    """

    terms: Terms
    scale: np.ndarray
    fixed: FixedPart
    fixed_values: np.ndarray | None

    def start(self, A: np.ndarray, n_components: int) -> np.ndarray:
        """A padded starting factor from A, which has columns for the free components; with all fixed parts."""
        K, terms, values = n_components, self.terms, self.fixed_values
        B = empty_factor(len(A), K, A.dtype)
        fixed = np.zeros(K, bool) if terms.fixed is None else terms.fixed[:K]
        if not fixed.all():
            B[:, : min(A.shape[1], B.shape[1])] = A[:, : B.shape[1]]
        if terms.zeros is not None:
            B[terms.zeros] = 0
        with np.errstate(under="ignore"):
            if values is not None and fixed.all():
                B[:, :K] = values
            elif values is not None:
                B[:, :K][:, fixed] = values[:, fixed]
        return B

    def in_user_units(self, A: np.ndarray) -> np.ndarray:
        """The factor in the user's units, without padding and background; fixed values are exact (bitwise)."""
        part = self.fixed
        with np.errstate(over="ignore", under="ignore"):  # the caller rejects factors that are not finite
            A = A / self.scale[:, None]
            if part.values is not None and part.components is not None:
                A[:, part.components] = part.values[:, part.components]
        return A


@dataclass(frozen=True, kw_only=True)
class FitProblem(Problem):
    """A problem in the units of the solver, and the conversion of its factors to the user's units.

    `counts` are weighted and without unobserved entries.

    Attributes
    ----------
    n_free : int
        Components without that of the background.
    specs : (FactorSpec, FactorSpec)
        W and H transposed.
    group_names : ndarray of shape (n_groups,), or None
        Names of the groups of rows, in the order of their numbers.
    zero_weight_rows : ndarray of int
        Rows of weight 0, which the solver does not see.
    penalties : Penalties
        Named priors as numbers.
    """

    n_free: int
    specs: tuple[FactorSpec, FactorSpec]
    group_names: np.ndarray | None = None
    zero_weight_rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.intp))
    penalties: Penalties = NO_PENALTIES

    @cached_property
    def has_user_units(self) -> bool:
        """Whether the stored factors, without padding, are W and H of the user."""
        if self.n_components != self.n_free or any(terms.penalised for terms in self.terms):
            return False
        return all((spec.scale == 1).all() for spec in self.specs)

    @property
    def scales(self) -> tuple[np.ndarray, np.ndarray]:
        """The scales of both factors, see `FactorSpec`."""
        return self.specs[0].scale, self.specs[1].scale

    @property
    def has_fixed_parts(self) -> bool:
        return any(terms.fixed is not None or terms.zeros is not None for terms in self.terms)

    @property
    def background(self) -> np.ndarray:
        """The row of H' that is the background, (p,); only if there is one."""
        values = self.specs[1].fixed_values
        assert values is not None
        return values[:, -1]

    def start(self, W: np.ndarray, Ht: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Padded starting factors, see `FactorSpec.start`."""
        rows, columns = self.specs
        return rows.start(W, self.n_components), columns.start(Ht, self.n_components)

    def rescale_start(self, W: np.ndarray, Ht: np.ndarray) -> None:
        """Divide, in place, the free factor of components that are fixed in the other one by the size of these.

        Components of moderate size are not changed, nor any if there is an L2 penalty.
        """
        if any(terms.ridge is not None for terms in self.terms):
            return
        K, fixed = self.n_components, [spec.terms.fixed for spec in self.specs]
        for side, A in ((Side.ROWS, Ht), (Side.COLUMNS, W)):
            own, other, known = fixed[side], fixed[side.other], self.specs[side].fixed_values
            if own is None or known is None:
                continue
            single = own[:K] if other is None else own[:K] & ~other[:K]
            sums = known.sum(axis=0, dtype=np.float64)
            power = np.floor(np.log2(sums, where=single & (sums > 0), out=np.zeros(K)))
            power[np.abs(power) <= _MODERATE] = 0
            A[:, :K] *= np.exp2(-power).astype(A.dtype)

    def seed_start(self, W: np.ndarray, Ht: np.ndarray) -> None:
        """Move a random start, in place, towards what priors of single entries expect, see `seed_start`."""
        k, (rows, columns) = self.n_free, read_priors(self.penalties, self.n_free, self.counts.shape)
        fixed = [np.zeros(k, bool) if terms.fixed is None else terms.fixed[:k] for terms in self.terms]
        seed_start(self.counts, (W, Ht), (rows.shape, columns.shape), (~fixed[0], ~fixed[1]))
        for terms, A in zip(self.terms, (W, Ht), strict=True):
            if terms.zeros is not None:
                A[terms.zeros] = 0

    def effects_of(self, state: Any) -> np.ndarray | None:
        """As in `Problem`; those of a single group are 1."""
        if self.groups is None and self.group_names is not None:
            return np.ones((1, self.counts.shape[1]))
        return super().effects_of(state)

    def in_user_units(self, W: np.ndarray, Ht: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """W and H of the free components; fixed values are exact (bitwise)."""
        if self.has_user_units:
            return W, Ht.T
        (rows, columns), k, dtype = self.specs, self.n_free, W.dtype
        with np.errstate(over="ignore", under="ignore"):  # the caller rejects factors that are not finite
            W = rows.in_user_units(W[:, :k] * units[:k]).astype(dtype)
            Ht = columns.in_user_units(Ht[:, :k] / units[:k]).astype(dtype)
        return W, Ht.T


def build_problem(
    counts: Counts, n_components: int, dtype: np.dtype, penalties: Penalties, data: FitData
) -> FitProblem:
    """Check priors and data, and convert them to the units of the solver.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    """
    n, p = counts.shape
    k = n_components
    r = vector(data.row_exposure, n, "row_exposure")
    c = vector(data.column_exposure, p, "column_exposure")
    w = vector(data.sample_weight, n, "sample_weight", zero=True)
    b = None if data.background is None else non_negative_vector(data.background, p, "background")
    fixed = _fixed_part(data.fixed_W, (n, k), "fixed_W", "column"), fixed_part_of_H(data.fixed_H, (k, p))
    for scale, name in ((r, "row_exposure"), (c, "column_exposure"), (w, "sample_weight")):
        check_scale(scale, dtype, name)
    if isinstance(counts, MemoryCounts):
        counts = hide_entries(counts, data.mask)
        if data.sample_weight is not None and (w != 1).any():
            counts = weight_rows(counts, w, dtype)
    penalties = resolve_named_priors(penalties, k, counts.total, _total_exposure(counts, r * w, c))
    priors = read_priors(penalties, k, counts.shape)
    specs = (
        factor_spec(priors[0], fixed[0], r, dtype, Side.ROWS, weight=w, background=None if b is None else 1.0),
        factor_spec(priors[1], fixed[1], c, dtype, Side.COLUMNS, background=b),
    )
    check_specs(specs, counts.shape, k, dtype, counts.observed_sums)
    names, groups = build_groups(counts, data, penalties.prior_groups)
    if groups is not None and not isinstance(data.groups, KnownEffects):
        check_mode_with_groups((specs[0].terms, specs[1].terms), groups)
    return FitProblem(
        counts, k + (b is not None), (specs[0].terms, specs[1].terms), groups, n_free=k, specs=specs,
        group_names=names, zero_weight_rows=np.flatnonzero(w == 0), penalties=penalties,
    )  # fmt: skip


def build_groups(counts: Counts, data: FitData, strength: float) -> tuple[np.ndarray | None, Groups | None]:
    """Names of the groups of the rows, None without groups, and the groups; one pass over the counts.

    A single group has no effects, since H has them, unless H is fixed.
    """
    check_beside_groups(data)
    if data.groups is None:
        return None, None
    if isinstance(data.groups, KnownEffects):
        return None, Groups.of(counts, *data.groups, strength)
    n = counts.shape[0]
    names, group = number_groups(data.groups, n)
    check_number_of_groups(names, n, data.fixed_H)
    if len(names) == 1 and data.fixed_H is None:
        return names, None
    return names, Groups.of(counts, group, np.ones((counts.shape[1], len(names))), strength)


def check_beside_groups(data: FitData) -> None:
    """Raise an error if groups are given together with what excludes them."""
    for name in ("mask", "validation"):
        if data.groups is not None and getattr(data, name) is not None:
            raise ValueError(f"{name} must be None with groups")


def check_number_of_groups(names: np.ndarray, n: int, fixed_H: Any) -> None:
    """Raise an error if each row has a group of its own, unless H is fixed."""
    if fixed_H is None and len(names) == n > 1:
        raise ValueError(f"groups must have fewer groups than X has rows, got one for each of {n} rows")


def number_groups(groups: Any, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Names of the groups, sorted, and the number of the group of each row, (n,), int64."""
    names, group = np.unique(check_group_labels(groups, n), return_inverse=True)
    return names, group.astype(np.int64)


def check_group_labels(groups: Any, n: int, name: str = "groups") -> np.ndarray:
    """One label for each row, (n,): all strings, or all numbers; `name` is the argument's name, for messages."""
    labels = np.asarray(groups, dtype=object if isinstance(groups, list | tuple) else None)  # else all become strings
    if labels.shape != (n,):
        raise ValueError(f"{name} must have one label for each of {n} rows, got shape {labels.shape}")
    if labels.dtype.kind == "O":
        values = labels.tolist()
        if all(isinstance(label, str) for label in values):
            labels = labels.astype(str)
        elif all(isinstance(label, int | float | np.number) for label in values):
            labels = np.array(values)
        else:
            kinds = ", ".join(sorted({type(label).__name__ for label in values}))
            raise TypeError(f"{name} must be all strings or all numbers, got {kinds}")
    if labels.dtype.kind not in "biufU":
        raise TypeError(f"{name} must be all strings or all numbers, got {labels.dtype}")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(f"{name} must have a label for each row, got NaN")
    return labels


def factor_spec(
    prior: FactorPrior, fixed: FixedPart, exposure: np.ndarray, dtype: np.dtype, side: Side, *,
    weight: np.ndarray | None = None, background: np.ndarray | float | None = None,
) -> FactorSpec:  # fmt: skip
    """Convert the prior and the fixed part of a factor to the units of the solver.

    Parameters
    ----------
    prior : FactorPrior
    fixed : FixedPart
    exposure : ndarray of shape (n_rows,)
    dtype : dtype
    side : Side
    weight : ndarray of shape (n_rows,), optional
        Weights of the prior in each row. The solver does not see rows of weight 0: their fixed part is 0.
    background : ndarray of shape (n_rows,), or float, optional
        The fixed last component, in the user's units, if there is one.
    """
    check_entries(np.concatenate(prior), dtype, ("prior_W or alpha_W", "prior_H or alpha_H")[side])
    weight = np.ones(len(exposure)) if weight is None else weight
    scale, k = exposure * weight, prior.shape.shape[1]
    values, components = fixed.values, fixed.components
    if values is not None:
        values = values if (scale == 1).all() else values * scale[:, None]
    if background is not None:
        values = np.zeros((len(scale), k)) if values is None else values
        values = np.concatenate([values, (scale * background)[:, None]], axis=1)
        components = np.append(np.zeros(k, bool) if components is None else components, True)
    if values is not None:
        check_entries(values, dtype, _fixed_name(side, background=background is not None))
    width = padded_width(k + (background is not None), dtype)
    terms = prior_terms(weight, exposure, prior, FixedPart(values, components, fixed.zeros), width, dtype)
    return FactorSpec(terms, np.where(weight > 0, scale, exposure), fixed, values)


def _fixed_name(side: Side, *, background: bool) -> str:
    name = "fixed_W" if side is Side.ROWS else "fixed_H or background" if background else "fixed_H"
    return f"{name}, times exposures and weights,"


def check_specs(
    specs: tuple[FactorSpec, FactorSpec], shape: tuple[int, int], k: int, dtype: np.dtype,
    observed_sums: Callable[[Side, np.ndarray, np.ndarray], np.ndarray] = lambda side, V, v_sum: v_sum,
) -> None:  # fmt: skip
    """Check the priors and fixed parts of both factors together.

    Parameters
    ----------
    specs : (FactorSpec, FactorSpec)
        If all rows of W have the same exposure and nothing is fixed of them, a single row is enough.
    shape : (int, int)
        Shape of the counts.
    k : int
        Components without that of the background.
    dtype : dtype
    observed_sums : callable, optional
        `Counts.observed_sums`; by default all entries are observed.

    Raises
    ------
    ValueError
        If there is no posterior mode, or a fixed part is out of the range of the dtype.
    """
    terms = specs[0].terms, specs[1].terms
    for side in Side:
        own, other, values = terms[side].fixed, terms[side.other].fixed, specs[side].fixed_values
        if own is not None and values is not None:
            single, K = own if other is None else own & ~other, values.shape[1]
            check_component_sums(values[:, single[:K]], dtype, _fixed_name(side, background=k < K))
    check_posterior_mode(terms, shape, k)
    _check_informed(specs, dtype, observed_sums)


def prior_terms(
    weight: np.ndarray, exposure: np.ndarray, prior: FactorPrior, part: FixedPart, width: int, dtype: np.dtype
) -> Terms:
    """The terms of a factor with these exposures, in which the prior of each row has a weight; padded to `width`."""

    def pad(A: np.ndarray | None) -> np.ndarray | None:
        return None if A is None else np.pad(A, [(0, 0)] * (A.ndim - 1) + [(0, width - A.shape[-1])])

    fixed, zeros = pad(part.components), pad(part.zeros)

    def spread(number: np.ndarray, factor: np.ndarray) -> np.ndarray | None:
        """number_ik factor_i, a single row if all are equal, 0 for fixed entries; None if all are 0."""
        if not number.any():
            return None
        rows = number if (factor == 1).all() and zeros is None else factor[:, None] * number
        out = np.pad(rows, [(0, 0), (0, width - number.shape[1])])
        if fixed is not None:
            out[:, fixed] = 0
        if zeros is not None:
            out[zeros] = 0
        return out

    positive = np.where(weight > 0, weight, 1.0)
    shape = spread(prior.shape, weight)
    ridge = spread(prior.ridge, 1 / (exposure**2 * positive)) if prior.ridge.any() else None
    if shape is not None and ridge is not None:
        shape, ridge = np.broadcast_arrays(shape, ridge)
    constant = 0.0
    if shape is not None:
        constant = float((shape * np.log(exposure * positive)[:, None]).sum())
        shape = np.ascontiguousarray(shape, dtype)
    return Terms(shape, spread(prior.rate, 1 / exposure), ridge, fixed, zeros, constant)


def depends_on_counts(prior: Any) -> bool:
    """Whether a prior, or its rate, is given by name, so that the rate depends on the counts."""
    return _is_name(prior) or (isinstance(prior, tuple | list) and len(prior) == 2 and _is_name(prior[1]))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value in SHAPES


def has_entries(prior: Any) -> bool:
    """Whether a prior has a shape or a rate for each entry of its factor."""
    return isinstance(prior, tuple | list) and len(prior) == 2 and any(np.ndim(x) == 2 for x in prior)


def resolve_named_priors(penalties: Penalties, k: int, total: float, exposure: float) -> Penalties:
    """Replace named priors and rates by numbers: the shape of the name, and `AUTO_RATE` times its rate for the mean.

    With shapes a and rates b of both factors, the prior mean of the rate of an entry is k (a / b)^2.

    Parameters
    ----------
    penalties : Penalties
    k : int
    total, exposure : float
        Sums over the observed entries of the counts and of their exposures r_i c_j, both weighted.
    """

    def resolve(prior: Any) -> Any:
        if not depends_on_counts(prior):
            return prior
        shape, name = (SHAPES[prior], prior) if _is_name(prior) else prior
        mean = total / exposure
        return shape, AUTO_RATE * SHAPES[name] * math.sqrt(k / mean) if mean > 0 else 1.0

    return penalties._replace(prior_W=resolve(penalties.prior_W), prior_H=resolve(penalties.prior_H))


def _total_exposure(counts: Counts, rows: np.ndarray, columns: np.ndarray) -> float:
    """Sum of rows_i columns_j over the observed entries."""
    total = float(rows.sum()) * float(columns.sum())
    unobserved = counts.unobserved if isinstance(counts, MemoryCounts) else None
    if unobserved is None:
        return total
    i = np.repeat(np.arange(len(rows)), np.diff(unobserved.indptr))
    return total - dot(rows[i], columns[unobserved.indices])


def as_numbers(prior: Any) -> tuple[Any, ...] | None:
    """A valid prior as numbers, lists, and arrays for single entries, which share no memory with the user's."""
    if prior is None:
        return None
    arrays = [np.array(x, dtype=np.float64) for x in prior]
    return tuple(x if x.ndim == 2 else x.tolist() for x in arrays)


def read_priors(penalties: Penalties, k: int, shape: tuple[int, int]) -> tuple[FactorPrior, FactorPrior]:
    """The priors of W and of H transposed. scikit-learn's penalties are priors of shape 1, with its scaling."""
    prior_W, prior_H, alpha_W, alpha_H, l1_ratio = penalties[:5]
    alpha_W = _number(alpha_W, "alpha_W")
    alpha_H = alpha_W if isinstance(alpha_H, str) and alpha_H == "same" else _number(alpha_H, "alpha_H")
    if _number(l1_ratio, "l1_ratio") > 1:
        raise ValueError(f"l1_ratio must be between 0 and 1, got {l1_ratio}")
    found = []
    for side, prior, alpha in ((Side.ROWS, prior_W, alpha_W), (Side.COLUMNS, prior_H, alpha_H)):
        name = "WH"[side]
        if prior is None:
            size = shape[side.other]
            l1, l2 = size * alpha * l1_ratio, size * alpha * (1 - l1_ratio)
            found.append(FactorPrior(np.zeros((1, k)), np.full((1, k), l1), np.full((1, k), l2)))
            continue
        if alpha > 0:
            raise ValueError(f"prior_{name} and alpha_{name} both penalise {name}: give only one of them")
        found.append(_gamma_prior(prior, k, shape[side], side))
    return found[0], found[1]


def _gamma_prior(prior: Any, k: int, n: int, side: Side) -> FactorPrior:
    """A prior (shape, rate), each a number, one for each component, or one for each entry of the user's factor."""
    name, entries = f"prior_{'WH'[side]}", (n, k) if side is Side.ROWS else (k, n)

    def read(values: Any) -> np.ndarray:
        A = np.asarray(values)
        if A.dtype.kind not in "iuf" or (A.ndim >= 2 and A.shape != entries):
            raise ValueError
        A = A.astype(np.float64)
        if A.ndim < 2:
            return np.broadcast_to(A, (1, k))
        return A if side is Side.ROWS else A.T

    try:
        shape, rate = map(read, prior)
    except (TypeError, ValueError):
        got = f"arrays of shapes {np.shape(prior[0])} and {np.shape(prior[1])}" if has_entries(prior) else brief(prior)
        raise ValueError(
            f"{name} must be 'auto', 'sparse' or (shape, rate), each a number, one for each of {k} components, or an "
            f"array of shape {entries}, got {got}"
        ) from None
    if (wrong := ~(np.isfinite(shape) & (shape >= 1))).any():
        raise ValueError(f"{name} must have shapes >= 1, for a finite density at zero, got {shape[wrong][0]:g}")
    if (wrong := ~(np.isfinite(rate) & (rate >= 0))).any():
        raise ValueError(f"{name} must have finite rates >= 0, got {rate[wrong][0]:g}")
    return FactorPrior(shape - 1, np.array(rate), np.zeros((1, k)))


def check_posterior_mode(terms: tuple[Terms, Terms], shape: tuple[int, int], k: int) -> None:
    """Raise an error if the posterior grows without bound as one factor is scaled up and the other down."""
    counts, free_counts, costs, fixed = [], [], [], np.zeros(k, bool)
    for t, n in zip(terms, shape, strict=True):
        added, cost = (
            sum((np.zeros((1, k)) if x is None else x[:, :k] for x in values), np.zeros((1, k)))
            for values in ((t.shape,), (t.rate, t.ridge))
        )
        # Of a single component all entries have to grow together, since the rates of its rows would fall to 0
        free = cost == 0 if k > 1 else (cost == 0).all(axis=0, keepdims=True)
        repeats = n if max(len(added), len(free)) == 1 else 1
        counts.append(added.sum(axis=0) * (n if len(added) == 1 else 1))
        free_counts.append((added * free).sum(axis=0) * repeats)
        costs.append(cost.sum(axis=0))
        if t.fixed is not None:
            fixed |= t.fixed[:k]
    excess = counts[0] - counts[1]
    # More than rounding: 200 shapes of 1.3 balance 60 of 2
    unbounded = [~fixed & (own > other * (1 + 1e-9)) for own, other in zip(free_counts, counts[::-1], strict=True)]
    for name, components in zip(("prior_W", "prior_H"), unbounded, strict=True):
        if components.any():
            raise ValueError(
                f"{name} must have rates > 0 where its shapes are > 1: with rate 0 the posterior has no mode, since "
                "scaling one factor up and the other down always raises it"
            )
    only_one = ~fixed & (excess == 0) & ((costs[0] > 0) != (costs[1] > 0))
    if only_one.any():
        warn(
            "Only one of W and H is penalised, so rescaling can make its penalty arbitrarily small: penalise or fix "
            "the other factor too."
        )


def check_mode_with_groups(terms: tuple[Terms, Terms], groups: Groups) -> None:
    """Raise an error if the posterior grows without bound as effects fall, and W of a group or H of a feature rises."""
    n_features, n_groups = groups.start.shape
    for name, t, side, count in zip(("prior_W", "prior_H"), terms, Side, (n_features, n_groups), strict=True):
        if t.shape is None:  # of fixed components it is 0
            continue
        n_rows = len(groups.group) if side is Side.ROWS else n_features
        costs = [x.sum(axis=1, dtype=np.float64) for x in (t.rate, t.ridge) if x is not None]
        added, cost = (
            np.broadcast_to(x, n_rows) for x in (t.shape.sum(axis=1, dtype=np.float64), sum(costs, np.zeros(1)))
        )
        if side is Side.ROWS:
            added, cost = groups.total(added), groups.total(cost)
        if ((cost == 0) & (added >= groups.strength * count)).any():
            raise ValueError(
                f"{name} must have rates > 0 where its shapes are > 1, or prior_groups must be larger: with rate 0 the "
                "posterior has no mode, since scaling effects down and the factor up always raises it"
            )


def _check_informed(
    specs: tuple[FactorSpec, FactorSpec], dtype: np.dtype,
    observed_sums: Callable[[Side, np.ndarray, np.ndarray], np.ndarray],
) -> None:  # fmt: skip
    """Raise an error if an entry with shape above 1 and rate 0 depends on no observed count: it would be infinite."""
    for side in Side:
        own, other, values = specs[side].terms, specs[side.other].terms, specs[side.other].fixed_values
        if own.shape is None:
            continue
        costs = [x for x in (own.rate, own.ridge) if x is not None]
        free = np.all([x == 0 for x in np.broadcast_arrays(*costs)], axis=0) if costs else np.True_
        improper = (own.shape > 0) & free
        if not improper.any():
            continue
        width = own.shape.shape[1]
        possible = np.broadcast_to(np.ones(width, dtype), (len(specs[side.other].scale), width))
        possible = padded(possible if other.zeros is None else ~other.zeros, dtype)
        if values is not None and other.fixed is not None:
            possible[:, other.fixed] = values[:, other.fixed[: values.shape[1]]] > 0
        observed = np.atleast_2d(observed_sums(side, possible, possible.sum(axis=0, dtype=np.float64)))
        if (improper & (observed == 0)).any():
            name, line = ("prior_W", "row") if side is Side.ROWS else ("prior_H", "column")
            raise ValueError(
                f"{name} must have rates > 0 where its shapes are > 1 and a {line} is masked or the other factor is "
                "fixed at zero: without any data there, and with rate 0, the posterior has no mode"
            )


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number >= 0, got {brief(value)}")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a number >= 0, got {value}")
    return float(value)


def vector(values: Any, n: int, name: str, *, zero: bool = False) -> np.ndarray:
    """One positive number for each row or column, float64; a number is repeated, None is 1; zeros only if `zero`."""
    if values is None:
        return np.ones(n)
    values = non_negative_vector(values, n, name)
    if not zero and not (values > 0).all():
        raise ValueError(f"{name} must be positive, got a minimum of 0; leave out rows or columns without exposure")
    if zero and not values.any():
        raise ValueError(f"{name} must hold at least one positive number, got all zero")
    check_scale(values, np.dtype(np.float64), name)
    return values


def non_negative_vector(values: Any, n: int, name: str) -> np.ndarray:
    """One number >= 0 for each row or column, (n,), float64; a single number is repeated."""
    values = check_array(values, name)
    return check_factor(np.full(n, values) if values.ndim == 0 else values, (n,), name).astype(np.float64)


def fixed_part_of_H(H: Any, shape: tuple[int, int]) -> FixedPart:
    """Read `fixed_H`; the components are columns of the result."""
    H = None if H is None else check_array(H, "fixed_H", REAL_OR_NAN).T
    return _fixed_part(H, shape[::-1], "fixed_H", "row")


def _fixed_part(A: Any, shape: tuple[int, int], name: str, line: str) -> FixedPart:
    """Read a partly fixed factor with components as columns; for users a component is a `line`: "row" or "column"."""
    if A is None:
        return FixedPart()
    A = check_array(A, name, REAL_OR_NAN)
    if A.shape != shape:
        expected, got = (s if line == "column" else s[::-1] for s in (shape, A.shape))
        raise ValueError(f"{name} must have shape {expected}, got {got}")
    free = np.isnan(A)
    if not free.any():  # the usual case, also that of `transform`
        return FixedPart(check_factor(A, shape, name), np.ones(shape[1], bool))
    check_factor(np.where(free, 0, A), shape, name)
    components, zeros = ~free.any(axis=0), A == 0
    mixed = ~components & ((~free & ~zeros).any(axis=0))
    if mixed.any():
        raise ValueError(
            f"{name} must be wholly fixed, or NaN except for zeros, in each {line}; {line} {np.flatnonzero(mixed)[0]} "
            "has both NaN and positive numbers"
        )
    zeros[:, components] = False
    return FixedPart(
        np.where(free, 0, A), components if components.any() else None, zeros if zeros.any() else None
    )  # fmt: skip
