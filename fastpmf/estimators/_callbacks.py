"""What scikit-learn's callbacks (1.9 on) see of a fit: one task, and in it one for every `eval_every` iterations.

Before 1.9 there are none: estimators have no `set_callbacks`, and fits go by here without a word.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from fastpmf.fitting.problem import Known
from fastpmf.solvers import Record, Solution, Status
from fastpmf.solvers.base import TRACE_DTYPE, Callback

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """No callbacks."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        return method


OF_ROWS = "row_exposure", "mask", "sample_weight"


class Observed(CallbackSupportMixin):
    """An estimator whose fits scikit-learn's callbacks may watch."""

    callback: Callback | None
    eval_every: int
    max_iter: int
    n_init: int

    @with_callbacks  # type: ignore[untyped-decorator]
    def _observed(
        self,
        solve: Callable[[Callback | None], Any],
        keep: Callable[[Any, Any], None],
        stopped: Callable[[Record, np.ndarray, np.ndarray], Any],
        X: Any,
        y: Any,
        known: Known,
    ) -> Any:
        """What `solve` makes with this callback, and callbacks told of it where there are any.

        They have been torn down when this returns or raises, and the estimator has not been touched: whatever goes
        wrong in one of them leaves it as it was.

        Parameters
        ----------
        solve : callable
            Makes a fit, with this `callback`.
        keep : callable
            Sets the fitted attributes of an estimator, keep(estimator, fit).
        stopped : callable
            The fit that ends at a record, of what a `Callback` is called with.
        X, y, known
            What `fit` was given. Of `known`, callbacks get what belongs to rows, as metadata.
        """
        wrong = self.callback is not None and not callable(self.callback)  # which `solve` tells
        if wrong or not getattr(self, "_skl_callbacks", None):
            return solve(self.callback)
        metadata = {name: value for name in OF_ROWS if (value := getattr(known, name)) is not None}
        tasks = _Tasks(self, keep, stopped, {"X": X, "y": y, "metadata": metadata})
        found = solve(tasks)
        tasks.end(found)
        return found


def stopped_at(record: Record, W: np.ndarray, H: np.ndarray) -> Solution:
    """The solution of a fit that a callback stops at this record; H is a copy, W is not."""
    return Solution(
        W, np.array(H, order="C"), record.objective, record.kkt_residual, record.n_iter, Status.CALLBACK,
        np.array([record], dtype=TRACE_DTYPE), np.array([record.objective]),
    )  # fmt: skip


class _Tasks:
    """The `Callback` of a run that tells scikit-learn's callbacks of it, after the estimator's own.

    At every record but that of a start a task ends and the next one begins. So at the end one may be open in which
    nothing was done; it ends without a fitted estimator.
    """

    def __init__(self, estimator: Any, keep: Any, stopped: Any, given: dict[str, Any]) -> None:
        self._estimator, self._keep, self._stopped = estimator, keep, stopped
        self._given = given | {"estimator": estimator}
        self._whole: Any = None  # scikit-learn's contexts of the tasks that are open
        self._part: Any = None
        self._n_iter = 0

    def __call__(self, record: Record, W: np.ndarray, H: np.ndarray) -> Any:
        estimator, single = self._estimator, self._estimator.n_init == 1
        now = self._fitted(lambda: self._stopped(record, W, H))
        stop = None if estimator.callback is None else estimator.callback(record, W, H)
        if self._whole is None:
            most = -(-estimator.max_iter // estimator.eval_every) if single else None  # starts are left behind
            self._whole = estimator._init_callback_context(max_subtasks=most)
            self._whole.call_on_fit_task_begin(**self._given, reconstruction_attributes=now)
        if self._part is not None and record.n_iter:
            part, self._part = self._part, None
            asked = part.call_on_fit_task_end(**self._given, reconstruction_attributes=now)
            stop = stop or asked
        self._n_iter = record.n_iter
        if self._part is None and not stop and not (single and record.n_iter >= estimator.max_iter):
            self._part = self._whole.subcontext(task_name="iterations")
            self._part.call_on_fit_task_begin(**self._given, reconstruction_attributes=now)
        return stop

    def end(self, found: Any) -> None:
        """The fit is done: ends the task that is open, and the whole."""
        if self._whole is None:  # it went on from a checkpoint, and nothing was left to do, or Ctrl-C struck at once
            return
        now = self._fitted(lambda: found)()
        if self._part is not None:
            done = now["n_iter_"] > self._n_iter
            self._part.call_on_fit_task_end(**self._given, reconstruction_attributes=now if done else None)
        self._whole.call_on_fit_task_end(**self._given, reconstruction_attributes=now)

    def _fitted(self, found: Callable[[], Any]) -> Callable[[], dict[str, Any]]:
        """Makes the attributes of the estimator that keeps what is found, without what an earlier fit left there."""

        def attributes() -> dict[str, Any]:
            before = vars(self._estimator)
            model = copy.copy(self._estimator)
            self._keep(model, found())
            return dict.fromkeys(before.keys() - vars(model).keys()) | vars(model)

        return attributes
