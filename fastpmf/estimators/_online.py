"""Fits that see one mini-batch of rows after another: online EM, and stochastic variational inference."""

import math
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.utils import check_random_state

from fastpmf.counts import MemoryCounts, Side
from fastpmf.estimators._inference import infer_rows
from fastpmf.estimators._rows import transform
from fastpmf.estimators._saved import FittedNMF
from fastpmf.estimators._saved_hpf import FittedHPF
from fastpmf.estimators._statement import Known, Penalties, as_numbers, read_penalties
from fastpmf.kernels._jit import threads
from fastpmf.model.factors import column_sums, padded, working_dtype
from fastpmf.model.gamma import GammaPosterior
from fastpmf.model.hierarchy import GammaFactor, GammaPrior, Step, update
from fastpmf.model.init import initialise
from fastpmf.model.updates import Statistics
from fastpmf.solvers import Problem, Status
from fastpmf.solvers.base import TRACE_DTYPE
from fastpmf.solvers.meanfield import Inference, MeanField, Posteriors
from fastpmf.solvers.multiplicative import Multiplicative

FIRST = 20  # iterations on the first mini-batch alone, from which a factor begins that is not random
LEAST = 1e-8  # of a component's mean is what its entries have at least: a feature not seen yet is not impossible
ROW_TOL, ROW_ROUNDS = 1e-2, 20  # how nearly a mini-batch's rows are solved, in nats per count and at most in rounds


class Schedule(NamedTuple):
    """Steps and rows so far; says how far the next step goes: (t + delay)^-forgetting_rate, t from 0 on.

    The first goes all the way: there is nothing yet to go from.

    References
    ----------
    M. D. Hoffman, D. M. Blei, C. Wang and J. Paisley, "Stochastic variational inference", JMLR 14 (2013), equation 26.
    """

    steps: int = 0
    rows: int = 0

    def advance(self, n_rows: int, forgetting_rate: Any, delay: Any, total_samples: Any) -> tuple[Step, "Schedule"]:
        """The step for a mini-batch of so many rows, and the schedule after it.

        Raises
        ------
        ValueError
            forgetting_rate not in (0.5, 1], delay < 1, or total_samples < 1.
        """
        number = (int, float, np.number)
        if not isinstance(forgetting_rate, number) or not 0.5 < forgetting_rate <= 1:
            raise ValueError(f"forgetting_rate must be a number above 0.5 and at most 1, got {forgetting_rate!r}")
        for value, name in ((delay, "delay"), (1 if total_samples is None else total_samples, "total_samples")):
            if not isinstance(value, number) or not 1 <= value < math.inf:
                raise ValueError(f"{name} must be a number at least 1, got {value!r}")
        after = Schedule(self.steps + 1, self.rows + n_rows)
        total = after.rows if total_samples is None else total_samples
        length = (self.steps + delay) ** -float(forgetting_rate) if self.steps else 1.0
        return Step(length, total / n_rows), after


class OnlineNMF(FittedNMF):
    """`PoissonNMF`'s way of seeing rows in mini-batches."""

    n_components: int
    forgetting_rate: float
    delay: float
    total_samples: int | None
    random_state: Any
    dtype: Any
    _schedule: Schedule | None
    _statistics: Statistics

    @property
    def _penalties(self) -> Penalties:
        """Priors and penalties of the constructor."""
        raise NotImplementedError

    def partial_fit(self, X: Any, y: None = None, *, row_exposure: Any = None) -> Self:
        """Take one step of online EM on a mini-batch of rows; once over all mini-batches is one epoch and one pass.

        W of the batch is solved for with H as it is; then what the batch says of H is blended with what is remembered:
        (1 - rho) old + rho new, with rho = (t + delay)^-forgetting_rate at step t. H is the most probable one under
        that, as if there were `total_samples` rows (by default those seen so far). The first batch is fitted by itself
        to begin with. W is not kept: `transform` gives it.

        Parameters
        ----------
        X : matrix of counts of shape (n_batch, n_features)
        y : None
            Ignored.
        row_exposure : array-like of shape (n_batch,), optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            In one sentence that names the argument, what it got and what it wants.
        """
        with threads(self.n_threads):
            schedule = getattr(self, "_schedule", None)
            first = schedule is None
            counts, seen = self._enter(X) if first else (self._read(X), {})
            k = self.n_components if first else len(self.components_)
            known = Known(row_exposure=row_exposure)
            penalties = self._penalties
            if "auto" in (type(x) is str and x for x in penalties[:2]):
                raise ValueError("partial_fit needs prior_W and prior_H as numbers, 'auto' is for data seen at once")
            _, prior = read_penalties(penalties, k, counts.shape)
            if prior.ridge.any():
                raise ValueError(
                    "partial_fit knows Gamma priors and L1 penalties: l1_ratio must be 1 where alpha is > 0"
                )
            step, schedule = (schedule or Schedule()).advance(
                counts.shape[0], self.forgetting_rate, self.delay, self.total_samples
            )
            if counts.total == 0:
                raise ValueError("X must hold at least one positive count, got a mini-batch without any")
            components = self._first_factor(counts) if first else self.components_
            W, _ = transform(
                counts, components, max_iter=ROW_ROUNDS, tol=ROW_TOL, penalties=penalties, known=known, warn=False
            )
            if row_exposure is not None:
                W = W * np.asarray(row_exposure, W.dtype)[:, None]
            W_, Ht = padded(W, components.dtype), padded(components.T, components.dtype)
            T, n = np.empty_like(Ht), counts.shape[0]
            counts.contract(Side.COLUMNS, Ht, W_, T)
            batch = (Ht * T)[:, :k] / np.float64(n), column_sums(W_)[:k] / n
            statistics = Statistics(*batch) if first else self._statistics.blend(step.length, *batch)
            H = statistics.factor(step.times * n, prior.shape, prior.rate).T
            H = np.maximum(H, LEAST * H.mean(axis=1, keepdims=True)).astype(components.dtype)
        if first:
            self._adopt(seen)
            self.column_exposure_, self.background_, self.validation_ = None, None, None
            self.prior_W_, self.prior_H_ = map(as_numbers, penalties[:2])
        self._schedule, self._statistics = schedule, statistics
        nothing = np.empty(0, TRACE_DTYPE)
        self._keep_fitted(H, math.nan, math.nan, schedule.steps, Status.ONLINE, nothing, np.empty(0))
        return self

    def _first_factor(self, counts: MemoryCounts) -> np.ndarray:
        """H after some iterations on the first mini-batch."""
        dtype, k = working_dtype(self.dtype, counts.dtype), self.n_components
        problem, solver = Problem(counts, k), Multiplicative(relaxed=True)
        state = solver.init(problem, *initialise(counts, k, "random", check_random_state(self.random_state), dtype))
        for _ in range(FIRST):
            solver.step(problem, state)
        H = np.ascontiguousarray(state.factors[Side.COLUMNS][:, :k].T)
        return np.maximum(H, H.dtype.type(LEAST) * H.mean(axis=1, keepdims=True))


class OnlineHPF(FittedHPF):
    """`HPF`'s way of seeing rows in mini-batches."""

    forgetting_rate: float
    delay: float
    total_samples: int | None
    random_state: Any
    dtype: Any
    _schedule: Schedule | None

    def _priors(self) -> tuple[GammaPrior, GammaPrior]:
        """Priors of the constructor."""
        raise NotImplementedError

    def partial_fit(self, X: Any, y: None = None) -> Self:
        """Take one step of stochastic variational inference on a mini-batch of rows.

        Posteriors of the batch's rows are inferred with H's as it is; then H's parameters become (1 - rho) old + rho
        (what they would be, were all `total_samples` rows like these), rho = (t + delay)^-forgetting_rate at step t,
        which is a step along the natural gradient of the bound. Once over all mini-batches is one epoch and one pass.
        The first batch is fitted by itself to begin with. Posteriors of rows are not kept: `posterior` gives them.

        Parameters
        ----------
        X : matrix of counts of shape (n_batch, n_features)
        y : None
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            In one sentence that names the argument, what it got and what it wants.
        """
        with threads(self.n_threads):
            schedule = getattr(self, "_schedule", None)
            first = schedule is None
            counts, seen = self._enter(X) if first else (self._read(X), {})
            k = self.n_components if first else len(self.components_)
            priors = self._priors() if first else (self._row_prior, self._column_prior)
            if counts.total == 0:
                raise ValueError("X must hold at least one positive count, got a mini-batch without any")
            step, schedule = (schedule or Schedule()).advance(
                counts.shape[0], self.forgetting_rate, self.delay, self.total_samples
            )
            columns = infer_batch(
                counts, None if first else self._columns, priors, k, step,
                random_state=self.random_state, dtype=self.dtype,
            )  # fmt: skip
        if first:
            self._adopt(seen)
            for name in ("W_posterior_", "activity_", "elbo_", "objective_", "trace_", "restarts_", "validation_"):
                self.__dict__.pop(name, None)
        self._schedule = schedule
        self.n_iter_, self.status_ = schedule.steps, Status.ONLINE
        self._keep_columns(columns, priors, k)
        return self

    def _keep_columns(self, columns: GammaFactor, priors: tuple[GammaPrior, GammaPrior], n_components: int) -> None:
        self._columns, (self._row_prior, self._column_prior) = columns, priors
        self.H_posterior_ = GammaPosterior.of_entries(columns, n_components).transposed()
        self.components_ = self.H_posterior_.mean
        self.popularity_ = GammaPosterior.of_rows(columns) if self.hierarchy else None
        names = ("a", "a_prime", "b_prime"), ("c", "c_prime", "d_prime")
        self.prior_ = {
            name: value
            for prior, said in zip(priors, names, strict=True)
            for name, value in zip(said, (prior.shape, prior.activity_shape, prior.activity_mean), strict=True)
        }


def infer_batch(
    counts: MemoryCounts, columns: GammaFactor | None, priors: tuple[GammaPrior, GammaPrior], n_components: int,
    step: Step, *, random_state: Any, dtype: Any,
) -> GammaFactor:  # fmt: skip
    """H's posterior after a step of stochastic variational inference on a mini-batch of rows."""
    if columns is None:
        work = working_dtype(dtype, counts.dtype)
        problem, solver = Inference(counts, n_components), MeanField(priors)
        start = initialise(counts, n_components, "random", check_random_state(random_state), work)
        state = solver.init(problem, *start)
        assert isinstance(state, Posteriors)
        for _ in range(FIRST):
            solver.step(problem, state)
        columns = state.posteriors[Side.COLUMNS]
    rows = infer_rows(counts, columns, priors[0], n_components, None, max_iter=ROW_ROUNDS, tol=ROW_TOL, warn=False)
    update(counts, Side.COLUMNS, columns, rows, priors[1], n_components, np.zeros_like(columns.mean), step)
    return columns
