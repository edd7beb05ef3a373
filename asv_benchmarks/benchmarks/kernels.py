"""The kernels that an iteration is made of, on the side of W and on that of H."""

from contextlib import ExitStack

import numpy as np

from fastpmf.counts import MemoryCounts, Side
from fastpmf.kernels._jit import threads
from fastpmf.model.factors import column_sums, empty_factor, padded
from fastpmf.model.updates import multiplicative

from .bound import gather
from .common import counts_of_every_shape, median_seconds, names, scale

N_COUNTS = 1_000_000 * scale()


class _Kernel:
    """`run` is what is timed: a pass that reads U and V and writes elsewhere, so that it can be repeated."""

    param_names = ("shape", "n_components", "dtype", "side")
    params = (names(N_COUNTS), [8, 32, 128], ["float32", "float64"], ["W", "H"])

    def setup_cache(self):
        return counts_of_every_shape(N_COUNTS)

    def setup(self, cached, shape, n_components, dtype, side):
        counts = cached[shape]
        # The side of H is the same call on the transpose.
        self.counts = counts if side == "W" else MemoryCounts(counts.side(Side.COLUMNS), counts.side(Side.ROWS))
        self.n_components = n_components
        rng = np.random.default_rng(0)
        # In [0.5, 1.5): no rate is near 0, and no row near its optimum.
        self.U, self.V = (padded(rng.random((m, n_components)) + 0.5, np.dtype(dtype)) for m in self.counts.shape)
        self.out = empty_factor(len(self.U), n_components, self.U.dtype)
        self.open = ExitStack()
        self.open.enter_context(threads())
        self.prepare()
        self.run()  # compiles

    def teardown(self, *_):
        self.open.close()

    def prepare(self):
        """Make whatever else `run` reads."""

    def moved(self) -> int:
        """Bytes of factor rows that `run` reads or writes."""
        return self.counts.nnz * self.V.strides[0]

    def seconds(self) -> float:
        return median_seconds(self.run)[0]

    def track_time_per_nonzero(self, *_):
        return 1e9 * self.seconds() / self.counts.nnz

    track_time_per_nonzero.unit = "ns/nonzero"

    def track_bandwidth(self, *_):
        return 1e-9 * self.moved() / self.seconds()

    track_bandwidth.unit = "GB/s"


class RatioContract(_Kernel):
    """S = sum_j x_ij / (u_i . v_j) v_j; bandwidth is that of the gathered rows of V."""

    def run(self):
        self.counts.contract(Side.ROWS, self.U, self.V, self.out)

    def bound(self):
        gather(self.counts, Side.ROWS, self.U, self.V, self.out)

    def time_contract(self, *_):
        self.run()

    def track_fraction_of_bound(self, *_):
        self.bound()  # compiles
        with threads(1):  # waiting for a second thread that is late would hide the difference
            contract, bound = median_seconds(self.run, self.bound)
        return contract / bound

    track_fraction_of_bound.unit = "x gather bound"


class LogRate(_Kernel):
    """sum_j x_ij log(u_i . v_j), the data term of every objective; bandwidth is that of the gathered rows of V."""

    params = (names(N_COUNTS, "power_law"), *_Kernel.params[1:])  # one shape: the suite is to stay short

    def run(self):
        self.counts.log_rate(self.U, self.V)

    def time_log_rate(self, *_):
        self.run()


class Multiply(_Kernel):
    """U * S / v_sum, per nonzero to stand beside the contraction; bandwidth is that of the streams U, S and out."""

    params = LogRate.params

    def prepare(self):
        self.S, self.v_sum = empty_factor(*self.U.shape, self.U.dtype), column_sums(self.V)
        self.counts.contract(Side.ROWS, self.U, self.V, self.S)

    def run(self):
        multiplicative(self.U, self.S, self.v_sum, self.out)

    def moved(self) -> int:
        return 3 * self.U.nbytes

    def time_multiply(self, *_):
        self.run()


class Descend(_Kernel):
    """Two sweeps of coordinate descent over every row; bandwidth is that of the rows of V, each gathered once.

    At K = 128 long rows don't fit the scratch and are gathered again in each sweep.
    """

    params = (LogRate.params[0], [32, 128], _Kernel.params[2], ["W"])  # the slowest kernel, and a square matrix

    def prepare(self):
        self.v_sum = column_sums(self.V)

    def run(self):
        # sweeps and zero as `Coordinate` has them
        self.counts.descend(
            Side.ROWS, self.U, self.V, self.v_sum, self.out, n_components=self.n_components, sweeps=2, zero=1e-11
        )

    def time_descend(self, *_):
        self.run()
