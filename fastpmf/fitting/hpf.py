"""From what a user of `HPF` gives to posteriors: the checks, the start, the solver."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import column_sums, empty_factor
from fastpmf.counts import MemoryCounts
from fastpmf.counts.masked import hide_entries
from fastpmf.fitting.checkpoint import saver_of
from fastpmf.fitting.early_stopping import Validation
from fastpmf.fitting.fit import check_any_counts, check_parameters, facts_of, in_memory_only
from fastpmf.fitting.memory import check_memory
from fastpmf.fitting.problem import Known
from fastpmf.fitting.ranges import check_range, dtype_for
from fastpmf.model.hierarchy import GammaFactor, GammaPrior, update, weights
from fastpmf.model.init import INITS, initialise
from fastpmf.solvers import Run, Solution, State, Status
from fastpmf.solvers.base import Callback
from fastpmf.solvers.mean_field import Inference, MeanField, Posteriors
from fastpmf.solvers.successive_halving import race
from fastpmf.utils.messages import brief
from fastpmf.utils.progress import show_progress
from fastpmf.utils.validation import check_option, random_generator
from fastpmf.utils.warnings import warn

LEAST, MOST = 1e-30, 1e30  # of a hyperparameter: float32 can divide by it
MOVED = "The last half-steps moved {} of the counts"  # what `tol` is compared with
DEFAULT_SHAPE = 0.3


class Found(NamedTuple):
    """Where inference ended; `share` is what part of the counts it saw."""

    solution: Solution
    state: Posteriors
    share: float


@dataclass(frozen=True, kw_only=True)
class Watched(Inference):
    """Inference that tells of its posteriors, and of what share of the counts they are, before each record of them."""

    tell: Callable[[Posteriors, float], None]
    share: float

    def objective(self, state: State) -> float:
        if isinstance(state, Posteriors):
            self.tell(state, self.share)
        return super().objective(state)


def infer(
    counts: Counts, n_components: int, choose_priors: Callable[[float], tuple[GammaPrior, GammaPrior]], *, learn: bool,
    mask: Any, validation: Any, inner_steps: int, init: str, n_init: int, max_iter: int, tol: float,
    max_time: float | None, eval_every: int, random_state: Any, dtype: Any, verbose: bool, callback: Callback | None,
    tell: Callable[[Posteriors, float], None], checkpoint: Any, resume: Any,
) -> Found:  # fmt: skip
    """Check the parameters, choose a start, and infer; `tell` as in `Watched`."""
    check_parameters(n_components, "mu", None, inner_steps, n_init, max_iter, tol, max_time, eval_every, callback)
    if not isinstance(learn, bool | np.bool_):
        raise TypeError(f"learn_prior must be True or False, got {brief(learn)}")
    priors = choose_priors(DEFAULT_SHAPE)
    check_option(init, [name for name in INITS if name != "custom"], "init")
    in_memory_only(counts, mask=mask, validation=validation)
    check_any_counts(counts, mask)
    work = dtype_for(dtype, counts)
    check_memory(counts, n_components, work, MeanField(priors), n_init=n_init)
    rng = random_generator(random_state)
    held, share = None, 1.0
    if validation is not None:
        if n_init > 1:
            raise ValueError(f"n_init must be 1 with validation, which stops one fit, got {n_init}")
        assert isinstance(counts, MemoryCounts)
        held = Validation(counts, validation, Known(mask=mask), rng, whole=False)
        counts, share, callback = held.train, held.share, held.watch(callback)
    if isinstance(counts, MemoryCounts):
        counts = hide_entries(counts, mask)
    if learn:
        priors = choose_priors(_learned_start(counts, n_components))
    problem = Watched(counts, n_components, tell=tell, share=share)
    if n_init > 1 and (checkpoint is not None or resume is not None):
        raise ValueError(f"n_init must be 1 with checkpoint and resume, which are of one fit, got {n_init}")
    facts = {
        "n_components": int(n_components),
        "dtype": str(work),
        "inner_steps": int(inner_steps),
        "learn": bool(learn),
    }
    facts |= {"priors": [prior.to_numbers() for prior in priors]}
    saver = saver_of(checkpoint, resume, facts_of(counts) | facts)
    with show_progress(callback, max_iter, verbose=verbose, residual="residual") as watch:

        def begin() -> Run:
            told: dict[str, Any] = {"tol": tol, "eval_every": eval_every, "max_time": max_time, "callback": watch}
            solver = MeanField(priors, learn=learn, inner_steps=inner_steps)
            if saver is not None:
                told |= {"keep": saver.keep, "memory": saver.memory}
                if saver.memory is not None:
                    nothing = np.zeros((0, 0))  # where it was is in the memory
                    return Run(solver, problem, nothing, nothing, **told)
            return Run(solver, problem, *initialise(counts, n_components, init, rng, work), **told)

        solution = race([begin] * n_init, max_iter)
    if held is not None:
        solution = replace(solution, validation=held.curve)
    if solution.status is Status.NON_FINITE:
        raise ValueError(
            f"X and the hyperparameters must leave every posterior rate positive and finite in {work}, which iteration "
            f"{solution.n_iter} found not so; less extreme ones, or dtype='float64', would"
        )
    state = solution.state
    assert isinstance(state, Posteriors)
    return Found(solution, state, share)


def _learned_start(counts: Counts, n_components: int) -> float:
    """The initial shape of all entries if the shapes of the components are learned.

    Large shapes smooth over noise at first; as the learned shapes decrease, the components separate by patterns that
    many rows share. With small initial shapes each component keeps the noise of its random start, a poor local optimum.
    With too large ones (a sum over components above the counts of a row) the components stay alike for hundreds of
    iterations. Measured on eight data sets with 8 to 2,000 counts per row and 2 to 100 components.
    """
    return min(30.0, 0.6 * counts.total / counts.shape[0]) / n_components


def infer_rows(
    counts: MemoryCounts, columns: GammaFactor, prior: GammaPrior, n_components: int, mask: Any, *, max_iter: int,
    tol: float, warn_unconverged: bool = True,
) -> GammaFactor:  # fmt: skip
    """Posteriors of W for rows of counts, those of H fixed, by half-steps.

    Each row goes on until it moves at most a share `tol` of its counts, and takes the same way alone and in company.
    """
    counts, dtype = hide_entries(counts, mask), columns.mean.dtype
    check_range(counts, dtype)
    start = empty_factor(counts.shape[0], n_components, dtype)
    mass = counts.sums(Side.ROWS) / max(float(columns.sums.sum()), 1e-300)
    start[:, :n_components] = np.maximum(mass[:, None], prior.shapes(n_components) / prior.activity_mean)
    left, some = np.arange(len(start)), counts
    factor = GammaFactor.start(start, column_sums(start), prior, n_components)
    enough = tol * (counts.sums(Side.ROWS) + prior.shape_sum(n_components))
    parts, rows, lost = [], [], 0
    for done in range(1, max_iter + 1):
        moved = update(some, Side.ROWS, factor, columns, prior, n_components, np.zeros_like(factor.mean))
        lost += int(np.isnan(moved).sum())
        going = moved > enough[left] if done < max_iter else np.zeros(len(left), bool)
        if going.all():
            continue
        parts.append(factor.select_rows(~going))
        rows.append(left[~going])
        if not going.any():
            break
        factor, left = factor.select_rows(going), left[going]
        some = counts.select_rows(left)
    if lost:
        warn(
            f"{lost} row(s) of X have rates that {dtype} can't tell from 0 or infinity, and no posterior",
            RuntimeWarning,
        )
    if warn_unconverged and tol > 0 and (moved > enough[left]).any():
        warn(
            f"posteriors of some rows still moved by more than tol={tol:g} of their counts after max_iter={max_iter} "
            "half-steps; raise max_iter, or tol, to converge",
            ConvergenceWarning,
        )
    return GammaFactor.joined(parts, np.concatenate(rows), weights(counts, Side.ROWS, columns, n_components))


def check_priors(
    rows: tuple[Any, ...], columns: tuple[Any, ...], n_components: int, *, hierarchical: Any,
    default_shape: float = DEFAULT_SHAPE,
) -> tuple[GammaPrior, GammaPrior]:  # fmt: skip
    """Check that all hyperparameters are positive and finite, and return the priors of W and H.

    The first entry of `rows` and of `columns`, a and c, may be one number, one number for each component, or None for
    the default.
    """
    if not isinstance(hierarchical, bool | np.bool_):
        raise TypeError(f"hierarchy must be True or False, got {brief(hierarchical)}")
    names = ("a", "a_prime", "b_prime"), ("c", "c_prime", "d_prime")
    found = []
    for (shape, *others), (name, *other_names) in zip((rows, columns), names, strict=True):
        if shape is None:
            shape = default_shape
        elif isinstance(shape, list | tuple | np.ndarray):
            if np.shape(shape) != (n_components,):
                raise ValueError(
                    f"{name} must be a positive number or {n_components}, one for each component, got shape "
                    f"{np.shape(shape)}"
                )
            shape = tuple(_positive(x, name) for x in shape)
        else:
            shape = _positive(shape, name)
        activity_shape, mean = (_positive(value, other) for value, other in zip(others, other_names, strict=True))
        found.append(GammaPrior(shape, activity_shape, mean, bool(hierarchical)))
    return found[0], found[1]


def _positive(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a positive number, got {brief(value)}")
    if not LEAST <= value <= MOST:
        raise ValueError(f"{name} must be a positive number from {LEAST:g} to {MOST:g}, got {value}")
    return float(value)
