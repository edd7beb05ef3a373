"""Short forms of user input for error messages."""

import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np

MAX_LENGTH = 80  # characters
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = MAX_LENGTH


def brief(value: Any) -> str:
    """`repr` of a value on one line, shortened."""
    text = " ".join(_short.repr(value.item() if isinstance(value, np.generic) else value).split())
    return text if len(text) <= MAX_LENGTH else f"{text[: MAX_LENGTH - 3]}..."


def listed(values: Iterable[Any], n: int = 10) -> str:
    """The first n values, each shortened by `brief`, and the number of those left out."""
    values = list(values)
    rest = len(values) - n
    return ", ".join(map(brief, values[:n])) + (f" and {rest} more" if rest > 0 else "")


def printable(text: object) -> str:
    """Text from a file on one line, with "?" for characters that are not printable, such as terminal escapes."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).splitlines()))
