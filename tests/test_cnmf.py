"""cNMF on fastpmf: its calls give the right factors in every format, and the example runs both and compares them."""

import csv
import importlib
import inspect
import os
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numba
import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import non_negative_factorization as sklearns

import fastpmf.cnmf
from fastpmf import kl_divergence, non_negative_factorization
from fastpmf.datasets import make_poisson_counts

SCRIPT = Path(__file__).parents[1] / "scripts" / "examples" / "cnmf_pipeline.py"
# What cNMF 1.7.1 passes, from its file of parameters; to replicates also random_state, to refits H and update_H
ASKED = {
    "alpha_W": 0.0, "alpha_H": 0.0, "l1_ratio": 0.0, "beta_loss": "kullback-leibler", "solver": "mu", "tol": 1e-4,
    "max_iter": 1000, "init": "random", "n_components": 3,
}  # fmt: skip

pytestmark = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="fits of some size, line by line")
needs_cnmf = pytest.mark.skipif(find_spec("cnmf") is None, reason="cNMF is not installed: pip install cnmf")


@pytest.fixture
def X():
    """Counts with something in every row and column."""
    X = np.random.default_rng(0).poisson(make_poisson_counts(40, 30, 3, nnz=500, random_state=0).X.toarray() + 0.1)
    X[np.arange(40), np.arange(40) % 30] += 1
    return X.astype(float)


@pytest.fixture
def library(monkeypatch):
    """A stand-in for cNMF, of which only the one name is touched."""
    module = types.ModuleType("cnmf.cnmf")
    module.non_negative_factorization = sklearns
    monkeypatch.setitem(sys.modules, "cnmf", types.ModuleType("cnmf"))
    monkeypatch.setitem(sys.modules, "cnmf.cnmf", module)
    return module


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run the example in an empty folder."""
    monkeypatch.syspath_prepend(SCRIPT.parents[1])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.chdir(tmp_path)

    def main(*arguments):
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        return importlib.import_module("cnmf_pipeline").main()

    return main


@pytest.mark.parametrize("solver", ["auto", "mu"])
def test_a_replicate_of_any_format_is_the_dense_one(X, library, solver):
    fastpmf.cnmf.patch(solver)
    W, H, _ = library.non_negative_factorization(X, random_state=1, **ASKED)
    for form in (sparse.csr_matrix, sparse.csc_matrix):
        W2, H2, _ = library.non_negative_factorization(form(X), random_state=1, **ASKED)
        np.testing.assert_array_equal(W, W2)
        np.testing.assert_array_equal(H, H2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_spectra_refitted_from_the_transpose_are_as_good_as_dense_ones(X, library, dtype):
    fastpmf.cnmf.patch()
    usages, _, _ = library.non_negative_factorization(sparse.csr_matrix(X), random_state=1, **ASKED)
    usages = (usages / usages.sum(axis=1, keepdims=True)).astype(dtype)
    counts, refit = sparse.csr_matrix(X.astype(dtype)), ASKED | {"H": usages.T, "update_H": False}
    assert counts.T.format == "csc"
    direct, _, _ = non_negative_factorization(counts.T, **refit)
    patched, known, _ = library.non_negative_factorization(counts.T, **refit)
    dense, _, _ = sklearns(X.T, **refit | {"H": usages.T.astype(float), "tol": 1e-12, "max_iter": 20_000})
    np.testing.assert_array_equal(known, usages.T)
    best = kl_divergence(X.T, dense, usages.T)
    for spectra in (direct, patched):
        # tol is what is certified, in nats per count
        assert kl_divergence(X.T, spectra, usages.T) <= best + ASKED["tol"] * X.sum()


def test_patched_mu_is_the_function_itself(X, library):
    fastpmf.cnmf.patch("mu")
    options = ASKED | {"random_state": 1, "max_iter": 50, "tol": 0}
    for ours, own in zip(library.non_negative_factorization(X, **options), non_negative_factorization(X, **options),
                         strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, own)


def test_patched_auto_is_coordinate_descent_whose_spectra_have_no_exact_zero(X, library):
    W, H, _ = non_negative_factorization(X, random_state=1, **ASKED | {"solver": "auto"})
    fastpmf.cnmf.patch()
    W2, H2, _ = library.non_negative_factorization(X, random_state=1, **ASKED)
    np.testing.assert_array_equal(W, W2)
    np.testing.assert_array_equal(H[H > 0], H2[H > 0])
    assert (H == 0).any()  # else there is nothing to lift
    assert (H2 > 0).all()
    # Lifted are shares of 1e-12 of a gene
    assert kl_divergence(X, W2, H2) == pytest.approx(kl_divergence(X, W, H), rel=1e-9)


def test_least_squares_are_refused_where_they_are_asked_for(X, library):
    fastpmf.cnmf.patch()
    with pytest.raises(ValueError, match="beta_loss must be 'kullback-leibler' or 1, got"):
        library.non_negative_factorization(X, **ASKED | {"beta_loss": "frobenius"})


def test_a_cnmf_that_is_missing_or_unknown_is_an_import_error(library, monkeypatch):
    del library.non_negative_factorization
    with pytest.raises(ImportError, match=r"has no cnmf\.cnmf\.non_negative_factorization"):
        fastpmf.cnmf.patch()
    monkeypatch.setitem(sys.modules, "cnmf.cnmf", None)
    with pytest.raises(ImportError, match=r"fastpmf\.cnmf needs cNMF \(pip install cnmf\)"):
        fastpmf.cnmf.patch()


def test_the_command_line_is_cnmfs_own_after_the_patch(tmp_path):
    folder = tmp_path / "cnmf"
    folder.mkdir()
    (folder / "cnmf.py").write_text("non_negative_factorization = None\n", encoding="utf-8")
    (folder / "__init__.py").write_text(
        "import sys\nfrom . import cnmf\n"
        "def main(): print(cnmf.non_negative_factorization.__module__, sys.argv[1:])\n", encoding="utf-8",
    )  # fmt: skip
    path = os.pathsep.join([str(tmp_path), str(Path(fastpmf.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "fastpmf.cnmf", "factorize", "--name", "a"],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "__main__ ['factorize', '--name', 'a']\n", done.stderr


def test_help_has_examples(run, capsys):
    with pytest.raises(SystemExit, match="0"):
        run("--help")
    assert "\nexamples:\n  python scripts/examples/cnmf_pipeline.py" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-k", "1"], "-k/--components: must be an integer at least 2, got 1"),
        (["--replicates", "3"], "--replicates: must be an integer at least 4, got 3"),
        (["--density-threshold", "0"], "--density-threshold: must be a number above 0, got 0"),
        (["--csv", "nowhere/a.csv"], "--csv: must be a .csv file in an existing folder"),
        ([], "cNMF must be installed (pip install cnmf)"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, message, run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cnmf.cnmf", None)
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert message in capsys.readouterr().err.splitlines()[-1]


@needs_cnmf
@pytest.mark.filterwarnings("ignore")  # scanpy's and pandas'
def test_cnmf_factorizes_in_one_place():
    source = inspect.getsource(importlib.import_module("cnmf.cnmf"))
    assert source.count("non_negative_factorization(") == 1


@needs_cnmf
@pytest.mark.filterwarnings("ignore")
def test_the_example_runs_both_and_the_refit_of_spectra_is_right_on_fastpmf(run, tmp_path, capsys):
    X = make_poisson_counts(120, 80, 3, nnz=4000, random_state=0).X
    sparse.save_npz(tmp_path / "tiny.npz", X)
    few = ["--replicates", "4", "--high-variance-genes", "60", "--max-nmf-iter", "100", "--density-threshold", "2"]
    theirs = importlib.import_module("cnmf.cnmf").non_negative_factorization
    assert run("--data", "tiny.npz", "-k", "3", "--solvers", "auto", *few) == 0
    assert importlib.import_module("cnmf.cnmf").non_negative_factorization is theirs
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.npz", "cnmf_pipeline.csv", "cnmf_pipeline.png"}
    text = (tmp_path / "cnmf_pipeline.csv").read_text(encoding="utf-8").splitlines()
    assert text[0].startswith("# command: python scripts/examples/cnmf_pipeline.py")
    lines = list(csv.DictReader(line for line in text if not line.startswith("#")))
    found = {(line["run"], line["measure"], line["what"]): float(line["value"]) for line in lines}
    for which in ("scikit-learn", "fastpmf auto"):
        steps = [
            found[which, "seconds", step] for step in ("prepare", "factorize", "combine", "k_selection", "consensus")
        ]
        assert found[which, "seconds", "all"] == pytest.approx(sum(steps))
        assert all(found[which, "nats per count", f"replicate {r}"] > 0 for r in range(4))
    again = "TPM spectra, same usages"
    csc, csr, ours = (
        found[which, "nats per count", again] for which in ("scikit-learn, CSC", "scikit-learn, CSR", "fastpmf, CSC")
    )
    assert ours <= min(csc, csr) + 1e-4  # the tol of all
    assert found["fastpmf auto", "like scikit-learn, median", "norm programs"] > 0
    assert found["fastpmf.consensus", "like scikit-learn, median", "norm programs"] > 0.95
    out = capsys.readouterr().out
    assert "the refit of the TPM spectra has" in out
    assert "as much CPU as fastpmf.consensus" in out
