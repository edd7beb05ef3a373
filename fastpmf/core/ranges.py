"""The ranges of counts, exposures and factors that each dtype supports."""

from typing import Any, Protocol

import numpy as np

from fastpmf.core.factors import working_dtype

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
# Smallest count and largest sum of counts. Shares of 1e-12 in both factors stay above 0 (`TINY`), and in float64 so do
# the squares of such rates. In float32 these squares are out of range, and coordinate descent takes the shorter step.
_COUNTS = {_SINGLE: (1e-14, 1e30), _DOUBLE: (1e-130, 1e130)}
# Exposures and weights multiply each other, and factors are divided by both; no count and no entry may become 0.
_SCALES = {_SINGLE: (1e-10, 1e10), _DOUBLE: (1e-50, 1e50)}
# Sums of fixed components, whose squares must be in range
_COMPONENT_SUMS = {_SINGLE: (1e-15, 1e15), _DOUBLE: (1e-130, 1e130)}
_WHOLE = 2**24  # float32 represents all integers up to this one
# In float32 the smallest residuals that rounding allowed were 3e-8 to 7e-7, on five data sets with 22 to 150 nonzeros a
# row; in float64 they were below 1e-11
_SINGLE_TOL = 1e-6


class CountSize(Protocol):
    """The attributes of counts that are known without a pass: `Counts`, or the sum over the workers of a cluster."""

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def nnz(self) -> int: ...

    @property
    def dtype(self) -> np.dtype: ...

    @property
    def smallest(self) -> float: ...

    @property
    def largest(self) -> float: ...

    @property
    def total(self) -> float: ...


def dtype_for(dtype: Any, counts: CountSize) -> np.dtype:
    """The dtype of a fit: the given one; by default float64 for float64 counts, and float32 for float32 and integers.

    By default it is float64 too if there are integers that float32 may not represent, those above 2**24, or if the
    counts are out of the range of float32.

    Raises
    ------
    ValueError
        If `dtype` is invalid, or the counts are out of its range.
    """
    work = working_dtype(dtype, counts.dtype)
    low, high = _COUNTS[work]
    if dtype is None and (counts.smallest < low or counts.total > high or _has_large_integers(counts)):
        work = _DOUBLE
    check_range(counts, work)
    if counts.smallest < (low := _COUNTS[work][0]):
        raise ValueError(_out_of_range(work, f"of {counts.smallest:g}, but only of {low:g} and more"))
    return work


def _has_large_integers(counts: CountSize) -> bool:
    # Smaller integer dtypes have no such integers; the maximum may be one more pass over the counts
    return counts.dtype == np.int32 and counts.largest > _WHOLE


def check_range(counts: CountSize, dtype: np.dtype) -> None:
    """Raise an error if sums of counts would be infinite in intermediate results."""
    if counts.total > (high := _COUNTS[dtype][1]):
        raise ValueError(_out_of_range(dtype, f"that sum to {counts.total:g}, but only to {high:g}"))


def check_scale(values: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Raise an error if a dtype can't multiply and divide by exposures or weights; zeros are accepted."""
    low, high = _SCALES[dtype]
    wrong = values[((values < low) & (values > 0)) | (values > high)]
    if len(wrong):
        raise ValueError(
            f"{name} must be between {low:g} and {high:g} in {dtype}, got {wrong[0]:g}: "
            f"{float64_or(dtype)}give it in another unit"
        )


def check_entries(A: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Raise an error if entries of a factor or of a prior are too large for a dtype."""
    high = _COUNTS[dtype][1]
    if A.size and not (largest := float(A.max())) <= high:  # compared in float64, whatever the dtype of A
        raise ValueError(
            f"{name} must be at most {high:g} in {dtype}, got {largest:g}: {float64_or(dtype)}scale it down"
        )


def check_component_sums(A: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Raise an error if the sum of a fixed component, a column of A, is out of range; 0 is accepted."""
    low, high = _COMPONENT_SUMS[dtype]
    sums = A.sum(axis=0, dtype=np.float64)
    wrong = sums[((sums < low) & (sums > 0)) | (sums > high)]
    if len(wrong):
        raise ValueError(
            f"{name} must have components that sum to between {low:g} and {high:g} in {dtype}, got {wrong[0]:g}: "
            f"{float64_or(dtype)}rescale it"
        )


def _out_of_range(dtype: np.dtype, what: str) -> str:
    advice = f"{float64_or(dtype)}multiply X by a number, and divide W by it"
    return f"dtype {dtype} can't hold counts {what}: {advice}"


def float64_or(dtype: np.dtype) -> str:
    """The beginning of advice on values out of range: to use float64, unless that is the dtype."""
    return "take dtype float64, or " if dtype == _SINGLE else ""


def rounding_advice(tol: float, dtype: np.dtype) -> str:
    """The end of a warning that `tol` was not reached, if rounding in float32 may be the reason."""
    if dtype != _SINGLE or tol >= _SINGLE_TOL:
        return ""
    return f"; float32 may not reach less than {_SINGLE_TOL:g}, use dtype='float64'"
