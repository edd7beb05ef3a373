"""Tables with a line for each entry: row, column and count, in CSV, TSV or Parquet."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastpmf.io.sources import Coordinates, Entries, Names, RefusedError, as_integers, as_names
from fastpmf.io.text import opened
from fastpmf.utils.extras import import_optional
from fastpmf.utils.messages import listed
from fastpmf.utils.warnings import warn

_LINES = 1 << 21  # of Parquet that are held at once
_BLOCK_BYTES = 1 << 23  # of text
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars", " ": "blanks"}
_MISSING = {"na", "n/a", "null", "none", "nan", ""}  # texts for a missing count
_UNNAMED_INDEX = re.compile(r"__index_level_\d+__")  # name of an unnamed index that pandas writes to Parquet
_COMMA_OF_CSV = re.compile(r"(?<!\d),|,(?!\d)")  # not within a number
_HEADS = re.compile(  # usual names of columns of ids
    r"(user|item|doc|document|word|term|token|cell|barcode|gene|feature|sample|customer|client|product|movie|film|book|"
    r"artist|track|song|playlist|album|author|paper|query|session|invoice|order|stock|business|store|page|article|row|"
    r"col|column|source|target|node|member|visitor|person)s?[ _.-]?(id|ids|no|nr|number|name|code|key|index|idx)?"
    r"|[iu]?id|name|title|asin|isbn",
    re.IGNORECASE,
)


def triplets(path: Path, kind: str, columns: Sequence[str | int] | None, header: bool | None) -> Coordinates:
    """Lines of a row's id, a column's id and a count, or of the two ids alone, each of which counts 1.

    Ids are text, so 07 is not 7; they get numbers in the order in which they come. Lines of equal ids add up.

    Parameters
    ----------
    path : Path
    kind : {"csv", "tsv", "parquet"}
        The first two may be gzipped. CSV follows RFC 4180, separated by commas, or by semicolons if the first line has
        no comma. In TSV quotes have no special meaning.
    columns : two or three names, or numbers from 0, of columns
        None: all, of which there must be two or three. A wider table may be one of counts with a line for each row,
        and is not guessed at.
    header : bool, optional
        Of csv and tsv: whether the first line is a header. By default it is one if a column is given by name, or if its
        count is text that does not begin like a number. Without a column of counts it is read as an entry, with a
        warning if it looks like a header.
    """
    arrow, stored = import_optional("pyarrow", "tables"), path.stat().st_size
    if columns is not None and (isinstance(columns, str) or len(columns) not in (2, 3)):
        raise RefusedError(f"columns must be two or three names or numbers of columns, got {columns!r}")
    if header is not None and kind == "parquet":
        raise RefusedError("header goes with csv and tsv only: Parquet stores the names of its columns")
    named = any(isinstance(c, str) for c in columns or ())
    ids, doubtful = [_Ids(), _Ids()], header is None and not named and kind != "parquet"

    def read() -> Iterator[Entries]:
        nonlocal doubtful
        first, again = True, False
        try:
            for names, held in _parquet(path, columns) if kind == "parquet" else _text(path, kind, columns, header):
                i, j = (known.number(*column) for known, *column in zip(ids, names, held, strict=False))
                again = again or bool(((i == 0) | (j == 0))[int(first) :].any())
                doubtful = doubtful and len(held) == 2
                first = first and not len(i)
                yield Entries(i, j, _numbers(names[2], held[2]) if len(held) > 2 else np.ones(len(i), np.int64))
        except arrow.ArrowException as error:  # of its own some are no ValueErrors
            raise ValueError(str(error)) from None

        doubtful = doubtful and not again

    def finish() -> tuple[tuple[int, int], Names]:
        rows, columns = names = Names(*(known.names(stored) for known in ids))
        for side in names:
            _warn_of_blanks(side)
        if doubtful and rows is not None and columns is not None and _look_like_heads(rows, columns):
            warn(
                f"{path.name}: its first line, {str(rows[0])!r} and {str(columns[0])!r}, was read as an entry and "
                "looks like a header: give header=True, or columns by these names, if it is one, else header=False"
            )
        return (len(ids[0]), len(ids[1])), names

    return Coordinates(read, finish, stored=stored)


def _look_like_heads(rows: np.ndarray, columns: np.ndarray) -> bool:
    """Whether the first ids of both sides are usual column names, or one of them is the only non-number of its side."""
    if all(_HEADS.fullmatch(str(side[0])) for side in (rows, columns)):
        return True
    return any(
        len(side) > 2 and not _is_number(str(side[0])) and all(map(_is_number, side[1:].tolist()))
        for side in (rows, columns)
    )


def _warn_of_blanks(names: np.ndarray | None) -> None:
    """Warn of ids that differ only by blanks around them, as in a table with blanks after its commas."""
    if names is None:
        return
    wide = [name for name in names.tolist() if name != name.strip()]
    known = set(names.tolist()) if wide else set()
    if same := next((name for name in wide if name.strip() in known), None):
        warn(
            f"it has ids that differ only by blanks around them, such as {same!r} and {same.strip()!r}: blanks are "
            "part of an id"
        )


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
    wrong = f"its counts must be numbers, and column {name!r} has "
    if values.type != "string":
        counts = values.to_numpy(zero_copy_only=False)
        if counts.dtype.kind not in "biuf":
            raise ValueError(f"{wrong}{values.type}")
        return as_integers(counts) if counts.dtype.kind == "f" else counts
    coded = values.dictionary_encode()  # each text is parsed once
    try:
        numbers = (
            import_optional("pyarrow.compute", "tables")
            .utf8_trim_whitespace(coded.dictionary)
            .cast("double")
            .to_numpy()
        )
    except ValueError:
        words = coded.dictionary.to_pylist()
        bad = next(word for word in words if not _is_number(word) or "_" in word)  # Python's own numbers have these
        raise ValueError(f"{wrong}{bad[:40]!r}") from None
    return as_integers(numbers)[coded.indices.to_numpy()]


def _text(
    path: Path, kind: str, columns: Sequence[str | int] | None, header: bool | None
) -> Iterator[tuple[list[str], Any]]:
    """Names and chunks of the two or three columns that are wanted, as text."""
    reader = import_optional("pyarrow.csv", "tables")
    first, delimiter, quotes = _first_line(path, kind)
    named = any(isinstance(c, str) for c in columns or ())
    if named and header is False:
        raise RefusedError(f"columns must be numbers from 0 where there is no header, got {columns!r}")
    places = _places(columns, first)
    if header is None:
        header = named or (len(places) == 3 and _is_head_of_counts(first[places[2]]))
    if header and columns is None and "" in first:
        raise RefusedError(
            f"a column has no name in its first line, {delimiter.join(first)[:80]!r}, as the row numbers that pandas "
            "and R write: say which columns are the ids and the count with columns"
        )
    wanted = [f"f{c}" for c in places]  # as pyarrow calls columns without names
    options = (
        reader.ReadOptions(block_size=_BLOCK_BYTES, autogenerate_column_names=True, skip_rows_after_names=int(header)),
        reader.ParseOptions(delimiter=delimiter, quote_char=quotes and '"', newlines_in_values=quotes),
        reader.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, "string"), null_values=[""],
            strings_can_be_null=True,
        ),
    )  # fmt: skip
    with opened(path) as file, reader.open_csv(_Lines(file, delimiter, quotes=quotes), *options) as batches:
        for batch in batches:
            yield [first[c] if header else str(c) for c in places], batch.columns


class _Lines:
    """A file without the empty lines at its beginning, and with a line end after its last line.

    If cells may be quoted, text after a closing quote is an error: pyarrow would accept it silently.
    """

    closed = False

    def __init__(self, file: IO[bytes], delimiter: str, *, quotes: bool) -> None:
        self._file, self._begun, self._ended, self._rest = file, False, False, b""
        self._ends = delimiter.encode(), b"\r", b"\n"
        ends = re.escape(delimiter).encode() + rb"\r\n"
        quoted = rb'"(?:[^"]+|"")*+"'
        self._whole = re.compile(rb'(?:(?:%b|[^"%b][^%b]*+)?+[%b])*+' % (quoted, ends, ends, ends)) if quotes else None
        self._broken = re.compile(rb'%b[^"%b]' % (quoted, ends))
        self._quoted = re.compile(quoted)

    def read(self, n: int) -> bytes:
        """The next bytes, at most n of them."""
        block = self._file.read(n)
        last = len(block) < n
        while not self._begun and block:
            self._begun = bool(block.strip(b"\r\n"))
            block = block.lstrip(b"\r\n") if self._begun else self._file.read(n)
        if last and not self._ended:
            self._ended, block = True, block + b"\n"
        if self._whole is not None:
            self._check(self._whole, self._rest + block)
        return block

    def _check(self, whole: re.Pattern[bytes], text: bytes) -> None:
        """Check all complete cells, and keep the last one, which may continue in the next block."""
        if b'"' not in text:
            self._rest = text[max(map(text.rfind, self._ends)) + 1 :]
            return
        found = whole.match(text)
        self._rest = text[found.end() :] if found else text
        if self._broken.match(self._rest):
            raise ValueError(
                f"it has text after a closing quote (quotes within a cell must be doubled): {_start(self._rest)}"
            )
        if self._ended and self._rest.startswith(b'"') and not self._quoted.fullmatch(self._rest):
            raise ValueError(f"it has a quote that is not closed: {_start(self._rest)}")


def _start(text: bytes) -> str:
    """The beginning of a text, for a message."""
    return repr(text.splitlines()[0][:60].decode("utf-8", "replace"))


def _first_line(path: Path, kind: str) -> tuple[list[str], str, bool]:
    """The cells of the first line that isn't empty, what separates them, and whether they may be quoted."""
    quotes = kind == "csv"
    delimiter = "," if quotes else "\t"
    first = _cells(path, delimiter, quotes=quotes)
    if quotes and len(first) == 1 and len(other := _cells(path, ";", quotes=True)) > 1:
        return other, ";", True
    line = delimiter.join(first)
    if quotes and ";" in line and len(first) > 1 and not _COMMA_OF_CSV.search(line):
        raise RefusedError(
            f"it seems to be separated by semicolons and to have decimal commas, got {line[:80]!r}: counts must have "
            "decimal points, or none"
        )
    if len(first) == 1:
        counts = {mark: len(_cells(path, mark, quotes=quotes)) for mark in _SEPARATORS}
        mark = max(counts, key=lambda mark: counts[mark])
        if counts[mark] > 1:
            advice = "; give format, 'tsv'" if mark == "\t" else "; give format, 'csv'" if mark in ",;" else ""
            raise RefusedError(
                f"its first line has 1 column between {_SEPARATORS[delimiter]}, and {counts[mark]} between "
                f"{_SEPARATORS[mark]}: {kind} is separated by {_SEPARATORS[delimiter]}{advice}"
            )
    return first, delimiter, quotes


def _cells(path: Path, delimiter: str, *, quotes: bool) -> list[str]:
    """The cells of the first line that isn't empty."""
    with io.TextIOWrapper(opened(path), "utf-8-sig", newline="") as lines:
        bounded = iter(lambda: lines.readline(_BLOCK_BYTES), "")  # pyarrow reads no longer line either
        reader = csv.reader(bounded, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
        try:
            first = next((cells for cells in reader if cells), None)
        except csv.Error as error:
            raise ValueError(str(error)) from None
    if first is None:
        raise ValueError("No columns to parse: it is empty")
    return first


def _is_head_of_counts(cell: str) -> bool:
    """Whether the count of the first line is the name of its column, not a malformed count."""
    cell = cell.strip()
    return not _is_number(cell) and cell.lower() not in _MISSING and cell[0] not in "0123456789+-.,$"


def _places(columns: Sequence[str | int] | None, first: list[str]) -> list[int]:
    """Where row, column and count stand."""
    if columns:
        chosen = [_place(column, first) for column in columns]
        if len(set(chosen)) < len(chosen):
            raise RefusedError(f"columns must be different columns, got {columns!r}")
        return chosen
    if len(first) not in (2, 3):
        raise RefusedError(
            f"it has {len(first)} {'column' if len(first) == 1 else 'columns'}, and a line must be a row's id, a "
            "column's id and perhaps a count: say which are these with columns, by name or number from 0; a table with "
            "a line for each row is read by pandas.read_csv, and its DataFrame fitted"
        )
    return list(range(len(first)))


def _place(column: str | int, first: list[str]) -> int:
    if isinstance(column, str):
        if first.count(column) > 1:
            raise RefusedError(f"it has {first.count(column)} columns {column!r}: give columns by number from 0")
        if column not in first:
            told = f"it has no column {column!r} among {listed(first)}"
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
    parquet = import_optional("pyarrow.parquet", "tables")
    schema = parquet.read_schema(path)
    names = schema.names
    if columns is None:  # pandas stores an index as a column too, after the others
        index = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
        names = [name for name in names if name not in index or not _UNNAMED_INDEX.fullmatch(name)]
        if known := [name for name in index if name in names]:
            raise RefusedError(
                f"its column {known[0]!r} was the index of a pandas DataFrame: say which columns are the ids and the "
                f"count with columns, of {listed(names)}"
            )
    wanted = [names[place] for place in _places(columns, names)]
    with parquet.ParquetFile(path, read_dictionary=wanted[:2]) as file:  # text, each held once in a batch
        for batch in file.iter_batches(batch_size=_LINES, columns=wanted):
            yield wanted, [batch.column(name) for name in wanted]
