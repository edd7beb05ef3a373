"""Fits of AnnData objects, as scanpy's functions work: cells are rows, and results go where scanpy's own go."""

import inspect
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_is_fitted

from fastpmf._extras import needed
from fastpmf._version import __version__
from fastpmf._warnings import warn
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.named import Dataset, share_not_whole
from fastpmf.counts.room import memory
from fastpmf.estimators import HPF, PoissonNMF
from fastpmf.estimators._base import FactorModel
from fastpmf.estimators._model_file import plain
from fastpmf.estimators._statement import FREE, vector
from fastpmf.model.factors import check_array
from fastpmf.model.topics import to_topics

if TYPE_CHECKING:
    from anndata import AnnData

_MASKED = 1 << 24  # entries of genes that new cells lack, which are masked at once


class _Keys(NamedTuple):
    """Names of the results in `.obsm`, `.varm` and `.uns`."""

    obsm: str
    varm: str
    uns: str

    @property
    def topics(self) -> str:
        """Name of the topic shares in `.obsm`."""
        return f"{self.obsm}_topics"


_KEYS = {PoissonNMF: _Keys("X_pmf", "PMF", "pmf"), HPF: _Keys("X_hpf", "HPF", "hpf")}


class _Source(NamedTuple):
    """Counts of an AnnData object with the annotation of their genes, which `.raw` has its own of."""

    X: Any
    where: str
    var: Any
    varm: Any


def poisson_nmf(
    adata: "AnnData",
    n_components: int,
    *,
    layer: str | None = None,
    mask_var: Any = None,
    W: Any = None,
    H: Any = None,
    fixed_W: Any = None,
    fixed_H: Any = None,
    obs_exposure: Any = None,
    var_exposure: Any = None,
    background: Any = None,
    mask: Any = None,
    sample_weight: Any = None,
    validation: Any = None,
    checkpoint: Any = None,
    resume: Any = None,
    key_added: str | None = None,
    **options: Any,
) -> PoissonNMF:
    """Poisson factorization (KL-NMF) of the counts of an AnnData object.

    Arguments that belong to cells, genes or both may be given as the name of an entry of `adata`, as an array in the
    order of `adata`, or as a pandas Series or DataFrame, which is aligned with `adata` by the names in its index (and
    columns) where these are strings.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
        Counts, not logarithms. A backed `X` is read into memory.
    n_components : int
        Number of components, >= 1.
    layer : str, optional
        Layer that holds the counts; "raw" is `adata.raw`, unless a layer has this name. By default `adata.X`. With
        `.raw`, n_vars and the entries of `.var` and `.varm` below are those of `adata.raw`.
    mask_var : str or array-like of bool, of shape (n_vars,), optional
        Genes to fit: a column of `.var`, such as "highly_variable", or an array. By default all.
    W, fixed_W : str or array-like of shape (n_obs, n_components), optional
        As in `PoissonNMF.fit`: an entry of `.obsm`, or an array.
    H, fixed_H : str or array-like of shape (n_components, n_vars), optional
        As in `PoissonNMF.fit`: an entry of `.varm`, which is (n_vars, n_components), or an array.
    obs_exposure : str or array-like of shape (n_obs,), optional
        `row_exposure` of `PoissonNMF.fit`, such as library sizes: a column of `.obs`, or an array. W is then in counts
        per unit of exposure.
    var_exposure : str or array-like of shape (n_vars,), optional
        `column_exposure` of `PoissonNMF.fit`: a column of `.var`, or an array.
    background : float, str or array-like of shape (n_vars,), optional
        As in `PoissonNMF.fit`: a number, a column of `.var`, or an array.
    mask : str or matrix of shape (n_obs, n_vars), optional
        As in `PoissonNMF.fit`, positive where an entry is not observed: a layer, or a matrix.
    sample_weight : str or array-like of shape (n_obs,), optional
        As in `PoissonNMF.fit`: a column of `.obs`, or an array.
    validation : float, str or matrix of counts of shape (n_obs, n_vars), optional
        As in `PoissonNMF.fit`: a fraction, a layer, or a matrix.
    checkpoint, resume : optional
        As in `PoissonNMF.fit`.
    key_added : str, optional
        Name of the results in `.obsm`, `.varm` and `.uns`; by default "X_pmf", "PMF" and "pmf".
    **options
        Parameters of `PoissonNMF`, such as `random_state`, `prior_W="auto"`, `n_init`, `max_iter`, `n_threads`.

    Returns
    -------
    PoissonNMF
        The fitted model. Its features are the fitted genes, by name; `transform` of this module applies it to new
        cells. These results are written to `adata`; give `adata.copy()` to leave it unchanged:

        - `.obsm[key_added or "X_pmf"]`, W of shape (n_obs, n_components);
        - `.obsm["X_pmf_topics"]`, or with `key_added` that name and "_topics", P(topic | cell) of the same shape: the
          shares of each cell's expected counts, which sum to 1, as `model.to_topics(W).mixtures`;
        - `.varm[key_added or "PMF"]`, H transposed, of shape (n_vars, n_components), 0 for genes that were not fitted.
          With `.raw` the rows are aligned by name; the genes that only `.raw` has are in the model alone;
        - `.uns[key_added or "pmf"]`, a dictionary: "params", "objective" (nats), "kkt_residual" (nats per count),
          "n_iter", "status", "trace" and "version".

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, or if `adata` is a view of a backed object, which can't hold
        results.
    MemoryError
        If the estimated memory exceeds this process's limit.
    FitInterrupted
        On Ctrl-C. As with any error after the fit, the attribute `model` of the exception is the fitted model.

    Warns
    -----
    UserWarning
        If counts are not whole numbers, or gene names are not unique.
    ImplicitModificationWarning
        If `adata` is a view: it becomes a copy, which holds the results, as in anndata. Its parent stays as it is.

    See Also
    --------
    fastpmf.anndata.transform : W of new cells.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> model = fastpmf.anndata.poisson_nmf(adata, 3, random_state=0)
    >>> adata.obsm["X_pmf"].shape, adata.obsm["X_pmf_topics"].shape, adata.varm["PMF"].shape, adata.uns["pmf"]["status"]
    ((50, 3), (50, 3), (30, 3), 'CONVERGED')
    """
    model = _estimator(PoissonNMF, "poisson_nmf", n_components, options)
    given = {
        "W": W, "H": H, "fixed_W": fixed_W, "fixed_H": fixed_H, "obs_exposure": obs_exposure,
        "var_exposure": var_exposure, "background": background, "mask": mask, "sample_weight": sample_weight,
        "validation": validation, "checkpoint": checkpoint, "resume": resume,
    }  # fmt: skip
    _factorise(adata, model, layer, mask_var, given, key_added)
    return model


def hpf(
    adata: "AnnData",
    n_components: int,
    *,
    layer: str | None = None,
    mask_var: Any = None,
    mask: Any = None,
    validation: Any = None,
    checkpoint: Any = None,
    resume: Any = None,
    key_added: str | None = None,
    **options: Any,
) -> HPF:
    """Hierarchical Poisson factorization of the counts of an AnnData object, as in scHPF; results are posterior means.

    Parameters
    ----------
    adata, n_components, layer, mask_var, mask, validation, checkpoint, resume
        As in `poisson_nmf`.
    key_added : str, optional
        Name of the results in `.obsm`, `.varm` and `.uns`; by default "X_hpf", "HPF" and "hpf".
    **options
        Parameters of `HPF`.

    Returns
    -------
    HPF
        The fitted model. Results are written as by `poisson_nmf`, except that `.uns` has "bound", in nats, instead of
        "objective" and "kkt_residual".

    Examples
    --------
    >>> import anndata, numpy as np
    >>> import fastpmf.anndata
    >>> adata = anndata.AnnData(np.random.default_rng(0).poisson(1.0, (50, 30)).astype("float32"))
    >>> model = fastpmf.anndata.hpf(adata, 3, random_state=0)
    >>> adata.obsm["X_hpf"].shape
    (50, 3)
    """
    model = _estimator(HPF, "hpf", n_components, options)
    given = {"mask": mask, "validation": validation, "checkpoint": checkpoint, "resume": resume}
    _factorise(adata, model, layer, mask_var, given, key_added)
    return model


def transform(
    adata: "AnnData",
    model: PoissonNMF | HPF,
    *,
    layer: str | None = None,
    obs_exposure: Any = None,
    mask: Any = None,
    key_added: str | None = None,
) -> np.ndarray:
    """W of new cells under a fitted model; genes are aligned by name with the fitted ones.

    Genes that were not fitted are left out. Fitted genes that `adata` lacks are not observed, as under a mask: their
    counts are unknown, not 0. A model without feature names takes genes by position.

    Parameters
    ----------
    adata : AnnData of shape (n_obs, n_vars)
    model : PoissonNMF or HPF
        What `poisson_nmf` or `hpf` returned, or an estimator fitted to a matrix.
    layer, mask
        As in `poisson_nmf`.
    obs_exposure : str or array-like of shape (n_obs,), optional
        As in `poisson_nmf`; `HPF` has none.
    key_added : str, optional
        Name of W in `.obsm`; by default "X_pmf" or "X_hpf".

    Returns
    -------
    W : ndarray of shape (n_obs, n_components)
        Also written to `.obsm[key_added or "X_pmf"]`, and the topic shares beside it as by `poisson_nmf`.

    Raises
    ------
    TypeError, ValueError
        If an argument has an invalid type or value, no gene or another number of genes was fitted, or gene names can't
        be aligned because they are not unique.

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
    _check_adata(adata)
    if not isinstance(model, PoissonNMF | HPF):
        raise TypeError(f"model must be a PoissonNMF or HPF, got {type(model).__name__}")
    check_is_fitted(model)
    keys = _keys(model, key_added)
    source = _source(adata, layer)
    given: dict[str, Any] = {}
    if obs_exposure is not None:
        if isinstance(model, HPF):
            raise TypeError("obs_exposure must be None, since HPF has no exposures")
        exposure = _column(obs_exposure, adata.obs, "obs_exposure", "adata.obs")
        given["row_exposure"] = vector(exposure, adata.n_obs, "obs_exposure")
    place = _places(model, source)
    hidden = None if mask is None else _matrix(mask, adata, source, "mask")
    _check_target(adata)
    counts = _read(source)
    _warn_unless_counts(counts, source.where, adata)
    names = getattr(model, "feature_names_in_", None)
    here, missing = np.flatnonzero(place >= 0), np.flatnonzero(place < 0)
    if names is not None and len(missing):
        warn(
            f"{source.where} lacks {len(missing)} of the {len(place)} fitted genes, {_listed(names[missing])}: "
            "they are taken as not observed",
        )
    X = _moved(counts, place[here], here, len(place))
    hidden = None if hidden is None else _moved(hidden, place[here], here, len(place))
    parts, step = [], max(1, _MASKED // max(1, len(missing)))
    for start in range(0, adata.n_obs, step):
        rows = slice(start, min(start + step, adata.n_obs))
        if hidden is not None or len(missing):
            given["mask"] = _with_columns(None if hidden is None else hidden[rows], missing, X[rows].shape)
        told = {name: values[rows] if name == "row_exposure" else values for name, values in given.items()}
        parts.append(np.asarray(model.transform(Dataset(X[rows], column_names=names), **told)))
    W = np.concatenate(parts)
    with _silent():
        adata.obsm[keys.obsm], adata.obsm[keys.topics] = W, to_topics(W, model.components_).mixtures
    return W


def to_anndata(W: Any, model: FactorModel, obs_names: Any = None) -> "AnnData":
    """A fitted model as an AnnData object without X, with the results of `poisson_nmf` or `hpf`.

    Parameters
    ----------
    W : array-like of shape (n_obs, n_components)
        What `fit_transform` or `transform` returned.
    model : PoissonNMF or HPF
        Fitted; its feature names, where it has any, become those of the variables.
    obs_names : array-like of str, of shape (n_obs,), optional
        By default numbers.

    Returns
    -------
    AnnData
        W and P(topic | row) in `.obsm`, H transposed in `.varm`, and a dictionary of facts in `.uns`.

    Raises
    ------
    ValueError
        If W does not have a column for each component, or obs_names not a name for each row.

    Examples
    --------
    >>> from fastpmf import PoissonNMF
    >>> from fastpmf.anndata import to_anndata
    >>> model = PoissonNMF(2, random_state=0)
    >>> W = model.fit_transform([[4, 0, 2], [0, 3, 0], [2, 0, 1]])
    >>> to_anndata(W, model).shape
    (3, 3)
    """
    anndata, pandas = needed("anndata", "anndata"), needed("pandas", "anndata")
    check_is_fitted(model)
    W, H = np.asarray(W), model.components_
    if W.ndim != 2 or W.shape[1] != len(H):
        raise ValueError(f"W must have {len(H)} columns, one for each component, got shape {W.shape}")
    names = np.arange(len(W)).astype(str) if obs_names is None else np.atleast_1d(obs_names).astype(str)
    if names.shape != (len(W),):
        raise ValueError(f"obs_names must be {len(W)}, one for each row of W, got shape {names.shape}")
    features = getattr(model, "feature_names_in_", np.arange(H.shape[1]))
    adata = anndata.AnnData(obs=pandas.DataFrame(index=names), var=pandas.DataFrame(index=features.astype(str)))
    _store(adata, model, _keys(model, None), W, np.arange(H.shape[1]), _parameters(model))
    return adata


def _estimator(kind: Any, function: str, n_components: int, options: dict[str, Any]) -> Any:
    """The estimator with these options; Python would name its constructor where an option is unknown."""
    known = inspect.signature(kind).parameters
    for name in options:
        if name not in known:
            raise TypeError(f"fastpmf.anndata.{function}() got an unexpected keyword argument {name!r}")
    return kind(n_components, **options)


def _factorise(
    adata: "AnnData", model: PoissonNMF | HPF, layer: str | None, mask_var: Any, given: dict[str, Any],
    key_added: str | None,
) -> None:  # fmt: skip
    """Fit the model and write the results to adata."""
    _check_adata(adata)
    keys = _keys(model, key_added)
    named = {"layer": layer, "mask_var": mask_var} | given
    parameters = _parameters(model) | {name: value for name, value in named.items() if isinstance(value, str)}
    source = _source(adata, layer)
    chosen = np.ones(len(source.var), bool) if mask_var is None else _chosen(mask_var, source)
    place = _loading_places(adata, source, chosen)
    told = _arguments(given, adata, source, chosen)
    _check_target(adata)
    _warn_unless_unique(source)
    counts = _read(source)
    if not chosen.all():
        counts = as_counts(counts.to_scipy()[:, chosen], n_threads=model.n_threads)
    _warn_unless_counts(counts, source.where, adata)
    try:
        # scikit-learn may be configured to return DataFrames
        W = np.asarray(model.fit_transform(Dataset(counts, column_names=_names(source)[chosen]), **told))
        _store(adata, model, keys, W, place, parameters)
    except BaseException as error:
        if hasattr(model, "components_"):
            error.model = model  # type: ignore[attr-defined]
            error.add_note("The attribute `model` of this exception is the fitted model.")
        raise


def _check_adata(adata: Any) -> None:
    if not hasattr(adata, "obsm") or not hasattr(adata, "varm"):
        raise TypeError(
            f"adata must be an AnnData object, got {type(adata).__name__}; PoissonNMF and HPF take matrices"
        )


def _keys(model: FactorModel, key_added: Any) -> _Keys:
    if key_added is None:
        return next(keys for kind, keys in _KEYS.items() if isinstance(model, kind))
    if not isinstance(key_added, str):
        raise TypeError(f"key_added must be a str, got {key_added!r}")
    if not key_added or "/" in key_added:  # which separates groups in HDF5 and zarr
        raise ValueError(
            f"key_added must be a name without '/', so that it can be written to a file, got {key_added!r}"
        )
    return _Keys(key_added, key_added, key_added)


def _check_target(adata: "AnnData") -> None:
    """Refuse an object that can't hold results; warn of a view, which becomes a copy when it gets some."""
    if not adata.is_view:
        return
    if adata.isbacked:
        raise ValueError(
            "adata must be able to hold the results, got a view of a backed object: give adata.to_memory()"
        )
    warn(
        "adata is a view and becomes a copy, which holds the results",
        needed("anndata", "anndata").ImplicitModificationWarning,
    )


def _source(adata: "AnnData", layer: str | None) -> _Source:
    """Where the counts are; nothing is read yet."""
    raw = getattr(adata, "raw", None)
    layers = [name for name in adata.layers if name is not None]  # None is X from anndata 0.13 on
    if layer is None:
        X, where, genes = adata.X, "adata.X", adata
        if X is None:
            raise ValueError("adata.X is None: layer must name where the counts are")
    elif layer in layers:
        X, where, genes = adata.layers[layer], f"adata.layers[{layer!r}]", adata
    elif layer == "raw" and raw is not None:
        X, where, genes = raw.X, "adata.raw", raw
    else:
        names = [*layers, *(["raw"] if raw is not None else [])]
        there = f"which are {_listed(names)}" if names else "which has none"
        raise ValueError(f"layer must be one of adata's, {there}, got {layer!r}")
    return _Source(X, where, genes.var, genes.varm)


def _read(source: _Source) -> MemoryCounts:
    """The counts in memory, where they fit in it."""
    X, where = source.X, source.where
    if hasattr(X, "__dask_graph__"):
        raise TypeError(
            f"{where} must be in memory, got a Dask {type(X).__name__}: give adata.to_memory(), or fit "
            "fastpmf.dask.PoissonNMF(...).fit(adata) over the workers of a cluster"
        )
    parts = [X.group[name] for name in ("data", "indices", "indptr")] if hasattr(X, "to_memory") else [X]
    needs = sum(getattr(part, "nbytes", 0) for part in parts)
    if needs > memory():
        raise MemoryError(
            f"{where} needs {needs / 2**30:,.1f} GiB in memory, and this process may have {memory() / 2**30:,.1f} GiB: "
            "fit the file with PoissonNMF(...).fit(fastpmf.io.stream_counts(path))"
        )
    return as_counts(X.to_memory() if hasattr(X, "to_memory") else X, name=where)


def _arguments(given: dict[str, Any], adata: "AnnData", source: _Source, chosen: np.ndarray) -> dict[str, Any]:
    """Arguments of `fit` for the chosen genes, of what the user gave."""
    told: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in ("obs_exposure", "sample_weight"):
            value = _column(value, adata.obs, name, "adata.obs")
            value = vector(value, len(value), name, zero=name == "sample_weight")
        elif name in ("var_exposure", "background") and np.ndim(value) + isinstance(value, str):
            value = _column(value, source.var, name, _var_of(source))[chosen]
            value = vector(value, len(value), name) if name == "var_exposure" else value
        elif name in ("mask", "validation") and not isinstance(value, int | float | np.number):
            value = _matrix(value, adata, source, name)[:, chosen]
        elif name in ("W", "fixed_W"):
            value = _factor(value, adata.obs, adata.obsm, name, "adata.obsm")
        elif name in ("H", "fixed_H"):
            value = value if isinstance(value, str) or hasattr(value, "T") else np.asarray(value)
            transposed = value if isinstance(value, str) else value.T
            value = _factor(transposed, source.var, source.varm, name, f"{_var_of(source)}m").T
            if value.ndim != 2 or value.shape[1] != len(chosen):
                raise ValueError(f"{name} must have {len(chosen)} columns, one for each gene, got shape {value.shape}")
            value = value[:, chosen]
        told[{"obs_exposure": "row_exposure", "var_exposure": "column_exposure"}.get(name, name)] = value
    return told


def _column(given: Any, frame: Any, name: str, owner: str) -> np.ndarray:
    """A column of obs or var, by its name; or an array of its length, aligned by names where it has any."""
    if isinstance(given, str):
        if given not in frame:
            raise ValueError(f"{name} must be a column of {owner}, which are {_listed(frame)}, got {given!r}")
        given = frame[given]
    values = np.asarray(_aligned(given, frame.index, name, f"{owner}_names"))
    if values.shape != (len(frame),):
        raise ValueError(
            f"{name} must have shape ({len(frame)},), or be the name of a column of {owner}, got shape {values.shape}"
        )
    return values


def _factor(given: Any, frame: Any, stored: Any, name: str, owner: str) -> np.ndarray:
    """An entry of obsm or varm, by its name; or an array with as many rows, aligned by names where it has any."""
    if isinstance(given, str):
        if given not in stored:
            raise ValueError(f"{name} must be a key of {owner}, which are {_listed(stored)}, got {given!r}")
        given = stored[given]
    return check_array(_aligned(given, frame.index, name, f"{owner.removesuffix('m')}_names"), name, FREE)


def _matrix(given: Any, adata: "AnnData", source: _Source, name: str) -> sparse.csr_array:
    """A layer by its name, or a matrix of cells and genes, aligned by names where it has any."""
    if isinstance(given, str):
        if given not in adata.layers:
            raise ValueError(f"{name} must be a layer of adata, which are {_listed(adata.layers)}, got {given!r}")
        given = _read(source._replace(X=adata.layers[given], where=f"adata.layers[{given!r}]"))
    given = _aligned(given, adata.obs_names, name, "adata.obs_names")
    if hasattr(given, "columns"):
        given = _aligned(given.T, source.var.index, name, f"{_var_of(source)}_names").T
    values = as_counts(given, name=name)
    if values.shape != (adata.n_obs, len(source.var)):
        raise ValueError(f"{name} must have shape {(adata.n_obs, len(source.var))}, got {values.shape}")
    return values.to_scipy()


def _aligned(given: Any, names: Any, name: str, owner: str) -> Any:
    """A Series or a DataFrame with its rows in the order of these names, where its index has names."""
    if not hasattr(given, "reindex"):
        return given
    index = given.index
    if index.inferred_type not in ("string", "categorical") or index.equals(names):
        return given
    if not index.is_unique:
        again = index[index.duplicated()][0]
        raise ValueError(f"{name} must have each name once to be aligned with {owner}, got {again!r} twice")
    missing = names[~names.isin(index)]
    if len(missing):
        raise ValueError(f"{name} must have a value for each of {owner}, lacks {len(missing)}, {_listed(missing)}")
    return given.reindex(names)


def _chosen(mask_var: Any, source: _Source) -> np.ndarray:
    mask = _column(mask_var, source.var, "mask_var", _var_of(source))
    if mask.dtype != bool:
        raise ValueError(f"mask_var must hold True and False, got {mask.dtype}")
    if not mask.any():
        raise ValueError("mask_var must choose at least one gene, got none")
    return mask


def _loading_places(adata: "AnnData", source: _Source, chosen: np.ndarray) -> np.ndarray:
    """Number of each gene of adata among the fitted ones, (n_vars,); -1 where it is not fitted."""
    if source.where != "adata.raw":
        return np.where(chosen, chosen.cumsum() - 1, -1)
    fitted = source.var.index[chosen]
    if not fitted.is_unique:
        raise ValueError(
            "adata.raw.var_names must be unique for H to be written by name, got "
            f"{_listed(fitted[fitted.duplicated()].unique())} more than once"
        )
    return fitted.get_indexer(adata.var_names)


def _places(model: FactorModel, source: _Source) -> np.ndarray:
    """Where source has each of the fitted genes, (n_features,); -1 where it lacks it."""
    names, own = getattr(model, "feature_names_in_", None), _names(source)
    n = model.components_.shape[1]
    if names is None and len(own) != n:
        raise ValueError(f"adata must have the {n} fitted genes, since model has no names of them, got {len(own)}")
    if names is None or np.array_equal(names, own):
        return np.arange(n)
    for values, what in ((names, "model.feature_names_in_"), (own, f"{_var_of(source)}_names")):
        found, often = np.unique(values.astype(str), return_counts=True)
        if (often > 1).any():
            raise ValueError(f"{what} must be unique to be aligned by, got {str(found[often > 1][0])!r} more than once")
    place = source.var.index.get_indexer(names)
    if (place < 0).all():
        raise ValueError(
            f"adata must have fitted genes, {_listed(names)}, got none of them in {_var_of(source)}_names, "
            f"{_listed(own)}"
        )
    return place


def _moved(X: Any, columns: np.ndarray, to: np.ndarray, n_columns: int) -> sparse.csr_array:
    """These columns of X, at other places of a wider matrix; `to` ascends."""
    X = (X.to_scipy() if isinstance(X, MemoryCounts) else X)[:, columns]
    return sparse.csr_array((X.data, to[X.indices], X.indptr), shape=(X.shape[0], n_columns))


def _with_columns(mask: sparse.csr_array | None, columns: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    """A mask of these whole columns, and of what `mask` hides."""
    n, m = shape[0], len(columns)
    whole = sparse.csr_array(
        (np.ones(n * m, np.uint8), np.tile(columns, n), np.arange(0, n * m + 1, m) if m else np.zeros(n + 1, int)),
        shape=shape,
    )
    return whole if mask is None else sparse.csr_array(whole + mask)


def _warn_unless_unique(source: _Source) -> None:
    index = source.var.index
    if not index.is_unique:
        owner = _var_of(source)
        warn(
            f"{owner}_names are not unique, {_listed(index[index.duplicated()].unique())} come more than once, so "
            f"results can't be aligned by them: {owner}_names_make_unique() would help",
        )


def _warn_unless_counts(counts: MemoryCounts, where: str, adata: "AnnData") -> None:
    if broken := share_not_whole(counts.to_scipy().data):
        layers = [name for name in adata.layers if name is not None and f"[{name!r}]" not in where]
        layers += ["raw"] if getattr(adata, "raw", None) is not None and where != "adata.raw" else []
        advice = f"layer may be {_listed(layers)}" if layers else "the model is one of raw counts"
        warn(
            f"{where} doesn't look like counts: {broken:.0%} of its nonzeros are not whole numbers, as after "
            f"normalisation or logarithms; {advice}",
        )


def _store(
    adata: "AnnData", model: FactorModel, keys: _Keys, W: np.ndarray, place: np.ndarray, parameters: dict[str, Any]
) -> None:
    """Write W, topic shares, H transposed and facts; `place` is the number of each gene of adata among the fitted."""
    H = model.components_
    loadings = np.zeros((len(place), len(H)), H.dtype)
    loadings[place >= 0] = H.T[place[place >= 0]]
    topics = to_topics(W, H).mixtures
    facts = _facts(model) | {"params": parameters}
    with _silent():
        adata.obsm[keys.obsm], adata.obsm[keys.topics] = W, topics
        adata.varm[keys.varm], adata.uns[keys.uns] = loadings, facts


def _silent() -> Any:
    """A context in which a view becomes a copy without anndata's warning, which `_check_target` has given."""
    return warnings.catch_warnings(action="ignore", category=needed("anndata", "anndata").ImplicitModificationWarning)


def _facts(model: FactorModel) -> dict[str, Any]:
    """What a fit found, for `.uns`."""
    facts: dict[str, Any] = {"n_iter": model.n_iter_, "status": model.status_.name, "version": __version__}
    if hasattr(model, "trace_"):  # partial_fit has none
        facts["trace"] = model.trace_
    if isinstance(model, HPF):
        return facts | ({"bound": model.elbo_} if hasattr(model, "elbo_") else {})
    return facts | {"objective": model.objective_, "kkt_residual": model.kkt_residual_}


def _parameters(model: FactorModel) -> dict[str, Any]:
    """Parameters of the estimator that a file can hold, for `.uns`."""
    values = {name: _storable(plain(value)) for name, value in model.get_params(deep=False).items()}
    return {name: value for name, value in values.items() if value is not None}


def _storable(value: Any) -> Any:
    """A number, a text, or a prior as an array of shape (2,), or (2, n_components); None for what is none of these."""
    if isinstance(value, list):
        try:
            return np.array(np.broadcast_arrays(*value), dtype=np.float64)
        except (TypeError, ValueError):
            return None  # no prior, which the fit will refuse
    return value if isinstance(value, bool | int | float | str) else None


def _names(source: _Source) -> np.ndarray:
    return np.asarray(source.var.index).astype(str).astype(object)


def _var_of(source: _Source) -> str:
    return "adata.raw.var" if source.where == "adata.raw" else "adata.var"


def _listed(names: Any) -> str:
    """The first of these names, for a sentence."""
    names = list(map(str, names))
    return (", ".join(map(repr, names[:5])) or "none") + (", …" if len(names) > 5 else "")
