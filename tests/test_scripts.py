"""The studies of fastpmf itself run at their smallest size, and leave a table and a picture behind."""

import argparse
import csv
import importlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numba
import numpy as np
import pytest
from conftest import ALL
from fastpmf.model.factors import empty_factor, padded
from scipy import sparse

from fastpmf import kl_divergence, poisson_nmf
from fastpmf.datasets import make_poisson_counts
from fastpmf.kernels._jit import row_width
from fastpmf.kernels.simd import VECTOR_BYTES

SCRIPTS = Path(__file__).parents[1] / "scripts"

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="they time compiled kernels")


TURNS = 12 if ALL else 5
SMALL_SOAK = ["--turns", str(TURNS), "--load", "1" if ALL else "0", "--json", "ledger.json"]
SMALL_ROOFLINE = ["--nnz", "1e4", "-k", "3", "--mib", "1", "--repeats", "1"]
SMALL_STARTS = ["--data", "data/tiny.npz", "-k", "3", "--seeds", "0", "1", "2", "--max-iter", "40"]
SMALL_TRANSFORM = ["--data", "data/tiny.npz", "-k", "3", "--repeats", "1"]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run a script's main in an empty folder."""
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)

    def main(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        return importlib.import_module(script).main()

    return main


@pytest.fixture
def tiny(tmp_path):
    """Counts in a folder beside what the studies write."""
    X = make_poisson_counts(60, 40, 3, nnz=600, random_state=0).X
    (tmp_path / "data").mkdir()
    sparse.save_npz(tmp_path / "data" / "tiny.npz", X)
    sparse.save_npz(tmp_path / "data" / "zero.npz", 0 * X)
    return X


def table(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


SMALL_SCALING = [
    "--studies", "threads", "nnz", "streamed", "--nnz", "1e4", "--max-nnz", "2e4", "-k", "3", "--repeats", "1",
]  # fmt: skip


@pytest.mark.long
def test_fresh_processes_of_the_scaling_study_tell_their_memory(tmp_path):
    # They begin with the file that is run, so here that must be the script
    line = [sys.executable, str(SCRIPTS / "scaling_study.py"), *SMALL_SCALING]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    threads = assert_scaling(tmp_path, done.stdout)
    if sys.platform == "linux":
        assert float(threads[-1]["peak_bytes"]) > 0


def test_the_scaling_study_tells_seconds_and_objective_of_every_matrix(run, tmp_path, monkeypatch, capsys):
    # A thread in place of its fresh processes, each of which imports everything
    measures = importlib.import_module("scaling_measures")
    monkeypatch.setattr(measures, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))
    measures.fresh.cache_clear()
    assert run("scaling_study", *SMALL_SCALING) == 0
    assert_scaling(tmp_path, capsys.readouterr().out)


def assert_scaling(tmp_path, told):
    """What is in the table; its lines of the study of threads."""
    assert {path.name for path in tmp_path.iterdir()} == {"scaling_study.csv", "scaling_study.png"}
    lines = table(tmp_path / "scaling_study.csv")
    assert {line["study"] for line in lines} == {"threads", "nnz", "streamed"}
    for line in lines:
        numbers = ("mu_seconds", "cd_seconds", "mu_ns_per_nonzero", "cd_ns_per_nonzero", "mu_objective", "cd_objective")
        assert all(float(line[name]) > 0 for name in numbers)
        # The same iterations from the same start: the second-order solver is no higher
        assert float(line["cd_objective"]) <= float(line["mu_objective"])
    threads = [line for line in lines if line["study"] == "threads"]
    assert len({(line["mu_objective"], line["cd_objective"]) for line in threads}) == 1  # bitwise
    assert float(threads[-1]["predicted_peak_bytes"]) > 0
    assert float(threads[-1]["predicted_cd_seconds"]) > 0
    assert "bitwise the same" in told
    return threads


def test_the_roofline_holds_every_kernel_against_a_bound(run, tmp_path):
    assert run("roofline", *SMALL_ROOFLINE) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"roofline.csv", "roofline.png"}
    lines = table(tmp_path / "roofline.csv")
    bounds, kernels = ([line for line in lines if line["kind"] == kind] for kind in ("bound", "kernel"))
    roofs = {"stream", "gather L2", "gather L3", "gather memory"}
    assert {line["name"] for line in bounds} == roofs | {
        f"{f} {d}" for f in ("FMA", "divide") for d in ("float32", "float64")
    }
    assert {line["name"] for line in kernels} == {
        "ratio_contract",
        "scatter_contract",
        "log_rate",
        "multiply",
        "descend",
    }
    for line in kernels:
        assert line["bound"] in ("stream", "gather", "FMA", "divide")
        assert float(line["fraction"]) > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [3, 100, 600])  # one vector, several, and more than are compiled for
def test_the_loops_of_the_roofs_compute_what_they_say(monkeypatch, k, dtype):
    monkeypatch.syspath_prepend(SCRIPTS)
    roofs = importlib.import_module("roofs")
    dtype, rng = np.dtype(dtype), np.random.default_rng(0)
    b, c = (padded(rng.integers(0, 10, (20, k)), dtype) for _ in range(2))  # small integers, whose sums are exact
    a = np.zeros_like(b)
    roofs.triad(3, b, c, np.array([0, 7, 7, 20]), a)
    np.testing.assert_array_equal(a, b + c * 0.5)
    bounds = roofs.STEP * np.array([0, 2, 2, 5])
    indices = rng.integers(0, 20, bounds[-1], dtype=np.int32)
    for several in (0, 1):
        out = np.full((3 * roofs.SUMS, b.shape[1]), -1, dtype)
        roofs.gather_rows(3, indices, bounds, np.ones(roofs.GROUP, dtype), b, row_width(b), several, out)
        sums = [b[indices[start:stop]].sum(axis=0) for start, stop in pairwise(bounds)]
        np.testing.assert_array_equal(out.reshape(3, roofs.SUMS, -1).sum(axis=1), sums)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_chains_of_the_roofs_do_every_round(monkeypatch, dtype):
    monkeypatch.syspath_prepend(SCRIPTS)
    roofs = importlib.import_module("roofs")
    out = empty_factor(2, 5 * VECTOR_BYTES // np.dtype(dtype).itemsize, np.dtype(dtype))
    roofs.fma_chains(2, 0.5, 1.0, 4, row_width(out), out)
    np.testing.assert_array_equal(out, 1.875)  # 1 + 1/2 + 1/4 + 1/8
    roofs.division_chains(2, 0.5, 1.0, 3, row_width(out), out)
    np.testing.assert_array_equal(out, 2)


def test_the_study_of_starts_has_every_fit_and_its_exact_end(run, tiny, tmp_path, capsys):
    assert run("compare_starts", *SMALL_STARTS, "--restarts", "2", "--inits", "random", "nndsvda") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data", "compare_starts.csv", "compare_starts.png"}
    fits = table(tmp_path / "compare_starts.csv")
    single = [fit for fit in fits if fit["n_init"] == "1"]
    solvers, seeds = ("mu", "mu+r", "em", "cd", "cd+x"), ("0", "1", "2")
    assert {(fit["init"], fit["solver"], fit["seed"]) for fit in single} == {
        (init, solver, seed) for init in ("random", "nndsvda") for solver in solvers for seed in seeds
    }
    assert all(float(fit["seconds"]) > 0 and fit["iterations"] == "40" for fit in single)
    ours = next(fit for fit in single if (fit["solver"], fit["init"], fit["seed"]) == ("cd+x", "random", "2"))
    solution = poisson_nmf(tiny, 3, max_iter=40, tol=0, random_state=2, dtype="float32")
    assert float(ours["objective"]) == kl_divergence(tiny, solution.W, solution.H)
    assert [(fit["solver"], fit["init"], fit["seed"]) for fit in fits if fit["n_init"] == "2"] == [
        ("cd+x", "random", seed) for seed in seeds
    ]
    out = capsys.readouterr().out
    best = min(float(fit["objective"]) for fit in fits)
    assert f"tiny, k = 3: lowest {best:,.1f} nats, by " in out
    assert "n_init=2 takes " in out


def test_without_restarts_or_other_starts_the_verdict_has_nothing_of_them(run, tiny, tmp_path, capsys):
    line = ["--solvers", "mu", "em", "--iterations", "em=7", "--restarts", "0"]
    assert run("compare_starts", *SMALL_STARTS, *line) == 0
    out = capsys.readouterr().out
    assert "n_init=" not in out
    assert "Of the kinds of start" not in out
    done = {(fit["solver"], fit["iterations"]) for fit in table(tmp_path / "compare_starts.csv")}
    assert done == {("mu", "40"), ("em", "7")}


def test_a_study_of_starts_that_is_cut_off_keeps_what_it_has(run, tiny, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    study, calls = importlib.import_module("compare_starts"), []

    def fit(*arguments, **options):
        calls.append(arguments)
        if len(calls) > 4:  # one that compiles comes first
            raise KeyboardInterrupt
        return poisson_nmf(*arguments, **options)

    monkeypatch.setattr(study, "poisson_nmf", fit)
    with pytest.raises(KeyboardInterrupt):
        run("compare_starts", *SMALL_STARTS)
    assert [fit["seed"] for fit in table(tmp_path / "compare_starts.csv")] == ["0", "1", "2"]


def test_a_table_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    write_table, path = importlib.import_module("provenance").write_table, tmp_path / "some.csv"

    def rows():
        yield [2]
        raise KeyboardInterrupt

    write_table(path, ["a"], [[1]])
    with pytest.raises(KeyboardInterrupt):
        write_table(path, ["a"], rows())
    assert table(path) == [{"a": "1"}]
    assert list(tmp_path.iterdir()) == [path]


def test_the_study_of_transform_keeps_what_the_certificate_promises(run, tiny, tmp_path, capsys):
    assert run("transform_speed", *SMALL_TRANSFORM, "--rows", "20", "--tol", "1e-3", "1e-2") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"data", "transform_speed.csv", "transform_speed.png"}
    lines = table(tmp_path / "transform_speed.csv")
    assert [(line["tol"], line["rows"], line["late_rows"]) for line in lines] == [
        ("0.01", "20", "0"),
        ("0.001", "20", "0"),
    ]
    for line in lines:
        assert float(line["ratio"]) == float(line["sklearn_seconds"]) / float(line["seconds"])
        gap, total = float(line["gap_per_1000"]), float(line["total"])
        assert 0 <= gap <= 1e3 * float(line["tol"])
        # scikit-learn's is a W too, and gains no more than the certificate says
        assert float(line["objective"]) - gap * total / 1e3 <= float(line["sklearn_objective"])
    out = capsys.readouterr().out
    assert "At tol=0.001 scikit-learn takes " in out
    assert "Rows that had not come to tol" not in out


def test_columns_without_counts_to_fit_are_left_out_of_transform(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    study = importlib.import_module("transform_speed")
    X = sparse.csr_array(np.diag([1, 2, 3, 4, 5, 6])[:, ::-1] + np.eye(6, 1, dtype=int))
    told = argparse.Namespace(rows=2, seed=0)
    seen, unseen = study.split(argparse.ArgumentParser(), "X", X, told)
    assert seen.shape == (4, unseen.shape[1])
    assert unseen.shape[0] == 2
    assert (seen.sum(axis=0) > 0).all()


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("compare_starts", ["--iterations", "mu"], "--iterations must be a solver's name, = and a number of at least"),
        (
            "compare_starts",
            ["--iterations", "gd=3"],
            "--iterations must be a solver's name, = and a number of at least",
        ),
        ("compare_starts", ["--seeds", "-1"], "--seeds must be from 0 to 2**32 - 1"),
        ("compare_starts", ["--restarts", "1"], "--restarts must be 0 or at least 2, got 1"),
        ("compare_starts", ["--data", "data/zero.npz"], "the counts are all zero in zero"),
        ("compare_starts", ["--data", "data/tiny.npz", "data/tiny.npz"], "--data must be files of different names"),
        ("compare_starts", ["--data", "data/tiny.npz", "-k", "41", "--inits", "nndsvd"], "here 40; fewer, -k"),
        ("transform_speed", ["--tol", "0"], "--tol must be above 0 and below 1, in nats per count"),
        ("transform_speed", ["--data", "data/tiny.npz", "--rows", "60"], "--rows must leave rows of tiny to fit"),
        ("transform_speed", ["--png", "a.pdf"], "--png must be a .png or .svg file in a folder that exists"),
        ("time_to_objective", ["--data", "data/zero.npz"], "the counts are all zero in zero"),
        ("versus_sklearn", ["--data", "none.npz"], "no file none.npz"),
        ("scaling_study", ["--nnz", "5"], "--nnz and --max-nnz must be at least 10,000"),
        ("scaling_study", ["--threads", "100000"], "--threads must be at most"),
        ("scaling_study", ["--densities", "0.9"], "--densities must be above 0 and at most 0.5"),
        ("scaling_study", ["--csv", "nowhere/a.csv"], "--csv must be a .csv file in a folder that exists"),
        ("roofline", ["--repeats", "0"], "--components, --repeats, --threads and --mib must be at least 1"),
        ("roofline", ["--data", "none.npz"], "none.npz"),
    ],
)
def test_bad_arguments_get_one_sentence(script, arguments, said, run, tiny, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(script, *arguments)
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


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


@pytest.mark.skipif(sys.platform == "win32", reason="its faults are signals and limits of other systems")
def test_a_soak_counts_attempts_and_faults_and_a_loss_ends_it_with_1(run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    import soak

    assert run("soak", *SMALL_SOAK) == 0
    deeds = json.loads(Path("ledger.json").read_text())["deeds"]
    assert sum(row["attempts"] for row in deeds.values()) == TURNS
    assert sum(row["faults"] for row in deeds.values()) > 0
    assert sum(row["losses"] for row in deeds.values()) == 0
    monkeypatch.setattr(soak.Soak, "saved", lambda self, rng: self._same("mu", self._models["em"]))
    monkeypatch.setattr(soak.Soak, "__init__", lossy(soak.Soak.__init__))
    assert run("soak", *SMALL_SOAK) == 1
    assert "LOST in saved, seed" in capsys.readouterr().out


def lossy(begin):
    """A soak of one deed."""

    def begun(self, *arguments):
        begin(self, *arguments)
        self._deeds = {"saved": self.saved}

    return begun
