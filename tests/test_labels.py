"""Arguments are aligned with X by labels if both have labels, and else taken by position."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from scipy import sparse

from fastpmf import (
    HPF,
    PoissonNMF,
    as_counts,
    component_gains,
    differential_expression,
    kl_divergence,
    match_components,
    non_negative_factorization,
    poisson_log_likelihood,
    poisson_nmf,
    pyldavis_input,
    ranking_scores,
    recommend,
    similar_columns,
    thin_counts,
    to_topics,
    top_features,
    topic_quality,
)
from fastpmf.counts import Dataset
from fastpmf.counts.labels import Labels, align, align_components, align_factors, labels_of

N, P, K = 12, 9, 3
ROWS, COLUMNS = [f"cell{i}" for i in range(N)], [f"gene{j}" for j in range(P)]
OPTIONS = {"random_state": 0, "n_threads": 1, "max_iter": 30, "tol": 0.0}
RNG = np.random.default_rng(7)
X = pd.DataFrame(RNG.poisson(3.0, (N, P)) + 1, index=ROWS, columns=COLUMNS)
BY_ROW, BY_COLUMN = RNG.permutation(N), RNG.permutation(P)

GIVEN = {
    "fixed_W": pd.DataFrame(
        np.where(np.arange(K) == 1, RNG.random((N, 1)), np.full((N, K), np.nan)), index=ROWS, columns=list("abc")
    ),
    "fixed_H": pd.DataFrame(
        np.where(np.arange(K)[:, None] == 0, RNG.random(P), np.full((K, P), np.nan)), columns=COLUMNS
    ),
    "row_exposure": pd.Series(RNG.uniform(0.5, 2, N), index=ROWS),
    "column_exposure": pd.Series(RNG.uniform(0.5, 2, P), index=COLUMNS),
    "background": pd.Series(RNG.uniform(0.1, 0.5, P), index=COLUMNS),
    "mask": pd.DataFrame(RNG.random((N, P)) < 0.2, index=ROWS, columns=COLUMNS),
    "sample_weight": pd.Series(RNG.uniform(0.5, 2, N), index=ROWS),
    "validation": pd.DataFrame(RNG.poisson(1.0, (N, P)) + 1, index=ROWS, columns=COLUMNS),
}  # fmt: skip
OF_COLUMNS = {"column_exposure", "background"}


def permuted(A, name):
    """The same values and labels in another order."""
    if isinstance(A, pd.Series):
        return A.iloc[BY_COLUMN if name in OF_COLUMNS else BY_ROW]
    if list(A.index) == ROWS:
        A = A.iloc[BY_ROW]
    return A.iloc[:, BY_COLUMN] if list(A.columns) == COLUMNS else A


def as_dataset(A):
    return Dataset(sparse.csr_array(A.to_numpy()), np.asarray(A.index), np.asarray(A.columns))


def same(a, b):
    assert np.array_equal(a.components_, b.components_)
    assert a.objective_ == b.objective_


@pytest.fixture(autouse=True)
def not_converged():
    """Ignore the convergence warnings of short fits."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Stopped at max_iter")
        yield


@pytest.mark.parametrize("name", GIVEN)
class TestWhatIsGivenToFit:
    def test_it_may_be_in_another_order_than_X(self, name):
        straight = PoissonNMF(K, **OPTIONS).fit(X, **{name: GIVEN[name]})
        other = permuted(GIVEN[name], name)
        assert not np.array_equal(other.to_numpy(), GIVEN[name].to_numpy(), equal_nan=True)
        same(PoissonNMF(K, **OPTIONS).fit(X, **{name: other}), straight)
        same(PoissonNMF(K, **OPTIONS).fit(as_dataset(X), **{name: other}), straight)
        found = poisson_nmf(X, K, **OPTIONS, **{name: other})
        assert found.objective == straight.objective_

    def test_without_labels_on_one_side_it_is_taken_by_position(self, name):
        straight = PoissonNMF(K, **OPTIONS).fit(X, **{name: GIVEN[name]})
        same(PoissonNMF(K, **OPTIONS).fit(X, **{name: GIVEN[name].to_numpy()}), straight)
        same(PoissonNMF(K, **OPTIONS).fit(X.to_numpy(), **{name: permuted(GIVEN[name], name)}), PoissonNMF(
            K, **OPTIONS).fit(X.to_numpy(), **{name: permuted(GIVEN[name], name).to_numpy()}))  # fmt: skip

    def test_a_missing_label_is_named(self, name):
        A = GIVEN[name]
        wrong = A.rename({ROWS[2]: "other", COLUMNS[2]: "other"}, axis=0)
        if list(A.index) == list(range(K)):
            wrong = A.rename({COLUMNS[2]: "other"}, axis=1)
        with pytest.raises(
            ValueError, match=rf"^{name} must have a label for each (row|column) of X, and lacks '\w+2' of"
        ):
            PoissonNMF(K, **OPTIONS).fit(X, **{name: wrong})

    def test_labels_that_occur_twice_are_refused(self, name):
        A = GIVEN[name]
        wrong = A.rename({ROWS[2]: ROWS[3], COLUMNS[2]: COLUMNS[3]}, axis=0)
        if list(A.index) == list(range(K)):
            wrong = A.rename({COLUMNS[2]: COLUMNS[3]}, axis=1)
        with pytest.raises(ValueError, match=rf"^{name} can't be aligned .* {name} has '\w+3' more than once"):
            PoissonNMF(K, **OPTIONS).fit(X, **{name: wrong})

    def test_it_is_not_written_to(self, name):
        given = permuted(GIVEN[name], name)
        before = given.copy()
        PoissonNMF(K, **OPTIONS).fit(X, **{name: given})
        assert given.equals(before)


def test_a_dataset_as_argument_is_aligned_too():
    straight = PoissonNMF(K, **OPTIONS).fit(X, mask=GIVEN["mask"])
    same(PoissonNMF(K, **OPTIONS).fit(X, mask=as_dataset(permuted(GIVEN["mask"], "mask"))), straight)


def test_a_custom_start_is_aligned_with_X_and_its_components_with_each_other():
    W = pd.DataFrame(RNG.random((N, K)) + 0.1, index=ROWS, columns=list("abc"))
    H = pd.DataFrame(RNG.random((K, P)) + 0.1, index=list("abc"), columns=COLUMNS)
    model = PoissonNMF(K, init="custom", **OPTIONS)
    expected = model.fit_transform(X, W=W.to_numpy(), H=H.to_numpy())
    assert np.array_equal(
        model.fit_transform(X, W=W.iloc[BY_ROW], H=H.loc[list("cab"), H.columns[BY_COLUMN]]), expected
    )


def test_labels_that_X_lacks_are_left_out():
    known = pd.DataFrame(RNG.random((K, P + 2)), columns=["spike", *COLUMNS, "control"])
    same(PoissonNMF(K, **OPTIONS).fit(X, fixed_H=known), PoissonNMF(K, **OPTIONS).fit(X, fixed_H=known[COLUMNS]))


class TestFittedModels:
    def test_transform_and_score_align(self):
        new = X.iloc[BY_ROW[:5]]
        exposure, mask, weight = (GIVEN[name] for name in ("row_exposure", "mask", "sample_weight"))
        model = PoissonNMF(K, **OPTIONS).fit(X, column_exposure=permuted(GIVEN["column_exposure"], "column_exposure"))
        here = new.index
        straight = model.transform(new, row_exposure=exposure[here].to_numpy(), mask=mask.loc[here].to_numpy())
        assert np.array_equal(model.transform(new, row_exposure=exposure, mask=permuted(mask, "mask")), straight)
        found = model.score(new, row_exposure=exposure, mask=permuted(mask, "mask"), sample_weight=weight)
        assert found == model.score(
            new, row_exposure=exposure[here].to_numpy(), mask=mask.loc[here].to_numpy(),
            sample_weight=weight[here].to_numpy(),
        )  # fmt: skip

    def test_a_mask_is_aligned_with_the_fitted_names_where_X_has_none(self):
        model = PoissonNMF(K, **OPTIONS).fit(Dataset(sparse.csr_array(X.to_numpy()), None, np.array(COLUMNS)))
        new, mask = Dataset(sparse.csr_array(X.to_numpy())), GIVEN["mask"].reset_index(drop=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "X does not have valid feature names")
            straight = model.transform(new, mask=mask.to_numpy())
            assert np.array_equal(model.transform(new, mask=mask.iloc[:, BY_COLUMN]), straight)

    def test_partial_fit_aligns(self):
        exposure = GIVEN["row_exposure"]
        straight = PoissonNMF(K, **OPTIONS).partial_fit(X, row_exposure=exposure.to_numpy())
        other = PoissonNMF(K, **OPTIONS).partial_fit(X, row_exposure=exposure.iloc[BY_ROW])
        assert np.array_equal(straight.components_, other.components_)

    def test_hpf_aligns(self):
        straight = HPF(K, **OPTIONS).fit(X, mask=GIVEN["mask"].to_numpy(), validation=GIVEN["validation"].to_numpy())
        beside = {name: permuted(GIVEN[name], name) for name in ("mask", "validation")}
        model = HPF(K, **OPTIONS).fit(X, **beside)
        assert np.array_equal(model.components_, straight.components_)
        assert np.array_equal(
            model.transform(X, mask=beside["mask"]), straight.transform(X, mask=GIVEN["mask"].to_numpy())
        )
        weight = GIVEN["sample_weight"]
        assert model.score(X, sample_weight=weight.iloc[BY_ROW]) == straight.score(X, sample_weight=weight.to_numpy())

    def test_held_out_counts_of_the_fitted_rows_are_matched_by_name(self, tmp_path):
        model = HPF(K, **OPTIONS).fit(X)
        expected = model.predictive_log_likelihood(X)
        model.save(tmp_path / "model.npz")
        for fitted in (model, HPF.load(tmp_path / "model.npz")):
            assert fitted.predictive_log_likelihood(X.iloc[BY_ROW]) == pytest.approx(expected, rel=1e-12)
            some = X.iloc[[5, 2]]
            mean = fitted.predictive_mean(np.repeat(["cell5", "cell2"], P), np.tile(COLUMNS, 2)).reshape(2, P)
            log_likelihood = scipy.stats.poisson.logpmf(some, mean).sum() / some.to_numpy().sum()
            assert fitted.predictive_log_likelihood(some) == pytest.approx(log_likelihood, rel=1e-9)
        with pytest.raises(ValueError, match="row names of X must hold known names, got 'other'"):
            model.predictive_log_likelihood(X.rename({"cell3": "other"}))
        model.partial_fit(X.to_numpy())
        assert not hasattr(model, "row_names_")

    @pytest.mark.parametrize("kind", [PoissonNMF, HPF])
    @pytest.mark.parametrize("new", [X, as_dataset(X)], ids=["DataFrame", "Dataset"])
    def test_named_data_after_a_fit_without_names_is_taken_by_position_and_warned_of(self, kind, new):
        model = kind(K, **OPTIONS).fit(X.to_numpy())
        with pytest.warns(UserWarning, match=f"X has feature names, but {kind.__name__} was fitted without"):
            found = model.transform(new)
        assert np.array_equal(found, model.transform(X.to_numpy()))

    @pytest.mark.parametrize("kind", [PoissonNMF, HPF])
    @pytest.mark.parametrize("of", [pd.DataFrame, lambda A, columns: Dataset(A, None, np.array(columns))])
    def test_duplicate_feature_names_are_warned_of_once(self, kind, of):
        with pytest.warns(
            UserWarning, match=r"X has 1 feature name\(s\) more than once, for example 'gene0'"
        ) as caught:
            kind(K, **OPTIONS).fit(of(X.to_numpy(), columns=["gene0", *COLUMNS[:-1]]))
        assert len([w for w in caught if "feature name" in str(w.message)]) == 1

    @pytest.mark.parametrize("function", [poisson_nmf, non_negative_factorization])
    def test_functions_that_fit_warn_of_duplicate_feature_names_once_too(self, function):
        message = r"X has 1 feature name\(s\) more than once, for example 'gene0'"
        with pytest.warns(UserWarning, match=message) as caught:
            function(X.set_axis(["gene0", *COLUMNS[:-1]], axis=1), n_components=K, random_state=0, tol=1e-2)
        assert len([w for w in caught if "feature name" in str(w.message)]) == 1


@pytest.mark.parametrize("function", [kl_divergence, poisson_log_likelihood])
def test_functions_of_factors_align(function):
    W = pd.DataFrame(RNG.random((N, K)), index=ROWS, columns=list("abc"))
    H = pd.DataFrame(RNG.random((K, P)), index=list("abc"), columns=COLUMNS)
    mask = GIVEN["mask"]
    straight = function(X, W.to_numpy(), H.to_numpy(), mask=mask.to_numpy())
    other = function(X, W.iloc[BY_ROW, [2, 0, 1]], H.iloc[:, BY_COLUMN], mask=permuted(mask, "mask"))
    assert other == pytest.approx(straight, rel=1e-12)  # another order of summation


def test_one_number_stands_for_all_rows_or_columns(tmp_path):
    given = {"row_exposure": 2.0, "column_exposure": 0.5, "sample_weight": 3, "background": 0.1}
    full = {
        name: np.full(P if name in ("column_exposure", "background") else N, value) for name, value in given.items()
    }
    model = PoissonNMF(K, **OPTIONS).fit(X, **given)
    same(model, PoissonNMF(K, **OPTIONS).fit(X, **full))
    model.save(tmp_path / "model.npz")
    W = PoissonNMF.load(tmp_path / "model.npz").transform(X, row_exposure=2.0)
    assert np.array_equal(W, model.transform(X, row_exposure=full["row_exposure"]))
    assert model.score(X, sample_weight=2.0) == pytest.approx(model.score(X), rel=1e-12)  # another order of summation
    with pytest.raises(ValueError, match="row_exposure must be positive"):
        PoissonNMF(K).fit(X, row_exposure=0)


class TestAlign:
    def test_a_default_index_does_not_count_as_labels(self):
        assert labels_of(pd.Series([1, 2]), 0).is_default
        assert not labels_of(pd.Series([1, 2], index=[0, 2]), 0).is_default
        values = pd.Series([5.0, 6.0], index=["x", "y"])
        assert align(values, "values", rows=labels_of(pd.DataFrame({"a": [1, 2]}), 0)) is values

    def test_integer_labels_are_labels(self):
        X = pd.DataFrame(np.eye(3), index=[30, 10, 20])
        found = align(pd.Series([1.0, 2.0, 3.0], index=[10, 20, 30]), "row_exposure", rows=labels_of(X, 0))
        assert found.tolist() == [3.0, 1.0, 2.0]

    def test_a_default_index_and_its_integers_in_another_order_are_refused(self):
        X = pd.DataFrame(np.eye(3))
        with pytest.raises(ValueError, match="row_exposure has the same row numbers as X in another order"):
            align(pd.Series([1.0, 2.0, 3.0], index=[2, 0, 1]), "row_exposure", rows=labels_of(X, 0))

    def test_with_a_default_index_other_integers_are_taken_by_position(self):
        values = pd.Series([1.0, 2.0], index=[7, 4])
        assert align(values, "row_exposure", rows=labels_of(pd.DataFrame(np.eye(2)), 0)) is values

    def test_a_multi_index_is_labels(self):
        index = pd.MultiIndex.from_tuples([("a", 1), ("b", 1)])
        values = pd.Series([1.0, 2.0], index=index[::-1])
        assert align(values, "values", rows=Labels(np.asarray(index))).tolist() == [2.0, 1.0]

    def test_labels_of_X_that_occur_twice_are_refused_unless_they_are_the_same(self):
        target = Labels(np.array(["a", "a", "b"]))
        equal = pd.Series([1, 2, 3], index=["a", "a", "b"])
        assert align(equal, "values", rows=target) is equal
        with pytest.raises(
            ValueError, match="values can't be aligned with the rows of X by label: X has 'a' more than"
        ):
            align(pd.Series([1, 2], index=["b", "a"]), "values", rows=target)

    def test_sparse_frames_stay_sparse(self):
        frame = pd.DataFrame.sparse.from_spmatrix(sparse.csr_array(np.eye(3)), columns=list("abc"))
        found = align(frame, "mask", columns=Labels(np.array(list("cab"))))
        assert found.columns.tolist() == list("cab")
        assert all(isinstance(dtype, pd.SparseDtype) for dtype in found.dtypes)

    def test_counts_in_a_dataset_are_aligned(self):
        named = Dataset(as_counts(np.diag([1, 2, 3])), np.array(list("xyz")), np.array(list("abc")))
        found = align(named, "mask", rows=Labels(np.array(list("zx"))), columns=Labels(np.array(list("ca"))))
        assert found.X.toarray().tolist() == [[3, 0], [0, 1]]
        assert found.row_names.tolist() == list("zx")

    def test_long_labels_are_cut_in_messages(self):
        with pytest.raises(ValueError, match="values must have a label") as caught:
            align(pd.Series([1.0], index=["x" * 10**6]), "values", rows=Labels(np.array(["y" * 10**6])))
        assert len(str(caught.value)) < 300

    def test_components_with_other_names_are_taken_by_position(self):
        W, H = pd.DataFrame(np.eye(2), columns=["nmf0", "nmf1"]), pd.DataFrame(np.eye(2), index=["B", "T"])
        assert align_components([(W, "W", 1), (H, "H", 0)])[1] is H

    def test_components_with_partly_the_same_names_are_refused(self):
        W, H = pd.DataFrame(np.eye(2), columns=["A", "T"]), pd.DataFrame(np.eye(2), index=["B", "T"])
        with pytest.raises(ValueError, match="H must have a label for each component of W, and lacks 'A' of 2"):
            align_factors(np.eye(2), W, H)


class TestFunctionsOfFactors:
    """Labelled arguments in other orders give the same results as arrays in order."""

    W = pd.DataFrame(RNG.random((N, K)) + 0.1, index=ROWS, columns=list("abc"))
    H = pd.DataFrame(RNG.random((K, P)) + 0.1, index=list("abc"), columns=COLUMNS)
    OTHER = W.iloc[BY_ROW, [2, 0, 1]], H.iloc[:, BY_COLUMN]
    BACK = np.argsort([2, 0, 1])  # order of the components, which is that of W

    def plain(self):
        return self.W.to_numpy(), self.H.to_numpy()

    def test_topics(self):
        W, H = self.OTHER
        expected = to_topics(*self.plain())
        found = to_topics(W, H)
        assert np.allclose(found.weights[self.BACK], expected.weights, rtol=1e-14)
        assert np.allclose(found.columns[self.BACK], expected.columns[:, BY_COLUMN], rtol=1e-14)

    def test_quality(self):
        W, H = self.OTHER
        expected, found = topic_quality(X.to_numpy(), self.plain()[1], 4), topic_quality(X, H, 4)
        assert np.allclose(found.umass, expected.umass, rtol=1e-12)
        assert np.allclose(
            topic_quality(X, H, 4, W=W).effective_rows[self.BACK], topic_quality(X, self.H, 4, W=self.W).effective_rows
        )

    def test_pyldavis_input(self):
        found, expected = pyldavis_input(X, *self.OTHER), pyldavis_input(X.to_numpy(), *self.plain())
        assert np.allclose(found["topic_term_dists"][self.BACK], expected["topic_term_dists"], rtol=1e-12)
        assert np.allclose(found["doc_topic_dists"][:, self.BACK], expected["doc_topic_dists"], rtol=1e-12)

    def test_matched_components(self):
        partners, similarity = match_components(self.H, self.H.iloc[[2, 0, 1], BY_COLUMN])
        assert partners.tolist() == [1, 2, 0]
        assert similarity == pytest.approx(np.ones(K))

    def test_top_features_are_named_by_the_columns_of_H(self):
        assert (
            top_features(self.H, 2).names.tolist() == top_features(self.H.to_numpy(), 2, names=COLUMNS).names.tolist()
        )

    def test_recommendations_and_their_scores(self):
        W, H = self.OTHER
        seen = pd.DataFrame(X.to_numpy() > 3, index=ROWS, columns=COLUMNS)
        expected = ranking_scores(X.to_numpy(), *self.plain(), 3, exclude=seen.to_numpy())
        found = ranking_scores(X, W, H, 3, exclude=seen.iloc[BY_ROW, BY_COLUMN])
        assert found[:3] == pytest.approx(expected[:3])
        best = recommend(self.W, self.H, 3, exclude=seen.iloc[BY_ROW, BY_COLUMN])
        assert best.row_names.tolist() == ROWS
        assert best.names[0, 0] == COLUMNS[best.indices[0, 0]]
        some = recommend(self.W, self.H, 3, items=["gene4", "gene1"])
        assert set(some.names.ravel()) == {"gene4", "gene1"}
        alike, numbers = similar_columns(self.H, "gene2", 2), similar_columns(self.plain()[1], 2, 2)
        assert np.array_equal(alike.indices, numbers.indices)
        assert alike.names.tolist() == [[COLUMNS[j] for j in alike.indices[0]]]
        assert np.array_equal(best.indices, recommend(*self.plain(), 3, exclude=seen.to_numpy()).indices)

    def test_differential_expression(self):
        W, H = self.OTHER
        exposure = GIVEN["row_exposure"]
        expected = differential_expression(X.to_numpy(), *self.plain(), row_exposure=exposure.to_numpy())
        found = differential_expression(X, W, H, row_exposure=exposure.iloc[BY_ROW])
        assert np.allclose(found.log2_fold_change[self.BACK], expected.log2_fold_change, rtol=1e-6)
        assert found.names.tolist() == COLUMNS

    def test_likelihoods_of_topics(self):
        topics, plain = to_topics(self.W, self.H), to_topics(*self.plain())
        other = X.iloc[BY_ROW, BY_COLUMN]
        for name in ("conditional_log_likelihood", "joint_log_likelihood"):
            expected = getattr(plain, name)(X.to_numpy())
            assert getattr(topics, name)(other) == pytest.approx(expected, rel=1e-12)
            assert getattr(topics, name)(other.to_numpy()[:, np.argsort(BY_COLUMN)]) != pytest.approx(expected)
        model = PoissonNMF(K, **OPTIONS).fit(X)
        topics = model.to_topics(model.transform(X))
        expected = topics.conditional_log_likelihood(X)
        assert topics.conditional_log_likelihood(X.iloc[:, BY_COLUMN]) == pytest.approx(expected, rel=1e-12)
        with pytest.raises(ValueError, match=r"^the topics must have a label for each column of X, and lacks 'other'"):
            topics.joint_log_likelihood(X.rename(columns={"gene3": "other"}))

    def test_gains_of_components(self):
        train, test = (
            pd.DataFrame(part.to_scipy().toarray(), index=ROWS, columns=COLUMNS)
            for part in thin_counts(X.to_numpy(), 0.2, random_state=0)
        )
        expected = component_gains(train.to_numpy(), self.plain()[1], test.to_numpy(), exposure=0.25)
        found = component_gains(
            train, self.H.iloc[:, BY_COLUMN], test.iloc[BY_ROW, BY_COLUMN], exposure=0.25
        )  # fmt: skip
        assert np.array_equal(found.gain, expected.gain)

    def test_the_drop_in(self):
        W, H = self.W.iloc[BY_ROW], self.H.iloc[[2, 0, 1], BY_COLUMN]
        options = {"init": "custom", "n_components": K, "tol": 0, "max_iter": 5}
        found = non_negative_factorization(X, W, H, **options)
        expected = non_negative_factorization(X.to_numpy(), *self.plain(), **options)
        assert np.array_equal(found[0], expected[0])

    def test_methods_of_a_model(self):
        model = PoissonNMF(K, **OPTIONS)
        W = pd.DataFrame(model.fit_transform(X), index=ROWS)
        other, exposure = W.iloc[BY_ROW], GIVEN["row_exposure"]
        assert np.array_equal(model.quality(X, W=other).effective_rows, model.quality(X, W=W).effective_rows)
        expected = model.differential_expression(X, W.to_numpy(), row_exposure=exposure.to_numpy())
        found = model.differential_expression(X, other, row_exposure=exposure.iloc[BY_ROW])
        assert np.array_equal(found.log2_fold_change, expected.log2_fold_change)
        best = model.recommend(X, W.to_numpy(), 3, exclude_seen=False)
        assert np.array_equal(model.recommend(X, other, 3, exclude_seen=False).indices, best.indices)

    def test_plots(self):
        plot = pytest.importorskip("fastpmf.plot")
        pytest.importorskip("matplotlib").use("Agg")
        labels = pd.Series(["x", "y"] * (N // 2), index=ROWS)
        genes = pd.Series(["u", "v", "w"] * (P // 3), index=COLUMNS)
        W, H = self.OTHER
        expected = plot.residuals(
            X.to_numpy(), *self.plain(), groupby=labels.to_numpy(), column_groupby=genes.to_numpy()
        )
        found = plot.residuals(X, W, H, groupby=labels.iloc[BY_ROW], column_groupby=genes.iloc[BY_COLUMN])
        assert np.allclose(found.images[0].get_array(), expected.images[0].get_array())
        heat = plot.group_heatmap(self.W, self.H, groupby=labels.iloc[BY_ROW]).images[0].get_array()
        assert np.allclose(heat, plot.group_heatmap(*self.plain(), groupby=labels.to_numpy()).images[0].get_array())
        expected = plot.similarity_heatmap(self.H, self.H).images[0].get_array()
        assert np.allclose(plot.similarity_heatmap(self.H, self.H.iloc[:, BY_COLUMN]).images[0].get_array(), expected)
        model = PoissonNMF(K, **OPTIONS).fit(X.iloc[:, BY_COLUMN])
        named = pd.DataFrame(model.components_, columns=model.feature_names_in_)[COLUMNS]
        expected = plot.similarity_heatmap(model, model).images[0].get_array()
        assert np.allclose(plot.similarity_heatmap(model, named).images[0].get_array(), expected)
        by_model = plot.residuals(X, model.transform(X.iloc[:, BY_COLUMN]), model, bins=3)
        straight = plot.residuals(
            X.iloc[:, BY_COLUMN], model.transform(X.iloc[:, BY_COLUMN]), model.components_, bins=3
        )  # fmt: skip
        assert np.allclose(by_model.images[0].get_array(), straight.images[0].get_array())


def test_gains_of_components_do_not_depend_on_the_order_of_labels():
    H = pd.DataFrame(RNG.gamma(1.0, size=(K, P)), columns=COLUMNS)
    expected = component_gains(X, H, X, exposure=1.0, n_threads=1)
    found = component_gains(X, H.iloc[:, BY_COLUMN], X.iloc[BY_ROW, BY_COLUMN], exposure=1.0, n_threads=1)
    np.testing.assert_array_equal(found.gain, expected.gain)
    np.testing.assert_array_equal(found.error, expected.error)


def test_pyldavis_names_are_by_default_those_of_X():
    W, H = np.ones((N, K)), RNG.gamma(1.0, size=(K, P))
    assert pyldavis_input(X, W, H)["vocab"].tolist() == COLUMNS
