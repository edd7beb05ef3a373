"""Fits of AnnData objects, in scanpy's manner: cells are rows, and the results go where scanpy's own go."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastpmf._extras import needed
from fastpmf._messages import brief, listed
from fastpmf._version import __version__
from fastpmf._warnings import warn
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.named import Dataset, share_not_whole
from fastpmf.estimators import HPF, PoissonNMF
from fastpmf.estimators._base import FactorModel
from fastpmf.estimators._model_file import plain

if TYPE_CHECKING:
    from anndata import AnnData

_KEYS = {"pmf": ("X_pmf", "PMF", "pmf"), "hpf": ("X_hpf", "HPF", "hpf")}  # obsm, varm, uns


def poisson_nmf(
    adata: "AnnData",
    n_components: int,
    *,
    layer: str | None = None,
    mask_var: Any = None,
    obs_exposure: Any = None,
    key_added: str | None = None,
    copy: bool = False,
    **options: Any,
) -> "AnnData | None":
    """Poisson factorization (KL-NMF) of the counts of an AnnData object.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        Counts, not logarithms; backed ones are read into memory.
    n_components : int
        Number of components, >= 1.
    layer : str, optional
        Where the counts are; X by default.
    mask_var : str or array-like of bool, of length n_vars, optional
        The genes to fit, or the column of `adata.var` that says it, such as "highly_variable"; all by default. Loadings
        of the others are 0.
    obs_exposure : str or array-like of shape (n_obs,), optional
        Row exposures, such as library sizes, or the column of `adata.obs` that has them. What the components then are
        in is counts per unit of exposure.
    key_added : str, optional
        Name of all three results; by default they are X_pmf, PMF and pmf.
    copy : bool, default=False
        Leave `adata` as it is, and return a copy that has the results.
    **options
        Of `PoissonNMF`, such as `random_state`, `prior_W="auto"`, `n_init`, `max_iter`, `n_threads`.

    Returns
    -------
    AnnData or None
        With `copy`. These are set:

        - `.obsm[key_added or "X_pmf"]`, W of shape (n_obs, k);
        - `.varm[key_added or "PMF"]`, H transposed, of shape (n_vars, k);
        - `.uns[key_added or "pmf"]`, a dictionary: "params", "objective" (nats), "kkt_residual" (nats per count),
          "n_iter", "status", "trace" and "version".

    Raises
    ------
    TypeError, ValueError
        In one sentence that names the argument, what it got and what it wants.

    Warns
    -----
    UserWarning
        The counts are not whole numbers.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> fastpmf.anndata.poisson_nmf(adata, 3, random_state=0)
    >>> adata.obsm["X_pmf"].shape, adata.varm["PMF"].shape, adata.uns["pmf"]["status"]
    ((50, 3), (30, 3), 'CONVERGED')
    """
    model = PoissonNMF(n_components, **options)
    return _factorise(adata, model, "pmf", layer, mask_var, obs_exposure, key_added, copy=copy)


def hpf(
    adata: "AnnData",
    n_components: int,
    *,
    layer: str | None = None,
    mask_var: Any = None,
    key_added: str | None = None,
    copy: bool = False,
    **options: Any,
) -> "AnnData | None":
    """Hierarchical Poisson factorization of the counts of an AnnData object, as scHPF's: posterior means.

    Parameters
    ----------
    adata, n_components, layer, mask_var, copy
        As in `poisson_nmf`.
    key_added : str, optional
        Name of all three results; by default they are X_hpf, HPF and hpf.
    **options
        Of `HPF`.

    Returns
    -------
    AnnData or None
        As in `poisson_nmf`, but that `.uns` has "bound", in nats, for the objective.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> fastpmf.anndata.hpf(adata, 3, random_state=0)
    >>> adata.obsm["X_hpf"].shape
    (50, 3)
    """
    return _factorise(adata, HPF(n_components, **options), "hpf", layer, mask_var, None, key_added, copy=copy)


def to_anndata(model: FactorModel, W: Any, obs_names: Any = None) -> "AnnData":
    """A fitted model as an AnnData object without X: W in `.obsm["X_pmf"]`, H transposed in `.varm["PMF"]`.

    Parameters
    ----------
    model : PoissonNMF or HPF
        Fitted; its feature names, where it has any, become those of the variables.
    W : array-like of shape (n, k)
        What `fit_transform` or `transform` returned.
    obs_names : array-like of str, of length n, optional

    Returns
    -------
    AnnData

    Examples
    --------
    >>> from fastpmf import PoissonNMF
    >>> from fastpmf.anndata import to_anndata
    >>> model = PoissonNMF(2, random_state=0)
    >>> W = model.fit_transform([[4, 0, 2], [0, 3, 0], [2, 0, 1]])
    >>> to_anndata(model, W).shape
    (3, 3)
    """
    anndata, pandas = needed("anndata", "anndata"), needed("pandas", "anndata")
    check_is_fitted(model)
    W, H = np.asarray(W), model.components_
    if W.ndim != 2 or W.shape[1] != len(H):
        raise ValueError(f"W must have {len(H)} columns, one for each component, got shape {W.shape}")
    names = np.arange(len(W)).astype(str) if obs_names is None else np.asarray(obs_names).astype(str)
    if names.shape != (len(W),):
        raise ValueError(f"obs_names must be {len(W)}, one for each row of W, got shape {names.shape}")
    features = getattr(model, "feature_names_in_", np.arange(H.shape[1]))
    obsm, varm, uns = _KEYS["hpf" if isinstance(model, HPF) else "pmf"]
    adata = anndata.AnnData(obs=pandas.DataFrame(index=names), var=pandas.DataFrame(index=features.astype(str)))
    adata.obsm[obsm], adata.varm[varm], adata.uns[uns] = W, np.ascontiguousarray(H.T), _facts(model)
    return adata


def _factorise(
    adata: "AnnData", model: PoissonNMF | HPF, kind: str, layer: str | None, mask_var: Any, obs_exposure: Any,
    key_added: str | None, *, copy: bool,
) -> "AnnData | None":  # fmt: skip
    if not hasattr(adata, "obsm") or not hasattr(adata, "varm"):
        raise TypeError(
            f"adata must be an AnnData object, got {type(adata).__name__}; PoissonNMF and HPF take matrices"
        )
    if key_added is not None and not isinstance(key_added, str):
        raise TypeError(f"key_added must be a name, got {key_added!r}")
    counts, where = _counts(adata, layer)
    chosen = _chosen(adata, mask_var)
    exposure = _column(adata.obs, obs_exposure, "obs_exposure", adata.n_obs) if obs_exposure is not None else None
    if not chosen.all():
        counts = as_counts(counts.to_scipy()[:, chosen], n_threads=model.n_threads)
    _warn_unless_counts(counts, where, adata)
    names = np.asarray(adata.var_names)[chosen].astype(str)
    given: dict[str, Any] = {} if exposure is None else {"row_exposure": exposure}
    W = model.fit_transform(Dataset(counts, column_names=names), **given)
    loadings = np.zeros((adata.n_vars, len(model.components_)), model.components_.dtype)
    loadings[chosen] = model.components_.T
    facts = _facts(model)
    said = {"layer": layer, "mask_var": mask_var, "obs_exposure": obs_exposure}
    facts["params"] |= {name: value for name, value in said.items() if isinstance(value, str)}
    out = adata.copy() if copy else adata
    obsm, varm, uns = _KEYS[kind] if key_added is None else (key_added,) * 3
    out.obsm[obsm], out.varm[varm], out.uns[uns] = W, loadings, facts
    return out if copy else None


def _counts(adata: "AnnData", layer: str | None) -> tuple[MemoryCounts, str]:
    """The counts, and what they are called in sentences."""
    if layer is not None and layer not in adata.layers:
        there = ", ".join(repr(name) for name in adata.layers if name is not None) or "none"  # None is X, from 0.13 on
        raise ValueError(f"layer must be one of adata's, {there}, got {layer!r}")
    X, where = (adata.X, "adata.X") if layer is None else (adata.layers[layer], f"adata.layers[{layer!r}]")
    if X is None:
        raise ValueError("adata.X is None: layer must say where the counts are")
    return as_counts(X.to_memory() if hasattr(X, "to_memory") else X, name=where), where


def _warn_unless_counts(counts: MemoryCounts, where: str, adata: "AnnData") -> None:
    if broken := share_not_whole(counts.to_scipy().data):
        layers = [name for name in adata.layers if f"[{name!r}]" not in where]
        advice = f"layer may be {', '.join(map(repr, layers))}" if layers else "raw counts are what the model is of"
        warn(
            f"{where} doesn't look like counts: {broken:.0%} of its nonzeros are no whole numbers, as after "
            f"normalisation or logarithms; {advice}"
        )


def _chosen(adata: "AnnData", mask_var: Any) -> np.ndarray:
    if mask_var is None:
        return np.ones(adata.n_vars, bool)
    mask = _column(adata.var, mask_var, "mask_var", adata.n_vars)
    if mask.dtype != bool:
        raise ValueError(f"mask_var must hold True and False, got {mask.dtype}")
    if not mask.any():
        raise ValueError("mask_var must choose at least one gene, got none")
    return mask


def _column(frame: Any, given: Any, name: str, size: int) -> np.ndarray:
    """A column of obs or var by name, or an array of its length."""
    if isinstance(given, str):
        if given not in frame:
            raise ValueError(f"{name} must be one of {listed(frame) or 'no columns'}, got {brief(given)}")
        return np.asarray(frame[given])
    values = np.asarray(given)
    if values.shape != (size,):
        raise ValueError(f"{name} must have shape ({size},), or be the name of a column, got shape {values.shape}")
    return values


def _facts(model: FactorModel) -> dict[str, Any]:
    """What goes to `.uns`: nothing that a file can't hold."""
    parameters = {name: plain(value) for name, value in model.get_params(deep=False).items()}
    facts = {
        "params": {
            name: np.array(x) if isinstance(x, list) else x
            for name, x in parameters.items()
            if isinstance(x, bool | int | float | str | list)
        },
        "n_iter": model.n_iter_,
        "status": model.status_.name,
        "version": __version__,
    }
    if hasattr(model, "trace_"):
        facts["trace"] = model.trace_
    if isinstance(model, HPF):
        return facts | {"bound": model.elbo_}
    return facts | {"objective": model.objective_, "kkt_residual": model.kkt_residual_}
