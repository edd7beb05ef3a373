"""One factor fixed: W for given rows, and the likelihood of counts under given factors."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import gammaln
from sklearn.exceptions import ConvergenceWarning

from fastpmf.core.counts import Counts, Side
from fastpmf.core.factors import FLOATS, column_sums, dot, empty_factor
from fastpmf.core.ranges import check_component_sums, check_range, float64_or, rounding_advice
from fastpmf.counts import MemoryCounts
from fastpmf.counts.masked import hide_entries, keep_entries
from fastpmf.fitting.options import NO_DATA, NO_PENALTIES, FitData, Penalties
from fastpmf.fitting.problem import build_problem, vector
from fastpmf.solvers import FactorState
from fastpmf.solvers.row_problems import solve_rows
from fastpmf.utils.validation import check_factor
from fastpmf.utils.warnings import fit_warnings_hidden, warn


def transform(
    counts: MemoryCounts, H: np.ndarray, *, max_iter: int, tol: float, penalties: Penalties = NO_PENALTIES,
    data: FitData = NO_DATA, warn_unconverged: bool = True,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The W that minimises the objective with H fixed, and an upper bound on the distance of each row from its minimum.

    Rows are separate convex problems. Each starts with its counts spread evenly over the components, and is solved by
    coordinate descent until it is within `tol` nats per count, or `max_iter` rounds of sweeps are done. Counts of
    features that no component produces can't be explained by any W, and are left out.

    Returns
    -------
    W : ndarray of shape (n, n_components)
    gap : ndarray of shape (n,), float64
        In nats.

    Warns
    -----
    ConvergenceWarning
        If rows did not converge, unless `warn_unconverged` is false.
    """
    n, k = counts.shape[0], len(H)
    H = check_factor(H, (k, counts.shape[1]), "components_")  # a NaN would be taken for a free entry
    dtype = H.dtype if H.dtype in FLOATS else np.dtype(np.float64)
    check_component_sums(H.T, dtype, "components_")
    penalties = penalties._replace(prior_H=None, alpha_H=0.0)  # no matter, since H is fixed
    problem = build_problem(counts, k, dtype, penalties, replace(data, fixed_H=H))
    counts = producible(problem.counts, H if data.background is None else np.vstack([H, problem.background]))
    problem = replace(problem, counts=counts)
    if counts.total == 0 and penalties.prior_W is None and data.fixed_W is None:
        return np.zeros((n, k), dtype), np.zeros(n)
    check_range(counts, dtype)
    start, Ht = problem.start(empty_factor(n, k, dtype), empty_factor(counts.shape[1], k, dtype))
    state = FactorState.start(problem, start, Ht)
    subproblem = problem.subproblem(Side.ROWS, state)
    totals, weight = counts.sums(Side.ROWS), subproblem.weight[:, :k]
    mass = totals + subproblem.total_shape
    n_possible = np.maximum((weight > 0).sum(axis=1, keepdims=True), 1)
    even = np.divide(mass[:, None], weight * n_possible, where=weight > 0, out=np.zeros((n, k)))
    free = np.ones(k, bool) if subproblem.fixed is None else ~subproblem.fixed[:k]
    with np.errstate(over="ignore", under="ignore"):
        start[:, :k][:, free] = even[:, free]
    _check_finite(start)
    W, gap = solve_rows(counts, subproblem, start, max_rounds=max_iter, tol=tol)
    W[~np.isfinite(gap)] = 0
    K = problem.n_components
    W, _ = problem.in_user_units(W[:, :K], Ht[:, :K], state.units)
    W = np.array(W[:, :k], order="C")
    _check_finite(W)
    lost = ~np.isfinite(gap) | ((totals > 0) & (start == 0).all(axis=1))
    if n_lost := int(lost.sum()):
        warn(
            f"{n_lost} row(s) of X have rates that {dtype} can't tell from 0 or infinity: their W is 0", RuntimeWarning
        )
    if warn_unconverged and not fit_warnings_hidden() and tol > 0 and bool((~lost & (gap > tol * mass)).any()):
        advice = f"increase max_iter or tol{rounding_advice(tol, dtype)}"
        warn(
            f"some rows of X did not converge to within tol={tol:g} nats per count in max_iter={max_iter} iterations; "
            f"{advice}",
            ConvergenceWarning,
        )
    return W, gap


def _check_finite(W: np.ndarray) -> None:
    if not np.isfinite(W).all():
        raise ValueError(
            f"W is out of the range of {W.dtype}: {float64_or(W.dtype)}scale components_ or row_exposure up"
        )


def transform_blocks(
    counts: Counts, H: np.ndarray, data: FitData, penalties: Penalties, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """`transform` of counts in memory or streamed; options as there."""
    parts = [
        transform(block, H, data=part, penalties=penalties.select_rows(rows), **options)
        for rows, block, part in blocks_with_data(counts, data)
    ]
    W, gap = zip(*parts, strict=True)
    return (W[0], gap[0]) if len(parts) == 1 else (np.concatenate(W), np.concatenate(gap))


def log_likelihood_of_blocks(counts: Counts, W: np.ndarray, H: np.ndarray, data: FitData) -> tuple[float, float]:
    """`log_likelihood` of counts in memory or streamed."""
    parts = [log_likelihood(block, W[rows], H, part) for rows, block, part in blocks_with_data(counts, data)]
    return sum(value for value, _ in parts), sum(total for _, total in parts)


def blocks_with_data(counts: Counts, data: FitData) -> Iterator[tuple[slice, MemoryCounts, FitData]]:
    """Blocks of rows with their data; a single block for counts in memory."""
    data.check_in_memory(counts)
    if counts.storage_axis is not Side.ROWS:
        raise ValueError("X must be stored by rows to be transformed or scored, got columns: use convert_counts")
    exposure = data.row_exposure
    streamed = counts.row_access_only
    if streamed and exposure is not None:
        exposure = vector(exposure, counts.shape[0], "row_exposure")
    for rows, block in counts.blocks():
        part = exposure[rows] if streamed and exposure is not None else exposure
        groups = data.groups.select_rows(rows) if streamed and data.groups is not None else data.groups
        yield rows, block, replace(data, row_exposure=part, groups=groups)


def log_likelihood(
    counts: MemoryCounts, W: np.ndarray, H: np.ndarray, data: FitData, *, masked_only: bool = False
) -> tuple[float, float]:
    """Poisson log-likelihood of counts, and their sum, without unobserved entries and features that nothing produces.

    W and H are in the user's units. Sample weights enter both results. With `masked_only` the results are those of the
    entries of the mask, without weights.
    """
    k, mask, weight = len(H), data.mask, None if masked_only else data.sample_weight
    data = replace(data, fixed_W=W, fixed_H=H, sample_weight=None)
    if masked_only:
        counts, data = keep_entries(counts, mask), replace(data, mask=None)
    dtype = H.dtype if H.dtype in FLOATS else np.dtype(np.float64)
    problem = build_problem(counts, k, dtype, NO_PENALTIES, data)
    counts = producible(problem.counts, H if data.background is None else np.vstack([H, problem.background]))
    W, Ht = problem.start(empty_factor(len(W), k, dtype), empty_factor(H.shape[1], k, dtype))
    groups = None if problem.groups is None else problem.groups.of_counts(counts)
    sums = column_sums(W), column_sums(Ht)
    if weight is not None:
        w = vector(weight, len(W), "sample_weight", zero=True)
        observed = counts.observed_sums(Side.ROWS, Ht, sums[1])
        logs = counts.log_rate(W, Ht)
        if groups is not None:
            observed = groups.row_weights(Ht, groups.start)
            logs = logs + groups.row_log_terms(counts, groups.start)
        rows = logs - (W.astype(np.float64) * observed).sum(axis=1) - _log_factorials(counts)
        return dot(w, np.where(w > 0, rows, 0.0)), dot(w, counts.sums(Side.ROWS))
    if groups is not None:
        logs, rate = counts.log_rate(W, Ht), dot(groups.start, groups.rates(W, Ht))
        return float(logs.sum()) + groups.log_term(groups.start) - rate - counts.log_factorial, counts.total
    rate = counts.rate_total(W, Ht, *sums)
    if masked_only:
        rate -= hide_entries(counts, mask).rate_total(W, Ht, *sums)
    return float(counts.log_rate(W, Ht).sum()) - rate - counts.log_factorial, counts.total


def _log_factorials(counts: MemoryCounts) -> np.ndarray:
    """Sum of log x! over each row, (n,), float64, in nats."""
    X = counts.side(Side.ROWS)
    return replace(X, data=gammaln(X.data.astype(np.float64) + 1)).sums


def producible(counts: Any, H: np.ndarray) -> MemoryCounts:
    """The counts without those of features in which every component is zero."""
    produced = np.asarray(H.any(axis=0))
    return counts if produced.all() else counts.select_columns(produced)
