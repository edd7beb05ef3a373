"""What `partial_fit` goes on from, and how it goes to a file and comes back."""

import math
from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.model.hierarchy import Step
from fastpmf.model.updates import Statistics
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_factor, check_shape_dtype

HELD = 150  # so many rows for each component are kept and fitted together before rows are only remembered in sum


class Schedule(NamedTuple):
    """Steps and rows so far; says how far the next step goes: (t + delay)^-forgetting_rate.

    t is the number of rows before, in units of the mini-batch's own: where all are equal, that of the steps before. The
    first step goes all the way: there is nothing yet to go from.

    References
    ----------
    M. D. Hoffman, D. M. Blei, C. Wang and J. Paisley, "Stochastic variational inference", JMLR 14 (2013), equation 26.
    """

    steps: int = 0
    rows: int = 0

    def advance(self, n_rows: int, forgetting_rate: Any, delay: Any, total_samples: Any) -> tuple[Step, "Schedule"]:
        """The step for a mini-batch of so many rows, and the schedule after it.

        Raises
        ------
        ValueError
            forgetting_rate not in (0.5, 1], delay < 1, or total_samples < 1.
        """
        number = (int, float, np.number)
        if not isinstance(forgetting_rate, number) or not 0.5 < forgetting_rate <= 1:
            raise ValueError(f"forgetting_rate must be a number above 0.5 and at most 1, got {brief(forgetting_rate)}")
        for value, name in ((delay, "delay"), (1 if total_samples is None else total_samples, "total_samples")):
            if not isinstance(value, number) or not 1 <= value < math.inf:
                raise ValueError(f"{name} must be a number at least 1, got {brief(value)}")
        after = Schedule(self.steps + 1, self.rows + n_rows)
        total = after.rows if total_samples is None else total_samples
        length = (self.rows / n_rows + delay) ** -float(forgetting_rate) if self.steps else 1.0
        return Step(length, total / n_rows), after

    @classmethod
    def recall(cls, numbers: Any) -> Self:
        """Of steps and rows in a file; a ValueError where they can't be."""
        steps, rows = map(int, numbers)
        if not 1 <= steps <= rows:
            raise ValueError(f"{steps} steps over {rows} rows")
        return cls(steps, rows)


class Held(NamedTuple):
    """The first rows, kept while they are few. What few rows say of H is a poor start, which EM hardly leaves again.

    Attributes
    ----------
    batches : tuple of csr_array
    exposures : tuple of ndarray
    fitted : int
        Rows when they were last fitted together.
    """

    batches: tuple[sparse.csr_array, ...] = ()
    exposures: tuple[np.ndarray, ...] = ()
    fitted: int = 0

    @property
    def n_rows(self) -> int:
        return sum(map(len, self.exposures))

    def add(self, counts: MemoryCounts, exposure: np.ndarray) -> "Held":
        return self._replace(batches=(*self.batches, counts.to_scipy()), exposures=(*self.exposures, exposure))

    def keep(self) -> "Held":
        """With a copy of the latest mini-batch, whose arrays may be written over after the call."""
        return self._replace(batches=(*self.batches[:-1], self.batches[-1].copy()))

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name; the mini-batches together."""
        X = sparse.vstack(self.batches, format="csr")
        return {
            "held_data": X.data, "held_indices": X.indices, "held_indptr": X.indptr,
            "held_exposure": np.concatenate(self.exposures), "held_fitted": np.array(self.fitted),
        }  # fmt: skip

    @classmethod
    def recall(cls, arrays: dict[str, np.ndarray], n_columns: int) -> Self:
        """What `arrays` gave, again; a ValueError where it doesn't fit together."""
        triple = tuple(arrays[f"held_{name}"] for name in ("data", "indices", "indptr"))
        counts = as_counts(triple, shape=(len(triple[2]) - 1, n_columns), name="held")
        n_rows, fitted = counts.shape[0], int(arrays["held_fitted"])
        exposure = check_factor(arrays["held_exposure"], (n_rows,), "held_exposure")
        if not (exposure.dtype == float and (exposure > 0).all() and 0 < fitted <= n_rows):
            raise ValueError(f"exposures of {exposure.dtype}, or {fitted} of {n_rows} rows fitted")
        return cls((counts.to_scipy(),), (exposure,), fitted)


class Online(NamedTuple):
    """What online EM goes on from.

    Attributes
    ----------
    schedule : Schedule
    statistics : Statistics
    held : Held, optional
    """

    schedule: Schedule
    statistics: Statistics
    held: Held | None

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, by name."""
        held = {} if self.held is None else self.held.arrays()
        statistics = {f"online_{name}": np.asarray(A) for name, A in self.statistics._asdict().items()}
        return {"online_schedule": np.array(self.schedule), **statistics, **held}

    @classmethod
    def recall(cls, arrays: dict[str, np.ndarray], p: int, k: int) -> Self:
        """What `arrays` gave, again; a ValueError where it doesn't fit together."""
        n_rows, work = int(arrays["online_n_rows"]), np.dtype(float)
        sizes = {"counts": (p, k), "exposure": (k,), "totals": (p,)}
        known = [check_shape_dtype(arrays[f"online_{name}"], size, work, name) for name, size in sizes.items()]
        if n_rows < 1 or not all(np.isfinite(A).all() and (A >= 0).all() for A in known):
            raise ValueError("statistics that are not finite and >= 0")
        held = Held.recall(arrays, p) if "held_data" in arrays else None
        return cls(Schedule.recall(arrays["online_schedule"]), Statistics(known[0], known[1], known[2], n_rows), held)
