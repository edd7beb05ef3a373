"""The one iteration loop."""

import math
from collections.abc import Callable

import numpy as np

from fastpmf.core.factors import column_sums
from fastpmf.solvers.base import TRACE_DTYPE, Callback, Memory, Problem, Record, Solution, Solver, State, Status
from fastpmf.solvers.clock import Clock


class Run:
    """A fit under way: a solver, where it is, and the trace so far.

    Parameters
    ----------
    solver : Solver
    problem : Problem
    W, Ht : ndarray, padded
        Where to start; overwritten.
    tol : float
        Converged once the residual of the factors as they are, `State.measure`, is at most this.
    eval_every : int, default=10
        Iterations between the records of the trace, which the callback sees.
    max_time : float, optional
        Seconds from here on after which no iteration begins, not counting compilation.
    callback : callable, optional
        Called with (record, W, H) at each record; a true answer stops the fit.
    keep : callable, optional
        Called with the run after each iteration, to save `remember()` of it now and then.
    memory : Memory, optional
        What a run like this remembered, to go on from there; W and Ht are then not looked at.
    """

    def __init__(
        self,
        solver: Solver,
        problem: Problem,
        W: np.ndarray,
        Ht: np.ndarray,
        *,
        tol: float,
        eval_every: int = 10,
        max_time: float | None = None,
        callback: Callback | None = None,
        keep: "Callable[[Run], object] | None" = None,
        memory: Memory | None = None,
    ) -> None:
        self._keep = keep
        self._clock = Clock()
        self._solver, self._problem = solver, problem
        self._tol, self._eval_every, self._callback = tol, eval_every, callback
        self._until = math.inf if max_time is None else max_time
        self._trace: list[Record] = []
        self.n_iter, self._residual = 0, math.inf
        self.status: Status | None = None
        if memory is not None:
            try:
                self._recall(memory)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"resume: what was saved is not of such a fit: {error}") from None
            return
        self._state = State.start(problem, W, Ht)
        try:
            self._state = solver.init(problem, W, Ht)
            self._evaluate()
        except KeyboardInterrupt:
            self.status = Status.INTERRUPTED

    def _recall(self, memory: Memory) -> None:
        self._state = self._solver.recall(self._problem, memory)
        self.n_iter, self._residual = int(memory["n_iter"]), float(memory["residual"])
        if memory["trace"].dtype != TRACE_DTYPE or not len(memory["trace"]):
            raise ValueError(f"a trace of {memory['trace'].dtype} and shape {memory['trace'].shape}")
        self._trace = [Record(*line) for line in memory["trace"].tolist()]
        before = float(memory["seconds"])
        self._clock, self._until = Clock(before), self._until + before

    @property
    def objective(self) -> float:
        """Of the latest record, in nats; inf where Ctrl-C struck before there was one."""
        return self._trace[-1].objective if self._trace else math.inf

    def advance(self, max_iter: int) -> "Run":
        """Iterate until `max_iter` iterations are done in all, or something else stops it."""
        state, counts = self._state, self._problem.counts
        try:
            while self.status is None and self.n_iter < max_iter:
                self._solver.step(self._problem, state)
                self.n_iter, self._residual = self.n_iter + 1, state.kkt_residual(counts.total)
                if math.isnan(self._residual):
                    self.status = Status.NON_FINITE
                elif self._residual <= self._tol and self._problem.measure(state) <= self._tol:
                    self.status = Status.CONVERGED
                elif self._clock.seconds() >= self._until:
                    self.status = Status.MAX_TIME
                if self.n_iter % self._eval_every == 0:
                    self._evaluate()
                if self._keep is not None and self.status is not Status.NON_FINITE:
                    self._keep(self)
            if self._trace[-1].n_iter < self.n_iter:
                self._evaluate(final=True)
        except KeyboardInterrupt:
            self.status = Status.INTERRUPTED
        return self

    def remember(self) -> Memory:
        """All that going on from here depends on."""
        return self._solver.remember(self._state) | {
            "n_iter": np.array(self.n_iter),
            "residual": np.array(self._residual),
            "seconds": np.array(self._clock.seconds()),
            "trace": np.array(self._trace, dtype=TRACE_DTYPE),
        }

    def finish(self) -> Solution:
        """The solution; its objective and residual are those of the factors returned, in float64.

        Ctrl-C here costs no more than that look at them, which may be a pass over a disk.

        Raises
        ------
        KeyboardInterrupt
            Where it struck before the first iteration was done, and there is nothing but the start.
        ValueError
            The factors can't be held in the user's units.
        """
        if self.status is Status.INTERRUPTED and self.n_iter == 0:
            raise KeyboardInterrupt("Interrupted from the keyboard before an iteration was done; nothing is kept.")
        try:
            return self._finished()
        except KeyboardInterrupt:
            self.status = Status.UNMEASURED
            return self._finished()

    def _finished(self) -> Solution:
        state, problem = self._state, self._problem
        state.sums = [column_sums(A) for A in state.factors]  # Ctrl-C may have struck between a factor and its sums
        state.data_term = None
        state.balance(problem)
        measures = (math.nan, math.nan)
        if self.status is not Status.UNMEASURED:
            residual = problem.measure(state)
            measures = problem.objective(state), residual
        last = Record(self.n_iter, *measures, self._clock.seconds())
        trace = [record for record in self._trace if record.n_iter < self.n_iter or self.n_iter == 0] or [last]
        if trace[-1].n_iter < self.n_iter:
            trace.append(last)
        W, H = (np.array(A, order="C") for A in self._view())
        for A, name in ((W, "W"), (H, "H")):
            if not np.isfinite(A).all():
                raise ValueError(
                    f"{name} is out of the range of {A.dtype} in the units that its prior, exposures or what is known "
                    "ask for: take dtype float64, or less extreme ones"
                )
        status = self.status or (Status.CONVERGED if last.kkt_residual <= self._tol else Status.MAX_ITER)
        return Solution(
            W, H, last.objective, last.kkt_residual, self.n_iter, status, np.array(trace, dtype=TRACE_DTYPE),
            state=state if self._solver.tells else None,
        )  # fmt: skip

    def _evaluate(self, *, final: bool = False) -> None:
        problem, residual = self._problem, self._residual
        if self._solver.leaps and math.isfinite(residual):
            residual = problem.measure(self._state)
        record = Record(self.n_iter, problem.objective(self._state), residual, self._clock.seconds())
        self._trace.append(record)
        if not final and self._callback is not None and (stop := self._callback(record, *self._view())):
            self.status = self.status or (stop if isinstance(stop, Status) else Status.CALLBACK)

    def _view(self) -> tuple[np.ndarray, np.ndarray]:
        W, Ht = (A[:, : self._problem.n_components] for A in self._state.factors)
        W, H = self._problem.present(W, Ht, self._state.units)
        for A in (W, H):
            A.flags.writeable = False
        return W, H
