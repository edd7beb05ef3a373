"""Pipes, which can be read once only, copied to files that can be read several times."""

import lzma
import os
import secrets
import shutil
import stat
import struct
import sys
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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


# What zip, zlib, NumPy and JSON raise over damaged files
DAMAGE = (
    ValueError,
    LookupError,
    EOFError,
    OSError,
    TypeError,
    AttributeError,
    RuntimeError,  # with NotImplementedError and RecursionError
    SystemError,  # of libraries in C
    ArithmeticError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise an error if the folder of a path does not exist or is not writable."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} in")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"the folder {target.parent.resolve()} can't be written to")


@contextmanager
def beside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name for what will take the place of `path`; what the system says of it, or of no file, is told of `path`."""
    target = Path(os.path.realpath(path))  # what a symbolic link points to is replaced, not the link
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
    except OSError as error:
        named = error.filename is not None and not os.fspath(error.filename).startswith(os.fspath(temporary))
        if error.errno is None or named:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def remove(path: Path) -> None:
    """Have no such file or folder, however often Ctrl-C strikes meanwhile; then that is raised."""
    struck: KeyboardInterrupt | None = None
    while os.path.lexists(path):
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except KeyboardInterrupt as error:
            struck = error
    if struck is not None:
        raise struck


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` when all is written, and vanishes when anything fails."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{os.fspath(path)} is a folder, not a file to write")
    check_folder(target)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666  # less what the umask takes
    with beside(path) as temporary:
        try:
            # HDF5 reads what it writes; who may not read the old file may not read the new one while it is written
            with open(temporary, "x+b", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                os.chmod(temporary, mode)
            os.replace(temporary, target)
        except BaseException:
            remove(temporary)
            raise
