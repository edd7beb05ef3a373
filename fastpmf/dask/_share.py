"""One worker's rows of a fit: what the local solvers do between two sums over all rows. Nothing here knows of Dask.

An iteration is `rows` of every share, the sum of the messages, and `close` with it, which takes the step on H. Every
share takes it for itself: from one sum all come to the same H.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import aligned, column_sums, dot, empty_factor
from fastpmf.fitting.hpf import infer_rows
from fastpmf.fitting.problem import Plain, _terms, present
from fastpmf.model.hierarchy import OF_ROWS, GammaFactor, GammaPrior, data_bound, factor_bound
from fastpmf.model.init import random_rows
from fastpmf.model.priors import NO_TERMS, Terms, best_units
from fastpmf.model.updates import multiplicative
from fastpmf.solvers import solver_of
from fastpmf.solvers.alternating import Alternating
from fastpmf.solvers.base import Memory, Part, Problem, State
from fastpmf.solvers.mean_field import Inference, MeanField, Posteriors
from fastpmf.solvers.row_problems import solve_rows

# Rows whose W was lost are solved anew: as near as a row comes in so many rounds, or half-steps
ROUNDS, NEAR = 200, 1e-7
# No part of a factor is known
_FREE: list[tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]] = [(None, None, None)] * 2


class Message(NamedTuple):
    """What some rows say of H; messages of other rows add up with it.

    Attributes
    ----------
    part : Part
    moments : ndarray of shape (3, K)
        `Terms.moments` of W.
    """

    part: Part
    moments: np.ndarray


def plus(a: Message, b: Message) -> Message:
    """What both say."""
    one, other = a.part, b.part
    part = Part(one.contraction + other.contraction, one.sums + other.sums, one.gap + other.gap)
    return Message(part, a.moments + b.moments)


class Gaps(NamedTuple):
    """`State.gaps` after an iteration."""

    rows: float
    columns: float


class Start(NamedTuple):
    """Where a fit begins: W and H drawn as `initialise` draws them, scaled so that sum(W H) = total."""

    rng: Any
    shape: tuple[int, int]
    total: float

    def drawn(self, kept: Iterable[slice], n_components: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """W of these rows, and H transposed; all rows are drawn, as a generator can't leave any out."""
        n, p = self.shape
        kept = list(kept)
        places = np.cumsum([0, *(rows.stop - rows.start for rows in kept)])
        W, Ht = empty_factor(int(places[-1]), n_components, dtype), empty_factor(p, n_components, dtype)
        sums = np.zeros(n_components)
        for rows, block in random_rows(n, n_components, self.rng):
            block = block.astype(dtype)
            sums += block.sum(axis=0, dtype=np.float64)
            for own, place in zip(kept, places, strict=False):
                first, last = max(rows.start, own.start), min(rows.stop, own.stop)
                if first < last:
                    at = int(place) + first - own.start
                    W[at : at + last - first, :n_components] = block[first - rows.start : last - rows.start]
        for rows, block in random_rows(p, n_components, self.rng):
            Ht[rows, :n_components] = block
        scale = np.sqrt(self.total / dot(sums, column_sums(Ht)[:n_components]))
        W *= dtype.type(scale)
        Ht *= dtype.type(scale)
        return W, Ht


class Share(Protocol):
    """Some rows of a fit, and all of H."""

    @property
    def warm_up(self) -> int:
        """Number of multiplicative iterations before those of the solver."""

    def begin(self, W: np.ndarray, Ht: np.ndarray) -> None:
        """Where to start."""

    def first(self) -> Message:
        """What is to be summed before the first iteration."""

    def rows(self) -> Message:
        """The first half of an iteration."""

    def close(self, total: Message, *, first: bool) -> Gaps:
        """The second half, given the messages of all rows added up."""

    def objective(self, *, columns_too: bool) -> float:
        """What these rows add to the objective, in nats; of one share with what H adds."""

    def columns(self) -> Memory:
        """H, and all else that is the same for every share."""

    def own(self) -> Memory:
        """The rest: arrays with one row for each row of the share."""

    def solved(self, columns: Memory) -> Memory:
        """`own`, as it is best for H as in `columns`."""

    def settle(self, columns: Memory, own: list[Memory]) -> None:
        """Go on from there; the rows are those of `own`, one after the other."""

    def found(self) -> np.ndarray:
        """W of these rows in the user's units, (n_rows, n_components)."""


@dataclass(frozen=True)
class Summed(Terms):
    """W's terms while the units are chosen: their moments are those of all shares."""

    whole: np.ndarray | None = None

    def moments(self, A: np.ndarray, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.whole is not None
        return self.whole[0], self.whole[1], self.whole[2]


@dataclass(frozen=True)
class Points:
    """A `PoissonNMF`: what its shares need to know.

    Attributes
    ----------
    n_components : int
    dtype : dtype
    solver, acceleration, inner_steps
        Of `solver_of`.
    row_prior : Plain
    column_terms : Terms
    column_exposure : ndarray of shape (p,)
    """

    n_components: int
    dtype: np.dtype
    solver: str
    acceleration: str | None
    inner_steps: int
    row_prior: Plain
    column_terms: Terms
    column_exposure: np.ndarray

    def share(self, counts: Counts, exposure: np.ndarray | None) -> "PointShare":
        return PointShare(self, counts, np.ones(counts.shape[0]) if exposure is None else exposure)

    def components(self, columns: Memory) -> np.ndarray:
        """H in the user's units."""
        Ht = columns["Ht"]
        scales, k = (np.ones(0), self.column_exposure), self.n_components
        _, H = present(Ht[:0], Ht, columns["units"], n_components=k, scales=scales, fixed=_FREE)
        return np.array(H, order="C")


class PointShare:
    """A share of a `PoissonNMF`."""

    state: State

    def __init__(self, model: Points, counts: Counts, exposure: np.ndarray) -> None:
        k = model.n_components
        width = empty_factor(1, k, model.dtype).shape[1]
        terms = _terms(np.ones(len(exposure)), exposure, model.row_prior, None, None, width, model.dtype)
        self._model, self._exposure = model, exposure
        self._problem = Problem(counts, k, (terms, model.column_terms))
        make = solver_of(model.solver, model.acceleration, inner_steps=model.inner_steps, row_access_only=True)
        solver = make()
        assert isinstance(solver, Alternating)
        self._solver = solver
        self.warm_up = solver.warm_up

    def begin(self, W: np.ndarray, Ht: np.ndarray) -> None:
        self.state = self._solver.init(self._problem, W, Ht)
        self.state.units = np.ones(W.shape[1])

    def first(self) -> Message:
        W = self.state.factors[Side.ROWS]
        return self._message(Part(np.empty((0, W.shape[1]), W.dtype), column_sums(W), 0.0))

    def rows(self) -> Message:
        part = self._solver.rows(self._problem, self.state)
        return self._message(part._replace(contraction=part.contraction.copy()))

    def _message(self, part: Part) -> Message:
        moments = self._problem.terms[Side.ROWS].moments(self.state.factors[Side.ROWS], part.sums)
        return Message(part, np.stack(moments))

    def close(self, total: Message, *, first: bool) -> Gaps:
        state, terms = self.state, self._problem.terms
        whole: dict[str, Any] = {field.name: getattr(terms[Side.ROWS], field.name) for field in fields(Terms)}
        problem = replace(self._problem, terms=(Summed(**whole, whole=total.moments), terms[Side.COLUMNS]))
        if first:
            state.sums[Side.ROWS] = total.part.sums
            state.units = best_units(*problem.terms, state.factors, state.sums, state.units)
        elif not np.isnan(total.part.gap):
            self._solver.columns(problem, state, total.part)
        return Gaps(total.part.gap, state.gaps.get(Side.COLUMNS, 0.0))

    def objective(self, *, columns_too: bool) -> float:
        state, (rows, columns) = self.state, self._problem.terms
        sums = [column_sums(state.factors[Side.ROWS]), state.sums[Side.COLUMNS]]
        problem = replace(self._problem, terms=(rows, columns if columns_too else NO_TERMS))
        return problem.objective(replace(state, sums=sums, data_term=None))

    def look(self) -> Message:
        """What `gap` needs to be summed."""
        factors = self.state.factors
        ratios = [aligned(len(A), A.shape[1], A.dtype) for A in factors]
        self._problem.counts.contract_both(*factors, *ratios)
        weight, prior = self._problem.row_terms(Side.ROWS, self.state)
        gap = multiplicative(factors[Side.ROWS], ratios[Side.ROWS], weight, None, prior=prior).gap
        return self._message(Part(ratios[Side.COLUMNS], column_sums(factors[Side.ROWS]), gap))

    def gap(self, total: Message) -> float:
        """What `Problem.measure` is the share of per count, of these very factors."""
        self.state.sums[Side.ROWS] = total.part.sums
        weight, prior = self._problem.row_terms(Side.COLUMNS, self.state)
        S = total.part.contraction.copy()  # what comes from another process can't be written to
        gap = multiplicative(self.state.factors[Side.COLUMNS], S, weight, None, prior=prior).gap
        return float(np.max([total.part.gap, gap]))

    def columns(self) -> Memory:
        memory = self._solver.remember(self.state)
        return {name: A for name, A in memory.items() if name not in ("W", "w_sum")}

    def own(self) -> Memory:
        return {"W": self.state.factors[Side.ROWS]}

    def solved(self, columns: Memory) -> Memory:
        counts, K = self._problem.counts, columns["Ht"].shape[1]
        W = empty_factor(counts.shape[0], self._model.n_components, columns["Ht"].dtype)
        self.settle(columns, [{"W": W}])
        weight, prior = self._problem.row_terms(Side.ROWS, self.state)
        weight, k, lost = np.atleast_2d(weight), self._model.n_components, 0
        for rows, block in counts.blocks():
            some, own = weight[rows] if len(weight) > 1 else weight, prior.select_rows(rows)
            start = np.zeros((block.shape[0], K), W.dtype)
            mass = block.sums(Side.ROWS) + own.total_shape
            start[:, :k] = mass[:, None] / np.maximum(k * some[:, :k], np.finfo(W.dtype).tiny)
            W[rows], gap = solve_rows(
                block, self.state.factors[Side.COLUMNS], some, start, prior=own, n_components=k, max_rounds=ROUNDS,
                tol=NEAR,
            )  # fmt: skip
            lost += int((~np.isfinite(gap)).sum())
        if lost:
            raise ValueError(f"H must give every count of X a positive rate, and leaves {lost} rows with one of 0")
        return {"W": W}

    def settle(self, columns: Memory, own: list[Memory]) -> None:
        W = np.concatenate([memory["W"] for memory in own])
        writable = {name: np.array(A) for name, A in columns.items()}
        self.state = self._solver.recall(self._problem, writable | {"W": W, "w_sum": column_sums(W)})

    def found(self) -> np.ndarray:
        W, Ht = self.state.factors
        scales, k = (self._exposure, np.ones(0)), self._model.n_components
        return present(W, Ht[:0], self.state.units, n_components=k, scales=scales, fixed=_FREE)[0]


@dataclass(frozen=True)
class Posterior:
    """An `HPF`: what its shares need to know."""

    n_components: int
    dtype: np.dtype
    priors: tuple[GammaPrior, GammaPrior]
    inner_steps: int

    def share(self, counts: Counts, exposure: np.ndarray | None) -> "PosteriorShare":
        return PosteriorShare(self, counts)

    def factor(self, columns: Memory) -> GammaFactor:
        """H's posterior."""
        parts: dict[str, Any] = {part.name: columns[f"COLUMNS_{part.name}"] for part in fields(GammaFactor)}
        return GammaFactor(**parts | {"activity_shape": float(parts["activity_shape"])})


class PosteriorShare:
    """A share of an `HPF`."""

    state: Posteriors
    warm_up = 0

    def __init__(self, model: Posterior, counts: Counts) -> None:
        self._model, self._solver = model, MeanField(model.priors, inner_steps=model.inner_steps)
        self._problem = Inference(counts, model.n_components)

    def begin(self, W: np.ndarray, Ht: np.ndarray) -> None:
        self.state = self._solver.start(self._problem, W, Ht)

    def first(self) -> Message:
        return self.rows()  # posteriors for what were only means

    def rows(self) -> Message:
        part = self._solver.rows(self._problem, self.state)
        return Message(part._replace(contraction=part.contraction.copy()), np.zeros((3, len(part.sums))))

    def close(self, total: Message, *, first: bool) -> Gaps:
        if not np.isnan(total.part.gap):
            contraction = total.part.contraction.copy()
            self._solver.columns(self._problem, self.state, total.part._replace(contraction=contraction))
        return Gaps(total.part.gap, self.state.gaps.get(Side.COLUMNS, 0.0))

    def objective(self, *, columns_too: bool) -> float:
        (rows, columns), (prior, other) = self.state.posteriors, self.state.priors
        bound = data_bound(self._problem.counts, (rows, columns)) + factor_bound(rows, prior, self._model.n_components)
        return -(bound + factor_bound(columns, other, self._model.n_components) if columns_too else bound)

    def columns(self) -> Memory:
        memory = self._solver.remember(self.state)
        return {name: A for name, A in memory.items() if name not in ("W", "w_sum") and not name.startswith("ROWS_")}

    def own(self) -> Memory:
        rows = self.state.posteriors[Side.ROWS]
        return {name: getattr(rows, name) for name in OF_ROWS}

    def solved(self, columns: Memory) -> Memory:
        other, prior, k = self._model.factor(columns), self._model.priors[Side.ROWS], self._model.n_components
        found = [
            infer_rows(block, other, prior, k, None, max_iter=ROUNDS, tol=NEAR, warn_unconverged=False)
            for _, block in self._problem.counts.blocks()
        ]
        return {name: np.concatenate([getattr(part, name) for part in found]) for name in OF_ROWS}

    def settle(self, columns: Memory, own: list[Memory]) -> None:
        prior, k = self._model.priors[Side.ROWS], self._model.n_components
        memory = {name: np.array(A) for name, A in columns.items()}
        memory |= {f"ROWS_{name}": np.concatenate([some[name] for some in own]) for name in own[0]}
        mean, weight = memory["ROWS_mean"], memory["COLUMNS_sums"][None].astype(memory["ROWS_mean"].dtype)
        weight[:, k:] = np.inf
        sums = column_sums(mean)
        memory |= {"ROWS_weight": weight, "ROWS_sums": sums, "w_sum": sums, "W": mean}
        shape, *others = prior.to_numbers()
        memory |= {"ROWS_activity_shape": np.array(prior.posterior_activity_shape(k))}
        memory |= {"ROWS_prior_shape": np.array(shape), "ROWS_prior": np.array(others)}
        state = self._solver.recall(self._problem, memory)
        assert isinstance(state, Posteriors)
        self.state = state

    def found(self) -> np.ndarray:
        return np.array(self.state.posteriors[Side.ROWS].mean[:, : self._model.n_components], order="C")
