"""Optional libraries: each is in the extra that an error names."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from fastpmf.utils.extras import import_optional

ROOT = Path(__file__).parents[1]


def calls():
    """The library and the extra of each call of `import_optional` with constants, and its place."""
    for path in sorted((ROOT / "fastpmf").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "import_optional":
                module, extra, *_ = (getattr(argument, "value", None) for argument in node.args)
                if isinstance(module, str):
                    yield module.partition(".")[0], extra, f"{path.relative_to(ROOT)}:{node.lineno}"


def libraries(requirements):
    """Names of the libraries that an extra installs."""
    return {text.split(">")[0].split("[")[0] for text in requirements}


def test_the_extra_that_an_error_names_installs_the_library():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    found = list(calls())
    assert len(found) > 10
    wrong = [place for library, extra, place in found if library not in libraries(extras.get(extra, ()))]
    assert not wrong
    assert {library for library, *_ in found} <= libraries(extras["test"])


def test_a_missing_library_is_named_with_its_extra_and_what_needs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^--plot needs matplotlib: pip install 'fastpmf\[plot\]'$"):
        import_optional("matplotlib.figure", "plot", "--plot")


def test_a_library_that_is_there_is_imported():
    assert import_optional("json", "plot") is sys.modules["json"]
