"""Rows of a fit on one worker: the steps of the local solvers between two sums over all rows. Nothing here needs Dask.

An iteration is `update_rows` on every worker, the sum of the results, and `update_columns` with this sum. Each worker
updates H itself: from the same sum they all get the same H.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import aligned_copy, column_sums, dot, empty_factor, padded, padded_width
from fastpmf.fitting.hpf import infer_rows
from fastpmf.fitting.problem import FactorPrior, FactorSpec, FitProblem, FixedPart, factor_spec
from fastpmf.model.groups import Groups
from fastpmf.model.hierarchy import ROW_ATTRIBUTES, GammaFactor, data_bound, factor_bound, weights
from fastpmf.model.init import random_rows
from fastpmf.model.priors import NO_TERMS, Moments, best_units_of_moments
from fastpmf.model.updates import multiplicative
from fastpmf.solvers import FactorState, MeanField, Multiplicative
from fastpmf.solvers.alternating import Alternating
from fastpmf.solvers.base import Contribution, Problem
from fastpmf.solvers.mean_field import PosteriorProblem
from fastpmf.solvers.row_problems import solve_rows

# Limits of the rounds in which rows whose W was lost are solved again
MAX_ROUNDS, TOL = 200, 1e-7

ColumnState = dict[str, np.ndarray]  # the fields of a solver's state that are equal on all workers: H and a few numbers
RowState = dict[str, np.ndarray]  # arrays with a row for each row of a shard


class RowSum(NamedTuple):
    """The contribution of some rows to the update of H.

    Attributes
    ----------
    rows : Contribution
    moments : ndarray of shape (3, K)
        `Terms.moments` of W.
    by_group : ndarray of shape (2, n_groups, K)
        Sums of W, and of W times the rates of its prior, over the rows of each group; n_groups is 0 without groups.
    """

    rows: Contribution
    moments: np.ndarray
    by_group: np.ndarray


@dataclass(frozen=True)
class RandomStart:
    """Factors drawn from a generator as by `initialise`, scaled so that sum(W H) = total."""

    rng: Any
    shape: tuple[int, int]
    total: float
    slices: dict[int, slice]  # the rows of each shard

    def draw(self, shards: list[slice], n_components: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """W of the rows in ascending slices, and H transposed. All rows are drawn, as a generator can't skip any."""
        (n, p), k = self.shape, n_components
        rows = np.concatenate([np.arange(shard.start, shard.stop) for shard in shards])
        W, Ht, sums = empty_factor(len(rows), k, dtype), empty_factor(p, k, dtype), np.zeros(k)
        for drawn, block in random_rows(n, k, self.rng):
            block = block.astype(dtype)
            sums += block.sum(axis=0, dtype=np.float64)
            first, last = np.searchsorted(rows, (drawn.start, drawn.stop))
            W[first:last, :k] = block[rows[first:last] - drawn.start]
        for drawn, block in random_rows(p, k, self.rng):
            Ht[drawn, :k] = block
        scale = dtype.type(np.sqrt(self.total / dot(sums, column_sums(Ht)[:k])))
        W *= scale
        Ht *= scale
        return W, Ht


@dataclass(frozen=True)
class CustomStart:
    """Given factors in the units of the solver: H transposed, (p, n_components), and W with the data of the rows."""

    Ht: np.ndarray


class ShardState(ABC):
    """Some rows of a fit, and all of H: the problem of their counts, the solver, and its state."""

    row_fields: ClassVar[tuple[str, ...]]  # prefixes of the names in `state_dict` of arrays that belong to rows
    warm_up: int = 0  # first iterations of the solver, which use other kernels than the rest

    state: Any

    def __init__(self, problem: Problem, solver: Alternating) -> None:
        self.problem, self.solver = problem, solver

    def start(self, W: np.ndarray, Ht: np.ndarray, *, check: bool) -> None:
        """Start from these factors, which may be overwritten; `check` that all counts have positive rates."""
        self.state = self.solver.init(self.problem, W, Ht)

    @abstractmethod
    def first_sum(self) -> RowSum:
        """The contribution of these rows to `prepare`."""

    @abstractmethod
    def prepare(self, total: RowSum) -> None:
        """Prepare the state for the first iteration, given the sum over all rows."""

    def update_rows(self) -> RowSum:
        """The first half of an iteration. The contraction is a buffer of the solver, for `update_columns`."""
        return self.row_sum(self.solver.update_by_blocks(self.problem, self.state))

    def update_columns(self, total: RowSum) -> None:
        """The second half, given the sum over all rows, whose contraction becomes the solver's buffer."""
        problem, state = self.given(total), self.state
        self.replace_buffer(total.rows.contraction)
        state.gaps[Side.ROWS] = total.rows.gap
        if not np.isnan(total.rows.gap):
            self.solver.update_other(problem, state, total.rows)
        if state.is_finite:
            self.solver.finish_step(problem, state)
        state.n_steps += 1

    @abstractmethod
    def replace_buffer(self, contraction: np.ndarray) -> None:
        """Replace the buffer in which `Contribution.contraction` is computed."""

    def row_sum(self, rows: Contribution) -> RowSum:
        """The contribution of these rows with their moments and sums by group."""
        K = len(rows.sums)
        return RowSum(rows, np.zeros((3, K)), np.zeros((2, 0, K)))

    def given(self, total: RowSum) -> Problem:
        """The problem of these rows, given the sum over all rows."""
        return self.problem

    @abstractmethod
    def objective(self, with_columns: bool) -> float:
        """The contribution of these rows to the objective, in nats, plus that of H if `with_columns`."""

    def column_state(self) -> ColumnState:
        """The fields of the state that are equal on all workers."""
        return {name: A for name, A in self.state.state_dict().items() if not name.startswith(self.row_fields)}

    @abstractmethod
    def row_state(self) -> RowState:
        """The arrays of the state that belong to these rows."""

    @abstractmethod
    def solve_rows(self, columns: ColumnState) -> RowState:
        """The optimal `row_state` given H."""

    @abstractmethod
    def load(self, columns: ColumnState, rows: RowState) -> None:
        """Continue from these states of H and of the rows."""

    def W(self) -> np.ndarray:
        """W of these rows in the user's units, (n_rows, n_components)."""
        return np.array(self.problem.solution_factors(self.state)[0], order="C")


@dataclass(frozen=True, eq=False)
class AllGroups(Groups):
    """Groups of the rows of a shard, with what all rows contribute.

    Attributes
    ----------
    counts : ndarray of shape (p, n_groups)
        Of all rows, as in the following; `group` is that of the rows of the shard.
    sizes : ndarray of shape (n_groups,)
        Numbers of rows.
    by_group : ndarray of shape (2, n_groups, K)
        As in `RowSum`; it is scaled with W.
    """

    sizes: np.ndarray
    by_group: np.ndarray

    def sums(self, W: np.ndarray) -> np.ndarray:
        return self.by_group[0]


@dataclass(frozen=True, kw_only=True)
class ShardProblem(FitProblem):
    """The problem of some rows; units are chosen given `Terms.moments` of W of all rows, and not without them."""

    row_moments: Moments | None = None

    def _scale_terms(self, side: Side, state: FactorState) -> tuple[np.ndarray, np.ndarray]:
        groups, shape = self.groups, self.terms[side].shape
        if side is Side.COLUMNS or not isinstance(groups, AllGroups):
            return super()._scale_terms(side, state)
        cost = (groups.by_group[1] * state.units_of(side)).sum(axis=1)
        return groups.sizes * (0.0 if shape is None else shape[0].sum(dtype=np.float64)), cost

    def _rescale_factors(self, state: FactorState) -> tuple[np.ndarray, np.ndarray]:
        groups = self.groups
        assert isinstance(groups, AllGroups)
        by_group, by_feature = super()._rescale_factors(state)
        groups.by_group[...] *= by_group[:, None]
        state.sums[Side.ROWS] = groups.by_group[0].sum(axis=0)
        return by_group, by_feature

    def best_units(self, state: FactorState) -> np.ndarray:
        if self.row_moments is None:
            return state.units
        columns, (shape, rate, ridge) = self.terms[1].moments(state.factors[1], state.sums[1]), self.row_moments
        if isinstance(self.groups, AllGroups):  # W may have been rescaled
            rate = self.groups.by_group[1].sum(axis=0)
        return best_units_of_moments(*self.terms, ((shape, rate, ridge), columns), state.units)


@dataclass(frozen=True)
class PoissonModel:
    """The model of a `PoissonNMF`, which is sent to the workers."""

    n_components: int  # without that of a background
    dtype: np.dtype
    solver: Multiplicative
    row_prior: FactorPrior
    columns: FactorSpec
    groups: "AllGroups | None" = None  # without `group` and `by_group`

    @property
    def has_background(self) -> bool:
        values = self.columns.fixed_values
        return values is not None and values.shape[1] > self.n_components

    @property
    def width(self) -> int:
        return padded_width(self.n_components + self.has_background, self.dtype)

    def shard_state(self, counts: Counts, exposure: np.ndarray | None, group: np.ndarray | None) -> "PoissonShard":
        exposure = np.ones(counts.shape[0]) if exposure is None else exposure
        specs, groups = (self.row_spec(exposure), self.columns), None
        terms, k = (specs[0].terms, specs[1].terms), self.n_components
        if self.groups is not None:
            group = np.zeros(counts.shape[0], np.int64) if group is None else group
            groups = Groups.of(counts, group, self.groups.start, self.groups.strength)
        problem = ShardProblem(counts, k + self.has_background, terms, groups, n_free=k, specs=specs)
        return PoissonShard(problem, self.solver, self.groups)

    def row_spec(self, exposure: np.ndarray) -> FactorSpec:
        """The specification of W for rows with these exposures."""
        background = 1.0 if self.has_background else None
        return factor_spec(self.row_prior, FixedPart(), exposure, self.dtype, Side.ROWS, background=background)

    def start_columns(self, Ht: np.ndarray) -> ColumnState:
        """The state of a fit that starts from this H transposed, in the units of the solver."""
        Ht = self.columns.start(padded(Ht, self.dtype), self.n_components + self.has_background)
        W, units = empty_factor(0, self.n_components, self.dtype), np.ones(self.width)
        effects = np.ones((1, 0)) if self.groups is None else self.groups.start
        state = FactorState([W, Ht], [np.zeros(self.width), column_sums(Ht)], units, effects=effects)
        return {name: A for name, A in state.state_dict().items() if not name.startswith(PoissonShard.row_fields)}

    def H(self, columns: ColumnState) -> np.ndarray:
        k = self.n_components
        with np.errstate(over="ignore", under="ignore"):  # the caller rejects factors that are not finite
            Ht = self.columns.in_user_units(columns["factors_1"][:, :k] / columns["units"][:k]).astype(self.dtype)
        return Ht.T


class PoissonShard(ShardState):
    """Rows of a `PoissonNMF`."""

    row_fields = "factors_0", "sums_0", "data_term"

    problem: ShardProblem
    solver: Multiplicative

    def __init__(self, problem: ShardProblem, solver: Multiplicative, groups: AllGroups | None) -> None:
        super().__init__(problem, solver)
        self.warm_up, self.groups = solver.warm_up, groups
        self.latest: RowSum | None = None  # of all rows, without a contraction; `by_group` is scaled with W

    def start(self, W: np.ndarray, Ht: np.ndarray, *, check: bool) -> None:
        (W, Ht), K = self.problem.start(W, Ht), self.problem.n_components
        if check and not (W[:, :K].all() and Ht[:, :K].all()):
            _check_rates(int((self.problem.counts.log_rate(W, Ht) == -np.inf).sum()))
        self.state = self.solver.init(self.problem, W, Ht)

    def first_sum(self) -> RowSum:
        W = self.state.factors[Side.ROWS]
        return self.row_sum(Contribution(np.empty((0, W.shape[1]), W.dtype), column_sums(W), 0.0))

    def prepare(self, total: RowSum) -> None:
        self.state.balance(self.given(total))

    def replace_buffer(self, contraction: np.ndarray) -> None:
        self.state.spares[Side.COLUMNS] = contraction

    def row_sum(self, rows: Contribution) -> RowSum:
        W, terms, groups = self.state.factors[Side.ROWS], self.problem.terms[Side.ROWS], self.problem.groups
        by_group = np.zeros((2, 0 if groups is None else groups.n_groups, W.shape[1]))
        if groups is not None:
            by_group[0] = groups.sums(W)
            if terms.rate is not None:
                by_group[1] = groups.sums(aligned_copy(W * terms.rate.astype(W.dtype)))
        return RowSum(rows, np.stack(terms.moments(W, rows.sums)), by_group)

    def given(self, total: RowSum) -> ShardProblem:
        shape, rate, ridge = total.moments
        problem, groups = replace(self.problem, row_moments=(shape, rate, ridge)), self.problem.groups
        if groups is None or self.groups is None:
            return problem
        self.latest = total._replace(rows=total.rows._replace(contraction=np.empty((0, 0))))
        return replace(problem, groups=replace(self.groups, group=groups.group, by_group=total.by_group))

    def complete(self) -> None:
        """Complete the effects of groups, after the latest iteration; the second time nothing changes."""
        if self.groups is not None and self.latest is not None:
            problem = self.given(self.latest)
            problem.complete_effects(self.state)
            self.state.balance(problem)

    def objective(self, with_columns: bool) -> float:
        state, (rows, columns) = self.state, self.problem.terms
        sums = [column_sums(state.factors[Side.ROWS]), state.sums[Side.COLUMNS]]
        groups = self.problem.groups
        if groups is not None and not with_columns:
            groups = replace(groups, strength=0.0)  # the prior of the effects is counted once
        problem = replace(self.problem, terms=(rows, columns if with_columns else NO_TERMS), groups=groups)
        return problem.objective(replace(state, sums=sums))

    def residual_rows(self) -> RowSum:
        """The contribution to `residual_columns`."""
        contractions, W = self.problem.contractions(self.state), self.state.factors[Side.ROWS]
        gap = multiplicative(self.problem.subproblem(Side.ROWS, self.state), W, contractions[Side.ROWS], None).gap
        return self.row_sum(Contribution(contractions[Side.COLUMNS], column_sums(W), gap))

    def residual_columns(self, total: RowSum) -> float:
        """The larger gap of the current factors, in nats, given the sum over all rows; see `Problem.residual`."""
        self.state.sums[Side.ROWS] = total.rows.sums
        problem, S = self.given(total), total.rows.contraction
        subproblem = problem.subproblem(Side.COLUMNS, self.state)
        gap = multiplicative(subproblem, self.state.factors[Side.COLUMNS], S, None).gap
        of_effects = 0.0 if self.groups is None else problem.gap_of_effects(self.state)
        return float(np.max([total.rows.gap, gap, of_effects]))

    def row_state(self) -> RowState:
        return {"W": self.state.factors[Side.ROWS]}

    def solve_rows(self, columns: ColumnState) -> RowState:
        problem, k = self.problem, self.problem.n_free
        n, dtype = problem.counts.shape[0], columns["factors_1"].dtype
        W, n_lost = problem.specs[Side.ROWS].start(empty_factor(n, k, dtype), problem.n_components), 0
        self.load(columns, {"W": W})
        subproblem = problem.subproblem(Side.ROWS, self.state)
        for rows, block in problem.counts.blocks():
            part, start = subproblem.select_rows(rows), W[rows].copy()
            mass = block.sums(Side.ROWS) + part.total_shape
            start[:, :k] = mass[:, None] / np.maximum(k * part.weight[:, :k], np.finfo(dtype).tiny)
            W[rows], gap = solve_rows(block, part, start, max_rounds=MAX_ROUNDS, tol=TOL)
            n_lost += int((~np.isfinite(gap)).sum())
        _check_rates(n_lost)
        return {"W": W}

    def load(self, columns: ColumnState, rows: RowState) -> None:
        self.state = self.solver.init(self.problem, aligned_copy(rows["W"]), aligned_copy(columns["factors_1"]))
        self.state.load_state_dict(self.state.state_dict() | columns)


def _check_rates(n_rows: int) -> None:
    if n_rows:
        raise ValueError(
            f"H must give every count of X a positive rate, but {n_rows} row(s) of a shard have a count with rate 0: "
            "replace zeros of H, free a component, or give a background"
        )


@dataclass(frozen=True)
class HPFModel:
    """The model of an `HPF`, which is sent to the workers."""

    n_components: int
    dtype: np.dtype
    solver: MeanField

    @property
    def width(self) -> int:
        return padded_width(self.n_components, self.dtype)

    def shard_state(self, counts: Counts, exposure: np.ndarray | None, group: np.ndarray | None) -> "HPFShard":
        return HPFShard(PosteriorProblem(counts, self.n_components), self.solver)

    def H(self, columns: ColumnState) -> np.ndarray:
        return columns["posteriors_1_mean"][:, : self.n_components].T


def posterior_of_H(columns: ColumnState, n_components: int) -> GammaFactor:
    prefix = "posteriors_1_"
    parts = {name.removeprefix(prefix): A for name, A in columns.items() if name.startswith(prefix)}
    return GammaFactor.from_arrays(parts, n_components)


class HPFShard(ShardState):
    """Rows of an `HPF`."""

    row_fields = ("posteriors_0_",)

    solver: MeanField

    def first_sum(self) -> RowSum:
        return self.update_rows()  # the first posteriors are inferred from the means, as in `MeanField.prepare`

    def prepare(self, total: RowSum) -> None:
        self.update_columns(total)
        self.state.n_steps = 0

    def replace_buffer(self, contraction: np.ndarray) -> None:
        self.state.scratch = contraction

    def objective(self, with_columns: bool) -> float:
        (rows, columns), priors = self.state.posteriors, self.state.priors
        bound = data_bound(self.problem.counts, (rows, columns)) + factor_bound(rows, priors[Side.ROWS])
        return -(bound + factor_bound(columns, priors[Side.COLUMNS]) if with_columns else bound)

    def row_state(self) -> RowState:
        rows = self.state.posteriors[Side.ROWS]
        return {name: getattr(rows, name) for name in ROW_ATTRIBUTES}

    def solve_rows(self, columns: ColumnState) -> RowState:
        prior, posterior = self.solver.priors[Side.ROWS], posterior_of_H(columns, self.problem.n_components)
        found = [
            infer_rows(block, posterior, prior, max_iter=MAX_ROUNDS, tol=TOL, warn_unconverged=False)
            for _, block in self.problem.counts.blocks()
        ]
        return {name: np.concatenate([getattr(part, name) for part in found]) for name in ROW_ATTRIBUTES}

    def load(self, columns: ColumnState, rows: RowState) -> None:
        W, Ht = aligned_copy(rows["mean"]), aligned_copy(columns["posteriors_1_mean"])
        self.state = state = self.solver.init(self.problem, W, Ht)
        factor, other = state.posteriors
        for name in ROW_ATTRIBUTES:
            getattr(factor, name)[...] = rows[name]
        state.load_state_dict(state.state_dict() | columns)
        factor.weight = weights(self.problem.counts, Side.ROWS, other)


Model = PoissonModel | HPFModel
