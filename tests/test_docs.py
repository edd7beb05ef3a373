"""The pages of `docs`: what they show runs, in order, what they name is there, and links lead somewhere.

The tests of the site read HTML that is already built, in the folder FASTPMF_SITE; see CONTRIBUTING.md.
"""

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import runpy
import shlex
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import numpy as np
import pytest
from scipy import sparse

import fastpmf
from fastpmf import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    page.relative_to(DOCS).with_suffix("").as_posix(): page.read_text(encoding="utf-8")
    for page in sorted(DOCS.rglob("*.md"))
    if not page.relative_to(DOCS).parts[0].startswith("_")
}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECKS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
INSIDE = {"kernels", "counts", "model", "solvers", "estimators", "cli"}  # not what users import from
SCRIPTS = sorted(DOCS.glob("gallery/*.py")) + sorted(DOCS.glob("tutorials/*.py"))
TEXTS = [*ROOT.glob("*.md"), *(DOCS / f"{page}.md" for page in PAGES)]  # Markdown with links
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


@pytest.mark.parametrize(
    "script",
    [pytest.param(p, id=p.stem, marks=[pytest.mark.long] if p.parent.name == "tutorials" else []) for p in SCRIPTS],
)
def test_every_script_of_the_tutorials_and_of_the_gallery_runs(script, folder):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    runpy.run_path(str(script), run_name="__main__")


def test_every_plot_is_in_the_gallery():
    pytest.importorskip("matplotlib")
    gallery = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS if path.parent.name == "gallery")
    from fastpmf import plot

    assert not [name for name in plot.__all__ if f"plot.{name}(" not in gallery]


def test_every_script_has_a_place_in_the_order():
    order = runpy.run_path(str(DOCS / "gallery_order.py"))["ORDER"]
    assert {path.name for path in SCRIPTS} == set(order)


def public_names() -> set[str]:
    names = {f"fastpmf.{name}" for name in fastpmf.__all__}
    for found in pkgutil.iter_modules(fastpmf.__path__):
        if found.name.startswith("_") or found.name in INSIDE or f"fastpmf.{found.name}" in names:
            continue
        module = importlib.import_module(f"fastpmf.{found.name}")
        own = [n for n, x in vars(module).items() if getattr(x, "__module__", None) == module.__name__ and n[0] != "_"]
        names |= {f"{module.__name__}.{name}" for name in getattr(module, "__all__", own)}
    return names


def described_names() -> set[str]:
    """The names in the tables of the reference."""
    names, module = set(), ""
    for line in PAGES["api/index"].splitlines():
        if found := re.match(r"\.\. (currentmodule|py:data):: (\S+)", line):
            module = found[2] if found[1] == "currentmodule" else module
            names |= {f"{module}.{found[2]}"} if found[1] == "py:data" else set()
        elif found := re.match(r"   (\w+)$", line):
            names.add(f"{module}.{found[1]}")
    return names


def test_the_reference_describes_every_public_name_and_none_that_is_not_there():
    assert not public_names() - described_names()
    for path in described_names():
        home, name = path.rsplit(".", 1)
        assert hasattr(importlib.import_module(home), name), f"{path} is not there"


@pytest.mark.parametrize("path", sorted(described_names()))
def test_every_page_of_the_reference_has_an_example_and_leads_to_related_names(path):
    home, name = path.rsplit(".", 1)
    thing = getattr(importlib.import_module(home), name)
    if callable(thing):
        sections = set(re.findall(r"^(\w[\w ]*)\n-+$", inspect.getdoc(thing), re.MULTILINE))
        assert {"Examples", "See Also"} <= sections


# ── Links ───────────────────────────────────────────────────────────────────────────────────────────────────────


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a Markdown text, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    seen: Counter[str] = Counter()
    found = set(re.findall(r"^\(([\w-]+)\)=$", text, re.MULTILINE))
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_markdown_files_lead_to_a_file_and_a_heading(path):
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if urlparse(target).scheme or "_generated/" in target:  # pages that Sphinx makes of scripts and docstrings
            continue
        file, anchor = urldefrag(target)
        found = path.parent / unquote(file) if file else path
        assert found.exists() or found.with_suffix(".md").exists(), f"{target} is not there"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found.read_text(encoding="utf-8")), f"{target} is not there"


@pytest.mark.parametrize("path", [*TEXTS, *SCRIPTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_other_sites_are_secure_and_whole(path):
    for address in re.findall(r"https?:[^\s)>\]\"'`]*", path.read_text(encoding="utf-8")):
        assert re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/[^/]\S*)?/?", address), address


# ── The site ────────────────────────────────────────────────────────────────────────────────────────────────────


class SitePage(HTMLParser):
    """A page of HTML: its anchors, the links in it, and the addresses on other sites that it loads something from."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: list[str] = []
        self.inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a":
            self.links.add(values.get("href", ""))
        self.inside = tag if tag in ("script", "style") else ""
        loading = ["src", "poster", "data", "background"]
        if (tag == "link" and LOADING_RELS & set(values.get("rel", "").split())) or tag in ("image", "use"):
            loading += ["href", "xlink:href"]
        self.loaded += [values[name] for name in loading if REMOTE.match(values.get(name, ""))]
        self.loaded += [part for part in values.get("srcset", "").split(",") if REMOTE.match(part)]
        self.loaded += IN_CSS.findall(values.get("style", ""))

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside:
            self.loaded += (IN_SCRIPT if self.inside == "script" else IN_CSS).findall(data)


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
    assert SitePage(page).loaded == ([address] if address else [])


@pytest.fixture(scope="module")
def site() -> Path:
    if not (folder := os.environ.get("FASTPMF_SITE")):
        pytest.skip("FASTPMF_SITE is not the folder of a site that was built by python -m sphinx -W docs FOLDER")
    return Path(folder).resolve()


@pytest.fixture(scope="module")
def site_pages(site) -> dict[Path, SitePage]:
    return {path: SitePage(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_the_site_has_every_page_and_every_public_name(site, site_pages):
    assert {site / f"{page}.html" for page in PAGES} <= site_pages.keys()
    anchors = set().union(*(page.anchors for page in site_pages.values()))
    assert not described_names() - anchors


def test_reading_the_site_loads_nothing_from_elsewhere(site, site_pages):
    assert not {path: page.loaded for path, page in site_pages.items() if page.loaded}
    for pattern, kind in ((IN_CSS, "css"), (IN_SCRIPT, "js")):
        for path in site.rglob(f"*.{kind}"):
            if path.name != "tex-svg.js":  # the addresses in MathJax are those of its menu, which conf.py turns off
                assert not pattern.findall(path.read_text(encoding="utf-8")), path


def test_every_link_within_the_site_leads_to_a_file_and_an_anchor(site, site_pages):
    broken = []
    for path, page in site_pages.items():
        for link in page.links:
            file, anchor = urldefrag(link)
            if urlparse(link).scheme:
                continue
            target = (path.parent / unquote(urlparse(file).path)).resolve() if file else path
            there = target.is_file() and (not anchor or anchor in site_pages[target].anchors)
            if not there:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken, "\n".join(broken)
