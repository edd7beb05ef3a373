"""A clock that is stopped while kernels are compiled or loaded."""

import threading
from time import perf_counter
from typing import Any

from numba.core import event

COMPILING = "numba:compiler_lock"  # Numba's event around a compilation, including the wait for another thread's


class _Compilations(event.Listener):
    """Seconds that each thread has spent compiling."""

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
        """Seconds that this thread has spent compiling so far."""
        return getattr(self._of_thread, "seconds", 0.0)


_compilations = _Compilations()
event.register(COMPILING, _compilations)


class Clock:
    """Seconds since the clock was started, not counting those in which the calling thread compiled kernels.

    Parameters
    ----------
    seconds : float, default=0.0
        Reading at the start.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._began = perf_counter() - _compilations.seconds - seconds

    def seconds(self) -> float:
        """The current reading."""
        return max(0.0, perf_counter() - _compilations.seconds - self._began)
