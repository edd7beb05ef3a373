"""Fits of W and H: from counts, options and data to a solution."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastpmf.core.counts import Counts
from fastpmf.core.factors import column_sums, empty_factor, padded_width, with_width
from fastpmf.core.ranges import CountSize, check_entries, dtype_for, rounding_advice
from fastpmf.counts import MemoryCounts
from fastpmf.counts.labels import MatrixLabels, warn_of_duplicates
from fastpmf.counts.streamed import as_fittable
from fastpmf.fitting.checkpoint import CheckpointFolder, open_checkpoints
from fastpmf.fitting.early_stopping import EarlyStopping
from fastpmf.fitting.memory import check_memory, check_memory_before_reading
from fastpmf.fitting.options import FitData, FitOptions, KnownEffects, PoissonOptions
from fastpmf.fitting.problem import FactorSpec, FitProblem, build_problem, number_groups
from fastpmf.fitting.transform import transform
from fastpmf.kernels.threads import threads
from fastpmf.model.groups import Groups
from fastpmf.model.init import GIVEN, INITS, initialise, n_components_given
from fastpmf.model.merging import new_components, put_components, random_components
from fastpmf.solvers import FactorState, FitInterrupted, Run, Solution, Solver, Status, successive_halving
from fastpmf.solvers.base import Callback, Observer
from fastpmf.solvers.component_search import ComponentSearch, merged_down, past_warm_up
from fastpmf.utils.messages import listed
from fastpmf.utils.progress import FitProgress, compilation_shown, fit_progress, stage
from fastpmf.utils.validation import check_factor, check_option, random_generator
from fastpmf.utils.warnings import fit_warnings_hidden, warn

INTERRUPTIONS = (Status.INTERRUPTED, Status.UNMEASURED)
KKT = "The KKT residual is {} nats per count"


def poisson_nmf(
    X: Any,
    n_components: int,
    *,
    prior_W: Any = None,
    prior_H: Any = None,
    alpha_W: float = 0.0,
    alpha_H: Any = "same",
    l1_ratio: float = 0.0,
    prior_groups: float = 10.0,
    solver: str = "auto",
    acceleration: str | None = "auto",
    inner_steps: int = 1,
    init: str = "auto",
    n_init: int = 1,
    W: Any = None,
    H: Any = None,
    fixed_W: Any = None,
    fixed_H: Any = None,
    row_exposure: Any = None,
    column_exposure: Any = None,
    background: Any = None,
    groups: Any = None,
    mask: Any = None,
    sample_weight: Any = None,
    validation: Any = None,
    max_iter: int = 500,
    tol: float = 1e-4,
    max_time: float | None = None,
    eval_every: int = 10,
    random_state: Any = None,
    dtype: Any = None,
    n_threads: int | None = None,
    verbose: bool = False,
    callback: Callback | None = None,
    checkpoint: Any = None,
    resume: Any = None,
) -> Solution:
    """Factorise counts: find W, H >= 0 that maximise the likelihood, or the posterior density, of X ~ Poisson(W H).

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads: scipy.sparse in any format, dense, DataFrame, (data, indices, indptr); the
        result of `as_counts`, which is not checked or transposed again; or `StreamedCounts`.
    n_components, prior_W, prior_H, alpha_W, alpha_H, l1_ratio, prior_groups, solver, acceleration, inner_steps
        As in `PoissonNMF`.
    init, n_init
        As in `PoissonNMF`.
    max_iter, tol, max_time, eval_every, random_state, dtype, n_threads, verbose, callback
        As in `PoissonNMF`.
    W : array-like of shape (n_samples, n_components), optional
        Start, with init="custom", "grow" or "shrink".
    H : array-like of shape (n_components, n_features), optional
        Start, with init="custom", "grow" or "shrink".
    fixed_W, fixed_H, row_exposure, column_exposure, background, groups, mask, sample_weight, validation
        As in `PoissonNMF.fit`.
    checkpoint, resume
        As in `PoissonNMF.fit`.

    Returns
    -------
    Solution
        W, H, objective, kkt_residual, n_iter, status, trace, restarts, group_effects.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    MemoryError
        If the estimated memory exceeds this process's limit; see `fastpmf.plan`.
    FitInterrupted
        On Ctrl-C after the first iteration; a KeyboardInterrupt whose `solution` is the fit so far.

    See Also
    --------
    PoissonNMF : the same as a scikit-learn estimator, with the parameters described.

    Examples
    --------
    >>> from fastpmf import poisson_nmf
    >>> solution = poisson_nmf([[4, 0, 2], [0, 3, 0], [2, 0, 1]], 2, random_state=0)
    >>> (solution.W @ solution.H).round(3)
    array([[4., 0., 2.],
           [0., 3., 0.],
           [2., 0., 1.]], dtype=float32)
    """
    options = PoissonOptions(
        n_components=n_components, prior_W=prior_W, prior_H=prior_H, alpha_W=alpha_W, alpha_H=alpha_H,
        l1_ratio=l1_ratio, prior_groups=prior_groups, solver=solver, acceleration=acceleration,
        inner_steps=inner_steps, init=init, n_init=n_init,
        max_iter=max_iter, tol=tol, max_time=max_time, eval_every=eval_every, random_state=random_state, dtype=dtype,
        verbose=verbose, callback=callback,
    )  # fmt: skip
    data = FitData(
        W=W, H=H, fixed_W=fixed_W, fixed_H=fixed_H, row_exposure=row_exposure, column_exposure=column_exposure,
        background=background, groups=groups, mask=mask, sample_weight=sample_weight, validation=validation,
    )  # fmt: skip
    with threads(n_threads), compilation_shown(verbose=verbose):
        check_memory_before_reading(
            X, n_components, dtype, options.make_solver(), n_init=n_init, search=options.make_search()
        )
        labels = MatrixLabels.of(X)
        warn_of_duplicates(labels.columns.values)
        options, data = options.aligned(labels), data.aligned(labels)
        with stage("reading X"):
            counts = as_fittable(X, mask=data.mask, n_threads=n_threads)
        solution, _ = PoissonFit(counts, options, data, checkpoint=checkpoint, resume=resume).run()
    if solution.status in INTERRUPTIONS:
        raise FitInterrupted(solution)
    return solution


class Fit(ABC):
    """A fit whose arguments are checked, ready to run.

    Parameters
    ----------
    counts : Counts
        X without the entries of `data.mask`, see `observed_counts`.
    options : FitOptions
    data : FitData
        Aligned with X.
    solver : Solver
        For the memory estimate.
    checkpoint, resume
        As in `PoissonNMF.fit`.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    MemoryError
        If the estimated memory exceeds this process's limit.
    """

    inits: ClassVar[tuple[str, ...]]
    residual: ClassVar[str]  # its name in the output of `verbose`
    scaled_to_all: ClassVar[bool]  # of the factors, see `EarlyStopping`

    problem: Any
    _solver: Any
    _search: ComponentSearch | None = None
    _seconds: float = 0.0  # that computing the starts took so far, if `max_time` includes them
    _checkpoints: CheckpointFolder | None

    def __init__(
        self, counts: Counts, options: Any, data: FitData, solver: Solver, *, checkpoint: Any, resume: Any
    ) -> None:
        self._options = options
        data.check_in_memory(counts)
        check_any_counts(counts, data.mask)
        self._dtype = dtype_for(options.dtype, counts)
        n_groups = 0 if data.groups is None else len(number_groups(data.groups, counts.shape[0])[0])
        check_memory(
            counts, options.n_components, self._dtype, solver, n_init=options.n_init, search=self._search,
            n_groups=n_groups,
        )  # fmt: skip
        check_option(options.init, self.inits, "init")
        single = {
            f"init={options.init!r}": options.init in GIVEN, "checkpoint": checkpoint is not None,
            "resume": resume is not None, "validation": data.validation is not None,
        }  # fmt: skip
        for name, given in single.items():
            if given and options.n_init > 1:
                raise ValueError(f"n_init must be 1 with {name}, got {options.n_init}")
        # A single stream of random numbers for all starts: the first start is that of n_init=1
        self._rng = random_generator(options.random_state)
        self._early_stopping = None
        if data.validation is not None:
            assert isinstance(counts, MemoryCounts)
            self._early_stopping = EarlyStopping(counts, data, self._rng, scaled_to_all=self.scaled_to_all)

    @abstractmethod
    def _start(self) -> tuple[np.ndarray, np.ndarray]:
        """Starting factors, the next ones of the stream of random numbers."""

    def _first_state(self) -> Any:
        """The state of the solver at the next start."""
        with stage("computing the starting factors"):
            W, Ht = self._start()
        return self._solver.init(self.problem, W, Ht)

    def _new_run(self, observers: Sequence[Observer]) -> Run:
        """A run from the next start, or from the checkpoint to resume from."""
        problem, checkpoints = self.problem, self._checkpoints
        if checkpoints is None or checkpoints.saved is None:
            state = self._first_state()
        else:
            W, Ht = (empty_factor(n, problem.n_components, self._dtype) for n in problem.counts.shape)
            state = self._solver.init(problem, W, Ht)
        return Run(self._solver, problem, state, self._options, observers, checkpoints, self._seconds)

    @abstractmethod
    def _check(self, solution: Solution) -> None:
        """Check a solution and complete it, in place."""

    def run(self, observer: Observer | None = None) -> tuple[Solution, Any]:
        """Fit with the current number of threads: the solution of the best start, and the final state of its solver.

        `observer` is called at each record, in place of the callback.
        """
        options = self._options
        with observed(options, observer, self._early_stopping, self.residual) as (progress, observers):
            if options.n_init == 1:
                best = self._new_run(observers).advance(options.max_iter)
                restarts = np.array([best.objective])
            else:
                best, restarts = successive_halving(
                    lambda: self._new_run(observers), options.n_init, options.max_iter, progress.begin_start
                )
            with stage("evaluating the final factors"):
                solution = best.finish()
            progress.end(solution)
        curve = None if self._early_stopping is None else self._early_stopping.curve
        solution = replace(solution, restarts=restarts, validation=curve)
        self._check(solution)
        return solution, best.state


class PoissonFit(Fit):
    """A fit of W and H.

    Attributes
    ----------
    problem : FitProblem
        The problem of the counts that are fitted, without held-out ones.
    """

    inits, residual, scaled_to_all = INITS, "kkt_residual", True

    problem: FitProblem

    def __init__(
        self, counts: Counts, options: PoissonOptions, data: FitData, *, checkpoint: Any = None, resume: Any = None
    ) -> None:
        self._counts, self._data = counts, data
        self._solver = options.make_solver(row_access_only=counts.row_access_only)
        if options.init in ("grow", "shrink"):
            self._solver = past_warm_up(self._solver)
        self._search = options.make_search(validation=data.validation is not None)
        super().__init__(counts, options, data, self._solver, checkpoint=checkpoint, resume=resume)
        fitted, fitted_data, k = counts, data, options.n_components
        if self._early_stopping is not None:
            exposure = np.ones(counts.shape[0]) if data.row_exposure is None else np.asarray(data.row_exposure)
            fitted = self._early_stopping.train
            fitted_data = replace(data, row_exposure=self._early_stopping.share * exposure)
        self.problem = problem = build_problem(fitted, k, self._dtype, options.penalties, fitted_data)
        if problem.counts.total == 0:
            raise ValueError("mask and sample_weight must leave at least one positive count of X")
        self._W, self._H = data.W, data.H
        if options.init in GIVEN and self._W is not None and self._H is not None:
            n, p = counts.shape
            k = n_components_given(self._W, k, options.init)
            check_memory(counts, k, self._dtype, self._solver)
            self._W = check_factor(self._W, (n, k), "W") * problem.scales[0][:, None]
            self._H = check_factor(self._H, (k, p), "H") * problem.scales[1]
            for A, name in ((self._W, "W"), (self._H, "H")):
                check_entries(A, self._dtype, name)
        facts = facts_of(problem.counts, options, self._dtype, streamed=counts.row_access_only)
        facts |= poisson_facts(options, problem.specs, problem.groups)
        self._checkpoints = open_checkpoints(checkpoint, resume, facts, self._early_stopping)

    def _new_run(self, observers: Sequence[Observer]) -> Run:
        run = super()._new_run(observers)
        if self._search is not None and run.n_iter == 0:
            with stage("adding and merging components"):
                self._search.apply(run, self.problem, self._solver, self._rng, self._options.max_iter // 2, self._start)
            self._seconds = run.seconds
            if self._checkpoints is not None and run.n_iter and run.status is None:
                self._checkpoints.save_if_due(run)
        return run

    def _check(self, solution: Solution) -> None:
        """Compute W of rows of weight 0, and warn of empty components and non-finite rates."""
        problem, options = self.problem, self._options
        if len(rows := problem.zero_weight_rows) and isinstance(self._counts, MemoryCounts):
            groups, effects = problem.groups, solution.group_effects
            known = None if groups is None or effects is None else KnownEffects(groups.group, effects.T)
            solution.W[rows], _ = transform(
                self._counts.select_rows(rows), solution.H, max_iter=options.max_iter, tol=options.tol,
                penalties=problem.penalties.select_rows(rows),
                data=replace(self._data, groups=known).select_rows(rows),
            )  # fmt: skip
        if solution.status is Status.NON_FINITE:
            warn(f"{solution.status} (iteration {solution.n_iter})", RuntimeWarning)
        if len(dead := solution.dead_components) and not fit_warnings_hidden():
            warn(
                f"{len(dead)} of {options.n_components} components carry no counts (numbers {listed(dead)}): fit fewer "
                "components or try another start"
            )

    def _add_components(self, W: np.ndarray, Ht: np.ndarray) -> None:
        """Fill, in place, the components that are not given, with init="grow"."""
        problem, n_given = self.problem, np.shape(self._W)[1]
        free = problem.free_components
        given, places = free[free < n_given], free[free >= n_given]
        mass = (W[:, given].sum(axis=0, dtype=np.float64) * Ht[:, given].sum(axis=0, dtype=np.float64)).sum()
        if not mass > 0:
            raise ValueError("init='grow' needs a component of W and H that is not zero and has no fixed entries")
        new = new_components(problem.counts, [W, Ht], len(places), self._rng)
        put_components([W, Ht], places, new or random_components(problem.counts, len(places), self._rng), given)

    def _merged_start(self, given: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """A start from factors with more components, of which the most similar ones are merged, with init="shrink"."""
        problem, k = self.problem, self._options.n_components
        K, free, n_extra = problem.n_components, problem.interchangeable, np.shape(self._W)[1] - k
        if not len(free):
            raise ValueError("init='shrink' needs a component that has no fixed entries")
        factors = [with_width(A, K, n_extra) for A in problem.start(*given)]
        for A, B in zip(factors, given, strict=True):
            A[:, K : K + n_extra] = B[:, k : k + n_extra]
        wide = problem.extended(n_extra, free[0], padded_width(K + n_extra, self._dtype))
        sums, units = [column_sums(A) for A in factors], np.ones(factors[0].shape[1])
        state = FactorState(factors, sums, units, effects=problem.start_effects)
        state.balance(wide)
        exact = not problem.counts.row_access_only
        W, Ht = merged_down(problem, wide, state.without_spares(), free, exact=exact)
        return W, Ht

    def _start(self) -> tuple[np.ndarray, np.ndarray]:
        options, problem = self._options, self.problem
        given = initialise(problem.counts, options.n_components, options.init, self._rng, self._dtype, self._W, self._H)
        W, Ht = self._merged_start(given) if options.init == "shrink" else problem.start(*given)
        if options.init == "grow":
            self._add_components(W, Ht)
        elif options.init not in GIVEN:
            problem.rescale_start(W, Ht)
            problem.seed_start(W, Ht)
        if problem.has_fixed_parts and (n := int((problem.counts.log_rate(W, Ht) == -np.inf).sum())):
            raise ValueError(
                f"fixed_W and fixed_H leave {n} row(s) of X a rate of 0 under a positive count; free a component "
                "there, or give a background"
            )
        if options.init in GIVEN and (groups := problem.groups) is not None:
            self.problem = replace(problem, groups=replace(groups, start=groups.best_effects_of(W, Ht)))
        return W, Ht


@contextmanager
def observed(
    options: FitOptions, observer: Observer | None, early_stopping: EarlyStopping | None, residual: str
) -> Iterator[tuple[FitProgress, list[Observer]]]:
    """The progress of a fit, and the observers of its runs: it, `observer` or the user's callback, early stopping.

    `residual` is the name of the residual in the progress.
    """
    with fit_progress(options.max_iter, residual, options.n_init, verbose=options.verbose) as progress:
        user = options.callback
        called = observer if observer is not None else None if user is None else lambda *args: user(*args[:3])
        shown = progress if options.verbose else None
        yield progress, [each for each in (shown, called, early_stopping) if each is not None]


def check_any_counts(counts: CountSize, mask: Any = None) -> None:
    """Raise an error if all counts are zero, or masked."""
    if counts.total > 0:
        return
    if mask is not None:
        raise ValueError("mask must leave at least one positive count of X")
    n, p = counts.shape
    raise ValueError(f"X must hold at least one positive count, got all {n} x {p} zero")


def report_end(solution: Solution, tol: float, measure: str = KKT) -> None:
    """Raise `FitInterrupted` after Ctrl-C, or warn if the fit stopped before it converged.

    `measure` is a sentence on the quantity that is compared with `tol`, with {} in place of its value.
    """
    if solution.status in INTERRUPTIONS:
        raise FitInterrupted(solution)
    if solution.status in (Status.MAX_ITER, Status.MAX_TIME) and tol > 0 and not fit_warnings_hidden():
        reached = measure.format(f"{solution.kkt_residual:.2g}")
        wanted = f"{tol:g}{rounding_advice(tol, solution.W.dtype)}"
        warn(f"{solution.status} {reached} after {solution.n_iter} iterations; tol is {wanted}.", ConvergenceWarning)


def facts_of(counts: CountSize, options: FitOptions, dtype: np.dtype, **access: bool) -> dict[str, Any]:
    """What must be equal for a fit to resume from a checkpoint, for all kinds of fits."""
    return {
        "shape": list(counts.shape), "nonzeros": counts.nnz, "total": counts.total, **access,
        "n_components": int(options.n_components), "dtype": str(dtype), "inner_steps": int(options.inner_steps),
    }  # fmt: skip


def poisson_facts(
    options: PoissonOptions, specs: tuple[FactorSpec, FactorSpec], groups: Groups | None = None
) -> dict[str, Any]:
    """What must be equal too for a fit of W and H."""
    digest = hashlib.sha256()
    for spec in specs:
        terms = spec.terms
        for A in (terms.shape, terms.rate, terms.ridge, terms.fixed, terms.zeros):
            digest.update(b"none" if A is None else np.ascontiguousarray(A).tobytes())
    if groups is not None:
        digest.update(groups.digest())
    for place, A in enumerate((*(spec.fixed_values for spec in specs), *(spec.scale for spec in specs))):
        if A is not None and (A != 1).any():
            digest.update(bytes([place]) + np.ascontiguousarray(A).tobytes())
    return {
        "solver": options.solver,
        "acceleration": options.acceleration,
        "priors, exposures and fixed parts": digest.hexdigest()[:16],
    }
