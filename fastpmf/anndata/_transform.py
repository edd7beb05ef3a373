"""Fitted models applied to new cells in an AnnData object."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastpmf.analysis.topics import to_topics
from fastpmf.anndata._arguments import (
    Source,
    cells_of,
    check_adata,
    column,
    matrix,
    read,
    source_of,
    warn_unless_counts,
)
from fastpmf.anndata._results import check_target, keys_of, without_view_warning
from fastpmf.counts import Dataset
from fastpmf.estimators import HPF, PoissonNMF
from fastpmf.estimators.base import FactorModel
from fastpmf.fitting.problem import vector
from fastpmf.utils.messages import listed
from fastpmf.utils.validation import check_unique
from fastpmf.utils.warnings import warn

if TYPE_CHECKING:
    from anndata import AnnData


def transform(
    adata: "AnnData",
    model: PoissonNMF | HPF,
    *,
    layer: str | None = None,
    obs_exposure: Any = None,
    mask: Any = None,
    key_added: str | None = None,
) -> np.ndarray:
    """W of new cells under a fitted model; genes are aligned with the fitted ones by name.

    Genes that were not fitted are left out. Fitted genes that `adata` lacks are taken as not observed: W is computed
    from the others, as with a mask. If the model has no feature names, genes are taken by position.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
    model : PoissonNMF or HPF
        The result of `poisson_nmf` or `hpf`, or an estimator fitted to a matrix.
    layer, mask
        As in `poisson_nmf`.
    obs_exposure : str or array-like of shape (n_obs,), optional
        As in `poisson_nmf`; must be None for `HPF`, which has no exposures.
    key_added : str, optional
        Name of W in `.obsm`; by default "X_pmf" or "X_hpf".

    Returns
    -------
    W : ndarray of shape (n_obs, n_components)
        Also written to `.obsm[key_added or "X_pmf"]`, together with the topic shares, as by `poisson_nmf`.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, `adata` has none of the fitted genes (or, without feature names,
        another number of genes), or gene names are not unique.

    Warns
    -----
    UserWarning
        If `adata` lacks fitted genes, or its counts are not whole numbers.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> old, new = adata[:40].copy(), adata[40:, ::-1].copy()
    >>> model = fastpmf.anndata.poisson_nmf(old, 3, random_state=0)
    >>> fastpmf.anndata.transform(new, model).shape, new.obsm["X_pmf_topics"].shape
    ((10, 3), (10, 3))
    """
    check_adata(adata)
    if not isinstance(model, PoissonNMF | HPF):
        raise TypeError(f"model must be a PoissonNMF or HPF, got {type(model).__name__}")
    check_is_fitted(model)
    keys = keys_of(model, key_added)
    source = source_of(adata, layer)
    given: dict[str, Any] = {}
    if obs_exposure is not None:
        if isinstance(model, HPF):
            raise TypeError("obs_exposure must be None, since HPF has no exposures")
        exposure = column(obs_exposure, adata.obs, "obs_exposure", cells_of(adata), "adata.obs")
        given["row_exposure"] = vector(exposure, adata.n_obs, "obs_exposure")
    place = _places(model, source)
    hidden = None if mask is None else matrix(mask, adata, source, "mask")
    check_target(adata)
    counts = read(source, hidden)
    warn_unless_counts(counts, source.where, adata)
    names = getattr(model, "feature_names_in_", None)
    here, missing = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
    if names is not None and len(missing):
        warn(
            f"{source.where} lacks {len(missing)} of the {len(place)} fitted genes ({listed(names[missing], 3)}): "
            "they are taken as not observed",
        )
    if hidden is not None:
        given["mask"] = hidden[:, place[here]]
    X = Dataset(counts.to_scipy()[:, place[here]], column_names=None if names is None else names[here])
    W = np.asarray(model._with_features(here).transform(X, **given))
    with without_view_warning():
        adata.obsm[keys.obsm], adata.obsm[keys.topics] = W, to_topics(W, model.components_).mixtures
    return W


def _places(model: FactorModel, source: Source) -> np.ndarray:
    """Position in source of each of the fitted genes, (n_features,); -1 if source lacks it."""
    names, own = getattr(model, "feature_names_in_", None), source.names
    n = model.components_.shape[1]
    if names is None and len(own) != n:
        raise ValueError(f"adata must have the {n} fitted genes, since model has no feature names, got {len(own)}")
    if names is None or np.array_equal(names, own):
        return np.arange(n)
    for values, what in ((names, "model.feature_names_in_"), (own, f"{source.owner}_names")):
        check_unique(values, what)
    place = source.var.index.get_indexer(names)
    if (place < 0).all():
        raise ValueError(
            f"adata must have fitted genes ({listed(names, 3)}), got none of them in {source.owner}_names "
            f"({listed(own, 3)})"
        )
    return place
