"""Import of optional dependencies, which the extras of `pip install` install."""

import importlib
from typing import Any


def import_optional(module: str, extra: str, feature: str = "this format") -> Any:
    """Import a module of an optional dependency; the ImportError names the extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.partition(".")[0]
        raise ImportError(f"{feature} needs {library}: pip install 'fastpmf[{extra}]'") from None
