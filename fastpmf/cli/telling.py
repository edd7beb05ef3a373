"""What commands print, as lines or as JSON, and the files that they read and write."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastpmf.counts import Dataset
from fastpmf.counts.validation import non_integer_fraction
from fastpmf.io import read_counts, stream_counts
from fastpmf.utils.files import STANDARD_INPUT, atomic_write, regular_file
from fastpmf.utils.messages import printable

STREAM = STANDARD_INPUT  # or output


def tell(arguments: argparse.Namespace, lines: str, facts: Any) -> None:
    """The result of a command: the lines, or with --json the facts."""
    show(json.dumps(_plain(facts), allow_nan=False) if arguments.json else lines)  # of ASCII, which `show` leaves alone


def _plain(fact: Any) -> Any:
    """What JSON can say; null for numbers that are none."""
    if isinstance(fact, dict):
        return {name: _plain(value) for name, value in fact.items()}
    if isinstance(fact, np.ndarray | np.generic):
        return _plain(fact.tolist())
    if isinstance(fact, list | tuple):
        return [_plain(value) for value in fact]
    return None if isinstance(fact, float) and not math.isfinite(fact) else fact


def show(lines: str) -> None:
    """Lines without the control characters that names from files may hold, and what the terminal can't show escaped."""
    can_show = sys.stdout.encoding or "utf-8"
    told = "\n".join(map(printable, lines.split("\n"))).encode(can_show, "backslashreplace").decode(can_show)
    print(told, flush=True)  # noqa: T201


def say(line: str) -> None:
    """A line that is no result; it may hold names of files and from files."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201


def choices(arguments: argparse.Namespace) -> dict[str, Any]:
    """What of a file of counts is to be read."""
    columns = arguments.columns and [int(c) if c.isdecimal() else c for c in arguments.columns.split(",")]
    return {
        "format": arguments.format, "layer": arguments.layer, "columns": columns, "header": arguments.header,
        "feature_types": types if (types := arguments.feature_types) in (None, "all") else types.split(","),
        "feature_names": arguments.feature_names, "transpose": arguments.transpose,
    }  # fmt: skip


def read(arguments: argparse.Namespace, path: str | os.PathLike[str] | None = None) -> Dataset:
    """Read the counts of a command, from `path` if it is given."""
    if path is None:
        with counts_file(arguments) as file:
            return read(arguments, file)
    data = read_counts(path, **choices(arguments))
    warn_of_broken(data.X.data)
    return data


def warn_of_broken(counts: np.ndarray) -> None:
    """Warn if counts are not whole numbers."""
    if broken := non_integer_fraction(counts):
        say(
            f"fastpmf: warning: {broken:.0%} of the nonzeros are not whole numbers, as after normalisation or "
            "logarithms; the model is one of counts"
        )


def stream(arguments: argparse.Namespace) -> Dataset:
    """Its counts, which stay there and are read in each pass."""
    if arguments.counts == STREAM:
        raise ValueError("--stream reads a file more than once, and standard input can't be: give it a file or folder")
    for name in ("columns", "header"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name} goes with csv, tsv and parquet, which can't be streamed: convert them first")
    told = {name: x for name, x in choices(arguments).items() if name not in ("columns", "header")}
    data = stream_counts(arguments.counts, n_threads=arguments.threads, **told)
    _, first = next(data.X.blocks())
    warn_of_broken(first.side(data.X.storage_axis).data)
    return data


@contextmanager
def counts_file(arguments: argparse.Namespace) -> Iterator[str | os.PathLike[str]]:
    """The path of a file of counts; the contents of a pipe are copied to a temporary file.

    Error messages name the path that the user gave.
    """
    check_format(arguments)
    with regular_file(arguments.counts, standard_input=True) as path:
        yield path


def check_format(arguments: argparse.Namespace) -> None:
    """Raise an error if the format of standard input is not given."""
    if arguments.counts == STREAM and arguments.format is None:
        raise ValueError("standard input has no file name that shows its format: give --format")


def write_picture(path: str, figure: Any) -> None:
    """A matplotlib figure as .png, which replaces `path` whole or not at all."""
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)


def check_distinct(output: str | None, *others: str | None) -> None:
    """Never write over what is read, or one result over another."""
    if output and os.path.realpath(output) in (os.path.realpath(other) for other in others if other):
        raise ValueError(f"every output must be a file of its own, got {output} twice")
