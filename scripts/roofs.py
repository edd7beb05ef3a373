"""What a machine can do at most: loops that only stream, gather, multiply or divide, for all kernels' roofs."""

import sys
from pathlib import Path

import numpy as np

from fastpmf.kernels import simd
from fastpmf.kernels._jit import current_threads, kernel
from fastpmf.kernels.formula import add, divide, fma, formula
from fastpmf.kernels.launch import arguments

sys.path.insert(0, str(Path(__file__).parents[1] / "asv_benchmarks"))
from benchmarks.bound import AHEAD, GROUP, fma_row, width

_NARROW = 4  # vectors of a row up to which one sum of rows is bound by the latency of its additions


@formula()
def _fma(a, b, c):
    return fma(a, b, c)


def triad(b: np.ndarray, c: np.ndarray, a: np.ndarray) -> None:
    """a = b + c * 0.5: two streams read and one written, by a part of the rows for each thread.

    in    b, c  (n_rows, K)  float32 or float64, K padded to whole vectors
    out   a     (n_rows, K)  overwritten
    cost  2 n_rows K flops, three streams over n_rows K numbers
    """
    n_parts = current_threads()
    _triad(n_parts, b, c, width(a), n_parts, a)


@kernel(writes=1)
def _triad(table, part, worker):
    """A task is one of `n_parts` parts of the rows."""
    b, c, n_vectors, n_parts, a = arguments(table)
    n_rows = a.shape[0]
    for i in range(part * n_rows // n_parts, (part + 1) * n_rows // n_parts):
        x = simd.load_tile(c, i, n_vectors)
        simd.store_tile(a, i, _fma(x, simd.fill_like(x, 0.5), simd.load_tile(b, i, n_vectors)))


def gather_rows(indices: np.ndarray, u: np.ndarray, V: np.ndarray, out: np.ndarray) -> None:
    """Sum rows of a table in the order of `indices`, a part of them for each row of `out`; several sums at once.

    in    indices (n,)            int32, rows of V
          u       (1, K)          of the dtype of V, what rows are multiplied by
          V       (n_rows, K)     float32 or float64, K padded to whole vectors
    out   out     (n_parts, K)    overwritten; u times the sum of each part's rows
    cost  2 n K flops; gathers n K itemsize bytes of V, and the first-level cache hides no latency of a chain of sums
    """
    n_vectors = width(V)
    # Wider rows are as many chains by themselves
    gather = _gather_in_four_sums if n_vectors.n_vectors <= _NARROW else _gather_in_one_sum
    gather(len(out), indices, u, V, n_vectors, out)


@kernel(writes=1)
def _gather_in_four_sums(table, part, worker):
    """A task is a row of `out`."""
    indices, u, V, n_vectors, out = arguments(table)
    n, n_parts = indices.shape[0], out.shape[0]
    start, stop = part * n // n_parts, (part + 1) * n // n_parts
    whole = stop - (stop - start) % GROUP
    x = simd.load_tile(u, 0, n_vectors)
    s0 = s1 = s2 = s3 = simd.accumulator(out, part, 0, n_vectors)
    for p in range(start, whole, GROUP):
        simd.prefetch(V, indices, min(p + AHEAD, n - GROUP), n_vectors)
        s0 = fma_row(s0, x, V, indices, p)
        s1 = fma_row(s1, x, V, indices, p + 1)
        s2 = fma_row(s2, x, V, indices, p + 2)
        s3 = fma_row(s3, x, V, indices, p + 3)
    for p in range(whole, stop):
        s0 = fma_row(s0, x, V, indices, p)
    simd.store_tile(out, part, add(add(s0, s1), add(s2, s3)))


@kernel(writes=1)
def _gather_in_one_sum(table, part, worker):
    """A task is a row of `out`."""
    indices, u, V, n_vectors, out = arguments(table)
    n, n_parts = indices.shape[0], out.shape[0]
    start, stop = part * n // n_parts, (part + 1) * n // n_parts
    x, total = simd.load_tile(u, 0, n_vectors), simd.accumulator(out, part, 0, n_vectors)
    for p in range(start, stop):
        if p % GROUP == 0:
            simd.prefetch(V, indices, min(p + AHEAD, n - GROUP), n_vectors)
        total = fma_row(total, x, V, indices, p)
    simd.store_tile(out, part, total)


def fma_chains(factor: float, term: float, n_rounds: int, out: np.ndarray) -> None:
    """Fused multiply-adds on vectors that never leave their registers, those of a row of `out` side by side.

    in    factor, term  what is multiplied by and what is added
          n_rounds      of each row
    out   out           (n_rows, K)  float32 or float64, K padded to whole vectors; overwritten
    cost  2 n_rounds n_rows K flops
    """
    _fma_chains(len(out), factor, term, n_rounds, width(out), out)


@kernel(writes=1)
def _fma_chains(table, row, worker):
    """A task is a row of `out`."""
    factor, term, n_rounds, n_vectors, out = arguments(table)
    x = simd.accumulator(out, row, 0, n_vectors)
    a, b = simd.fill_like(x, factor), simd.fill_like(x, term)
    for _ in range(n_rounds):
        x = _fma(x, a, b)
    simd.store_tile(out, row, x)


def division_chains(start: float, dividend: float, n_rounds: int, out: np.ndarray) -> None:
    """As `fma_chains`, with divisions: x becomes dividend / x, and start again in the next round.

    cost  n_rounds n_rows K divisions
    """
    _division_chains(len(out), start, dividend, n_rounds, width(out), out)


@kernel(writes=1)
def _division_chains(table, row, worker):
    """A task is a row of `out`."""
    start, dividend, n_rounds, n_vectors, out = arguments(table)
    zero = simd.accumulator(out, row, 0, n_vectors)
    x, b = simd.fill_like(zero, start), simd.fill_like(zero, dividend)
    for _ in range(n_rounds):
        x = divide(b, x)
    simd.store_tile(out, row, x)
