"""Example data sets follow their description."""

import numpy as np
import pytest

from fastpmf import as_counts, kl_divergence, poisson_nmf
from fastpmf.core.counts import Side
from fastpmf.datasets import load_stdlib, make_poisson_counts


def test_entries_are_poisson_with_rates_WH():
    squares, total, cells = 0.0, 0.0, 0
    for seed in range(300):
        X, W, H = make_poisson_counts(8, 6, 3, nnz=30, concentration=2.0, random_state=seed)
        rate = W @ H
        squares += ((X.toarray() - rate) ** 2 / rate).sum()
        total += (X.sum() - rate.sum()) / np.sqrt(rate.sum())
        cells += rate.size
    # each square has mean 1 and variance 2 + 1 / rate; each total mean 0 and variance 1
    assert abs(squares / cells - 1) < 5 * np.sqrt(4 / cells)
    assert abs(total) < 4 * np.sqrt(300)


def test_the_draw_depends_on_the_seed_alone():
    one, two = (make_poisson_counts(3000, 200, 4, nnz=20_000, random_state=5, n_threads=n) for n in (1, 2))
    other = make_poisson_counts(3000, 200, 4, nnz=20_000, random_state=6)
    for a, b in (
        (one.X.data, two.X.data),
        (one.X.indices, two.X.indices),
        (one.X.indptr, two.X.indptr),
        (one.W, two.W),
    ):
        np.testing.assert_array_equal(a, b)
    assert one.X.nnz != other.X.nnz
    generator = make_poisson_counts(30, 20, 4, nnz=200, random_state=np.random.default_rng(1))
    assert generator.X.nnz == make_poisson_counts(30, 20, 4, nnz=200, random_state=np.random.default_rng(1)).X.nnz


@pytest.mark.parametrize("skew", [0.0, 0.7, 1.2])
def test_the_number_of_nonzeros_is_about_nnz(skew):
    X, W, H = make_poisson_counts(2000, 500, 5, nnz=30_000, skew=skew, random_state=0)
    assert X.nnz == pytest.approx(30_000, rel=0.05)
    assert X.sum() == pytest.approx(W.sum(axis=0) @ H.sum(axis=1), rel=0.05)
    assert X.dtype == ("uint8" if X.max() < 256 else "uint16" if X.max() < 65536 else "int32")


@pytest.mark.parametrize("name", ["skew", "concentration"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be finite, got {value}"):
        make_poisson_counts(10, 10, 2, nnz=20, **{name: value})


def test_a_standard_library_without_words_is_refused():
    with pytest.raises(ValueError, match=r"min_modules=1000000000 and max_share=0\.5 exclude all"):
        load_stdlib(min_modules=10**9)
    with pytest.raises(ValueError, match="max_share must be finite, got nan"):
        load_stdlib(max_share=np.nan)
    with pytest.raises(TypeError, match="min_words must be an instance of"):
        load_stdlib(min_words="a")


def test_skew_gives_large_rows_and_columns():
    for side in (0, 1):
        flat, steep = (
            np.sort(make_poisson_counts(500, 500, 5, nnz=20_000, skew=s, random_state=0).X.sum(axis=side))[::-1]
            for s in (0.0, 1.0)
        )
        assert steep[0] / steep.mean() > 5 * flat[0] / flat.mean()


def test_counts_above_255_are_exact():
    X, W, H = make_poisson_counts(40, 30, 2, nnz=1150, skew=2.0, concentration=5.0, random_state=0)
    assert X.max() > np.iinfo(np.uint16).max
    assert X.dtype == "int32"
    assert X.sum() == pytest.approx((W @ H).sum(), rel=5 / np.sqrt(X.sum()))


def test_the_matrix_is_canonical_and_not_copied():
    X = make_poisson_counts(100, 50, 3, nnz=1000, random_state=0).X
    assert X.has_canonical_format
    rows = as_counts(X).side(Side.ROWS)
    assert np.shares_memory(rows.data, X.data)
    assert np.shares_memory(rows.indices, X.indices)


def test_a_fit_has_a_lower_objective_than_the_true_factors():
    X, W, H = make_poisson_counts(300, 100, 3, nnz=8000, random_state=0)
    assert poisson_nmf(X, 3, random_state=0, tol=1e-3).objective < kl_divergence(X, W, H)


BAD = {
    "nnz": ({"nnz": 0}, "nnz"),
    "nnz of a full matrix": ({"nnz": 600}, "nnz must be below n_samples \\* n_features = 600"),
    "nnz past what the rates give": ({"nnz": 599, "skew": 20.0}, "nnz=599 needs too large rates"),
    "n_samples": ({"n_samples": 0}, "n_samples"),
    "n_components": ({"n_components": 2.5}, "n_components"),
    "skew": ({"skew": -1.0}, "skew"),
    "concentration": ({"concentration": 0.0}, "concentration"),
    "concentration too small": ({"concentration": 1e-9}, "concentration=1e-09 is so small"),
    "n_threads": ({"n_threads": 0}, "n_threads"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_arguments_are_named(what):
    options, message = BAD[what]
    arguments = {"n_samples": 30, "n_features": 20, "n_components": 3, "nnz": 100, "random_state": 0} | options
    with pytest.raises((ValueError, TypeError), match=message):
        make_poisson_counts(**arguments)
