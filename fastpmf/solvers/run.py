"""The iteration loop, and successive halving of several starts."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from fastpmf.core.ranges import float64_or
from fastpmf.solvers.base import TRACE_DTYPE, Observer, Record, Solution, State, Status, saved_array
from fastpmf.solvers.clock import Clock

FIRST_RUNG = 30  # iterations before the worse half of several starts is dropped; then twice as many, and so on
_STOP_ALL = (Status.INTERRUPTED, Status.CALLBACK, Status.MAX_TIME)
_NOT_SAVED = (Status.CONVERGED, Status.VALIDATION, Status.NON_FINITE)  # a resumed fit stops at this iteration again


class Objective(Protocol):
    """The methods of a problem that the loop calls; see `fastpmf.solvers.base.Problem`."""

    @property
    def total(self) -> float: ...

    def objective(self, state: Any) -> float: ...

    def residual(self, state: Any) -> float: ...

    def complete(self, state: Any) -> None: ...

    def solution_factors(self, state: Any) -> tuple[np.ndarray, np.ndarray]: ...

    def effects_of(self, state: Any) -> np.ndarray | None: ...


class Run:
    """A fit in progress: a solver, its state, and the trace so far.

    Parameters
    ----------
    solver : Solver
    problem : Problem
    state : State
        From `solver.init`; it is changed.
    options : FitOptions
        `tol`, `eval_every` and `max_time`, as in `PoissonNMF`.
    observers : sequence of callable
        Called in turn at each record, as observer(record, W, H, state) with read-only W and H in the user's units. A
        true result, or a `Status`, stops the fit.
    checkpoints : CheckpointFolder, optional
        `save_if_due(run)` is called after each iteration, and may save `state_dict()`. If `saved` is not None, it is
        the `state_dict()` of an earlier run, which is continued; only shapes and dtypes of `state` are then used.
    seconds : float, default=0.0
        Time that the fit has taken before.

    Attributes
    ----------
    state : State
    n_iter : int
    status : Status or None
        Why it stopped, if it did.
    """

    def __init__(
        self, solver: Any, problem: Objective, state: State, options: Any, observers: Sequence[Observer],
        checkpoints: Any = None, seconds: float = 0.0,
    ) -> None:  # fmt: skip
        self._solver, self._problem, self._options = solver, problem, options
        self._observers, self._checkpoints = observers, checkpoints
        self._clock, self._max_seconds = Clock(seconds), math.inf if options.max_time is None else options.max_time
        self._trace: list[Record] = []
        self._residual = math.inf
        self._measured: tuple[Any, int, float] = (None, 0, math.nan)  # state, iteration and residual of the factors
        self.n_iter = 0
        self.status: Status | None = None
        self.state: Any = state
        if checkpoints is not None and checkpoints.saved is not None:
            self._load_state_dict(checkpoints.saved)
            return
        try:
            solver.prepare(problem, self.state)
            self._evaluate()
        except KeyboardInterrupt:
            self.status = Status.INTERRUPTED

    @property
    def objective(self) -> float:
        """Objective of the latest record, in nats; inf if there is none."""
        return self._trace[-1].objective if self._trace else math.inf

    @property
    def seconds(self) -> float:
        """Time that the fit has taken so far."""
        return self._clock.seconds()

    @property
    def out_of_time(self) -> bool:
        """Whether `max_time` has passed."""
        return self.has_used(1.0)

    def has_used(self, share: float) -> bool:
        """Whether this share of `max_time` has passed."""
        return self.seconds >= share * self._max_seconds

    @property
    def converged(self) -> bool:
        """Whether the residual of the latest step is within `tol`."""
        return self._residual <= self._options.tol

    def hold(self, state: State) -> None:
        """Hold only these factors of the current state, and free the rest of its memory."""
        self.state, self._measured = state, (None, 0, math.nan)

    def replace_state(self, state: State, n_iter: int, *, evaluate: bool = True) -> None:
        """Continue from another state of the same solver, after `n_iter` iterations in all."""
        state.n_steps = n_iter
        self.state, self.n_iter, self._residual = state, n_iter, state.residual(self._problem.total)
        if evaluate:
            self._evaluate()

    def advance(self, max_iter: int) -> "Run":
        """Iterate until `max_iter` iterations are done in all, or until the fit stops for another reason."""
        solver, problem, state, options = self._solver, self._problem, self.state, self._options
        try:
            while self.status is None and self.n_iter < max_iter:
                solver.step(problem, state)
                self.n_iter, self._residual = state.n_steps, state.residual(problem.total)
                if math.isnan(self._residual):
                    self.status = Status.NON_FINITE
                elif self._residual <= options.tol and self._residual_of_factors() <= options.tol:
                    self.status = Status.CONVERGED
                elif self.out_of_time:
                    self.status = Status.MAX_TIME
                if self.n_iter % options.eval_every == 0:
                    self._evaluate()
                if self._checkpoints is not None and self.status not in _NOT_SAVED:
                    self._checkpoints.save_if_due(self)
            if self._trace and self._trace[-1].n_iter < self.n_iter:
                self._evaluate(final=True)
        except KeyboardInterrupt:
            self.status = Status.INTERRUPTED
        return self

    def finish(self) -> Solution:
        """The solution; its objective and residual are computed from the returned factors.

        Ctrl-C here skips that evaluation, which may be a pass over a disk.

        Raises
        ------
        KeyboardInterrupt
            If the run was interrupted before the first iteration was done.
        ValueError
            If the factors in the user's units are out of the range of their dtype.
        """
        if self.status is Status.INTERRUPTED and self.n_iter == 0:
            raise KeyboardInterrupt("Interrupted before an iteration was done; nothing is kept.")
        try:
            return self._solution()
        except KeyboardInterrupt:
            self.status = Status.UNMEASURED
            return self._solution()

    def _solution(self) -> Solution:
        problem, state = self._problem, self.state
        problem.complete(state)
        self.n_iter = state.n_steps
        objective, residual = math.nan, math.nan
        if self.status is not Status.UNMEASURED:
            # An interrupt may have come between two updates
            residual = problem.residual(state) if self.status is Status.INTERRUPTED else self._residual_of_factors()
            objective = problem.objective(state)
        last = Record(self.n_iter, objective, residual, self._clock.seconds())
        trace = [record for record in self._trace if record.n_iter < self.n_iter or self.n_iter == 0] or [last]
        if trace[-1].n_iter < self.n_iter:
            trace.append(last)
        W, H = (np.array(A, order="C") for A in problem.solution_factors(state))
        for A, name in ((W, "W"), (H, "H")):
            if not np.isfinite(A).all():
                raise ValueError(
                    f"{name} is out of the range of {A.dtype} in the units that its prior, exposures or fixed parts "
                    f"imply: {float64_or(A.dtype)}use less extreme values"
                )
        status = self.status or (Status.CONVERGED if residual <= self._options.tol else Status.MAX_ITER)
        return Solution(
            W, H, objective, residual, self.n_iter, status, np.array(trace, dtype=TRACE_DTYPE),
            np.array([self.objective]), problem.effects_of(state),
        )  # fmt: skip

    def _residual_of_factors(self) -> float:
        """`problem.residual` of the current factors, computed once for each iteration."""
        state, n_iter, residual = self._measured
        if state is not self.state or n_iter != self.n_iter:
            residual = self._problem.residual(self.state)
            self._measured = self.state, self.n_iter, residual
        return residual

    def _evaluate(self, *, final: bool = False) -> None:
        problem, residual = self._problem, self._residual
        if self._solver.extrapolates and math.isfinite(residual):
            residual = self._residual_of_factors()
        record = Record(self.n_iter, problem.objective(self.state), residual, self._clock.seconds())
        self._trace.append(record)
        if final or not self._observers:
            return
        W, H = problem.solution_factors(self.state)
        for A in (W, H):
            A.flags.writeable = False
        for observer in self._observers:
            if (stop := observer(record, W, H, self.state)) and self.status is None:
                self.status = stop if isinstance(stop, Status) else Status.CALLBACK

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything that the rest of the run depends on, by name."""
        return self.state.state_dict() | {
            "n_iter": np.array(self.n_iter), "residual": np.array(self._residual),
            "seconds": np.array(self._clock.seconds()), "trace": np.array(self._trace, dtype=TRACE_DTYPE),
        }  # fmt: skip

    def _load_state_dict(self, saved: dict[str, np.ndarray]) -> None:
        try:
            self.state.load_state_dict(saved)
            self.n_iter = saved_array(saved, "n_iter", int, ()).item()
            self._residual = saved_array(saved, "residual", float, ()).item()
            seconds = saved_array(saved, "seconds", float, ()).item()
            n_records = max(1, saved["trace"].size if "trace" in saved else 0)
            self._trace = [Record(*line) for line in saved_array(saved, "trace", TRACE_DTYPE, (n_records,)).tolist()]
        except ValueError as error:
            raise ValueError(f"resume: the checkpoint does not belong to such a fit: {error}") from None
        self._clock, self._max_seconds = Clock(seconds), self._max_seconds + seconds


def successive_halving(
    new_run: Callable[[], Run], n_runs: int, max_iter: int, begin: Callable[[int, int], None]
) -> tuple[Run, np.ndarray]:
    """Advance several runs, drop the worse half repeatedly, and finish the last one.

    A run that is dropped might have ended lower than the one that is finished, so several starts can end higher than
    the first alone. Finishing the first too would cost up to another fit.

    Ten starts cost about six fits of 100 iterations, or five of 200. Each run makes its own passes over the counts:
    sharing the passes, block by block, took 1.2 to 2 times as long, since the factors evict each other from the caches.

    Parameters
    ----------
    new_run : callable
        Returns the next run.
    n_runs : int
    max_iter : int
    begin : callable
        Called as begin(number, n_iter) before a run starts or continues; runs are numbered from 0.

    Returns
    -------
    best : Run
    restarts : ndarray of shape (n_runs,)
        Latest objective of each run, in nats.
    """
    started: list[Run] = []
    for number in range(n_runs):
        begin(number, 0)
        started.append(new_run())
        if started[-1].status in _STOP_ALL:
            break
    active, n_iter = list(started), FIRST_RUNG if len(started) > 1 else max_iter
    while True:
        stopped = next((run for run in started if run.status in _STOP_ALL), None)
        for run in active:
            begin(started.index(run), run.n_iter)
            if stopped is None and run.advance(min(n_iter, max_iter)).status in _STOP_ALL:
                stopped = run
        active.sort(key=lambda run: run.objective if not math.isnan(run.objective) else math.inf)
        if stopped is not None or n_iter >= max_iter or all(run.status for run in active):
            break
        active = active[: -(-len(active) // 2)]
        n_iter = 2 * n_iter if len(active) > 1 else max_iter
    best = active[0]
    if stopped is not None:
        best.status = stopped.status
    return best, np.array([run.objective for run in started])
