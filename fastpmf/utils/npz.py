"""NumPy's `.npz`, opened so that nothing which it says of itself is believed."""

import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from fastpmf.utils.files import regular_file
from fastpmf.utils.memory import check_room


@contextmanager
def opened_npz(path: str | os.PathLike[str]) -> Iterator[tuple[Any, IO[bytes]]]:
    """Its arrays by name, which are unpacked when they are asked for, and the file itself.

    Raises
    ------
    ValueError
        No archive, two arrays of one name, or arrays larger than what is packed there, or than this process may have.
    """
    with regular_file(path) as regular, open(regular, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError("it is empty, truncated or of another kind")
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            check_room(sum(member.file_size for member in members), os.fstat(file.fileno()).st_size)
            if len({member.filename.removesuffix(".npy") for member in members}) < len(members):
                raise ValueError("it holds two arrays of one name")
            for member in members:
                if member.header_offset < 0:
                    raise ValueError(f"its {member.filename} lies before its beginning")
                with archive.open(member) as array:
                    _check_size(array, member)
        file.seek(0)
        with np.load(file, allow_pickle=False) as stored:
            yield stored, file


def _check_size(array: IO[bytes], member: zipfile.ZipInfo) -> None:
    """NumPy allocates what the head of an array says, before it looks for that much."""
    if not member.filename.endswith(".npy"):
        return
    read = npy.read_array_header_1_0 if npy.read_magic(array) == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(array)
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"its {member.filename} says that it has shape {shape}, which its bytes can't be")
