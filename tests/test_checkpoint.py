"""A fit that was stopped goes on from its last checkpoint to the same bits, whatever stopped it and whenever."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from conftest import ALL

from fastpmf import HPF, Checkpoint, PoissonNMF, StreamedCounts, poisson_nmf
from fastpmf.datasets import make_poisson_counts

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
MODELS = {
    "mu": (PoissonNMF, {"solver": "mu"}),
    "em": (PoissonNMF, {"solver": "em"}),
    "cd": (PoissonNMF, {}),
    "cd float32": (PoissonNMF, {"dtype": "float32"}),
    "cd alone": (PoissonNMF, {"acceleration": None}),
    "priors": (PoissonNMF, {"prior_W": "auto", "prior_H": "auto"}),
    "hpf": (HPF, {}),
    "hpf learning": (HPF, {"learn_prior": True}),
}


@pytest.fixture(scope="module")
def X():
    return make_poisson_counts(120, 40, 3, nnz=1500, random_state=0).X


def model(name, max_iter):
    kind, options = MODELS[name]
    return kind(3, random_state=0, tol=0, eval_every=4, max_iter=max_iter, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("streamed", [False, True], ids=["memory", "streamed"])
@pytest.mark.parametrize("name", MODELS)
def test_a_fit_that_goes_on_ends_in_the_bits_of_one_that_never_stopped(tmp_path, X, name, streamed):
    counts = StreamedCounts(lambda: [X[:50], X[50:]]) if streamed else X
    whole = model(name, 40).fit(counts)
    model(name, 17).fit(counts, checkpoint=Checkpoint(tmp_path, iterations=3))
    on = model(name, 40).fit(counts, resume=tmp_path)
    np.testing.assert_array_equal(on.components_, whole.components_)
    assert on.objective_ == whole.objective_
    for field in ("n_iter", "objective"):
        np.testing.assert_array_equal(on.trace_[field], whole.trace_[field])
    assert (np.diff(on.trace_["seconds"]) >= 0).all()


def test_the_last_two_are_kept_and_nothing_else(tmp_path, X):
    model("mu", 10).fit(X, checkpoint=Checkpoint(tmp_path / "new", iterations=3))
    assert names(tmp_path / "new") == ["checkpoint-00000006.npz", "checkpoint-00000009.npz"]
    model("mu", 20).fit(X, resume=tmp_path / "new", checkpoint=Checkpoint(tmp_path / "new", iterations=4))
    assert names(tmp_path / "new") == ["checkpoint-00000016.npz", "checkpoint-00000020.npz"]


def test_minutes_are_looked_at_after_each_iteration(tmp_path, X):
    model("mu", 5).fit(X, checkpoint=Checkpoint(tmp_path / "always", minutes=0))
    assert names(tmp_path / "always") == ["checkpoint-00000004.npz", "checkpoint-00000005.npz"]
    model("mu", 5).fit(X, checkpoint=tmp_path / "seldom")  # every ten minutes
    assert names(tmp_path / "seldom") == []


def test_a_torn_checkpoint_is_passed_over_for_the_one_before(tmp_path, X):
    model("cd", 17).fit(X, checkpoint=Checkpoint(tmp_path, iterations=5))
    last = tmp_path / "checkpoint-00000015.npz"
    last.write_bytes(last.read_bytes()[:-500])
    (tmp_path / ".0123.tmp").write_bytes(b"half a file")
    with pytest.warns(RuntimeWarning, match=r"checkpoint-00000015\.npz is damaged, .* goes on from .*00010"):
        on = model("cd", 40).fit(X, resume=tmp_path)
    np.testing.assert_array_equal(on.components_, model("cd", 40).fit(X).components_)


def test_any_cut_of_a_checkpoint_is_noticed(tmp_path, X):
    model("mu", 3).fit(X, checkpoint=Checkpoint(tmp_path, iterations=3))
    path = tmp_path / "checkpoint-00000003.npz"
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 15).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"holds no whole checkpoint, checkpoint-00000003\.npz is damaged"):
            model("mu", 6).fit(X, resume=tmp_path)


def test_max_time_is_counted_from_where_the_fit_goes_on(tmp_path, X):
    model("mu", 3).fit(X, checkpoint=Checkpoint(tmp_path, iterations=1))
    on = model("mu", 10).set_params(max_time=1e6).fit(X, resume=tmp_path)
    assert on.n_iter_ == 10


KNOWN = np.random.default_rng(3).gamma(1.0, size=(3, 40))


def started(X, folder, **known):
    model("mu", 4).fit(X, checkpoint=Checkpoint(folder, iterations=2), **known)
    return folder


def test_what_is_known_is_told_from_its_like_and_goes_on_to_the_same_bits(tmp_path, X):
    known = {"fixed_H": KNOWN * 1e-30, "row_exposure": np.arange(1.0, 121)}
    once = model("mu", 9).fit(X, **known)
    on = model("mu", 9).fit(X, resume=started(X, tmp_path, **known), **known)
    np.testing.assert_array_equal(on.trace_["objective"][-1], once.trace_["objective"][-1])
    np.testing.assert_array_equal(on.transform(X), once.transform(X))


BAD = {
    "other k": (
        lambda X, f: PoissonNMF(4, solver="mu").fit(X, resume=started(X, f)),
        ValueError, "n_components 3, this",
    ),
    "other X": (lambda X, f: model("mu", 9).fit(X[:50], resume=started(X, f)), ValueError, r"shape \[120, 40\], this"),
    "other solver": (
        lambda X, f: model("em", 9).fit(X, resume=started(X, f)),
        ValueError, "solver 'mu', this one has 'em'",
    ),
    "other model": (
        lambda X, f: model("hpf", 9).fit(X, resume=started(X, f)),
        ValueError, "resume: .* is of a fit with",
    ),
    "other prior": (
        lambda X, f: PoissonNMF(3, solver="mu", prior_W=(1.1, 1), prior_H=(1.1, 1)).fit(X, resume=started(X, f)),
        ValueError,
        "priors, exposures and known parts",
    ),
    "other exposures": (
        lambda X, f: model("mu", 9).fit(X, row_exposure=np.arange(1.0, 121), resume=started(X, f)),
        ValueError,
        "priors, exposures and known parts",
    ),
    "other known parts": (
        lambda X, f: model("mu", 9).fit(X, fixed_H=2 * KNOWN, resume=started(X, f, fixed_H=KNOWN)),
        ValueError,
        "priors, exposures and known parts",
    ),
    "other background": (
        lambda X, f: model("mu", 9).fit(X, background=np.full(40, 2.0), resume=started(X, f, background=np.ones(40))),
        ValueError,
        "priors, exposures and known parts",
    ),
    "nothing there": (lambda X, f: model("mu", 9).fit(X, resume=f / "no"), FileNotFoundError, "no holds no checkpoint"),
    "another fit's": (
        lambda X, f: model("mu", 9).fit(X, checkpoint=started(X, f)),
        FileExistsError,
        "checkpoints of another fit",
    ),
    "starts": (
        lambda X, f: PoissonNMF(3, n_init=2).fit(X, checkpoint=f),
        ValueError, "n_init must be 1 with checkpoint",
    ),
    "hpf starts": (lambda X, f: HPF(3, n_init=2).fit(X, checkpoint=f), ValueError, "n_init must be 1 with checkpoint"),
    "number": (
        lambda X, f: model("mu", 9).fit(X, checkpoint=3),
        TypeError, "checkpoint must be a path or a Checkpoint, got",
    ),
    "resume": (lambda X, f: model("mu", 9).fit(X, resume=3), TypeError, "resume must be a path, got 3"),
    "minutes": (lambda X, f: Checkpoint(f, minutes=-1), ValueError, "minutes must be a number >= 0, got -1"),
    "text": (lambda X, f: Checkpoint(f, minutes="10"), TypeError, "minutes must be a number >= 0, got '10'"),
    "iterations": (
        lambda X, f: Checkpoint(f, iterations=0),
        ValueError, "iterations must be a whole number >= 1 or None",
    ),
    "folder": (lambda X, f: Checkpoint(3), TypeError, "folder must be a path, got int"),
    "file": (
        lambda X, f: [(f / "a").touch(), PoissonNMF(2).fit(X, checkpoint=f / "a")],
        NotADirectoryError, "checkpoint must be a folder, and .*a is a file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_go_together_is_told_in_one_sentence(tmp_path, X, what):
    call, error, message = BAD[what]
    with pytest.raises(error, match=message):
        call(X, tmp_path)


def test_the_function_has_checkpoints_too(tmp_path, X):
    told = {"solver": "mu", "random_state": 0, "tol": 0}
    poisson_nmf(X, 3, max_iter=5, checkpoint=Checkpoint(tmp_path, iterations=2), **told)
    on = poisson_nmf(X, 3, max_iter=9, resume=tmp_path, **told)
    np.testing.assert_array_equal(on.W, poisson_nmf(X, 3, max_iter=9, **told).W)


# Forks children that fit with a checkpoint after each iteration and tell of each by a byte; kills each with SIGKILL
# after so many bytes, which is at any moment of what comes then; the last child goes on to the end.
KILLER = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from fastpmf import Checkpoint, PoissonNMF, datasets

folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])
told = {"random_state": 0, "tol": 0, "eval_every": 1, "n_threads": 1}
X = datasets.make_poisson_counts(2000, 300, 3, nnz=60_000, random_state=0).X
after = np.random.default_rng(0).integers(1, 5, n_kills).tolist()
seen_and_saved = []

def latest():
    found = sorted(int(path.stem[-8:]) for path in folder.glob("checkpoint-*.npz"))
    return found[-1] if found else None

def child(write):
    def tell(record, W, H):
        os.write(write, record.n_iter.to_bytes(2, "big"))

    model = PoissonNMF(4, max_iter=200, callback=tell, **told)
    model.fit(X, checkpoint=Checkpoint(folder, iterations=1), resume=folder if latest() else None)
    np.save(folder / "H.npy", model.components_)

PoissonNMF(4, max_iter=15, **told).fit(X)  # kernels are loaded once, for all children
for kill in [*after, None]:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        status = 1
        try:
            child(write)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    seen = 0
    with os.fdopen(read, "rb") as pipe:
        for _ in range(kill or 10**6):
            word = pipe.read(2)
            if not word:
                break
            seen = int.from_bytes(word, "big")
        if kill:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    # A word comes before the checkpoint of its iteration
    seen_and_saved.append([seen, latest() or 0, os.WIFSIGNALED(status)])
print(json.dumps(seen_and_saved))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_at_any_moment_lose_nothing_beyond_the_last_checkpoint(tmp_path):
    kills = 20 if ALL else 5
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path), str(kills)],
        capture_output=True, text=True, timeout=300,
        env=os.environ | {"NUMBA_THREADING_LAYER": "workqueue"},  # the one that can go on after a fork
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert [killed for *_, killed in told] == [True] * kills + [False]
    assert all(saved >= seen - 1 for seen, saved, _ in told)
    assert all(before[1] <= after[1] for before, after in pairwise(told))
    X = make_poisson_counts(2000, 300, 3, nnz=60_000, random_state=0).X
    whole = PoissonNMF(4, random_state=0, tol=0, max_iter=200, eval_every=1).fit(X)
    np.testing.assert_array_equal(np.load(tmp_path / "H.npy"), whole.components_)
