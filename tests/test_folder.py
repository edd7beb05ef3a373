"""A folder of .npy holds the counts of its source, canonical, in the smallest dtype, completely or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from fastpmf import as_counts
from fastpmf.io import npy, read_counts, sources, write_counts
from fastpmf.io.npy import write_folder
from fastpmf.io.sources import Compressed, Coordinates, Entries, Names


def coordinates(*chunks, shape, names=Names()):  # noqa: B008
    parts = [Entries(*(np.array(part) for part in zip(*chunk, strict=True))) for chunk in chunks]
    return Coordinates(lambda: iter(parts), lambda: (shape, names))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    for module in ("sources", "npy"):
        monkeypatch.setattr(f"fastpmf.io.{module}.CHUNK", 7)


@pytest.mark.parametrize("by_column", [False, True])
def test_every_matrix_of_the_menagerie_comes_back_in_canonical_form(X, tmp_path, by_column):
    M = X.tocsc() if by_column else X
    source = Compressed(M.data, M.indices, M.indptr, M.shape, by_column)
    dealt = []
    write_folder(tmp_path / "X", source, dealt.append)
    found, expected = as_counts(source.to_dataset()), as_counts(X)
    stored = write_folder(tmp_path / "Y", source)
    assert sum(dealt) == 3 * X.nnz
    for part in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(stored, part)[:], getattr(expected.to_scipy(), part))
    np.testing.assert_array_equal(found.to_scipy().toarray(), stored.to_dataset().X.toarray())
    assert stored.data.dtype == expected.to_scipy().data.dtype or X.dtype.kind == "f"


def test_entries_of_any_order_are_sorted_and_what_stands_twice_is_added_up(tmp_path):
    source = coordinates([(2, 1, 200), (0, 3, 1), (2, 1, 100)], [(2, 0, 5), (0, 3, 2), (1, 1, 0)], shape=(4, 4))
    stored = write_folder(tmp_path / "X", source)
    np.testing.assert_array_equal(stored.to_dataset().X.toarray(), [[0, 0, 0, 3], [0] * 4, [5, 300, 0, 0], [0] * 4])
    assert stored.data.dtype == np.uint16  # 300 came about by adding
    assert len(stored.data) == 3
    assert sorted(p.name for p in (tmp_path / "X").iterdir()) == ["data.npy", "indices.npy", "indptr.npy", "shape.npy"]


@pytest.mark.parametrize(
    ("counts", "dtype"),
    [([1, 255], np.uint8), ([1, 256], np.uint16), ([1.0, 70_000.0], np.int32), ([1, 2**40], np.float64),
     ([0.5, 2.0], np.float64), (np.float32([0.5, 2]), np.float32)],
)  # fmt: skip
def test_counts_take_the_smallest_dtype_that_holds_them(tmp_path, counts, dtype):
    source = Compressed(np.asarray(counts), np.array([0, 1]), np.array([0, 1, 2]), (2, 2))
    stored = write_folder(tmp_path / "X", source)
    assert stored.data.dtype == dtype
    np.testing.assert_array_equal(stored.data[:], counts)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="nothing here says what is mapped")
def test_no_file_is_renamed_or_replaced_while_it_is_mapped_which_windows_refuses(tmp_path, monkeypatch):
    def replace(source, target, renamed=os.replace):
        mapped = Path("/proc/self/maps").read_text()
        assert not any(str(path) + end in mapped for path in (source, target) for end in ("\n", "/"))
        moved.append(source.name)
        renamed(source, target)

    moved = []
    monkeypatch.setattr(os, "replace", replace)
    chunks = [[(1, 1, 100)] * 2, [(0, 1, 200)] * 400, [(1, 0, 3)]]
    for _ in range(2):  # in uint8, then uint16, then int32; then in the place of the folder
        stored = write_folder(tmp_path / "X", coordinates(*chunks, shape=(2, 2)))
        np.testing.assert_array_equal(stored.to_dataset().X.toarray(), [[0, 80_000], [3, 200]])
        assert {file.stem for file in (tmp_path / "X").iterdir()} == {"data", "indices", "indptr", "shape"}
        del stored


def test_disk_space_is_allocated_without_posix_fallocate_too(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    X = sparse.csr_array(np.arange(3000).reshape(30, 100))
    stored = write_folder(tmp_path / "X", Compressed(X.data, X.indices, X.indptr, X.shape))
    np.testing.assert_array_equal(stored.to_dataset().X.toarray(), X.toarray())
    A = npy._create(tmp_path / "A.npy", np.dtype(float), 100_000)
    assert not A.any()
    assert (tmp_path / "A.npy").stat().st_blocks * 512 >= 800_000


def test_names_are_kept_a_line_each(tmp_path):
    names = Names(np.array(["a b", "c\nd"]), np.array(["é", "", "x"]))
    stored = write_folder(tmp_path / "X", coordinates([(0, 0, 1)], shape=(2, 3), names=names))
    assert stored.names.rows.tolist() == ["a b", "c d"]
    assert stored.names.columns.tolist() == ["é", "", "x"]


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ([1, -2], "its counts must be >= 0, got -2"),
        ([1, np.nan], "got NaN"),
        ([0, 0], "at least one positive"),
    ],
)
def test_what_are_no_counts_leaves_nothing_behind(tmp_path, counts, sentence):
    source = coordinates([(0, 0, counts[0]), (1, 1, counts[1])], shape=(2, 2))
    with pytest.raises(ValueError, match=sentence):
        write_folder(tmp_path / "X", source)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_whole_and_nothing_else_is_touched(tmp_path):
    write_folder(tmp_path / "X", coordinates([(0, 0, 1)], shape=(1, 1)))

    def read():
        yield Entries(np.array([0]), np.array([0]), np.array([2]))
        raise OSError("gone")

    calls = iter([lambda: iter([Entries(np.array([0]), np.array([0]), np.array([2]))]), read])
    with pytest.raises(OSError, match="gone"):
        write_folder(tmp_path / "X", Coordinates(lambda: next(calls)(), lambda: ((1, 1), Names())))
    assert [p.name for p in tmp_path.iterdir()] == ["X"]
    assert write_folder(tmp_path / "X", coordinates([(0, 0, 3)], shape=(1, 1))).data[:].tolist() == [3]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match=r"is not a folder of \.npy, which could be replaced"):
        write_counts(tmp_path / "mine", np.eye(2))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_what_is_in_memory_is_written_too(tmp_path):
    X = sparse.csr_array(np.array([[0, 3], [4, 0]]))
    write_counts(tmp_path / "X", X)
    np.testing.assert_array_equal(read_counts(tmp_path / "X").X.toarray(), X.toarray())
    assert sources.CHUNK == 7


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
