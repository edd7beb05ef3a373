"""Reports of fitted models, and the tables and HTML that results are shown as."""

import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

import fastpmf
from fastpmf import HPF, PoissonNMF, differential_expression, select_n_components
from fastpmf.io import Dataset, stream_counts, write_counts
from fastpmf.plot._common import component_colors
from fastpmf.utils.tables import MAX_NAME_LENGTH, MAX_ROWS, Table, Weighted

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
EVIL = '<script src="https://example.org/x.js">alert(1)</script>'


@pytest.fixture(scope="module")
def data():
    X = np.random.default_rng(0).poisson(1.5, (50, 12))
    return Dataset(sparse.csr_array(X), None, np.array([EVIL, *(f"word {j}" for j in range(1, 12))]))


@pytest.fixture(scope="module")
def model(data):
    return PoissonNMF(3, prior_W="auto", prior_H="auto", random_state=0).fit(data)


class Page(HTMLParser):
    """Tags of HTML with their attributes; each must be closed, in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self._open = [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag


def headings(path):
    """The titles of the sections of a report."""
    return re.findall("<h2>(.*?)</h2>", path.read_text("utf-8"))


def test_a_report_is_one_file_that_loads_nothing(model, data, tmp_path):
    found = Page(model.report(tmp_path / "report.html", data).read_text("utf-8"))
    names = [tag for tag, _ in found.tags]
    assert not {"script", "link", "iframe", "object", "form", "a"} & set(names)
    sources = [given["src"] for _, given in found.tags if "src" in given]
    assert len(sources) == names.count("img") >= 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(given["alt"] for tag, given in found.tags if tag == "img")
    policy = next(given["content"] for _, given in found.tags if given.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not re.search(r"url\(|@import", (tmp_path / "report.html").read_text("utf-8"))
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


@pytest.fixture
def browse(tmp_path):
    """A function that opens a page in a headless Chromium, with the given options."""
    known = "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-background-networking"

    def call(url, *options):
        command = [BROWSER, *known.split(), f"--user-data-dir={tmp_path / 'user'}", *options, url]
        return subprocess.run(command, capture_output=True, timeout=120).returncode

    if BROWSER is None or call("about:blank", "--dump-dom"):
        pytest.skip("no Chromium that starts")
    return call


@pytest.mark.parametrize(("preferred", "light"), [(1, True), (0, False)])
def test_a_browser_draws_a_report_in_the_theme_of_its_reader(model, data, tmp_path, browse, preferred, light):
    page, picture = model.report(tmp_path / "report.html", data), tmp_path / "page.png"
    theme = f"--blink-settings=preferredColorScheme={preferred}"
    assert browse(page.as_uri(), theme, "--window-size=1000,3000", f"--screenshot={picture}") == 0
    pixels = plt.imread(picture)[..., :3]
    assert (pixels[0, 0].mean() > 0.5) == light
    for color in component_colors(3):  # the structure plot alone has more pixels of each
        assert np.isclose(pixels, mpl.colors.to_rgb(color), atol=0.01).all(axis=-1).sum() > 5_000


def test_names_and_titles_are_escaped(model, data, tmp_path):
    text = model.report(tmp_path / "report.html", data, title=EVIL).read_text("utf-8")
    assert "<script" not in text
    assert "&lt;script" in text


def test_a_report_has_the_sections_that_its_data_allow(model, data, tmp_path):
    path = tmp_path / "report.html"
    model.report(path)
    assert headings(path) == ["Fit", "Components", "Parameters", "Versions"]
    model.report(path, W=model.transform(data))
    assert headings(path) == ["Fit", "Components", "Structure", "Parameters", "Versions"]
    model.report(path, data, n_top=2)
    complete = ["Fit", "Data", "Components", "Structure", "Agreement with the counts", "Parameters", "Versions"]
    assert headings(path) == [*complete[:5], "Variation of the counts", *complete[5:]]
    text = path.read_text("utf-8")
    for fact in ("50 rows x 12 columns", "Converged to within tol.", "&#x27;auto&#x27;", "effective features"):
        assert fact in text
    write_counts(tmp_path / "counts", data)
    model.report(path, stream_counts(tmp_path / "counts"))
    assert headings(path) == complete
    assert "need counts in memory" in path.read_text("utf-8")


def test_the_components_of_a_report_are_sorted_by_their_share_and_keep_their_numbers(tmp_path):
    X = np.zeros((9, 4), int)
    X[:2, 0], X[2:5, 1], X[5:, 2:] = 1, 5, 50
    H = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1]]
    model = PoissonNMF(3).fit(X, fixed_H=np.array(H))
    text = model.report(tmp_path / "report.html", X).read_text("utf-8")
    assert re.findall(r'class="swatch".*?</span>(\d+)</td>', text) == ["2", "1", "0"]
    assert re.findall(r'class="ranking">frequent</span> <span>(\d+)&', text) == ["2", "1", "0"]


def test_rows_without_counts_are_left_out_of_the_structure_plot(data, model, tmp_path, monkeypatch):
    drawn, structure = [], fastpmf.plot.structure
    monkeypatch.setattr(fastpmf.plot, "structure", lambda W, H, **k: drawn.append(W) or structure(W, H, **k))
    X = sparse.vstack([data.X, sparse.csr_array((7, 12))])
    text = model.report(tmp_path / "report.html", Dataset(X, None, data.column_names)).read_text("utf-8")
    assert "rows are sorted by similarity; 7 rows without counts are left out. Colours" in text
    np.testing.assert_array_equal(drawn[0], model.transform(data))
    nothing = Dataset(np.zeros((2, 12)), None, data.column_names)
    assert "No row has counts." in model.report(tmp_path / "report.html", nothing).read_text("utf-8")


def test_a_report_has_the_distinctive_features_beside_the_frequent_ones(tmp_path):
    H = [[0.9, 0.0995, 0.0005, 0], [0.9, 0, 0, 0.1]]  # the first is frequent in both, the third too rare
    model = PoissonNMF(2).fit(np.ones((5, 4)) * 1000, fixed_H=np.array(H))
    text = model.report(tmp_path / "report.html", n_top=3).read_text("utf-8")
    lists = re.findall(r'class="ranking">(\w+)</span> (.*?)</div>', text)
    found = [(kind, re.findall(r"<span>(\d+)&nbsp;<small>(.*?)</small>", names)) for kind, names in lists]
    assert {kind: names[0] for kind, names in found} == {
        "frequent": ("0", "0.9"),
        "distinctive": (found[-1][1][0][0], "2"),
    }
    assert sorted(names[0][0] for kind, names in found if kind == "distinctive") == ["1", "3"]
    assert all("2" not in dict(names) for kind, names in found if kind == "distinctive")
    assert "divided by its mean over all components" in text
    one = PoissonNMF(1).fit(np.ones((5, 4)))  # which nothing distinguishes
    assert "distinctive" not in one.report(tmp_path / "report.html").read_text("utf-8")


def test_the_structure_plot_of_a_report_has_the_groups_of_the_rows_that_are_drawn(data, model, tmp_path, monkeypatch):
    drawn, structure = [], fastpmf.plot.structure
    monkeypatch.setattr(fastpmf.plot, "structure", lambda *a, **k: drawn.append(k["groupby"]) or structure(*a, **k))
    X = sparse.vstack([sparse.csr_array((1, 12)), data.X])
    counts, groups = Dataset(X, None, data.column_names), ["none", *("ab" * 25)]
    text = model.report(tmp_path / "report.html", counts, groupby=groups).read_text("utf-8")
    assert "rows are sorted by similarity, in each group" in text
    assert drawn[0].tolist() == groups[1:]
    for wrong, given in (
        (r"groupby must have shape \(51,\)", (counts, None, groups[1:])),
        ("groupby must be None", (None, None, groups)),
    ):
        with pytest.raises(ValueError, match=wrong):
            model.report(tmp_path / "report.html", *given[:2], groupby=given[2])
    with pytest.raises(TypeError, match="groupby must hold a group for each row, got 'celltype'"):
        model.report(tmp_path / "report.html", counts, groupby="celltype")


def test_a_report_of_hpf_knows_the_fitted_rows(data, tmp_path):
    hpf = HPF(2, random_state=0).fit(data)
    text = hpf.report(tmp_path / "report.html").read_text("utf-8")
    assert "Structure" in headings(tmp_path / "report.html")
    assert "<title>HPF: 2 components of 12 features</title>" in text


def test_a_report_says_what_to_do_about_a_fit_that_has_not_converged(data, tmp_path):
    with pytest.warns(ConvergenceWarning):
        model = PoissonNMF(3, max_iter=2, random_state=0).fit(data)
    text = model.report(tmp_path / "report.html").read_text("utf-8")
    assert "Stopped at max_iter" in text
    assert "Fit again with max_iter above 2" in text


@pytest.mark.parametrize("known", ["column_exposure", "background"])
def test_a_report_includes_what_is_known_beside_the_factors(data, tmp_path, known):
    model = PoissonNMF(2, random_state=0)
    W = model.fit_transform(data, **{known: np.linspace(0.1, 0.5, 12)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.report(tmp_path / "report.html", data, W)
    assert "Agreement with the counts" in headings(tmp_path / "report.html")


def test_a_report_warns_of_nothing_and_leaves_matplotlib_as_it_was(model, data, tmp_path):
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 3.0}):
        before = dict(mpl.rcParams)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.report(tmp_path / "report.html", data)
        assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_what_a_report_can_not_have_is_one_sentence(model, data, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    for error, message, given in (
        (ValueError, "path must be a .html file, got 'report.pdf'", (tmp_path / "report.pdf",)),
        (FileNotFoundError, "no folder .*absent", (tmp_path / "absent" / "report.html",)),
        (ValueError, "W must have shape", (path, data, np.ones((50, 2)))),
        (ValueError, "12 features", (path, np.ones((4, 5)))),
    ):
        with pytest.raises(error, match=message):
            model.report(*given)
    with pytest.raises(ValueError, match="n_top == 0, must be >= 1"):
        model.report(path, n_top=0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"report needs matplotlib: pip install 'fastpmf\[plot\]'"):
        model.report(path)
    assert list(tmp_path.iterdir()) == []


# ── Tables ──────────────────────────────────────────────────────────────────────────────────────────────────────


def results(model, data):
    W = model.transform(data)
    return {
        "summary": model.summary(),
        "top features": model.top_features(3),
        "quality": model.quality(data, 3, W=W),
        "topics": model.to_topics(W),
        "recommendations": model.recommend(data, W, 2),
        "differential expression": differential_expression(data, W, model.components_, names=data.column_names),
        "selection": select_n_components(data, [1, 2], n_splits=2, random_state=0),
        "consensus": fastpmf.consensus(data, 2, n_replicates=2, density_threshold=1.5, random_state=0),
        "memory": fastpmf.plan((100, 50), 2_000, 4),
        "dataset": data,
        "posterior": fastpmf.GammaPosterior(np.ones((2, 3)), np.full((2, 3), 2.0)),
    }


def test_a_fitted_model_is_shown_with_its_status_and_size_in_notebooks(model):
    for html in (model._repr_html_(), model._repr_mimebundle_()["text/html"]):
        before_the_box = html[: html.index("<style>")]
        assert "3 components of" in before_the_box
        assert str(model.status_) in before_the_box
        assert "objective" in before_the_box
    assert fastpmf.PoissonNMF(3)._repr_html_().startswith("<style>")


def test_every_result_is_shown_as_text_and_as_html_without_scripts(model, data):
    for name, result in results(model, data).items():
        text, html = str(result), result._repr_html_()
        assert all(character.isprintable() or character == "\n" for character in text), name
        assert "<script" not in html, name
        assert not {"script", "style", "img"} & {tag for tag, _ in Page(html).tags}, name
        if name != "dataset":
            assert max(map(len, text.splitlines())) <= 120, name


def test_frames_have_all_rows_of_what_is_shown(model, data):
    pytest.importorskip("pandas")
    found = {name: result.to_frame() for name, result in results(model, data).items() if hasattr(result, "to_frame")}
    assert set(found) >= {"summary", "top features", "quality", "recommendations", "selection"}
    assert len(found["top features"]) == 9
    assert len(found["selection"]) == 2
    assert len(found["recommendations"]) <= 100


def test_a_long_table_is_cut_and_says_so():
    table = Table("numbers", {"i": range(MAX_ROWS + 1_234)})
    text = table.to_text().splitlines()
    assert len(text) == MAX_ROWS + 3
    assert text[-1] == "1,234 more rows are not shown; to_frame() has all."
    assert table.to_html().count("<tr>") == MAX_ROWS + 1


def test_columns_are_aligned_and_long_names_shortened():
    name = "a" * 40 + "end"
    table = Table("", {"name": ["x", name], "n": [1, 20_000]}).to_text().splitlines()
    assert table[0].split() == ["name", "n"]
    assert [line.split()[1] for line in table[1:]] == ["1", "20,000"]
    assert len(set(map(len, table))) == 1
    assert len(table[2].split()[0]) <= MAX_NAME_LENGTH
    assert table[2].split()[0].endswith("aaaaaend")
    assert table[2].startswith("aaa")


def test_names_with_their_weights_are_listed_in_a_cell():
    table = Table("", {"component": [0], "top": [Weighted(["tea & jam", "rye"], [0.125, 0.5])]})
    assert table.to_text().splitlines()[1].endswith("tea & jam, rye")
    assert "tea &amp; jam" in table.to_html()
    assert ">0.12<" in table.to_html()
