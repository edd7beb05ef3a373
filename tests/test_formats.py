"""Files of every format, written by their own libraries, give the same counts and names; damaged ones raise errors."""

import errno
import gzip
import os
import re
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse
from sklearn.datasets import dump_svmlight_file

from fastpmf import PoissonNMF, as_counts
from fastpmf.io import Dataset, convert_counts, read_counts, write_counts

RAW = Path(os.environ.get("FASTPMF_REAL_FILES", "absent"))  # a folder of real files of these formats
CELLS, GENES = [f"cell{i}" for i in range(7)], [f"gène{j}" for j in range(5)]


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    X = rng.poisson(0.8, (7, 5))
    X[:, 0] += 1  # no row is empty, and the last column isn't
    X[0, 4] = 300
    return X


def write_mtx(path, X):
    io.mmwrite(path, sparse.coo_array(X), comment="made by a test", field="integer")


def write_gzipped_mtx(path, X):
    with gzip.open(path, "wb") as file:
        io.mmwrite(file, sparse.coo_array(X), field="integer")


def write_tenx_folder(path, X, *, version):
    path.mkdir()
    zipped = gzip.open if version == 3 else open
    gz = ".gz" if version == 3 else ""
    with zipped(path / f"matrix.mtx{gz}", "wb") as file:
        io.mmwrite(file, sparse.coo_array(X.T), field="integer")
    with zipped(path / f"barcodes.tsv{gz}", "wb") as file:
        file.write("".join(f"{c}\n" for c in CELLS).encode())
    kinds = "\tGene Expression" if version == 3 else ""
    with zipped(path / (f"features.tsv{gz}" if version == 3 else "genes.tsv"), "wb") as file:
        file.write("".join(f"ENSG{j}\t{g}{kinds}\n" for j, g in enumerate(GENES)).encode())


def write_tenx_h5(path, X, *, version, genomes=("GRCh38",)):
    M = sparse.csc_array(X.T)
    with h5py.File(path, "w") as file:
        for name in ["matrix"] if version == 3 else genomes:
            group = file.create_group(name)
            for part in ("data", "indices", "indptr"):
                group.create_dataset(part, data=getattr(M, part), compression="gzip")
            group["shape"] = np.array(M.shape, np.int32)
            group["barcodes"] = np.array(CELLS, "S")
            symbols = np.array([g.encode() for g in GENES])
            if version == 3:
                group["features/name"], group["features/id"] = symbols, np.array([f"ENSG{j}" for j in range(5)], "S")
            else:
                group["gene_names"], group["genes"] = symbols, np.array([f"ENSG{j}" for j in range(5)], "S")


def as_anndata(X, make):
    return anndata.AnnData(make(X.astype(np.float32)), pd.DataFrame(index=CELLS), pd.DataFrame(index=GENES),
                           layers={"twice": make(2.0 * X)})  # fmt: skip


def write_zarr(path, X, *, version):
    chosen = hasattr(anndata.settings, "zarr_write_format")  # before 0.12 there was version 2 alone
    if version == 3 and not chosen:
        pytest.skip("this anndata does not write version 3")
    settings = {"zarr_write_format": version} if chosen else {}
    with warnings.catch_warnings(), anndata.settings.override(**settings):
        warnings.simplefilter("ignore")  # of anndata and zarr, which say that version 3 will be the default
        as_anndata(X, sparse.csr_matrix).write_zarr(path)


def write_npy(path, X):
    path.mkdir()
    M = sparse.csr_array(X)
    for part in ("data", "indices", "indptr"):
        np.save(path / f"{part}.npy", getattr(M, part))


def write_docword(path, X):
    M = sparse.coo_array(X)
    lines = [
        *map(str, (*M.shape, M.nnz)),
        *(f"{i + 1} {j + 1} {x}" for i, j, x in zip(M.row, M.col, M.data, strict=True)),
    ]
    path.write_text("\n".join(lines) + "\n")
    path.with_name(path.name.replace("docword", "vocab")).write_text("\n".join(GENES) + "\n", "utf-8")


def write_ldac(path, X):
    lines = [" ".join([str((x > 0).sum()), *(f"{j}:{x[j]}" for j in np.flatnonzero(x))]) for x in X]
    path.write_text("\n".join(lines) + "\n")
    path.with_suffix(".tokens").write_text("\n".join(GENES) + "\n", "utf-8")
    path.with_suffix(".titles").write_text("\n".join(CELLS) + "\n", "utf-8")


def table(X):
    M = sparse.coo_array(X)
    return pd.DataFrame({"cell": np.array(CELLS)[M.row], "gene": np.array(GENES)[M.col], "n": M.data})


RETAIL = {"columns": ("InvoiceNo", "StockCode", "Quantity")}
MARKET = "%%MatrixMarket matrix coordinate integer general\n"
FORMATS = {  # name of the file, how it is written, and whether it has names of rows and of columns
    "X.npz": (lambda path, X: sparse.save_npz(path, sparse.csr_array(X)), "", ""),
    "csc.npz": (lambda path, X: sparse.save_npz(path, sparse.csc_array(X)), "", ""),
    "coo.npz": (lambda path, X: sparse.save_npz(path, sparse.coo_array(X)), "", ""),
    "X.mtx": (write_mtx, "", ""),
    "X.mtx.gz": (write_gzipped_mtx, "", ""),
    "v2": (lambda path, X: write_tenx_folder(path, X, version=2), "rows", "columns"),
    "v3": (lambda path, X: write_tenx_folder(path, X, version=3), "rows", "columns"),
    "v2.h5": (lambda path, X: write_tenx_h5(path, X, version=2), "rows", "columns"),
    "v3.h5": (lambda path, X: write_tenx_h5(path, X, version=3), "rows", "columns"),
    "csr.h5ad": (lambda path, X: as_anndata(X, sparse.csr_matrix).write_h5ad(path), "rows", "columns"),
    "csc.h5ad": (lambda path, X: as_anndata(X, sparse.csc_matrix).write_h5ad(path), "rows", "columns"),
    "dense.h5ad": (lambda path, X: as_anndata(X, np.asarray).write_h5ad(path), "rows", "columns"),
    "v2.zarr": (lambda path, X: write_zarr(path, X, version=2), "rows", "columns"),
    "v3.zarr": (lambda path, X: write_zarr(path, X, version=3), "rows", "columns"),
    "folder": (write_npy, "", ""),
    "docword.X.txt": (write_docword, "", "columns"),
    "X.ldac": (write_ldac, "rows", "columns"),
    "X.svmlight": (lambda path, X: dump_svmlight_file(X, np.zeros(7), str(path), zero_based=False), "", ""),
    "X.csv": (lambda path, X: table(X).to_csv(path, index=False), "rows", "columns"),
    "X.tsv.gz": (lambda path, X: table(X).to_csv(path, index=False, header=False, sep="\t"), "rows", "columns"),
    "X.parquet": (lambda path, X: table(X).to_parquet(path), "rows", "columns"),
}


@pytest.fixture(params=FORMATS)
def file(request, tmp_path, X):
    write, rows, columns = FORMATS[request.param]
    path = tmp_path / request.param
    write(path, X)
    return path, rows, columns


def test_columns_are_put_in_the_order_of_names_and_others_counted():
    data = Dataset(sparse.csr_array([[1, 2, 0], [0, 3, 4]]), None, np.array(["b", "x", "a"]))
    found, left_out, missing = data.aligned(["a", "b", "c"])
    assert missing.tolist() == [False, False, True]
    assert found.X.toarray().tolist() == [[0, 1, 0], [4, 0, 0]]
    assert found.column_names.tolist() == ["a", "b", "c"]
    assert left_out == 1
    with pytest.raises(ValueError, match="column_names must not be None"):
        Dataset(data.X).aligned(["a"])
    with pytest.raises(ValueError, match=r"^names of the model .* got 'a' more than once: fit counts with"):
        data.aligned(["a", "a"])
    with pytest.raises(ValueError, match=r"^names of the new counts .* got 'b' .*adata.var_names_make_unique\(\)"):
        Dataset(data.X, None, np.array(["b", "b", "a"])).aligned(["a", "b"])


def test_a_conversion_warns_of_duplicate_feature_names(tmp_path):
    write_counts(tmp_path / "counts", Dataset([[1, 2]], ["cell"], ["U1", "U1"]))
    with pytest.warns(UserWarning, match=r"counts has 1 feature name\(s\) more than once, for example 'U1'"):
        convert_counts(tmp_path / "counts", tmp_path / "again")


def test_a_table_in_memory_becomes_the_counts_of_its_file(tmp_path):
    table = pd.DataFrame({"user": [7, 3, 7, 7], "item": ["tea", "tea", "jam", "tea"], "n": [2, 1, 1, 3]})
    table.to_csv(tmp_path / "table.csv", index=False)
    found, read = Dataset.from_entries(table["user"], table["item"], table["n"]), read_counts(tmp_path / "table.csv")
    assert found.X.toarray().tolist() == read.X.toarray().tolist() == [[5, 1], [1, 0]]
    assert found.row_names.tolist() == read.row_names.tolist() == ["7", "3"]
    assert found.column_names.tolist() == read.column_names.tolist() == ["tea", "jam"]
    assert Dataset.from_entries(table["user"], table["item"]).X.toarray().tolist() == [[2, 1], [1, 0]]  # lines


def test_purchases_and_returns_of_an_item_are_summed():
    assert Dataset.from_entries(["a", "a"], ["x", "x"], [3, -1]).X.toarray().tolist() == [[2]]
    with pytest.raises(ValueError, match=r"^counts must .* 1 of 1 are negative, such as -1 in row 'a', column 'x': "):
        Dataset.from_entries(["a", "a"], ["x", "x"], [1, -2])


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_ids_are_refused(missing):
    ids = pd.Series(["a", missing, "nan"], dtype=object)
    with pytest.raises(
        ValueError, match=r"^rows must have an id in each entry, and 1 of 3 lack one \(the first is at position 1\): ."
    ):
        Dataset.from_entries(ids, ["x", "y", "z"])
    assert Dataset.from_entries(["nan"], ["x"]).row_names.tolist() == ["nan"]


def test_whole_numbers_stored_as_floats_are_named_like_integers():
    ids = pd.Series([17850, None, 17850, 13047]).dropna()  # of float64, since an id was missing
    assert Dataset.from_entries(ids, [7, 7.5, 8.0]).row_names.tolist() == ["17850", "13047"]
    mixed = np.array([7, "7", 7.0, 7.5], object)
    assert Dataset.from_entries(mixed, mixed).column_names.tolist() == ["7", "7.5"]


def test_the_row_and_the_column_of_a_negative_sum_are_named(tmp_path):
    (tmp_path / "X.csv").write_text("u,i,n\nada,tea,3\nbob,jam,-2\nada,tea,-1\n")
    sentence = "1 of 2 are negative, such as -2 in row 'bob', column 'jam': remove the entries below 0"
    with pytest.raises(ValueError, match=f"its counts must have sums >= 0 .*{sentence}"):
        read_counts(tmp_path / "X.csv")


def test_tables_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"equal lengths, got shapes \(2,\), \(1,\) and \(2,\)"):
        Dataset.from_entries(["a", "b"], ["x"])
    with pytest.raises(ValueError, match=r"columns must be a list of at least one id, got shape \(0,\)"):
        Dataset.from_entries(["a"], [])
    with pytest.raises(TypeError, match="counts must hold real numbers"):
        Dataset.from_entries(["a"], ["x"], ["many"])


def test_words_of_an_lda_c_document_may_come_in_any_order(tmp_path):
    (tmp_path / "b.ldac").write_text("5 0:1 7:1 3:2 1:1 4:1\n2 2:1 0:3\n")
    found = read_counts(tmp_path / "b.ldac").X.toarray()
    assert found.tolist() == [[1, 1, 0, 2, 1, 0, 0, 1], [3, 0, 1, 0, 0, 0, 0, 0]]
    (tmp_path / "b.ldac").write_text("3 7:1 3:2 7:1\n")
    with pytest.raises(ValueError, match="can't be read as ldac"):
        read_counts(tmp_path / "b.ldac")


def test_names_may_be_a_list_and_counts_of_text_are_whole_numbers(tmp_path):
    model = PoissonNMF(1, random_state=0).fit(Dataset(sparse.csr_array([[1, 2], [3, 4]]), column_names=["a", "b"]))
    assert model.feature_names_in_.tolist() == ["a", "b"]
    assert model.top_features(1, names=["u", "v"]).names.tolist() == [["v"]]
    (tmp_path / "x.ldac").write_text("2 0:1 3:2\n1 2:5\n")
    found = read_counts(tmp_path / "x.ldac").X
    assert found.dtype == np.uint8
    assert found.indices.dtype == np.int32


def test_every_format_gives_the_same_counts_and_keeps_the_names_it_has(file, X):
    path, rows, columns = file
    data = read_counts(path)
    order = np.arange(5)
    if path.name.endswith((".csv", ".tsv.gz", ".parquet")):  # ids are numbered as they come
        order = [GENES.index(name) for name in data.column_names]
    np.testing.assert_array_equal(data.X.toarray(), X[:, order])
    assert (data.row_names is None) if not rows else data.row_names.tolist() == CELLS
    assert (data.column_names is None) if not columns else data.column_names.tolist() == [GENES[j] for j in order]


def test_transpose_swaps_rows_and_columns_and_their_names(file):
    path, *_ = file
    data, turned = read_counts(path), read_counts(path, transpose=True)
    np.testing.assert_array_equal(turned.X.toarray(), data.X.toarray().T)
    for one, other in ((turned.row_names, data.column_names), (turned.column_names, data.row_names)):
        assert (one is None) == (other is None)
        assert one is None or one.tolist() == other.tolist()


def test_a_layer_is_read_by_its_name_and_an_error_lists_the_layers(tmp_path, X):
    as_anndata(X, sparse.csr_matrix).write_h5ad(tmp_path / "X.h5ad")
    np.testing.assert_array_equal(read_counts(tmp_path / "X.h5ad", layer="twice").X.toarray(), 2 * X)
    with pytest.raises(ValueError, match=r"X\.h5ad can't .* it has no layer 'thrice'; .* None for X or 'twice'"):
        read_counts(tmp_path / "X.h5ad", layer="thrice")


def test_raw_counts_come_with_the_names_of_raw(tmp_path, X):
    whole = as_anndata(X, sparse.csr_matrix)
    part = whole[:, :2].copy()
    part.raw = whole
    part.write_h5ad(tmp_path / "X.h5ad")
    assert read_counts(tmp_path / "X.h5ad").X.shape == (7, 2)
    raw = read_counts(tmp_path / "X.h5ad", layer="raw")
    np.testing.assert_array_equal(raw.X.toarray(), X)
    assert raw.column_names.tolist() == GENES


def test_names_beside_a_mask_of_what_is_missing_are_names(tmp_path, X):
    path = tmp_path / "X.h5ad"
    FORMATS["csr.h5ad"][0](path, X)
    with h5py.File(path, "a") as file:
        del file["var/_index"]
        names = file.create_group("var/_index")  # as anndata writes an index of text from 0.13 on
        names.attrs["encoding-type"], names.attrs["encoding-version"] = "nullable-string-array", "0.1.0"
        names["values"], names["mask"] = np.array(GENES, object), np.zeros(len(GENES), bool)
    assert read_counts(path).column_names.tolist() == GENES


def test_one_of_several_genomes_must_be_named(tmp_path, X):
    write_tenx_h5(tmp_path / "X.h5", X, version=2, genomes=("mm10", "hg19"))
    with pytest.raises(ValueError, match="it has several genomes: layer must be one of hg19, mm10"):
        read_counts(tmp_path / "X.h5")
    np.testing.assert_array_equal(read_counts(tmp_path / "X.h5", layer="mm10").X.toarray(), X)


@pytest.mark.parametrize(
    ("text", "columns", "counts"),
    [
        ("u,i,n\na,x,2\nb,x,1\na,x,3\n", None, [[5], [1]]),
        ("a,x,2\nb,y,1\n", None, [[2, 0], [0, 1]]),
        ("a,x,2.5,9\nb,y,1,9\n", (0, 1, 2), [[2.5, 0], [0, 1]]),
        ("a,x\nb,y\na,x\n", None, [[2, 0], [0, 1]]),
        ('t,n,"i, quoted",u\n1,4,"x, y",a\n1,2,z,a\n', ("u", "i, quoted", "n"), [[4, 2]]),
        ("9,a,7,x\n9,b,1,x\n", (1, 3, 2), [[7], [1]]),
        ("07,x,1\n7,x,1\nNA,x,1\n", None, [[1], [1], [1]]),
    ],
    ids=["header", "no header", "more columns", "pairs", "by name", "by number", "ids are text"],
)
def test_triplets_come_with_header_or_without_in_any_columns_and_add_up(tmp_path, text, columns, counts):
    path = tmp_path / "X.csv"
    path.write_text(text)
    np.testing.assert_array_equal(read_counts(path, columns=columns).X.toarray(), counts)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "X.csv",
            "u,i,n\na,x,2\nb,x,many\n",
            "can't be read as csv: its counts must be numbers, and column 'n'",
        ),
        ("X.csv", "a\nb\n", "it has 1 column(s): give those of row ids, column ids and counts as `columns`"),
        ("X.csv", ",g1,g2,g3\na,1,0,2\nb,3,1,1\n", "for a table with a line for each row, fit the DataFrame"),
        ("X.csv", "", "it is empty"),
        ("X.csv", "u,i,n\n,x,2\n", "1 of 1 lines have no id in column 'u' (the first is line 2): remove these lines"),
        ("X.mtx", "no market", "can't be read as mtx: Line 1: Not a Matrix Market file"),
        (
            "X.mtx",
            "%%MatrixMarket matrix coordinate complex general\n1 1 1\n1 1 2 3\n",
            "counts must be numbers, got complex",
        ),
        ("X.mtx", MARKET + "2 2 3\n1 1 1\n", "Truncated file"),
        ("X.mtx", MARKET + "2 2 1\n1 1 1\n1 2 1\n", "Too many lines in file"),
        ("X.mtx", MARKET + "2 2 1\n3 1 1\n", "out of bounds"),
        ("X.mtx", MARKET + "2 -2 1\n", "Matrix dimensions can't be negative"),
        ("X.mtx", MARKET + "2 9999999999999999 1\n1 1 1\n", "the pointers of its rows and columns"),
        ("X.mtx", MARKET, "Premature EOF"),
        ("docword.X.txt", "3\n2\nthree\n", "can't be read as docword: Invalid integer value"),
        ("docword.X.txt", "3\n2\n2\n1 1 1\n", "Truncated file"),
        ("X.ldac", "2 0:1 1:1\n3 0:1 2:2\n", "document 2 has 2 words, but its line begins with 3"),
        ("X.ldac", "2 0:1 1-1\n", "can't be read as ldac"),
        ("X.svmlight", "0 3:1 2:1\n", "can't be read as svmlight"),
        ("X.h5", "not HDF5", "can't be read as 10x-h5"),
        ("X.parquet", "not Parquet", "can't be read as parquet"),
        ("X.npz", "not a zip", "can't be read as npz: it is empty, truncated or of another kind"),
        ("X.doc", "?", "has no name of a known format; give format, one of npz, mtx"),
    ],
)
def test_a_wrong_file_raises_an_error_of_one_line_that_names_it(tmp_path, name, text, sentence):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(sentence)) as caught:
        read_counts(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_lines_without_an_id_or_a_count_are_counted_and_the_first_is_named(tmp_path):
    lines = ["", "u,i,n", *["a,x,1", ",x,1", "a,x,", "a,,1", ",x,2"] * 600_000]
    (tmp_path / "X.csv").write_text("\n".join(lines) + "\n")  # more than a block
    sentence = (
        "1,200,000 of 3,000,000 lines have no id in column 'u' (the first is line 4) and 600,000 of 3,000,000 lines "
        "have no id in column 'i' (the first is line 6) and 600,000 of 3,000,000 lines have no count in column 'n' "
        "(the first is line 5): remove these lines"
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read_counts(tmp_path / "X.csv")


@pytest.mark.parametrize("n_before", [0, 100_000])
@pytest.mark.parametrize("end", ["csv", "tsv"])
def test_a_table_that_is_not_in_utf8_is_refused_with_a_way_out(tmp_path, end, n_before):
    separator = {"csv": ",", "tsv": "\t"}[end]
    lines = [["u", "i", "n"], *[["ada", "tea", "1"]] * n_before, ["josé", "café", "1"]]
    path = tmp_path / f"X.{end}"
    path.write_bytes("".join(f"{separator.join(line)}\n" for line in lines).encode("latin-1"))
    with pytest.raises(
        ValueError, match=rf"X\.{end} can't be read as {end}: its text is not in UTF-8: .*iconv.*pandas"
    ):
        read_counts(path)
    path.write_bytes("josé,tea,1\n".replace(",", separator).encode("latin-1"))
    with pytest.raises(ValueError, match="its text is not in UTF-8: convert it"):
        read_counts(path)


def test_a_line_of_parquet_without_an_id_is_an_error(tmp_path):
    pd.DataFrame({"u": ["a", None], "i": [1, 2], "n": [1, 1]}).to_parquet(tmp_path / "X.parquet")
    with pytest.raises(ValueError, match="lines have no id in column 'u'"):
        read_counts(tmp_path / "X.parquet")
    pd.DataFrame({"u": [7, 8], "i": [1, 2], "n": [1, 1]}).to_parquet(tmp_path / "X.parquet")
    assert read_counts(tmp_path / "X.parquet").row_names.tolist() == ["7", "8"]
    with pytest.raises(
        ValueError,
        match=r"X\.parquet can't .* columns must be two or three names or numbers of columns",
    ):
        read_counts(tmp_path / "X.parquet", columns=["u"])


def test_a_truncated_file_is_an_error_or_reads_the_same(file, X):
    path, *_ = file
    whole = read_counts(path).X.toarray()
    parts = sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())
    for part in parts:
        content = part.read_bytes()
        for keep in {len(content) // 4, len(content) // 2, len(content) - 2}:
            part.write_bytes(content[: max(keep, 0)])
            try:
                found = read_counts(path).X.toarray()
            except ValueError as error:
                assert str(error).startswith(str(path))  # noqa: PT017
            else:  # it was no part that the counts are in, or lines of text, whose end can't be known
                lines = path.name.endswith((".csv", ".ldac", ".svmlight", ".h5ad", "v3.zarr", "v2.zarr"))
                assert lines or np.array_equal(found, whole), part
        part.write_bytes(content)


def test_a_stated_size_is_checked(tmp_path):
    with h5py.File(tmp_path / "X.h5", "w") as file:
        group = file.create_group("matrix")
        for part, n in (("data", 1 << 40), ("indices", 1 << 40), ("indptr", 3)):
            group.create_dataset(part, shape=(n,), dtype=np.int64, chunks=(min(n, 1024),))
        group["shape"], group["barcodes"] = np.array([2, 2]), np.array(["a", "b"], "S")
        group["features/name"] = np.array(["a", "b"], "S")
    with pytest.raises(ValueError, match=r"it claims to hold 8,192\.0 GiB, which is impossible for its 0 bytes"):
        read_counts(tmp_path / "X.h5")


def test_errors_of_the_operating_system_are_raised_unchanged(tmp_path, X, monkeypatch):
    write_npy(tmp_path / "X", X)
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="exists and is not a folder"):
        convert_counts(tmp_path / "X", tmp_path / "mine")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fastpmf.io.npy.npy.open_memmap", full)
    with pytest.raises(OSError, match="No space left on device"):
        convert_counts(tmp_path / "X", tmp_path / "Y")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["X", "mine"]


def test_no_pickle_is_read(tmp_path, X):
    np.savez(tmp_path / "X.npz", format=np.array([_Trap()], object), shape=np.array([1, 1]), data=np.ones(1))
    with pytest.raises(ValueError, match="can't be read as npz: Object arrays cannot be loaded"):
        read_counts(tmp_path / "X.npz")
    write_npy(tmp_path / "folder", X)
    np.save(tmp_path / "folder" / "data.npy", np.array([_Trap()], object))
    with pytest.raises(ValueError, match="can't be read as npy: Array"):
        read_counts(tmp_path / "folder")


class _Trap:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def test_names_that_are_pickles_are_refused(tmp_path, X):
    write_zarr(tmp_path / "X.zarr", X, version=2)
    settings = next(file for file in (tmp_path / "X.zarr" / "var").rglob(".zarray") if "vlen-utf8" in file.read_text())
    settings.write_text(settings.read_text().replace('"vlen-utf8"', '"pickle"'))
    (tmp_path / "X.zarr" / ".zmetadata").unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="pickle"):
            read_counts(tmp_path / "X.zarr")


def test_a_folder_of_npy_stays_on_the_disk(tmp_path, X):
    write_npy(tmp_path / "X", X)
    data = read_counts(tmp_path / "X")
    assert isinstance(data.X.data, np.memmap)
    assert isinstance(data.X.indices, np.memmap)
    np.testing.assert_array_equal(as_counts(data).to_scipy().toarray(), X)
    (tmp_path / "X" / "data.npy").unlink()
    with pytest.raises(ValueError, match=r"can't be read as npy: it has no data\.npy$"):
        read_counts(tmp_path / "X")


def test_what_was_read_is_fitted_as_it_is_and_its_names_are_kept(tmp_path, X):
    write_tenx_h5(tmp_path / "X.h5", X, version=3)
    data = read_counts(tmp_path / "X.h5")
    model = PoissonNMF(2, max_iter=5, tol=0, random_state=0).fit(data)
    assert model.feature_names_in_.tolist() == GENES
    np.testing.assert_array_equal(
        model.components_, PoissonNMF(2, max_iter=5, tol=0, random_state=0).fit(X).components_
    )


@pytest.mark.skipif(not RAW.is_dir(), reason="FASTPMF_REAL_FILES names no folder")
@pytest.mark.parametrize(
    ("name", "options", "shape", "total"),
    [
        ("10x_scanpy_tests/1.2.0/filtered_gene_bc_matrices/hg19_chr21", {}, (12, 343), 12),
        ("10x_scanpy_tests/3.0.0/filtered_feature_bc_matrix", {}, (1107, 507), 41_549),
        ("10x_scanpy_tests/1.2.0/filtered_gene_bc_matrices_h5.h5", {}, (12, 343), 12),
        ("10x_scanpy_tests/3.0.0/filtered_feature_bc_matrix.h5", {}, (1107, 507), 41_549),
        ("reuters-ldac/reuters.ldac", {}, (395, 4258), 84_010),
        ("ml-latest-small/ratings.csv", {}, (706, 8552), 349_216.5),
        (
            "online_retail_3days/2010-12-01.csv",
            {"columns": ("InvoiceNo", "StockCode", "Quantity")},
            (143, 1351),
            26_814,
        ),
    ],
)
def test_real_files_have_the_shape_and_total_they_are_known_for(name, options, shape, total):
    data = read_counts(RAW / name, **options)
    assert data.X.shape == shape
    assert data.X.sum() == total
    assert (len(data.row_names), len(data.column_names)) == shape


def test_real_10x_files_of_both_kinds_hold_the_same_cells():
    if not RAW.is_dir():
        pytest.skip("FASTPMF_REAL_FILES names no folder")
    folder = read_counts(RAW / "10x_scanpy_tests/3.0.0/filtered_feature_bc_matrix")
    file = read_counts(RAW / "10x_scanpy_tests/3.0.0/filtered_feature_bc_matrix.h5")
    assert (folder.X != file.X).nnz == 0
    assert folder.row_names.tolist() == file.row_names.tolist()
    assert folder.column_names.tolist() == file.column_names.tolist()
