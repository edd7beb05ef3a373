"""Arguments of a fit other than X: its options, and the data that belong to rows, columns or entries of X."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.core.counts import Counts
from fastpmf.counts import as_counts
from fastpmf.counts.labels import Labels, MatrixLabels, align, align_components
from fastpmf.fitting.seeds import SeededPrior
from fastpmf.solvers import Solver, make_solver
from fastpmf.solvers.base import Callback
from fastpmf.solvers.component_search import ComponentSearch, make_search
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_number


class Penalties(NamedTuple):
    """Priors and penalties, with the meaning they have in `PoissonNMF`."""

    prior_W: Any = None
    prior_H: Any = None
    alpha_W: float = 0.0
    alpha_H: Any = "same"
    l1_ratio: float = 0.0
    prior_groups: float = 10.0

    def select_rows(self, rows: Any) -> "Penalties":
        """The penalties of some rows of W, by numbers or a slice, if `prior_W` has numbers for each entry."""
        if not isinstance(self.prior_W, tuple | list):
            return self
        return self._replace(prior_W=tuple(x if np.ndim(x) < 2 else np.asarray(x)[rows] for x in self.prior_W))


def align_prior(prior: Any, name: str, **labels: Labels) -> Any:
    """A prior whose arrays for single entries are aligned with the `rows` or `columns` of X as by `align`."""
    if not isinstance(prior, tuple | list):
        return prior
    return tuple(align(x, name, **labels) if np.ndim(x) == 2 else x for x in prior)


def _check_n_components(k: Any) -> None:
    """Raise an error unless the number of components is an integer >= 1."""
    is_integer = isinstance(k, int | np.integer) and not isinstance(k, bool)
    if not is_integer or k < 1:
        message = f"n_components must be an integer >= 1, got {brief(k)}; select_n_components finds a good one"
        raise (ValueError if is_integer else TypeError)(message)


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Parameters that all fits share, with the meaning they have in `PoissonNMF`.

    Raises
    ------
    TypeError, ValueError
        If a parameter has an invalid type or value.
    """

    n_components: int
    inner_steps: int = 1
    init: str = "auto"
    n_init: int = 1
    max_iter: int = 500
    tol: float = 1e-4
    max_time: float | None = None
    eval_every: int = 10
    random_state: Any = None
    dtype: Any = None
    verbose: bool = False
    callback: Callback | None = None

    @classmethod
    def of(cls, estimator: Any) -> Self:
        """The options of an estimator, whose parameters have the same names; defaults for those that it lacks."""
        names = [field.name for field in fields(cls) if hasattr(estimator, field.name)]
        return cls(**{name: getattr(estimator, name) for name in names})

    def __post_init__(self) -> None:
        _check_n_components(self.n_components)
        for name in ("inner_steps", "n_init", "max_iter", "eval_every"):
            check_scalar(getattr(self, name), name, (int, np.integer), min_val=1)
        check_scalar(self.tol, "tol", (int, float, np.number), min_val=0)
        if math.isnan(self.tol):
            raise ValueError("tol must be a number >= 0, got nan")
        if self.max_time is not None:
            check_scalar(self.max_time, "max_time", (int, float, np.number), min_val=0)
            if math.isnan(self.max_time):
                raise ValueError("max_time must be a number of seconds >= 0 or None, got nan")
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback must be callable or None, got {brief(self.callback)}")


@dataclass(frozen=True, kw_only=True)
class PoissonOptions(FitOptions):
    """Parameters of `PoissonNMF` and `poisson_nmf`."""

    prior_W: Any = None
    prior_H: Any = None
    alpha_W: float = 0.0
    alpha_H: Any = "same"
    l1_ratio: float = 0.0
    prior_groups: float = 10.0
    solver: str = "auto"
    acceleration: str | None = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.make_solver()
        check_number(self.prior_groups, "prior_groups", positive=True)

    def aligned(self, labels: MatrixLabels) -> Self:
        """The options with priors of single entries aligned with X by labels, and a seeded prior as (shape, rate)."""
        prior_W = align_prior(self.prior_W, "prior_W", rows=labels.rows)
        if isinstance(self.prior_H, SeededPrior):
            prior_H: Any = self.prior_H.aligned(labels.columns, self.n_components)
        else:
            prior_H = align_prior(self.prior_H, "prior_H", columns=labels.columns)
        return replace(self, prior_W=prior_W, prior_H=prior_H)

    def make_solver(self, *, row_access_only: bool = False) -> Solver:
        """The solver that the options name."""
        return make_solver(
            self.solver, self.acceleration, inner_steps=self.inner_steps, row_access_only=row_access_only
        )

    def make_search(self, *, validation: bool = False) -> ComponentSearch | None:
        """The search that the fit begins with, if any."""
        return make_search(self.init, self.solver, validation=validation)

    @property
    def penalties(self) -> Penalties:
        return Penalties(self.prior_W, self.prior_H, self.alpha_W, self.alpha_H, self.l1_ratio, self.prior_groups)


class KnownEffects(NamedTuple):
    """Effects of groups that have been fitted, in place of the labels of groups.

    Attributes
    ----------
    group : ndarray of shape (n,), int64
        The group of each row.
    effects : ndarray of shape (p, n_groups), float64
    """

    group: np.ndarray
    effects: np.ndarray

    def select_rows(self, rows: Any) -> "KnownEffects":
        return KnownEffects(self.group[rows], self.effects)


@dataclass(frozen=True, kw_only=True)
class FitData:
    """Arguments of `PoissonNMF.fit` that belong to rows, columns or entries of X, with the same meaning.

    `groups` may also be `KnownEffects`.
    """

    W: Any = None
    H: Any = None
    fixed_W: Any = None
    fixed_H: Any = None
    row_exposure: Any = None
    column_exposure: Any = None
    background: Any = None
    groups: Any = None
    mask: Any = None
    sample_weight: Any = None
    validation: Any = None

    def aligned(self, labels: MatrixLabels) -> "FitData":
        """Everything aligned by labels with X, if both have labels, and factors by components; the mask as counts."""
        rows, columns = labels

        def aligned(name: str, rows: Labels | None = None, columns: Labels | None = None) -> Any:
            return align(getattr(self, name), name, rows=rows, columns=columns)

        mask = aligned("mask", rows, columns)
        fixed_W, fixed_H, W, H = align_components([
            (aligned("fixed_W", rows), "fixed_W", 1), (aligned("fixed_H", columns=columns), "fixed_H", 0),
            (aligned("W", rows), "W", 1), (aligned("H", columns=columns), "H", 0),
        ])  # fmt: skip
        vectors = {
            "row_exposure": rows, "column_exposure": columns, "background": columns, "groups": rows,
            "sample_weight": rows,
        }  # fmt: skip
        return FitData(
            W=W, H=H, fixed_W=fixed_W, fixed_H=fixed_H, mask=None if mask is None else as_counts(mask, name="mask"),
            validation=aligned("validation", rows, columns),
            **{name: aligned(name, target) for name, target in vectors.items()},
        )  # fmt: skip

    def check_in_memory(self, counts: Counts) -> None:
        """Raise an error if counts are streamed and something is given that needs all of them at once."""
        for name in ("mask", "sample_weight", "validation"):
            if getattr(self, name) is not None and counts.row_access_only:
                raise ValueError(f"{name} needs counts in memory, got {type(counts).__name__}")

    def select_rows(self, rows: np.ndarray) -> "FitData":
        """The data of the given rows, without weights, starts and validation."""
        mask = None if self.mask is None else as_counts(self.mask, name="mask").select_rows(rows)
        exposure = self.row_exposure if np.ndim(self.row_exposure) == 0 else np.asarray(self.row_exposure)[rows]
        fixed_W = None if self.fixed_W is None else np.asarray(self.fixed_W)[rows]
        groups = self.groups
        if groups is not None:
            groups = groups.select_rows(rows) if isinstance(groups, KnownEffects) else np.asarray(groups)[rows]
        return replace(
            self, row_exposure=exposure, mask=mask, fixed_W=fixed_W, groups=groups, sample_weight=None, W=None, H=None,
            validation=None,
        )  # fmt: skip


NO_PENALTIES = Penalties()
NO_DATA = FitData()
