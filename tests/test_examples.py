"""The examples run on what they have by themselves and on files, at a tiny size, and what they print is true."""

import csv
import importlib
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.metrics import ndcg_score

from fastpmf import HPF, PoissonNMF, thin_counts
from fastpmf.core.counts import Side
from fastpmf.datasets import Dataset, load_stdlib, make_poisson_counts

SCRIPTS = Path(__file__).parents[1] / "scripts"
EXAMPLES = ("topics", "cells", "recommender")

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="fits of some size, line by line")


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Import an example as if from its folder, with an empty folder to write to."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.syspath_prepend(SCRIPTS / "examples")
    monkeypatch.chdir(tmp_path)
    return importlib.import_module


@pytest.fixture
def run(script, monkeypatch, capsys):
    """Run an example's main; what it printed."""

    def main(name, *arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / "examples" / f"{name}.py"), *arguments])
        assert script(name).main() == 0
        return capsys.readouterr().out

    return main


@pytest.fixture
def tiny(tmp_path):
    """Counts and names in files."""
    X = make_poisson_counts(50, 40, 3, nnz=600, random_state=0).X
    folder = tmp_path / "data"
    folder.mkdir()
    sparse.save_npz(folder / "tiny.npz", X)
    sparse.save_npz(folder / "zero.npz", 0 * X)
    sparse.save_npz(folder / "half.npz", 0.5 * X)
    (folder / "rows.txt").write_text("".join(f"{i}\t{'abc'[i % 3]}\n" for i in range(50)), encoding="utf-8")
    (folder / "columns.txt").write_text("".join(f"{j}\tthing {j}\n" for j in range(40)), encoding="utf-8")
    return X


NAMED = ["--data", "data/tiny.npz", "--rows", "data/rows.txt", "--columns", "data/columns.txt", "-k", "3"]


def table(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def number(pattern, text):
    """The number that a line has where the pattern has its group."""
    return float(re.search(pattern, text, re.MULTILINE)[1].replace(",", ""))


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


def test_topics_of_the_standard_library_are_printed_and_drawn(run, script, tmp_path, monkeypatch):
    X, modules, words = load_stdlib()
    # In the dtype of the other tests' counts: each compiles anew
    few = Dataset(X.minimum(255).astype(np.uint8), modules, words)
    monkeypatch.setattr(script("topics"), "load_stdlib", lambda: few)
    out = run("topics", "-k", "2", "--words", "3")
    assert {path.name for path in tmp_path.iterdir()} == {"topics.csv", "topics.png"}
    assert is_picture(tmp_path / "topics.png")
    assert "topic 2, " in out
    mixtures = [[float(line[name]) for name in ("topic 1", "topic 2")] for line in table(tmp_path / "topics.csv")]
    assert np.sum(mixtures, axis=1) == pytest.approx(1, rel=1e-6)  # rounding of float32


def test_the_likelihoods_and_perplexities_of_topics_are_those_of_the_dense_formulas(run, tiny, tmp_path):
    out = run("topics", *NAMED, "--held-out", "0.2")
    assert is_picture(tmp_path / "topics.png")
    train, test = (part.to_scipy().toarray().astype(int) for part in thin_counts(tiny, 0.2, random_state=0))
    model = PoissonNMF(3, tol=1e-3, random_state=0)
    rates = model.fit_transform(train) @ model.components_
    poisson = stats.poisson.logpmf(train, rates).sum()
    # Rates in float32, computed in another order
    assert number(r"^Poisson log-likelihood +(\S+) nats", out) == pytest.approx(poisson, rel=1e-6)
    assert number(r"^words given lengths \+ lengths +(\S+) nats", out) == pytest.approx(poisson, rel=1e-6)
    with np.errstate(divide="ignore", invalid="ignore"):
        P = np.nan_to_num(rates / rates.sum(axis=1, keepdims=True))
        logs = np.log(P)
    possible = (test > 0) & (P > 0)
    impossible = test[P == 0].sum()
    assert impossible > 0
    assert number(r"maximum likelihood +-inf +(\S+) +inf", out) == impossible
    perplexity = np.exp(-(test[possible] * logs[possible]).sum() / test[possible].sum())
    assert number(r"maximum likelihood +-inf +\S+ +inf +(\S+)$", out) == pytest.approx(perplexity, abs=0.051)
    smoothed = PoissonNMF(3, prior_W="auto", prior_H="auto", tol=1e-3, random_state=0)
    rates = smoothed.fit_transform(train) @ smoothed.components_
    P = rates / rates.sum(axis=1, keepdims=True)
    held_out = sum(stats.multinomial.logpmf(x, x.sum(), p / p.sum()) for x, p in zip(test, P, strict=True))
    assert number(r"3 topics, with priors +(\S+)", out) == pytest.approx(held_out, abs=0.051)
    assert number(r"3 topics, with priors +\S+ +0 +(\S+)", out) == pytest.approx(
        np.exp(-(test * np.log(P)).sum() / test.sum()), abs=0.051
    )


def test_words_and_documents_have_their_names(run, tiny):
    out = run("topics", *NAMED)
    assert re.search(r"likely     thing \d+, thing", out)
    assert re.search(r"documents  [abc] \d+\.\d%, [abc] ", out)


def test_programs_of_drawn_cells_are_printed_and_drawn(run, script, tmp_path):
    out = run("cells", "--draw", "80", "900", "-k", "7", "--seed", "1")
    assert {path.name for path in tmp_path.iterdir()} == {"cells.csv", "cells.png"}
    assert is_picture(tmp_path / "cells.png")
    X, cells, _ = script("cells").draw_cells(SimpleNamespace(draw=(80, 900), seed=1))
    train, test = thin_counts(X, 0.1, random_state=1)
    library = train.sums(Side.ROWS) / np.median(train.sums(Side.ROWS))
    model = PoissonNMF(7, prior_W="auto", prior_H="auto", tol=1e-3, random_state=1)
    W = model.fit_transform(train, row_exposure=library)
    rates = library[:, None] / 9 * (W @ model.components_)
    held_out = stats.poisson.logpmf(test.to_scipy().toarray(), rates).sum() / test.total
    assert number(r"^with priors +0 +(\S+)", out) == pytest.approx(held_out, abs=5.1e-5)
    lines = table(tmp_path / "cells.csv")
    assert [line["cell"] for line in lines] == list(cells)
    for kind, percent, z in re.findall(r"^  ([A-F]) \(\d+ cells\): (\d+)% program (\d)", out, re.MULTILINE):
        own = [float(line[f"program {z}"]) for line in lines if f"type {kind}" in line["cell"]]
        assert 100 * np.mean(own) == pytest.approx(float(percent), abs=0.51)


def test_a_known_signature_stays_as_it_is_and_is_called_so(run, script, tiny, tmp_path):
    (tmp_path / "data" / "known.txt").write_text("thing 3\t2\nthing 5\t1\n\n", encoding="utf-8")
    out = run("cells", *NAMED, "--labels", "data/rows.txt", "--signature", "data/known.txt")
    assert set(table(tmp_path / "cells.csv")[0]) - {"cell"} <= {"known", "program 1", "program 2", "program 3"}
    genes = re.search(r"known, \d+% of expression: (.*)", out)[1]
    assert set(re.findall(r"thing \d+", genes)[:2]) == {"thing 3", "thing 5"}
    assert sorted(re.findall(r"^  ([abc]) \(\d+ cells\)", out, re.MULTILINE)) == ["a", "b", "c"]


def test_recommendations_from_drawn_counts_are_scored_by_ranking_and_likelihood(run, script, tmp_path):
    line = ["--draw", "60", "50", "900", "-k", "3", "--users", "40", "-n", "5", "--hidden", "0.4", "--show", "2"]
    out = run("recommender", *line)
    assert {path.name for path in tmp_path.iterdir()} == {"recommender.csv", "recommender.png"}
    assert is_picture(tmp_path / "recommender.png")
    X, W, H = make_poisson_counts(60, 50, 8, nnz=900, skew=0.5, random_state=0)
    arguments = SimpleNamespace(seed=0, users=40, hidden=0.4)
    rows, columns, mask = script("recommender").hide(X, arguments)
    assert columns.shape == (40, 20)
    assert mask.nnz == 800
    hidden, seen = (A.toarray() for A in (X.multiply(mask), X - X.multiply(mask)))
    there = X.toarray()[rows, columns].astype(int)
    hpf = HPF(3, random_state=0).fit(X, mask=mask)
    nmf = PoissonNMF(3, prior_W="auto", prior_H="auto", tol=1e-3, random_state=0)
    predicted = {
        "HPF": hpf.W_posterior_.mean @ hpf.components_, "MAP": nmf.fit_transform(X, mask=mask) @ nmf.components_,
        "true rates": W @ H,
    }  # fmt: skip
    relevant = (hidden > 0).any(axis=1)
    for name, rates in predicted.items():
        precision, recall, ndcg, log_likelihood, total = (
            float(word.replace(",", "")) for word in re.search(f"^{name} +(.*)$", out, re.MULTILINE)[1].split()
        )
        best = [set(np.argsort(-np.where(s > 0, -1, r))[:5]) for r, s in zip(rates, seen, strict=True)]
        hits = np.array([len(b & set(np.flatnonzero(x))) for b, x in zip(best, hidden, strict=True)])[relevant]
        assert precision == pytest.approx(hits.mean() / 5, abs=5.1e-5)
        assert recall == pytest.approx((hits / (hidden[relevant] > 0).sum(axis=1)).mean(), abs=5.1e-5)
        gains = [ndcg_score([x[s == 0] > 0], [r[s == 0]], k=5)
                 for r, x, s in zip(rates[relevant], hidden[relevant], seen[relevant], strict=True)]  # fmt: skip
        assert ndcg == pytest.approx(np.mean(gains), abs=5.1e-5)
        own = rates[rows, columns]
        assert log_likelihood == pytest.approx(stats.poisson.logpmf(there, own).sum() / there.sum(), abs=5.1e-5)
        assert total == pytest.approx(own.sum(), abs=0.51)
    lines = table(tmp_path / "recommender.csv")
    assert len(lines) == 40 * 5
    for line in lines:
        i, j = (int(line[name].split()[1]) - 1 for name in ("user", "item"))
        assert float(line["rate"]) == pytest.approx(predicted["HPF"][i, j], rel=1e-6)  # of float32
        assert seen[i, j] == 0
        assert int(line["held_out"]) == X[i, j]
        assert float(line["low"]) < float(line["rate"]) < float(line["high"])
    assert 0 < number(r"The true rate is in (\d+)% of these 90 % intervals", out) <= 100


def test_bins_of_calibration_have_equal_sums_of_rates_and_all_entries(script):
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, size=(200, 50))
    held = rng.poisson(rates)
    rate, mean, error = script("recommender").calibration(rates, held).T
    assert len(rate) == 10
    sizes = rates.sum() / 10 / rate  # each bin has a tenth of all rates, but for one entry
    assert sizes.sum() == pytest.approx(rates.size, rel=0.01)
    assert (sizes * mean).sum() == pytest.approx(held.sum(), rel=0.01)
    assert (np.abs(mean - rate) < 4 * error).all()  # drawn with these rates


def test_recommendations_from_files_have_their_names(run, tiny, tmp_path):
    out = run("recommender", *NAMED, "--users", "30", "-n", "3", "--threads", "1")
    assert "true rate" not in out
    assert re.search(r"^[abc]$\n  thing \d+ ", out, re.MULTILINE)
    assert is_picture(tmp_path / "recommender.png")


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-k", "41", "--data", "data/tiny.npz"], "--components must be at most 40, got 41"),
        (["--data", "none.npz"], "no file none.npz"),
        (["--data", "data/zero.npz"], "data/zero.npz must be integers, not all zero"),
        (["--data", "data/half.npz"], "data/half.npz must be integers, not all zero"),
        (["--rows", "data/rows.txt"], "--rows and --columns are names for the counts of --data"),
        (["--data", "data/tiny.npz", "--columns", "data/rows.txt"], "data/rows.txt must have 40 lines, got 50"),
        (["--data", "data/tiny.npz", "--rows", "none.txt"], "No such file or directory: 'none.txt'"),
    ],
)
def test_bad_input_gets_one_sentence(run, tiny, tmp_path, capsys, name, arguments, message):
    rejected(run, capsys, name, arguments, message)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("topics", ["--held-out", "1"], "--held-out: must be a number between 0 and 1, got 1"),
        ("topics", ["--held-out", "1e-9", "--data", "data/tiny.npz"], "--held-out must leave words to fit"),
        ("cells", ["--draw", "9", "240"], "--draw must have more than 240 genes, got 240"),
        ("cells", ["--draw", "9", "241", "--labels", "data/rows.txt"], "data/rows.txt must have 9 lines, got 50"),
        ("cells", [*NAMED, "--signature", "data/rows.txt"], "--signature must be of genes that the counts have"),
        ("recommender", ["--hidden", "0"], "--hidden: must be a number between 0 and 1, got 0"),
        ("recommender", ["--draw", "9", "9", "99"], "nnz must be below n_samples * n_features = 81"),
    ],
)
def test_bad_input_of_one_example_gets_one_sentence(run, tiny, capsys, name, arguments, message):
    rejected(run, capsys, name, arguments, message)


def rejected(run, capsys, name, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        run(name, *arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]
