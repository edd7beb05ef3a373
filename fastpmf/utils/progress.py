"""Progress on standard error: a bar if tqdm is installed, else a line for each evaluation."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fastpmf.utils.compilation import compilation_shown


@contextmanager
def counted(total: int | None, unit: str, *, verbose: bool) -> Iterator[Callable[..., object]]:
    """A function to call when n more units are done, 1 by default: it moves a bar where tqdm is installed."""
    with compilation_shown(verbose=verbose):
        try:
            from tqdm.auto import tqdm
        except ImportError:
            verbose = False
        if not verbose:
            yield lambda n=1: None
            return
        with tqdm(total=total, unit=unit, unit_scale=total is None, file=sys.stderr) as bar:
            yield bar.update


@contextmanager
def progress_observer(
    max_iter: int, *, verbose: bool, residual: str = "kkt_residual"
) -> Iterator[Callable[..., None] | None]:
    """An observer that shows objective and residual at each record of a fit; None unless `verbose`.

    `residual` is the name of the residual.
    """
    if not verbose:
        yield None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError:
        bar = None
    else:
        bar = tqdm(total=max_iter, unit="it", file=sys.stderr, leave=True)

    def show(record: Any, *_: Any) -> None:
        text = f"objective {record.objective:.6g} nats"
        if record.n_iter:
            text += f", {residual} {record.kkt_residual:.2g}"
        if bar is None:
            sys.stderr.write(f"iteration {record.n_iter:>5} of {max_iter}  {text}  {record.seconds:.1f} s\n")
        else:
            bar.set_postfix_str(text, refresh=False)
            bar.update(record.n_iter - bar.n)

    try:
        with compilation_shown(verbose=True):
            yield show
    finally:
        if bar is not None:
            bar.close()
