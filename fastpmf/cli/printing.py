"""What commands print: results on standard output, messages on standard error, tables and figures to files."""

import argparse
import json
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf.io import write_table
from fastpmf.io.results import check_output
from fastpmf.utils.extras import import_optional
from fastpmf.utils.files import atomic_write
from fastpmf.utils.messages import printable

TABLES = (".csv", ".tsv")
FIGURES = (".png", ".svg", ".pdf")


def print_result(arguments: argparse.Namespace, lines: str, facts: Any) -> None:
    """Print the result of a command: the lines, or with --json the facts."""
    print_lines(json.dumps(_jsonable(facts), allow_nan=False) if arguments.json else lines)


def print_table(
    arguments: argparse.Namespace, columns: Sequence[str], rows: Iterable[Sequence[Any]], text: str | None = None, *,
    note: str = "",
) -> None:  # fmt: skip
    """Write a table to the file of -o, or print it.

    In a terminal, `text` is printed, or without it the table with aligned columns and `note`; in a pipe, the table
    separated by tabs. With --json it is printed as a list of objects, also if it is written to a file.
    """
    rows = list(rows)
    if arguments.output:
        write_table(arguments.output, columns, (list(map(cell, row)) for row in rows))
    if arguments.json:
        print_result(arguments, "", [dict(zip(columns, row, strict=True)) for row in rows])
    elif not arguments.output:
        table = [list(map(printable, columns)), *([printable(cell(value)) for value in row] for row in rows)]
        if not sys.stdout.isatty():
            text = "\n".join(map("\t".join, table))
        print_lines("\n".join(filter(None, [_aligned_table(table, rows), note])) if text is None else text)


def _aligned_table(table: list[list[str]], rows: Sequence[Sequence[Any]]) -> str:
    """Lines with columns of equal width, numbers to the right."""
    is_number = [not isinstance(value, str) for value in rows[0]] if rows else [False] * len(table[0])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(f"{x:>{n}}" if right else f"{x:<{n}}" for x, n, right in zip(row, widths, is_number, strict=True))
        .rstrip()
        for row in table
    )  # fmt: skip


def cell(value: Any) -> str:
    """A value in a table, with six digits; "" for None and NaN."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _jsonable(value: Any) -> Any:
    """A value for JSON, with null instead of NaN and infinity."""
    if isinstance(value, dict):
        return {name: _jsonable(each) for name, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _jsonable(value.tolist())
    if isinstance(value, list | tuple):
        return [_jsonable(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_lines(lines: str) -> None:
    """Print without control characters but tabs and line ends; escape what the terminal can't show."""
    encoding = sys.stdout.encoding or "utf-8"
    text = "\n".join("\t".join(map(printable, line.split("\t"))) for line in lines.split("\n"))
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201


def print_message(line: str) -> None:
    """Print a line on standard error."""
    print(printable(line), file=sys.stderr, flush=True)  # noqa: T201


def check_table(arguments: argparse.Namespace) -> None:
    """Raise an error if the table of -o can't be written."""
    if arguments.output:
        check_output(arguments.output, *TABLES, name="argument -o/--output")


def check_figure(path: str | None, name: str) -> None:
    """Raise an error if a figure can't be drawn or written; `name` is the option's name."""
    if path:
        check_output(path, *FIGURES, name=f"argument {name}")
        import_optional("matplotlib", "plot", name)


def write_figure(path: str, figure: Any, dpi: int = 150) -> None:
    """Write a matplotlib figure, in the format that the name ends with."""
    with atomic_write(path) as file:
        figure.savefig(file, format=Path(path).suffix[1:], dpi=dpi)
