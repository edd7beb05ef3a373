"""Calls of a model in any order: refused calls change nothing, and a new fit keeps nothing of earlier ones."""

import pickle
import warnings

import numpy as np
import pytest
from conftest import ALL

from fastpmf import HPF, PoissonNMF


def pickled(model):
    """All attributes of a model by name, pickled."""
    return {name: pickle.dumps(value) for name, value in vars(model).items()}


def refused(model, X):
    """Calls that must raise an error."""
    bad = X.copy()
    bad[1, 1] = np.nan
    calls = [
        lambda: model.fit(bad), lambda: model.fit(-X), lambda: model.fit(0 * X), lambda: model.partial_fit(bad),
        lambda: type(model)(3).partial_fit(0 * X), lambda: model.transform(bad), lambda: model.score(X[:, :0]),
        lambda: model.set_params(n_components=0).fit(X), lambda: model.set_params(max_iter=-1).fit(X),
        lambda: model.save("/dev/null/model.npz"),
    ]  # fmt: skip
    if isinstance(model, PoissonNMF):
        k, (n, p) = model.n_components, X.shape
        calls += [
            lambda: model.fit(X, row_exposure=np.ones(n + 1)), lambda: model.fit(X, fixed_W=np.zeros((n, k))),
            lambda: model.fit(X, fixed_H=np.full((k, p), 1e-320)), lambda: model.transform(X, row_exposure=np.zeros(n)),
            lambda: model.partial_fit(X, row_exposure=-np.ones(n)),
            lambda: model.set_params(callback=lambda *_: 1 / 0).fit(X),
        ]  # fmt: skip
    return calls


NEW_PARAMETERS = [
    *((kind, {"n_components": k}) for kind in (PoissonNMF, HPF) for k in (2, 5, 40)),
    *((kind, {"dtype": "float32"}) for kind in (PoissonNMF, HPF)),
    (PoissonNMF, {"solver": "em"}), (HPF, {"hierarchy": False}), (HPF, {"learn_prior": True}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "parameters"), NEW_PARAMETERS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_parameters_set_after_a_fit_do_not_change_the_fitted_model_nor_its_file(kind, method, parameters, tmp_path):
    X = np.random.default_rng(0).poisson(1.5, (30, 12)) + 1
    model = kind(3, random_state=0, max_iter=5, tol=0)
    before = pickled(getattr(model, method)(X).set_params(**parameters))
    model.save(tmp_path / "model.npz")
    again = kind.load(tmp_path / "model.npz")
    assert again.get_params() == model.get_params()
    assert again.components_.shape == (3, 12)
    for one in (again, model):
        assert one.transform(X).shape == (30, 3)
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    assert again.score(X) == model.score(X)
    assert vars(again).keys() <= before.keys() | {"_online", "_schedule"}
    for one in (again, model) if method == "partial_fit" else ():
        one.partial_fit(X)
    np.testing.assert_array_equal(again.components_, model.components_)


def random_data(rng, kind, n, p):
    if kind is HPF:
        return {}
    drawn = {
        "row_exposure": rng.gamma(5, 0.2, n), "column_exposure": rng.gamma(5, 0.2, p), "mask": rng.random((n, p)) < 0.1,
        "background": rng.gamma(5, 0.02, p), "sample_weight": rng.gamma(5, 0.2, n),
    }  # fmt: skip
    return {name: value for name, value in drawn.items() if rng.random() < 0.4}


@pytest.mark.parametrize("seed", range(24 if ALL else 6))
@pytest.mark.parametrize("kind", [PoissonNMF, HPF])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_after_calls_in_any_order_a_model_is_that_of_the_last_fit_alone(kind, seed, tmp_path):
    rng = np.random.default_rng(seed)
    n, p, k = rng.integers(4, 20), rng.integers(3, 15), int(rng.integers(1, 4))
    X = rng.poisson(1.5, (n, p)) + 1.0 * (np.arange(n) == 0)[:, None]
    options = {"n_components": k, "max_iter": int(rng.integers(1, 8)), "random_state": seed, "tol": 0}
    if kind is PoissonNMF:
        options["solver"] = str(rng.choice(["mu", "cd", "em"]))
    data, model, alike = random_data(rng, kind, n, p), kind(**options), None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* carry no counts")
        for what in rng.choice(["fit", "partial_fit", "refused", "transform", "save", "pickle"], 10):
            if what == "fit":
                model.fit(X, **data)
                alike = kind(**options).fit(X, **data)
            elif what == "partial_fit":
                # After `fit` it starts anew, after `partial_fit` it continues
                if alike is None or "partial" not in str(alike.status_):
                    alike = kind(**options)
                for one in (model, alike):
                    one.partial_fit(X)
            elif what == "refused":
                calls = refused(model, X)
                parameters, before = model.get_params(), pickled(model)
                with pytest.raises((ValueError, OSError, ZeroDivisionError)) as error:
                    calls[rng.integers(len(calls))]()
                assert "\n" not in str(error.value)
                model.set_params(**parameters)
                assert pickled(model) == before
            elif alike is not None and what == "transform":
                before = pickled(model)
                model.transform(X), model.score(X)
                assert pickled(model) == before
            elif alike is not None and what == "save":
                model.save(tmp_path / "model.npz")
                model = kind.load(tmp_path / "model.npz")
            elif alike is not None:
                model = pickle.loads(pickle.dumps(model))
            if alike is not None:
                np.testing.assert_array_equal(model.transform(X), alike.transform(X))
                np.testing.assert_array_equal(model.components_, alike.components_)
                assert model.n_iter_ == alike.n_iter_
