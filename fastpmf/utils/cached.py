"""A property that is computed once for each object."""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

T = TypeVar("T")


class cached_property(functools.cached_property[T]):  # noqa: N801, as in functools
    """`functools.cached_property` without the lock that Python 3.11 has, and Python 3.12 removed.

    The lock is shared by all objects: fits in several threads would wait for each other, and a process forked while it
    is locked would wait forever.
    """

    def __init__(self, func: Callable[[Any], T]) -> None:
        super().__init__(func)
        self.lock = nullcontext()
