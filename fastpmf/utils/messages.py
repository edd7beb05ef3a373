"""Short forms of user input for error messages."""

import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import numpy as np

MAX_LENGTH = 80  # characters
_N_SUGGESTED = 3
_MIN_SIMILARITY = 0.8  # of `difflib`, from 0 to 1
_MAX_COMPARED = 20_000  # names, above which the search for similar ones would take more than about a second
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


def suggestion(given: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown name: known names that begin with it, or else are similar to it.

    Upper and lower case are alike.
    """
    names = {name.strip().casefold(): name for name in map(str, known)}
    start = given.strip().casefold()
    found = [name for name in names if start and name.startswith(start)]
    if not found and len(names) <= _MAX_COMPARED:
        found = get_close_matches(start, names, _N_SUGGESTED, _MIN_SIMILARITY)
    if not found:
        return ""
    *others, last = (brief(names[name]) for name in found[:_N_SUGGESTED])
    return f"; did you mean {', '.join(others) + ' or ' if others else ''}{last}?"


def printable(text: object) -> str:
    """Text from a file on one line, with "?" for characters that are not printable, such as terminal escapes."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).splitlines()))
