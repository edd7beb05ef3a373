"""Layers, and columns of .obs and .var, of AnnData's .h5ad and .zarr."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastpmf.io.formats import format_of
from fastpmf.io.hdf5 import check_array, check_numbers, child, members, read_names
from fastpmf.io.sources import file_errors
from fastpmf.utils.extras import import_optional
from fastpmf.utils.files import is_pipe

FORMATS = ("h5ad", "zarr")


def is_anndata(path: str | os.PathLike[str], format: str | None = None) -> bool:
    """Whether a path is a file or store of AnnData that can be read again, unlike a pipe."""
    return os.path.exists(path) and not is_pipe(path) and format_of(path, format) in FORMATS


@contextmanager
def open_anndata(path: str | os.PathLike[str], format: str | None = None) -> Iterator[Any]:
    """The root group; any error of a damaged file is a ValueError that names it."""
    key = format_of(path, format)
    with file_errors(path, key):
        if key == "zarr":
            yield import_optional("zarr", "anndata", "reading zarr").open_group(os.fspath(path), mode="r")
            return
        with import_optional("h5py", "anndata", "reading .h5ad").File(path, "r") as root:
            yield root


def layers(path: str | os.PathLike[str], format: str | None = None) -> list[str]:
    """What `layer` of `read_counts` may be."""
    with open_anndata(path, format) as root:
        return members(child(root, "layers", optional=True)) + ["raw"] * ("raw" in members(root))


def columns(path: str | os.PathLike[str], format: str | None = None, *, frame: str = "obs") -> list[str]:
    """Names of the columns of .obs or .var."""
    with open_anndata(path, format) as root:
        group = child(root, frame)
        return [name for name in members(group) if name not in (_index(group), "__categories")]


def read_column(path: str | os.PathLike[str], name: str, format: str | None = None, *, frame: str = "obs") -> Any:
    """A column of .obs or .var, (n,): numbers, text, or a Categorical of pandas."""
    with open_anndata(path, format) as root:
        A = child(child(root, frame), name)
        if "codes" in members(A):
            codes, categories = child(A, "codes"), child(A, "categories")
            check_numbers(codes, 1)
            pandas = import_optional("pandas", "anndata", "reading categories")
            return pandas.Categorical.from_codes(codes[...], read_names(categories, categories.shape[0]))
        return _values(A)


def read_index(path: str | os.PathLike[str], format: str | None = None, *, frame: str = "obs") -> Any:
    """The names of the rows of .obs or .var, (n,)."""
    with open_anndata(path, format) as root:
        group = child(root, frame)
        return _values(child(group, _index(group)))


def _index(group: Any) -> str:
    name = group.attrs.get("_index", "_index")
    return name.decode() if isinstance(name, bytes) else str(name)


def _values(A: Any) -> Any:
    """Numbers or text, with None where a value is missing."""
    missing = child(A, "mask")[...] if "mask" in members(A) else None
    A = child(A, "values") if "values" in members(A) else A
    check_array(A)
    values = A[...] if A.dtype.kind in "biuf" else read_names(A, A.shape[0])
    if values is None:
        raise ValueError(f"its {A.name} must hold numbers or text, got {A.dtype}")
    if missing is not None and missing.any():
        values = values.astype(object)
        values[missing] = None
    return values
