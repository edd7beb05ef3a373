"""Short forms of user input for error messages."""

import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

LONGEST = 80  # characters
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = LONGEST


def brief(value: Any) -> str:
    """`repr` of a value on one line, shortened."""
    text = " ".join(_short.repr(value.item() if isinstance(value, np.generic) else value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def listed(values: Iterable[Any], n: int = 10) -> str:
    """The first n values, each shortened by `brief`, and the number of those left out."""
    values = list(values)
    rest = len(values) - n
    return ", ".join(map(brief, values[:n])) + (f" and {rest} more" if rest > 0 else "")


def check_option(value: Any, options: Iterable[str], name: str, *, none: bool = False) -> None:
    """Raise a ValueError unless the value is one of these strings, or None if `none` is true."""
    if value is None and none:
        return
    options = list(options)
    if not isinstance(value, str) or value not in options:
        or_none = " or None" if none else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}{or_none}, got {brief(value)}")


def check_number(value: Any, name: str, *, positive: bool = False) -> None:
    """Raise an error unless the value is a finite number >= 0, or > 0 if `positive` is true."""
    check_scalar(value, name, (int, float, np.number), min_val=0, include_boundaries="neither" if positive else "left")
    if not np.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
