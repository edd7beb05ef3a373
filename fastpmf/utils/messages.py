"""Short forms of user input for error messages."""

import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np

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


def printable(name: object) -> str:
    """A name from a file, or a text that has some in it, on one line and without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(name).splitlines()))
