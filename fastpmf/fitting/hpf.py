"""Posterior inference: from counts, options and priors to posteriors of W and H."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import column_sums, empty_factor
from fastpmf.core.ranges import check_range
from fastpmf.counts import MemoryCounts
from fastpmf.counts.labels import MatrixLabels, align
from fastpmf.counts.masked import hide_entries
from fastpmf.fitting.checkpoint import open_checkpoints
from fastpmf.fitting.fit import Fit, facts_of
from fastpmf.fitting.options import NO_DATA, FitData, FitOptions, KnownEffects, Penalties
from fastpmf.fitting.problem import build_groups, build_problem
from fastpmf.fitting.seeds import SeededPrior
from fastpmf.model.groups import Groups, effect_totals
from fastpmf.model.hierarchy import EntryShapes, GammaFactor, GammaPrior, update_given_contraction, weights
from fastpmf.model.init import GIVEN, INITS, initialise, seed_start
from fastpmf.model.priors import AUTO_SHAPE
from fastpmf.solvers import MeanField, Run, Solution, Solver, Status, make_solver
from fastpmf.solvers.base import Observer, Problem
from fastpmf.solvers.component_search import ComponentSearch, make_search
from fastpmf.solvers.mean_field import PosteriorProblem, PosteriorState
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_array, check_factor, check_number, check_option
from fastpmf.utils.warnings import fit_warnings_hidden, warn

_SMALLEST, _LARGEST = 1e-30, 1e30  # hyperparameters; float32 can divide by them
MOVED = "The last updates moved a share of {} of the counts"  # what `tol` is compared with
DEFAULT_SHAPE = 0.3
_INITS = tuple(name for name in INITS if name not in GIVEN)
_SMOOTHING = 0.97  # share of the mean of all components in each one, where a search starts the inference


@dataclass(frozen=True, kw_only=True)
class HPFOptions(FitOptions):
    """Parameters of `HPF`."""

    a: Any = None
    a_prime: float = 0.3
    b_prime: float = 1.0
    c: Any = None
    c_prime: float = 0.3
    d_prime: float = 1.0
    hierarchy: bool = True
    learn_prior: bool = False
    prior_groups: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.prior_groups, "prior_groups", positive=True)
        for name in ("hierarchy", "learn_prior"):
            if not isinstance(value := getattr(self, name), bool | np.bool_):
                raise TypeError(f"{name} must be True or False, got {brief(value)}")
        self.priors()

    def aligned(self, labels: MatrixLabels) -> Self:
        """The options with shapes of single entries of H aligned with X by labels, those of seeds as an array."""
        c = self.c
        if isinstance(c, SeededPrior):
            shape, _ = c.aligned(labels.columns, self.n_components, "c")
            c = DEFAULT_SHAPE + shape - shape.min()
        elif np.ndim(c) == 2:
            c = align(c, "c", columns=labels.columns)
        return replace(self, c=c)

    def priors(self, default_shape: float = DEFAULT_SHAPE) -> tuple[GammaPrior, GammaPrior]:
        """The priors of W and of H; `default_shape` is the shape of entries whose a or c is None.

        The prior of H has the shapes of single entries once the options are aligned.
        """
        found = []
        for names, of_entries in ((("a", "a_prime", "b_prime"), False), (("c", "c_prime", "d_prime"), True)):
            shape, entries = getattr(self, names[0]), None
            if of_entries and (np.ndim(shape) == 2 or isinstance(shape, SeededPrior)):
                if self.learn_prior:
                    raise ValueError("learn_prior must be False if c has shapes of single entries")
                shapes = shape.shape if isinstance(shape, SeededPrior) else _entry_shapes(shape, self.n_components)
                shape = tuple(shapes.min(axis=1).tolist())
                entries = EntryShapes.of((shapes - shapes.min(axis=1, keepdims=True)).T)
            elif shape is None:
                shape = default_shape
            elif isinstance(shape, list | tuple | np.ndarray):
                if np.shape(shape) != (self.n_components,):
                    raise ValueError(
                        f"{names[0]} must be a positive number or {self.n_components}, one for each component, got "
                        f"shape {np.shape(shape)}"
                    )
                shape = tuple(_positive(x, names[0]) for x in shape)
            else:
                shape = _positive(shape, names[0])
            activity_shape, activity_mean = (_positive(getattr(self, name), name) for name in names[1:])
            found.append(GammaPrior(shape, activity_shape, activity_mean, bool(self.hierarchy), entries))
        return found[0], found[1]

    def make_search(self, *, row_access_only: bool = False) -> ComponentSearch | None:
        """The search by maximum likelihood from which the inference starts, if any."""
        check_option(self.init, _INITS, "init")
        if make_search(self.init, "auto") is None:
            return None
        return ComponentSearch(solver=make_solver("auto", "auto", row_access_only=row_access_only))


def _entry_shapes(c: Any, n_components: int) -> np.ndarray:
    """Shapes of single entries of H, (n_components, n_features), float64."""
    c = check_array(c, "c")
    if len(c) != n_components:
        raise ValueError(f"c must have a row for each of {n_components} components, got shape {c.shape}")
    c = check_factor(c, c.shape, "c").astype(np.float64)
    if not ((c >= _SMALLEST) & (c <= _LARGEST)).all():
        raise ValueError(f"c must hold positive numbers from {_SMALLEST:g} to {_LARGEST:g}, got {c.min():g}")
    return c


def check_no_entries(priors: tuple[GammaPrior, GammaPrior], where: str) -> None:
    """Raise an error if single entries have shapes of their own; `where` is what does not have them."""
    if priors[1].entries is not None:
        raise ValueError(f"c must be a number, or one for each component, for {where}, got shapes of single entries")


def _positive(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a positive number, got {brief(value)}")
    if not _SMALLEST <= value <= _LARGEST:
        raise ValueError(f"{name} must be a positive number from {_SMALLEST:g} to {_LARGEST:g}, got {value}")
    return float(value)


class HPFFit(Fit):
    """Inference of the posteriors of W and H; of `data` it uses groups, mask and validation.

    Attributes
    ----------
    share : float
        Share of the counts that is fitted; the rest is held out.
    group_names : ndarray of shape (n_groups,), or None
        Names of the groups of rows, in the order of their numbers.
    """

    inits, residual, scaled_to_all = _INITS, "residual", False

    def __init__(
        self, counts: Counts, options: HPFOptions, data: FitData, *, checkpoint: Any = None, resume: Any = None
    ) -> None:
        solver = MeanField(priors=options.priors())
        self._search, self._interrupted = options.make_search(row_access_only=counts.row_access_only), False
        self._searched_effects: np.ndarray | None = None
        super().__init__(counts, options, data, solver, checkpoint=checkpoint, resume=resume)
        self.share = 1.0
        if self._early_stopping is not None:
            counts, self.share = self._early_stopping.train, self._early_stopping.share
        if isinstance(counts, MemoryCounts):
            counts = hide_entries(counts, data.mask)
        k = options.n_components
        priors = options.priors(_learned_shape_start(counts, k) if options.learn_prior else DEFAULT_SHAPE)
        if np.ndim(options.c) == 2 and np.shape(options.c)[1] != counts.shape[1]:
            raise ValueError(
                f"c must have a column for each of {counts.shape[1]} features, got shape {np.shape(options.c)}"
            )
        self._entries = priors[1].entries
        self.group_names, groups = build_groups(counts, data, options.prior_groups)
        self.problem = PosteriorProblem(counts, k, groups=groups)
        self._solver = MeanField(priors=priors, learn=options.learn_prior, inner_steps=options.inner_steps)
        facts = facts_of(counts, options, self._dtype, streamed=counts.row_access_only)
        facts |= {"learn": bool(options.learn_prior), "priors": [prior.to_numbers() for prior in priors]}
        if self._entries is not None:
            facts["c"] = hashlib.sha256(self._seeds(counts.shape[1]).tobytes()).hexdigest()[:16]
        if groups is not None:
            facts["groups"] = hashlib.sha256(groups.digest()).hexdigest()[:16]
        self._checkpoints = open_checkpoints(checkpoint, resume, facts, self._early_stopping)

    def _check(self, solution: Solution) -> None:
        check_finite(solution, self._dtype)

    def _first_state(self) -> PosteriorState:
        state = super()._first_state()
        if self._searched_effects is not None:
            state.effects = self._searched_effects
        return state

    def _start(self) -> tuple[np.ndarray, np.ndarray]:
        return self._random_start() if self._search is None else self._searched_start(self._search)

    def _random_start(self) -> tuple[np.ndarray, np.ndarray]:
        options, counts, k = self._options, self.problem.counts, self.problem.n_components
        W, Ht = initialise(counts, k, options.init, self._rng, self._dtype)
        if self._entries is not None and options.init in ("auto", "merge", "random"):
            free, shapes = np.ones(k, bool), (np.zeros((1, k)), self._seeds(counts.shape[1]))
            seed_start(counts, (W, Ht), shapes, (free, free))
        return W, Ht

    def _seeds(self, p: int) -> np.ndarray:
        """What the shapes of single entries have beyond those of their component, (p, n_components)."""
        out = np.zeros((p, self.problem.n_components))
        if self._entries is not None:
            out[self._entries.entries] = self._entries.extra
        return out

    def _search_problem(self) -> Problem:
        """The problem of the search: maximum likelihood, or with seeds the posterior mode under a prior with them."""
        counts, k, groups = self.problem.counts, self.problem.n_components, self.problem.groups
        if self._entries is None:
            return Problem(counts, k, groups=groups)
        prior_H = AUTO_SHAPE + self._seeds(counts.shape[1]).T, "auto"
        penalties = Penalties(prior_W="auto", prior_H=prior_H)
        return replace(build_problem(counts, k, self._dtype, penalties, NO_DATA), groups=groups)

    def _searched_start(self, search: ComponentSearch) -> tuple[np.ndarray, np.ndarray]:
        """Means near a better local optimum than random ones; these if `max_iter` is too small for a search.

        The search maximises the likelihood, whose optima have exact zeros and components for a few counts. From these
        means the inference would hardly move, so a large part of each component is replaced by what all have in common.
        """
        solver = cast(Solver, search.solver)
        problem = self._search_problem()
        state = solver.init(problem, *self._random_start())
        run = Run(solver, problem, state, replace(self._options, tol=0.0), (), seconds=self._seconds)
        del state  # the run replaces it
        search.apply(run, problem, solver, self._rng, self._options.max_iter // 2, self._random_start)
        self._seconds, self._interrupted = run.seconds, run.status is Status.INTERRUPTED
        found = run.state.without_spares()
        W, Ht = found.factors
        if run.n_iter:
            smooth(W, Ht)
            self._searched_effects = found.effects
        return W, Ht

    def _new_run(self, observers: Sequence[Observer]) -> Run:
        run = super()._new_run(observers)
        if self._interrupted:
            run.status = Status.INTERRUPTED
        return run


def smooth(W: np.ndarray, Ht: np.ndarray) -> None:
    """Replace, in place, a share of each component by that of all of them; sums of rows and of components stay.

    First the sums of each component are made equal in W and H. Components that are zero in one become zero in both.
    """
    sums = [column_sums(A) for A in (W, Ht)]
    mass = np.sqrt(sums[0] * sums[1])
    with np.errstate(under="ignore"):
        for A, own in zip((W, Ht), sums, strict=True):
            A *= np.divide(mass, own, where=own > 0, out=np.zeros_like(own)).astype(A.dtype)
            common = _SMOOTHING * A.sum(axis=1, dtype=np.float64) / mass.sum()
            A *= A.dtype.type(1 - _SMOOTHING)
            for k in np.flatnonzero(mass):
                A[:, k] += mass[k] * common


def check_finite(solution: Solution, dtype: np.dtype) -> None:
    """Raise an error if inference stopped at a rate that is not positive and finite."""
    if solution.status is Status.NON_FINITE:
        raise ValueError(
            f"X and the hyperparameters led to a posterior rate that is not positive and finite in {dtype}, in "
            f"iteration {solution.n_iter}: use less extreme ones, or dtype='float64'"
        )


def _learned_shape_start(counts: Counts, n_components: int) -> float:
    """The initial shape of all entries if the shapes of the components are learned.

    Large shapes smooth over noise at first; as the learned shapes decrease, the components separate by patterns that
    many rows share. With small initial shapes each component keeps the noise of its random start, a poor local optimum.
    With too large ones (a sum over components above the counts of a row) the components stay alike for hundreds of
    iterations. Measured on eight data sets with 8 to 2,000 counts per row and 2 to 100 components.
    """
    return min(30.0, 0.6 * counts.total / counts.shape[0]) / n_components


def infer_rows(
    counts: MemoryCounts, columns: GammaFactor, prior: GammaPrior, *, effects: KnownEffects | None = None,
    max_iter: int, tol: float, warn_unconverged: bool = True,
) -> GammaFactor:  # fmt: skip
    """Posteriors of W for rows of counts, with those of H and of effects of groups fixed, by repeated updates.

    Each row is updated until it moves at most a share `tol` of its counts. The result for a row does not depend on
    which other rows are passed with it (bitwise).
    """
    dtype, n_components = columns.mean.dtype, columns.n_components
    check_range(counts, dtype)
    totals = None
    if effects is not None:
        totals = effect_totals(columns.mean, np.ascontiguousarray(effects.effects))
        totals[:, n_components:] = np.inf

    def weights_of(counts: MemoryCounts, rows: np.ndarray) -> np.ndarray:
        if totals is None or effects is None:
            return weights(counts, Side.ROWS, columns)
        return totals[effects.group[rows]]

    active, active_counts = np.arange(counts.shape[0]), counts
    factor = _start_of_rows(counts, columns, prior)
    threshold = tol * (counts.sums(Side.ROWS) + prior.shape_sum(n_components))
    parts, rows, n_lost = [], [], 0
    for n in range(1, max_iter + 1):
        S = np.zeros_like(factor.mean)
        active_counts.contract(Side.ROWS, factor.geometric, columns.geometric, S)
        moved = update_given_contraction(factor, S, weights_of(active_counts, active), prior)
        n_lost += int(np.isnan(moved).sum())
        unsolved = moved > threshold[active] if n < max_iter else np.zeros(len(active), bool)
        if unsolved.all():
            continue
        parts.append(factor.select_rows(~unsolved))
        rows.append(active[~unsolved])
        if not unsolved.any():
            break
        factor, active = factor.select_rows(unsolved), active[unsolved]
        active_counts = counts.select_rows(active)
    if n_lost:
        warn(
            f"{n_lost} row(s) of X have rates that {dtype} can't tell from 0 or infinity, and no posterior",
            RuntimeWarning,
        )
    if warn_unconverged and not fit_warnings_hidden() and tol > 0 and (moved > threshold[active]).any():
        warn(
            f"posteriors of some rows still moved by more than tol={tol:g} of their counts after max_iter={max_iter} "
            "updates; increase max_iter or tol",
            ConvergenceWarning,
        )
    return GammaFactor.joined(parts, np.concatenate(rows), weights_of(counts, np.arange(counts.shape[0])))


def _start_of_rows(counts: MemoryCounts, columns: GammaFactor, prior: GammaPrior) -> GammaFactor:
    """The start of posteriors of W for rows of counts: equal means of all components."""
    k = columns.n_components
    start = empty_factor(counts.shape[0], k, columns.mean.dtype)
    mass = counts.sums(Side.ROWS) / max(float(columns.sums.sum()), 1e-300)
    start[:, :k] = np.maximum(mass[:, None], prior.shapes(k) / prior.activity_mean)
    return GammaFactor.start(start, prior, k)


def infer_effects(
    counts: MemoryCounts, columns: GammaFactor, prior: GammaPrior, groups: Groups, *, max_iter: int, tol: float
) -> np.ndarray:
    """Posterior means of the effects of groups of rows, (n_groups, p), with the posterior of H fixed.

    Posteriors of W and of the effects are updated in turn, until an update moves at most a share `tol` of the counts.
    """
    effects, factor = groups.start, _start_of_rows(counts, columns, prior)
    S = np.zeros_like(factor.mean)
    for _ in range(max_iter):
        counts.contract(Side.ROWS, factor.geometric, columns.geometric, S)
        moved = update_given_contraction(factor, S, weights(counts, Side.ROWS, columns, groups, effects), prior)
        effects = groups.best_effects_of(factor.mean, columns.mean)
        if not moved.sum() > tol * counts.total:
            break
    return effects.T
