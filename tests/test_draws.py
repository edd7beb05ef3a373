"""Draws and their intervals."""

import numpy as np
import pytest

from fastpmf import Draws


def test_intervals_of_few_draws_hold_a_further_draw_as_often_as_they_claim():
    """1.5 % for 40,000 intervals of 39 draws each."""
    values = np.random.default_rng(0).standard_normal((40, 40_000))
    for level in (0.5, 0.9, 0.95):
        low, high = Draws(values[1:]).interval(level)
        assert np.mean((low <= values[0]) & (values[0] <= high)) == pytest.approx(level, abs=0.015)


def test_mean_and_std_are_those_of_the_draws():
    values = np.random.default_rng(0).gamma(2.0, size=(30, 4, 3)).astype(np.float32)
    draws = Draws(values)
    np.testing.assert_allclose(draws.mean, values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(draws.std, values.std(axis=0, ddof=1), rtol=1e-5)
    assert (len(draws), draws.shape, draws.quantile([0.1, 0.2, 0.9]).shape) == (30, (4, 3), (3, 4, 3))
    assert str(draws).startswith("30 draws of 4 x 3 entries")


@pytest.mark.parametrize("level", [0, 1, -0.1, float("nan")])
def test_levels_outside_of_0_and_1_are_refused(level):
    with pytest.raises(ValueError, match="level must be a number between 0 and 1"):
        Draws(np.ones((3, 2))).interval(level)


def test_what_is_no_array_of_draws_is_refused():
    with pytest.raises(TypeError, match="values must be an array of floats"):
        Draws([[1, 2]])
    with pytest.raises(ValueError, match="at least two draws, got 1"):
        Draws(np.ones((1, 2)))
    with pytest.raises(ValueError, match="q must be between 0 and 1"):
        Draws(np.ones((3, 2))).quantile(1.5)
