"""Which numbers each dtype can work with, of counts and of all that is given beside them."""

from typing import Any

import numpy as np

from fastpmf.core.counts import Counts
from fastpmf.core.factors import working_dtype

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
# Smallest count and sum of counts. Shares of 1e-12 in both factors are told apart from 0 (`TINY`), and in float64 the
# squares of such rates; where the latter are out of range, in float32, coordinate descent takes the shorter step.
_RANGES = {_SINGLE: (1e-14, 1e30), _DOUBLE: (1e-130, 1e130)}
# An exposure and a weight multiply each other, and a factor divides by both, where no count and no entry may be lost.
_SCALES = {_SINGLE: (1e-10, 1e10), _DOUBLE: (1e-50, 1e50)}


def dtype_for(dtype: Any, counts: Counts) -> np.dtype:
    """The dtype to fit in, as `working_dtype` says; by default float64 too where counts are out of float32's range."""
    work = working_dtype(dtype, counts.dtype)
    least, most = _RANGES[work]
    if dtype is None and (counts.smallest < least or counts.total > most):
        work = _DOUBLE
    check_range(counts, work)
    if counts.smallest < (least := _RANGES[work][0]):
        raise ValueError(_out_of_range(work, f"of {counts.smallest:g}, but only of {least:g} and more"))
    return work


def check_range(counts: Counts, dtype: np.dtype) -> None:
    """Counts whose sum would be infinite on the way are turned away."""
    if counts.total > (most := _RANGES[dtype][1]):
        raise ValueError(_out_of_range(dtype, f"that sum to {counts.total:g}, but only to {most:g}"))


def check_scale(values: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Exposures or weights by which a dtype can't multiply and divide are turned away; 0 is for the caller to judge."""
    least, most = _SCALES[dtype]
    wrong = values[((values < least) & (values > 0)) | (values > most)]
    if len(wrong):
        raise ValueError(
            f"{name} must be between {least:g} and {most:g} in {dtype}, got {wrong[0]:g}: "
            f"{double_or(dtype)}give it in another unit"
        )


def check_entries(A: np.ndarray, dtype: np.dtype, name: str) -> None:
    """Entries of a factor or of a prior that are too large for a dtype are turned away."""
    most = _RANGES[dtype][1]
    if A.size and not (largest := float(A.max())) <= most:  # compared in float64, whatever A is of
        way = f"{double_or(dtype)}scale it down"
        raise ValueError(f"{name} must be at most {most:g} in {dtype}, got {largest:g}: {way}")


def _out_of_range(dtype: np.dtype, what: str) -> str:
    way = f"{double_or(dtype)}multiply X by a number, by which W is then to be divided"
    return f"dtype {dtype} can't hold counts {what}: {way}"


def double_or(dtype: np.dtype) -> str:
    """The first half of an advice."""
    return "take dtype float64, or " if dtype == _SINGLE else ""
