"""Optional libraries: each is in the extra that an error names."""

import ast
import re
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


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LIBRARY_OF = {"sklearn": "scikit-learn"}  # where the name of the module is another one
OF_SPHINX = {"docutils", "pygments"}  # which it depends on


def libraries(requirements):
    """Names of the libraries that requirements install, with those of other extras that they name."""
    found = set()
    for text in requirements:
        name, _, extras = text.split(">")[0].partition("[")
        found |= {name} if name != "fastpmf" else libraries(line for e in extras[:-1].split(",") for line in EXTRAS[e])
    return found


def imported_by_the_documentation():
    """The top-level module of each import in the scripts and settings of the documentation, and its file."""
    docs = ROOT / "docs"
    for path in [*docs.glob("*.py"), *docs.glob("tutorials/*.py"), *docs.glob("gallery/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for name in names:
                    yield name.partition(".")[0], path.name


def test_the_docs_extra_has_what_the_documentation_imports():
    installed = libraries(EXTRAS["docs"]) | libraries(PROJECT["dependencies"])
    known = installed | OF_SPHINX | {"fastpmf", "gallery_order", *sys.stdlib_module_names}
    found = set(imported_by_the_documentation())
    assert {"pandas", "anndata", "dask", "sklearn"} <= {module for module, _ in found}
    assert not [pair for pair in found if LIBRARY_OF.get(pair[0], pair[0]) not in known]


def test_the_docs_extra_has_the_extras_that_the_tutorials_need():
    """Such as pyarrow, which no tutorial imports itself."""
    needed = {
        extra
        for path in (ROOT / "docs" / "tutorials").glob("*.py")
        for extras in re.findall(r"pip install 'fastpmf\[([a-z,]+)\]'", path.read_text("utf-8"))
        for extra in extras.split(",")
    }
    assert {"anndata", "dask", "plot", "tables"} <= needed
    assert not [extra for extra in needed if not libraries(EXTRAS[extra]) <= libraries(EXTRAS["docs"])]


def test_the_extra_that_an_error_names_installs_the_library():
    found = list(calls())
    assert len(found) > 10
    wrong = [place for library, extra, place in found if library not in libraries(EXTRAS.get(extra, ()))]
    assert not wrong
    assert {library for library, *_ in found} <= libraries(EXTRAS["test"])


def test_a_missing_library_is_named_with_its_extra_and_what_needs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^--plot needs matplotlib: pip install 'fastpmf\[plot\]'$"):
        import_optional("matplotlib.figure", "plot", "--plot")


def test_a_library_that_is_there_is_imported():
    assert import_optional("json", "plot") is sys.modules["json"]
