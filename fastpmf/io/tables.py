"""Tables with a line for each entry: row id, column id and count, in CSV, TSV or Parquet, parsed by pyarrow.

Ids are text, so 07 is not 7, and are numbered in order of first occurrence. The counts of lines with equal ids are
summed. Without a column of counts, each line counts 1.
"""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf.io.sources import Coordinates, Entries, Names, as_integers, as_names
from fastpmf.io.text import NOT_UTF8, LineStream, decoding_errors, open_text
from fastpmf.utils.extras import import_optional
from fastpmf.utils.messages import listed
from fastpmf.utils.warnings import warn

Columns = Sequence[str | int] | None

_LINES = 1 << 21  # of Parquet in memory at a time
_BLOCK_BYTES = 1 << 23  # of text
_MISSING = {"na", "n/a", "null", "none", "nan", ""}  # texts for a missing count
_UNNAMED_INDEX = re.compile(r"__index_level_\d+__")  # name of an unnamed index that pandas writes to Parquet
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_COMMA = re.compile(r"(?<!\d),|,(?!\d)")  # not within a number
_HEADERS = re.compile(  # usual names of columns of ids
    r"(user|item|doc|document|word|term|token|cell|barcode|gene|feature|sample|customer|client|product|movie|film|book|"
    r"artist|track|song|playlist|album|author|paper|query|session|invoice|order|stock|business|store|page|article|row|"
    r"col|column|source|target|node|member|visitor|person)s?[ _.-]?(id|ids|no|nr|number|name|code|key|index|idx)?"
    r"|[iu]?id|name|title|asin|isbn",
    re.IGNORECASE,
)


def text(path: Path, columns: Columns = None, header: bool | None = None, *, quoted: bool) -> Coordinates:
    """CSV (`quoted`), by RFC 4180 with commas or, if the first line has no other, semicolons; or TSV, without quotes.

    Parameters
    ----------
    columns : two or three names, or numbers from 0
        By default all, of which there must be two or three.
    header : bool, optional
        Whether the first line is a header. By default it is one if columns are given by name, or if its count is text
        that does not begin like a number.
    """
    reader = import_optional("pyarrow.csv", "tables", "reading CSV and TSV")
    first, n_empty, delimiter = _first_line(path, quoted=quoted)
    by_name = any(isinstance(c, str) for c in columns or ())
    if by_name and header is False:
        raise ValueError(f"columns must be numbers from 0 if there is no header, got {columns!r}")
    places = _places(columns, first)
    has_header = header or by_name or (header is None and len(places) == 3 and _is_header_of_counts(first[places[2]]))
    if has_header and columns is None and "" in first:
        raise ValueError(
            f"a column has no name in its first line, {delimiter.join(first)[:80]!r}, as the row numbers that pandas "
            "and R write: give the columns of row ids, column ids and counts as `columns`"
        )
    fields = [f"f{c}" for c in places]  # pyarrow's names of columns without names

    def read() -> Iterator[list[Any]]:
        options = (
            reader.ReadOptions(
                block_size=_BLOCK_BYTES, autogenerate_column_names=True, skip_rows=n_empty,
                skip_rows_after_names=int(has_header),
            ),
            reader.ParseOptions(delimiter=delimiter, quote_char=quoted and '"', newlines_in_values=quoted),
            reader.ConvertOptions(
                include_columns=fields, column_types=dict.fromkeys(fields, "string"), null_values=[""],
                strings_can_be_null=True,
            ),
        )  # fmt: skip
        with open_text(path) as file, reader.open_csv(LineStream(file), *options) as batches:
            for batch in batches:
                yield batch.columns

    doubtful = header is None and not has_header and len(places) == 2
    names = [first[c] if has_header else str(c) for c in places]
    return _triplets(path, names, read, n_before=n_empty + bool(has_header), may_have_header=doubtful)


def parquet(path: Path, columns: Columns = None) -> Coordinates:
    """Parquet, whose columns may have any type."""
    library = import_optional("pyarrow.parquet", "tables", "reading Parquet")
    schema = library.read_schema(path)
    names = schema.names
    if columns is None:  # pandas stores an index as a column after the others
        index = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
        names = [name for name in names if name not in index or not _UNNAMED_INDEX.fullmatch(name)]
        if named := [name for name in index if name in names]:
            raise ValueError(
                f"its column {named[0]!r} was the index of a pandas DataFrame: give the columns of row ids, column ids "
                f"and counts as `columns`, from {listed(names)}"
            )
    fields = [names[place] for place in _places(columns, names)]

    def read() -> Iterator[list[Any]]:
        with library.ParquetFile(path, read_dictionary=fields[:2]) as file:
            for batch in file.iter_batches(batch_size=_LINES, columns=fields):
                yield [batch.column(name) for name in fields]

    return _triplets(path, fields, read)


def _triplets(
    path: Path, fields: list[str], read: Callable[[], Iterator[list[Any]]], *, n_before: int = 0,
    may_have_header: bool = False,
) -> Coordinates:  # fmt: skip
    """Coordinates from batches of the columns that `fields` names; `n_before` lines are before the first entry."""
    arrow = import_optional("pyarrow", "tables")
    row_ids, column_ids = _Ids(), _Ids()

    def chunks() -> Iterator[Entries]:
        gaps = _Gaps(fields, n_before)
        try:
            for batch in read():
                i, j = row_ids.number(batch[0]), column_ids.number(batch[1])
                gaps.add([i < 0, j < 0, *(values.is_null().to_numpy(zero_copy_only=False) for values in batch[2:])])
                if not gaps.found:
                    yield Entries(i, j, _counts(fields[2], batch[2]) if len(batch) > 2 else np.ones(len(i), np.int64))
        except arrow.ArrowException as error:  # not all are ValueErrors
            raise ValueError(NOT_UTF8 if "invalid UTF8" in str(error) else str(error)) from None
        if gaps.found:
            raise ValueError(gaps.message())

    def describe() -> tuple[tuple[int, int], Names]:
        rows, columns = row_ids.names(), column_ids.names()
        for names in (rows, columns):
            _warn_of_blanks(names)
        if may_have_header and not (row_ids.first_recurs or column_ids.first_recurs) and _is_header(rows, columns):
            warn(
                f"{path.name}: its first line, {rows[0]!r} and {columns[0]!r}, was read as an entry and looks like a "
                "header: give header=True, or columns by these names, if it is one, else header=False"
            )
        return (len(rows), len(columns)), Names(as_names(rows), as_names(columns))

    return Coordinates(chunks, describe, stored=path.stat().st_size)


class _Gaps:
    """Counts the lines without an id or a count.

    Attributes
    ----------
    found : dict of str to [int, int]
        By column, the number of its gaps and the number of the line of the first one, from 1.
    """

    def __init__(self, fields: list[str], n_before: int) -> None:
        self.found: dict[str, list[int]] = {}
        self._fields, self._n_before, self._n_lines = fields, n_before, 0

    def add(self, missing: list[np.ndarray]) -> None:
        """Whether each of the next lines has a gap, for each column."""
        for field, gaps in zip(self._fields, missing, strict=True):
            if gaps.any():
                first = self._n_before + self._n_lines + int(gaps.argmax()) + 1
                self.found.setdefault(field, [0, first])[0] += int(np.count_nonzero(gaps))
        self._n_lines += len(missing[0])

    def message(self) -> str:
        parts = (
            f"{n:,} of {self._n_lines:,} lines have no {'count' if field in self._fields[2:] else 'id'} in column "
            f"{field!r} (the first is line {first:,})"
            for field, (n, first) in self.found.items()
        )
        return f"{' and '.join(parts)}: remove these lines"


class _Ids:
    """Numbers of ids, in order of first occurrence.

    Attributes
    ----------
    first_recurs : bool
        Whether the first id occurs more than once.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self.first_recurs = False

    def number(self, values: Any) -> np.ndarray:
        """The number of each id in a column, -1 where it is missing; new ids get new numbers."""
        coded = values.dictionary_encode()
        # A stored dictionary may hold unused values, in any order
        used = coded.indices.dictionary_encode()
        ids = coded.dictionary.take(used.dictionary).cast("string").to_pylist()
        began = bool(self._numbers)
        found = [-1 if each is None else self._numbers.setdefault(each, len(self._numbers)) for each in ids]
        index = np.int32 if len(self._numbers) <= np.iinfo(np.int32).max else np.int64
        numbers = np.array([*found, -1], index)[used.indices.fill_null(len(ids)).to_numpy()]
        self.first_recurs = self.first_recurs or bool((numbers[not began :] == 0).any())
        return numbers

    def names(self) -> list[str]:
        return list(self._numbers)


def _counts(field: str, values: Any) -> np.ndarray:
    """A column of counts, none of which is missing."""
    message = f"its counts must be numbers, and column {field!r} has "
    if values.type != "string":
        counts = values.to_numpy(zero_copy_only=False)
        if counts.dtype.kind not in "biuf":
            raise ValueError(f"{message}{values.type}")
        return as_integers(counts)
    coded = values.dictionary_encode()  # each text is parsed once
    try:
        trimmed = import_optional("pyarrow.compute", "tables").utf8_trim_whitespace(coded.dictionary)
        numbers = trimmed.cast("double").to_numpy()
    except ValueError:
        texts = coded.dictionary.to_pylist()
        wrong = next(each for each in texts if not _is_number(each) or "_" in each)  # which Python's float accepts
        raise ValueError(f"{message}{wrong[:40]!r}") from None
    return as_integers(numbers)[coded.indices.to_numpy()]


def _is_header(rows: list[str], columns: list[str]) -> bool:
    """Whether both first ids are usual column names, or one of them is the only id in its column that is no number."""
    if rows and columns and _HEADERS.fullmatch(rows[0]) and _HEADERS.fullmatch(columns[0]):
        return True
    return any(len(ids) > 2 and not _is_number(ids[0]) and all(map(_is_number, ids[1:])) for ids in (rows, columns))


def _warn_of_blanks(ids: list[str]) -> None:
    """Warn about ids that differ only by blanks around them, as in a table with blanks after its commas."""
    padded = [each for each in ids if each != each.strip()]
    known = set(ids) if padded else set()
    if same := next((each for each in padded if each.strip() in known), None):
        warn(
            f"it has ids that differ only by blanks around them, such as {same!r} and {same.strip()!r}: blanks are "
            "part of an id"
        )


def _first_line(path: Path, *, quoted: bool) -> tuple[list[str], int, str]:
    """The cells of the first line that is not empty, the number of empty lines before it, and the delimiter."""
    with decoding_errors(), io.TextIOWrapper(open_text(path), "utf-8", newline="") as file:
        lines = iter(lambda: file.readline(_BLOCK_BYTES), "")  # pyarrow does not read longer lines either
        n_empty, line = next(((n, line) for n, line in enumerate(lines) if line.strip("\r\n")), (0, ""))
        if not line:
            raise ValueError("it is empty")
        bare = _QUOTED.sub("", line)
        delimiter = "\t" if not quoted else ";" if ";" in bare and not _COMMA.search(bare) else ","
        quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
        cells = csv.reader(itertools.chain([line], lines), delimiter=delimiter, quoting=quoting)
        try:
            return next(cells), n_empty, delimiter
        except csv.Error as error:  # not a ValueError
            raise ValueError(str(error)) from None


def _is_header_of_counts(cell: str) -> bool:
    """Whether the count in the first line is the name of its column, not a malformed count."""
    cell = cell.strip()
    return not _is_number(cell) and cell.lower() not in _MISSING and cell[0] not in "0123456789+-.,$"


def _places(columns: Columns, first: list[str]) -> list[int]:
    """Positions of row id, column id and count among the columns."""
    if columns is None:
        if len(first) not in (2, 3):
            raise ValueError(
                f"it has {len(first)} column(s): give those of row ids, column ids and counts as `columns` (--columns "
                "ROW,COLUMN,COUNT on the command line), by name or by number from 0; for a table with a line for each "
                f"row, fit the DataFrame of pandas.read_csv. Its first line is {listed(first)}"
            )
        return list(range(len(first)))
    if isinstance(columns, str) or len(columns) not in (2, 3):
        raise ValueError(f"columns must be two or three names or numbers of columns, got {columns!r}")
    places = [_place(column, first) for column in columns]
    if len(set(places)) < len(places):
        raise ValueError(f"columns must be different columns, got {columns!r}")
    return places


def _place(column: str | int, first: list[str]) -> int:
    if isinstance(column, str):
        if (n := first.count(column)) != 1:
            raise ValueError(
                f"it has {n or 'no'} column(s) {column!r} among {listed(first)}; columns may be given by number from 0"
            )
        return first.index(column)
    if not 0 <= column < len(first):
        raise ValueError(f"it has no column {column}: it has {len(first)}, counted from 0")
    return int(column)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
