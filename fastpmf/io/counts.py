"""Count matrices from files: scipy's `.npz` and Matrix Market `.mtx`, plain or gzipped."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from scipy import io, sparse

from fastpmf.estimators._model_file import replacing


def read_counts(path: str | os.PathLike) -> Any:
    """Read a sparse matrix of counts.

    Parameters
    ----------
    path : path-like
        `.npz` as `scipy.sparse.save_npz` writes it, or Matrix Market `.mtx` or `.mtx.gz`; by its ending.

    Returns
    -------
    sparse array of shape (n_rows, n_columns)

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Another ending, or not a whole file of its format.
    """
    path = Path(path)
    name = path.name.lower()
    if not name.endswith((".npz", ".mtx", ".mtx.gz")):
        raise ValueError(f"COUNTS must be a .npz, .mtx or .mtx.gz file, got {path.name!r}")
    if path.is_dir():
        raise IsADirectoryError(f"COUNTS must be a file, {path} is a folder")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    if name.endswith(".npz") and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a whole scipy.sparse .npz file: it is empty, truncated or of another kind")
    try:
        if name.endswith(".npz"):
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                if "format" not in stored.files:
                    raise ValueError(f"it holds {', '.join(stored.files)}, not a sparse matrix")
            return sparse.load_npz(path)
        return sparse.csr_array(io.mmread(path, spmatrix=False))
    except (ValueError, KeyError, EOFError, OSError, TypeError, zipfile.BadZipFile, zlib.error, OverflowError) as error:
        kind = "scipy.sparse .npz" if name.endswith(".npz") else "Matrix Market"
        raise ValueError(f"{path} is not a whole {kind} file: {error}") from None


def write_factor(path: str | os.PathLike, A: np.ndarray) -> None:
    """Write a factor as `.npy`; it replaces `path` whole or not at all."""
    if Path(path).suffix != ".npy":
        raise ValueError(f"OUTPUT must be a .npy file, got {Path(path).name!r}")
    with replacing(path) as file:
        np.save(file, A, allow_pickle=False)
