"""Results of fits in an AnnData object."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastpmf._version import __version__
from fastpmf.analysis.topics import to_topics
from fastpmf.anndata._arguments import Source
from fastpmf.estimators import HPF, PoissonNMF
from fastpmf.estimators._persistence import to_json
from fastpmf.estimators.base import FactorModel, named_weights
from fastpmf.utils.extras import import_optional
from fastpmf.utils.messages import brief
from fastpmf.utils.validation import check_unique
from fastpmf.utils.warnings import warn

if TYPE_CHECKING:
    from anndata import AnnData


class Keys(NamedTuple):
    """Names of the results in `.obsm`, `.varm` and `.uns`."""

    obsm: str
    varm: str
    uns: str

    @property
    def topics(self) -> str:
        """Name of the topic shares in `.obsm`."""
        return f"{self.obsm}_topics"


_KEYS = {PoissonNMF: Keys("X_pmf", "PMF", "pmf"), HPF: Keys("X_hpf", "HPF", "hpf")}


def to_anndata(W: Any, model: FactorModel, obs_names: Any = None) -> "AnnData":
    """A fitted model as an AnnData object without X, with the results of `poisson_nmf` or `hpf`.

    Parameters
    ----------
    W : array-like of shape (n_obs, n_components)
        The result of `fit_transform` or `transform`.
    model : PoissonNMF or HPF
        Fitted. Its feature names, if it has any, become the names of the variables.
    obs_names : array-like of str, of shape (n_obs,), optional
        Names of the cells; a DataFrame W is put in their order. By default those of W, or else numbers.

    Returns
    -------
    AnnData
        W and P(topic | row) in `.obsm`, H transposed in `.varm`, and a dictionary of facts in `.uns`.

    Raises
    ------
    ValueError
        If W does not have a column for each component, or `obs_names` does not have a name for each row.

    Examples
    --------
    >>> from fastpmf import PoissonNMF
    >>> from fastpmf.anndata import to_anndata
    >>> model = PoissonNMF(2, random_state=0)
    >>> W = model.fit_transform([[4, 0, 2], [0, 3, 0], [2, 0, 1]])
    >>> to_anndata(W, model).shape
    (3, 3)
    """
    anndata, pandas = import_optional("anndata", "anndata"), import_optional("pandas", "anndata")
    W, names = named_weights(W, model, obs_names, "obs_names")
    names = np.arange(len(W)).astype(str) if names is None else names
    H = model.components_
    features = getattr(model, "feature_names_in_", np.arange(H.shape[1]))
    adata = anndata.AnnData(obs=pandas.DataFrame(index=names), var=pandas.DataFrame(index=features.astype(str)))
    store(adata, model, keys_of(model, None), W, np.arange(H.shape[1]), parameters_of(model))
    return adata


def keys_of(model: FactorModel, key_added: Any) -> Keys:
    if key_added is None:
        return next(keys for kind, keys in _KEYS.items() if isinstance(model, kind))
    if not isinstance(key_added, str):
        raise TypeError(f"key_added must be a str, got {brief(key_added)}")
    if not key_added or "/" in key_added:  # which separates groups in HDF5 and zarr
        raise ValueError(
            f"key_added must be a name without '/', so that it can be written to a file, got {brief(key_added)}"
        )
    return Keys(key_added, key_added, key_added)


def check_target(adata: "AnnData") -> None:
    """Raise an error if results can't be written to adata; warn if it is a view, which then becomes a copy."""
    if not adata.is_view:
        return
    if adata.isbacked:
        raise ValueError(
            "adata must be able to hold the results, got a view of a backed object: give adata.to_memory()"
        )
    warn(
        "adata is a view and becomes a copy, which holds the results",
        import_optional("anndata", "anndata").ImplicitModificationWarning,
    )


def loading_places(adata: "AnnData", source: Source, chosen: np.ndarray) -> np.ndarray:
    """Position of each gene of adata among the fitted ones, (n_vars,); -1 if it is not fitted."""
    if source.where != "adata.raw":
        return np.where(chosen, chosen.cumsum() - 1, -1)
    fitted = source.var.index[chosen]
    check_unique(np.asarray(fitted), "adata.raw.var_names")
    return fitted.get_indexer(adata.var_names)


def store(
    adata: "AnnData", model: FactorModel, keys: Keys, W: np.ndarray, place: np.ndarray, parameters: dict[str, Any]
) -> None:
    """Write W, topic shares, H transposed and facts to adata; `place` is that of `loading_places`."""
    H = model.components_
    loadings = np.zeros((len(place), len(H)), H.dtype)
    loadings[place >= 0] = H.T[place[place >= 0]]
    topics = to_topics(W, H).mixtures
    facts = _facts(model) | {"params": parameters}
    with without_view_warning():
        adata.obsm[keys.obsm], adata.obsm[keys.topics] = W, topics
        adata.varm[keys.varm], adata.uns[keys.uns] = loadings, facts


def without_view_warning() -> Any:
    """A context in which a view becomes a copy without anndata's warning, which `check_target` has given."""
    return warnings.catch_warnings(
        action="ignore", category=import_optional("anndata", "anndata").ImplicitModificationWarning
    )


def _facts(model: FactorModel) -> dict[str, Any]:
    """Facts of a fit for `.uns`."""
    facts: dict[str, Any] = {"n_iter": model.n_iter_, "status": model.status_.name, "version": __version__}
    if hasattr(model, "trace_"):  # not after partial_fit of HPF
        facts["trace"] = model.trace_
    if isinstance(model, HPF):
        return facts | ({"bound": model.elbo_} if hasattr(model, "elbo_") else {})
    return facts | {"objective": model.objective_, "kkt_residual": model.kkt_residual_}


def parameters_of(model: FactorModel) -> dict[str, Any]:
    """Parameters of the estimator that can be written to a file, for `.uns`."""
    values = {name: _storable(to_json(value)) for name, value in model.get_params(deep=False).items()}
    return {name: value for name, value in values.items() if value is not None}


def _storable(value: Any) -> Any:
    """A number, a string, or a prior as an array of shape (2,) or (2, n_components); None for other values."""
    if isinstance(value, list):
        try:
            return np.array(np.broadcast_arrays(*value), dtype=np.float64)
        except (TypeError, ValueError):
            return None  # an invalid prior, for which the fit will raise an error
    return value if isinstance(value, bool | int | float | str) else None
