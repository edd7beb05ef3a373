"""Problems, states, solvers and solutions: what the loop in `run.py` works on."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from fastpmf.core.counts import Counts, Side, Subproblem
from fastpmf.core.factors import aligned, aligned_copy, column_sums, dot
from fastpmf.model.groups import Groups
from fastpmf.model.objective import divergence
from fastpmf.model.priors import NO_TERMS, Terms, best_units
from fastpmf.model.updates import multiplicative
from fastpmf.utils.tables import Table, shown_as_table


class Status(StrEnum):
    """Why a fit stopped, as a sentence; `name` is a short identifier.

    See Also
    --------
    Solution : has a status.
    PoissonNMF : has a `status_`.

    Examples
    --------
    >>> from fastpmf import PoissonNMF, Status
    >>> model = PoissonNMF(2, random_state=0).fit([[4, 0, 2], [0, 3, 0], [2, 0, 1]])
    >>> model.status_ is Status.CONVERGED
    True
    >>> print(model.status_)
    Converged to within tol.
    """

    CONVERGED = "Converged to within tol."
    MAX_ITER = "Stopped at max_iter before converging to within tol; increase max_iter or tol."
    CALLBACK = "Stopped by the callback."
    VALIDATION = "Stopped because the likelihood of held-out counts no longer improved."
    MAX_TIME = "Stopped at max_time before converging to within tol; increase max_time or tol."
    ONLINE = "Fitted by partial_fit, one mini-batch after another."
    INTERRUPTED = "Interrupted; the factors of the last complete update are kept."
    UNMEASURED = "Interrupted during the final evaluation; the last factors are kept, unmeasured."
    NON_FINITE = "Stopped at a rate that is not a positive finite number; the factors before it are kept."


class Record(NamedTuple):
    """One record of a trace.

    Attributes
    ----------
    n_iter : int
        Iterations done.
    objective : float
        Divergence D(X || W H) of the current factors, plus the penalties of their priors, in nats.
    kkt_residual : float
        Optimality gap in nats per count, as `State.gaps` has it; inf before the first iteration. With extrapolation,
        and in the last record of a trace, it is that of the current factors.
    seconds : float
        Time since the solver started, without compilation.

    See Also
    --------
    PoissonNMF : passes records to its `callback`, and keeps them in `trace_`.

    Examples
    --------
    >>> from fastpmf import PoissonNMF
    >>> def callback(record, W, H):
    ...     return record.n_iter >= 20  # stops the fit
    >>> model = PoissonNMF(2, tol=0, callback=callback, random_state=0).fit([[4, 0, 2], [0, 3, 1], [2, 1, 1]])
    >>> model.n_iter_, model.status_.name
    (25, 'CALLBACK')
    """

    n_iter: int
    objective: float
    kkt_residual: float
    seconds: float


TRACE_DTYPE = np.dtype([("n_iter", np.int64), ("objective", float), ("kkt_residual", float), ("seconds", float)])

# callback(record, W, H) of users, with read-only views of the current factors; a true result stops the fit.
Callback = Callable[[Record, np.ndarray, np.ndarray], Any]
# observer(record, W, H, state), the same inside the package
Observer = Callable[[Record, np.ndarray, np.ndarray, Any], Any]


@dataclass
class State:
    """Everything of a solver that changes; its fields are what a checkpoint saves.

    Attributes
    ----------
    n_steps : int
        Steps done.
    gaps : ndarray of shape (2,), float64
        Upper bounds, in nats, on the decrease of the objective by any other W, and by any other H, from the factors
        before their latest updates. inf before the first update, NaN if a rate was not positive and finite.
    """

    n_steps: int = field(default=0, kw_only=True)
    gaps: np.ndarray = field(default_factory=lambda: np.full(2, math.inf), kw_only=True)

    def residual(self, total: float) -> float:
        """The larger gap per count; 0 exactly if the Karush-Kuhn-Tucker conditions hold."""
        return float(self.gaps.max()) / total

    @property
    def is_finite(self) -> bool:
        """Whether all rates were positive and finite in the latest updates."""
        return not (math.isnan(self.gaps[0]) or math.isnan(self.gaps[1]))

    def state_dict(self) -> dict[str, np.ndarray]:
        """All fields by name, as arrays; the inverse of `load_state_dict`."""
        return _to_arrays(self, "")

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        """Set all fields from the result of `state_dict`.

        Raises
        ------
        ValueError
            If a field is missing, or its shape or dtype is not that of this state's field.
        """
        _from_arrays(self, arrays, "")


def _to_arrays(value: Any, name: str) -> dict[str, np.ndarray]:
    if not dataclasses.is_dataclass(value) and not isinstance(value, list):
        return {name: np.asarray(value)}
    found: dict[str, np.ndarray] = {}
    for key, part in _parts(value, name):
        found |= _to_arrays(part, key)
    return found


def _from_arrays(value: Any, arrays: dict[str, np.ndarray], name: str) -> Any:
    """`value` with its arrays filled in place; a scalar is replaced."""
    if isinstance(value, list):
        value[:] = [_from_arrays(part, arrays, key) for key, part in _parts(value, name)]
        return value
    if dataclasses.is_dataclass(value):
        for key, part in _parts(value, name):
            setattr(value, key.removeprefix(name and f"{name}_"), _from_arrays(part, arrays, key))
        return value
    own = np.asarray(value)
    saved = saved_array(arrays, name, own.dtype, own.shape)
    if isinstance(value, np.ndarray):
        value[...] = saved
        return value
    return saved.item()


def saved_array(arrays: dict[str, np.ndarray], name: str, dtype: Any, *shapes: tuple[int, ...]) -> np.ndarray:
    """An array of a checkpoint; a ValueError if it is missing, or has another dtype or none of the shapes."""
    saved = arrays.get(name)
    if saved is None:
        raise ValueError(f"{name} is missing")
    if saved.dtype != dtype or saved.shape not in shapes:
        expected = f"{np.dtype(dtype)} and {' or '.join(map(str, shapes))}"
        raise ValueError(f"{name} has dtype {saved.dtype} and shape {saved.shape}, not {expected}")
    return saved


def _parts(value: Any, name: str) -> list[tuple[str, Any]]:
    """Keys and values of the elements of a list, or of the fields of a dataclass that are saved."""
    prefix = name and f"{name}_"
    if isinstance(value, list):
        return [(f"{prefix}{i}", part) for i, part in enumerate(value)]
    saved = [f.name for f in dataclasses.fields(value) if f.metadata.get("saved", True)]
    return [(f"{prefix}{key}", getattr(value, key)) for key in saved]


_RESCALE_EVERY = 5  # iterations between rescalings of H by feature, which cost as much as the effects
NOT_SAVED = {"saved": False}  # metadata of fields that checkpoints leave out


@dataclass
class FactorState(State):
    """State of solvers for point estimates.

    Attributes
    ----------
    factors : list of two ndarray
        W (n, K) and H transposed (p, K), padded. Always a complete pair: an update is written to a spare array, which
        then replaces the factor.
    sums : list of two ndarray of shape (K,), float64
        Column sums of the factors.
    units : ndarray of shape (K,), float64
        W is `factors[0] * units` and H transposed `factors[1] / units`; see `fastpmf.model.priors`.
    data_term : float
        Sum of x log (W_i . H_j) over all entries, in nats; NaN if the latest update did not compute it.
    effects : ndarray of shape (p, n_groups), float64
        Effects of groups of rows on features; (1, 0) without groups.
    spares : list of two ndarray
        Arrays of the shapes of the factors.
    """

    factors: list[np.ndarray]
    sums: list[np.ndarray]
    units: np.ndarray
    data_term: float = math.nan
    effects: np.ndarray = field(default_factory=lambda: np.ones((1, 0)))
    spares: list[np.ndarray] = field(default_factory=list, metadata=NOT_SAVED)

    @classmethod
    def start(cls, problem: "Problem", W: np.ndarray, Ht: np.ndarray, **fields: Any) -> Self:
        """The state of a solver that starts from W and Ht, which it may overwrite."""
        spares = [np.zeros_like(W), np.zeros_like(Ht)]
        sums = [column_sums(W), column_sums(Ht)]
        state = cls([W, Ht], sums, np.ones(W.shape[1]), effects=problem.start_effects, spares=spares, **fields)
        state.balance(problem)
        return state

    def without_spares(self) -> "FactorState":
        """The factors of this state alone, in units of 1; they share memory if its units are 1."""
        W, Ht = self.factors
        if (self.units != 1).any():
            W, Ht = (aligned_copy(A) for A in (W, Ht))
            W *= self.units.astype(W.dtype)
            Ht /= self.units.astype(Ht.dtype)
        return FactorState(
            [W, Ht], [column_sums(W), column_sums(Ht)], np.ones(len(self.units)), self.data_term, self.effects,
            gaps=self.gaps, n_steps=self.n_steps,
        )  # fmt: skip

    def balance(self, problem: "Problem") -> None:
        """Choose the relative scale of W and H that maximises the joint prior."""
        self.units = problem.best_units(self)

    def units_of(self, side: Side) -> np.ndarray:
        """The factor of a side is the stored one times these."""
        return self.units if side is Side.ROWS else 1.0 / self.units

    def replace_factor(self, side: Side, sums: np.ndarray, data_term: float = math.nan) -> None:
        """Exchange a factor and its spare array, which holds its update."""
        self.factors[side], self.spares[side] = self.spares[side], self.factors[side]
        self.sums[side], self.data_term = sums, data_term


@dataclass(frozen=True)
class Problem:
    """Find the W and H that minimise the divergence from the counts plus the penalties of their priors.

    Attributes
    ----------
    counts : Counts of shape (n, p)
    n_components : int
        Columns of the factors, including one for a background.
    terms : (Terms, Terms)
        Priors and fixed parts of W and of H transposed.
    groups : Groups, optional
        Groups of rows with effects on features.
    """

    counts: Counts
    n_components: int
    terms: tuple[Terms, Terms] = (NO_TERMS, NO_TERMS)
    groups: Groups | None = None

    @property
    def total(self) -> float:
        """Sum of all counts."""
        return self.counts.total

    def extended(self, n_new: int, like: int, width: int) -> "Problem":
        """The problem with `n_new` components more, placed last, with the terms of component `like`; padded."""
        K = self.n_components
        rows, columns = (terms.extended(K, n_new, like, width) for terms in self.terms)
        return Problem(self.counts, K + n_new, (rows, columns), self.groups)

    @property
    def free_components(self) -> np.ndarray:
        """The components without fixed entries; ascending."""
        free = np.ones(self.n_components, bool)
        for terms in self.terms:
            if terms.fixed is not None:
                free &= ~terms.fixed[: len(free)]
            if terms.zeros is not None:
                free &= ~terms.zeros[:, : len(free)].any(axis=0)
        return np.flatnonzero(free)

    @property
    def interchangeable(self) -> np.ndarray:
        """The largest set of components without fixed entries whose terms are equal; ascending."""
        arrays = [A for terms in self.terms for A in (terms.shape, terms.rate, terms.ridge) if A is not None]
        equal: dict[bytes, list[int]] = {}
        for z in self.free_components.tolist():
            equal.setdefault(b"".join(A[:, z].tobytes() for A in arrays), []).append(z)
        return np.array(max(equal.values(), key=len, default=[]), np.intp)

    def best_units(self, state: FactorState) -> np.ndarray:
        """The units that maximise the joint prior, see `fastpmf.model.priors`."""
        return best_units(*self.terms, state.factors, state.sums, state.units)

    def subproblem(self, side: Side, state: FactorState) -> Subproblem:
        """The subproblem of one factor, with the other one as it is in `state`."""
        V = state.factors[side.other]
        if self.groups is None:
            observed = self.counts.observed_sums(side, V, state.sums[side.other])
        elif side is Side.ROWS:
            observed = self.groups.row_weights(V, state.effects)
        else:
            observed = self.groups.column_weights(V, state.effects)
        return self.terms[side].subproblem(side, self.n_components, V, observed, state.units_of(side))

    def objective(self, state: Any) -> float:
        """Divergence of the factors minus the log density of their prior, in nats."""
        (W, Ht), groups = state.factors, self.groups
        if groups is None:
            rate_total, rest = self.counts.rate_total(W, Ht, *state.sums), 0.0
        else:
            rate_total = dot(state.effects, groups.rates(W, Ht))
            rest = groups.penalty_and_log_term(state.effects)
        objective = divergence(self.counts, W, Ht, rate_total, state.data_term) + rest
        for side, terms in zip(Side, self.terms, strict=True):
            if terms.penalised:
                objective += terms.penalty(state.factors[side], state.sums[side], state.units_of(side))
        return objective

    @property
    def start_effects(self) -> np.ndarray:
        """The effects of groups before the first update, (p, n_groups); (1, 0) without groups."""
        return np.ones((1, 0)) if self.groups is None else self.groups.start

    def effects_of(self, state: Any) -> np.ndarray | None:
        """The effects of groups, (n_groups, p); None without groups."""
        return None if self.groups is None else state.effects.T.copy()

    def update_effects(self, state: FactorState) -> None:
        """Set the effects of groups to their optimum given W and H; at times after the best rescaling of these."""
        if self.groups is None:
            return
        if state.n_steps % _RESCALE_EVERY == 0:
            self._rescale_factors(state)
        state.effects = self.groups.best_effects_of(*state.factors)

    def _rescale_factors(self, state: FactorState) -> tuple[np.ndarray, np.ndarray]:
        """Multiply W by the best scales of groups, and H by those of features, by which effects are to be divided.

        Factors change in place: after an interrupt, `complete` sets the effects that belong to them.
        """
        assert self.groups is not None
        by_group, by_feature = self._best_scales(state)
        for side, scale in ((Side.ROWS, by_group[self.groups.group]), (Side.COLUMNS, by_feature)):
            A = state.factors[side]
            A *= scale[:, None].astype(A.dtype)
            state.sums[side] = column_sums(A)
            state.data_term += dot(self.counts.sums(side), np.log(scale))
        return by_group, by_feature

    def _best_scales(self, state: FactorState) -> tuple[np.ndarray, np.ndarray]:
        """Factors of the rows of W by group, and of those of H by feature, by which their effects are divided.

        They are 1 if the rows of the factor have fixed parts or an L2 penalty.
        """
        groups, effects = self.groups, state.effects
        assert groups is not None
        found = [np.ones(n) for n in effects.shape[::-1]]
        for side, terms in zip(Side, self.terms, strict=True):
            if terms.fixed is None and terms.ridge is None:
                shape, cost = self._scale_terms(side, state)
                # Sums over features, then over groups of what the first scales leave; faster than `sum` along an axis
                total = np.einsum(("jg,g->g", "jg,g->j")[side], effects, 1 / found[0])
                found[side] = groups.best_scale(total, effects.shape[side], shape, cost)
        return found[0], found[1]

    def _scale_terms(self, side: Side, state: FactorState) -> tuple[np.ndarray, np.ndarray]:
        """`shape` and `cost` of `Groups.best_scale`: of W for each group, of H for each feature."""
        A, terms, groups = state.factors[side], self.terms[side], self.groups
        shape, cost = np.zeros(len(A)), np.zeros(len(A))
        if terms.shape is not None:
            shape += terms.shape.sum(axis=1, dtype=np.float64)
        if terms.rate is not None:
            cost += (A * (terms.rate * state.units_of(side))).sum(axis=1)
        if side is Side.ROWS and groups is not None:
            return groups.total(shape), groups.total(cost)
        return shape, cost

    def residual(self, state: Any) -> float:
        """Optimality gap of the current factors in nats per count, at the cost of a multiplicative iteration.

        With groups, their effects are a third factor, after the rescaling that `complete` does.
        """
        contractions = self.contractions(state)
        gaps = [multiplicative(self.subproblem(side, state), state.factors[side], contractions[side], None).gap
                for side in Side]  # fmt: skip
        if self.groups is not None:
            gaps.append(self.gap_of_effects(state))
        return float(np.max(gaps)) / self.total

    def gap_of_effects(self, state: FactorState) -> float:
        """How much lower the objective is with the best effects of groups, after the best rescaling, in nats."""
        assert self.groups is not None
        by_group, by_feature = self._best_scales(state)
        scale = by_group * by_feature[:, None]
        return self.groups.gap(state.effects / scale, self.groups.rates(*state.factors) * scale)

    def contractions(self, state: FactorState) -> list[np.ndarray]:
        """`Counts.contract` of the current factors, for both sides.

        If counts are streamed, the data term is computed in the same pass.
        """
        out = [aligned(len(A), A.shape[1], A.dtype) for A in state.factors]
        with_data_term = self.counts.row_access_only and math.isnan(state.data_term)
        data_term = self.counts.contract_both(*state.factors, *out, with_data_term=with_data_term)
        if with_data_term:
            state.data_term = data_term
        return out

    def complete(self, state: Any) -> None:
        """Recompute what an interrupt may have left out of step with the factors."""
        state.sums = [column_sums(A) for A in state.factors]
        state.data_term = math.nan
        if self.groups is not None:
            self.complete_effects(state)
        state.balance(self)

    def complete_effects(self, state: FactorState) -> None:
        """Set the effects of groups to their optimum, and rescale them and the factors."""
        assert self.groups is not None
        effects = state.effects = self.groups.best_effects_of(*state.factors)
        by_group, by_feature = self._rescale_factors(state)
        state.effects = effects / by_group / by_feature[:, None]

    def solution_factors(self, state: Any) -> tuple[np.ndarray, np.ndarray]:
        """W and H in the user's units, views where possible."""
        W, Ht = (A[:, : self.n_components] for A in state.factors)
        return self.in_user_units(W, Ht, state.units)

    def in_user_units(self, W: np.ndarray, Ht: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """W and H from the stored factors without padding."""
        return W, Ht.T


class Solver(Protocol):
    """An algorithm that lowers the objective, as an immutable description. Everything that changes is in its state.

    Attributes
    ----------
    n_factor_copies : int
        How many times its state holds the factors, for the memory estimate.
    needs_transpose : bool
        Whether it needs the counts transposed too.
    extrapolates : bool
        Whether its steps may start elsewhere than at its factors, so that `State.gaps` belong to other factors.
    """

    @property
    def n_factor_copies(self) -> int: ...

    @property
    def needs_transpose(self) -> bool: ...

    @property
    def extrapolates(self) -> bool: ...

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> Any:
        """The state that starts from W and Ht, which the solver may overwrite; no pass over the counts."""

    def prepare(self, problem: Problem, state: Any) -> None:
        """Called once before the first step of a fit, not when a fit is resumed."""

    def step(self, problem: Problem, state: Any) -> None:
        """One iteration: update both factors in `state`."""


class Contribution(NamedTuple):
    """Sums over rows whose factor is updated, from which the update of the other factor is computed.

    Attributes
    ----------
    contraction : ndarray of shape (p, K)
        sum_i x_ij / (W_i . H_j) W_i of each column j.
    sums : ndarray of shape (K,), float64
        Column sums of W.
    gap : float
        Gap of W before its update, see `State.gaps`.
    """

    contraction: np.ndarray
    sums: np.ndarray
    gap: float


@shown_as_table
@dataclass(frozen=True)
class Solution:
    """Result of a fit.

    Attributes
    ----------
    W : ndarray of shape (n, n_components)
    H : ndarray of shape (n_components, p)
    objective : float
        Divergence D(X || W H) plus the penalties of priors, in nats; NaN, as the residual is, if `status` is
        UNMEASURED.
    kkt_residual : float
        Upper bound, in nats per count, on the decrease of the objective by any other W with this H, or any other H with
        this W: 0 exactly if the Karush-Kuhn-Tucker conditions hold.
    n_iter : int
    status : Status
        Why the fit stopped, as a sentence; `status.name` is a short identifier.
    trace : structured ndarray
        Fields n_iter, objective (nats), kkt_residual and seconds; one record per evaluation, including the start.
    restarts : ndarray
        The last objective of each of the `n_init` starts, in nats.
    group_effects : ndarray of shape (n_groups, p), float64, optional
        Effects of the groups, in the order of their sorted labels; None without groups.
    validation : structured ndarray, optional
        Fields n_iter and log_likelihood of held-out counts, in nats per count; None without validation.

    See Also
    --------
    poisson_nmf : returns it.
    PoissonNMF : has the same results as attributes.

    Examples
    --------
    >>> from fastpmf import poisson_nmf
    >>> solution = poisson_nmf([[4, 0, 2], [0, 3, 0], [2, 0, 1]], 2, random_state=0)
    >>> solution.W.shape, solution.H.shape
    ((3, 2), (2, 3))
    >>> print(solution.status)
    Converged to within tol.
    """

    W: np.ndarray
    H: np.ndarray
    objective: float
    kkt_residual: float
    n_iter: int
    status: Status
    trace: np.ndarray
    restarts: np.ndarray = field(default_factory=lambda: np.empty(0))
    group_effects: np.ndarray | None = None
    validation: np.ndarray | None = None

    @property
    def dead_components(self) -> np.ndarray:
        """Indices of components that explain no counts."""
        return np.flatnonzero((self.W.max(axis=0, initial=0) == 0) | (self.H.max(axis=1, initial=0) == 0))

    def _table(self) -> Table:
        (n, k), p = self.W.shape, self.H.shape[1]
        facts = {
            "status": str(self.status), "iterations": f"{self.n_iter:,}", "objective": f"{self.objective:.8g} nats",
            "kkt_residual": f"{self.kkt_residual:.2g} nats per count",
        }  # fmt: skip
        if len(self.trace):
            facts["seconds"] = f"{self.trace['seconds'][-1]:.3g}"
        return Table(f"Solution: W {n:,} x {k}, H {k} x {p:,}, {self.H.dtype}", facts=facts)


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C during a fit, after the first iteration; `solution` is the fit so far.

    A second Ctrl-C during the final evaluation leaves its objective and residual NaN, and the status UNMEASURED.

    See Also
    --------
    Checkpoint : saves fits in progress to disk.

    Examples
    --------
    >>> from fastpmf import FitInterrupted, PoissonNMF
    >>> model = PoissonNMF(2, random_state=0)
    >>> try:
    ...     model = model.fit([[4, 0, 2], [0, 3, 0], [2, 0, 1]])
    ... except FitInterrupted:
    ...     print("stopped early; model has the fit so far")
    >>> model.components_.shape
    (2, 3)
    """

    def __init__(self, solution: Solution) -> None:
        super().__init__(str(solution.status))
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:  # so that the solution is pickled too, as from a worker process
        return type(self), (self.solution,)
