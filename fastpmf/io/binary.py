"""Binary formats of counts: scipy's .npz, a folder of .npy, 10x Genomics' .h5, AnnData's .h5ad and .zarr.

Scipy's is read whole when it is opened; of the others shape, names and indptr are, and the rest when it is asked for.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from fastpmf._extras import needed
from fastpmf.io.sources import (
    CHUNK,
    Compressed,
    Coordinates,
    Entries,
    Names,
    RefusedError,
    Source,
    check_room,
    check_shape,
    check_stored,
)

PARTS = ("data", "indices", "indptr")


class Stored:
    """A vector of numbers in an HDF5 file or a zarr array, which is read by slices, or whole.

    What the last chunk of a slice holds beyond it is kept for the next, so that slices in their order unpack each chunk
    once, of whatever size chunks are.
    """

    def __init__(self, A: Any) -> None:
        _check_numbers(A, 1)
        self._A, self._bytes, self._chunk = A, _stored(A), max(A.chunks[0], 1) if A.chunks else 1
        self.dtype: np.dtype = A.dtype
        check_stored(self.dtype.itemsize * len(self), self._bytes)
        self._rest, self._next = np.zeros(0, self.dtype), 0

    def __len__(self) -> int:
        return int(self._A.shape[0])

    def __getitem__(self, part: slice) -> np.ndarray:
        start, stop, _ = part.indices(len(self))
        rest = self._rest if start == self._next else self._rest[:0]
        begin, end = start + len(rest), min(-(-stop // self._chunk) * self._chunk, len(self))
        check_room(self.dtype.itemsize * (end - start), self._bytes)
        found = rest
        if end > begin:
            found = self._A[begin:end]
            found = np.concatenate([rest, found]) if len(rest) else found
        ahead = found[stop - start :]
        # A view of the rest of a chunk holds all of it, a copy of a large one would be made time and again
        self._rest, self._next = ahead if 2 * len(ahead) > len(found) else ahead.copy(), stop
        return found[: stop - start]

    def whole(self) -> np.ndarray:
        """All of it, in memory."""
        check_room(self.dtype.itemsize * len(self), self._bytes)
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
    if not zipfile.is_zipfile(path):
        raise ValueError("it is empty, truncated or of another kind")
    with zipfile.ZipFile(path) as archive:
        check_room(sum(member.file_size for member in archive.infolist()), path.stat().st_size)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        if "format" not in stored.files:
            raise ValueError(f"it holds {', '.join(stored.files)}, not a sparse matrix")
    X = sparse.load_npz(path)
    if X.ndim != 2:
        raise ValueError(f"it holds {X.ndim} dimension(s), not a matrix")
    if X.format not in ("csr", "csc"):
        X = X.tocsr()
    return Compressed(X.data, X.indices, X.indptr, _shape(X.shape), by_column=X.format == "csc")


def npy_folder(path: Path) -> Compressed:
    """data.npy, indices.npy and indptr.npy of a CSR matrix, memory-mapped; shape.npy, rows.txt and columns.txt, or not.

    Without shape.npy the columns end at the largest index.
    """
    data, indices = Mapped(path / "data.npy"), Mapped(path / "indices.npy")
    indptr = np.load(path / "indptr.npy", mmap_mode="r", allow_pickle=False)
    if indptr.ndim != 1 or len(indptr) < 2 or not len(indices):
        raise ValueError("its data, indices and indptr must be vectors, with at least one row and one count")
    if (path / "shape.npy").is_file():
        shape = _shape(np.load(path / "shape.npy", allow_pickle=False))
    else:
        starts = range(0, len(indices), CHUNK)
        shape = len(indptr) - 1, max(int(indices[start : start + CHUNK].max()) for start in starts) + 1
    names = [
        np.array(file.read_text("utf-8").split("\n")[:-1]) if (file := path / f"{name}.txt").is_file() else None
        for name in ("rows", "columns")
    ]
    for found, n, name in zip(names, shape, ("rows", "columns"), strict=True):
        if found is not None and len(found) != n:
            raise ValueError(f"its {name}.txt has {len(found)} names for {n}")
    return Compressed(data, indices, _pointers(indptr), shape, names=Names(*names))


def tenx_h5(path: Path, layer: str | None) -> Compressed:
    """10x Genomics' feature-barcode matrix: cells are rows here, and features columns, named by their symbols.

    Files of version 2 have a group for each genome, which `layer` names where there are several.
    """
    h5py = needed("h5py", "anndata")
    with ExitStack() as stack:
        file = stack.enter_context(h5py.File(path, "r"))
        groups = [name for name in file if isinstance(file[name], h5py.Group) and "barcodes" in file[name]]
        if not groups:
            raise ValueError("it has no group with barcodes, as 10x Genomics' matrices have")
        if layer is None and len(groups) > 1:
            raise RefusedError(f"it has several genomes: layer must be one of {', '.join(groups)}")
        if layer is not None and layer not in groups:
            raise RefusedError(f"layer must be one of {', '.join(groups)}, got {layer!r}")
        group = file[layer or groups[0]]
        features = group["features/name"] if "features" in group else group["gene_names"]
        shape = _shape(_array(group["shape"]))[::-1]
        names = Names(*(_names(h5py, A, n) for A, n in zip((group["barcodes"], features), shape, strict=True)))
        found = Compressed(*_parts(group), shape, names=names)
        return replace(found, file=stack.pop_all())  # it is whole, and closed by who has it from now on


def h5ad(path: Path, layer: str | None) -> Source:
    """AnnData on HDF5: X, or the layer of this name, or "raw" for raw.X; sparse by rows or columns, or dense.

    A dense matrix becomes coordinates, a block of rows at a time.
    """
    h5py = needed("h5py", "anndata")
    return _anndata(lambda: h5py.File(path, "r"), layer, h5py)


def zarr(path: Path, layer: str | None) -> Source:
    """AnnData on zarr, as `h5ad`."""
    library = needed("zarr", "anndata")
    return _anndata(lambda: nullcontext(library.open_group(str(path), mode="r")), layer, library)


def _anndata(opened: Callable[[], AbstractContextManager[Any]], layer: str | None, library: Any) -> Source:
    place = "X" if layer is None else "raw/X" if layer == "raw" else f"layers/{layer}"
    with ExitStack() as stack:
        root = stack.enter_context(opened())
        if place not in root:
            layers = [*root.get("layers", ()), *(name for name in ("raw",) if name in root)]
            raise RefusedError(f"it has no {place}; layer may be {', '.join(map(repr, layers)) or 'left out'}")
        X, var = root[place], root["raw/var" if layer == "raw" else "var"]
        kind = X.attrs.get("encoding-type", X.attrs.get("h5sparse_format", "array"))
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        dense = hasattr(X, "shape")
        if not dense and not kind.startswith(("csr", "csc")):
            raise ValueError(f"its {place} is a {kind}, not a sparse or dense matrix")
        if dense:
            _check_numbers(X, 2)
            check_shape(*X.shape)
            check_stored(X.dtype.itemsize * X.shape[0] * X.shape[1], _stored(X))
        shape = _shape(X.shape if dense else X.attrs["shape" if "shape" in X.attrs else "h5sparse_shape"])
        frames = zip((root["obs"], var), shape, strict=True)
        names = Names(*(_names(library, frame[_index_of(frame)], n) for frame, n in frames))
        if dense:
            return Coordinates(lambda: _dense_entries(opened, place), lambda: (shape, names), distinct=True)
        found = Compressed(*_parts(X), shape, kind.startswith("csc"), names)
        return replace(found, file=stack.pop_all())


def _dense_entries(opened: Callable[[], AbstractContextManager[Any]], place: str) -> Iterator[Entries]:
    """What isn't zero, a block of rows at a time, which is whole chunks of the file."""
    with opened() as root:
        X = root[place]
        deep = max(X.chunks[0], 1) if X.chunks else 1
        n = max(CHUNK // (deep * X.shape[1]), 1) * deep
        check_room(X.dtype.itemsize * min(n, X.shape[0]) * X.shape[1], _stored(X))
        for first in range(0, X.shape[0], n):
            block = sparse.coo_array(X[first : first + n])
            i, j = block.coords
            yield Entries(i + first, j, block.data)


def _parts(group: Any) -> tuple[Stored, Stored, np.ndarray]:
    """Data and indices, which stay in the file, and indptr."""
    data, indices, indptr = (group[name] for name in PARTS)
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


def _check_numbers(A: Any, n_dimensions: int) -> None:
    if len(A.shape) != n_dimensions or A.dtype.kind not in "biuf":
        raise ValueError(f"its {A.name} must hold numbers in {n_dimensions} dimension(s), got {A.dtype} of {A.shape}")


def _stored(A: Any) -> int:
    """Bytes that an array takes in its file."""
    return A.id.get_storage_size() if hasattr(A, "id") else A.nbytes_stored()


def _names(library: Any, A: Any, n: int) -> np.ndarray | None:
    """Names from a stored array of text; None where they are something else, such as categories."""
    if not hasattr(A, "shape") or A.shape != (n,):
        return None
    check_room(8 * n, _stored(A))
    if _pickles(A):
        raise ValueError(f"its {A.name} is stored as pickles, which are not read")
    names = A.asstr("utf-8", "replace")[:] if library.__name__ == "h5py" and A.dtype.kind in "OS" else A[:]
    return np.array(names.tolist(), dtype=str)


def _pickles(A: Any) -> bool:
    """Whether reading a zarr array would run Python's pickle."""
    metadata = getattr(A, "metadata", None)
    return "pickle" in str(getattr(metadata, "filters", "")).lower()


def _shape(shape: Any) -> tuple[int, int]:
    shape = np.asarray(shape)
    if shape.shape != (2,) or shape.dtype.kind not in "iu":
        raise ValueError(f"its shape must be two whole numbers, got {shape}")
    return int(shape[0]), int(shape[1])
