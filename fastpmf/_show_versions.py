"""`show_versions`: versions and properties of the machine for bug reports."""

import os
import platform
import sys
from importlib import metadata
from typing import TextIO

import llvmlite.binding as llvm
from numba.core import config

from fastpmf._version import __version__
from fastpmf.kernels.threads import available_threads, threading_layer

_PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "scikit-learn", "tqdm", "matplotlib", "dask", "distributed")


def show_versions(file: TextIO | None = None) -> None:
    """Print versions, the CPU and its vectors, the threading layer and the number of threads.

    Parameters
    ----------
    file : text file, default=None
        File to write to; standard output by default.

    See Also
    --------
    warmup : compiles the kernels.

    Examples
    --------
    >>> from fastpmf import show_versions
    >>> show_versions()  # doctest: +ELLIPSIS
              fastpmf: ...
    """
    versions = collect_versions()
    width = max(map(len, versions))
    for name, value in versions.items():
        print(f"{name:>{width}}: {value}", file=file or sys.stdout)


def collect_versions() -> dict[str, str]:
    """The names and values that `show_versions` prints."""
    features = llvm.get_host_cpu_features()
    bits = next(
        (b for name, b in (("avx512f", 512), ("avx", 256), ("sse2", 128), ("neon", 128)) if features.get(name)), 0
    )
    return {
        "fastpmf": __version__,
        "python": sys.version.split()[0],
        **{name: _version(name) for name in _PACKAGES},
        "system": platform.platform(),
        "cpu": f"{llvm.get_host_cpu_name()}, {os.cpu_count()} logical",
        "vector width": f"{bits} bit" if bits else "unknown",
        "threading layer": threading_layer() or "none, serial",
        "threads": f"{available_threads()} available to this process, {config.NUMBA_NUM_THREADS} at most",
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
