"""Tables with a line for each entry: row, column and count, in CSV, TSV or Parquet."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf.io.sources import Coordinates, Entries, Names, RefusedError, needed

_LINES = 1 << 21  # that are held at once


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
        None: the first three, or two where there are no more.
    """
    pandas = needed("pandas", "tables")
    if columns is not None and (isinstance(columns, str) or len(columns) not in (2, 3)):
        raise RefusedError(f"columns must be two or three names or numbers of columns, got {columns!r}")
    ids = [_Ids(pandas), _Ids(pandas)]

    def read() -> Iterator[Entries]:
        frames = _parquet(path, columns) if kind == "parquet" else _text(pandas, path, kind, columns)
        for frame in frames:
            i, j = (known.number(frame.iloc[:, c]) for c, known in enumerate(ids))
            yield Entries(i, j, _counts(frame))

    return Coordinates(read, lambda: ((len(ids[0]), len(ids[1])), Names(ids[0].names(), ids[1].names())))


class _Ids:
    """Numbers for ids, in the order in which these come."""

    def __init__(self, pandas: Any) -> None:
        self._pandas = pandas
        self._known: Any = None

    def __len__(self) -> int:
        return 0 if self._known is None else len(self._known)

    def number(self, values: Any) -> np.ndarray:
        """The number of each id; new ids get new ones."""
        codes, own = self._pandas.factorize(values)
        if (codes < 0).any():
            raise ValueError(f"it has a line without an id in column {values.name!r}")
        own = self._pandas.Index(own)
        if self._known is None:
            self._known = own[:0]
        at = self._known.get_indexer(own)
        new = at < 0
        at[new] = len(self._known) + np.arange(new.sum())
        self._known = self._known.append(own[new])
        return at[codes]

    def names(self) -> np.ndarray | None:
        return None if self._known is None else self._known.to_numpy().astype(str)


def _counts(frame: Any) -> np.ndarray:
    if frame.shape[1] == 2:
        return np.ones(len(frame), np.int64)
    counts = frame.iloc[:, 2]
    if not hasattr(counts.dtype, "kind") or counts.dtype.kind not in "biuf":
        raise ValueError(f"its counts must be numbers, and column {counts.name!r} has others")
    return counts.to_numpy()


def _text(pandas: Any, path: Path, kind: str, columns: Sequence[str | int] | None) -> Iterator[Any]:
    """Chunks of the two or three columns that are wanted, ids as text."""
    common = {"sep": "," if kind == "csv" else "\t", "encoding": "utf-8", "compression": "infer"}
    first = pandas.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False, **common).iloc[0].tolist()
    named = any(isinstance(c, str) for c in columns or ())
    places = [_place(c, first) for c in columns] if columns else list(range(min(3, len(first))))
    if len(places) < 2:
        raise ValueError(f"it must have at least two columns, got {len(first)}")
    header = named or (len(places) == 3 and not _is_number(first[places[2]]))
    kinds = dict.fromkeys(places[:2], str)
    frames = pandas.read_csv(
        path, header=None, skiprows=int(header), usecols=places, dtype=kinds, keep_default_na=False,
        na_values={c: [""] for c in places}, chunksize=_LINES, low_memory=False, **common,
    )  # fmt: skip
    with frames:
        for frame in frames:
            frame = frame[places]
            yield frame.rename(columns=dict(zip(places, (first[c] if header else c for c in places), strict=True)))


def _place(column: str | int, first: list[str]) -> int:
    if isinstance(column, str):
        if column not in first:
            raise RefusedError(f"it has no column {column!r} among {', '.join(map(repr, first[:10]))}")
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


def _parquet(path: Path, columns: Sequence[str | int] | None) -> Iterator[Any]:
    parquet = needed("pyarrow.parquet", "tables")
    with parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        wanted = [names[_place(c, names)] for c in columns] if columns else names[:3]
        if len(wanted) < 2:
            raise ValueError(f"it must have at least two columns, got {len(names)}")
        for batch in file.iter_batches(batch_size=_LINES, columns=wanted):
            frame = batch.to_pandas()[wanted]
            for name in wanted[:2]:
                frame[name] = frame[name].astype("str").where(frame[name].notna())  # what is missing has no text
            yield frame
