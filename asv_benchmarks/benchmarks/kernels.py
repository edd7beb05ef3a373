"""The kernels of an iteration. One parameter is varied at a time, from 32 components in float32 on a power law."""

from contextlib import ExitStack

import numpy as np

from fastpmf.core.counts import Side
from fastpmf.core.factors import empty_factor, padded
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.kernels.threads import threads
from fastpmf.model.updates import multiplicative

from .common import counts_of_shapes, median_seconds, names, scale, subproblem_of_rows

N_COUNTS = 500_000 * scale()
POWER_LAW, TALL, SHORT_ROWS = names(N_COUNTS, "power_law", "tall", "short_rows")


class _Kernel:
    """The method `run` is timed: it reads U and V and writes to other arrays, so that it can be repeated."""

    def setup_cache(self):
        return counts_of_shapes(N_COUNTS)

    def prepare(self, counts, n_components=32, dtype="float32"):
        self.counts, self.n_components = counts, n_components
        rng = np.random.default_rng(0)
        # In [0.5, 1.5), so that no rate is near 0 and no row near its optimum
        self.U, self.V = (padded(rng.random((m, n_components)) + 0.5, np.dtype(dtype)) for m in counts.shape)
        self.out = empty_factor(len(self.U), n_components, self.U.dtype)
        self.open = ExitStack()
        self.open.enter_context(threads())
        self.complete()
        self.run()  # compiles

    def teardown(self, *_):
        self.open.close()

    def complete(self):
        """Make the other arrays that `run` reads."""

    def nanoseconds(self, repeats: int = 11) -> float:
        return 1e9 * median_seconds(self.run, repeats=repeats)[0] / self.counts.nnz


class _Contract(_Kernel):
    """S = sum_j x_ij / (u_i . v_j) v_j."""

    def run(self):
        self.counts.contract(Side.ROWS, self.U, self.V, self.out)

    def fraction_of_bound(self) -> float:
        from .bound import gather  # not above: a commit that calls kernels differently still runs the rest

        def bound():
            gather(self.counts, Side.ROWS, self.U, self.V, self.out)

        bound()  # compiles
        with threads(1):  # synchronization of threads would hide the difference
            contraction, gather_only = median_seconds(self.run, bound)
        return contraction / gather_only


class ContractShapes(_Contract):
    """The contraction on every shape; for H it is the same call on the transpose."""

    param_names = ("shape", "side")
    params = (names(N_COUNTS), ["W", "H"])

    def setup(self, cached, shape, side):
        counts = cached[shape]
        if side == "H":
            counts = MemoryCounts(counts.side(Side.COLUMNS), counts.side(Side.ROWS))
        self.prepare(counts)

    def time_contract(self, *_):
        self.run()

    def track_fraction_of_bound(self, *_):
        return self.fraction_of_bound()

    track_fraction_of_bound.unit = "x gather bound"


class ContractFactors(_Contract):
    """The contraction by number of components and dtype; the bandwidth is that of the gathered rows of V."""

    param_names = ("n_components", "dtype")
    params = ([8, 32, 128], ["float32", "float64"])

    def setup(self, cached, n_components, dtype):
        self.prepare(cached[POWER_LAW], n_components, dtype)

    def time_contract(self, *_):
        self.run()

    def track_bandwidth(self, *_):
        return self.V.strides[0] / self.nanoseconds()

    track_bandwidth.unit = "GB/s"

    def track_fraction_of_bound(self, *_):
        return self.fraction_of_bound()

    track_fraction_of_bound.unit = "x gather bound"


class ContractCounts(_Contract):
    """The contraction by the dtype of the counts."""

    param_names = ("counts",)
    params = (["uint8", "uint16", "int32", "float32", "float64"],)

    def setup(self, cached, counts):
        # No count of the tall shape is above 255
        self.prepare(as_counts(cached[TALL].to_scipy().astype(counts)))

    def time_contract(self, *_):
        self.run()

    def track_time_per_nonzero(self, *_):
        return self.nanoseconds()

    track_time_per_nonzero.unit = "ns/nonzero"


class LogRate(_Kernel):
    """sum_j x_ij log(u_i . v_j), the data term of every objective."""

    param_names = ("n_components", "dtype")
    params = ([8, 128], ["float32", "float64"])

    def setup(self, cached, n_components, dtype):
        self.prepare(cached[POWER_LAW], n_components, dtype)

    def run(self):
        self.counts.log_rate(self.U, self.V)

    def time_log_rate(self, *_):
        self.run()

    def track_time_per_nonzero(self, *_):
        return self.nanoseconds()

    track_time_per_nonzero.unit = "ns/nonzero"


class Multiply(_Kernel):
    """U * S / v_sum, with many short rows; the bandwidth is that of reading U and S and writing out."""

    param_names = LogRate.param_names
    params = LogRate.params

    def setup(self, cached, n_components, dtype):
        self.prepare(cached[SHORT_ROWS], n_components, dtype)

    def complete(self):
        self.S = empty_factor(*self.U.shape, self.U.dtype)
        self.subproblem = subproblem_of_rows(self.V, self.n_components)
        self.counts.contract(Side.ROWS, self.U, self.V, self.S)

    def run(self):
        multiplicative(self.subproblem, self.U, self.S, self.out)

    def time_multiply(self, *_):
        self.run()

    def track_bandwidth(self, *_):
        return 1e-9 * 3 * self.U.nbytes / median_seconds(self.run)[0]

    track_bandwidth.unit = "GB/s"


class Descend(_Kernel):
    """Two sweeps of coordinate descent over every row."""

    param_names = ("shape", "n_components", "dtype")
    params = (names(N_COUNTS, "power_law", "short_rows"), [32, 128], ["float32", "float64"])

    def setup(self, cached, shape, n_components, dtype):
        self.prepare(cached[shape], n_components, dtype)

    def complete(self):
        self.subproblem = subproblem_of_rows(self.V, self.n_components)

    def run(self):
        # sweeps and zero as in `CoordinateDescent`
        self.counts.descend(self.subproblem, self.U, self.out, sweeps=2, zero=1e-11)

    def time_descend(self, *_):
        self.run()

    def track_time_per_nonzero(self, *_):
        return self.nanoseconds(repeats=5)  # each takes about as long as ten contractions

    track_time_per_nonzero.unit = "ns/nonzero"
