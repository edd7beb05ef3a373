"""The table of file formats, and the function that opens a file of any of them.

To add a format, write a function of a path that returns a `Source`, with the options of the format as keyword
arguments, and add it to `FORMATS`.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fastpmf.io import hdf5, npy, tables, tenx, text
from fastpmf.io.sources import Compressed, Location, Source, file_errors
from fastpmf.utils.files import is_pipe
from fastpmf.utils.messages import brief


class Format(NamedTuple):
    """A file format.

    Attributes
    ----------
    open : callable
        Called with a path and those options of the format that are not None; returns a `Source`.
    patterns : tuple of str
        Patterns of the names of its files, in lower case.
    contents : tuple of str
        Names of files; a folder of the format has at least one of them.
    options : tuple of str
        Options of `read_counts` that the format has.
    """

    open: Callable[..., Source]
    patterns: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {
    "npz": Format(npy.scipy_npz, ("*.npz",)),
    "mtx": Format(text.matrix_market, ("*.mtx", "*.mtx.gz")),
    "10x-mtx": Format(
        tenx.folder, contents=("matrix.mtx", "matrix.mtx.gz"), options=("feature_types", "feature_names")
    ),
    "10x-h5": Format(tenx.hdf5, ("*.h5",), options=("layer", "feature_types", "feature_names")),
    "h5ad": Format(hdf5.h5ad, ("*.h5ad",), options=("layer",)),
    "zarr": Format(hdf5.zarr, ("*.zarr",), ("zarr.json", ".zgroup"), ("layer",)),
    "npy": Format(npy.read_folder, contents=("indptr.npy",)),
    "docword": Format(text.bag_of_words, ("docword.*",)),
    "ldac": Format(text.lda_c, ("*.ldac", "*.lda-c", "*.ldac.gz")),
    "svmlight": Format(text.svmlight, ("*.svmlight", "*.libsvm", "*.svm")),
    "csv": Format(partial(tables.text, quoted=True), ("*.csv", "*.csv.gz"), options=("columns", "header")),
    "tsv": Format(partial(tables.text, quoted=False), ("*.tsv", "*.tsv.gz"), options=("columns", "header")),
    "parquet": Format(tables.parquet, ("*.parquet",), options=("columns",)),
}


def format_of(path: str | os.PathLike[str], format: str | None = None) -> str:
    """The key in `FORMATS` of a file or folder that exists; by default according to its name or contents."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if format is not None:
        if format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {brief(format)}")
        return format
    folder, name = path.is_dir(), path.name.lower()
    for key, known in FORMATS.items():
        if folder and any((path / member).is_file() for member in known.contents):
            return key
        if not folder and any(fnmatch(name, pattern) for pattern in known.patterns):
            return key
    if folder:
        members = ", ".join(known.contents[0] for known in FORMATS.values() if known.contents)
        raise ValueError(f"{path} is a folder, but of no known format: it has none of {members}")
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        raise ValueError(f"{path} is a spreadsheet: save it as CSV")
    raise ValueError(f"{path} has no name of a known format; give format, one of {', '.join(FORMATS)}")


def open_counts(
    path: str | os.PathLike[str], format: str | None = None, *, transpose: bool = False, **options: Any
) -> Source:
    """Counts in a file or folder, which the caller closes; parameters and errors are those of `read_counts`."""
    key = format_of(path, format)
    options = {name: value for name, value in options.items() if value is not None}
    if is_pipe(path):
        raise ValueError(f"{os.fspath(path)} is a pipe, which can be read once only: a file or folder is needed here")
    for name in options:
        if name not in FORMATS[key].options:
            known = ", ".join(other for other, known in FORMATS.items() if name in known.options)
            raise ValueError(f"{name} is an option of {known} only, and {os.fspath(path)} is {key}")
    with file_errors(path, key):
        source = FORMATS[key].open(Path(path), **options)
    if isinstance(source, Compressed) and source.in_file:
        # A file that is opened again, by other processes, selects the same types, without the warning
        types = options.get("feature_types", tenx.GENES if source.new_index is not None else None)
        source = replace(
            source, location=Location(os.path.abspath(path), key, options.get("layer"), feature_types=types)
        )
    return source.transposed() if transpose else source
