"""Data beside the counts are in range or refused in one sentence; nothing overflows silently."""

import re
import warnings

import naive
import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from fastpmf import PoissonNMF, kl_divergence

X = np.array([[3.0, 0, 1], [0, 2, 0], [1, 1, 4], [2, 0, 0]])
FAR = {"float32": 1e12, "float64": 1e60}  # scales that are refused, and so are their inverses


def fitted(known, dtype="float64", X=X, **options):
    starts = {name: known.pop(name) for name in ("W", "H") if name in known}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return PoissonNMF(2, random_state=0, dtype=dtype, **options).fit(X, **known, **starts)


@pytest.mark.parametrize("power", [-1, 1])
def test_an_exposure_out_of_range_is_named_if_a_prior_depends_on_it(power):
    exposure = np.array([1e300**power, 1, 1, 1])
    with pytest.raises(ValueError, match=r"^row_exposure must be between 1e-50 and 1e\+50 in float64, got 1e"):
        fitted({"row_exposure": exposure}, prior_W="auto", prior_H="auto")


@pytest.mark.parametrize("dtype", FAR)
@pytest.mark.parametrize("name", ["row_exposure", "column_exposure", "sample_weight"])
@pytest.mark.parametrize("power", [-1, 1])
def test_a_scale_that_a_dtype_cannot_multiply_and_divide_by_is_refused(name, dtype, power):
    scale = np.ones(3 if name == "column_exposure" else 4)
    scale[1] = FAR[dtype] ** power
    got = re.escape(f"{scale[1]:g}")
    with pytest.raises(ValueError, match=rf"^{name} must be between .* in {dtype}, got {got}: .*another unit$"):
        fitted({name: scale}, dtype)
    scale[1] = 1e9**power
    model = fitted({name: scale}, dtype)
    assert np.isfinite(model.components_).all()
    assert np.isfinite(model.objective_)


LARGE = {  # data, other options, and the name in the message
    "background": ({"background": np.full(3, 1e31)}, {}, "fixed_H or background, times exposures and weights,"),
    "fixed_W": ({"fixed_W": np.full((4, 2), 1e31)}, {}, "fixed_W, times exposures and weights,"),
    "fixed_H": ({"fixed_H": np.full((2, 3), 1e31)}, {}, "fixed_H, times exposures and weights,"),
    "prior_W": ({}, {"prior_W": (1.0, 1e31), "prior_H": (1.0, 1.0)}, "prior_W or alpha_W"),
    "alpha_H": ({}, {"alpha_W": 1e-3, "alpha_H": 1e31}, "prior_H or alpha_H"),
    "W": ({"W": np.full((4, 2), 1e31), "H": np.ones((2, 3))}, {"init": "custom"}, "W"),
    "H": ({"W": np.ones((4, 2)), "H": np.full((2, 3), 1e31)}, {"init": "custom"}, "H"),
}


@pytest.mark.filterwarnings("ignore:.* carry no counts")  # beside such a background
@pytest.mark.parametrize(("known", "options", "name"), LARGE.values(), ids=LARGE)
def test_entries_that_float32_cannot_hold_are_refused_before_the_fit_and_float64_has_them(known, options, name):
    with pytest.raises(ValueError, match=f"^{name} must be at most .* in float32, got .*: take dtype float64"):
        fitted(dict(known), "float32", **options)
    assert np.isfinite(fitted(dict(known), "float64", **options).objective_)


@pytest.mark.parametrize("solver", ["mu", "em", "cd"])
def test_counts_that_float32_cannot_tell_apart_are_counted_exactly(solver):
    rng = np.random.default_rng(0)
    counts = (2**24 + rng.integers(-3, 4, (30, 20))) * (rng.random((30, 20)) < 0.5)
    model = fitted({}, "float32", counts.astype(np.int32), solver=solver, max_iter=40, tol=0)
    W = model.transform(counts.astype(np.int32))
    assert model.components_.dtype == W.dtype == np.float32
    expected = naive.kl_divergence(counts, W.astype(float), model.components_.astype(float))
    assert kl_divergence(counts, W, model.components_) == pytest.approx(expected, abs=1e-13 * counts.sum())


def test_a_mode_that_float32_cannot_hold_is_refused_and_float64_has_it():
    prior = {"prior_W": (1.5, 1e-220), "prior_H": (1.1, 1.0), "solver": "mu", "max_iter": 20}
    with pytest.raises(ValueError, match="W is out of the range of float32 in the units that its prior, exposures or"):
        fitted({}, "float32", **prior)
    assert np.isfinite(fitted({}, "float64", **prior).objective_)


def test_raising_small_entries_to_the_floor_of_a_prior_does_not_raise_the_objective():
    # The counts of such an entry must stay; if they rise with it, the objective goes from 51 to 1e25
    start = {"W": np.array([[4.6e-14]]), "H": np.array([[2.7e23, 6.7e20, 3.2e-3, 1.7e-16, 3.5e-22]])}
    counts = np.array([[1.0, 0, 3, 2, 0]])
    model = PoissonNMF(1, solver="mu", acceleration=None, prior_W=(1.5, 4.5e-9), prior_H=(1.1, 1.0), init="custom",
                       eval_every=1, max_iter=12, tol=0)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        W = model.fit_transform(sparse.csr_array(counts), **start)
    objective = model.trace_["objective"]
    assert (np.diff(objective) <= 1e-12 * np.abs(objective[:-1])).all()
    rate = W @ model.components_
    priors = 4.5e-9 * W.sum() - 0.5 * np.log(W).sum() + model.components_.sum() - 0.1 * np.log(model.components_).sum()
    assert model.objective_ == pytest.approx(naive.kl_divergence(counts, W, model.components_) + priors, rel=1e-9)
    assert rate.sum() < 10


def test_units_far_from_one_leave_the_objective_a_number():
    start = {"W": np.full((4, 2), 1e-90), "H": np.full((2, 3), 1e90)}
    prior = {"prior_W": (1.5, 7e-95), "prior_H": (1.1, 1.0)}
    with np.errstate(all="raise", under="ignore"):
        model = fitted(start, init="custom", eval_every=1, max_iter=5, tol=0, **prior)
    assert np.isfinite(model.trace_["objective"]).all()


def planted(n=30, p=20, k=2):
    rng = np.random.default_rng(1)
    W, H = rng.gamma(0.7, size=(n, k)), rng.gamma(0.5, size=(k, p))
    return rng.poisson(20 * W @ H), W, H


LIMITS = {"float32": (1e-15, 1e15, 40), "float64": (1e-130, 1e130, 400)}  # of component sums; a power of two within
both_sides = pytest.mark.parametrize("side", ["fixed_W", "fixed_H"])


@pytest.mark.parametrize("solver", ["mu", "em", "cd"])
@both_sides
@pytest.mark.parametrize("dtype", LIMITS)
def test_the_scale_of_fixed_components_within_the_range_does_not_matter(side, dtype, solver):
    counts, W, H = planted()
    fixed, power = (W if side == "fixed_W" else H.T).astype(dtype), LIMITS[dtype][2]
    # With multiplicative updates, components of very different scales take many iterations
    powers = [(0, 0), (-power, -power), (power, power)] + [(power, -power), (-power, 0)] * (solver == "cd")
    found = []
    for exponents in powers:
        A = np.ldexp(fixed, np.array(exponents))
        model = fitted({side: A if side == "fixed_W" else A.T}, dtype, counts, solver=solver, max_iter=500, tol=1e-5)
        other = model.components_.T if side == "fixed_W" else model.transform(counts)
        found.append((model.objective_, np.ldexp(other.astype(float), np.array(exponents))))
    (expected, factor), *others = found
    for objective, other in others:
        assert objective == pytest.approx(expected, abs=1e-5 * counts.sum())
        np.testing.assert_allclose(other, factor, rtol=0.3, atol=0.05 * factor.max())


@both_sides
@pytest.mark.parametrize("dtype", LIMITS)
def test_fixed_components_whose_sums_are_out_of_range_are_refused(side, dtype):
    counts, W, H = planted()
    fixed, (low, high, _) = (W if side == "fixed_W" else H.T).astype(float), LIMITS[dtype]
    for total in (low / 2, 2 * high):
        A = (fixed / fixed.sum(axis=0) * [total, 1]).astype(dtype)
        low_, high_, got = (re.escape(f"{x:g}") for x in (low, high, total))
        message = rf"^{side}, .* must have components that sum to between {low_} and {high_} in {dtype}, got {got}: .*"
        with pytest.raises(ValueError, match=f"{message}rescale it$"):
            fitted({side: A if side == "fixed_W" else A.T}, dtype, counts)
    zero = fixed * [0, 1]
    with pytest.warns(UserWarning, match="1 of 2 components carry no counts"):
        model = fitted({side: zero if side == "fixed_W" else zero.T, "background": 0.1}, dtype, counts)
    assert np.isfinite(model.objective_)


@pytest.mark.parametrize("solver", ["mu", "cd"])
@both_sides
def test_a_start_beside_a_known_component_is_in_its_units(side, solver):
    counts, W, H = planted()
    start = {"W": np.ones((30, 2)), "H": np.ones((2, 20))}
    models = []
    for power in (0, -60):
        W_, H_ = (np.ldexp(W, power), H) if side == "fixed_W" else (W, np.ldexp(H, power))
        free = {name: np.ldexp(A, -power) for name, A in start.items() if name != side[-1]}
        known = {side: W_ if side == "fixed_W" else H_, **start, **free}
        models.append(fitted(known, X=counts, init="custom", solver=solver, acceleration=None, max_iter=3, tol=0))
    np.testing.assert_array_equal(models[0].trace_["objective"], models[1].trace_["objective"])


@pytest.mark.parametrize("dtype", LIMITS)
def test_components_and_w_that_a_dtype_cannot_hold_are_refused_in_transform(dtype):
    counts, _, H = planted()
    model = fitted({"fixed_H": H.astype(dtype)}, dtype, counts)
    model.components_ = (H / H.sum(axis=1, keepdims=True) * 2 * LIMITS[dtype][0]).astype(dtype)
    assert np.isfinite(model.transform(counts)).all()
    if dtype == "float32":
        message = "^W is out of the range of float32: take dtype float64, or scale components_ or row_exposure up$"
        for size, exposure in ((1e24, 1.0), (1e13, 1e-10)):
            with pytest.raises(ValueError, match=message):
                model.transform(counts * size, row_exposure=exposure)
    model.components_ /= 4
    with pytest.raises(ValueError, match=f"^components_ must have components that sum to .* in {dtype}, got "):
        model.transform(counts)


@pytest.mark.parametrize("solver", ["mu", "em", "cd"])
@pytest.mark.parametrize("side", ["fixed_W", "fixed_H"])
def test_the_size_of_large_and_of_small_fixed_components_does_not_change_the_objectives(side, solver):
    counts, W, H = planted()
    fixed, traces = np.full((30, 2), np.nan) if side == "fixed_W" else np.full((2, 20), np.nan), []
    for power in (40, 60, -40):
        if side == "fixed_W":
            fixed[:, 0] = np.ldexp(W[:, 0] / W[:, 0].sum(), power)
        else:
            fixed[0] = np.ldexp(H[0] / H[0].sum(), power)
        model = fitted({side: fixed.copy()}, X=counts, solver=solver, max_iter=5, eval_every=1, tol=0)
        traces.append(model.trace_["objective"])
    np.testing.assert_array_equal(traces[0], traces[1])
    np.testing.assert_allclose(traces[0], traces[2], rtol=1e-12)
