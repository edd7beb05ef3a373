"""The kernels that draw counts, with the JIT off too."""

import numpy as np
import pytest
from scipy import sparse, stats

from fastpmf.kernels._jit import kernel
from fastpmf.kernels.draw import ROWS_AT_ONCE, _uniform_meaning, alias_tables, allocate, close_gaps, draw_rows, uniform
from fastpmf.kernels.launch import arguments
from fastpmf.kernels.threads import current_threads


@kernel(writes=1)
def fill(table, stream, worker):
    """out[s, n] is the n-th number of stream s."""
    seed, out = arguments(table)
    for n in range(out.shape[1]):
        out[stream, n] = uniform(seed, stream, n)


@pytest.fixture(scope="module")
def numbers():
    out = np.empty((50, 80))
    fill(len(out), 2**61 + 5, out)
    return out


def test_compiled_random_numbers_are_those_of_their_meaning(numbers):
    with np.errstate(over="ignore"):
        meant = [[_uniform_meaning(2**61 + 5, s, n) for n in range(80)] for s in range(50)]
    np.testing.assert_array_equal(numbers, meant)


def split_mix(state):
    """The next state of SplitMix64 and its number, in Python's own integers."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return state, z ^ (z >> 31)


def test_random_numbers_are_those_of_split_mix_64(numbers):
    state, published = 1234567, []
    for _ in range(3):
        state, z = split_mix(state)
        published.append(z)
    assert published == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    stream = 2**61 + 5
    for s in range(50):
        stream, state = split_mix(stream)
        for n in range(80):
            state, z = split_mix(state)
            assert numbers[s, n] == (z >> 11) / 2**53


def test_random_numbers_are_uniform_and_streams_are_independent(numbers):
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 0.01
    one, other = numbers[:-1].ravel(), numbers[1:].ravel()
    for a, b in ((one, other), (numbers[:, :-1].ravel(), numbers[:, 1:].ravel())):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / np.sqrt(len(a))


@pytest.mark.parametrize("weights", [[1.0], [1, 1, 1], [0, 3, 0, 1e-9], [5, 1e-3, 7, 0, 0, 0.1], np.arange(200.0)])
def test_an_alias_table_holds_the_distribution(weights):
    weights = np.array([weights, weights[::-1]], dtype=float)
    share, other = np.empty(weights.shape), np.empty(weights.shape, np.int32)
    alias_tables(len(weights), weights, share, other, np.empty((current_threads(), weights.shape[1]), np.int64))
    n = weights.shape[1]
    for k in range(2):
        found = (share[k] + np.bincount(other[k], 1 - share[k], minlength=n)) / n
        np.testing.assert_allclose(found, weights[k] / weights[k].sum(), rtol=1e-12, atol=n * 1e-16)


def drawn(totals, W, weights, dtype, seed=7):
    """Columns, data, lengths of rows with so many counts each, and where they begin."""
    weights = np.array(weights, dtype=float)
    share, other = np.empty(weights.shape), np.empty(weights.shape, np.int32)
    alias_tables(len(weights), weights, share, other, np.empty((current_threads(), weights.shape[1]), np.int64))
    starts = np.concatenate([[0], np.cumsum(totals)]).astype(np.int64)
    columns, data = np.empty(starts[-1], np.int32), np.empty(starts[-1], dtype)
    lengths = np.empty(len(totals), np.int64)
    W = np.array(W, dtype=float)
    draw_rows(
        -(-len(W) // ROWS_AT_ONCE), seed, np.iinfo(dtype).max, starts, W, share, other, columns, data, lengths,
        np.empty((current_threads(), W.shape[1])),
    )  # fmt: skip
    return columns, data, lengths, starts


def test_a_row_gets_all_its_counts_on_ascending_columns_of_its_components():
    weights = [[1, 2, 0, 0, 0], [0, 0, 3, 1, 0]]
    columns, data, lengths, starts = drawn([200, 0, 150, 1], [[1, 0], [1, 1], [0, 2], [1, 1]], weights, np.int32)
    assert lengths.tolist()[:3] == [2, 0, 2]
    for i, own in ((0, [0, 1]), (2, [2, 3])):
        row = slice(starts[i], starts[i] + lengths[i])
        assert columns[row].tolist() == own
        assert data[row].sum() == starts[i + 1] - starts[i]
    assert abs(data[starts[2]] - 112.5) < 4 * np.sqrt(150 * 0.75 * 0.25)


def test_each_count_uses_one_random_number_for_its_component_and_one_for_its_column():
    weights, W = (
        np.array([[1, 2, 0, 4, 0.5], [0, 0.1, 3, 1, 0], [2, 2, 1, 0, 9]]),
        np.array([[0.2, 3, 1], [5, 0, 0.01]]),
    )
    columns, data, lengths, starts = drawn([300, 200], W, weights, np.int32)
    share, other = np.empty(weights.shape), np.empty(weights.shape, np.int32)
    alias_tables(len(weights), weights, share, other, np.empty((current_threads(), weights.shape[1]), np.int64))
    numbers = np.empty((2, 600))
    fill(len(numbers), 7, numbers)
    for i, w in enumerate(W):
        expected = np.zeros(5, int)
        for place, column in numbers[i].reshape(-1, 2)[: starts[i + 1] - starts[i]]:
            k, j = np.searchsorted(np.cumsum(w), place * w.sum(), side="right"), int(column * 5)
            expected[j if column * 5 - j < share[k, j] else other[k, j]] += 1
        found = np.zeros(5, int)
        found[columns[starts[i] : starts[i] + lengths[i]]] = data[starts[i] : starts[i] + lengths[i]]
        assert found.tolist() == expected.tolist()


def test_a_count_too_large_for_its_dtype_is_reported():
    _, _, lengths, _ = drawn([255, 256], [[1.0], [1.0]], [[1.0]], np.uint8)
    assert lengths.tolist() == [1, -1]
    # Row 0 has fewer in each of two columns, row 1 has too many in one
    columns, data, lengths, starts = drawn([400, 400], [[1, 1], [6, 1]], [[1, 0, 0], [0, 0, 1]], np.uint8)
    assert lengths.tolist() == [2, -1]
    assert data[:2].sum(dtype=int) == 400
    assert columns[:2].tolist() == [0, 2]
    assert columns[starts[1] :].tolist() == sorted(columns[starts[1] :].tolist())


def test_gaps_are_closed_in_place():
    columns, data = np.array([4, 9, 9, 9, 1, 5, 9], np.int32), np.arange(7, dtype=np.uint8)
    close_gaps(1, np.array([0, 3, 4, 7]), np.array([0, 1, 1, 3]), columns, data)
    assert columns[:3].tolist() == [4, 1, 5]
    assert data[:3].tolist() == [0, 4, 5]


def allocated(X, U, V, seed=3, first=0, dtype=np.uint16):
    """Units of counts by row and component, and by column and component."""
    X = sparse.csr_array(X.astype(dtype))
    of_rows, ends = np.empty(U.shape, np.int64), np.empty((current_threads(), U.shape[1]))
    of_columns = np.zeros((current_threads(), *V.shape), np.int64)
    n_tasks = -(-len(U) // ROWS_AT_ONCE)
    allocate(n_tasks, seed, first, X.data, X.indices, X.indptr.astype(np.int64), U, V, of_rows, of_columns, ends)
    return of_rows, of_columns.sum(axis=0)


def test_every_unit_of_a_count_gets_one_component():
    rng = np.random.default_rng(0)
    X, U, V = rng.poisson(0.8, (70, 9)), rng.gamma(1, size=(70, 3)), rng.gamma(1, size=(9, 3))
    of_rows, of_columns = allocated(X, U, V)
    np.testing.assert_array_equal(of_rows.sum(axis=1), X.sum(axis=1))
    np.testing.assert_array_equal(of_columns.sum(axis=1), X.sum(axis=0))


def test_allocations_are_multinomial_with_the_shares_of_a_rate():
    """Means and variances over seeds; 4 standard errors of the mean, and 25 % for the variance of 600 draws."""
    U, V, n = np.array([[1.0, 2.0, 0.5]]), np.array([[3.0, 1.0, 2.0]]), 40
    p = U[0] * V[0] / (U @ V.T)
    found = np.array([allocated(np.array([[n]]), U, V, seed=seed)[0][0] for seed in range(600)])
    error = np.sqrt(n * p * (1 - p) / len(found))
    assert (np.abs(found.mean(axis=0) - n * p) < 4 * error.ravel()).all()
    np.testing.assert_allclose(found.var(axis=0), n * (p * (1 - p))[0], rtol=0.25)


def test_allocations_of_a_block_of_rows_are_those_of_the_whole():
    rng = np.random.default_rng(1)
    X, U, V = rng.poisson(2.0, (200, 5)), rng.gamma(1, size=(200, 4)), rng.gamma(1, size=(5, 4))
    whole, _ = allocated(X, U, V)
    part, _ = allocated(X[30:], U[30:].copy(), V, first=30, dtype=np.float64)
    np.testing.assert_array_equal(whole[30:], part)
