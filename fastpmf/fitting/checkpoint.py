"""Checkpoints: all that a fit under way depends on, in files of which a torn one is never read."""

import json
import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf.solvers import Run
from fastpmf.solvers.base import Memory
from fastpmf.utils.files import READ_ERRORS, atomic_write, open_npz
from fastpmf.utils.messages import brief
from fastpmf.utils.warnings import warn

FORMAT, VERSION, KEPT = "fastpmf checkpoint", 1, 2
_NAME = re.compile(r"checkpoint-(\d+)\.npz")


@dataclass(frozen=True)
class Checkpoint:
    """Where a fit leaves what it can go on from, and how often.

    Each is a file that appears whole or not at all; the last two are kept. `fit(X, resume=folder)` then goes on, to the
    same bits as if nothing had happened. Where one can't be written, as on a full disk, a warning says so, and the fit
    goes on.

    Parameters
    ----------
    folder : path-like
        Made if it is not there. A fit that doesn't resume from it wants it without checkpoints.
    minutes : float, default=10.0
        One is written after the first iteration that ends so long after the one before.
    iterations : int, optional
        One is written after every so many iterations too.

    Raises
    ------
    TypeError, ValueError
        minutes < 0 or iterations < 1, or neither a number.

    Examples
    --------
    >>> import tempfile
    >>> from fastpmf import Checkpoint, PoissonNMF, datasets
    >>> X = datasets.make_poisson_counts(200, 30, 3, nnz=2_000, random_state=0).X
    >>> folder = tempfile.mkdtemp()
    >>> told = dict(n_components=3, random_state=0, tol=0)
    >>> _ = PoissonNMF(max_iter=20, **told).fit(X, checkpoint=Checkpoint(folder, iterations=5))
    >>> model = PoissonNMF(max_iter=40, **told).fit(X, resume=folder)
    >>> model.n_iter_
    40
    """

    folder: str | os.PathLike[str]
    minutes: float = 10.0
    iterations: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.folder, str | os.PathLike):
            raise TypeError(f"folder must be a path, got {type(self.folder).__name__}")
        if isinstance(self.minutes, bool) or not isinstance(self.minutes, int | float | np.number):
            raise TypeError(f"minutes must be a number >= 0, got {brief(self.minutes)}")
        if math.isnan(self.minutes) or self.minutes < 0:
            raise ValueError(f"minutes must be a number >= 0, got {self.minutes}")
        if self.iterations is not None and not (isinstance(self.iterations, int | np.integer) and self.iterations >= 1):
            raise ValueError(f"iterations must be a whole number >= 1 or None, got {brief(self.iterations)}")


class Saver:
    """Writes the checkpoints of one fit, and reads the one to go on from.

    Parameters
    ----------
    checkpoint : Checkpoint, path-like or None
        As `fit` is given it; a path is `Checkpoint(path)`. None, and `resume` given: that folder.
    resume : path-like or None
    facts : dict
        What must be the same in a fit that goes on, as JSON can say it.

    Attributes
    ----------
    memory : Memory or None
        What to go on from.

    Raises
    ------
    FileNotFoundError
        `resume` holds no checkpoint.
    FileExistsError
        The folder to write to holds those of another fit.
    NotADirectoryError
        What is to be that folder is a file.
    ValueError
        `resume` holds those of a fit of other counts, or with other parameters; or no whole one.
    PermissionError
        The folder can't be written to.
    """

    def __init__(self, checkpoint: Any, resume: Any, facts: dict[str, Any]) -> None:
        if not isinstance(checkpoint, str | os.PathLike | Checkpoint | None):
            raise TypeError(f"checkpoint must be a path or a Checkpoint, got {brief(checkpoint)}")
        if not isinstance(resume, str | os.PathLike | None):
            raise TypeError(f"resume must be a path, got {brief(resume)}")
        given: Any = resume if checkpoint is None else checkpoint
        self._schedule = given if isinstance(given, Checkpoint) else Checkpoint(given)
        self._folder, self._facts = Path(self._schedule.folder), facts
        self.memory = None if resume is None else _latest(Path(resume), facts)
        if (resume is None or Path(resume).resolve() != self._folder.resolve()) and _found(self._folder):
            raise FileExistsError(
                f"checkpoint: {self._folder} holds checkpoints of another fit; go on from them with resume, or take "
                "another folder"
            )
        if self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(f"checkpoint must be a folder, and {self._folder} is a file")
        self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK):
            raise PermissionError(f"checkpoint: the folder {self._folder} can't be written to")
        self._saved = time.monotonic()

    def keep(self, run: Run) -> None:
        """Write one if it is time."""
        every = self._schedule.iterations
        if (every and run.n_iter % every == 0) or time.monotonic() - self._saved >= 60 * self._schedule.minutes:
            try:
                self._write(run)
            except OSError as error:  # the fit is worth more than its checkpoint
                warn(f"a checkpoint could not be written, and the fit goes on without it: {error}", RuntimeWarning)
            self._saved = time.monotonic()

    def _write(self, run: Run) -> None:
        with atomic_write(self._folder / f"checkpoint-{run.n_iter:08d}.npz") as file:
            header = json.dumps({"format": FORMAT, "version": VERSION, "facts": self._facts})
            np.savez(file, header=np.array(header), **run.remember())  # type: ignore[arg-type]
        for path in _found(self._folder)[KEPT:]:
            path.unlink(missing_ok=True)


def saver_of(checkpoint: Any, resume: Any, facts: dict[str, Any]) -> Saver | None:
    """None where neither is wanted."""
    return None if checkpoint is None and resume is None else Saver(checkpoint, resume, facts)


def _found(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest first."""
    if not folder.is_dir():
        return []
    named = {path: int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return sorted(named, key=lambda path: named[path], reverse=True)


def _latest(folder: Path, facts: dict[str, Any]) -> Memory:
    """What the latest whole one holds."""
    paths, damaged = _found(folder), []
    if not paths:
        raise FileNotFoundError(f"resume: {folder} holds no checkpoint")
    for path in paths:
        try:
            with open_npz(path) as (stored, _):
                memory = {name: stored[name] for name in stored.files}
            header = json.loads(str(memory.pop("header")))
            if header["format"] != FORMAT or header["version"] != VERSION:
                raise ValueError("another version")
            told = dict(header["facts"])
        except READ_ERRORS:
            damaged.append(path)
            continue
        for name in facts:
            if told.get(name) != facts[name]:
                raise ValueError(
                    f"resume: {path} is of a fit with {name} {brief(told.get(name))}, this one has {brief(facts[name])}"
                )
        if damaged:
            warn(f"{damaged[0]} is damaged, so the fit goes on from {path.name}", RuntimeWarning)
        return memory
    raise ValueError(f"resume: {folder} holds no whole checkpoint, {damaged[0].name} is damaged")
