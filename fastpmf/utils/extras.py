"""Libraries that not everybody needs, which the extras of `pip install` bring."""

import importlib
from typing import Any


def needed(module: str, extra: str, what: str = "this format") -> Any:
    """A module of a library that belongs to an extra, or a sentence that says how to have it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise ImportError(f"{what} needs {library}: pip install 'fastpmf[{extra}]'") from None
