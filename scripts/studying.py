"""What the studies share: a bar, a clock, the counts, where a table and a picture go, memory and its peak, slopes."""

import argparse
import ctypes
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf import as_counts
from fastpmf.datasets import load_stdlib
from fastpmf.io import read_counts


def tell(line: str = "") -> None:
    """Print a line as soon as it is known; a bar makes way for it."""
    bars = sys.modules.get("tqdm")  # imported where there is one
    with bars.tqdm.external_write_mode() if bars else nullcontext():
        print(line, flush=True)  # noqa: T201


def others_busy() -> list[str]:
    """A sentence where other processes keep the machine busy before a study begins; else, or if none can tell, none."""
    try:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    except (AttributeError, OSError):
        return []
    said = f"Others kept the {cores} cores busy when this began (load {load:.1f}): times are the worse for it."
    return [said] if load > max(0.5, 0.1 * cores) else []


@contextmanager
def progress(total: int, unit: str = "turn") -> Iterator[Callable]:
    """What to call `total` times; a bar, where tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda: None
    else:
        with tqdm(total=total, unit=unit, file=sys.stderr, leave=False) as bar:
            yield bar.update


def clocked(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began


def read_matrices(parser: argparse.ArgumentParser, files: Sequence[str] | None) -> dict[str, Any]:
    """Counts by the names of their files, or the words of Python; turn away what can't be fitted."""
    try:
        matrices = {Path(file).stem: read_counts(file).X for file in files or ()} or {"stdlib": load_stdlib().X}
        empty = [name for name, X in matrices.items() if as_counts(X).total == 0]
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    if files and len(matrices) < len(files):
        parser.error("--data must be files of different names: tables know counts by them")
    if empty:
        parser.error(f"the counts are all zero in {', '.join(empty)}")
    return matrices


def refuse_exact_fit(parser: argparse.ArgumentParser, best: float, total: float, dtype: str) -> None:
    """End where the lowest objective is rounding, in counts that sum to `total`."""
    if best <= np.finfo(dtype).eps * total:
        parser.error("the counts are fitted exactly, and gaps relative to 0 say nothing; fewer components, -k")


def from_to(values: Iterable[float], form: str) -> str:
    """The least and the largest of some numbers, or the one that they are."""
    ends = sorted(values)
    return " to ".join(dict.fromkeys(format(x, form) for x in (ends[0], ends[-1])))


def whole_number(text: str) -> int:
    """An argument that is one, 1e7 included."""
    if not float(text).is_integer():
        raise ValueError(text)
    return int(float(text))


def add_outputs(parser: argparse.ArgumentParser, name: str) -> None:
    """The options --csv and --png."""
    parser.add_argument("--csv", default=f"{name}.csv", metavar="FILE", help="default: %(default)s")
    parser.add_argument(
        "--png", default=f"{name}.png", metavar="FILE", help="or .svg; needs matplotlib; default: %(default)s"
    )


def check_outputs(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Turn away paths that can't be written, before anything has run."""
    for option, suffixes in (("csv", [".csv"]), ("png", [".png", ".svg"])):
        path = Path(getattr(arguments, option))
        if path.is_dir() or not path.parent.is_dir() or path.suffix.lower() not in suffixes:
            parser.error(f"--{option} must be a {' or '.join(suffixes)} file in a folder that exists, got {path}")


def draw(path: str, paint: Callable[[Any], None], **options: Any) -> None:
    """Have `paint` fill a figure, and write it; say so where there is no matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        tell("no picture: matplotlib is not installed")
        return
    figure = Figure(layout="constrained", **options)
    paint(figure)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastpmf"}):  # text as text, and no random names
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.lower().endswith(".svg") else None)
    tell(f"picture: {path}")


def peak_memory(call: Callable[[], object]) -> float:
    """Bytes that a call needs at its peak above what the process holds before; NaN where the system can't tell."""

    def high_water_mark() -> int:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before, and would be used again, must not hide anything
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the mark comes down to what is held now
        before = high_water_mark()
    except (OSError, KeyError):
        call()
        return math.nan
    call()
    return high_water_mark() - before


def available_memory() -> float:
    """Bytes that can be had without swapping; where the system can't tell, four GiB."""
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * float(told["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return 2.0**32


def slope(x: list[float], y: list[float]) -> tuple[float, float]:
    """Of log y against log x by least squares, and its standard error; NaN where there are too few points."""
    a, b = np.log(x), np.log(y)
    kept = np.isfinite(a) & np.isfinite(b)
    a, b = a[kept] - a[kept].mean(), b[kept] - b[kept].mean()
    if len(a) < 2 or not a.any():
        return math.nan, math.nan
    best = float(a @ b / (a @ a))
    error = math.sqrt(float(((b - best * a) ** 2).sum()) / (len(a) - 2) / float(a @ a)) if len(a) > 2 else math.nan
    return best, error
