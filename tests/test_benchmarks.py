"""Every benchmark runs once at its smallest size, so that none can rot; those of Dask with FASTPMF_TESTS=all."""

import importlib
import inspect
import itertools
import json
import math
import pkgutil
import re
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

SUITE = Path(__file__).parents[1] / "asv_benchmarks"

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="a million counts, line by line, take hours")


def import_suite(name):
    """The suites are imported as asv does it, and only then: not while tests are collected."""
    sys.path.insert(0, str(SUITE))
    try:
        return importlib.import_module(f"benchmarks.{name}")
    finally:
        sys.path.remove(str(SUITE))


def benchmark_classes():
    found = []
    for module in pkgutil.iter_modules([str(SUITE / "benchmarks")]):
        source = (SUITE / "benchmarks" / f"{module.name}.py").read_text(encoding="utf-8")
        marks = [pytest.mark.long] if module.name == "dask" else []  # workers, which import everything
        names = re.findall(r"^class ([A-Z]\w*)", source, re.MULTILINE)
        found += [pytest.param(module.name, name, marks=marks) for name in names]
    return found


@pytest.fixture(autouse=True)
def fast_profile(monkeypatch):
    monkeypatch.delenv("FASTPMF_BENCH", raising=False)


@pytest.mark.parametrize(("module", "name"), benchmark_classes())
def test_benchmark_runs_and_its_numbers_are_finite_and_have_units(module, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # as asv does, which gives each cache a folder
    benchmark = getattr(import_suite(module), name)
    if name == "FirstCall":  # compiling is what takes long there, and not what can rot
        monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
        monkeypatch.setattr(benchmark, "SHAPE", (5, 4))
    if name == "Optima":
        monkeypatch.setattr(benchmark, "SEEDS", (0,))
    if module == "startup":
        monkeypatch.setattr(import_suite(module), "PROCESSES", 1)
    methods = [m for m, _ in inspect.getmembers(benchmark, inspect.isfunction) if m.startswith(("time_", "track_"))]
    units = {m: getattr(benchmark, m).unit for m in methods if m.startswith("track_")}
    assert units
    assert len(units) < len(methods) or units.keys() & {"track_cpu", "track_peak"}  # what fresh processes told
    assert len(benchmark.params) == len(benchmark.param_names)
    every = len(benchmark.params[0]) if benchmark.param_names[0] == "library" else 1
    smallest = (benchmark.params[0][:every], *(values[:1] for values in benchmark.params[1:]))
    monkeypatch.setattr(benchmark, "params", smallest)
    cached = [benchmark().setup_cache()] if hasattr(benchmark, "setup_cache") else []
    for arguments in itertools.product(*smallest):
        instance = benchmark()  # asv makes one for each method, which takes long where there are workers
        getattr(instance, "setup", lambda *_: None)(*cached, *arguments)
        results = {method: getattr(instance, method)(*cached, *arguments) for method in methods}
        getattr(instance, "teardown", lambda *_: None)(*cached, *arguments)
        assert all(math.isfinite(results[method]) for method in units)


@pytest.mark.parametrize("k", [20, 200])  # rows of as many vectors as are compiled for, and of more
def test_gather_bound_gathers_every_entry(k):
    common, bound = import_suite("common"), import_suite("bound")
    from fastpmf import as_counts
    from fastpmf.core.counts import Side
    from fastpmf.core.factors import padded

    X = common.power_law(20_000)
    counts = as_counts(X)
    rng = np.random.default_rng(0)
    U, V = (padded(rng.random((m, k)), np.dtype(np.float64)) for m in X.shape)
    out = np.empty_like(U)
    bound.gather(counts, Side.ROWS, U, V, out)
    # Sums of up to some hundred products, in another order than scipy's.
    np.testing.assert_allclose(out, U * ((X > 0).astype(float) @ V), rtol=1e-12)


def test_counts_are_seeded_and_have_the_total_that_was_asked_for():
    common = import_suite("common")
    for make in common.SHAPES.values():
        X = make(10_000)
        assert X.sum() == 10_000
        assert X.dtype == np.int32
        assert (make(10_000) != X).nnz == 0


def test_every_shape_is_what_its_name_says():
    common = import_suite("common")
    short, giant = common.short_rows(10_000), common.giant_rows(10_000)
    assert (np.diff(short.indptr) == 5).all()
    assert (np.diff(short.indices.reshape(-1, 5)) > 0).all()
    # Half of the counts, give or take some five standard deviations of a binomial
    assert abs(np.sort(giant.sum(axis=1))[-4:].sum() - 5_000) < 250


def test_fresh_process_imports_the_same_library_and_its_errors_are_told():
    import fastpmf

    common = import_suite("common")
    code = "import json, os, sys, fastpmf; print(json.dumps([fastpmf.__file__, sys.argv[1], os.environ['SO']]))"
    assert common.in_fresh_process(code, 5, SO="yes") == [fastpmf.__file__, "5", "yes"]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        common.in_fresh_process("1 / 0")


def test_unknown_profile_is_turned_away(monkeypatch):
    monkeypatch.setenv("FASTPMF_BENCH", "huge")
    with pytest.raises(ValueError, match="FASTPMF_BENCH must be one of fast, regular, large, got 'huge'"):
        import_suite("common").scale()


def test_configuration_names_folders_that_exist():
    text = (SUITE / "asv.conf.json").read_text(encoding="utf-8")
    configuration = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert (SUITE / configuration["benchmark_dir"] / "__init__.py").exists()
    assert (SUITE / configuration["repo"] / "pyproject.toml").exists()
