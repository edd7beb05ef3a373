"""Whether results can be written where they are wanted, which is to be known before the work, not after it."""

import os
from pathlib import Path

from fastpmf.estimators._model_file import check_folder


def check_output(path: str | os.PathLike[str], *endings: str, name: str) -> None:
    """Refuse a file that can't be written, or that has none of these endings; `name` is what messages call it."""
    target = Path(path)
    if target.suffix not in endings:
        raise ValueError(f"{name} must be a {' or '.join(endings)} file, got {target.name!r}")
    if target.is_dir():
        raise IsADirectoryError(f"{name} must be a file, {target} is a folder")
    check_folder(target)
