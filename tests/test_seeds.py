"""Seeds: priors of H from lists of features, what they do to a fit, and the names of components that they give."""

import copy
import json
import pickle

import anndata
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone

import fastpmf.anndata
from fastpmf import (
    PoissonNMF,
    SeededPrior,
    StreamedCounts,
    as_counts,
    cli,
    component_gains,
    plot,
    poisson_nmf,
    seeded_prior,
    select_n_components,
    to_topics,
)
from fastpmf.core.counts import Side
from fastpmf.fitting.options import NO_DATA, Penalties
from fastpmf.fitting.problem import build_problem
from fastpmf.io import Dataset, write_counts
from fastpmf.model.init import weighted_sums

N, P, K = 300, 120, 5
NAMES = np.array([f"g{j}" for j in range(P)], dtype=object)


@pytest.fixture(scope="module")
def drawn():
    """(X, H): rows are mostly of one type each, and the first two features of each block of H are frequent in it."""
    rng = np.random.default_rng(3)
    H = rng.gamma(0.3, size=(K, P))
    for z in range(K):
        H[z, 10 * z : 10 * z + 4] = 3.0
    H /= H.sum(axis=1, keepdims=True)
    W = rng.dirichlet(np.full(K, 0.2), N) * rng.gamma(5.0, 20.0, (N, 1))
    return rng.poisson(W @ H), H


def block(z, n=2):
    return NAMES[10 * z : 10 * z + n].tolist()


def similarity(components, H):
    """Bhattacharyya coefficients of components, (k, k)."""
    C = components / components.sum(axis=1, keepdims=True)
    return np.sqrt(C.astype(float)) @ np.sqrt(H).T


def seeds_of(order):
    return {f"type {z}": block(z) for z in order}


def fit(X, prior, k=K, seed=0, **options):
    return PoissonNMF(k, prior_W="auto", prior_H=prior, random_state=seed, **options).fit(X)


# ── what seeds do to a fit ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("strength", [5, 100])
@pytest.mark.parametrize("options", [{}, {"init": "random"}, {"solver": "mu", "max_iter": 1000}, {"n_init": 3}])
def test_seeded_components_are_the_true_ones_in_their_places(options, strength, drawn):
    X, H = drawn
    for seed, order in enumerate(([0, 1, 2], [4, 2], [3, 1, 0, 2])):
        prior = seeded_prior(NAMES, seeds_of(order), K, strength=strength)
        model = fit(X, prior, seed=seed, **options)
        found = similarity(model.components_, H)
        assert found[: len(order)].argmax(axis=1).tolist() == order
        assert model.component_names_.tolist() == [f"type {z}" for z in order] + list(map(str, range(len(order), K)))


def test_rare_features_are_enough_to_place_a_component():
    # Two features of a type have a thousandth of its counts, and are in no other type
    rng = np.random.default_rng(0)
    H = rng.gamma(0.5, size=(4, 300))
    H /= H.sum(axis=1, keepdims=True)
    rare = np.zeros((4, 8))
    rare[np.arange(8) // 2, np.arange(8)] = 1e-3
    H, types = np.hstack([rare, H]), rng.integers(4, size=400)
    X = rng.poisson(1000 * H[types])
    names = [f"g{j}" for j in range(308)]
    for seed in range(4):
        prior = seeded_prior(names, {str(z): names[2 * z : 2 * z + 2] for z in range(4)}, 4, strength=1)
        assert similarity(fit(X, prior, k=4, seed=seed).components_, H).argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_seeds_work_with_streamed_counts(drawn):
    X, H = drawn
    blocks = [as_counts(sparse.csr_array(X[i : i + 100])) for i in range(0, N, 100)]
    prior = seeded_prior(NAMES, seeds_of([3, 0]), K, strength=20)
    streamed = fit(StreamedCounts(lambda: blocks), prior, max_iter=1000)
    assert similarity(streamed.components_, H)[:2].argmax(axis=1).tolist() == [3, 0]
    assert streamed.component_names_[:2].tolist() == ["type 3", "type 0"]


def test_the_data_overrule_a_few_wrong_seeds(drawn):
    X, H = drawn
    wrong = {"a": [NAMES[0], NAMES[10], NAMES[20]], "b": [NAMES[1], NAMES[31]]}  # of different types
    for strength in (1, 10):
        model = fit(X, seeded_prior(NAMES, wrong, K, strength=strength))
        found = similarity(model.components_, H)
        assert sorted(found.argmax(axis=1)) == list(range(K))
        assert (found.max(axis=1) > 0.97).all()  # 0.99 without seeds
    strong = fit(X, seeded_prior(NAMES, wrong, K, strength=1e6))
    top = strong.top_features(3, names=NAMES).names
    assert set(top[0]) == set(wrong["a"])
    assert set(top[1, :2]) == set(wrong["b"])


def test_a_strong_known_profile_stays_and_a_weak_one_moves_to_the_data(drawn):
    X, H = drawn
    known = 0.5 * H[1] + 0.5 * H[1][::-1]
    distances = []
    for strength in (1e1, 1e3, 1e5, 1e8):
        model = fit(X, seeded_prior(NAMES, {"known": known}, K, strength=strength), dtype="float64")
        profile = model.components_[0] / model.components_[0].sum()
        distances.append([np.abs(profile - A).sum() for A in (known, H[1])])
    from_known, from_truth = np.transpose(distances)
    assert (np.diff(from_known) < 0).all()
    assert from_known[-1] < 1e-3  # the counts of the component are 1e4, and its profile has 1e8
    assert from_truth[0] < 0.2 < from_truth[-1]


def test_a_seeded_component_is_its_prior_and_its_counts():
    # With W fixed the posterior mode is known: (allocated counts + shape - 1) / (sum of W + rate)
    W = np.repeat([[1.0, 0.0], [0.0, 1.0]], 3, axis=0)
    X = np.random.default_rng(0).poisson(3.0, (6, 4))
    prior = seeded_prior(list("abcd"), {"s": {"a": 3, "c": 1}}, 2, strength=8, shape=1.5, rate=2.0)
    np.testing.assert_allclose(prior.shape, [[7.5, 1.5, 3.5, 1.5], [1.5] * 4])
    solution = poisson_nmf(X, 2, prior_H=prior, fixed_W=W, tol=1e-12, dtype="float64")
    counts = np.array([X[:3].sum(axis=0), X[3:].sum(axis=0)])
    expected = (counts + np.array([[6.5, 0.5, 2.5, 0.5], [0.5] * 4])) / 5.0
    np.testing.assert_allclose(solution.H, expected, rtol=1e-5)


def test_only_components_without_seeds_are_merged(drawn):
    prior = seeded_prior(NAMES, seeds_of([0, 1]), K, strength=10)
    penalties = Penalties(prior_W=(1.1, 1.0), prior_H=(prior.shape, 1.0))
    problem = build_problem(as_counts(drawn[0]), K, np.dtype(float), penalties, NO_DATA)
    assert problem.interchangeable.tolist() == [2, 3, 4]
    assert problem.free_components.tolist() == [0, 1, 2, 3, 4]


def test_components_can_be_added_to_a_seeded_fit(drawn):
    X, H = drawn
    seeds = seeds_of([2, 0])
    small = fit(X, seeded_prior(NAMES, seeds, 4, strength=500), k=4)
    model = PoissonNMF(5, prior_W="auto", prior_H=seeded_prior(NAMES, seeds, 5, strength=500), init="grow",
                       random_state=0).fit(X, W=small.transform(X), H=small.components_)  # fmt: skip
    assert similarity(model.components_, H)[:2].argmax(axis=1).tolist() == [2, 0]
    assert model.components_.any(axis=1).all()


@pytest.mark.parametrize("counts", [1, 10])
def test_a_few_labelled_rows_place_the_components(counts, drawn):
    X, H = drawn
    labels = np.array([X[:, 10 * z : 10 * z + 4].sum(axis=1) for z in range(K)]).argmax(axis=0)
    shapes = np.full((N, K), 1.1)
    shapes[np.arange(60), labels[:60]] += counts
    for seed in range(3):
        model = PoissonNMF(K, prior_W=(shapes, "auto"), prior_H="auto", random_state=seed).fit(X)
        assert similarity(model.components_, H).argmax(axis=1).tolist() == list(range(K))


def test_partial_fit_takes_seeds_with_a_rate(drawn):
    X, H = drawn
    prior = seeded_prior(NAMES, seeds_of([4, 1]), K, strength=50, rate=1.0)
    model = PoissonNMF(K, prior_W=(1.1, 1.0), prior_H=prior, random_state=0)
    for i in range(0, N, 100):
        model.partial_fit(X[i : i + 100])
    assert similarity(model.components_, H)[:2].argmax(axis=1).tolist() == [4, 1]
    assert model.component_names_[0] == "type 4"
    named = seeded_prior(NAMES, seeds_of([4, 1]), K, strength=50)
    with pytest.raises(ValueError, match=r"^prior_H must be \(shape, rate\) or None for partial_fit"):
        PoissonNMF(K, prior_W=(1.1, 1.0), prior_H=named).partial_fit(X)


@pytest.mark.parametrize("side", Side)
def test_weighted_sums_are_a_product_with_the_counts(side, drawn):
    X = drawn[0] if side is Side.ROWS else drawn[0].T
    weights = np.random.default_rng(0).gamma(1.0, size=(P, 3))
    got = weighted_sums(as_counts(sparse.csr_array(X)), side, weights, np.dtype(float))
    np.testing.assert_allclose(got, drawn[0] @ (weights / drawn[0].sum(axis=0)[:, None]), rtol=1e-12)


# ── alignment ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_seeded_prior_is_aligned_with_columns_by_name(drawn):
    X, order = drawn[0], np.random.default_rng(0).permutation(P)[:100]
    prior = seeded_prior(NAMES, seeds_of([2, 3]), K, strength=30)
    part = seeded_prior(NAMES[order], {name: [x for x in seed if x in NAMES[order]] for name, seed in
                                       seeds_of([2, 3]).items()}, K, strength=30)  # fmt: skip
    by_name = fit(pd.DataFrame(X[:, order], columns=NAMES[order]), prior)
    np.testing.assert_array_equal(by_name.prior_H_[0], prior.shape[:, order])
    if (part.shape == prior.shape[:, order]).all():  # no seed is lost
        by_position = fit(X[:, order], part)
        np.testing.assert_array_equal(by_name.components_, by_position.components_)
    with pytest.raises(ValueError, match=r"^prior_H must have a label for each column of X, and lacks 'x'"):
        fit(pd.DataFrame(X[:, :2], columns=["g0", "x"]), prior)
    with pytest.raises(ValueError, match=r"^prior_H must .* of shape \(5, 100\), got arrays of shapes \(5, 120\)"):
        fit(X[:, order], prior)


def test_a_warning_says_which_component_lost_all_its_seeds(drawn):
    X = pd.DataFrame(drawn[0], columns=NAMES)
    prior = seeded_prior(NAMES, seeds_of([2, 3]), K, strength=30)
    with pytest.warns(UserWarning, match=r"^X lacks all features that prior_H expects in 1 component.s.: 'type 2'"):
        fit(X.drop(columns=block(2)), prior)


def test_data_frames_of_priors_are_aligned_by_their_labels(drawn):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(drawn[0], columns=NAMES, index=[f"r{i}" for i in range(N)])
    W = pd.DataFrame(1 + rng.random((N, K)), index=X.index)
    H = pd.DataFrame(1 + rng.random((K, P)), columns=NAMES)
    right = PoissonNMF(K, prior_W=(W, 1.0), prior_H=(H, 1.0), random_state=0).fit(X)
    shuffled = PoissonNMF(K, prior_W=(W[::-1], 1.0), prior_H=(H[NAMES[::-1]], 1.0), random_state=0).fit(X)
    np.testing.assert_array_equal(right.components_, shuffled.components_)


def test_a_prior_of_rows_is_given_again_for_new_rows(drawn):
    X = drawn[0]
    shapes = 1 + np.random.default_rng(0).random((N, K))
    model = PoissonNMF(K, prior_W=(shapes, 1.0), prior_H="auto", random_state=0).fit(X)
    with pytest.raises(ValueError, match=r"^prior_W must be given for these rows, since that of fit"):
        model.transform(X[:5])
    one_by_one = [model.transform(X[[i]], prior_W=(shapes[[i]], 1.0))[0] for i in range(5)]
    np.testing.assert_array_equal(model.transform(X[:5], prior_W=(shapes[:5], 1.0)), one_by_one)
    assert np.isfinite(model.score(X[:5], prior_W=(1.1, 1.0)))


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────

BAD = {
    "an unknown feature": ({"seeds": {"a": ["g1", "zz"]}}, r"^seeds\['a'\] must have names in features, which lacks"),
    "no seeds": ({"seeds": {}}, "^seeds must have from 1 to n_components = 3 components, got 0"),
    "too many seeds": ({"seeds": {z: ["g1"] for z in "abcd"}}, "^seeds must have from 1 to n_components = 3 comp"),
    "an empty seed": ({"seeds": {"a": []}}, r"^seeds\['a'\] must have at least one feature, got none"),
    "weights of zero": ({"seeds": {"a": {"g1": 0}}}, r"^seeds\['a'\] must have at least one feature of posi"),
    "a negative weight": ({"seeds": {"a": {"g1": -1, "g2": 2}}}, r"^seeds\['a'\] must be non-negative"),
    "a weight of text": ({"seeds": {"a": {"g1": "x"}}}, r"^seeds\['a'\] must hold real numbers"),
    "a repeated feature": ({"seeds": {"a": ["g1", "g1"]}}, r"^seeds\['a'\] must have each feature once, got 'g1'"),
    "text": ({"seeds": {"a": "g1"}}, r"^seeds\['a'\] must be a list of features, a dict or an array, got 'g1'"),
    "a number": ({"seeds": {"a": 5}}, r"^seeds\['a'\] must be a list of features, a dict or an array, got 5"),
    "a short array": ({"seeds": {"a": np.ones(3)}}, r"^seeds\['a'\] must be a list .* for each of 120 features, got"),
    "names that are numbers": ({"seeds": {1: ["g1"]}}, "^seeds must be a dict from names of components to features"),
    "pairs": ({"seeds": [("a", ["g1"])]}, "^seeds must be a dict from names of components to features"),
    "a name of another component": ({"seeds": {"2": ["g1"]}}, "^seeds must not have the number of another component"),
    "no strength": ({"strength": 0}, "^strength == 0, must be > 0"),
    "an infinite strength": ({"strength": np.inf}, "^strength must be finite"),
    "a low shape": ({"shape": 0.5}, "^shape == 0.5, must be >= 1"),
    "no rate": ({"rate": 0}, "^rate == 0, must be > 0"),
    "an unknown rate": ({"rate": "flat"}, "^rate must be one of 'auto', 'sparse', got 'flat'"),
    "no components": ({"n_components": 0}, "^n_components == 0, must be >= 1"),
    "numbers for features": ({"features": [1, 2]}, "^features must be names, or counts with column names"),
    "counts without names": ({"features": np.ones((2, 3))}, "^features must be names, or counts with column names"),
    "features twice": ({"features": ["g1", "g1"]}, r"^seeds\['a'\] must have names that features has once, got 'g1'"),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD.values(), ids=BAD)
def test_invalid_seeds_are_one_sentence(options, message):
    arguments = {"features": NAMES, "seeds": {"a": ["g1"]}, "n_components": 3, "strength": 10} | options
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        seeded_prior(**arguments)
    assert "\n" not in str(caught.value)


def test_a_prior_for_another_number_of_components_is_an_error(drawn):
    prior = seeded_prior(NAMES, seeds_of([0]), K, strength=10)
    for call in (lambda: fit(drawn[0], prior, k=4), lambda: poisson_nmf(drawn[0], 4, prior_W="auto", prior_H=prior)):
        with pytest.raises(ValueError, match=r"^n_components must be 5, that of the seeded prior prior_H, got 4"):
            call()


def test_other_features_may_have_the_same_name(drawn):
    names = np.where(np.arange(len(NAMES)) < len(NAMES) - 2, NAMES, "other")
    prior, expected = (seeded_prior(given, {"a": ["g1"]}, K, strength=10) for given in (names, NAMES))
    np.testing.assert_array_equal(prior.shape, expected.shape)
    with pytest.warns(UserWarning, match="X has 1 feature name.s. more than once"):
        assert fit(pd.DataFrame(drawn[0], columns=names), prior).component_names_[0] == "a"


def test_numbers_of_components_are_not_compared_with_a_seeded_prior(drawn):
    model = PoissonNMF(K, prior_W="auto", prior_H=seeded_prior(NAMES, seeds_of([0]), K, strength=10), max_iter=20)
    with pytest.raises(ValueError, match="n_components must be 5 only, that of the seeded"):
        select_n_components(drawn[0], [4, 5], estimator=model)
    assert select_n_components(drawn[0], [5], estimator=model, n_splits=1, random_state=0).recommended == 5


def test_features_may_be_counts_with_names(drawn):
    frame = pd.DataFrame(drawn[0], columns=NAMES)
    for features in (frame, Dataset(drawn[0], column_names=NAMES), frame.columns, NAMES.tolist()):
        prior = seeded_prior(features, {"a": ["g1"]}, 2, strength=10)
        assert prior.shape[0].argmax() == 1


# ── names ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def named(drawn):
    prior = seeded_prior(NAMES, {"T cells": block(0), "B cells": block(1)}, 3, strength=10)
    return fit(Dataset(drawn[0], column_names=NAMES), prior, k=3)


def test_names_and_seeds_survive_copies_and_files(named, drawn, tmp_path):
    data = Dataset(drawn[0], column_names=NAMES)
    named.save(tmp_path / "model.npz")
    loaded = PoissonNMF.load(tmp_path / "model.npz")
    for model in (loaded, pickle.loads(pickle.dumps(named)), copy.deepcopy(named)):
        assert model.component_names_.tolist() == ["T cells", "B cells", "2"]
        np.testing.assert_array_equal(model.prior_H_[0], named.prior_H_[0])
        np.testing.assert_array_equal(model.transform(data), named.transform(data))
        assert isinstance(model.prior_H, SeededPrior)
        again = clone(model).fit(data)
        np.testing.assert_array_equal(again.components_, named.components_)
        assert again.component_names_.tolist() == ["T cells", "B cells", "2"]
    unnamed = clone(named).set_params(prior_H="auto").fit(data)
    assert unnamed.component_names_ is None


def test_a_checkpoint_of_other_seeds_is_refused(drawn, tmp_path):
    first, other = (seeded_prior(NAMES, seeds_of([z]), K, strength=10) for z in (0, 1))
    model = PoissonNMF(K, prior_W="auto", prior_H=first, random_state=0, max_iter=3, tol=0, init="random")
    folder = tmp_path / "saved"
    model.set_params(max_iter=30).fit(drawn[0], checkpoint=fastpmf.Checkpoint(folder, 0.0))
    with pytest.raises(ValueError, match="prior"):
        model.set_params(prior_H=other, max_iter=60).fit(drawn[0], resume=folder)


def test_an_estimator_with_seeds_is_short_as_text(named):
    assert len(repr(named)) < 300
    assert "SeededPrior(3 components of 120 features: 'T cells', 'B cells', '2')" in repr(named.prior_H)


def test_tables_and_plots_have_the_names_of_components(named, drawn):
    data = Dataset(drawn[0], column_names=NAMES)
    W, names = named.transform(data), ["T cells", "B cells", "2"]
    top = named.top_features(3)
    assert named.get_feature_names_out().tolist() == names
    assert named.summary().to_frame().index.tolist() == names
    assert top.to_frame()["component"].unique().tolist() == names
    assert top.to_frame(wide=True).columns.tolist() == names
    assert top.titles(2) == ["T cells", "B cells", " ".join(top.names[2, :2])]
    assert named.to_topics(W).to_frame().columns.tolist() == names
    assert to_topics(W, named).to_frame("columns").index.tolist() == names
    found = named.differential_expression(data, W)
    assert found.to_frame()["component"].unique().tolist() == names
    assert found.top(2).components.tolist() == names
    quality = named.quality(data)
    assert quality.to_frame().index.tolist() == names
    gains = component_gains(data, named, data, exposure=1.0)
    assert gains.to_frame().index.tolist() == names
    for table in (named.summary(), top, named.to_topics(W), found, quality, gains):
        assert "B cells" in str(table)
    assert plot.differential(found, 1).get_title() == "component B cells"
    assert {label.get_text() for label in plot.component_gains(gains).get_yticklabels()} == set(names)
    structure = plot.structure(W, named)
    assert [text.get_text() for text in structure.get_legend().get_texts()].count("T cells") == 1
    assert [ax.get_title() for ax in plot.top_features(named, 2)] == names
    assert {label.get_text() for label in plot.similarity_heatmap(named).get_yticklabels()} == set(names)
    plt.close("all")


def test_the_report_has_the_names_of_components(named, drawn, tmp_path):
    page = named.report(tmp_path / "report.html", Dataset(drawn[0], column_names=NAMES)).read_text()
    assert "T cells" in page


def test_seeds_of_anndata_are_aligned_by_gene(drawn, tmp_path):
    adata = anndata.AnnData(drawn[0].astype("float32"))
    adata.var_names = NAMES.astype(str)
    adata.var["chosen"] = np.arange(P) % 9 != 8  # not the seeds
    adata.obs["type"] = pd.Categorical(np.where(np.arange(N) < 100, "a", "b"))
    prior = seeded_prior(adata.var_names, {"T cells": block(0), "B cells": block(1)}, 3, strength=10)
    model = fastpmf.anndata.poisson_nmf(adata, 3, mask_var="chosen", prior_W="auto", prior_H=prior, random_state=0)
    assert adata.uns["pmf"]["component_names"].tolist() == ["T cells", "B cells", "2"]
    top = model.top_features(4).names
    assert set(block(0)) <= set(top[0])
    assert set(block(1)) <= set(top[1])
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad")
    ax = plot.group_heatmap(read, groupby="type")
    assert {label.get_text() for label in ax.get_xticklabels()} == {"T cells", "B cells", "2"}
    plt.close("all")


def test_seeds_on_the_command_line(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_counts("counts", Dataset(sparse.csr_array(drawn[0]), column_names=NAMES))
    (tmp_path / "seeds.json").write_text(json.dumps({"fish": block(3), "birds": {block(2)[0]: 2, block(2)[1]: 1}}))
    command = "fit counts -k 4 --seed-features seeds.json -o model.npz --weights W.csv --factors factors.npz -q"
    assert cli.main([*command.split(), "--seed-strength", "100"]) == 0
    model = PoissonNMF.load("model.npz")
    assert model.component_names_.tolist() == ["fish", "birds", "2", "3"]
    assert model.prior_W == "auto"
    assert set(block(3)) <= set(model.top_features(4).names[0])
    assert (tmp_path / "W.csv").read_text().splitlines()[0] == "row,fish,birds,2,3"
    assert np.load("factors.npz")["component_names"].tolist() == ["fish", "birds", "2", "3"]
    assert cli.main(["plot", "structure", "model.npz", "counts", "--weights", "W.csv", "-o", "structure.png"]) == 0
    capsys.readouterr()
    assert cli.main(["topics", "model.npz", "-n", "2"]) == 0
    assert "\nfish\t1\t" in capsys.readouterr().out
    for more, message in (
        ([], "argument --seed-features: it needs --seed-strength"),
        (["--seed-strength", "9", "--prior", "none"], "argument --seed-features: it needs a prior of H, got none"),
        (["--seed-strength", "9", "--model", "hpf", "--c", "1"], "argument --c: --seed-features sets the shapes of H"),
        (["--seed-strength", "9", "-k", "1"], "argument --seed-features: seeds must have from 1 to n_components = 1"),
    ):
        assert cli.main([*command.split(), *more]) == 2
        assert message in capsys.readouterr().err
    for text, message in (("[", "is not JSON"), ("[1]", "expected an object"), ('{"a": ["zz"]}', "which lacks 'zz'")):
        (tmp_path / "seeds.json").write_text(text)
        assert cli.main([*command.split(), "--seed-strength", "9"]) == 2
        assert message in capsys.readouterr().err


def test_weights_of_a_series_belong_to_its_labels():
    names = [f"g{j}" for j in range(5)]
    series = pd.Series([4.0, 1.0], index=["g3", "g1"])
    prior = seeded_prior(names, {"A": series}, 2, strength=10)
    np.testing.assert_allclose(prior.shape[0], [1.1, 3.1, 1.1, 9.1, 1.1])
    listed = seeded_prior(names, {"A": pd.Series(["g3", "g1"])}, 2, strength=10)
    np.testing.assert_allclose(listed.shape[0], [1.1, 6.1, 1.1, 6.1, 1.1])


@pytest.mark.parametrize("shape", [float("nan"), float("inf"), 0.5])
def test_a_shape_that_is_no_number_from_1_on_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        seeded_prior(["a", "b"], {"A": ["a"]}, 2, strength=10, shape=shape)


def test_a_prior_of_new_rows_is_aligned_and_has_a_row_for_each(drawn):
    X = pd.DataFrame(drawn[0][:20], index=[f"r{i}" for i in range(20)], columns=NAMES)
    shape = pd.DataFrame(1 + np.random.default_rng(0).gamma(0.5, 20, (20, 2)), index=X.index)
    model = PoissonNMF(2, prior_W=(shape, 1.0), prior_H="auto", random_state=0).fit(X)
    W = model.transform(X, prior_W=(shape, 1.0))
    np.testing.assert_array_equal(model.transform(X, prior_W=(shape[::-1], 1.0)), W)
    np.testing.assert_array_equal(model.transform(X[5:9], prior_W=(shape[5:9], 1.0)), W[5:9])
    for wrong in (shape.to_numpy(), shape.to_numpy()[:3]):
        with pytest.raises(
            ValueError, match=r"prior_W must have arrays of shape \(4, 2\), with a row for each row of X"
        ):
            model.transform(X[5:9], prior_W=(wrong, 1.0))
        with pytest.raises(ValueError, match="prior_W must have arrays of shape"):
            model.score(X[5:9], prior_W=(wrong, 1.0))
