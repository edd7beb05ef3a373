"""Tables with a line for each entry: row, column and count, in CSV, TSV or Parquet."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf._extras import needed
from fastpmf.io.sources import Coordinates, Entries, Names, RefusedError, as_names
from fastpmf.io.text import opened

_LINES = 1 << 21  # of Parquet that are held at once
_BLOCK_BYTES = 1 << 23  # of text


def triplets(path: Path, kind: str, columns: Sequence[str | int] | None) -> Coordinates:
    """Lines of a row's id, a column's id and a count, or of the two ids alone, each of which counts 1.

    Ids are text, so 07 is not 7; they get numbers in the order in which they come. Lines of equal ids add up.

    Parameters
    ----------
    path : Path
    kind : {"csv", "tsv", "parquet"}
        The first two may be gzipped. Their first line is a header where a column is given by name, or where it has no
        number in the count's place.
    columns : two or three names, or numbers from 0, of columns
        None: all, of which there must be two or three. A wider table may be one of counts with a line for each row,
        and is not guessed at.
    """
    arrow, stored = needed("pyarrow", "tables"), path.stat().st_size
    if columns is not None and (isinstance(columns, str) or len(columns) not in (2, 3)):
        raise RefusedError(f"columns must be two or three names or numbers of columns, got {columns!r}")
    ids = [_Ids(), _Ids()]

    def read() -> Iterator[Entries]:
        try:
            for names, held in _parquet(path, columns) if kind == "parquet" else _text(path, kind, columns):
                i, j = (known.number(*column) for known, *column in zip(ids, names, held, strict=False))
                yield Entries(i, j, _numbers(names[2], held[2]) if len(held) > 2 else np.ones(len(i), np.int64))
        except arrow.ArrowException as error:  # of its own some are no ValueErrors
            raise ValueError(str(error)) from None

    def finish() -> tuple[tuple[int, int], Names]:
        return (len(ids[0]), len(ids[1])), Names(*(known.names(stored) for known in ids))

    return Coordinates(read, finish, stored=stored)


class _Ids:
    """Numbers for ids, in the order in which these come."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def number(self, name: str, values: Any) -> np.ndarray:
        """The number of each id in a column; new ids get new ones."""
        coded = values.dictionary_encode()
        # What a stored dictionary holds need not occur, nor come in the lines' order
        used = coded.indices.dictionary_encode()
        words = coded.dictionary.take(used.dictionary).cast("string").to_pylist()
        if values.null_count or None in words:
            raise ValueError(f"it has a line without an id in column {name!r}")
        at = np.array([self._known.setdefault(word, len(self._known)) for word in words], np.int64)
        index = np.int32 if len(self._known) <= np.iinfo(np.int32).max else np.int64
        return at.astype(index)[used.indices.to_numpy()]

    def names(self, stored: int) -> np.ndarray | None:
        return as_names(list(self._known), stored) if self._known else None


def _numbers(name: str, values: Any) -> np.ndarray:
    """A column of counts."""
    if values.null_count:
        raise ValueError(f"it has a line without a count in column {name!r}")
    wrong = f"its counts must be numbers, and column {name!r} has others"
    if values.type != "string":
        counts = values.to_numpy(zero_copy_only=False)
        if counts.dtype.kind not in "biuf":
            raise ValueError(wrong)
        return counts
    coded = values.dictionary_encode()  # each text is parsed once
    try:
        numbers = needed("pyarrow.compute", "tables").utf8_trim_whitespace(coded.dictionary).cast("double").to_numpy()
    except ValueError:
        raise ValueError(wrong) from None
    whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53)  # up to where all are numbers of float64
    return (numbers.astype(np.int64) if whole.all() else numbers)[coded.indices.to_numpy()]


def _text(path: Path, kind: str, columns: Sequence[str | int] | None) -> Iterator[tuple[list[str], Any]]:
    """Names and chunks of the two or three columns that are wanted, as text."""
    reader, delimiter = needed("pyarrow.csv", "tables"), "," if kind == "csv" else "\t"
    first = _first_line(path, delimiter)
    named = any(isinstance(c, str) for c in columns or ())
    places = _places(columns, first)
    header = named or (len(places) == 3 and not _is_number(first[places[2]]))
    wanted = [f"f{c}" for c in places]  # as pyarrow calls columns without names
    options = (
        reader.ReadOptions(block_size=_BLOCK_BYTES, autogenerate_column_names=True, skip_rows_after_names=int(header)),
        reader.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        reader.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, "string"), null_values=[""],
            strings_can_be_null=True,
        ),
    )  # fmt: skip
    with opened(path) as file, reader.open_csv(file, *options) as batches:
        for batch in batches:
            yield [first[c] if header else str(c) for c in places], batch.columns


def _first_line(path: Path, delimiter: str) -> list[str]:
    """The cells of the first line."""
    with io.TextIOWrapper(opened(path), "utf-8-sig", newline="") as lines:
        bounded = iter(lambda: lines.readline(_BLOCK_BYTES), "")  # pyarrow reads no longer line either
        try:
            first = next(csv.reader(bounded, delimiter=delimiter), None)
        except csv.Error as error:
            raise ValueError(str(error)) from None
    if first is None:
        raise ValueError("No columns to parse: it is empty")
    return first


def _places(columns: Sequence[str | int] | None, first: list[str]) -> list[int]:
    """Where row, column and count stand."""
    if columns:
        return [_place(column, first) for column in columns]
    if len(first) not in (2, 3):
        raise RefusedError(
            f"it has {len(first)} columns, and a line must be a row's id, a column's id and perhaps a count: say which "
            "are these with columns, by name or number from 0; a table with a line for each row is read by "
            "pandas.read_csv, and its DataFrame fitted"
        )
    return list(range(len(first)))


def _place(column: str | int, first: list[str]) -> int:
    if isinstance(column, str):
        if column not in first:
            told = f"it has no column {column!r} among {', '.join(map(repr, first[:10]))}"
            raise RefusedError(f"{told}; where there is no header, columns are numbers from 0")
        return first.index(column)
    if not 0 <= column < len(first):
        raise RefusedError(f"it has no column {column}: it has {len(first)}, counted from 0")
    return int(column)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parquet(path: Path, columns: Sequence[str | int] | None) -> Iterator[tuple[list[str], Any]]:
    """As `_text`, but the columns have any type."""
    parquet = needed("pyarrow.parquet", "tables")
    names = parquet.read_schema(path).names
    wanted = [names[place] for place in _places(columns, names)]
    with parquet.ParquetFile(path, read_dictionary=wanted[:2]) as file:  # text, each held once in a batch
        for batch in file.iter_batches(batch_size=_LINES, columns=wanted):
            yield wanted, [batch.column(name) for name in wanted]
