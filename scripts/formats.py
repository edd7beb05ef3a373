"""Seconds and memory to read counts from each file format: fastpmf, and the library usually used for it."""

import argparse
import gzip
import math
import multiprocessing
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import common
import numpy as np
from scipy import sparse
from scipy.io import mmread, mmwrite
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from fastpmf import as_counts
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import convert_counts, read_counts, write_counts

DESCRIPTION = """\
Draw counts from the model, one entry in a hundred nonzero, and write them in each format. Then read the file with
fastpmf.io.read_counts, and with the library usually used for the format, to a compressed sparse matrix: scipy
compresses coordinates, and pandas.factorize numbers ids. Both are interleaved with fastpmf.io.convert_counts, which
writes a folder that is memory-mapped, after each has read a small file. Seconds are medians over --repeats; the ratio
is the library's seconds over those of read_counts. "as_counts" is the time to validate the converted folder before a
fit. Files are in the system's page cache, so the speed of the disk is not measured.

Peak memory is that of a call beyond its process before, in a new process that has read the small file. Pages of
memory-mapped arrays are included while they are in memory, although the system can free them.

The study ends with an error unless all readers return the same matrix: the same sum, nonzeros, and product u X v with
integer u and v. A dash stands for a library that is not installed.
"""
EXAMPLES = """\
  python scripts/formats.py --nnz 1e6
  python scripts/formats.py --formats mtx csv parquet --repeats 5 --folder /scratch
"""
SMALL = 200  # rows of the file that is read first
OURS, CONVERT, THEIRS = "read_counts", "convert_counts", "theirs"


class Format(NamedTuple):
    """A format: its file, how it is written, and the library that reads it."""

    file: str
    write: Callable[[Path, sparse.csr_array], Any]
    library: str
    function: str
    read: Callable[[Path], Any]
    needs: tuple[str, ...] = ()  # libraries that write it, or that fastpmf reads it with
    renumbered: bool = False  # ids are numbered in order of first occurrence


SHOWN = "format file_mib seconds library_seconds ratio peak_mib library_peak_mib convert_seconds as_counts_seconds"


class Row(NamedTuple):
    """A row of the table. Sizes and peaks are in MiB; those of a library that is not installed are NaN."""

    counts: str
    format: str
    library: str
    file_mib: float
    seconds: float
    library_seconds: float
    ratio: float
    peak_mib: float
    library_peak_mib: float
    convert_seconds: float
    convert_peak_mib: float
    as_counts_seconds: float
    nonzeros: int
    total: float


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION, EXAMPLES)
    parser.shared(repeats=3, seed=0, clock="wall")
    parser.option("--nnz", "nonzeros", 10_000_000, type=common.number(int, 10_000))
    parser.option("--formats", "formats", [*FORMATS], choices=FORMATS)
    parser.option("--folder", "for the files", tempfile.gettempdir())
    arguments = parser.parse_args()
    if not Path(arguments.folder).is_dir():
        parser.error(f"--folder must be a folder that exists, got {arguments.folder}")
    warnings.simplefilter("ignore")
    n, p = (round(side * math.sqrt(arguments.nnz / 1e7)) for side in (50_000, 20_000))
    # int32, which all libraries write; skewed, as words and genes are
    X = make_poisson_counts(n, p, nnz=arguments.nnz, skew=0.5, random_state=arguments.seed).X.astype(np.int32)
    load, names = common.warning_of_load(), list(dict.fromkeys(arguments.formats))
    batches = measure_all(names, X, arguments)
    rows = common.collect(batches, len(names), arguments, unit="format", counts={"drawn": X}, show=SHOWN)
    if not rows:
        parser.error("the libraries that --formats need are not installed")
    return common.conclude(arguments, partial(plot, rows), [*verdict(rows), *load], (7, 1 + 0.5 * len(rows)))


def measure_all(names: list[str], X: sparse.csr_array, arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Every format whose libraries are installed."""
    for name in names:
        if missing := [library for library in FORMATS[name].needs if common.version_of(library) is None]:
            common.echo(f"{name}: left out, {', '.join(missing)} is not installed")
            yield []
        else:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                yield [measure(name, X, Path(folder), arguments.repeats, arguments.clock)]


def measure(name: str, X: sparse.csr_array, folder: Path, repeats: int, clock: str) -> Row:
    """Write one format, check that all readers return the same matrix, and time them."""
    form = FORMATS[name]
    for place, part in (("small", X[:SMALL]), ("large", X)):
        (folder / place).mkdir()
        form.write(folder / place / form.file, part)
    size = sum(path.stat().st_size for path in (folder / "large").rglob("*") if path.is_file())
    readers = [OURS, CONVERT, *([THEIRS] if common.version_of(form.library) else [])]
    for reader in readers:
        as_counts(read(name, reader, folder / "small"))
    prints = {reader: fingerprint(read(name, reader, folder / "large")) for reader in readers}
    drawn, comparable = fingerprint(X), slice(2 if form.renumbered else 3)
    if len({*prints.values()}) > 1 or prints[OURS][comparable] != drawn[comparable]:
        raise ValueError(f"{name} is not read as it was written: sum, nonzeros and u X v are {prints}, not {drawn}")
    found: dict[str, list[float]] = {reader: [] for reader in (*readers, "as_counts")}
    for _ in range(repeats):
        for reader in readers:
            matrix, seconds = common.timed(partial(read, name, reader, folder / "large"), clock)
            found[reader].append(seconds)
            if reader == CONVERT:
                found["as_counts"].append(common.timed(partial(as_counts, matrix), clock)[1])
            del matrix  # before the next one reads
    # Two at a time, since a peak does not depend on other processes
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
        peaks = dict(zip(readers, pool.starmap(peak, [(name, r, folder) for r in readers], chunksize=1), strict=True))
    middle = {reader: median(seconds) for reader, seconds in found.items()}
    theirs = middle.get(THEIRS, math.nan)
    library = f"{form.library} {common.version_of(form.library) or '-'} {form.function}"
    return Row(
        "drawn", name, library, size / 2**20, middle[OURS], theirs, theirs / middle[OURS], peaks[OURS],
        peaks.get(THEIRS, math.nan), middle[CONVERT], peaks[CONVERT], middle["as_counts"], X.nnz, drawn[0],
    )  # fmt: skip


def read(name: str, reader: str, folder: Path) -> Any:
    """The matrix in a file, read by one of the readers."""
    path = folder / FORMATS[name].file
    if reader == THEIRS:
        return FORMATS[name].read(path)
    return (read_counts(path) if reader == OURS else convert_counts(path, folder.with_suffix(".npy"))).X


def peak(name: str, reader: str, folder: Path) -> float:
    """Peak memory of reading in MiB, in a process that has read the small file."""
    warnings.simplefilter("ignore")
    read(name, reader, folder / "small")
    return common.peak_memory(partial(read, name, reader, folder / "large")) / 2**20


def fingerprint(X: Any) -> tuple[float, int, float]:
    """Sum, nonzeros and u X v, exact in float64; empty rows and columns at the end change nothing."""
    u, v = (np.arange(1.0, m + 1) % prime for m, prime in zip(X.shape, (8191, 4093), strict=True))
    return float(X.sum(dtype=np.float64)), int(X.nnz), float(u @ (X.astype(np.float64) @ v))


def verdict(rows: list[Row]) -> list[str]:
    """How many formats are read faster, and with how much memory."""
    both = [row for row in rows if row.ratio == row.ratio]
    if not both:
        return ["None of the other libraries is installed."]
    peaks = [row.library_peak_mib / row.peak_mib for row in both if row.peak_mib > 0] or [math.nan]
    lowest = min(both, key=lambda row: row.ratio)
    return [
        f"fastpmf reads {sum(row.ratio >= 1 for row in both)} of {len(both)} formats faster. The other libraries take "
        f"{common.format_range((row.ratio for row in both), '.2f')} times as long (lowest: {lowest.format}).",
        f"Their peak memory is {common.format_range(peaks, '.2f')} times that of fastpmf.",
    ]


def plot(rows: list[Row], figure: Any) -> None:
    """Seconds to read: a pair of bars for each format."""
    axes = figure.subplots()
    for i, (label, column) in enumerate((("fastpmf", "seconds"), ("library", "library_seconds"))):
        axes.barh([y + 0.4 * i for y in range(len(rows))], [getattr(row, column) for row in rows], 0.4, label=label)
    axes.set_yticks([y + 0.2 for y in range(len(rows))], [f"{r.format}\n{r.library}" for r in rows], fontsize="small")
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="seconds to read")
    axes.legend()


# Writers and readers of the formats; libraries are imported when they are called


def call(library: str, function: str, *arguments: Any, **options: Any) -> Any:
    """Call a function of a library."""
    return getattr(import_module(library), function)(*arguments, **options)


def names_of(kind: str, n: int) -> list[str]:
    """Names for n rows or columns."""
    return [f"{kind}{i:07d}" for i in range(n)]


def write_lines(path: Path, words: list[str], opener: Callable = open) -> None:
    """A line for each word."""
    with opener(path, "wb") as file:
        file.write("".join(f"{word}\n" for word in words).encode())


def write_tenx_folder(path: Path, X: sparse.csr_array) -> None:
    """A folder of version 3: genes are rows, and all files are gzipped."""
    path.mkdir()
    zipped = partial(gzip.open, compresslevel=6)
    with zipped(path / "matrix.mtx.gz", "wb") as file:
        mmwrite(file, X.T)
    write_lines(path / "barcodes.tsv.gz", names_of("cell", X.shape[0]), zipped)
    genes = [f"{name}\t{name}\tGene Expression" for name in names_of("gene", X.shape[1])]
    write_lines(path / "features.tsv.gz", genes, zipped)


def write_tenx_h5(path: Path, X: sparse.csr_array) -> None:
    """A file of version 3, with Cell Ranger's dtypes."""
    cells, genes = (np.array(names_of(kind, m), "S") for kind, m in zip(("cell", "gene"), X.shape, strict=True))
    kinds = dict.fromkeys(("feature_type", "genome"), np.full(len(genes), b"Gene Expression"))
    stored = {f"features/{name}": array for name, array in ({"id": genes, "name": genes} | kinds).items()}
    stored |= {"data": X.data, "indices": X.indices.astype(np.int64), "indptr": X.indptr.astype(np.int64)}
    with call("h5py", "File", path, "w") as file:
        for name, array in (stored | {"barcodes": cells}).items():
            file.create_dataset(f"matrix/{name}", data=array, compression="gzip")
        file["matrix/shape"] = np.array(X.shape[::-1], np.int32)


def write_anndata(path: Path, X: sparse.csr_array, method: str, **options: Any) -> None:
    """An AnnData file with float32 counts, as is usual."""
    sides = zip(("cell", "gene"), X.shape, strict=True)
    obs, var = (call("pandas", "DataFrame", index=names_of(kind, m)) for kind, m in sides)
    getattr(call("anndata", "AnnData", sparse.csr_matrix(X.astype(np.float32)), obs, var), method)(path, **options)


def write_docword(path: Path, X: sparse.csr_array) -> None:
    """Three lines of sizes, then a line for each entry; and a file of the vocabulary."""
    M = X.tocoo()
    with path.open("wb") as file:
        file.write(b"%d\n%d\n%d\n" % (*X.shape, X.nnz))
        np.savetxt(file, np.column_stack([M.row + 1, M.col + 1, M.data]), fmt="%d")
    write_lines(path.with_name("vocab.counts.txt"), names_of("word", X.shape[1]))


def write_ldac(path: Path, X: sparse.csr_array) -> None:
    """The lines of svmlight, with the number of words as label; and a file of the vocabulary."""
    dump_svmlight_file(X, np.diff(X.indptr), str(path), zero_based=True)
    write_lines(path.with_name("counts.vocab"), names_of("word", X.shape[1]))


def frame_of(X: sparse.csr_array, *, text: bool) -> Any:
    """A line for each nonzero, with ids that are text or integers."""
    M, sides = X.tocoo(), zip(("user", "item"), X.shape, strict=True)
    i, j = (np.array(names_of(kind, m)) if text else 7 * np.arange(m) for kind, m in sides)
    return call("pandas", "DataFrame", {"user": i[M.row], "item": j[M.col], "count": M.data})


def matrix_of(frame: Any) -> sparse.csr_array:
    """The matrix of such lines, by pandas and scipy."""
    (i, users), (j, items) = (call("pandas", "factorize", frame.iloc[:, c]) for c in (0, 1))
    return sparse.coo_array((frame.iloc[:, 2], (i, j)), shape=(len(users), len(items))).tocsr()


def map_folder(path: Path) -> sparse.csr_array:
    """The three arrays, memory-mapped."""
    arrays = (np.load(path / f"{name}.npy", mmap_mode="r") for name in ("data", "indices", "indptr"))
    return sparse.csr_array(tuple(arrays), shape=tuple(np.load(path / "shape.npy")))


def read_corpus(kind: str, vocabulary: str, path: Path) -> Any:
    """gensim's corpus of a file, as a matrix."""
    corpus = call("gensim.corpora", kind, str(path), str(path.with_name(vocabulary)))
    return call("gensim.matutils", "corpus2csc", corpus).T


def read_adata(library: str, function: str, path: Path) -> Any:
    """The matrix of an AnnData object."""
    return call(library, function, path).X


def adata(file: str, kind: str, *needs: str, **options: Any) -> Format:
    """A format of AnnData."""
    write, read = partial(write_anndata, method=f"write_{kind}", **options), f"read_{kind}"
    return Format(file, write, "anndata", read, partial(read_adata, "anndata", read), ("anndata", *needs))


def frame(file: str, kind: str, *needs: str, text: bool = True, write: Any = None, read: Any = None) -> Format:
    """A format of pandas."""
    return Format(
        file, lambda path, X: getattr(frame_of(X, text=text), f"to_{kind}")(path, index=False, **(write or {})),
        "pandas", f"read_{kind}", lambda path: matrix_of(call("pandas", f"read_{kind}", path, **(read or {}))),
        ("pandas", *needs), True,
    )  # fmt: skip


FORMATS = {
    "npz": Format("counts.npz", sparse.save_npz, "scipy", "load_npz", sparse.load_npz),
    "mtx": Format("counts.mtx", mmwrite, "scipy", "mmread", lambda path: mmread(path, spmatrix=False).tocsr()),
    "10x-mtx": Format("folder", write_tenx_folder, "scanpy", "read_10x_mtx",
                      partial(read_adata, "scanpy", "read_10x_mtx")),
    "10x-h5": Format("counts.h5", write_tenx_h5, "scanpy", "read_10x_h5", partial(read_adata, "scanpy", "read_10x_h5"),
                     ("h5py",)),
    "h5ad": adata("counts.h5ad", "h5ad"),
    "h5ad.gz": adata("counts.h5ad", "h5ad", compression="gzip"),
    "zarr": adata("counts.zarr", "zarr", "zarr"),
    "npy": Format("folder", write_counts, "numpy", "load, mapped", map_folder),
    "docword": Format("docword.counts.txt", write_docword, "gensim", "UciCorpus",
                      partial(read_corpus, "UciCorpus", "vocab.counts.txt")),
    "ldac": Format("counts.ldac", write_ldac, "gensim", "BleiCorpus",
                   partial(read_corpus, "BleiCorpus", "counts.vocab")),
    "svmlight": Format("counts.svmlight",
                       lambda path, X: dump_svmlight_file(X, np.zeros(X.shape[0], int), str(path), zero_based=False),
                       "scikit-learn", "load_svmlight_file", lambda path: load_svmlight_file(str(path))[0]),
    "csv": frame("counts.csv", "csv"),
    "tsv": frame("counts.tsv", "csv", text=False,
                 write={"sep": "\t", "header": False}, read={"sep": "\t", "header": None}),
    "parquet": frame("counts.parquet", "parquet", "pyarrow"),
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
