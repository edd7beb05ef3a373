"""What an object works out when it is first asked, and keeps."""

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

T = TypeVar("T")


class cached_property(functools.cached_property[T]):  # noqa: N801, it is the other's
    """`functools.cached_property` without the lock of Python 3.11, as it is from 3.12 on.

    That lock is one for all objects, and held while a property of one is worked out: fits in several threads would wait
    for each other, and a process forked meanwhile for ever.
    """

    def __init__(self, func: Callable[[Any], T]) -> None:
        super().__init__(func)
        self.lock = nullcontext()
