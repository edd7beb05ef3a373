"""Model files of any estimator."""

import os
import zipfile

from fastpmf.estimators import HPF, PoissonNMF
from fastpmf.estimators._persistence import kind_of
from fastpmf.utils.files import READ_ERRORS, is_pipe, regular_file

_KINDS: dict[str, type[PoissonNMF] | type[HPF]] = {"PoissonNMF": PoissonNMF, "HPF": HPF}


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether a file is that of a fitted model, judged by its list of contents.

    Raises
    ------
    ValueError
        If `path` is a pipe, which can be read once only.
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
    """Read back what `PoissonNMF.save` or `HPF.save` wrote, whichever it was.

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
        No such file.
    ValueError
        Not a whole model file.

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
        if kind not in _KINDS:
            raise ValueError(f"{os.fspath(path)} holds a {kind}, expected one of {', '.join(_KINDS)}")
        return _KINDS[kind].load(file)
