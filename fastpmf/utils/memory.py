"""The memory limit of this process, and checks of array sizes that a file claims before they are allocated."""

import os
from collections.abc import Iterator

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MAX_COMPRESSION = 2_000  # decompressed bytes per stored byte; deflate reaches 1,032
UNCHECKED_BYTES = 1 << 26  # smaller arrays are not checked, as the limit is read from system files
_UNLIMITED = 1 << 62


def memory_limit() -> int:
    """Bytes that this process may allocate: the smallest of physical memory, cgroup limits and free address space."""
    limits = [_UNLIMITED, *_cgroup_limits()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if resource is not None:
        address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
        if address_space != resource.RLIM_INFINITY:
            pages = _read_text("/proc/self/statm").split()
            in_use = int(pages[0]) * os.sysconf("SC_PAGE_SIZE") if pages else 0
            limits.append(max(address_space - in_use, 0))
    return min(limits)


def check_memory_for(what: str, n_bytes: int, advice: str = "") -> None:
    """Raise a MemoryError if `what` needs more memory than the limit of this process."""
    if n_bytes > UNCHECKED_BYTES and n_bytes > (limit := memory_limit()):
        need, have = n_bytes / 2**30, limit / 2**30
        raise MemoryError(f"{what} needs at least {need:.3g} GiB, and this process may have {have:.3g} GiB{advice}")


def sizes_text(*sizes: int) -> list[str]:
    """Numbers of bytes in the one unit, KiB, MiB or GiB, that suits the largest of them."""
    units = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
    unit, size = next((unit for unit in units if max(sizes) >= unit[1]), units[-1])
    return [f"{n / size:,.2f} {unit}" for n in sizes]


def check_compression(n_bytes: int, stored_bytes: int) -> None:
    """Raise a ValueError if arrays of `n_bytes` cannot come from so few stored bytes."""
    if n_bytes > UNCHECKED_BYTES and n_bytes > MAX_COMPRESSION * stored_bytes:
        raise ValueError(
            f"it claims to hold {n_bytes / 2**30:,.1f} GiB, which is impossible for its {stored_bytes:,} bytes"
        )


def check_array_bytes(n_bytes: int, stored_bytes: int) -> None:
    """`check_compression`, and a ValueError if the arrays exceed this process's memory limit."""
    check_compression(n_bytes, stored_bytes)
    if n_bytes > (limit := memory_limit()):
        raise ValueError(f"it holds {n_bytes / 2**30:,.1f} GiB, and this process may have {limit / 2**30:,.1f} GiB")


def _cgroup_limits() -> Iterator[int]:
    """Memory limits of the cgroup of this process and its parents, as set by containers and batch systems."""
    for line in _read_text("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, name = (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes") if controllers else ("/sys/fs/cgroup", "memory.max")
        )
        parts = [part for part in path.split("/") if part]
        for n in range(len(parts), -1, -1):
            limit = _read_text("/".join([root, *parts[:n], name])).strip()
            if limit.isdigit():  # not "max", and the file exists
                yield int(limit)


def _read_text(path: str) -> str:
    """The text of a system file, or "" if there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return ""
