"""How much memory this process may have, whoever sets the limit, and what a file may have allocated of it.

Nothing that a file says of its own size is believed: it is held against these before anything is allocated.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

RATIO = 2_000  # bytes that a stored byte may become: more than deflate can, and real counts never come near
SMALL = 1 << 26  # bytes that need no check, which would read files of the system
_PLENTY = 1 << 62


def memory() -> int:
    """Bytes that this process may hold: of the machine, of its cgroup, and of what is left of its address space.

    A great many where nothing says so.
    """
    limits = [_PLENTY, *_of_cgroups()]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if resource is not None:
        most, _ = resource.getrlimit(resource.RLIMIT_AS)
        if most != resource.RLIM_INFINITY:
            mapped = _told("/proc/self/statm").split()
            limits.append(max(most - int(mapped[0]) * os.sysconf("SC_PAGE_SIZE") if mapped else most, 0))
    return min(limits)


def check_stored(n_bytes: int, stored: int) -> None:
    """Turn away arrays that so few stored bytes can't be."""
    if n_bytes > SMALL and n_bytes > RATIO * stored:
        raise ValueError(f"it says that it holds {n_bytes / 2**30:,.1f} GiB, which its {stored:,} bytes can't be")


def check_room(n_bytes: int, stored: int) -> None:
    """Turn away arrays that this process can't hold either."""
    check_stored(n_bytes, stored)
    if n_bytes > memory():
        raise ValueError(f"it holds {n_bytes / 2**30:,.1f} GiB, and this process may have {memory() / 2**30:,.1f} GiB")


def _of_cgroups() -> Iterator[int]:
    """The limits of this process's control group and of those around it, as containers and batch systems set them."""
    for line in _told("/proc/self/cgroup").splitlines():
        _, kinds, place = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, name = ("memory", "memory.limit_in_bytes") if kinds else ("", "memory.max")
        inner = PurePosixPath(place.lstrip("/"))
        for folder in (inner, *inner.parents):
            limit = _told(Path("/sys/fs/cgroup", root, folder, name)).strip()
            if limit.isdigit():  # else "max", or nothing
                yield int(limit)


def _told(path: str | Path) -> str:
    """What a file of the system says; nothing where it isn't there."""
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""
