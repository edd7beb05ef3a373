"""Input validation: any matrix is converted to the same canonical counts, and the input is not written to."""

import tracemalloc
import warnings

import naive
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from fastpmf import as_counts, poisson_nmf
from fastpmf.core.counts import Side
from fastpmf.counts import COUNT_DTYPES
from fastpmf.counts import partition as blocks
from fastpmf.counts.csr import SparseRows
from fastpmf.counts.partition import row_blocks
from fastpmf.kernels.threads import threads

A = np.array([[0, 3, 0, 1], [0, 0, 0, 0], [7, 0, 0, 2], [0, 0, 0, 9], [4, 5, 0, 6]])
FORMATS = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")


def triple(rows):
    return rows.data, rows.indices, rows.indptr


def rows_of(X):
    return as_counts(X).side(Side.ROWS)


def assert_canonical(X, expected):
    """Both sides are the canonical CSR triple of `expected`, a dense matrix."""
    counts = as_counts(X)
    assert counts.shape == expected.shape
    for side, matrix in ((Side.ROWS, expected), (Side.COLUMNS, expected.T)):
        rows = counts.side(side)
        assert rows.shape == matrix.shape
        assert rows.data.dtype in COUNT_DTYPES
        assert rows.indptr.dtype == np.int64
        assert rows.indices.dtype in (np.int32, np.int64)
        for part, target in zip(triple(rows), naive.transpose(matrix.T), strict=True):
            assert part.flags.c_contiguous
            np.testing.assert_array_equal(part, target)


def unsorted():
    """A as CSR with the entries of each row in reverse order."""
    X = sparse.csr_array(A)
    order = np.concatenate([np.arange(*ends)[::-1] for ends in zip(X.indptr[:-1], X.indptr[1:], strict=True)])
    return sparse.csr_array((X.data[order], X.indices[order], X.indptr), shape=X.shape)


def doubled(X, dtype):
    """A CSR matrix in which each row stores its entries twice, one copy after the other."""
    X = sparse.csr_array(X).astype(dtype)
    halves = [np.tile(np.arange(*ends), 2) for ends in zip(X.indptr[:-1], X.indptr[1:], strict=True)]
    order = np.concatenate(halves)
    return sparse.csr_array((X.data[order], X.indices[order], 2 * X.indptr), shape=X.shape)


def with_stored_zeros():
    X = sparse.csr_array(A + 1)
    X.data -= 1
    return X


@pytest.mark.parametrize("container", ["array", "matrix"])
@pytest.mark.parametrize("form", FORMATS)
def test_every_scipy_format_is_read(form, container):
    assert_canonical(getattr(sparse, f"{form}_{container}")(A), A)


READABLE = {
    "dense": lambda: A,
    "fortran": lambda: np.asfortranarray(A),
    "strided": lambda: np.repeat(np.repeat(A, 2, 0), 2, 1)[::2, ::2],
    "lists": A.tolist,
    "objects": lambda: A.astype(object),
    "float16": lambda: A.astype(np.float16),
    "float32": lambda: A.astype(np.float32),
    "longdouble": lambda: A.astype(np.longdouble),
    "int8": lambda: A.astype(np.int8),
    "uint64": lambda: A.astype(np.uint64),
    "csr_int64": lambda: sparse.csr_array(A.astype(np.int64)),
    "csr_uint64": lambda: sparse.csr_array(A.astype(np.uint64)),
    "csr_uint32": lambda: sparse.csr_array(A.astype(np.uint32)),
    "big_endian_dense": lambda: A.astype(">f8"),
    "unsorted": unsorted,
    "stored_zeros": with_stored_zeros,
    "all_stored": lambda: sparse.coo_array((A.ravel(), np.indices(A.shape).reshape(2, -1)), shape=A.shape),
    "dataframe": lambda: pd.DataFrame(A),
    "sparse_dataframe": lambda: pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(A)),
    "dataframe_of_mixed_columns": lambda: pd.DataFrame(A).astype({0: "Sparse[int]", 1: "float32"}),
    "sparse_dataframe_filled_with_nan": lambda: pd.DataFrame(A.astype(float)).astype("Sparse[float]"),
    "triple": lambda: triple(sparse.csr_array(A)),
    "triple_int64": lambda: tuple(part.astype(np.int64) for part in triple(sparse.csr_array(A))),
    "triple_uint16_indices": lambda: tuple(part.astype(np.uint16) for part in triple(sparse.csr_array(A))),
    "triple_of_lists": lambda: tuple(part.tolist() for part in triple(sparse.csr_array(A))),
    "counts": lambda: as_counts(A),
}


@pytest.mark.parametrize("make", READABLE.values(), ids=READABLE)
def test_every_container_is_read(make):
    assert_canonical(make(), A)


def test_booleans_count_as_ones():
    assert_canonical(A > 0, (A > 0).astype(int))
    assert_canonical(sparse.csc_array(A > 0), (A > 0).astype(int))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "int64", "uint64", "float32", "float64"])
def test_duplicates_are_summed_without_overflow(dtype):
    X = A * 20  # up to 180, so that sums exceed uint8
    if dtype == "int16":
        X = A * 3000
    assert_canonical(doubled(X, dtype), 2 * X)
    assert_canonical(doubled(X.T, dtype).T, 2 * X)  # CSC
    assert_canonical(doubled(X, dtype).tocoo(), 2 * X)
    assert_canonical(triple(doubled(X, dtype)), 2 * X)


def test_converted_counts_have_32_bit_indices():
    X = doubled(A, "int64")
    assert rows_of((X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64))).indices.dtype == np.int32


@pytest.mark.parametrize("dtype", [np.dtype(">f8"), np.dtype(">f4"), np.dtype(">i4"), np.dtype(">u2")], ids=str)
def test_the_other_byte_order_is_read(dtype):
    X = sparse.csr_array(A)
    data = (X.data / 8 if dtype.kind == "f" else X.data).astype(dtype)
    assert_canonical((data, X.indices.astype(">i4"), X.indptr.astype(">i8")), A / 8 if dtype.kind == "f" else A)


@pytest.mark.parametrize(("high", "dtype"), [(255, "uint8"), (256, "uint16"), (65536, "int32"), (2**31, "float64")])
def test_integers_of_other_widths_become_the_smallest_dtype_that_holds_them(high, dtype):
    X = sparse.csr_array(np.array([[1, high]], dtype=np.int64))
    assert as_counts(X).dtype == dtype
    assert_canonical(X, np.array([[1, high]]))


def test_a_triple_takes_its_width_from_shape_or_else_from_the_largest_index():
    parts = triple(sparse.csr_array(A))
    assert as_counts(parts).shape == (5, 4)
    assert as_counts(parts, shape=(5, 9)).shape == (5, 9)


def test_a_triple_may_hold_more_than_indptr_reaches():
    data, indices, indptr = triple(sparse.csr_array(A))
    assert_canonical((np.append(data, -5), np.append(indices, 77), indptr), A)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("dtype", [d.name for d in COUNT_DTYPES])
def test_canonical_csr_is_not_copied(dtype, read_only, unchanged):
    X = unchanged(sparse.csr_array(A).astype(dtype))
    for part in (X.data, X.indices, X.indptr):
        part.flags.writeable = not read_only
    for given in (X, triple(X)):
        rows = rows_of(given)
        assert np.shares_memory(rows.data, X.data)
        assert np.shares_memory(rows.indices, X.indices)
    # With int64 indices and indptr, all arrays are shared
    wide = X.data, X.indices.astype(np.int64), X.indptr.astype(np.int64)
    assert all(np.shares_memory(got, part) for got, part in zip(triple(rows_of(wide)), wide, strict=True))


def test_csc_is_taken_as_the_transpose_without_a_copy(unchanged):
    X = unchanged(sparse.csc_array(A.astype(np.float32)))
    columns = as_counts(X).side(Side.COLUMNS)
    assert np.shares_memory(columns.data, X.data)
    assert np.shares_memory(columns.indices, X.indices)


def test_memory_maps_are_not_copied(tmp_path, unchanged):
    parts = dict(zip(("data", "indices", "indptr"), triple(sparse.csr_array(A.astype(float))), strict=True))
    parts["indptr"] = parts["indptr"].astype(np.int64)
    for name, part in parts.items():
        np.save(tmp_path / f"{name}.npy", part)
    mapped = unchanged(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in parts))
    assert all(np.shares_memory(got, part) for got, part in zip(triple(rows_of(mapped)), mapped, strict=True))
    assert_canonical(mapped, A)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("make", [unsorted, lambda: doubled(A, "uint8"), with_stored_zeros])
def test_no_input_is_written_to(make, form, unchanged):
    X = make() if form == "csr" else make().asformat(form)
    dense = X.toarray()
    unchanged(X)
    for name in ("data", "indices", "indptr"):
        if isinstance(getattr(X, name, None), np.ndarray):
            getattr(X, name).flags.writeable = False
    assert_canonical(X, dense)


def test_transposition_agrees_with_scipy_for_any_number_of_blocks(X):
    expected = sparse.csr_array(X.T)
    expected.sort_indices()
    for n_blocks in (1, 2, 3, 7, 1000):
        for part, target in zip(triple(rows_of(X).transpose(n_blocks)), triple(expected), strict=True):
            np.testing.assert_array_equal(part, target)


def test_sums_of_both_sides_are_exact(X):
    counts = as_counts(X)
    # float64 sums of at most 9000 terms in another order
    np.testing.assert_allclose(counts.sums(Side.ROWS), X.toarray().astype(float).sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(counts.sums(Side.COLUMNS), X.toarray().astype(float).sum(axis=0), rtol=1e-13)
    assert counts.total == pytest.approx(X.toarray().astype(float).sum(), rel=1e-13)


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_array])
def test_sums_do_not_depend_on_whether_the_transpose_exists(container):
    rng = np.random.default_rng(0)
    counts = as_counts(container(rng.gamma(0.1, 10.0 ** rng.integers(-4, 4, (200, 30)))))
    before = [counts.sums(side) for side in Side]
    for side in Side:
        counts.side(side)
    for side in Side:
        np.testing.assert_array_equal(counts.sums(side), before[side])


LENGTHS = {
    "even": [3] * 50,
    "empty": [0] * 30,
    "mixed": [0, 1, 40, 0, 0, 7, 100, 3, 0],
    "giants_at_the_ends": [90, 1, 1, 90],
    "giants_side_by_side": [33, 90, 1000, 16],
    "one_row": [200],
    "one_short_row": [2],
}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_row_blocks_hold_each_entry_and_row_once_and_are_bounded(lengths, monkeypatch):
    size = 16
    monkeypatch.setattr(blocks, "_BLOCK", (size, size))
    indptr = np.append(0, np.cumsum(lengths)).astype(np.int64)
    cut, splits = row_blocks(indptr[:-1], indptr[1:])
    entries, rows, slots = np.zeros(indptr[-1], int), np.zeros(len(lengths), int), []
    for first, end, start, stop, slot in cut:
        entries[start:stop] += 1
        # The last row of a block starts below `size`, and rows of at most twice the size are not split
        assert stop - start <= (size if slot >= 0 else 3 * size)
        assert end - first <= 2 * size
        if slot < 0:
            rows[first:end] += 1
            assert (start, stop) == (indptr[first], indptr[end])
        else:
            slots.append((slot, first))
    for row, first_slot, end_slot in splits:
        rows[row] += 1
        assert [s for s, i in sorted(slots) if i == row] == list(range(first_slot, end_slot))
    assert (entries == 1).all()
    assert (rows == 1).all()
    assert {row for row, *_ in splits} == set(np.flatnonzero(np.greater(lengths, 2 * size)))


def test_row_blocks_do_not_depend_on_the_threads(X):
    indptr = rows_of(X).indptr
    cut = []
    for n in (1, 2):
        with threads(n):
            cut.append(row_blocks(indptr[:-1], indptr[1:]))
    for one, two in zip(*cut, strict=True):
        np.testing.assert_array_equal(one, two)


def bad(change, form="csr"):
    X = sparse.csr_array(A.astype(float))
    change(X)
    return X.asformat(form)


def parts(data=(1.0, 2.0), indices=(0, 1), indptr=(0, 1, 2)):
    return np.array(data), np.array(indices), np.array(indptr)


def put(value):
    def change(X):
        X.data[3] = value

    return change


UNREADABLE = {
    "nan": (ValueError, lambda: bad(put(np.nan)), "NaN"),
    "nan_csc": (ValueError, lambda: bad(put(np.nan), "csc"), "NaN"),
    "nan_dense": (ValueError, lambda: bad(put(np.nan)).toarray(), "NaN"),
    "inf": (ValueError, lambda: bad(put(np.inf)), "inf"),
    "inf_coo": (ValueError, lambda: bad(put(np.inf), "coo"), "inf"),
    "negative": (ValueError, lambda: bad(put(-1)), "-1"),
    "negative_integer": (ValueError, lambda: [[1, -2]], "-2"),
    "minus_infinity": (ValueError, lambda: [[1, -np.inf]], "inf"),
    "masked": (TypeError, lambda: np.ma.masked_equal([[1, 2]], 2), "masked array"),
    "strings": (TypeError, lambda: np.array([["a", "b"]]), "<U1"),
    "objects": ((TypeError, ValueError), lambda: np.array([[object(), 1]]), "objects"),
    "none": ((TypeError, ValueError), lambda: None, "NoneType|dimension|objects"),
    "a_string": ((TypeError, ValueError), lambda: "counts", "got a path: give what fastpmf.io.read_counts"),
    "complex": ((TypeError, ValueError), lambda: np.ones((2, 2), complex), "complex"),
    "complex_sparse": ((TypeError, ValueError), lambda: sparse.csr_array(np.ones((2, 2), complex)), "complex"),
    "dates": (TypeError, lambda: np.array([["2020-01-01"]], "datetime64[D]"), "datetime"),
    "ragged": ((TypeError, ValueError), lambda: [[1, 2], [3]], "list"),
    "one_dimension": (ValueError, lambda: [1, 2, 3], r"\b1 dimension"),
    "one_dimension_sparse": (ValueError, lambda: sparse.coo_array(np.array([1, 2])), r"shape \(2,\)"),
    "three_dimensions": (ValueError, lambda: np.ones((2, 2, 2)), r"\b3 dimension"),
    "no_rows": (ValueError, lambda: np.ones((0, 3)), r"0 sample.*\(0, 3\)"),
    "no_columns": (ValueError, lambda: np.ones((3, 0)), r"0 feature.*\(3, 0\)"),
    "no_rows_sparse": (ValueError, lambda: sparse.csr_array((0, 3)), r"0 sample.*\(0, 3\)"),
    "no_columns_sparse": (ValueError, lambda: sparse.csc_array((3, 0)), r"0 feature.*\(3, 0\)"),
    "sparse_dataframe_with_nan": (ValueError, lambda: pd.DataFrame([[1.0, np.nan]]).astype("Sparse[float]"), "NaN"),
    "sum_of_duplicates": (ValueError, lambda: parts([1.7e308, 1.7e308], [0, 0], [0, 2]), "inf"),
    "sum_of_float32": (ValueError, lambda: parts(np.float32([3e38, 3e38]), [0, 0], [0, 2]), "inf"),
    "two_arrays": (ValueError, lambda: parts()[:2], "got 2"),
    "data_of_strings": (TypeError, lambda: parts(data=["a", "b"]), "data"),
    "data_of_two_dimensions": (ValueError, lambda: parts(data=[[1.0, 2.0]]), "data"),
    "index_negative": (ValueError, lambda: parts(indices=[0, -1]), "-1"),
    "indices_float": (TypeError, lambda: parts(indices=[0.0, 1.0]), "float64"),
    "indptr_float": (TypeError, lambda: parts(indptr=[0.0, 1.0, 2.0]), "float64"),
    "indptr_descends": (ValueError, lambda: parts(indptr=[0, 2, 1, 2]), "2 stored entries, got 0 to 2, descending"),
    "indptr_from_one": (ValueError, lambda: parts(indptr=[1, 1, 2]), "indptr .* got 1 to 2$"),
    "indptr_too_far": (ValueError, lambda: parts(indptr=[0, 1, 3]), "indptr .* got 0 to 3$"),
    "indptr_of_no_rows": (ValueError, lambda: parts((), np.empty(0, int), [0]), "row"),
    "fewer_indices_than_data": (ValueError, lambda: parts(indices=[0]), "indptr"),
}


@pytest.mark.parametrize(("error", "make", "message"), UNREADABLE.values(), ids=UNREADABLE)
def test_invalid_input_is_an_error_of_one_line_that_names_it(error, make, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X = make()
    with pytest.raises(error, match=message) as caught:
        as_counts(X, name="my_counts")
    assert str(caught.value).startswith("my_counts")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((2, 1), "stored indices must lie in"), ((3, 2), r"indptr must have .* = 4 elements, got 3$")],
)
def test_a_triple_that_does_not_fit_its_shape_is_refused(shape, message):
    with pytest.raises(ValueError, match=f"^X's {message}"):
        as_counts(parts(), shape=shape)


def test_a_scipy_matrix_with_invalid_indices_is_refused():
    X = sparse.csr_array(A)
    X.indices[0] = 4
    with pytest.raises(ValueError, match=r"^X's stored indices must lie in 0 \.\.\. 3, got 0 to 4"):
        as_counts(X)


def test_counts_are_converted_to_scipy_and_back(X):
    counts = as_counts(X)
    assert isinstance(counts.side(Side.ROWS), SparseRows)
    back = counts.to_scipy()
    assert back.shape == X.shape
    np.testing.assert_array_equal(back.toarray(), X.toarray())
    assert np.shares_memory(back.data, counts.side(Side.ROWS).data)


def test_a_shape_is_for_triples_only():
    with pytest.raises(ValueError, match=r"shape goes with a .* triple only, X is a ndarray"):
        as_counts(np.ones((2, 3)), shape=(2, 3))


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_a_scipy_matrix_with_another_byte_order_is_read(form):
    X = sparse.random_array((6, 5), density=0.5, rng=0, format=form)
    total = X.sum()
    X.data = X.data.astype(">f8")
    assert as_counts(X).total == pytest.approx(total, rel=1e-14)  # the same numbers, summed in another order


def test_a_masked_array_in_a_triple_is_refused():
    with pytest.raises(TypeError, match="masked array"):
        as_counts((np.ma.masked_equal([1, 2], 2), np.array([0, 1]), np.array([0, 2])))


def test_factors_that_do_not_fit_the_counts_are_refused():
    counts = as_counts(np.ones((3, 4)))
    U, V = np.ones((3, 8)), np.ones((5, 8))
    with pytest.raises(ValueError, match="don't fit counts of shape"):
        counts.contract(0, U, V, np.empty_like(U))
    with pytest.raises(ValueError, match="don't fit counts of shape"):
        counts.log_rate(U, V)


@pytest.mark.parametrize("shape", [(1, 0), (0, 3)])
def test_a_triple_without_rows_or_columns_is_refused(shape):
    X = np.zeros(0), np.zeros(0, int), np.zeros(shape[0] + 1, int)
    with pytest.raises(ValueError, match=f"at least one row and one column, got {shape[0]} and {shape[1]}"):
        as_counts(X, shape=shape)


def frame_of(X, **dtypes):
    """X as a DataFrame with columns a, b, …, of the given dtypes or else sparse."""
    columns = {}
    for name, values in zip("abcdefgh", X.T, strict=False):
        dtype = dtypes.get(name, pd.SparseDtype(X.dtype, 0))
        columns[name] = pd.Series(values).astype(dtype)
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    "dtype", ["int64", "uint8", "float16", "Int64", "boolean", "Float64", "category", object, pd.SparseDtype(float)]
)
def test_a_dense_column_among_sparse_ones_is_read(dtype):
    X = np.random.default_rng(3).poisson(0.5, (30, 4))
    if dtype == "boolean":
        X[:, 2] = X[:, 2] > 0
    frame = frame_of(X, c=dtype)
    assert (as_counts(frame).to_scipy().toarray() == X).all()


def test_one_dense_column_does_not_make_the_sparse_ones_dense():
    n, p = 20_000, 100
    X = sparse.random_array((n, p), density=0.01, rng=np.random.default_rng(0), format="csc")
    frame = pd.DataFrame.sparse.from_spmatrix(X)
    frame["dense"] = np.arange(n) % 3
    as_counts(frame)  # compiles
    tracemalloc.start()
    counts = as_counts(frame)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counts.shape == (n, p + 1)
    assert peak < 8 * n * p / 4  # a quarter of the dense size


def test_large_counts_of_nullable_columns_stay_exact():
    X = np.array([[2**53 + 1, 0], [0, 3]])
    assert as_counts(frame_of(X, a="Int64", b="Int64")).largest == float(2**53 + 1)
    assert as_counts(frame_of(X[1:], a="Int64", b="int64[pyarrow]")).total == 3


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "boolean", "Int8"])
def test_missing_values_of_a_nullable_column_are_reported_as_nan(dtype):
    frame = pd.DataFrame({"a": pd.array([1, None], dtype), "b": [1, 2]})
    with pytest.raises(
        ValueError,
        match=r"^X must be finite, got NaN; give 0 \(fillna\(0\)\) where it means no count, and fit a mask where ",
    ):
        as_counts(frame)


def test_a_sparse_column_with_a_nonzero_fill_value_is_read():
    filled = pd.arrays.SparseArray([1, 1, 3], fill_value=1)
    frame = pd.DataFrame({"a": filled, "b": pd.arrays.SparseArray([0, 2, 0], fill_value=0)})
    assert as_counts(frame).to_scipy().toarray().tolist() == [[1, 0], [1, 2], [3, 0]]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["x", "1"], "column 'b' must hold numbers: could not convert string to float: 'x'"),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), "column 'b' must hold numbers, got dtype datetime64"),
        ([1j, 2], "column 'b' must hold counts, got complex numbers"),
    ],
)
def test_an_invalid_column_is_named(column, message):
    frame = pd.DataFrame({"a": pd.array([1, 2], "Int64"), "b": column})
    with pytest.raises((ValueError, TypeError), match=message):
        as_counts(frame)


def test_nullable_numbers_beside_the_counts_are_read():
    X = np.random.default_rng(0).poisson(2.0, (6, 4)) + 1
    weights = pd.Series([1, 2, 1, 2, 1, 2], dtype="Int64")
    options = {"random_state": 0, "max_iter": 3, "tol": 0}
    fits = [poisson_nmf(X, 2, sample_weight=w, **options).H for w in (weights, weights.to_numpy(int))]
    assert (fits[0] == fits[1]).all()
    known = pd.DataFrame([[1, 2, 3, 4], [None] * 4]).astype("Int64")  # missing entries are free
    H = poisson_nmf(X, 2, fixed_H=known, **options).H
    assert H[0].tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"^sample_weight must be finite, got NaN"):
        poisson_nmf(X, 2, sample_weight=weights.mask(weights == 2), **options)
