"""AnnData's .h5ad and .zarr, read without anndata, so that rows can be read by slices.

h5py and zarr have the same interface. Shape, names and indptr are read when a file is opened. Arrays that are in other
files or would be unpickled raise errors.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from fastpmf.io.sources import CHUNK, Compressed, Coordinates, Entries, Names, Source, as_names, check_shape
from fastpmf.utils.extras import import_optional
from fastpmf.utils.memory import check_array_bytes, check_compression
from fastpmf.utils.messages import brief


class StoredVector:
    """A vector of numbers in an HDF5 file or a zarr array.

    The rest of the last chunk of a slice is stored, so that consecutive slices decompress each chunk once.
    """

    def __init__(self, A: Any) -> None:
        self._A, self._n_bytes = A, check_numbers(A, 1)
        self._chunk = max(A.chunks[0], 1) if A.chunks else 1
        self.dtype: np.dtype = A.dtype
        self._next = 0, np.zeros(0, self.dtype)  # end of the last slice, and the rest of its last chunk

    def __len__(self) -> int:
        return int(self._A.shape[0])

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        check_array_bytes(self.dtype.itemsize * (stop - start), self._n_bytes)
        values = self._next[1] if self._next[0] == start else self._next[1][:0]
        first, last = start + len(values), min(-(-stop // self._chunk) * self._chunk, len(self))
        if last > first:
            read = self._A[first:last]
            values = np.concatenate([values, read]) if len(values) else read
        rest = values[stop - start :]
        # A view keeps the whole chunk in memory; copying a large rest would be slow
        self._next = stop, rest if 2 * len(rest) > len(values) else rest.copy()
        return values[: stop - start]

    def whole(self) -> np.ndarray:
        """All of it, in memory."""
        check_array_bytes(self.dtype.itemsize * len(self), self._n_bytes)
        return self._A[...]


def h5ad(path: Path, layer: str | None = None) -> Source:
    """AnnData in HDF5: X, a layer, or raw.X for "raw" if no layer has this name; sparse or dense."""
    h5py = import_optional("h5py", "anndata", "reading .h5ad")
    return _anndata(lambda: h5py.File(path, "r"), layer)


def zarr(path: Path, layer: str | None = None) -> Source:
    """AnnData in zarr, as `h5ad`."""
    library = import_optional("zarr", "anndata", "reading zarr")
    return _anndata(lambda: nullcontext(library.open_group(str(path), mode="r")), layer)


def _anndata(open_root: Callable[[], AbstractContextManager[Any]], layer: str | None) -> Source:
    with ExitStack() as stack:
        root = stack.enter_context(open_root())
        layers = members(child(root, "layers", optional=True))
        raw = layer == "raw" and layer not in layers
        place = "X" if layer is None else "raw/X" if raw else f"layers/{layer}"
        X = child(root, place, optional=True)
        if X is None:
            layers += ["raw"] * ("raw" in members(root))
            missing = "X" if layer is None else "raw" if raw else f"layer {brief(layer)}"
            known = [*(["None for X"] if layer is not None else []), *map(brief, layers)]
            raise ValueError(f"it has no {missing}; layer may be {' or '.join(known)}")
        kind = _text(X.attrs.get("encoding-type", X.attrs.get("h5sparse_format", "array")))
        dense = hasattr(X, "shape")
        if dense:
            check_numbers(X, 2)
            check_shape(*X.shape)
        elif not kind.startswith(("csr", "csc")):
            raise ValueError(f"its {place} is a {kind}, not a sparse or dense matrix")
        shape = as_shape(X.shape if dense else X.attrs["shape" if "shape" in X.attrs else "h5sparse_shape"])
        frames = child(root, "obs"), child(root, "raw/var" if raw else "var")
        names = Names(*(
            read_names(child(frame, _text(frame.attrs.get("_index", "_index"))), n)
            for frame, n in zip(frames, shape, strict=True)
        ))  # fmt: skip
        if dense:
            return Coordinates(lambda: _dense_entries(open_root, place), lambda: (shape, names), distinct=True)
        source = Compressed(*sparse_arrays(X), shape, kind.startswith("csc"), names)
        return replace(source, file=stack.pop_all())


def _dense_entries(open_root: Callable[[], AbstractContextManager[Any]], place: str) -> Iterator[Entries]:
    """The nonzeros, a block of rows at a time that consists of whole chunks of the file."""
    with open_root() as root:
        X = root[place]
        depth = max(X.chunks[0], 1) if X.chunks else 1
        n = max(CHUNK // (depth * X.shape[1]), 1) * depth
        check_array_bytes(X.dtype.itemsize * min(n, X.shape[0]) * X.shape[1], check_array(X))
        for first in range(0, X.shape[0], n):
            block = sparse.coo_array(X[first : first + n])
            i, j = block.coords
            yield Entries(i + first, j, block.data)


def _text(attribute: Any) -> str:
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def child(group: Any, path: str, *, optional: bool = False) -> Any:
    """The member at a path of an HDF5 file or zarr store; None if there is none and it is optional."""
    for name in path.split("/"):
        if hasattr(group, "id") and type(group.get(name, getlink=True)).__name__ == "ExternalLink":
            raise ValueError(f"its {path} is in another file, which is not read")
        if optional and name not in members(group):
            return None
        group = group[name]
    return group


def members(group: Any) -> list[str]:
    """Names of the members of a group; none for anything else."""
    return list(group.keys()) if hasattr(group, "keys") else []


def sparse_arrays(group: Any) -> tuple[StoredVector, StoredVector, np.ndarray]:
    """Data and indices, which stay in the file, and indptr, which is read."""
    data, indices, indptr = (StoredVector(child(group, name)) for name in ("data", "indices", "indptr"))
    ends = indptr.whole()
    return data, indices, ends.astype(np.int64) if ends.dtype.kind in "iu" else ends


def check_numbers(A: Any, n_dimensions: int) -> int:
    """`check_array` for an array of numbers with this many dimensions."""
    n_bytes = check_array(A)
    if len(A.shape) != n_dimensions or A.dtype.kind not in "biuf":
        raise ValueError(f"its {A.name} must hold numbers in {n_dimensions} dimension(s), got {A.dtype} of {A.shape}")
    return n_bytes


def check_array(A: Any) -> int:
    """Stored bytes of an array; raises an error if reading it would read other files, run code or allocate too much."""
    if not hasattr(A, "shape"):
        raise ValueError(f"its {A.name} must be an array")
    if getattr(A, "is_virtual", False) or getattr(A, "external", None):
        raise ValueError(f"its {A.name} is in another file, which is not read")
    metadata = getattr(A, "metadata", A)  # zarr 3 has codecs there, zarr 2 in the array
    if any("pickle" in str(getattr(metadata, part, "")).lower() for part in ("filters", "compressor", "codecs")):
        raise ValueError(f"its {A.name} is stored as pickles, which are not read")
    stored = A.id.get_storage_size() if hasattr(A, "id") else A.nbytes_stored
    stored = stored() if callable(stored) else stored  # a property in zarr 2
    for shape in (A.shape, A.chunks or ()):
        check_compression(A.dtype.itemsize * math.prod(shape), stored)
    return stored


def read_names(A: Any, n: int) -> np.ndarray | None:
    """Names from an array of text; None if they are anything else, such as categories."""
    if "values" in members(A):  # and "mask" of missing values, as anndata writes text since 0.13
        A = child(A, "values")
    if not hasattr(A, "shape") or A.dtype.kind not in "OSTUbiuf":
        return None
    if A.shape != (n,):
        raise ValueError(f"its {A.name} must have {n} names, got shape {A.shape}")
    check_array(A)
    text = A.asstr("utf-8", "replace") if hasattr(A, "asstr") and A.dtype.kind in "OS" else A
    return as_names(list(map(str, text[:].tolist())))


def as_shape(shape: Any) -> tuple[int, int]:
    shape = np.asarray(shape)
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise ValueError(f"its shape must be two integers, got {shape}")
    return int(shape[0]), int(shape[1])
