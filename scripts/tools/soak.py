"""Fit, save, load and transform for a given time, on a busy machine and with faults, and count failures.

Each turn draws a task and, for most tasks, a fault: a process that is killed while it saves or writes checkpoints, an
interrupt during a fit, a full disk, files that are truncated or have a flipped bit, invalid counts, threads that use
the same model. The correct outcome is bitwise the result of an undisturbed fit, a complete old or new file, or an error
of one line. Any other outcome is a failure, which is reported with its seed; the exit status is then 1. The tool needs
the signals and limits of Linux or macOS.

Memory is that of this process, in MiB: at the beginning, after the first tenth of the turns, and at the end.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from fastpmf import HPF, Checkpoint, FitInterrupted, PoissonNMF, StreamedCounts
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import load_model

MODELS: dict[str, Callable[[int], PoissonNMF | HPF]] = {
    "mu": lambda seed: PoissonNMF(4, solver="mu", tol=0, max_iter=30, random_state=seed),
    "em": lambda seed: PoissonNMF(4, solver="em", tol=0, max_iter=30, random_state=seed),
    "cd": lambda seed: PoissonNMF(4, solver="cd", tol=0, max_iter=30, random_state=seed),
    "hpf": lambda seed: HPF(4, tol=0, max_iter=30, random_state=seed),
}
CHILD = "--child"


class FailureError(Exception):
    """An incorrect outcome."""


def main() -> int:
    """Run the tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=common.number(float, 0, strict=True), default=60.0, help="duration; default: %(default)s")
    add("--turns", type=common.positive_int, help="number of turns, instead of a duration")
    add("--load", type=common.number(int, 0), default=2, help="busy processes in the background; default: %(default)s")
    add("--seed", type=common.number(int, 0), default=0, help="of tasks and faults; default: %(default)s")
    add(CHILD, nargs=3, metavar=("TASK", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(*arguments.child)
    warnings.simplefilter("ignore", ConvergenceWarning)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.load)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = Soak(Path(folder), arguments.seed).run(arguments.turns, 60 * arguments.minutes)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    columns, tasks = ("attempts", "faults", "failures"), results["tasks"]
    total = {name: sum(row[name] for row in tasks.values()) for name in columns}
    common.echo(f"{'task':<14}{'attempts':>10}{'faults':>10}{'failures':>10}")
    for name, row in [*tasks.items(), ("all", total)]:
        common.echo(f"{name:<14}" + "".join(f"{row[column]:>10}" for column in columns))
    common.echo(f"{results['seconds']:.0f} s; memory {', '.join(f'{x:.0f}' for x in results['memory'])} MiB")
    return int(total["failures"] > 0)


class Soak:
    """The tasks, and their correct outcomes; files are written to a folder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._X = make_counts()
        self._models = {name: make(1).fit(self._X) for name, make in MODELS.items()}
        self._rows = {name: model.transform(self._X) for name, model in self._models.items()}
        self._tasks = {
            "fit": self.fit, "streamed": self.streamed, "interrupted": self.interrupted, "threads": self.threads,
            "saved": self.saved, "damaged": self.damaged, "full disk": self.full_disk, "killed save": self.killed_save,
            "killed fit": self.killed_fit, "bad counts": self.bad_counts,
        }  # fmt: skip

    def run(self, turns: int | None, seconds: float) -> dict:
        """Run `turns` tasks, or tasks for `seconds` if it is None."""
        attempts, faults, failures, began = Counter(), Counter(), Counter(), time.monotonic()
        memory, done = [resident()], 0
        total = turns if turns is not None else int(seconds)
        with common.progress(total, unit="turn" if turns is not None else "s") as advance:
            while (spent := done if turns is not None else time.monotonic() - began) < total:
                if len(memory) == 1 and spent >= total / 10:
                    memory.append(resident())
                seed = self._random.getrandbits(32)
                name = random.Random(seed).choice(list(self._tasks))
                attempts[name] += 1
                try:
                    faults[name] += self._tasks[name](random.Random(seed + 1))
                except Exception as error:  # any error is a failure
                    failures[name] += 1
                    common.echo(f"FAILED: {name}, seed {seed}: {type(error).__name__}: {error}")
                done += 1
                now = done if turns is not None else min(time.monotonic() - began, total)
                advance(now - spent)
        memory.append(resident())
        tasks = {
            name: {"attempts": attempts[name], "faults": faults[name], "failures": failures[name]}
            for name in self._tasks
        }
        return {"tasks": tasks, "seconds": time.monotonic() - began, "memory": memory}

    # Each task returns whether there was a fault

    def fit(self, rng: random.Random) -> int:
        """A fit of any format with any number of threads has the same bits."""
        name = rng.choice(list(MODELS))
        model = MODELS[name](1).set_params(n_threads=rng.choice([1, 2, None]))
        form = rng.choice(["csr", "csc", "coo"])
        self._check_factors(name, model.fit(getattr(self._X, f"to{form}")()))
        return 0

    def streamed(self, rng: random.Random) -> int:
        """A fit of streamed counts has the same bits."""
        name, cut = rng.choice(["mu", "em", "hpf"]), rng.randrange(1, self._X.shape[0])
        self._check_factors(name, MODELS[name](1).fit(StreamedCounts(lambda: [self._X[:cut], self._X[cut:]])))
        return 0

    def interrupted(self, rng: random.Random) -> int:
        """Ctrl-C during a fit of other counts leaves the complete new factors, or the old ones."""
        name = rng.choice(list(MODELS))
        model = MODELS[name](1).set_params(max_iter=3000).fit(self._X[:, :50])
        old = model.components_
        struck = False
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 0.2))
        try:
            model.fit(self._X)
        except FitInterrupted as error:
            struck = True
            if not np.allclose(model.components_, error.solution.H, rtol=1e-12):  # HPF's are means, computed again
                raise FailureError("the model has other factors than the exception") from None
        except KeyboardInterrupt:  # before the first iteration was done, or after the last
            struck = True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        width = 50 if model.components_ is old else self._X.shape[1]
        if not np.isfinite(model.transform(self._X[:5, :width])).all() or model.n_features_in_ != width:
            raise FailureError("the model is a mixture of two fits")
        return struck

    def threads(self, rng: random.Random) -> int:
        """Python threads that use the same models get the same rows."""
        names = [rng.choice(list(MODELS)) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda name: self._models[name].transform(self._X), names)
            for name, rows in zip(names, found, strict=True):
                if not np.array_equal(rows, self._rows[name]):
                    raise FailureError(f"{name}: other rows than without other threads")
        return 0

    def saved(self, rng: random.Random) -> int:
        """A model that was saved and loaded gives the same rows."""
        name = rng.choice(list(MODELS))
        path = self._folder / "saved.npz"
        self._models[name].save(path)
        if not np.array_equal(load_model(path).transform(self._X), self._rows[name]):
            raise FailureError(f"{name}: other rows after loading")
        return 0

    def damaged(self, rng: random.Random) -> int:
        """A model file that is truncated or has a flipped bit raises an error of one line, or loads unchanged."""
        name = rng.choice(list(MODELS))
        path = self._folder / "damaged.npz"
        self._models[name].save(path)
        content = bytearray(path.read_bytes())
        place = rng.randrange(len(content))
        if rng.random() < 0.5:
            del content[place:]
        else:
            content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            loaded = load_model(path)
        except (ValueError, OSError) as error:
            if "\n" in str(error):
                raise FailureError(f"more than one line: {error}") from None
        else:
            if not np.array_equal(loaded.components_, self._models[name].components_):
                raise FailureError(f"{name}: a damaged file gave other factors")
        return 1

    def full_disk(self, rng: random.Random) -> int:
        """A save on a full disk leaves the old file unchanged, and no other file."""
        folder, name = self._saved_in_new_folder(rng)
        before = (folder / "model.npz").read_bytes()
        self._child("save once", name, folder, status=1, file_limit=rng.randrange(len(before) // 2))
        if (folder / "model.npz").read_bytes() != before or len(list(folder.iterdir())) > 1:
            raise FailureError(f"{name}: the folder has changed")
        return 1

    def killed_save(self, rng: random.Random) -> int:
        """A process that saves repeatedly and is killed leaves a complete file."""
        folder, name = self._saved_in_new_folder(rng)
        struck = self._child("save", name, folder, kill_after=rng.uniform(0, 0.3))
        if not np.array_equal(load_model(folder / "model.npz").transform(self._X), self._rows[name]):
            raise FailureError(f"{name}: another model than was saved")
        return struck

    def killed_fit(self, rng: random.Random) -> int:
        """A killed fit that is resumed from its checkpoint has bitwise the result of an undisturbed one."""
        folder, name = Path(tempfile.mkdtemp(dir=self._folder)), rng.choice(list(MODELS))
        struck = self._child("fit", name, folder, kill_after=rng.uniform(0, 0.5))
        if list(folder.glob("*.npz")):
            self._check_factors(name, MODELS[name](1).fit(self._X, resume=folder))
        return struck

    def bad_counts(self, rng: random.Random) -> int:
        """Invalid counts raise an error, and the model does not change."""
        name = rng.choice(list(MODELS))
        model, X = self._models[name], self._X.astype(float)
        X.data[rng.randrange(X.nnz)] = rng.choice([-1.0, np.nan, np.inf])
        try:
            model.fit(X)
        except ValueError:
            self._check_factors(name, model)
            return 1
        raise FailureError(f"{name}: invalid counts were fitted")

    def _check_factors(self, name: str, model: PoissonNMF | HPF) -> None:
        if not np.array_equal(model.components_, self._models[name].components_):
            raise FailureError(f"{name}: other factors than those of an undisturbed fit")

    def _saved_in_new_folder(self, rng: random.Random) -> tuple[Path, str]:
        folder, name = Path(tempfile.mkdtemp(dir=self._folder)), rng.choice(list(MODELS))
        self._models[name].save(folder / "model.npz")
        return folder, name

    def _child(
        self, task: str, name: str, folder: Path, *, kill_after: float | None = None, status: int = 0,
        file_limit: int | None = None,
    ) -> int:  # fmt: skip
        """Run a task in a process, killed after some seconds or with a limit on files; whether it was killed."""
        limit = None
        if file_limit is not None:
            limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))  # noqa: E731
        command = [sys.executable, __file__, CHILD, task, name, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
        with process:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise FailureError(f"{task}, {name}: {process.communicate()[1]}")
            try:
                process.wait(300 if kill_after is None else kill_after)
            except subprocess.TimeoutExpired:
                process.kill()
                if kill_after is None:
                    raise FailureError(f"{task}, {name}: it hangs") from None
                return 1
            error = process.communicate()[1]
        if process.returncode != status:
            raise FailureError(f"{task}, {name}: exit status {process.returncode}: {error}")
        return 0


def make_counts() -> sparse.csr_array:
    """The counts that are fitted, the same in every process."""
    return make_poisson_counts(300, 80, 4, nnz=5_000, random_state=0).X


def child(task: str, name: str, folder: str) -> int:
    """The task of a process that is killed or finds a full disk."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, path = make_counts(), Path(folder) / "model.npz"
    model = MODELS[name](1) if task == "fit" else load_model(path)
    common.echo("ready")
    if task == "fit":
        model.fit(X, checkpoint=Checkpoint(folder, iterations=3))
        return 0
    if task == "save once":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            model.save(path)
        except OSError:
            return 1
        return 0
    while True:
        model.save(path)


def resident() -> float:
    """MiB of memory of this process; NaN if the system doesn't report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def interrupt(*_: object) -> None:
    """A signal handler that acts like Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
