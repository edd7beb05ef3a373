"""Both factors of a fit in one file, for other programs: NumPy's `.npz`, or AnnData's `.h5ad`."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf.estimators.base import FactorModel, named_weights
from fastpmf.io.outputs import check_output
from fastpmf.utils.extras import import_optional
from fastpmf.utils.files import atomic_write

ENDINGS = (".npz", ".h5ad")


def write_factors(path: str | os.PathLike[str], W: Any, model: FactorModel, row_names: Any = None) -> None:
    """Write W and H with the names of rows and columns; it replaces `path` whole or not at all.

    Use `PoissonNMF.save` for a model that will be loaded again.

    Parameters
    ----------
    path : path-like
        `.npz`, with the arrays W (n, k), H (k, p) and, if they are known, row_names (n,) and column_names (p,), for
        `numpy.load`; or `.h5ad`, with the result of `fastpmf.anndata.to_anndata`.
    W : array-like of shape (n, k)
        The result of `fit_transform` or `transform`.
    model : PoissonNMF or HPF
        Fitted.
    row_names : array-like of str, of length n, optional
        A DataFrame W is put in their order. By default its own names, if it has any.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        If the folder does not exist or is not writable, or `path` is a folder.
    ImportError
        If `path` ends with `.h5ad` and h5py or anndata is not installed.
    TypeError, ValueError
        If an argument has an invalid type or value. All arguments are checked before anything is written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from fastpmf import PoissonNMF
    >>> from fastpmf.io import write_factors
    >>> model = PoissonNMF(2, random_state=0)
    >>> W = model.fit_transform([[4, 0, 2], [0, 3, 0], [2, 0, 1]])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "factors.npz"
    >>> write_factors(path, W, model, ["ada", "bob", "eve"])
    >>> {name: A.shape for name, A in np.load(path).items()}
    {'W': (3, 2), 'H': (2, 3), 'row_names': (3,)}
    """
    check_factors_path(path)
    W, names = named_weights(W, model, row_names, "row_names")
    if Path(path).suffix == ".npz":
        arrays = {"W": W, "H": model.components_, "row_names": names}
        if hasattr(model, "feature_names_in_"):
            arrays["column_names"] = model.feature_names_in_.astype(str)
        with atomic_write(path) as file:
            np.savez_compressed(file, **{name: A for name, A in arrays.items() if A is not None})
    else:
        from fastpmf.anndata import to_anndata  # which reads by this package

        made = to_anndata(W, model, names)
        h5py, anndata = _libraries()
        with atomic_write(path) as file, h5py.File(file, "w") as h5:
            anndata.io.write_elem(h5, "/", made)


def check_factors_path(path: str | os.PathLike[str], name: str = "path") -> None:
    """Check, before a fit, that `write_factors` can write to a path; `name` is its name for messages.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        If the folder does not exist or is not writable, or `path` is a folder.
    ImportError
        If `path` ends with `.h5ad` and h5py or anndata is not installed.
    ValueError
        If `path` has another ending.
    """
    check_output(path, *ENDINGS, name=name)
    if Path(path).suffix == ".h5ad":
        _libraries()


def _libraries() -> tuple[Any, Any]:
    return import_optional("h5py", "anndata"), import_optional("anndata", "anndata")
