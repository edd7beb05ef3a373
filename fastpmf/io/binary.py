"""Binary formats of counts: scipy's .npz, a folder of .npy, 10x Genomics' .h5, AnnData's .h5ad and .zarr."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from fastpmf._extras import needed
from fastpmf.io.sources import Compressed, Names, RefusedError, check_room

PARTS = ("data", "indices", "indptr")


def scipy_npz(path: Path) -> Compressed:
    """What `scipy.sparse.save_npz` writes."""
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
    data, indices, indptr = (np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in PARTS)
    if any(A.ndim != 1 for A in (data, indices, indptr)) or len(indptr) < 2 or not len(indices):
        raise ValueError("its data, indices and indptr must be vectors, with at least one row and one count")
    if (path / "shape.npy").is_file():
        shape = _shape(np.load(path / "shape.npy", allow_pickle=False))
    else:
        shape = len(indptr) - 1, int(indices.max()) + 1
    names = [
        np.array(file.read_text("utf-8").split("\n")[:-1]) if (file := path / f"{name}.txt").is_file() else None
        for name in ("rows", "columns")
    ]
    for found, n, name in zip(names, shape, ("rows", "columns"), strict=True):
        if found is not None and len(found) != n:
            raise ValueError(f"its {name}.txt has {len(found)} names for {n}")
    return Compressed(data, indices, np.asarray(indptr), shape, names=Names(*names))


def tenx_h5(path: Path, layer: str | None) -> Compressed:
    """10x Genomics' feature-barcode matrix: cells are rows here, and features columns, named by their symbols.

    Files of version 2 have a group for each genome, which `layer` names where there are several.
    """
    h5py = needed("h5py", "anndata")
    with h5py.File(path, "r") as file:
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
        data, indices, indptr = (_array(group[name]) for name in PARTS)
        return Compressed(data, indices, indptr, shape, names=names)


def h5ad(path: Path, layer: str | None) -> Compressed:
    """AnnData on HDF5: X, or the layer of this name, or "raw" for raw.X; sparse by rows or columns, or dense."""
    h5py = needed("h5py", "anndata")
    with h5py.File(path, "r") as file:
        return _anndata(file, layer, h5py)


def zarr(path: Path, layer: str | None) -> Compressed:
    """AnnData on zarr, as `h5ad`."""
    library = needed("zarr", "anndata")
    return _anndata(library.open_group(str(path), mode="r"), layer, library)


def _anndata(root: Any, layer: str | None, library: Any) -> Compressed:
    place = "X" if layer is None else "raw/X" if layer == "raw" else f"layers/{layer}"
    if place not in root:
        layers = [*root.get("layers", ()), *(name for name in ("raw",) if name in root)]
        raise RefusedError(f"it has no {place}; layer may be {', '.join(map(repr, layers)) or 'left out'}")
    X, var = root[place], root["raw/var" if layer == "raw" else "var"]
    kind = X.attrs.get("encoding-type", X.attrs.get("h5sparse_format", "array"))
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if hasattr(X, "shape"):  # a dense array
        held = sparse.csr_array(_array(X, 2))
        parts, shape, by_column = [held.data, held.indices, held.indptr], held.shape, False
    elif kind.startswith(("csr", "csc")):
        shape = _shape(X.attrs["shape"] if "shape" in X.attrs else X.attrs["h5sparse_shape"])
        parts, by_column = [_array(X[name]) for name in PARTS], kind.startswith("csc")
    else:
        raise ValueError(f"its {place} is a {kind}, not a sparse or dense matrix")
    names = (_names(library, frame[_index_of(frame)], n) for frame, n in zip((root["obs"], var), shape, strict=True))
    data, indices, indptr = parts
    return Compressed(data, indices, indptr, _shape(shape), by_column, Names(*names))


def _index_of(frame: Any) -> str:
    """The column of a stored data frame that is its index."""
    name = frame.attrs.get("_index", "_index")
    return name.decode() if isinstance(name, bytes) else str(name)


def _array(A: Any, n_dimensions: int = 1) -> np.ndarray:
    """A stored array of numbers, whole."""
    if len(A.shape) != n_dimensions or A.dtype.kind not in "biuf":
        raise ValueError(f"its {A.name} must hold numbers in {n_dimensions} dimension(s), got {A.dtype} of {A.shape}")
    check_room(A.dtype.itemsize * int(np.prod(A.shape, dtype=object)), _stored(A))
    return A[...]


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
