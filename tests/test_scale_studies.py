"""The studies of streamed counts and of clusters run, and their tables say what was the same and what was measured."""

import importlib
import math
import multiprocessing.dummy
from pathlib import Path

import numba
import pytest

from fastpmf.datasets import make_poisson_counts

SCRIPTS = Path(__file__).parents[1] / "scripts"
pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="they time compiled kernels")
SMALL = ["--nnz", "4000", "--features", "60", "--per-row", "20", "-k", "3", "--turns", "1"]


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)

    def run(name, *line):
        study = importlib.import_module(name)
        monkeypatch.setattr("sys.argv", [f"{name}.py", *line])
        study.main([*line])
        return importlib.import_module("provenance").read_table(f"{name}.csv")

    return run


@pytest.mark.parametrize("processes", ["threads", pytest.param("processes", marks=pytest.mark.long)])
def test_the_streamed_study_ends_where_memory_ends(script, tmp_path, monkeypatch, processes):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")  # which it sets itself
    if processes == "threads":  # in place of fresh processes, each of which imports everything
        monkeypatch.setattr("multiprocessing.get_context", lambda kind: multiprocessing.dummy)
    table = script("streamed_study", *SMALL, "--solver", "mu", "--iterations", "2", "--block", "500", "--cold")
    assert (tmp_path / "streamed_study.png").stat().st_size > 0
    assert [row["where"] for row in table.rows] == ["streamed", "in memory", "streamed, cold"]
    objectives = [float(row["objective"]) for row in table.rows]
    assert objectives == pytest.approx([objectives[0]] * 3, rel=1e-10)  # sums of x log x add up by blocks
    assert all(float(row["nanoseconds"]) > 0 and float(row["planned_mib"]) > 0 for row in table.rows)
    assert table.facts["command"].startswith("python scripts/streamed_study.py --nnz 4000")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_dask_study_ends_where_one_process_ends(script):
    pytest.importorskip("distributed")
    table = script("dask_study", *SMALL, "--workers", "2", "--iterations", "4")
    assert [row["where"] for row in table.rows] == ["one process"] * 2 + ["workers"]
    objectives = [float(row["objective"]) for row in table.rows]
    assert max(objectives) == pytest.approx(min(objectives), rel=1e-5)  # float32
    message = float(table.rows[-1]["message_bytes"])
    # 60 columns of 16 numbers of 4 bytes go up, and the total comes down; beside them are sums and what Dask adds
    assert message >= 60 * 16 * 4
    assert float(table.rows[-1]["wire_bytes"]) >= 2 * 60 * 16 * 4


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["streamed_study", "--nnz", "0"], "numbers must be at least 1"),
        (["streamed_study", "--folder", "no"], "--folder must be a folder with indptr.npy, got no"),
        (["dask_study", "--iterations", "2"], "--iterations above 2"),
        (["cluster_model", "--workers", "0"], "numbers must be at least 1"),
    ],
)
def test_bad_arguments_are_turned_away_in_a_sentence(script, capsys, line, said):
    with pytest.raises(SystemExit):
        script(*line)
    assert said in capsys.readouterr().err


def test_the_model_of_a_cluster_is_the_sum_that_it_says(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    study = importlib.import_module("cluster_model")
    told = study.Constants(1e-8, 1e-3, 1e9, 1e-10, 1e-4)
    line = study.predicted(told, 64, 10**9, 20_000, 20, 4, 1, 1.0)
    m, depth = 20_000 * 32 * 4, 6
    assert line.message_bytes == m
    assert line.counting == pytest.approx(10 / 64)
    assert line.talking == pytest.approx(14e-3 + depth * m * (2e-9 + 1e-10))
    assert line.scheduling == pytest.approx(3 * 64 * 1e-4)
    assert line.seconds == pytest.approx(line.counting + line.talking + line.scheduling)
    even = study.predicted(told, 64, round(line.even_nonzeros), 20_000, 20, 4, 1, 1.0)
    assert even.counting == pytest.approx(even.talking + even.scheduling, rel=1e-6)
    assert study.predicted(told, 1, 10**9, 20_000, 20, 4, 1, 1.0).talking == pytest.approx(2e-3)


def test_more_steps_on_w_save_messages(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    study = importlib.import_module("cluster_model")
    X = make_poisson_counts(200, 40, 3, nnz=3_000, random_state=0).X
    saved = study.reductions(X, 3, lambda: None)
    assert 0 <= saved[3, "float64"][0] < saved[1, "float64"][0]
    assert all(math.isfinite(above) for _, above in saved.values())
