"""Streamed counts are fitted as counts in memory are, bitwise and for blocks of any size."""

import itertools
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from conftest import MENAGERIE
from fitting import fit
from scipy import sparse
from scipy.special import gammaln
from test_formats import FORMATS, write_npy

import fastpmf
from fastpmf import HPF, FitInterrupted, PoissonNMF, StreamedCounts, as_counts, kl_divergence, poisson_nmf
from fastpmf.core.counts import Side
from fastpmf.core.factors import padded
from fastpmf.counts import csr as rows
from fastpmf.counts.csr import ColumnSums
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import convert_counts, stream_counts, write_counts

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SIZES = (1, 7, 1000)
SCHEDULES = {
    "mu": {"solver": "mu"},
    "relaxed": {"solver": "mu", "acceleration": "relaxation"},
    "extrapolated": {"solver": "mu", "acceleration": "extrapolation"},
    "inner steps": {"solver": "mu", "inner_steps": 3},
    "even inner steps": {"solver": "mu", "inner_steps": 2},
    "em": {"solver": "em"},
    "priors": {"solver": "mu", "prior_W": (1.2, 0.5), "prior_H": "auto"},
    "penalties": {"solver": "mu", "alpha_W": 0.01, "l1_ratio": 0.5},
    "exposures": {"solver": "mu", "row_exposure": np.linspace(0.5, 2, 120), "background": 0.1},
}


@pytest.fixture(scope="module")
def X():
    return make_poisson_counts(120, 40, 3, nnz=1500, random_state=0).X


def cut(X, size):
    """A function that returns blocks of so many rows."""
    return lambda: (X[i : i + size] for i in range(0, X.shape[0], size))


def assert_same_fit(a, b):
    np.testing.assert_array_equal(a.W, b.W)
    np.testing.assert_array_equal(a.H, b.H)
    assert a.n_iter == b.n_iter
    assert a.objective == pytest.approx(b.objective, rel=1e-12)  # x log x is summed in another order


@pytest.mark.parametrize(
    ("schedule", "size"),
    [pytest.param(*case, marks=[pytest.mark.long] if case[1] == 1 and case[0] not in ("mu", "priors") else [])
     for case in itertools.product(SCHEDULES, SIZES)],
)  # fmt: skip
def test_a_streamed_fit_is_the_one_in_memory_for_any_blocks(X, schedule, size):
    if schedule == "priors":
        X = X.astype(float)
    a, b = (fit(counts, 4, **SCHEDULES[schedule]) for counts in (X, StreamedCounts(cut(X, size))))
    assert_same_fit(a, b)


@pytest.mark.parametrize("name", MENAGERIE)
def test_awkward_counts_are_fitted_to_1e_12_of_the_fit_in_memory(name):
    X = MENAGERIE[name]
    a, b = (fit(counts, 2) for counts in (X, StreamedCounts(cut(X, 3))))
    # Columns are summed entry by entry here, and four entries at a time in memory
    for A, B in ((a.W, b.W), (a.H, b.H)):
        np.testing.assert_allclose(A, B, rtol=1e-12, atol=1e-14 * A.max())


@pytest.mark.parametrize("size", SIZES)
def test_counts_stored_by_columns_are_fitted_with_exchanged_sides(X, size):
    W, H = np.random.default_rng(0).uniform(0.5, 1.5, (120, 4)), np.random.default_rng(1).uniform(0.5, 1.5, (4, 40))
    by_column = StreamedCounts(cut(X.T.tocsr(), size), by_column=True)
    assert by_column.shape == X.shape
    a = fit(by_column, 4, start=(W, H))
    b = fit(X.T.tocsr(), 4, start=(H.T, W.T))
    np.testing.assert_array_equal(a.W, b.H.T)
    np.testing.assert_array_equal(a.H, b.W.T)


def test_coordinate_descent_of_streamed_rows_never_rises_and_takes_any_blocks(X):
    a, b = (fit(StreamedCounts(cut(X, size)), 4, solver="cd", max_iter=60, eval_every=1) for size in (11, 1000))
    assert_same_fit(a, b)
    objective = a.trace["objective"]
    assert (np.diff(objective) <= 1e-12 * objective[0]).all()
    assert a.objective < fit(X, 4, solver="cd", init="random", max_iter=60).objective * 1.02
    assert (a.W == 0).any()  # multiplicative steps have no zeros


@pytest.mark.parametrize("options", [{}, {"inner_steps": 2}, {"learn_prior": True}, {"hierarchy": False}])
def test_hpf_of_streamed_counts_is_that_in_memory(X, options):
    a, b = (HPF(3, random_state=0, max_iter=15, tol=0, **options) for _ in range(2))
    a.fit(X)
    b.fit(StreamedCounts(cut(X, 17)))
    np.testing.assert_array_equal(a.W_posterior_.mean, b.W_posterior_.mean)
    np.testing.assert_array_equal(a.H_posterior_.rate, b.H_posterior_.rate)
    assert a.elbo_ == pytest.approx(b.elbo_, rel=1e-12)


@pytest.mark.parametrize("Model", [PoissonNMF, HPF])
def test_transform_and_score_go_block_by_block(X, Model):
    model = Model(3, random_state=0, max_iter=30).fit(X)
    streamed = StreamedCounts(cut(X, 17))
    np.testing.assert_array_equal(model.transform(streamed), model.transform(X))
    assert model.score(streamed) == pytest.approx(model.score(X), rel=1e-12)


def test_exposures_of_streamed_rows_are_used(X):
    exposure = np.linspace(0.5, 2, 120)
    model = PoissonNMF(3, random_state=0).fit(X)
    streamed = StreamedCounts(cut(X, 17))
    np.testing.assert_array_equal(
        model.transform(streamed, row_exposure=exposure), model.transform(X, row_exposure=exposure)
    )


def test_an_iteration_is_one_pass(X):
    passes = []

    def read():
        passes.append(1)
        return cut(X, 30)()

    streamed = StreamedCounts(read)
    assert len(passes) == 1  # validation
    poisson_nmf(streamed, 3, solver="mu", max_iter=20, eval_every=100, tol=0, random_state=0)
    # twenty iterations; objectives of the start and of the end; objective and residual of the returned factors
    assert len(passes) == 1 + 20 + 3


def test_blocks_are_released_once_the_next_one_is_read(X):
    alive, most = [], []

    def read():
        for i in range(0, 120, 10):
            block = X[i : i + 10]
            alive.append(weakref.ref(block.data))
            most.append(sum(ref() is not None for ref in alive))
            yield block
            del block

    fit(StreamedCounts(read), 3, max_iter=3)
    assert max(most) <= 3  # the one in use, the next one, and one that is just being released


def test_the_next_block_is_read_by_another_thread(X):
    seen = set()

    def read():
        for block in cut(X, 30)():
            seen.add(threading.current_thread().name)
            yield block

    fit(StreamedCounts(read), 3, max_iter=2)
    assert all(name.startswith("fastpmf-reader") for name in seen)


def test_errors_in_reading_are_raised_by_the_fit(X):
    passes = itertools.count()

    def read():
        number = next(passes)
        for i, block in enumerate(cut(X, 30)()):
            if number == 2 and i == 2:
                raise OSError("the disk is gone")
            yield block

    streamed = StreamedCounts(read)
    with pytest.raises(OSError, match="the disk is gone"):
        fit(streamed, 3)


def test_ctrl_c_between_two_blocks_keeps_the_last_iteration(X):
    passes = itertools.count()

    def read():
        number = next(passes)
        for i, block in enumerate(cut(X, 30)()):
            if number == 6 and i == 2:
                raise KeyboardInterrupt
            yield block

    with pytest.raises(FitInterrupted) as stopped:
        fit(StreamedCounts(read), 3, eval_every=100)
    solution = stopped.value.solution
    whole = fit(X, 3, max_iter=solution.n_iter)
    assert solution.n_iter == 4  # the first two passes are validation and the objective of the start
    assert next(passes) == 8  # one pass after the interrupted one evaluates the result
    assert solution.objective == pytest.approx(kl_divergence(X, solution.W, solution.H), rel=1e-12)
    np.testing.assert_array_equal(solution.W, whole.W)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_any_number_of_threads_gives_the_same_bits(X, n_threads):
    streamed = StreamedCounts(cut(X, 17))
    assert_same_fit(fit(streamed, 3, n_threads=n_threads), fit(streamed, 3, n_threads=3))


def test_sums_are_those_in_memory(X):
    X = X.astype(float) * 1.5
    a, b = as_counts(X), StreamedCounts(cut(X, 17))
    for side in Side:
        np.testing.assert_allclose(a.sums(side), b.sums(side), rtol=1e-14)
    for name in ("total", "entropy", "log_factorial"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-12)
    assert (a.smallest, a.largest) == (b.smallest, b.largest) == (X.data.min(), X.data.max())
    assert (b.nnz, b.shape, b.dtype, b.block_entries) == (
        a.nnz,
        a.shape,
        a.dtype,
        max(X[i : i + 17].nnz for i in range(0, 120, 17)),
    )


@pytest.mark.parametrize("counts", [as_counts, lambda X: StreamedCounts(cut(X, 17))])
def test_one_pass_gives_both_contractions_and_the_data_term(X, counts):
    counts = counts(X)
    rng, k = np.random.default_rng(2), 5
    W, Ht = (padded(rng.gamma(1.0, size=(n, k)), np.dtype(float)) for n in X.shape)
    rows, columns, alone = np.empty_like(W), np.empty_like(Ht), [np.empty_like(W), np.empty_like(Ht)]
    data_term = counts.contract_both(W, Ht, rows, columns, with_data_term=True)
    assert data_term == pytest.approx(float(counts.log_rate(W, Ht).sum()), rel=1e-14)
    for side, U, V, both in ((Side.ROWS, W, Ht, rows), (Side.COLUMNS, Ht, W, columns)):
        counts.contract(side, U, V, alone[side])
        np.testing.assert_allclose(both, alone[side], rtol=1e-13)


@pytest.mark.parametrize("data", [np.arange(1, 250, dtype=np.uint8), [1.0, 2.0, 7e4], [0.5, 3.0], [1e9, 3.0]])
def test_the_log_factorials_of_tallied_counts_are_those_of_each(data):
    x = np.asarray(data)
    log_factorial = as_counts(sparse.csr_array(x[None])).log_factorial
    assert log_factorial == pytest.approx(gammaln(x.astype(float) + 1).sum(), rel=1e-13)


def test_columns_of_very_many_rows_are_summed_exactly_in_float32(monkeypatch):
    monkeypatch.setattr(rows, "SAFE_ROWS", 16)
    n, k = 4000, 3
    U, V = padded(np.full((n, k), 0.1), np.dtype(np.float32)), padded(np.ones((1, k)), np.dtype(np.float32))
    third = np.float64(U[0, 0] / U[0, :k].sum())
    # Each of at least 20,000 rows adds a third; sums in float32 would be off by 1e-4
    for at_once, times in ((n, 20), (8, 2500)):
        out = np.empty_like(V)
        sums, some = ColumnSums(out), as_counts(np.ones((at_once, 1))).side(Side.ROWS)
        for _ in range(times):
            sums.add(some, U[:at_once], V)
        np.testing.assert_allclose(sums.finish()[0, :k], third * at_once * times, rtol=3e-7)
    counts, streamed = as_counts(np.ones((n, 1))), StreamedCounts(lambda: [np.ones((n, 1))] * 2)
    across = np.empty_like(V)
    counts.contract_both(U, V, np.empty_like(U), across)
    np.testing.assert_allclose(across[0, :k], third * n, rtol=3e-7)
    streamed.contract(Side.COLUMNS, V, np.concatenate([U, U]), across)
    np.testing.assert_allclose(across[0, :k], third * 2 * n, rtol=3e-7)


SOURCES = ["folder", "csr.h5ad", "csc.h5ad", "v3.h5", "v3.zarr"]


@pytest.mark.parametrize("name", SOURCES)
def test_a_file_is_streamed_by_rows_or_by_columns(tmp_path, name):
    X = np.random.default_rng(1).poisson(0.8, (7, 5)) + 1
    FORMATS[name][0](tmp_path / name, X)
    data = stream_counts(tmp_path / name, block_entries=12)
    assert data.X.storage_axis is (Side.COLUMNS if name == "csc.h5ad" else Side.ROWS)
    assert data.X.block_entries <= 12
    model, known = (PoissonNMF(2, random_state=0, solver="em", max_iter=30, tol=0) for _ in range(2))
    model.fit(data)
    known.fit(X.astype(data.X.dtype))
    # "em" is symmetric except for the order in which the factors are divided
    assert model.objective_ == pytest.approx(known.objective_, rel=1e-3 if name == "csc.h5ad" else 1e-6)
    if data.column_names is not None:
        assert list(model.feature_names_in_) == list(data.column_names)


def test_a_changed_file_is_an_error(tmp_path, X):
    write_counts(tmp_path / "X", X)
    streamed = stream_counts(tmp_path / "X", block_entries=200).X
    np.save(tmp_path / "X" / "indices.npy", np.full(X.nnz, 10**6, np.int32))
    with pytest.raises(ValueError, match="was changed since it was read for the first time"):
        fit(streamed, 3)


def test_a_file_that_is_not_canonical_is_sorted_in_every_pass(tmp_path, X):
    twice = sparse.csr_array((np.repeat(X.data, 2), np.repeat(X.indices, 2), 2 * X.indptr), shape=X.shape)
    write_npy(tmp_path / "X", X.toarray())
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / "X" / f"{name}.npy", getattr(twice, name))
    assert_same_fit(fit(stream_counts(tmp_path / "X", block_entries=200).X, 3), fit(2 * X, 3))


def test_other_blocks_in_a_later_pass_are_an_error(X):
    passes = itertools.count()
    empty = sparse.csr_array((1, 40), dtype=X.dtype)
    streamed = StreamedCounts(lambda: [X if next(passes) == 0 else sparse.vstack([X, empty], format="csr")])
    with pytest.raises(ValueError, match="the same blocks in every pass, and they changed at block 1"):
        fit(streamed, 3)


BAD = {
    "no function": (lambda X: StreamedCounts([X]), TypeError, "X must be a function that returns all blocks"),
    "no blocks": (lambda X: StreamedCounts(list), ValueError, "X must have at least one block"),
    "ragged": (lambda X: StreamedCounts(lambda: [X, X[:, :5]]), ValueError, "the first, 40, block 1 has 5"),
    "negative": (lambda X: StreamedCounts(lambda: [X, -X.astype(float)]), ValueError, "X must hold counts >= 0"),
    "once": (
        lambda X: fit(StreamedCounts(iter([iter([X]), iter([])]).__next__)),
        ValueError, "the same blocks in every",
    ),
    "as_counts": (lambda X: as_counts(StreamedCounts(cut(X, 9))), TypeError, "in memory here, got StreamedCounts"),
    "mask": (lambda X: fit(StreamedCounts(cut(X, 9)), mask=X), ValueError, "mask needs counts in memory"),
    "weights": (
        lambda X: fit(StreamedCounts(cut(X, 9)), sample_weight=np.ones(120)), ValueError, "sample_weight needs counts",
    ),
    "validation": (lambda X: fit(StreamedCounts(cut(X, 9)), validation=0.1), ValueError, "validation needs counts"),
    "svd": (
        lambda X: fit(StreamedCounts(cut(X, 9)), init="nndsvd"),
        ValueError, "init='nndsvd' needs counts in memory",
    ),
    "columns": (
        lambda X: PoissonNMF(2, random_state=0).fit(X).transform(StreamedCounts(cut(X.T.tocsr(), 9), by_column=True)),
        ValueError,
        "X must be stored by rows to be transformed",
    ),
    "em": (lambda X: fit(X, solver="em", inner_steps=2), ValueError, "inner_steps must be 1 with solver='em'"),
    "inner_steps": (lambda X: fit(X, inner_steps=0), ValueError, "inner_steps"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cant_be_streamed_is_refused_in_one_sentence(X, what):
    call, error, message = BAD[what]
    with pytest.raises(error, match=message):
        call(X)


@pytest.mark.parametrize("name", ["X.npz", "X.mtx", "dense.h5ad"])
def test_formats_that_cant_be_streamed_name_those_that_can(tmp_path, name):
    write = FORMATS.get(name, FORMATS["X.npz"])[0]
    write(tmp_path / name, np.eye(7, 5, dtype=int))
    with pytest.raises(ValueError, match="write it to a folder with convert_counts"):
        stream_counts(tmp_path / name)
    convert_counts(tmp_path / name, tmp_path / "folder")
    assert stream_counts(tmp_path / "folder").X.total == 5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bytes_planned_for_streamed_counts_are_those_that_a_fit_allocates(tmp_path, dtype):
    shape, nnz, block = (30_000, 2_000), 900_000, 60_000
    X = make_poisson_counts(*shape, nnz=nnz, random_state=0).X
    write_counts(tmp_path / "X", X)
    options = {"solver": "mu", "dtype": dtype}
    planned = fastpmf.plan(shape, X.nnz, 20, counts_dtype=X.dtype, block_entries=block, **options)

    def run():
        counts = stream_counts(tmp_path / "X", block_entries=block).X
        poisson_nmf(counts, 20, max_iter=3, tol=0, random_state=0, **options)

    run()  # compiles
    tracemalloc.start()
    run()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert planned.peak_bytes == pytest.approx(peak, rel=0.1)
    assert planned.transpose_bytes == 0
    assert "MiB for blocks" in str(planned)
