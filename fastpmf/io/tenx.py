"""10x Genomics' feature-barcode matrices, folders and HDF5: cells are rows, and features columns."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastpmf.io.hdf5 import StoredVector, as_shape, child, members, read_names, sparse_arrays
from fastpmf.io.sources import Compressed, Names, summed
from fastpmf.io.text import beside, read_market, read_name_file
from fastpmf.utils.extras import import_optional
from fastpmf.utils.messages import brief, listed
from fastpmf.utils.validation import check_option
from fastpmf.utils.warnings import warn

FEATURE_NAMES = ("name", "id")
GENES = "Gene Expression"  # the feature type that is read by default


def folder(path: Path, feature_types: str | Sequence[str] | None = None, feature_names: str = "name") -> Compressed:
    """matrix.mtx, barcodes.tsv, and genes.tsv (version 2) or features.tsv (version 3), gzipped or not."""
    check_option(feature_names, FEATURE_NAMES, "feature_names")
    matrix, barcodes, features, genes = (
        beside(path / "matrix.mtx", name) for name in ("matrix.mtx", "barcodes.tsv", "features.tsv", "genes.tsv")
    )
    if matrix is None:
        raise ValueError("it has no matrix.mtx or matrix.mtx.gz")
    X = summed(read_market(matrix).T)
    (n, p), features = X.shape, features or genes
    rows, lines = read_name_file(barcodes, n), read_name_file(features, p)
    columns = kinds = None
    if lines is not None:
        columns = _column(lines, 0 if feature_names == "id" else 1)
        kinds = _column(lines, 2) if all(line.count("\t") >= 2 for line in lines) else None
    selected = select_features(kinds, feature_types)
    if selected is not None:
        assert columns is not None  # the types are in the same file
        X, columns = X[:, selected], columns[selected]
    return Compressed(
        X.data, X.indices, X.indptr, X.shape, names=Names(None if rows is None else _column(rows, 0), columns)
    )


def _column(lines: np.ndarray, c: int) -> np.ndarray:
    """A column of tab-separated lines; the first one where there are fewer."""
    cells = [line.split("\t") for line in lines]
    return np.array([cell[c] if len(cell) > c else cell[0] for cell in cells])


def hdf5(
    path: Path, layer: str | None = None, feature_types: str | Sequence[str] | None = None, feature_names: str = "name"
) -> Compressed:
    """An HDF5 file. In version 2 it has a group for each genome; `layer` is its name, needed if there are several."""
    check_option(feature_names, FEATURE_NAMES, "feature_names")
    h5py = import_optional("h5py", "anndata", "reading .h5 of 10x Genomics")
    with ExitStack() as stack:
        file = stack.enter_context(h5py.File(path, "r"))
        genomes = [name for name in file if "barcodes" in members(child(file, name))]
        if not genomes:
            raise ValueError("it has no group with barcodes, as 10x Genomics' matrices have")
        if layer not in genomes and (layer is not None or len(genomes) > 1):
            raise ValueError(f"it has several genomes: layer must be one of {', '.join(genomes)}, got {layer!r}")
        group = child(file, layer or genomes[0])
        typed, by_id = "features" in group, feature_names == "id"
        n, p = as_shape(StoredVector(child(group, "shape")).whole())[::-1]
        column = f"features/{feature_names}" if typed else "genes" if by_id else "gene_names"
        rows, columns = read_names(child(group, "barcodes"), n), read_names(child(group, column), p)
        kinds = child(group, "features/feature_type", optional=True) if typed else None
        selected = select_features(kinds and read_names(kinds, p), feature_types)
        new_index = None
        if selected is not None:
            new_index, p = np.where(selected, np.cumsum(selected) - 1, -1), int(selected.sum())
            columns = None if columns is None else columns[selected]
        source = Compressed(*sparse_arrays(group), (n, p), names=Names(rows, columns), new_index=new_index)
        return replace(source, file=stack.pop_all())


def select_features(kinds: np.ndarray | None, feature_types: str | Sequence[str] | None) -> np.ndarray | None:
    """Mask of the features to read; None for all.

    Parameters
    ----------
    kinds : ndarray of str, or None
        Type of each feature; None for version 2, which has no types.
    feature_types : str or sequence of str, optional
        Types, or "all". By default "Gene Expression" if there are several types, with a warning.

    Raises
    ------
    ValueError
        If no feature has a type in `feature_types`, or `feature_types` is None, there are several types, and none is
        "Gene Expression".
    """
    if kinds is None:
        if feature_types not in (None, "all"):
            raise ValueError(
                f"feature_types must be None or 'all', as features have no types, got {brief(feature_types)}"
            )
        return None
    known, sizes = np.unique(kinds, return_counts=True)
    if feature_types == "all" or (feature_types is None and len(known) == 1):
        return None
    if feature_types is None and GENES in known:
        counted = zip(known.tolist(), sizes.tolist(), strict=True)
        others = " and ".join(f"{n:,} of type {kind!r}" for kind, n in counted if kind != GENES)
        warn(
            f"the file has features of several types: {GENES!r} is read, {others} are left out; feature_types selects "
            "others, or 'all'"
        )
        return np.asarray(kinds == GENES)
    selected = [feature_types] if isinstance(feature_types, str) else list(feature_types or ())
    if not selected or not set(selected) <= set(known.tolist()):
        raise ValueError(f"feature_types must be of {listed(known.tolist())}, or 'all', got {brief(feature_types)}")
    return np.isin(kinds, selected)
