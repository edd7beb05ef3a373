"""Binary formats of counts: scipy's .npz, a folder of .npy, 10x Genomics' .h5, AnnData's .h5ad and .zarr.

Scipy's is read whole when it is opened; of the others shape, names and indptr are, and the rest when it is asked for.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from fastpmf.counts.validation import wide
from fastpmf.io.sources import (
    CHUNK,
    Compressed,
    Coordinates,
    Entries,
    Names,
    RefusedError,
    Source,
    as_names,
    check_shape,
    chosen_features,
    narrowed,
)
from fastpmf.io.text import name_list
from fastpmf.utils.extras import import_optional
from fastpmf.utils.files import open_npz
from fastpmf.utils.memory import check_array_bytes, check_compression
from fastpmf.utils.messages import listed

PARTS = ("data", "indices", "indptr")
_NAMES = 1_000  # that are read at once where each may point at one and the same long text in its file
_CHUNKS = 100_000  # that an array may have though its bytes are fewer: looking for what isn't there takes time too


class Stored:
    """A vector of numbers in an HDF5 file or a zarr array, which is read by slices, or whole.

    What the last chunk of a slice holds beyond it is kept for the next, so that slices in their order unpack each chunk
    once, of whatever size chunks are.
    """

    def __init__(self, A: Any) -> None:
        self._A, self._bytes = A, _check_numbers(A, 1)
        self._chunk = max(A.chunks[0], 1) if A.chunks else 1
        self.dtype: np.dtype = A.dtype
        self._ahead = 0, np.zeros(0, self.dtype)  # where the next slice would begin, and what of it is there

    def __len__(self) -> int:
        return int(self._A.shape[0])

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        there, rest = self._ahead
        rest = rest if start == there else rest[:0]
        begin, end = start + len(rest), min(-(-stop // self._chunk) * self._chunk, len(self))
        check_array_bytes(self.dtype.itemsize * (end - start), self._bytes)
        found = rest
        if end > begin:
            found = self._A[begin:end]
            found = np.concatenate([rest, found]) if len(rest) else found
        ahead = found[stop - start :]
        # A view of the rest of a chunk holds all of it, a copy of a large one would be made time and again
        self._ahead = stop, ahead if 2 * len(ahead) > len(found) else ahead.copy()
        return found[: stop - start]

    def whole(self) -> np.ndarray:
        """All of it, in memory."""
        check_array_bytes(self.dtype.itemsize * len(self), self._bytes)
        return self._A[...]


class Mapped:
    """A vector in a .npy file, which is mapped as a whole; slices are copies, and read as any file is.

    What is touched of a mapping counts as this process's memory, what the system holds of a file it reads does not.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._all = path, np.load(path, mmap_mode="r", allow_pickle=False)
        if self._all.ndim != 1:
            raise ValueError(f"its {path.name} must be a vector, got shape {self._all.shape}")
        self.dtype: np.dtype = self._all.dtype

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        offset = self._all.offset + start * self.dtype.itemsize
        found = np.fromfile(self._path, self.dtype, stop - start, offset=offset)
        if len(found) < stop - start:
            raise ValueError(f"its {self._path.name} ends before {len(self)} numbers")
        return found

    def whole(self) -> np.ndarray:
        """All of it, mapped."""
        return self._all


def scipy_npz(path: Path) -> Compressed:
    """What `scipy.sparse.save_npz` writes, read whole: what is compressed as one piece can't be mapped."""
    with open_npz(path) as (stored, file):
        if not {"format", "shape"} <= set(stored.files):
            raise ValueError(f"it holds {', '.join(stored.files)}, not a sparse matrix")
        shape = stored["shape"]
        if shape.size != 2:
            raise ValueError(f"it holds {shape.size} dimension(s), not a matrix")
        check_shape(*_shape(shape))
        file.seek(0)
        X = sparse.load_npz(file)
    if X.format not in ("csr", "csc"):
        if X.format == "bsr":
            X.check_format(full_check=True)  # or SciPy reads and writes where its pointers say
        X = X.astype(wide(X.dtype)).tocsr()  # which adds up what stands twice
        X.data = narrowed(X.data)
    return Compressed(X.data, X.indices, X.indptr, _shape(X.shape), by_column=X.format == "csc")


def npy_folder(path: Path) -> Compressed:
    """data.npy, indices.npy and indptr.npy of a CSR matrix, memory-mapped; shape.npy, rows.txt and columns.txt, or not.

    Without shape.npy the columns end at the largest index.
    """
    if missing := [name for name in ("data.npy", "indices.npy", "indptr.npy") if not (path / name).is_file()]:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    data, indices = Mapped(path / "data.npy"), Mapped(path / "indices.npy")
    indptr = np.load(path / "indptr.npy", mmap_mode="r", allow_pickle=False)
    if indptr.ndim != 1 or len(indptr) < 2 or not len(indices):
        raise ValueError("its data, indices and indptr must be vectors, with at least one row and one count")
    if (path / "shape.npy").is_file():
        shape = _shape(np.load(path / "shape.npy", mmap_mode="r", allow_pickle=False))
    else:
        starts = range(0, len(indices), CHUNK)
        shape = len(indptr) - 1, max(int(indices[start : start + CHUNK].max()) for start in starts) + 1
    names = [
        name_list(file, n) if (file := path / f"{name}.txt").is_file() else None
        for name, n in zip(("rows", "columns"), shape, strict=True)
    ]
    return Compressed(data, indices, _pointers(indptr), shape, names=Names(*names))


def tenx_h5(path: Path, layer: str | None, feature_types: str | Sequence[str] | None, feature_names: str) -> Compressed:
    """10x Genomics' feature-barcode matrix: cells are rows here, and features columns, named by their symbols or ids.

    Files of version 2 have a group for each genome, which `layer` names where there are several.
    """
    h5py = import_optional("h5py", "anndata")
    with ExitStack() as stack:
        file = stack.enter_context(h5py.File(path, "r"))
        groups = [name for name in file if "barcodes" in _members(_at(file, name))]
        if not groups:
            raise ValueError("it has no group with barcodes, as 10x Genomics' matrices have")
        if layer is None and len(groups) > 1:
            raise RefusedError(f"it has several genomes: layer must be one of {', '.join(groups)}")
        if layer is not None and layer not in groups:
            raise RefusedError(f"layer must be one of {', '.join(groups)}, got {layer!r}")
        group = _at(file, layer or groups[0])
        typed, by_id = "features" in group, feature_names == "id"
        column = f"features/{feature_names}" if typed else "genes" if by_id else "gene_names"
        n, p = _shape(_array(_at(group, "shape")))[::-1]
        rows, columns = _names(h5py, _at(group, "barcodes"), n), _names(h5py, _at(group, column), p)
        kinds = _at(group, "features/feature_type", absent=True) if typed else None
        chosen = chosen_features(None if kinds is None else _names(h5py, kinds, p), feature_types)
        place = None
        if chosen is not None:
            place, p = np.where(chosen, np.cumsum(chosen) - 1, -1), int(chosen.sum())
            columns = None if columns is None else columns[chosen]
        found = Compressed(*_parts(group), (n, p), names=Names(rows, columns), place=place)
        return replace(found, file=stack.pop_all())  # it is whole, and closed by who has it from now on


def h5ad(path: Path, layer: str | None) -> Source:
    """AnnData on HDF5: X, the layer of this name, or raw.X for "raw" where no layer has this name.

    It may be sparse by rows or columns, or dense; a dense matrix is read as coordinates, a block of rows at a time.
    """
    h5py = import_optional("h5py", "anndata")
    return _anndata(lambda: h5py.File(path, "r"), layer, h5py)


def zarr(path: Path, layer: str | None) -> Source:
    """AnnData on zarr, as `h5ad`."""
    library = import_optional("zarr", "anndata")
    return _anndata(lambda: nullcontext(library.open_group(str(path), mode="r")), layer, library)


def _anndata(opened: Callable[[], AbstractContextManager[Any]], layer: str | None, library: Any) -> Source:
    with ExitStack() as stack:
        root = stack.enter_context(opened())
        layers = _members(_at(root, "layers", absent=True))
        raw = layer == "raw" and layer not in layers
        place = "X" if layer is None else "raw/X" if raw else f"layers/{layer}"
        X = _at(root, place, absent=True)
        if X is None:
            layers += ["raw"] * ("raw" in _members(root))
            others = f"layer may be {listed(layers)}" if layers else "it has no layers either"
            raise RefusedError(f"it has no {place}; {others if layer is None or layers else 'layer must be None'}")
        var = _at(root, "raw/var" if raw else "var")
        kind = X.attrs.get("encoding-type", X.attrs.get("h5sparse_format", "array"))
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        dense = hasattr(X, "shape")
        if not dense and not kind.startswith(("csr", "csc")):
            raise ValueError(f"its {place} is a {kind}, not a sparse or dense matrix")
        if dense:
            _check_numbers(X, 2)
            check_shape(*X.shape)
        shape = _shape(X.shape if dense else X.attrs["shape" if "shape" in X.attrs else "h5sparse_shape"])
        frames = zip((_at(root, "obs"), var), shape, strict=True)
        names = Names(*(_names(library, _at(frame, _index_of(frame)), n) for frame, n in frames))
        if dense:
            return Coordinates(lambda: _dense_entries(opened, place), lambda: (shape, names), distinct=True)
        found = Compressed(*_parts(X), shape, kind.startswith("csc"), names)
        return replace(found, file=stack.pop_all())


def _at(group: Any, path: str, *, absent: bool = False) -> Any:
    """What lies at a path of an HDF5 file or zarr store; what would lie in another file is not looked at.

    None where nothing is, if `absent` may be.
    """
    for name in filter(None, path.split("/")):
        if hasattr(group, "id") and type(group.get(name, getlink=True)).__name__ == "ExternalLink":
            raise ValueError(f"its {path} lies in another file, which is not read")
        if absent and name not in _members(group):
            return None
        group = group[name]
    return group


def _members(group: Any) -> list[str]:
    """Names of what a group holds; none where it is no group."""
    return list(group.keys()) if hasattr(group, "keys") else []


def _dense_entries(opened: Callable[[], AbstractContextManager[Any]], place: str) -> Iterator[Entries]:
    """What isn't zero, a block of rows at a time, which is whole chunks of the file."""
    with opened() as root:
        X = root[place]
        deep = max(X.chunks[0], 1) if X.chunks else 1
        n = max(CHUNK // (deep * X.shape[1]), 1) * deep
        check_array_bytes(X.dtype.itemsize * min(n, X.shape[0]) * X.shape[1], _check_inside(X))
        for first in range(0, X.shape[0], n):
            block = sparse.coo_array(X[first : first + n])
            i, j = block.coords
            yield Entries(i + first, j, block.data)


def _parts(group: Any) -> tuple[Stored, Stored, np.ndarray]:
    """Data and indices, which stay in the file, and indptr."""
    data, indices, indptr = (_at(group, name) for name in PARTS)
    return Stored(data), Stored(indices), _pointers(_array(indptr))


def _pointers(indptr: np.ndarray) -> np.ndarray:
    """An indptr in memory, in the dtype in which it can be reckoned with."""
    return np.array(indptr, np.int64) if indptr.dtype.kind in "iu" else indptr


def _index_of(frame: Any) -> str:
    """The column of a stored data frame that is its index."""
    name = frame.attrs.get("_index", "_index")
    return name.decode() if isinstance(name, bytes) else str(name)


def _array(A: Any) -> np.ndarray:
    """A stored vector of numbers, whole."""
    return Stored(A).whole()


def _check_numbers(A: Any, n_dimensions: int) -> int:
    """Turn away what isn't numbers in so many dimensions, or as `_check_inside` does; its stored bytes."""
    stored = _check_inside(A)
    if len(A.shape) != n_dimensions or A.dtype.kind not in "biuf":
        raise ValueError(f"its {A.name} must hold numbers in {n_dimensions} dimension(s), got {A.dtype} of {A.shape}")
    return stored


def _check_inside(A: Any) -> int:
    """Turn away arrays that lie in other files, would run code, or say that they are large; their stored bytes."""
    if not hasattr(A, "shape"):
        raise ValueError(f"its {A.name} must be an array")
    if getattr(A, "is_virtual", False) or getattr(A, "external", None):
        raise ValueError(f"its {A.name} lies in another file, which is not read")
    if _pickles(A):
        raise ValueError(f"its {A.name} is stored as pickles, which are not read")
    stored = A.id.get_storage_size() if hasattr(A, "id") else A.nbytes_stored
    stored = stored() if callable(stored) else stored  # zarr 2 has it as a property
    check_compression(A.dtype.itemsize * math.prod(A.shape), stored)
    if A.chunks:
        check_compression(A.dtype.itemsize * math.prod(A.chunks), stored)
        n_chunks = math.prod(-(-n // max(part, 1)) for n, part in zip(A.shape, A.chunks, strict=True))
        if n_chunks > max(_CHUNKS, stored):
            raise ValueError(f"its {A.name} says that it has {n_chunks} chunks, which its {stored:,} bytes can't be")
    return stored


def _names(library: Any, A: Any, n: int) -> np.ndarray | None:
    """Names from a stored array of text; None where they are something else, such as categories."""
    if not hasattr(A, "shape") and "values" in _members(A):  # as anndata has text from 0.13 on, beside what is missing
        A = _at(A, "values")
    if not hasattr(A, "shape") or A.dtype.kind not in "OSTUbiuf":
        return None
    if A.shape != (n,):
        raise ValueError(f"its {A.name} must have {n} names, got shape {A.shape}")
    apart = A.dtype.kind == "O" and hasattr(A, "id")  # HDF5 has text of any length elsewhere in the file
    stored = _check_inside(A) + (A.file.id.get_filesize() if apart else 0)
    check_array_bytes(A.dtype.itemsize * n, stored)
    text = A.asstr("utf-8", "replace") if library.__name__ == "h5py" and A.dtype.kind in "OS" else A
    step, names, held = _NAMES if apart else n, list[str](), 0
    for start in range(0, n, step):
        some = list(map(str, text[start : start + step].tolist()))
        held += sum(map(len, some))
        check_array_bytes(held, stored)
        names += some
    return as_names(names, stored)


def _pickles(A: Any) -> bool:
    """Whether reading a zarr array would run Python's pickle."""
    metadata = getattr(A, "metadata", A)  # of zarr 3; arrays of zarr 2 say it themselves
    return any("pickle" in str(getattr(metadata, part, "")).lower() for part in ("filters", "compressor", "codecs"))


def _shape(shape: Any) -> tuple[int, int]:
    shape = np.asarray(shape)
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise ValueError(f"its shape must be two whole numbers, got {shape}")
    return int(shape[0]), int(shape[1])
