"""Damaged and malicious files raise an error of one line, and do nothing else.

Thirty mutations of each file, always the same. FASTPMF_FUZZ=2000 in the environment is that many, others each time.
"""

import ast
import csv
import gzip
import io
import json
import os
import stat
import struct
import zipfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import test_formats
from scipy import sparse

import fastpmf
from fastpmf import HPF, Checkpoint, PoissonNMF, cli
from fastpmf.io import Dataset, convert_counts, load_model, read_counts, write_counts, write_table
from fastpmf.io.hdf5 import StoredVector
from fastpmf.io.sources import Coordinates, Entries, Names
from fastpmf.plot._common import shorten
from fastpmf.utils.files import atomic_write
from fastpmf.utils.messages import printable

ROOT = Path(fastpmf.__file__).parents[1]
MARKET = "%%MatrixMarket matrix coordinate integer general\n"
EVIL = "\x1b[2J\n\r\u202e\u2028x$^$"


def counts():
    X = np.random.default_rng(0).poisson(0.8, (7, 5))
    X[:, 0] += 1
    X[0, 4] = 300
    return X


# Of each kind of file one; zarr, which is slow to open, has its own below
FUZZED = ["X.npz", "csc.npz", "coo.npz", "X.mtx", "X.mtx.gz", "folder", "docword.X.txt", "X.ldac", "X.svmlight",
          "X.csv", "X.tsv.gz", "X.parquet", "v3.h5"]  # fmt: skip
MANY = int(os.environ.get("FASTPMF_FUZZ", 0))
WORDS = [b"-1", b"nan", b"1e400", b"99999999999999999999", b"2147483648", b"\x00", b"\xff\xfe", b'"', b"%", b":", b"\n"]


def dice(seed):
    if MANY:
        seed = np.random.SeedSequence().entropy
        print("seed", seed)  # noqa: T201 - pytest shows it where a test fails
    return np.random.default_rng(seed)


def mutated(rng, content):
    """A copy with bits flipped, numbers put in or bytes cut out."""
    b = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        i = int(rng.integers(len(b) + 1)) if rng.random() < 0.6 else int(rng.integers(min(len(b), 120) + 1))
        kind = rng.integers(4)
        if kind == 0 and i < len(b):
            b[i] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            b[i : i + 8] = struct.pack("<q", int(rng.choice([0, -1, 2**31, 2**40, 2**62])))
        elif kind == 2:
            b[i : i + int(rng.integers(3))] = WORDS[rng.integers(len(WORDS))]
        else:
            del b[i : i + int(rng.choice([1, 8, 64, len(b)]))]
    return bytes(b)


@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
@pytest.mark.filterwarnings("ignore:Data type alias")
@pytest.mark.parametrize("name", FUZZED)
def test_a_mutated_file_raises_an_error_of_one_line_or_read_as_sound_counts(tmp_path, name):
    path, rng = tmp_path / name, dice(FUZZED.index(name))
    test_formats.FORMATS[name][0](path, counts())
    parts = sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())
    whole = {part: part.read_bytes() for part in parts}
    for _ in range(MANY or 30):
        part = parts[rng.integers(len(parts))]
        if part.suffix == ".gz" and rng.random() < 0.5:  # what is packed, not the packing
            part.write_bytes(gzip.compress(mutated(rng, gzip.decompress(whole[part]))))
        else:
            part.write_bytes(mutated(rng, whole[part]))
        try:
            X, *names = read_counts(path)
        except ValueError as error:
            assert str(error) == printable(error)  # noqa: PT017
        else:
            n, minor = X.shape if X.format == "csr" else X.shape[::-1]
            assert len(X.indptr) == n + 1
            assert X.indptr[0] == 0
            assert (np.diff(X.indptr) >= 0).all()
            assert X.indptr[-1] <= len(X.data)
            assert X.data.dtype.kind in "biuf"
            assert not len(X.indices) or (X.indices.min() >= 0 and X.indices.max() < minor)
            assert all(found is None or found.shape == (size,) for found, size in zip(names, X.shape, strict=True))
        part.write_bytes(whole[part])


def npz(path, *, text=None, **arrays):
    """A sparse .npz of these arrays; `text` replaces the head of data.npy, name and all."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, A in arrays.items():
            content = io.BytesIO()
            np.save(content, np.asarray(A))
            archive.writestr(f"{name}.npy", content.getvalue())
        if text is not None:
            archive.writestr("data.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode())


def blocks_past_the_end(path):
    npz(path, format=b"bsr", shape=[4, 4], data=np.ones((2, 2, 2)), indices=[0, 1], indptr=[0, 2_000_000_000, 2])


def head_of_a_terabyte(path):
    npz(path, format=b"csr", shape=[1, 1], text="{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,)}\n")


def head_that_never_ends(path):
    npz(path, format=b"csr", shape=[1, 1], text="{'descr': ('<f8', 'shape': (1,\n")


def archive_of_zeros(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("format.npy", bytes(70 << 20))


def two_of_a_name(path):
    npz(path, format=b"csr", shape=[1, 1], data=[1], indices=[0], indptr=[0, 1])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("data", b"other counts")


def a_diagonal_of_billions(path):
    npz(path, format=b"dia", shape=[10**10, 10**10], data=[[1]], offsets=[0])


def counts_that_are_text(path):
    npz(path, format=b"csr", shape=[1, 1], data=np.array(["x"]), indices=[0], indptr=[0, 1])


def tenx(path, **changed):
    """A 10x Genomics file, with some members made by the given functions of the group and the name."""
    members = {
        "barcodes": np.array(["a", "b"], "S"), "features/name": np.array(["u", "v"], "S"), "shape": np.array([2, 2]),
        "data": np.arange(1, 4), "indices": np.array([0, 1, 0]), "indptr": np.array([0, 2, 3]),
    }  # fmt: skip
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name, A in members.items():
            if name in changed:
                changed[name](group, name)
            else:
                group[name] = A


def linked(path):
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["x"] = np.arange(1, 4)
    tenx(path, data=lambda group, name: group.__setitem__(name, h5py.ExternalLink("other.h5", "/x")))


def borrowed(path):
    secret = path.with_name("secret")
    secret.write_bytes(b"root:x:0:0:secret")
    tenx(path, barcodes=lambda g, name: g.create_dataset(name, shape=(2,), dtype="S8", external=[(str(secret), 0, 16)]))


def virtual(path):
    layout = h5py.VirtualLayout((3,), "i8")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(3,))
    tenx(path, data=lambda group, name: group.create_virtual_dataset(name, layout))


def link_to_itself(path):
    tenx(path, data=lambda group, name: group.__setitem__(name, h5py.SoftLink("/matrix/data")))


def names_of_gigabytes(path):
    tenx(path, barcodes=lambda group, name: group.create_dataset(name, shape=(2,), dtype="S2000000000"))


def counts_of_an_exabyte(path):
    tenx(path, data=lambda group, name: group.create_dataset(name, shape=(1 << 57,), dtype="i8", chunks=(1 << 20,)))


def a_chunk_of_gigabytes(path):
    tenx(path, data=lambda g, name: g.create_dataset(name, (3,), "i8", maxshape=(None,), chunks=(1 << 28,)))


def one_long_name(path):
    path.with_suffix(".tokens").write_bytes(b"\n".join([b"x"] * 50_000 + [b"y" * 50_000]))
    path.write_text("1 50000:3\n")


def one_long_line(path):
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(b"a" * (1 << 24))


def strange_kind(path):
    path.write_bytes(MARKET.encode()[:-4] + b"\xff\n1 1 1\n1 1 1\n")


HOSTILE = {
    "blocks.npz": (blocks_past_the_end, "non-decreasing"),
    "head.npz": (head_of_a_terabyte, r"its data\.npy claims shape \(99999999999,\)"),
    "endless.npz": (head_that_never_ends, "multi-line statement|Cannot parse header"),
    "zeros.npz": (archive_of_zeros, r"it claims to hold 0\.1 GiB, which is impossible for its \d+ bytes"),
    "twice.npz": (two_of_a_name, "two arrays of one name"),
    "dia.npz": (a_diagonal_of_billions, "the pointers of its rows and columns"),
    "text.npz": (counts_that_are_text, "its counts must be numbers, got <U1"),
    "link.h5": (linked, "its data is in another file, which is not read"),
    "secret.h5": (borrowed, "its /matrix/barcodes is in another file, which is not read"),
    "virtual.h5": (virtual, "its /matrix/data is in another file, which is not read"),
    "loop.h5": (link_to_itself, "can't be read as 10x-h5: "),
    "names.h5": (names_of_gigabytes, "it claims to hold 3.7 GiB"),
    "exabyte.h5": (counts_of_an_exabyte, "which is impossible for its 0 bytes"),
    "chunk.h5": (a_chunk_of_gigabytes, "it claims to hold 2.0 GiB"),
    "name.ldac": (one_long_name, "it claims to hold 9.3 GiB"),
    "line.csv.gz": (one_long_line, "field larger than field limit"),
    "bytes.mtx": (lambda path: path.write_bytes(MARKET.encode() + b"7 5 2\n1 4 3\n1 5\x00\xff"), "Invalid integer"),
    "kind.mtx": (strange_kind, "Invalid MatrixMarket header element"),
    "blank.mtx": (lambda path: path.write_text(MARKET + "\n" * (1 << 21)), "Premature EOF"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_malicious_file_raises_an_error(tmp_path, name):
    make, sentence = HOSTILE[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_counts(tmp_path / name)
    assert str(caught.value) == printable(caught.value)


def test_reading_an_endless_file_stops():
    part = Entries(np.zeros(1 << 20, np.int32), np.zeros(1 << 20, np.int32), np.ones(1 << 20))

    def endless():
        while True:
            yield part

    for source in (Coordinates(endless, lambda: ((1, 1), Names()), stored=1000),) * 2:
        with pytest.raises(ValueError, match="GiB, which is impossible for its 1,000 bytes"):
            source.transposed().to_dataset()


def test_counts_that_stand_twice_are_added_up_beyond_their_dtype(tmp_path):
    npz(tmp_path / "X.npz", format=b"coo", shape=[1, 1], data=np.array([200, 200], np.uint8), row=[0, 0], col=[0, 0])
    assert read_counts(tmp_path / "X.npz").X.toarray().tolist() == [[400]]
    (tmp_path / "X.mtx").write_text(MARKET.replace("integer", "unsigned-integer") + f"1 1 1\n1 1 {2**64 - 1}\n")
    assert read_counts(tmp_path / "X.mtx").X.toarray().tolist() == [[2.0**64]]


def test_names_end_where_lines_end_and_nowhere_else(tmp_path):
    names = ["a\x85b", "c\u2028d", "e  f", "g\x0ch", " i "]
    test_formats.write_docword(tmp_path / "docword.X.txt", counts())
    (tmp_path / "vocab.X.txt").write_text("\r\n".join(names) + "\r\n", "utf-8", newline="")
    assert read_counts(tmp_path / "docword.X.txt").column_names.tolist() == names
    write_counts(tmp_path / "X", Dataset(sparse.csr_array(counts()), None, np.array(["j\rk\nl", *names[1:]])))
    assert read_counts(tmp_path / "X").column_names.tolist() == ["j k l", *names[1:]]


def test_an_archive_whose_list_is_torn_is_no_model_and_no_crash(tmp_path, capsys):
    path = tmp_path / "X.npz"
    sparse.save_npz(path, sparse.csr_array(counts()))
    content = path.read_bytes()
    path.write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x03"))
    assert cli.main(["info", str(path)]) == 2
    assert "can't be read as npz" in capsys.readouterr().err


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for kind in (PoissonNMF, HPF):
        options = {"max_iter": 3, "tol": 0, "random_state": 0}
        kind(2, **options).fit(counts(), validation=0.2).save(folder / f"{kind.__name__}.npz")
        kind(2, random_state=0).partial_fit(counts()).save(folder / f"{kind.__name__}, online.npz")
    return folder


def changed(path, to, **new):
    """A copy of an archive with other arrays, deflated."""
    with np.load(path) as stored:
        np.savez_compressed(to, **(dict(stored) | new))


@pytest.mark.parametrize("kind", ["PoissonNMF", "HPF", "PoissonNMF, online", "HPF, online"])
def test_a_mutated_model_file_raises_an_error_of_one_line_or_is_a_model(models, tmp_path, kind):
    content, path, rng = (models / f"{kind}.npz").read_bytes(), tmp_path / "model.npz", dice(0)
    for _ in range(MANY or 30):
        path.write_bytes(mutated(rng, content))
        try:
            H = load_model(path).components_
        except ValueError as error:
            assert str(error) == printable(error)  # noqa: PT017
        else:
            assert np.isfinite(H).all()
    with np.load(models / f"{kind}.npz") as stored:
        header, names = json.loads(str(stored["header"])), stored.files
    for name in names:
        for A in (np.zeros(0), np.full((3, 3), np.nan), np.array(EVIL), np.array([-1, 2**62])):
            changed(models / f"{kind}.npz", path, **{name: A})
            if name == "restarts" and not A.size and "online" in kind:
                continue  # as it is
            if name != "weight" or A.ndim != 1:
                with pytest.raises(ValueError, match="is not a valid fastpmf model file") as caught:
                    load_model(path)
                assert str(caught.value) == printable(caught.value)
    for broken in (header | {"kind": EVIL}, header | {"facts": EVIL}, header | {"parameters": {EVIL: 1}}, [EVIL], None):
        changed(models / f"{kind}.npz", path, header=np.array(json.dumps(broken)))
        with pytest.raises(ValueError, match=r"model\.npz") as caught:
            load_model(path)
        assert str(caught.value) == printable(caught.value)
    changed(models / f"{kind}.npz", path, header=np.array("[" * 100_000))
    with pytest.raises(ValueError, match="is not a valid fastpmf model file"):
        load_model(path)


@pytest.mark.parametrize("model", [PoissonNMF(2), PoissonNMF(2, solver="em"), HPF(2)], ids=["cd", "em", "hpf"])
def test_a_checkpoint_of_other_sizes_is_refused_before_kernels_read_past_it(tmp_path, model):
    model.set_params(max_iter=3, tol=0, random_state=0).fit(
        counts(), checkpoint=Checkpoint(tmp_path / "at", iterations=3)
    )
    path = tmp_path / "at" / "checkpoint-00000003.npz"
    content = path.read_bytes()
    with np.load(path) as stored:
        arrays = {name: A for name, A in stored.items() if name != "header" and A.ndim}
    for name, A in arrays.items():
        if name not in ("measures", "pace", "ahead_pace", "ROWS_prior", "COLUMNS_prior", "trace"):
            changed(path, path, **{name: np.zeros((1, 3), A.dtype)})
            with pytest.raises(ValueError, match="resume: the checkpoint does not belong to such a fit: "):
                model.fit(counts(), resume=tmp_path / "at")
            path.write_bytes(content)
    with np.load(path) as stored:
        rest = {name: A for name, A in stored.items() if name not in ("W", "trace")}
    np.savez(path, **rest)
    with pytest.raises(ValueError, match="resume: the checkpoint does not belong to such a fit: "):
        model.fit(counts(), resume=tmp_path / "at")


def test_names_from_files_steer_no_terminal_and_forge_no_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("X.csv").write_text(f'u,"{EVIL}",1\nv,x,2\n', newline="")
    path = f"{EVIL.replace('/', '')}.csv"
    Path(path).write_text("u\n")
    assert cli.main(["fit", "X.csv", "-k", "1", "-o", "model.npz", "--max-iter", "3", "-q"]) == 0
    capsys.readouterr()
    for line in (
        ["topics", "model.npz"],
        ["info", "X.csv"],
        ["info", path],
        ["recommend", "model.npz", "X.csv", "--seen"],
    ):
        cli.main(line)
        captured = capsys.readouterr()
        assert all(c.isprintable() or c in "\n\t" for c in captured.out + captured.err)
        if line[0] in ("topics", "recommend"):
            assert {shown.count("\t") for shown in captured.out.splitlines()} == {3}
        if line[0] in ("topics", "info"):
            assert "x$^$" not in [shown.strip() for shown in captured.out.splitlines()]
    assert cli.main(["topics", "model.npz", "--json"]) == 0
    names = [row["feature"] for row in json.loads(capsys.readouterr().out)]
    assert sorted(names) == sorted([EVIL, "x"])  # JSON escapes, so that no name changes


def test_a_table_has_one_line_for_each_row_whatever_names_hold(tmp_path):
    rows = [[name, "1"] for name in (EVIL, "=1+1", "-", 'a"b', "a,b", "a\rb", "a\nb", " ", "")]
    write_table(tmp_path / "X.csv", ("name", "n"), rows)
    with (tmp_path / "X.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["name", "n"], *rows]


def test_names_in_pictures_are_no_formulas():
    matplotlib = pytest.importorskip("matplotlib.figure")
    figure = matplotlib.Figure()
    figure.text(0, 0, shorten("\x1b$\\frac$ a$b"))
    figure.savefig(io.BytesIO())
    assert shorten(EVIL) == r"?[2J  ? x\$^\$"


def test_what_replaces_a_private_file_is_never_readable_by_others(tmp_path):
    path = tmp_path / "private"
    path.write_text("old")
    path.chmod(0o600)
    with atomic_write(path) as file:
        assert stat.S_IMODE(os.stat(file.name).st_mode) == 0o600
        file.write(b"new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)
    assert [p.name for p in tmp_path.iterdir()] == ["private"]


def test_a_link_to_a_folder_stays_a_link_when_the_folder_is_replaced(tmp_path):
    write_counts(tmp_path / "real", counts())
    (tmp_path / "link").symlink_to("real")
    sparse.save_npz(tmp_path / "X.npz", sparse.csr_array(2 * counts()))
    convert_counts(tmp_path / "X.npz", tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    np.testing.assert_array_equal(read_counts(tmp_path / "real").X.toarray(), 2 * counts())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["X.npz", "link", "real"]


SOURCES = [
    path for folder in ("fastpmf", "scripts", "asv_benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_unpickles_evaluates_or_goes_through_a_shell(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "os.system", "os.popen", "tempfile.mktemp", "mktemp"}
            for word in node.keywords:
                assert word.arg not in {"shell", "allow_pickle"} or ast.unparse(word.value) == "False"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            names = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
            forbidden = {name for name in names if name.split(".")[0] in {"pickle", "marshal", "shelve", "dill"}}
            assert forbidden <= {"pickle.UnpicklingError"}


def test_the_package_is_python_and_its_marker_alone():
    here = {p for p in (ROOT / "fastpmf").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {p.suffix for p in here} == {".py", ".typed"}
    assert ROOT / "fastpmf" / "py.typed" in here


def test_zarr_arrays_that_would_be_unpickled_or_are_too_large_are_refused(tmp_path):
    def array(**more):
        return SimpleNamespace(**{
            "name": "/X/data", "shape": (3,), "chunks": (3,), "dtype": np.dtype(float), "nbytes_stored": lambda: 9,
        } | more)  # fmt: skip

    for part in ("filters", "compressor", "codecs"):
        for store in (
            SimpleNamespace(**{part: [{"id": "pickle"}]}),
            SimpleNamespace(**{part: "Pickle(protocol=5)"}),
        ):
            for A in (array(metadata=store), array(**vars(store))):
                with pytest.raises(ValueError, match="its /X/data is stored as pickles, which are not read"):
                    StoredVector(A)
    assert len(StoredVector(array())) == len(StoredVector(array(nbytes_stored=9))) == 3  # of zarr 3 and of zarr 2
    with pytest.raises(ValueError, match="it claims to hold"):
        StoredVector(array(chunks=(10**12,)))
