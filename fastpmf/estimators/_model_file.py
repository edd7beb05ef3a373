"""Model files: one `.npz` of arrays and a JSON text, no pickle; every file is written whole or not at all."""

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

FORMAT, VERSION = "fastpmf model", 1


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when all is written, and vanishes when anything fails."""
    target = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent or ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # mkstemp's are for the owner alone; a result is an ordinary file
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def write_model(
    path: str | os.PathLike, kind: str, parameters: dict, arrays: dict[str, np.ndarray], facts: dict
) -> None:
    """Write a model file.

    Parameters
    ----------
    path : path-like
    kind : str
        Class name of the estimator.
    parameters : dict
        Constructor parameters; those that JSON can't say are left out, and so come back as their defaults.
    arrays : dict of str to ndarray
        No object arrays.
    facts : dict
        Fitted attributes that JSON can say.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "parameters": {name: value for name, value in parameters.items() if _is_plain(value)},
        "facts": facts,
    }
    with replacing(path) as file:
        np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


def read_model(path: str | os.PathLike, kind: str) -> tuple[dict, dict[str, np.ndarray], dict]:
    """Read a model file of `kind` back: parameters, arrays, facts.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not a whole model file of this kind and version.
    """
    try:
        with open(path, "rb") as file:
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("a lone array")
            header = json.loads(str(stored["header"]))
            arrays = {name: stored[name] for name in stored.files if name != "header"}
        if header["format"] != FORMAT:
            raise KeyError("format")
        parameters, facts = header["parameters"], header["facts"]
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ValueError(f"{os.fspath(path)} is not a whole fastpmf model file: {error}") from None
    if (header.get("kind"), header.get("version")) != (kind, VERSION):
        raise ValueError(
            f"{os.fspath(path)} holds a {header.get('kind')} of format version {header.get('version')}, "
            f"expected a {kind} of version {VERSION}"
        )
    return parameters, arrays, facts


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
