"""Matrices that would exceed the memory limit are refused according to their shape, before they are allocated."""

import importlib
import tracemalloc

import numpy as np
import pytest
from scipy import sparse

from fastpmf import (
    HPF,
    PoissonNMF,
    as_counts,
    consensus,
    non_negative_factorization,
    poisson_nmf,
    select_n_components,
    thin_counts,
)
from fastpmf.io import Dataset

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*carry no counts"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
]
ROWS = 10**8
K = 20


def huge(make=sparse.coo_array, n=ROWS):
    """Three counts in n rows."""
    rows, columns = np.array([0, 5, n - 1]), np.array([0, 1, 2])
    if make is sparse.csc_array:
        return make((np.ones(3, int), rows, np.arange(4)), shape=(n, 3))
    return make((np.ones(3, int), (rows, columns)), shape=(n, 3))


def fitted(kind):
    return kind(2, max_iter=3, tol=0, random_state=0).fit(np.eye(4, 3, dtype=int) + 1)


CALLS = {
    "PoissonNMF.fit": lambda X: PoissonNMF(K).fit(X),
    "PoissonNMF.fit, with priors": lambda X: PoissonNMF(K, prior_W="auto", prior_H="auto").fit(X),
    "PoissonNMF.fit_transform": lambda X: PoissonNMF(K).fit_transform(X),
    "PoissonNMF.partial_fit": lambda X: PoissonNMF(K).partial_fit(X),
    "PoissonNMF.transform": lambda X: fitted(PoissonNMF).transform(X),
    "PoissonNMF.score": lambda X: fitted(PoissonNMF).score(X),
    "HPF.fit": lambda X: HPF(K).fit(X),
    "HPF.partial_fit": lambda X: HPF(K).partial_fit(X),
    "HPF.transform": lambda X: fitted(HPF).transform(X),
    "HPF.score": lambda X: fitted(HPF).score(X),
    "poisson_nmf": lambda X: poisson_nmf(X, K),
    "select_n_components": lambda X: select_n_components(X, [1, K]),
    "consensus": lambda X: consensus(X, K),
    "non_negative_factorization": lambda X: non_negative_factorization(X, n_components=K),
}


@pytest.fixture
def small_memory(monkeypatch):
    """A memory limit of 2 GiB; the test must allocate less than a hundredth of it."""
    for module in ("utils.memory", "fitting.memory"):
        monkeypatch.setattr(importlib.import_module(f"fastpmf.{module}"), "memory_limit", lambda: 2**31)
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**31 / 100


@pytest.mark.parametrize("name", CALLS)
def test_fits_above_the_memory_limit_are_refused_according_to_the_shape(small_memory, name):
    with pytest.raises(MemoryError, match=r"needs .* GiB.* this process may have 2 GiB"):
        CALLS[name](huge())


@pytest.mark.parametrize(
    "make",
    [
        lambda: huge(sparse.csc_array),
        lambda: huge(sparse.coo_matrix),
        lambda: sparse.dok_array((ROWS, 3), dtype=int),
        lambda: sparse.dia_array(([[1] * 3], [0]), shape=(ROWS, 3)),
        lambda: Dataset(huge(), column_names=np.array(["a", "b", "c"])),
        lambda: huge().T,
        lambda: as_counts(huge(sparse.csc_array)),
    ],
    ids=["csc", "coo_matrix", "dok", "dia", "Dataset", "many columns", "counts"],
)
@pytest.mark.parametrize("kind", [PoissonNMF, HPF])
def test_a_matrix_of_any_kind_is_refused_according_to_its_shape(small_memory, make, kind):
    with pytest.raises(MemoryError, match=r"^n_components=20 needs"):
        kind(K).fit(make())


def test_row_pointers_above_the_limit_are_refused_before_they_are_read(monkeypatch):
    """`np.zeros` allocates no pages before they are accessed."""
    for module in ("utils.memory", "fitting.memory"):
        monkeypatch.setattr(f"fastpmf.{module}.memory_limit", lambda: 2**30)
    triple = np.ones(1, int), np.zeros(1, np.int32), np.zeros(ROWS + 1, np.int64)
    with pytest.raises(MemoryError, match=r"^n_components=20 needs"):
        PoissonNMF(K).fit(triple)
    with pytest.raises(MemoryError, match=r"^X of 100000000 rows needs at least 1.49 GiB, and .* 1 GiB$"):
        as_counts(triple)


def test_reading_is_refused_according_to_the_shape(small_memory):
    vast = huge(n=10**9)
    with pytest.raises(MemoryError, match=r"^my_counts of 1000000000 rows needs at least 14.9 GiB, and .* 2 GiB$"):
        as_counts(vast, name="my_counts")
    with pytest.raises(MemoryError, match=r"^X of 1000000000 rows needs"):
        thin_counts(vast, 0.5)
    with pytest.raises(MemoryError, match=r"^mask of 1000000000 rows needs"):
        PoissonNMF(1).fit(np.eye(3) + 1, mask=vast)


def test_an_array_in_a_file_is_refused_according_to_its_shape(small_memory, tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "counts.h5", "w") as file:
        dataset = file.create_dataset("X", (10**6, 10**4), np.float64, chunks=(100, 100))
        with pytest.raises(MemoryError, match=r"^X of shape \(1000000, 10000\) needs at least 74.5 GiB"):
            PoissonNMF(1).fit(dataset)


def test_transform_is_refused_only_if_it_would_exceed_the_limit():
    """The estimate is a lower bound: with exactly the memory that `transform` needs it is not refused."""
    n, model = 20_000, fitted(PoissonNMF)
    X = huge(n=n)
    model.transform(X)  # compiles
    tracemalloc.start()
    model.transform(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastpmf.utils.memory.UNCHECKED_BYTES", 0)
        patch.setattr("fastpmf.utils.memory.memory_limit", lambda: peak)
        model.transform(X)
        patch.setattr("fastpmf.utils.memory.memory_limit", lambda: peak // 2)
        with pytest.raises(MemoryError, match="give fewer rows at a time"):
            model.transform(X)
