"""What commands print, as lines or as JSON, and the files that they read and write."""

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf.counts.named import Dataset, printable, share_not_whole
from fastpmf.estimators._model_file import replacing
from fastpmf.io import read_counts, stream_counts

STREAM = "-"  # standard input or output


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
    columns = arguments.columns and [int(c) if c.isdigit() else c for c in arguments.columns.split(",")]
    return {
        "format": arguments.format, "layer": arguments.layer, "columns": columns, "transpose": arguments.transpose,
    }  # fmt: skip


def read(arguments: argparse.Namespace) -> Dataset:
    """The counts of a command."""
    with counts_file(arguments) as path:
        data = read_counts(path, **choices(arguments))
    if broken := share_not_whole(data.X.data):
        say(
            f"fastpmf: warning: {broken:.0%} of the nonzeros are no whole numbers, as after normalisation or "
            "logarithms; counts are what the model is of"
        )
    return data


def stream(arguments: argparse.Namespace) -> Dataset:
    """Its counts, which stay there and are read in each pass."""
    if arguments.counts == STREAM:
        raise ValueError("--stream reads a file more than once, and standard input can't be: give it a file or folder")
    told = {name: x for name, x in choices(arguments).items() if name != "columns"}
    if arguments.columns is not None:
        raise ValueError("--columns goes with csv, tsv and parquet, which can't be streamed: convert them first")
    return stream_counts(arguments.counts, n_threads=arguments.threads, **told)


@contextmanager
def counts_file(arguments: argparse.Namespace) -> Iterator[str]:
    """The file of counts; standard input, which readers can't go back in, becomes one for as long as it is read."""
    if arguments.counts != STREAM:
        yield arguments.counts
        return
    if arguments.format is None:
        raise ValueError("counts from standard input have no name that says their format: give --format")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard input"
        with path.open("xb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield os.fspath(path)


def write_picture(path: str, figure: Any) -> None:
    """A matplotlib figure as .png, which replaces `path` whole or not at all."""
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)


def check_output(path: str, *suffixes: str) -> None:
    """Find out before hours of fitting, not after."""
    target = Path(path)
    if target.suffix not in suffixes:
        raise ValueError(f"the output must be a {' or '.join(suffixes)} file, got {target.name!r}")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} in")
    if target.is_dir():
        raise IsADirectoryError(f"the output must be a file, {target} is a folder")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"the folder {target.parent.resolve()} can't be written to")


def check_distinct(output: str | None, *others: str | None) -> None:
    """Never write over what is read, or one result over another."""
    if output and os.path.realpath(output) in (os.path.realpath(other) for other in others if other):
        raise ValueError(f"every output must be a file of its own, got {output} twice")
