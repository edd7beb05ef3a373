"""scikit-learn's callbacks (from 1.9 on): a fit is one task, and every `eval_every` iterations are a task within it.

Before scikit-learn 1.9 there are none: estimators have no `set_callbacks`, and nothing here is called.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastpmf.fitting.options import FitData
from fastpmf.solvers import Record, Solution, Status
from fastpmf.solvers.base import TRACE_DTYPE

__all__ = ["CallbackSupportMixin", "FitTasks", "with_callbacks"]

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """No callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        return method


class FitTasks:
    """An observer of a run that reports it to the callbacks of an estimator, after the estimator's own `callback`.

    At every record except that of the start one task ends and the next one begins. So the last task may contain no
    iteration; it ends without a fitted estimator.

    Parameters
    ----------
    estimator : FactorModel
    attributes : callable
        attributes(solution, state) returns the attributes of the estimator after a fit with that result.
    X, y : object
        As given to `fit`.
    data : FitData
        As given to `fit`; what belongs to rows is passed to callbacks as metadata.
    """

    def __init__(
        self, estimator: Any, attributes: Callable[[Solution, Any], dict[str, Any]], X: Any, y: Any, data: FitData
    ) -> None:
        by_row = {name: getattr(data, name) for name in ("row_exposure", "mask", "sample_weight")}
        metadata = {name: value for name, value in by_row.items() if value is not None}
        self._estimator, self._attributes = estimator, attributes
        self._arguments = {"X": X, "y": y, "metadata": metadata, "estimator": estimator}
        self._fit: Any = None  # scikit-learn's contexts of the open tasks
        self._iterations: Any = None
        self._n_iter = 0

    def __call__(self, record: Record, W: np.ndarray, H: np.ndarray, state: Any) -> Any:
        estimator, single = self._estimator, self._estimator.n_init == 1
        arguments = self._arguments | {
            "reconstruction_attributes": lambda: self._reconstruct(_solution_at(record, W, H), state)
        }
        stop = None if estimator.callback is None else estimator.callback(record, W, H)
        if self._fit is None:
            n_tasks = -(-estimator.max_iter // estimator.eval_every) if single else None  # starts may be dropped
            self._fit = estimator._init_callback_context(max_subtasks=n_tasks)
            self._fit.call_on_fit_task_begin(**arguments)
        if self._iterations is not None and record.n_iter:
            ended, self._iterations = self._iterations, None
            stops = ended.call_on_fit_task_end(**arguments)
            stop = stop or stops
        self._n_iter = record.n_iter
        if self._iterations is None and not stop and not (single and record.n_iter >= estimator.max_iter):
            self._iterations = self._fit.subcontext(task_name="iterations")
            self._iterations.call_on_fit_task_begin(**arguments)
        return stop

    def end(self, solution: Solution, state: Any) -> None:
        """End the open tasks; there are none if a resumed fit had nothing left to do."""
        if self._fit is None:
            return
        attributes = self._reconstruct(solution, state)
        if self._iterations is not None:
            done = solution.n_iter > self._n_iter
            self._iterations.call_on_fit_task_end(
                **self._arguments, reconstruction_attributes=(lambda: attributes) if done else None
            )
        self._fit.call_on_fit_task_end(**self._arguments, reconstruction_attributes=lambda: attributes)

    def _reconstruct(self, solution: Solution, state: Any) -> dict[str, Any]:
        """All attributes of the estimator after such a fit; None for those that only an earlier fit has."""
        after = self._attributes(solution, state)
        return dict.fromkeys(self._estimator._fitted_names()) | after


def _solution_at(record: Record, W: np.ndarray, H: np.ndarray) -> Solution:
    """The solution of a fit that a callback stops at this record; H is a copy, W is not."""
    return Solution(
        W, np.array(H, order="C"), record.objective, record.kkt_residual, record.n_iter, Status.CALLBACK,
        np.array([record], dtype=TRACE_DTYPE), np.array([record.objective]),
    )  # fmt: skip
