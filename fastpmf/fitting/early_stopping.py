"""Early stopping: score held-out counts at each record, and stop when they do not improve."""

from dataclasses import replace
from typing import Any

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.counts import Dataset, MemoryCounts, as_counts
from fastpmf.counts.masked import hide_entries, keep_entries, weight_rows
from fastpmf.counts.split import thin_counts
from fastpmf.fitting.options import FitData
from fastpmf.fitting.problem import vector
from fastpmf.fitting.transform import log_likelihood
from fastpmf.solvers import Record, Status
from fastpmf.utils.messages import brief

PATIENCE = 2  # records in a row without an improvement after which the fit stops
MIN_SHARE = 1e-8  # of the mean of a component; entries are raised to it for scoring, so that no count is impossible
VALIDATION_DTYPE = np.dtype([("n_iter", np.int64), ("log_likelihood", float)])


class EarlyStopping:
    """An observer of a run that scores W and H on held-out counts.

    Rows and columns without counts to fit, and rows of weight 0, are not scored.

    Parameters
    ----------
    counts : MemoryCounts of shape (n, p)
        All counts.
    data : FitData
        `validation` is a fraction of the counts to hold out by `thin_counts`, or a matrix of held-out counts: of the
        entries of `mask` if there is one, otherwise independent counts of all entries, with the rates of X rescaled to
        their total.
    random_state : RandomState or Generator
    scaled_to_all : bool, default=True
        Whether the scored W and H belong to all counts, or to `train`.

    Attributes
    ----------
    train : MemoryCounts
        The counts to fit.
    share : float
        Expected share of all counts that are in `train`.
    """

    def __init__(self, counts: MemoryCounts, data: FitData, random_state: Any, *, scaled_to_all: bool = True) -> None:
        self.share, self._masked_only = 1.0, False
        self._scores: list[tuple[int, float]] = []
        validation = data.validation
        weight = vector(data.sample_weight, counts.shape[0], "sample_weight", zero=True)
        if not weight.all():  # rows of weight 0 must not influence the fit
            counts = weight_rows(counts, (weight > 0).astype(np.int8), counts.dtype)
        is_matrix = isinstance(validation, Dataset) or hasattr(validation, "shape") or np.ndim(validation) > 0
        if isinstance(validation, np.generic) or not is_matrix:
            is_number = isinstance(validation, int | float | np.number) and not isinstance(validation, bool)
            if not is_number or not 0 < validation < 1:
                raise ValueError(f"validation must be a fraction between 0 and 1, or counts, got {brief(validation)}")
            self.train, heldout = thin_counts(counts, validation, random_state=random_state)
            self.share = 1.0 - float(validation)
            exposure = float(validation) / (1.0 if scaled_to_all else self.share)
        else:
            self.train, heldout = counts, as_counts(validation, name="validation")
            if heldout.shape != counts.shape:
                raise ValueError(f"validation must have the shape of X, {counts.shape}, got {heldout.shape}")
            self._masked_only = data.mask is not None
            heldout = weight_rows(heldout, (weight > 0).astype(np.int8), heldout.dtype)
            exposure = 1.0 if self._masked_only else heldout.total / counts.total if counts.total else 1.0
        heldout = keep_entries(heldout, data.mask) if self._masked_only else hide_entries(heldout, data.mask)
        rows, columns = (hide_entries(self.train, data.mask).sums(side) > 0 for side in Side)
        self._heldout = weight_rows(heldout.select_columns(columns), rows.astype(np.int8), heldout.dtype)
        if self._heldout.total == 0 or self.train.total == 0:
            raise ValueError("validation must leave counts both to fit and to hold out, got none of one of them")
        row_exposure = np.ones(counts.shape[0]) if data.row_exposure is None else np.asarray(data.row_exposure)
        self._data = replace(data, row_exposure=exposure * row_exposure, validation=None, W=None, H=None)

    def score(self, W: np.ndarray, H: np.ndarray) -> float:
        """Log-likelihood of the held-out counts in nats per count."""
        W, H = (np.maximum(A, MIN_SHARE * A.mean(axis=axis, keepdims=True)) for A, axis in ((W, 0), (H, 1)))
        value, total = log_likelihood(self._heldout, W, H, self._data, masked_only=self._masked_only)
        return value / total

    def __call__(self, record: Record, W: np.ndarray, H: np.ndarray, state: Any) -> Status | None:
        self._scores.append((record.n_iter, self.score(W, H)))
        best = int(np.argmax([value for _, value in self._scores]))
        return Status.VALIDATION if len(self._scores) - 1 - best >= PATIENCE else None

    @property
    def curve(self) -> np.ndarray:
        """The scores as a structured array with fields n_iter and log_likelihood."""
        return np.array(self._scores, dtype=VALIDATION_DTYPE)

    def restore(self, saved: dict[str, np.ndarray]) -> None:
        """Take over the scores of a checkpoint, the array "validation" of `saved`."""
        curve = saved.get("validation")
        if curve is None or curve.dtype != VALIDATION_DTYPE or curve.ndim != 1:
            raise ValueError("resume: the checkpoint does not belong to such a fit: validation is missing or invalid")
        self._scores = curve.tolist()
