"""Every kernel against its oracle, and how kernels are called. All tests run with the JIT off too."""

import math

import naive
import numba
import numpy as np
import pytest
from numba.core.errors import NumbaError, TypingError
from scipy import sparse

from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import column_sums, padded
from fastpmf.counts import COUNT_DTYPES, MemoryCounts, SparseRows, as_counts, csr, partition, validation
from fastpmf.counts.partition import column_groups, panel_width
from fastpmf.kernels import simd
from fastpmf.kernels import threads as threading_state
from fastpmf.kernels._jit import kernel, row_width
from fastpmf.kernels.contract import ratio_contract, scatter_contract
from fastpmf.kernels.csr import CUT_AT_ONCE, count_columns, cut_rows, scatter_columns
from fastpmf.kernels.formula import formula
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.leverage import leverages
from fastpmf.kernels.log_rate import log_count, log_rate
from fastpmf.kernels.multiply import multiply
from fastpmf.kernels.threads import threads
from fastpmf.model.groups import Groups
from fastpmf.model.priors import log_total
from fastpmf.model.updates import TINY, extrapolated, multiplicative

compiled = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled with the JIT off")

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
# Every factor dtype with every count dtype; not the whole product, each cell compiles for half a second. Rows of 1 to 5
# vectors; of 16, the most that are in registers; and of 17 and 19
VARIANTS = [
    (F32, "uint8", "int32", 1), (F32, "uint16", "int64", 17), (F32, "int32", "int32", 300),
    (F32, "float32", "int32", 33), (F32, "float64", "int64", 64), (F64, "uint8", "int64", 129),
    (F64, "uint16", "int32", 33), (F64, "int32", "int64", 7), (F64, "float32", "int32", 128),
    (F64, "float64", "int32", 1),
]  # fmt: skip
variants = pytest.mark.parametrize(("dtype", "count", "index", "k"), VARIANTS)


def rows_of(lengths, n_columns=12, count="float64", index="int32", seed=0):
    """A canonical matrix whose rows have these lengths; counts are fractional where the dtype can be."""
    rng = np.random.default_rng(seed)
    columns = [np.sort(rng.permutation(n_columns)[:length]) for length in lengths]
    n = int(sum(lengths))
    data = rng.integers(1, 200, n) / (7 if np.dtype(count).kind == "f" else 1)
    indptr = np.append(0, np.cumsum(lengths)).astype(np.int64)
    return SparseRows(data.astype(count), np.concatenate(columns).astype(index), indptr, n_columns)


def factors(shape, k, dtype, seed=1):
    rng = np.random.default_rng(seed)
    return [padded(rng.gamma(1.0, size=(n, k)) + 0.01, dtype) for n in shape]


def dense(X):
    return sparse.csr_array((X.data.astype(float), X.indices, X.indptr), shape=X.shape).toarray()


def contract(X, U, V):
    out = np.full_like(U, np.nan)
    MemoryCounts(X).contract(Side.ROWS, U, V, out)
    return out


def subproblem(V, k=None, weight=None, side=Side.ROWS, **parts):
    """The subproblem of the other factor while V is fixed; the weights are the sums of V unless they are given."""
    weight = V.sum(axis=0, dtype=float) if weight is None else weight
    return Subproblem(side, V.shape[1] if k is None else k, V, np.atleast_2d(weight), **parts)


def every_pass(X, U, V):
    """What each kernel that loops over entries or rows makes of X, as bytes."""
    S, counts, out = contract(X, U, V), MemoryCounts(X), np.empty_like(U)
    update = multiplicative(subproblem(V), U, S, out=out)
    results = S, counts.log_rate(U, V), np.array(counts.entropy), out, update.sums, np.array(update.gap)
    return [result.tobytes() for result in results]


@pytest.fixture
def small_blocks(monkeypatch):
    """Work is cut into blocks of 5 entries, so that rows of more than 10 are split, and not at a multiple of 4."""
    monkeypatch.setattr(partition, "_BLOCK", (5, 5))


# Rows of 0 to 9 entries meet every remainder of the groups of 4 in flight; the longer ones are split by `small_blocks`.
LENGTHS = [3, 0, 9, 1, 4, 7, 2, 5, 8, 6, 0]
SPLIT = [0, 11, 12, 1, 0, 10, 12]


@variants
@pytest.mark.parametrize("lengths", [LENGTHS, SPLIT], ids=["whole", "split"])
def test_contraction_agrees_with_the_oracle(lengths, dtype, count, index, k, small_blocks):
    X = rows_of(lengths, count=count, index=index)
    U, V = factors(X.shape, k, dtype)
    S = contract(X, U, V)
    assert len(X.work[1]) == (3 if lengths is SPLIT else 0)
    # All terms are positive, so each of the k + 12 roundings costs at most one eps of the result.
    np.testing.assert_allclose(S, naive.ratio_contraction(dense(X), U, V), rtol=(k + 12) * np.finfo(dtype).eps)
    assert (S[:, k:] == 0).all()
    assert (S[np.equal(lengths, 0)] == 0).all()


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize(("dtype", "k"), [(F32, 1), (F64, 33)])
def test_a_contraction_by_panels_of_columns_gives_the_same_bits(dtype, k, width, monkeypatch):
    U, V = factors((len(LENGTHS), 12), k, dtype)
    whole = contract(rows_of(LENGTHS), U, V)
    row_bytes = V.shape[1] * V.itemsize
    monkeypatch.setattr(partition, "_PANEL_BYTES", (width * row_bytes,))
    monkeypatch.setattr(partition, "_PANEL_ENTRIES", 0)
    X = rows_of(LENGTHS)
    assert len(X.panels(row_bytes)) == 12 // width
    # With the JIT off, NumPy sums the entries in flight before it adds them, and in panels these are others
    rtol = 12 * np.finfo(dtype).eps if numba.config.DISABLE_JIT else 0
    np.testing.assert_allclose(contract(X, U, V), whole, rtol=rtol)


def test_a_row_that_is_split_in_every_panel_agrees_with_the_oracle(small_blocks, monkeypatch):
    monkeypatch.setattr(partition, "_PANEL_BYTES", (16 * 64,))
    monkeypatch.setattr(partition, "_PANEL_ENTRIES", 0)
    X = rows_of([0, 64, 3, 60], n_columns=64)
    U, V = factors(X.shape, 5, F64)
    assert [len(panel.splits) for panel in X.panels(64)] == [2, 2, 2, 2]
    # All terms are positive, so each of fewer than 80 roundings costs at most one eps of the result
    expected = naive.ratio_contraction(dense(X), U, V)
    np.testing.assert_allclose(contract(X, U, V), expected, rtol=80 * np.finfo(float).eps)


@variants
def test_columns_that_are_summed_over_rows_are_those_of_the_transpose_for_any_panels(dtype, count, index, k):
    X = rows_of(LENGTHS, count=count, index=index)
    U, V = factors(X.shape, k, dtype)
    found, expected = [], np.full_like(V, np.nan)
    MemoryCounts(X).contract(Side.COLUMNS, V, U, expected)
    for bounds in ([0, 12], [0, 5, 12], [0, 1, 2, 7, 11, 12], list(range(13))):
        found.append(np.zeros_like(V))
        scatter_contract(len(bounds) - 1, X.data, X.indices, X.indptr, np.array(bounds), U, V, row_width(V), found[-1])
    # With the JIT off, NumPy sums the entries in flight before it adds them
    rtol = 12 * np.finfo(dtype).eps if numba.config.DISABLE_JIT else 0
    for columns in found:
        np.testing.assert_allclose(columns, expected, rtol=rtol)


def test_column_shares_have_about_equal_numbers_of_entries():
    rng = np.random.default_rng(0)
    every = np.tile(np.arange(50), 2_000)  # in step with any period that a sample could have
    steep = np.minimum(rng.geometric(0.02, 100_000), 1_000) - 1
    for indices, n_columns in ((every, 50), (steep, 1_000), (np.zeros(7, int), 3), (np.zeros(0, int), 3)):
        for n_shares in (1, 2, 3, 8):
            bounds = column_groups(indices.astype(np.int32), n_columns, n_shares)
            assert bounds[0] == 0
            assert bounds[-1] == n_columns
            assert (np.diff(bounds) > 0).all()
            assert len(bounds) <= n_shares + 1
            stored = np.histogram(indices, bounds)[0]
            # A sample of 4096 is off by about 1 / 64 of a share; columns of a fiftieth of all can't be divided
            if len(indices) > 7:
                assert stored.max() <= len(indices) * (1 / n_shares + 0.03)


@pytest.mark.parametrize("width", [1, 4, 5, 12])
def test_rows_are_cut_where_they_pass_from_panel_to_panel(width):
    lengths = LENGTHS * 400  # more rows than a task has
    X = rows_of(lengths)
    bounds = np.minimum(np.arange(-(-X.n_columns // width) + 1) * width, X.n_columns)
    cuts = np.full((len(bounds), len(lengths)), -1)
    cut_rows(2, X.indices, X.indptr, bounds, cuts)
    assert CUT_AT_ONCE < len(lengths) < 2 * CUT_AT_ONCE
    for i in range(0, len(lengths), 7):
        columns = X.indices[X.indptr[i] : X.indptr[i + 1]]
        expected = X.indptr[i] + np.searchsorted(columns, bounds)
        np.testing.assert_array_equal(cuts[:, i], expected)


def test_panels_are_made_only_where_the_factor_outgrows_a_cache_and_rows_stay_long():
    million = 10**6
    assert panel_width(1000, million, 100 * million, 128) == 1 << 15  # 4 MiB of 128-byte rows
    assert panel_width(1000, million, million, 128) == 1 << 16  # 8 MiB; with 4 a row has 32 entries in a panel
    assert panel_width(1000, million, 300_000, 128) == million
    assert panel_width(1000, 1 << 16, 100 * million, 128) == 1 << 16  # 8 MiB in all
    assert panel_width(0, 0, 0, 64) == 1


@variants
@pytest.mark.parametrize("lengths", [LENGTHS, SPLIT], ids=["whole", "split"])
def test_log_rates_agree_with_the_oracle_to_float64(lengths, dtype, count, index, k, small_blocks):
    X = rows_of(lengths, count=count, index=index)
    U, V = factors(X.shape, k, dtype)
    expected = naive.log_rate(dense(X), U, V)
    # A rate is off by at most k eps, so its logarithm by k eps absolutely; rounding is relative to the absolute terms.
    terms = sparse.csr_array((X.data * (1 + np.abs(np.log((U.astype(float) @ V.T.astype(float))[dense(X) > 0]))),
                              X.indices, X.indptr), shape=X.shape)  # fmt: skip
    error = np.abs(MemoryCounts(X).log_rate(U, V) - expected)
    assert (error <= (k + 12) * np.finfo(float).eps * terms.sum(axis=1)).all()


@pytest.mark.parametrize("count", [dtype.name for dtype in COUNT_DTYPES])
def test_entropy_agrees_with_the_oracle(count, small_blocks):
    X = rows_of(LENGTHS, count=count)
    terms = [x * math.log(x) for x in X.data.tolist()]
    # One eps of the absolute terms for each of the additions, of which a block has few.
    assert MemoryCounts(X).entropy == pytest.approx(math.fsum(terms), abs=1e-14 * math.fsum(map(abs, terms)))
    blocks, _ = X.work
    out = np.empty(len(blocks))
    log_count(len(blocks), X.data, blocks, out)
    for b, total in enumerate(out):
        assert total == pytest.approx(math.fsum(terms[blocks[b, 2] : blocks[b, 3]]), rel=1e-13)


@pytest.mark.parametrize(("dtype", "k"), [(F32, 2), (F32, 33), (F32, 70), (F64, 2), (F64, 33)])
def test_multiplication_agrees_with_the_oracle(dtype, k):
    n, eps = 600, np.finfo(dtype).eps  # more rows than the 512 of a block
    rng = np.random.default_rng(3)
    X = rng.poisson(1.0, (n, 5)) + np.eye(n, 5)
    X[[0, 599]] = 0
    U, V = factors(X.shape, k, dtype)
    S = padded(naive.ratio_contraction(X, U, V)[:, :k], dtype)
    v_sum, out = V.sum(axis=0, dtype=float), np.full_like(U, np.nan)
    update = multiplicative(subproblem(V), U, S, out=out)
    np.testing.assert_allclose(out[:, :k], naive.half_step(X, U, V)[:, :k], rtol=4 * eps)  # four roundings
    assert (out[:, k:] == 0).all()
    np.testing.assert_allclose(update.sums, out.sum(axis=0, dtype=float), rtol=n * np.finfo(float).eps)
    bound = naive.gap_bound(X, U[:, :k], V[:, :k]).sum()
    scale = (U.astype(float) @ v_sum).sum() + X.sum()  # the gap is a difference of terms of this size
    assert update.gap == pytest.approx(bound, abs=(k + 8) * eps * scale)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_relaxed_multiplication_agrees_with_the_oracle_and_keeps_the_gap(dtype):
    X = rows_of(LENGTHS)
    U, V = factors(X.shape, 3, dtype)
    S, plain, out = contract(X, U, V), np.empty_like(U), np.empty_like(U)
    gap = multiplicative(subproblem(V), U, S, out=plain).gap
    update = multiplicative(subproblem(V), U, S, out=out, relaxed=True)
    expected = naive.half_step(dense(X), U, V, relaxed=True)[:, :3]
    # S is summed in another order there, and counts twice
    np.testing.assert_allclose(out[:, :3], expected, rtol=32 * np.finfo(dtype).eps)
    assert not np.array_equal(out, plain)
    assert update.gap == gap
    np.testing.assert_allclose(update.sums, out.sum(axis=0, dtype=float), rtol=len(U) * np.finfo(float).eps)


def test_multiplication_in_place_is_the_same():
    X = rows_of(LENGTHS)
    U, V = factors(X.shape, 3, F64)
    S, out = contract(X, U, V), np.empty_like(U)
    multiplicative(subproblem(V), U, S, out=out)
    multiplicative(subproblem(V), U, S, out=S)
    np.testing.assert_array_equal(S, out)


@pytest.mark.parametrize("times", [1, 30])  # which are rows of one vector, and of more than are in registers
@pytest.mark.parametrize("dtype", [F32, F64])
def test_with_a_shape_a_zero_or_tiny_entry_becomes_its_prior_and_keeps_its_counts(dtype, times):
    def rows(*values):
        return padded(np.tile(np.array(values), times), dtype)

    U, S = rows([0, 1e-36, 1e-15, 0.5], [0, 0, 0, 0]), rows([3, 1e36, 2e15, 2.0], [0, 0, 0, 0])
    shape, weight = rows([0.1, 0.2, 0.3, 0.4]), rows([1.0, 2.0, 4.0, 8.0])
    out, k = np.empty_like(U), 4 * times
    multiplicative(subproblem(U, weight=weight, shape=shape), U, S, out)
    wanted = (U.astype(float) * S + shape)[:, :k] / weight[:, :k]
    np.testing.assert_allclose(out[:, :k], wanted, rtol=6 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_rows_close_to_the_optimum_are_matched_to_a_few_eps(dtype):
    eps = np.finfo(dtype).eps
    X = rows_of([7] * 40)
    counts = dense(X)
    U, V = counts.sum(axis=1, keepdims=True) / counts.sum(), counts.sum(axis=0)[:, None]  # optimal for k = 1
    U = padded(U * (1 + np.sqrt(eps) * np.random.default_rng(0).uniform(-1, 1, U.shape)), dtype)
    V = padded(V, dtype)
    S = contract(X, U, V)
    multiplicative(subproblem(V), U, S, out=S)
    # A relative error of sqrt(eps) is a gap of only eps, but the row is still to be matched to a few eps.
    np.testing.assert_allclose(S[:, 0] * V.sum(dtype=float), counts.sum(axis=1), rtol=20 * eps)


def test_no_entry_shrinks_below_its_floor_and_none_is_raised_to_it():
    U, S = np.zeros((2, 8)), np.zeros((2, 8))
    U[:, :3], S[:, :3] = [1.0, 1e-3, 1e-20], [2.0, 1e-30, 1e-30]
    out = np.empty_like(U)
    multiplicative(subproblem(U, weight=np.array([2.0, 4, 4, 0, 0, 0, 0, 0])), U, S, out=out)
    # total_i = 2, so the floor is TINY * 2 / 4: an entry above it stops there, one below stays where it is.
    np.testing.assert_allclose(out[0, :3], [1.0, TINY / 2, 1e-20], rtol=1e-15)


def test_a_component_that_the_other_factor_lacks_becomes_zero():
    X = rows_of(LENGTHS)
    U, V = factors(X.shape, 3, F64)
    V[:, 1] = 0
    S, out = contract(X, U, V), np.empty_like(U)
    multiplicative(subproblem(V), U, S, out=out)
    np.testing.assert_array_equal(out[:, 1], 0)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("rows", [1, 600])
def test_logarithms_of_a_factor_are_summed_with_their_weights(rows, dtype):
    (A,), (shape,) = factors((600,), 5, dtype), factors((rows,), 5, dtype, seed=2)
    shape[:, 1] = 0
    A[:, 1] = 0  # its weight is 0
    weights, (A_,) = np.broadcast_to(shape, A.shape), naive.wide(A)
    terms = [float(weights[i]) * math.log(A_[i]) for i in zip(*np.nonzero(weights), strict=True)]
    assert log_total(A, shape) == pytest.approx(math.fsum(terms), abs=1e-14 * math.fsum(map(abs, terms)))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("side", Side)
def test_sums_over_observed_entries_are_accurate_however_few_they_are(side, dtype):
    order = np.random.default_rng(1).permutation(12)
    seen = order >= np.array([[12], [11], [9], [6], [3], [1], [0]])
    indptr = np.append(0, np.cumsum(~seen).reshape(seen.shape)[:, -1]).astype(np.int64)
    hidden = SparseRows(np.ones(indptr[-1], np.uint8), np.nonzero(~seen)[1].astype(np.int32), indptr, 12)
    counts = MemoryCounts(rows_of([0] * 7), unobserved=hidden)
    W, Ht = factors(hidden.shape, 16, dtype)  # no padding, whose sums are 0
    for A, place in ((W, np.arange(7)), (Ht, order)):  # a row that observes fewer entries observes smaller ones
        A *= np.logspace(0, -14, len(A), dtype=dtype)[place][:, None]
    V = (Ht, W)[side]
    expected = [naive.wide(V)[0][there].sum(axis=0) for there in (seen if side is Side.ROWS else seen.T)]
    # A sum in float64 that loses three digits at most, rounded to the dtype once
    rtol = 1e4 * np.finfo(float).eps
    np.testing.assert_allclose(counts.observed_sums(side, V, column_sums(V)), expected, rtol=rtol + np.finfo(dtype).eps)
    rate = counts.rate_total(W, Ht, column_sums(W), column_sums(Ht))
    assert rate == pytest.approx((naive.wide(W)[0] @ naive.wide(Ht)[0].T)[seen].sum(), rel=rtol)
    with threads(1):
        assert rate == counts.rate_total(W, Ht, column_sums(W), column_sums(Ht))


@pytest.mark.parametrize("compared", [2, 3, 1 << 20])
@pytest.mark.parametrize("index", ["int32", "int64"])
def test_rows_are_told_apart_by_whether_their_columns_ascend(index, compared, monkeypatch):
    monkeypatch.setattr(validation, "_CHUNK", compared)
    indptr = np.array([0, 0, 3, 3, 4, 5, 7, 9, 9])  # rows none | 0, 4, 9 | none | 3 | 1 | 2, 7 | 0, 5 | none
    good = np.array([0, 4, 9, 3, 1, 2, 7, 0, 5], dtype=index)
    assert validation._is_strictly_ascending(good, indptr)
    for place, column in ((1, 9), (2, 4), (6, 2), (8, 0)):  # equal ones
        bad = good.copy()
        bad[place] = column
        assert not validation._is_strictly_ascending(bad, indptr)
    swapped = good[[0, 2, 1, 3, 4, 5, 6, 7, 8]]
    assert not validation._is_strictly_ascending(swapped, indptr)
    assert validation._is_strictly_ascending(good[:0], np.zeros(3, np.int64))


@pytest.mark.parametrize("n_blocks", [1, 2, 16])
@pytest.mark.parametrize("index", ["int32", "int64"])
@pytest.mark.parametrize("count", ["uint8", "float64"])
def test_a_transpose_by_threads_is_that_of_scipy_and_of_the_oracle(count, index, n_blocks, monkeypatch):
    X = rows_of(LENGTHS * 3, count=count, index=index)
    expected = [*naive.transpose(dense(X))]
    by_scipy = X.transpose(n_blocks)
    monkeypatch.setattr(csr, "_PARALLEL_ENTRIES", 0)
    by_threads = X.transpose(n_blocks)
    for found in (by_scipy, by_threads):
        assert found.shape == (12, len(LENGTHS) * 3)
        assert [A.dtype for A in (found.data, found.indices, found.indptr)] == [count, np.int32, np.int64]
        for A, B in zip((found.data, found.indices, found.indptr), expected, strict=True):
            np.testing.assert_array_equal(A, B)


@pytest.mark.parametrize("index", ["int32", "int64"])
def test_entries_of_columns_are_counted_block_by_block(index):
    X = rows_of(LENGTHS, index=index)
    bounds, place = np.array([0, 3, 3, 11]), np.full((3, 12), -1)
    count_columns(3, X.indices, X.indptr, bounds, place)
    np.testing.assert_array_equal(place, [block.sum(axis=0) for block in np.split(dense(X) > 0, bounds[1:-1])])
    data, indices, indptr = naive.transpose(dense(X))
    place = indptr[:-1] + np.cumsum(place, axis=0) - place
    out_data, out_indices = np.empty_like(X.data), np.empty_like(X.indices)
    scatter_columns(3, X.data, X.indices, X.indptr, bounds, place, out_data, out_indices)
    np.testing.assert_array_equal(out_data, data)
    np.testing.assert_array_equal(out_indices, indices)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_one_and_two_threads_give_the_same_bits(dtype, small_blocks):
    X = rows_of(LENGTHS * 3 + SPLIT * 3)
    U, V = factors(X.shape, 7, dtype)
    with threads(1):
        one = every_pass(X, U, V)
    with threads(2):
        assert all(every_pass(X, U, V) == one for _ in range(5))


@compiled
@pytest.mark.parametrize(("dtype", "k"), [(F32, 5), (F32, 70), (F64, 5), (F64, 40)])
def test_each_worker_has_scratch_of_its_own(dtype, k):
    """In kernels over thousands of rows, so that several workers run at once."""
    rng = np.random.default_rng(0)
    U, V = factors((6000, 8), k, dtype)
    old, S = factors((6000, 8), k, dtype, seed=2)[0], factors((6000, 8), k, dtype, seed=3)[0]
    seen = rng.random((6000, 8)) < 0.8
    hidden = SparseRows(np.ones((~seen).sum(), np.uint8), np.nonzero(~seen)[1].astype(np.int32),
                        np.append(0, np.cumsum((~seen).sum(axis=1))), 8)  # fmt: skip
    counts = MemoryCounts(rows_of([0] * 6000, n_columns=8), unobserved=hidden)
    v_sum, totals = V.sum(axis=0, dtype=float), rng.random(6000)

    def all_of_them():
        out, ahead = np.empty_like(U), np.empty_like(U)
        update = multiplicative(subproblem(V), U, S, out=out, relaxed=True)
        sums = extrapolated(U, old, 0.5, totals, v_sum, None, ahead)
        observed = counts.observed_sums(Side.ROWS, V, column_sums(V))
        results = out, ahead, update.sums, np.array(update.gap), sums, observed, column_sums(S)
        return [result.tobytes() for result in results]

    with threads(1):
        one = all_of_them()
    with threads(2):
        assert all(all_of_them() == one for _ in range(5))


@compiled
def test_the_serial_loop_gives_the_bits_of_the_parallel_one(monkeypatch, small_blocks):
    X = rows_of(LENGTHS + SPLIT)
    U, V = factors(X.shape, 7, F32)
    parallel = every_pass(X, U, V)
    monkeypatch.setattr(threading_state, "_state", threading_state.ProcessState(serial=True))
    assert every_pass(X, U, V) == parallel
    assert threading_state._state.layer is None  # no thread pool was started


def test_read_only_and_memory_mapped_input_share_one_compiled_variant_and_stay_untouched(tmp_path, unchanged):
    X = rows_of(LENGTHS)
    U, V = factors(X.shape, 7, F64)
    unchanged(X.data, X.indices, X.indptr, U, V)
    plain = every_pass(X, U, V)
    kernels = ratio_contract, log_rate, log_count, multiply
    before = [set(k._overloads) for k in kernels]

    def mapped(A, name):
        (tmp_path / name).write_bytes(A.tobytes())
        return np.memmap(tmp_path / name, A.dtype, mode="r", shape=A.shape)

    names = "data", "indices", "indptr"
    disk = SparseRows(*(mapped(getattr(X, name), name) for name in names), X.n_columns)
    assert every_pass(disk, mapped(U, "U"), mapped(V, "V")) == plain
    for A in (X.data, X.indices, X.indptr, U, V):
        A.flags.writeable = False
    assert every_pass(X, U, V) == plain
    assert [set(k._overloads) for k in kernels] == before


@kernel(writes=1)
def echo(table, task, worker):
    """out[task] becomes the scalars and the sum of A's row, for each task."""
    A, number, flag, weight, out = arguments(table)
    total = 0.0
    for j in range(A.shape[1]):
        total += A[task, j]
    out[task, 0], out[task, 1], out[task, 2], out[task, 3] = number, flag, weight, total


@pytest.mark.parametrize("scalar", [int, np.int32, np.int64, np.uint8])
def test_a_kernel_gets_scalars_of_any_kind_and_arrays_of_any_shape(scalar):
    for n, m in ((1, 3), (5, 0), (40, 2), (0, 4)):
        A, out = np.arange(n * m, dtype=np.float32).reshape(n, m), np.full((n, 4), np.nan)
        for flag, weight in ((True, 0.1), (np.bool_(False), np.float64(-1e300)), (0, np.float32(0.5))):
            echo(n, A, scalar(7), flag, weight, out)
            np.testing.assert_array_equal(out, [[7, bool(flag), weight, row.sum()] for row in A] or np.zeros((0, 4)))


@compiled
def test_arguments_of_the_wrong_kind_or_layout_raise(unchanged):
    A, out = np.ones((2, 3)), np.zeros((2, 4))
    for other in (np.ones((3, 2)).T, np.ones((2, 6))[:, ::2]):
        with pytest.raises(
            TypeError,
            match=r"^echo: arrays must be C-ordered, and writeable where the kernel writes to them, got another$",
        ):
            echo(2, other, 1, 0, 0.0, out)
    out.flags.writeable = False
    unchanged(out)
    with pytest.raises(TypeError, match=r"^echo: arrays must be C-ordered, and writeable where"):
        echo(2, A, 1, 0, 0.0, out)
    for other in ("3", None, [1.0]):
        with pytest.raises(TypeError, match=r"^the arguments of a kernel must be arrays or numbers, got "):
            echo(2, A, other, 0, 0.0, out)


@compiled
@pytest.mark.parametrize(("writes", "dtype"), [(0, F64), (1, F32)])
def test_a_kernel_that_would_write_to_an_input_or_to_another_dtype_does_not_compile(writes, dtype):
    @kernel(writes=writes)
    def store(table, row, worker):
        A, out = arguments(table)
        simd.store(out, row, 0, simd.load(A, row, 0))

    out = np.zeros((2, 16), dtype)
    with pytest.raises(TypingError, match=r"can't be stored in"):
        store(2, np.ones((2, 8)), out)
    assert (out == 0).all()


@formula()
def branching(a, b):
    """A formula that tries to branch."""
    return a if a > b else b


@kernel(writes=1)
def branch(table, row, worker):
    """out[row] becomes the result of `branching`."""
    A, out = arguments(table)
    simd.store(out, row, 0, branching(simd.load(A, row, 0), simd.load(A, row, 0)))


def test_a_formula_can_not_branch_on_vectors():
    with pytest.raises((TypeError, ValueError, NumbaError), match=r"use `where`|ambiguous"):
        branch(1, np.ones((1, 8)), np.ones((1, 8)))


def logarithms(values):
    """log of each value, alone in its row with a count of 1."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    U, V = np.zeros((n, 8)), np.zeros((1, 8))
    U[:, 0], V[0, 0] = values, 1.0
    X = SparseRows(np.ones(n), np.zeros(n, np.int32), np.arange(n + 1), 1)
    return MemoryCounts(X).log_rate(U, V)


def test_logarithms_are_within_two_units_in_the_last_place():
    rng = np.random.default_rng(5)
    values = np.concatenate([
        np.exp(rng.uniform(-740, 709, 2000)),
        5e-324 * rng.integers(1, 2**52, 200, dtype=np.int64).astype(float),  # subnormal
        5e-324 * 2.0 ** np.arange(52),
        2.0 ** np.arange(-1022, 1024),
        1 + np.arange(-200, 200) * np.finfo(float).eps,
        math.sqrt(0.5) * (1 + np.arange(-50, 50) * np.finfo(float).eps),
        [np.finfo(float).tiny, np.nextafter(np.finfo(float).tiny, 0), np.finfo(float).max],
    ])  # fmt: skip
    exact = np.array([math.log(x) for x in values])
    # math.log is itself within one unit of the truth.
    assert (np.abs(logarithms(values) - exact) <= 2 * np.spacing(np.abs(exact))).all()


def test_logarithms_of_zero_infinity_and_nan_are_as_in_ieee():
    np.testing.assert_array_equal(logarithms([0.0, math.inf, math.nan, 1.0]), [-math.inf, math.inf, math.nan, 0.0])


@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_zero_rate_under_a_count_makes_only_its_row_not_finite_and_does_not_raise(dtype):
    X = rows_of(LENGTHS)
    U, V = factors(X.shape, 7, dtype)
    good, terms = contract(X, U, V), MemoryCounts(X).log_rate(U, V)
    U[5] = 0
    S, out = contract(X, U, V), np.empty_like(U)
    others = np.arange(len(LENGTHS)) != 5
    assert not np.isfinite(S[5]).all()
    np.testing.assert_array_equal(S[others], good[others])
    np.testing.assert_array_equal(MemoryCounts(X).log_rate(U, V), np.where(others, terms, -math.inf))
    update = multiplicative(subproblem(V), U, S, out=out)
    assert math.isnan(update.gap)
    np.testing.assert_array_equal(out[5], U[5])


@pytest.mark.parametrize(
    ("U", "V"),
    [((4, 3), (5, 3)), ((4, 8), (5, 16)), ((3, 8), (5, 8)), ((4, 8), (6, 8))],
    ids=["not padded", "other widths", "too few rows", "too many columns"],
)
def test_factors_of_the_wrong_size_raise(U, V):
    with pytest.raises(ValueError, match=r"don't fit counts of shape \(4, 5\), or are not padded alike"):
        rows_of([5, 2, 0, 1], n_columns=5).contract(np.ones(U), np.ones(V), np.empty(U))
    with pytest.raises(ValueError, match="float64 and float32, don't fit"):
        rows_of([5, 2, 0, 1], n_columns=5).contract(np.ones((4, 8)), np.ones((5, 8), np.float32), np.empty((4, 8)))


# ── sums over groups of rows ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "p", "k", "n_groups"), [(7, 5, 1, 2), (600, 530, 3, 4), (30, 520, 17, 3)])
def test_sums_over_groups_are_those_of_numpy(dtype, n, p, k, n_groups):
    rng = np.random.default_rng(0)
    tolerance = 4 * np.finfo(dtype).eps
    group, effects = rng.integers(0, n_groups, n), rng.gamma(2.0, size=(p, n_groups))
    W, Ht = (padded(rng.gamma(1.0, size=(m, k)), np.dtype(dtype)) for m in (n, p))
    X = as_counts(rng.poisson(1.0, (n, p)).astype(float))
    groups = Groups.of(X, group, effects, 10.0)
    member, wide_W, wide_H = np.eye(n_groups)[group], W.astype(float), Ht.astype(float)
    sums = member.T @ wide_W
    np.testing.assert_array_equal(groups.counts, X.to_scipy().toarray().T @ member)
    np.testing.assert_allclose(groups.sums(W), sums, rtol=1e-13)
    np.testing.assert_allclose(groups.rates(W, Ht), wide_H @ sums.T, rtol=1e-13)
    np.testing.assert_allclose(groups.row_weights(Ht, effects), (effects.T @ wide_H)[group], rtol=max(tolerance, 1e-13))
    np.testing.assert_allclose(groups.column_weights(W, effects), effects @ sums, rtol=max(tolerance, 1e-13))
    assert groups.row_weights(Ht, effects).dtype == dtype
    best = groups.best_effects(wide_H @ sums.T)
    np.testing.assert_allclose(groups.best_effects_of(W, Ht), best, rtol=max(tolerance, 1e-13))


@pytest.mark.parametrize(
    ("count", "index", "k"), [("uint8", "int32", 1), ("float64", "int64", 3), ("int32", "int32", 6)]
)
def test_leverages_agree_with_the_oracle_and_are_of_the_first_components(count, index, k):
    X, K = rows_of(LENGTHS, count=count, index=index), k + 1
    (n, p), rng = X.shape, np.random.default_rng(0)
    U, V = rng.gamma(0.5, size=(n, K)), rng.gamma(0.5, size=(p, K))
    U[3], V[:, 0] = 0, rng.gamma(0.5, size=p) * (rng.random(p) < 0.7)  # a row of rate 0, and shares of 0
    expected = (U * V.sum(axis=0))[:, :k] * rng.integers(0, 3, (n, k)) * 200
    rates = U @ V.T
    shares = np.divide(U[:, None] * V, rates[:, :, None], out=np.zeros((n, p, K)), where=rates[:, :, None] > 0)
    oracle = naive.leverages(dense(X), shares[:, :, :k], expected)
    results = []
    for n_workers, bounds in ((1, [0, n]), (3, [0, 2, 5, n])):
        with threads(n_workers):
            rate, out = np.full((2, len(X.data)), np.nan)
            scratch = np.empty((n_workers * k, k)), np.empty((n_workers, k))
            leverages(
                len(bounds) - 1, X.data, X.indices, X.indptr, np.array(bounds), U, V, expected, rate, out, *scratch
            )
        results.append((rate.tobytes(), out.tobytes()))
    assert results[0] == results[1]
    i = np.repeat(np.arange(n), np.diff(X.indptr))
    np.testing.assert_allclose(rate, rates[i, X.indices], rtol=K * np.finfo(float).eps, atol=0)
    # The oracle's pseudoinverse loses digits where a row has fewer entries than components
    np.testing.assert_allclose(out, oracle[i, X.indices], rtol=1e-6, atol=1e-6)
    assert (out[i == 3] == 0).all()
