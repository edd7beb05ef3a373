"""Pipes, which can be read once only, copied to files that can be read several times."""

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
    """A path that can be opened several times: `path` itself, or a temporary copy of the contents of a pipe.

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
        except (ValueError, OSError) as error:  # messages name the path that the user gave
            error.args = tuple(a.replace(str(copy), os.fspath(path)) if isinstance(a, str) else a for a in error.args)
            raise


def is_pipe(path: str | os.PathLike[str]) -> bool:
    """Whether a path can be read once only; False if it does not exist."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    # On some systems a file opened through /dev/fd starts where its last reader stopped
    descriptor = os.path.abspath(path).startswith(("/dev/fd/", "/dev/stdin"))
    return not stat.S_ISDIR(mode) and (descriptor or not stat.S_ISREG(mode))
