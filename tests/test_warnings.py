"""Warnings point to the line of the user's code, whatever frames are between it and the call of `warn`."""

import contextlib
import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import fastpmf
from fastpmf import HPF, PoissonNMF, Status, non_negative_factorization, poisson_nmf
from fastpmf.utils.warnings import warn

SHORT = {"max_iter": 2, "tol": 1e-12, "random_state": 0, "n_threads": 1}


def some_counts(n=30, p=20):
    return np.random.default_rng(0).poisson(1.0, (n, p)) + np.eye(n, p, dtype=int)


X = some_counts()
ROWS_APART = np.kron(np.eye(2), np.full((3, 4), 5.0))


def fitted(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PoissonNMF(2, **SHORT | options).fit(X)


def fitted_hpf(**options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return HPF(2, **SHORT | options).fit(X)


def damaged_checkpoint(folder):
    fitted_with = PoissonNMF(2, max_iter=4, tol=0, random_state=0)
    fitted_with.fit(X, checkpoint=fastpmf.Checkpoint(folder, iterations=2))
    newest = max(Path(folder).iterdir())
    newest.write_bytes(newest.read_bytes()[:100])
    PoissonNMF(2, max_iter=4, tol=0, random_state=0).fit(X, resume=folder)


def unwritable_checkpoint(folder, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    PoissonNMF(2, max_iter=2, tol=0, random_state=0).fit(X, checkpoint=fastpmf.Checkpoint(folder, iterations=1))


def non_finite():
    W, H = np.full((2, 1), 1e-200), np.full((1, 2), 1e-200)
    poisson_nmf(np.ones((2, 2)), 1, init="custom", W=W, H=H, max_iter=3)


UNFINISHED = "Stopped at max_iter"
PIPELINE = make_pipeline(FunctionTransformer(), PoissonNMF(2, **SHORT))
DEAD = {"init": "custom", "W": [[1, 0], [1, 0]], "H": [[1, 1], [1, 1]]}
AT_ZERO = {"init": "custom", "W": np.zeros((30, 1)), "H": np.ones((1, 20)), "tol": 0, "max_iter": 1}
KNOWN = {"W": np.ones((30, 2)), "H": np.ones((2, 20)), "update_H": False}
KINDS = {
    "PoissonNMF.fit": (lambda: PoissonNMF(2, **SHORT).fit(X), UNFINISHED),
    "PoissonNMF.fit_transform": (lambda: PoissonNMF(2, **SHORT).fit_transform(X), UNFINISHED),
    "max_time": (lambda: PoissonNMF(2, **SHORT | {"max_iter": 99}, max_time=0).fit(X), "Stopped at max_time"),
    "HPF.fit": (lambda: HPF(2, **SHORT).fit(X), UNFINISHED),
    "HPF.fit_transform": (lambda: HPF(2, **SHORT).fit_transform(X), UNFINISHED),
    "PoissonNMF.transform": (lambda: fitted().set_params(max_iter=1).transform(X), "some rows of X"),
    "PoissonNMF.score": (lambda: fitted().set_params(max_iter=1).score(X), "some rows of X"),
    "PoissonNMF.recommend": (lambda: fitted().set_params(max_iter=1).recommend(X=X, n=2), "some rows of X"),
    "HPF.posterior": (lambda: fitted_hpf().set_params(max_iter=1).posterior(X), "posteriors of some rows"),
    "HPF.transform": (lambda: fitted_hpf().set_params(max_iter=1).transform(X), "posteriors of some rows"),
    "dead components": (lambda: poisson_nmf([[5, 0], [0, 0]], 2, **DEAD), "components carry no counts"),
    "one factor penalised": (lambda: poisson_nmf(X, 2, prior_W=(1, 1), max_iter=1), "Only one of W and H"),
    "rates of 0 at the start": (lambda: poisson_nmf(X, 1, **AT_ZERO), "a rate of 0 under a positive count"),
    "drop-in": (lambda: non_negative_factorization(X, n_components=2, max_iter=2), UNFINISHED),
    "drop-in, a start": (
        lambda: non_negative_factorization(X, W=KNOWN["W"], n_components=2),
        "with init='custom' only",
    ),
    "drop-in, H known": (lambda: non_negative_factorization(X, **KNOWN), "W is not used"),
    "Pipeline.fit": (lambda: PIPELINE.fit(X), UNFINISHED),
    "Pipeline.fit_transform": (lambda: PIPELINE.fit_transform(X), UNFINISHED),
    "cross_val_score": (lambda: cross_val_score(PoissonNMF(2, **SHORT), X, cv=2), UNFINISHED),
    "GridSearchCV": (lambda: GridSearchCV(PoissonNMF(2, **SHORT), {"n_components": [1, 2]}, cv=2).fit(X), UNFINISHED),
    "set_output": (lambda: PoissonNMF(2, **SHORT).set_output(transform="default").fit_transform(X), UNFINISHED),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_warning_names_the_line_of_the_caller(kind):
    call, message = KINDS[kind]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert any(message in str(w.message) for w in caught)
    assert {w.filename for w in caught} == {__file__}


def test_a_warning_of_a_rate_that_is_not_finite_names_the_line_of_the_caller():
    with pytest.warns(RuntimeWarning, match="Stopped at a rate") as caught:
        non_finite()
    assert {w.filename for w in caught} == {__file__}


def test_warnings_of_checkpoints_name_the_line_of_the_caller(tmp_path, monkeypatch):
    with pytest.warns(RuntimeWarning, match="is damaged, so the fit resumes from") as caught:
        damaged_checkpoint(tmp_path / "a")
    assert {w.filename for w in caught} == {__file__}
    with pytest.warns(RuntimeWarning, match="a checkpoint could not be written") as caught:
        unwritable_checkpoint(tmp_path / "b", monkeypatch)
    assert {w.filename for w in caught} == {__file__}


def test_warnings_of_anndata_functions_name_the_line_of_the_caller():
    anndata = pytest.importorskip("anndata")
    from fastpmf.anndata import poisson_nmf as factorize

    adata = anndata.AnnData(X + 0.5)
    with pytest.warns(Warning, match="doesn't look like counts|Stopped at max_iter") as caught:
        factorize(adata, 2, **SHORT)
    assert {w.category for w in caught} == {UserWarning, ConvergenceWarning}
    assert {w.filename for w in caught} == {__file__}


def test_without_a_frame_of_the_user_a_warning_names_the_outermost_line():
    def fit():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clone(PoissonNMF(2, **SHORT)).fit(X)
        return [w.filename for w in caught]

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(fit).result() == [__file__]
        with pytest.warns(ConvergenceWarning) as caught:
            pool.submit(PoissonNMF(2, **SHORT).fit, X).result()
    (warning,) = caught
    assert Path(warning.filename).name == "thread.py"
    assert Path(warning.filename).is_file()


def test_frames_of_libraries_are_skipped():
    @contextlib.contextmanager
    def between():
        yield

    with pytest.warns(UserWarning, match="here") as caught, between():
        warn("here")
    assert caught[0].filename == __file__
    named = {"warn": warn}
    exec(compile("def inner(): warn('deep')", contextlib.__file__, "exec"), named)
    with pytest.warns(UserWarning, match="deep") as caught:
        named["inner"]()
    assert caught[0].filename == __file__


@pytest.mark.parametrize("status", Status)
def test_a_status_is_a_string(status):
    sentence = str(status)
    assert isinstance(status, str)
    assert type(sentence) is str
    assert status == sentence
    assert f"{status}" == f"{status:s}" == sentence
    assert json.loads(json.dumps({"status": status})) == {"status": sentence}
    assert status.startswith(sentence[:5])
    assert status.endswith(".")
    assert pickle.loads(pickle.dumps(status)) is status
    assert Status(sentence) is Status[status.name] is status
    assert hash(status) == hash(sentence)


def test_all_statuses_have_different_texts():
    assert len({str(status) for status in Status}) == len(Status.__members__)


def test_a_convergence_warning_names_the_quantity_compared_with_tol():
    with pytest.warns(
        ConvergenceWarning, match=r"The KKT residual is \S+ nats per count after 2 iterations; tol is 1e-12[.;]"
    ):
        PoissonNMF(2, **SHORT).fit(X)
    with pytest.warns(
        ConvergenceWarning, match=r"The last updates moved a share of \S+ of the counts after 2 iterations"
    ) as caught:
        HPF(2, **SHORT).fit(X)
    assert "residual" not in str(caught[0].message)
