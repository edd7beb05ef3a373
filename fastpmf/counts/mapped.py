"""Files that counts are mapped from. Kernels read by bare pointers, so what is in them must stay what was checked."""

import os
from typing import Any, NamedTuple

import numpy as np


class Mapped(NamedTuple):
    """A file, and what the system said of it."""

    path: str
    told: tuple[int, int, int]

    def check(self) -> None:
        """Turn away a file that was written to. One that another took the place of is still mapped as it was.

        Raises
        ------
        ValueError
            It has another length, or was written later.
        """
        if (now := _told(self.path)) != self.told and now[0] == self.told[0]:
            raise ValueError(
                f"{self.path} was changed since it was read: it must stay as it is while its counts are used"
            )


def mapped_files(*arrays: np.ndarray) -> list[Mapped]:
    """Those that arrays are views of, and don't write to."""
    found = []
    for A in arrays:
        base: Any = A
        while base is not None and not isinstance(base, np.memmap):
            base = getattr(base, "base", None)
        if base is not None and base.filename is not None and base.mode in ("r", "c"):
            found.append(Mapped(os.fspath(base.filename), _told(base.filename)))
    return found


def _told(path: Any) -> tuple[int, int, int]:
    """Which file is there, how long it is, and when it was last written; which none is, is 0."""
    try:
        told = os.stat(path)
    except OSError:
        return 0, 0, 0
    return told.st_ino, told.st_size, told.st_mtime_ns
