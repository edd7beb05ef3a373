"""File access: pipes that are read more than once, atomic replacement of files, and checked reading of `.npz`."""

import lzma
import math
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
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from fastpmf.utils.memory import check_array_bytes
from fastpmf.utils.progress import stage

STANDARD_INPUT = "-"
# Raised by zip, zlib, NumPy, JSON and C libraries for a damaged file; RecursionError is a RuntimeError
READ_ERRORS = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, SyntaxError, EOFError, OSError, MemoryError,
    RuntimeError, SystemError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip


@contextmanager
def regular_file(path: str | os.PathLike[str], *, standard_input: bool = False) -> Iterator[str | os.PathLike[str]]:
    """A path that can be opened several times: `path` itself, or a temporary copy of the contents of a pipe.

    Pipes are FIFOs, ``/dev/stdin``, a shell's ``<(command)``, and "-" if `standard_input` is true.
    """
    from_stdin = standard_input and os.fspath(path) == STANDARD_INPUT
    if not from_stdin and not is_pipe(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / (Path(path).name or "pipe")
        with copy.open("xb") as file:
            if from_stdin:
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


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raise an error if the folder of a path does not exist or is not writable."""
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no folder {target.parent} to write {target.name} in")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"the folder {target.parent.resolve()} can't be written to")


@contextmanager
def temporary_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of `path`; an OSError about the temporary path is raised as one about `path`."""
    target = Path(os.path.realpath(path))  # replace the target of a symbolic link, not the link
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
    except OSError as error:
        other_file = error.filename is not None and not os.fspath(error.filename).startswith(os.fspath(temporary))
        if error.errno is None or other_file:
            raise
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def remove(path: Path) -> None:
    """Remove a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` at the end of the block, or is removed if the block fails."""
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{os.fspath(path)} is a folder, not a file to write")
    check_folder(target)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666  # subject to the umask
    with temporary_path(path) as temporary, stage(f"writing {os.fspath(path)}"):
        try:
            # Readable, as HDF5 reads what it has written, and never with more permissions than the old file
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


@contextmanager
def open_npz(path: str | os.PathLike[str]) -> Iterator[tuple[Any, IO[bytes]]]:
    """The arrays of an `.npz` archive by name, each read on access, and the open file.

    Sizes are checked first, as NumPy allocates the size that the header of an array claims before it reads.
    """
    with regular_file(path) as regular, open(regular, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is empty, truncated or of another kind")
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            check_array_bytes(sum(member.file_size for member in members), os.fstat(file.fileno()).st_size)
            if len({member.filename.removesuffix(".npy") for member in members}) < len(members):
                raise ValueError("it holds two arrays of one name")
            for member in members:
                if member.header_offset < 0:
                    raise ValueError(f"its {member.filename} lies before its beginning")
                with archive.open(member) as array:
                    _check_header(array, member)
        file.seek(0)
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays, file


def _check_header(array: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Raise a ValueError if the header of an array claims more than its bytes hold."""
    if not member.filename.endswith(".npy"):
        return
    read_header = npy.read_array_header_1_0 if npy.read_magic(array) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read_header(array)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"its {member.filename} claims shape {shape}, which is impossible for its bytes")
