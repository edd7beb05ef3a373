"""Model files: one `.npz` of arrays and a JSON header, without pickle."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf.fitting.early_stopping import VALIDATION_DTYPE
from fastpmf.fitting.seeds import SeededPrior
from fastpmf.solvers.base import TRACE_DTYPE
from fastpmf.utils.files import READ_ERRORS, atomic_write, open_npz
from fastpmf.utils.messages import printable

FORMAT, VERSION = "fastpmf model", 1
Facts = dict[str, Any]


def write_model(
    path: str | os.PathLike[str], kind: str, parameters: Facts, arrays: dict[str, np.ndarray], facts: Facts
) -> None:
    """Write a model file.

    Parameters
    ----------
    path : path-like
    kind : str
        Class name of the estimator.
    parameters : dict
        Constructor parameters; those that JSON can't represent are left out, and loaded as their defaults.
    arrays : dict of str to ndarray
        No object arrays.
    facts : dict
        Fitted attributes that JSON can represent. Matrices within them, and within parameters, are stored as arrays.

    Raises
    ------
    ValueError
        If the name does not end in .npz.
    """
    matrices: dict[str, np.ndarray] = {}
    target = Path(path)
    if target.suffix != ".npz" and not target.is_dir():
        raise ValueError(f"path must be a .npz file, got {target.name!r}")
    header = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "parameters": {
            name: plain
            for name, value in parameters.items()
            if _is_plain(plain := to_json(_without_matrices(value, matrices)))
        },
        "facts": {name: to_json(_without_matrices(value, matrices)) for name, value in facts.items()},
    }
    arrays = arrays | matrices
    with atomic_write(path) as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


def read_model(path: str | os.PathLike[str], kind: str) -> tuple[Facts, dict[str, np.ndarray], Facts]:
    """Read a model file of `kind`: parameters, arrays, facts.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or of another kind or version.
    """
    with _opened(path) as (header, stored):
        arrays = {name: stored[name] for name in stored.files if name != "header"}
        parameters, facts = (
            {name: _with_matrices(value, arrays) for name, value in header[part].items()}
            for part in ("parameters", "facts")
        )
    if (header.get("kind"), header.get("version")) != (kind, VERSION):
        raise ValueError(
            f"{os.fspath(path)} holds a model of class {_field(header, 'kind')} and format version "
            f"{_field(header, 'version')}, expected {kind} and version {VERSION}; fastpmf.io.load_model reads all "
            "classes"
        )
    return parameters, arrays, facts


def _field(header: Facts, name: str) -> str:
    return printable(header.get(name))[:80]


def kind_of(path: str | os.PathLike[str]) -> str:
    """Class name of the estimator whose model file this is; errors as in `read_model`."""
    with _opened(path) as (header, _):
        return _field(header, "kind")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[Facts, Any]]:
    """Header and arrays of a model file; errors of a damaged file, also in the `with` block, become a ValueError."""
    try:
        with open_npz(path) as (stored, _):
            if "header" not in stored.files:
                raise ValueError(f"it holds {', '.join(stored.files)}")
            header = json.loads(str(stored["header"]))
            if header["format"] != FORMAT:
                raise ValueError("its header is of another format")
            yield header, stored
    except READ_ERRORS as error:
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"no file {os.fspath(path)}") from None
        if isinstance(error, IsADirectoryError):
            raise IsADirectoryError(f"{os.fspath(path)} is a folder, not a model file") from None
        if isinstance(error, PermissionError):
            raise
        raise damaged_model(path, error) from None


def damaged_model(path: str | os.PathLike[str], error: BaseException) -> ValueError:
    """The error for a damaged model file."""
    reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) and error.args else error
    return ValueError(f"{os.fspath(path)} is not a valid fastpmf model file: {printable(reason)[:300]}")


def with_seeded_prior(parameters: Facts, arrays: dict[str, np.ndarray], name: str) -> Facts:
    """The parameters with a `SeededPrior` in place of its shape and rate, if the file has its names."""
    if "prior_features" not in arrays:
        return parameters
    shape, rate = parameters[name]
    labels = [arrays[f"prior_{part}"].astype(object) for part in ("components", "features")]
    if shape.shape != (sizes := tuple(map(len, labels))):
        raise ValueError(f"a prior of shape {shape.shape} with names of {sizes}")
    return parameters | {name: SeededPrior(shape, rate, *labels)}


def checked_curves(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray | None]:
    """The attributes trace_, restarts_ and validation_, with their dtypes checked; there may be no validation."""
    dtypes = {"trace": TRACE_DTYPE, "restarts": np.dtype(float), "validation": VALIDATION_DTYPE}
    found = {name: arrays[name] for name in dtypes if name != "validation" or name in arrays}
    for name, A in found.items():
        if A.ndim != 1 or A.dtype != dtypes[name]:
            raise ValueError(f"{name} of {A.dtype} and shape {A.shape}")
    if len(found["trace"]) and not len(found["restarts"]):  # partial_fit has neither
        raise ValueError("no restarts")
    return {f"{name}_": found.get(name) for name in dtypes}


def checked_names(arrays: dict[str, np.ndarray], n: int, part: str = "feature_names_in") -> np.ndarray | None:
    """Names of features or rows; None if the file has none."""
    names = arrays.get(part)
    if names is None:
        return None
    if names.shape != (n,) or names.dtype.kind != "U":
        raise ValueError(f"its {part} has {names.size} names of {names.dtype} for {n}")
    return names.astype(object)


def to_json(value: Any) -> Any:
    """A value with NumPy scalars as Python numbers, arrays as lists, and dtypes as their names."""
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return np.dtype(value).name
    if isinstance(value, tuple | list):
        return [to_json(element) for element in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value


_MATRIX = "matrix_"  # and a number: the name of a matrix in the file, and what stands for it in the header


def _without_matrices(value: Any, matrices: dict[str, np.ndarray]) -> Any:
    """A value whose matrices are moved to `matrices`."""
    if isinstance(value, tuple | list):
        return [_without_matrices(element, matrices) for element in value]
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "biuf":
        name = f"{_MATRIX}{len(matrices)}"
        matrices[name] = value
        return [name]
    return value


def _with_matrices(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of `_without_matrices`."""
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], str) and value[0].startswith(_MATRIX):
            return arrays[value[0]]
        return [_with_matrices(element, arrays) for element in value]
    return value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
