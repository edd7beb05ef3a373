"""Text formats of counts: Matrix Market, UCI's bag of words, LDA-C and svmlight, read in chunks of whole lines."""

import gzip
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, cast

import numpy as np
from scipy import sparse
from scipy.io import mmread
from sklearn.datasets import load_svmlight_file

from fastpmf.io.sources import (
    NAMELESS,
    Coordinates,
    Entries,
    Names,
    as_integers,
    as_names,
    check_shape,
    chosen_features,
)
from fastpmf.utils.warnings import warn

_CHUNK_BYTES = 1 << 22
_LINE_BYTES = 1 << 26
_NAMES_BYTES = 1 << 28
_HEAD_BYTES = 1 << 20
_FIELDS = {"integer", "real", "pattern", "unsigned-integer"}
_KINDS = {"general", "symmetric"}
_OF_NUMBERS = b"0123456789+-.eE \t\r\nnaifNAIFtyTY"  # nan and infinity are told as such later


_GZIP, _BOM = b"\x1f\x8b", b"\xef\xbb\xbf"  # first bytes of such files
_EMPTY_LINE = re.compile(rb"^[ \t\r]*\n", re.MULTILINE)
_COLUMN_0 = re.compile(rb"^[^#\n]*[ \t]0:", re.MULTILINE)  # of svmlight, outside of comments


def opened(path: Path) -> IO[bytes]:
    """The bytes of a file without a byte order mark; a gzipped file, of any name, is decompressed."""
    with path.open("rb") as raw:
        packed = raw.read(len(_GZIP)) == _GZIP
    file = cast(IO[bytes], gzip.GzipFile(path)) if packed else path.open("rb")
    try:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
    except BaseException:  # a damaged one
        file.close()
        raise
    return file


def lines_of(file: IO[bytes]) -> Iterator[bytes]:
    """What is left of a file in chunks of whole lines, each of which ends."""
    while block := file.read(_CHUNK_BYTES):
        if not block.endswith(b"\n"):
            rest = file.readline(_LINE_BYTES + 1)
            if len(rest) > _LINE_BYTES:
                raise ValueError(f"it has a line of more than {_LINE_BYTES >> 20} MiB")
            block += rest if rest.endswith(b"\n") else rest + b"\n"
        yield block


def matrix_market(path: Path, *, of_folder: bool = False) -> Coordinates:
    """A coordinate file, general or symmetric, of integers, reals or ones."""
    if path.name.removesuffix(".gz") == "matrix.mtx" and _either(path.parent, "barcodes.tsv") and not of_folder:
        warn(
            f"{path.name} is beside barcodes.tsv, as in 10x Genomics' folders: this file alone has genes as rows, "
            "without names; give the folder to read cells as rows, with names",
        )
    with opened(path) as file:
        field, kind, shape, n_entries = _market_head(file)

    def read() -> Iterator[Entries]:
        with opened(path) as file:
            _market_head(file)
            entries = _triplet_lines(file, field, shape, n_entries)
            yield from _mirrored(entries) if kind == "symmetric" else entries

    return Coordinates(read, lambda: (shape, NAMELESS), stored=path.stat().st_size)


def _mirrored(entries: Iterator[Entries]) -> Iterator[Entries]:
    """The entries of a symmetric file, which stores one triangle, and their mirror images."""
    below = above = False
    for i, j, x in entries:
        below, above = below or bool((i > j).any()), above or bool((i < j).any())
        if below and above:
            raise ValueError("it is declared symmetric, but has entries on both sides of the diagonal")
        off = i != j
        yield Entries(np.concatenate([i, j[off]]), np.concatenate([j, i[off]]), np.concatenate([x, x[off]]))


def tenx_folder(path: Path, feature_types: str | Sequence[str] | None, feature_names: str) -> Coordinates:
    """10x Genomics' folder: matrix.mtx, barcodes.tsv and genes.tsv (version 2) or features.tsv (3), gzipped or not.

    Cells are rows here, and features columns, named by their symbols or ids.
    """
    files = {name: _either(path, name) for name in ("matrix.mtx", "barcodes.tsv", "genes.tsv", "features.tsv")}
    matrix = files["matrix.mtx"]
    if matrix is None:
        raise ValueError("it has no matrix.mtx or matrix.mtx.gz")
    cells = matrix_market(matrix, of_folder=True).turned()
    (n, p), _ = cells.finish()
    features = files["features.tsv"] or files["genes.tsv"]
    barcodes = files["barcodes.tsv"]
    rows = None if barcodes is None else _column(name_list(barcodes, n), 0)
    lines = None if features is None else name_list(features, p)
    columns = None if lines is None else _column(lines, 0 if feature_names == "id" else 1)
    kinds = None if lines is None or not all(line.count("\t") >= 2 for line in lines) else _column(lines, 2)
    chosen = chosen_features(kinds, feature_types)
    if chosen is None:
        return replace(cells, finish=lambda: ((n, p), Names(rows, columns)))
    assert columns is not None  # their types are in the same file
    place = np.where(chosen, np.cumsum(chosen) - 1, -1)

    def read() -> Iterator[Entries]:
        for i, j, x in cells.chunks():
            at = place[j]
            kept = at >= 0
            yield Entries(i[kept], at[kept], x[kept])

    size, names = (n, int(chosen.sum())), Names(rows, columns[chosen])
    return replace(cells, chunks=read, finish=lambda: (size, names))


def _either(folder: Path, name: str) -> Path | None:
    return next((folder / n for n in (name, f"{name}.gz") if (folder / n).is_file()), None)


def _column(lines: np.ndarray, c: int) -> np.ndarray:
    """A column of tab-separated lines; the first where there are not so many."""
    cells = [line.split("\t") for line in lines]
    return np.array([cell[c] if len(cell) > c else cell[0] for cell in cells])


def bag_of_words(path: Path) -> Coordinates:
    """UCI's docword: numbers of documents, words and entries on three lines, then lines of document, word and count.

    Words are named by vocab.NAME.txt beside docword.NAME.txt[.gz], where that is there.
    """

    def head(file: IO[bytes]) -> list[int]:
        numbers = [_natural(file.readline(64), "its first three lines must be numbers") for _ in range(3)]
        check_shape(numbers[0], numbers[1])
        return numbers

    with opened(path) as file:
        n, p, n_entries = head(file)

    def read() -> Iterator[Entries]:
        with opened(path) as file:
            head(file)
            yield from _triplet_lines(file, "real", (n, p), n_entries)

    name = path.name.removesuffix(".gz").replace("docword", "vocab", 1)
    vocabulary = _either(path.parent, name) if name.startswith("vocab") else None
    words = None if vocabulary is None else name_list(vocabulary, p)
    return Coordinates(read, lambda: ((n, p), Names(None, words)), stored=path.stat().st_size)


def lda_c(path: Path) -> Coordinates:
    """LDA-C: a line for each document, the number of its distinct words and then word:count, words counted from 0.

    Words are named by a file of the same name that ends in .tokens or .vocab, documents by one in .titles.
    """
    size = [0, 0]

    def read() -> Iterator[Entries]:
        size[:], ended = (0, 0), False
        with opened(path) as file:
            for lines in lines_of(file):
                documents = lines.rstrip()
                if documents and (ended or _EMPTY_LINE.search(documents)):
                    raise ValueError("it has an empty line: a document without words is a line '0'")
                ended = ended or lines.count(b"\n", len(documents)) > 1
                try:
                    X, said = load_svmlight_file(io.BytesIO(lines), dtype=np.float64, zero_based=True)
                except ValueError as error:
                    if "sorted" not in str(error):
                        raise
                    lines = b"\n".join(map(_by_word, lines.splitlines()))
                    X, said = load_svmlight_file(io.BytesIO(lines), dtype=np.float64, zero_based=True)
                if wrong := np.flatnonzero(np.diff(X.indptr) != said).tolist():
                    i = wrong[0]
                    raise ValueError(
                        f"document {size[0] + i + 1} says that it has {said[i]:g} words and has "
                        f"{X.indptr[i + 1] - X.indptr[i]}"
                    )
                yield _of_rows(X, size)
        check_shape(*size)

    def finish() -> tuple[tuple[int, int], Names]:
        words = next((f for ending in (".tokens", ".vocab") if (f := _beside(path, ending)) is not None), None)
        titles = _beside(path, ".titles")
        names = None if words is None else name_list(words, size[1], at_least=True)
        p = size[1] if names is None else len(names)
        return (size[0], p), Names(None if titles is None else name_list(titles, size[0]), names)

    return Coordinates(read, finish, stored=path.stat().st_size)


def _by_word(line: bytes) -> bytes:
    """A document with its words in the order of their numbers, which LDA-C does not ask for and svmlight does."""
    size, *pairs = line.split() or [b""]
    return b" ".join([size, *sorted(pairs, key=lambda pair: int(pair.split(b":")[0]))])


def svmlight(path: Path) -> Coordinates:
    """svmlight or libsvm: a line for each row, a label, which is not kept, and then column:count.

    Columns count from 1, as the format has it, unless a column 0 occurs.
    """
    size = [0, 0]
    with opened(path) as file:
        first = 0 if any(_COLUMN_0.search(lines) for lines in lines_of(file)) else 1

    def read() -> Iterator[Entries]:
        size[:] = 0, 0
        with opened(path) as file:
            for lines in lines_of(file):
                X, _ = load_svmlight_file(io.BytesIO(lines), dtype=np.float64, zero_based=not first)
                yield _of_rows(X, size)
        check_shape(*size)

    return Coordinates(read, lambda: ((size[0], size[1]), NAMELESS), stored=path.stat().st_size)


def name_list(path: Path, n: int, *, at_least: bool = False) -> np.ndarray:
    """The lines of a file of names, n of them."""
    most, held = max(_NAMES_BYTES, path.stat().st_size), bytearray()
    with opened(path) as file:
        while block := file.read(1 << 16):
            held += block
            if len(held) > most:
                raise ValueError(f"{path.name} is no list of names: it is larger than {most >> 20} MiB")
    # Only line ends end a line: names have U+2028, U+0085 and their like
    try:
        text = held.decode("utf-8")
    except UnicodeDecodeError:
        text = held.decode("utf-8", "replace")
        warn(f"{path.name} is not in UTF-8: invalid bytes in its names are replaced by U+FFFD")
    lines = text.removesuffix("\n").split("\n") if text else []
    names = [line.removesuffix("\r") for line in lines]
    if len(names) < n or (len(names) > n and not at_least):
        raise ValueError(f"{path.name} has {len(names)} names for {n}")
    return as_names(names, len(held))


def _beside(path: Path, ending: str) -> Path | None:
    other = path.with_name(path.name.removesuffix(".gz")).with_suffix(ending)
    return other if other.is_file() else None


def _of_rows(X: sparse.csr_matrix, size: list[int]) -> Entries:
    """The entries of a chunk of rows; the size of all that was seen grows by it."""
    first, size[0] = size[0], size[0] + X.shape[0]
    index = np.int32 if size[0] <= np.iinfo(np.int32).max else np.int64
    rows = np.repeat(np.arange(first, size[0], dtype=index), np.diff(X.indptr))
    size[1] = max(size[1], int(X.indices.max(initial=-1)) + 1)
    return Entries(rows, X.indices, as_integers(X.data))


def _market_head(file: IO[bytes]) -> tuple[str, str, tuple[int, int], int]:
    """Field, kind, shape and number of entries from the head of a Matrix Market file."""
    banner = file.readline(256)
    words = banner.decode("ascii", "replace").lower().split()
    if len(words) != 5 or words[:3] != ["%%matrixmarket", "matrix", "coordinate"] or words[3] not in _FIELDS:
        raise ValueError(
            f"it must begin with '%%MatrixMarket matrix coordinate', then integer, real or pattern, got {banner[:60]!r}"
        )
    if words[4] not in _KINDS:
        raise ValueError(f"its first line must end with general or symmetric, got {words[4]!r}")
    n_bytes = 0
    while (line := file.readline(4096)).startswith(b"%") or not line.strip():
        n_bytes += len(line)
        if not line or n_bytes > _HEAD_BYTES:
            raise ValueError("it ends within its head" if not line else f"its head has over {_HEAD_BYTES >> 20} MiB")
    sizes = [_natural(word, "its sizes must be three numbers") for word in line.split()]
    if len(sizes) != 3:
        raise ValueError(f"its sizes must be three numbers, got {line[:80]!r}")
    check_shape(sizes[0], sizes[1])
    if words[4] == "symmetric" and sizes[0] != sizes[1]:
        raise ValueError(f"it is declared symmetric, but has shape ({sizes[0]}, {sizes[1]})")
    return words[3], words[4], (sizes[0], sizes[1]), sizes[2]


def _triplet_lines(file: IO[bytes], field: str, shape: tuple[int, int], n_entries: int) -> Iterator[Entries]:
    """Lines of row, column and count, by scipy's parser, a chunk at a time, as a small file of its own."""
    seen, width = 0, 2 if field == "pattern" else 3
    for lines in lines_of(file):
        held = np.frombuffer(lines, np.uint8)
        ends = held == ord("\n")
        here = int(np.count_nonzero(ends))
        if lines[:1].isspace() or b"%" in lines or (ends[:-1] & (held[1:] <= ord(" "))).any():
            kept = [line for line in lines.splitlines(keepends=True) if line.strip() and not line.startswith(b"%")]
            lines, here = b"".join(kept), len(kept)
        seen += here
        if seen > n_entries:
            raise ValueError(f"it has more than the {n_entries} entries that it says")
        if other := lines.translate(None, _OF_NUMBERS):  # scipy's parser may end the process over others
            raise ValueError(f"its lines must hold numbers, got {other[:40]!r}")
        if not here:
            continue
        inside = np.frombuffer(lines, np.uint8) > ord(" ")  # scipy's parser ignores surplus numbers
        n_numbers = int(inside[0]) + int(np.count_nonzero(inside[1:] & ~inside[:-1]))
        if n_numbers != width * here:
            raise ValueError(f"its lines must hold {width} numbers each, and {here} of them hold {n_numbers}")
        # It also truncates fractions silently in a file of integers
        broken = field.endswith("integer") and any(mark in lines for mark in b".eE")
        banner = f"%%MatrixMarket matrix coordinate {'real' if broken else field} general".encode()
        X = mmread(io.BytesIO(b"%b\n%d %d %d\n%b" % (banner, *shape, here, lines)), spmatrix=False)
        yield Entries(X.row, X.col, X.data if X.data.dtype.kind in "iu" else as_integers(X.data))
    if seen < n_entries:
        raise ValueError(f"it is truncated: it has {seen} of {n_entries} entries")


def _natural(word: bytes, wanted: str) -> int:
    if not word.strip().isdigit():
        raise ValueError(f"{wanted}, got {word[:40]!r}")
    return int(word)
