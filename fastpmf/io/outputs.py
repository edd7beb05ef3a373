"""Checks that results can be written to a path, for before the work that produces them."""

import os
from pathlib import Path


def check_output(path: str | os.PathLike[str], *endings: str, name: str) -> None:
    """Raise an error if a file can't be written or has none of these endings; `name` is its name for messages."""
    target = Path(path)
    if target.suffix not in endings:
        raise ValueError(f"{name} must be a {' or '.join(endings)} file, got {target.name!r}")
    if target.is_dir():
        raise IsADirectoryError(f"{name} must be a file, {target} is a folder")
    check_folder(target)


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise an error if the folder of a path does not exist or is not writable."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} in")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"the folder {target.parent.resolve()} can't be written to")
