"""Checkpoints: files with the complete state of a fit in progress, written atomically."""

import json
import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastpmf.fitting.early_stopping import EarlyStopping
from fastpmf.solvers import Run
from fastpmf.utils.files import READ_ERRORS, atomic_write, open_npz
from fastpmf.utils.messages import brief
from fastpmf.utils.warnings import warn

FORMAT, VERSION, N_KEPT = "fastpmf checkpoint", 2, 2
_NAME = re.compile(r"checkpoint-(\d+)\.npz")


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often a fit saves its state.

    Each checkpoint is a file that is written atomically; the last two are kept. `fit(X, resume=folder)` continues
    from the last one, with bitwise the same result as without an interruption. If a checkpoint can't be written, for
    example because the disk is full, the fit warns and continues.

    Parameters
    ----------
    folder : path-like
        Created if it does not exist. It must not hold checkpoints, except those that the fit resumes from.
    minutes : float, default=10.0
        Time between checkpoints; each is written after an iteration.
    iterations : int, optional
        Also write a checkpoint after this number of iterations.

    Raises
    ------
    TypeError, ValueError
        If a parameter has an invalid type or value.

    See Also
    --------
    PoissonNMF.fit : takes it as `checkpoint`, and a folder of checkpoints as `resume`.
    FitInterrupted : raised when Ctrl-C stops a fit.

    Examples
    --------
    >>> import tempfile
    >>> from fastpmf import Checkpoint, PoissonNMF, datasets
    >>> X = datasets.make_poisson_counts(200, 30, 3, nnz=2_000, random_state=0).X
    >>> folder = tempfile.mkdtemp()
    >>> options = dict(n_components=3, random_state=0, tol=0)
    >>> _ = PoissonNMF(max_iter=20, **options).fit(X, checkpoint=Checkpoint(folder, iterations=5))
    >>> model = PoissonNMF(max_iter=40, **options).fit(X, resume=folder)
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


class CheckpointFolder:
    """Writes the checkpoints of one fit, and reads the one to resume from.

    Parameters
    ----------
    checkpoint : Checkpoint, path-like or None
        As given to `fit`. If None, checkpoints are written to `resume`.
    resume : path-like or None
    facts : dict
        What must be equal for a fit to resume, as JSON values.
    early_stopping : EarlyStopping, optional
        Its scores are saved too, and restored if the fit resumes.

    Attributes
    ----------
    saved : dict of str to ndarray, or None
        `Run.state_dict` of the checkpoint to resume from.

    Raises
    ------
    FileNotFoundError
        If `resume` holds no checkpoint.
    FileExistsError
        If the folder to write to holds checkpoints of another fit.
    NotADirectoryError
        If the folder to write to is a file.
    ValueError
        If `resume` holds checkpoints of a fit of other counts or with other parameters, or only damaged ones.
    PermissionError
        If the folder can't be written to.
    """

    def __init__(
        self, checkpoint: Any, resume: Any, facts: dict[str, Any], early_stopping: EarlyStopping | None = None
    ) -> None:
        if not isinstance(checkpoint, str | os.PathLike | Checkpoint | None):
            raise TypeError(f"checkpoint must be a path or a Checkpoint, got {brief(checkpoint)}")
        if not isinstance(resume, str | os.PathLike | None):
            raise TypeError(f"resume must be a path, got {brief(resume)}")
        given: Any = resume if checkpoint is None else checkpoint
        self._schedule = given if isinstance(given, Checkpoint) else Checkpoint(given)
        self._folder, self._early_stopping = Path(self._schedule.folder), early_stopping
        self._facts = facts | {"validation": early_stopping is not None}
        self.saved = None if resume is None else _read_latest(Path(resume), self._facts)
        if self.saved is not None and early_stopping is not None:
            early_stopping.restore(self.saved)
        if (resume is None or Path(resume).resolve() != self._folder.resolve()) and _checkpoints(self._folder):
            raise FileExistsError(
                f"checkpoint: {self._folder} holds checkpoints of another fit; resume from them, or use another folder"
            )
        if self._folder.exists() and not self._folder.is_dir():
            raise NotADirectoryError(f"checkpoint must be a folder, and {self._folder} is a file")
        self._folder.mkdir(parents=True, exist_ok=True)
        if not os.access(self._folder, os.W_OK):
            raise PermissionError(f"checkpoint: the folder {self._folder} can't be written to")
        self._time = time.monotonic()

    @property
    def periods(self) -> list[int]:
        """Numbers of iterations: a checkpoint is due after multiples of them."""
        return [every] if (every := self._schedule.iterations) else []

    def save_if_due(self, run: Run) -> None:
        """Write a checkpoint if it is time for one."""
        every = self._schedule.iterations
        if (every and run.n_iter % every == 0) or time.monotonic() - self._time >= 60 * self._schedule.minutes:
            try:
                self._write(run)
            except OSError as error:
                warn(f"a checkpoint could not be written, and the fit continues without it: {error}", RuntimeWarning)
            self._time = time.monotonic()

    def _write(self, run: Run) -> None:
        with atomic_write(self._folder / f"checkpoint-{run.n_iter:08d}.npz") as file:
            header = json.dumps({"format": FORMAT, "version": VERSION, "facts": self._facts})
            arrays = run.state_dict()
            if self._early_stopping is not None:
                arrays["validation"] = self._early_stopping.curve
            np.savez(file, header=np.array(header), **arrays)  # type: ignore[arg-type]
        for path in _checkpoints(self._folder)[N_KEPT:]:
            path.unlink(missing_ok=True)


def open_checkpoints(
    checkpoint: Any, resume: Any, facts: dict[str, Any], early_stopping: EarlyStopping | None = None
) -> CheckpointFolder | None:
    """The folder to write to and to resume from; None if neither is given."""
    if checkpoint is None and resume is None:
        return None
    return CheckpointFolder(checkpoint, resume, facts, early_stopping)


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest first."""
    if not folder.is_dir():
        return []
    n_iter = {path: int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))}
    return sorted(n_iter, key=lambda path: n_iter[path], reverse=True)


def _read_latest(folder: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of the latest undamaged checkpoint."""
    paths, damaged = _checkpoints(folder), []
    if not paths:
        raise FileNotFoundError(f"resume: {folder} holds no checkpoint")
    for path in paths:
        try:
            with open_npz(path) as (stored, _):
                arrays = {name: stored[name] for name in stored.files}
            header = json.loads(str(arrays.pop("header")))
            if header["format"] != FORMAT or header["version"] != VERSION:
                raise ValueError("another version")
            saved = dict(header["facts"])
        except READ_ERRORS:
            damaged.append(path)
            continue
        for name in facts:
            if saved.get(name) != facts[name]:
                raise ValueError(
                    f"resume: {path} is of a fit with {name} {brief(saved.get(name))}, this one has "
                    f"{brief(facts[name])}"
                )
        if damaged:
            warn(f"{damaged[0]} is damaged, so the fit resumes from {path.name}", RuntimeWarning)
        return arrays
    raise ValueError(f"resume: {folder} holds no undamaged checkpoint; {damaged[0].name} is damaged")
