"""Whatever is given beside counts is in range, or is refused in one sentence; nothing overflows without a word."""

import re
import warnings

import naive
import numpy as np
import pytest
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from fastpmf import PoissonNMF, kl_divergence

X = np.array([[3.0, 0, 1], [0, 2, 0], [1, 1, 4], [2, 0, 0]])
FAR = {"float32": 1e12, "float64": 1e60}  # beyond which a scale is refused, and its inverse


def fitted(known, dtype="float64", X=X, **options):
    starts = {name: known.pop(name) for name in ("W", "H") if name in known}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return PoissonNMF(2, random_state=0, dtype=dtype, **options).fit(X, **known, **starts)


@pytest.mark.parametrize("power", [-1, 1])
def test_an_exposure_out_of_range_is_named_where_a_prior_is_found_from_it(power):
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


LARGE = {  # what is given, other options, and what is said of it
    "background": ({"background": np.full(3, 1e31)}, {}, "fixed_H or background, times exposures and weights,"),
    "fixed_W": ({"fixed_W": np.full((4, 2), 1e31)}, {}, "fixed_W, times exposures and weights,"),
    "fixed_H": ({"fixed_H": np.full((2, 3), 1e31)}, {}, "fixed_H, times exposures and weights,"),
    "prior_W": ({}, {"prior_W": (1.0, 1e31), "prior_H": (1.0, 1.0)}, "prior_W or alpha_W"),
    "alpha_H": ({}, {"alpha_W": 1e-3, "alpha_H": 1e31}, "prior_H or alpha_H"),
    "W": ({"W": np.full((4, 2), 1e31), "H": np.ones((2, 3))}, {"init": "custom"}, "W"),
    "H": ({"W": np.ones((4, 2)), "H": np.full((2, 3), 1e31)}, {"init": "custom"}, "H"),
}


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
    told = kl_divergence(counts, W, model.components_)
    wanted = naive.kl_divergence(counts, W.astype(float), model.components_.astype(float))
    assert told == pytest.approx(wanted, abs=1e-13 * counts.sum())


def test_a_mode_that_float32_cannot_hold_is_refused_and_float64_has_it():
    prior = {"prior_W": (1.5, 1e-220), "prior_H": (1.1, 1.0), "solver": "mu", "max_iter": 20}
    with pytest.raises(ValueError, match="W is out of the range of float32 in the units that its prior, exposures or"):
        fitted({}, "float32", **prior)
    assert np.isfinite(fitted({}, "float64", **prior).objective_)


def test_what_a_prior_lifts_keeps_its_counts_so_that_no_step_rises():
    # Entries of H far below 1e-12 of its prior's counts were lifted there, and their counts with them: from 51 to 1e25
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


SMALL = {"float32": (-40, -100), "float64": (-300, -1000)}  # powers of two, of components whose squares are 0


@pytest.mark.parametrize("solver", ["mu", "em", "cd"])
@pytest.mark.parametrize("side", ["fixed_W", "fixed_H"])
@pytest.mark.parametrize("dtype", SMALL)
def test_known_components_of_any_size_are_fitted_to_the_same_bits(side, dtype, solver):
    counts, W, H = planted()
    known = (W if side == "fixed_W" else H.T).astype(dtype)
    told = {}
    for powers in ((0, 0), SMALL[dtype], SMALL[dtype][::-1], (30, SMALL[dtype][1])):
        A = np.ldexp(known, np.array(powers))
        model = fitted({side: A if side == "fixed_W" else A.T}, dtype, counts, solver=solver, max_iter=500, tol=1e-5)
        other = model.components_.T if side == "fixed_W" else model.transform(counts)
        told[powers] = model.objective_, np.ldexp(other.astype(float), np.array(powers))
    (wanted, factor), *others = told.values()
    for objective, other in others:
        assert objective == pytest.approx(wanted, abs=1e-5 * counts.sum())
        np.testing.assert_allclose(other, factor, rtol=0.3, atol=0.05 * factor.max())
    # Far from 1 their units alone differ, which are powers of two
    assert others[0][0] == others[1][0]
    np.testing.assert_array_equal(others[0][1], others[1][1])


@pytest.mark.parametrize("solver", ["mu", "cd"])
@pytest.mark.parametrize("side", ["fixed_W", "fixed_H"])
def test_a_start_beside_a_known_component_is_in_its_units(side, solver):
    counts, W, H = planted()
    start = {"W": np.ones((30, 2)), "H": np.ones((2, 20))}
    told = []
    for power in (0, -60):
        W_, H_ = (np.ldexp(W, power), H) if side == "fixed_W" else (W, np.ldexp(H, power))
        free = {name: np.ldexp(A, -power) for name, A in start.items() if name != side[-1]}
        known = {side: W_ if side == "fixed_W" else H_, **start, **free}
        told.append(fitted(known, X=counts, init="custom", solver=solver, acceleration=None, max_iter=3, tol=0))
    np.testing.assert_array_equal(told[0].trace_["objective"], told[1].trace_["objective"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_w_that_its_dtype_cannot_hold_is_refused_in_transform(dtype):
    counts, _, H = planted()
    model = fitted({"fixed_H": H.astype(dtype)}, dtype, counts)
    model.components_ = np.ldexp(H.astype(dtype), -140 if dtype == "float32" else -1050)
    with pytest.raises(ValueError, match=f"^W is out of the range of {dtype}: .*scale components_ or row_exposure up$"):
        model.transform(counts)
    model.components_ = np.ldexp(H.astype(dtype), -70 if dtype == "float32" else -700)
    assert np.isfinite(model.transform(counts)).all()
