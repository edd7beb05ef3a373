"""Fits that see one mini-batch of rows after another: online EM, and stochastic variational inference."""

import copy
import math
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.utils import check_random_state

from fastpmf.core.counts import Side
from fastpmf.core.factors import column_sums, padded
from fastpmf.counts import Dataset, MemoryCounts, as_counts
from fastpmf.counts.labels import align
from fastpmf.estimators._saved import FittedNMF
from fastpmf.estimators._saved_hpf import FittedHPF
from fastpmf.estimators.base import FactorModel
from fastpmf.fitting.hpf import infer_rows
from fastpmf.fitting.memory import check_rows
from fastpmf.fitting.online import HELD, Held, Online, Schedule
from fastpmf.fitting.problem import Known, Penalties, Plain, as_numbers, named_prior, read_penalties, stated, vector
from fastpmf.fitting.ranges import dtype_for
from fastpmf.fitting.transform import transform
from fastpmf.kernels.threads import threads
from fastpmf.model.gamma import GammaPosterior
from fastpmf.model.hierarchy import GammaFactor, GammaPrior, Step, update
from fastpmf.model.init import initialise
from fastpmf.model.priors import Terms
from fastpmf.model.updates import Statistics
from fastpmf.solvers import Coordinate, Extrapolated, Problem, Solver, Status
from fastpmf.solvers.base import TRACE_DTYPE
from fastpmf.solvers.mean_field import Inference, MeanField, Posteriors
from fastpmf.utils.progress import compilation_shown

FIRST = 35  # iterations on the first rows, from a random start
ROUNDS = 2  # iterations on each later mini-batch, with what is remembered for H's prior
LEAST = 1e-8  # of a component's mean is what its entries have at least: a feature not seen yet is not impossible
ROW_TOL = 1e-2  # how nearly a mini-batch's rows are solved to begin with, in nats per count,
ROW_ROUNDS, ROW_HALF_STEPS = 3, 20  # and at most in rounds of sweeps, or in half-steps of variational inference


class OnlineNMF(FittedNMF):
    """`PoissonNMF`'s way of seeing rows in mini-batches."""

    n_components: int
    forgetting_rate: float
    delay: float
    total_samples: int | None
    random_state: Any
    dtype: Any

    @property
    def _penalties(self) -> Penalties:
        """Priors and penalties of the constructor."""
        raise NotImplementedError

    def partial_fit(self, X: Any, y: None = None, *, row_exposure: Any = None) -> Self:
        """Take one step of online EM on a mini-batch of rows; once over all mini-batches is one epoch.

        W of the batch and H are fitted to it, with a Gamma prior on H that stands for all earlier rows: what they said
        of each entry. Then what the batch says is blended with that: (1 - rho) old + rho new, with rho = (t +
        delay)^-forgetting_rate, where t is the number of rows before it in units of its own. What is forgotten is how
        a feature's counts were allotted to components, never how many there were. H is the most probable one under
        that, as if there were `total_samples` rows (by default those seen so far). W is not kept: `transform` gives it.

        The first rows, 150 for each component, are kept in memory. Whenever they have doubled, and once more when they
        are complete, they are fitted together from a random start, so that until then components may change places.
        After `fit` it begins anew; a model that was saved and loaded goes on.

        Rows without counts are counted as rows; without a prior they leave H unchanged, as in `fit`. The first
        mini-batch must have a positive count. A later mini-batch without rows changes nothing.

        Parameters
        ----------
        X : matrix of counts of shape (n_batch, n_features)
        y : None
            Ignored.
        row_exposure : float or array-like of shape (n_batch,), optional

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            If an argument has an invalid type or value.

        References
        ----------
        O. Cappe and E. Moulines, "Online expectation-maximization algorithm for latent data models", J. R. Stat. Soc. B
        71 (2009), section 2.
        """
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            before = self._online
            first = before is None
            if not first and without_rows(self, X):
                return self
            check_rows(X, self.n_components, self.dtype)
            read, seen = self._enter(X) if first else (self._read(X), {})
            counts = as_counts(read)  # in memory, or turned away
            k = self.n_components if first else len(self.components_)
            row_exposure = align(row_exposure, "row_exposure", rows=self._labels(X).rows)
            exposure = vector(row_exposure, counts.shape[0], "row_exposure")
            penalties = self._penalties
            for name, value in zip(("prior_W", "prior_H"), penalties, strict=False):
                if named_prior(value):
                    raise ValueError(
                        f"{name} must be (shape, rate) or None for partial_fit, got {value!r}, whose rate depends on "
                        f"the mean of all counts: give {name}_ of a fit to some of the rows"
                    )
            _, prior = read_penalties(penalties, k, counts.shape)
            if prior.ridge.any():
                raise ValueError(
                    "partial_fit knows Gamma priors and L1 penalties: l1_ratio must be 1 where alpha is > 0"
                )
            step, schedule = (Schedule() if before is None else before.schedule).advance(
                counts.shape[0], self.forgetting_rate, self.delay, self.total_samples
            )
            if first and counts.total == 0:
                raise ValueError("X must have at least one positive count in the first mini-batch, got none")
            total = step.times * counts.shape[0]
            held = Held() if before is None else before.held
            if held is not None:
                held = held.add(counts, exposure)
            if held is not None and held.n_rows >= min(2 * held.fitted, HELD * k):
                dtype = dtype_for(self.dtype, counts) if first else self.components_.dtype
                statistics = self._begin(held, k, dtype, penalties, prior, total)
                held = held._replace(fitted=held.n_rows)
            else:
                assert before is not None  # the first rows are fitted at once
                dtype = self.components_.dtype
                statistics = self._go_on(before.statistics, counts, exposure, penalties, prior, step)
            shape, rate = statistics.as_prior(total, prior.shape, prior.rate)
            H = (shape / np.where(rate > 0, rate, np.inf)).T
            H = np.maximum(H, LEAST * H.mean(axis=1, keepdims=True)).astype(dtype)
            held = held.keep() if held is not None and held.fitted < HELD * k else None

        def keep(model: OnlineNMF) -> None:
            if first:
                model._adopt(seen)
                model.column_exposure_, model.background_, model.validation_ = None, None, None
                model.prior_W_, model.prior_H_ = map(as_numbers, penalties[:2])
            model._online = Online(schedule, statistics, held)
            model.mean_W_ = statistics.exposure
            nothing = np.empty(0, TRACE_DTYPE)
            model._keep_fitted(H, math.nan, math.nan, schedule.steps, Status.ONLINE, nothing, np.empty(0))

        self._become(keep)
        return self

    def _begin(
        self, held: Held, k: int, dtype: np.dtype, penalties: Penalties, prior: Plain, total: float
    ) -> Statistics:
        """What the rows held say of H, once it is fitted to them alone."""
        batches = held.batches
        counts = as_counts(batches[0] if len(batches) == 1 else sparse.vstack(batches, format="csr"))
        W, Ht = initialise(counts, k, "random", check_random_state(self.random_state), dtype)
        share = counts.shape[0] / total
        terms = column_terms(share * prior.shape[None], share * prior.rate, dtype)
        known = Known(row_exposure=np.concatenate(held.exposures), fixed_H=Ht[:, :k].T)
        return expected(counts, W, Ht, terms, penalties, known, Extrapolated(Coordinate()), FIRST)

    def _go_on(
        self, memory: Statistics, counts: MemoryCounts, exposure: np.ndarray, penalties: Penalties, prior: Plain,
        step: Step,
    ) -> Statistics:  # fmt: skip
        """What all rows say of H, once it is fitted to a mini-batch, with what the earlier ones say for its prior."""
        H, n = self.components_, counts.shape[0]
        share = 1 / (step.times * step.length)
        earlier = memory.as_prior(n * (1 - step.length) / step.length, share * prior.shape, share * prior.rate)
        W, _ = transform(
            counts, H, max_iter=ROW_ROUNDS, tol=ROW_TOL, penalties=penalties, known=Known(row_exposure=exposure),
            warn_unconverged=False,
        )  # fmt: skip
        W *= exposure[:, None].astype(W.dtype)
        known = Known(row_exposure=exposure, fixed_H=H)
        batch = expected(
            counts, padded(W, H.dtype), padded(H.T, H.dtype), column_terms(*earlier, H.dtype), penalties, known,
            Coordinate(warm_up=0), ROUNDS,
        )  # fmt: skip
        return memory.blend(step.length, batch)


def without_rows(model: FactorModel, X: Any) -> bool:
    """Whether X has no rows. Raise an error if its features are not the fitted ones."""
    counts = X.X if isinstance(X, Dataset) else X
    shape: tuple[int, ...] = getattr(counts, "shape", ())
    if len(shape) != 2 or shape[0] > 0:
        return False
    model._check_features(model, X, counts, reset=False)
    return True


def column_terms(shape: np.ndarray, rate: np.ndarray, dtype: np.dtype) -> Terms:
    """H's prior as a problem has it, of shapes - 1, (1 or p, k), and rates, (k,)."""
    A = padded(shape, dtype)
    rates = np.pad(rate, (0, A.shape[1] - len(rate)))[None]
    return Terms(A if shape.any() else None, rates if rate.any() else None)


def expected(
    counts: MemoryCounts, W: np.ndarray, Ht: np.ndarray, columns: Terms, penalties: Penalties, known: Known,
    solver: Solver, n_iter: int,
) -> Statistics:  # fmt: skip
    """What rows say of H, where so many iterations lead from W and H transposed, which are overwritten."""
    assert known.fixed_H is not None
    k = len(known.fixed_H)
    rows, _ = stated(counts, k, W.dtype, penalties, known).problem.terms
    problem = Problem(counts, k, (rows, columns))
    state = solver.init(problem, W, Ht)
    for _ in range(n_iter):
        solver.step(problem, state)
    W, Ht = state.factors
    T, n = np.empty_like(Ht), counts.shape[0]
    counts.contract(Side.COLUMNS, Ht, W, T)
    exposure = column_sums(W) * state.units
    return Statistics((Ht * T)[:, :k].astype(np.float64) / n, exposure[:k] / n, counts.sums(Side.COLUMNS), n)


# Attributes that `fit` sets and `partial_fit` can't
_OF_ALL_ROWS = (
    "W_posterior_", "activity_", "elbo_", "objective_", "residual_", "trace_", "restarts_", "validation_", "row_names_",
)  # fmt: skip


class OnlineHPF(FittedHPF):
    """`HPF`'s way of seeing rows in mini-batches."""

    forgetting_rate: float
    delay: float
    total_samples: int | None
    random_state: Any
    dtype: Any

    def _priors(self) -> tuple[GammaPrior, GammaPrior]:
        """Priors of the constructor."""
        raise NotImplementedError

    def partial_fit(self, X: Any, y: None = None) -> Self:
        """Take one step of stochastic variational inference on a mini-batch of rows.

        Posteriors of the batch's rows are inferred with H's as it is; then H's parameters become (1 - rho) old + rho
        (what they would be, were all `total_samples` rows like these), rho = (t + delay)^-forgetting_rate with t the
        number of rows before it in units of its own, which is a step along the natural gradient of the bound. Once over
        all mini-batches is one epoch and one pass.
        The first batch is fitted by itself to begin with. Posteriors of rows are not kept: `posterior` gives them.
        After `fit` it begins anew; a model that was saved and loaded goes on.

        Rows without counts are counted as rows, and lower the rates of all components. The first mini-batch must have a
        positive count. A later mini-batch without rows changes nothing.

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
            If an argument has an invalid type or value.
        """
        with threads(self.n_threads), compilation_shown(verbose=self.verbose):
            schedule = self._schedule
            first = schedule is None
            if not first and without_rows(self, X):
                return self
            check_rows(X, self.n_components, self.dtype)
            read, seen = self._enter(X) if first else (self._read(X), {})
            counts = as_counts(read)  # in memory, or turned away
            k = self.n_components if first else len(self.components_)
            priors = self._priors() if first else (self._row_prior, self._column_prior)
            if first and counts.total == 0:
                raise ValueError("X must have at least one positive count in the first mini-batch, got none")
            step, schedule = (schedule or Schedule()).advance(
                counts.shape[0], self.forgetting_rate, self.delay, self.total_samples
            )
            columns = infer_batch(
                counts, None if first else self._columns, priors, k, step,
                random_state=self.random_state, dtype=self.dtype,
            )  # fmt: skip

        def keep(model: OnlineHPF) -> None:
            if first:
                model._adopt(seen)
                for name in _OF_ALL_ROWS:
                    model.__dict__.pop(name, None)
            model._schedule = schedule
            model.n_iter_, model.status_ = schedule.steps, Status.ONLINE
            model._keep_columns(columns, priors, k)

        self._become(keep)
        return self

    def _keep_columns(self, columns: GammaFactor, priors: tuple[GammaPrior, GammaPrior], n_components: int) -> None:
        self._columns, (self._row_prior, self._column_prior) = columns, priors
        self.H_posterior_ = GammaPosterior.of_entries(columns, n_components).transposed()
        self.components_ = self.H_posterior_.mean
        self.popularity_ = GammaPosterior.of_rows(columns) if priors[1].hierarchical else None
        names = ("a", "a_prime", "b_prime"), ("c", "c_prime", "d_prime")
        self.prior_ = {}
        for prior, (shape, *others) in zip(priors, names, strict=True):
            self.prior_[shape] = np.array(prior.shape) if isinstance(prior.shape, tuple) else prior.shape
            self.prior_ |= zip(others, (prior.activity_shape, prior.activity_mean), strict=True)


def infer_batch(
    counts: MemoryCounts, columns: GammaFactor | None, priors: tuple[GammaPrior, GammaPrior], n_components: int,
    step: Step, *, random_state: Any, dtype: Any,
) -> GammaFactor:  # fmt: skip
    """H's posterior after a step of stochastic variational inference on a mini-batch of rows; `columns` stays."""
    if columns is not None:
        columns = copy.deepcopy(columns)
    else:
        work = dtype_for(dtype, counts)
        problem, solver = Inference(counts, n_components), MeanField(priors)
        start = initialise(counts, n_components, "random", check_random_state(random_state), work)
        state = solver.init(problem, *start)
        assert isinstance(state, Posteriors)
        for _ in range(FIRST):
            solver.step(problem, state)
        columns = state.posteriors[Side.COLUMNS]
    rows = infer_rows(
        counts, columns, priors[0], n_components, None, max_iter=ROW_HALF_STEPS, tol=ROW_TOL, warn_unconverged=False
    )
    update(counts, Side.COLUMNS, columns, rows, priors[1], n_components, np.zeros_like(columns.mean), step)
    return columns
