"""Pipes, which can be read once only, as files that can be read as often as a reader needs."""

import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STANDARD_INPUT = "-"


@contextmanager
def regular_file(path: str | os.PathLike[str], *, standard_input: bool = False) -> Iterator[str | os.PathLike[str]]:
    """A path that can be opened several times: `path` itself, or for as long as it is needed a copy of what a pipe has.

    Parameters
    ----------
    path : path-like
        Of a file, a folder, or a pipe: a FIFO, ``/dev/stdin``, or a shell's ``<(command)``.
    standard_input : bool, default=False
        Whether "-" is standard input.
    """
    streamed = standard_input and os.fspath(path) == STANDARD_INPUT
    if not streamed and not is_pipe(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / (Path(path).name or "pipe")
        with copy.open("xb") as file:
            if streamed:
                shutil.copyfileobj(sys.stdin.buffer, file)
            else:
                with open(path, "rb") as pipe:
                    shutil.copyfileobj(pipe, file)
        try:
            yield copy
        except (ValueError, OSError) as error:  # what is said of the copy is said of what the user named
            error.args = tuple(_renamed(a, copy, path) for a in error.args)
            raise


def _renamed(said: object, copy: Path, path: str | os.PathLike[str]) -> object:
    return said.replace(os.fspath(copy), os.fspath(path)) if isinstance(said, str) else said


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether a path is something that can be read once only; not where nothing is."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    # Some systems open a file that is in /dev/fd where its last reader stopped
    descriptor = os.path.abspath(path).startswith(("/dev/fd/", "/dev/stdin"))
    return not stat.S_ISDIR(mode) and (descriptor or not stat.S_ISREG(mode))
