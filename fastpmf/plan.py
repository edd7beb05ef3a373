"""What a fit will take, before it is begun: bytes from a formula, seconds from a trial on this machine."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.counts import Counts, as_counts
from fastpmf.counts.base import COUNT_DTYPES
from fastpmf.counts.room import memory
from fastpmf.counts.streamed import StreamedCounts
from fastpmf.datasets import make_poisson_counts
from fastpmf.kernels._jit import threads
from fastpmf.model.factors import working_dtype
from fastpmf.model.init import initialise
from fastpmf.solvers import Problem, Solver, solver_of
from fastpmf.solvers.room import bytes_of

# Nonzeros times components in the trial: about a second in all, on two cores
_TRIAL = 30_000_000
_COMPONENTS = 10  # that the trial's counts are drawn from; how many they are fitted with is what counts
_CLOCKED = 3  # iterations


@dataclass(frozen=True)
class Plan:
    """What a fit takes.

    Attributes
    ----------
    input_bytes : int
        The counts as canonical CSR, which the fit uses as they are; on the disk, where they are streamed.
    transpose_bytes : int
        Their transposed copy; 0 for "em", which needs none, and where they are streamed.
    block_bytes : int
        Two blocks of streamed counts, the one that is worked on and the next, and what one takes; else 0.
    factor_bytes : int
        W and H as they are, the solver's spares, and what the last look at the optimality needs.
    seconds_per_iteration : float
        Estimated, with the transpose built and the kernels compiled; NaN where no trial was made.
    """

    input_bytes: int
    transpose_bytes: int
    block_bytes: int
    factor_bytes: int
    seconds_per_iteration: float

    @property
    def peak_bytes(self) -> int:
        """Most that the fit holds at once, beyond the input."""
        return self.transpose_bytes + self.block_bytes + self.factor_bytes

    def __str__(self) -> str:
        told = (
            f"{self.peak_bytes / 2**30:.2f} GiB beyond the {self.input_bytes / 2**30:.2f} GiB of the counts "
            f"({self.transpose_bytes / 2**30:.2f} transposed, {self.factor_bytes / 2**30:.2f} for factors)"
        )
        if self.block_bytes:
            told = (
                f"{self.peak_bytes / 2**30:.2f} GiB for blocks ({self.block_bytes / 2**30:.2f}) of the "
                f"{self.input_bytes / 2**30:.2f} GiB of the counts, and for factors ({self.factor_bytes / 2**30:.2f})"
            )
        if math.isnan(self.seconds_per_iteration):
            return told
        return f"{told}, and about {self.seconds_per_iteration:.3g} s for an iteration"


def plan(
    shape: tuple[int, int],
    nnz: int,
    n_components: int,
    dtype: Any = None,
    *,
    counts_dtype: Any = "uint16",
    solver: str = "auto",
    acceleration: str | None = "auto",
    block_entries: int | None = None,
    n_threads: int | None = None,
    trial: bool = True,
) -> Plan:
    """Say what memory a fit will need, and about how long an iteration will take here.

    The bytes are added up from what is allocated. The seconds come from a trial: iterations on drawn counts with rows
    as long, and columns as many, as those asked about, but fewer rows; two numbers of rows give what a row costs and
    what is paid once. That takes a second or two, and more where kernels have to be compiled first. Where W is far
    larger than the caches, as the trial's is not, an iteration takes up to some two times longer than estimated.

    Parameters
    ----------
    shape : (int, int)
        Samples and features.
    nnz : int
        Nonzeros.
    n_components : int
    dtype : {None, "float32", "float64"}, default=None
        Of the factors. None: what `PoissonNMF` takes for such counts.
    counts_dtype : default="uint16"
        Of the counts: uint8, uint16, int32, float32 or float64.
    solver, acceleration
        As in `PoissonNMF`.
    block_entries : int or None, default=None
        Nonzeros in a block of streamed counts; None for counts in memory. The seconds then are those of a disk that is
        never waited for.
    n_threads : int or None, default=None
        None or -1: as many as the process may use.
    trial : bool, default=True
        Whether seconds are wanted, which take some; bytes don't.

    Returns
    -------
    Plan
        input_bytes, transpose_bytes, block_bytes, factor_bytes, peak_bytes, seconds_per_iteration; `str` of it is a
        sentence.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.
    MemoryError
        If the estimated memory of the trial exceeds this process's limit.

    Examples
    --------
    >>> import fastpmf
    >>> fit = fastpmf.plan((10_000, 2_000), 300_000, 20, "float32", trial=False)
    >>> fit.transpose_bytes / 300_000  # a row number of four bytes and a count of two for each, and some per column
    6.05336
    """
    n, p = shape
    for name, size in (("shape[0]", n), ("shape[1]", p), ("nnz", nnz), ("n_components", n_components)):
        check_scalar(size, name, (int, np.integer), min_val=1)
    if nnz > n * p:
        raise ValueError(f"nnz must be at most {n} x {p} = {n * p}, got {nnz}")
    counts_dtype = np.dtype(counts_dtype)
    if counts_dtype not in COUNT_DTYPES:
        raise ValueError(f"counts_dtype must be one of {', '.join(map(str, COUNT_DTYPES))}, got {counts_dtype}")
    streamed = block_entries is not None
    if streamed:
        check_scalar(block_entries, "block_entries", (int, np.integer), min_val=1)
    work, make = working_dtype(dtype, counts_dtype), solver_of(solver, acceleration, one_sided=streamed)
    with threads(n_threads):
        held = bytes_of((n, p), nnz, n_components, work, counts_dtype, make(), block_entries=block_entries)
    seconds = math.nan
    if trial:
        with threads(n_threads):
            seconds = _seconds(n, p, nnz, n_components, work, counts_dtype, make, streamed=streamed)
    return Plan(*held, seconds)


def _seconds(
    n: int,
    p: int,
    nnz: int,
    n_components: int,
    work: np.dtype,
    counts_dtype: np.dtype,
    make: Callable[[], Solver],
    *,
    streamed: bool,
) -> float:
    """Of an iteration, by extrapolation from as many rows as the trial affords, and half of them."""
    rows = min(n, max(2, round(_TRIAL / n_components / (nnz / n))))
    wanted = max(1, min(round(nnz * rows / n), int(0.9 * rows * p)))
    drawn = 8 * (2 * _COMPONENTS * (rows + p) + wanted)  # the factors that the counts are drawn from, and tables
    need = drawn + bytes_of((rows, p), wanted, n_components, work, counts_dtype, make()).peak
    if need > (have := memory()):
        raise MemoryError(
            f"trial=True needs {need / 2**30:.3g} GiB for this shape, and this process may have {have / 2**30:.3g} "
            "GiB; trial=False gives the bytes alone"
        )
    X = make_poisson_counts(rows, p, min(_COMPONENTS, n_components), nnz=wanted, random_state=0, n_threads=None).X
    highest = np.inf if counts_dtype.kind == "f" else np.iinfo(counts_dtype).max
    X.data = np.minimum(X.data, highest, dtype=float).astype(counts_dtype)
    told = {}
    for m in sorted({rows, rows // 2} if rows < n else {rows}):
        some = as_counts(X[:m])
        counts: Counts = StreamedCounts([some].copy) if streamed else some
        problem, solver = Problem(counts, n_components), make()
        state = solver.init(problem, *initialise(counts, n_components, "random", 0, work))
        for _ in range(solver.warm_up + 2):
            solver.step(problem, state)
        clocks = []
        for _ in range(_CLOCKED):
            clocks.append(-time.perf_counter())
            solver.step(problem, state)
            clocks[-1] += time.perf_counter()
        told[m] = median(clocks)
    if rows == n:
        return told[rows]
    slope = (told[rows] - told[rows // 2]) / (rows - rows // 2)
    if slope <= 0:  # a busy moment
        slope = told[rows] / rows
    return told[rows] + slope * (n - rows)
