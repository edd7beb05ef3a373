"""From what a user gives to a `Solution`: the checks, the start, the solver. Estimators and functions share this."""

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_scalar

from fastpmf.core.counts import Counts
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import MatrixLabels, warn_of_duplicates
from fastpmf.counts.streamed import as_fittable
from fastpmf.fitting.checkpoint import saver_of
from fastpmf.fitting.early_stopping import Validation
from fastpmf.fitting.memory import check_declared, check_memory
from fastpmf.fitting.problem import Known, Penalties, Statement, align_beside, stated
from fastpmf.fitting.ranges import check_entries, dtype_for
from fastpmf.fitting.transform import transform
from fastpmf.kernels.threads import threads
from fastpmf.model.init import INITS, initialise
from fastpmf.solvers import FitInterrupted, Run, Solution, Solver, Status, solver_of
from fastpmf.solvers.base import Callback
from fastpmf.solvers.successive_halving import race
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.progress import show_progress
from fastpmf.utils.validation import check_factor, check_option, random_generator
from fastpmf.utils.warnings import warn

_silent = ContextVar("silent", default=False)
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
    """Factorise counts: the W, H >= 0 under which X ~ Poisson(W H) is likeliest, or most probable under priors.

    Parameters
    ----------
    X : matrix of counts of shape (n_samples, n_features)
        Anything that `as_counts` reads: scipy.sparse in any format, dense, DataFrame, (data, indices, indptr), or the
        result of `as_counts`, which is then neither checked nor transposed again; or `StreamedCounts`.
    n_components, prior_W, prior_H, alpha_W, alpha_H, l1_ratio, solver, acceleration, inner_steps, init, n_init
        As in `PoissonNMF`.
    max_iter, tol, max_time, eval_every, random_state, dtype
        As in `PoissonNMF`.
    n_threads, verbose, callback
        As in `PoissonNMF`.
    W : array-like of shape (n_samples, n_components), optional
        Where to start, with init="custom".
    H : array-like of shape (n_components, n_features), optional
        Where to start, with init="custom".
    fixed_W, fixed_H, row_exposure, column_exposure, background, mask, sample_weight, validation, checkpoint, resume
        As in `PoissonNMF.fit`.

    Returns
    -------
    Solution
        W, H, objective, kkt_residual, n_iter, status, trace, restarts.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    MemoryError
        What the fit needs, see `fastpmf.plan`, this process may not have; in one sentence that says what would fit.
    FitInterrupted
        On Ctrl-C once an iteration is done; a KeyboardInterrupt whose `solution` is what was fitted so far.

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
           [2., 0., 1.]])
    """
    with threads(n_threads):
        check_declared(X, n_components, dtype, solver_of(solver, acceleration)(), n_init=n_init)
        known = Known(fixed_W, fixed_H, row_exposure, column_exposure, background, mask, sample_weight)
        labels = MatrixLabels.of(X)
        warn_of_duplicates(labels.columns.values)
        known, W, H, validation = align_beside(labels, known, W=W, H=H, validation=validation)
        prepared = prepare(
            as_fittable(X, mask=known.mask, n_threads=n_threads), n_components, solver=solver,
            acceleration=acceleration, inner_steps=inner_steps, init=init, n_init=n_init, W=W, H=H,
            max_iter=max_iter, tol=tol, max_time=max_time, eval_every=eval_every, random_state=random_state,
            dtype=dtype, callback=callback, penalties=Penalties(prior_W, prior_H, alpha_W, alpha_H, l1_ratio),
            known=known, validation=validation, checkpoint=checkpoint, resume=resume,
        )  # fmt: skip
        solution = prepared.run(verbose=verbose, callback=callback)
    if solution.status in INTERRUPTIONS:
        raise FitInterrupted(solution)
    return solution


@dataclass(frozen=True, eq=False)
class Prepared:
    """A fit that has passed all checks and can be run.

    Attributes
    ----------
    counts : Counts
        X without the entries of the mask.
    known : Known
    statement : Statement
        Of the counts that are fitted: without the held-out ones, weighted.
    held_out : Validation or None
    make : callable
        Returns a new solver.
    dtype : dtype
    W, H : ndarray or None
        The start if init="custom", in the units of the problem.
    rng : RandomState or Generator
        For the starts.
    saver : Saver or None
    init, n_init, max_iter, tol, max_time, eval_every
        As in `PoissonNMF`.
    """

    counts: Counts
    known: Known
    statement: Statement
    held_out: Validation | None
    make: Callable[[], Solver]
    dtype: np.dtype
    init: str
    n_init: int
    W: np.ndarray | None
    H: np.ndarray | None
    rng: Any
    max_iter: int
    tol: float
    max_time: float | None
    eval_every: int
    saver: Any

    @property
    def penalties(self) -> Penalties:
        """With "auto" priors as numbers."""
        return self.statement.penalties

    def run(self, *, verbose: bool, callback: Callback | None) -> Solution:
        """Run the fit, with the threads as they are."""
        problem = self.statement.problem
        n_components = problem.n_components - (self.known.background is not None)
        if self.held_out is not None:
            callback = self.held_out.watch(callback)
        with show_progress(callback, self.max_iter, verbose=verbose) as watch:

            def begin() -> Run:
                options: dict[str, Any] = {
                    "tol": self.tol, "eval_every": self.eval_every, "max_time": self.max_time, "callback": watch,
                }  # fmt: skip
                if self.saver is not None:
                    options |= {"keep": self.saver.keep, "memory": self.saver.memory}
                    if self.saver.memory is not None:
                        nothing = np.zeros((0, 0))  # the factors are in the checkpoint
                        return Run(self.make(), problem, nothing, nothing, **options)
                start = self.statement.start(
                    *initialise(problem.counts, n_components, self.init, self.rng, self.dtype, self.W, self.H)
                )
                if self.statement.partly_known:
                    _check_reach(problem.counts, *start)
                return Run(self.make(), problem, *start, **options)

            solution = race([begin] * self.n_init, self.max_iter)
        unweighted = self.statement.unweighted
        if len(unweighted) and isinstance(self.counts, MemoryCounts):
            solution.W[unweighted], _ = transform(
                self.counts.select_rows(unweighted), solution.H, max_iter=self.max_iter, tol=self.tol,
                penalties=self.penalties, known=_rows_of(self.known, unweighted),
            )  # fmt: skip
        if self.held_out is not None:
            solution = replace(solution, validation=self.held_out.curve)
        if solution.status is Status.NON_FINITE:
            warn(f"{solution.status} (iteration {solution.n_iter})", RuntimeWarning)
        if len(dead := solution.dead_components) and not _silent.get():
            warn(
                f"{len(dead)} of {n_components} components carry no counts (numbers {listed(dead)}): fit fewer "
                "components or try another start"
            )
        return solution


def prepare(
    counts: Counts,
    n_components: int,
    *,
    penalties: Penalties,
    known: Known,
    validation: Any,
    solver: str,
    acceleration: str | None,
    inner_steps: int,
    init: str,
    n_init: int,
    W: Any,
    H: Any,
    max_iter: int,
    tol: float,
    max_time: float | None,
    eval_every: int,
    random_state: Any,
    dtype: Any,
    callback: Callback | None,
    checkpoint: Any,
    resume: Any,
) -> Prepared:
    """Check all arguments, and build the problem from the counts that are fitted.

    Parameters
    ----------
    counts : Counts
        X without the entries of `known.mask`, see `observed_counts`. Everything that depends on the data is computed
        from these counts.
    known : Known
        Aligned with X.
    """
    make = check_parameters(
        n_components, solver, acceleration, inner_steps, n_init, max_iter, tol, max_time, eval_every, callback,
        row_access_only=counts.row_access_only,
    )  # fmt: skip
    in_memory_only(counts, mask=known.mask, sample_weight=known.sample_weight, validation=validation)
    check_any_counts(counts, known.mask)
    work = dtype_for(dtype, counts)
    check_memory(counts, n_components, work, make(), n_init=n_init)
    check_option(init, INITS, "init")
    if init == "custom" and n_init > 1:
        raise ValueError(f"n_init must be 1 with init='custom', which is one start, got {n_init}")
    if n_init > 1 and (checkpoint is not None or resume is not None):
        raise ValueError(f"n_init must be 1 with checkpoint and resume, which are of one fit, got {n_init}")
    # One stream of random numbers through all starts: the first is the one that n_init=1 has
    rng = random_generator(random_state)
    fitted, beside, held_out = counts, known, None
    if validation is not None:
        if n_init > 1:
            raise ValueError(f"n_init must be 1 with validation, which stops one fit, got {n_init}")
        assert isinstance(counts, MemoryCounts)
        held_out = Validation(counts, validation, known, rng)
        exposure = np.ones(counts.shape[0]) if known.row_exposure is None else np.asarray(known.row_exposure)
        fitted, beside = held_out.train, known._replace(row_exposure=held_out.share * exposure)
    statement = stated(fitted, n_components, work, penalties, beside)
    if statement.problem.counts.total == 0:
        raise ValueError("mask and sample_weight must leave at least one positive count of X")
    if init == "custom" and W is not None and H is not None:
        units = statement.units[:n_components]
        W = check_factor(W, (counts.shape[0], n_components), "W") * statement.scales[0][:, None] / units
        H = check_factor(H, (n_components, counts.shape[1]), "H") * statement.scales[1] * units[:, None]
        for A, name in ((W, "W"), (H, "H")):
            check_entries(A, work, name)
    saver = saver_of(checkpoint, resume, _facts(statement, n_components, work, solver, acceleration, inner_steps))
    return Prepared(
        counts, known, statement, held_out, make, work, init, n_init, W, H, rng, max_iter, tol, max_time, eval_every,
        saver,
    )  # fmt: skip


def check_any_counts(counts: Counts, mask: Any) -> None:
    """Raise an error if all counts are zero, or masked."""
    if counts.total > 0:
        return
    if mask is not None:
        raise ValueError("mask must leave at least one positive count of X")
    raise ValueError(f"X must hold at least one positive count, got all {counts.shape[0]} x {counts.shape[1]} zero")


@contextmanager
def without_fit_warnings() -> Iterator[None]:
    """No warnings of empty components and missing convergence in this thread, with other threads' filters untouched."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


def tell_end(solution: Solution, tol: float, measured: str = KKT) -> None:
    """Raise `FitInterrupted` after Ctrl-C, or warn of a fit that stopped before it converged.

    `measured` is a sentence on the quantity that is compared with `tol`, with {} in the place of its value.
    """
    if solution.status in INTERRUPTIONS:
        raise FitInterrupted(solution)
    if solution.status in (Status.MAX_ITER, Status.MAX_TIME) and tol > 0 and not _silent.get():
        reached = measured.format(f"{solution.kkt_residual:.2g}")
        warn(f"{solution.status} {reached} after {solution.n_iter} iterations; tol is {tol:g}.", ConvergenceWarning)


def check_parameters(
    n_components: int,
    solver: str,
    acceleration: str | None,
    inner_steps: int,
    n_init: int,
    max_iter: int,
    tol: float,
    max_time: float | None,
    eval_every: int,
    callback: Any,
    *,
    row_access_only: bool = False,
) -> Callable[[], Solver]:
    """What makes the solver, once all of these are what they should be."""
    if isinstance(n_components, bool):
        raise TypeError(f"n_components must be an integer, got {n_components}")
    check_scalar(n_components, "n_components", (int, np.integer), min_val=1)
    check_scalar(inner_steps, "inner_steps", (int, np.integer), min_val=1)
    check_scalar(n_init, "n_init", (int, np.integer), min_val=1)
    check_scalar(max_iter, "max_iter", (int, np.integer), min_val=1)
    check_scalar(eval_every, "eval_every", (int, np.integer), min_val=1)
    check_scalar(tol, "tol", (int, float, np.number), min_val=0)
    if math.isnan(tol):
        raise ValueError("tol must be a number >= 0, got nan")
    if max_time is not None:
        check_scalar(max_time, "max_time", (int, float, np.number), min_val=0)
        if math.isnan(max_time):
            raise ValueError("max_time must be a number of seconds >= 0 or None, got nan")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {brief(callback)}")
    return solver_of(solver, acceleration, inner_steps=inner_steps, row_access_only=row_access_only)


def in_memory_only(counts: Counts, **given: Any) -> None:
    """Turn away what needs all counts at once, where they are streamed."""
    for name, value in given.items():
        if value is not None and counts.row_access_only:
            raise ValueError(f"{name} needs counts in memory, got {type(counts).__name__}")


def _facts(
    said: Statement, n_components: int, dtype: np.dtype, solver: str, acceleration: str | None, inner_steps: int
) -> dict[str, Any]:
    """What makes a fit take the way that it takes, beside where it starts."""
    digest = hashlib.sha256()
    for terms in said.problem.terms:
        for A in (terms.shape, terms.rate, terms.ridge, terms.held, terms.zeros):
            digest.update(b"none" if A is None else np.ascontiguousarray(A).tobytes())
    for place, A in enumerate((*said.known, *said.scales)):
        if A is not None and (A != 1).any():
            digest.update(bytes([place]) + np.ascontiguousarray(A).tobytes())
    return facts_of(said.counts) | {
        "n_components": int(n_components),
        "dtype": str(dtype),
        "solver": solver,
        "acceleration": acceleration,
        "inner_steps": int(inner_steps),
        "priors, exposures and known parts": digest.hexdigest()[:16],
    }


def facts_of(counts: Counts) -> dict[str, Any]:
    """Of the counts alone."""
    return {
        "shape": list(counts.shape), "nonzeros": counts.nnz, "total": counts.total, "streamed": counts.row_access_only,
    }  # fmt: skip


def _rows_of(known: Known, rows: np.ndarray) -> Known:
    """What is known of these rows, by number, without weights."""
    mask = known.mask if known.mask is None else as_counts(known.mask, name="mask").select_rows(rows)
    exposure = known.row_exposure if np.ndim(known.row_exposure) == 0 else np.asarray(known.row_exposure)[rows]
    fixed = None if known.fixed_W is None else np.asarray(known.fixed_W)[rows]
    return known._replace(row_exposure=exposure, mask=mask, sample_weight=None, fixed_W=fixed)


def _check_reach(counts: Counts, W: np.ndarray, Ht: np.ndarray) -> None:
    """Turn away fixed zeros and components that leave a count with rate 0 whatever the free entries become."""
    lost = int((counts.log_rate(W, Ht) == -np.inf).sum())
    if lost:
        raise ValueError(
            f"fixed_W and fixed_H leave {lost} row(s) of X a rate of 0 under a positive count; free a component there, "
            "or give a background"
        )
