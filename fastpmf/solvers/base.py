"""What goes into the iteration loop and comes out of it: problem, state, solver, solution."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import aligned, aligned_copy, column_sums, padded_width
from fastpmf.core.subproblem import RowPrior
from fastpmf.model.objective import divergence
from fastpmf.model.priors import NO_TERMS, Terms, best_units
from fastpmf.model.updates import multiplicative
from fastpmf.utils.validation import check_shape_dtype


class Status(StrEnum):
    """Why a fit stopped, as a sentence; `name` is a short identifier."""

    CONVERGED = "Converged to within tol."
    MAX_ITER = "Stopped at max_iter before converging to within tol; increase max_iter or tol."
    CALLBACK = "Stopped by the callback."
    VALIDATION = "Stopped where held-out counts got no likelier."
    MAX_TIME = "Stopped at max_time before converging to within tol; increase max_time or tol."
    ONLINE = "Fitted by partial_fit, one mini-batch after another."
    INTERRUPTED = "Interrupted from the keyboard; the factors of the last complete update are kept."
    UNMEASURED = "Interrupted from the keyboard while the last factors were measured; they are kept, unmeasured."
    NON_FINITE = "Stopped at a rate that is not a positive finite number; the factors before it are kept."


class Record(NamedTuple):
    """One line of a trace.

    Attributes
    ----------
    n_iter : int
        Iterations done.
    objective : float
        Divergence D(X || W H) of the factors at this point, plus what their priors add, in nats.
    kkt_residual : float
        Optimality gap in nats per count, measured in passing, see `State.kkt_residual`; inf before the first
        iteration. With extrapolation, and in the last record of a trace, it is that of the factors as they are.
    seconds : float
        Since the solver began, not counting compilation.
    """

    n_iter: int
    objective: float
    kkt_residual: float
    seconds: float


TRACE_DTYPE = np.dtype([("n_iter", np.int64), ("objective", float), ("kkt_residual", float), ("seconds", float)])


def plain_factors(W: np.ndarray, Ht: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The factors as they are."""
    return W, Ht.T


Memory = dict[str, np.ndarray]

# (record, W, H) -> true, or a Status, to stop; W and H are read-only views of the current factors.
Callback = Callable[[Record, np.ndarray, np.ndarray], Any]


@dataclass(frozen=True)
class Problem:
    """What is solved: the W and H of least divergence from the counts, plus what their priors add.

    Attributes
    ----------
    counts : Counts of shape (n, p)
    n_components : int
        Columns of the factors, those of a known background included.
    terms : (Terms, Terms)
        Of W and of H transposed.
    present : callable
        Makes W and H, as a user knows them, of (W, Ht, units), as solvers do.
    units : ndarray of shape (K,), float64, optional
        What the factors that a solver starts from have; ones by default.
    """

    counts: Counts
    n_components: int
    terms: tuple[Terms, Terms] = (NO_TERMS, NO_TERMS)
    present: Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]] = plain_factors
    units: np.ndarray | None = None

    def row_terms(self, side: Side, state: "State") -> tuple[np.ndarray, RowPrior]:
        """Weights and prior of the rows of a factor, while the other stays as it is in `state`."""
        other, terms = Side(1 - side), self.terms[side]
        units = state.units_of(side)
        observed = self.counts.observed_sums(side, state.factors[other], state.sums[other])
        return terms.weights(observed, units), terms.row_prior(units, state.factors[side].dtype)

    def objective(self, state: "State") -> float:
        """Divergence of the factors, minus the logarithm of their prior, in nats."""
        rate_total = self.counts.rate_total(*state.factors, *state.sums)
        W, Ht = state.factors
        objective = divergence(self.counts, W, Ht, rate_total, state.data_term)
        for side in Side:
            objective += self.terms[side].penalty(state.factors[side], state.sums[side], state.units_of(side))
        return objective

    def measure(self, state: "State") -> float:
        """The residual of these very factors, at the cost of one multiplicative iteration.

        Of counts that each pass reads anew it finds the data term too, so that the objective takes no other pass.
        """
        ratios = [aligned(len(A), A.shape[1], A.dtype) for A in state.factors]
        if self.counts.row_access_only and state.data_term is None:
            state.data_term = self.counts.contract_both(*state.factors, *ratios, logs=True)
        else:
            self.counts.contract_both(*state.factors, *ratios)
        gaps = []
        for side in Side:
            weight, prior = self.row_terms(side, state)
            gaps.append(multiplicative(state.factors[side], ratios[side], weight, None, prior=prior).gap)
        return float(np.max(gaps)) / self.counts.total


@dataclass
class State:
    """Where a solver is. `factors[Side.ROWS]` is W, `factors[Side.COLUMNS]` is H transposed, both padded.

    Attributes
    ----------
    factors : list of two ndarray
        Always a complete pair: an update is written elsewhere and then put in its place.
    sums : list of two ndarray of float64
        Their column sums.
    units : ndarray of shape (K,), float64
        What W is to be multiplied by, and H divided by; see `fastpmf.model.priors`.
    gaps : dict of Side to float
        For each side the latest `Update.gap`, in nats.
    data_term : float, optional
        Sum of x log rate over all entries, in nats, where the latest update knew it.
    """

    factors: list[np.ndarray]
    sums: list[np.ndarray]
    units: np.ndarray
    gaps: dict[Side, float] = field(default_factory=dict)
    data_term: float | None = None

    @classmethod
    def start(cls, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> "State":
        units = np.ones(W.shape[1]) if problem.units is None else problem.units
        state = cls([W, Ht], [column_sums(W), column_sums(Ht)], units)
        state.balance(problem)
        return state

    def remember(self) -> Memory:
        """All of it, by name."""
        gaps = [self.gaps.get(side, math.nan) for side in Side]
        data_term = math.nan if self.data_term is None else self.data_term
        return {
            "W": self.factors[0], "Ht": self.factors[1], "w_sum": self.sums[0], "h_sum": self.sums[1],
            "units": self.units, "measures": np.array([*gaps, data_term]),
        }  # fmt: skip

    @classmethod
    def recall(cls, problem: Problem, memory: Memory, **more: Any) -> Self:
        """What `remember` gave, again; a ValueError where that is of other sizes than the problem."""
        dtype = memory["W"].dtype
        width = padded_width(problem.n_components, dtype)
        for name, n in zip(("W", "Ht"), problem.counts.shape, strict=True):
            A = check_shape_dtype(memory[name], (n, width), dtype, name)
            if not (np.isfinite(A).all() and (A >= 0).all()):
                raise ValueError(f"{name} that is not finite and >= 0")
        for name in ("w_sum", "h_sum", "units"):
            check_shape_dtype(memory[name], (width,), np.dtype(float), name)
        *gaps, data_term = (None if math.isnan(x) else float(x) for x in memory["measures"])
        return cls(
            [aligned_copy(memory["W"]), aligned_copy(memory["Ht"])], [memory["w_sum"], memory["h_sum"]],
            memory["units"], {side: gap for side, gap in zip(Side, gaps, strict=True) if gap is not None}, data_term,
            **more,
        )  # fmt: skip

    def balance(self, problem: Problem) -> None:
        """Bring the factors into the units that their priors make most probable."""
        self.units = best_units(*problem.terms, self.factors, self.sums, self.units)

    def units_of(self, side: Side) -> np.ndarray:
        """What the stored factor of a side is to be multiplied by."""
        return self.units if side is Side.ROWS else 1.0 / self.units

    def kkt_residual(self, total: float) -> float:
        """The larger of the two factors' `Update.gap`, per count.

        Measured in passing, at the start of each half-step: no other W, with H as it was then, and no other H, with W
        as it was then, was better by more than this many nats per count; 0 exactly where the Karush-Kuhn-Tucker
        conditions hold. NaN where a rate was not positive.
        """
        return float(np.max(list(self.gaps.values()))) / total


class Part(NamedTuple):
    """What some rows say of H, once their W is updated; parts of other rows add up with it.

    Attributes
    ----------
    contraction : ndarray of shape (p, K)
        sum_i x_ij / (W_i . H_j) W_i of each column j.
    sums : ndarray of shape (K,), float64
        Column sums of W.
    gap : float
        Of W before the update, as in `Update`, or how far posteriors moved; NaN where a rate was not positive.
    """

    contraction: np.ndarray
    sums: np.ndarray
    gap: float


class Solver(Protocol):
    """A way to lower the objective. It has no loop over iterations of its own.

    Attributes
    ----------
    warm_up : int
        Iterations that go before its own.
    copies : int
        How many times it holds the factors.
    transposed : bool
        Whether it needs the counts transposed too.
    leaps : bool
        Whether its steps may begin elsewhere than at its factors, so that what they measure in passing is of there.
    tells : bool
        Whether its state holds more than the factors, which the solution is to keep.
    """

    @property
    def warm_up(self) -> int: ...

    @property
    def copies(self) -> int: ...

    @property
    def transposed(self) -> bool: ...

    @property
    def leaps(self) -> bool: ...

    @property
    def tells(self) -> bool: ...

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        """The state to start in; W and Ht are the solver's to overwrite."""

    def step(self, problem: Problem, state: State) -> None:
        """One iteration: bring both factors forward, in `state`."""

    def remember(self, state: State) -> Memory:
        """All that the next step depends on, by name; arrays may be the solver's own."""

    def recall(self, problem: Problem, memory: Memory) -> State:
        """The state in which a solver of this kind was, so that its next step is the same to the bit."""


@dataclass(frozen=True)
class Solution:
    """What a fit arrived at.

    Attributes
    ----------
    W : ndarray of shape (n, n_components)
    H : ndarray of shape (n_components, p)
    objective : float
        Divergence D(X || W H), plus what priors add, in nats; NaN, as the residual is, where `status` is unmeasured.
    kkt_residual : float
        Upper bound, in nats per count, on what any other W with this H, or any other H with this W, could gain: 0
        exactly where the Karush-Kuhn-Tucker conditions hold.
    n_iter : int
    status : Status
        Why it stopped, as a sentence; `status.name` is a short identifier.
    trace : structured ndarray
        Fields n_iter, objective (nats), kkt_residual, seconds; one record per evaluation, the start included.
    restarts : ndarray
        The objective at which each of the `n_init` starts ended or was left behind, in nats.
    validation : structured ndarray, optional
        Fields n_iter and log_likelihood, of held-out counts, per count and in nats; where there were any.
    state : State, optional
        Where the solver ended, for what W and H don't tell.
    """

    W: np.ndarray
    H: np.ndarray
    objective: float
    kkt_residual: float
    n_iter: int
    status: Status
    trace: np.ndarray
    restarts: np.ndarray = field(default_factory=lambda: np.empty(0))
    validation: np.ndarray | None = None
    state: "State | None" = None

    @property
    def dead_components(self) -> np.ndarray:
        """Numbers of the components that carry no counts."""
        return np.flatnonzero((self.W.max(axis=0, initial=0) == 0) | (self.H.max(axis=1, initial=0) == 0))


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C during a fit, once an iteration is done; `solution` holds what was fitted so far.

    Ctrl-C again, while objective and residual of that are measured, leaves these NaN, and `Status.UNMEASURED`.
    """

    def __init__(self, solution: Solution) -> None:
        super().__init__(str(solution.status))
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:  # so that it comes whole out of a worker process
        return type(self), (self.solution,)
