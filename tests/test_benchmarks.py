"""Every benchmark runs once at its smallest size, so that none can rot."""

import importlib
import inspect
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
        found += [(module.name, name) for name in re.findall(r"^class ([A-Z]\w*)", source, re.MULTILINE)]
    return found


@pytest.fixture(autouse=True)
def fast_profile(monkeypatch):
    monkeypatch.delenv("FASTPMF_BENCH", raising=False)


@pytest.mark.parametrize(("module", "name"), benchmark_classes())
def test_benchmark_runs_and_its_numbers_are_finite_and_have_units(module, name):
    benchmark = getattr(import_suite(module), name)
    methods = [m for m, _ in inspect.getmembers(benchmark, inspect.isfunction) if m.startswith(("time_", "track_"))]
    assert any(m.startswith("time_") for m in methods)
    assert any(m.startswith("track_") for m in methods)
    assert len(benchmark.params) == len(benchmark.param_names)
    cached = benchmark().setup_cache()
    every = len(benchmark.params[0]) if benchmark.param_names[0] == "library" else 1
    for first in benchmark.params[0][:every]:
        arguments = (cached, first, *(values[0] for values in benchmark.params[1:]))
        for method in methods:
            instance = benchmark()
            instance.setup(*arguments)
            result = getattr(instance, method)(*arguments)
            getattr(instance, "teardown", lambda *_: None)(*arguments)
            if method.startswith("track_"):
                assert getattr(benchmark, method).unit
                assert math.isfinite(result)


def test_gather_bound_gathers_every_entry():
    common, bound = import_suite("common"), import_suite("bound")
    from fastpmf import as_counts
    from fastpmf.counts import Side
    from fastpmf.model.factors import padded

    X = common.power_law(20_000)
    counts = as_counts(X)
    rng = np.random.default_rng(0)
    U, V = (padded(rng.random((m, 20)), np.dtype(np.float64)) for m in X.shape)
    out = np.empty_like(U)
    bound.gather(counts, Side.ROWS, U, V, out)
    # Sums of up to some hundred products, in another order than scipy's.
    np.testing.assert_allclose(out, U * ((X > 0).astype(float) @ V), rtol=1e-12)


def test_counts_are_seeded_and_have_the_total_that_was_asked_for():
    common = import_suite("common")
    for make in common.SHAPES.values():
        X = make(10_000)
        assert X.sum() == 10_000
        assert (make(10_000) != X).nnz == 0


def test_unknown_profile_is_turned_away(monkeypatch):
    monkeypatch.setenv("FASTPMF_BENCH", "huge")
    with pytest.raises(ValueError, match="FASTPMF_BENCH must be one of fast, regular, large, got 'huge'"):
        import_suite("common").scale()


def test_configuration_names_folders_that_exist():
    text = (SUITE / "asv.conf.json").read_text(encoding="utf-8")
    configuration = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    assert (SUITE / configuration["benchmark_dir"] / "__init__.py").exists()
    assert (SUITE / configuration["repo"] / "pyproject.toml").exists()
