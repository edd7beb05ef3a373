"""The study of streamed counts runs, and its table says what was the same and what was measured."""

import importlib
from pathlib import Path

import numba
import pytest

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


def test_the_streamed_study_ends_where_memory_ends(script, tmp_path):
    table = script("streamed_study", *SMALL, "--solver", "mu", "--iterations", "2", "--block", "500", "--cold")
    assert (tmp_path / "streamed_study.png").stat().st_size > 0
    assert [row["where"] for row in table.rows] == ["streamed", "in memory", "streamed, cold"]
    objectives = [float(row["objective"]) for row in table.rows]
    assert objectives == pytest.approx([objectives[0]] * 3, rel=1e-10)  # sums of x log x add up by blocks
    assert all(float(row["nanoseconds"]) > 0 and float(row["planned_mib"]) > 0 for row in table.rows)
    assert table.facts["command"].startswith("python scripts/streamed_study.py --nnz 4000")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["streamed_study", "--nnz", "0"], "numbers must be at least 1"),
        (["streamed_study", "--folder", "no"], "--folder must be a folder with indptr.npy, got no"),
    ],
)
def test_bad_arguments_are_turned_away_in_a_sentence(script, capsys, line, said):
    with pytest.raises(SystemExit):
        script(*line)
    assert said in capsys.readouterr().err
