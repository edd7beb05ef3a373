"""Tables that say how they came about: CSV files that begin with the command, the machine and the versions."""

import csv
import io
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding as llvm

from fastpmf import __version__
from fastpmf.kernels._jit import available_threads
from fastpmf.utils.files import atomic_write

PACKAGES = ("numpy", "numba", "scikit-learn")


class Table(NamedTuple):
    """What a file holds: facts by name, names of the columns, and rows of strings."""

    facts: dict[str, str]
    columns: list[str]
    rows: list[dict[str, str]]


def write_table(path: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], counts: Mapping = {}) -> None:
    """A CSV file after lines "# name: fact"; `counts` are the matrices by the names that the rows have for them.

    What was not measured, a NaN, is left empty.
    """
    facts = provenance() | {f"counts {name}": describe(X) for name, X in counts.items()}
    text = io.StringIO(newline="")
    text.writelines(f"# {name}: {fact}\n" for name, fact in facts.items())
    csv.writer(text).writerows([columns, *([None if x != x else x for x in row] for row in rows)])
    with atomic_write(path) as file:  # whole or not at all: a study that is cut off here keeps its last table
        file.write(text.getvalue().encode())


def read_table(path: str) -> Table:
    """What `write_table` wrote; a file without facts has none."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    n_facts = next((i for i, line in enumerate(lines) if not line.startswith("# ")), len(lines))
    facts = dict(line[2:].split(": ", 1) for line in lines[:n_facts] if ": " in line)
    reader = csv.DictReader(lines[n_facts:])
    return Table(facts, list(reader.fieldnames or ()), list(reader))


def provenance() -> dict[str, str]:
    """Command, machine and versions of this process."""
    # Of paths only the names, so that no folder of one machine gets into a README
    words = [Path(word).name if os.sep in word else word for word in sys.argv[1:]]
    versions = {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
    return {
        "command": shlex.join(["python", f"scripts/{Path(sys.argv[0]).name}", *words]),
        "machine": f"{cpu_name()} ({llvm.get_host_cpu_name()}), {available_threads()} cores in use",
        "versions": ", ".join(f"{name} {v}" for name, v in (versions | {"fastpmf": __version__}).items()),
    }


def cpu_name() -> str:
    """As the system calls the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def describe(X: Any) -> str:
    """Shape and nonzeros of a sparse matrix, or of counts."""
    return f"{X.shape[0]:,} × {X.shape[1]:,}, {rounded(X.nnz)} nonzeros"


def rounded(n: int) -> str:
    """As one says it: 2.7 M, but 23,866."""
    return f"{n / 1e6:,.1f} M" if n >= 5e4 else f"{n:,}"
