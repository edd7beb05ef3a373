"""A report on a fitted model, as one HTML file."""

import html
import os
from pathlib import Path
from typing import Any

from sklearn.utils import check_scalar

from fastpmf.utils.extras import import_optional
from fastpmf.utils.files import atomic_write


def write_report(
    model: Any, path: str | os.PathLike[str], X: Any = None, W: Any = None, *, n_top: int = 10, title: str | None = None
) -> Path:
    """Write the report; see `FactorModel.report`."""
    import_optional("matplotlib", "plot", "report")
    check_scalar(n_top, "n_top", (int,), min_val=1)
    k, p = model.components_.shape
    heading = html.escape(title or f"{type(model).__name__}, {k} components of {p:,} features")
    page = f"<!doctype html>\n<meta charset=utf-8>\n<title>{heading}</title>\n<h1>{heading}</h1>\n"
    with atomic_write(path) as file:
        file.write(page.encode())
    return Path(path)
