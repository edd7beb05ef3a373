"""Files of results: models, factors and tables. A new file replaces an old one when it is complete."""

import csv
import io
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf.estimators import HPF, PoissonNMF
from fastpmf.estimators._persistence import kind_of
from fastpmf.estimators.base import FactorModel, named_weights
from fastpmf.utils.extras import import_optional
from fastpmf.utils.files import READ_ERRORS, atomic_write, check_folder, is_pipe, regular_file

_MODELS: dict[str, type[PoissonNMF] | type[HPF]] = {"PoissonNMF": PoissonNMF, "HPF": HPF}


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a fitted model, according to its list of contents.

    Raises
    ------
    ValueError
        If `path` is a pipe, which can be read once only.

    See Also
    --------
    fastpmf.io.load_model : loads it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastpmf import PoissonNMF
    >>> from fastpmf.io import is_model
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.npz"
    >>> PoissonNMF(2, random_state=0).fit([[4, 0, 2], [0, 3, 0], [2, 0, 1]]).save(path)
    >>> is_model(path)
    True
    """
    if is_pipe(path):
        raise ValueError(f"{os.fspath(path)} is a pipe, which can be read once only: a file is needed here")
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except READ_ERRORS:
        return False
    return "header.npy" in names and bool(names & {"components.npy", "mean.npy"})


def load_model(path: str | os.PathLike[str]) -> PoissonNMF | HPF:
    """Load a model that `PoissonNMF.save` or `HPF.save` wrote.

    Parameters
    ----------
    path : path-like
        A pipe is copied to a temporary file first.

    Returns
    -------
    PoissonNMF or HPF

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or not a model.

    See Also
    --------
    PoissonNMF.save : writes a model.
    HPF.save : writes a model.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastpmf import HPF
    >>> from fastpmf.io import load_model
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.npz"
    >>> HPF(2, random_state=0, tol=1e-2).fit([[4, 0, 2], [0, 3, 0], [2, 0, 1]]).save(path)
    >>> load_model(path).components_.shape
    (2, 3)
    """
    with regular_file(path) as file:
        kind = kind_of(file)
        if kind not in _MODELS:
            raise ValueError(f"{os.fspath(path)} holds a model of class {kind}, expected one of {', '.join(_MODELS)}")
        return _MODELS[kind].load(file)


def write_factor(path: str | os.PathLike[str], A: np.ndarray) -> None:
    """Write a factor as `.npy`.

    Parameters
    ----------
    path : path-like
        It ends with `.npy`.
    A : ndarray
        W or H.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        If the folder does not exist or is not writable, or `path` is a folder.
    ValueError
        If `path` has another ending, or A is an array of objects.

    See Also
    --------
    fastpmf.io.write_factors : both factors, with names.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from fastpmf.io import write_factor
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "W.npy"
    >>> write_factor(path, np.ones((3, 2)))
    >>> np.load(path).shape
    (3, 2)
    """
    check_output(path, ".npy", name="path")
    with atomic_write(path) as file:
        np.save(file, A, allow_pickle=False)


def write_factors(path: str | os.PathLike[str], W: Any, model: FactorModel, row_names: Any = None) -> None:
    """Write W and H with the names of rows and columns.

    Use `PoissonNMF.save` for a model that will be loaded again.

    Parameters
    ----------
    path : path-like
        `.npz`, with the arrays W (n, k), H (k, p) and, if there are any, row_names (n,), column_names (p,),
        component_names (k,), group_effects (n_groups, p) and group_names (n_groups,), for `numpy.load`; or `.h5ad`,
        with the result of `fastpmf.anndata.to_anndata`.
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

    See Also
    --------
    PoissonNMF.save : writes a model that can be loaded again.
    fastpmf.anndata.to_anndata : the same as an AnnData object.

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
    if Path(path).suffix == ".h5ad":
        from fastpmf.anndata import to_anndata  # imports pandas

        adata = to_anndata(W, model, names)
        with atomic_write(path) as file, import_optional("h5py", "anndata").File(file, "w") as h5:
            import_optional("anndata", "anndata").io.write_elem(h5, "/", adata)
        return
    arrays = {"W": W, "H": model.components_, "row_names": names}
    arrays |= {name: getattr(model, f"{name}_", None) for name in ("group_effects", "group_names")}
    if hasattr(model, "feature_names_in_"):
        arrays["column_names"] = model.feature_names_in_.astype(str)
    if getattr(model, "component_names_", None) is not None:
        arrays["component_names"] = model.component_names_.astype(str)
    with atomic_write(path) as file:
        np.savez_compressed(file, **{name: A for name, A in arrays.items() if A is not None})


def write_table(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table with a header.

    Parameters
    ----------
    path : path-like
        `.csv`, with fields separated by commas, or `.tsv`, by tabs.
    columns : sequence of str
        The header.
    rows : iterable of sequences
        Each as long as `columns`; values are written as `str` of them, None as "".

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        If the folder does not exist or is not writable, or `path` is a folder.
    ValueError
        If `path` has another ending.

    See Also
    --------
    fastpmf.io.write_factors : writes factors.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from fastpmf.io import write_table
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "topics.csv"
    >>> write_table(path, ["word", "weight"], [["tea", 0.7], ["jam", 0.3]])
    >>> path.read_text().splitlines()
    ['word,weight', 'tea,0.7', 'jam,0.3']
    """
    check_output(path, ".csv", ".tsv", name="path")
    delimiter = "\t" if Path(path).suffix == ".tsv" else ","
    with atomic_write(path) as file:
        file.writelines((csv_line(row, delimiter) + "\n").encode() for row in (columns, *rows))


def csv_line(row: Sequence[Any], delimiter: str = ",") -> str:
    """A line of CSV without its end; fields that hold any kind of line end are quoted."""
    line = io.StringIO()
    # Python quotes the characters of this line end
    csv.writer(line, delimiter=delimiter, lineterminator="\r\n").writerow(row)
    return line.getvalue().removesuffix("\r\n")


def check_output(path: str | os.PathLike[str], *endings: str, name: str) -> None:
    """Raise an error if a file can't be written or has none of these endings; `name` is the argument's name."""
    target = Path(path)
    if target.suffix not in endings:
        *others, last = endings
        expected = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} must be a {expected} file, got {target.name!r}")
    if target.is_dir():
        raise IsADirectoryError(f"{name} must be a file, {target} is a folder")
    check_folder(target)


def check_factors_path(path: str | os.PathLike[str], name: str = "path") -> None:
    """Raise an error if `write_factors` can't write to a path; `name` is the argument's name."""
    check_output(path, ".npz", ".h5ad", name=name)
    if Path(path).suffix == ".h5ad":
        import_optional("h5py", "anndata", "writing .h5ad")
        import_optional("anndata", "anndata", "writing .h5ad")
