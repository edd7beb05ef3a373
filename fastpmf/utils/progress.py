"""Progress on standard error if `verbose` is true: a tqdm bar if tqdm is installed, else lines of text."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastpmf.utils.compilation import compilation_shown


def _tqdm() -> Any:
    """The class of tqdm's bars; None if tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm


@contextmanager
def progress_bar(total: int | None, unit: str, *, verbose: bool) -> Iterator[Callable[..., object]]:
    """A function to call when n more units, 1 by default, are done; it advances a bar if tqdm is installed."""
    with compilation_shown(verbose=verbose):
        if not verbose or (tqdm := _tqdm()) is None:
            yield lambda n=1: None
            return
        with tqdm(total=total, unit=unit, unit_scale=total is None, file=sys.stderr) as bar:
            yield bar.update


@contextmanager
def show_progress(
    callback: Callable[..., Any] | None, max_iter: int, *, verbose: bool, residual: str = "kkt_residual"
) -> Iterator[Callable[..., Any] | None]:
    """`callback`, which if `verbose` is true shows the progress of the fit at each call."""
    if not verbose:
        yield callback
        return
    tqdm = _tqdm()
    bar = None if tqdm is None else tqdm(total=max_iter, unit="it", file=sys.stderr, leave=True)

    def show(record: Any, W: np.ndarray, H: np.ndarray) -> Any:
        text = f"objective {record.objective:.6g} nats"
        if record.n_iter:
            text += f", {residual} {record.kkt_residual:.2g}"
        if bar is None:
            sys.stderr.write(f"iteration {record.n_iter:>5} of {max_iter}  {text}  {record.seconds:.1f} s\n")
        else:
            bar.set_postfix_str(text, refresh=False)
            bar.update(record.n_iter - bar.n)
        return None if callback is None else callback(record, W, H)

    try:
        with compilation_shown(verbose=True):
            yield show
    finally:
        if bar is not None:
            bar.close()
