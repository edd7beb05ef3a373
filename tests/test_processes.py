"""Several processes: forks at any time, pools, a shared cache, and the state of a process after fits."""

import os
import sys
import threading
from collections import Counter

import numba
import pytest
from numba.core import types
from numba.core.registry import cpu_target
from test_runtime import X, run

from fastpmf import poisson_nmf
from fastpmf.kernels import _jit
from fastpmf.kernels._llvm import View, Width
from fastpmf.kernels.contract import ratio_contract
from fastpmf.kernels.launch import Table
from fastpmf.kernels.log_rate import log_rate
from fastpmf.utils.cached import cached_property

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

layers = pytest.mark.parametrize("layer", ["omp", pytest.param("workqueue", marks=pytest.mark.long)])

# A child that hangs is ended by its alarm, and its status is then not 0.
CHILD = """
    import signal, threading
    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads
    def status_of_child(work=fit):
        child = os.fork()
        if child == 0:
            signal.alarm(90)
            os._exit(0 if np.array_equal(work(), expected) else 3)
        return os.waitpid(child, 0)[1]
"""


def names_in_cache():
    """Names in the cache of some kernels for several vectors, dtypes and flags."""
    for kernel in (ratio_contract, log_rate):
        for dtype in (types.float32, types.float64):
            for n_vectors in (1, 2):
                for flags in ({"parallel": False}, {"parallel": True}):
                    table = Table([View(dtype, 1, mutable=True), Width(n_vectors)])
                    yield _jit.with_unique_name(kernel._body, types.void(table), flags).__qualname__


def test_no_two_overloads_of_a_kernel_share_files_of_the_cache(monkeypatch):
    names = list(names_in_cache())
    codegen = cpu_target.target_context.codegen()
    triple, cpu, features = codegen.magic_tuple()
    monkeypatch.setattr(codegen, "magic_tuple", lambda: (triple, cpu, features + ",+another"))
    names += names_in_cache()
    monkeypatch.setattr(numba, "__version__", "another")
    names += names_in_cache()
    assert max(Counter(names).values()) == 1


SMALL = """
    import warnings, pathlib
    warnings.simplefilter("error", RuntimeWarning)
    from fastpmf.kernels import _jit, threads
    from fastpmf.utils.progress import COMPILING
    from fastpmf.kernels.csr import count_columns
    threads._state = threads.ProcessState(serial=True)  # which compiles fastest
    def small(dtype=np.int32):
        count_columns._overloads.clear()
        _jit._launchers.clear()
        out = np.empty((2, 3), np.int64)
        count_columns(2, np.array([0, 1, 2, 1, 0], dtype), np.array([0, 2, 5]), np.array([0, 1, 2]), out)
        (overload,) = count_columns._overloads.values()
        return out.tolist() == [[1, 1, 0], [1, 1, 1]], int(overload.from_cache)
    files = lambda: sorted(pathlib.Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nb?"))
"""


def test_damaged_cache_files_are_replaced_silently(tmp_path):
    # Zeros, and pickles of a missing module and of another object
    torn = [(".nbi", b"\0" * 99), (".nbi", b"cnosuchmodule\nname\n."), (".nbi", b"\x80\x05}."), (".nbc", b"\0" * 99)]
    out, err = run(
        SMALL
        + f"""
    results = [small(), small()]
    for kind, torn in {torn!r}:
        for path in files():
            if path.suffix == kind:
                path.write_bytes(torn)
        results += [small(), small()]
    print(len(files()), {{hits for works, hits in results[::2]}}, {{hits for works, hits in results[1::2]}})
    print(all(works for works, hits in results))
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert out.splitlines() == ["6 {0} {1}", "True"]
    assert not err


def test_no_writable_cache_gives_one_warning():
    out, err = run(
        SMALL
        + """
    import numba.core.caching as caching
    warnings.simplefilter("default", RuntimeWarning)
    caching.CompileResultCacheImpl._locator_classes = []  # as on a read-only system
    print(small()[0], small(np.int64)[0])
        """
    )
    assert out.split() == ["True", "True"]
    assert err.count("RuntimeWarning") == 1
    assert "NUMBA_CACHE_DIR" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_full_disk_gives_one_warning_and_compiled_code_is_used(tmp_path):
    out, err = run(
        SMALL
        + """
    import resource
    from numba.core import event
    warnings.simplefilter("default", RuntimeWarning)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
    misses = []
    class Listener(event.Listener):
        def on_start(self, event):
            misses.append(event)
        def on_end(self, event):
            pass
    event.register(COMPILING, Listener())
    print(small()[0], small(np.int64)[0], len(files()))
    print(len(misses))  # the kernel, the loop that runs it and the function that fills its table, twice each
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert out.split() == ["True", "True", "0", "6"]
    assert err.count("RuntimeWarning: compiled kernels can't be kept on disk") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_damaged_cache_on_a_full_disk_gives_one_warning(tmp_path):
    out, err = run(
        SMALL
        + """
    import resource
    warnings.simplefilter("default", RuntimeWarning)
    print(small()[0])
    for path in files():
        if path.suffix == ".nbi":
            path.write_bytes(bytes(99))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    print(small(), small())
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert out.splitlines() == ["True", "(True, 0) (True, 0)"]
    assert err.count("RuntimeWarning: compiled kernels can't be kept on disk") == 1


@forks
@layers
def test_a_child_computes_after_its_parent_used_numba_for_other_code(layer):
    out, _ = run(
        CHILD
        + """
    import numba
    numba.get_num_threads()  # as any parallel loop does
    expected = None
    def work():
        global expected
        expected = fit()
        return expected
    print(status_of_child(work), numba.threading_layer())
        """,
        NUMBA_THREADING_LAYER=layer,
    )
    assert out.split() == ["0", layer]


@forks
def test_a_child_computes_after_its_parent_used_gnu_openmp_for_other_code():
    out, _ = run(
        CHILD
        + """
    import ctypes
    try:
        openmp = ctypes.CDLL("libgomp.so.1")
    except OSError:
        print("none")
        sys.exit()
    openmp.GOMP_parallel(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: None), None, 3, 0)
    def work():
        global expected
        expected = fit()
        return expected
    print(status_of_child(work))
        """,
        NUMBA_THREADING_LAYER="omp",
    )
    if out.split() == ["none"]:
        pytest.skip("no libgomp.so.1")
    assert out.split() == ["0"]


def test_an_interrupt_while_kernels_compile_comes_at_the_end_of_the_compilation(tmp_path):
    out, _ = run(
        SMALL
        + """
    import signal
    from numba.core import event
    class Listener(event.Listener):
        def on_start(self, event):
            signal.raise_signal(signal.SIGINT)
        def on_end(self, event):
            print("compiled")
    listener = Listener()
    event.register(COMPILING, listener)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for _ in range(3):  # the kernel, the loop that runs it and the function that fills its table
        try:
            small()
        except KeyboardInterrupt:
            print("interrupted")
    event.unregister(COMPILING, listener)
    print(small(), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert out.splitlines() == ["compiled", "interrupted"] * 3 + ["(True, 1) True"]


@forks
def test_a_child_forked_while_a_thread_compiles_does_not_hang(tmp_path):
    out, _ = run(
        SMALL
        + CHILD
        + """
    from numba.core import event
    compiling = threading.Event()
    class Listener(event.Listener):
        def on_start(self, event):
            compiling.set()
        def on_end(self, event):
            pass
    event.register(COMPILING, Listener())
    thread = threading.Thread(target=small)
    thread.start()
    compiling.wait(60)
    expected = True
    print(status_of_child(lambda: small(np.int64)[0]))
    thread.join()
        """,
        NUMBA_CACHE_DIR=str(tmp_path),
    )
    assert out.split() == ["0"]


@forks
def test_children_forked_while_threads_use_llvm_do_not_hang():
    out, _ = run(
        CHILD
        + """
    from numba.core.registry import cpu_target
    ask = cpu_target.target_context.codegen().magic_tuple
    expected = ask()
    done = threading.Event()
    def work():
        while not done.wait(1e-4):
            ask()
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    print([status_of_child(ask) for _ in range(20)])
    done.set()
    for thread in threads:
        thread.join()
        """
    )
    assert out.strip() == str([0] * 20)


@forks
@layers
def test_children_forked_while_threads_fit_do_not_hang(layer):
    out, _ = run(
        CHILD
        + """
    expected = fit()
    done = threading.Event()
    def work():
        while not done.is_set():
            fit()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    print([status_of_child() for _ in range(8)])
    done.set()
    for thread in threads:
        thread.join()
        """,
        NUMBA_THREADING_LAYER=layer,
    )
    assert out.strip() == str([0] * 8)


def test_cached_properties_of_two_objects_do_not_wait_for_each_other():
    both = threading.Barrier(2)

    class Thing:
        @cached_property
        def value(self):
            both.wait(60)  # fails if one waits for the other
            return self

    first, second = Thing(), Thing()
    thread = threading.Thread(target=lambda: first.value)
    thread.start()
    assert second.value is second
    thread.join()
    assert first.__dict__ == {"value": first}


def test_pools_of_every_kind_compute_the_same():
    out, _ = run(
        """
        import multiprocessing
        from joblib import Parallel, delayed
        warnings.simplefilter("ignore", DeprecationWarning)
        expected, options = fit(), dict(max_iter=20, tol=0, random_state=0)
        for method in multiprocessing.get_all_start_methods():
            with multiprocessing.get_context(method).Pool(1) as pool:
                print(np.array_equal(pool.apply_async(poisson_nmf, (X, 3), options).get(90).H, expected))
        (found,) = Parallel(n_jobs=2, timeout=90)([delayed(poisson_nmf)(X, 3, **options)])
        print(np.array_equal(found.H, expected))
        """
    )
    assert set(out.split()) == {"True"}


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONOPTIMIZE": "2", "NUMBA_NUM_THREADS": "1"},
        {"NUMBA_NUM_THREADS": "8", "OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1", "LOKY_MAX_CPU_COUNT": "1"},
    ],
    ids=lambda environment: ",".join(environment),
)
def test_the_environment_does_not_change_a_bit(environment):
    out, err = run(
        """
        many = poisson_nmf(X, 3, max_iter=20, tol=0, random_state=0, n_threads=64).H
        print(fit().sum().item().hex(), many.sum().item().hex())
        """,
        **environment,
    )
    assert not err
    alone = poisson_nmf(X, 3, max_iter=20, tol=0, random_state=0).H
    assert set(out.split()) == {alone.sum().item().hex()}


def test_fits_in_threads_leave_the_process_as_it_was():
    out, _ = run(
        """
        import multiprocessing, random, signal
        from concurrent.futures import ThreadPoolExecutor
        import numba
        from fastpmf import HPF, PoissonNMF, StreamedCounts, select_n_components
        def found():
            return {
                "environment": dict(os.environ), "filters": list(warnings.filters), "errors": np.geterr(),
                "seeds": (random.getstate(), str(np.random.get_state())), "hooks": (sys.excepthook, sys.unraisablehook),
                "start method": multiprocessing.get_start_method(allow_none=True), "limit": sys.getrecursionlimit(),
                "signals": [signal.getsignal(number) for number in signal.valid_signals()],
            }
        def work(number):
            options = dict(max_iter=20, tol=0, random_state=number, n_threads=1)
            HPF(3, **options).fit(X)
            PoissonNMF(3, **options).fit(StreamedCounts(lambda: [X[:30], X[30:]], n_threads=1)).transform(X)
            model = PoissonNMF(1, prior_W="auto", prior_H="auto", **options)
            select_n_components(X, [1, 3], estimator=model, n_splits=1, random_state=number, n_threads=1)
        warnings.simplefilter("ignore")
        before = found()
        work(0)
        whole = numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
        print([name for name, value in found().items() if value != before[name]], whole)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(24)))
        print([name for name, value in found().items() if value != before[name]])
        """
    )
    assert out.splitlines() == ["[] True", "[]"]
