"""Reading files, validating matrices, and transposing counts."""

import gzip
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.io import mmwrite
from sklearn.datasets import dump_svmlight_file

from fastpmf.core.counts import Side
from fastpmf.counts import as_counts
from fastpmf.io import read_counts

from .common import counts_of_shapes, median_seconds, names, scale

N_COUNTS = 200_000 * scale()
OTHERS = {
    "10x-mtx": "cells",
    "npy": "folder",
    "docword": "docword.counts.txt",
    "ldac": "counts.ldac",
    "svmlight": "counts.svmlight",
}  # file by format
SHAPES = TALL, *_ = names(N_COUNTS, "tall", "power_law", "giant_rows")


class _Prepared:
    """Makes the counts that all classes use, and files of them in the folder in which the benchmarks run."""

    def setup_cache(self):
        cached = counts_of_shapes(N_COUNTS, "tall", "power_law", "giant_rows")
        X = cached[TALL].to_scipy()
        sparse.save_npz("counts.npz", X)
        mmwrite("counts.mtx", X)
        write_others(X.astype(np.int32))
        return cached


def write_others(X):
    """Write the files of `Format`."""
    lines = Path("counts.mtx").read_bytes()
    head = lines.index(b"\n", lines.index(b" %d\n" % X.nnz)) + 1  # end of the line of sizes
    Path("docword.counts.txt").write_bytes(b"%d\n%d\n%d\n" % (*X.shape, X.nnz) + lines[head:])
    dump_svmlight_file(X, np.diff(X.indptr), "counts.ldac", zero_based=True)
    dump_svmlight_file(X, np.zeros(X.shape[0]), "counts.svmlight", zero_based=False)
    for folder in ("cells", "folder"):
        Path(folder).mkdir(exist_ok=True)
    with gzip.open("cells/matrix.mtx.gz", "wb", compresslevel=6) as file:
        mmwrite(file, X.T)
    for part in ("data", "indices", "indptr"):
        np.save(f"folder/{part}.npy", getattr(X, part))


class Read(_Prepared):
    """Reading a file that is in the page cache; the speed is in bytes of the file."""

    param_names = ("file",)
    params = (["counts.npz", "counts.mtx"],)

    def time_read(self, cached, file):
        read_counts(file)

    def track_speed(self, cached, file):
        return 1e-6 * Path(file).stat().st_size / self.seconds(file)

    track_speed.unit = "MB/s"

    def track_time_per_nonzero(self, cached, file):
        return 1e9 * self.seconds(file) / cached[TALL].nnz

    track_time_per_nonzero.unit = "ns/nonzero"

    def seconds(self, file):
        return median_seconds(lambda: read_counts(file), repeats=3)[0]


class Format(_Prepared):
    """Reading the other formats that need no optional library."""

    param_names = ("format",)
    params = ([*OTHERS],)

    def setup(self, cached, format):
        self.X = read_counts(OTHERS[format], format).X

    def time_read(self, cached, format):
        read_counts(OTHERS[format], format)

    def track_nonzeros(self, *_):
        return self.X.nnz

    track_nonzeros.unit = "nonzeros"


class Validate(_Prepared):
    """`as_counts` of a matrix in each format: canonical CSR is only checked, other formats are converted."""

    param_names = ("format",)
    params = (["csr", "csc", "coo", "dense"],)

    def setup(self, cached, format):
        X = cached[TALL].to_scipy()
        self.X = X.toarray() if format == "dense" else X.asformat(format)
        as_counts(self.X)  # compiles

    def time_as_counts(self, *_):
        as_counts(self.X)

    def track_time_per_nonzero(self, cached, format):
        return 1e9 * median_seconds(lambda: as_counts(self.X), repeats=5)[0] / cached[TALL].nnz

    track_time_per_nonzero.unit = "ns/nonzero"


class Transpose(_Prepared):
    """The transpose, for updates of H. It reads indices twice and data once, and writes both."""

    param_names = ("shape",)
    params = (SHAPES,)

    def setup(self, cached, shape):
        self.rows = cached[shape].side(Side.ROWS)
        self.transpose()  # compiles

    def transpose(self):
        return self.rows.transpose(n_blocks=16)

    def time_transpose(self, *_):
        self.transpose()

    def track_bandwidth(self, *_):
        moved = 3 * self.rows.indices.nbytes + 2 * self.rows.data.nbytes
        return 1e-9 * moved / median_seconds(self.transpose)[0]

    track_bandwidth.unit = "GB/s"
