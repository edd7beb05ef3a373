"""Starting factors: random or spectral, scaled so that the total rate is the total count."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import column_sums, dot, empty_factor, padded
from fastpmf.utils.validation import check_factor, random_generator
from fastpmf.utils.warnings import warn

GIVEN = ("custom", "grow", "shrink")  # starts from W and H of the user
INITS = ("auto", "merge", "random", "nndsvd", "nndsvda", "nndsvdar", *GIVEN)
# Multiplicative updates can't leave an exact zero, so zeros of NNDSVD are replaced by this share of the factor mean.
_FLOORS = {"nndsvd": 1e-6, "nndsvda": 1.0, "nndsvdar": 1e-2}


def initialise(
    counts: Counts, n_components: int, init: str, random_state: Any, dtype: np.dtype, W: Any = None, H: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Starting factors: W and H transposed, padded.

    Parameters
    ----------
    counts : Counts of shape (n, p)
    n_components : int
    init : {"auto", "merge", "random", "nndsvd", "nndsvda", "nndsvdar", "custom", "grow", "shrink"}
        "auto", "merge" and "random": absolute values of standard normal numbers. "nndsvd": non-negative double SVD,
        with zeros raised to 1e-6 of the mean of the factor, since multiplicative updates can't leave an exact zero.
        "nndsvda": zeros raised to the mean. "nndsvdar": to random numbers of about a hundredth of it. "custom": W and H
        as given. "grow": the same for fewer components, and zeros for the others. "shrink": the same for more
        components, all of them. All but these three are scaled so that sum(W H) = sum(X).
    random_state : None, int, numpy RandomState or Generator
    dtype : float32 or float64
    W, H : array-like of shapes (n, k) and (k, p), for "custom", "grow" and "shrink" only

    Raises
    ------
    ValueError
        If factors are given without init="custom", "grow" or "shrink", or missing with them, or NNDSVD has more
        components than min(n, p).

    References
    ----------
    C. Boutsidis and E. Gallopoulos, "SVD based initialization", Pattern Recognition 41 (2008), section 2.
    """
    if init in ("auto", "merge"):
        init = "random"
    n, p = counts.shape
    if init in GIVEN:
        if W is None or H is None:
            raise ValueError(f"init={init!r} needs both W and H")
        k = n_components_given(W, n_components, init)
        W, H = check_factor(W, (n, k), "W"), check_factor(H, (k, p), "H")
        W_, Ht = (empty_factor(n_rows, max(k, n_components), dtype) for n_rows in (n, p))
        with np.errstate(under="ignore"):
            W_[:, :k], Ht[:, :k] = W, H.T
        if init != "grow":
            _reseed_zero_rates(counts, W_, Ht, k)
        return W_, Ht
    if W is not None or H is not None:
        raise ValueError(f"W and H are starting factors for init='custom', 'grow' or 'shrink' only, got init={init!r}")
    rng = random_generator(random_state)
    if init == "random":
        W, Ht = (_random(n_rows, n_components, rng, dtype) for n_rows in (n, p))
    else:
        W, Ht = _nndsvd(counts, n_components, init, rng)
        for A in (W, Ht):
            zero = A == 0
            floor = _FLOORS[init] * A.mean()
            A[zero] = floor if init != "nndsvdar" else floor * np.abs(rng.standard_normal(int(zero.sum())))
        W, Ht = padded(W, dtype), padded(Ht, dtype)
    scale = math.sqrt(counts.total / dot(column_sums(W), column_sums(Ht)))
    W *= scale
    Ht *= scale
    return W, Ht


def n_components_given(W: Any, n_components: int, init: str) -> int:
    """The number of components of a start that is given; a ValueError if W has too few or too many for `init`."""
    if init == "custom":
        return n_components
    shape = np.shape(W)
    k = shape[1] if len(shape) == 2 else 0
    if not (k > n_components if init == "shrink" else 1 <= k < n_components):
        allowed = f"at least {n_components + 1}" if init == "shrink" else f"from 1 to {n_components - 1}"
        raise ValueError(
            f"W must have {allowed} columns with init={init!r} and n_components={n_components}, got shape {shape}"
        )
    return k


def _random(n_rows: int, n_components: int, rng: Any, dtype: np.dtype) -> np.ndarray:
    """Absolute normal numbers, the same for both dtypes; drawn in blocks to avoid a float64 copy of them all."""
    out = empty_factor(n_rows, n_components, dtype)
    for rows, block in random_rows(n_rows, n_components, rng):
        out[rows, :n_components] = block
    return out


def random_rows(n_rows: int, n_components: int, rng: Any) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows of absolute normal numbers, float64, with their slices, in the order in which they are drawn."""
    step = 1 << 12
    for i in range(0, n_rows, step):
        rows = slice(i, min(i + step, n_rows))
        yield rows, np.abs(rng.standard_normal((rows.stop - i, n_components)))


def _nndsvd(counts: Any, n_components: int, init: str, rng: Any) -> tuple[np.ndarray, np.ndarray]:
    """NNDSVD of X / mean(X): the larger non-negative part of each singular pair."""
    if counts.row_access_only:
        raise ValueError(f"init={init!r} needs counts in memory, use init='random'")
    n, p = counts.shape
    if n_components > min(n, p):
        raise ValueError(
            f"init={init!r} needs n_components <= min(n_samples, n_features) = {min(n, p)}, got {n_components}; "
            "use init='random'"
        )
    X = counts.side(Side.ROWS)
    seed = rng if isinstance(rng, np.random.RandomState) else np.random.RandomState(rng.integers(2**31))
    matrix = sparse.csr_array((X.data / (counts.total / (n * p)), X.indices, X.indptr), shape=counts.shape)
    left, singular, right = randomized_svd(matrix, n_components, random_state=seed)
    W, Ht = np.empty((n, n_components)), np.empty((p, n_components))
    for k in range(n_components):
        u, v = left[:, k], right[k]
        parts = [(np.maximum(s * u, 0), np.maximum(s * v, 0)) for s in (1, -1)]
        u, v = max(parts, key=lambda part: np.linalg.norm(part[0]) * np.linalg.norm(part[1]))
        lengths = np.linalg.norm(u), np.linalg.norm(v)
        mass = math.sqrt(singular[k] * lengths[0] * lengths[1])
        W[:, k], Ht[:, k] = (mass * a / length if length > 0 else a for a, length in zip((u, v), lengths, strict=True))
    for A in (W, Ht):
        A[np.finfo(np.float32).eps * A.mean() > A] = 0  # rounding of the SVD, relative to the factor
    return W, Ht


def _reseed_zero_rates(counts: Counts, W: np.ndarray, Ht: np.ndarray, n_components: int) -> None:
    """Replace, in place, the zeros of given factors that leave a positive count with rate 0."""
    if (W[:, :n_components] > 0).all() and (Ht[:, :n_components] > 0).all():
        return
    rows, factors = np.flatnonzero(counts.log_rate(W, Ht) == -np.inf), (W, Ht)
    if not len(rows):
        return
    row, U, V = ("row", "column")[counts.storage_axis], factors[counts.storage_axis], factors[1 - counts.storage_axis]
    for A, raised in (
        (U, rows),
        (V, np.flatnonzero((V.sum(axis=1) == 0) & (counts.sums(Side(1 - counts.storage_axis)) > 0))),
    ):
        level = _FLOORS["nndsvdar"] * (A.sum(dtype=np.float64) / max(np.count_nonzero(A), 1) or 1.0)
        block = A[raised, :n_components]
        with np.errstate(under="ignore"):
            A[raised, :n_components] = np.where(block == 0, level, block)
    warn(
        f"W and H give {len(rows)} {row}(s) of X a rate of 0 under a positive count, which no update can change; "
        "the zeros there were replaced by a hundredth of the factor's mean"
    )
