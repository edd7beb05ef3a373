"""Files of counts in each format: how they are written, and the library that people read them with.

Where a format has a library of its own, that one writes it. Libraries are imported when they are called.
"""

import gzip
import io
import shutil
from collections.abc import Callable
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.io import mmread, mmwrite
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from fastpmf.io import write_counts


class Case(NamedTuple):
    """A format: its file, how that is written, and who else reads it, to a sparse matrix that is compressed."""

    file: str
    write: Callable[[Path, sparse.csr_array], Any]
    library: str  # the incumbent
    function: str
    read: Callable[[Path], Any]
    needs: tuple[str, ...] = ()  # libraries that write it, or that fastpmf reads it with
    renumbered: bool = False  # ids get numbers as they come


def version(library: str) -> str | None:
    """What is installed; None if nothing is."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def call(library: str, function: str, *arguments: Any, **options: Any) -> Any:
    """What a function of a library returns."""
    return getattr(import_module(library), function)(*arguments, **options)


def names(kind: str, n: int) -> list[str]:
    """Names for n rows or columns."""
    return [f"{kind}{i:07d}" for i in range(n)]


def lines_of(words: list[str]) -> bytes:
    """A line for each."""
    return "".join(f"{word}\n" for word in words).encode()


def write_tenx_folder(path: Path, X: sparse.csr_array) -> None:
    """Of version 3: genes are rows, and all is gzipped."""
    path.mkdir()
    zipped = partial(gzip.open, mode="wb", compresslevel=6)
    with zipped(path / "matrix.mtx.gz") as file:
        mmwrite(file, X.T)
    with zipped(path / "barcodes.tsv.gz") as file:
        file.write(lines_of(names("cell", X.shape[0])))
    with zipped(path / "features.tsv.gz") as file:
        file.write(lines_of([f"{name}\t{name}\tGene Expression" for name in names("gene", X.shape[1])]))


def write_tenx_h5(path: Path, X: sparse.csr_array) -> None:
    """Of version 3, in Cell Ranger's dtypes."""
    cells, genes = (np.array(names(kind, m), "S") for kind, m in zip(("cell", "gene"), X.shape, strict=True))
    kinds = dict.fromkeys(("feature_type", "genome"), np.full(len(genes), b"Gene Expression"))
    stored = {f"features/{name}": array for name, array in ({"id": genes, "name": genes} | kinds).items()}
    stored |= {"data": X.data, "indices": X.indices.astype(np.int64), "indptr": X.indptr.astype(np.int64)}
    with call("h5py", "File", path, "w") as file:
        for name, array in (stored | {"barcodes": cells}).items():
            file.create_dataset(f"matrix/{name}", data=array, compression="gzip")
        file["matrix/shape"] = np.array(X.shape[::-1], np.int32)


def write_anndata(path: Path, X: sparse.csr_array, method: str, **options: Any) -> None:
    """In float32, as is the custom."""
    sides = zip(("cell", "gene"), X.shape, strict=True)
    obs, var = (call("pandas", "DataFrame", index=names(kind, m)) for kind, m in sides)
    getattr(call("anndata", "AnnData", sparse.csr_matrix(X.astype(np.float32)), obs, var), method)(path, **options)


def write_docword(path: Path, X: sparse.csr_array) -> None:
    """The lines of Matrix Market under another head; the vocabulary beside it."""
    held = io.BytesIO()
    mmwrite(held, X)
    held.seek(0)
    while held.readline().startswith(b"%"):
        pass  # the first line after these has the sizes, and is the last of the head
    with path.open("wb") as file:
        file.write(b"%d\n%d\n%d\n" % (*X.shape, X.nnz))
        shutil.copyfileobj(held, file)
    path.with_name("vocab.counts.txt").write_bytes(lines_of(names("word", X.shape[1])))


def write_ldac(path: Path, X: sparse.csr_array) -> None:
    """The lines of svmlight, with the number of words for a label; the vocabulary beside it."""
    dump_svmlight_file(X, np.diff(X.indptr), str(path), zero_based=True)
    path.with_name("counts.vocab").write_bytes(lines_of(names("word", X.shape[1])))


def write_svmlight(path: Path, X: sparse.csr_array) -> None:
    """All labels are 0, and columns count from 1."""
    dump_svmlight_file(X, np.zeros(X.shape[0], int), str(path), zero_based=False)


def frame_of(X: sparse.csr_array, *, text: bool) -> Any:
    """A line for each nonzero, with ids that are text or whole numbers."""
    M, sides = X.tocoo(), zip(("user", "item"), X.shape, strict=True)
    i, j = (np.array(names(kind, m)) if text else 7 * np.arange(m) for kind, m in sides)
    return call("pandas", "DataFrame", {"user": i[M.row], "item": j[M.col], "count": M.data})


def of_frame(frame: Any) -> sparse.csr_array:
    """The matrix of such lines, as one makes it with pandas and scipy."""
    (i, users), (j, items) = (call("pandas", "factorize", frame.iloc[:, c]) for c in (0, 1))
    return sparse.coo_array((frame.iloc[:, 2], (i, j)), shape=(len(users), len(items))).tocsr()


def map_folder(path: Path) -> sparse.csr_array:
    """The three arrays, memory-mapped."""
    arrays = (np.load(path / f"{name}.npy", mmap_mode="r") for name in ("data", "indices", "indptr"))
    return sparse.csr_array(tuple(arrays), shape=tuple(np.load(path / "shape.npy")))


def read_corpus(kind: str, path: Path, vocabulary: str) -> Any:
    """gensim's corpus of a file, as a matrix."""
    corpus = call("gensim.corpora", kind, str(path), str(path.with_name(vocabulary)))
    return call("gensim.matutils", "corpus2csc", corpus).T


CASES = {
    "npz": Case("counts.npz", sparse.save_npz, "scipy", "load_npz", sparse.load_npz),
    "mtx": Case("counts.mtx", mmwrite, "scipy", "mmread", lambda path: mmread(path, spmatrix=False).tocsr()),
    "10x-mtx": Case(
        "folder", write_tenx_folder, "scanpy", "read_10x_mtx", lambda path: call("scanpy", "read_10x_mtx", path).X
    ),
    "10x-h5": Case(
        "counts.h5", write_tenx_h5, "scanpy", "read_10x_h5", lambda path: call("scanpy", "read_10x_h5", path).X,
        ("h5py",),
    ),
    "h5ad": Case(
        "counts.h5ad", partial(write_anndata, method="write_h5ad"),
        "anndata", "read_h5ad", lambda path: call("anndata", "read_h5ad", path).X, ("anndata",),
    ),
    "h5ad.gz": Case(
        "counts.h5ad", partial(write_anndata, method="write_h5ad", compression="gzip"),
        "anndata", "read_h5ad", lambda path: call("anndata", "read_h5ad", path).X, ("anndata",),
    ),
    "zarr": Case(
        "counts.zarr", partial(write_anndata, method="write_zarr"),
        "anndata", "read_zarr", lambda path: call("anndata", "read_zarr", path).X, ("anndata", "zarr"),
    ),
    "npy": Case("folder", write_counts, "numpy", "load, mapped", map_folder),
    "docword": Case(
        "docword.counts.txt", write_docword,
        "gensim", "UciCorpus", lambda path: read_corpus("UciCorpus", path, "vocab.counts.txt"),
    ),
    "ldac": Case(
        "counts.ldac", write_ldac, "gensim", "BleiCorpus", lambda path: read_corpus("BleiCorpus", path, "counts.vocab")
    ),
    "svmlight": Case(
        "counts.svmlight", write_svmlight,
        "scikit-learn", "load_svmlight_file", lambda path: load_svmlight_file(str(path))[0],
    ),
    "csv": Case(
        "counts.csv", lambda path, X: frame_of(X, text=True).to_csv(path, index=False),
        "pandas", "read_csv", lambda path: of_frame(call("pandas", "read_csv", path)), ("pandas",), True,
    ),
    "tsv": Case(
        "counts.tsv", lambda path, X: frame_of(X, text=False).to_csv(path, index=False, header=False, sep="\t"),
        "pandas", "read_csv", lambda path: of_frame(call("pandas", "read_csv", path, sep="\t", header=None)),
        ("pandas",), True,
    ),
    "parquet": Case(
        "counts.parquet", lambda path, X: frame_of(X, text=True).to_parquet(path, index=False),
        "pandas", "read_parquet", lambda path: of_frame(call("pandas", "read_parquet", path)),
        ("pandas", "pyarrow"), True,
    ),
}  # fmt: skip
