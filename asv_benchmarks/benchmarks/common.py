"""What every suite shares: the profile, seeded counts, and how something is timed that is then tracked.

Profiles, chosen by the environment variable FASTPMF_BENCH:

    fast     the default: the whole suite in less than two minutes on two cores
    regular  ten times the counts
    large    a hundred times, for a quiet machine
"""

import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from scipy import sparse

from fastpmf.counts import MemoryCounts, Side, as_counts

PROFILES = {"fast": 1, "regular": 10, "large": 100}


def scale() -> int:
    """How many times more counts than in the fast profile."""
    profile = os.environ.get("FASTPMF_BENCH", "fast")
    if profile not in PROFILES:
        raise ValueError(f"FASTPMF_BENCH must be one of {', '.join(PROFILES)}, got {profile!r}")
    return PROFILES[profile]


def names(n_counts: int, *shapes: str) -> list[str]:
    """Shapes as parameters, by default all; the number of counts is in the name, so profiles are never compared."""
    return [f"{shape}-{n_counts:.0e}".replace("e+0", "e") for shape in shapes or SHAPES]


def counts_of_every_shape(n_counts: int) -> dict[str, MemoryCounts]:
    """Counts by `names`, their transposes built."""
    found = {}
    for name, make in zip(names(n_counts), SHAPES.values(), strict=True):
        found[name] = as_counts(make(n_counts))
        found[name].side(Side.COLUMNS)
    return found


def tall(n_counts: int) -> sparse.csr_array:
    """Twenty counts in a row, many in a column."""
    return planted_counts(n_counts // 20, 1_000, n_counts)


def wide(n_counts: int) -> sparse.csr_array:
    """Twenty counts in a column, many in a row."""
    return planted_counts(1_000, n_counts // 20, n_counts)


def power_law(n_counts: int) -> sparse.csr_array:
    """Rows and columns whose sums fall like 1 / rank: giant ones, and ones with hardly a count."""
    return planted_counts(n_counts // 50, n_counts // 50, n_counts, exponent=1.0)


SHAPES = {"tall": tall, "wide": wide, "power_law": power_law}


def planted_counts(
    n: int, p: int, n_counts: int, *, exponent: float = 0.0, n_components: int = 10, seed: int = 0
) -> sparse.csr_array:
    """Draw X ~ Poisson(W H) from planted factors, conditioned on its total, without ever forming W H.

    Given the total, each count falls on component k, row i, column j with probability sum_i W_ik sum_j H_kj, then
    W_ik / sum_i W_ik, then H_kj / sum_j H_kj: one draw each, whatever n x p is.

    Parameters
    ----------
    n, p : int
        Shape of X.
    n_counts : int
        Sum of X; somewhat more than its nonzeros.
    exponent : float, default=0.0
        Row and column sums fall like rank ** -exponent, in random order.
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
    share = W.sum(axis=0) * Ht.sum(axis=0)
    drawn = rng.multinomial(n_counts, share / share.sum())
    i, j = (
        np.concatenate([_draw(rng, A[:, k], drawn[k]) for k in range(n_components)]).astype(np.int32) for A in (W, Ht)
    )
    return sparse.coo_array((np.ones(n_counts, np.int32), (i, j)), shape=(n, p)).tocsr()


def _draw(rng: np.random.Generator, weights: np.ndarray, size: int) -> np.ndarray:
    ends = np.cumsum(weights)
    return np.searchsorted(ends, rng.random(size) * ends[-1], side="right")


def median_seconds(*calls: Callable[[], object], repeats: int = 11) -> list[float]:
    """Median wall time of each call; the calls take turns, so that a slow moment of the machine hits all of them."""
    seconds = np.empty((repeats, len(calls)))
    for r in range(repeats):
        for c, call in enumerate(calls):
            began = time.perf_counter()
            call()
            seconds[r, c] = time.perf_counter() - began
    return [median(column) for column in seconds.T]
