"""The pages of `docs`: what they show runs, in order, what they name is there, and they build."""

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import fastpmf
from fastpmf import cli

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    page.relative_to(DOCS).with_suffix("").as_posix(): page.read_text(encoding="utf-8")
    for page in sorted(DOCS.rglob("*.md"))
    if not page.relative_to(DOCS).parts[0].startswith("_")
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECKS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
INSIDE = {"kernels", "counts", "model", "solvers", "estimators", "cli"}  # not what users import from
SPHINX = (
    "sphinx",
    "numpydoc",
    "myst_parser",
    "pydata_sphinx_theme",
    "sphinx_gallery",
    "sphinx_copybutton",
    "sphinx_design",
)
REMOTE = re.compile(r"\s*(?:https?:)?//")
LOADING_RELS = {"stylesheet", "icon", "preload", "prefetch", "modulepreload", "preconnect", "dns-prefetch", "manifest"}
# A style sheet loads with url() and @import. A script can load from any address in it but the names of XML namespaces.
IN_CSS = re.compile(r"(?:url\(|@import)\s*[\"']?\s*(?:https?:)?//[^\"')]*")
IN_SCRIPT = re.compile(r"[\"'`](?:https?:)?//(?!www\.w3\.org/)\w[^\"'`]*")


def blocks(page: str, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(PAGES[page]) if kind == language]


def with_blocks(language: str) -> list[str]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to run in, with the files that the pages' command lines read."""
    X = sparse.csr_array(np.random.default_rng(0).poisson(0.8, (40, 15)))
    sparse.save_npz(tmp_path / "counts.npz", X)
    sparse.save_npz(tmp_path / "more.npz", X[:5])
    (tmp_path / "purchases.csv").write_text("who,what,n\nada,tea,2\nbob,tea,1\nada,jam,1\ncy,jam,3\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.mark.parametrize("page", with_blocks("python"))
def test_every_example_of_a_page_gives_what_it_shows_after_those_above_it(page, folder):
    names, told = {}, []
    for block in blocks(page, "python"):
        example = doctest.DocTestParser().get_doctest(block, names, page, page, 0)
        assert example.examples, f"without prompts nothing runs:\n{block}"
        doctest.DocTestRunner(optionflags=CHECKS).run(example, out=told.append, clear_globs=False)
        names = example.globs
    assert not told, "".join(told)


@pytest.mark.parametrize("page", with_blocks("bash"))
def test_every_command_line_of_a_page_runs_after_those_above_it(page, folder, capsys):
    for line in "".join(blocks(page, "bash")).splitlines():
        program, *words = shlex.split(line)
        if program == "fastpmf":
            assert cli.main(words) == cli.OK, f"{line}: {capsys.readouterr().err}"
        else:
            assert program in ("pip", "export"), f"{line!r} is neither run nor known"


API = PAGES["api/index"]


def public_names() -> set[str]:
    names = {f"fastpmf.{name}" for name in fastpmf.__all__}
    for found in pkgutil.iter_modules(fastpmf.__path__):
        if found.name.startswith("_") or found.name in INSIDE or f"fastpmf.{found.name}" in names:
            continue
        module = importlib.import_module(f"fastpmf.{found.name}")
        own = [n for n, x in vars(module).items() if getattr(x, "__module__", None) == module.__name__ and n[0] != "_"]
        names |= {f"{module.__name__}.{name}" for name in getattr(module, "__all__", own)}
    return names


def test_the_reference_describes_every_public_name_and_none_that_is_not_there():
    described, module = set(), ""
    for directive, name in re.findall(r"^\.\. (currentmodule|auto\w+|py:data):: ?(.*)$", API, re.MULTILINE):
        if directive == "currentmodule":
            module = name
        elif name:
            described.add(f"{module}.{name}")
    assert not public_names() - described
    for path in described:
        home, name = path.rsplit(".", 1)
        assert hasattr(importlib.import_module(home), name), f"{path} is not there"


def test_what_the_reference_leaves_out_of_the_estimators_is_scikit_learns():
    hidden = set(re.findall(r"\b(?:get|set)_\w+", "".join(re.findall(r":exclude-members:(.*\n.*)", API))))
    assert "set_output" in hidden
    for name in hidden & set(dir(fastpmf.PoissonNMF)):
        assert not inspect.unwrap(getattr(fastpmf.PoissonNMF, name)).__module__.startswith("fastpmf")


class LoadedAddresses(HTMLParser):
    """Addresses on other sites from which a page loads something when it is read, links to follow not included."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.inside = tag if tag in ("script", "style") else ""
        loading = ["src", "poster", "data", "background"]
        if (tag == "link" and LOADING_RELS & set(values.get("rel", "").split())) or tag in ("image", "use"):
            loading += ["href", "xlink:href"]
        self.found += [values[name] for name in loading if REMOTE.match(values.get(name, ""))]
        self.found += [part for part in values.get("srcset", "").split(",") if REMOTE.match(part)]
        self.found += IN_CSS.findall(values.get("style", ""))

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside:
            self.found += (IN_SCRIPT if self.inside == "script" else IN_CSS).findall(data)


@pytest.mark.parametrize(
    ("page", "address"),
    [
        ('<script src="https://a.org/b.js"></script>', "https://a.org/b.js"),
        ('<link rel="shortcut icon" href="//a.org/b.ico">', "//a.org/b.ico"),
        ('<img srcset="b.png 1x, https://a.org/b.png 2x">', " https://a.org/b.png 2x"),
        ('<p style="background: url(https://a.org/b.png)">', "url(https://a.org/b.png"),
        ('<style>@import "https://a.org/b.css";</style>', '@import "https://a.org/b.css'),
        ('<script>fetch("https://a.org/b.json")</script>', '"https://a.org/b.json'),
        ('<a href="https://a.org/b.html">b</a><link rel="canonical" href="https://a.org/b.html">', None),
        ('<script>create("http://www.w3.org/2000/svg") // https://a.org/b</script>url(https://a.org)', None),
    ],
)
def test_addresses_that_a_page_loads_from_are_found(page, address):
    assert LoadedAddresses(page).found == ([address] if address else [])


def test_the_pages_build_without_a_warning_and_load_nothing_from_elsewhere(tmp_path):
    missing = [name for name in SPHINX if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the pages are built where {', '.join(missing)} is installed: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-b", "html"]
    built = subprocess.run(
        [*command, "-d", tmp_path / "trees", DOCS, tmp_path / "html"], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    html = tmp_path / "html"
    files = {
        kind: {path: path.read_text(encoding="utf-8") for path in html.rglob(f"*.{kind}")}
        for kind in ("html", "css", "js")
    }
    pages = {path.relative_to(html).with_suffix("").as_posix(): text for path, text in files["html"].items()}
    assert PAGES.keys() <= pages.keys()
    assert not {path: found for path, text in files["html"].items() if (found := LoadedAddresses(text).found)}
    assert not {path: found for path, text in files["css"].items() if (found := IN_CSS.findall(text))}
    assert not {path: found for path, text in files["js"].items() if (found := IN_SCRIPT.findall(text))}
    assert all(f'id="{name}"' in pages["api/index"] for name in public_names())
