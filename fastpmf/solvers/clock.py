"""The clock of a fit, which stands still while kernels are compiled or loaded."""

import threading
from time import perf_counter
from typing import Any

from numba.core import event

COMPILING = "numba:compiler_lock"  # Numba's event around all that a compilation does, waiting for another included


class _Compilations(event.Listener):
    """Seconds that each thread has spent in compilations."""

    def __init__(self) -> None:
        self._of_thread = threading.local()

    def on_start(self, _: Any) -> None:
        here = self._of_thread
        here.depth = getattr(here, "depth", 0) + 1
        if here.depth == 1:
            here.began = perf_counter()

    def on_end(self, _: Any) -> None:
        here = self._of_thread
        here.depth -= 1
        if here.depth == 0:
            here.seconds = self.seconds + perf_counter() - here.began

    @property
    def seconds(self) -> float:
        """Of this thread so far."""
        return getattr(self._of_thread, "seconds", 0.0)


_compilations = _Compilations()
event.register(COMPILING, _compilations)


class Clock:
    """Seconds since it was made, without those in which the thread that asks compiled kernels.

    Parameters
    ----------
    seconds : float, default=0.0
        What it shows at the start.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._began = perf_counter() - _compilations.seconds - seconds

    def seconds(self) -> float:
        """What it shows now."""
        return max(0.0, perf_counter() - _compilations.seconds - self._began)
