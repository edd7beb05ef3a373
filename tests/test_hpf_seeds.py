"""Hierarchical Poisson factorization with prior shapes of single entries of H, and with seeds."""

import json
import math

import naive_hpf
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone

from fastpmf import HPF, Checkpoint, StreamedCounts, cli, match_components, seeded_prior
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import Dataset, load_model, write_counts

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

GENES = [f"gene{j}" for j in range(60)]


@pytest.fixture(scope="module")
def drawn():
    return make_poisson_counts(200, 60, 4, nnz=5_000, random_state=0)


@pytest.fixture(scope="module")
def markers(drawn):
    """The three most frequent features of two of the components that the counts are drawn from."""
    return {name: [GENES[j] for j in np.argsort(-drawn.H[z])[:3]] for name, z in (("last", 3), ("second", 1))}


@pytest.fixture(scope="module")
def small():
    """(X, c): counts, and shapes of all entries of H."""
    rng = np.random.default_rng(1)
    X = rng.poisson(rng.gamma(0.5, 2, (30, 3)) @ rng.gamma(0.5, 1, (3, 20))) + np.eye(30, 20)
    return X, rng.gamma(1.0, 1.0, (3, 20)) + 0.05


def quick(k=3, **options):
    return HPF(k, **{"random_state": 0, "max_iter": 20, "tol": 0, "dtype": "float64"} | options)


def bits(model):
    return [A.tobytes() for part in (model.W_posterior_, model.H_posterior_) for A in (part.shape, part.rate)]


def bound(X, model):
    """The bound of the oracle, and the sum of the sizes of its terms."""
    W, H, own, hierarchical = model.W_posterior_, model.H_posterior_.transposed(), model.prior_, model.hierarchy
    of_rows = [(A.shape, A.rate) if hierarchical else (0, np.zeros(n))
               for A, n in ((model.activity_, len(W.shape)), (model.popularity_, len(H.shape)))]  # fmt: skip
    factors = [(A.shape, A.rate, *rest) for A, rest in zip((W, H), of_rows, strict=True)]
    priors = [(own["a"], own["a_prime"], own["b_prime"], hierarchical),
              (own["c"].T, own["c_prime"], own["d_prime"], hierarchical)]  # fmt: skip
    return naive_hpf.evidence_bound(X, factors, priors)


@pytest.mark.parametrize("hierarchy", [True, False])
@pytest.mark.parametrize("init", ["random", "merge"])
def test_the_bound_never_falls_and_is_that_of_the_posteriors(small, hierarchy, init):
    X, c = small
    model = quick(c=c, hierarchy=hierarchy, init=init, eval_every=1, max_iter=60).fit(X)
    assert np.diff(-model.trace_["objective"]).min() >= -1e-11 * abs(model.elbo_)  # rounding of sums of 1e3 terms
    exact, size = bound(X, model)
    assert model.elbo_ == pytest.approx(exact, abs=1e-12 * size)
    np.testing.assert_allclose(model.prior_["c"], c, rtol=1e-14)


def test_at_convergence_each_shape_is_its_prior_plus_the_counts_allotted_to_it(small):
    X, c = small
    model = quick(c=c, max_iter=5000, tol=1e-10).fit(X)
    log_W, log_H = (naive_hpf.log_mean(A.shape, A.rate) for A in (model.W_posterior_, model.H_posterior_.transposed()))
    allotted = np.zeros((20, 3))
    for i, j in zip(*np.nonzero(X), strict=True):
        allotted[j] += X[i, j] * naive_hpf.allotment(log_W[i], log_H[j])
    np.testing.assert_allclose(model.H_posterior_.shape, c + allotted.T, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model.popularity_.shape, 0.3 + c.sum(axis=0), rtol=1e-13)
    rate = model.popularity_.mean[:, None] + model.W_posterior_.mean.sum(axis=0)
    np.testing.assert_allclose(model.H_posterior_.rate.T, rate, rtol=1e-6)


def test_equal_shapes_of_all_entries_are_those_of_components(small):
    X, _ = small
    each = quick(c=[0.2, 0.5, 0.7], init="random").fit(X)
    entries = quick(c=np.repeat([[0.2], [0.5], [0.7]], 20, axis=1), init="random").fit(X)
    assert bits(entries) == bits(each)
    assert entries.elbo_ == pytest.approx(each.elbo_, rel=1e-13)


@pytest.mark.parametrize("init", ["auto", "random"])
@pytest.mark.parametrize("strength", [1.0, 20.0, 200.0])
def test_seeded_components_come_first_and_have_their_names(drawn, markers, init, strength):
    prior = seeded_prior(GENES, markers, 4, strength=strength)
    for seed in range(3):
        model = HPF(4, c=prior, init=init, tol=1e-3, random_state=seed).fit(drawn.X)
        assert model.component_names_.tolist() == ["last", "second", "2", "3"]
        assert match_components(model.components_, drawn.H)[0][:2].tolist() == [3, 1]
    assert model.prior_["c"].min() == pytest.approx(0.3)
    assert model.prior_["c"].sum() == pytest.approx(0.3 * 240 + 2 * strength)
    assert model.top_features(3).component_names[0] == "last"
    assert model.get_feature_names_out().tolist() == ["last", "second", "2", "3"]


def test_data_overrule_a_weak_seed_and_not_a_strong_one(drawn):
    wrong = {"wrong": [GENES[j] for j in np.argsort(drawn.H.max(axis=0))[:3]]}  # features that hardly occur
    shares = []
    for strength in (1.0, 1e6):
        model = HPF(4, c=seeded_prior(GENES, wrong, 4, strength=strength), tol=1e-3, random_state=0).fit(drawn.X)
        profile = model.components_[0] / model.components_[0].sum()
        shares.append(profile[[GENES.index(name) for name in wrong["wrong"]]].sum())
    assert shares[0] < 0.2
    assert shares[1] > 0.9


def test_shapes_and_seeds_are_aligned_with_columns_by_name(drawn, markers):
    pd = pytest.importorskip("pandas")
    X = drawn.X.toarray()
    named, shuffled = Dataset(X, column_names=GENES), np.random.default_rng(0).permutation(60)
    prior = seeded_prior(np.array(GENES)[shuffled], markers, 4, strength=50)
    same = seeded_prior(GENES, markers, 4, strength=50)
    expected = quick(4, c=same).fit(named)
    assert bits(quick(4, c=prior).fit(named)) == bits(expected)
    frame = pd.DataFrame(expected.prior_["c"], columns=GENES).iloc[:, shuffled]
    found = quick(4, c=frame).fit(named)
    np.testing.assert_allclose(found.components_, expected.components_, rtol=1e-6)
    assert found.component_names_ is None


@pytest.mark.parametrize("by_column", [False, True])
def test_streamed_counts_give_a_fit_of_the_same_bound(small, by_column):
    X, c = small
    A = sparse.csr_array(X.T if by_column else X)
    streamed = StreamedCounts(lambda: [A[:7], A[7:]], by_column=by_column)
    model = quick(c=c, init="random", eval_every=1).fit(streamed)
    assert np.diff(-model.trace_["objective"]).min() >= -1e-11 * abs(model.elbo_)
    exact, size = bound(X, model)
    assert model.elbo_ == pytest.approx(exact, abs=1e-12 * size)
    if not by_column:
        np.testing.assert_allclose(model.components_, quick(c=c, init="random").fit(X).components_, rtol=1e-8)


def test_seeds_and_groups_go_together(small):
    X, c = small
    group = np.arange(30) % 2
    model = quick(c=c, eval_every=1, max_iter=40).fit(X, groups=group)
    assert np.diff(-model.trace_["objective"]).min() >= -1e-11 * abs(model.elbo_)
    assert model.group_effects_.shape == (2, 20)
    assert model.posterior(X, groups=group).shape.shape == (30, 3)


def test_a_resumed_fit_has_the_bits_of_one_that_never_stopped(small, tmp_path):
    X, c = small
    options = {"init": "random", "c": c}
    whole = quick(max_iter=14, **options).fit(X)
    quick(max_iter=7, **options).fit(X, checkpoint=Checkpoint(tmp_path, iterations=1))
    assert bits(quick(max_iter=14, **options).fit(X, resume=tmp_path)) == bits(whole)
    with pytest.raises(ValueError, match=r"^resume"):
        quick(max_iter=14, init="random", c=c + np.eye(3, 20)).fit(X, resume=tmp_path)


def test_a_model_is_saved_loaded_and_cloned(drawn, markers, small, tmp_path):
    prior = seeded_prior(GENES, markers, 4, strength=50)
    model = quick(4, c=prior).fit(Dataset(drawn.X, column_names=GENES))
    model.save(tmp_path / "model.npz")
    loaded = load_model(tmp_path / "model.npz")
    assert bits(loaded) == bits(model)
    assert loaded.component_names_.tolist() == ["last", "second", "2", "3"]
    np.testing.assert_array_equal(loaded.prior_["c"], model.prior_["c"])
    np.testing.assert_array_equal(loaded.popularity_.shape, model.popularity_.shape)
    np.testing.assert_array_equal(loaded.c.shape, prior.shape)
    assert loaded.c.feature_names.tolist() == GENES
    X = drawn.X[:20]
    named = Dataset(X, column_names=GENES)
    np.testing.assert_array_equal(loaded.transform(named), model.transform(named))
    part = model._with_features(np.arange(10, 50))
    assert np.isfinite(part.transform(Dataset(X[:, 10:50], column_names=GENES[10:50]))).all()
    again = clone(model)
    assert bits(again.fit(Dataset(drawn.X, column_names=GENES))) == bits(model)
    X, c = small
    model = quick(c=c).fit(X)
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(load_model(tmp_path / "model.npz").c, c)
    assert model.fit(X).component_names_ is None
    with np.load(tmp_path / "model.npz") as file:
        arrays = dict(file)
    arrays["column_shapes"] = arrays["column_shapes"][:, 1:]
    np.savez(tmp_path / "model.npz", **arrays)
    with pytest.raises(ValueError, match="is not a valid fastpmf model file"):
        load_model(tmp_path / "model.npz")


@pytest.mark.parametrize(
    ("c", "options", "message"),
    [
        (np.ones((2, 20)), {}, r"c must have a row for each of 3 components, got shape \(2, 20\)"),
        (np.ones((3, 19)), {}, r"c must have a column for each of 20 features, got shape \(3, 19\)"),
        (np.zeros((3, 20)), {}, "c must hold positive numbers from 1e-30 to 1e"),
        (np.full((3, 20), math.nan), {}, "c must"),
        (-np.ones((3, 20)), {}, "c must"),
        (np.ones((3, 20)), {"learn_prior": True}, "learn_prior must be False if c has shapes of single entries"),
        (
            seeded_prior(GENES, {"a": ["gene1"]}, 2, strength=1),
            {},
            "n_components must be 2, that of the seeded prior c",
        ),
        (
            seeded_prior(GENES, {"a": ["gene1"]}, 3, strength=1),
            {},
            r"c must have a column for each of 20 features, got",
        ),
    ],
)
def test_invalid_shapes_are_refused(small, c, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        quick(c=c, **options).fit(small[0])


def test_mini_batches_and_clusters_have_no_shapes_of_single_entries(small):
    X, c = small
    with pytest.raises(ValueError, match=r"^c must be a number, or one for each component, for partial_fit"):
        HPF(3, c=c).partial_fit(X)
    pytest.importorskip("dask")
    from fastpmf import dask

    with pytest.raises(ValueError, match=r"^c must be a number, or one for each component, for fastpmf.dask"):
        dask.HPF(3, c=c).fit(X)


def test_the_command_line_and_anndata_take_seeds(drawn, markers, tmp_path, capsys):
    anndata = pytest.importorskip("anndata")
    fa = pytest.importorskip("fastpmf.anndata")
    X, seeds, model = (str(tmp_path / name) for name in ("X.npz", "seeds.json", "model.npz"))
    write_counts(X, Dataset(drawn.X, column_names=GENES))
    (tmp_path / "seeds.json").write_text(json.dumps(markers))
    line = ["fit", X, "-k", "4", "--model", "hpf", "--seed-features", seeds, "--seed-strength", "50", "-o", model]
    assert cli.main([*line, "--tol", "1e-3", "--quiet"]) == 0
    capsys.readouterr()
    assert load_model(model).component_names_[:2].tolist() == ["last", "second"]
    adata = anndata.AnnData(drawn.X.toarray().astype("float32"))
    adata.var_names = GENES
    fa.hpf(adata, 4, c=seeded_prior(GENES, markers, 4, strength=50), tol=1e-3, random_state=0)
    assert adata.uns["hpf"]["component_names"].tolist() == ["last", "second", "2", "3"]
