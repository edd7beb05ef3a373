"""Whether results can be written where they are wanted, which is to be known before the work, not after it."""

import os
from pathlib import Path


def check_output(path: str | os.PathLike[str], *endings: str, name: str) -> None:
    """Refuse a file that can't be written, or that has none of these endings; `name` is what messages call it."""
    target = Path(path)
    if target.suffix not in endings:
        raise ValueError(f"{name} must be a {' or '.join(endings)} file, got {target.name!r}")
    if target.is_dir():
        raise IsADirectoryError(f"{name} must be a file, {target} is a folder")
    check_folder(target)


def check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a path whose folder is not there, or can't be written to."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} in")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"the folder {target.parent.resolve()} can't be written to")
