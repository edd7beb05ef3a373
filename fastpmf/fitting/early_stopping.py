"""Early stopping on held-out counts: what is held out, and when a fit has seen enough."""

from typing import Any

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.masked import hide_entries, keep_entries, weight_rows
from fastpmf.counts.thinning import thin_counts
from fastpmf.fitting.problem import Known, vector
from fastpmf.fitting.transform import log_likelihood
from fastpmf.solvers import Record, Status
from fastpmf.solvers.base import Callback
from fastpmf.utils.messages import brief

VALIDATION_DTYPE = np.dtype([("n_iter", np.int64), ("log_likelihood", float)])
PATIENCE = 2  # records in a row that are no better than the best before them end the fit
LEAST = 1e-8  # of a component's mean is what its entries are scored with at least: a zero makes no count impossible


class Validation:
    """Scores W and H on held-out counts at each record of a fit, and stops it when they get no better.

    Not scored are counts of rows and columns of which the fit sees none, or which weigh nothing: it says nothing of
    them, and likeliest there is a rate of zero.

    Parameters
    ----------
    counts : MemoryCounts of shape (n, p)
        All counts.
    validation : float or matrix of counts of shape (n, p)
        A fraction of the counts to hold out, by `thin_counts`; or the held-out counts themselves, of the entries of
        the mask where there is one, else independent ones of all entries, with rates in proportion to X's by totals.
    known : Known
    random_state : int, RandomState, Generator or None
    whole : bool, default=True
        Whether the W and H that are scored are those of all counts, or those of `train`.

    Attributes
    ----------
    train : MemoryCounts
        What is to be fitted.
    share : float
        What share of the whole these are.
    scores : list of (int, float)
        Iteration, and held-out log-likelihood per count, at each record; nats.
    """

    def __init__(
        self, counts: MemoryCounts, validation: Any, known: Known, random_state: Any, *, whole: bool = True
    ) -> None:
        self.share, self._known, self._masked = 1.0, known, False
        self.scores: list[tuple[int, float]] = []
        weight = vector(known.sample_weight, counts.shape[0], "sample_weight", zero=True)
        if not weight.all():  # rows of weight 0 must not influence the fit
            counts = weight_rows(counts, (weight > 0).astype(np.int8), counts.dtype)
        if isinstance(validation, np.generic) or (np.ndim(validation) == 0 and not hasattr(validation, "shape")):
            number = isinstance(validation, int | float | np.number) and not isinstance(validation, bool)
            if not number or not 0 < validation < 1:
                raise ValueError(f"validation must be a fraction between 0 and 1, or counts, got {brief(validation)}")
            self.train, held = thin_counts(counts, validation, random_state=random_state)
            self.share = 1.0 - float(validation)
            self._exposure = float(validation) / (1.0 if whole else self.share)
        else:
            self.train, held = counts, as_counts(validation, name="validation")
            if held.shape != counts.shape:
                raise ValueError(f"validation must have the shape of X, {counts.shape}, got {held.shape}")
            self._masked = known.mask is not None
            held = weight_rows(held, (weight > 0).astype(np.int8), held.dtype)
            self._exposure = 1.0 if self._masked else held.total / counts.total if counts.total else 1.0
        held = keep_entries(held, known.mask) if self._masked else hide_entries(held, known.mask)
        rows, columns = (hide_entries(self.train, known.mask).sums(side) > 0 for side in Side)
        self._held = weight_rows(held.select_columns(columns), rows.astype(np.int8), held.dtype)
        if self._held.total == 0 or self.train.total == 0:
            raise ValueError("validation must leave counts both to fit and to hold out, got none of one of them")

    def score(self, W: np.ndarray, H: np.ndarray) -> float:
        """Log-likelihood of the held-out counts per count, in nats."""
        given = np.ones(len(W)) if self._known.row_exposure is None else np.asarray(self._known.row_exposure)
        known = self._known._replace(row_exposure=self._exposure * given)
        W, H = (np.maximum(A, LEAST * A.mean(axis=axis, keepdims=True)) for A, axis in ((W, 0), (H, 1)))
        value, total = log_likelihood(self._held, W, H, known, masked=self._masked)
        return value / total

    def watch(self, then: Callback | None) -> Callback:
        """A callback that scores each record, and then calls `then`."""

        def callback(record: Record, W: np.ndarray, H: np.ndarray) -> Any:
            self.scores.append((record.n_iter, self.score(W, H)))
            stop = then(record, W, H) if then is not None else None
            best = int(np.argmax([value for _, value in self.scores]))
            return stop or (Status.VALIDATION if len(self.scores) - 1 - best >= PATIENCE else None)

        return callback

    @property
    def curve(self) -> np.ndarray:
        """`scores` as a structured array with the fields n_iter and log_likelihood."""
        return np.array(self.scores, dtype=VALIDATION_DTYPE)
