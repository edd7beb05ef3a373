"""The studies of models run at their smallest size, and their tables say what they measured."""

import csv
import importlib
import math
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from scipy import sparse

from fastpmf import PoissonNMF, thin_counts
from fastpmf.datasets import make_poisson_counts

SCRIPTS = Path(__file__).parents[1] / "scripts"

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="they time compiled kernels")


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a script's main in an empty folder, beside which there are counts; its table and what it said."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)
    X = make_poisson_counts(60, 40, 3, nnz=600, random_state=0).X
    sparse.save_npz(tmp_path / "tiny.npz", X)

    def main(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        assert importlib.import_module(script).main() == 0
        assert (tmp_path / f"{script}.png").stat().st_size > 1000
        lines = (tmp_path / f"{script}.csv").read_text(encoding="utf-8").splitlines()
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))

    return main


def test_models_are_scored_by_the_likelihood_of_counts_they_did_not_see(run, capsys):
    lines = run("compare_models", "--data", "tiny.npz", "-k", "3", "--max-iter", "60", "--dtype", "float64")
    assert [line["model"] for line in lines] == ["ml", "map", "hpf", "hpf-learn"]
    train, test = thin_counts(sparse.load_npz("tiny.npz"), 0.1, random_state=0)
    model = PoissonNMF(3, prior_W="auto", prior_H="auto", max_iter=60, random_state=0)
    rate = model.fit_transform(train) @ model.components_ / 9
    V = test.to_scipy().toarray()
    log_factorials = sum(math.lgamma(x + 1) for x in V.ravel())
    expected = ((V * np.log(rate)).sum() - rate.sum() - log_factorials) / V.sum()
    assert float(lines[1]["log_likelihood"]) == pytest.approx(expected, rel=1e-9)
    assert "Counts that each model predicts best" in capsys.readouterr().out


def test_hpf_is_clocked_beside_an_explicit_allotment_that_comes_to_the_same(run, capsys):
    lines = run("versus_hpf", "--data", "tiny.npz", "-k", "3", "--turns", "1", "--most", "2", "--dtype", "float64")
    assert {line["method"] for line in lines} >= {"fastpmf", "explicit", "mu"}
    assert "times as fast as explicit's" in capsys.readouterr().out
    study = importlib.import_module("versus_hpf")
    setup = study.Setup(thin_counts(sparse.load_npz("tiny.npz"), 0.1, random_state=0)[0], 1, 0, np.dtype(float), 1)
    # With one component there is nothing to allot, and both go to the one fixed point
    (W, H, _), (W_, H_, _) = study.fastpmf(setup, 2000), study.explicit(setup, 2000)
    np.testing.assert_allclose(W @ H, W_ @ H_, rtol=1e-4)


def test_recovery_tells_correlation_and_coverage_of_every_draw(run, capsys):
    few = ["--shape", "60", "40", "-k", "2", "--mean-counts", "5", "--seeds", "0", "--max-iter", "60"]
    lines = run("recovery", *few)
    recovered = [float(line["value"]) for line in lines if line["what"].endswith("recovered")]
    covered = {float(line["level"]): float(line["value"]) for line in lines if line["what"] == "W covered"}
    assert len(recovered) == 6
    assert all(0.7 < value <= 1 for value in recovered)  # 300 counts in a component's row, and two components
    assert sorted(covered) == [0.5, 0.8, 0.9, 0.95]
    assert list(covered.values()) == sorted(covered.values())
    assert "90 % intervals of entries hold the truth" in capsys.readouterr().out


def test_costs_of_models_are_told_beside_maximum_likelihood(run, capsys):
    lines = run("model_costs", "--data", "tiny.npz", "-k", "3", "--turns", "1", "--solvers", "mu", "--dtype", "float64")
    assert len(lines) == 9
    assert all(math.isfinite(float(line["objective"])) for line in lines)
    assert "times maximum likelihood's seconds" in capsys.readouterr().out


def test_the_number_of_components_is_found_of_counts_drawn_with_it(run, capsys):
    few = ["--shape", "80", "60", "--nnz", "3e3", "-k", "2", "--around", "1", "--draws", "2", "--splits", "2"]
    lines = run("find_components", *few)
    assert [int(line["true_k"]) for line in lines] == [2, 2]
    assert all(int(line["recommended"]) in (1, 2, 3) for line in lines)
    assert "k = 2, 2 draws: recommended" in capsys.readouterr().out


def test_their_tables_are_known_by_their_headers(run, capsys, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    write = importlib.import_module("provenance").write_table
    rows = {
        "compare_models": ("Score", [["tiny", 3, "ml", 0, -math.inf, -2.0, 9, 1.0, "float32"],
                                     ["tiny", 3, "map", 0, -1.5, -1.25, 9, 1.0, "float32"]]),
        "versus_hpf": ("Line", [["tiny", 3, "iteration", m, 8, s, -2.0, "float32"]
                                for m, s in (("fastpmf", 0.002), ("hpfrec", 0.05), ("mu", 0.0016))]
                       + [["tiny", 3, "way", m, 8, s, -2.0, "float32"] for m, s in (("fastpmf", 0.5), ("hpfrec", 10))]),
        "recovery": ("Line", [[1.0, s, "W covered", "hpf", 0.9, v, 2.5] for s, v in ((0, 0.5), (1, 0.6))]),
        "find_components": ("Line", [[5, s, r, 6, 4, -2.0, 0.1] for s, r in ((0, 5), (1, 7))]),
        "read_times": ("Line", [["drawn", "mtx", "scipy mmread", 126.0, 2.0, 4.5, 2.25, 210.0, 260.0,
                                 4.0, 204.0, 0.1, 9, 9.0],
                                ["drawn", "ldac", "gensim BleiCorpus", 70.0, 9.0, math.nan, math.nan, 230.0, math.nan,
                                 9.0, 190.0, 0.1, 9, 9.0]]),
        "cnmf_pipeline": ("Line", [["cells", 10, run, "seconds", "factorize", s]
                                   for run, s in (("scikit-learn", 300.0), ("fastpmf auto", 10.0))]
                          + [["cells", 10, "scikit-learn", "nats per count", "replicate 0", 2.2],
                             ["cells", 10, "fastpmf auto", "nats per count", "TPM spectra", 0.8491]]),
        "model_costs": ("Line", [["tiny", 3, "mu", "map", 2.0, 1.04, 100.0, "float32"]]),
    }  # fmt: skip
    for name, (header, lines) in rows.items():
        write(f"{name}.csv", getattr(importlib.import_module(name), header)._fields, lines)
    assert importlib.import_module("readme_tables").main([f"{name}.csv" for name in rows]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "| tiny | 3 | -2.0000 | **-1.2500** | yes |" in out
    assert "| tiny | 3 | 2.0 ms | 50 ms, 25× | - | 1.6 ms | 1.25 | 10 s | 0.50 s, 20× |" in out
    assert "| 1 | W covered | hpf | 0.9 | 0.55 | 2.5 |" in out
    assert "| tiny | 3 | mu | 1.04 |" in out
    assert "| drawn | mtx | 126 | scipy mmread | 2.25× | 210 | 260 |" in out
    assert "| | ldac | 70 | gensim BleiCorpus | - | 230 | - |" in out
    assert "| cells | 10 | factorize | seconds | 300 s | 10 s, 30× |" in out
    assert any("TPM spectra | nats per count | - | 0.8491 |" in line for line in out)
    assert "| 5 | 2 | 1 / 1 | 0 / 2 | 0 / 2 |" in out
