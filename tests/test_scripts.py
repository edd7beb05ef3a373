"""The studies that draw their own counts run at their smallest size, and leave a table and a picture behind."""

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import numba
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="they time compiled kernels")


SMALL_ROOFLINE = ["--nnz", "1e4", "-k", "3", "--mib", "1", "--repeats", "1"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a script's main in an empty folder."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)

    def main(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        return importlib.import_module(script).main()

    return main


def table(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def test_the_scaling_study_tells_seconds_objective_and_memory_of_every_matrix(tmp_path):
    small = ["--nnz", "1e4", "--max-nnz", "2e4", "-k", "3", "--repeats", "1"]
    # Its fresh processes begin with the file that is run, so here that must be the script
    line = [sys.executable, str(SCRIPTS / "scaling_study.py"), "--studies", "threads", "nnz", *small]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"scaling_study.csv", "scaling_study.png"}
    lines = table(tmp_path / "scaling_study.csv")
    assert {line["study"] for line in lines} == {"threads", "nnz"}
    for line in lines:
        numbers = ("mu_seconds", "cd_seconds", "mu_ns_per_nonzero", "cd_ns_per_nonzero", "mu_objective", "cd_objective")
        assert all(float(line[name]) > 0 for name in numbers)
        # The same iterations from the same start: the second-order solver is no higher
        assert float(line["cd_objective"]) <= float(line["mu_objective"])
    threads = [line for line in lines if line["study"] == "threads"]
    assert len({(line["mu_objective"], line["cd_objective"]) for line in threads}) == 1  # bitwise
    assert float(threads[-1]["predicted_peak_bytes"]) > 0
    assert float(threads[-1]["predicted_cd_seconds"]) > 0
    if sys.platform == "linux":
        assert float(threads[-1]["peak_bytes"]) > 0
    assert "bitwise the same" in done.stdout


def test_the_roofline_holds_every_kernel_against_a_bound(run, tmp_path):
    assert run("roofline", *SMALL_ROOFLINE) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"roofline.csv", "roofline.png"}
    lines = table(tmp_path / "roofline.csv")
    bounds, kernels = ([line for line in lines if line["kind"] == kind] for kind in ("bound", "kernel"))
    roofs = {"stream", "gather L2", "gather L3", "gather memory"}
    assert {line["name"] for line in bounds} == roofs | {
        f"{f} {d}" for f in ("FMA", "divide") for d in ("float32", "float64")
    }
    assert {line["name"] for line in kernels} == {"ratio_contract", "joint_contract", "log_rate", "multiply", "descend"}
    for line in kernels:
        assert line["bound"] in ("stream", "gather", "FMA", "divide")
        assert float(line["fraction"]) > 0


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("scaling_study", ["--nnz", "5"], "--nnz and --max-nnz must be at least 10,000"),
        ("scaling_study", ["--threads", "100000"], "--threads must be at most"),
        ("scaling_study", ["--densities", "0.9"], "--densities must be above 0 and at most 0.5"),
        ("scaling_study", ["--csv", "nowhere/a.csv"], "--csv must be a .csv file in a folder that exists"),
        ("roofline", ["--repeats", "0"], "--components, --repeats, --threads and --mib must be at least 1"),
        ("roofline", ["--data", "none.npz"], "none.npz"),
    ],
)
def test_bad_arguments_get_one_sentence(script, arguments, said, run, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(script, *arguments)
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_there_is_a_table_and_a_sentence(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("roofline", *SMALL_ROOFLINE) == 0
    assert "no picture: matplotlib is not installed" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"roofline.csv"}


def test_a_slope_is_that_of_the_power_law(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    slope = importlib.import_module("studying").slope
    best, error = slope([1, 10, 100], [3, 30, 300])
    assert best == pytest.approx(1, rel=1e-12)
    assert error == pytest.approx(0, abs=1e-9)
    assert slope([1, 2, 4], [1, 1, 2]) == pytest.approx((0.5, 12**-0.5))  # by hand: residuals 1, -2, 1 sixths of log 2
    assert all(value != value for value in slope([5, 5], [1, 2]))
