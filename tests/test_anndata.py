"""Fits of AnnData objects write their results where scanpy does; factors are written to files."""

import inspect
import warnings

import numpy as np
import numpydoc_light
import pytest
from scipy import sparse

import fastpmf
from fastpmf.io import write_factors

anndata = pytest.importorskip("anndata")
pd = pytest.importorskip("pandas")
fa = pytest.importorskip("fastpmf.anndata")


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    X = sparse.csr_matrix(rng.poisson(rng.gamma(0.5, size=(40, 3)) @ rng.gamma(0.5, size=(3, 25)) * 4 + 0.1))
    made = anndata.AnnData(X.astype(np.float32))
    made.obs_names, made.var_names = [f"cell {i}" for i in range(40)], [f"gene {j}" for j in range(25)]
    made.var["highly_variable"] = np.arange(25) % 5 > 0
    made.obs["size"] = np.linspace(0.5, 2, 40)
    return made


def test_results_go_where_scanpys_go_and_are_those_of_the_estimator(adata):
    before = adata.X.copy()
    returned = fa.poisson_nmf(adata, 3, random_state=0)
    model = fastpmf.PoissonNMF(3, random_state=0)
    W = model.fit_transform(adata.X)
    np.testing.assert_array_equal(adata.obsm["X_pmf"], W)
    np.testing.assert_array_equal(adata.varm["PMF"], model.components_.T)
    np.testing.assert_array_equal(returned.components_, model.components_)
    assert returned.feature_names_in_.tolist() == list(adata.var_names)
    facts = adata.uns["pmf"]
    assert facts["objective"] == model.objective_
    assert facts["params"]["n_components"] == 3
    np.testing.assert_array_equal(facts["trace"]["objective"], model.trace_["objective"])
    assert (before != adata.X).nnz == 0


def test_a_layer_chosen_genes_and_exposures_are_what_is_fitted(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    options = {"layer": "counts", "key_added": "mine", "random_state": 0}
    fa.poisson_nmf(adata, 2, mask_var="highly_variable", obs_exposure="size", **options)
    chosen = adata.var["highly_variable"].to_numpy()
    model = fastpmf.PoissonNMF(2, random_state=0)
    W = model.fit_transform(adata.layers["counts"][:, chosen], row_exposure=np.linspace(0.5, 2, 40))
    np.testing.assert_array_equal(adata.obsm["mine"], W)
    np.testing.assert_array_equal(adata.varm["mine"][chosen], model.components_.T)
    assert (adata.varm["mine"][~chosen] == 0).all()
    assert adata.uns["mine"]["params"]["layer"] == "counts"
    assert "X_pmf" not in adata.obsm


def test_counts_with_names_are_what_was_fitted(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    chosen = {"layer": "counts", "mask_var": "highly_variable"}
    model = fa.poisson_nmf(adata, 2, random_state=0, **chosen)
    data = fa.to_dataset(adata, **chosen)
    assert data.row_names.tolist() == list(adata.obs_names)
    assert data.column_names.tolist() == model.feature_names_in_.tolist()
    W = fa.transform(adata, model, layer="counts", key_added="again")
    np.testing.assert_array_equal(model.transform(data), W)
    found = model.differential_expression(data, adata.obsm["X_pmf"])
    assert found.top(1).names[0, 0] in data.column_names
    assert model.quality(data, 3).npmi.shape == (2,)


@pytest.mark.parametrize("fit", [fa.poisson_nmf, fa.hpf])
def test_overdispersion_is_written_for_the_fitted_genes(adata, fit):
    adata.obs["batch"] = np.repeat(["a", "b"], 20)
    chosen = adata.var["highly_variable"].to_numpy()
    given = {"obs_exposure": "size"} if fit is fa.poisson_nmf else {}
    model = fit(adata, 2, mask_var="highly_variable", batch_key="batch", random_state=0, key_added="mine", **given)
    found = fa.overdispersion(adata, model, batch_key="batch", key_added="mine", **given)
    exposure = {"row_exposure": adata.obs["size"].to_numpy()} if given else {}
    X = adata.X[:, chosen]
    again = fastpmf.overdispersion(X, adata.obsm["mine"], model, groups=adata.obs["batch"].to_numpy(), **exposure)
    np.testing.assert_array_equal(found.dispersion, again.dispersion)
    assert found.names.tolist() == adata.var_names[chosen].tolist()
    for name, values in {"dispersion": found.dispersion, "dispersion_z": found.z_score}.items():
        np.testing.assert_array_equal(adata.var[f"mine_{name}"][chosen], values)
        assert adata.var[f"mine_{name}"][~chosen].isna().all()
    assert adata.var["mine_overdispersed"].dtype == bool
    assert adata.uns["mine_overdispersion"]["z_score"] == found.overall_z_score
    with pytest.raises(ValueError, match="batch_key must be given"):
        fa.overdispersion(adata, model, key_added="mine")
    with pytest.raises(ValueError, match="must have W in"):
        fa.overdispersion(adata, model, batch_key="batch")
    with pytest.raises(ValueError, match="must have all"):
        fa.overdispersion(adata[:, np.flatnonzero(chosen)[1:]].copy(), model, batch_key="batch", key_added="mine")


@pytest.mark.parametrize("method", ["bootstrap", "hpf", "posterior"])
def test_intervals_are_written_for_the_fitted_genes_and_all_cells(adata, method):
    chosen = adata.var["highly_variable"].to_numpy()
    options = {"mask_var": "highly_variable", "random_state": 0, "key_added": "mine"}
    X = fa.to_dataset(adata, mask_var="highly_variable")
    given, beside = {"obs_exposure": "size"}, {"row_exposure": adata.obs["size"].to_numpy()}
    if method == "bootstrap":
        adata.obs["batch"] = np.repeat(["a", "b"], 20)
        given["batch_key"], beside["groups"] = "batch", adata.obs["batch"].to_numpy()
        model = fa.poisson_nmf(adata, 2, **given, **options)
        found = fa.bootstrap(adata, model, level=0.5, key_added="mine", n_replicates=4, random_state=0, **given)
        again = fastpmf.bootstrap(model, X, n_replicates=4, random_state=0, **beside)
        assert adata.uns["mine_intervals"]["identified"].tolist() == found.identified.tolist()
    else:
        given, beside = ({}, {}) if method == "hpf" else (given, beside)
        priors = {} if method == "hpf" else {"prior_W": "auto", "prior_H": "auto"}
        model = (fa.hpf if method == "hpf" else fa.poisson_nmf)(adata, 2, **given, **priors, **options)
        found = fa.sample_posterior(adata, model, level=0.5, key_added="mine", n_draws=4, random_state=0, **given)
        again = model.sample_posterior(X, 4, random_state=0, **beside)
        assert adata.uns["mine_intervals"]["effective_draws"].tolist() == found.effective_draws.tolist()
    np.testing.assert_array_equal(found.H.values, again.H.values)
    assert found.feature_names.tolist() == adata.var_names[chosen].tolist()
    ends = zip(("low", "high"), found.feature_shares.interval(0.5), found.component_shares.interval(0.5), strict=True)
    for end, genes, cells in ends:
        np.testing.assert_array_equal(adata.varm[f"mine_shares_{end}"][chosen], genes.T)
        assert np.isnan(adata.varm[f"mine_shares_{end}"][~chosen]).all()
        np.testing.assert_array_equal(adata.obsm[f"mine_topics_{end}"], cells)
    assert (adata.uns["mine_intervals"]["level"], adata.uns["mine_intervals"]["n_draws"]) == (0.5, 4)


def test_intervals_of_an_earlier_fit_or_draw_are_deleted(adata):
    model = fa.poisson_nmf(adata, 2, random_state=0)
    fa.bootstrap(adata, model, n_replicates=2, random_state=0)
    fa.bootstrap(adata, model, n_replicates=2, random_state=0, keep_W=False)
    assert "PMF_shares_low" in adata.varm
    assert "X_pmf_topics_low" not in adata.obsm
    fa.poisson_nmf(adata, 3, random_state=0)
    assert not {"PMF_shares_low", "PMF_shares_high"} & set(adata.varm)
    assert "pmf_intervals" not in adata.uns


def test_intervals_of_wrong_arguments_are_refused(adata):
    model, other = fa.poisson_nmf(adata, 2, random_state=0), fa.hpf(adata, 2, random_state=0)
    with pytest.raises(TypeError, match="'n_replicate' is not a parameter of bootstrap; did you mean 'n_replicates'"):
        fa.bootstrap(adata, model, n_replicate=3)
    with pytest.raises(TypeError, match="'keep_w' is not a parameter of sample_posterior"):
        fa.sample_posterior(adata, other, keep_w=False)
    with pytest.raises(TypeError, match="model must be a PoissonNMF, got HPF; HPF has sample_posterior"):
        fa.bootstrap(adata, other)
    with pytest.raises(ValueError, match="level must be a number between 0 and 1, got 90"):
        fa.bootstrap(adata, model, level=90)
    with pytest.raises(TypeError, match="model must be a PoissonNMF or HPF, got str"):
        fa.sample_posterior(adata, "pmf")
    adata.obs["batch"] = np.repeat(["a", "b"], 20)
    with pytest.raises(ValueError, match="fit without batch_key, since sample_posterior has no batches"):
        fa.sample_posterior(adata, fa.hpf(adata, 2, batch_key="batch", random_state=0, tol=1e-3))


def test_topic_shares_are_stored_beside_w(adata):
    for function, key in ((fa.poisson_nmf, "X_pmf"), (fa.hpf, "X_hpf")):
        model = function(adata, 3, random_state=0)
        shares = adata.obsm[f"{key}_topics"]
        np.testing.assert_array_equal(shares, model.to_topics(adata.obsm[key]).mixtures)
        np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-6)  # W is float32
    fa.hpf(adata, 3, random_state=0, key_added="mine")
    np.testing.assert_array_equal(adata.obsm["mine_topics"], adata.obsm["X_hpf_topics"])


def test_a_consensus_is_written_like_a_fit_with_its_stability(adata):
    options = {"n_replicates": 3, "density_threshold": 1.5, "random_state": 0}
    adata.obs["batch"] = np.repeat(["a", "b"], 20)
    chosen = {"mask_var": "highly_variable", "obs_exposure": "size", "batch_key": "batch"}
    found = fa.consensus(adata, 2, **chosen, **options, key_added="agreed")
    X = fa.to_dataset(adata, mask_var="highly_variable")
    same = fastpmf.consensus(X, 2, row_exposure=adata.obs["size"], groups=adata.obs["batch"], **options)
    np.testing.assert_array_equal(found.W, same.W)
    np.testing.assert_array_equal(adata.obsm["agreed"], found.W)
    np.testing.assert_array_equal(adata.varm["agreed"][adata.var["highly_variable"]], found.model.components_.T)
    np.testing.assert_array_equal(adata.uns["agreed"]["stability"], found.stability)
    assert adata.uns["agreed"]["n_kept"].tolist() == [3, 3]
    assert adata.uns["agreed"]["batches"].tolist() == ["a", "b"]
    assert found.model.feature_names_in_.tolist() == X.column_names.tolist()
    np.testing.assert_array_equal(
        fa.transform(adata, found.model, obs_exposure="size", batch_key="batch").shape, (40, 2)
    )
    for name in ("n_replicate", "row_exposure", "n_init"):
        with pytest.raises(TypeError, match=f"'{name}' is not a parameter of consensus"):
            fa.consensus(adata, 2, **{name: 3})


class TestArgumentsOfFit:
    """Each is the same as a name, as an array, and as a Series or DataFrame whose names are in another order."""

    @pytest.fixture
    def rich(self, adata):
        rng = np.random.default_rng(1)
        adata.obs["weight"] = rng.uniform(0.5, 2, 40)
        adata.var["length"] = rng.uniform(0.5, 2, 25)
        adata.var["noise"] = rng.uniform(0, 0.1, 25)
        adata.varm["start"] = rng.gamma(1.0, size=(25, 2))
        adata.obsm["start"] = rng.gamma(1.0, size=(40, 2))
        adata.varm["known"] = np.where([True, False], rng.gamma(1.0, size=(25, 2)), np.nan)
        adata.obsm["known"] = np.where([True, False], rng.gamma(1.0, size=(40, 2)), np.nan)
        adata.layers["hidden"] = sparse.csr_matrix(rng.random((40, 25)) < 0.1)
        adata.layers["held out"] = sparse.csr_matrix(rng.poisson(0.3, (40, 25)))
        return adata

    def forms(self, adata, name, entry):
        """What the argument is in the order of adata as `fit` takes it, and in a DataFrame or Series of another."""
        rng = np.random.default_rng(2)
        cells, genes = rng.permutation(adata.obs_names), rng.permutation(adata.var_names)
        if name in ("obs_exposure", "sample_weight"):
            return adata.obs[entry].to_numpy(), adata.obs[entry][cells]
        if name in ("var_exposure", "background"):
            return adata.var[entry].to_numpy(), adata.var[entry][genes]
        if name.endswith("H"):
            H = adata.varm[entry].T
            return H, pd.DataFrame(H, columns=adata.var_names)[genes]
        if name.endswith("W"):
            W = adata.obsm[entry]
            return W, pd.DataFrame(W, adata.obs_names).loc[cells]
        M = adata.layers[entry].toarray()
        return M, pd.DataFrame(M, adata.obs_names, adata.var_names).loc[cells, genes]

    @pytest.mark.parametrize(
        ("name", "entry", "options"),
        [
            ("obs_exposure", "size", {}), ("var_exposure", "length", {}), ("background", "noise", {}),
            ("sample_weight", "weight", {}), ("fixed_H", "known", {}), ("fixed_W", "known", {}),
            ("H", "start", {"init": "custom", "W": "start"}), ("W", "start", {"init": "custom", "H": "start"}),
            ("mask", "hidden", {}), ("validation", "held out", {}),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("chosen", [None, "highly_variable"])
    def test_names_arrays_and_named_tables_are_one_fit(self, rich, name, entry, options, chosen):
        array, table = self.forms(rich, name, entry)
        common = {"random_state": 0, "max_iter": 30, "tol": 0.01, "mask_var": chosen} | options
        for form in (entry, array, table):
            before = form.copy() if hasattr(form, "copy") else form
            fa.poisson_nmf(rich, 2, **common, **{name: form}, key_added=f"{type(form).__name__}")
            if form is not entry:
                np.testing.assert_array_equal(form, before)
        columns = np.ones(25, bool) if chosen is None else rich.var[chosen].to_numpy()
        genes = name in ("var_exposure", "background", "fixed_H", "H", "mask", "validation")
        array = array[..., columns] if genes else array
        common = {key: value for key, value in common.items() if key not in ("mask_var", "W", "H")}
        starts = {"W": rich.obsm["start"], "H": rich.varm["start"].T[:, columns]}
        fits = {key: starts[key] for key in options if key in starts}
        fits[{"obs_exposure": "row_exposure", "var_exposure": "column_exposure"}.get(name, name)] = array
        init = {"init": common.pop("init")} if "init" in common else {}
        W = fastpmf.PoissonNMF(2, **common, **init).fit_transform(rich.X[:, columns], **fits)
        for key in ("str", "ndarray", type(table).__name__):
            np.testing.assert_array_equal(rich.obsm[key], W)
        assert rich.uns["str"]["params"][name] == entry

    def test_hpf_takes_masks_and_held_out_counts(self, rich):
        model = fa.hpf(rich, 2, mask="hidden", validation="held out", random_state=0, max_iter=20)
        other = fastpmf.HPF(2, random_state=0, max_iter=20)
        other.fit(rich.X, mask=rich.layers["hidden"], validation=rich.layers["held out"])
        np.testing.assert_array_equal(model.components_, other.components_)
        np.testing.assert_array_equal(model.validation_, other.validation_)

    def test_what_is_masked_may_be_missing(self, adata):
        mask = np.random.default_rng(0).random((40, 25)) < 0.1
        expected = fastpmf.PoissonNMF(2, random_state=0).fit_transform(adata.X, mask=mask)
        adata.X = np.where(mask, np.nan, adata.X.toarray())
        model = fa.poisson_nmf(adata, 2, mask=mask, random_state=0)
        np.testing.assert_array_equal(adata.obsm["X_pmf"], expected.astype(adata.obsm["X_pmf"].dtype))
        other = model.transform(pd.DataFrame(adata.X, columns=adata.var_names), mask=mask)
        np.testing.assert_array_equal(fa.transform(adata, model, mask=mask), other)

    def test_a_fit_goes_on_from_a_checkpoint(self, adata, tmp_path):
        options = {"random_state": 0, "tol": 0, "max_iter": 20}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tol=0 is not reached
            fa.poisson_nmf(
                adata, 2, **options | {"max_iter": 10}, checkpoint=fastpmf.Checkpoint(tmp_path, iterations=5)
            )
            fa.poisson_nmf(adata, 2, **options, resume=tmp_path, key_added="resumed")
            fa.poisson_nmf(adata, 2, **options)
        np.testing.assert_array_equal(adata.obsm["resumed"], adata.obsm["X_pmf"])

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            (lambda s: s.iloc[1:], "obs_exposure must have a label for each cell of adata, and lacks 'cell 0' of 40"),
            (
                lambda s: pd.concat([s, s.iloc[:1]]),
                "can't be aligned with the cells .* 'cell 0' more than once",
            ),
            (lambda s: s - 1, "obs_exposure must be non-negative, got a minimum of -0.5"),
            (
                lambda s: s.rename(str.upper),
                "must have a label for each cell .* lacks 'cell 0' and 39 more",
            ),
        ],
    )
    def test_names_that_are_missing_or_twice_are_refused(self, adata, change, sentence):
        with pytest.raises(ValueError, match=sentence):
            fa.poisson_nmf(adata, 2, obs_exposure=change(adata.obs["size"]))

    def test_a_series_without_names_goes_by_position(self, adata):
        one = fa.poisson_nmf(adata, 2, obs_exposure=adata.obs["size"].reset_index(drop=True), random_state=0)
        other = fa.poisson_nmf(adata, 2, obs_exposure="size", random_state=0)
        np.testing.assert_array_equal(one.components_, other.components_)

    def test_chosen_genes_are_aligned_by_name_too(self, adata):
        mask = adata.var["highly_variable"]
        one = fa.poisson_nmf(adata, 2, mask_var=mask.iloc[::-1], random_state=0)
        assert one.feature_names_in_.tolist() == list(adata.var_names[mask])


class TestRaw:
    """`layer="raw"` is adata.raw, with its own genes."""

    @pytest.fixture
    def filtered(self, adata):
        adata.raw = adata.copy()
        made = adata[:, adata.var["highly_variable"]].copy()
        made.X = made.X.log1p()
        return made

    def test_all_its_genes_are_fitted_and_h_goes_by_name(self, adata, filtered):
        model = fa.poisson_nmf(filtered, 2, layer="raw", random_state=0)
        np.testing.assert_array_equal(model.components_, fastpmf.PoissonNMF(2, random_state=0).fit(adata.X).components_)
        assert model.feature_names_in_.tolist() == list(adata.var_names)
        np.testing.assert_array_equal(filtered.varm["PMF"], model.components_.T[adata.var["highly_variable"]])
        fa.hpf(filtered, 2, layer="raw", mask_var="highly_variable", random_state=0, tol=0.01)
        assert filtered.varm["HPF"].all()

    def test_genes_that_it_lacks_have_loadings_of_zero(self, adata):
        adata.raw = adata[:, :20].copy()
        fa.poisson_nmf(adata, 2, layer="raw", random_state=0)
        assert adata.varm["PMF"][:20].any(axis=1).all()
        assert not adata.varm["PMF"][20:].any()

    def test_a_layer_of_that_name_comes_first_here_and_in_files(self, adata, tmp_path):
        pytest.importorskip("h5py")
        adata.raw = adata[:, :20].copy()
        assert fastpmf.io.read_counts(self.written(adata, tmp_path / "a.h5ad"), layer="raw").X.shape == (40, 20)
        adata.layers["raw"] = adata.X.copy()
        assert fa.poisson_nmf(adata, 2, layer="raw", random_state=0).n_features_in_ == 25
        assert fastpmf.io.read_counts(self.written(adata, tmp_path / "b.h5ad"), layer="raw").X.shape == (40, 25)

    @staticmethod
    def written(adata, path):
        adata.write_h5ad(path)
        return path

    def test_it_is_offered_where_counts_are_looked_for(self, filtered):
        with pytest.warns(UserWarning, match="adata.X doesn't look like counts: .* layer may be 'raw'"):
            fa.poisson_nmf(filtered, 2, random_state=0)
        with pytest.raises(ValueError, match=r"layer must be None for adata\.X, or 'raw', got 'counts'"):
            fa.poisson_nmf(filtered, 2, layer="counts")


class TestTransform:
    @pytest.mark.parametrize("function", [fa.poisson_nmf, fa.hpf])
    def test_genes_in_any_order_and_among_others_are_the_fitted_ones(self, adata, function):
        old, new = adata[:30].copy(), adata[30:].copy()
        model = function(old, 2, mask_var="highly_variable", random_state=0, tol=0.01)
        expected = model.transform(adata.to_df().iloc[30:].loc[:, adata.var["highly_variable"]])
        mixed = new[:, np.random.default_rng(0).permutation(25)].copy()
        W = fa.transform(mixed, model)
        np.testing.assert_array_equal(W, expected)
        key = "X_pmf" if function is fa.poisson_nmf else "X_hpf"
        np.testing.assert_array_equal(mixed.obsm[key], W)
        np.testing.assert_array_equal(mixed.obsm[f"{key}_topics"], model.to_topics(W).mixtures)

    @pytest.mark.parametrize("function", [fa.poisson_nmf, fa.hpf])
    def test_fitted_genes_that_are_missing_are_not_observed(self, adata, function):
        options = {"var_exposure": np.linspace(0.5, 2, 25), "background": np.linspace(0, 0.1, 25)}
        options = options if function is fa.poisson_nmf else {}
        model = function(adata, 2, random_state=0, **options)
        mask = np.zeros((40, 25), bool)
        mask[:, :5] = True
        with pytest.warns(UserWarning, match=r"lacks 5 of the 25 fitted genes \('gene 0', .* and 2 more\): .* not obs"):
            W = fa.transform(adata[:, :4:-1].copy(), model, key_added="again")
        expected = model.transform(adata.to_df(), mask=mask)
        np.testing.assert_allclose(W, expected, rtol=1e-3)  # rows stop at tol=1e-4 of their counts
        assert (model.components_.shape, model.n_features_in_) == ((2, 25), 25)
        mask = np.random.default_rng(0).random((40, 20)) < 0.2
        with pytest.warns(UserWarning, match="not observed"):
            W = fa.transform(adata[:, 5:].copy(), model, mask=mask)
        expected = model.transform(adata.to_df(), mask=np.hstack([np.ones((40, 5), bool), mask]))
        np.testing.assert_allclose(W, expected, rtol=1e-3, atol=5e-4)  # the largest are about 5

    def test_missing_genes_do_not_weaken_a_penalty_that_is_scaled_by_their_number(self, adata):
        model = fa.poisson_nmf(adata, 2, alpha_W=0.3, alpha_H=0.1, l1_ratio=1.0, random_state=0)
        mask = np.zeros((40, 25), bool)
        mask[:, :15] = True
        with pytest.warns(UserWarning, match="not observed"):
            W = fa.transform(adata[:, 15:].copy(), model)
        np.testing.assert_allclose(W, model.transform(adata.to_df(), mask=mask), rtol=1e-3)  # rows stop at tol=1e-4

    def test_masks_and_exposures_are_taken_by_name(self, adata):
        model = fa.poisson_nmf(adata, 2, obs_exposure="size", random_state=0)
        adata.layers["hidden"] = sparse.csr_matrix(np.random.default_rng(0).random((40, 25)) < 0.2)
        expected = model.transform(adata.to_df(), row_exposure=adata.obs["size"], mask=adata.layers["hidden"])
        W = fa.transform(adata[:, ::-1].copy(), model, obs_exposure="size", mask="hidden")
        np.testing.assert_array_equal(W, expected)

    def test_what_can_not_be_aligned_is_refused(self, adata):
        model = fa.poisson_nmf(adata, 2, random_state=0)
        other = adata.copy()
        other.var_names = [f"ENSG{j}" for j in range(25)]
        with pytest.raises(ValueError, match=r"adata must have fitted genes \('gene 0', .* got none .* \('ENSG0'"):
            fa.transform(other, model)
        other.var_names = ["twice", "twice", *adata.var_names[2:]]
        with pytest.raises(ValueError, match=r"adata.var_names must be unique to be aligned by, got 'twice' more"):
            fa.transform(other, model)
        with pytest.warns(UserWarning, match=r"var_names_make_unique\(\)"):
            twice = fa.poisson_nmf(other, 2, random_state=0)
        with pytest.raises(ValueError, match=r"names of the model .* got 'twice' .*: fit again with names made unique"):
            fa.transform(adata, twice)
        unnamed = fastpmf.PoissonNMF(2, random_state=0).fit(adata.X)
        np.testing.assert_array_equal(fa.transform(other, unnamed), fa.transform(adata, model))
        with pytest.raises(ValueError, match=r"adata must have the 25 fitted genes, .* got 20"):
            fa.transform(adata[:, :20].copy(), unnamed)
        with pytest.raises(TypeError, match="model must be a PoissonNMF or HPF, got ndarray"):
            fa.transform(adata, model.components_)
        with pytest.raises(TypeError, match="obs_exposure must be None, since HPF has no exposures"):
            fa.transform(adata, fa.hpf(adata, 2, random_state=0, tol=0.01), obs_exposure="size")


class TestNothingIsLost:
    """Results that can't be stored raise an error before the fit; a later error has the model."""

    @pytest.fixture
    def backed(self, adata, tmp_path):
        pytest.importorskip("h5py")
        adata.write_h5ad(tmp_path / "cells.h5ad")
        opened = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        yield opened
        opened.file.close()

    def test_priors_of_lists_are_stored_as_arrays(self, adata, tmp_path):
        pytest.importorskip("h5py")
        fa.poisson_nmf(adata, 3, prior_W=(1.1, [0.1, 0.2, 0.3]), prior_H=(1.1, 0.5), random_state=0)
        adata.write_h5ad(tmp_path / "cells.h5ad")
        params = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["pmf"]["params"]
        assert params["prior_W"].tolist() == [[1.1, 1.1, 1.1], [0.1, 0.2, 0.3]]
        assert params["prior_H"].tolist() == [1.1, 0.5]

    @pytest.mark.parametrize("function", [fa.poisson_nmf, fa.hpf])
    def test_a_view_of_a_backed_object_is_refused_before_the_fit(self, backed, function, monkeypatch):
        monkeypatch.setattr(fastpmf.PoissonNMF, "fit_transform", None)
        monkeypatch.setattr(fastpmf.HPF, "fit_transform", None)
        with pytest.raises(ValueError, match=r"a view of a backed object, .*: give adata.to_memory"):
            function(backed[:20], 2)

    def test_a_view_becomes_a_copy_and_its_parent_stays_as_it_is(self, adata):
        view = adata[:30]
        with pytest.warns(anndata.ImplicitModificationWarning, match="adata is a view and becomes a copy") as caught:
            fa.poisson_nmf(view, 2, random_state=0)
        assert [warning.filename for warning in caught] == [__file__]
        assert not view.is_view
        assert view.obsm["X_pmf"].shape == (30, 2)
        assert not adata.obsm
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fa.poisson_nmf(adata[:30].copy(), 2, random_state=0)

    @pytest.mark.parametrize(("key", "error"), [("a/b", ValueError), ("", ValueError), (3, TypeError)])
    def test_a_key_that_no_file_can_hold_is_refused(self, adata, key, error):
        with pytest.raises(error, match="key_added must be"):
            fa.poisson_nmf(adata, 2, key_added=key)

    def test_an_error_after_the_fit_has_the_model(self, adata, monkeypatch):
        def fail(*_):
            raise OSError("no space")

        monkeypatch.setattr("fastpmf.anndata._write", fail)
        with pytest.raises(OSError, match="no space") as caught:
            fa.poisson_nmf(adata, 2, random_state=0)
        assert caught.value.model.components_.shape == (2, 25)
        assert not adata.obsm
        fa.transform(adata, caught.value.model)  # writes the fit so far
        assert adata.obsm["X_pmf_topics"].shape == (40, 2)
        assert "`model`" in caught.value.__notes__[0]

    def test_an_interrupted_fit_leaves_the_model_in_the_exception(self, adata):
        def strike(record, *_):
            if record.n_iter:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            fa.poisson_nmf(adata, 2, random_state=0, callback=strike, eval_every=1)
        assert caught.value.model.components_.shape == (2, 25)

    def test_an_unknown_option_is_refused(self, adata):
        for function in (fa.poisson_nmf, fa.hpf):
            with pytest.raises(TypeError, match="'tolerance' is not a parameter of"):
                function(adata, 2, tolerance=1)

    def test_names_that_come_twice_are_warned_of_once(self, adata):
        adata.var_names = ["twice", "twice", *adata.var_names[2:]]
        with pytest.warns(UserWarning, match=r"X has 1 feature name.* more than once, for example 'twice'") as caught:
            fa.poisson_nmf(adata, 2, random_state=0)
        assert len(caught) == 1

    def test_dask_is_told_the_way_to_go_on(self, adata):
        array = pytest.importorskip("dask.array")
        adata.layers["lazy"] = array.from_array(adata.X.toarray(), chunks=(10, 25))
        with pytest.raises(TypeError, match=r"adata.layers\['lazy'\] must be in memory, got a Dask Array: .*to_memory"):
            fa.poisson_nmf(adata, 2, layer="lazy")
        with pytest.raises(
            TypeError, match=r"X must be in memory, got a Dask Array: .*fastpmf.dask.* or give X.compute"
        ):
            fastpmf.PoissonNMF(2).fit(adata.layers["lazy"])

    def test_counts_on_disk_are_read_where_they_fit(self, adata, backed, monkeypatch):
        np.testing.assert_array_equal(
            fa.poisson_nmf(backed, 2, random_state=0).components_, fa.poisson_nmf(adata, 2, random_state=0).components_
        )
        with pytest.raises(TypeError, match=r"X must be in memory, got a _CSRDataset, .*to_memory.*stream_counts"):
            fastpmf.PoissonNMF(2).fit(backed.X)
        monkeypatch.setattr("fastpmf.utils.memory.UNCHECKED_BYTES", 0)
        monkeypatch.setattr("fastpmf.utils.memory.memory_limit", lambda: 100)
        with pytest.raises(MemoryError, match=r"adata.X needs .* GiB, and this process .*fastpmf.io.stream_counts"):
            fa.poisson_nmf(backed, 2)


@pytest.mark.parametrize("function", [fa.poisson_nmf, fa.hpf, fa.transform, fa.to_anndata])
def test_documented_parameters_are_the_signature(function):
    documented = numpydoc_light.parameters(inspect.getdoc(function))
    assert sorted(documented) == sorted(set(inspect.signature(function).parameters) - {"options"})


def test_objects_are_concatenated_and_cut_with_their_results(adata):
    model = fa.poisson_nmf(adata, 2, random_state=0)
    new = adata[:10].copy()
    fa.transform(new, model)
    both = anndata.concat({"old": adata, "new": new}, label="of", index_unique="-")
    assert both.obsm["X_pmf_topics"].shape == (50, 2)
    np.testing.assert_array_equal(both[both.obs["of"] == "new"].obsm["X_pmf"], new.obsm["X_pmf"])


def test_results_survive_a_file_and_a_backed_file_can_be_fitted(adata, tmp_path):
    pytest.importorskip("h5py")
    fa.poisson_nmf(adata, 2, random_state=0, prior_W=(1.1, 0.5), prior_H=(1.1, 0.5))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    np.testing.assert_array_equal(again.uns["pmf"]["trace"]["seconds"], adata.uns["pmf"]["trace"]["seconds"])
    assert again.uns["pmf"]["params"]["prior_W"].tolist() == [1.1, 0.5]
    fa.poisson_nmf(again, 2, random_state=0, key_added="from disk")
    assert again.obsm["from disk"].shape == (40, 2)
    again.file.close()


def test_what_does_not_look_like_counts_is_warned_of_and_the_layers_are_named(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    with pytest.warns(UserWarning, match=r"adata.X doesn't look like counts: 100% of its nonzeros .* 'counts'"):
        fa.poisson_nmf(adata, 2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fa.poisson_nmf(adata, 2, layer="counts", random_state=0)


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"layer": "raw"}, ValueError, "layer must be None, since adata has neither layers nor raw, got 'raw'"),
        ({"mask_var": "x"}, ValueError, "mask_var must be a column of adata.var, which are 'highly_variable', got 'x'"),
        ({"mask": "x"}, ValueError, "mask must be a key of adata.layers, which are none, got 'x'"),
        ({"mask": np.ones((25, 40))}, ValueError, r"mask must have shape \(40, 25\), got \(25, 40\)"),
        ({"fixed_H": "x"}, ValueError, "fixed_H must be a key of adata.varm, which are none, got 'x'"),
        (
            {"fixed_H": np.ones((25, 2))},
            ValueError,
            r"fixed_H must have 25 columns, one for each gene, got .* \(25, 2\)",
        ),
        ({"W": "x"}, ValueError, "W must be a key of adata.obsm, which are none, got 'x'"),
        ({"mask_var": np.zeros(25, bool)}, ValueError, "mask_var must choose at least one gene, got none"),
        ({"mask_var": np.ones(25)}, ValueError, "mask_var must hold booleans, got float64"),
        ({"obs_exposure": [1.0]}, ValueError, r"obs_exposure must have shape \(40,\), or be the name of a column"),
        ({"key_added": 3}, TypeError, "key_added must be a str, got 3"),
        ({"tolerance": 1}, TypeError, "tolerance"),
    ],
)
def test_what_does_not_fit_is_told_in_one_sentence_and_changes_nothing(adata, given, error, sentence):
    with pytest.raises(error, match=sentence):
        fa.poisson_nmf(adata, 2, **given)
    assert not adata.obsm
    assert not adata.varm
    assert not adata.uns


def test_an_anndata_object_is_no_matrix(adata):
    with pytest.raises(TypeError, match=r"X must be a matrix, got an AnnData .*poisson_nmf, .*to_dataset"):
        fastpmf.PoissonNMF(2).fit(adata)
    with pytest.raises(TypeError, match="H must be an array, got an AnnData object: give one of its arrays"):
        fastpmf.top_features(adata)


def test_a_matrix_is_no_anndata_object(adata):
    with pytest.raises(TypeError, match="adata must be an AnnData object, got csr_matrix"):
        fa.poisson_nmf(adata.X, 2)


@pytest.mark.parametrize("ending", [".npz", ".h5ad"])
def test_both_factors_go_to_a_file_with_all_names(adata, tmp_path, ending):
    pytest.importorskip("h5py")
    model = fastpmf.PoissonNMF(2, random_state=0)
    W = model.fit_transform(adata.to_df())
    path = tmp_path / f"factors{ending}"
    write_factors(path, W, model, adata.obs_names)
    if ending == ".npz":
        found = np.load(path)
        stored = found["W"], found["H"], found["row_names"], found["column_names"]
    else:
        found = anndata.read_h5ad(path)
        stored = found.obsm["X_pmf"], found.varm["PMF"].T, found.obs_names, found.var_names
    for one, other in zip(stored, (W, model.components_, adata.obs_names, adata.var_names), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("ending", [".npz", ".h5ad"])
def test_rows_of_a_data_frame_are_written_under_their_own_names(adata, tmp_path, ending):
    pytest.importorskip("h5py")
    model = fastpmf.PoissonNMF(2, random_state=0)
    W = pd.DataFrame(model.fit_transform(adata.to_df()), index=adata.obs_names)
    path, names = tmp_path / f"factors{ending}", adata.obs_names[::-1]
    for given in ((W[::-1], model), (W, model, names)):  # names of its own; aligned with given ones
        write_factors(path, *given)
        found = np.load(path) if ending == ".npz" else anndata.read_h5ad(path)
        stored, rows = (found["W"], found["row_names"]) if ending == ".npz" else (found.obsm["X_pmf"], found.obs_names)
        np.testing.assert_array_equal(stored, W[::-1])
        assert list(rows) == list(names)
    with pytest.raises(ValueError, match=r"^W must have a label for each row of row_names, and lacks 'other 0'"):
        write_factors(path, W, model, [f"other {i}" for i in range(40)])


def test_components_known_for_the_chosen_genes_alone_are_aligned_with_them(adata):
    options = {"mask_var": "highly_variable", "random_state": 0, "max_iter": 5, "tol": 0.0}
    model = fa.poisson_nmf(adata, 2, **options)
    H = pd.DataFrame(model.components_, columns=model.feature_names_in_)
    expected = fa.poisson_nmf(adata, 2, fixed_H="PMF", **options).objective_
    for known in (H, H.iloc[:, ::-1]):
        assert fa.poisson_nmf(adata, 2, fixed_H=known, **options).objective_ == expected
    with pytest.raises(ValueError, match=r"^fixed_H must have a label for each gene of adata, and lacks 'gene 1'"):
        fa.poisson_nmf(adata, 2, fixed_H=H.drop(columns="gene 1"), **options)


def test_missing_values_are_told_of_mask(adata):
    adata.X = np.where(np.arange(25) == 3, np.nan, adata.X.toarray())
    with pytest.raises(ValueError, match=r"^adata.X must be finite, got NaN; give 0 .* and fit a mask"):
        fa.poisson_nmf(adata, 2)


@pytest.mark.parametrize("kind", [fastpmf.PoissonNMF, fastpmf.HPF])
def test_models_of_mini_batches_and_of_priors_of_lists_go_to_h5ad(adata, kind, tmp_path):
    pytest.importorskip("h5py")
    model = kind(2, random_state=0)
    if kind is fastpmf.PoissonNMF:
        model.set_params(prior_W=(1.1, [0.1, 0.2]), prior_H=(1.1, 1.0))
    W = model.partial_fit(adata.to_df()).transform(adata.to_df())
    write_factors(tmp_path / "factors.h5ad", W, model, adata.obs_names)
    found = anndata.read_h5ad(tmp_path / "factors.h5ad")
    key = "X_pmf" if kind is fastpmf.PoissonNMF else "X_hpf"
    np.testing.assert_array_equal(found.obsm[f"{key}_topics"], model.to_topics(W).mixtures)
    assert found.uns[key.removeprefix("X_")]["status"] == "ONLINE"


def test_a_file_of_factors_of_another_kind_or_width_is_told(tmp_path):
    model = fastpmf.PoissonNMF(2, random_state=0).fit(np.eye(4))
    with pytest.raises(ValueError, match=r"path must be a .npz or .h5ad file, got 'factors.txt'"):
        write_factors(tmp_path / "factors.txt", np.ones((4, 2)), model)
    with pytest.raises(ValueError, match=r"W must have 2 columns, one for each component, got shape \(4, 3\)"):
        write_factors(tmp_path / "factors.npz", np.ones((4, 3)), model)
    with pytest.raises(ValueError, match=r"row_names must be 4, one for each row of W, got shape \(1,\)"):
        write_factors(tmp_path / "factors.npz", np.ones((4, 2)), model, ["a"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("fit", "option", "sentence"),
    [
        (fa.poisson_nmf, "seed", "'seed' is not a parameter of PoissonNMF; did you mean 'random_state'"),
        (fa.hpf, "max_iters", "'max_iters' is not a parameter of HPF; did you mean 'max_iter'"),
        (
            fa.poisson_nmf,
            "row_exposure",
            "'row_exposure' is not a parameter of PoissonNMF; did you mean 'obs_exposure'",
        ),
        (fa.hpf, "obs_exposure", "'obs_exposure' is not a parameter of HPF: it is an argument of poisson_nmf only"),
        (fa.hpf, "zzz", "'zzz' is not a parameter of HPF, which has 'a', "),
    ],
)
def test_an_unknown_option_is_named_with_a_similar_one(adata, fit, option, sentence):
    with pytest.raises(TypeError, match=sentence):
        fit(adata, 2, **{option: 1})


def test_a_column_of_text_is_no_exposure(adata):
    adata.obs["donor"] = ["ann"] * adata.n_obs
    with pytest.raises(TypeError, match="obs_exposure must hold real numbers, got text, such as 'ann'"):
        fa.poisson_nmf(adata, 2, obs_exposure="donor")


def test_a_model_file_is_no_file_of_counts(tmp_path, adata):
    fastpmf.HPF(2, max_iter=5, tol=0, random_state=0).fit(adata.X).save(tmp_path / "model.npz")
    with pytest.raises(ValueError, match=r"it holds a fitted model, which fastpmf\.io\.load_model reads"):
        fastpmf.io.read_counts(tmp_path / "model.npz")
