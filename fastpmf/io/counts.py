"""Count matrices read from files, streamed from them, and written to folders of .npy."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.core.counts import Side
from fastpmf.counts import Dataset, MemoryCounts, SparseRows, as_counts
from fastpmf.counts.labels import warn_of_duplicates
from fastpmf.counts.partition import blocks_of
from fastpmf.counts.streamed import StreamedCounts
from fastpmf.io.formats import format_of, open_counts
from fastpmf.io.npy import check_target, write_folder
from fastpmf.io.sources import NAMELESS, Compressed, Names, Source, file_errors
from fastpmf.utils.files import regular_file
from fastpmf.utils.progress import progress_bar, stage
from fastpmf.utils.validation import is_dataframe

BLOCK = 1 << 23  # entries of a block, about 50 MB; the overhead of a block is then negligible
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # data, indices and indptr


def read_counts(
    path: str | os.PathLike[str], format: str | None = None, *, layer: str | None = None,
    columns: Sequence[str | int] | None = None, header: bool | None = None,
    feature_types: str | Sequence[str] | None = None, feature_names: str | None = None, transpose: bool = False,
) -> Dataset:  # fmt: skip
    """Read a sparse matrix of counts, with the names of its rows and columns where the file has them.

    Rows are cells, documents, users; columns are genes, words, items. 10x Genomics' files, which have genes as rows,
    are transposed.

    Parameters
    ----------
    path : path-like
        A file, a folder, or a pipe, which is copied to a temporary file first. Text may be gzipped. Folders of .npy are
        memory-mapped; all other formats are read into memory. Do not change a memory-mapped folder while its counts
        are in use: a change raises an error in the next pass over them, and truncating a file during a pass ends the
        process. `convert_counts` and `write_counts` may replace a folder that is in use.
    format : str, optional
        By default according to the name, or the contents of a folder:

        - "npz", as `scipy.sparse.save_npz` writes it: .npz
        - "mtx", Matrix Market: .mtx, .mtx.gz
        - "10x-mtx", a folder with matrix.mtx, barcodes.tsv, and genes.tsv or features.tsv, gzipped or not
        - "10x-h5", of version 2 or 3: .h5
        - "h5ad" and "zarr", AnnData's X or a layer, CSR, CSC or dense: .h5ad, .zarr
        - "npy", a folder with data.npy, indices.npy and indptr.npy, as `write_counts` makes it
        - "docword", UCI's bag of words, with vocab.NAME.txt in its folder: docword.NAME.txt, docword.NAME.txt.gz
        - "ldac", LDA-C, with .tokens or .vocab, and .titles, in its folder: .ldac, .lda-c, .ldac.gz
        - "svmlight", whose labels are ignored: .svmlight, .libsvm, .svm
        - "csv", "tsv" and "parquet", a line for each entry: row id, column id and count: .csv, .tsv, .csv.gz, .tsv.gz,
          .parquet. CSV follows RFC 4180, separated by commas, or by semicolons if the first line has no comma. In TSV
          quotes have no special meaning.
    layer : str, optional
        For "h5ad" and "zarr": a layer, or "raw"; for "10x-h5" of version 2: a genome.
    columns : two or three names, or numbers from 0, optional
        For "csv", "tsv" and "parquet": the columns of row ids, column ids and counts. Without counts, each line is a
        count of 1. Needed if there are more than three columns. The counts of lines with equal ids are summed.
    header : bool, optional
        For "csv" and "tsv": whether the first line is a header. By default it is one if `columns` has names, or if its
        count is text. Without a column of counts, the first line is by default read as an entry, with a warning if it
        looks like a header, such as "user_id,item_id".
    feature_types : str or sequence of str, optional
        For 10x Genomics' files: the types of features to read, such as "Antibody Capture", or "all". By default, if a
        file has several types, "Gene Expression", with a warning that lists what is left out.
    feature_names : {"name", "id"}, optional
        For 10x Genomics' files: whether columns are named by gene symbols (default), which may not be unique, or ids.
    transpose : bool, default=False
        Swap rows and columns.

    Returns
    -------
    Dataset
        X, a CSR or CSC array; row_names and column_names, or None.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the format needs a library that is not installed: h5py, zarr or pyarrow.
    ValueError
        If the format is unknown, an option is invalid for it, or the file is damaged. No file is unpickled.

    See Also
    --------
    fastpmf.io.stream_counts : counts larger than memory.
    fastpmf.io.convert_counts : to a format that is read without a copy.

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
    _check_path(path)
    with stage(f"reading {path}"), _opened(
        path, format, layer=layer, columns=columns, header=header, feature_types=feature_types,
        feature_names=feature_names, transpose=transpose,
    ) as source:  # fmt: skip
        return source.to_dataset()


def _check_path(path: Any) -> None:
    if not isinstance(path, str | os.PathLike):
        advice = "; for a table in memory use Dataset.from_entries" if is_dataframe(path) else ""
        raise TypeError(f"path must be the path of a file or folder, got a {type(path).__name__}{advice}")


@contextmanager
def _opened(path: str | os.PathLike[str], format: str | None, **options: Any) -> Iterator[Source]:
    """`open_counts` of a file, or of a temporary copy of a pipe, and `file_errors` for it."""
    with regular_file(path) as file:
        key = format_of(file, format)
        with open_counts(file, key, **options) as source, file_errors(file, key):
            yield source


def convert_counts(
    path: str | os.PathLike[str], folder: str | os.PathLike[str], format: str | None = None, *,
    layer: str | None = None, columns: Sequence[str | int] | None = None, header: bool | None = None,
    feature_types: str | Sequence[str] | None = None, feature_names: str | None = None, transpose: bool = False,
    verbose: bool = False,
) -> Dataset:  # fmt: skip
    """Write counts of any format to a folder of .npy, which `read_counts` then maps into memory.

    CSV, TSV, Parquet, HDF5 and zarr are read a chunk at a time, the other formats whole.

    Parameters
    ----------
    path, format, layer, columns, header, feature_types, feature_names, transpose
        As in `read_counts`.
    folder : path-like
        It appears when it is complete. It must not exist, or be such a folder, which it replaces.
    verbose : bool, default=False
        Show a progress bar (lines without tqdm or a terminal) on standard error.

    Returns
    -------
    Dataset
        The counts in the folder, memory-mapped.

    Raises
    ------
    FileExistsError
        If `folder` is something else.
    FileNotFoundError, ImportError, PermissionError, ValueError
        As in `read_counts`, or if the folder can't be written.

    Warns
    -----
    UserWarning
        If names of columns are not unique.

    See Also
    --------
    fastpmf.io.write_counts : writes counts in memory.
    fastpmf.io.stream_counts : reads a folder block by block.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastpmf.io import convert_counts, read_counts
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "clicks.csv").write_text("user,item,clicks\\nada,tea,2\\nbob,jam,1\\n")
    >>> counts = convert_counts(folder / "clicks.csv", folder / "counts")
    >>> read_counts(folder / "counts").row_names.tolist()
    ['ada', 'bob']
    """
    _check_path(path)
    check_target(folder)
    with (
        _opened(
            path, format, layer=layer, columns=columns, header=header, feature_types=feature_types,
            feature_names=feature_names, transpose=transpose,
        ) as source,
        progress_bar(None, "entries", verbose=verbose) as progress,
    ):  # fmt: skip
        data = write_folder(folder, source, progress.update).to_dataset()
    warn_of_duplicates(data.column_names, os.fspath(path))
    return data


def write_counts(path: str | os.PathLike[str], X: Any) -> None:
    """Write counts to a folder of .npy, which `read_counts` then maps into memory.

    Parameters
    ----------
    path : path-like
        A folder, which appears when it is complete. It must not exist, or be such a folder, which it replaces.
    X : matrix of counts of shape (n, p), or Dataset
        As in `as_counts`; the names of a Dataset are written too.

    Raises
    ------
    FileExistsError
        If the path is something else.
    FileNotFoundError, PermissionError
        If the folder can't be written.
    TypeError, ValueError
        As in `as_counts`.

    See Also
    --------
    fastpmf.io.read_counts : reads them.
    fastpmf.io.convert_counts : converts files.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastpmf.io import read_counts, write_counts
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "counts"
    >>> write_counts(folder, [[4, 0, 2], [0, 3, 0]])
    >>> read_counts(folder).X.shape
    (2, 3)
    """
    check_target(path)
    counts = as_counts(X).to_scipy()
    names = Names(X.row_names, X.column_names) if isinstance(X, Dataset) else NAMELESS
    with stage(f"writing {os.fspath(path)}"):
        write_folder(path, Compressed(counts.data, counts.indices, counts.indptr, counts.shape, names=names))


def stream_counts(
    path: str | os.PathLike[str], format: str | None = None, *, layer: str | None = None,
    feature_types: str | Sequence[str] | None = None, feature_names: str | None = None, transpose: bool = False,
    block_entries: int = BLOCK, n_threads: int | None = None,
) -> Dataset:  # fmt: skip
    """Counts that a fit reads from their file in each pass, with two blocks in memory at a time.

    The file is read once here, to check it, and must not change afterwards.

    Parameters
    ----------
    path, format, layer, feature_types, feature_names, transpose
        As in `read_counts`, for formats that can be read by rows or columns: folders of .npy ("npy"), sparse .h5ad and
        .zarr, and 10x Genomics' .h5. Compressed files are decompressed in each pass, so a folder of .npy, which
        `convert_counts` makes of any format, is fastest. Counts stored by columns (CSC) are streamed by columns.
    block_entries : int, default=8388608
        Maximum number of nonzeros in a block, unless a row has more.
    n_threads : int, optional
        Threads to use for the first pass.

    Returns
    -------
    Dataset
        X, a `StreamedCounts`, for `fit`, `transform` and `score`; row_names and column_names, or None.

    Raises
    ------
    FileNotFoundError, ImportError
        As in `read_counts`.
    ValueError
        If the file is damaged or a pipe, or its format can't be streamed.

    See Also
    --------
    StreamedCounts : the counts that it returns.
    fastpmf.io.convert_counts : makes folders of .npy.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastpmf import PoissonNMF, datasets
    >>> from fastpmf.io import stream_counts, write_counts
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "counts"
    >>> write_counts(folder, datasets.make_poisson_counts(500, 40, 3, nnz=5_000, random_state=0).X)
    >>> X = stream_counts(folder, block_entries=1000)
    >>> PoissonNMF(n_components=3, random_state=0).fit(X).components_.shape
    (3, 40)
    """
    _check_path(path)
    check_scalar(block_entries, "block_entries", (int, np.integer), min_val=1)
    source = open_counts(
        path, format, layer=layer, feature_types=feature_types, feature_names=feature_names, transpose=transpose
    )
    if not isinstance(source, Compressed) or not source.in_file:
        source.close()
        raise ValueError(
            f"{os.fspath(path)} can't be streamed, since its format can't be read by rows: write it to a folder with "
            "convert_counts or `fastpmf convert`"
        )
    stamps = _stamps(Path(path))
    canonical = False  # whether all blocks were checked and needed no conversion

    def read() -> Iterator[MemoryCounts]:
        nonlocal canonical
        if _stamps(Path(path)) != stamps:
            raise ValueError(f"{os.fspath(path)} was changed since it was read for the first time")
        unchanged = True
        for arrays in _blocks(source, block_entries):
            if canonical:
                yield MemoryCounts(SparseRows(*arrays, source.shape[1 - source.by_column]))
            else:
                block = _checked(arrays, source)
                unchanged = unchanged and _shares_arrays(block.side(Side.ROWS), *arrays)
                yield block
        canonical = canonical or unchanged

    with stage(f"reading {os.fspath(path)} for the first time"):
        counts = StreamedCounts(read, by_column=source.by_column, n_threads=n_threads)
    return Dataset(counts, *source.names)


def blocks_from(source: Compressed, n_entries: int, start: int = 0, stop: int | None = None) -> Iterator[MemoryCounts]:
    """The rows start:stop of a source, or its columns if it is stored by columns, in blocks, checked."""
    for arrays in _blocks(source, n_entries, start, stop):
        yield _checked(arrays, source)


def _blocks(source: Compressed, n_entries: int, start: int = 0, stop: int | None = None) -> Iterator[Arrays]:
    ends = source.indptr[start : len(source.indptr) if stop is None else stop + 1]
    for first, last in pairwise((start + blocks_of(ends, n_entries)).tolist()):
        yield source.rows(first, last)


def _checked(arrays: Arrays, source: Compressed) -> MemoryCounts:
    return as_counts(arrays, shape=(len(arrays[2]) - 1, source.shape[1 - source.by_column]))


def _shares_arrays(X: SparseRows, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> bool:
    """Whether X consists of these arrays, unchanged."""
    pairs = (X.data, data), (X.indices, indices)
    same = (A.dtype == B.dtype and len(A) == len(B) and np.may_share_memory(A, B) for A, B in pairs)
    return indptr.dtype == np.int64 and all(same)


def _stamps(path: Path) -> list[tuple[int, int]]:
    """Times of the last write and lengths of a file, or of the files in a folder."""
    files = sorted(path.glob("*")) if path.is_dir() else [path]
    return [(stat.st_mtime_ns, stat.st_size) for stat in map(os.stat, files)]
