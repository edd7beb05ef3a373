"""Rules for the source code: imports, flags, warnings, documented parameters, and examples."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import numpydoc_light
import pytest

import fastpmf
from fastpmf.fitting.hpf import HPFOptions
from fastpmf.fitting.options import FitData, PoissonOptions
from fastpmf.solvers import CoordinateDescent, Extrapolated, JointEM, MeanField, Multiplicative, Problem

ROOT = Path(fastpmf.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
# Modules import from their own folder and from folders on lower levels
LEVELS = (
    ("_version", "utils"), ("kernels",), ("core", "_show_versions"), ("counts", "model"), ("solvers",), ("fitting",),
    ("analysis",), ("plot",), ("estimators",),
)  # fmt: skip
PUBLIC = [getattr(fastpmf, name) for name in fastpmf.__all__ if inspect.isroutine(getattr(fastpmf, name))]
ESTIMATORS = (fastpmf.PoissonNMF, fastpmf.HPF)
METHODS = [
    method
    for described in (*ESTIMATORS, fastpmf.GammaPosterior, fastpmf.Topics)
    for name, method in inspect.getmembers(described, inspect.isfunction)
    if not name.startswith("_") and method.__module__.startswith("fastpmf")
]


def level_of(module: str) -> int:
    """Position of a module of fastpmf in `LEVELS`; the edges are above them all."""
    folder = module.split(".")[1] if "." in module else ""
    return next((level for level, folders in enumerate(LEVELS) if folder in folders), len(LEVELS))


def imports_of(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
class TestEachFile:
    def test_imports_only_go_down(self, path):
        parts = path.relative_to(ROOT).with_suffix("").parts
        own = level_of(".".join(("fastpmf", *parts)))
        for name in imports_of(path):
            if name.split(".")[0] == "fastpmf" and own < len(LEVELS):
                assert level_of(name) < own or name.split(".")[1] == parts[0], name

    def test_kernels_import_numba_and_numpy_only(self, path):
        if "kernels" not in path.parts:
            return
        foreign = {name.split(".")[0] for name in imports_of(path)} - {"fastpmf"}
        # llvmlite is Numba's own; scikit-learn brings joblib, which knows affinity and cgroup quotas, and threadpoolctl
        allowed = {"numba", "numpy", "llvmlite"} | ({"joblib", "threadpoolctl"} if path.name == "threads.py" else set())
        assert foreign <= allowed | sys.stdlib_module_names

    def test_flags_are_spelled_in_one_place(self, path):
        flags = re.findall(r"fastmath|parallel=True|cache=True|@(?:numba\.)?n?jit", path.read_text(encoding="utf-8"))
        assert not flags or path.name == "_jit.py"

    def test_warnings_are_given_in_one_place(self, path):
        """`fastpmf.utils.warnings.warn` names the user's line."""
        if path.name == "warnings.py":
            return
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"warnings.warn", "warnings.warn_explicit"}
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module == "warnings"
            for alias in node.names
        }
        assert "warn" not in imported

    def test_it_has_a_docstring(self, path):
        source = path.read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(source)) or len(source.splitlines()) <= 1


@pytest.mark.parametrize("thing", [*PUBLIC, *ESTIMATORS, *METHODS], ids=lambda thing: thing.__qualname__)
def test_documented_parameters_are_the_signature(thing):
    documented = numpydoc_light.parameters(inspect.getdoc(thing))
    signature = [name for name in inspect.signature(thing).parameters if name not in ("self", "cls")]
    if documented is None:  # "arguments as in ...", or no arguments
        assert not signature or "as in" in inspect.getdoc(thing) or thing.__name__ in ("save", "load")
    else:
        assert set(documented) == set(signature)


@pytest.mark.parametrize("thing", [*PUBLIC, *ESTIMATORS, *METHODS], ids=lambda thing: thing.__qualname__)
def test_an_unknown_keyword_is_a_type_error(thing):
    """No signature has **kwargs, so that Python raises the error."""
    kinds = {parameter.kind for parameter in inspect.signature(thing).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


def _public_callables():
    for module in ("fastpmf", "fastpmf.plot", "fastpmf.io", "fastpmf.dask", "fastpmf.anndata"):
        module = importlib.import_module(module)
        for name in module.__all__:
            thing = getattr(module, name)
            yield from (method for _, method in inspect.getmembers(thing, inspect.isfunction))
            if callable(thing):
                yield thing


def test_x_comes_before_w_and_w_before_h_in_every_signature():
    for thing in _public_callables():
        kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
        given = inspect.signature(thing).parameters.items()
        order = [name for name, parameter in given if name in ("X", "W", "H") and parameter.kind in kinds]
        assert order == sorted(order, key="XWH".index), thing.__qualname__


@pytest.mark.parametrize("module", [m.name for m in pkgutil.walk_packages(fastpmf.__path__, "fastpmf.")])
def test_examples_are_true(module):
    if module == "fastpmf.__main__":
        return
    result = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


def test_solvers_and_what_they_are_given_are_immutable():
    """All that changes in a fit is in its state, whose fields are a checkpoint."""
    for described in (JointEM, Multiplicative, CoordinateDescent, Extrapolated, MeanField, Problem, PoissonOptions,
                      HPFOptions, FitData):  # fmt: skip
        assert described.__dataclass_params__.frozen


def test_public_names_exist_and_have_examples_or_are_types():
    for thing in PUBLIC:
        assert ">>>" in inspect.getdoc(thing) or thing is fastpmf.show_versions
