"""Coordinate-ascent mean-field inference: each half-step sets one factor's posteriors to their best."""

import math
from dataclasses import dataclass, field

import numpy as np

from fastpmf.counts import Side
from fastpmf.model.factors import aligned, column_sums
from fastpmf.model.hierarchy import GammaFactor, GammaPrior, best_prior, evidence_bound, update
from fastpmf.solvers.base import Problem, State

LEARN_EVERY = 5  # iterations between updates of the hyperparameters, which cost as much as the bound


@dataclass
class Posteriors(State):
    """Where a mean-field solver is: `factors` are the posterior means.

    Attributes
    ----------
    posteriors : (GammaFactor, GammaFactor)
        Of the rows and of the columns.
    priors : (GammaPrior, GammaPrior)
    """

    posteriors: tuple[GammaFactor, GammaFactor] = field(kw_only=True)
    priors: tuple[GammaPrior, GammaPrior] = field(kw_only=True)


@dataclass(frozen=True)
class Inference(Problem):
    """What is approached: the posterior; its objective is minus the evidence lower bound, in nats."""

    def objective(self, state: State) -> float:
        if not isinstance(state, Posteriors):
            return math.inf  # Ctrl-C struck before there were any
        return -evidence_bound(self.counts, state.posteriors, state.priors, self.n_components)

    def measure(self, state: State) -> float:
        """How far the latest half-steps moved, as a share of the counts; see `update`."""
        return state.kkt_residual(self.counts.total) if state.gaps else math.inf


class MeanField:
    """Posteriors of W and of H in turn; the bound never falls.

    Parameters
    ----------
    priors : (GammaPrior, GammaPrior)
        Of W and of H transposed.
    learn : bool, default=False
        Fit the hyperparameters too, every `LEARN_EVERY` iterations; the bound does not fall then either.
    """

    warm_up, copies, transposed, leaps, tells = 0, 4, True, False, True

    def __init__(self, priors: tuple[GammaPrior, GammaPrior], *, learn: bool = False) -> None:
        self._priors, self._learn, self._done = priors, learn, 0

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        rows, columns = (
            GammaFactor.start(A, column_sums(A), prior, problem.n_components)
            for A, prior in zip((W, Ht), self._priors, strict=True)
        )
        longest = max(len(W), len(Ht))
        self._scratch = aligned(longest, W.shape[1], W.dtype)
        units = np.ones(W.shape[1])
        state = Posteriors([W, Ht], [rows.sums, columns.sums], units, posteriors=(rows, columns), priors=self._priors)
        self._iterate(problem, state)  # posteriors for what were only means
        return state

    def step(self, problem: Problem, state: State) -> None:
        assert isinstance(state, Posteriors)
        if self._learn and self._done % LEARN_EVERY == 0:
            rows, columns = (
                best_prior(factor, prior, problem.n_components)
                for factor, prior in zip(state.posteriors, state.priors, strict=True)
            )
            state.priors = rows, columns
        self._iterate(problem, state)
        self._done += 1

    def _iterate(self, problem: Problem, state: Posteriors) -> None:
        for side in Side:
            factor, other = state.posteriors[side], state.posteriors[1 - side]
            scratch = self._scratch[: len(factor.mean)]
            moved = update(problem.counts, side, factor, other, state.priors[side], problem.n_components, scratch)
            state.gaps[side] = float(moved.sum())
            state.sums[side] = factor.sums
            if math.isnan(state.gaps[side]):
                return
