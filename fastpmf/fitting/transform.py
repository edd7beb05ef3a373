"""One factor fixed: W for given rows, and how likely counts are under given factors."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import gammaln
from sklearn.exceptions import ConvergenceWarning

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import FLOATS, column_sums, dot, empty_factor
from fastpmf.counts import MemoryCounts
from fastpmf.counts.masked import hide_entries, keep_entries
from fastpmf.fitting.problem import Known, Penalties, stated, vector
from fastpmf.fitting.ranges import check_range, double_or
from fastpmf.solvers import State
from fastpmf.solvers.row_problems import solve_rows
from fastpmf.utils.validation import check_factor
from fastpmf.utils.warnings import warn


def transform(
    counts: MemoryCounts,
    H: np.ndarray,
    *,
    max_iter: int,
    tol: float,
    penalties: Penalties,
    known: Known,
    warn_unconverged: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """The W that explains the counts best with H fixed, and how many nats each of its rows is at most from its best.

    Rows are convex problems of their own: each starts with its counts spread evenly over the components, and goes on
    by coordinate descent until it is within `tol` nats per count, or has had `max_iter` rounds of sweeps. Counts in
    features that no component produces can't be explained by any W, and are left out. Rows that don't come as near are
    warned of if `warn_unconverged` is true.
    """
    n, k = counts.shape[0], len(H)
    H = check_factor(H, (k, counts.shape[1]), "components_")  # a NaN there would be taken for free
    dtype = H.dtype if H.dtype in FLOATS else np.dtype(np.float64)
    said = stated(counts, k, dtype, penalties, known._replace(fixed_H=H))
    assert isinstance(said.counts, MemoryCounts)  # as `counts` are
    produced = producible(said.counts, H if known.background is None else np.vstack([H, said.background]))
    problem = replace(said.problem, counts=produced)
    if problem.counts.total == 0 and penalties.prior_W is None and known.fixed_W is None:
        return np.zeros((n, k), dtype), np.zeros(n)
    check_range(problem.counts, dtype)
    start, Ht = said.start(empty_factor(n, k, dtype), empty_factor(counts.shape[1], k, dtype))
    point = State.start(problem, start, Ht)
    weight, prior = problem.row_terms(Side.ROWS, point)
    totals, some = problem.counts.sums(Side.ROWS), np.atleast_2d(weight)[:, :k]
    mass = totals + prior.total_shape
    spread = np.divide(mass[:, None], some * np.maximum((some > 0).sum(axis=1, keepdims=True), 1), where=some > 0,
                       out=np.zeros((n, k)))  # fmt: skip
    free = np.ones(k, bool) if prior.held is None else ~prior.held[:k]
    start[:, :k][:, free] = spread[:, free]
    W, gap = solve_rows(
        produced, Ht, weight, start, prior=prior, n_components=problem.n_components, max_rounds=max_iter, tol=tol
    )
    W[~np.isfinite(gap)] = 0
    W, _ = problem.present(W[:, : problem.n_components], Ht[:, : problem.n_components], point.units)
    W = np.array(W[:, :k], order="C")
    if not np.isfinite(W).all():
        raise ValueError(f"W is out of the range of {dtype}: {double_or(dtype)}scale components_ or row_exposure up")
    lost = ~np.isfinite(gap) | ((totals > 0) & (start == 0).all(axis=1))
    if stuck := int(lost.sum()):
        warn(
            f"{stuck} row(s) of X have rates that {dtype} can't tell from 0 or infinity: their W is 0",
            RuntimeWarning,
        )
    if warn_unconverged and tol > 0 and bool((~lost & (gap > tol * mass)).any()):
        warn(
            f"some rows of X had not come within tol={tol:g} nats per count of their optimum after max_iter={max_iter} "
            "iterations; raise max_iter, or tol, to converge",
            ConvergenceWarning,
        )
    return W, gap


def transforms(counts: Counts, H: np.ndarray, *, known: Known, **told: Any) -> tuple[np.ndarray, np.ndarray]:
    """`transform` of all blocks of counts."""
    parts = [
        transform(some, H, known=known._replace(row_exposure=exposure), **told)
        for _, some, exposure in _blocks(counts, known)
    ]
    W, gap = zip(*parts, strict=True)
    return (W[0], gap[0]) if len(parts) == 1 else (np.concatenate(W), np.concatenate(gap))


def log_likelihoods(counts: Counts, W: np.ndarray, H: np.ndarray, known: Known) -> tuple[float, float]:
    """`log_likelihood` of all blocks of counts."""
    parts = [
        log_likelihood(some, W[rows], H, known._replace(row_exposure=exposure))
        for rows, some, exposure in _blocks(counts, known)
    ]
    return sum(value for value, _ in parts), sum(total for _, total in parts)


def row_blocks_of(counts: Counts) -> Iterator[tuple[slice, MemoryCounts]]:
    """Blocks of rows, all of them at once in memory."""
    if counts.storage_axis is not Side.ROWS:
        raise ValueError("X must be stored by rows to be transformed or scored, got columns: convert_counts turns it")
    yield from counts.blocks()


def _blocks(counts: Counts, known: Known) -> Iterator[tuple[slice, MemoryCounts, Any]]:
    """Blocks of rows, and their exposures."""
    if counts.row_access_only and (known.mask is not None or known.sample_weight is not None):
        raise ValueError(f"mask and sample_weight need counts in memory, got {type(counts).__name__}")
    exposure = known.row_exposure
    if counts.row_access_only and exposure is not None:
        exposure = vector(exposure, counts.shape[0], "row_exposure")
    for rows, some in row_blocks_of(counts):
        yield rows, some, exposure[rows] if counts.row_access_only and exposure is not None else exposure


def log_likelihood(
    counts: MemoryCounts, W: np.ndarray, H: np.ndarray, known: Known, *, masked: bool = False
) -> tuple[float, float]:
    """Poisson log-likelihood of counts and their sum, without features that nothing produces and what is not observed.

    W and H are in the user's units; exposures, background, mask and weights are those of `known`; weights go into both.
    With `masked` it is that of the mask's entries instead, unweighted.
    """
    k, mask, weight = len(H), known.mask, None if masked else known.sample_weight
    known = known._replace(fixed_W=W, fixed_H=H, sample_weight=None)
    if masked:
        counts, known = keep_entries(counts, mask), known._replace(mask=None)
    dtype = H.dtype if H.dtype in FLOATS else np.dtype(np.float64)
    said = stated(counts, k, dtype, Penalties(), known)
    assert isinstance(said.counts, MemoryCounts)  # as `counts` were
    counts = producible(said.counts, H if known.background is None else np.vstack([H, said.background]))
    W, Ht = said.start(empty_factor(len(W), k, dtype), empty_factor(H.shape[1], k, dtype))
    sums = column_sums(W), column_sums(Ht)
    if weight is not None:
        w = vector(weight, len(W), "sample_weight", zero=True)
        seen = counts.observed_sums(Side.ROWS, Ht, sums[1])
        rows = counts.log_rate(W, Ht) - (W.astype(np.float64) * seen).sum(axis=1) - _log_factorials(counts)
        return dot(w, np.where(w > 0, rows, 0.0)), dot(w, counts.sums(Side.ROWS))
    rate = counts.rate_total(W, Ht, *sums)
    if masked:
        rate -= hide_entries(counts, mask).rate_total(W, Ht, *sums)
    return float(counts.log_rate(W, Ht).sum()) - rate - counts.log_factorial, counts.total


def _log_factorials(counts: MemoryCounts) -> np.ndarray:
    """Sum of log x! over each row, (n,), float64, in nats."""
    X = counts.side(Side.ROWS)
    return replace(X, data=gammaln(X.data.astype(np.float64) + 1)).sums


def producible(counts: MemoryCounts, H: np.ndarray) -> MemoryCounts:
    """The counts without those of features in which every component is zero."""
    produced = np.asarray(H.any(axis=0))
    return counts if produced.all() else counts.select_columns(produced)
