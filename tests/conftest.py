"""Small count matrices with various difficulties (`MENAGERIE`), fixtures, and the selection of long tests."""

import os
import sys

import numpy as np
import pytest
from scipy import sparse

ALL = os.environ.get("FASTPMF_TESTS") == "all"  # whether to run long tests, and all cases of the others


def pytest_configure(config):
    if os.environ.get("FASTPMF_TESTS") not in (None, "", "all"):
        raise pytest.UsageError(f"FASTPMF_TESTS must be 'all' or not set, got {os.environ['FASTPMF_TESTS']!r}")


def pytest_collection_modifyitems(config, items):
    """Deselect tests that are marked as long, except if FASTPMF_TESTS=all."""
    if not ALL:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def _planted(rng, n=30, p=40, k=3, mean=1.0):
    """Poisson counts of known factors without empty rows and columns."""
    W, H = rng.gamma(0.5, size=(n, k)), rng.gamma(0.5, size=(k, p))
    X = rng.poisson(W @ H * (mean / (W @ H).mean()))
    X[np.arange(n), np.arange(n) % p] += 1
    X[np.arange(p) % n, np.arange(p)] += 1
    return X, W, H


def _menagerie():
    rng = np.random.default_rng(20240)
    sparse_counts = rng.poisson(0.4, (20, 15))
    sparse_counts[np.arange(20), np.arange(20) % 15] += 1
    everywhere = rng.poisson(3.0, (12, 9)) + 1
    power_law = rng.poisson(1e3 / np.outer(np.arange(1, 26), np.arange(1, 21)) ** 1.3)
    single_row, single_column = sparse_counts.copy(), sparse_counts.copy()
    single_row[4], single_column[:, 6] = 0, 0
    single_row[4, 2], single_column[9, 6] = 3, 3
    empty_row, empty_column = sparse_counts.copy(), sparse_counts.copy()
    empty_row[[0, 7, 19]], empty_column[:, [0, 5, 14]] = 0, 0
    giant_row = (rng.random((5, 9000)) < 0.01) * rng.integers(1, 5, (5, 9000))
    giant_row[2] = rng.integers(1, 4, 9000)  # 9000 > 2 * 4096 entries: cut into pieces
    short_rows = np.zeros((20, 10), int)
    for i in range(20):  # rows of 0, 1, ... 9 entries, twice: every remainder of every vector
        short_rows[i, rng.permutation(10)[: i % 10]] = rng.integers(1, 6, i % 10)
    return {
        "tiny": np.array([[2, 0], [1, 3]]),
        "planted": _planted(rng)[0],
        "single_entry_row": single_row,
        "single_entry_column": single_column,
        "empty_row": empty_row,
        "empty_column": empty_column,
        "power_law": power_law,
        "rank_one": np.outer([1, 2, 0, 3, 5], [2, 1, 4, 0]),
        "large_counts": sparse_counts * 10**9,
        "small_scale": sparse_counts * 1e-9,
        "fractional": sparse_counts * rng.random((20, 15)),
        "more_components_than_rows": rng.poisson(2.0, (2, 12)) + 1,
        "one_column": rng.integers(0, 5, (10, 1)),
        "one_row": rng.integers(0, 5, (1, 10)),
        "giant_row": giant_row,
        "dense": everywhere,
        "short_rows": short_rows,
    }


MENAGERIE = {name: sparse.csr_array(X) for name, X in _menagerie().items()}


@pytest.fixture(params=MENAGERIE)
def X(request):
    """Each matrix of `MENAGERIE` as a CSR array."""
    return MENAGERIE[request.param].copy()


@pytest.fixture(autouse=True, scope="session")
def own_cores():
    """Divide the cores among the test processes, as more threads than cores wait for each other in each kernel."""
    from fastpmf.kernels import threads  # here, as the xdist controller does not need it

    cores, processes = threads.cpu_count(), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "cpu_count", lambda: max(1, cores // processes))
        yield


@pytest.fixture(autouse=True)
def closed_figures():
    """Close all figures after each test, as Matplotlib warns of many open ones."""
    yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")


@pytest.fixture
def planted():
    """(X, W, H): 30 x 40 counts, 3 components, and positive factors to start from."""
    rng = np.random.default_rng(7)
    X, W, H = _planted(rng)
    return sparse.csr_array(X), W + 0.1, H + 0.1


@pytest.fixture
def unchanged():
    """Call with arrays or sparse matrices, which must not be changed by the test."""
    watched = []

    def parts(A):
        return [getattr(A, part) for part in ("data", "indices", "indptr", "row", "col") if hasattr(A, part)]

    def watch(*arrays):
        for A in arrays:
            for part in [A] if isinstance(A, np.ndarray) else parts(A):
                watched.append((part, part.tobytes()))
        return arrays if len(arrays) > 1 else arrays[0]

    yield watch
    for part, before in watched:
        assert part.tobytes() == before, "an input was written to"
