"""The loop of every fit, over workers: a solver and a problem whose steps and measures are asked of a crew."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.core.counts import Side
from fastpmf.core.factors import empty_factor
from fastpmf.dask._crew import Crew, Traffic
from fastpmf.dask._share import Points, Posterior, Start
from fastpmf.fitting.checkpoint import saver_of
from fastpmf.fitting.fit import facts_of
from fastpmf.solvers import Record, Run, Solution, State
from fastpmf.solvers.base import Memory, Problem
from fastpmf.utils.messages import listed
from fastpmf.utils.progress import show_progress
from fastpmf.utils.validation import random_generator


class Whole(NamedTuple):
    """What is known of all counts together, for whoever asks `Counts` for no more."""

    shape: tuple[int, int]
    nnz: int
    total: float
    smallest: float
    dtype: np.dtype
    sizes: np.ndarray
    row_access_only: bool = True


class Result(NamedTuple):
    """What a fit over workers arrived at; `solution` has neither W nor H."""

    solution: Solution
    columns: Memory
    traffic: Traffic
    recoveries: int
    W: list[Any] | None


def surveyed(crew: Crew) -> Whole:
    """Open X on the workers, and check that its blocks go together."""
    opened = crew.open()
    rows = {number: n for part in opened for number, n in part.rows.items()}
    widths = sorted({part.n_columns for part in opened})
    if len(widths) > 1:
        raise ValueError(f"X must have blocks of as many columns each, got {listed(widths)}")
    sizes = np.array([rows[number] for number in sorted(rows)])
    dtype = np.result_type(*(np.dtype(part.dtype) for part in opened))
    shape, total = (int(sizes.sum()), widths[0]), sum(part.total for part in opened)
    if total == 0:
        raise ValueError(f"X must hold at least one positive count, got all {shape[0]} x {shape[1]} zero")
    smallest = min(part.smallest for part in opened)
    return Whole(shape, sum(part.nnz for part in opened), float(total), smallest, dtype, sizes)


def check_timeout(timeout: Any) -> float:
    """Seconds > 0."""
    check_scalar(timeout, "timeout", (int, float, np.number), min_val=0, include_boundaries="neither")
    if not math.isfinite(timeout):
        raise ValueError(f"timeout must be a finite number of seconds, got {timeout}")
    return float(timeout)


@dataclass(frozen=True)
class Asked(Problem):
    """A problem whose measures are those of all workers."""

    crew: Crew | None = None
    told: bool = False  # whether the residual is what the latest step said

    def objective(self, state: State) -> float:
        assert self.crew is not None
        return self.crew.objective()

    def measure(self, state: State) -> float:
        assert self.crew is not None
        if self.told:
            return state.kkt_residual(self.counts.total)
        return self.crew.gap() / self.counts.total


class Remote:
    """A solver whose steps are those of all workers; its state has their gaps, and no factors."""

    warm_up, copies, transposed, leaps, tells = 0, 0, False, False, False

    def __init__(self, crew: Crew, begin: Callable[..., None]) -> None:
        self._crew, self._begin = crew, begin

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        self._begin()
        return State.start(problem, W, Ht)

    def step(self, problem: Problem, state: State) -> None:
        gaps = self._crew.iterate()
        state.gaps = {Side.ROWS: gaps.rows, Side.COLUMNS: gaps.columns}

    def remember(self, state: State) -> Memory:
        gaps = np.array([state.gaps.get(side, math.inf) for side in Side])
        return self._crew.columns() | {"gaps": gaps}

    def recall(self, problem: Problem, memory: Memory) -> State:
        own = {name: A for name, A in memory.items() if name not in ("gaps", "n_iter", "residual", "seconds", "trace")}
        self._begin(columns=own, iteration=int(memory["n_iter"]))
        nothing = np.zeros((0, memory["Ht"].shape[1]), memory["Ht"].dtype)
        state = State.start(problem, nothing, nothing)
        state.gaps = dict(zip(Side, memory["gaps"].tolist(), strict=True))
        return state


def fit(
    crew: Crew, model: Points | Posterior, whole: Whole, *, exposure: np.ndarray | None, H: Memory | None,
    facts: dict[str, Any], checkpoint: Any, resume: Any, max_iter: int, tol: float, max_time: float | None,
    eval_every: int, random_state: Any, verbose: bool, callback: Callable[[Record], Any] | None, wanted: bool,
) -> Result:  # fmt: skip
    """Iterate until something stops it, and bring H to the client; W stays on the workers, where it is `wanted`."""
    nothing = empty_factor(0, model.n_components, model.dtype)
    start = Start(_generator(random_state), whole.shape, whole.total)
    crew.message_bytes = whole.shape[1] * nothing.shape[1] * model.dtype.itemsize

    def begin(columns: Memory | None = H, iteration: int = 0) -> None:
        crew.begin(model, start, whole.sizes, exposure, columns, iteration)

    counts: Any = whole
    problem = Asked(counts, model.n_components, crew=crew, told=isinstance(model, Posterior))
    saver = saver_of(checkpoint, resume, facts_of(counts) | facts | {"workers": True})
    told: dict[str, Any] = {"tol": tol, "eval_every": eval_every, "max_time": max_time}
    if saver is not None:
        told |= {"keep": saver.keep, "memory": saver.memory}
    heard = None if callback is None else lambda record, *_: callback(record)
    crew.prepare(model)
    residual = "residual" if isinstance(model, Posterior) else "kkt_residual"
    with show_progress(heard, max_iter, verbose=verbose, residual=residual) as watch:
        run = Run(Remote(crew, begin), problem, nothing, nothing, callback=watch, **told)
        solution = run.advance(max_iter).finish()
    columns = crew.columns()
    W = crew.found() if wanted else None
    crew.release()
    objective = np.array([solution.objective])
    return Result(replace(solution, restarts=objective), columns, crew.traffic(), crew.recoveries, W)


def _generator(random_state: Any) -> Any:
    """What workers draw from: a copy of it is sent, so the user's own is moved on."""
    if random_state is None:
        return np.random.default_rng()
    rng = random_generator(random_state)
    sent = copy.deepcopy(rng)
    rng.standard_normal()
    return sent
