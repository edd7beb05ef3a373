"""The study of reading times reads what it wrote, and says so where it doesn't; chunks of coordinates come together."""

import csv
import importlib
import multiprocessing.dummy
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from scipy import sparse

from fastpmf.datasets import make_poisson_counts
from fastpmf.io.sources import Coordinates, Entries, Names

SCRIPTS = Path(__file__).parents[1] / "scripts"
NAMES = [
    "npz", "mtx", "10x-mtx", "10x-h5", "h5ad", "h5ad.gz", "zarr", "npy", "docword", "ldac", "svmlight", "csv", "tsv",
    "parquet",
]  # fmt: skip

compiled = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="it times compiled kernels")


@pytest.fixture
def study(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.chdir(tmp_path)
    return importlib.import_module("read_times")


@pytest.fixture
def X():
    return make_poisson_counts(60, 40, 3, nnz=600, random_state=0).X.astype(np.int32)


def test_the_study_knows_every_format_that_is_read(study):
    from fastpmf.io import FORMATS

    assert [*study.CASES] == NAMES
    assert {name.removesuffix(".gz") for name in NAMES} == {*FORMATS}


@pytest.mark.parametrize("name", NAMES)
def test_every_format_is_read_as_it_was_written_by_all_who_read_it(study, X, tmp_path, name):
    case = study.CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other libraries' of their own futures
        case.write(tmp_path / case.file, X)
        found = [study.fingerprint(study.read(name, study.OURS, tmp_path))]
        if study.version(case.library):
            found.append(study.fingerprint(study.read(name, study.THEIRS, tmp_path)))
    assert len({*found}) == 1
    wanted = study.fingerprint(X)
    assert found[0][:2] == wanted[:2] == (X.sum(), X.nnz)
    assert case.renumbered or found[0] == wanted


def test_a_fingerprint_tells_a_matrix_from_one_with_the_same_counts_elsewhere(study, X):
    moved = sparse.csr_array(X.toarray()[:, np.r_[1, 0, 2:40]])
    assert study.fingerprint(moved)[:2] == study.fingerprint(X)[:2]
    assert study.fingerprint(moved) != study.fingerprint(X)


def test_a_library_that_reads_something_else_ends_the_study(study, X, tmp_path, monkeypatch):
    case = study.CASES["npz"]
    monkeypatch.setitem(study.CASES, "npz", case._replace(read=lambda path: 2 * sparse.load_npz(path)))
    with pytest.raises(ValueError, match="npz is not read as it was written: sum, nonzeros and u X v are"):
        study.measure("npz", X, tmp_path, 1)


SMALL = ["--nnz", "1e4", "--turns", "1", "--formats", "mtx", "ldac", "mtx"]


@compiled
@pytest.mark.long
def test_fresh_processes_tell_the_memory_of_all_readers(tmp_path):
    # They begin with the file that is run, so here that must be the script
    line = [sys.executable, SCRIPTS / "read_times.py", *SMALL]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_table(tmp_path, done.stdout)


@compiled
def test_seconds_and_memory_of_all_readers_are_in_the_table(study, tmp_path, monkeypatch, capsys):
    # Threads in place of its fresh processes, each of which imports everything
    threads = SimpleNamespace(Pool=lambda n, maxtasksperchild: multiprocessing.dummy.Pool(n))
    monkeypatch.setattr(study.multiprocessing, "get_context", lambda kind: threads)
    monkeypatch.setattr(sys, "argv", ["read_times.py", *SMALL])
    assert study.main() == 0
    assert_table(tmp_path, capsys.readouterr().out, in_threads=True)


def assert_table(tmp_path, told, *, in_threads=False):
    assert {path.name for path in tmp_path.iterdir()} == {"read_times.csv", "read_times.png"}
    text = (tmp_path / "read_times.csv").read_text(encoding="utf-8")
    lines = list(csv.DictReader(line for line in text.splitlines() if not line.startswith("#")))
    assert [line["format"] for line in lines] == ["mtx", "ldac"]
    assert [line["incumbent"].split()[0] for line in lines] == ["scipy", "gensim"]
    for line in lines:
        assert all(float(line[f"{which}seconds"]) > 0 for which in ("", "convert_", "as_counts_"))
        assert float(line["file_mib"]) > 0
        if line["incumbent_seconds"]:  # installed
            assert float(line["ratio"]) == float(line["incumbent_seconds"]) / float(line["seconds"])
        if sys.platform == "linux":
            # A thread of this process finds memory that was there before
            assert float(line["convert_peak_mib"]) >= (0 if in_threads else 1e-9)
    assert lines[0]["ratio"]
    assert "formats fastpmf reads" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--turns", "0"], "--turns must be at least 1"),
        (["--nnz", "9999"], "--nnz must be at least 10,000"),
        (["--nnz", "1e15"], "--nnz must be such that its files have room in --folder, they need up to"),
        (["--folder", "nowhere"], "--folder must be a folder that exists, got nowhere"),
        (["--csv", "nowhere/a.csv"], "--csv must be a .csv file in a folder that exists"),
        (["--formats", "xls"], "invalid choice: 'xls'"),
    ],
)
def test_bad_arguments_get_one_sentence(study, arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["read_times", *arguments])
    with pytest.raises(SystemExit, match="2"):
        study.main()
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("order", ["rows ascend", "rows ascend within chunks", "any"])
def test_chunks_of_coordinates_make_the_matrix_of_them_all(order):
    rng = np.random.default_rng(0)
    i, j, x = rng.integers(0, 9, 50), rng.integers(0, 6, 50), rng.integers(0, 200, 50).astype(np.uint8)
    by_row = np.argsort(i, kind="stable")
    at = {"any": np.arange(50), "rows ascend": by_row, "rows ascend within chunks": np.r_[by_row[28:], by_row[:28]]}
    parts = np.array_split(at[order], 7)
    # Their dtypes differ, and what stands twice adds up beyond them
    kinds = [np.uint8] * 3 + [np.float32] * 4
    entries = [
        Entries(i[part].astype(np.int32), j[part], x[part].astype(kind))
        for part, kind in zip(parts, kinds, strict=True)
    ]
    X = Coordinates(lambda: iter(entries), lambda: ((11, 6), Names())).to_dataset().X
    wanted = np.zeros((11, 6))
    np.add.at(wanted, (i, j), x)
    assert wanted.max() > 255
    assert X.has_canonical_format
    np.testing.assert_array_equal(X.toarray(), wanted)
