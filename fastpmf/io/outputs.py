"""Checks that results can be written to a path, for before the work that produces them."""

import os
from pathlib import Path

from fastpmf.utils.files import check_folder


def check_output(path: str | os.PathLike[str], *endings: str, name: str) -> None:
    """Raise an error if a file can't be written or has none of these endings; `name` is its name for messages."""
    target = Path(path)
    if target.suffix not in endings:
        raise ValueError(f"{name} must be a {' or '.join(endings)} file, got {target.name!r}")
    if target.is_dir():
        raise IsADirectoryError(f"{name} must be a file, {target} is a folder")
    check_folder(target)
