"""Memory checks of fits and of `transform` before they start; error messages say what would fit."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastpmf.counts import Counts
from fastpmf.counts.declared import declared
from fastpmf.counts.room import SMALL, memory
from fastpmf.model.factors import padded_width, working_dtype
from fastpmf.solvers import Solver
from fastpmf.solvers.room import Bytes, bytes_of

_BLOCK = 1 << 20  # entries, of counts that could be streamed


def check_declared(X: Any, n_components: Any, dtype: Any, make: Callable[[], Solver], *, n_init: Any = 1) -> None:
    """`check_memory` of a matrix that has not been read, if its size is known; other arguments as in the fit.

    `n_components` and `n_init` that are not positive integers are skipped here; `check_parameters` refuses them.
    """
    size = declared(X)
    if size is not None and all(_is_number(k) for k in (n_components, n_init)):
        check_memory(size, int(n_components), working_dtype(dtype, size.dtype), make, n_init=int(n_init))


def _is_number(k: Any) -> bool:
    return isinstance(k, int | np.integer) and bool(k > 0)


def check_rows(X: Any, n_components: Any, dtype: Any) -> None:
    """Raise an error if W of all rows of a matrix, read or not, does not fit into memory.

    Raises
    ------
    MemoryError
        If W and the smallest buffers that `transform` needs exceed this process's memory limit.
    """
    size = declared(X)
    if size is None or not _is_number(n_components):
        return
    n, work = size.shape[0], working_dtype(dtype, size.dtype)
    k = int(n_components)
    # Padded start and result of the descent; both in float64 while they are scaled; a few numbers per row
    in_memory = 2 * padded_width(k, work) * work.itemsize + 16 * k + 48
    need = n * (k * work.itemsize if getattr(size, "one_sided", False) else in_memory)
    if need > SMALL and need > (have := memory()):
        raise MemoryError(
            f"W of {n} rows and {n_components} components needs at least {need / 2**30:.3g} GiB, and this process may "
            f"have {have / 2**30:.3g} GiB; give fewer rows at a time"
        )


def check_memory(
    counts: Counts, n_components: int, dtype: np.dtype, make: Callable[[], Solver], *, n_init: int = 1
) -> None:
    """Turn away a fit for which this process may not have the memory.

    Raises
    ------
    MemoryError
        If the estimated memory exceeds this process's limit; the message says what would fit.
    """
    have, streamed = memory(), getattr(counts, "block_entries", None)

    def bytes_for(k: int, dtype: np.dtype, n_init: int = n_init, block_entries: int | None = streamed) -> Bytes:
        return bytes_of(
            counts.shape, counts.nnz, k, dtype, counts.dtype, make(), block_entries=block_entries, n_init=n_init
        )

    need = bytes_for(n_components, dtype)
    if need.factors + need.blocks <= have:  # the transpose may be there already
        return
    single, ways = np.dtype(np.float32), []
    if dtype != single and bytes_for(n_components, single).peak <= have:
        ways.append("dtype='float32'")
    if n_init > 1 and bytes_for(n_components, dtype, 1).peak <= have:
        ways.append("n_init=1")
    if streamed is None and bytes_for(n_components, dtype, block_entries=_BLOCK).peak <= have:
        ways.append("counts from fastpmf.io.stream_counts")
    fits, fails = 0, n_components
    while fails - fits > 1:
        k = (fits + fails) // 2
        fits, fails = (k, fails) if bytes_for(k, dtype).peak <= have else (fits, k)
    if fits:
        ways.append(f"n_components={fits}")
    n, p = counts.shape
    ways = ways or ["no number of components"]
    raise MemoryError(
        f"n_components={n_components} needs {need.peak / 2**30:.3g} GiB for the fit of a {n} x {p} matrix, beside its "
        f"counts, and this process may have {have / 2**30:.3g} GiB; it would fit with {' or '.join(ways)}"
    )
