"""What a file may have allocated: what its bytes can be, and this machine can hold.

Nothing that a file says of its own size is believed: it is held against these before anything is allocated.
"""

import os

RATIO = 2_000  # bytes that a stored byte may become: more than deflate can, and real counts never come near
_SMALL = 1 << 26


def memory() -> int:
    """Bytes of this machine's memory; a great many where it doesn't say."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return 1 << 62
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_stored(n_bytes: int, stored: int) -> None:
    """Turn away arrays that so few stored bytes can't be."""
    if n_bytes > _SMALL and n_bytes > RATIO * stored:
        raise ValueError(f"it says that it holds {n_bytes / 2**30:,.1f} GiB, which its {stored:,} bytes can't be")


def check_room(n_bytes: int, stored: int) -> None:
    """Turn away arrays that this machine can't hold either."""
    check_stored(n_bytes, stored)
    if n_bytes > memory():
        raise ValueError(f"it holds {n_bytes / 2**30:,.1f} GiB, and this machine has {memory() / 2**30:,.1f} GiB")
