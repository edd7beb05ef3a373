"""No decision of a fit depends on counts that are masked, held out or in rows of weight 0."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from fastpmf import HPF, PoissonNMF, kl_divergence, poisson_nmf

X = np.array([[3, 0, 1, 0], [2, 1, 0, 0], [0, 0, 4, 2], [1, 0, 3, 5]], float)
MASK = np.zeros(X.shape, bool)
MASK[0, 0] = True
AUTO = {"prior_W": "auto", "prior_H": "auto", "random_state": 0}
FORMATS = {
    "dense": np.asarray, "csr": sparse.csr_array, "csc": sparse.csc_array, "coo": sparse.coo_array,
    "DataFrame": pd.DataFrame, "list": lambda A: A.tolist(),
}  # fmt: skip


def with_hidden(value, A=X):
    A = A.copy()
    A[0, 0] = value
    return A


def fitted(model):
    return [model.components_, model.trace_["objective"], *map(np.asarray, model.prior_W_)]


def assert_same(a, b):
    assert all(np.array_equal(x, y) for x, y in zip(fitted(a), fitted(b), strict=True))


@pytest.fixture(autouse=True)
def not_converged():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(Stopped at max_iter|.* components carry no counts)")
        yield


@pytest.fixture(scope="module")
def fits():
    """Models of X with and without a mask, and of a larger matrix with a mask and held-out counts."""
    many = np.random.default_rng(0).poisson(5.0, (20, 15)).astype(float)
    mask = np.zeros(many.shape, bool)
    mask[0, 0] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "masked": PoissonNMF(2, **AUTO).fit(X, mask=MASK), "whole": PoissonNMF(2, **AUTO).fit(X),
            "posterior": HPF(2, random_state=0).fit(X, mask=MASK),
            "held out": (many, mask, PoissonNMF(2, **AUTO).fit(many, mask=mask, validation=0.2)),
        }  # fmt: skip


@pytest.mark.parametrize("value", [0.0, 60000.0, 1e35, 1e-40, np.nan, -1.0, np.inf, -np.inf])
class TestValuesUnderTheMask:
    @pytest.mark.parametrize("form", FORMATS)
    def test_they_change_nothing(self, value, form, fits):
        assert_same(PoissonNMF(2, **AUTO).fit(FORMATS[form](with_hidden(value)), mask=MASK), fits["masked"])

    def test_they_change_no_held_out_counts(self, value, fits):
        many, mask, expected = fits["held out"]
        assert_same(PoissonNMF(2, **AUTO).fit(with_hidden(value, many), mask=mask, validation=0.2), expected)

    def test_they_change_no_posterior(self, value, fits):
        expected = fits["posterior"]
        found = HPF(2, random_state=0).fit(with_hidden(value), mask=MASK)
        assert np.array_equal(found.components_, expected.components_)
        assert np.array_equal(found.transform(with_hidden(value), mask=MASK), expected.transform(X, mask=MASK))
        assert found.score(with_hidden(value), mask=MASK) == expected.score(X, mask=MASK)

    def test_they_change_nothing_in_transform_score_and_divergence(self, value, fits):
        model = fits["whole"]
        W = model.transform(X, mask=MASK)
        hidden = with_hidden(value)
        assert np.array_equal(model.transform(hidden, mask=MASK), W)
        assert model.score(hidden, mask=MASK) == model.score(X, mask=MASK)
        H = model.components_
        assert kl_divergence(hidden, W, H, mask=MASK) == kl_divergence(X, W, H, mask=MASK)

    def test_they_are_not_written_to(self, value):
        given = with_hidden(value)
        before = given.copy()
        PoissonNMF(2, **AUTO).fit(given, mask=MASK)
        assert np.array_equal(given, before, equal_nan=True)

    def test_float32_is_chosen_by_the_observed_counts(self, value):
        with np.errstate(over="ignore"):
            given = with_hidden(value).astype(np.float32)
        assert PoissonNMF(2, **AUTO).fit(given, mask=MASK).components_.dtype == np.float32


def test_missing_values_may_be_the_mask():
    missing = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)
    model = PoissonNMF(2, **AUTO).fit(missing, mask=np.isnan(missing))
    assert_same(model, PoissonNMF(2, **AUTO).fit(np.nan_to_num(missing), mask=np.isnan(missing)))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("value", "shown"), [(np.nan, "NaN"), (-1.0, "-1")])
def test_missing_values_outside_the_mask_are_refused(form, value, shown):
    wrong = with_hidden(np.nan)
    wrong[2, 2] = value
    with pytest.raises(ValueError, match=f"^X must .* {shown}"):
        PoissonNMF(2, **AUTO).fit(FORMATS[form](wrong), mask=MASK)


def test_a_message_about_missing_values_names_mask():
    with pytest.raises(ValueError, match=r"NaN.*mask"):
        PoissonNMF(2).fit(with_hidden(np.nan))


class TestRowsOfWeightZero:
    WEIGHT = np.array([1.0, 2.0, 0.0, 1.0])

    @pytest.mark.parametrize("validation", [None, 0.3])
    def test_their_counts_change_nothing(self, validation):
        many = np.random.default_rng(3).poisson(4.0, (4, 30))
        other = many.copy()
        other[2] = 1000 * many[2, ::-1] + 1
        fits = [
            PoissonNMF(2, **AUTO).fit(A, sample_weight=self.WEIGHT, validation=validation) for A in (many, other)
        ]  # fmt: skip
        assert_same(*fits)

    def test_their_held_out_counts_change_nothing(self):
        many = np.random.default_rng(3).poisson(4.0, (4, 30))
        held_out = np.random.default_rng(4).poisson(1.0, (4, 30))
        other = held_out.copy()
        other[2] *= 1000
        fits = [PoissonNMF(2, **AUTO).fit(many, sample_weight=self.WEIGHT, validation=A) for A in (held_out, other)]
        assert np.array_equal(fits[0].validation_, fits[1].validation_)

    def test_a_weight_of_two_is_the_row_twice_for_the_auto_prior(self):
        twice = PoissonNMF(2, **AUTO).fit(X[[0, 1, 1, 3]])
        assert PoissonNMF(2, **AUTO).fit(X, sample_weight=self.WEIGHT).prior_W_ == pytest.approx(
            twice.prior_W_, rel=1e-12
        )


def test_the_auto_prior_is_that_of_the_counts_that_are_fitted():
    """The class and the function agree; the priors do not depend on held-out counts."""
    many = np.random.default_rng(0).poisson(2.0, (30, 20))
    options = {**AUTO, "max_iter": 20}
    model = PoissonNMF(3, **options).fit(many, validation=0.2)
    assert model.objective_ == poisson_nmf(many, 3, validation=0.2, **options).objective


def test_the_auto_prior_depends_on_the_exposure_of_the_observed_entries():
    """shape 1.1 and rate 0.11 sqrt(k / mean), where the mean is per unit of observed exposure."""
    r, c, w = np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 1, 3]), np.array([1.0, 1, 2, 0])
    weights = (w * r)[:, None] * c * ~MASK
    mean = (w[:, None] * X * ~MASK).sum() / weights.sum()
    model = PoissonNMF(2, **AUTO).fit(X, mask=MASK, row_exposure=r, column_exposure=c, sample_weight=w)
    assert model.prior_W_ == pytest.approx((1.1, 0.11 * np.sqrt(2 / mean)), rel=1e-12)


def test_a_wrong_shape_of_the_mask_is_reported_before_missing_values():
    for form in (np.asarray, sparse.csr_array, pd.DataFrame):
        with pytest.raises(ValueError, match=r"^mask must have the shape of X, \(4, 4\), got \(3, 4\)"):
            PoissonNMF(2).fit(form(with_hidden(np.nan)), mask=MASK[:3])
