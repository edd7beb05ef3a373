"""Counts of an AnnData object, and arguments given as names of its entries or aligned with it by labels."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from fastpmf.counts import MemoryCounts, as_counts
from fastpmf.counts.labels import Labels, align, labels_of
from fastpmf.counts.masked import observed_counts
from fastpmf.counts.validation import non_integer_fraction
from fastpmf.fitting.problem import REAL_OR_NAN, vector
from fastpmf.utils.memory import memory_limit
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.validation import check_array, is_pandas
from fastpmf.utils.warnings import warn

if TYPE_CHECKING:
    from anndata import AnnData


class Source(NamedTuple):
    """Counts of an AnnData object, their name for messages, and the annotation of their genes."""

    X: Any
    where: str
    var: Any
    varm: Any

    @property
    def owner(self) -> str:
        """Name of `var` for messages."""
        return "adata.raw.var" if self.where == "adata.raw" else "adata.var"

    @property
    def names(self) -> np.ndarray:
        """Gene names, (n_vars,)."""
        return np.asarray(self.var.index).astype(str).astype(object)

    @property
    def genes(self) -> Labels:
        """Labels of the genes."""
        return Labels(self.names, source=self.owner.removesuffix(".var"), item="gene")


def check_adata(adata: Any) -> None:
    if not hasattr(adata, "obsm") or not hasattr(adata, "varm"):
        raise TypeError(
            f"adata must be an AnnData object, got {type(adata).__name__}; PoissonNMF and HPF take matrices"
        )


def source_of(adata: "AnnData", layer: str | None) -> Source:
    """The counts that `layer` names, without reading them."""
    raw = getattr(adata, "raw", None)
    layers = layers_of(adata)
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


def read(source: Source, mask: Any = None) -> MemoryCounts:
    """Read the counts into memory, without their values at the entries of `mask`."""
    X, where = source.X, source.where
    if hasattr(X, "__dask_graph__"):
        raise TypeError(
            f"{where} must be in memory, got a Dask {type(X).__name__}: give adata.to_memory(), or fit "
            "fastpmf.dask.PoissonNMF(...).fit(adata) over the workers of a cluster"
        )
    if hasattr(X, "to_memory"):
        needs = sum(X.group[name].nbytes for name in ("data", "indices", "indptr"))
        if needs > memory_limit():
            raise MemoryError(
                f"{where} needs {needs / 2**30:,.1f} GiB, and this process may have {memory_limit() / 2**30:,.1f} GiB: fit "
                "the file with PoissonNMF(...).fit(fastpmf.io.stream_counts(path))"
            )
        X = X.to_memory()
    return observed_counts(X, mask, name=where)


def fit_arguments(given: dict[str, Any], adata: "AnnData", source: Source, chosen: np.ndarray) -> dict[str, Any]:
    """The user's arguments as those of `PoissonNMF.fit`, for the chosen genes."""
    arguments: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in ("obs_exposure", "sample_weight"):
            value = column(value, adata.obs, name, cells_of(adata), "adata.obs")
            value = vector(value, len(value), name, zero=name == "sample_weight")
        elif name in ("var_exposure", "background") and np.ndim(value) + isinstance(value, str):
            value = column(value, source.var, name, source.genes, source.owner)[chosen]
            value = vector(value, len(value), name) if name == "var_exposure" else value
        elif name in ("mask", "validation") and not isinstance(value, int | float | np.number):
            value = matrix(value, adata, source, name)[:, chosen]
        elif name in ("W", "fixed_W"):
            value = align(_stored(value, adata.obsm, name, "adata.obsm"), name, rows=cells_of(adata))
        elif name in ("H", "fixed_H"):
            value = _loadings(value, source, name, chosen)
        arguments[{"obs_exposure": "row_exposure", "var_exposure": "column_exposure"}.get(name, name)] = value
    return arguments


def column(given: Any, frame: Any, name: str, labels: Labels, owner: str) -> np.ndarray:
    """A column of obs or var by its name, or an array of its length, aligned by labels if it has any."""
    values = np.asarray(align(_stored(given, frame, name, owner, "column"), name, rows=labels))
    values = np.full(len(frame), values) if values.ndim == 0 else values
    if values.shape != (len(frame),):
        raise ValueError(
            f"{name} must have shape ({len(frame)},), or be the name of a column of {owner}, got shape {values.shape}"
        )
    return values


def matrix(given: Any, adata: "AnnData", source: Source, name: str) -> sparse.csr_array:
    """A layer by its name, or a matrix of cells and genes, aligned by labels if it has any."""
    if isinstance(given, str):
        X = _stored(given, {key: adata.layers[key] for key in layers_of(adata)}, name, "adata.layers")
        given = read(source._replace(X=X, where=f"adata.layers[{given!r}]"))
    values = as_counts(align(given, name, rows=cells_of(adata), columns=source.genes), name=name)
    if values.shape != (adata.n_obs, len(source.var)):
        raise ValueError(f"{name} must have shape {(adata.n_obs, len(source.var))}, got {values.shape}")
    return values.to_scipy()


def _loadings(given: Any, source: Source, name: str, chosen: np.ndarray) -> Any:
    """H for the chosen genes: an entry of varm transposed, by its name; or an array.

    Where it has labels, those of the chosen genes are enough.
    """
    H = _stored(given, source.varm, name, f"{source.owner}m")
    H = H.T if isinstance(given, str) else H
    own = labels_of(H, 1)
    if own.names is not None and own.values is not None and own.values.tolist() != source.names.tolist():
        return align(H, name, columns=source.genes._replace(values=source.names[chosen]))
    if not is_pandas(H):  # a DataFrame may have labels of components, which W has too
        H = check_array(H, name, REAL_OR_NAN)
    if H.ndim != 2 or H.shape[1] != len(chosen):
        raise ValueError(f"{name} must have {len(chosen)} columns, one for each gene, got shape {H.shape}")
    return H[:, chosen] if isinstance(H, np.ndarray) else H.loc[:, chosen]


def _stored(given: Any, entries: Any, name: str, owner: str, thing: str = "key") -> Any:
    """An entry of adata if its name is given, else the value itself."""
    if not isinstance(given, str):
        return given
    if given not in entries:
        there = listed(entries) or "none"
        raise ValueError(f"{name} must be a {thing} of {owner}, which are {there}, got {brief(given)}")
    return entries[given]


def layers_of(adata: "AnnData") -> list[str]:
    """Names of the layers."""
    return [name for name in adata.layers if name is not None]  # None is X from anndata 0.13 on


def cells_of(adata: "AnnData") -> Labels:
    """Labels of the cells."""
    return Labels(np.asarray(adata.obs_names), source="adata", item="cell")


def chosen_genes(mask_var: Any, source: Source) -> np.ndarray:
    mask = column(mask_var, source.var, "mask_var", source.genes, source.owner)
    if mask.dtype != bool:
        raise ValueError(f"mask_var must hold True and False, got {mask.dtype}")
    if not mask.any():
        raise ValueError("mask_var must choose at least one gene, got none")
    return mask


def warn_unless_counts(counts: MemoryCounts, where: str, adata: "AnnData") -> None:
    if broken := non_integer_fraction(counts.to_scipy().data):
        layers = [name for name in layers_of(adata) if f"[{name!r}]" not in where]
        layers += ["raw"] if getattr(adata, "raw", None) is not None and where != "adata.raw" else []
        advice = f"layer may be {listed(layers)}" if layers else "fit raw counts"
        warn(
            f"{where} doesn't look like counts: {broken:.0%} of its nonzeros are not whole numbers, as after "
            f"normalisation or logarithms; {advice}",
        )
