"""A fit that resumes from a checkpoint has bitwise the result of one that was never stopped."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from conftest import ALL

from fastpmf import HPF, Checkpoint, PoissonNMF, StreamedCounts, poisson_nmf
from fastpmf.datasets import make_poisson_counts
from fastpmf.fitting import checkpoint, fit
from fastpmf.solvers import Run, Status

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
MODELS = {
    "mu": (PoissonNMF, {"solver": "mu"}),
    "em": (PoissonNMF, {"solver": "em"}),
    "cd": (PoissonNMF, {}),
    "cd float32": (PoissonNMF, {"dtype": "float32"}),
    "cd alone": (PoissonNMF, {"acceleration": None}),
    "mu relaxed": (PoissonNMF, {"solver": "mu", "acceleration": "relaxation"}),
    "mu extrapolated": (PoissonNMF, {"solver": "mu", "acceleration": "extrapolation"}),
    "em extrapolated": (PoissonNMF, {"solver": "em", "acceleration": "extrapolation"}),
    "inner steps": (PoissonNMF, {"inner_steps": 2}),
    "priors": (PoissonNMF, {"prior_W": "auto", "prior_H": "auto"}),
    "hpf": (HPF, {}),
    "hpf learning": (HPF, {"learn_prior": True}),
    "hpf without hierarchy": (HPF, {"learn_prior": True, "hierarchy": False, "dtype": "float32"}),
}
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def X():
    return make_poisson_counts(120, 40, 3, nnz=1500, random_state=0).X


def model(name, max_iter):
    kind, options = MODELS[name]
    return kind(3, random_state=0, tol=0, eval_every=4, max_iter=max_iter, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same(resumed, whole):
    np.testing.assert_array_equal(resumed.components_, whole.components_)
    assert resumed.objective_ == whole.objective_
    for field in ("n_iter", "objective", "kkt_residual"):
        np.testing.assert_array_equal(resumed.trace_[field], whole.trace_[field])
    assert (np.diff(resumed.trace_["seconds"]) >= 0).all()


@pytest.mark.parametrize("streamed", [False, True], ids=["memory", "streamed"])
@every_model
def test_a_resumed_fit_has_the_bits_of_one_that_never_stopped(tmp_path, X, name, streamed):
    counts = StreamedCounts(lambda: [X[:50], X[50:]]) if streamed else X
    whole = model(name, 40).fit(counts)
    model(name, 17).fit(counts, checkpoint=Checkpoint(tmp_path, iterations=3))
    assert_same(model(name, 40).fit(counts, resume=tmp_path), whole)


@every_model
def test_a_fit_can_resume_from_any_iteration(tmp_path, X, name, monkeypatch):
    monkeypatch.setattr(checkpoint, "N_KEPT", 100)
    whole = model(name, 24).fit(X, checkpoint=Checkpoint(tmp_path / "all", iterations=1))
    for path in sorted((tmp_path / "all").iterdir())[:: 1 if ALL or "extrapolated" in name else 4]:
        (tmp_path / path.stem).mkdir()
        shutil.copy(path, tmp_path / path.stem)
        assert_same(model(name, 24).fit(X, resume=tmp_path / path.stem), whole)


@pytest.mark.parametrize("given", [{}, {"validation": 0.2}], ids=["converged", "validation"])
@every_model
def test_a_fit_that_stopped_by_itself_resumes_to_the_same_end(tmp_path, X, name, given):
    tol = 0 if given else 1e-2
    whole = model(name, 500).set_params(tol=tol).fit(X, checkpoint=Checkpoint(tmp_path, iterations=1), **given)
    assert whole.status_ is (Status.VALIDATION if given else Status.CONVERGED)
    assert_same(model(name, 500).set_params(tol=tol).fit(X, resume=tmp_path, **given), whole)


@pytest.mark.parametrize("name", ["cd", "hpf"])
def test_a_fit_with_validation_resumes_with_the_scores_so_far(tmp_path, X, name):
    def fitted(max_iter, **given):
        return model(name, max_iter).set_params(eval_every=2).fit(X, validation=0.2, **given)

    whole = fitted(40)
    fitted(9, checkpoint=Checkpoint(tmp_path, iterations=9))
    resumed = fitted(40, resume=tmp_path)
    assert_same(resumed, whole)
    np.testing.assert_array_equal(resumed.validation_, whole.validation_)
    assert resumed.status_ is whole.status_
    with pytest.raises(ValueError, match=r"is of a fit with .*, this one has"):
        model(name, 40).fit(X, resume=tmp_path)


@every_model
def test_a_state_has_no_attributes_beside_its_fields(X, name, monkeypatch):
    states = []

    class Watched(Run):
        def finish(self):
            states.append(self.state)
            return super().finish()

    monkeypatch.setattr(fit, "Run", Watched)
    model(name, 15).fit(X)
    (state,) = states
    for part in (state, getattr(state, "ahead", state)):
        assert vars(part).keys() == {field.name for field in dataclasses.fields(part)}


@pytest.mark.parametrize("name", ["cd", "hpf", "hpf learning"])
def test_a_checkpoint_with_another_shape_or_dtype_is_refused_in_one_sentence(tmp_path, X, name):
    model(name, 15).fit(X, checkpoint=Checkpoint(tmp_path, iterations=15))
    path = tmp_path / "checkpoint-00000015.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    for key, A in arrays.items():
        if key == "header":
            continue
        for change in (None, np.zeros(A.shape, np.float16), np.stack([A, A])):
            changed = {other: B for other, B in arrays.items() if other != key}
            if change is not None:
                changed[key] = change
            np.savez(path, **changed)
            with pytest.raises(ValueError, match=r"^resume: the checkpoint does not belong to such a fit: .") as error:
                model(name, 40).fit(X, resume=tmp_path)
            assert "\n" not in str(error.value)


def test_only_the_last_two_checkpoints_are_kept(tmp_path, X):
    model("mu", 10).fit(X, checkpoint=Checkpoint(tmp_path / "new", iterations=3))
    assert names(tmp_path / "new") == ["checkpoint-00000006.npz", "checkpoint-00000009.npz"]
    model("mu", 20).fit(X, resume=tmp_path / "new", checkpoint=Checkpoint(tmp_path / "new", iterations=4))
    assert names(tmp_path / "new") == ["checkpoint-00000016.npz", "checkpoint-00000020.npz"]


def test_the_time_is_checked_after_each_iteration(tmp_path, X):
    model("mu", 5).fit(X, checkpoint=Checkpoint(tmp_path / "always", minutes=0))
    assert names(tmp_path / "always") == ["checkpoint-00000004.npz", "checkpoint-00000005.npz"]
    model("mu", 5).fit(X, checkpoint=tmp_path / "seldom")  # every ten minutes
    assert names(tmp_path / "seldom") == []


def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, X):
    model("cd", 17).fit(X, checkpoint=Checkpoint(tmp_path, iterations=5))
    last = tmp_path / "checkpoint-00000015.npz"
    last.write_bytes(last.read_bytes()[:-500])
    (tmp_path / ".0123.tmp").write_bytes(b"half a file")
    with pytest.warns(RuntimeWarning, match=r"checkpoint-00000015\.npz is damaged, .* resumes from .*00010"):
        resumed = model("cd", 40).fit(X, resume=tmp_path)
    np.testing.assert_array_equal(resumed.components_, model("cd", 40).fit(X).components_)


def test_a_truncated_checkpoint_is_an_error(tmp_path, X):
    model("mu", 3).fit(X, checkpoint=Checkpoint(tmp_path, iterations=3))
    path = tmp_path / "checkpoint-00000003.npz"
    whole = path.read_bytes()
    for size in np.linspace(0, len(whole) - 1, 15).astype(int):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"holds no undamaged checkpoint; checkpoint-00000003\.npz is damaged"):
            model("mu", 6).fit(X, resume=tmp_path)


def test_max_time_starts_anew_when_a_fit_resumes(tmp_path, X):
    model("mu", 3).fit(X, checkpoint=Checkpoint(tmp_path, iterations=1))
    resumed = model("mu", 10).set_params(max_time=1e6).fit(X, resume=tmp_path)
    assert resumed.n_iter_ == 10


FIXED = np.random.default_rng(3).gamma(1.0, size=(3, 40))


def started(X, folder, **known):
    model("mu", 4).fit(X, checkpoint=Checkpoint(folder, iterations=2), **known)
    return folder


def test_a_fit_with_fixed_parts_and_exposures_resumes_to_the_same_bits(tmp_path, X):
    known = {"fixed_H": FIXED * 1e-15, "row_exposure": np.arange(1.0, 121)}
    once = model("mu", 9).fit(X, **known)
    resumed = model("mu", 9).fit(X, resume=started(X, tmp_path, **known), **known)
    assert_same(resumed, once)
    np.testing.assert_array_equal(resumed.transform(X), once.transform(X))


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
        "priors, exposures and fixed parts",
    ),
    "other exposures": (
        lambda X, f: model("mu", 9).fit(X, row_exposure=np.arange(1.0, 121), resume=started(X, f)),
        ValueError,
        "priors, exposures and fixed parts",
    ),
    "other fixed parts": (
        lambda X, f: model("mu", 9).fit(X, fixed_H=2 * FIXED, resume=started(X, f, fixed_H=FIXED)),
        ValueError,
        "priors, exposures and fixed parts",
    ),
    "other background": (
        lambda X, f: model("mu", 9).fit(X, background=np.full(40, 2.0), resume=started(X, f, background=np.ones(40))),
        ValueError,
        "priors, exposures and fixed parts",
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
def test_contradictions_are_refused_in_one_sentence(tmp_path, X, what):
    call, error, message = BAD[what]
    with pytest.raises(error, match=message):
        call(X, tmp_path)


def test_the_function_has_checkpoints_too(tmp_path, X):
    options = {"solver": "mu", "random_state": 0, "tol": 0}
    poisson_nmf(X, 3, max_iter=5, checkpoint=Checkpoint(tmp_path, iterations=2), **options)
    resumed = poisson_nmf(X, 3, max_iter=9, resume=tmp_path, **options)
    np.testing.assert_array_equal(resumed.W, poisson_nmf(X, 3, max_iter=9, **options).W)


# Forks children that fit with a checkpoint after each iteration and write the number of each iteration to a pipe. Kills
# each child with SIGKILL after some iterations, at an arbitrary moment of the next one. The last child finishes.
KILLER = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from fastpmf import Checkpoint, PoissonNMF, datasets

folder, n_kills = Path(sys.argv[1]), int(sys.argv[2])
options = {"random_state": 0, "tol": 0, "eval_every": 1, "n_threads": 1}
X = datasets.make_poisson_counts(2000, 300, 3, nnz=60_000, random_state=0).X
after = np.random.default_rng(0).integers(1, 5, n_kills).tolist()
seen_and_saved = []

def latest():
    found = sorted(int(path.stem[-8:]) for path in folder.glob("checkpoint-*.npz"))
    return found[-1] if found else None

def child(write):
    def write_number(record, W, H):
        os.write(write, record.n_iter.to_bytes(2, "big"))

    model = PoissonNMF(4, max_iter=200, callback=write_number, **options)
    model.fit(X, checkpoint=Checkpoint(folder, iterations=1), resume=folder if latest() else None)
    np.save(folder / "H.npy", model.components_)

PoissonNMF(4, max_iter=15, **options).fit(X)  # kernels are loaded once, for all children
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
            number = pipe.read(2)
            if not number:
                break
            seen = int.from_bytes(number, "big")
        if kill:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    # The number is written before the checkpoint of its iteration
    seen_and_saved.append([seen, latest() or 0, os.WIFSIGNALED(status)])
print(json.dumps(seen_and_saved))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kills_at_any_moment_lose_at_most_one_iteration(tmp_path):
    kills = 20 if ALL else 5
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLER, str(tmp_path), str(kills)],
        capture_output=True, text=True, timeout=300,
        env=os.environ | {"NUMBA_THREADING_LAYER": "workqueue"},  # the one that can go on after a fork
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert [killed for *_, killed in found] == [True] * kills + [False]
    assert all(saved >= seen - 1 for seen, saved, _ in found)
    assert all(before[1] <= after[1] for before, after in pairwise(found))
    X = make_poisson_counts(2000, 300, 3, nnz=60_000, random_state=0).X
    whole = PoissonNMF(4, random_state=0, tol=0, max_iter=200, eval_every=1).fit(X)
    np.testing.assert_array_equal(np.load(tmp_path / "H.npy"), whole.components_)
