"""Better optima from one start: fit more components, merge some, then replace components in rounds."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastpmf.core.factors import column_sums, padded_width, with_width
from fastpmf.model.init import INITS
from fastpmf.model.merging import merge, merge_costs, new_components, put_components, random_components
from fastpmf.solvers.base import FactorState, Problem, Solver, Status
from fastpmf.solvers.coordinate_descent import CoordinateDescent
from fastpmf.solvers.extrapolated import Extrapolated
from fastpmf.solvers.run import Run
from fastpmf.utils.validation import check_option

NewStart = Callable[[], tuple[np.ndarray, np.ndarray]]
_TIME = 0.5  # share of `max_time` after which the search ends
_CANDIDATES = 2  # pairs whose objective after merging is computed, for each pair to merge


@dataclass(frozen=True)
class ComponentSearch:
    """Move a run that has just started to a point from where it converges to a better local optimum.

    In a poor local optimum some components share what one could explain, and others explain what needs two. So more
    components than asked for are fitted first, and the most similar ones are merged. Then, in each round, new
    components are added for rows that are fitted badly, all are fitted for a few iterations, and as many are merged. A
    round that ends no lower is undone.

    With few components, where merging two changes much and an iteration costs little, random starts compete with the
    merged factors: the lowest after the same number of iterations is the one that the rounds continue from.

    Which pairs are merged is decided by the objective: that of the merged factors is computed for the most similar
    pairs. If counts are streamed, where each objective is a pass over them, similarity decides alone.

    Only components without fixed entries and with equal priors are merged: the largest set of them. The rounds end
    early if the run has converged.

    Parameters
    ----------
    first_extra, extra : float
        Number of components added at first, and in each round, relative to the number of those that can be merged.
    first_steps, steps : int
        Iterations with more components at first, which include the warm-up of the solver, and in each round.
    settling : int
        Iterations after components were merged.
    rounds : int
    few, n_starts : int
        With at most `few` components that can be merged, `n_starts` random starts. Not if counts are streamed.
    starts_wide : bool
        Whether the run starts from random factors, so that more components are fitted first. If not, `settling`
        iterations come first.
    solver : Solver, optional
        That of the search, if the fit that starts from its result has another one.

    References
    ----------
    Y. Guo and T. E. Holy, "An optimal pairwise merge algorithm improves the quality and consistency of nonnegative
    matrix factorization", IEEE Trans. Signal Process. 73 (2025), for fitting more components and merging them.
    B. Fritzke, "The k-means algorithm with breathing", arXiv:2006.15666, for rounds that add and remove centres.
    """

    first_extra: float = 0.5
    first_steps: int = 20
    extra: float = 0.25
    steps: int = 10
    settling: int = 5
    rounds: int = 3
    few: int = 10
    n_starts: int = 4
    starts_wide: bool = True
    solver: Solver | None = None

    def n_extra(self, n_components: int) -> tuple[int, int]:
        """How many components are added to so many that can be merged: at first, and in each round."""
        return max(1, round(self.first_extra * n_components)), max(1, round(self.extra * n_components))

    def n_factor_copies(self, n_components: int, solver: Solver, dtype: np.dtype) -> float:
        """Memory of the search in copies of the padded factors.

        The state of the wider fit, the iterate, merged factors, and new components in float64.
        """
        n_extra = self.n_extra(n_components)[0 if self.starts_wide else 1]
        width = padded_width(n_components, dtype)
        wide = padded_width(n_components + n_extra, dtype) / width
        new = 8 * n_extra / (width * dtype.itemsize)
        return (self.solver or solver).n_factor_copies * wide + 2 + new

    def apply(
        self, run: Run, problem: Problem, solver: Solver, rng: Any, max_iter: int, new_start: NewStart | None = None
    ) -> None:
        """Search from the start of a run, whose `n_iter` and trace will include the search.

        Parameters
        ----------
        run : Run
            Before its first iteration.
        problem : Problem
        solver : Solver
            That of the run, with a `FactorState`.
        rng : numpy RandomState or Generator
        max_iter : int
            The search does no more iterations than this: fewer starts and rounds if needed, or nothing.
        new_start : callable, optional
            Returns the W and H transposed, padded, of another random start; None: there are no others.
        """
        free, first_steps = problem.interchangeable, self.first_steps if self.starts_wide else 0
        if len(free) < 2 or run.status is not None or run.has_used(_TIME) or max_iter < first_steps + self.settling:
            return
        n_first, n_new = self.n_extra(len(free))
        try:
            if self.starts_wide:
                new = random_components(problem.counts, n_first, rng)
                self._add_and_merge(run, problem, solver, free, new, first_steps)
                if new_start is not None and len(free) <= self.few and not problem.counts.row_access_only:
                    self._try_starts(run, problem, solver, max_iter, new_start)
            else:
                _advance(run, solver, problem, run.state, self.settling)
                run.replace_state(run.state, run.state.n_steps)
            solver = past_warm_up(solver)
            for _ in range(self.rounds):
                ends = run.n_iter + self.steps + self.settling > max_iter
                if ends or run.status is not None or run.has_used(_TIME) or run.converged:
                    break
                components = new_components(
                    problem.counts, run.state.factors, n_new, rng, problem.groups, run.state.effects
                )
                if components is None:
                    break
                self._add_and_merge(run, problem, solver, free, components, self.steps)
            if run.status is None and run.out_of_time and run.n_iter:
                run.status = Status.MAX_TIME
        except KeyboardInterrupt:
            run.status = Status.INTERRUPTED

    def _try_starts(self, run: Run, problem: Problem, solver: Solver, max_iter: int, new_start: NewStart) -> None:
        """Continue from the lowest of the iterate and other starts after as many iterations; the rounds still fit."""
        n_steps = self.first_steps + self.settling
        max_iter -= self.rounds * (self.steps + self.settling)
        run.hold(run.state.without_spares())
        for _ in range(self.n_starts):
            ends = run.n_iter + n_steps > max_iter
            if ends or run.status is not None or run.has_used(_TIME) or run.converged:
                break
            state = solver.init(problem, *new_start())
            _advance(run, solver, problem, state, n_steps)
            n_iter, state = run.n_iter + state.n_steps, state.without_spares()
            is_lower = problem.objective(state) < run.objective
            run.replace_state(state if is_lower else run.state, n_iter, evaluate=is_lower)
        best = run.state
        state = past_warm_up(solver).init(problem, *best.factors)
        state.gaps, state.effects = best.gaps, best.effects
        run.replace_state(state, run.n_iter, evaluate=False)

    def _add_and_merge(
        self, run: Run, problem: Problem, solver: Solver, free: np.ndarray, new: tuple[np.ndarray, np.ndarray],
        n_steps: int,
    ) -> None:  # fmt: skip
        """Add components, fit all, and merge as many; the run continues from there if its objective is lower.

        Ctrl-C keeps the factors before, or the merged ones if there has been no iteration before.
        """
        old = run.state.without_spares()
        run.hold(old)
        K, n_new, dtype = problem.n_components, new[0].shape[1], old.factors[0].dtype
        wide = problem.extended(n_new, free[0], padded_width(K + n_new, dtype))
        factors = [with_width(A, K, n_new) for A in old.factors]
        put_components(factors, np.arange(K, K + n_new), new, free)
        state, interrupted = solver.init(wide, *factors), False
        state.effects = old.effects
        try:
            _advance(run, solver, wide, state, n_steps)
        except KeyboardInterrupt:
            if run.n_iter or not state.n_steps:
                raise
            interrupted = True
        n_iter = run.n_iter + state.n_steps
        state = state.without_spares()
        exact = not (interrupted or run.has_used(_TIME) or problem.counts.row_access_only)
        try:
            factors = merged_down(problem, wide, state, free, exact=exact)
        except KeyboardInterrupt:
            if run.n_iter:
                raise
            interrupted, factors = True, merged_down(problem, wide, state, free, exact=False)
        solver = past_warm_up(solver)
        effects = state.effects
        state = solver.init(problem, *factors)
        state.effects = effects
        try:
            _advance(run, solver, problem, state, 0 if interrupted else self.settling)
        except KeyboardInterrupt:
            if run.n_iter:
                raise
            interrupted = True
        n_iter += state.n_steps
        is_lower = problem.objective(state) < run.objective
        if not is_lower:
            state = solver.init(problem, *old.factors)
            state.gaps, state.effects = old.gaps, old.effects
        run.replace_state(state, n_iter, evaluate=is_lower)
        if interrupted:
            raise KeyboardInterrupt


def _advance(run: Run, solver: Solver, problem: Problem, state: FactorState, n_steps: int) -> None:
    """Iterate up to `n_steps` times, as long as there is time."""
    for _ in range(n_steps):
        if run.has_used(_TIME) or np.isnan(state.gaps).any():
            return
        solver.step(problem, state)


def merged_down(
    problem: Problem, wide: Problem, state: FactorState, free: np.ndarray, *, exact: bool
) -> list[np.ndarray]:
    """W and H transposed for a problem, padded, from a state of the one with more components, which is overwritten.

    Parameters
    ----------
    problem, wide : Problem
        `wide` is `problem.extended(...)`.
    state : FactorState
        Of `wide`.
    free : ndarray of int
        `problem.interchangeable`.
    exact : bool
        Whether the objective decides between similar pairs.
    """
    factors, K = state.factors, problem.n_components
    n_extra = wide.n_components - K
    while n_extra:
        able = np.append(free, np.arange(K, K + n_extra))
        first, second = np.triu_indices(len(able), 1)
        costs = merge_costs(factors, able)[first, second]
        pairs = np.stack([able[first], able[second]], axis=1)[np.argsort(costs, kind="stable")]
        if exact:
            pairs = pairs[: _CANDIDATES * n_extra]
            smaller = problem.extended(n_extra - 1, free[0], factors[0].shape[1])
            pairs = pairs[np.argsort(_objectives(smaller, factors, state.effects, pairs), kind="stable")]
        merged: list[int] = []
        for a, b in pairs.tolist():
            if len(merged) < 2 * n_extra and a not in merged and b not in merged:
                merge(factors, a, b)
                merged += [a, b]
        left = np.setdiff1d(able, merged[1::2])
        for A in factors:
            A[:, able[: len(left)]] = A[:, left]
            A[:, able[len(left) :]] = 0
        n_extra -= len(merged) // 2
    return [with_width(A, K) for A in factors]


def _objectives(problem: Problem, factors: list[np.ndarray], effects: np.ndarray, pairs: np.ndarray) -> list[float]:
    """Objective, in nats, after merging each pair of components; `problem` has one component less than the factors."""
    out, last = [], problem.n_components
    for a, b in pairs.tolist():
        kept = [A[:, [a, b, last]] for A in factors]
        merge(factors, a, b)
        for A in factors:
            A[:, b] = A[:, last]
            A[:, last] = 0
        try:
            state = FactorState(
                factors, [column_sums(A) for A in factors], np.ones(factors[0].shape[1]), effects=effects
            )
            state.balance(problem)
            out.append(problem.objective(state))
        finally:  # Ctrl-C in a pass over the counts leaves the factors as they were
            for A, columns in zip(factors, kept, strict=True):
                A[:, [a, b, last]] = columns
    return out


def past_warm_up(solver: Any) -> Any:
    """The solver without the iterations that it does first after a random start."""
    if isinstance(solver, Extrapolated):
        return replace(solver, solver=past_warm_up(solver.solver))
    return replace(solver, warm_up=0) if isinstance(solver, CoordinateDescent) else solver


def make_search(init: str, solver: str, *, validation: bool = False) -> ComponentSearch | None:
    """The search of init="merge", "grow" or "shrink"; "auto" is "merge" with coordinate descent.

    With `validation`, "auto" does not search, since the fit may be at its best before the search ends.

    Raises
    ------
    ValueError
        If `init` is not one of `INITS`.
    """
    check_option(init, INITS, "init")
    by_default = init == "auto" and solver in ("auto", "cd") and not validation
    if init in ("grow", "shrink"):
        return ComponentSearch(starts_wide=False, rounds=2 if init == "grow" else 1)
    return ComponentSearch() if by_default or init == "merge" else None
