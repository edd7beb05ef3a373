"""The studies that put packages side by side, and the README's tables: small, and whatever else is installed."""

import csv
import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from fastpmf import as_counts, kl_divergence
from fastpmf.datasets import make_poisson_counts

SCRIPTS = Path(__file__).parents[1] / "scripts"
RIVALS = re.findall(r'^    "([a-z-]+)": [A-Z]', (SCRIPTS / "rivals.py").read_text(encoding="utf-8"), re.MULTILINE)

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="studies of speed, line by line")


@pytest.fixture
def scripts(monkeypatch):
    """Import a script as if from its folder, and only then: not while tests are collected."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


@pytest.fixture(scope="module")
def drawn():
    return make_poisson_counts(30, 20, 3, nnz=200, random_state=0)


def setup_of(scripts, X, n_components=3, dtype=np.float64):
    compare_solvers, rivals = scripts("compare_solvers"), scripts("rivals")
    factors = compare_solvers.start(as_counts(X), n_components, 0, np.dtype(dtype))
    return rivals.Setup(X, X.tocsr().astype(dtype), *factors, 0, 1)


class Pipe(list):
    """What would be sent to the other process."""

    send = list.append


class Told:
    """The arguments that `run` and `watch` look at."""

    dtype, components, seed, seconds, patience = "float64", 3, 0, 1e-9, 60.0


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.filterwarnings("ignore")
def test_each_package_that_is_installed_fits_and_is_scored(scripts, drawn, name):
    rivals, study = scripts("rivals"), scripts("compare_rivals")
    racer = (rivals.OURS | rivals.RIVALS)[name]
    if racer.version() is None:
        pytest.skip(f"{racer.package} is not installed")
    fit = racer(setup_of(scripts, drawn.X, dtype=np.float32))
    fit.advance(racer.stretch)
    W, H = fit.factors()
    assert W.shape == (30, 3)
    assert H.shape == (3, 20)
    assert math.isfinite(study.score(as_counts(drawn.X), W, H)[0])


def test_ours_and_scikit_learns_multiplicative_updates_are_the_same_iterates(scripts, drawn):
    rivals, study = scripts("rivals"), scripts("compare_rivals")
    found = []
    for racer in (rivals.FastpmfMu, rivals.SklearnMu):
        fit = racer(setup_of(scripts, drawn.X))
        fit.advance(10)
        found.append(study.score(as_counts(drawn.X), *fit.factors())[0])
    assert found[0] == pytest.approx(found[1], rel=1e-10)  # rounding of ten iterations


def test_the_score_does_not_see_the_scale_of_a_row_and_is_never_above_the_divergence(scripts, drawn):
    study, counts = scripts("compare_rivals"), as_counts(drawn.X)
    rng = np.random.default_rng(0)
    W, H = rng.uniform(0.1, 1, (30, 3)), rng.uniform(0.1, 1, (3, 20))
    objective, weight = study.score(counts, W, H)
    assert weight == 0
    assert study.score(counts, W * rng.uniform(1e-3, 1e3, (30, 1)), H)[0] == pytest.approx(objective, rel=1e-12)
    for scale in (0.5, 1, 2):
        assert objective <= kl_divergence(counts, scale * W, H)


def test_rates_of_zero_under_counts_are_scored_with_a_component_more(scripts, drawn):
    study, counts = scripts("compare_rivals"), as_counts(drawn.X)
    rng = np.random.default_rng(0)
    W, H = rng.normal(size=(30, 3)), rng.normal(size=(3, 20))
    assert (np.maximum(W, 0) @ np.maximum(H, 0))[drawn.X.nonzero()].min() == 0
    objective, weight = study.score(counts, W, H)
    assert 0 < weight <= 1
    X = drawn.X.toarray().astype(float)
    assert objective <= kl_divergence(counts, X.sum(axis=1, keepdims=True), X.sum(axis=0, keepdims=True) / X.sum())


@pytest.mark.parametrize("again", [True, False])
def test_the_race_goes_on_or_begins_again_and_does_one_call_at_least(scripts, again):
    study, rivals = scripts("compare_rivals"), scripts("rivals")
    calls = []

    class Racer(rivals.Racer):
        def advance(self, n_iter):
            calls.append(n_iter)

    Racer.again = again
    race = study.race(Racer, None, math.inf if not again else 1e9)
    reached = [next(race)[0][0] for _ in range(5)]
    assert (calls, reached) == (([1, 2, 4, 8, 16], [1, 2, 4, 8, 16]) if again else ([1] * 5, [1, 2, 3, 4, 5]))
    assert [point[0] for point, *_ in study.race(Racer, None, 1e-12)] in ([], [1])


def test_an_error_is_reported_in_a_line(scripts, drawn):
    study, rivals = scripts("compare_rivals"), scripts("rivals")

    class Broken(rivals.Racer):
        def advance(self, n_iter):
            raise RuntimeError("it does not converge\nand never will")

    sent = Pipe()
    told = type("Told", (Told,), {"seconds": 1.0})
    study.run(sent, Broken, 1, drawn.X, told)
    assert sent == [("error", "RuntimeError: it does not converge")]


def test_a_package_that_takes_its_process_down_is_in_the_table(scripts, drawn, capsys):
    study = scripts("compare_rivals")
    curve = study.watch(study.Curve("dead", Dead, 1), drawn.X, Told)
    assert curve.error == "its process died with exit code 3"
    alive = study.Curve("fastpmf", scripts("rivals").Fastpmf, 1, [(1, 0.5, 10.0, 0.0)], 1.0, "float32")
    study.tell_table([alive, curve], 10.0)
    assert "dead failed: its process died with exit code 3" in capsys.readouterr().out
    assert "Failed or stopped: dead; not installed: none." in study.verdict([alive, curve], [], None)


class Dead:
    """As an extension module that crashes."""

    module, compiling, problem, start = "math", 0, "none", "own"

    def __init__(self, setup):
        os._exit(3)


def test_without_matplotlib_it_says_so(scripts, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    scripts("studying").draw(str(tmp_path / "none.png"), lambda figure: None)
    assert capsys.readouterr().out == "no picture: matplotlib is not installed\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["-k", "0"], "--components and --threads must be at least 1"),
        (["--seconds", "inf"], "--seconds and --patience must be positive finite numbers"),
        (["--data", "none.npz"], "no file none.npz"),
        (["--nnz", "0"], "nnz == 0, must be >= 1."),
        (["--png", "nowhere/x.png"], "--png must be a .png or .svg file in a folder that exists, got nowhere/x.png"),
    ],
)
def test_bad_arguments_are_turned_away_in_a_sentence(scripts, monkeypatch, capsys, line, said):
    monkeypatch.setattr(sys, "argv", ["compare_rivals.py", *line])
    with pytest.raises(SystemExit):
        scripts("compare_rivals").main()
    assert capsys.readouterr().err.splitlines()[-1] == f"compare_rivals.py: error: {said}"


@pytest.mark.long
def test_the_study_of_rivals_writes_what_the_readme_is_made_of(tmp_path):
    line = [sys.executable, str(SCRIPTS / "compare_rivals.py"), "--rows", "40", "--columns", "30", "--nnz", "400"]
    line += ["-k", "3", "--seconds", "0.05", "--rivals", "sklearn-mu", "hpfrec"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"compare_rivals.csv", "compare_rivals.png"}
    text = (tmp_path / "compare_rivals.csv").read_text(encoding="utf-8")
    assert text.startswith("# command: python scripts/compare_rivals.py --rows 40 --columns 30 --nnz 400 -k 3 ")
    rows = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    assert {"fastpmf", "fastpmf-mu", "sklearn-mu"} <= {row["rival"] for row in rows}
    assert min(float(row["gap"]) for row in rows if row["gap"]) == 0
    assert "hpfrec" in done.stdout  # in the table, or in the line of what is not installed
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "readme_tables.py"), "compare_rivals.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "| drawn, 40 × 30, " in done.stdout


def test_a_study_of_rivals_that_is_cut_off_keeps_what_it_has(scripts, tmp_path, monkeypatch):
    study = scripts("compare_rivals")

    def watch(curve, X, arguments):
        if curve.name != "fastpmf":
            raise KeyboardInterrupt
        curve.points = [(1, 0.5, 12.0, 0.0), (2, 1.0, 10.0, 0.0)]
        return curve

    monkeypatch.setattr(study, "watch", watch)
    monkeypatch.setattr(sys, "argv", ["compare_rivals.py", "--rows", "40", "--columns", "30", "--nnz", "400"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        study.main()
    rows = scripts("provenance").read_table("compare_rivals.csv").rows
    assert [(row["rival"], row["iteration"]) for row in rows] == [("fastpmf", "1"), ("fastpmf", "2")]
    assert [float(row["gap"]) for row in rows] == pytest.approx([0.2, 0])
