"""`PoissonNMF` as a scikit-learn estimator."""

import math
import pickle
import warnings

import naive
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

import fastpmf
from fastpmf import FitInterrupted, PoissonNMF, Status, kl_divergence, poisson_log_likelihood, poisson_nmf


@pytest.fixture
def X():
    rng = np.random.default_rng(1)
    return sparse.csr_array(rng.poisson(rng.gamma(0.5, 2, (40, 3)) @ rng.gamma(0.3, 1, (3, 25))))


@pytest.fixture
def model(X):
    return PoissonNMF(3, tol=1e-3, max_iter=5000, random_state=0).fit(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:.*carry no counts:UserWarning")
@parametrize_with_checks([PoissonNMF(2, random_state=0)])
def test_scikit_learns_checks_pass(estimator, check):
    if "sample_weight_equivalence" in str(check):
        # Other rows give other random starts; the result is the same only if the optimum is unique, including its scale
        prior = (1.1, 1.0)
        estimator = clone(estimator).set_params(  # the other checks have the same object
            n_components=1, prior_W=prior, prior_H=prior, solver="mu", tol=1e-15, max_iter=20_000
        )
    check(estimator)


def test_attributes_are_those_of_the_solution(X):
    solution = poisson_nmf(X, 3, max_iter=20, random_state=0)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        model = PoissonNMF(3, max_iter=20, random_state=0).fit(X)
    assert np.array_equal(model.components_, solution.H)
    assert model.objective_ == solution.objective == model.trace_["objective"][-1]
    assert model.reconstruction_err_ == math.sqrt(2 * solution.objective)
    assert (model.n_iter_, model.n_components_, model.n_features_in_) == (20, 3, 25)
    assert model.status_ is Status.MAX_ITER
    assert list(model.trace_["n_iter"]) == [0, 10, 20]


def test_objective_is_the_divergence_of_the_factors(X):
    model = PoissonNMF(3, max_iter=7, tol=0, random_state=0)
    W = model.fit_transform(X)
    # the same sums in another order
    assert model.objective_ == pytest.approx(kl_divergence(X, W, model.components_), rel=1e-12)


def test_score_is_the_log_likelihood_per_count(X, model):
    W = model.transform(X)
    assert model.score(X) == poisson_log_likelihood(X, W, model.components_) / X.sum()


def test_the_transform_of_a_row_does_not_depend_on_the_other_rows(X, model):
    together = model.transform(X)
    for i in (0, 7, 39):
        assert np.array_equal(model.transform(X[[i]])[0], together[i])


def test_transform_is_better_than_the_fits_own_weights_at_fixed_components(X):
    model = PoissonNMF(3, max_iter=20, tol=0, random_state=0, dtype=np.float64)
    W = model.fit_transform(X)
    model.set_params(max_iter=2000, tol=1e-9)
    # an optimum of a convex problem, up to the tolerance in nats per count
    assert kl_divergence(X, model.transform(X), model.components_) <= kl_divergence(X, W, model.components_) + 1e-6


def test_rows_of_zeros_transform_to_zeros(model):
    assert not model.transform(sparse.csr_array((2, 25), dtype=np.uint8)).any()


def test_counts_that_no_component_produces_are_left_out(X, model):
    model.components_ = model.components_.copy()
    model.components_[:, 4] = 0
    known = X.toarray()
    known[:, 4] = 0
    assert np.array_equal(model.transform(X), model.transform(known))
    assert model.score(X) == model.score(known)


@pytest.mark.parametrize(
    ("given", "worked"),
    [("uint8", "float32"), ("int64", "float32"), ("bool", "float32"), ("float32", "float32"), ("float64", "float64")],
)
def test_factors_keep_the_dtype_of_float_counts_and_those_of_integers_are_float32(X, given, worked):
    model = PoissonNMF(2, max_iter=5, tol=0, random_state=0)
    W = model.fit_transform(X.astype(given))
    assert W.dtype == model.components_.dtype == model.transform(X.astype(given)).dtype == np.dtype(worked)
    assert model.inverse_transform(W).dtype == np.dtype(worked)


def test_dtype_can_be_chosen(X):
    assert PoissonNMF(2, max_iter=2, tol=0, dtype="float32").fit_transform(X).dtype == np.float32


def test_feature_names_are_kept(X):
    frame = pd.DataFrame(X.toarray(), columns=[f"gene{j}" for j in range(25)])
    model = PoissonNMF(2, max_iter=3, tol=0, random_state=0).set_output(transform="pandas")
    W = model.fit_transform(frame)
    assert list(model.feature_names_in_[:2]) == ["gene0", "gene1"]
    assert list(model.get_feature_names_out()) == list(W.columns) == ["poissonnmf0", "poissonnmf1"]
    with pytest.raises(ValueError, match="feature names"):
        model.transform(frame.rename(columns={"gene0": "other"}))


def test_it_works_in_pipelines_and_grid_searches(X):
    pipeline = make_pipeline(FunctionTransformer(accept_sparse=True), PoissonNMF(2, max_iter=30, tol=0, random_state=0))
    search = GridSearchCV(pipeline, {"poissonnmf__n_components": [1, 3]}, cv=2).fit(X)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_saved_model_is_the_same_model(X, model, tmp_path):
    model.save(tmp_path / "model.npz")
    loaded = PoissonNMF.load(tmp_path / "model.npz")
    assert loaded.get_params() == model.get_params()
    assert np.array_equal(loaded.transform(X), model.transform(X))
    assert np.array_equal(loaded.trace_, model.trace_)
    assert (loaded.status_, loaded.objective_, loaded.n_iter_) == (model.status_, model.objective_, model.n_iter_)
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


def test_a_saved_model_keeps_feature_names(X, tmp_path):
    frame = pd.DataFrame(X.toarray(), columns=[f"gène {j}" for j in range(25)])
    model = PoissonNMF(2, max_iter=3, tol=0, random_state=0).fit(frame)
    model.save(tmp_path / "model.npz")
    assert np.array_equal(PoissonNMF.load(tmp_path / "model.npz").transform(frame), model.transform(frame))


@pytest.mark.parametrize("damage", ["truncated", "text", "array", "other"])
def test_a_file_that_is_no_model_is_refused(model, tmp_path, damage):
    path = tmp_path / "model.npz"
    model.save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "text":
        path.write_text("not a model")
    elif damage == "array":
        with path.open("wb") as file:
            np.save(file, np.ones(3))
    else:
        np.savez(path, header=np.array('{"format": "other"}'))
    with pytest.raises(ValueError, match="not a valid fastpmf model file"):
        PoissonNMF.load(path)


def test_a_failed_save_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    path.write_text("precious")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        model.save(path)
    assert path.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_it_can_be_cloned_and_pickled(X, model):
    assert clone(model).get_params() == model.get_params()
    assert np.array_equal(pickle.loads(pickle.dumps(model)).transform(X), model.transform(X))


def test_counts_read_once_fit_the_same(X):
    counts = fastpmf.as_counts(X)
    fits = [PoissonNMF(2, max_iter=5, tol=0, random_state=0).fit(given) for given in (X, counts)]
    assert np.array_equal(fits[0].components_, fits[1].components_)
    assert np.array_equal(fits[0].transform(counts), fits[0].transform(X))


def test_a_memory_mapped_triple_fits_the_same(X, tmp_path):
    parts = []
    for name, part in (("data", X.data), ("indices", X.indices), ("indptr", X.indptr)):
        np.save(tmp_path / f"{name}.npy", part)
        parts.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    fits = [PoissonNMF(2, max_iter=5, tol=0, random_state=0).fit(given) for given in (X, tuple(parts))]
    assert np.array_equal(fits[0].components_, fits[1].components_)


def test_ctrl_c_keeps_the_fit_so_far(X):
    def interrupt(record, W, H):
        if record.n_iter == 10:
            raise KeyboardInterrupt

    model = PoissonNMF(2, init="random", tol=0, random_state=0, callback=interrupt)
    with pytest.raises(FitInterrupted, match="kept"):
        model.fit(X)
    assert model.status_ is Status.INTERRUPTED
    assert model.n_iter_ == 10
    assert np.isfinite(model.transform(X)).all()


def test_verbose_shows_objective_and_residual_on_standard_error(X, capsys, monkeypatch):
    for tqdm in (True, False):
        with monkeypatch.context() as patch:
            if not tqdm:
                patch.setitem(__import__("sys").modules, "tqdm.auto", None)
            PoissonNMF(2, max_iter=20, tol=0, random_state=0, verbose=True).fit(X)
        written = capsys.readouterr()
        assert written.out == ""
        assert all(word in written.err for word in ("objective", "kkt_residual", "20"))


def test_components_without_counts_are_reported(X):
    W, H = np.ones((40, 2)), np.ones((2, 25))
    W[:, 1] = 0
    with pytest.warns(UserWarning, match=r"1 of 2 components carry no counts \(numbers 1\)"):
        PoissonNMF(2, init="custom", max_iter=2, tol=0).fit_transform(X, W=W, H=H)


BAD = {
    "n_components 0": ({"n_components": 0}, "n_components"),
    "n_components 1.5": ({"n_components": 1.5}, "n_components"),
    "n_components past memory": ({"n_components": 10**12}, "n_components.*GiB"),
    "n_components past NNDSVD": ({"n_components": 26, "init": "nndsvd"}, "n_components <= min"),
    "solver": ({"solver": "newton"}, "solver must be one of 'auto', 'cd', 'em', 'mu', got 'newton'"),
    "acceleration": ({"acceleration": "momentum"}, "acceleration must be one of 'auto', 'extrapolation', 'relax"),
    "relaxation of cd": ({"acceleration": "relaxation"}, "'relaxation' is for solver='mu', got solver='auto'"),
    "n_init": ({"n_init": 0}, "n_init"),
    "n_init of a given start": ({"n_init": 2, "init": "custom"}, "n_init must be 1 with init='custom'"),
    "max_time": ({"max_time": -1.0}, "max_time"),
    "max_time nan": ({"max_time": math.nan}, "max_time must be a number of seconds >= 0 or None, got nan"),
    "init": ({"init": "zeros"}, "init must be one of"),
    "init custom without factors": ({"init": "custom"}, "needs both W and H"),
    "max_iter": ({"max_iter": 0}, "max_iter"),
    "tol": ({"tol": -1.0}, "tol"),
    "tol nan": ({"tol": math.nan}, "tol must be a number >= 0, got nan"),
    "eval_every": ({"eval_every": 0}, "eval_every"),
    "n_threads 0": ({"n_threads": 0}, "n_threads"),
    "n_threads two": ({"n_threads": "two"}, "n_threads"),
    "dtype": ({"dtype": "int8"}, "dtype must be float32, float64 or None"),
    "callback": ({"callback": 3}, "callback"),
    "random_state": ({"random_state": "seed"}, "seed"),
}


@pytest.mark.parametrize(("parameters", "message"), BAD.values(), ids=BAD)
def test_a_bad_parameter_is_named(X, parameters, message):
    with pytest.raises((ValueError, TypeError, MemoryError), match=message):
        PoissonNMF(**{"n_components": 2, **parameters}).fit(X)


@pytest.mark.parametrize(
    ("W", "H", "message"),
    [
        (np.ones((40, 3)), np.ones((2, 25)), "W must have shape"),
        (np.ones((40, 2)), np.ones((2, 24)), "H must have shape"),
        (np.full((40, 2), np.nan), np.ones((2, 25)), "W must be finite"),
        (np.ones((40, 2)), -np.ones((2, 25)), "H must be non-negative"),
        (np.full((40, 2), "a"), np.ones((2, 25)), "W must hold real numbers"),
    ],
)
def test_bad_starting_factors_are_named(X, W, H, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PoissonNMF(2, init="custom").fit_transform(X, W=W, H=H)


def test_factors_without_init_custom_are_refused(X):
    with pytest.raises(ValueError, match="init='custom', 'grow' or 'shrink' only"):
        PoissonNMF(2).fit_transform(X, W=np.ones((40, 2)), H=np.ones((2, 25)))


def test_all_zero_counts_are_refused():
    with pytest.raises(ValueError, match="at least one positive count"):
        PoissonNMF(2).fit(np.zeros((3, 4)))


def test_counts_out_of_the_range_of_the_dtype_are_refused():
    with pytest.raises(ValueError, match="dtype float32 can't hold counts that sum to 4e"):
        PoissonNMF(1, dtype="float32").fit(np.full((2, 2), 1e300))


def test_another_number_of_columns_is_refused(X, model):
    with pytest.raises(ValueError, match="24 features, but PoissonNMF is expecting 25"):
        model.transform(X[:, :24])
    with pytest.raises(ValueError, match="X must have shape"):
        model.inverse_transform(np.ones((2, 4)))


def test_an_unfitted_model_raises_an_error(X):
    with pytest.raises(NotFittedError):
        PoissonNMF(2).transform(X)


def test_missing_convergence_gives_one_warning(X):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PoissonNMF(2, max_iter=5000, tol=1e-2, random_state=0).fit(X)


def test_a_failed_refit_leaves_the_fitted_model_unchanged(X, model):
    before = model.transform(X)
    for bad in (np.zeros((3, 4000)), np.full((3, 4000), -1)):
        with pytest.raises(ValueError, match=r"positive count|counts >= 0"):
            model.fit(bad)
    assert np.array_equal(model.transform(X), before)
    with pytest.raises(ValueError, match="expecting 25"):
        model.transform(np.ones((3, 4000)))


def test_a_refit_without_names_forgets_the_old_names(X):
    frame = pd.DataFrame(X.toarray(), columns=[f"gene{j}" for j in range(25)])
    model = PoissonNMF(2, max_iter=3, tol=0, random_state=0).fit(frame).fit(X[:, :10])
    assert not hasattr(model, "feature_names_in_")
    assert model.n_features_in_ == 10


def test_components_of_another_shape_are_refused(X, model):
    model.components_ = model.components_[:, :10]
    with pytest.raises(ValueError, match="components_ must have shape"):
        model.transform(X)


def test_a_row_out_of_the_range_of_the_dtype_does_not_affect_other_rows(X):
    model = PoissonNMF(3, max_iter=300, tol=1e-4, dtype="float32", random_state=0)
    model.fit(X)
    rows = X[:5].toarray().astype(np.float64)
    alone = model.transform(rows)
    rows[4] = 3e-46  # rates that float32 can't tell from 0
    with pytest.warns(RuntimeWarning, match=r"1 row\(s\) of X have rates"):
        together = model.transform(rows)
    assert np.array_equal(together[:4], alone[:4])


def test_rows_are_independent_also_without_a_tolerance(X, model):
    model.set_params(tol=0, max_iter=50)
    assert np.array_equal(model.transform(X[[3]])[0], model.transform(X)[3])


def test_parameters_of_numpy_types_are_saved_and_loaded(X, tmp_path):
    model = PoissonNMF(np.int64(2), max_iter=3, tol=0, dtype=np.float32, random_state=np.int64(4)).fit(X)
    model.save(tmp_path / "model.npz")
    loaded = PoissonNMF.load(tmp_path / "model.npz")
    assert (loaded.n_components, loaded.dtype, loaded.random_state) == (2, "float32", 4)


@pytest.mark.parametrize(
    "components", [np.full((3, 25), np.nan), -np.ones((3, 25)), np.ones((0, 25)), np.ones(3), "abc"]
)
def test_a_model_file_with_impossible_components_is_refused(model, tmp_path, components):
    model.components_ = np.asarray(components)
    model.save(tmp_path / "model.npz")
    with pytest.raises(ValueError, match="not a valid fastpmf model file"):
        PoissonNMF.load(tmp_path / "model.npz")


def test_damaged_model_files_are_refused_in_one_sentence(model, tmp_path):
    path = tmp_path / "model.npz"
    model.save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(200):
        torn = bytearray(whole)
        torn[rng.integers(len(torn))] ^= 1 << rng.integers(8)
        path.write_bytes(torn)
        try:
            PoissonNMF.load(path)  # an unused bit is no damage
        except ValueError as error:
            assert "not a valid fastpmf model file" in str(error) or "expected a PoissonNMF" in str(error)  # noqa: PT017


def test_saving_through_a_link_writes_its_target_and_keeps_its_mode(model, tmp_path):
    target, link = tmp_path / "target.npz", tmp_path / "link.npz"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    model.save(link)
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    assert np.array_equal(PoissonNMF.load(target).components_, model.components_)


def test_an_interruption_can_be_pickled(X):
    solution = poisson_nmf(X, 2, max_iter=2)
    assert np.array_equal(pickle.loads(pickle.dumps(FitInterrupted(solution))).solution.H, solution.H)


def test_the_gap_bound_of_a_transform_is_valid(X):
    model = PoissonNMF(3, tol=1e-3, max_iter=5000, random_state=0, dtype=np.float64).fit(X)
    W, gap_bound = model.transform(X, return_gap_bound=True)
    totals = X.sum(axis=1)
    assert (gap_bound <= 1e-3 * totals).all()
    best = model.set_params(tol=1e-9).transform(X)
    gain = kl_divergence(X, W, model.components_) - kl_divergence(X, best, model.components_)
    assert 0 <= gain <= gap_bound.sum()


def test_a_converged_fit_and_its_transform_agree(X):
    model = PoissonNMF(3, tol=1e-6, max_iter=5000, random_state=0)
    W = model.fit_transform(X)
    # The optimal W for this H is unique, both are within 1e-6 nats per count of it, and the gap is quadratic
    np.testing.assert_allclose(model.transform(X), W, atol=2e-3 * W.max())


def test_the_best_of_several_starts_is_the_result_and_all_are_recorded(X):
    several = PoissonNMF(4, n_init=5, tol=0, max_iter=60, random_state=0, dtype=np.float64).fit(X)
    assert several.restarts_.shape == (5,)
    assert several.objective_ == pytest.approx(several.restarts_.min(), rel=1e-9)  # float64, and in passing
    assert several.n_iter_ == 60
    again = PoissonNMF(4, n_init=5, tol=0, max_iter=60, random_state=0, dtype=np.float64).fit(X)
    assert np.array_equal(again.components_, several.components_)


def test_a_fit_ends_at_max_time(X):
    model = PoissonNMF(3, max_time=0, tol=1e-9, random_state=0)
    with pytest.warns(ConvergenceWarning, match="Stopped at max_time"):
        model.fit(X)
    assert model.n_iter_ == 1
    assert model.status_ is Status.MAX_TIME


def test_the_residual_is_that_of_the_returned_factors(X):
    for solver in ("cd", "em", "mu"):
        solution = poisson_nmf(X, 3, solver=solver, max_iter=30, tol=0, random_state=0, dtype=np.float64)
        counts = X.toarray().astype(float)
        sides = (counts, solution.W, solution.H.T), (counts.T, solution.H.T, solution.W)
        gaps = [naive.gap_bound(*side).sum() / counts.sum() for side in sides]
        assert solution.kkt_residual == pytest.approx(max(gaps), rel=1e-6, abs=1e-12)  # a difference of large sums


def test_a_transform_that_does_not_converge_warns(X, model):
    model.set_params(max_iter=1, tol=1e-12)
    with pytest.warns(ConvergenceWarning, match="some rows of X did not converge to within tol=1e-12"):
        model.transform(X)
