"""Coordinate-ascent mean-field inference: the posteriors of one factor are set to their optimum, in turn."""

import copy
import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.core.factors import aligned, column_sums, empty_factor
from fastpmf.counts.csr import ColumnSums
from fastpmf.model.hierarchy import (
    GammaFactor,
    GammaPrior,
    best_prior,
    evidence_bound,
    update_given_contraction,
    weights,
)
from fastpmf.solvers.alternating import Alternating
from fastpmf.solvers.base import NOT_SAVED, Contribution, Problem, State, saved_array

LEARN_EVERY = 5  # iterations between updates of the hyperparameters, which cost as much as the bound


@dataclass
class PosteriorState(State):
    """Posteriors of both factors and the current priors.

    Attributes
    ----------
    posteriors : list of two GammaFactor
        Posteriors of W and of H transposed.
    priors : list of two GammaPrior
    scratch : ndarray of shape (max(n, p), K)
    effects : ndarray of shape (p, n_groups), float64
        Posterior means of the effects of groups of rows on features; (1, 0) without groups.
    """

    posteriors: list[GammaFactor]
    priors: list[GammaPrior] = field(metadata=NOT_SAVED)
    scratch: np.ndarray = field(metadata=NOT_SAVED)
    effects: np.ndarray = field(default_factory=lambda: np.ones((1, 0)))

    def state_dict(self) -> dict[str, np.ndarray]:
        found = super().state_dict()
        for side in Side:
            shape, *others = self.priors[side].to_numbers()
            found |= {f"prior_shape_{side.value}": np.array(shape), f"prior_{side.value}": np.array(others)}
        return found

    def load_state_dict(self, arrays: dict[str, np.ndarray]) -> None:
        super().load_state_dict(arrays)
        k = self.posteriors[0].n_components
        for side in Side:
            shape = saved_array(arrays, f"prior_shape_{side.value}", float, (), (k,))
            others = saved_array(arrays, f"prior_{side.value}", float, (3,))
            found = GammaPrior.from_numbers([shape.tolist(), *others.tolist()], k)
            self.priors[side] = replace(found, entries=self.priors[side].entries)


@dataclass(frozen=True)
class PosteriorProblem(Problem):
    """Maximise the evidence lower bound; the objective is minus that, in nats."""

    def objective(self, state: PosteriorState) -> float:
        return -evidence_bound(self.counts, state.posteriors, state.priors, self.groups, state.effects)

    def residual(self, state: PosteriorState) -> float:
        """Share of the counts that the latest updates moved; see `update_given_contraction`."""
        return state.residual(self.counts.total)

    def complete(self, state: PosteriorState) -> None:
        """Do nothing, since an update replaces a posterior by a complete one."""

    def solution_factors(self, state: PosteriorState) -> tuple[np.ndarray, np.ndarray]:
        """Posterior means."""
        W, Ht = (factor.mean[:, : self.n_components] for factor in state.posteriors)
        return W, Ht.T


@dataclass(frozen=True, kw_only=True)
class MeanField(Alternating):
    """Update the posteriors of W, of H, and of the effects of groups in turn; the bound never falls.

    Parameters
    ----------
    priors : (GammaPrior, GammaPrior)
        Priors of W and of H transposed.
    learn : bool, default=False
        Update the hyperparameters too, every `LEARN_EVERY` iterations, which does not lower the bound either.
    inner_steps : int, default=1
        Updates of W in an iteration.
    """

    n_factor_copies: ClassVar[int] = 4

    priors: tuple[GammaPrior, GammaPrior]
    learn: bool = False

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> PosteriorState:
        """Start from the means W and Ht. They have no posteriors before `prepare`."""
        k, priors = problem.n_components, self.priors
        factors = [GammaFactor.start(W, priors[0], k), GammaFactor.start(Ht, priors[1], k)]
        scratch = aligned(max(len(W), len(Ht)), W.shape[1], W.dtype)
        state = PosteriorState(factors, list(self.priors), scratch, problem.start_effects)
        for side in Side:
            factors[side].weight = _weights(problem, side, state)
        return state

    def prepare(self, problem: Problem, state: PosteriorState) -> None:
        """Infer the first posteriors from the means."""
        super().step(problem, state)
        state.n_steps = 0

    def step(self, problem: Problem, state: PosteriorState) -> None:
        if self.learn and state.n_steps % LEARN_EVERY == 0:
            state.priors = [
                best_prior(factor, prior) for factor, prior in zip(state.posteriors, state.priors, strict=True)
            ]
        super().step(problem, state)

    def update_factor(self, problem: Problem, state: PosteriorState, side: Side, n_updates: int) -> None:
        factor, other, prior = state.posteriors[side], state.posteriors[side.other], state.priors[side]
        scratch = state.scratch[: len(factor.mean)]
        for n in range(n_updates):
            problem.counts.contract(side, factor.geometric, other.geometric, scratch)
            moved = float(update_given_contraction(factor, scratch, _weights(problem, side, state), prior).sum())
            if n == 0 or math.isnan(moved):
                state.gaps[side] = moved
            if math.isnan(moved):
                return

    def update_by_blocks(self, problem: Problem, state: PosteriorState) -> Contribution:
        """As in `Alternating`. The old posteriors stay until all rows are updated, so that Ctrl-C can't mix them."""
        counts = problem.counts
        side, other = counts.storage_axis, state.posteriors[counts.storage_axis.other]
        new, prior = copy.deepcopy(state.posteriors[side]), state.priors[side]
        weight, gap = _weights(problem, side, state), 0.0
        sums = ColumnSums(state.scratch[: len(other.mean)])
        for rows, block in counts.blocks():
            X, part = block.side(side), new.select_rows(rows)
            S, own_weight = np.empty_like(part.mean), weight if len(weight) == 1 else weight[rows]
            own_prior = prior.select_rows(rows)
            for n in range(self.inner_steps):
                X.contract(part.geometric, other.geometric, S)
                moved = update_given_contraction(part, S, own_weight, own_prior)
                gap += float(moved.sum()) if n == 0 else 0.0
            new.put(rows, part)
            if counts.row_access_only:
                sums.add(X, part.geometric, other.geometric)
        contraction = sums.finish()
        if not counts.row_access_only:
            counts.contract(side.other, other.geometric, new.geometric, contraction)
        new.weight, new.sums = weight, column_sums(new.mean)
        new.activity_shape = prior.posterior_activity_shape(problem.n_components, len(new.mean))
        state.posteriors[side], state.gaps[side] = new, gap
        return Contribution(contraction, new.sums, gap)

    def update_other(self, problem: Problem, state: PosteriorState, total: Contribution) -> None:
        side, k = problem.counts.storage_axis.other, problem.n_components
        factor = state.posteriors[side]
        if problem.groups is None:  # the sums may be those of several workers
            weight = empty_factor(1, k, factor.mean.dtype)
            weight[0, :k], weight[0, k:] = total.sums[:k], np.inf
        else:
            weight = _weights(problem, side, state)
        state.gaps[side] = float(update_given_contraction(factor, total.contraction, weight, state.priors[side]).sum())

    def finish_step(self, problem: Problem, state: PosteriorState) -> None:
        if problem.groups is not None:
            state.effects = problem.groups.best_effects_of(*(factor.mean for factor in state.posteriors))


def _weights(problem: Problem, side: Side, state: PosteriorState) -> np.ndarray:
    """What the rates of the entries of a factor have from the other factor, see `weights`."""
    return weights(problem.counts, side, state.posteriors[side.other], problem.groups, state.effects)
