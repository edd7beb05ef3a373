"""Fits, saves, loads and transforms for as long as you like, beside a busy machine, with faults: a ledger of losses.

Each turn draws one deed and, for most, a fault: a process that is killed at any moment while it saves or writes
checkpoints, an interrupt in the middle of a fit, a disk that is full, files that are cut short or have a flipped byte,
counts that are none, threads at the same model. What has to come out is known: the bits of an undisturbed fit, a file
that is whole, old or new, or one sentence. Whatever else comes out is a loss, is told with its seed, and makes the exit
status 1. It needs signals and limits as Linux and macOS have them.

Memory is that of this process, in MiB: at the beginning, after the first tenth of the turns, and at the end.
"""

import argparse
import json
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
from studying import progress, tell, whole_number

from fastpmf import HPF, Checkpoint, FitInterrupted, PoissonNMF, StreamedCounts
from fastpmf.datasets import make_poisson_counts
from fastpmf.io import load_model

MODELS: dict[str, Callable[[int], PoissonNMF | HPF]] = {
    "mu": lambda seed: PoissonNMF(4, solver="mu", tol=0, max_iter=30, random_state=seed),
    "em": lambda seed: PoissonNMF(4, solver="em", tol=0, max_iter=30, random_state=seed),
    "cd": lambda seed: PoissonNMF(4, solver="cd", tol=0, max_iter=30, random_state=seed),
    "hpf": lambda seed: HPF(4, tol=0, max_iter=30, random_state=seed),
}
INSIDE = "--inside"


class LossError(Exception):
    """What should have come out, and what did."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long; default: %(default)s")
    parser.add_argument("--turns", type=whole_number, help="so many turns instead")
    parser.add_argument("--load", type=whole_number, default=2, help="busy processes beside it; default: %(default)s")
    parser.add_argument("--seed", type=whole_number, default=0, help="of the deeds and faults; default: %(default)s")
    parser.add_argument("--json", metavar="FILE", help="where the ledger goes too")
    parser.add_argument(INSIDE, nargs=3, metavar=("DEED", "MODEL", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return inside(*arguments.inside)
    if not (arguments.minutes > 0 and arguments.load >= 0 and (arguments.turns is None or arguments.turns >= 1)):
        parser.error("--minutes must be > 0, --load >= 0 and --turns >= 1")
    warnings.simplefilter("ignore", ConvergenceWarning)
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.load)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            soak = Soak(Path(folder), arguments.seed)
            ledger = soak.run(arguments.turns, 60 * arguments.minutes)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    for line in table(ledger):
        tell(line)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(ledger, indent=1) + "\n")
    return int(any(row["losses"] for row in ledger["deeds"].values()))


def table(ledger: dict) -> list[str]:
    """The ledger, for reading."""
    rows = [f"{'deed':<14}{'attempts':>9}{'faults':>8}{'losses':>8}"]
    deeds = ledger["deeds"]
    whole = {name: sum(row[name] for row in deeds.values()) for name in ("attempts", "faults", "losses")}
    for name, row in [*deeds.items(), ("all", whole)]:
        rows.append(f"{name:<14}{row['attempts']:>9}{row['faults']:>8}{row['losses']:>8}")
    memory = ", ".join(f"{x:.0f}" for x in ledger["memory"])
    return [*rows, f"{ledger['seconds']:.0f} s; memory {memory} MiB"]


class Soak:
    """Deeds, what they should end in, and the ledger.

    Parameters
    ----------
    folder : Path
        For the files.
    seed : int
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._random = folder, random.Random(seed)
        self._X = counts()
        self._models = {name: make(1).fit(self._X) for name, make in MODELS.items()}
        self._rows = {name: model.transform(self._X) for name, model in self._models.items()}
        self._deeds = {
            "fit": self.fit, "streamed": self.streamed, "interrupted": self.interrupted, "threads": self.threads,
            "saved": self.saved, "damaged": self.damaged, "full disk": self.full_disk, "killed save": self.killed_save,
            "killed fit": self.killed_fit, "bad counts": self.bad_counts,
        }  # fmt: skip

    def run(self, turns: int | None, seconds: float) -> dict:
        """Turn after turn, until they are done or the time is over."""
        attempts, faults, losses, began = Counter(), Counter(), Counter(), time.monotonic()
        memory, done = [resident()], 0
        total = turns if turns is not None else int(seconds)
        with progress(total, unit="turn" if turns is not None else "s") as advance:
            while (spent := done if turns is not None else time.monotonic() - began) < total:
                if len(memory) == 1 and spent >= total / 10:
                    memory.append(resident())
                seed = self._random.getrandbits(32)
                name = random.Random(seed).choice(list(self._deeds))
                attempts[name] += 1
                try:
                    faults[name] += self._deeds[name](random.Random(seed + 1))
                except Exception as error:  # whatever it is, it should not have come
                    losses[name] += 1
                    tell(f"LOST in {name}, seed {seed}: {type(error).__name__}: {error}")
                done += 1
                now = done if turns is not None else min(time.monotonic() - began, total)
                advance(now - spent)
        memory.append(resident())
        deeds = {
            name: {"attempts": attempts[name], "faults": faults[name], "losses": losses[name]} for name in self._deeds
        }
        return {"deeds": deeds, "seconds": time.monotonic() - began, "memory": memory}

    def fit(self, rng: random.Random) -> int:
        name = rng.choice(list(MODELS))
        model = MODELS[name](1).set_params(n_threads=rng.choice([1, 2, None]))
        form = rng.choice(["csr", "csc", "coo"])
        self._same(name, model.fit(getattr(self._X, f"to{form}")()))
        return 0

    def streamed(self, rng: random.Random) -> int:
        name, cut = rng.choice(["mu", "em", "hpf"]), rng.randrange(1, self._X.shape[0])
        self._same(name, MODELS[name](1).fit(StreamedCounts(lambda: [self._X[:cut], self._X[cut:]])))
        return 0

    def interrupted(self, rng: random.Random) -> int:
        """Ctrl-C at any moment of a fit of other counts: the new factors, whole, or the old ones."""
        name = rng.choice(list(MODELS))
        model = MODELS[name](1).set_params(max_iter=3000).fit(self._X[:, :50])
        old = model.components_
        struck = False
        signal.signal(signal.SIGALRM, strike)
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 0.2))
        try:
            model.fit(self._X)
        except FitInterrupted as told:
            struck = True
            if not np.allclose(model.components_, told.solution.H, rtol=1e-12):  # HPF's are means, formed anew
                raise LossError("the model has other factors than it said") from None
        except KeyboardInterrupt:  # before the first iteration was done, or after the last
            struck = True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        width = 50 if model.components_ is old else self._X.shape[1]
        if not np.isfinite(model.transform(self._X[:5, :width])).all() or model.n_features_in_ != width:
            raise LossError("the model is not whole")
        return struck

    def threads(self, rng: random.Random) -> int:
        names = [rng.choice(list(MODELS)) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda name: self._models[name].transform(self._X), names)
            for name, rows in zip(names, found, strict=True):
                if not np.array_equal(rows, self._rows[name]):
                    raise LossError(f"{name}: other rows beside other threads")
        return 0

    def saved(self, rng: random.Random) -> int:
        name = rng.choice(list(MODELS))
        path = self._folder / "saved.npz"
        self._models[name].save(path)
        if not np.array_equal(load_model(path).transform(self._X), self._rows[name]):
            raise LossError(f"{name}: other rows after loading")
        return 0

    def damaged(self, rng: random.Random) -> int:
        """A model file that is cut short or has a flipped byte: one sentence, or the model that it was."""
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
                raise LossError(f"more than a sentence: {error}") from None
        else:
            if not np.array_equal(loaded.components_, self._models[name].components_):
                raise LossError(f"{name}: a damaged file gave other factors")
        return 1

    def full_disk(self, rng: random.Random) -> int:
        """A save that finds no room leaves the old file as it was, and nothing beside it."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        name = rng.choice(list(MODELS))
        self._models[name].save(folder / "model.npz")
        before = (folder / "model.npz").read_bytes()
        self._child("save_small", name, folder, wanted=1, room=rng.randrange(len(before) // 2))
        if (folder / "model.npz").read_bytes() != before or len(list(folder.iterdir())) > 1:
            raise LossError(f"{name}: the old file is not alone as it was")
        return 1

    def killed_save(self, rng: random.Random) -> int:
        """A process that saves again and again is killed at any moment: the file is one of those, whole."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        name = rng.choice(list(MODELS))
        self._models[name].save(folder / "model.npz")
        struck = self._child("save", name, folder, after=rng.uniform(0, 0.3))
        if not np.array_equal(load_model(folder / "model.npz").transform(self._X), self._rows[name]):
            raise LossError(f"{name}: another model than was saved")
        return struck

    def killed_fit(self, rng: random.Random) -> int:
        """A fit that is killed at any moment goes on from its checkpoints to the bits of one that was not."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        name = rng.choice(["mu", "em", "cd", "hpf"])
        struck = self._child("fit", name, folder, after=rng.uniform(0, 0.5))
        if not list(folder.glob("*.npz")):
            return struck
        self._same(name, MODELS[name](1).fit(self._X, resume=folder))
        return struck

    def bad_counts(self, rng: random.Random) -> int:
        """Counts that are none: one sentence, and the model as it was."""
        name = rng.choice(list(MODELS))
        model, X = self._models[name], self._X.astype(float)
        X.data[rng.randrange(X.nnz)] = rng.choice([-1.0, np.nan, np.inf])
        try:
            model.fit(X)
        except ValueError:
            self._same(name, model)
            return 1
        raise LossError(f"{name}: counts that are none were fitted")

    def _same(self, name: str, model: PoissonNMF | HPF) -> None:
        if not np.array_equal(model.components_, self._models[name].components_):
            raise LossError(f"{name}: other factors than those of an undisturbed fit")

    def _child(
        self, deed: str, name: str, folder: Path, *, after: float | None = None, wanted: int = 0,
        room: int | None = None,
    ) -> int:  # fmt: skip
        """A process that does a deed; killed so many seconds after it began to, or with so much room for a file."""
        limit = None if room is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        command = [sys.executable, __file__, INSIDE, deed, name, str(folder)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit)
        with process:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise LossError(f"{deed}, {name}: {process.communicate()[1]}")
            try:
                process.wait(300 if after is None else after)
            except subprocess.TimeoutExpired:
                process.kill()
                if after is None:
                    raise LossError(f"{deed}, {name}: it hangs") from None
                return 1
            said = process.communicate()[1]
        if process.returncode != wanted:
            raise LossError(f"{deed}, {name}: exit status {process.returncode}: {said}")
        return 0


def counts() -> sparse.csr_array:
    """What is fitted, the same in every process."""
    return make_poisson_counts(300, 80, 4, nnz=5_000, random_state=0).X


def inside(deed: str, name: str, folder: str) -> int:
    """What a process does that is to be disturbed."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, make, path = counts(), MODELS[name], Path(folder) / "model.npz"
    model = make(1) if deed == "fit" else load_model(path)
    tell("ready")
    if deed == "fit":
        model.fit(X, checkpoint=Checkpoint(folder, iterations=3))
        return 0
    if deed == "save_small":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            model.save(path)
        except OSError:
            return 1
        return 0
    while True:
        model.save(path)


def resident() -> float:
    """MiB of memory that this process holds; NaN where the system can't tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return float("nan")
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def strike(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
