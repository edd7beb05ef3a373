"""Ctrl-C and SIGTERM at any moment: estimators hold one whole fit, files are the old ones or the new."""

import copy
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

import fastpmf
from fastpmf import (
    HPF,
    Checkpoint,
    FitInterrupted,
    PoissonNMF,
    SelectionInterrupted,
    Status,
    StreamedCounts,
    as_counts,
    cli,
    kl_divergence,
    select_n_components,
)
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import load_model, read_counts
from fastpmf.solvers.base import Problem
from fastpmf.solvers.mean_field import PosteriorProblem

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # A signal may come between a file's opening and the with statement that closes it: then its last reference does
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
PACKAGE = str(Path(fastpmf.__file__).parent)
MOMENTS = 6
TOLD = {"random_state": 0, "tol": 0, "eval_every": 2, "max_iter": 6}


@pytest.fixture(autouse=True)
def as_in_a_terminal():
    """Ctrl-C is a KeyboardInterrupt, also where whoever runs the tests has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Moments:
    """Counts the lines of the package that are run, and has signals sent as some of them begin."""

    def __init__(self, signals):
        self._signals, self.lines = dict(signals), 0

    def __call__(self, frame, event, arg):
        return self._line if frame.f_code.co_filename.startswith(PACKAGE) else None

    def _line(self, frame, event, arg):
        if event == "line":
            self.lines += 1
            if self.lines in self._signals:
                signal.raise_signal(self._signals.pop(self.lines))
        return self._line


def struck(call, signals=()):
    """What the call returned or raised, and how many lines it ran, with signals as so many lines have been run."""
    moments, before = Moments(signals), sys.gettrace()
    sys.settrace(moments)
    try:
        found = call()
    except KeyboardInterrupt as error:
        found = error
    finally:
        sys.settrace(before)
    return found, moments.lines


def moments_of(lines, seed):
    """Some moments anywhere, and one close to the end, where a fit is kept."""
    rng = np.random.default_rng(seed)
    return [*rng.integers(1, lines, MOMENTS - 1).tolist(), lines - int(rng.integers(1, 60))]


@pytest.fixture(scope="module")
def X():
    return make_poisson_counts(120, 40, 3, nnz=1500, random_state=0).X


@pytest.fixture(scope="module")
def counts(X):
    return as_counts(X)


def streamed(X):
    return StreamedCounts(lambda: [X[:50], X[50:]])


def same(model, was):
    """Whether nothing of it was touched."""
    now = vars(model)
    return now.keys() == was.keys() and all(now[name] is was[name] for name in was)


FITS = {
    "mu": (PoissonNMF, {"solver": "mu"}),
    "em": (PoissonNMF, {"solver": "em"}),
    "cd": (PoissonNMF, {"max_iter": 12}),
    "starts": (PoissonNMF, {"solver": "mu", "n_init": 2}),
    "hpf": (HPF, {}),
}


def assert_whole(model, was, after, error, X):
    """The estimator is what it was, or all that `after`, the one of a whole fit, has is of one fit."""
    if same(model, was):
        assert not isinstance(error, FitInterrupted)
        return
    assert vars(model).keys() == vars(after).keys()
    assert model.n_iter_ > 0
    assert np.isfinite(model.transform(X[:3])).all()
    if isinstance(error, FitInterrupted):
        found = error.solution
        assert model.status_ is found.status
        np.testing.assert_allclose(model.components_, found.H, rtol=1e-6)  # HPF divides once more, in float32
        assert np.isfinite(found.W).all()
        assert np.isnan(model.objective_) == (model.status_ is Status.UNMEASURED)
        if isinstance(model, PoissonNMF) and model.status_ is Status.INTERRUPTED:
            assert model.objective_ == pytest.approx(kl_divergence(X, found.W, found.H), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "kept"),
    [(name, kept) for name in FITS for kept in ("memory", "streamed", "checkpoint") if name != "starts"]
    + [("starts", "memory")],
)
def test_ctrl_c_at_any_moment_leaves_the_estimator_one_whole_fit(tmp_path, X, counts, name, kept):
    kind, options = FITS[name]
    data, told = streamed(X) if kept == "streamed" else counts, {}
    earlier = kind(3, **TOLD | options | {"random_state": 1}).fit(counts).set_params(random_state=0)

    def attempt(number, signals=()):
        if kept == "checkpoint":
            told["checkpoint"] = Checkpoint(tmp_path / str(number), iterations=1)
        model = copy.copy(earlier)
        found, lines = struck(lambda: model.fit(data, **told), signals)
        return model, found, lines

    after, _, lines = attempt("whole")
    outcomes = []
    for number, moment in enumerate(moments_of(lines, seed=len(name))):
        # every third time it is struck twice
        again = [(moment + 40, signal.SIGINT)] if number % 3 == 0 else []
        model, error, _ = attempt(number, [(moment, signal.SIGINT), *again])
        assert_whole(model, vars(earlier), after, error, X)
        outcomes.append(type(error))
        if kept == "checkpoint" and (tmp_path / str(number)).exists():
            saved = sorted(path.name for path in (tmp_path / str(number)).iterdir())
            assert all(name.startswith("checkpoint-") for name in saved)
            if saved:
                on = kind(3, **TOLD | options).fit(data, resume=tmp_path / str(number))
                np.testing.assert_array_equal(on.components_, after.components_)
    assert FitInterrupted in outcomes


@pytest.mark.parametrize("kind", [PoissonNMF, HPF])
def test_ctrl_c_while_a_fit_is_measured_costs_the_measures_only(tmp_path, X, kind, monkeypatch):
    whole = kind(3, **TOLD).fit(X)
    measured = iter([None] * 4)  # at the start and every second iteration; then the one at the end

    def interrupt(*_):
        if next(measured, "end") == "end":
            raise KeyboardInterrupt
        return 1.0

    for problem in (Problem, PosteriorProblem):
        monkeypatch.setattr(problem, "objective", interrupt)
    model = kind(3, **TOLD | {"solver": "mu"} if kind is PoissonNMF else TOLD)
    with pytest.raises(FitInterrupted, match="are kept, unmeasured"):
        model.fit(X)
    assert (model.n_iter_, model.status_) == (6, Status.UNMEASURED)
    assert np.isnan(model.objective_)
    if kind is HPF:
        np.testing.assert_array_equal(model.components_, whole.components_)
    model.save(tmp_path / "model.npz")
    assert load_model(tmp_path / "model.npz").status_ is Status.UNMEASURED


@pytest.mark.parametrize("kind", [PoissonNMF, HPF])
def test_ctrl_c_before_the_first_iteration_is_done_leaves_a_fitted_estimator_as_it_was(X, kind):
    model = kind(3, **TOLD).fit(X)
    before = dict(vars(model))

    def interrupt(record, W, H):
        raise KeyboardInterrupt

    before["callback"] = interrupt
    with pytest.raises(KeyboardInterrupt, match="before an iteration was done") as error:
        model.set_params(callback=interrupt).fit(X)
    assert not isinstance(error.value, FitInterrupted)
    assert same(model, before)


@pytest.mark.parametrize("kind", [PoissonNMF, HPF])
@pytest.mark.parametrize("first", [True, False], ids=["first batch", "later batch"])
def test_a_mini_batch_that_is_interrupted_has_not_been_seen(X, kind, first):
    earlier = kind(3, random_state=0)
    if not first:
        earlier.partial_fit(X[:60])
    wanted = copy.deepcopy(earlier)
    _, lines = struck(lambda: wanted.partial_fit(X[60:]))
    for moment in moments_of(lines, seed=3):
        model = copy.copy(earlier)
        struck(lambda model=model: model.partial_fit(X[60:]), [(moment, signal.SIGINT)])
        if same(model, vars(earlier)):
            model.partial_fit(X[60:])
        np.testing.assert_array_equal(model.components_, wanted.components_)
        assert model.n_iter_ == wanted.n_iter_


def test_transform_and_score_leave_the_model_as_it_is(X):
    for model in (PoissonNMF(3, **TOLD).fit(X), HPF(3, **TOLD).fit(X)):
        before, wanted = dict(vars(model)), model.transform(X)
        _, lines = struck(lambda model=model: model.transform(X))
        for moment in moments_of(lines, seed=4):
            struck(lambda model=model: model.transform(X), [(moment, signal.SIGINT)])
            assert same(model, before)
        np.testing.assert_array_equal(model.transform(X), wanted)


def test_a_selection_keeps_the_splits_that_are_done(X):
    def select():
        model = PoissonNMF(1, prior_W="auto", prior_H="auto", max_iter=3)
        return select_n_components(X, [1, 2], estimator=model, n_splits=3, random_state=0)

    whole, lines = struck(select)
    for moment in moments_of(lines, seed=5):
        error, _ = struck(select, [(moment, signal.SIGINT)])
        if isinstance(error, SelectionInterrupted):
            done = error.selection.log_likelihood.shape[1]
            assert done >= 1
            np.testing.assert_array_equal(error.selection.log_likelihood, whole.log_likelihood[:, :done])
        else:
            assert not isinstance(error, FitInterrupted)
            # Before the first of three splits is done, or when all is on its way out
            assert moment < 0.5 * lines or moment > lines - 60


COMMANDS = {
    "fit": "fit X.npz -k 3 --max-iter 6 --tol 0 -q -o out.npz --weights out.npy --factors all.npz",
    "fit --stream": "fit X --stream -k 3 --max-iter 6 --tol 0 -q -o out.npz --checkpoint saved",
    "convert": "convert X.npz -q -o out",
    "transform": "transform model.npz X.npz -o out.npy",
    "consensus": "consensus X.npz -k 2 --replicates 3 --density-threshold 1.5 --max-iter 3 --tol 0 -q -o out.npz",
    "topics": "topics model.npz -o out.csv",
    "select": "select X.npz -k 1 2 --splits 2 -q --plot out.png",
    "standard input": "info - --format npz",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_leaves_old_files_or_new_ones_and_says_so(tmp_path, X, command, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    sparse.save_npz("X.npz", sparse.csr_array(X))
    fastpmf.io.write_counts("X", X)
    PoissonNMF(3, **TOLD).fit(X).save("model.npz")
    given = {path: whole(path) for path in sorted(Path().iterdir())}

    def attempt(signals=()):
        for name in ("out.npz", "out.npy", "all.npz", "out.csv", "out.png"):
            Path(name).write_text("old")
        if Path("saved").exists():
            [path.unlink() for path in Path("saved").iterdir()]
        fastpmf.io.write_counts("out", X[:7])
        with open("X.npz", "rb") as file:
            monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": file}))
            return struck(lambda: cli.main(COMMANDS[command].split()), signals)

    code, lines = attempt()
    assert code == 0, capsys.readouterr().err
    capsys.readouterr()
    for number, moment in enumerate(moments_of(lines, seed=6)[-3 if command == "select" else 0 :]):  # drawing is slow
        kind = (signal.SIGINT, signal.SIGTERM)[number % 2]
        if kind is signal.SIGTERM:
            moment = max(moment, 40) if moment < lines - 30 else lines - 30  # where main is in charge
        again = [(moment + 25, kind)] if number % 5 == 4 and kind is signal.SIGINT else []
        code, _ = attempt([(moment, kind), *again])
        told = capsys.readouterr().err
        if isinstance(code, int) and code:
            assert code == 128 + kind
            assert (
                f"fastpmf {COMMANDS[command].split()[0]}: interrupted, " in told or "fastpmf: interrupted, " in told
            )  # stages of more than a second come before
            assert ("out.npz" in told) == (Path("out.npz").read_bytes()[:3] != b"old")
        assert not [name for name in os.listdir() if name.startswith((".", "tmp"))]
        assert {path: whole(path) for path in given} == given
        if (model := Path("out.npz")).read_bytes() != b"old":
            assert load_model(model).n_iter_ > 0
        for array in (Path("out.npy"), Path("all.npz")):
            if array.read_bytes() != b"old":
                np.load(array)
        assert Path("out.csv").read_bytes() == b"old" or Path("out.csv").read_text().startswith("component,rank")
        assert Path("out.png").read_bytes() == b"old" or Path("out.png").read_bytes().endswith(b"IEND\xaeB`\x82")
        converted = read_counts("out").X
        np.testing.assert_array_equal(converted.toarray(), X[: converted.shape[0]].toarray())
        assert converted.shape[0] in (7, len(X.indptr) - 1)


def whole(path):
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.is_dir() else path.read_bytes()


def test_sigterm_that_was_ignored_stays_ignored(tmp_path, X, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sparse.save_npz("X.npz", sparse.csr_array(X))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        found, _ = struck(lambda: cli.main(COMMANDS["fit"].split()), [(60, signal.SIGTERM)])
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
    assert found == 0
    assert load_model("out.npz").status_ is Status.MAX_ITER


def test_a_folder_that_is_about_to_be_replaced_is_not_lost_between_two_moves(tmp_path, X, monkeypatch):
    fastpmf.io.write_counts(tmp_path / "X", X[:7])
    move, calls = os.replace, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return move(*args)

    monkeypatch.setattr("fastpmf.io.npy.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastpmf.io.write_counts(tmp_path / "X", X)
    assert os.listdir(tmp_path) == ["X"]
    np.testing.assert_array_equal(read_counts(tmp_path / "X").X.toarray(), X[:7].toarray())
