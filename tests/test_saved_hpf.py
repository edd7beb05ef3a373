"""Model files of `HPF`."""

import json

import numpy as np
import pytest

from fastpmf import HPF, PoissonNMF
from fastpmf.io import is_model, load_model


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(3)
    return rng.poisson(rng.gamma(0.5, 2, (30, 3)) @ rng.gamma(0.5, 1, (3, 21))) + np.eye(30, 21, dtype=int)


@pytest.mark.parametrize("options", [{}, {"hierarchy": False}, {"learn_prior": True, "dtype": "float32"}])
def test_a_loaded_model_is_the_one_that_was_saved_to_the_bit(X, tmp_path, options):
    model = HPF(3, max_iter=20, tol=0, random_state=0, **options).fit(X, validation=0.2)
    model.save(tmp_path / "model.npz")
    assert is_model(tmp_path / "model.npz")
    for again in (HPF.load(tmp_path / "model.npz"), load_model(tmp_path / "model.npz")):
        assert isinstance(again, HPF)
        assert again.get_params() == model.get_params()
        for name in ("W_posterior_", "H_posterior_", "activity_", "popularity_"):
            one, other = getattr(model, name), getattr(again, name)
            if one is None:
                assert other is None
                continue
            np.testing.assert_array_equal(one.shape, other.shape)
            np.testing.assert_array_equal(one.rate, other.rate)
        np.testing.assert_array_equal(again.transform(X[:7]), model.transform(X[:7]))
        np.testing.assert_array_equal(again.trace_, model.trace_)
        np.testing.assert_array_equal(again.validation_, model.validation_)
        assert again.score(X) == model.score(X)
        assert (again.elbo_, again.residual_) == (model.elbo_, model.residual_)
        np.testing.assert_equal(again.prior_, model.prior_)
        assert (again.n_iter_, again.status_) == (model.n_iter_, model.status_)
        rows, columns = np.array([0, 4]), np.array([1, 2])
        np.testing.assert_array_equal(again.predictive_mean(rows, columns), model.predictive_mean(rows, columns))


def test_names_are_kept_and_a_mini_batch_model_has_no_rows(X, tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=[f"gene {j}" for j in range(21)])
    model = HPF(2, random_state=0).partial_fit(frame)
    model.save(tmp_path / "model.npz")
    again = HPF.load(tmp_path / "model.npz")
    assert again.feature_names_in_.tolist() == list(frame.columns)
    assert not hasattr(again, "W_posterior_")
    np.testing.assert_array_equal(again.transform(frame), model.transform(frame))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("mean", lambda A: A[:-1]),
        ("mean", lambda A: A * np.nan),
        ("shape", lambda A: A[:, :3].copy()),
        ("rate_of_row", lambda A: A.astype("float32")),
        ("weight", lambda A: np.vstack([A, A])),
        ("sums", lambda A: A[:2]),
        ("W_rate", lambda A: A[:, :2]),
        ("trace", lambda A: np.zeros(3)),
        ("geometric", lambda A: None),
    ],
)
def test_arrays_of_other_sizes_are_refused(X, tmp_path, name, change):
    path = tmp_path / "model.npz"
    HPF(3, max_iter=5, tol=0, random_state=0).fit(X).save(path)
    arrays = dict(np.load(path))
    changed = change(arrays.pop(name))
    np.savez(path, **arrays, **({} if changed is None else {name: changed}))
    with pytest.raises(ValueError, match="is not a valid fastpmf model file"):
        HPF.load(path)


def test_a_file_of_another_model_is_refused(X, tmp_path):
    path = tmp_path / "model.npz"
    PoissonNMF(2, random_state=0, max_iter=5, tol=0).fit(X).save(path)
    assert isinstance(load_model(path), PoissonNMF)
    with pytest.raises(
        ValueError, match=r"of class PoissonNMF and .*, expected HPF and version 1; fastpmf\.io\.load_model"
    ):
        HPF.load(path)
    arrays = dict(np.load(path))
    header = json.loads(str(arrays.pop("header"))) | {"kind": "LDA"}
    np.savez(path, header=np.array(json.dumps(header)), **arrays)
    with pytest.raises(ValueError, match="holds a model of class LDA, expected one of PoissonNMF, HPF"):
        load_model(path)
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "absent.npz")
