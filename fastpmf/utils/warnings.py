"""Warnings that point to the user's line of code."""

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

# Packages whose frames may be between the user's line and the warning
_BETWEEN = ("fastpmf", "sklearn", "joblib", "dask", "distributed")


def _folder(package: str) -> str | None:
    """The folder of a package, ending with a separator; None if it is not installed."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else str(Path(spec.origin).parent) + os.sep


_SKIPPED = (*filter(None, map(_folder, _BETWEEN)), contextlib.__file__)


_hidden = ContextVar("hidden", default=False)


@contextlib.contextmanager
def without_fit_warnings() -> Iterator[None]:
    """No warnings of empty components and missing convergence in this thread; filters of other threads stay."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def fit_warnings_hidden() -> bool:
    """Whether this is inside of `without_fit_warnings`."""
    return _hidden.get()


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """`warnings.warn` that names the line from which fastpmf was called.

    Frames of fastpmf, scikit-learn, joblib, Dask and `contextlib` are skipped, as `skip_file_prefixes` of Python 3.12
    would. If there are no other frames, as in a worker process, the warning names the outermost one.
    """
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and frame.f_back is not None and frame.f_code.co_filename.startswith(_SKIPPED):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
