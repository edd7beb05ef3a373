"""Memory: the estimate for a fit, the checks before fits and transforms, and the public `plan`."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import check_scalar

from fastpmf.core.counts import Counts
from fastpmf.core.factors import padded_width, working_dtype
from fastpmf.core.ranges import dtype_for
from fastpmf.counts import COUNT_DTYPES
from fastpmf.counts.csr import SAFE_ROWS
from fastpmf.counts.partition import panel_width
from fastpmf.counts.streamed import as_fittable
from fastpmf.counts.validation import matrix_size
from fastpmf.kernels.simd import VECTOR_BYTES
from fastpmf.kernels.threads import current_threads, threads
from fastpmf.solvers import Solver, make_solver
from fastpmf.solvers.component_search import ComponentSearch, make_search
from fastpmf.utils.memory import check_memory_for, memory_limit, sizes_text
from fastpmf.utils.messages import brief
from fastpmf.utils.tables import Table, shown_as_table

_EFFECT_ARRAYS = 8  # of shape (n_columns, n_groups)
_BLOCK_ENTRIES = 1 << 20  # nonzeros in a block, when it is estimated whether streamed counts would fit


@shown_as_table
@dataclass(frozen=True, repr=False)
class Plan:
    """Estimated memory of a fit.

    Attributes
    ----------
    input_bytes : int
        Counts as canonical CSR, which the fit uses without a copy; the size on disk if counts are streamed.
    transpose_bytes : int
        Transposed copy of the counts; 0 for "em", which needs none, and for streamed counts.
    block_bytes : int
        Two blocks of streamed counts, the current one and the next, with their working memory; else 0.
    factor_bytes : int
        W, H, the working memory of the solver, and that of the final optimality check.

    See Also
    --------
    plan : estimates it.

    Examples
    --------
    >>> from fastpmf import plan
    >>> estimate = plan((10_000, 2_000), 1_000_000, 20, n_threads=1)
    >>> estimate.peak_bytes == estimate.transpose_bytes + estimate.block_bytes + estimate.factor_bytes
    True
    """

    input_bytes: int
    transpose_bytes: int
    block_bytes: int
    factor_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Peak memory of the fit beyond the input."""
        return self.transpose_bytes + self.block_bytes + self.factor_bytes

    def __str__(self) -> str:
        peak, counts, transpose, blocks, factors = sizes_text(
            self.peak_bytes, self.input_bytes, self.transpose_bytes, self.block_bytes, self.factor_bytes
        )
        if self.block_bytes:
            return f"{peak}: {blocks} for blocks of the {counts} of counts, {factors} for factors"
        return f"{peak} beyond the {counts} of counts: {transpose} for their transpose, {factors} for factors"

    def _table(self) -> Table:
        parts = {"counts": self.input_bytes, "their transpose": self.transpose_bytes, "blocks": self.block_bytes,
                 "factors": self.factor_bytes, "peak beyond the counts": self.peak_bytes}  # fmt: skip
        parts = {name: n for name, n in parts.items() if n}
        facts = dict(zip(parts, sizes_text(*parts.values()), strict=True))
        return Table("Estimated memory of a fit", facts=facts)


def plan(
    shape: Any,
    nnz: int | None = None,
    n_components: int | None = None,
    dtype: Any = None,
    *,
    counts_dtype: Any = None,
    solver: str = "auto",
    acceleration: str | None = "auto",
    init: str = "auto",
    n_groups: int = 0,
    block_entries: int | None = None,
    n_threads: int | None = None,
) -> Plan:
    """Estimate the memory of a fit from the size of its input.

    Parameters
    ----------
    shape : (int, int) or matrix of counts of shape (n_samples, n_features)
        Number of samples and features. Counts, in memory or streamed, stand for their shape, nnz, dtype and blocks.
    nnz : int
        Number of nonzeros; None for counts.
    n_components : int
    dtype : {None, "float32", "float64"}, default=None
        Dtype of the factors. None: the default of `PoissonNMF` for such counts, which are assumed to be in the range of
        float32 unless they are given.
    counts_dtype : {"uint8", "uint16", "int32", "float32", "float64"}, optional
        Dtype of the counts; by default "uint16", or that of the given counts.
    solver, acceleration, init
        As in `PoissonNMF`.
    n_groups : int, default=0
        Number of groups of rows with effects on features, see `PoissonNMF.fit`.
    block_entries : int or None, default=None
        Nonzeros in a block of streamed counts; None for counts in memory.
    n_threads : int or None, default=None
        Number of threads; None or -1: all that the process may use.

    Returns
    -------
    Plan
        input_bytes, transpose_bytes, block_bytes, factor_bytes and peak_bytes; `str` of it is a sentence.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value.

    See Also
    --------
    Plan : the result.

    Examples
    --------
    >>> import fastpmf
    >>> fit = fastpmf.plan((10_000, 2_000), 300_000, 20, "float32")
    >>> fit.transpose_bytes / 300_000  # 4 bytes for a row number and 2 for a count, plus the column pointers
    6.05336
    >>> fastpmf.plan([[4, 0, 2], [0, 3, 0]], n_components=2).input_bytes  # of counts
    39
    """
    if n_components is None:
        raise TypeError("n_components must be given, as in plan(shape, nnz, 10) or plan(X, n_components=10)")
    if np.ndim(shape) != 1:
        if nnz is not None:
            raise ValueError(f"nnz must be None for counts, which know it, got {brief(nnz)}")
        X = as_fittable(shape)
        shape, nnz = X.shape, max(X.nnz, 1)
        counts_dtype = X.dtype if counts_dtype is None else counts_dtype
        block_entries = getattr(X, "block_entries", None) if block_entries is None else block_entries
        dtype = dtype_for(dtype, X)
    if nnz is None:
        raise TypeError("nnz must be given with a shape")
    n, p = shape
    for name, size in (("shape[0]", n), ("shape[1]", p), ("nnz", nnz), ("n_components", n_components)):
        check_scalar(size, name, (int, np.integer), min_val=1)
    check_scalar(n_groups, "n_groups", (int, np.integer), min_val=0)
    if nnz > n * p:
        raise ValueError(f"nnz must be at most {n} x {p} = {n * p}, got {nnz}")
    counts_dtype = np.dtype("uint16" if counts_dtype is None else counts_dtype)
    if counts_dtype not in COUNT_DTYPES:
        raise ValueError(f"counts_dtype must be one of {', '.join(map(str, COUNT_DTYPES))}, got {counts_dtype}")
    if block_entries is not None:
        check_scalar(block_entries, "block_entries", (int, np.integer), min_val=1)
    work = working_dtype(dtype, counts_dtype)
    with threads(n_threads):
        streamed = block_entries is not None
        made = make_solver(solver, acceleration, row_access_only=streamed)
        search = make_search(init, solver)
        return estimate(
            (n, p), nnz, n_components, work, counts_dtype, made, search=search, block_entries=block_entries,
            n_groups=n_groups,
        )  # fmt: skip


def estimate(
    shape: tuple[int, int], nnz: int, n_components: int, work: np.dtype, counts_dtype: np.dtype, solver: Solver, *,
    search: ComponentSearch | None = None, block_entries: int | None = None, n_init: int = 1, n_groups: int = 0,
) -> Plan:  # fmt: skip
    """Memory of a fit with the current number of threads; `block_entries` is None for counts in memory."""
    n, p = shape
    nnz = max(nnz, 1)
    counts, transpose = (
        nnz * (counts_dtype.itemsize + (4 if n_columns <= np.iinfo(np.int32).max else 8)) + 8 * (n_rows + 1)
        for n_rows, n_columns in ((n, p), (p, n))
    )
    row = -(-n_components // (VECTOR_BYTES // work.itemsize)) * VECTOR_BYTES
    # The factors of the solver; both contractions of the final optimality check
    copies = n_init * solver.n_factor_copies + 1.0
    if search is not None:
        searching = search.n_factor_copies(n_components, solver, work)
        copies = max(copies, (n_init - 1) * solver.n_factor_copies + searching)
    factors = math.ceil(copies * row) * (n + p)
    if n_groups > 1:  # weights of the rows of one factor; effects, their counts and rates, and temporary arrays
        factors += max(n, p) * row + 8 * (n + _EFFECT_ARRAYS * p * n_groups)
    factors += 40 * (n + p)  # sums, gaps and the order of the rows
    factors += current_threads() * row  # scratch space
    # Column sums are formed for some rows at a time, whose pointers are copied; and a float64 copy in float32
    factors += 8 * min(-(-n * min(block_entries or nnz, nnz) // nnz), SAFE_ROWS)
    factors += 2 * p * row if work.itemsize == 4 and n >= SAFE_ROWS else 0
    transpose = transpose + _panel_bytes(n, p, nnz, row) + _panel_bytes(p, n, nnz, row) if solver.needs_transpose else 0
    blocks = 0
    if block_entries is not None:
        entry, block = (counts - 8 * (n + 1)) // nnz, min(block_entries, nnz)
        rows = -(-block * n // nnz)
        # Row pointers and sums of all rows; pointers, panel bounds and order of the rows of a block
        transpose, blocks = 0, 2 * block * entry + 24 * n + (80 + _panel_bytes(1, p, block, row)) * rows
    return Plan(counts, transpose, blocks, factors)


def _panel_bytes(n_rows: int, n_columns: int, nnz: int, row_bytes: int) -> int:
    """Bytes of the bounds of all rows in each panel of columns; 0 with a single panel."""
    n_panels = -(-n_columns // panel_width(n_rows, n_columns, nnz, row_bytes))
    return 8 * (n_panels + 1) * n_rows if n_panels > 1 else 0


def check_memory(counts: Counts, n_components: int, dtype: np.dtype, solver: Solver, *, n_init: int = 1,
    search: ComponentSearch | None = None, n_groups: int = 0,
) -> None:  # fmt: skip
    """Raise a MemoryError, which says what would fit, if the estimated memory of a fit exceeds the limit."""
    limit, streamed = memory_limit(), getattr(counts, "block_entries", None)

    def plan_for(
        k: int, dtype: np.dtype, n_init: int = n_init, block_entries: int | None = streamed,
        search: ComponentSearch | None = search,
    ) -> Plan:  # fmt: skip
        return estimate(
            counts.shape, counts.nnz, k, dtype, counts.dtype, solver, search=search, block_entries=block_entries,
            n_init=n_init, n_groups=n_groups,
        )  # fmt: skip

    need = plan_for(n_components, dtype)
    if need.factor_bytes + need.block_bytes <= limit:  # the transpose may exist already
        return
    single, ways = np.dtype(np.float32), []
    if dtype != single and plan_for(n_components, single).peak_bytes <= limit:
        ways.append("dtype='float32'")
    if n_init > 1 and plan_for(n_components, dtype, 1).peak_bytes <= limit:
        ways.append("n_init=1")
    if search is not None and plan_for(n_components, dtype, search=None).peak_bytes <= limit:
        ways.append("init='random'")
    if streamed is None and plan_for(n_components, dtype, block_entries=_BLOCK_ENTRIES).peak_bytes <= limit:
        ways.append("counts from fastpmf.io.stream_counts")
    fits, fails = 0, n_components
    while fails - fits > 1:
        k = (fits + fails) // 2
        fits, fails = (k, fails) if plan_for(k, dtype).peak_bytes <= limit else (fits, k)
    if fits:
        ways.append(f"n_components={fits}")
    n, p = counts.shape
    ways = ways or ["no number of components"]
    raise MemoryError(
        f"n_components={n_components} needs {need.peak_bytes / 2**30:.3g} GiB for the fit of a {n} x {p} matrix, "
        f"in addition to its counts, and this process may have {limit / 2**30:.3g} GiB; it would fit with "
        f"{' or '.join(ways)}"
    )


def check_memory_before_reading(X: Any, n_components: Any, dtype: Any, solver: Solver, *, n_init: Any = 1,
    search: ComponentSearch | None = None,
) -> None:  # fmt: skip
    """`check_memory` of a matrix that has not been read, if its size is known; other arguments as in the fit.

    Values of `n_components` and `n_init` that are not positive integers are rejected later.
    """
    size = matrix_size(X)
    if size is not None and _is_positive_integer(n_components) and _is_positive_integer(n_init):
        work = working_dtype(dtype, size.dtype)
        check_memory(size, int(n_components), work, solver, n_init=int(n_init), search=search)


def check_columns(n_columns: int, n_components: int, dtype: np.dtype, n_copies: int) -> None:
    """Raise a MemoryError if this number of copies of H exceeds the memory limit of this process."""
    need = n_copies * n_columns * padded_width(n_components, dtype) * dtype.itemsize
    check_memory_for(f"H of {n_components} components and {n_columns} columns", need)


def check_rows(X: Any, n_components: Any, dtype: Any) -> None:
    """Raise a MemoryError if W of all rows of X and the buffers of `transform` exceed the memory limit."""
    size = matrix_size(X)
    if size is None or not _is_positive_integer(n_components):
        return
    n, work = size.shape[0], working_dtype(dtype, size.dtype)
    k = int(n_components)
    # Padded start and result of the descent; both in float64 while they are scaled; a few numbers per row
    in_memory = 2 * padded_width(k, work) * work.itemsize + 16 * k + 48
    need = n * (k * work.itemsize if getattr(size, "row_access_only", False) else in_memory)
    check_memory_for(f"W of {n} rows and {n_components} components", need, "; give fewer rows at a time")


def _is_positive_integer(k: Any) -> bool:
    return isinstance(k, int | np.integer) and bool(k > 0)
