"""The rates of a fitted model have its exposures and background, wherever they are scored, plotted or ranked."""

import json

import numpy as np
import pytest
from scipy import sparse

import fastpmf
from fastpmf import HPF, PoissonNMF, cli, kl_divergence, plot, thin_counts
from fastpmf.datasets import make_poisson_counts
from fastpmf.estimators._report import next_steps
from fastpmf.io import Dataset, concatenate_counts

X = make_poisson_counts(60, 30, 2, nnz=1_500, random_state=0).X.toarray()
RNG = np.random.default_rng(1)
BESIDE = {
    "column_exposure": RNG.gamma(2.0, size=30) + 0.1,
    "background": RNG.gamma(0.2, size=30) / 5,
    "row_exposure": RNG.gamma(2.0, size=60) + 0.1,
}
MASK = sparse.random_array((60, 30), density=0.1, rng=RNG, format="csr") > 0
CASES = [(), ("column_exposure",), ("background",), ("row_exposure",), tuple(BESIDE)]


def fitted(names, counts=X):
    model = PoissonNMF(2, random_state=0, max_iter=2_000, dtype=np.float64)
    return model, model.fit_transform(counts, **{name: BESIDE[name] for name in names})


def rates(model, W, names):
    """The rates as in the documentation of `fit`."""
    one = np.ones(1)
    given = {name: BESIDE[name] if name in names else one for name in BESIDE}
    background = BESIDE["background"] if "background" in names else 0.0
    return given["row_exposure"][:, None] * given["column_exposure"] * (W @ model.components_ + background)


@pytest.mark.parametrize("names", CASES)
def test_residuals_and_calibration_use_the_rates_of_the_fit(names):
    model, W = fitted(names)
    given = {"row_exposure": BESIDE["row_exposure"]} if "row_exposure" in names else {}
    expected = rates(model, W, names)
    found = plot.residuals(X, W, model, **given).images[0].get_array()
    # Any W and H of these rates give the same plots
    np.testing.assert_allclose(found, plot.residuals(X, expected, np.eye(30)).images[0].get_array(), atol=1e-9)
    points = [
        axes.lines[1].get_xydata()
        for axes in (plot.calibration(X, W, model, **given), plot.calibration(X, expected, np.eye(30)))
    ]
    np.testing.assert_allclose(*points)


@pytest.mark.parametrize("names", [case for case in CASES if "row_exposure" not in case])
def test_scores_and_recommendations_of_a_model_use_the_rates_of_the_fit(names):
    train, test = thin_counts(X, 0.2, random_state=0)
    model, W = fitted(names, train)
    expected = rates(model, W, names)
    assert kl_divergence(train, W, model) == pytest.approx(model.objective_)
    score = fastpmf.heldout_log_likelihood(train, W, model, test, exposure=0.25)
    assert score == pytest.approx(fastpmf.heldout_log_likelihood(train, expected, np.eye(30), test, exposure=0.25))
    assert fastpmf.ranking_scores(test, W, model, 3) == fastpmf.ranking_scores(test, expected, np.eye(30), 3)
    rows = np.flatnonzero(W.any(axis=1))  # others get the recommendations of the mean row
    found, expected = model.recommend(W=W, n=2, rows=rows, exclude_seen=False), expected[rows]
    np.testing.assert_array_equal(found.indices, np.argsort(-expected, axis=1, kind="stable")[:, :2])
    np.testing.assert_allclose(found.rates, -np.sort(-expected, axis=1)[:, :2])
    np.testing.assert_array_equal(fastpmf.recommend(W[rows], model, 2).indices, found.indices)


def test_gains_of_components_do_not_depend_on_the_unit_of_the_columns():
    train, test = thin_counts(X, 0.2, random_state=0)
    plain, exposed = (fitted(names, train)[0] for names in CASES[:2])
    gains = [fastpmf.component_gains(train, model, test, exposure=0.25).gain for model in (plain, exposed)]
    np.testing.assert_allclose(*gains, atol=1e-4)
    with_background = fitted(["background"], train)[0]
    assert fastpmf.component_gains(train, with_background, test, exposure=0.25).supported.all()


def test_exposures_and_background_follow_the_names_of_columns():
    names = np.array([f"word {j}" for j in range(30)])
    given = {name: BESIDE[name] for name in ("column_exposure", "background")}
    model = PoissonNMF(2, random_state=0, max_iter=2_000)
    W = model.fit_transform(Dataset(X, column_names=names), **given)
    turned = Dataset(X[:, ::-1], column_names=names[::-1])
    assert kl_divergence(turned, W, model) == pytest.approx(model.objective_)


def expected_counts(monkeypatch, *args, **given):
    """The expected counts that a report compares with the counts."""
    sums, residuals = [], plot.residuals
    monkeypatch.setattr(plot, "residuals", lambda X, W, H, **k: sums.append((W @ H).sum()) or residuals(X, W, H, **k))
    model, *rest = args
    model.report(*rest, **given)
    return sums


@pytest.mark.parametrize("names", CASES)
def test_a_report_compares_counts_with_the_rates_of_the_fit(names, tmp_path, monkeypatch):
    model, W = fitted(names)
    given = {"row_exposure": BESIDE["row_exposure"]} if "row_exposure" in names else {}
    sums = expected_counts(monkeypatch, model, tmp_path / "a.html", X, W, **given)
    sums += expected_counts(monkeypatch, model, tmp_path / "b.html", X, **given)
    np.testing.assert_allclose(sums, rates(model, W, names).sum(), rtol=1e-3)


def test_a_report_leaves_residuals_out_where_entries_are_masked(tmp_path, monkeypatch):
    model = PoissonNMF(2, random_state=0, max_iter=2_000)
    W = model.fit_transform(X, mask=MASK)
    assert expected_counts(monkeypatch, model, tmp_path / "a.html", X, W, mask=MASK) == []
    assert "some of these are masked" in (tmp_path / "a.html").read_text("utf-8")


def test_what_a_report_cannot_use_is_one_sentence(tmp_path):
    model, path = fitted(())[0], tmp_path / "a.html"
    with pytest.raises(ValueError, match="W must be a matrix"):
        model.report(path, W=3)
    with pytest.raises(ValueError, match="mask must be None without X"):
        model.report(path, mask=MASK)
    with pytest.raises(ValueError, match="row_exposure must be None, since a model of type HPF has no exposures"):
        HPF(2, max_iter=200, tol=1e-2, random_state=0).fit(X).report(path, X, row_exposure=2.0)


def test_a_residual_of_0_is_reported_as_0():
    model = HPF(2, max_iter=200, tol=1e-2, random_state=0).fit(X)
    model.residual_, model.status_ = 0.0, fastpmf.Status.MAX_ITER
    assert next_steps(model)[0].startswith("Its residual is 0,")


@pytest.fixture
def shop(tmp_path, monkeypatch, capsys):
    """Run a command line in a folder with counts and what belongs to them: the document that it prints."""
    monkeypatch.chdir(tmp_path)
    for name, values in BESIDE.items():
        np.save(f"{name}.npy", values)
    sparse.save_npz("mask.npz", MASK.astype(int))
    for name, counts in zip(("train", "test"), thin_counts(X, 0.2, random_state=0), strict=True):
        sparse.save_npz(f"{name}.npz", counts.to_scipy())

    def call(line):
        assert cli.main(f"{line} -q --json".split()) == 0
        return json.loads(capsys.readouterr().out)

    return call


FIT = "fit train.npz -k 2 -o m.npz --max-iter 2000 --report fit.html"
EVALUATE = "evaluate m.npz test.npz --train train.npz"


@pytest.mark.parametrize("name", [*BESIDE, "mask"])
def test_every_command_takes_a_model_with_what_belongs_to_its_counts(shop, name):
    option = f"--{name.replace('_', '-')} {name}.{'npz' if name == 'mask' else 'npy'}"
    shop(FIT)
    plain = shop(EVALUATE)["log_likelihood"]
    shop(f"{FIT} {option}")
    rows, mask = (option if name == wanted else "" for wanted in ("row_exposure", "mask"))
    assert shop(f"{EVALUATE} -n 3 {rows}")["log_likelihood"] == pytest.approx(
        plain, abs=1e-4 if "exposure" in name else 0.01
    )
    shop(f"evaluate m.npz test.npz {rows}")
    shop("recommend m.npz train.npz -n 2")
    shop(f"report m.npz train.npz -o report.html {rows} {mask}")
    shop(f"plot residuals m.npz train.npz -o plot.png {rows}")
    shop(f"plot calibration m.npz test.npz --train train.npz -o plot.png {rows}")
    shop("plot component-gains m.npz test.npz --train train.npz -o plot.png")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"column_names": ["a", "b"]}, "column_names must have one name for each of the 3 columns of X, got 2, which "
         "is the number of rows: give row_names="),
        ({"row_names": ["a"] * 3}, "got 3, which is the number of columns: give column_names="),
        ({"row_names": ["a"]}, "row_names must have one name for each of the 2 rows of X, got 1$"),
        ({"column_names": {"a": 0, "b": 1, "c": 2}}, r"got a dict: get_feature_names_out\(\)"),
        ({"column_names": "abc"}, "column_names must be a list of names, got 'abc'"),
        ({"column_names": np.ones((3, 1))}, r"column_names must be a list of names, got shape \(3, 1\)"),
    ],
)  # fmt: skip
def test_names_that_do_not_fit_the_counts_are_refused(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Dataset(np.ones((2, 3), int), **given)


def test_labels_of_other_numbers_of_datasets_are_refused():
    with pytest.raises(ValueError, match="labels must have one label for each of the 2 datasets, got 1"):
        concatenate_counts([X, X], labels=["one"])
