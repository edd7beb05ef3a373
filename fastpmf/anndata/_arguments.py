"""Counts and arguments of fits in an AnnData object: what is named in it, and what is aligned with it by names."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from fastpmf._messages import brief, listed
from fastpmf._warnings import warn
from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.named import share_not_whole
from fastpmf.counts.room import memory
from fastpmf.estimators._statement import FREE, vector
from fastpmf.model.factors import check_array

if TYPE_CHECKING:
    from anndata import AnnData


class Source(NamedTuple):
    """Counts of an AnnData object, what messages call them, and the annotation of their genes."""

    X: Any
    where: str
    var: Any
    varm: Any

    @property
    def owner(self) -> str:
        """What messages call `var`."""
        return "adata.raw.var" if self.where == "adata.raw" else "adata.var"

    @property
    def names(self) -> np.ndarray:
        """Gene names, (n_vars,)."""
        return np.asarray(self.var.index).astype(str).astype(object)


def check_adata(adata: Any) -> None:
    if not hasattr(adata, "obsm") or not hasattr(adata, "varm"):
        raise TypeError(
            f"adata must be an AnnData object, got {type(adata).__name__}; PoissonNMF and HPF take matrices"
        )


def source_of(adata: "AnnData", layer: str | None) -> Source:
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
        there = f"which are {listed(names)}" if names else "which has none"
        raise ValueError(f"layer must be one of adata's, {there}, got {brief(layer)}")
    return Source(X, where, genes.var, genes.varm)


def read(source: Source) -> MemoryCounts:
    """The counts in memory, where they fit in it."""
    X, where = source.X, source.where
    if hasattr(X, "__dask_graph__"):
        raise TypeError(
            f"{where} must be in memory, got a Dask {type(X).__name__}: give adata.to_memory(), or fit "
            "fastpmf.dask.PoissonNMF(...).fit(adata) over the workers of a cluster"
        )
    if hasattr(X, "to_memory"):
        needs = sum(X.group[name].nbytes for name in ("data", "indices", "indptr"))
        if needs > memory():
            raise MemoryError(
                f"{where} needs {needs / 2**30:,.1f} GiB, and this process may have {memory() / 2**30:,.1f} GiB: fit "
                "the file with PoissonNMF(...).fit(fastpmf.io.stream_counts(path))"
            )
        X = X.to_memory()
    return as_counts(X, name=where)


def fit_arguments(given: dict[str, Any], adata: "AnnData", source: Source, chosen: np.ndarray) -> dict[str, Any]:
    """Arguments of `fit` for the chosen genes, of what the user gave."""
    told: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in ("obs_exposure", "sample_weight"):
            value = column(value, adata.obs, name, "adata.obs")
            value = vector(value, len(value), name, zero=name == "sample_weight")
        elif name in ("var_exposure", "background") and np.ndim(value) + isinstance(value, str):
            value = column(value, source.var, name, source.owner)[chosen]
            value = vector(value, len(value), name) if name == "var_exposure" else value
        elif name in ("mask", "validation") and not isinstance(value, int | float | np.number):
            value = matrix(value, adata, source, name)[:, chosen]
        elif name in ("W", "fixed_W"):
            value = _factor(value, adata.obs, adata.obsm, name, "adata.obsm")
        elif name in ("H", "fixed_H"):
            value = value if isinstance(value, str) or hasattr(value, "T") else np.asarray(value)
            transposed = value if isinstance(value, str) else value.T
            value = _factor(transposed, source.var, source.varm, name, f"{source.owner}m").T
            if value.ndim != 2 or value.shape[1] != len(chosen):
                raise ValueError(f"{name} must have {len(chosen)} columns, one for each gene, got shape {value.shape}")
            value = value[:, chosen]
        told[{"obs_exposure": "row_exposure", "var_exposure": "column_exposure"}.get(name, name)] = value
    return told


def column(given: Any, frame: Any, name: str, owner: str) -> np.ndarray:
    """A column of obs or var, by its name; or an array of its length, aligned by names where it has any."""
    if isinstance(given, str):
        if given not in frame:
            raise ValueError(
                f"{name} must be a column of {owner}, which are {listed(frame) or 'none'}, got {brief(given)}"
            )
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
            raise ValueError(
                f"{name} must be a key of {owner}, which are {listed(stored) or 'none'}, got {brief(given)}"
            )
        given = stored[given]
    return check_array(_aligned(given, frame.index, name, f"{owner.removesuffix('m')}_names"), name, FREE)


def matrix(given: Any, adata: "AnnData", source: Source, name: str) -> sparse.csr_array:
    """A layer by its name, or a matrix of cells and genes, aligned by names where it has any."""
    if isinstance(given, str):
        if given not in adata.layers:
            there = listed(key for key in adata.layers if key is not None) or "none"
            raise ValueError(f"{name} must be a layer of adata, which are {there}, got {brief(given)}")
        given = read(source._replace(X=adata.layers[given], where=f"adata.layers[{given!r}]"))
    given = _aligned(given, adata.obs_names, name, "adata.obs_names")
    if hasattr(given, "columns"):
        given = _aligned(given.T, source.var.index, name, f"{source.owner}_names").T
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
        raise ValueError(f"{name} must have each name once to be aligned with {owner}, got {brief(again)} twice")
    missing = names[~names.isin(index)]
    if len(missing):
        raise ValueError(f"{name} must have a value for each of {owner}, lacks {len(missing)}: {listed(missing, 3)}")
    return given.reindex(names)


def chosen_genes(mask_var: Any, source: Source) -> np.ndarray:
    mask = column(mask_var, source.var, "mask_var", source.owner)
    if mask.dtype != bool:
        raise ValueError(f"mask_var must hold True and False, got {mask.dtype}")
    if not mask.any():
        raise ValueError("mask_var must choose at least one gene, got none")
    return mask


def warn_unless_unique(source: Source) -> None:
    index = source.var.index
    if not index.is_unique:
        owner = source.owner
        warn(
            f"{owner}_names are not unique, {listed(index[index.duplicated()].unique(), 3)} come more than once, so "
            f"results can't be aligned by them: {owner}_names_make_unique() would help",
        )


def warn_unless_counts(counts: MemoryCounts, where: str, adata: "AnnData") -> None:
    if broken := share_not_whole(counts.to_scipy().data):
        layers = [name for name in adata.layers if name is not None and f"[{name!r}]" not in where]
        layers += ["raw"] if getattr(adata, "raw", None) is not None and where != "adata.raw" else []
        advice = f"layer may be {listed(layers)}" if layers else "the model is one of raw counts"
        warn(
            f"{where} doesn't look like counts: {broken:.0%} of its nonzeros are not whole numbers, as after "
            f"normalisation or logarithms; {advice}",
        )
