"""`show_versions`: the facts about an installation and its machine that a bug report should say."""

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
        Where to; standard output by default.
    """
    facts = facts_of_versions()
    width = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:>{width}}: {fact}", file=file or sys.stdout)


def facts_of_versions() -> dict[str, str]:
    """What `show_versions` prints."""
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
