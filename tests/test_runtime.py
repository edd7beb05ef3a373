"""Threads, forks and caches of compiled kernels. Each hard case runs in its own process."""

import importlib
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from conftest import ALL
from scipy import sparse

import fastpmf
from fastpmf import poisson_nmf
from fastpmf.kernels.threads import available_threads, threads

X = sparse.csr_array(np.random.default_rng(0).poisson(0.3, (60, 40)))
PRELUDE = """
import os, sys, warnings
import numpy as np
from scipy import sparse
from fastpmf import poisson_nmf
X = sparse.csr_array(np.random.default_rng(0).poisson(0.3, (60, 40)))
def fit():
    return poisson_nmf(X, 3, max_iter=20, tol=0, random_state=0).H
"""


def run(code, timeout=300, **environment):
    """Run code after the prelude in a fresh interpreter; its standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def has_tbb():
    """Whether Numba's layer of that name is installed."""
    try:
        importlib.import_module("numba.np.ufunc.tbbpool")
    except ImportError:
        return False
    return True


@pytest.fixture(scope="module")
def expected():
    return poisson_nmf(X, 3, max_iter=20, tol=0, random_state=0).H


layers = pytest.mark.parametrize(
    "layer", ["omp", "workqueue", pytest.param("tbb", marks=pytest.mark.skipif(not has_tbb(), reason="no tbb here"))]
)


@layers
def test_sixteen_python_threads_may_fit_at_once_to_the_bits_of_one(layer):
    out, _ = run(
        """
        from concurrent.futures import ThreadPoolExecutor
        import numba
        from fastpmf import HPF, PoissonNMF, StreamedCounts, as_counts
        options = dict(max_iter=20, tol=0, random_state=0)
        counts, blocks = as_counts(X), StreamedCounts(lambda: [X[:30], X[30:]])
        model = PoissonNMF(3, **options).fit(X)
        works = [
            fit, lambda: model.transform(X), lambda: PoissonNMF(3, **options).fit_transform(counts),
            lambda: PoissonNMF(3, **options).fit_transform(blocks), lambda: HPF(3, **options).fit(X).components_,
        ]
        alone = [work() for work in works]
        def same(number):
            threads = numba.get_num_threads()
            same = np.array_equal(works[number % 5](), alone[number % 5])
            return same and numba.get_num_threads() == threads
        with ThreadPoolExecutor(16) as pool:
            print(all(pool.map(same, range(48))), numba.threading_layer())
        """,
        NUMBA_THREADING_LAYER=layer,
    )
    assert out.split() == ["True", layer]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@layers
def test_a_forked_child_computes_the_same_and_does_not_hang(layer):
    out, _ = run(
        """
        before = fit()
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of just this case
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            print(np.array_equal(fit(), before), flush=True)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        NUMBA_THREADING_LAYER=layer,
    )
    assert out.split() == ["True", "0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_before_any_fit_has_threads_of_its_own():
    out, _ = run(
        """
        child = os.fork()
        if child == 0:
            fit()
            from fastpmf.kernels import threads
            print(threads._state.serial, threads.threading_layer() is not None, flush=True)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    )
    assert out.split() == ["False", "True", "0"]


def test_idle_openmp_threads_do_not_spin_for_long():
    code = "fit(); print('GOMP_SPINCOUNT' in os.environ)"
    options = {"OMP_DISPLAY_ENV": "VERBOSE", "NUMBA_THREADING_LAYER": "omp"}
    out, err = run(code, **options)
    assert out.split() == ["False"]
    if "GOMP_SPINCOUNT" in err:  # GNU's OpenMP, not another
        assert "GOMP_SPINCOUNT = '5000'" in err
        if ALL:
            assert "GOMP_SPINCOUNT = '77'" in run(code, GOMP_SPINCOUNT="77", **options)[1]


def test_kernels_loaded_from_the_cache_compute_the_same_as_kernels_just_compiled(tmp_path):
    options = {"solver": "mu", "max_iter": 20, "tol": 0, "random_state": 0}
    code = f"""
    total = poisson_nmf(X, 3, **{options}).H.sum().item().hex()
    from fastpmf.kernels import contract, log_rate, multiply
    kernels = contract.ratio_contract, log_rate.log_rate, multiply.multiply
    overloads = [overload for kernel in kernels for overload in kernel._overloads.values()]
    print(len(overloads), sum(overload.from_cache for overload in overloads), total)
    """
    total = float(poisson_nmf(X, 3, **options).H.sum()).hex()
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path))[0].split() == ["3", "0", total]
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path))[0].split() == ["3", "3", total]


def test_nothing_is_compiled_at_import():
    out, _ = run(
        """
        from fastpmf.kernels import contract, coordinate, csr, log_rate, multiply, rows
        modules = (contract, coordinate, csr, log_rate, multiply, rows)
        kernels = [v for m in modules for v in vars(m).values() if hasattr(v, "_overloads")]
        print(len(kernels) > 0, sum(len(kernel._overloads) for kernel in kernels))
        """
    )
    assert out.split() == ["True", "0"]


def test_an_import_and_a_fit_load_no_optional_package():
    """Nor the parts of fastpmf that use them. What Numba and scikit-learn import by themselves is not counted."""
    code = "import sys, numba, sklearn.base\nbefore = set(sys.modules)" + PRELUDE + "fit()\n"
    code += "print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "fastpmf.estimators" in loaded
    optional = {"anndata", "dask", "distributed", "h5py", "matplotlib", "pandas", "pyarrow", "tqdm", "zarr"}
    own = {f"fastpmf.{name}" for name in ("anndata", "cli", "cnmf", "dask", "io", "plot")}
    assert not loaded & (optional | own)


def test_the_thread_count_is_restored_even_after_an_error():
    before = numba.get_num_threads()
    with pytest.raises(ValueError, match="at least one positive count"):
        poisson_nmf(np.zeros((3, 3)), 1, n_threads=1)
    assert numba.get_num_threads() == before


def test_more_threads_than_there_are_is_no_error(expected):
    assert np.array_equal(poisson_nmf(X, 3, max_iter=20, tol=0, random_state=0, n_threads=10_000).H, expected)


def test_minus_one_means_all_threads():
    with threads(-1) as n, threads(None) as default:
        assert n == default == available_threads()


@pytest.mark.parametrize("bad", [0, -2, 1.5, True, "all"])
def test_a_bad_thread_count_is_named(bad):
    with pytest.raises(ValueError, match="n_threads must be a positive integer, -1 or None"):
        poisson_nmf(X, 2, n_threads=bad)


def test_each_python_thread_has_its_own_thread_count(expected):
    with ThreadPoolExecutor(2) as pool:
        fits = [
            pool.submit(poisson_nmf, X, 3, max_iter=20, tol=0, random_state=0, n_threads=n).result() for n in (1, 2)
        ]
    assert all(np.array_equal(fit.H, expected) for fit in fits)


def test_show_versions_prints_what_a_report_needs(capsys):
    fastpmf.show_versions()
    printed = capsys.readouterr().out
    for word in ("fastpmf", "numba", "scikit-learn", "cpu", "vector width", "threading layer", "threads"):
        assert f"{word}: " in printed
