"""Too little memory or disk space, and files that change: an error in one sentence, and no damaged files."""

import errno
import os
import re
import resource
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from fastpmf import HPF, Checkpoint, PoissonNMF, as_counts, cli, poisson_nmf
from fastpmf.datasets import make_poisson_counts
from fastpmf.fitting.memory import plan
from fastpmf.io import convert_counts, read_counts, stream_counts, write_counts, write_factor, write_factors
from fastpmf.utils import memory as limits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
OPTIONS = {"random_state": 0, "tol": 0, "max_iter": 6, "solver": "mu"}


@pytest.fixture(scope="module")
def X():
    return make_poisson_counts(120, 40, 3, nnz=1500, random_state=0).X


# ── Memory ──────────────────────────────────────────────────────────────────────────────────────────────────────


class ReachedError(Exception):
    """The fit has begun."""


def refused(monkeypatch, call, n_bytes):
    """The message if a call is refused with a memory limit of `n_bytes`; None if its fit begins."""

    def begin(*_):
        raise ReachedError

    monkeypatch.setattr("fastpmf.fitting.fit.successive_halving", begin)
    monkeypatch.setattr("fastpmf.fitting.memory.memory_limit", lambda: n_bytes)
    try:
        call()
    except MemoryError as error:
        return str(error)
    except ReachedError:
        return None


@pytest.mark.parametrize("kind", [PoissonNMF, HPF])
def test_a_fit_beyond_the_memory_limit_is_refused_and_the_suggested_number_of_components_fits(X, monkeypatch, kind):
    counts = as_counts(X)
    have = plan(X.shape, X.nnz, 40, "float64", counts_dtype=X.dtype).peak_bytes
    message = refused(monkeypatch, lambda: kind(4000, random_state=0).fit(counts), have)
    assert re.match(
        r"n_components=4000 needs 0\.0\d+ GiB for the fit of a 120 x 40 matrix, in addition to its counts, and", message
    )
    offered = int(message.rpartition("it would fit with n_components=")[2])
    assert 1 < offered < 100
    assert refused(monkeypatch, lambda: kind(offered, random_state=0).fit(counts), have) is None
    assert refused(monkeypatch, lambda: kind(2 * offered).fit(counts), have) is not None


def test_float32_fewer_starts_and_streaming_are_suggested_if_they_fit(monkeypatch):
    X = make_poisson_counts(2000, 1000, 3, nnz=100_000, random_state=0).X
    single = plan(X.shape, X.nnz, 40, "float32", counts_dtype=X.dtype).peak_bytes
    double = plan(X.shape, X.nnz, 40, "float64", counts_dtype=X.dtype).peak_bytes
    message = refused(monkeypatch, lambda: poisson_nmf(X, 40, dtype="float64"), single)
    assert re.search(r"it would fit with dtype='float32' or (init='random' or )?n_components=\d+$", message)
    message = refused(monkeypatch, lambda: poisson_nmf(X, 40, n_init=10, dtype="float64"), double)
    assert re.search(r"it would fit with n_init=1( or n_components=\d+)?$", message)
    message = refused(monkeypatch, lambda: poisson_nmf(X, 1000, solver="em", dtype="float32"), 1 << 24)
    assert re.search(r"it would fit with n_components=\d+$", message)
    assert refused(monkeypatch, lambda: poisson_nmf(X, 40), 1000).endswith("it would fit with no number of components")
    long = make_poisson_counts(300, 200, 3, nnz=15_000, random_state=0).X
    have = plan(long.shape, long.nnz, 20, "float32", counts_dtype=long.dtype).factor_bytes - 1
    assert refused(monkeypatch, lambda: poisson_nmf(long, 20, dtype="float32"), have) is not None


def test_memory_is_the_smallest_of_all_limits(monkeypatch):
    files = {
        "/proc/self/cgroup": "4:cpu,memory:/slurm/job\n0::/user/task\n",
        "/sys/fs/cgroup/user/memory.max": "7000\n",
        "/sys/fs/cgroup/user/task/memory.max": "max\n",
        "/sys/fs/cgroup/memory/slurm/job/memory.limit_in_bytes": "9000\n",
        "/proc/self/statm": "1 1 1 1 1 1 1\n",
    }
    assert limits.memory_limit() > 1 << 20
    monkeypatch.setattr(limits, "_read_text", lambda path: files.get(str(path), ""))
    assert limits.memory_limit() == 7000
    del files["/sys/fs/cgroup/user/memory.max"]
    assert limits.memory_limit() == 9000
    page = os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(limits.resource, "getrlimit", lambda _: (page + 500, resource.RLIM_INFINITY))
    assert limits.memory_limit() == 500


# ── Disks ───────────────────────────────────────────────────────────────────────────────────────────────────────

# On a disk of a megabyte: each call must raise the error of a full disk and leave the files unchanged.
FULL = """
import sys, warnings
from pathlib import Path
import numpy as np
from fastpmf import Checkpoint, PoissonNMF, cli, datasets
from fastpmf.io import write_counts, write_factor, write_factors, write_table

disk = Path(sys.argv[1])
X = datasets.make_poisson_counts(120, 40, 3, nnz=1500, random_state=0).X
model = PoissonNMF(3, random_state=0, tol=0, max_iter=6, solver="mu").fit(X)
write_counts(disk / "X", X)
for name in ("model.npz", "W.npy", "all.npz", "all.h5ad", "table.csv"):
    (disk / name).write_text("old")
with (disk / "filling").open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
large = np.random.default_rng(0).random((200, 3))

def same():
    return {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before

for path, call in {
    "model.npz": model.save, "W.npy": lambda path: write_factor(path, large),
    "all.npz": lambda path: write_factors(path, large, model),
    "all.h5ad": lambda path: write_factors(path, large, model),
    "table.csv": lambda path: write_table(path, ["a"], [["word"] * 1000] * 100),
    "X": lambda path: write_counts(path, datasets.make_poisson_counts(900, 400, 3, nnz=90_000, random_state=0).X),
}.items():
    try:
        call(disk / path)
        print(path, "was written")
    except OSError as error:
        print(path, error.filename == str(disk / path), error.strerror, same())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    again = PoissonNMF(3, random_state=0, tol=0, max_iter=6, solver="mu").fit(
        X, checkpoint=Checkpoint(disk, iterations=6))
print("checkpoint", np.array_equal(again.components_, model.components_), str(caught[0].message)[:57], same())
print(cli.main(["topics", str(disk / "absent.npz"), "-o", str(disk / "table.csv")]), same())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a small disk of its own")
def test_the_error_of_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path):
    mounted = "mount -t tmpfs -o size=1m tmpfs"
    if subprocess.run(
        ["unshare", "-rm", "sh", "-c", f"{mounted} {tmp_path}"], capture_output=True, timeout=60
    ).returncode:
        pytest.skip("a small disk can't be mounted here")
    ran = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mounted} "$3" && exec "$1" -W ignore -c "$2" "$3"', "sh", sys.executable,
         FULL, str(tmp_path)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    *lines, last = ran.stdout.splitlines()
    names = ["model.npz", "W.npy", "all.npz", "all.h5ad", "table.csv", "X"]
    assert lines[:6] == [f"{name} True No space left on device True" for name in names]
    assert lines[6].startswith("checkpoint True a checkpoint could not be written, and the fit continues")
    assert lines[6].endswith("True")
    assert last == "2 True"


def test_disk_space_is_reserved_before_a_file_is_mapped(tmp_path, X, monkeypatch):
    write_counts(tmp_path / "X", X[:7])
    taken = []

    def full(descriptor, start, n_bytes):
        taken.append((start, n_bytes))
        if len(taken) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    sparse.save_npz(tmp_path / "X.npz", X)
    with pytest.raises(OSError, match=r"No space left on device: '.*/X'$"):
        convert_counts(tmp_path / "X.npz", tmp_path / "X")
    assert taken == [(0, 128 + 4 * X.nnz), (0, 128 + X.nnz)]  # the header of a .npy file, indices and counts
    assert sorted(os.listdir(tmp_path)) == ["X", "X.npz"]
    np.testing.assert_array_equal(read_counts(tmp_path / "X").X.toarray(), X[:7].toarray())


def test_a_failed_figure_leaves_the_old_one(tmp_path, X, monkeypatch, capsys):
    from matplotlib.figure import Figure

    monkeypatch.chdir(tmp_path)
    sparse.save_npz("X.npz", X)
    (tmp_path / "k.png").write_text("old")

    def torn(self, file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Figure, "savefig", torn)
    assert cli.main(["select", "X.npz", "-k", "1", "--splits", "1", "-q", "--plot", "k.png"]) == 1
    assert capsys.readouterr().err.endswith("\nfastpmf select: error: k.png: No space left on device\n")
    assert (tmp_path / "k.png").read_text() == "old"
    assert sorted(os.listdir()) == ["X.npz", "k.png"]


@pytest.mark.parametrize("what", ["folder", "no folder", "forbidden"])
def test_errors_of_unwritable_files_name_the_file(tmp_path, X, what, monkeypatch):
    model = PoissonNMF(3, **OPTIONS).fit(X)
    path = tmp_path / ("absent" if what == "no folder" else "") / "out.npz"
    if what == "folder":
        path.mkdir()
    if what == "forbidden":

        def forbidden(name, *_, **__):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(name))

        monkeypatch.setattr("builtins.open", forbidden)  # root may open any file
    error = {"folder": IsADirectoryError, "no folder": FileNotFoundError, "forbidden": PermissionError}[what]
    for call in (lambda: model.save(path), lambda: write_factors(path, np.ones((2, 3)), model)):
        with pytest.raises(error) as caught:
            call()
        assert path.name in str(caught.value)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == (["out.npz"] if what == "folder" else [])


def test_an_unwritable_checkpoint_folder_is_refused_at_once(tmp_path, X, monkeypatch):
    monkeypatch.setattr("fastpmf.fitting.checkpoint.os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"checkpoint: the folder .* can't be written to"):
        PoissonNMF(3, **OPTIONS).fit(X, checkpoint=tmp_path)


def test_a_checkpoint_that_cant_be_written_gives_a_warning_and_the_fit_continues(tmp_path, X):
    def vanish(record, W, H):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_text("a file now")

    folder = tmp_path / "saved"
    model = PoissonNMF(3, **OPTIONS | {"eval_every": 3, "max_iter": 5}, callback=None)
    expected = model.fit(X).components_
    with pytest.warns(
        RuntimeWarning, match=r"could not be written, and the fit continues without it: .*checkpoint-00000004"
    ):
        model.set_params(callback=lambda record, W, H: record.n_iter == 3 and vanish(record, W, H)).fit(
            X, checkpoint=Checkpoint(folder, iterations=2)
        )
    np.testing.assert_array_equal(model.components_, expected)


# ── Files that change ───────────────────────────────────────────────────────────────────────────────────────────


def cut(folder):
    os.truncate(folder / "indices.npy", 300)


def vanish(folder):
    (folder / "data.npy").unlink()


def become_a_folder(folder):
    vanish(folder)
    (folder / "data.npy").mkdir()


def point_outside(folder):
    indices = np.load(folder / "indices.npy")
    indices[-1] = 10**9
    with (folder / "indices.npy").open("r+b") as file:  # with the same times and length
        before = os.fstat(file.fileno())
        np.save(file, indices)
    os.utime(folder / "indices.npy", ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("when", ["between two passes", "within a pass"])
@pytest.mark.parametrize("change", [cut, vanish, become_a_folder, point_outside])
def test_a_file_that_changes_during_a_streamed_fit_is_an_error(tmp_path, X, change, when, monkeypatch):
    from fastpmf.io.sources import Compressed

    write_counts(tmp_path / "X", X)
    counts = stream_counts(tmp_path / "X", block_entries=300).X
    rows, passes = Compressed.rows, []

    def reading(self, start, stop):
        passes.extend([start] * (start == 0))
        if len(passes) == 4 and start and when == "within a pass":
            change(tmp_path / "X")
            passes.append(start)
        return rows(self, start, stop)

    def between(record, W, H):
        if record.n_iter == 2 and when == "between two passes":
            change(tmp_path / "X")

    monkeypatch.setattr(Compressed, "rows", reading)
    model = PoissonNMF(3, **OPTIONS).fit(X)
    before = dict(vars(model))
    with pytest.raises((ValueError, OSError), match=str(tmp_path / "X")):
        model.set_params(callback=between, eval_every=2).fit(counts)
    before |= {"callback": between, "eval_every": 2}
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is before[name] for name in before if name[-1] == "_")


@pytest.mark.parametrize("change", [cut, point_outside])
def test_a_changed_file_of_mapped_counts_is_an_error_before_a_kernel_reads_it(tmp_path, X, change):
    write_counts(tmp_path / "X", X)
    counts = as_counts(read_counts(tmp_path / "X"))

    def between(record, W, H):
        change(tmp_path / "X")
        os.utime(tmp_path / "X" / "indices.npy", ns=(0, 0))  # whatever the resolution of the file system's clock is

    model = PoissonNMF(3, **OPTIONS)
    with pytest.raises(ValueError, match=r"indices\.npy was changed since it was read"):
        model.set_params(callback=between).fit(counts)
    assert not hasattr(model, "components_")


def test_counts_of_a_replaced_folder_are_still_mapped(tmp_path, X):
    write_counts(tmp_path / "X", X)
    counts, expected = as_counts(read_counts(tmp_path / "X")), PoissonNMF(3, **OPTIONS).fit(X)
    model = PoissonNMF(3, **OPTIONS, callback=lambda record, W, H: write_counts(tmp_path / "X", X[:5]))
    np.testing.assert_array_equal(model.fit(counts).components_, expected.components_)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_passes_leave_no_files_open(tmp_path, X):
    write_counts(tmp_path / "X", X)
    before = len(os.listdir("/proc/self/fd"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 10, hard))
    try:
        counts = stream_counts(tmp_path / "X", block_entries=150).X
        model = PoissonNMF(3, **OPTIONS | {"max_iter": 10}).fit(counts)
        opened = len(os.listdir("/proc/self/fd"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert model.n_iter_ == 10
    assert opened <= before + 4  # the maps of the two large files


NAMES = {"spaces": "two words ", "lines": "two\nlines", "bytes": os.fsdecode(b"caf\xe9 \xff"), "dots": ".hidden...x"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names must be text")
@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_bytes_are_written_and_read(tmp_path, X, name, capsys):
    folder = tmp_path / NAMES[name]
    folder.mkdir()
    counts, model, W, saved = (str(folder / f"{NAMES[name]}{end}") for end in ("", ".npz", ".npy", " saved"))
    write_counts(counts, X)
    assert cli.main(["fit", counts, "--stream", "-k", "3", "--max-iter", "4", "-o", model, "--weights", W, "-q",
                     "--checkpoint", saved, "--solver", "mu"]) == 0  # fmt: skip
    assert cli.main(["transform", model, counts, "-o", W]) == 0
    assert cli.main(["info", model, "--json"]) == 0
    assert cli.main(["convert", counts, "-o", f"{counts} again", "-q"]) == 0
    assert np.load(W).shape == (120, 3)
    np.testing.assert_array_equal(read_counts(f"{counts} again").X.toarray(), X.toarray())
    assert cli.main(["info", str(folder / f"{NAMES[name]} absent.npz")]) == 2
    assert "error: no file" in capsys.readouterr().err
    write_factor(W, np.ones((2, 2)))
    assert not [entry for entry in os.listdir(folder) if entry.endswith(".tmp")]
