"""Plots show the documented numbers on the given Axes."""

import inspect
import sys
from dataclasses import replace

import numpy as np
import numpydoc_light
import pytest
from scipy import sparse

from fastpmf import (
    HPF,
    Bootstrap,
    ComponentGains,
    Consensus,
    Differential,
    Draws,
    PoissonNMF,
    Replicates,
    Selection,
    match_components,
    plot,
    poisson_nmf,
    to_topics,
    top_features,
)
from fastpmf.plot._common import component_colors

matplotlib = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("Agg")


@pytest.fixture(autouse=True)
def _closed_and_unchanged():
    """Render all figures, to find late errors, and close them; check that settings are unchanged."""
    before = plt.rcParams.copy()
    yield
    for number in plt.get_fignums():
        plt.figure(number).draw_without_rendering()
    plt.close("all")
    assert plt.rcParams == before


@pytest.fixture
def factors():
    """W (30 x 4), with two rows of zeros, and H (4 x 12)."""
    rng = np.random.default_rng(0)
    W, H = rng.gamma(0.5, size=(30, 4)), rng.gamma(0.5, size=(4, 12))
    W[[3, 11]] = 0
    return W, H


def stacks(ax):
    """Heights of the areas in the order of the components, (k, columns)."""
    tops = np.array([patch.get_data().values for patch in ax.patches])[::-1]
    heights = np.diff(tops, axis=0, prepend=0)
    return heights[np.argsort([int(patch.get_label()) for patch in ax.patches][::-1])]


class TestStructure:
    def test_each_row_is_its_topic_proportions_and_sums_to_one(self, factors):
        W, H = factors
        drawn = stacks(plot.structure(W, H, order="given"))
        np.testing.assert_allclose(drawn.T, to_topics(W, H).mixtures, atol=1e-12)  # sums and their differences round
        np.testing.assert_allclose(np.delete(drawn, [3, 11], axis=1).sum(axis=0), 1)

    def test_without_h_rows_are_divided_by_their_sums(self, factors):
        W, _ = factors
        sums = np.where(W.any(axis=1), W.sum(axis=1), 1)
        drawn = stacks(plot.structure(W, order="given"))
        np.testing.assert_allclose(drawn.T, W / sums[:, None], atol=1e-12)

    def test_a_fitted_model_may_replace_h(self):
        X = np.random.default_rng(1).poisson(2.0, (12, 5))
        model = PoissonNMF(2, max_iter=20, tol=0, random_state=0)
        W = model.fit_transform(X)
        drawn = stacks(plot.structure(W, model, order="given"))
        np.testing.assert_allclose(drawn.T, model.to_topics(W).mixtures, atol=1e-12)

    def test_groups_are_named_separated_and_in_the_given_order(self, factors):
        W, _ = factors
        labels = np.repeat(["ape", "bee", "cat"], 10)
        ax = plot.structure(W, groupby=labels, groups=["cat", "ape"], order="given")
        assert [text.get_text() for text in ax.get_xticklabels()] == ["cat", "ape"]
        drawn = stacks(ax)
        gap = np.isnan(drawn).all(axis=0)
        assert np.flatnonzero(gap).tolist() == [10]
        P = to_topics(W, np.eye(4)).mixtures
        np.testing.assert_allclose(drawn[:, ~gap].T, np.concatenate([P[20:], P[:10]]), atol=1e-12)

    @pytest.mark.parametrize("order", ["dominant", "principal"])
    def test_rows_are_ordered_by_dominant_topic_and_empty_rows_are_last(self, factors, order):
        W, H = factors
        drawn = stacks(plot.structure(W, H, order=order)).T
        P = to_topics(W, H).mixtures
        np.testing.assert_allclose(drawn[np.lexsort(drawn.T.round(9))], P[np.lexsort(P.T.round(9))], atol=1e-12)
        assert not drawn[-2:].any()
        dominant = drawn[:-2].argmax(axis=1)
        assert np.count_nonzero(np.diff(dominant)) == len(np.unique(dominant)) - 1

    def test_the_largest_topic_is_first_and_its_proportion_falls(self, factors):
        P = to_topics(*factors).mixtures
        drawn = stacks(plot.structure(*factors)).T[:-2]
        dominant = drawn.argmax(axis=1)
        by_size = np.argsort(-P.sum(axis=0)).tolist()
        assert list(dict.fromkeys(dominant)) == [z for z in by_size if z in dominant]
        for z in set(dominant):
            assert (np.diff(drawn[dominant == z, z]) <= 1e-12).all()

    def test_many_rows_are_subsampled_by_seed_with_at_least_one_of_each_group(self):
        P = np.random.default_rng(2).dirichlet(np.ones(3), 1000)
        labels = np.where(np.arange(1000) < 990, "many", "few")
        first, again, other = (
            stacks(plot.structure(P, groupby=labels, max_rows=50, random_state=seed)) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert np.isfinite(first[0]).sum() == 51  # 49.5 and 0.5 of them, rounded to whole ones and at least one
        assert not np.array_equal(first, other, equal_nan=True)

    def test_components_are_stacked_and_listed_by_size_the_largest_first(self):
        P = np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.3]])
        ax = plot.structure(P, labels=["small", "large", "middle"])
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["large", "middle", "small"]
        tops = [patch.get_data().values.mean() for patch in ax.patches]
        np.testing.assert_allclose(tops, [1, 0.45, 0.15])  # of the areas of large, middle and small

    def test_a_group_of_few_rows_is_drawn_wider_than_its_share(self):
        ax = plot.structure(np.ones((1000, 2)), groupby=np.arange(1000) < 1)
        edges = ax.patches[0].get_data().edges
        assert 20 < np.diff(edges)[-1] < 30
        np.testing.assert_allclose(np.diff(edges)[:999], 1)

    def test_names_are_written_into_areas_with_enough_space_and_stay_inside(self):
        P = np.zeros((100, 4))
        P[:50, 0] = P[50:, 1] = 0.98
        P[:, 2] = 0.02
        ax = plot.structure(P, labels=["left", "right", "thin", "none"])
        assert {text.get_text() for text in ax.texts} == {"left", "right"}
        ax.figure.draw_without_rendering()
        for text in ax.texts:
            box = text.get_window_extent()
            (x0, _), (x1, _) = ax.transData.inverted().transform(box)
            assert (0 <= x0 <= x1 <= 50) if text.get_text() == "left" else (50 <= x0 <= x1 <= 100)

    def test_dark_areas_have_white_names_and_light_areas_black_ones(self):
        ax = plot.structure(np.eye(16).repeat(20, axis=0))
        colors = {text.get_text(): text.get_color() for text in ax.texts}
        assert (colors["0"], colors["15"]) == ("white", "black")  # a dark blue and yellow

    def test_the_xlabel_has_the_numbers_of_rows(self):
        assert plot.structure(np.ones((30, 2))).get_xlabel() == "30 rows"
        assert plot.structure(np.ones((3000, 2))).get_xlabel() == "2,000 of 3,000 rows"


def test_a_component_is_named_where_it_is_large_and_not_in_equal_stripes():
    W = np.vstack([np.eye(12).repeat(8, axis=0), np.ones((40, 12))])
    ax = plot.structure(W, labels=[f"component {z}" for z in range(12)])
    left, right = np.array([8, 48]) / len(W) * ax.get_xlim()[1]  # of the stripes, after the rows of one component
    at = np.array([text.get_position()[0] for text in ax.texts])
    assert len(at) == 12
    assert not ((at > left) & (at < right)).any()


@pytest.mark.parametrize("k", [3, 20, 30])
@pytest.mark.parametrize("length", [1, 10, 60])
def test_the_legend_is_in_the_figure_and_at_most_a_fifth_of_its_width_or_below(k, length):
    W = np.random.default_rng(12).dirichlet(np.ones(k), 50)
    ax = plot.structure(W, labels=[f"{z} ".ljust(length, "m") for z in range(k)])
    figure = ax.figure
    figure.draw_without_rendering()
    legend, axis = ax.get_legend().get_window_extent(), ax.xaxis.get_tightbbox()
    assert legend.y1 < axis.y0 or (legend.x0 > ax.bbox.x1 and legend.width <= 0.2 * figure.bbox.width)
    assert 0 <= legend.x0 <= legend.x1 <= figure.bbox.width
    assert 0 <= legend.y0 <= legend.y1 <= figure.bbox.height
    assert ax.bbox.height / figure.dpi == pytest.approx(2.6, abs=0.1)
    assert ax.bbox.width >= 0.7 * figure.bbox.width


class TestColors:
    # Machado, Oliveira and Fernandes (2009), on linear RGB
    VISION = {  # noqa: RUF012
        "normal": np.eye(3),
        "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
        "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    }
    XYZ = np.array([[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0178, 0.1095, 0.8727]])  # over white

    def lab(self, colors, vision="normal"):
        rgb = np.array([matplotlib.colors.to_rgb(color) for color in colors])
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        x, y, z = (np.clip(linear @ np.transpose(self.VISION[vision]), 0, 1) @ self.XYZ.T).T
        f = [np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116) for t in (x, y, z)]
        return np.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])], axis=1)

    # A difference of 2.3 in CIELAB is just noticeable
    @pytest.mark.parametrize(("k", "normal", "deficient"), [(6, 25, 15), (12, 25, 15), (20, 24, 9), (32, 17, 7)])
    def test_all_colours_differ_for_normal_and_colour_blind_vision(self, k, normal, deficient):
        for vision in self.VISION:
            lab = self.lab(component_colors(k), vision)
            distance = np.linalg.norm(lab[:, None] - lab, axis=2)[np.triu_indices(k, 1)]
            assert distance.min() > (normal if vision == "normal" else deficient), vision

    def test_all_colours_are_seen_on_white_and_on_black(self):
        lightness = self.lab(component_colors(32))[:, 0]
        assert lightness.min() > 28
        assert lightness.max() < 91

    def test_a_component_has_the_same_colour_in_all_plots_and_for_any_number_of_components(self):
        assert component_colors(30)[:7] == component_colors(7)
        H = np.eye(4) + 0.1
        bars = [panel.patches[0].get_facecolor() for panel in plot.top_features(H)]
        areas = {int(patch.get_label()): patch.get_facecolor() for patch in plot.structure(H * [1, 2, 3, 4]).patches}
        assert bars == [areas[z] for z in range(4)]


@pytest.mark.parametrize("by", ["weight", "lift", "exclusivity"])
def test_bars_have_the_lengths_of_the_scores_and_the_names_of_the_features(factors, by):
    names = [f"w{j}" for j in range(12)]
    axes = plot.top_features(factors[1], 3, by=by, names=names, components=[2, 0])
    top = top_features(factors[1], 3, by=by, names=names)
    assert len(axes) == 2
    for panel, z in zip(axes, [2, 0], strict=True):
        np.testing.assert_allclose([bar.get_width() for bar in panel.patches], top.scores[z])
        assert [text.get_text() for text in panel.get_yticklabels()] == top.names[z].tolist()
        assert panel.yaxis_inverted()
        assert panel.get_title() == f"component {z}"


def test_names_of_features_fit_between_panels_without_a_layout_engine():
    names = [letter * 24 for letter in "WiM"]  # of very different widths
    axes = plot.top_features(np.eye(3), 3, names=names)
    figure = axes[0].figure
    assert figure.get_layout_engine() is None  # constrained layout of 64 panels takes half a minute
    figure.draw_without_rendering()
    panels = [panel.get_tightbbox() for panel in axes]
    assert not any(a.overlaps(b) for i, a in enumerate(panels) for b in panels[:i])
    assert all(figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1 for box in panels)
    assert all(figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1 for box in panels)
    assert len({panel.get_xlim() for panel in axes}) == 1


def test_a_component_without_features_is_an_empty_panel_and_long_names_lose_their_middle():
    long = "a name that is far too long for a panel"
    axes = plot.top_features([[1, 2], [0, 0]], names=["b", long])
    assert not axes[1].patches
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["a name that is … a panel", "b"]


def test_the_heatmap_of_topics_has_bhattacharyya_coefficients(factors):
    P = factors[1] / factors[1].sum(axis=1, keepdims=True)
    ax = plot.similarity_heatmap(P)
    rows, columns = ([int(t.get_text()) for t in axis.get_ticklabels()] for axis in (ax.yaxis, ax.xaxis))
    assert sorted(rows) == [0, 1, 2, 3]
    assert rows == columns
    np.testing.assert_allclose(ax.images[0].get_array(), np.sqrt(P[rows]) @ np.sqrt(P[columns]).T)


def test_two_fits_are_matched_on_the_diagonal_with_unmatched_components_last(factors):
    H = factors[1]
    other = np.vstack([H[[2, 0]] * 3, np.ones((1, 12)), H[[3, 1]]])
    ax = plot.similarity_heatmap(H, other)
    drawn = ax.images[0].get_array()
    assert drawn.shape == (4, 5)
    np.testing.assert_allclose(np.diag(drawn), 1)
    rows, columns = ([int(t.get_text()) for t in axis.get_ticklabels()] for axis in (ax.yaxis, ax.xaxis))
    assert columns == [*match_components(H, other)[0][rows], 2]


def test_the_heatmap_of_labels_has_mean_proportions_of_rows_with_mass(factors):
    W, H = factors
    labels = np.arange(30) % 3
    ax = plot.group_heatmap(W, H, groupby=labels, labels=list("abcd"))
    P, has_mass = to_topics(W, H).mixtures, W.any(axis=1)
    columns = ["abcd".index(text.get_text()) for text in ax.get_xticklabels()]
    means = np.array([P[has_mass & (labels == g)].mean(axis=0) for g in range(3)])
    np.testing.assert_allclose(ax.images[0].get_array(), means[:, columns])
    assert (np.diff(means.argmax(axis=0)[columns]) >= 0).all()


def tick_names(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


class TestLabels:
    """Groups of rows in any form."""

    P = np.random.default_rng(11).dirichlet(np.ones(3), 12)
    DAYS = np.array(["tue", "wed", "mon"] * 4)

    @pytest.fixture(params=["categorical", "series", "index"])
    def days(self, request):
        pandas = pytest.importorskip("pandas")
        made = pandas.Categorical(self.DAYS, categories=["sun", "mon", "tue", "wed"])
        index = [f"row {i}" for i in range(12)]
        forms = {"series": lambda: pandas.Series(made, index), "index": lambda: pandas.CategoricalIndex(made)}
        return forms.get(request.param, lambda: made)()

    def test_groups_have_the_order_of_the_categories_without_unused_ones(self, days):
        order = ["mon", "tue", "wed"]
        assert tick_names(plot.structure(self.P, groupby=days).xaxis) == order
        ax = plot.group_heatmap(self.P, groupby=days)
        assert tick_names(ax.yaxis) == order
        columns = list(map(int, tick_names(ax.xaxis)))
        means = np.array([self.P[day == self.DAYS].mean(axis=0) for day in order])
        np.testing.assert_allclose(ax.images[0].get_array(), means[:, columns])
        ax = plot.residuals(np.ones((12, 2)), np.ones((12, 1)), np.ones((1, 2)), groupby=days)
        assert tick_names(ax.yaxis) == order
        assert tick_names(plot.structure(self.P, groupby=days, groups=["wed", "mon"]).xaxis) == ["wed", "mon"]

    @pytest.mark.parametrize("kind", ["float", "object", "NA", "categorical", "time"])
    def test_rows_without_a_label_are_left_out_with_a_warning(self, kind):
        pandas = pytest.importorskip("pandas")
        labels = np.repeat([1, 2], 6).astype(float)
        labels[[0, 7]] = np.nan
        if kind == "object":
            labels = np.array(["a"] * 6 + ["b"] * 6, object)
            labels[[0, 7]] = np.nan, None
        elif kind == "NA":
            labels = pandas.Series(labels, dtype="Int64")
        elif kind == "categorical":
            labels = pandas.Series(labels).astype("category")
        elif kind == "time":
            labels = pandas.to_datetime(pandas.Series(labels), unit="s")
        there = np.delete(np.arange(12), [0, 7])
        X, ones = np.arange(24).reshape(12, 2), np.ones((12, 1))
        with pytest.warns(UserWarning, match=r"groupby has no value for 2 of 12; these are left out") as caught:
            ax = plot.structure(self.P, groupby=labels, order="given")
        assert caught[0].filename == __file__
        drawn = stacks(ax)
        np.testing.assert_allclose(drawn[:, np.isfinite(drawn[0])].T, self.P[there], atol=1e-12)
        with pytest.warns(UserWarning, match="groupby has no value for 2 of 12"):
            ax = plot.group_heatmap(self.P, groupby=labels)
        columns = list(map(int, tick_names(ax.xaxis)))
        np.testing.assert_allclose(ax.images[0].get_array()[0], self.P[1:6].mean(axis=0)[columns])
        with pytest.warns(UserWarning, match="groupby has no value for 2 of 12"):
            ax = plot.residuals(X, ones, [[2.0, 1.0]], groupby=labels, column_groupby=["a", "b"])
        np.testing.assert_allclose(
            ax.images[0].get_array()[0], [(X[1:6, 0].sum() - 10) / 10**0.5, (X[1:6, 1].sum() - 5) / 5**0.5]
        )

    def test_the_message_is_short_for_many_groups(self):
        labels = [f"cell {i}" for i in range(1000)]
        with pytest.raises(ValueError, match="groups must be some of the values of groupby") as caught:
            plot.structure(np.ones((1000, 2)), groupby=self.DAYS.repeat(84)[:1000], groups=labels)
        assert len(str(caught.value)) < 200

    def test_a_single_name_or_number_is_an_array_of_one(self):
        assert tick_names(plot.structure(self.P, groupby=self.DAYS, groups="wed").xaxis) == ["wed"]
        legend = plot.structure(self.P[:, :1], labels="only").get_legend()
        assert [text.get_text() for text in legend.get_texts()] == ["only"]
        assert [ax.get_title() for ax in plot.top_features(np.eye(3), components=1)] == ["component 1"]
        assert len(plot.convergence(trace(2, 1), labels="fit").get_legend().get_texts()) == 1


class TestAnnData:
    """Groups by the name of a column."""

    @pytest.fixture
    def adata(self):
        anndata = pytest.importorskip("anndata")
        adata = anndata.AnnData(np.random.default_rng(13).poisson(2.0, (12, 6)).astype("float32"))
        adata.obs["day"], adata.var["kind"] = np.array(["tue", "wed", "mon"] * 4), ["x", "y"] * 3
        return adata

    @pytest.mark.parametrize("fit", ["poisson_nmf", "hpf"])
    def test_a_fitted_object_and_columns_of_obs_and_var_replace_arrays(self, adata, fit):
        fastpmf_anndata = pytest.importorskip("fastpmf.anndata")
        model = getattr(fastpmf_anndata, fit)(adata, 2, random_state=0, max_iter=20, tol=0)
        W, days = adata.obsm["X_pmf" if fit == "poisson_nmf" else "X_hpf"], adata.obs["day"].to_numpy()
        by_array = stacks(plot.structure(W, model, groupby=days))
        for H in (None, model):
            ax = plot.structure(adata, H, groupby="day")
            assert tick_names(ax.xaxis) == ["mon", "tue", "wed"]
            np.testing.assert_allclose(stacks(ax), by_array, atol=1e-6)
        for groupby in ("day", adata.obs["day"].iloc[::-1]):  # a Series is aligned by the names of the cells
            means = plot.group_heatmap(adata, groupby=groupby).images[0].get_array()
            expected = plot.group_heatmap(W, model, groupby=days).images[0].get_array()
            np.testing.assert_allclose(means, expected, atol=1e-6)
        found = plot.residuals(adata, W, model, groupby="day", column_groupby="kind").images[0].get_array()
        by_arrays = plot.residuals(adata.X, W, model, groupby=days, column_groupby=adata.var["kind"].to_numpy())
        np.testing.assert_array_equal(found, by_arrays.images[0].get_array())

    def test_an_unknown_column_and_an_object_without_a_fit_raise_a_clear_error(self, adata):
        with pytest.raises(
            ValueError, match=r"^W must be an AnnData object with the result of fastpmf\.anndata in \.obsm"
        ):
            plot.structure(adata, groupby="day")
        with pytest.raises(ValueError, match=r"^groupby must be one of the columns of \.obs, 'day', got 'night'$"):
            plot.structure(adata, groupby="night")

    def test_key_chooses_between_the_results_of_several_fits(self, adata):
        fastpmf_anndata = pytest.importorskip("fastpmf.anndata")
        fits = {"X_pmf": fastpmf_anndata.poisson_nmf, "X_hpf": fastpmf_anndata.hpf}
        models = {key: fit(adata, 2, random_state=0, max_iter=5, tol=0) for key, fit in fits.items()}
        for key, model in models.items():
            expected = stacks(plot.structure(adata.obsm[key], model))
            np.testing.assert_allclose(stacks(plot.structure(adata, key=key)), expected, atol=1e-6)
            plot.group_heatmap(adata, groupby="day", key=key)
        with pytest.raises(ValueError, match=r"key must be one of the results in \.obsm, 'X_pmf', 'X_hpf', got None"):
            plot.structure(adata)
        with pytest.raises(ValueError, match=r"key is for an AnnData object as W, got 'X_pmf' with ndarray"):
            plot.structure(adata.obsm["X_pmf"], key="X_pmf")

    def test_a_result_of_any_name_is_found(self, adata):
        fastpmf_anndata = pytest.importorskip("fastpmf.anndata")
        fastpmf_anndata.poisson_nmf(adata, 2, random_state=0, max_iter=5, tol=0, key_added="programs")
        assert len(stacks(plot.structure(adata))) == len(stacks(plot.structure(adata, key="programs")))


def test_components_are_numbered_from_zero_everywhere():
    H = np.eye(3) + 0.1
    legend = plot.structure(H).get_legend()
    numbers = [
        [text.get_text() for text in legend.get_texts()], tick_names(plot.similarity_heatmap(H).yaxis),
        tick_names(plot.group_heatmap(H, groupby=[0, 0, 1]).xaxis),
        [ax.get_title().removeprefix("component ") for ax in plot.top_features(H)],
    ]  # fmt: skip
    assert [sorted(shown) for shown in numbers] == [["0", "1", "2"]] * 4


def test_numbers_as_labels_are_in_numerical_order():
    ax = plot.group_heatmap(np.eye(12), groupby=np.arange(12))
    assert [text.get_text() for text in ax.get_yticklabels()] == [str(i) for i in range(12)]


def trace(*objective):
    dtype = [("n_iter", int), ("objective", float), ("kkt_residual", float), ("seconds", float)]
    return np.array([(10 * i, value, 0.1, 0.5 * i) for i, value in enumerate(objective)], dtype)


class TestConvergence:
    def test_lines_are_objectives_above_the_best_of_all(self):
        ax = plot.convergence([trace(100, 20, 12), trace(np.inf, 30, 10)], labels=["a", "b"])
        first, second = ax.get_lines()
        assert first.get_xydata().tolist() == [[0, 90], [0.5, 10], [1, 2]]
        assert second.get_xydata().tolist() == [[0.5, 20]]  # infinity and the best are not drawn
        assert ax.get_yscale() == "log"
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]

    def test_the_best_may_be_given(self):
        line = plot.convergence(trace(100, 20, 12), best=10, x="n_iter").get_lines()[0]
        assert line.get_xydata().tolist() == [[0, 90], [10, 10], [20, 2]]

    @pytest.mark.parametrize("solver", ["solution", "estimator", "bayes"])
    def test_any_fit_is_drawn(self, solver):
        X, options = np.random.default_rng(3).poisson(2.0, (12, 5)), {"max_iter": 9, "tol": 0, "eval_every": 3}
        if solver == "solution":
            fit = poisson_nmf(X, 2, random_state=0, **options)
        else:
            fit = {"estimator": PoissonNMF, "bayes": HPF}[solver](2, random_state=0, **options).fit(X)
        own = fit.trace if solver == "solution" else fit.trace_
        line = plot.convergence(fit, x="n_iter").get_lines()[0]
        np.testing.assert_allclose(line.get_ydata(), (own["objective"] - own["objective"].min())[:-1])

    def test_twenty_lines_have_different_styles(self):
        lines = plot.convergence([trace(100 + i, 20, 12) for i in range(20)]).get_lines()
        assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_selection_draws_means_errors_splits_and_the_recommended_number():
    scores = np.array([[-2.0, -2.2], [-1.5, -1.31], [-1.4, -1.4]])
    found = Selection(np.array([1, 2, 4]), scores, np.array([1.0, 0.8, 0.7]), np.ones((3, 2)))
    scored, similar = plot.selection(found)
    np.testing.assert_array_equal([line.get_ydata() for line in scored.get_lines()[:2]], scores.T)
    (bars,) = scored.containers
    np.testing.assert_allclose(bars.lines[0].get_xydata(), np.stack([[1, 2, 4], found.mean], axis=1))
    ends = np.array(bars.lines[2][0].get_segments())[:, :, 1]
    np.testing.assert_allclose(ends, np.stack([found.mean - found.error, found.mean + found.error], axis=1))
    assert [text.get_text() for text in scored.texts] == ["2 recommended"]
    np.testing.assert_array_equal(similar.get_lines()[0].get_ydata(), found.similarity)


def test_replicates_of_a_selection_are_drawn_below():
    found = Selection(
        np.array([1, 2]), np.array([[-2.0], [-1.0]]), np.full(2, np.nan), np.ones((2, 1)),
        silhouette=np.array([np.nan, 0.9]), divergence=np.array([0.7, 0.5]),
    )  # fmt: skip
    _, stable, error = plot.selection(found)
    np.testing.assert_array_equal(stable.get_lines()[0].get_ydata(), found.silhouette)
    np.testing.assert_array_equal(error.get_lines()[0].get_ydata(), found.divergence)


def test_a_single_split_has_neither_errors_nor_similarity():
    found = Selection(np.array([1, 2]), np.array([[-2.0], [-1.0]]), np.full(2, np.nan), np.ones((2, 1)))
    (ax,) = plot.selection(found)
    assert not ax.containers[0].has_yerr
    assert [text.get_text() for text in ax.texts] == ["2 recommended"]


def test_gains_are_ordered_with_two_errors_to_each_side_and_unsupported_ones_are_grey():
    ax = plot.component_gains(GAINS, labels=["a", "b", "c"])
    assert tick_names(ax.yaxis) == ["b", "a", "c"]
    supported, other = ax.containers
    assert supported.lines[0].get_xydata().tolist() == [[0.5, 0], [0.1, 1]]
    assert other.lines[0].get_xydata().tolist() == [[0.01, 2]]
    ends = np.array(supported.lines[2][0].get_segments())[:, :, 0]
    np.testing.assert_allclose(ends, [[0.3, 0.7], [0.08, 0.12]])
    assert supported.lines[0].get_color() != other.lines[0].get_color()


class TestCalibration:
    @staticmethod
    def points(ax):
        return ax.containers[0].lines[0].get_xydata()

    @pytest.fixture
    def counts(self):
        rng = np.random.default_rng(4)
        W, H = rng.gamma(0.5, size=(60, 3)), rng.gamma(0.5, size=(3, 50))
        return W, H, sparse.csr_array(rng.poisson(0.5 * W @ H))

    def test_one_group_is_the_mean_of_all_entries_including_zeros(self):
        rng = np.random.default_rng(4)
        H, test = rng.integers(1, 3, (1, 50)), rng.poisson(0.7, (60, 50))
        points = self.points(plot.calibration(sparse.csr_array(test), np.ones((60, 1)), H, exposure=0.5, bins=1))
        np.testing.assert_allclose(points, [[0.5 * H.mean(), test.mean()]])

    def test_groups_are_equally_wide_in_the_logarithm_of_the_rate(self):
        W, test = 2.0 ** np.arange(6)[:, None], np.random.default_rng(5).poisson(9.0, (6, 40))
        # Rates 1 to 32 in two groups, separated at 5.7
        points = self.points(plot.calibration(test, W, np.ones((1, 40)), bins=2))
        np.testing.assert_allclose(points, [[7 / 3, test[:3].mean()], [56 / 3, test[3:].mean()]])

    def test_the_lowest_rates_that_expect_fewer_than_ten_counts_are_one_group(self):
        W, test = np.array([[0.01], [0.1], [1.0], [2.0]]), np.random.default_rng(6).poisson(2.0, (4, 40))
        points = self.points(plot.calibration(test, W, np.ones((1, 40)), bins=2))
        # 0.4 and 4 counts are expected, then 40
        np.testing.assert_allclose(points, [[0.055, test[:2].mean()], [1, test[2].mean()], [2, test[3].mean()]])

    def test_blocks_of_rows_add_up(self, counts, monkeypatch):
        W, H, test = counts
        whole = self.points(plot.calibration(test, W, H))
        monkeypatch.setattr("fastpmf.plot.fits._BLOCK", 7 * 50)
        np.testing.assert_allclose(self.points(plot.calibration(test, W, H)), whole)

    def test_the_diagonal_is_there_and_counts_drawn_from_the_model_lie_on_it(self, counts):
        W, H, test = counts
        ax = plot.calibration(test, W, H, exposure=0.5)
        (diagonal,) = [line for line in ax.get_lines() if len(line.get_xdata()) == 2]
        np.testing.assert_array_equal(diagonal.get_xdata(), diagonal.get_ydata())
        x, _ = self.points(ax).T
        low, high = np.array(ax.containers[0].lines[2][0].get_segments())[:, :, 1].T
        assert ((low <= x) & (x <= high)).mean() > 0.8  # intervals of 95 %, some twenty of them

    def test_no_entries_are_lost_if_fewer_than_ten_counts_are_expected_in_all(self):
        W, H = np.random.default_rng(7).gamma(0.1, size=(30, 1)) * 1e-3, np.ones((1, 20))
        points = self.points(plot.calibration(np.ones((30, 20), int), W, H))
        np.testing.assert_allclose(points, [[np.sort(W[:, 0])[:-1].mean(), 1], [W.max(), 1]])

    def test_a_rate_of_zero_is_counted_with_the_lowest(self):
        W, H = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[8.0, 8.0, 0.0], [0.0, 8.0, 8.0]])
        points = self.points(plot.calibration([[8, 8, 3], [3, 16, 16]], W, H, bins=2))
        # Rates 0, 0, 8 and 8 are 16 counts together, 16 and 16 the others
        np.testing.assert_allclose(points, [[4, 5.5], [16, 16]])

    def test_a_group_without_counts_is_a_bar_from_the_lower_edge(self):
        ax = plot.calibration(np.outer([0, 30], np.ones(20, int)), [[1.0], [30.0]], np.ones((1, 20)), bins=2)
        low, high = np.array(ax.containers[0].lines[2][0].get_segments())[0, :, 1]
        assert low == 0
        assert high == pytest.approx(-np.log(0.025) / 20)  # at that mean, none of twenty has a count with 2.5 %


def test_residuals_are_those_of_dense_sums_over_groups(factors):
    W, H = factors
    X = np.random.default_rng(5).poisson(W @ H)
    rows, columns = np.arange(30) % 3, np.array(list("aabbaabbaabb"))
    ax = plot.residuals(sparse.csc_array(X), W, H, groupby=rows, column_groupby=columns)
    R, C = (rows == np.arange(3)[:, None]).astype(float), (columns[:, None] == np.array(["a", "b"])).astype(float)
    observed, expected = R @ X @ C, R @ W @ H @ C
    image = ax.images[0]
    np.testing.assert_allclose(image.get_array(), (observed - expected) / np.sqrt(expected), rtol=1e-10)
    assert image.norm.vmin == -image.norm.vmax
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b"]


def test_without_labels_groups_ascend_by_total_and_have_similar_numbers_of_counts():
    X = np.random.default_rng(6).poisson(np.outer(np.ones(40), np.arange(1.0, 61)))
    ax = plot.residuals(X, X.sum(axis=1)[:, None] / X.sum(), X.sum(axis=0)[None], bins=5)
    names = [text.get_text().split("–") for text in ax.get_xticklabels()]
    assert len(names) == 5
    ends = np.array(names, dtype=float)
    assert (ends[:-1, 1] <= ends[1:, 0]).all()
    totals = X.sum(axis=0)
    shares = [totals[(low <= totals) & (totals <= high)].sum() / X.sum() for low, high in ends]
    np.testing.assert_allclose(shares, 0.2, atol=0.04)  # a column, at most 3.4 %, goes to either side as a whole
    assert ax.images[0].get_array().shape == (5, 5)


def test_counts_of_rate_zero_are_the_strongest_red_and_no_counts_of_rate_zero_are_zero():
    ax = plot.residuals([[1, 2], [0, 0]], [[1], [0]], [[1, 0]], groupby=[0, 1], column_groupby=[0, 1])
    (image,) = ax.images
    assert image.get_array().filled(np.inf).tolist() == [[0, np.inf], [0, 0]]
    np.testing.assert_array_equal(image.cmap.get_bad(), image.cmap(1.0))


class TestDifferential:
    @pytest.fixture
    def result(self):
        rng = np.random.default_rng(7)
        error = rng.uniform(0.1, 1.0, (2, 40))
        error[1, :3] = np.inf, 0, np.inf
        change = rng.normal(size=(2, 40))
        change[1, [0, 2]] = 0
        names = np.array([f"gene {j}" for j in range(40)])
        return Differential(change, error, np.full((2, 40), -1), None, names)

    def test_points_are_defined_changes_and_z_scores(self, result):
        points = plot.differential(result, 1).get_lines()[0].get_xydata()
        change, error = result.log2_fold_change[1, 3:], result.standard_error[1, 3:]
        np.testing.assert_allclose(points, np.stack([change, change / error], axis=1))

    @pytest.mark.parametrize(("shrunk", "z", "subtracted"), [(False, None, 2), (True, None, 0), (False, 0.5, 0.5)])
    def test_the_largest_changes_minus_z_errors_are_named_without_overlap(self, result, shrunk, z, subtracted):
        result = result._replace(false_sign_rate=np.ones((2, 40)) if shrunk else None)
        ax = plot.differential(result, 1, n=12, z=z)
        change, error = result.log2_fold_change[1, 3:], result.standard_error[1, 3:]
        first = np.argsort(subtracted * error - np.abs(change))[:12]
        named = {text.get_text(): text.xy for text in ax.texts}
        assert named == {f"gene {j + 3}": (change[j], change[j] / error[j]) for j in first}
        heights = np.sort([text.xyann[1] for text in ax.texts])
        assert (np.diff(heights) * ax.bbox.height / ax.figure.dpi * 72 > 10.9).all()  # points; 11 but for rounding
        assert 0 <= heights[0] <= heights[-1] <= 1

    def test_the_result_of_an_estimator_is_accepted(self):
        X = np.random.default_rng(8).poisson(3.0, (20, 6))
        model = PoissonNMF(2, max_iter=20, tol=0, random_state=0)
        W = model.fit_transform(X)
        result = model.differential_expression(X, W)
        points = plot.differential(result, 0).get_lines()[0].get_xydata()
        np.testing.assert_allclose(points[:, 1], result.z_score[0])


class TestIntervals:
    def test_points_are_means_and_lines_are_intervals_of_the_first_features(self):
        H = REPLICATES.H.values * [1.0, 0.1, 1.0]
        first, second = plot.intervals(replace(REPLICATES, H=Draws(H)), 2, level=0.5)
        shares = Draws(H / H.sum(axis=2, keepdims=True))
        low, high = shares.interval(0.5)
        assert [label.get_text() for label in first.get_yticklabels()] == ["ape", "cat"]
        np.testing.assert_allclose(first.get_lines()[0].get_xdata(), shares.mean[0, [0, 2]])
        ends = [line[:, 0] for line in first.collections[0].get_segments()]
        np.testing.assert_allclose(ends, np.transpose([low[0, [0, 2]], high[0, [0, 2]]]))
        assert first.get_title() == "component 0"
        assert second.get_xlim()[1] >= high.max()

    def test_a_component_that_is_not_identified_is_grey_and_named_so(self):
        named = replace(REPLICATES, component_names=np.array(["apes", "cats"]))
        first, second = plot.intervals(named)
        assert [ax.get_title() for ax in (first, second)] == ["apes", "cats (not identified)"]
        assert second.get_lines()[0].get_color() != first.get_lines()[0].get_color()
        assert len(plot.intervals(named, components=[1])) == 1


H2, X2 = np.array([[2.0, 1.0, 0.5], [0.5, 1.0, 2.0]]), [[2, 1, 1], [1, 1, 2]]
TWO_SPLITS = Selection(np.array([1, 2]), np.array([[-2.0, -2.1], [-1.0, -1.1]]), np.ones(2), np.ones((2, 2)))
CHANGES = Differential(H2, H2, np.full((2, 3), -1), None, None)
GAINS = ComponentGains(np.array([0.1, 0.5, 0.01]), np.array([0.01, 0.1, 0.02]))
FITTED = PoissonNMF(2, random_state=0).fit(X2)
AGREED = Consensus(
    model=FITTED, W=H2[:, :2], replicates=Replicates(np.array([H2, H2[::-1]]), np.zeros(2)), stability=np.ones(2),
    labels=np.array([[0, 1], [1, 0]]), density=np.array([[0.1, 0.1], [0.1, 0.7]]), distance=np.ones(2), silhouette=1.0,
    kept=np.array([[True, True], [True, False]]), density_threshold=0.5,
)  # fmt: skip
REPLICATES = Bootstrap(
    H=Draws(np.array([H2, 2 * H2, H2[:, ::-1]])), feature_names=np.array(["ape", "bee", "cat"]),
    similarity=np.ones((3, 2)), same=np.array([[True, True], [True, False], [True, True]]),
)  # fmt: skip
PLOTS = {
    "structure": lambda ax: plot.structure(H2.T, ax=ax),
    "similarity_heatmap": lambda ax: plot.similarity_heatmap(H2, ax=ax),
    "group_heatmap": lambda ax: plot.group_heatmap(H2.T, groupby=[0, 1, 1], ax=ax),
    "convergence": lambda ax: plot.convergence(trace(3, 2), ax=ax),
    "calibration": lambda ax: plot.calibration(X2, np.eye(2), H2, ax=ax),
    "residuals": lambda ax: plot.residuals(X2, np.eye(2), H2, ax=ax),
    "differential": lambda ax: plot.differential(CHANGES, 0, ax=ax),
    "top_features": lambda ax: plot.top_features(H2, ax=ax),
    "selection": lambda ax: plot.selection(TWO_SPLITS, ax=ax),
    "component_gains": lambda ax: plot.component_gains(GAINS, ax=ax),
    "consensus": lambda ax: plot.consensus(AGREED, ax=ax),
    "intervals": lambda ax: plot.intervals(REPLICATES, ax=ax),
}
SEVERAL = {"top_features": 2, "selection": 2, "consensus": 3, "intervals": 2}


@pytest.mark.parametrize("name", PLOTS)
class TestEveryPlot:
    def test_given_axes_are_drawn_on_and_returned(self, name):
        _, given = plt.subplots(SEVERAL.get(name, 1))
        returned = PLOTS[name](given)
        if name in SEVERAL:
            assert list(returned) == list(given)
        else:
            assert returned is given
        assert plt.get_fignums() == [1]
        assert all(ax.has_data() or ax.patches for ax in np.ravel(given))

    def test_without_axes_there_is_one_new_figure(self, name):
        PLOTS[name](None)
        assert len(plt.get_fignums()) == 1

    def test_other_objects_than_axes_raise_a_clear_error(self, name):
        expected = f"{SEVERAL[name]} matplotlib Axes" if name in SEVERAL else "a matplotlib Axes"
        with pytest.raises(TypeError, match=f"ax must be {expected} or None, got 1 Figure"):
            PLOTS[name](plt.figure())

    def test_without_matplotlib_the_error_has_the_command_to_install_it(self, name, monkeypatch):
        for module in ("matplotlib", "matplotlib.pyplot"):
            monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ImportError, match=r"^fastpmf\.plot needs matplotlib: pip install 'fastpmf\[plot\]'$"):
            PLOTS[name](None)


@pytest.mark.parametrize("function", [getattr(plot, name) for name in plot.__all__], ids=plot.__all__)
def test_documented_parameters_are_the_signature_and_there_is_an_example(function):
    documented = numpydoc_light.parameters(inspect.getdoc(function))
    assert documented == list(inspect.signature(function).parameters)
    assert ">>>" in function.__doc__


@pytest.mark.parametrize("k", [1, 30])
def test_few_and_many_components_can_be_drawn(k):
    rng = np.random.default_rng(9)
    W, H = rng.gamma(0.5, size=(80, k)), rng.gamma(0.5, size=(k, 6))
    labels = [f"a group with a long name, number {i % 40}" for i in range(80)]
    ax = plot.structure(W, H, groupby=labels)
    assert len(ax.patches) == k
    assert len(ax.get_xticklabels()) == 40
    assert plot.similarity_heatmap(H).images[0].get_array().shape == (k, k)
    assert plot.group_heatmap(W, groupby=labels).images[0].get_array().shape == (40, k)


def test_inputs_are_not_written_to(unchanged, factors):
    W, H = unchanged(*factors)
    X = unchanged(sparse.csr_array(np.random.default_rng(10).poisson(W @ H)))
    for draw in (lambda: plot.structure(W, H), lambda: plot.calibration(X, W, H), lambda: plot.residuals(X, W, H)):
        draw()


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: plot.structure([1, 2]), ValueError, "W must be a matrix with at least one row and one column, got"),
        (lambda: plot.structure([[1, -2]]), ValueError, "W must be non-negative, got a minimum of -2"),
        (lambda: plot.structure([[1, 2]], [[1]]), ValueError, "H must have 2 rows, as many as W has columns, got 1"),
        (
            lambda: plot.structure([[1]], order="pca"),
            ValueError,
            "order must be one of 'dominant', 'principal', 'given', got",
        ),
        (lambda: plot.structure([[1]], max_rows=0), ValueError, "max_rows == 0, must be >= 1"),
        (
            lambda: plot.structure([[1]], groupby=[1, 2]),
            ValueError,
            r"groupby must have shape \(1,\), a group for each row, got shape \(2,\)",
        ),
        (lambda: plot.structure([[1]], groupby=["a"], groups=["b"]), ValueError, "each once, got 1: 'b'"),
        (
            lambda: plot.structure(np.eye(2), groupby="aa"),
            TypeError,
            "groupby must hold a group for each row, got 'aa': the name of a column of .obs needs an AnnData object",
        ),
        (
            lambda: plot.structure(np.eye(2), groupby=list("ab"), groups=list("aa")),
            ValueError,
            "got 2: 'a', 'a'",
        ),
        (lambda: plot.structure(np.eye(2), groupby=list("ab"), groups=[]), ValueError, "each once, got 0: "),
        (
            lambda: plot.structure([[1]], groupby=[None]),
            ValueError,
            "groupby must have at least one value, but all are",
        ),
        (lambda: plot.structure([[1]], labels=["a", "b"]), ValueError, "labels must be 1, one for each component"),
        (lambda: plot.top_features(H2, by="frex"), ValueError, "by must be one of 'weight', 'lift', 'exclusivity'"),
        (lambda: plot.top_features(H2, components=[2]), ValueError, r"components must be numbers from 0 to 1, got \[2"),
        (lambda: plot.similarity_heatmap(H2, [[1]]), ValueError, "other must have 3 columns, as many as H, got 1"),
        (lambda: plot.convergence([]), ValueError, "fits must hold at least one"),
        (lambda: plot.convergence(H2), TypeError, "fits must be fitted estimators, solutions or traces, got ndarray"),
        (lambda: plot.convergence(PoissonNMF(2)), TypeError, "got PoissonNMF without a trace"),
        (
            lambda: plot.convergence(trace(2, 1), x="time"),
            ValueError,
            "x must be one of 'seconds', 'n_iter', got",
        ),
        (
            lambda: plot.convergence(trace(2, 1), best=1.5),
            ValueError,
            "finite and at most the lowest objective, 1,",
        ),
        (lambda: plot.convergence(trace(np.inf)), ValueError, "at most the lowest objective, inf, got inf"),
        (lambda: plot.convergence(trace(1, 1)), ValueError, "fits must hold an objective above the best"),
        (lambda: plot.convergence(trace(2, 1), labels=[]), ValueError, "labels must be 1, one for each fit"),
        (lambda: plot.selection([1, 2]), TypeError, "result must be what select_n_components returns, got list"),
        (lambda: plot.intervals(H2), TypeError, "draws must be what bootstrap or sample_posterior returns, got ndarr"),
        (lambda: plot.intervals(REPLICATES, 0), ValueError, "n == 0, must be >= 1"),
        (lambda: plot.intervals(REPLICATES, level=1), ValueError, "level must be a number between 0 and 1, got 1"),
        (lambda: plot.intervals(REPLICATES, components=[2]), ValueError, "components must be numbers from 0 to 1"),
        (lambda: plot.consensus([1, 2]), TypeError, "result must be what consensus returns, got list"),
        (lambda: plot.calibration(X2, [[1]], H2), ValueError, "H must have 1 rows, as many as W has columns, got 2"),
        (lambda: plot.calibration(X2, H2.T, H2), ValueError, r"X must have shape \(3, 3\), as W H has, got \(2, 3"),
        (lambda: plot.calibration(X2, np.eye(2), H2, exposure=0), ValueError, "exposure == 0, must be > 0"),
        (lambda: plot.calibration(X2, np.eye(2), H2, bins=0), ValueError, "bins == 0, must be >= 1"),
        (lambda: plot.calibration(X2, 0 * H2[:, :2], H2), ValueError, "X must hold a positive count, and W H"),
        (lambda: plot.calibration(X2, np.eye(2) * 1e308, H2 * 9), ValueError, "small enough for the sum of W H to be"),
        (lambda: plot.residuals(X2, np.eye(2), H2, groupby=[1]), ValueError, r"groupby must have shape \(2,\), a gr"),
        (lambda: plot.residuals([[-1]], [[1]], [[1]]), ValueError, "X must hold counts >= 0, got -1"),
        (lambda: plot.differential(H2, 0), TypeError, "result must be what differential_expression returns, got ndarr"),
        (lambda: plot.differential(CHANGES, 2), ValueError, "component must be numbers from 0 to 1, got 2"),
        (lambda: plot.differential(CHANGES, 0, names=["a"]), ValueError, "names must be 3, one for each feature"),
    ],
)
def test_bad_input_raises_a_clear_error_and_leaves_no_figure(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
    assert not plt.get_fignums()
