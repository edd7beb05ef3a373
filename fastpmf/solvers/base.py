"""The one iteration loop, and what goes in and comes out of it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastpmf.counts import Counts, Side
from fastpmf.model.factors import column_sums
from fastpmf.model.objective import divergence


class Status(Enum):
    """Why a fit stopped, as a sentence."""

    CONVERGED = "Converged: kkt_residual is at most tol."
    MAX_ITER = "Stopped at max_iter before kkt_residual came down to tol; raise max_iter, or tol, to converge."
    CALLBACK = "Stopped by the callback."
    INTERRUPTED = "Interrupted from the keyboard; the factors of the last complete update are kept."
    NON_FINITE = "Stopped at a rate that is not a positive finite number; the factors before it are kept."

    def __str__(self) -> str:
        return self.value


class Record(NamedTuple):
    """One line of a trace.

    Attributes
    ----------
    n_iter : int
        Iterations done.
    objective : float
        Divergence D(X || W H) of the factors at this point, in nats.
    kkt_residual : float
        Optimality gap in nats per count, see `State.kkt_residual`; inf before the first iteration.
    seconds : float
        Since the solver began, compilation included.
    """

    n_iter: int
    objective: float
    kkt_residual: float
    seconds: float


TRACE_DTYPE = np.dtype([("n_iter", np.int64), ("objective", float), ("kkt_residual", float), ("seconds", float)])

# (record, W, H) -> true to stop; W and H are read-only views of the current factors.
Callback = Callable[[Record, np.ndarray, np.ndarray], Any]


@dataclass(frozen=True)
class Problem:
    """What is solved: counts, and which of the factors are free.

    Attributes
    ----------
    counts : Counts of shape (n, p)
    n_components : int
    free : tuple of Side, default=(Side.ROWS, Side.COLUMNS)
        Whose factors are updated, in this order in each iteration.
    row_tol : float, optional
        Given, each row of a free factor is left as it is once it is this close to optimal, and one without finite rates
        from the start: so that where V is fixed each row's answer is its own, whatever rows it is solved beside.
    """

    counts: Counts
    n_components: int
    free: tuple[Side, ...] = (Side.ROWS, Side.COLUMNS)
    row_tol: float | None = None


@dataclass
class State:
    """Where a solver is. `factors[Side.ROWS]` is W, `factors[Side.COLUMNS]` is H transposed, both padded.

    Attributes
    ----------
    factors : list of two ndarray
        Always a complete pair: an update is written elsewhere and then put in its place.
    sums : list of two ndarray of float64
        Their column sums.
    gaps : dict of Side to float
        For each free side the latest `Update.gap`, in nats.
    n_moved : int
        Rows changed in the latest iteration.
    """

    factors: list[np.ndarray]
    sums: list[np.ndarray]
    gaps: dict[Side, float] = field(default_factory=dict)
    n_moved: int = 0

    @classmethod
    def start(cls, W: np.ndarray, Ht: np.ndarray) -> "State":
        return cls([W, Ht], [column_sums(W), column_sums(Ht)])

    def kkt_residual(self, total: float) -> float:
        """The larger of the free factors' `Update.gap`, per count.

        Measured in passing, at the start of each half-step: no other W, with H as it was then, and no other H, with W
        as it was then, was better by more than this many nats per count; 0 exactly where the Karush-Kuhn-Tucker
        conditions hold. NaN where a rate was not positive.
        """
        return float(np.max(list(self.gaps.values()))) / total

    def objective(self, counts: Counts) -> float:
        W, Ht = self.factors
        return divergence(counts, W, Ht, float(self.sums[Side.ROWS] @ self.sums[Side.COLUMNS]))


class Solver(Protocol):
    """A way to lower the divergence. It has no loop over iterations of its own."""

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        """The state to start in; W and Ht are the solver's to overwrite."""

    def step(self, problem: Problem, state: State) -> None:
        """One iteration: bring every free factor forward, in `state`."""


@dataclass(frozen=True)
class Solution:
    """What a fit arrived at.

    Attributes
    ----------
    W : ndarray of shape (n, n_components)
    H : ndarray of shape (n_components, p)
    objective : float
        Divergence D(X || W H), in nats.
    kkt_residual : float
        Optimality gap of the last iteration, in nats per count, see `State.kkt_residual`.
    n_iter : int
    status : Status
        Why it stopped; `str(status)` is a sentence.
    trace : structured ndarray
        Fields n_iter, objective (nats), kkt_residual, seconds; one record per evaluation, the start included.
    """

    W: np.ndarray
    H: np.ndarray
    objective: float
    kkt_residual: float
    n_iter: int
    status: Status
    trace: np.ndarray

    @property
    def dead_components(self) -> np.ndarray:
        """Numbers of the components that carry no counts."""
        return np.flatnonzero((self.W.max(axis=0, initial=0) == 0) | (self.H.max(axis=1, initial=0) == 0))


class FitInterrupted(KeyboardInterrupt):
    """Ctrl-C during a fit; `solution` holds what was fitted so far."""

    def __init__(self, solution: Solution) -> None:
        super().__init__(str(solution.status))
        self.solution = solution

    def __reduce__(self) -> tuple:  # so that it comes whole out of a worker process
        return type(self), (self.solution,)


def solve(
    solver: Solver,
    problem: Problem,
    W: np.ndarray,
    Ht: np.ndarray,
    *,
    max_iter: int,
    tol: float,
    eval_every: int = 10,
    callback: Callback | None = None,
) -> Solution:
    """Run a solver from padded factors W and Ht until it converges, is stopped or has done `max_iter` iterations.

    Parameters
    ----------
    solver : Solver
    problem : Problem
    W, Ht : ndarray, padded
        Where to start; overwritten.
    max_iter : int
    tol : float
        Converged once `State.kkt_residual`, or with `row_tol` every row's, is at most this.
    eval_every : int, default=10
        Iterations between evaluations of the objective, which the trace records and the callback sees.
    callback : callable, optional
        Called with (record, W, H) at each evaluation; a true answer stops the fit.

    Returns
    -------
    Solution
        Also on Ctrl-C, with `Status.INTERRUPTED`.
    """
    began = time.perf_counter()
    counts, total = problem.counts, problem.counts.total
    state = solver.init(problem, W, Ht)
    trace: list[Record] = []

    def evaluate(n_iter: int, residual: float) -> bool:
        record = Record(n_iter, state.objective(counts), residual, time.perf_counter() - began)
        trace.append(record)
        return callback is not None and bool(callback(record, *(_view(problem, state))))

    n_iter, residual, status = 0, math.inf, None
    try:
        if evaluate(0, residual):
            status = Status.CALLBACK
        while status is None and n_iter < max_iter:
            solver.step(problem, state)
            n_iter, residual = n_iter + 1, state.kkt_residual(total)
            if math.isnan(residual):
                status = Status.NON_FINITE
            elif residual <= tol if problem.row_tol is None else state.n_moved == 0:
                status = Status.CONVERGED
            if n_iter % eval_every == 0 and evaluate(n_iter, residual):
                status = status or Status.CALLBACK
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
        state.sums = [column_sums(A) for A in state.factors]  # it may have struck between a factor and its sums
    if not trace or trace[-1].n_iter < n_iter or status is Status.INTERRUPTED:
        trace.append(Record(n_iter, state.objective(counts), residual, time.perf_counter() - began))
    W, H = (np.array(A, order="C") for A in _view(problem, state))
    return Solution(
        W,
        H,
        trace[-1].objective,
        residual,
        n_iter,
        status or Status.MAX_ITER,
        np.array(trace, dtype=TRACE_DTYPE),
    )


def _view(problem: Problem, state: State) -> tuple[np.ndarray, np.ndarray]:
    W, Ht = (A[:, : problem.n_components] for A in state.factors)
    H = Ht.T
    for A in (W, H):
        A.flags.writeable = False
    return W, H
