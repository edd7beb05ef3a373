"""Count the kernels' instructions per nonzero, for machines on which times are too noisy."""

import argparse
import csv
import ctypes
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastpmf import MemoryCounts, as_counts
from fastpmf.core.counts import Side, Subproblem
from fastpmf.core.factors import column_sums, empty_factor, padded
from fastpmf.model.updates import multiplicative

sys.path.insert(0, str(Path(__file__).parents[2] / "asv_benchmarks"))
from benchmarks.common import power_law

DESCRIPTION = """\
Run the kernels under valgrind --tool=callgrind and print how many instructions each takes per nonzero of a power law.
The numbers are the same on a busy machine, but they are not times: cache misses are not counted, and a division counts
as one instruction.

Valgrind doesn't support AVX-512, so LLVM compiles for another CPU, by default Haswell, with vectors of 32 bytes;
compare numbers for the same CPU only. One thread is used. The kernels are compiled first, into a temporary cache. Each
kernel is counted between two marks, minus the instructions of the same call on a matrix with a single count. Starting
Python under valgrind takes one or two minutes, each case some seconds.
"""
KERNELS = ("ratio_contract", "log_rate", "multiply", "descend")
COLUMNS = ("kernel", "k", "dtype", "instructions/nonzero")
MARK = "qsort_r"  # callgrind counts inside this function only; the process does not call it otherwise


def main() -> int:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", nargs="+", choices=KERNELS, default=KERNELS, metavar="NAME",
                        help=f"of {', '.join(KERNELS)}; default: all")  # fmt: skip
    parser.add_argument("-k", "--components", type=int, nargs="+", default=[20, 100], help="default: %(default)s")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--counts", type=int, default=50_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--cpu", default="haswell", help="that LLVM compiles for; default: %(default)s")
    parser.add_argument("--csv", metavar="FILE", help="also write the table there")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # the process that is counted
    arguments = parser.parse_args()
    if min(*arguments.components, arguments.counts // 1_000) < 1:
        parser.error("--components must be at least 1, and --counts at least 1000")
    cases = [
        (kernel, k, dtype) for kernel in arguments.kernel for k in arguments.components for dtype in arguments.dtype
    ]
    counts = as_counts(power_law(arguments.counts))
    if arguments.inside:
        run(cases, counts)
        os._exit(0)  # without the interpreter's own sorting at exit, which would add marks
    if shutil.which("valgrind") is None:
        print("valgrind is not installed; scripts/roofline.py measures time instead.", file=sys.stderr)  # noqa: T201
        return 2
    totals = count([sys.executable, __file__, *sys.argv[1:], "--inside"], arguments.cpu)
    rows = [(*case, f"{n:.2f}") for case, n in zip(cases, per_nonzero(totals, len(cases), counts.nnz), strict=True)]
    for row in (COLUMNS, *rows):
        print("{:<15}{:>5} {:>8} {:>21}".format(*row))  # noqa: T201
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
    return 0


def run(cases: list[tuple[str, int, str]], counts: MemoryCounts) -> None:
    """Call each kernel on one count and on all of them, first to compile it and then between two marks."""
    calls = [prepare(case, X) for case in cases for X in (as_counts(np.ones((1, 1), np.int32)), counts)]
    for call in calls:
        call()
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    for call in calls:
        # Sorting two bytes compares them once: the comparison is the kernel's call, and callgrind sees where it ends
        ctypes.CDLL(None).qsort(ctypes.create_string_buffer(2), ctypes.c_size_t(2), ctypes.c_size_t(1), compare(call))


def prepare(case: tuple[str, int, str], counts: MemoryCounts) -> Callable[..., int]:
    """The kernel on these counts, as a comparison function that returns 0."""
    kernel, k, dtype = case
    rng = np.random.default_rng(0)
    # In [0.5, 1.5), so that no rate is near 0
    U, V = (padded(rng.random((m, k)) + 0.5, np.dtype(dtype)) for m in counts.shape)
    S, out = (empty_factor(len(U), k, U.dtype) for _ in range(2))
    subproblem = Subproblem(Side.ROWS, k, V, column_sums(V)[None])
    counts.contract(Side.ROWS, U, V, S)
    calls = {
        "ratio_contract": lambda: counts.contract(Side.ROWS, U, V, out),
        "log_rate": lambda: counts.log_rate(U, V),
        "multiply": lambda: multiplicative(subproblem, U, S, out),
        # sweeps and zero are those of the solver
        "descend": lambda: counts.descend(subproblem, U, out, sweeps=2, zero=1e-11),
    }

    def call(*_: int) -> int:
        calls[kernel]()
        return 0

    return call


def count(command: list[str], cpu: str) -> list[int]:
    """Instructions between the marks of a command under callgrind."""
    one = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, **one, "NUMBA_CACHE_DIR": folder, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
        subprocess.run(command, env=env, check=True)  # compiles
        callgrind = ["valgrind", "--tool=callgrind", f"--toggle-collect={MARK}", f"--dump-after={MARK}"]
        dumps = Path(folder) / "callgrind"
        subprocess.run(
            [*callgrind, f"--callgrind-out-file={dumps}", *command], env=env, check=True, capture_output=True
        )
        # callgrind.1, callgrind.2, ...; and callgrind for the rest, where nothing is counted
        numbered = sorted(dumps.parent.glob("callgrind.*"), key=lambda path: int(path.suffix[1:]))
        return [total_of(path.read_text()) for path in numbered]


def total_of(dump: str) -> int:
    """Instructions in one of callgrind's dumps."""
    return int(re.search(r"^totals: (\d+)$", dump, re.MULTILINE)[1])


def per_nonzero(totals: list[int], n_cases: int, nnz: int) -> list[float]:
    """Instructions per nonzero from the last totals, two for each case: with one nonzero and with all of them."""
    last = totals[-2 * n_cases :]  # Python itself sorts when it starts
    return [(many - one) / (nnz - 1) for one, many in zip(last[::2], last[1::2], strict=True)]


if __name__ == "__main__":
    sys.exit(main())
