"""Coordinate-ascent mean-field inference: each half-step sets one factor's posteriors to their best."""

import copy
import math
from dataclasses import dataclass, field, fields

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.core.factors import aligned, column_sums, empty_factor
from fastpmf.counts.csr import ColumnSums
from fastpmf.model.hierarchy import GammaFactor, GammaPrior, advance, best_prior, evidence_bound, update, weights
from fastpmf.solvers.base import Memory, Part, Problem, State
from fastpmf.utils.validation import check_shape_dtype

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
        assert isinstance(state, Posteriors)
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
    inner_steps : int, default=1
        Half-steps on W in an iteration; on H where counts are stored by columns.
    """

    warm_up, copies, transposed, leaps, tells = 0, 4, True, False, True

    def __init__(self, priors: tuple[GammaPrior, GammaPrior], *, learn: bool = False, inner_steps: int = 1) -> None:
        self._priors, self._learn, self._steps, self._done = priors, learn, inner_steps, 0

    def init(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> State:
        state = self.start(problem, W, Ht)
        self._iterate(problem, state)  # posteriors for what were only means
        return state

    def start(self, problem: Problem, W: np.ndarray, Ht: np.ndarray) -> Posteriors:
        """The means to begin with, from which the first iteration makes posteriors."""
        rows, columns = (
            GammaFactor.start(A, column_sums(A), prior, problem.n_components)
            for A, prior in zip((W, Ht), self._priors, strict=True)
        )
        longest = max(len(W), len(Ht))
        self._scratch = aligned(longest, W.shape[1], W.dtype)
        units = np.ones(W.shape[1])
        return Posteriors([W, Ht], [rows.sums, columns.sums], units, posteriors=(rows, columns), priors=self._priors)

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

    def remember(self, state: State) -> Memory:
        assert isinstance(state, Posteriors)
        memory = state.remember() | {"done": np.array(self._done)}
        for side, factor, prior in zip(Side, state.posteriors, state.priors, strict=True):
            memory |= {f"{side.name}_{part.name}": np.asarray(getattr(factor, part.name)) for part in fields(factor)}
            shape, *others = prior.to_numbers()
            memory |= {f"{side.name}_prior_shape": np.array(shape), f"{side.name}_prior": np.array(others)}
        return memory

    def recall(self, problem: Problem, memory: Memory) -> State:
        factors, priors = [], []
        for side in Side:
            parts = {part.name: memory[f"{side.name}_{part.name}"] for part in fields(GammaFactor)}
            factors.append(GammaFactor.recall(parts, problem.n_components))
            check_shape_dtype(factors[side].mean, memory[("W", "Ht")[side]].shape, memory["W"].dtype, "mean")
            numbers = (memory[f"{side.name}_prior_shape"].tolist(), *memory[f"{side.name}_prior"].tolist())
            priors.append(GammaPrior.from_numbers(numbers, problem.n_components))
        state = Posteriors.recall(problem, memory, posteriors=(factors[0], factors[1]), priors=(priors[0], priors[1]))
        state.factors = [factor.mean for factor in factors]
        self._scratch = aligned(max(map(len, state.factors)), state.factors[0].shape[1], state.factors[0].dtype)
        self._done = int(memory["done"])
        return state

    def _iterate(self, problem: Problem, state: Posteriors) -> None:
        counts, k = problem.counts, problem.n_components
        if counts.row_access_only:
            part = self.rows(problem, state)
            if not math.isnan(part.gap):
                self.columns(problem, state, part)
            return
        for side in (counts.storage_axis, Side(1 - counts.storage_axis)):
            factor, other, prior = state.posteriors[side], state.posteriors[1 - side], state.priors[side]
            scratch = self._scratch[: len(factor.mean)]
            moved = update(counts, side, factor, other, prior, k, scratch)
            for _ in range(self._steps - 1 if side is counts.storage_axis else 0):
                update(counts, side, factor, other, prior, k, scratch)
            state.gaps[side], state.sums[side] = float(moved.sum()), factor.sums
            if math.isnan(state.gaps[side]):
                return

    def rows(self, problem: Problem, state: State) -> Part:
        """The first half of an iteration, in one pass over blocks of rows: posteriors of each, and its part for H's.

        The old posteriors stay as they are until all are new: Ctrl-C may strike between two blocks.
        """
        assert isinstance(state, Posteriors)
        counts, k = problem.counts, problem.n_components
        side, other = counts.storage_axis, state.posteriors[1 - counts.storage_axis]
        new, prior = copy.deepcopy(state.posteriors[side]), state.priors[side]
        weight, gap = weights(counts, side, other, k), 0.0
        sums = ColumnSums(self._scratch[: len(other.mean)])
        for rows, block in counts.blocks():
            part, S = new.select_rows(rows), np.empty_like(new.mean[rows])
            for step in range(self._steps):
                block.contract(side, part.geometric, other.geometric, S)
                moved = advance(part, S, weight, prior, k)
                gap += float(moved.sum()) if step == 0 else 0.0
            new.put(rows, part)
            if counts.row_access_only:
                sums.add(block.side(side), part.geometric, other.geometric)
        contraction = sums.finish()
        if not counts.row_access_only:
            counts.contract(Side(1 - side), other.geometric, new.geometric, contraction)
        new.weight, new.sums, new.activity_shape = weight, column_sums(new.mean), part.activity_shape
        state.posteriors = (new, other) if side is Side.ROWS else (other, new)
        state.factors[side], state.sums[side], state.gaps[side] = new.mean, new.sums, gap
        return Part(contraction, new.sums, gap)

    def columns(self, problem: Problem, state: State, part: Part) -> None:
        """The second half: H's posteriors, given the parts of all rows added up."""
        assert isinstance(state, Posteriors)
        side = Side(1 - problem.counts.storage_axis)
        factor, k = state.posteriors[side], problem.n_components
        weight = empty_factor(1, k, factor.mean.dtype)
        weight[0, :k], weight[0, k:] = part.sums[:k], np.inf
        moved = advance(factor, part.contraction, weight, state.priors[side], k)
        state.gaps[side], state.sums[side] = float(moved.sum()), factor.sums
