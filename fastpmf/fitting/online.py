"""Fits to one mini-batch of rows after another: online EM and stochastic variational inference."""

import copy
import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from fastpmf.core.counts import Side
from fastpmf.core.factors import column_sums, padded
from fastpmf.core.ranges import dtype_for
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.fitting.hpf import check_no_entries, infer_rows
from fastpmf.fitting.options import FitData, Penalties
from fastpmf.fitting.problem import FactorPrior, build_problem, depends_on_counts, has_entries, read_priors
from fastpmf.fitting.transform import transform
from fastpmf.model.hierarchy import GammaFactor, GammaPrior, Step, update
from fastpmf.model.init import initialise, seed_start
from fastpmf.model.priors import Terms
from fastpmf.model.updates import Statistics
from fastpmf.solvers import CoordinateDescent, Extrapolated, MeanField, Problem, Solver
from fastpmf.solvers.mean_field import PosteriorProblem
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_factor, check_shape_dtype, random_generator

ROWS_PER_COMPONENT = 150  # first rows, which are stored and fitted together; of later ones only statistics are stored
FIRST_ITERATIONS = 35  # on the first rows, from a random start
BATCH_ITERATIONS = 2  # on each later mini-batch, with the statistics as the prior of H
MIN_SHARE = 1e-8  # of the mean of a component; entries of H are raised to it, since a new feature is not impossible
ROW_TOL = 1e-2  # of the rows of a mini-batch before its iterations, nats per count
ROW_ROUNDS, ROW_UPDATES = 3, 20  # limits for them, in rounds of sweeps and in updates of posteriors


@dataclass(frozen=True)
class OnlineOptions:
    """Parameters of `partial_fit`, with the meaning they have in `PoissonNMF`.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """

    forgetting_rate: float
    delay: float
    total_samples: int | None
    random_state: Any
    dtype: Any

    @classmethod
    def of(cls, estimator: Any) -> Self:
        """The options of an estimator, whose parameters have the same names."""
        return cls(**{field.name: getattr(estimator, field.name) for field in fields(cls)})

    def __post_init__(self) -> None:
        number, rate = (int, float, np.number), self.forgetting_rate
        if not isinstance(rate, number) or not 0.5 < rate <= 1:
            raise ValueError(f"forgetting_rate must be a number above 0.5 and at most 1, got {brief(rate)}")
        total = 1 if self.total_samples is None else self.total_samples
        for value, name in ((self.delay, "delay"), (total, "total_samples")):
            if not isinstance(value, number) or not 1 <= value < math.inf:
                raise ValueError(f"{name} must be a number at least 1, got {brief(value)}")


class Schedule(NamedTuple):
    """Steps and rows so far, which determine the length of the next step, (t + delay)^-forgetting_rate.

    t is the number of earlier rows divided by that of the mini-batch: the number of earlier steps if all mini-batches
    are equally large. The first step has length 1.

    References
    ----------
    M. D. Hoffman, D. M. Blei, C. Wang and J. Paisley, "Stochastic variational inference", JMLR 14 (2013), equation 26.
    """

    steps: int = 0
    rows: int = 0

    def advance(self, n_rows: int, options: OnlineOptions) -> tuple[Step, "Schedule"]:
        """The step for a mini-batch of `n_rows` rows, and the schedule after it."""
        after = Schedule(self.steps + 1, self.rows + n_rows)
        total = after.rows if options.total_samples is None else options.total_samples
        length = (self.rows / n_rows + options.delay) ** -float(options.forgetting_rate) if self.steps else 1.0
        return Step(length, total / n_rows), after

    @classmethod
    def from_numbers(cls, numbers: Any) -> Self:
        """The schedule of numbers in a file."""
        steps, rows = map(int, numbers)
        if not 1 <= steps <= rows:
            raise ValueError(f"{steps} steps over {rows} rows")
        return cls(steps, rows)


class FirstRows(NamedTuple):
    """The first rows, stored while they are few, since a start from few rows is poor and later steps hardly improve it.

    Attributes
    ----------
    batches : tuple of csr_array
    exposures : tuple of ndarray
    n_fitted : int
        Number of rows when they were last fitted together.
    """

    batches: tuple[sparse.csr_array, ...] = ()
    exposures: tuple[np.ndarray, ...] = ()
    n_fitted: int = 0

    @property
    def n_rows(self) -> int:
        return sum(map(len, self.exposures))

    def add(self, counts: MemoryCounts, exposure: np.ndarray) -> "FirstRows":
        return self._replace(batches=(*self.batches, counts.to_scipy()), exposures=(*self.exposures, exposure))

    def with_own_arrays(self) -> "FirstRows":
        """With a copy of the latest mini-batch, whose arrays the user may change."""
        return self._replace(batches=(*self.batches[:-1], self.batches[-1].copy()))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, with the mini-batches joined."""
        X = sparse.vstack(self.batches, format="csr")
        return {
            "first_data": X.data, "first_indices": X.indices, "first_indptr": X.indptr,
            "first_exposure": np.concatenate(self.exposures), "first_n_fitted": np.array(self.n_fitted),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], n_columns: int) -> Self:
        """The inverse of `to_arrays`; a ValueError if the arrays do not fit together."""
        triple = tuple(arrays[f"first_{name}"] for name in ("data", "indices", "indptr"))
        counts = as_counts(triple, shape=(len(triple[2]) - 1, n_columns), name="first rows")
        n_rows, n_fitted = counts.shape[0], int(arrays["first_n_fitted"])
        exposure = check_factor(arrays["first_exposure"], (n_rows,), "first_exposure")
        if not (exposure.dtype == float and (exposure > 0).all() and 0 < n_fitted <= n_rows):
            raise ValueError(f"exposures of {exposure.dtype}, or {n_fitted} of {n_rows} rows fitted")
        return cls((counts.to_scipy(),), (exposure,), n_fitted)


class OnlineEM(NamedTuple):
    """State of online EM.

    Attributes
    ----------
    schedule : Schedule
    statistics : Statistics
    first_rows : FirstRows or None
        None once they are complete.
    """

    schedule: Schedule
    statistics: Statistics
    first_rows: FirstRows | None

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything by name."""
        first = {} if self.first_rows is None else self.first_rows.to_arrays()
        statistics = {f"online_{name}": np.asarray(A) for name, A in self.statistics._asdict().items()}
        return {"online_schedule": np.array(self.schedule), **statistics, **first}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], p: int, k: int) -> Self:
        """The inverse of `to_arrays`; a ValueError if the arrays do not fit together."""
        n_rows, work = int(arrays["online_n_rows"]), np.dtype(float)
        sizes = {"counts": (p, k), "exposure": (k,), "totals": (p,)}
        found = [check_shape_dtype(arrays[f"online_{name}"], size, work, name) for name, size in sizes.items()]
        if n_rows < 1 or not all(np.isfinite(A).all() and (A >= 0).all() for A in found):
            raise ValueError("statistics that are not finite and >= 0")
        first = FirstRows.from_arrays(arrays, p) if "first_data" in arrays else None
        schedule = Schedule.from_numbers(arrays["online_schedule"])
        return cls(schedule, Statistics(found[0], found[1], found[2], n_rows), first)


def online_em_step(
    online: OnlineEM | None, H: np.ndarray | None, counts: MemoryCounts, exposure: np.ndarray, n_components: int,
    penalties: Penalties, options: OnlineOptions,
) -> tuple[OnlineEM, np.ndarray]:  # fmt: skip
    """One step on a mini-batch of rows: the next state, and the posterior mode of H, (n_components, p).

    Parameters
    ----------
    online : OnlineEM or None
        None before the first mini-batch.
    H : ndarray of shape (n_components, p), or None
        The current H.
    counts : MemoryCounts of shape (n_batch, p)
    exposure : ndarray of shape (n_batch,)
    n_components : int
    penalties : Penalties
    options : OnlineOptions
    """
    for name, value in zip(("prior_W", "prior_H"), penalties, strict=False):
        if depends_on_counts(value):
            raise ValueError(
                f"{name} must be (shape, rate) or None for partial_fit, got {brief(value)}, whose rate depends on the "
                f"mean of all counts: use {name}_ of a fit to some of the rows"
            )
    if has_entries(penalties.prior_W):
        raise ValueError(
            "prior_W must have a number for each component, not for each entry, for partial_fit, since its entries "
            "would be those of all mini-batches"
        )
    _, prior = read_priors(penalties, n_components, counts.shape)
    if prior.ridge.any():
        raise ValueError("partial_fit supports Gamma priors and L1 penalties: l1_ratio must be 1 if alpha is > 0")
    if online is None and counts.total == 0:
        raise ValueError("X must have at least one positive count in the first mini-batch, got none")
    step, schedule = (Schedule() if online is None else online.schedule).advance(counts.shape[0], options)
    total_rows = step.times * counts.shape[0]
    first = FirstRows() if online is None else online.first_rows
    if first is not None:
        first = first.add(counts, exposure)
    dtype = dtype_for(options.dtype, counts) if H is None else H.dtype
    if first is not None and first.n_rows >= min(2 * first.n_fitted, ROWS_PER_COMPONENT * n_components):
        statistics = _fit_first_rows(first, n_components, dtype, penalties, prior, total_rows, options.random_state)
        first = first._replace(n_fitted=first.n_rows)
    else:
        assert online is not None  # the first rows are fitted at once
        assert H is not None
        statistics = _fit_batch(online.statistics, H, counts, exposure, penalties, prior, step)
    shape, rate = statistics.as_prior(total_rows, prior.shape, prior.rate)
    H = (shape / np.where(rate > 0, rate, np.inf)).T
    H = np.maximum(H, MIN_SHARE * H.mean(axis=1, keepdims=True)).astype(dtype)
    complete = first is None or first.n_fitted >= ROWS_PER_COMPONENT * n_components
    return OnlineEM(schedule, statistics, None if complete or first is None else first.with_own_arrays()), H


def _fit_first_rows(
    first: FirstRows, k: int, dtype: np.dtype, penalties: Penalties, prior: FactorPrior, total_rows: float,
    random_state: Any,
) -> Statistics:  # fmt: skip
    """Statistics of the first rows, from a fit to all of them from a random start."""
    batches = first.batches
    counts = as_counts(batches[0] if len(batches) == 1 else sparse.vstack(batches, format="csr"))
    W, Ht = initialise(counts, k, "random", random_generator(random_state), dtype)
    free = np.ones(k, bool)
    seed_start(counts, (W, Ht), (np.zeros((1, k)), prior.shape), (free, free))
    share = counts.shape[0] / total_rows
    terms = _column_terms(share * prior.shape, share * prior.rate, dtype)
    data = FitData(row_exposure=np.concatenate(first.exposures), fixed_H=Ht[:, :k].T)
    return _iterate(counts, W, Ht, terms, penalties, data, Extrapolated(CoordinateDescent()), FIRST_ITERATIONS)


def _fit_batch(
    earlier: Statistics, H: np.ndarray, counts: MemoryCounts, exposure: np.ndarray, penalties: Penalties,
    prior: FactorPrior, step: Step,
) -> Statistics:  # fmt: skip
    """Statistics after a fit to a mini-batch, in which those of the earlier rows are a prior of H."""
    n, data = counts.shape[0], FitData(row_exposure=exposure)
    share = 1 / (step.times * step.length)
    terms = earlier.as_prior(n * (1 - step.length) / step.length, share * prior.shape, share * prior.rate)
    W, _ = transform(
        counts, H, max_iter=ROW_ROUNDS, tol=ROW_TOL, penalties=penalties, data=data, warn_unconverged=False
    )
    W *= exposure[:, None].astype(W.dtype)
    batch = _iterate(
        counts, padded(W, H.dtype), padded(H.T, H.dtype), _column_terms(*terms, H.dtype), penalties,
        replace(data, fixed_H=H), CoordinateDescent(warm_up=0), BATCH_ITERATIONS,
    )  # fmt: skip
    return earlier.blend(step.length, batch)


def _column_terms(shape: np.ndarray, rate: np.ndarray, dtype: np.dtype) -> Terms:
    """Prior terms of H from shapes - 1 and rates, (1 or p, k)."""
    A = padded(shape, dtype)
    rates = np.pad(rate, [(0, 0), (0, A.shape[1] - rate.shape[1])])
    return Terms(A if shape.any() else None, rates if rate.any() else None)


def _iterate(
    counts: MemoryCounts, W: np.ndarray, Ht: np.ndarray, columns: Terms, penalties: Penalties, data: FitData,
    solver: Solver, n_iter: int,
) -> Statistics:  # fmt: skip
    """Statistics of rows after `n_iter` iterations from W and Ht, which are overwritten."""
    assert data.fixed_H is not None
    k = len(data.fixed_H)
    rows, _ = build_problem(counts, k, W.dtype, penalties, data).terms
    problem = Problem(counts, k, (rows, columns))
    state = solver.init(problem, W, Ht)
    for _ in range(n_iter):
        solver.step(problem, state)
    W, Ht = state.factors
    S, n = np.empty_like(Ht), counts.shape[0]
    counts.contract(Side.COLUMNS, Ht, W, S)
    exposure = column_sums(W) * state.units
    return Statistics((Ht * S)[:, :k].astype(np.float64) / n, exposure[:k] / n, counts.sums(Side.COLUMNS), n)


def variational_step(
    counts: MemoryCounts, columns: GammaFactor | None, priors: tuple[GammaPrior, GammaPrior], n_components: int,
    schedule: Schedule, options: OnlineOptions,
) -> tuple[Schedule, GammaFactor]:  # fmt: skip
    """One step of stochastic variational inference on a mini-batch: the next schedule and posterior of H.

    `columns` is the current posterior, which is not changed; None before the first mini-batch.
    """
    if columns is None and counts.total == 0:
        raise ValueError("X must have at least one positive count in the first mini-batch, got none")
    check_no_entries(priors, "partial_fit")
    step, schedule = schedule.advance(counts.shape[0], options)
    if columns is not None:
        columns = copy.deepcopy(columns)
    else:
        dtype = dtype_for(options.dtype, counts)
        problem, solver = PosteriorProblem(counts, n_components), MeanField(priors=priors)
        start = initialise(counts, n_components, "random", random_generator(options.random_state), dtype)
        state = solver.init(problem, *start)
        solver.prepare(problem, state)
        for _ in range(FIRST_ITERATIONS):
            solver.step(problem, state)
        columns = state.posteriors[Side.COLUMNS]
    rows = infer_rows(counts, columns, priors[0], max_iter=ROW_UPDATES, tol=ROW_TOL, warn_unconverged=False)
    update(counts, Side.COLUMNS, columns, rows, priors[1], np.zeros_like(columns.mean), step)
    return schedule, columns
