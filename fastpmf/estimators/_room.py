"""Whether a fit will find room, before it is begun, and what would where it won't."""

from collections.abc import Callable

import numpy as np

from fastpmf.counts import Counts
from fastpmf.counts.room import memory
from fastpmf.solvers import Solver
from fastpmf.solvers.room import Bytes, bytes_of

_BLOCK = 1 << 20  # entries, of counts that could be streamed


def check_memory(
    counts: Counts, n_components: int, dtype: np.dtype, make: Callable[[], Solver], *, n_init: int = 1
) -> None:
    """Turn away a fit for which this process may not have the memory.

    Raises
    ------
    MemoryError
        In one sentence that says what would fit.
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
