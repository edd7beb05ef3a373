"""Shared by the scripts: command-line options, counts, timing, progress, tables with their provenance, figures."""

import argparse
import csv
import ctypes
import io
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

import fastpmf
from fastpmf._show_versions import collect_versions
from fastpmf.datasets import Dataset, load_stdlib
from fastpmf.io import read_counts
from fastpmf.kernels.threads import available_threads

PACKAGES = ("python", "numpy", "numba", "scikit-learn", "fastpmf")  # whose versions are in the tables

CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}

# Command line


def number(kind: type = float, low: float = -math.inf, high: float = math.inf, *, strict: bool = False) -> Callable:
    """An argparse type: a finite number from `low` to `high`, or strictly between; integers may be written as 1e7."""

    def parse(text: str) -> Any:
        value = float(text)
        inside = low < value < high if strict else low <= value <= high
        if not (math.isfinite(value) and inside and (kind is float or value.is_integer())):
            noun, bounds = ("an integer" if kind is int else "a number"), f"{'above' if strict else 'at least'} {low:g}"
            if math.isfinite(high):
                bounds = f"between {low:g} and {high:g}"
            raise argparse.ArgumentTypeError(f"must be {noun} {bounds}, got {text}")
        return kind(value)

    parse.__name__ = "number"  # in argparse's message for text that is not a number
    return parse


positive = number(float, 0, strict=True)
positive_int = number(int, 1)
seed_number = number(int, 0, 2**32 - 1)
fraction = number(float, 0, 1, strict=True)


def output_file(*suffixes: str) -> Callable[[str], str]:
    """An argparse type: a file with one of these suffixes in a folder that exists."""

    def parse(text: str) -> str:
        path = Path(text)
        if path.is_dir() or not path.parent.is_dir() or path.suffix.lower() not in suffixes:
            kinds = " or ".join(suffixes)
            raise argparse.ArgumentTypeError(f"must be a {kinds} file in an existing folder, got {text}")
        return text

    return parse


class Parser(argparse.ArgumentParser):
    """A parser with --csv and --png, whose default files are named after the script."""

    SHARED: ClassVar[dict[str, tuple[str, dict[str, Any]]]] = {
        "data": ("counts, in any format of fastpmf.io, instead of the words of Python's standard library", {}),
        "components": ("number of components", {}),
        "seeds": ("random seeds", {"type": seed_number}),
        "seed": ("random seed", {"type": seed_number}),
        "repeats": ("timings of each case, of which the median is taken", {}),
        "max_iter": ("iterations of each fit", {"type": positive_int}),
        "dtype": ("dtype of the factors", {"choices": ["float32", "float64"]}),
        "threads": ("threads; by default all that this process may use", {"type": positive_int}),
        "clock": ("what seconds are: wall-clock time, or processor time, which depends less on other processes; use it"
                  " with --threads 1", {"choices": [*CLOCKS]}),
    }  # fmt: skip

    def __init__(self, description: str, examples: str = "") -> None:
        super().__init__(
            description=description, epilog=f"examples:\n{examples}" if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        name = Path(sys.argv[0]).stem
        self.option("--csv", "table", f"{name}.csv", type=output_file(".csv"), metavar="FILE")
        picture = output_file(".png", ".svg")
        self.option("--png", "plot, needs matplotlib", f"{name}.png", type=picture, metavar="FILE")

    def option(self, flags: str, text: str, default: Any = None, **options: Any) -> None:
        """Add an option with this help text.

        If the default is a list, one or more values are allowed. Without a `type`, numbers must be positive.
        """
        values = default if isinstance(default, list) else [] if default is None else [default]
        if isinstance(default, list):
            options.setdefault("nargs", "+")
        if "choices" in options:
            options["metavar"], text = "NAME", f"{text}: {', '.join(options['choices'])}"
        elif values and not isinstance(values[0], str):
            options.setdefault("type", positive_int if isinstance(values[0], int) else positive)
        if values:
            text += "; default: " + ("all" if values == [*options.get("choices", ())] else " ".join(map(str, values)))
        options.setdefault("metavar", "N" if "type" in options else "FILE")
        self.add_argument(*flags.split(), default=default, help=text.replace("%", "%%"), **options)

    def shared(self, **defaults: Any) -> None:
        """Add options that several scripts have, by name, with these defaults."""
        for name, default in defaults.items():
            text, options = self.SHARED[name]
            flags = "-k --components" if name == "components" else f"--{name.replace('_', '-')}"
            self.option(flags, text, default, **options)


def read_matrices(parser: argparse.ArgumentParser, files: Sequence[str] | None) -> dict[str, Any]:
    """Counts by the names of their files, by default Python's words; exits with an error if they can't be fitted."""
    try:
        matrices = {Path(file).stem: read_counts(file).X for file in files or ()} or {"stdlib": load_stdlib().X}
        empty = [name for name, X in matrices.items() if fastpmf.as_counts(X).total == 0]
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    if files and len(matrices) < len(files):
        parser.error("--data must be files with different names, which are in the tables")
    if empty:
        parser.error(f"the counts are all zero in {', '.join(empty)}")
    return matrices


# Measuring


def timed(call: Callable[[], Any], clock: str = "wall") -> tuple[Any, float]:
    """The result of a call and its time in seconds."""
    now = CLOCKS[clock]
    start = now()
    result = call()
    return result, now() - start


def peak_memory(call: Callable[[], object]) -> float:
    """Peak memory of a call in bytes, beyond that of the process before it; NaN if the system doesn't report it."""

    def high_water_mark() -> int:
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(status["VmHWM"].split()[0]) * 1024

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # memory that is free but not returned would be reused, uncounted
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = high_water_mark()
    except (OSError, KeyError):
        call()
        return math.nan
    call()
    return high_water_mark() - before


def available_memory() -> float:
    """Bytes that can be allocated without swapping; 4 GiB if the system doesn't report it."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * float(lines["MemAvailable"].split()[0])
    except (OSError, KeyError):
        return 2.0**32


def version_of(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def random_start(X: Any, k: int, seed: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Random W and H with entries between 0.1 and 1 before they are scaled so that W H sums to the total of X."""
    rng = np.random.default_rng(seed)
    W, H = rng.uniform(0.1, 1, (X.shape[0], k)), rng.uniform(0.1, 1, (k, X.shape[1]))
    scale = math.sqrt(float(X.sum()) / float(W.sum(axis=0) @ H.sum(axis=1)))
    return (scale * W).astype(dtype), (scale * H).astype(dtype)


def seconds_per_iteration(trace: Any, first: int, last: int) -> float:
    """Seconds of an iteration, from the records of two iterations in a fit's trace.

    Do not use the last record: its time includes the final evaluation of the fit.
    """
    seconds = dict(zip(trace["n_iter"].tolist(), trace["seconds"].tolist(), strict=True))
    return (seconds[last] - seconds[first]) / (last - first)


def slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope of log y against log x and its standard error; NaN if there are too few points."""
    a, b = np.log(x), np.log(y)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = a[finite] - a[finite].mean(), b[finite] - b[finite].mean()
    if len(a) < 2 or not a.any():
        return math.nan, math.nan
    best = float(a @ b / (a @ a))
    error = math.sqrt(float(((b - best * a) ** 2).sum()) / (len(a) - 2) / float(a @ a)) if len(a) > 2 else math.nan
    return best, error


def group(rows: Iterable[Any], *columns: str) -> dict[tuple, list]:
    """Rows grouped by their values in these columns, in order of first occurrence."""
    groups: dict[tuple, list] = {}
    for row in rows:
        get = row.__getitem__ if isinstance(row, dict) else row.__getattribute__
        groups.setdefault(tuple(get(column) for column in columns), []).append(row)
    return groups


# Output


def echo(line: str = "") -> None:
    """Print a line and flush it, above the progress bar if there is one."""
    tqdm = sys.modules.get("tqdm")
    with tqdm.tqdm.external_write_mode() if tqdm else nullcontext():
        print(line, flush=True)  # noqa: T201


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[..., object]]:
    """A function to call after each of `total` steps, which advances a progress bar if tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield lambda n=1: None
    else:
        with tqdm(total=total, unit=unit, file=sys.stderr, leave=False) as bar:
            yield bar.update


def collect(
    batches: Iterable[list], total: int, arguments: argparse.Namespace, *, unit: str = "fit", counts: Mapping = {},
    show: str = "", digits: int = 4,
) -> list:  # fmt: skip
    """Collect the rows of a study, with a progress bar over `total` batches.

    After each batch the CSV file is written, so that it has all complete batches if the study is interrupted, and the
    columns named in `show` are printed.
    """
    rows: list = []
    names = show.split()
    line = "".join(f"{{:>{max(len(name), digits + 5) + 2}}}" for name in names)
    with progress(total, unit) as advance:
        for batch in batches:
            if names and batch and not rows:
                echo(line.format(*names))
            rows += batch
            for row in batch if names else ():
                values = (getattr(row, name) for name in names)
                echo(line.format(*(format_number(x, digits) if isinstance(x, float) else str(x)[:20] for x in values)))
            if rows:
                write_table(arguments.csv, rows[0]._fields, rows, counts)
            advance()
    return rows


def conclude(
    arguments: argparse.Namespace, plot: Callable[[Any], None], sentences: Iterable[str], size: tuple = (7, 4.5)
) -> int:
    """Print the path of the table, save the figure, and print the verdict; returns the exit status of a study."""
    echo(f"\ntable: {arguments.csv}")
    save_figure(arguments.png, plot, size)
    echo()
    for sentence in sentences:
        echo(sentence)
    return 0


def warning_of_load() -> list[str]:
    """A sentence if other processes use the processors, else none; to be called before a study begins."""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    text = f"Other processes used the {cores} cores when this study began (load {load:.1f}), so times are too long."
    return [text] if load > max(0.5, 0.1 * cores) else []


def format_number(x: float, digits: int = 3) -> str:
    """A number with `digits` significant digits; a dash for NaN."""
    return f"{x:.{digits}g}" if x == x else "-"


def format_range(values: Iterable[float], form: str) -> str:
    """The smallest and the largest of the values, or one number if they look the same."""
    ends = sorted(values)
    return " to ".join(dict.fromkeys(format(x, form) for x in (ends[0], ends[-1])))


def describe(X: Any) -> str:
    """Shape and nonzeros of a sparse matrix."""
    return f"{X.shape[0]:,} × {X.shape[1]:,}, {format_size(X.nnz)} nonzeros"


def format_size(n: int) -> str:
    """A number of nonzeros, such as 2.7 M or 23,866."""
    return f"{n / 1e6:,.1f} M" if n >= 5e4 else f"{n:,}"


def save_figure(path: str, plot: Callable[[Any], None], size: tuple = (7, 4.5)) -> None:
    """Save a figure that `plot` draws on; prints a message if matplotlib is missing."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        echo("no plot: matplotlib is not installed")
        return
    figure = Figure(layout="constrained", figsize=size)
    plot(figure)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastpmf"}):  # text stays text, and names are reproducible
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.lower().endswith(".svg") else None)
    echo(f"plot: {path}")


def grid(figure: Any, n: int, columns: int = 3, size: tuple[float, float] | None = (4.2, 3.4)) -> list:
    """Axes for n panels, at most `columns` side by side, of this size in inches; None leaves the figure's size."""
    columns = min(n, columns)
    rows = -(-n // columns)
    if size:
        figure.set_size_inches(size[0] * columns, 0.6 + size[1] * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for spare in axes[n:]:
        spare.set_axis_off()
    return axes[:n]


# Tables


class Table(NamedTuple):
    """A CSV file: facts about how it was made, names of the columns, rows of strings."""

    facts: dict[str, str]
    columns: list[str]
    rows: list[dict[str, str]]


def write_table(path: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], counts: Mapping = {}) -> None:
    """Write a CSV file that begins with lines "# name: fact": command, machine, versions, and descriptions of `counts`.

    The file is replaced atomically. NaN becomes an empty cell.
    """
    facts = provenance() | {f"counts {name}": describe(X) for name, X in counts.items()}
    text = io.StringIO(newline="")
    text.writelines(f"# {name}: {fact}\n" for name, fact in facts.items())
    csv.writer(text, lineterminator="\n").writerows([columns, *([None if x != x else x for x in row] for row in rows)])
    temporary = Path(f"{path}.part")
    temporary.write_text(text.getvalue(), encoding="utf-8", newline="")
    temporary.replace(path)


def read_table(path: str) -> Table:
    """Read a file that `write_table` wrote."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    n_facts = next((i for i, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    facts = dict(line[2:].split(": ", 1) for line in lines[:n_facts] if ": " in line)
    reader = csv.DictReader(lines[n_facts:])
    return Table(facts, list(reader.fieldnames or ()), list(reader))


def typed_rows(table: Table, kind: type) -> list:
    """The rows of a table as named tuples of this kind, which the study's `plot` and `verdict` take."""
    types = {"int": int, "float": float, "str": str}
    hints = {name: types.get(hint, hint) for name, hint in kind.__annotations__.items()}

    def value(name: str, cell: str) -> Any:
        if hints[name] is str:
            return cell
        return hints[name](float(cell)) if cell else math.nan

    return [kind(**{name: value(name, cell) for name, cell in row.items()}) for row in table.rows]


def provenance() -> dict[str, str]:
    """Command, machine and versions of this process."""
    script = Path(sys.argv[0])
    folder = f"{parent}/" if (parent := script.resolve().parent.name) in ("examples", "tools") else ""
    # Names of files, without the folders of this machine
    words = [Path(word).name if os.sep in word else word for word in sys.argv[1:]]
    facts = collect_versions()
    return {
        "command": shlex.join(["python", f"scripts/{folder}{script.name}", *words]),
        "machine": f"{cpu_name()} ({facts['cpu'].split(',')[0]}), {available_threads()} cores in use",
        "versions": ", ".join(f"{name} {facts[name]}" for name in PACKAGES),
        **load_of_others(),
    }


def processor_seconds() -> tuple[float, float, float] | None:
    """Wall-clock time, and processor seconds of this process with its ended children and of the whole system."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, fields)
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), sum(os.times()[:4]), busy


AT_START = processor_seconds()


def load_of_others() -> dict[str, str]:
    """The share of the machine's cores that other processes have used since this process began."""
    now = processor_seconds()
    if AT_START is None or now is None:
        return {}
    seconds, own, busy = (b - a for a, b in zip(AT_START, now, strict=True))
    cores = os.cpu_count() or 1
    share = min(max((busy - own) / (cores * seconds), 0), 1)
    return {"load": f"other processes used {share:.0%} of the machine's {cores} cores"}


def cpu_name() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


# Counts with names, for the examples


def name_options(parser: Parser, rows: str, columns: str) -> None:
    """Add --data, and --rows and --columns for names, if the file has none."""
    parser.option("--data", f"counts, {rows} x {columns}")
    for option, what in (("rows", rows), ("columns", columns)):
        parser.option(f"--{option}", f"names of the {what}: the last tab-separated field of each line")


def read_dataset(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    default: Callable[[], Dataset],
    row: str,
    column: str,
) -> Dataset:
    """Counts and names, from files or the default; exits with an error if they do not match."""
    if arguments.data is None and (arguments.rows or arguments.columns):
        parser.error("--rows and --columns are names for the counts of --data")
    try:
        found = default() if arguments.data is None else read_counts(arguments.data)
        X = fastpmf.as_counts(found.X, name=arguments.data or "counts").to_scipy().tocsr()
        names = [
            read_names(file, n) if file else [f"{noun} {i + 1}" for i in range(n)] if known is None else known
            for file, known, noun, n in zip(
                (arguments.rows, arguments.columns), (found.row_names, found.column_names), (row, column), X.shape,
                strict=True,
            )
        ]  # fmt: skip
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    if not X.sum() or (X.data % 1).any():
        parser.error(f"{arguments.data or 'the counts'} must be integers, not all zero")
    if arguments.components > min(X.shape):
        parser.error(f"--components must be at most {min(X.shape)}, got {arguments.components}")
    return Dataset(X, *map(np.asarray, names))


def read_names(file: str, n: int) -> np.ndarray:
    """The last field of each of n lines."""
    with open(file, encoding="utf-8") as lines:
        names = [line.rstrip("\n").split("\t")[-1].strip() for line in lines]
    if len(names) != n:
        raise ValueError(f"{file} must have {n:,} lines, got {len(names):,}")
    return np.array(names)


def rates_at(W: np.ndarray, H: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(W H)_ij of the given entries."""
    rates = np.zeros(rows.shape)
    for w, h in zip(W.T, H, strict=True):
        rates += w[rows] * h[columns]
    return rates
