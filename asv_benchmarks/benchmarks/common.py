"""Shared by all suites: the profile, seeded counts, random starts, and timing for `track_` benchmarks.

Profiles, chosen by the environment variable FASTPMF_BENCH:

    fast     the default: all suites in about four minutes on two cores, once the kernels are compiled
    regular  ten times the counts
    large    a hundred times the counts, for a quiet machine
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numba import njit
from scipy import sparse

import fastpmf
from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import column_sums
from fastpmf.counts import MemoryCounts, as_counts

# asv forks each benchmark from a process that has imported this module. Numba's set-up before the first kernel of a
# process takes a third of a second. It is done here once for all of them, serially, since threads don't survive a fork.
njit(lambda: None)()

PROFILES = {"fast": 1, "regular": 10, "large": 100}
N_COMPONENTS = 20  # of all fits: kernels are compiled for each number of vectors in a row, so all suites use the same


def scale() -> int:
    """Number of counts, relative to the fast profile."""
    profile = os.environ.get("FASTPMF_BENCH", "fast")
    if profile not in PROFILES:
        raise ValueError(f"FASTPMF_BENCH must be one of {', '.join(PROFILES)}, got {profile!r}")
    return PROFILES[profile]


def names(n_counts: int, *shapes: str) -> list[str]:
    """Names of shapes, by default all, with the number of counts, so that asv never compares profiles."""
    return [f"{shape}-{n_counts:.0e}".replace("e+0", "e") for shape in shapes or SHAPES]


def counts_of_shapes(n_counts: int, *shapes: str) -> dict[str, MemoryCounts]:
    """Counts by the names that `names` returns, with their transposes."""
    found = {}
    for name, shape in zip(names(n_counts, *shapes), shapes or SHAPES, strict=True):
        found[name] = as_counts(SHAPES[shape](n_counts))
        found[name].side(Side.COLUMNS)
    return found


def subproblem_of_rows(V: np.ndarray, n_components: int) -> Subproblem:
    """The problem of W with H fixed, given as V: transposed and padded."""
    return Subproblem(Side.ROWS, n_components, V, column_sums(V)[None])


def tall(n_counts: int) -> sparse.csr_array:
    """About 20 counts in a row, many in a column."""
    return planted_counts(n_counts // 20, 1_000, n_counts)


def wide(n_counts: int) -> sparse.csr_array:
    """About 20 counts in a column, many in a row."""
    return planted_counts(1_000, n_counts // 20, n_counts)


def power_law(n_counts: int) -> sparse.csr_array:
    """Rows and columns whose sums decrease like 1 / rank."""
    return planted_counts(n_counts // 50, n_counts // 50, n_counts, exponent=1.0)


def short_rows(n_counts: int) -> sparse.csr_array:
    """Five nonzeros in every row, all of them ones, so that the cost per row dominates."""
    n, width = n_counts // 5, n_counts // 100
    indices = np.arange(5) * width + np.random.default_rng(0).integers(width, size=(n, 5))
    data = np.ones(5 * n, np.int32)
    return sparse.csr_array((data, indices.ravel().astype(np.int32), np.arange(0, 5 * n + 1, 5)), shape=(n, 5 * width))


def giant_rows(n_counts: int) -> sparse.csr_array:
    """Four rows with half of the counts, which must be divided among threads."""
    return planted_counts(n_counts // 50, n_counts // 5, n_counts, giants=4)


SHAPES = {
    "tall": tall,
    "wide": wide,
    "power_law": power_law,
    "short_rows": short_rows,
    "giant_rows": giant_rows,
}


def planted_counts(
    n: int, p: int, n_counts: int, *, exponent: float = 0.0, giants: int = 0, n_components: int = 10, seed: int = 0
) -> sparse.csr_array:
    """Draw X ~ Poisson(W H) from planted factors, conditioned on its total, without computing W H.

    Given the total, each count falls on component k, row i, column j with probability sum_i W_ik sum_j H_kj, then
    W_ik / sum_i W_ik, then H_kj / sum_j H_kj: each is one draw, for any n x p.

    Parameters
    ----------
    n, p : int
        Shape of X.
    n_counts : int
        Sum of X, slightly larger than its number of nonzeros.
    exponent : float, default=0.0
        Row and column sums decrease like rank ** -exponent, in random order.
    giants : int, default=0
        This number of rows has half of the counts.
    n_components : int, default=10
    seed : int, default=0

    Returns
    -------
    csr_array of shape (n, p), int32
    """
    rng = np.random.default_rng(seed)
    W, Ht = (
        rng.gamma(0.3, size=(m, n_components)) * rng.permutation(np.arange(1.0, m + 1) ** -exponent)[:, None]
        for m in (n, p)
    )
    if giants:
        W[:giants] *= W[giants:].sum() / W[:giants].sum()
    share = W.sum(axis=0) * Ht.sum(axis=0)
    drawn = rng.multinomial(n_counts, share / share.sum())
    i, j = (
        np.concatenate([_draw(rng, A[:, k], drawn[k]) for k in range(n_components)]).astype(np.int32) for A in (W, Ht)
    )
    return sparse.coo_array((np.ones(n_counts, np.int32), (i, j)), shape=(n, p)).tocsr()


def _draw(rng: np.random.Generator, weights: np.ndarray, size: int) -> np.ndarray:
    ends = np.cumsum(weights)
    return np.searchsorted(ends, rng.random(size) * ends[-1], side="right")


def random_start(
    shape: tuple[int, int], total: float, n_components: int, dtype: str = "float64"
) -> dict[str, np.ndarray]:
    """Uniform random W and H, scaled so that W H sums to `total`."""
    rng = np.random.default_rng(0)
    W, H = rng.random((shape[0], n_components)), rng.random((n_components, shape[1]))
    level = np.sqrt(total / (W.sum(axis=0) @ H.sum(axis=1)))
    return {"W": (level * W).astype(dtype), "H": (level * H).astype(dtype)}


def median_seconds(*calls: Callable[[], object], repeats: int = 11) -> list[float]:
    """Median wall time of each call; the calls are interleaved, so that all are affected when the machine is busy."""
    seconds = np.empty((repeats, len(calls)))
    for r in range(repeats):
        for c, call in enumerate(calls):
            began = time.perf_counter()
            call()
            seconds[r, c] = time.perf_counter() - began
    return [median(column) for column in seconds.T]


def in_fresh_process(code: str, *arguments: object, **environment: str) -> dict:
    """Run code in a new interpreter that imports the same fastpmf; return its output, parsed as JSON."""
    path = os.pathsep.join([str(Path(fastpmf.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout or "{}")
