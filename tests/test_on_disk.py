"""Sources stay on the disk: they are read a block at a time, need a block's memory, are closed and can be reopened."""

import os
import pickle
import re
import subprocess
import sys
import tracemalloc
import warnings
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from scipy import sparse
from test_formats import FORMATS, as_anndata, write_npy, write_tenx_h5, write_zarr

from fastpmf.counts.partition import blocks_of
from fastpmf.io import convert_counts, read_counts, write_counts
from fastpmf.io.formats import open_counts
from fastpmf.io.hdf5 import StoredVector
from fastpmf.io.sources import Compressed, Coordinates, Location

WAITING = ["folder", "v2.h5", "v3.h5", "csr.h5ad", "csc.h5ad", "v2.zarr", "v3.zarr"]


@pytest.fixture(scope="module")
def X():
    X = np.random.default_rng(1).poisson(0.8, (7, 5))
    X[3] = 0
    X[0] += 1
    return X


def write(name, path, X):
    FORMATS[name][0](path, X)
    return path


def dense_of(source, start, stop):
    data, indices, indptr = source.rows(start, stop)
    return sparse.csr_array((data, indices, indptr), shape=(stop - start, source.shape[1 - source.by_column])).toarray()


def closed(path):
    """Whether nobody has an HDF5 file open: who has keeps others from opening it to write."""
    try:
        with h5py.File(path, "a"):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("name", [*WAITING, "X.npz"])
def test_rows_are_what_stands_there_and_belong_to_the_caller(tmp_path, X, name):
    with open_counts(write(name, tmp_path / name, X)) as source:
        wanted = X.T if source.by_column else X
        n = len(wanted)
        for start in range(n + 1):
            for stop in range(start, n + 1):
                np.testing.assert_array_equal(dense_of(source, start, stop), wanted[start:stop])
        data, indices, _ = source.rows(0, n)
        data[:], indices[:] = 9, 0
        assert not isinstance(data, np.memmap)
        np.testing.assert_array_equal(dense_of(source, 0, n), wanted)
        for start, stop in ((-1, 2), (2, 1), (0, n + 1)):
            with pytest.raises(ValueError, match=f"within 0 ... {n}, got {start} and {stop}"):
                source.rows(start, stop)


@pytest.mark.parametrize("n_entries", [1, 4, 5, 1000])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint64])
def test_blocks_hold_no_more_than_they_may_or_are_one_row(n_entries, dtype):
    ends = np.array([0, 0, 3, 3, 8, 9, 9, 20, 20, 20, 24], dtype)
    bounds = blocks_of(ends, n_entries)
    assert bounds[[0, -1]].tolist() == [0, 10]
    held = np.diff(ends[bounds].astype(int))
    assert ((held <= n_entries) | (np.diff(bounds) == 1)).all()
    assert (held[:-1] + np.diff(ends.astype(int))[bounds[1:-1]] > n_entries).all()  # the next row had no room
    assert blocks_of(np.array([0, np.iinfo(np.int32).max], np.int32), 1000).tolist() == [0, 1]


@pytest.mark.parametrize("chunk", [None, 3, 7, 20, 64, 1000])
@pytest.mark.parametrize("step", [1, 5, 7, 50])
def test_slices_in_their_order_unpack_each_chunk_once(chunk, step):
    held, read = np.arange(100, 300), []

    class Counted:
        shape, dtype, chunks = held.shape, held.dtype, chunk and (chunk,)
        id = SimpleNamespace(get_storage_size=lambda: held.nbytes)

        def __getitem__(self, part):
            first, last = part.start // (chunk or 1), (part.stop - 1) // (chunk or 1)
            read.extend(range(first, last + 1))
            return held[part].copy()

    A = StoredVector(Counted())
    for start in range(0, 200, step):
        np.testing.assert_array_equal(A[start : start + step], held[start : start + step])
    assert read == sorted(set(read))
    rng = np.random.default_rng(0)
    for start, length in zip(rng.integers(0, 200, 50), rng.integers(0, 60, 50), strict=True):
        np.testing.assert_array_equal(A[start : start + length], held[start : start + length])


@pytest.mark.parametrize("name", ["csr.h5ad", "csc.h5ad", "dense.h5ad", "v3.h5", "v2.zarr", "v3.zarr"])
def test_converting_takes_the_memory_of_chunks_and_not_of_the_file(tmp_path, monkeypatch, name):
    for module in ("sources", "npy", "hdf5"):
        monkeypatch.setattr(f"fastpmf.io.{module}.CHUNK", 1 << 13)
    monkeypatch.setattr("test_formats.CELLS", [f"c{i}" for i in range(1000)])
    monkeypatch.setattr("test_formats.GENES", [f"g{j}" for j in range(1500)])
    X = np.random.default_rng(0).poisson(1.0, (1000, 1500))
    path, entries = write(name, tmp_path / name, X), 8 * np.count_nonzero(X)  # bytes, as float32 and int32
    read_counts(path)  # what is imported on the way
    tracemalloc.start()
    convert_counts(path, tmp_path / "converted")
    converting = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    read_counts(path)
    reading = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(read_counts(tmp_path / "converted").X.toarray(), X)
    assert reading > entries  # so that it would show
    assert converting < entries / 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process can't tell what memory it has had")
def test_reading_a_folder_by_blocks_does_not_hold_its_pages(tmp_path):
    n, p = 1000, 5000
    held = {"data": np.ones(n * p, np.uint8), "indices": np.tile(np.arange(p, dtype=np.int32), n)}
    for part, A in (*held.items(), ("indptr", np.arange(0, n * p + 1, p)), ("shape", np.array([n, p]))):
        np.save(tmp_path / f"{part}.npy", A)
    program = """if True:
        import pathlib, re, sys
        from fastpmf.io.formats import open_counts

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])

        with open_counts(sys.argv[1]) as source:
            before = peak()
            for start in range(0, 1000, 100):
                source.rows(start, start + 100)
            blocks = peak() - before
            int(source.data.whole().max()), int(source.indices.whole().max())
            print(blocks, peak() - before)
    """
    ran = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    blocks, mapped = map(int, ran.stdout.split())  # KiB; a block is 2,441, all of them 24,414
    assert mapped > 20_000
    assert blocks < 3 * 2_441


@pytest.mark.parametrize("name", ["v3.h5", "csr.h5ad", "dense.h5ad"])
def test_files_are_closed_in_the_end(tmp_path, X, name):
    path = write(name, tmp_path / name, X)
    read_counts(path)
    assert closed(path)
    convert_counts(path, tmp_path / "folder")
    assert closed(path)
    with open_counts(path, transpose=True) as source:
        assert closed(path) == isinstance(source, Coordinates)
    assert closed(path)
    source.close()  # once more does no harm
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError):
        convert_counts(path, tmp_path / "mine")
    assert closed(path)


def test_files_that_cannot_be_opened_are_closed_too(tmp_path, X):
    path = tmp_path / "X.h5ad"
    as_anndata(X, sparse.csr_matrix).write_h5ad(path)
    with pytest.raises(ValueError, match="it has no layer 'none'") as first:
        open_counts(path, layer="none")
    with h5py.File(path, "a") as file:
        file["X/indptr"][2] = 1000
    with pytest.raises(ValueError, match="its indptr must ascend from 0") as second:
        open_counts(path)
    assert closed(path), (first, second)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("name", WAITING)
def test_a_location_opens_the_same_counts_elsewhere(tmp_path, X, monkeypatch, name, transpose):
    write(name, tmp_path / name, X)
    monkeypatch.chdir(tmp_path)
    with open_counts(name, transpose=transpose) as source, open_counts(name) as plain:
        sent = pickle.dumps(source.location)
        assert source.transposed().transposed().location == source.location
        assert plain.transposed().location == Location(str(tmp_path / name), plain.location.format, None, True)
        by_column = source.by_column
    monkeypatch.chdir("/")
    with open_counts(**pickle.loads(sent)._asdict()) as again:
        assert isinstance(again, Compressed)
        assert again.by_column == by_column
        np.testing.assert_array_equal(again.to_dataset().X.toarray(), X.T if transpose else X)


def test_a_location_keeps_the_layer(tmp_path, X):
    as_anndata(X, sparse.csr_matrix).write_h5ad(tmp_path / "X.h5ad")
    with open_counts(tmp_path / "X.h5ad", layer="twice") as source, open_counts(**source.location._asdict()) as again:
        np.testing.assert_array_equal(dense_of(again, 2, 5), 2 * X[2:5])


def damage_h5(path, part):
    with h5py.File(path) as file:
        chunk = file[part].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)


def damage_zarr(path, part):
    chunk = next(p for p in (path / part).rglob("*") if p.is_file() and p.name.isdigit())
    chunk.write_bytes(chunk.read_bytes()[:5])


@pytest.mark.parametrize("part", ["data", "indices"])
@pytest.mark.parametrize("name", ["v3.h5", "v2.zarr", "v3.zarr", "folder"])
def test_damage_that_shows_when_a_slice_is_read_is_told_in_one_sentence(tmp_path, X, name, part):
    path = tmp_path / name
    if name == "v3.h5":
        write_tenx_h5(path, X, version=3)
        damage_h5(path, f"matrix/{part}")
    elif name == "folder":
        write_npy(path, X)
    else:
        write_zarr(path, X, version=int(name[1]))
        damage_zarr(path, f"X/{part}")
    with open_counts(path) as source:
        if name == "folder":  # cut off after it was opened
            os.truncate(path / f"{part}.npy", 140)
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} can't be read as ") as told:
            source.rows(0, 7)
    assert "\n" not in str(told.value)
    for whole in (read_counts, lambda path: convert_counts(path, tmp_path / "converted")):
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} can't be read as "):
            whole(path)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert name != "v3.h5" or closed(path)


def test_the_memory_of_rows_is_used_again_once_all_views_of_them_are_gone(tmp_path, X):
    write_counts(tmp_path / "X", X)
    with open_counts(tmp_path / "X") as source:
        first = source.rows(0, 3)[1]
        address, view, expected = first.ctypes.data, first[1:], first[1:].copy()
        del first
        second = source.rows(3, 6)[1]
        np.testing.assert_array_equal(view, expected)
        assert second.ctypes.data != address
        del view
        assert source.rows(0, 3)[1].ctypes.data == address


def test_indices_out_of_range_are_told_when_their_rows_are_read(tmp_path, X):
    write_npy(tmp_path / "X", X)
    indices = np.load(tmp_path / "X" / "indices.npy")
    indices[-1] = 99
    np.save(tmp_path / "X" / "indices.npy", indices)
    np.save(tmp_path / "X" / "shape.npy", np.array(X.shape))
    with open_counts(tmp_path / "X") as source:
        np.testing.assert_array_equal(dense_of(source, 0, 6), X[:6])
        with pytest.raises(ValueError, match=r"its indices must lie in 0 \.\.\. 4, got"):
            source.rows(6, 7)


def test_a_file_may_hold_more_than_the_memory_as_long_as_its_rows_do_not(tmp_path, X, monkeypatch):
    write_tenx_h5(tmp_path / "X.h5", np.kron(np.ones((100, 1), int), X + 1), version=3)
    with h5py.File(tmp_path / "X.h5", "a") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.zeros(700, "S1")
        for part in ("data", "indices"):
            whole = file[f"matrix/{part}"][:]
            del file[f"matrix/{part}"]
            file.create_dataset(f"matrix/{part}", data=whole, chunks=(350,))
    monkeypatch.setattr(
        "fastpmf.utils.memory.memory_limit", lambda: 14_000
    )  # bytes; data are 28,000, shape and names less
    with open_counts(tmp_path / "X.h5") as source:
        np.testing.assert_array_equal(dense_of(source, 0, 7), X + 1)
        with pytest.raises(ValueError, match=r"it holds 0\.0 GiB, and this process may have"):
            source.rows(0, 700)


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_counts_of_a_dense_matrix_keep_their_dtype(tmp_path, monkeypatch, X, ending, dtype):
    monkeypatch.setattr("fastpmf.io.hdf5.CHUNK", 11)  # two rows
    made = as_anndata(X, np.asarray)
    made.X = X.astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zarr and anndata
        getattr(made, f"write_{ending[1:]}")(tmp_path / f"X{ending}")
    for transpose in (False, True):
        found = read_counts(tmp_path / f"X{ending}", transpose=transpose).X
        assert found.dtype == dtype
        np.testing.assert_array_equal(found.toarray(), X.T if transpose else X)
