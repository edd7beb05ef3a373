"""Ambiguous files of counts are read correctly, or raise an error or a warning."""

import gzip
import os
import sys
import threading
import warnings

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io, sparse

from fastpmf import HPF, PoissonNMF, as_counts
from fastpmf.io import Dataset, convert_counts, is_model, load_model, read_counts, stream_counts, write_factors
from fastpmf.io.formats import open_counts

MARKET = "%%MatrixMarket matrix coordinate "
KINDS = ["Gene Expression", "Antibody Capture", "Gene Expression", "Peaks", "Gene Expression"]
SYMBOLS, IDS, CELLS = ["CD3", "CD3", "LYZ", "chr1:1-9", "NKG7"], [f"E{j}" for j in range(5)], ["c0", "c1", "c2"]
X = np.array([[2, 0, 0, 3, 3], [2, 1, 2, 1, 0], [3, 3, 2, 0, 2]])
LEFT_OUT = (
    "'Gene Expression' is read, 1 of type 'Antibody Capture' and 1 of type 'Peaks' are left out; feature_types "
    "selects others"
)

piped = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")


def write_tenx(path, kinds):
    """A folder where `path` has no ending, else HDF5."""
    if not path.suffix:
        path.mkdir()
        io.mmwrite(path / "matrix.mtx", sparse.coo_array(X.T), field="integer")
        (path / "barcodes.tsv").write_text("".join(f"{name}\n" for name in CELLS))
        columns = (IDS, SYMBOLS) if kinds is None else (IDS, SYMBOLS, kinds)
        (path / "features.tsv").write_text("".join("\t".join(line) + "\n" for line in zip(*columns, strict=True)))
        return
    M = sparse.csc_array(X.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(M, part)
        group["shape"], group["barcodes"] = np.array(M.shape), np.array(CELLS, "S")
        group["features/name"], group["features/id"] = np.array(SYMBOLS, "S"), np.array(IDS, "S")
        if kinds is not None:
            group["features/feature_type"] = np.array(kinds, "S")


@pytest.fixture(params=["cells", "cells.h5"])
def tenx(request, tmp_path):
    write_tenx(tmp_path / request.param, KINDS)
    return tmp_path / request.param


def through(fifo, content, call):
    """What a call makes of a FIFO that another thread writes to."""
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(content,))
    writer.start()
    try:
        return call(fifo)
    finally:
        writer.join(60)


def read(path, content, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_counts(path, **options)


def test_genes_alone_are_read_where_a_10x_file_has_other_features_too(tenx, tmp_path):
    genes = [j for j, kind in enumerate(KINDS) if kind == "Gene Expression"]
    for call in (read_counts, lambda path: convert_counts(path, tmp_path / "converted")):
        with pytest.warns(UserWarning, match=LEFT_OUT):
            found = call(tenx)
        np.testing.assert_array_equal(found.X.toarray(), X[:, genes])
        assert found.column_names.tolist() == [SYMBOLS[j] for j in genes]
        assert found.row_names.tolist() == CELLS
    with pytest.warns(UserWarning, match=LEFT_OUT):
        found = read_counts(tenx, transpose=True)
    np.testing.assert_array_equal(found.X.toarray(), X[:, genes].T)
    assert found.row_names.tolist() == [SYMBOLS[j] for j in genes]


@pytest.mark.filterwarnings("ignore:.* has 1 feature name.* more than once")  # of all types
@pytest.mark.parametrize(
    ("types", "chosen"),
    [("all", [0, 1, 2, 3, 4]), ("Peaks", [3]), (["Peaks", "Gene Expression"], [0, 2, 3, 4])],
)
def test_features_of_other_types_are_read_where_they_are_asked_for_and_named_by_ids(tenx, tmp_path, types, chosen):
    found = read_counts(tenx, feature_types=types, feature_names="id")
    np.testing.assert_array_equal(found.X.toarray(), X[:, chosen])
    assert found.column_names.tolist() == [IDS[j] for j in chosen]
    converted = convert_counts(tenx, tmp_path / "converted", feature_types=types)
    np.testing.assert_array_equal(converted.X.toarray(), X[:, chosen])
    assert converted.column_names.tolist() == [SYMBOLS[j] for j in chosen]


def test_chosen_features_are_streamed_and_opened_elsewhere_without_another_warning(tmp_path):
    write_tenx(tmp_path / "cells.h5", KINDS)
    with pytest.warns(UserWarning, match=LEFT_OUT):
        data = stream_counts(tmp_path / "cells.h5", block_entries=3)
    for _ in range(2):  # what is checked, and what is not any more
        blocks = [block.to_scipy().toarray() for _, block in data.X.blocks()]
        np.testing.assert_array_equal(np.concatenate(blocks), X[:, [0, 2, 4]])
    assert len(blocks) > 1
    with pytest.warns(UserWarning, match=LEFT_OUT), open_counts(tmp_path / "cells.h5", transpose=True) as source:
        location = source.location
    with open_counts(**location._asdict()) as source:
        counts, indices, ends = source.rows(1, 3)
    here = sparse.csr_array((counts, indices, ends), shape=(2, 3))
    np.testing.assert_array_equal(here.toarray(), X[1:, [0, 2, 4]])


def test_features_that_are_not_there_or_not_clear_are_refused(tenx, tmp_path):
    with pytest.raises(ValueError, match="feature_types must be of 'Antibody Capture', 'Gene Expression', 'Peaks', or"):
        read_counts(tenx, feature_types="CRISPR")
    with pytest.raises(ValueError, match="feature_names must be one of 'name', 'id', got 'symbol'"):
        read_counts(tenx, feature_names="symbol")
    other = tmp_path / f"other{tenx.suffix}"
    write_tenx(other, ["Peaks"] * 4 + ["CRISPR"])
    with pytest.raises(ValueError, match="feature_types must be of 'CRISPR', 'Peaks', or 'all', got None"):
        read_counts(other)
    untyped = tmp_path / f"untyped{tenx.suffix}"
    write_tenx(untyped, None)
    with pytest.raises(ValueError, match="feature_types must be None or 'all', as features have no types"):
        read_counts(untyped, feature_types="Peaks")
    alone = tmp_path / f"alone{tenx.suffix}"
    write_tenx(alone, ["Peaks"] * 5)
    np.testing.assert_array_equal(read_counts(alone).X.toarray(), X)  # there is nothing to choose from
    sparse.save_npz(tmp_path / "X.npz", sparse.csr_array(X))
    with pytest.raises(ValueError, match=r"feature_types is an option of 10x-mtx, 10x-h5 only, and .* is npz"):
        read_counts(tmp_path / "X.npz", feature_types="all")


@piped
@pytest.mark.parametrize("call", [read_counts, lambda path: convert_counts(path, path.with_suffix(""))])
def test_a_pipe_is_read_whole_as_the_file_would_be(tmp_path, call):
    table = "".join(f"u{i},i{i % 7},{1 + i % 3}\n" for i in range(3000))  # more than a reader takes at once
    found = through(tmp_path / "pipe.csv", table.encode(), call)
    expected = read(tmp_path / "file.csv", table)
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    assert found.row_names.tolist() == expected.row_names.tolist()


@piped
def test_errors_name_a_pipe(tmp_path):
    with pytest.raises(ValueError, match="can't be read as mtx") as caught:
        through(tmp_path / "pipe.mtx", b"no market", read_counts)
    assert str(caught.value).startswith(str(tmp_path / "pipe.mtx"))


@piped
def test_a_model_is_loaded_from_a_pipe(tmp_path):
    for number, model in enumerate((PoissonNMF(2, random_state=0), HPF(2, random_state=0, tol=1e-2))):
        model.fit(X).save(tmp_path / "model.npz")
        content = (tmp_path / "model.npz").read_bytes()
        for call in (load_model, type(model).load):
            found = through(tmp_path / f"pipe{number}{call.__name__}", content, call)
            np.testing.assert_array_equal(found.components_, model.components_)


@piped
def test_what_reads_a_file_more_than_once_refuses_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.h5ad")
    for call in (stream_counts, is_model, open_counts):
        with pytest.raises(ValueError, match=r"pipe\.h5ad is a pipe, which can be read once only"):
            call(tmp_path / "pipe.h5ad")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("X.csv", "user_id,item_id\na,x\nb,y\n"),
        ("X.tsv", "Barcode\tGene Name\na\tx\nb\ty\n"),
        ("X.csv", "who,what\n1,x\n2,y\n3,x\n"),
        ("X.csv", "\n\nuser,item\na,x\nb,y\n"),
    ],
    ids=["well-known words", "others", "letters over numbers", "behind empty lines"],
)
def test_a_header_of_pairs_is_warned_of_and_read_as_one_with_header_true(tmp_path, name, lines):
    heads = lines.split()[0].replace("\t", ",").split(",")
    with pytest.warns(UserWarning, match=f"its first line, '{heads[0]}.* was read as an entry and looks like a header"):
        found = read(tmp_path / name, lines)
    assert found.row_names[0] == heads[0]
    n = len(lines.strip().splitlines())
    assert found.X.sum() == n
    assert read(tmp_path / name, lines, header=False).X.sum() == n
    without = read(tmp_path / name, lines, header=True)
    assert without.X.sum() == n - 1
    assert without.row_names.tolist() == found.row_names.tolist()[1:]


def test_a_header_is_warned_of_too_where_pairs_are_chosen_by_number(tmp_path):
    lines = "user_id,item_id,stars\na,x,5\nb,y,1\n"
    with pytest.warns(UserWarning, match="looks like a header: give header=True, or columns by these names"):
        assert read(tmp_path / "X.csv", lines, columns=[0, 1]).X.sum() == 3
    assert read(tmp_path / "X.csv", lines, columns=["user_id", "item_id"]).X.sum() == 2
    assert read(tmp_path / "X.csv", lines, columns=[0, 1], header=True).X.sum() == 2
    assert read(tmp_path / "X.csv", lines).X.sum() == 6
    with pytest.raises(ValueError, match="columns must be numbers from 0 if there is no header"):
        read(tmp_path / "X.csv", lines, columns=["user_id", "item_id"], header=False)
    with pytest.raises(ValueError, match="its counts must be numbers, and column '2' has 'stars'"):
        read(tmp_path / "X.csv", lines, header=False)


@pytest.mark.parametrize(
    "lines", ["user,a\nada,x\nuser,b\n", "ada,tea\nbob,tea\n", "1,2\n3,4\n", "doc1,word\ndoc2,a\n"]
)
def test_pairs_that_are_no_header_are_not_warned_of(tmp_path, lines):
    assert read(tmp_path / "X.csv", lines).X.sum() == lines.count("\n")


def test_a_first_count_gone_wrong_is_not_taken_for_a_header(tmp_path):
    for wrong in ('"1,000"', "0x10", "NA", "-", "12 pieces"):
        with pytest.raises(ValueError, match="its counts must be numbers, and column '2' has"):
            read(tmp_path / "X.csv", f"a,x,{wrong}\nb,y,2\n")
    with pytest.raises(ValueError, match="1 of 2 lines have no count"):
        read(tmp_path / "X.csv", "a,x,\nb,y,2\n")


def test_quotes_in_tsv_are_text_and_in_csv_those_of_rfc_4180(tmp_path):
    found = read(tmp_path / "X.tsv", '"Weird Al" Yankovic\tx\t1\nb\t"y\t2\nc\tz"\t3\n')
    assert found.row_names.tolist() == ['"Weird Al" Yankovic', "b", "c"]
    assert found.column_names.tolist() == ["x", '"y', 'z"']
    assert found.X.toarray().tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 3]]
    found = read(tmp_path / "X.csv", '"""Weird Al"" Yankovic",x,1\n"b, c","y\r\nz",2\n5" disk,x,3')
    assert found.row_names.tolist() == ['"Weird Al" Yankovic', "b, c", '5" disk']
    assert found.column_names.tolist() == ["x", "y\r\nz"]


def test_csv_may_be_separated_by_semicolons_but_not_have_decimal_commas(tmp_path):
    found = read(tmp_path / "X.csv", "user;item;n\na;x, y;1\nb;z;2\n")
    assert found.X.toarray().tolist() == [[1, 0], [0, 2]]
    assert found.column_names.tolist() == ["x, y", "z"]
    for name, line in (("X.csv", "a\tx\t1\n"), ("X.tsv", "a,x,1\n")):
        with pytest.raises(ValueError, match=r"it has 1 column\(s\)"):
            read(tmp_path / name, line)
    with pytest.raises(ValueError, match="its counts must be numbers, and column '2' has '1,5'"):
        read(tmp_path / "X.csv", "a;x;1,5\nb;y;2,5\n")
    assert read(tmp_path / "X.csv", '"a,b";c\n').row_names.tolist() == ["a,b"]
    assert read(tmp_path / "X.csv", "Crime; Drama,x\nComedy,y\n").X.shape == (2, 2)


def test_one_column_can_not_be_both_ids_nor_one_of_two_of_a_name(tmp_path):
    with pytest.raises(ValueError, match=r"columns must be different columns, got \['u', 0\]"):
        read(tmp_path / "X.csv", "u,i\na,x\n", columns=["u", 0])
    with pytest.raises(ValueError, match=r"it has 2 column\(s\) 'i' among .*; columns may be given by number from 0"):
        read(tmp_path / "X.csv", "u,i,i\na,x,y\n", columns=["u", "i"])


def test_ids_that_differ_by_blanks_are_warned_of(tmp_path):
    with pytest.warns(UserWarning, match="ids that differ only by blanks around them, such as ' x' and 'x'"):
        assert read(tmp_path / "X.csv", "a, x, 1\nb, x, 2\na,x,3\n").X.shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("X.csv", "a,x,1\nb,y,300\n"),
        ("X.tsv", "a\tx\t1\nb\ty\t300\n"),
        ("X.mtx", MARKET + "real general\n2 2 2\n1 1 1.0\n2 2 3e2\n"),
        ("docword.X.txt", "2\n2\n2\n1 1 1\n2 2 300\n"),
        ("X.ldac", "1 0:1\n1 1:300\n"),
        ("X.svmlight", "1 1:1\n0 2:300\n"),
    ],
)
def test_text_may_be_gzipped_and_marked_whatever_it_is_called_and_gives_small_integers(tmp_path, name, text):
    contents = [text, "\ufeff" + text, text.replace("\n", "\r\n")]
    for content in (*contents, *(gzip.compress(content.encode()) for content in contents)):
        found = read(tmp_path / name, content).X
        assert found.toarray().tolist() == [[1, 0], [0, 300]]
        assert found.dtype == np.uint16


def test_an_npz_of_coordinates_gives_small_integers_without_overflow(tmp_path):
    twice = sparse.coo_array((np.array([200, 200], np.uint8), ([0, 0], [1, 1])), shape=(2, 2))
    sparse.save_npz(tmp_path / "X.npz", twice)
    found = read_counts(tmp_path / "X.npz").X
    assert found.toarray().tolist() == [[0, 400], [0, 0]]
    assert found.dtype == np.uint16


def test_parquet_gives_small_integers_too(tmp_path):
    pd.DataFrame({"u": [1, 2], "i": ["x", "y"], "n": [1.0, 2.0]}).to_parquet(tmp_path / "X.parquet")
    assert read_counts(tmp_path / "X.parquet").X.dtype == np.uint8
    pd.DataFrame({"u": [1, 2], "i": ["x", "y"], "n": [1.0, 2.5]}).to_parquet(tmp_path / "X.parquet")
    assert read_counts(tmp_path / "X.parquet").X.data.tolist() == [1, 2.5]
    with pytest.raises(ValueError, match="header is an option of csv, tsv only"):
        read_counts(tmp_path / "X.parquet", header=True)


def test_the_index_of_a_pandas_frame_is_no_column_of_a_table(tmp_path):
    frame = pd.DataFrame({"u": ["a", "b", "a"], "i": ["x", "y", "y"]})
    frame[frame.i == "y"].to_parquet(tmp_path / "X.parquet")  # whose index 1, 2 is stored as a third column
    assert read_counts(tmp_path / "X.parquet").X.toarray().tolist() == [[1], [1]]
    counts = pd.DataFrame({"u": [7, 8], "i": [1, 2], "n": [5, 6]})
    counts.set_index("u").to_parquet(tmp_path / "X.parquet")  # and comes last
    with pytest.raises(ValueError, match="its column 'u' was the index of a pandas DataFrame: give the columns of"):
        read_counts(tmp_path / "X.parquet")
    found = read_counts(tmp_path / "X.parquet", columns=["u", "i", "n"])
    assert found.row_names.tolist() == ["7", "8"]
    assert found.X.data.tolist() == [5, 6]
    counts[["u", "i"]].to_csv(tmp_path / "X.csv")
    with pytest.raises(ValueError, match="a column has no name in its first line, ',u,i', as the row numbers"):
        read_counts(tmp_path / "X.csv")
    assert read_counts(tmp_path / "X.csv", columns=["u", "i"]).X.sum() == 2


def test_the_matrix_of_a_10x_folder_by_itself_is_warned_of(tmp_path):
    write_tenx(tmp_path / "cells", None)
    with pytest.warns(UserWarning, match="give the folder to read cells as rows, with names"):
        alone = read_counts(tmp_path / "cells" / "matrix.mtx")
    np.testing.assert_array_equal(alone.X.toarray(), read_counts(tmp_path / "cells").X.toarray().T)


def test_a_vocabulary_may_be_gzipped(tmp_path):
    (tmp_path / "vocab.X.txt.gz").write_bytes(gzip.compress(b"tea\njam\n"))
    found = read(tmp_path / "docword.X.txt", "2\n2\n2\n1 1 1\n2 2 3\n")
    assert found.column_names.tolist() == ["tea", "jam"]


@pytest.mark.parametrize("entry", ["2 1 4", "1 2 4"])
def test_a_symmetric_matrix_market_file_has_both_triangles(tmp_path, entry):
    found = read(tmp_path / "X.mtx", MARKET + f"integer symmetric\n2 2 2\n1 1 3\n{entry}\n")
    assert found.X.toarray().tolist() == [[3, 4], [4, 0]]


def test_comments_of_svmlight_do_not_say_where_its_columns_begin(tmp_path):
    found = read(tmp_path / "X.svmlight", "# rows 0:3\n1 1:2 3:4\n0 2:1 # 0:7\n")
    assert found.X.toarray().tolist() == [[2, 0, 4], [0, 1, 0]]
    found = read(tmp_path / "X.svmlight", "1 0:2 2:4\n0 1:1\n")
    assert found.X.toarray().tolist() == [[2, 0, 4], [0, 1, 0]]


def test_an_empty_line_of_lda_c_is_no_document(tmp_path):
    with pytest.raises(ValueError, match="it has an empty line: a document without words is a line '0'"):
        read(tmp_path / "X.ldac", "1 0:1\n\n1 1:3\n")
    assert read(tmp_path / "X.ldac", "1 0:1\n0\n1 1:3\n\n").X.toarray().tolist() == [[1, 0], [0, 0], [0, 3]]


def test_names_that_are_not_in_utf8_are_refused_and_a_mark_is_no_part_of_one(tmp_path):
    (tmp_path / "X.titles").write_bytes("\ufeffé\nb\n".encode())
    assert read(tmp_path / "X.ldac", "1 0:1\n1 1:3\n").row_names.tolist() == ["é", "b"]
    (tmp_path / "X.titles").write_bytes("é\nb\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"the names in X\.titles are not in UTF-8: convert it, for example by iconv"):
        read_counts(tmp_path / "X.ldac")


def test_the_number_of_names_is_that_of_the_rows(tmp_path):
    write_tenx(tmp_path / "cells.h5", None)
    with h5py.File(tmp_path / "cells.h5", "a") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array(CELLS[:2], "S")
    with pytest.raises(ValueError, match=r"its /matrix/barcodes must have 3 names, got shape \(2,\)"):
        read_counts(tmp_path / "cells.h5")


def test_features_that_counts_lack_are_masked_and_none_is_counted_twice():
    rng = np.random.default_rng(0)
    H = rng.gamma(1.0, 1.0, (1, 20))
    names = np.array([f"g{j}" for j in range(20)])
    counts = Dataset(sparse.csr_array(np.round(40 * H).astype(int)), None, names)
    model = PoissonNMF(1, random_state=0).fit(counts)
    whole = model.transform(counts)[0, 0]
    part = Dataset(counts.X[:, 8:], None, names[8:]).aligned(names)
    assert part.missing.tolist() == [True] * 8 + [False] * 12
    assert model.transform(part.data, mask=part.mask)[0, 0] == pytest.approx(whole, rel=1e-9)
    assert model.transform(part.data)[0, 0] < 0.9 * whole  # as zeros they lower it
    assert counts.aligned(names).mask is None
    twice = sparse.csr_array((np.array([200, 200], np.uint8), np.array([1, 1]), np.array([0, 2])), shape=(1, 2))
    assert Dataset(twice, None, ["a", "b"]).aligned(["b", "a"]).data.X.toarray().tolist() == [[400, 0]]


def test_what_write_factors_needs_is_checked_before_it_writes(tmp_path, monkeypatch):
    model = PoissonNMF(2, random_state=0)
    W = model.fit_transform(X)
    for path, error, sentence in (
        (tmp_path / "absent" / "f.npz", FileNotFoundError, "no folder"),
        (tmp_path / "f.txt", ValueError, r"path must be a \.npz or \.h5ad file, got 'f\.txt'"),
    ):
        with pytest.raises(error, match=sentence):
            write_factors(path, W, model)
    with pytest.raises(TypeError, match="W must hold real numbers, got dtype object"):
        write_factors(tmp_path / "f.npz", W.astype(object), model)
    with pytest.raises(ValueError, match="row_names must be 3, one for each row of W"):
        write_factors(tmp_path / "f.npz", W, model, ["a"])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "anndata", None)
        with pytest.raises(ImportError, match=r"writing \.h5ad needs anndata"):
            write_factors(tmp_path / "f.h5ad", None, model)  # before W is looked at
    monkeypatch.setattr("fastpmf.io.results.os.access", lambda path, mode: False)  # as it is for all but root
    with pytest.raises(PermissionError, match=r"the folder .* can't be written to"):
        write_factors(tmp_path / "f.npz", None, model)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_raises_the_same_error_as_missing_counts(tmp_path):
    for call in (load_model, PoissonNMF.load, HPF.load, read_counts):
        with pytest.raises(FileNotFoundError, match=f"^no file {tmp_path / 'absent.npz'}$"):
            call(tmp_path / "absent.npz")
    with pytest.raises(IsADirectoryError, match="is a folder, not a model file"):
        load_model(tmp_path)


def test_reading_warns_of_nothing_where_nothing_is_odd(tmp_path):
    write_tenx(tmp_path / "cells.h5", ["Gene Expression"] * 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert as_counts(read_counts(tmp_path / "cells.h5")).total == X.sum()
