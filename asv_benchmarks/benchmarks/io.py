"""From a file to counts that can be fitted: reading, the door, and the transpose."""

from pathlib import Path

from scipy import io, sparse

from fastpmf.counts import Side, as_counts
from fastpmf.io import read_counts

from .common import counts_of_shapes, median_seconds, names, scale, tall

N_COUNTS = 200_000 * scale()


class Read:
    """A file of counts that the system has just written, and so holds in memory; speed is that of the bytes on disk."""

    param_names = ("file",)
    params = (["counts.npz", "counts.mtx"],)

    def setup_cache(self):
        X = tall(N_COUNTS)
        sparse.save_npz("counts.npz", X)
        io.mmwrite("counts.mtx", X)
        return X.nnz

    def time_read(self, nnz, file):
        read_counts(file)

    def track_speed(self, nnz, file):
        return 1e-6 * Path(file).stat().st_size / self.seconds(file)

    track_speed.unit = "MB/s"

    def track_time_per_nonzero(self, nnz, file):
        return 1e9 * self.seconds(file) / nnz

    track_time_per_nonzero.unit = "ns/nonzero"

    def seconds(self, file):
        return median_seconds(lambda: read_counts(file), repeats=3)[0]


class Door:
    """`as_counts` of the same matrix in each format; canonical CSR is only looked at, the others are converted."""

    param_names = ("format",)
    params = (["csr", "csc", "coo", "dense"],)

    def setup_cache(self):
        return tall(N_COUNTS)

    def setup(self, X, format):
        self.X = X.toarray() if format == "dense" else X.asformat(format)
        as_counts(self.X)  # compiles

    def time_as_counts(self, *_):
        as_counts(self.X)

    def track_time_per_nonzero(self, X, format):
        return 1e9 * median_seconds(lambda: as_counts(self.X), repeats=5)[0] / X.nnz

    track_time_per_nonzero.unit = "ns/nonzero"


class Transpose:
    """The copy that the side of H reads; bandwidth is that of indices read twice, data once, and both written."""

    param_names = ("shape",)
    params = (names(N_COUNTS, "tall", "power_law", "giant_rows"),)

    def setup_cache(self):
        return counts_of_shapes(N_COUNTS, "tall", "power_law", "giant_rows")

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
