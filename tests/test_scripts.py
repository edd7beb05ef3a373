"""The studies and tools in `scripts` run at their smallest size, and their tables, plots and verdicts are true."""

import csv
import importlib
import math
import multiprocessing.dummy
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from conftest import ALL
from scipy import sparse

from fastpmf import (
    HPF,
    PoissonNMF,
    StreamedCounts,
    as_counts,
    kl_divergence,
    match_components,
    poisson_nmf,
    thin_counts,
)
from fastpmf.datasets import make_poisson_counts

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = sorted(str(path.relative_to(SCRIPTS)) for path in SCRIPTS.rglob("*.py") if path.name != "common.py")
PACKAGES = re.findall(r'"([a-z-]+)": [A-Z]\w+,', (SCRIPTS / "packages.py").read_text(encoding="utf-8"))
FORMATS = re.findall(r'^    "([\w.-]+)": [Faf]', (SCRIPTS / "formats.py").read_text(encoding="utf-8"), re.MULTILINE)

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="they time compiled kernels")


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Import a script by its path in `scripts`, with an empty folder to write to."""
    for folder in ("", "examples", "tools"):
        monkeypatch.syspath_prepend(SCRIPTS / folder)
    monkeypatch.chdir(tmp_path)
    return lambda name: importlib.import_module(Path(name).stem)


@pytest.fixture
def run(script, monkeypatch):
    """Run a script's main."""

    def main(name, *arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / f"{name}.py"), *arguments])
        return script(name).main()

    return main


@pytest.fixture
def study(run, tmp_path, capsys):
    """Run a study; the rows of its table, and what it printed."""

    def main(name, *arguments):
        assert run(name, *arguments) == 0
        stem = Path(name).stem
        assert (tmp_path / f"{stem}.png").stat().st_size > 1000
        return table(tmp_path / f"{stem}.csv"), capsys.readouterr().out

    return main


@pytest.fixture
def tiny(tmp_path):
    """Counts in a file."""
    X = make_poisson_counts(60, 40, 3, nnz=600, random_state=0).X
    sparse.save_npz(tmp_path / "tiny.npz", X)
    sparse.save_npz(tmp_path / "zero.npz", 0 * X)
    return X


@pytest.fixture
def threads_for_processes(monkeypatch):
    """Threads in place of fresh processes, each of which would import everything."""
    pool = SimpleNamespace(Pool=lambda n, maxtasksperchild=None: multiprocessing.dummy.Pool(n))
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: pool)


def table(path):
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_on_a_screen_in_width(name, script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / name), "--help"])
    with pytest.raises(SystemExit, match="0"):
        script(name).main()
    out = capsys.readouterr().out
    assert "options:" in out
    assert max(map(len, out.splitlines())) <= 120


def test_solvers_has_every_fit_its_exact_end_and_what_restarts_cost(study, tiny):
    line = ["--data", "tiny.npz", "-k", "3", "--max-iter", "40", "--restarts", "2", "--inits", "random", "nndsvda"]
    rows, out = study("solvers", *line)
    solvers = ("mu", "mu+r", "em", "cd", "cd+x")
    assert {(row["init"], row["solver"], row["seed"]) for row in rows if row["n_init"] == "1"} == {
        (init, solver, seed) for init in ("random", "nndsvda") for solver in solvers for seed in "012"
    }
    end = [
        row for row in rows if (row["init"], row["solver"], row["n_init"], row["seed"]) == ("random", "cd+x", "1", "2")
    ][-1]
    solution = poisson_nmf(tiny, 3, max_iter=40, tol=0, random_state=2, dtype="float32")
    assert (end["iteration"], float(end["objective"])) == ("40", solution.objective)
    assert "tiny, k = 3: to within 0.001 of the best from the same seed: " in out
    assert "n_init=2 takes " in out
    assert "lowest of the initializations: " in out


def test_optima_has_the_end_of_every_fit_and_compares_the_seeds(study, tiny):
    line = ["--data", "tiny.npz", "-k", "3", "--max-iter", "60", "--tol", "0.01", "--restarts", "2"]
    rows, out = study("optima", *line, "--seeds", "0", "1", "--starts", "random", "merge", "restarts", "nndsvd")
    starts = ["random", "merge", "random x 2", "nndsvd"]
    assert [(row["start"], row["seed"]) for row in rows] == [(start, seed) for seed in "01" for start in starts]
    options = {"init": "merge", "max_iter": 60, "tol": 0.01, "dtype": "float32"}
    fits = [poisson_nmf(tiny, 3, random_state=seed, **options) for seed in (0, 1)]
    ends = [float(row["objective"]) for row in rows]
    assert ends[1::4] == [fit.objective for fit in fits]
    assert [float(row["excess"]) for row in rows] == pytest.approx([100 * (D / min(ends) - 1) for D in ends], abs=1e-9)
    similarity = match_components(fits[0].H, fits[1].H)[1].mean()
    assert [float(row["similarity"]) for row in rows[1::4]] == pytest.approx([similarity] * 2, rel=1e-6)  # float32
    assert "tiny, k = 3, random x 2: excess " in out
    assert "components of two seeds " in out


def test_optima_of_hpf_and_of_streamed_counts(study, tiny):
    line = ["--data", "tiny.npz", "-k", "3", "--max-iter", "60", "--tol", "0.01", "--starts", "random", "merge"]
    options = {"random_state": 0, "max_iter": 60, "tol": 0.01, "dtype": "float32"}
    rows, _ = study("optima", *line, "--model", "hpf", "--seeds", "0")
    ends = [HPF(3, init=init, **options).fit(tiny).objective_ for init in ("random", "merge")]
    assert [float(row["objective"]) for row in rows] == ends
    rows, _ = study("optima", *line, "--model", "streamed", "--seeds", "0")
    streamed = StreamedCounts(lambda: [tiny])
    ends = [poisson_nmf(streamed, 3, init=init, **options).objective for init in ("random", "merge")]
    assert [float(row["objective"]) for row in rows] == pytest.approx(ends, rel=1e-6)


def test_optima_goes_from_the_largest_number_downwards(study, tiny):
    line = ["--data", "tiny.npz", "-k", "2", "3", "--max-iter", "60", "--tol", "0.01", "--seeds", "1"]
    rows, _ = study("optima", *line, "--starts", "shrink")
    options = {"tol": 0.01, "dtype": "float32", "random_state": 1}
    fit, ends = poisson_nmf(tiny, 5, init="random", **options | {"max_iter": 20, "tol": 0}), []
    for k in (3, 2):
        fit = poisson_nmf(tiny, k, init="shrink", W=fit.W, H=fit.H, max_iter=60, **options)
        ends.append(fit.objective)
    assert [(int(row["k"]), float(row["objective"])) for row in rows] == list(zip((3, 2), ends, strict=True))


def test_a_component_without_counts_is_similar_to_none(script):
    H = np.array([[1.0, 0, 2], [0, 3, 0], [0, 0, 0]])
    assert script("optima").similarity(H, H) == pytest.approx(2 / 3)


def test_an_interrupted_study_keeps_what_it_has(run, script, tiny, tmp_path, monkeypatch):
    calls = []

    def fit(*arguments, **options):
        calls.append(arguments)
        if len(calls) > 6:  # each solver compiles first
            raise KeyboardInterrupt
        return poisson_nmf(*arguments, **options)

    monkeypatch.setattr(script("solvers"), "poisson_nmf", fit)
    with pytest.raises(KeyboardInterrupt):
        run("solvers", "--data", "tiny.npz", "-k", "3", "--max-iter", "10")
    assert {row["solver"] for row in table(tmp_path / "solvers.csv")} == {"mu", "mu+r", "em"}


def test_versus_sklearn_compares_equal_iterates_and_certified_rows(study, tiny, threads_for_processes):
    rows, out = study("versus_sklearn", "--data", "tiny.npz", "-k", "3", "--repeats", "1", "--dtype", "float64")
    parts = {row["part"]: row for row in rows}
    one = parts["iteration"]
    assert float(one["objective"]) == pytest.approx(float(one["sklearn_objective"]), rel=1e-10)  # five iterations
    assert float(one["planned_mib"]) > 0
    assert float(parts["fit"]["objective"]) <= float(parts["fit"]["sklearn_objective"])
    transforms = [row for row in rows if row["part"] == "transform"]
    assert [row["tol"] for row in transforms] == ["0.003", "0.001", "0.0001"]
    for row in transforms:
        assert 0 <= float(row["gap_per_1000"]) <= 1e3 * float(row["tol"])
        # scikit-learn's is a W too, and can't gain more than the certificate
        bound = float(row["gap_per_1000"]) * tiny.sum() / 1e3
        assert float(row["objective"]) - bound <= float(row["sklearn_objective"])
    assert "times as long for the same iteration" in out
    assert "times as long to the objective at which it stops by default" in out


def test_columns_without_counts_to_fit_are_left_out_of_transform(script):
    X = sparse.csr_array(np.diag([1, 2, 3, 4, 5, 6])[:, ::-1] + np.eye(6, 1, dtype=int))
    seen, unseen = script("versus_sklearn").split(X, 2, 0)
    assert seen.shape == (4, unseen.shape[1])
    assert unseen.shape[0] == 2
    assert (seen.sum(axis=0) > 0).all()


def setup_of(script, X, dtype="float64"):
    return script("packages").make_setup(X, 3, 0, dtype, 1)


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.filterwarnings("ignore")
def test_each_package_that_is_installed_fits_and_is_scored(script, tiny, name):
    packages = script("packages")
    package = packages.PACKAGES[name]
    if script("common").version_of(package.package) is None:
        pytest.skip(f"{package.package} is not installed")
    points = []
    package.fit_until(setup_of(script, tiny, "float32"), 1e-9, lambda *point: points.append(point))
    n_iter, seconds, W, H = points[0]
    assert n_iter >= 1
    assert seconds > 0
    assert (W.shape, H.shape) == ((60, 3), (3, 40))
    assert math.isfinite(packages.divergence(tiny, W, H)[0])


def test_the_score_does_not_depend_on_the_scale_of_a_row_and_is_never_above_the_divergence(script, tiny):
    divergence, counts, rng = script("packages").divergence, as_counts(tiny), np.random.default_rng(0)
    W, H = rng.uniform(0.1, 1, (60, 3)), rng.uniform(0.1, 1, (3, 40))
    objective, weight = divergence(tiny, W, H)
    assert weight == 0
    assert divergence(tiny, W * rng.uniform(1e-3, 1e3, (60, 1)), H)[0] == pytest.approx(objective, rel=1e-12)
    for scale in (0.5, 1, 2):
        assert objective <= kl_divergence(counts, scale * W, H)


def test_rates_of_zero_under_counts_are_scored_with_one_component_more(script, tiny):
    rng = np.random.default_rng(0)
    W, H = rng.normal(size=(60, 3)), rng.normal(size=(3, 40))
    assert (np.maximum(W, 0) @ np.maximum(H, 0))[tiny.nonzero()].min() == 0
    objective, weight = script("packages").divergence(tiny, W, H)
    assert 0 < weight <= 1
    X = tiny.toarray().astype(float)
    assert objective <= kl_divergence(tiny, X.sum(axis=1, keepdims=True), X.sum(axis=0, keepdims=True) / X.sum())


@pytest.mark.parametrize("restarts", [True, False])
def test_a_package_continues_or_starts_again_until_the_seconds_are_spent(script, restarts):
    calls, points = [], []

    class Package(script("packages").Package):
        def advance(self, n_iter):
            calls.append(n_iter)
            if len(calls) == 4:
                raise KeyboardInterrupt

        def factors(self):
            return None, None

    Package.restarts = restarts
    with pytest.raises(KeyboardInterrupt):
        Package.fit_until(SimpleNamespace(clock="wall"), 1e9, lambda n, *rest: points.append(n))
    assert (calls, points) == (([1, 2, 4, 8], [1, 2, 4]) if restarts else ([1] * 4, [1, 2, 3]))


def test_explicit_hpf_and_fastpmfs_come_to_the_same(script, tiny):
    # With one component there is nothing to allocate, and both converge to the one fixed point
    setup = script("packages").make_setup(tiny, 1, 0, "float64", 1)
    fit = script("packages").ExplicitHpf(setup)
    fit.advance(2000)
    model = HPF(1, max_iter=2000, tol=0, eval_every=2001, random_state=0).fit(tiny)
    W, H = fit.factors()
    np.testing.assert_allclose(W @ H, model.W_posterior_.mean @ model.components_, rtol=1e-4)


def test_packages_says_who_fails_and_when_fastpmf_is_as_low(study, script, tiny, monkeypatch):
    packages = script("packages")

    def watch(package, n_threads, X, k, arguments):
        if package is packages.SklearnMu:
            return [(10, 2.0, 1.0, "float32", (120.0, 0.0))], ""
        if package is packages.SklearnLda:
            return [], "RuntimeError: it does not converge"
        return [(1, 0.5, 1.0, "float32", (120.0, 0.0)), (2, 1.0, 1.9, "float32", (100.0, 0.0))], ""

    monkeypatch.setattr(packages, "watch", watch)
    rows, out = study("packages", "--data", "tiny.npz", "-k", "3", "--packages", "sklearn-mu", "sklearn-lda")
    assert [(row["package"], row["iteration"]) for row in rows] == [
        ("fastpmf", "1"), ("fastpmf", "2"), ("sklearn-mu", "10"), ("sklearn-lda", "0"),
    ]  # fmt: skip
    assert "sklearn-mu (Poisson/KL): 120.0000 after 2 s, one call; fastpmf after 0.5 s." in out
    assert "sklearn-lda failed or was stopped: RuntimeError: it does not converge." in out


class Dead:
    """As an extension module that crashes."""

    module, compiling = "math", 0

    @staticmethod
    def fit_until(setup, budget, report):
        os._exit(3)


class Broken(Dead):
    """As a package that raises."""

    @staticmethod
    def fit_until(setup, budget, report):
        raise RuntimeError("it does not converge\nand never will")


def test_a_package_that_crashes_or_raises_leaves_a_line(script, tiny):
    arguments = SimpleNamespace(score="divergence", seed=0, dtype="float64", seconds=1.0, patience=60.0, clock="wall")
    packages, sent = script("packages"), []
    assert packages.watch(Dead, 1, tiny, 3, arguments) == ([], "its process died with exit code 3")
    packages.run(SimpleNamespace(send=sent.append), Broken, 1, tiny, 3, arguments)
    assert sent == ["RuntimeError: it does not converge"]


@pytest.mark.long
def test_packages_scores_held_out_counts_in_fresh_processes(tmp_path, tiny):
    line = [sys.executable, SCRIPTS / "packages.py", "--data", "tiny.npz", "-k", "3", "--seconds", "0.05"]
    done = subprocess.run([*line, "--score", "held-out"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "packages.csv")
    assert {"fastpmf-hpf", "explicit"} <= {row["package"] for row in rows}
    assert all(float(row["value"]) > 0 for row in rows)
    assert "nats per held-out count" in done.stdout


SCALING = ["--studies", "threads", "nnz", "streamed", "--nnz", "1e4", "--max-nnz", "2e4", "-k", "3", "--repeats", "1"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scaling_tells_seconds_and_objective_of_every_matrix(study, script, monkeypatch):
    module = script("scaling")
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))
    module.fresh.cache_clear()
    rows, out = study("scaling", *SCALING)
    check_scaling(rows, out)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scaling_measures_memory_in_fresh_processes_and_workers_end_where_threads_end(tmp_path):
    pytest.importorskip("distributed")
    line = [sys.executable, SCRIPTS / "scaling.py", *SCALING[:4], "workers", *SCALING[4:]]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "scaling.csv")
    check_scaling([row for row in rows if row["study"] != "workers"], done.stdout)
    if sys.platform == "linux":
        assert all(float(row["peak_bytes"]) > 0 for row in rows if row["study"] == "nnz")
    ends = {
        float(row["objective"])
        for row in rows
        if (row["solver"], row["study"]) in (("mu", "threads"), ("mu", "workers"))
    }
    assert max(ends) == pytest.approx(min(ends), rel=1e-5)  # float32
    assert "workers: workers take " in done.stdout


def check_scaling(rows, out):
    assert {row["study"] for row in rows} == {"threads", "nnz", "streamed"}
    ends = {(row["study"], row["nnz"], row["threads"], row["solver"]): float(row["objective"]) for row in rows}
    X = make_poisson_counts(50, 20_000, 10, nnz=10_000, random_state=0).X
    options = {"max_iter": int(rows[0]["iterations"]), "tol": 0, "dtype": "float32", "random_state": 0}
    expected = poisson_nmf(X, 3, solver="mu", acceleration=None, **options).objective / X.sum()
    assert ends["threads", str(X.nnz), "1", "mu"] == pytest.approx(expected, rel=1e-12)
    for (study, nnz, threads, solver), objective in ends.items():
        if (study, solver) == ("streamed", "mu"):  # sums of x log x are added by blocks
            assert objective == pytest.approx(ends["nnz", nnz, threads, "mu"], rel=1e-10)
    assert all(float(row["planned_bytes"]) > 0 for row in rows if row["study"] == "nnz")
    assert "bitwise the same" in out
    assert "streaming takes " in out


def test_scaling_takes_given_counts(study, script, tiny, monkeypatch):
    module = script("scaling")
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))
    module.fresh.cache_clear()
    rows, _ = study("scaling", "--data", "tiny.npz", "--studies", "k", "--ks", "3", "--repeats", "1", "--threads", "1")
    assert {(row["n_rows"], row["n_columns"], int(row["nnz"])) for row in rows} == {("60", "40", tiny.nnz)}


def test_roofline_compares_every_kernel_with_a_bound(study):
    rows, out = study("roofline", "--nnz", "1e4", "-k", "3", "--mib", "1", "--repeats", "1")
    bounds, kernels = ([row for row in rows if row["kind"] == kind] for kind in ("bound", "kernel"))
    rates = {f"{f} {d}" for f in ("FMA", "divide") for d in ("float32", "float64")}
    assert {row["name"] for row in bounds} == {"stream"} | rates
    assert {row["name"] for row in kernels} == {"ratio_contract", "scatter_contract", "log_rate", "multiply", "descend"}
    for row in kernels:
        assert row["bound"] in ("stream", "gather", "FMA", "divide")
        assert float(row["fraction"]) > 0
    assert "fraction of the bound that applies" in out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_loops_of_the_bounds_compute_what_they_claim(script, dtype):
    roofline, rng = script("roofline"), np.random.default_rng(0)
    b, c = (
        roofline.padded(rng.integers(0, 10, (20, 100)), np.dtype(dtype)) for _ in range(2)
    )  # sums of integers are exact
    a = np.zeros_like(b)
    roofline.triad(3, b, c, np.array([0, 7, 7, 20]), a)
    np.testing.assert_array_equal(a, b + c * 0.5)
    out = roofline.empty_factor(2, 5 * 64 // np.dtype(dtype).itemsize, np.dtype(dtype))
    roofline.fma_chains(2, 0.5, 1.0, 4, roofline.row_width(out), out)
    np.testing.assert_array_equal(out, 1.875)  # 1 + 1/2 + 1/4 + 1/8
    roofline.division_chains(2, 0.5, 1.0, 3, roofline.row_width(out), out)
    np.testing.assert_array_equal(out, 2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_models_are_scored_by_the_likelihood_of_counts_they_did_not_see(study, tiny):
    line = [
        "--data",
        "tiny.npz",
        "-k",
        "3",
        "--max-iter",
        "60",
        "--dtype",
        "float64",
        "--repeats",
        "1",
        "--solvers",
        "mu",
    ]
    rows, out = study("models", *line)
    predictions, costs = ([row for row in rows if row["part"] == part] for part in ("prediction", "cost"))
    assert [row["model"] for row in predictions] == ["ml", "map", "hpf", "hpf-learn"]
    train, test = thin_counts(tiny, 0.1, random_state=0)
    model = PoissonNMF(3, prior_W="auto", prior_H="auto", max_iter=60, random_state=0, dtype=np.float64)
    rate = model.fit_transform(train) @ model.components_ / 9
    V = test.to_scipy().toarray()
    log_factorials = sum(math.lgamma(x + 1) for x in V.ravel())
    expected = ((V * np.log(rate)).sum() - rate.sum() - log_factorials) / V.sum()
    assert float(predictions[1]["log_likelihood"]) == pytest.approx(expected, rel=1e-9)
    assert len(costs) == 9
    assert all(math.isfinite(float(row["objective"])) for row in costs)
    assert "the best of each model, mixed" in out
    assert "times that of maximum likelihood" in out


def test_known_truth_tells_correlation_coverage_and_chosen_numbers(study):
    line = ["--shape", "80", "60", "-k", "2", "--mean-counts", "5", "--seeds", "0", "1", "--max-iter", "60"]
    line += ["--replicates", "20"]
    rows, out = study("known_truth", *line, "--nnz", "3e3", "--around", "1", "--splits", "2", "--effects", "1",
                      "--dispersions", "0", "0.5", "--holdout", "rows", "counts")  # fmt: skip
    grouped = [row for row in rows if row["part"] == "groups"]
    assert len(grouped) == 2 * (4 * 3 + 2)
    assert all(-1 <= float(row["value"]) <= 1 and row["effects"] == "1.0" for row in grouped)
    assert "k = 2, effects of 1, effects recovered: ml with groups " in out
    recovered = [float(row["value"]) for row in rows if row["part"] == "recovery" and row["what"].endswith("recovered")]
    assert len(recovered) == 2 * 12
    assert all(0.7 < value <= 1 for value in recovered)  # 300 counts in a row, and two components
    covered = [float(row["value"]) for row in rows if row["part"] == "recovery" and row["what"].endswith(" covered")]
    assert len(covered) == 2 * 2 * 4 * 2
    assert all(0 < value < 1 for value in covered)
    chosen = [int(row["value"]) for row in rows if row["part"] == "components"]
    assert len(chosen) == 6 * 4
    assert set(chosen) <= {1, 2, 3}
    assert "90 % intervals of hpf, sampled, contain " in out
    dispersed = [row for row in rows if row["part"] == "dispersion"]
    assert len(dispersed) == 2 * 2 * (3 * 3 + 2)
    assert all(float(row["value"]) > 10 for row in dispersed if (row["what"], row["dispersion"]) == ("z score", "0.5"))
    assert "k = 2, mean count 5, dispersion 0.5: covered " in out
    assert "k = 2, dispersion 0.5, rows held out, 2 draws: recommended is right in " in out


def test_formats_has_every_format_that_is_read(script):
    from fastpmf.io import FORMATS as READ

    assert [*script("formats").FORMATS] == FORMATS
    assert {name.removesuffix(".gz") for name in FORMATS} == {*READ}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.filterwarnings("ignore")  # other libraries' of their own futures
def test_every_format_is_read_as_it_was_written_by_all_who_read_it(script, tiny, tmp_path, name):
    formats, X = script("formats"), tiny.astype(np.int32)
    form = formats.FORMATS[name]
    form.write(tmp_path / form.file, X)
    found = [formats.fingerprint(formats.read(name, formats.OURS, tmp_path))]
    if script("common").version_of(form.library):
        found.append(formats.fingerprint(formats.read(name, formats.THEIRS, tmp_path)))
    assert len({*found}) == 1
    wanted = formats.fingerprint(X)
    assert found[0][:2] == wanted[:2] == (X.sum(), X.nnz)
    assert form.renumbered or found[0] == wanted


def test_a_fingerprint_differs_where_the_same_counts_are_elsewhere(script, tiny):
    fingerprint, moved = script("formats").fingerprint, sparse.csr_array(tiny.toarray()[:, np.r_[1, 0, 2:40]])
    assert fingerprint(moved)[:2] == fingerprint(tiny)[:2]
    assert fingerprint(moved) != fingerprint(tiny)


def test_a_library_that_reads_something_else_ends_the_study(script, tiny, tmp_path, monkeypatch):
    formats = script("formats")
    wrong = formats.FORMATS["npz"]._replace(read=lambda path: 2 * sparse.load_npz(path))
    monkeypatch.setitem(formats.FORMATS, "npz", wrong)
    with pytest.raises(ValueError, match="npz is not read as it was written: sum, nonzeros and u X v are"):
        formats.measure("npz", tiny, tmp_path, 1, "wall")


def test_formats_times_all_readers(study, threads_for_processes):
    rows, out = study("formats", "--nnz", "1e4", "--repeats", "1", "--formats", "mtx", "ldac", "mtx")
    assert [(row["format"], row["library"].split()[0]) for row in rows] == [("mtx", "scipy"), ("ldac", "gensim")]
    for row in rows:
        assert all(float(row[f"{which}seconds"]) > 0 for which in ("", "convert_", "as_counts_"))
        assert float(row["file_mib"]) > 0
        if row["library_seconds"]:  # installed
            assert float(row["ratio"]) == float(row["library_seconds"]) / float(row["seconds"])
    assert "fastpmf reads " in out


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("solvers", ["--seeds", "-1"], "--seeds: must be an integer between 0 and 4.29497e+09, got -1"),
        ("solvers", ["--restarts", "1"], "--restarts: must be an integer at least 2, got 1"),
        ("solvers", ["-k", "0"], "-k/--components: must be an integer at least 1, got 0"),
        ("solvers", ["--data", "zero.npz"], "the counts are all zero in zero"),
        ("solvers", ["--data", "tiny.npz", "tiny.npz"], "--data must be files with different names"),
        ("solvers", ["--png", "a.pdf"], "--png: must be a .png or .svg file in an existing folder, got a.pdf"),
        ("versus_sklearn", ["--data", "none.npz"], "no file none.npz"),
        ("versus_sklearn", ["--tol", "0"], "--tol: must be a number between 0 and 1, got 0"),
        (
            "versus_sklearn",
            ["--data", "tiny.npz", "--rows", "60"],
            "--rows must be below the number of rows, 60, got 60",
        ),
        ("packages", ["--seconds", "inf"], "--seconds: must be a number above 0, got inf"),
        ("scaling", ["--nnz", "5"], "--nnz: must be an integer at least 10000, got 5"),
        ("scaling", ["--threads", "100000"], "--threads must be at most"),
        ("scaling", ["--clock", "processor", "--threads", "1"], "--clock processor needs --threads 1, and --studies"),
        (
            "scaling",
            ["--data", "tiny.npz", "--studies", "skew"],
            "--data is for threads, k, streamed, workers, not for skew",
        ),
        ("roofline", ["--csv", "nowhere/a.csv"], "--csv: must be a .csv file in an existing folder"),
        ("known_truth", ["--nnz", "1e6"], "--nnz must be below 500000, the number of entries, got 1000000"),
        ("formats", ["--folder", "nowhere"], "--folder must be a folder that exists, got nowhere"),
        ("formats", ["--formats", "xls"], "invalid choice: 'xls'"),
        ("tools/equivalence", ["--max-iter", "x"], "--max-iter: invalid number value: 'x'"),
    ],
)
def test_bad_arguments_get_one_sentence(name, arguments, message, run, tiny, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(name, *arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.npz", "zero.npz"}


def test_equivalence_finds_a_constant(study):
    rows, out = study("tools/equivalence", "--max-iter", "3", "-k", "3")
    for fit in ("counts", "normalised"):
        sums = np.array([float(row["sum"]) for row in rows if row["fit"] == fit])
        assert len(sums) == 4
        assert np.ptp(sums) <= 1e-12 * abs(sums[0])  # rounding of sums of some 1e5 terms
    assert [float(row["rate_total"]) for row in rows][5:] == pytest.approx([1, 1, 1], rel=1e-9)
    assert "D + log L changes by " in out


# What the studies share


def test_a_table_is_replaced_whole_or_not_at_all(script, tmp_path):
    write_table, path = script("common").write_table, tmp_path / "some.csv"

    def rows():
        yield [2]
        raise KeyboardInterrupt

    write_table(path, ["a"], [[1]])
    with pytest.raises(KeyboardInterrupt):
        write_table(path, ["a"], rows())
    assert table(path) == [{"a": "1"}]
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_there_is_a_table_and_a_sentence(run, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run("solvers", "--data", "tiny.npz", "-k", "3", "--max-iter", "5", "--solvers", "mu") == 0
    assert "no plot: matplotlib is not installed" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"solvers.csv", "tiny.npz", "zero.npz"}


def test_a_slope_is_that_of_the_power_law(script):
    slope = script("common").slope
    best, error = slope([1, 10, 100], [3, 30, 300])
    assert best == pytest.approx(1, rel=1e-12)
    assert error == pytest.approx(0, abs=1e-9)
    assert slope([1, 2, 4], [1, 1, 2]) == pytest.approx((0.5, 12**-0.5))  # by hand: residuals 1, -2, 1 sixths of log 2
    assert all(value != value for value in slope([5, 5], [1, 2]))


# Tools


@pytest.mark.skipif(sys.platform == "win32", reason="its faults are signals and limits of other systems")
def test_a_soak_counts_attempts_and_faults_and_a_failure_ends_it_with_1(run, script, capsys, monkeypatch):
    turns, soak = 12 if ALL else 5, script("tools/soak")
    line = ["--turns", str(turns), "--load", "1" if ALL else "0"]
    assert run("tools/soak", *line) == 0
    attempts, faults, failures = re.search(
        r"^all +(\d+) +(\d+) +(\d+)$", capsys.readouterr().out, re.MULTILINE
    ).groups()
    assert (int(attempts), int(failures)) == (turns, 0)
    assert int(faults) > 0
    monkeypatch.setattr(soak.Soak, "saved", lambda self, rng: self._check_factors("mu", self._models["em"]))
    begin = soak.Soak.__init__
    monkeypatch.setattr(soak.Soak, "__init__", lambda self, *rest: (begin(self, *rest), keep_saved(self))[0])
    assert run("tools/soak", *line) == 1
    assert "FAILED: saved, seed" in capsys.readouterr().out


def keep_saved(soak):
    soak._tasks = {"saved": soak.saved}


VALGRIND = """\
#!/bin/sh
for argument in "$@"; do
    case $argument in --callgrind-out-file=*) dumps=${argument#*=} ;; esac
done
n=0
for total in TOTALS; do
    n=$((n + 1))
    echo "totals: $total" > "$dumps.$n"
done
: > "$dumps"
"""


@pytest.mark.skipif(os.name != "posix", reason="neither valgrind nor a shell")
def test_every_kernel_is_counted_and_its_totals_become_a_table(run, script, monkeypatch, tmp_path, capfd):
    tool = script("tools/count_instructions")
    nnz = tool.as_counts(tool.power_law(1_000)).nnz
    # Two marks of Python's own, then for the n-th kernel 7 instructions with one nonzero, and 3 n more for each other
    totals = [1, 1, *(total for n in (1, 2, 3, 4) for total in (7, 7 + 3 * n * (nnz - 1)))]
    valgrind = tmp_path / "valgrind"
    valgrind.write_text(VALGRIND.replace("TOTALS", " ".join(map(str, totals))))
    valgrind.chmod(0o755)
    # In the process that would be counted every kernel runs twice; compiling them would take long
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("tools/count_instructions", "--counts", "1000", "-k", "3", "--dtype", "float64", "--csv", "t.csv") == 0
    out, err = capfd.readouterr()
    assert err == ""  # an error in a comparison would be printed there
    rows = [tuple(line.split()) for line in out.splitlines()]
    assert rows[1:] == [(kernel, "3", "float64", f"{3 * n}.00") for n, kernel in enumerate(tool.KERNELS, 1)]
    assert (tmp_path / "t.csv").read_text().split() == [",".join(row) for row in rows]
    valgrind.unlink()
    assert run("tools/count_instructions", "--counts", "1000") == 2
    assert capfd.readouterr().err.startswith("valgrind is not installed")


@pytest.fixture
def wrote(script, tmp_path, monkeypatch):
    """Write a table as a study does; the path."""

    def write(study, columns, *rows, machine="this one"):
        monkeypatch.setattr(sys, "argv", [str(SCRIPTS / f"{study}.py"), "--data", "somewhere/else/tiny.npz"])
        monkeypatch.setattr(script("common"), "cpu_name", lambda: machine)
        path = tmp_path / f"{study.replace('/', '_')}.csv"
        script("common").write_table(path, columns, rows, {"tiny": sparse.csr_array((1107, 507))})
        return str(path)

    return write


@pytest.fixture
def files(script, wrote):
    """A small file of each study."""
    nan, columns = math.nan, lambda name, row="Row": getattr(script(name), row)._fields
    points = [(5, 0.5, 120.0), (10, 1.5, 100.05)]
    ours, other = (
        ("fastpmf", "1", "Poisson/KL", "given", 2, 1.9, "float32", 0),
        ("lda", "2", "LDA", "own", 1, nan, "", 0),
    )
    fact = ("float32", "uint8")
    return [
        wrote("versus_sklearn", columns("versus_sklearn"),
              ["iteration", "tiny", 5, "float32", 0, 1, 0.0025, 0.05, 20, 7.25, 7.25, 1.5, 1.25, 0, nan, nan],
              *(["fit", "tiny", 5, "float32", seed, 19, s, 40 * s, 40, 7, 7, nan, nan, 0, nan, nan]
                for seed, s in enumerate((0.1, 0.3, 0.2))),
              ["transform", "tiny", 5, "float32", 0, 0, 0.0123, 1.23, 100, 812.5, 813.75, nan, nan, 553, 1e-3, 0.0321]),
        wrote("solvers", columns("solvers", "Point"),
              *(["tiny", 5, "random", "cd+x", 1, 0, n, s, D, 1e-4, "float32"] for n, s, D in points),
              ["tiny", 5, "random", "mu", 1, 0, 10, 1.5, 110.0, 1e-4, "float32"],
              ["tiny", 5, "random", "cd+x", 9, 0, 10, 3.0, 90.0, 1e-4, "float32"]),
        wrote("packages", columns("packages", "Point"),
              *(["tiny", 5, "divergence", *ours, n, s, D, 0, ""] for n, s, D in points),
              ["tiny", 5, "divergence", *other, 0, nan, nan, nan, "ImportError: no | such module"]),
        wrote("scaling", columns("scaling"),
              *(["weak", "memory", 50_000, 20_000, 10_000_000, 0.01, 32, 0.0, *fact, 2, solver, 0.1, ns, 0.2, 17, 0.5,
                 1.5 * 2**30, 96.4 * 2**20, 0.0] for solver, ns in (("mu", 4.321), ("cd", 12.34)))),
        wrote("roofline", columns("roofline"),
              ["bound", "stream", "", "", 2, "float64", 0, 0.01, 0, 30, nan, "", nan],
              *(["kernel", name, "tiny", side, 2, "float32", 20, 0.1, 10, 20, 12.34, "gather", 0.456]
                for side in "WH" for name in ("ratio_contract", "descend"))),
        wrote("models", columns("models"),
              *(["prediction", "tiny", 3, model, "", 0, "float32", *scores, 9, 1.0, nan, nan]
                for model, scores in (("ml", (-math.inf, -2.0)), ("map", (-1.5, -1.25)))),
              ["cost", "tiny", 3, "map", "mu", 0, "float32", nan, nan, 30, 0.002, 1.04, 100.0]),
        wrote("known_truth", columns("known_truth"),
              *(["recovery", 10, 1.0, s, f"{A} {what}", "hpf", v, 2.5, nan, 0.5]
                for s, v in ((0, 0.5), (1, 0.6)) for A in "WH" for what in ("covered", "recovered")),
              *(["dispersion", 10, 1.0, 0, what, model, 0.04, nan, nan, 0.1]
                for what, model in (("rejected", "ml"), ("dispersion", "ml"), ("covered", "model"),
                                    ("covered", "robust"))),
              *(["components", 5, nan, s, "rows", "recommended", n, nan, nan, 0.0] for s, n in ((0, 5), (1, 7)))),
        wrote("formats", columns("formats"),
              ["tiny", "mtx", "scipy mmread", 126.0, 2.0, 4.5, 2.25, 210.0, 260.0, 4.0, 204.0, 0.1, 9, 9.0],
              ["tiny", "ldac", "gensim BleiCorpus", 70.0, 9.0, nan, nan, 230.0, nan, 9.0, 190.0, 0.1, 9, 9.0]),
        wrote("examples/cnmf_pipeline", columns("examples/cnmf_pipeline"),
              ["tiny", 10, "scikit-learn", "seconds", "factorize", 300.0],
              ["tiny", 10, "fastpmf auto", "seconds", "factorize", 10.0],
              ["tiny", 10, "scikit-learn", "nats per count", "replicate 0", 2.2],
              ["tiny", 10, "fastpmf auto", "nats per count", "TPM spectra", 0.8491]),
    ]  # fmt: skip


def test_tables_of_each_study_have_their_machine_versions_and_command(script, files, capsys):
    assert script("tools/tables").main([*reversed(files)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    for name in ("versus_sklearn", "packages", "examples/cnmf_pipeline"):
        line = next(
            line for line in lines if line.startswith(f"- `python scripts/{name}.py --data tiny.npz`: this one")
        )
        for package in ("numpy", "numba", "scikit-learn", "fastpmf"):
            assert f", {package} " in line
    assert "somewhere" not in out
    tiny = "| tiny |"
    for line in (
        f"{tiny} 5 | 2.5 ms | 50 ms | 20 | 7.2 | 1.5 | 1.2 |",  # 7.25 and 1.25: halves to even
        f"{tiny} 5 | 19 | 0.20 s | 8.0 s | 40 | 7 |",
        f"{tiny} 5 | 553 | 0.001 | 0.012 s | 1.2 s | 100 | 812.5 / 813.8 | 0.032 |",
        f"{tiny} 5 | random | 1.5 s | - |",
        f"{tiny} 5 | random | 100 (10) | 110 (10) | 90 (10), 2.0 fits |",
        "| tiny, k = 5 | fastpmf (1) | 100 | 1.5 s | 1.5 s | 1.0 | Poisson/KL |",
        "| | lda (2) | failed: ImportError: no \\| such module | - | - | - | LDA |",
        "| weak | 2 | 50,000 × 20,000 | 10.0 M | 32 | 2 | 1.5 GiB (96 MiB) | 4.3 ns | 12 ns |",
        "| descend | W | 20 | float32 | 2 | 12 | gather | 0.46 |",
        "| | H | 20 | float32 | 2 | 12 | gather | 0.46 |",
        f"{tiny} 3 | yes | -2.0000 | **-1.2500** |",
        f"{tiny} 3 | map | 1.04 |",
        "| 0.5 | 1.0 | 10 | 0.55 / 0.55 |",
        "| 0.1 | 1.0 | 10 | 4.0% | 0.040 | 0.04 | 0.04 |",
        "| 0.0 | rows | 5 | 1 / 1 of 2 |",
        f"{tiny} mtx | scipy mmread | 2.25× | 126 | 210 | 260 |",
        "| | ldac | gensim BleiCorpus | - | 70 | 230 | - |",
        f"{tiny} 10 | factorize | seconds | 300 s | 10 s, 30× |",
        "| | 10 | TPM spectra | nats per count | - | 0.8491 |",
    ):
        assert line in lines, f"{line}\nis not in\n{out}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has no line for its command, machine, versions: run the study again"),
        ("# command: python scripts/solvers.py\n# machine: m\n# versions: v\na,b\n", "has no rows"),
        ("# command: python scripts/x.py\n# machine: m\n# versions: v\na,b\n1,2\n", "is of x.py, which has no table"),
        (None, "No such file"),
    ],
)
def test_a_table_that_can_not_be_made_is_rejected_in_a_sentence(script, tmp_path, capsys, text, message):
    path = tmp_path / "some.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        script("tools/tables").main([str(path)])
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def pages(script, files, tmp_path, monkeypatch):
    """A page with two places for tables, in place of the documents, and the files of the studies as results."""
    tables, page = script("tools/tables"), tmp_path / "page.md"
    page.write_text(PAGE.format("", ""), encoding="utf-8")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "documents", lambda: [page])
    return page


PAGE = "# A\n\n<!-- fit: begin -->\n{}<!-- fit: end -->\nB\n<!-- cost: begin -->\n{}<!-- cost: end -->\n"


def test_tables_are_written_between_the_markers_of_the_documents(script, pages, capsys):
    tables = script("tools/tables")
    with pytest.raises(SystemExit, match="2"):
        tables.main(["--check"])
    assert "tables of page.md are not those of the CSV files" in capsys.readouterr().err
    assert pages.read_text(encoding="utf-8") == PAGE.format("", "")
    assert tables.main([]) == 0
    written = pages.read_text(encoding="utf-8")
    assert re.sub(r"(begin -->\n).*?(<!-- \w+: end)", r"\1\2", written, flags=re.DOTALL) == PAGE.format("", "")
    assert "| tiny | 5 | 19 |" in written
    assert tables.main(["--check"]) == tables.main([]) == 0
    assert pages.read_text(encoding="utf-8") == written


def test_a_place_for_a_table_that_no_file_has_is_an_error(script, pages, capsys):
    pages.write_text("<!-- heights: begin -->\n<!-- heights: end -->\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="2"):
        script("tools/tables").main([])
    assert "page.md has a place for the table 'heights', which no CSV file has" in capsys.readouterr().err


DOCS = SCRIPTS.parent / "docs" / "benchmarks"
PAGES = "".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md")))
FIGURES = re.findall(r"^```{benchmark-figure} (\w+)$", PAGES, re.MULTILINE)


def test_the_tables_of_the_documentation_and_of_the_readme_are_those_of_the_results(script):
    assert script("tools/tables").main(["--check"]) == 0


def test_no_place_for_a_table_is_empty_and_every_result_is_shown(script):
    tables = script("tools/tables")
    text = "".join(path.read_text(encoding="utf-8") for path in tables.documents())
    shown = dict(re.findall(r"<!-- ([\w-]+): begin -->\n(.*?)<!-- \1: end -->", text, re.DOTALL))
    assert all(shown.values())
    made = tables.blocks([tables.read(path) for path in tables.RESULTS.glob("*.csv")])
    assert {name for name in made if not name.endswith("-verdict")} <= shown.keys()
    assert shown["speed"].count("\n|") == 2 + 4  # head, rule and rows


def test_results_are_small_and_name_no_folder(script):
    files = [*(DOCS / "results").glob("*.csv")]
    assert sum(path.stat().st_size for path in files) < 250_000
    for path in files:
        facts = script("common").read_table(path).facts
        assert not [word for word in facts["command"].split()[2:] if "/" in word]


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_from_the_results_in_the_colour_of_the_page(script, name):
    drawn = script("tools/figures").drawn(name)
    assert drawn.startswith("<svg ")
    assert "currentColor" in drawn
    assert len(drawn.encode()) < 250_000
