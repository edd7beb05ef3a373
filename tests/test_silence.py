"""No computation of fastpmf raises a floating-point flag that the user could trip over, nor a warning of NumPy's."""

import warnings

import numpy as np
import pytest
from scipy import sparse

import fastpmf
from fastpmf import HPF, PoissonNMF, StreamedCounts, differential_expression, poisson_nmf, to_topics

K = 3
SHORT = {"max_iter": 13, "tol": 0, "random_state": 0, "n_threads": 1}
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:.*carry no counts"),
    pytest.mark.filterwarnings("ignore:Only one of W and H"),
    pytest.mark.filterwarnings("ignore:W and H give .* a rate of 0"),
]


@pytest.fixture(autouse=True)
def flags_raise():
    """Around each test, where warnings are errors too; the user's own setting is as before in the end."""
    with np.errstate(all="raise"):
        yield
        assert set(np.geterr().values()) == {"raise"}


def integers():
    rng = np.random.default_rng(5)
    X = rng.poisson(rng.gamma(0.5, 2.0, (30, 20)))
    X[np.arange(30), np.arange(30) % 20] += 1
    X[3], X[:, 4] = 0, 0
    return X


def far_apart(deviation, dtype):
    """Counts of rows over many orders of magnitude."""
    rng = np.random.default_rng(6)
    return (integers() * np.exp(rng.normal(0, deviation, (30, 1)))).astype(dtype)


MATRICES = {
    "integers": integers(),
    "float16": integers().astype(np.float16),
    "float32": integers().astype(np.float32),
    "float64": integers().astype(float),
    "float32, far apart": far_apart(6, np.float32),
    "float64, far apart": far_apart(40, float),
    "float64, small": integers() * 1e-100,
    "float64, large": integers() * 1e100,
    "float32, small": (integers() * 1e-13).astype(np.float32),
    "float32, large": (integers() * 1e25).astype(np.float32),
    "one": np.array([[3]]),
    "sparse": sparse.coo_array(integers()),
}
SOLVERS = {
    "cd": {},
    "mu": {"solver": "mu"},
    "em": {"solver": "em"},
    "relaxation": {"solver": "mu", "acceleration": "relaxation"},
    "extrapolation": {"solver": "em", "acceleration": "extrapolation"},
}
PRIORS = {
    "none": {},
    "auto": {"prior_W": "auto", "prior_H": "auto"},
    "shapes": {"prior_W": (1.5, [0.1, 2.0, 3.0]), "prior_H": (1.0, 1.0)},
    "squares": {"alpha_W": 0.1},
    "extreme": {"prior_W": (2.0, 1e20), "prior_H": (1 + 1e-12, 1e-20)},
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_fits_are_silent(name, solver):
    for prior in PRIORS.values():
        poisson_nmf(MATRICES[name], K, **SHORT, **SOLVERS[solver], **prior)


@pytest.mark.parametrize("name", MATRICES)
def test_fitted_models_are_silent(name):
    X = MATRICES[name]
    for prior in (PRIORS["none"], PRIORS["auto"]):
        model = PoissonNMF(K, **SHORT, **prior).fit(X)
        W = model.transform(X)
        model.score(X)
        model.inverse_transform(W)
        topics = model.to_topics(W)
        assert np.isfinite(topics.mixtures).all()
        for scale in ("rows", "balanced", "columns"):
            topics.to_factors(scale)
        model.quality(X, 3, W=W)
        model.top_features(3, by="lift")
        model.similar_items([0], 1)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("options", [{}, {"hierarchy": False}, {"learn_prior": True}, {"a": 1e-3, "c": 1e-3}], ids=str)
def test_posteriors_are_silent(name, options):
    X = MATRICES[name]
    model = HPF(K, **SHORT, **options).fit(X)
    for posterior in (model.W_posterior_, model.posterior(X)):
        for values in (posterior.mean, posterior.variance, posterior.geometric_mean, posterior.sample(random_state=0)):
            assert np.isfinite(values).all()
    model.score(X)
    model.predictive_mean([0], [0])
    HPF(K, **SHORT, **options).partial_fit(X).partial_fit(X).transform(X)


@pytest.mark.parametrize("known", ["float16", "float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("counts", ["uint8", "float16", "float32", "float64"])
def test_what_is_known_may_be_of_any_dtype(known, counts):
    rng = np.random.default_rng(0)
    X = (integers() + 1).astype(counts)

    def some(*shape):
        return (rng.random(shape) * 5 + 1).astype(known)

    H, W, hidden = some(K, 20), some(30, K), rng.random((30, 20)) < 0.1
    for given in (
        {"fixed_H": H}, {"fixed_W": W}, {"fixed_W": W, "fixed_H": H}, {"init": "custom", "W": W, "H": H},
        {"row_exposure": some(30), "column_exposure": some(20)}, {"background": some(20)},
        {"mask": hidden.astype(known)}, {"sample_weight": some(30) * (np.arange(30) > 2)},
        {"fixed_H": H, "background": some(20), "row_exposure": some(30), "mask": hidden},
    ):  # fmt: skip
        poisson_nmf(X, K, **SHORT, **given)


def test_what_is_known_in_a_small_dtype_fits_as_in_a_large_one():
    X = integers()
    H = (np.random.default_rng(0).random((K, 20)) * 5 + 1).astype(np.float16)
    fits = [poisson_nmf(X, K, fixed_H=H.astype(dtype), **SHORT) for dtype in (np.float16, np.float32, np.float64)]
    assert all((fit.W == fits[0].W).all() for fit in fits)


@pytest.mark.parametrize("scale", [1e-45, 1e-30, 1e-8, 1e8, 1e25])
@pytest.mark.parametrize("counts", ["uint8", "float32"])
def test_what_is_known_may_be_of_any_scale(scale, counts):
    rng = np.random.default_rng(0)
    X = (integers() + 1).astype(counts)
    H, W = rng.random((K, 20)) * scale, rng.random((30, K)) * scale
    for given in ({"fixed_H": H}, {"fixed_W": W}, {"background": H[0]}, {"prior_W": (1.1, scale), "prior_H": (1.1, 1)}):
        poisson_nmf(X, K, dtype="float64", **SHORT, **given)
    with np.errstate(under="ignore"):
        single = W.astype(np.float32), H.astype(np.float32)
    for A, B in ((W, H), single):
        fastpmf.kl_divergence(X, A, B)
        fastpmf.match_components(B, B)
        fastpmf.topic_quality(X, B, 3)
        if B.any():
            to_topics(A, B).to_factors("balanced")


@pytest.mark.parametrize("name", ["integers", "float32, far apart", "float64, far apart"])
@pytest.mark.parametrize("against", ["others", "mean", 0])
def test_changes_are_silent(name, against):
    X = MATRICES[name]
    fit = poisson_nmf(X, K, **SHORT)
    for shrink in (False, True):
        differential_expression(X, fit.W, fit.H, against=against, shrink=shrink)


@pytest.mark.parametrize("init", ["nndsvd", "nndsvda", "nndsvdar"])
def test_starts_are_silent(init):
    for name in ("integers", "float32", "float64, far apart", "float64, small"):
        poisson_nmf(MATRICES[name], K, init=init, **SHORT)


def test_other_ways_to_fit_are_silent():
    X = integers() + 1
    poisson_nmf(X, K, n_init=3, **SHORT)
    poisson_nmf(X, K, validation=0.3, **SHORT)
    fastpmf.non_negative_factorization(X, n_components=K, max_iter=5, tol=0, random_state=0)
    fastpmf.select_n_components(X, [1, 2], estimator=PoissonNMF(1, max_iter=5), n_splits=2, random_state=0)
    stream = StreamedCounts(lambda: [X[:9], X[9:]])
    for solver in ("cd", "mu", "em"):
        PoissonNMF(K, solver=solver, **SHORT).fit(stream).transform(stream)
    HPF(K, **SHORT).fit(stream)
    model = PoissonNMF(K, prior_W=(1.1, 0.1), prior_H=(1.1, 0.1), **SHORT)
    for rows in np.split(X, 3):
        model.partial_fit(rows)
    fastpmf.datasets.make_poisson_counts(50, 30, 3, nnz=300, skew=1.0, random_state=0)


def test_pictures_are_silent():
    plt = pytest.importorskip("matplotlib.pyplot")
    from fastpmf import plot

    for name in ("integers", "float32, far apart"):
        X = MATRICES[name]
        model = PoissonNMF(K, eval_every=2, **SHORT).fit(X)
        W = model.transform(X)
        labels = np.arange(len(X)) % 2
        plot.structure(W, model, groupby=labels)
        plot.similarity_heatmap(model)
        plot.group_heatmap(W, model, groupby=labels)
        plot.top_features(model, 4)
        plot.convergence([model])
        plot.calibration(X, W, model)
        plot.residuals(X, W, model)
        plot.differential(model.differential_expression(X, W), 0)
        plt.close("all")


def test_a_user_who_ignores_nothing_hears_nothing_of_an_import_and_a_fit():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PoissonNMF(K, **SHORT).fit(integers()).transform(integers())
    assert not [w for w in caught if issubclass(w.category, RuntimeWarning)]
