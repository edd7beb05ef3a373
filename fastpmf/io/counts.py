"""Count matrices from files of any of the formats that people keep them in."""

import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastpmf.counts import Dataset, as_counts
from fastpmf.io import binary, tables, text
from fastpmf.io.folder import write_folder
from fastpmf.io.outputs import check_output
from fastpmf.io.sources import GENES, NAMELESS, Compressed, Names, RefusedError, Source
from fastpmf.utils.files import READ_ERRORS, atomic_write, is_pipe, regular_file
from fastpmf.utils.messages import printable
from fastpmf.utils.progress import progress_bar
from fastpmf.utils.validation import check_option


class Format(NamedTuple):
    """A format: what it is called in sentences, the names its files have, and its reader."""

    said: str
    endings: tuple[str, ...]
    open: Callable[[Path, "Choices"], Source]


class Choices(NamedTuple):
    """Options of readers, by the names of `read_counts`."""

    layer: str | None = None
    columns: Sequence[str | int] | None = None
    header: bool | None = None
    feature_types: str | Sequence[str] | None = None
    feature_names: str = "name"


# Formats that each option is for, and the names of these formats in messages
_GOES_WITH = {
    "layer": (("10x-h5", "h5ad", "zarr"), ".h5ad, .zarr and 10x Genomics' .h5"),
    "columns": (("csv", "tsv", "parquet"), "csv, tsv and parquet"),
    "header": (("csv", "tsv"), "csv and tsv"),
    "feature_types": (("10x-h5", "10x-mtx"), "10x Genomics' files"),
    "feature_names": (("10x-h5", "10x-mtx"), "10x Genomics' files"),
}
FEATURE_NAMES = ("name", "id")


FORMATS: dict[str, Format] = {
    "npz": Format("scipy.sparse .npz", (".npz",), lambda path, _: binary.scipy_npz(path)),
    "mtx": Format("Matrix Market", (".mtx", ".mtx.gz"), lambda path, _: text.matrix_market(path)),
    "10x-mtx": Format(
        "10x Genomics folder",
        (),
        lambda path, chosen: text.tenx_folder(path, chosen.feature_types, chosen.feature_names),
    ),
    "10x-h5": Format(
        "10x Genomics HDF5",
        (".h5",),
        lambda path, chosen: binary.tenx_h5(path, chosen.layer, chosen.feature_types, chosen.feature_names),
    ),
    "h5ad": Format("AnnData HDF5", (".h5ad",), lambda path, chosen: binary.h5ad(path, chosen.layer)),
    "zarr": Format("AnnData zarr", (".zarr",), lambda path, chosen: binary.zarr(path, chosen.layer)),
    "npy": Format("folder of .npy", (), lambda path, _: binary.npy_folder(path)),
    "docword": Format("bag of words", (), lambda path, _: text.bag_of_words(path)),
    "ldac": Format("LDA-C", (".ldac", ".lda-c", ".ldac.gz"), lambda path, _: text.lda_c(path)),
    "svmlight": Format("svmlight", (".svmlight", ".libsvm", ".svm"), lambda path, _: text.svmlight(path)),
    "csv": Format(
        "CSV", (".csv", ".csv.gz"), lambda path, chosen: tables.triplets(path, "csv", chosen.columns, chosen.header)
    ),
    "tsv": Format(
        "TSV", (".tsv", ".tsv.gz"), lambda path, chosen: tables.triplets(path, "tsv", chosen.columns, chosen.header)
    ),
    "parquet": Format(
        "Parquet", (".parquet",), lambda path, chosen: tables.triplets(path, "parquet", chosen.columns, chosen.header)
    ),
}


def read_counts(
    path: str | os.PathLike[str], format: str | None = None, *, layer: str | None = None,
    columns: Sequence[str | int] | None = None, header: bool | None = None,
    feature_types: str | Sequence[str] | None = None, feature_names: str = "name", transpose: bool = False,
) -> Dataset:  # fmt: skip
    """Read a sparse matrix of counts, with the names of its rows and columns where the file has them.

    Rows are cells, documents, users; columns are genes, words, items. In 10x Genomics' files it is the other way round,
    and they are turned.

    Parameters
    ----------
    path : path-like
        A file, a folder, or a pipe, which is copied to a temporary file first. Text may be gzipped. Folders of .npy are
        memory-mapped; all other formats are read into memory. Do not change a memory-mapped folder while its counts
        are in use: a change raises an error in the next pass over them, and a file that is truncated during a pass ends
        the process. `convert_counts` and `write_counts` may replace a folder that is in use.
    format : str, optional
        By default what the name says:

        - "npz", as `scipy.sparse.save_npz` writes it: .npz
        - "mtx", Matrix Market coordinates: .mtx, .mtx.gz
        - "10x-mtx", a folder with matrix.mtx, barcodes.tsv, and genes.tsv or features.tsv, gzipped or not
        - "10x-h5", of version 2 or 3: .h5
        - "h5ad" and "zarr", AnnData's X or a layer, CSR, CSC or dense: .h5ad, .zarr
        - "npy", a folder with data.npy, indices.npy and indptr.npy, as `write_counts` makes it
        - "docword", UCI's bag of words, beside it its vocabulary: docword.NAME.txt, docword.NAME.txt.gz
        - "ldac", LDA-C, beside it .tokens or .vocab, and .titles: .ldac, .lda-c
        - "svmlight", labels left out: .svmlight, .libsvm, .svm
        - "csv", "tsv" and "parquet", a line for each entry: row id, column id and count: .csv, .tsv, .csv.gz, .tsv.gz,
          .parquet. CSV follows RFC 4180, separated by commas, or by semicolons if the first line has no comma. In TSV
          quotes have no special meaning.
    layer : str, optional
        Of .h5ad and .zarr: a layer, or "raw"; of 10x Genomics' HDF5 of version 2: a genome.
    columns : two or three names, or numbers from 0, optional
        Of "csv", "tsv" and "parquet": where row id, column id and count stand; without a count each line is one.
        Needed where there are more than three columns. Lines of equal ids add up.
    header : bool, optional
        Of "csv" and "tsv": whether the first line is a header. By default it is one if `columns` has names, or if its
        count is text. Without a column of counts it is read as an entry, with a warning if it looks like a header, such
        as "user_id,item_id".
    feature_types : str or sequence of str, optional
        Of 10x Genomics' files: the types of features to read, such as "Antibody Capture", or "all". By default, if a
        file has several types, "Gene Expression", with a warning that says what is left out.
    feature_names : {"name", "id"}, default="name"
        Of 10x Genomics' files: whether columns are called by names (gene symbols), which may occur twice, or by ids.
    transpose : bool, default=False
        Swap rows and columns.

    Returns
    -------
    Dataset
        X, a CSR or CSC array; row_names and column_names, or None.

    Raises
    ------
    FileNotFoundError
        No such file.
    ImportError
        The format needs a library that is not installed: h5py, zarr or pyarrow.
    ValueError
        An unknown ending, or not a whole file of its format. No file is unpickled, and none makes more be allocated
        than its bytes can hold.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastpmf.io import read_counts
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "clicks.csv"
    >>> _ = path.write_text("user,item,count\\nada,tea,2\\nbob,tea,1\\nada,jam,1\\n")
    >>> data = read_counts(path)
    >>> data.X.toarray().tolist(), data.row_names.tolist(), data.column_names.tolist()
    ([[2, 1], [1, 0]], ['ada', 'bob'], ['tea', 'jam'])
    """
    chosen = Choices(layer, columns, header, feature_types, feature_names)
    with (
        regular_file(path) as file,
        open_counts(file, format, transpose=transpose, **chosen._asdict()) as source,
        said(file, format),
    ):
        return source.dataset()


def open_counts(
    path: str | os.PathLike[str], format: str | None = None, *, transpose: bool = False, **chosen: Any
) -> Source:
    """As `read_counts`, but entries are read on demand; the file stays open until the source is closed.

    `chosen` are fields of `Choices`. A pipe raises an error.
    """
    kind, choices = format_of(path, format), Choices(**chosen)
    if is_pipe(path):
        raise ValueError(f"{os.fspath(path)} is a pipe, which can be read once only: a file or folder is needed here")
    for name, (kinds, formats) in _GOES_WITH.items():
        if getattr(choices, name) != Choices._field_defaults[name] and kind not in kinds:
            raise ValueError(f"{name} goes with {formats} only, {os.fspath(path)} is {kind}")
    check_option(choices.feature_names, FEATURE_NAMES, "feature_names")
    with said(path, kind):
        source = FORMATS[kind].open(Path(path), choices)
    if isinstance(source, Compressed):
        types = choices.feature_types if source.place is None else choices.feature_types or GENES
        source = replace(source, location=Location(os.path.abspath(path), kind, choices.layer, feature_types=types))
    return source.turned() if transpose else source


@dataclass(frozen=True)
class Location:
    """Where counts lie, and how they are read there; another process, to which it may be sent, can open them too."""

    path: str
    format: str
    layer: str | None = None
    transpose: bool = False
    feature_types: str | Sequence[str] | None = None

    def open(self) -> Source:
        """As `open_counts`, for whoever calls it to close."""
        return open_counts(
            self.path, self.format, layer=self.layer, feature_types=self.feature_types, transpose=self.transpose
        )

    def said(self) -> AbstractContextManager[None]:
        """Within it, damage is told in one sentence that names the file."""
        return said(self.path, self.format)


def format_of(path: str | os.PathLike[str], format: str | None) -> str:
    """A key of `FORMATS`: the one given, or what the name says, of a file or folder that is there."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if format is not None:
        if format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
        return format
    name = path.name.lower()
    if path.is_dir():
        if (path / "indptr.npy").is_file():
            return "npy"
        if any((path / f"matrix.mtx{gz}").is_file() for gz in ("", ".gz")):
            return "10x-mtx"
        if any((path / mark).is_file() for mark in (".zgroup", "zarr.json")):
            return "zarr"
        raise ValueError(f"{path} is a folder without indptr.npy, matrix.mtx or zarr.json, so of no known format")
    if name.startswith("docword."):
        return "docword"
    for kind, known in FORMATS.items():
        if name.endswith(known.endings):
            return kind
    raise ValueError(
        f"{path} has no ending that says its format: {', '.join(e for f in FORMATS.values() for e in f.endings)}; "
        f"give format, one of {', '.join(FORMATS)}"
    )


@contextmanager
def said(path: str | os.PathLike[str], kind: str | None) -> Iterator[None]:
    """Whatever a damaged file makes its reader raise becomes one sentence."""
    try:
        yield
    except FileExistsError:
        raise
    except RefusedError as error:
        raise ValueError(f"{os.fspath(path)}: {_plain(error)}") from None
    except READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the system's: no room, no permission; of damaged files the libraries' own have no number
        known = FORMATS[kind or format_of(path, None)].said
        raise ValueError(
            f"{os.fspath(path)} is not a whole {known}{'' if os.path.isdir(path) else ' file'}: {_plain(error)}"
        ) from None


def _plain(error: BaseException) -> str:
    """What went wrong, on one line, without control characters that a file may have put there."""
    return printable(" ".join(str(error).split()) or type(error).__name__)[:300]


def convert_counts(
    path: str | os.PathLike[str], folder: str | os.PathLike[str], format: str | None = None, *,
    layer: str | None = None, columns: Sequence[str | int] | None = None, header: bool | None = None,
    feature_types: str | Sequence[str] | None = None, feature_names: str = "name", transpose: bool = False,
    verbose: bool = False,
) -> Dataset:  # fmt: skip
    """Write counts of any format to a folder of .npy, a chunk at a time; only scipy's .npz is read whole.

    Parameters
    ----------
    path, format, layer, columns, header, feature_types, feature_names, transpose
        As in `read_counts`.
    folder : path-like
        It appears once all is written; it must not be there, or be such a folder, which it replaces.
    verbose : bool, default=False
        Show a bar, with tqdm where it is installed.

    Returns
    -------
    Dataset
        What was written, memory-mapped.

    Raises
    ------
    FileExistsError
        `folder` is something else.
    FileNotFoundError, ImportError, ValueError
        As `read_counts` raises them.
    """
    chosen = Choices(layer, columns, header, feature_types, feature_names)
    with (
        regular_file(path) as file,
        open_counts(file, format, transpose=transpose, **chosen._asdict()) as source,
        said(file, format),
        progress_bar(None, "entry", verbose=verbose) as advance,
    ):
        return write_folder(folder, source, advance).dataset()


def write_counts(path: str | os.PathLike[str], X: Any) -> None:
    """Write counts to a folder of .npy, which `read_counts` then maps from the disk.

    Parameters
    ----------
    path : path-like
        A folder, which appears once all is written; it must not be there, or be such a folder, which it replaces.
    X : matrix of counts of shape (n, p), or Dataset
        What `as_counts` reads; a Dataset's names go with it.

    Raises
    ------
    FileExistsError
        The path is something else.
    FileNotFoundError, PermissionError
        There is no folder to write it in, or no permission.
    TypeError, ValueError
        As `as_counts` raises them.
    """
    counts = as_counts(X).to_scipy()
    names = Names(X.row_names, X.column_names) if isinstance(X, Dataset) else NAMELESS
    write_folder(path, Compressed(counts.data, counts.indices, counts.indptr, counts.shape, names=names))


def write_factor(path: str | os.PathLike[str], A: np.ndarray) -> None:
    """Write a factor as `.npy`; it replaces `path` whole or not at all."""
    check_output(path, ".npy", name="path")
    with atomic_write(path) as file:
        np.save(file, A, allow_pickle=False)


def write_table(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV; it replaces `path` whole or not at all."""
    with atomic_write(path) as file:
        file.writelines((csv_line(row) + "\n").encode() for row in (columns, *rows))


def csv_line(row: Sequence[Any]) -> str:
    """A line of CSV without its end; fields that hold a line end of any kind are quoted."""
    held = io.StringIO()
    csv.writer(held, lineterminator="\r\n").writerow(row)  # what is in its own line end is what Python quotes
    return held.getvalue().removesuffix("\r\n")
