"""Better optima from one start: fit more components, merge some, then replace components in rounds."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastpmf.core.factors import aligned, column_sums, padded, padded_width
from fastpmf.model.merging import merge, merge_costs, new_components, random_components, with_new_components
from fastpmf.solvers.base import FactorState, Problem, Solver, Status
from fastpmf.solvers.run import Run

_CANDIDATES = 2  # pairs whose objective after merging is computed, for each pair to merge


@dataclass(frozen=True)
class ComponentSearch:
    """Bring a run that has just started to a point from where it ends lower, in a part of its iterations.

    In a poor local optimum some components share what one could explain, and others explain what needs two. So more
    components than asked for are fitted first, and the most similar ones are merged. Then, in each round, new
    components are added for rows that are fitted badly, all are fitted for a few iterations, and as many are merged. A
    round that ends no lower is undone.

    Which pairs are merged is decided by the objective: that of the merged factors is computed for the most similar
    pairs. If counts are streamed, where each objective is a pass over them, similarity decides alone.

    Components with fixed entries are never merged, nor those whose prior differs from that of the first one without.

    Parameters
    ----------
    first_extra, extra : float
        Number of components added at first, and in each round, relative to the number of those that can be merged.
    first_steps, steps : int
        Iterations with more components at first, which include the warm-up of the solver, and in each round.
    settling : int
        Iterations after components were merged.
    rounds : int

    References
    ----------
    Y. Guo and T. E. Holy, "An optimal pairwise merge algorithm improves the quality and consistency of nonnegative
    matrix factorization", IEEE Trans. Signal Process. 73 (2025), for fitting more components and merging them.
    B. Fritzke, "The k-means algorithm with breathing", arXiv:2006.15666, for rounds that add and remove centres.
    """

    first_extra: float = 0.5
    first_steps: int = 30
    extra: float = 0.25
    steps: int = 15
    settling: int = 10
    rounds: int = 3

    def apply(self, run: Run, problem: Problem, solver: Solver, rng: Any, max_iter: int) -> None:
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
            The search does no more iterations than this: fewer rounds if needed, or nothing.
        """
        free = problem.interchangeable
        if len(free) < 2 or run.status is not None or max_iter < self.first_steps + self.settling:
            return
        n_first, n_new = (max(1, round(share * len(free))) for share in (self.first_extra, self.extra))
        try:
            new = random_components(problem.counts, n_first, rng)
            self._add_and_merge(run, problem, solver, free, new, self.first_steps, warm_up=True)
            for _ in range(self.rounds):
                if run.status is not None or run.out_of_time or run.n_iter + self.steps + self.settling > max_iter:
                    break
                components = new_components(problem.counts, run.state.factors, n_new, rng)
                if components is None:
                    break
                self._add_and_merge(run, problem, solver, free, components, self.steps)
        except KeyboardInterrupt:
            run.status = Status.INTERRUPTED

    def _add_and_merge(
        self, run: Run, problem: Problem, solver: Solver, free: np.ndarray, new: tuple[np.ndarray, np.ndarray],
        n_steps: int, *, warm_up: bool = False,
    ) -> None:  # fmt: skip
        """Add components to those of the run, fit all, and merge as many; the run continues from there if it is lower."""
        old, K, n_new = run.state, problem.n_components, new[0].shape[1]
        dtype = old.factors[0].dtype
        wide = problem.extended(n_new, free[0], padded_width(K + n_new, dtype))
        factors = old.factors[0][:, :K] * old.units[:K], old.factors[1][:, :K] / old.units[:K]
        state = solver.init(wide, *(padded(A, dtype) for A in with_new_components(*factors, new, free)))
        n_iter = run.n_iter + _advance(run, solver, wide, state, n_steps, warm_up=warm_up)
        factors = merged_down(problem, wide, state, free)
        state = solver.init(problem, *(padded(A, dtype) for A in factors))
        n_iter += _advance(run, solver, problem, state, self.settling)
        is_lower = problem.objective(state) < run.objective
        run.replace_state(state if is_lower else old, n_iter)


def _advance(
    run: Run, solver: Solver, problem: Problem, state: FactorState, n_steps: int, *, warm_up: bool = False
) -> int:
    """Iterate up to `n_steps` times, as long as there is time; the number of iterations done."""
    if not warm_up:
        state.n_steps = solver.warm_up
    for done in range(n_steps):
        if run.out_of_time or np.isnan(state.gaps).any():
            return done
        solver.step(problem, state)
    return n_steps


def merged_down(problem: Problem, wide: Problem, state: FactorState, free: np.ndarray) -> list[np.ndarray]:
    """W and H transposed of a problem, from a state of the one with more components; float64, not padded.

    Parameters
    ----------
    problem, wide : Problem
        `wide` is `problem.extended(...)`.
    state : FactorState
        Of `wide`.
    free : ndarray of int
        `problem.interchangeable`.
    """
    K, width, dtype = problem.n_components, state.factors[0].shape[1], state.factors[0].dtype
    factors = [A[:, : wide.n_components].astype(np.float64) for A in (state.factors[0] * state.units, state.factors[1] / state.units)]
    n_extra = wide.n_components - K
    while n_extra:
        able = np.append(free, np.arange(K, K + n_extra))
        first, second = np.triu_indices(len(able), 1)
        costs = merge_costs(*(A[:, able] for A in factors))[first, second]
        pairs = np.stack([able[first], able[second]], axis=1)[np.argsort(costs, kind="stable")]
        if not problem.counts.row_access_only:
            pairs = pairs[: _CANDIDATES * n_extra]
            smaller = problem.extended(n_extra - 1, free[0], width)
            pairs = pairs[np.argsort(_objectives(smaller, factors, pairs, width, dtype), kind="stable")]
        disjoint: list[tuple[int, int]] = []
        for a, b in pairs.tolist():
            if len(disjoint) < n_extra and not {a, b} & {c for pair in disjoint for c in pair}:
                disjoint.append((a, b))
        factors = _merged(factors, disjoint, able)
        n_extra -= len(disjoint)
    return factors


def _merged(factors: list[np.ndarray], pairs: list[tuple[int, int]], able: np.ndarray) -> list[np.ndarray]:
    """The factors with disjoint pairs of the components `able` merged, the rest of these moved to their first places."""
    out = [A.copy() for A in factors]
    for a, b in pairs:
        out[0][:, a], out[1][:, a] = merge(*factors, a, b)
    left = np.setdiff1d(able, [b for _, b in pairs])
    for A in out:
        A[:, able[: len(left)]] = A[:, left]
    return [A[:, : A.shape[1] - len(pairs)] for A in out]


def _objectives(
    problem: Problem, factors: list[np.ndarray], pairs: np.ndarray, width: int, dtype: np.dtype
) -> list[float]:
    """Objective, in nats, after merging each pair of components; `problem` has one component less than the factors."""
    out, last = [], factors[0].shape[1] - 1
    trial = [aligned(len(A), width, dtype, np.zeros) for A in factors]
    for A, B in zip(trial, factors, strict=True):
        A[:, :last] = B[:, :last]
    for a, b in pairs.tolist():
        for A, B, column in zip(trial, factors, merge(*factors, a, b), strict=True):
            A[:, b] = B[:, last] if b < last else 0
            A[:, a] = column
        state = FactorState(trial, [column_sums(A) for A in trial], np.ones(width))
        state.balance(problem)
        out.append(problem.objective(state))
        for A, B in zip(trial, factors, strict=True):
            A[:, [a, b]] = B[:, [a, b]]
            A[:, last] = 0
    return out
