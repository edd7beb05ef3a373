"""Matrices in text files, parsed by SciPy and scikit-learn: Matrix Market, UCI's bag of words, LDA-C and svmlight."""

import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from scipy import sparse
from scipy.io import mmread
from sklearn.datasets import load_svmlight_file

from fastpmf.io.sources import NAMELESS, Compressed, Names, as_integers, as_names, summed
from fastpmf.utils.warnings import warn

_GZIP, _BOM = b"\x1f\x8b", b"\xef\xbb\xbf"  # first bytes of such files
_PRINTABLE = bytes(c if c in b"\t\n\r" or 32 <= c < 127 else ord("?") for c in range(256))
NOT_UTF8 = (
    "its text is not in UTF-8: convert it, for example by iconv -f LATIN1 -t UTF-8, or read it by "
    "pandas.read_csv(path, encoding='latin-1') and Dataset.from_entries"
)
_EMPTY_LINE = re.compile(rb"^[ \t\r]*\n", re.MULTILINE)


@contextmanager
def decoding_errors() -> Iterator[None]:
    """Raise an error of text that is not in UTF-8 as one that says what to do."""
    try:
        yield
    except UnicodeDecodeError:
        raise ValueError(NOT_UTF8) from None


def open_text(path: Path) -> IO[bytes]:
    """The bytes of a file without a byte order mark; a gzipped file, whatever its name, is decompressed."""
    with path.open("rb") as raw:
        gzipped = raw.read(len(_GZIP)) == _GZIP
    file = cast(IO[bytes], gzip.GzipFile(path)) if gzipped else path.open("rb")
    try:
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
    except BaseException:
        file.close()
        raise
    return file


class LineStream:
    """A stream of `head` and then a file, with a line end after the last line.

    Without that line end pyarrow rejects a single line, and SciPy's Matrix Market parser may read past the end of its
    buffer. SciPy also crashes at bytes such as NUL, which `ascii_only` replaces by question marks.
    """

    closed = False

    def __init__(self, file: IO[bytes], head: bytes = b"", *, ascii_only: bool = False) -> None:
        self._file, self._head, self._end, self._ascii_only = file, head, b"\n", ascii_only

    def read(self, n: int = -1) -> bytes:
        """At most n bytes."""
        block, self._head = self._head or self._file.read(n), b""
        if not block:
            block, self._end = self._end, b""
        return block.translate(_PRINTABLE) if self._ascii_only else block


def matrix_market(path: Path) -> Compressed:
    """A coordinate or array file."""
    if path.name.removesuffix(".gz") == "matrix.mtx" and beside(path, "barcodes.tsv"):
        warn(
            f"{path.name} is in a folder with barcodes.tsv, as 10x Genomics writes: this file has genes as rows, "
            "without names; give the folder to read cells as rows, with names",
        )
    return _in_memory(read_market(path))


def read_market(path: Path) -> sparse.coo_array:
    with open_text(path) as file:
        return sparse.coo_array(mmread(LineStream(file, ascii_only=True), spmatrix=False))


def bag_of_words(path: Path) -> Compressed:
    """UCI's docword: numbers of documents, words and entries on three lines, then lines of document, word and count.

    The names of words are read from vocab.NAME.txt[.gz] in the folder of docword.NAME.txt[.gz], if it exists.
    """
    with open_text(path) as file:
        sizes = b" ".join(file.readline(64).strip() for _ in range(3))
        head = b"%%MatrixMarket matrix coordinate real general\n" + sizes + b"\n"
        X = mmread(LineStream(file, head, ascii_only=True), spmatrix=False)
    name = path.name.removesuffix(".gz").replace("docword", "vocab", 1)
    vocabulary = beside(path, name) if name.startswith("vocab") else None
    return _in_memory(X, Names(None, read_name_file(vocabulary, X.shape[1])))


def lda_c(path: Path) -> Compressed:
    """LDA-C: a line for each document, the number of its distinct words and then word:count, words counted from 0.

    The names of words are read from a file of the same name with suffix .tokens or .vocab, if it exists, and those of
    documents from one with suffix .titles.
    """
    with open_text(path) as file:
        text = file.read().rstrip()
    if _EMPTY_LINE.search(text):
        raise ValueError("it has an empty line: a document without words is a line '0'")
    try:
        X, n_words = load_svmlight_file(io.BytesIO(text), zero_based=True)
    except ValueError as error:
        if "sorted" not in str(error):  # svmlight requires words in ascending order, LDA-C does not
            raise
        X, n_words = load_svmlight_file(io.BytesIO(b"\n".join(map(_sorted, text.splitlines()))), zero_based=True)
    if len(wrong := np.flatnonzero(X.getnnz(axis=1) != n_words)):
        i = wrong[0]
        raise ValueError(f"document {i + 1} has {X.getnnz(axis=1)[i]} words, but its line begins with {n_words[i]:g}")
    base = path.with_name(path.name.removesuffix(".gz"))
    tokens, vocab, titles = (beside(path, base.with_suffix(end).name) for end in (".tokens", ".vocab", ".titles"))
    rows, columns = read_name_file(titles, X.shape[0]), read_name_file(tokens or vocab, X.shape[1], or_more=True)
    if columns is not None:
        X.resize(X.shape[0], len(columns))
    return _in_memory(X, Names(rows, columns))


def _sorted(line: bytes) -> bytes:
    n_words, *pairs = line.split() or [b""]
    return b" ".join([n_words, *sorted(pairs, key=lambda pair: int(pair.split(b":")[0]))])


def svmlight(path: Path) -> Compressed:
    """svmlight or libsvm: a line for each row, a label, which is ignored, and then column:count.

    Columns count from 1, unless a column 0 occurs.
    """
    with open_text(path) as file:
        X, _ = load_svmlight_file(file, zero_based="auto")
    return _in_memory(X)


def beside(path: Path, name: str) -> Path | None:
    """The file `name` or `name`.gz in the folder of `path`; None if there is none."""
    return next((path.with_name(n) for n in (name, f"{name}.gz") if path.with_name(n).is_file()), None)


def read_name_file(path: Path | None, n: int, *, or_more: bool = False) -> np.ndarray | None:
    """The lines of a file of n names; None without a file."""
    if path is None:
        return None
    with open_text(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise ValueError(
            f"the names in {path.name} are not in UTF-8: convert it, for example by iconv -f LATIN1 -t UTF-8"
        ) from None
    # `splitlines` would also split at U+2028, U+0085 and other characters that names have
    lines = text.removesuffix("\n").split("\n") if text else []
    if len(lines) < n or (len(lines) > n and not or_more):
        raise ValueError(f"{path.name} has {len(lines)} names for {n}")
    return as_names([line.removesuffix("\r") for line in lines])


def _in_memory(X: Any, names: Names = NAMELESS) -> Compressed:
    X = summed(sparse.coo_array((as_integers(X.data), X.tocoo().coords), shape=X.shape))
    return Compressed(X.data, X.indices, X.indptr, X.shape, names=names)
