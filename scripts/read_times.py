"""Seconds and memory to read counts from each format: fastpmf, and the library that people read it with."""

import argparse
import math
import multiprocessing
import shutil
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from file_formats import CASES, version
from provenance import write_table
from scipy import sparse
from studying import (
    add_outputs,
    available_memory,
    check_outputs,
    clocked,
    draw,
    from_to,
    others_busy,
    peak_memory,
    progress,
    tell,
    whole_number,
)

from fastpmf import as_counts
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import convert_counts, read_counts

DESCRIPTION = """\
Draw counts from the model, one entry in a hundred not zero, and write them in each format. Then read the file with
fastpmf.io.read_counts, and with the library that people read it with, to a compressed sparse matrix: what comes
in coordinates is compressed by scipy, and ids get numbers from pandas.factorize. Both, and
fastpmf.io.convert_counts, which writes the folder that is memory-mapped, take turns in one process, after each
has read a small file; seconds are medians over the turns, ratio is theirs to those of read_counts. as_counts is
what is then left to do before a fit, of the folder. The system still holds the files in memory, as it has just
written them: no disk's speed is in this.

Peak memory is that of a call above what its process held before, each in a fresh one that has read the small
file. Of arrays that are mapped, pages count while they are in memory, though the system can take them back.

All must read the same matrix: the same sum, nonzeros and product u X v with whole numbers u and v. A dash is for a
library that isn't installed.
"""
EXAMPLES = """\
examples:
  python scripts/read_times.py --nnz 1e6
  python scripts/read_times.py --formats mtx csv parquet --turns 5 --folder /scratch
"""
LINE = "{:<10}{:>8}{:>9}{:>10}{:>7}{:>10}{:>8}{:>12}{:>10}{:>11}  {}"
HEAD = ["format", "MiB", "ours, s", "theirs, s", "ratio", "peak MiB", "theirs"]
HEAD += ["convert, s", "peak MiB", "as_counts", "theirs is"]
SMALL = 200  # rows of the file that is read first
DISK, MEMORY = 100, 400  # bytes for each nonzero that the largest files, and who reads them, need at most
OURS, CONVERT, THEIRS = "read_counts", "convert_counts", "theirs"


class Line(NamedTuple):
    """A line of the table. Sizes and peaks are in MiB; what the incumbent would have, were it installed, is NaN."""

    counts: str
    format: str
    incumbent: str
    file_mib: float
    seconds: float
    incumbent_seconds: float
    ratio: float
    peak_mib: float
    incumbent_peak_mib: float
    convert_seconds: float
    convert_peak_mib: float
    as_counts_seconds: float
    nonzeros: int
    total: float


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nnz", type=whole_number, default=10_000_000, help="nonzeros to expect; default: 1e7")
    parser.add_argument(
        "--formats", nargs="+", choices=[*CASES], default=[*CASES], metavar="NAME", help=f"of {', '.join(CASES)}"
    )
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the draw; default: %(default)s")
    parser.add_argument(
        "--folder",
        default=tempfile.gettempdir(),
        metavar="DIR",
        help="where files are for a while; default: %(default)s",
    )
    add_outputs(parser, "read_times")
    arguments = parser.parse_args()
    check(parser, arguments)
    warnings.simplefilter("ignore")
    n, p = (round(side * math.sqrt(arguments.nnz / 1e7)) for side in (50_000, 20_000))
    # int32, which all libraries write; skewed, as words and genes are
    X = make_poisson_counts(n, p, nnz=arguments.nnz, skew=0.5, random_state=arguments.seed).X.astype(np.int32)
    lines, busy = [], others_busy()
    tell(LINE.format(*HEAD))
    with progress(len(arguments.formats), "format") as tick:
        for name in arguments.formats:
            if missing := [library for library in CASES[name].needs if version(library) is None]:
                tell(f"{name:<10}left out: {', '.join(missing)} is not installed")
            else:
                with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                    lines.append(measure(name, X, Path(folder), arguments.turns))
                tell_line(lines[-1])
                write_table(arguments.csv, Line._fields, lines, {"drawn": X})  # as it goes: outlives an interruption
            tick()
    if not lines:
        parser.error("the libraries that --formats need are not installed")
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, lines), figsize=(7, 1 + 0.5 * len(lines)))
    tell()
    for sentence in [*verdict(lines), *busy]:
        tell(sentence)
    return 0


def check(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Turn away what can't be run, before anything is; name every format once."""
    if arguments.turns < 1:
        parser.error("--turns must be at least 1")
    if arguments.nnz < 10_000:
        parser.error("--nnz must be at least 10,000")
    if not 0 <= arguments.seed < 2**32:
        parser.error(f"--seed must be from 0 to 2**32 - 1, got {arguments.seed}")
    if not Path(arguments.folder).is_dir():
        parser.error(f"--folder must be a folder that exists, got {arguments.folder}")
    check_outputs(parser, arguments)
    free = shutil.disk_usage(arguments.folder).free
    for where, each, there in (("in --folder", DISK, free), ("in memory", MEMORY, available_memory())):
        if each * arguments.nnz > there:
            needed, found = (f"{size / 2**30:,.1f} GiB" for size in (each * arguments.nnz, there))
            parser.error(f"--nnz must be such that its files have room {where}, they need up to {needed} of {found}")
    arguments.formats = list(dict.fromkeys(arguments.formats))


def measure(name: str, X: sparse.csr_array, folder: Path, turns: int) -> Line:
    """Write one format, see that all read it alike, and clock them."""
    case = CASES[name]
    for place, part in (("small", X[:SMALL]), ("large", X)):
        (folder / place).mkdir()
        case.write(folder / place / case.file, part)
    size = sum(path.stat().st_size for path in (folder / "large").rglob("*") if path.is_file())
    readers = [OURS, CONVERT, *([THEIRS] if version(case.library) else [])]
    for reader in readers:
        as_counts(read(name, reader, folder / "small"))
    prints = {reader: fingerprint(read(name, reader, folder / "large")) for reader in readers}
    drawn = fingerprint(X)
    same = slice(2 if case.renumbered else 3)
    if len({*prints.values()}) > 1 or prints[OURS][same] != drawn[same]:
        raise ValueError(f"{name} is not read as it was written: sum, nonzeros and u X v are {prints}, not {drawn}")
    clock: dict[str, list[float]] = {reader: [] for reader in (*readers, "as_counts")}
    for _ in range(turns):
        for reader in readers:
            found, seconds = clocked(partial(read, name, reader, folder / "large"))
            clock[reader].append(seconds)
            if reader == CONVERT:
                clock["as_counts"].append(clocked(partial(as_counts, found))[1])
            del found  # before the next one reads
    # Two at a time: a peak does not depend on what else runs
    with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as fresh:
        found = fresh.starmap(peak, [(name, reader, folder) for reader in readers], chunksize=1)
    peaks = dict(zip(readers, found, strict=True))
    told = {reader: median(seconds) for reader, seconds in clock.items()}
    theirs = told.get(THEIRS, math.nan)
    return Line(
        "drawn", name, f"{case.library} {version(case.library) or '-'} {case.function}", size / 2**20, told[OURS],
        theirs, theirs / told[OURS], peaks[OURS], peaks.get(THEIRS, math.nan), told[CONVERT], peaks[CONVERT],
        told["as_counts"], X.nnz, drawn[0],
    )  # fmt: skip


def read(name: str, reader: str, place: Path) -> Any:
    """The matrix in a file, by one of the readers."""
    path = place / CASES[name].file
    if reader == THEIRS:
        return CASES[name].read(path)
    return (read_counts(path) if reader == OURS else convert_counts(path, place.with_suffix(".npy"))).X


def peak(name: str, reader: str, folder: Path) -> float:
    """MiB that reading takes, in a process that has read the small file."""
    warnings.simplefilter("ignore")
    read(name, reader, folder / "small")
    return peak_memory(partial(read, name, reader, folder / "large")) / 2**20


def fingerprint(X: Any) -> tuple[float, int, float]:
    """Sum, nonzeros and u X v, exact in float64; rows and columns without counts at the end change nothing."""
    u, v = (np.arange(1.0, m + 1) % prime for m, prime in zip(X.shape, (8191, 4093), strict=True))
    return float(X.sum(dtype=np.float64)), int(X.nnz), float(u @ (X.astype(np.float64) @ v))


def tell_line(line: Line) -> None:
    """Print a line of the table."""
    forms = [".1f", ".3f", ".3f", ".2f", ".0f", ".0f", ".3f", ".0f", ".4f"]
    numbers = line[Line._fields.index("file_mib") : Line._fields.index("nonzeros")]
    told = ["-" if math.isnan(x) else format(x, form) for x, form in zip(numbers, forms, strict=True)]
    tell(LINE.format(line.format, *told, line.incumbent))


def verdict(lines: list[Line]) -> list[str]:
    """What came of it, in words."""
    raced = [line for line in lines if line.ratio == line.ratio]
    if not raced:
        return ["None of the other libraries is installed."]
    ahead, least = sum(line.ratio >= 1 for line in raced), min(raced, key=lambda line: line.ratio)
    ratios = from_to((line.ratio for line in raced), ".2f")
    peaks = from_to((line.incumbent_peak_mib / line.peak_mib for line in raced if line.peak_mib), ".2f")
    return [
        f"Of {len(raced)} formats fastpmf reads {ahead} sooner; the others take {ratios} times its seconds, least for "
        f"{least.format}.",
        f"Their peak memory is {peaks} times its.",
    ]


def paint(figure: Any, lines: list[Line]) -> None:
    """Seconds to read: a pair of bars for each format."""
    axes = figure.subplots()
    for i, (label, seconds) in enumerate(
        (("fastpmf", [line.seconds for line in lines]), ("incumbent", [line.incumbent_seconds for line in lines]))
    ):
        axes.barh([y + 0.4 * i for y in range(len(lines))], seconds, 0.4, label=label)
    axes.set_yticks([y + 0.2 for y in range(len(lines))], [f"{line.format}\n{line.incumbent}" for line in lines])
    axes.tick_params(axis="y", labelsize="small")
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="seconds to read")
    figure.legend(loc="outside upper center", ncols=2)


if __name__ == "__main__":
    sys.exit(main())
