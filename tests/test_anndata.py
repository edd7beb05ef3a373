"""AnnData objects in, results where scanpy's go; and factors to files."""

import warnings

import numpy as np
import pytest
from scipy import sparse

import fastpmf
from fastpmf.io import write_factors

anndata = pytest.importorskip("anndata")
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
    assert fa.poisson_nmf(adata, 3, random_state=0) is None
    model = fastpmf.PoissonNMF(3, random_state=0)
    W = model.fit_transform(adata.X)
    np.testing.assert_array_equal(adata.obsm["X_pmf"], W)
    np.testing.assert_array_equal(adata.varm["PMF"], model.components_.T)
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


def test_a_copy_leaves_the_object_as_it_is(adata):
    made = fa.hpf(adata, 2, copy=True, random_state=0, max_iter=20, tol=0)
    assert not adata.obsm
    assert made.obsm["X_hpf"].shape == (40, 2)
    assert made.uns["hpf"]["bound"] < 0


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
        ({"layer": "raw"}, ValueError, "layer must be one of adata's, none, got 'raw'"),
        ({"mask_var": "variable"}, ValueError, "mask_var must be one of 'highly_variable', got 'variable'"),
        ({"mask_var": np.zeros(25, bool)}, ValueError, "mask_var must choose at least one gene, got none"),
        ({"mask_var": np.ones(25)}, ValueError, "mask_var must hold True and False, got float64"),
        ({"obs_exposure": [1.0]}, ValueError, r"obs_exposure must have shape \(40,\), or be the name of a column"),
        ({"key_added": 3}, TypeError, "key_added must be a name, got 3"),
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
    with pytest.raises(TypeError, match="X must be a matrix, got an AnnData object: give its X, or one of its layers"):
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
    write_factors(path, model, W, adata.obs_names)
    if ending == ".npz":
        found = np.load(path)
        stored = found["W"], found["H"], found["row_names"], found["column_names"]
    else:
        found = anndata.read_h5ad(path)
        stored = found.obsm["X_pmf"], found.varm["PMF"].T, found.obs_names, found.var_names
    for one, other in zip(stored, (W, model.components_, adata.obs_names, adata.var_names), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_of_factors_of_another_kind_or_width_is_told(tmp_path):
    model = fastpmf.PoissonNMF(2, random_state=0).fit(np.eye(4))
    with pytest.raises(ValueError, match=r"path must end with .npz or .h5ad, got 'factors.txt'"):
        write_factors(tmp_path / "factors.txt", model, np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"W must have 2 columns, one for each component, got shape \(4, 3\)"):
        write_factors(tmp_path / "factors.npz", model, np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"row_names must be 4, one for each row of W, got shape \(1,\)"):
        write_factors(tmp_path / "factors.npz", model, np.ones((4, 2)), ["a"])
    assert not list(tmp_path.iterdir())
