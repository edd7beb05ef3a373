"""Dtypes of counts."""

import numpy as np

# Counts are read by the kernels as they are in these dtypes; all others are converted when they are read.
COUNT_DTYPES = tuple(map(np.dtype, ("uint8", "uint16", "int32", "float32", "float64")))


def check_dtype(dtype: np.dtype, name: str) -> None:
    """Raise an error unless this is a dtype of real numbers."""
    if dtype.kind == "c":
        raise ValueError(f"{name} must hold counts, got complex numbers (Complex data not supported)")
    if dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got dtype {dtype}")


def objects_as_numbers(array: np.ndarray, message: str) -> np.ndarray:
    """An array of objects as float64, and any other array unchanged; an error begins with `message`."""
    if array.dtype != object:
        return array
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{message}: {error!s:.80}") from None
