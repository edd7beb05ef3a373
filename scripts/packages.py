"""Other packages on the same counts: speed and final results by the same score."""

import argparse
import importlib
import math
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar, NamedTuple
from unittest.mock import patch

import common
import numpy as np
from numba import njit, prange
from scipy import sparse
from scipy.optimize import minimize_scalar
from scipy.special import digamma

from fastpmf import HPF, as_counts, kl_divergence, poisson_log_likelihood, poisson_nmf, thin_counts
from fastpmf.kernels.threads import available_threads

DESCRIPTION = """\
Fit the same counts with fastpmf and with every other package that is installed, with the same number of components and
the same seconds each, and compare them by one score:

  divergence  the exact D(X || W H), in nats, after giving each row its best scale, x_i+ / (W_i . sum_j H_j): this turns
              shares into rates and does not change optimal factors. Negative entries are set to 0. If a rate is 0 under
              a positive count, which makes the divergence infinite, a component without structure is added with its
              best weight, and the package is marked with *
  held-out    a tenth of the counts is held out by binomial thinning; the score is minus the log-likelihood of these, in
              nats per count. This is for Bayesian models: the packages are fastpmf's HPF, hpfrec's, and "explicit",
              HPF's updates with a stored allocation of each count to the components, as in scHPF

Packages that fit another model (LDA) are in the same table; their score measures their factors as rates, not as the
model for which they were fitted. Packages that accept a start get the same random one.

The time includes set-up, with checks, copies and transposition, and iterations, but not imports, compilation and
scoring. Other packages get CSR counts in the dtype of the factors. A package that can continue a fit does so; others
fit from the start with an increasing number of iterations, and each fit is a point. Each package runs in its own
process. A call is not interrupted at the end of --seconds, unless the process sends nothing for --patience seconds.

To add a package, derive a class from Package in this file and put it in PACKAGES.
"""
KL, LDA, BAYES = "Poisson/KL", "variational LDA", "hierarchical Bayes"
DIVERGENCE, HELD_OUT = "divergence", "held-out"
FRACTION = 0.1  # of the counts, held out
EVERY = 5  # iterations between points of fastpmf; the time includes the evaluation of the objective
TOLERANCE = {DIVERGENCE: 0.0, HELD_OUT: 0.01}  # scores within this count as equal, since starts make such differences


class Setup(NamedTuple):
    """Counts, start and options of a fit."""

    counts: Any
    X: sparse.csr_array  # in the dtype of the factors
    W: np.ndarray
    H: np.ndarray
    seed: int
    n_threads: int
    clock: str = "wall"

    @property
    def k(self) -> int:
        return len(self.H)


class Package:
    """A fit in progress. `advance(n)` does n more iterations, or n from the start if `restarts`."""

    package = "scikit-learn"
    module = "sklearn.decomposition"  # imported before the time is measured
    problem = KL
    start = "given"
    restarts = False
    parallel = True
    rates = True  # whether W H are rates without rescaling
    stride = 1  # minimum number of iterations in a call
    compiling = 0  # iterations for compilation, which are not timed

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def advance(self, n_iter: int) -> None:
        """Iterate."""
        raise NotImplementedError

    def factors(self) -> tuple[Any, Any]:
        """W and H."""
        raise NotImplementedError

    @classmethod
    def fit_until(cls, setup: Setup, budget: float, report: Callable[[int, float, Any, Any], object]) -> None:
        """Fit for `budget` seconds; after each call, call `report(iterations, seconds, W, H)`, which is not timed."""
        fit, preparation = common.timed(partial(cls, setup), setup.clock)
        clock, n_iter, step = preparation, 0, cls.stride
        while step > 0 and (n_iter == 0 or clock < budget):
            seconds = common.timed(partial(fit.advance, step), setup.clock)[1]
            clock = preparation + seconds if cls.restarts else clock + seconds
            n_iter = step if cls.restarts else n_iter + step
            report(n_iter, clock, *fit.factors())
            if cls.restarts:  # twice as many iterations, or as many as the budget allows
                affordable = int(n_iter * (budget - preparation) / seconds)
                step = min(2 * n_iter, affordable) if affordable > n_iter else 0
            else:
                step = max(cls.stride, n_iter // 20)


class Fastpmf(Package):
    """The default solver; points are reported by its callback, whose time is subtracted."""

    package = module = "fastpmf"
    compiling = 14  # more than the warm-up of coordinate descent
    options: ClassVar[dict[str, Any]] = {}

    @classmethod
    def fit(cls, setup: Setup, **options: Any) -> Any:
        return poisson_nmf(setup.counts, setup.k, init="custom", W=setup.W, H=setup.H, **cls.options, **options)

    @classmethod
    def fit_until(cls, setup: Setup, budget: float, report: Callable[[int, float, Any, Any], object]) -> None:
        now = common.CLOCKS[setup.clock]
        paused, began, latest = 0.0, now(), 0

        def callback(record: Any, W: np.ndarray, H: np.ndarray) -> bool:
            nonlocal paused, latest
            arrived = now()
            seconds = arrived - began - paused
            if record.n_iter and record.n_iter >= 1.1 * latest:
                report(record.n_iter, seconds, W, H)
                latest = record.n_iter
            paused += now() - arrived
            return latest > 0 and seconds >= budget

        cls.fit(setup, max_iter=10**9, tol=0, eval_every=EVERY, dtype=setup.W.dtype, n_threads=setup.n_threads,
                random_state=setup.seed, callback=callback)  # fmt: skip


class FastpmfMu(Fastpmf):
    """Multiplicative updates."""

    options: ClassVar[dict[str, Any]] = {"solver": "mu", "acceleration": None}


class FastpmfHpf(Fastpmf):
    """HPF with its default priors; W and H are posterior means."""

    problem = BAYES
    start = "own"

    @classmethod
    def fit(cls, setup: Setup, **options: Any) -> Any:
        return HPF(setup.k, **options).fit(setup.counts)


class SklearnMu(Package):
    """NMF(solver="mu", beta_loss="kullback-leibler"); each call continues the previous one."""

    parallel = False
    stride = 10

    def __init__(self, setup: Setup) -> None:
        self._X, self._W, self._H = setup.X, setup.W.copy(), setup.H.copy()

    def advance(self, n_iter: int) -> None:
        from sklearn.decomposition import non_negative_factorization

        self._W, self._H, _ = non_negative_factorization(
            self._X, self._W, self._H, len(self._H), init="custom", solver="mu", beta_loss="kullback-leibler", tol=0,
            max_iter=n_iter,
        )  # fmt: skip

    def factors(self) -> tuple[Any, Any]:
        return self._W, self._H


class SklearnMinibatch(Package):
    """MiniBatchNMF on the same divergence."""

    restarts = True
    parallel = False

    def advance(self, n_iter: int) -> None:
        from sklearn.decomposition import MiniBatchNMF

        options = {"init": "custom", "beta_loss": "kullback-leibler", "tol": 0, "max_no_improvement": None}
        self._model = MiniBatchNMF(self.setup.k, max_iter=n_iter, random_state=self.setup.seed, **options)
        self._W = self._model.fit_transform(self.setup.X, W=self.setup.W.copy(), H=self.setup.H.copy())

    def factors(self) -> tuple[Any, Any]:
        return self._W, self._model.components_


class SklearnLda(Package):
    """LatentDirichletAllocation, batch; W and H are the posterior's mean shares."""

    problem = LDA
    start = "own"
    restarts = True
    rates = False
    parallel = False  # n_jobs starts processes, to which the counts would be sent in every iteration

    def advance(self, n_iter: int) -> None:
        from sklearn.decomposition import LatentDirichletAllocation

        self._model = LatentDirichletAllocation(
            self.setup.k, learning_method="batch", max_iter=n_iter, random_state=self.setup.seed
        ).fit(self.setup.X)

    def factors(self) -> tuple[Any, Any]:
        H = self._model.components_
        return self._model.transform(self.setup.X), H / H.sum(axis=1, keepdims=True)


class Torchnmf(Package):
    """NMF with beta=1 on a sparse tensor; each call continues the previous one."""

    package = "torchnmf"
    module = "torchnmf.nmf"
    stride = 10  # each call computes the divergence once

    def __init__(self, setup: Setup) -> None:
        import torch
        from torchnmf.nmf import NMF

        torch.set_num_threads(setup.n_threads)
        torch.set_default_dtype(getattr(torch, setup.X.dtype.name))
        X = setup.X.tocoo()
        self._X = torch.sparse_coo_tensor(np.array(X.coords), X.data, X.shape)
        # Its W is our H transposed, and its H our W
        self._model = NMF(W=torch.from_numpy(setup.H.T.copy()), H=torch.from_numpy(setup.W.copy()))

    def advance(self, n_iter: int) -> None:
        self._model.fit(self._X, beta=1, tol=-math.inf, max_iter=n_iter)

    def factors(self) -> tuple[Any, Any]:
        return self._model.H.detach().numpy(), self._model.W.detach().numpy().T


class Poismf(Package):
    """PoisMF(method="tncg"), truncated Newton without penalties, continued from the last factors."""

    package = module = "poismf"

    def __init__(self, setup: Setup) -> None:
        self.setup, self._W, self._Ht = setup, setup.W.copy(), setup.H.T.copy()
        self._X = [setup.X.tocsr(copy=True), setup.X.tocsc(copy=True)]
        for X in self._X:
            X.indices, X.indptr = X.indices.astype(np.uintp), X.indptr.astype(np.uintp)

    def advance(self, n_iter: int) -> None:
        from poismf import PoisMF

        use_float = self.setup.X.dtype == np.float32
        model = PoisMF(use_float=use_float)
        model._init(  # `fit` takes no start, and `fit_unsafe`, which does, leaves this to the caller
            k=self.setup.k, l2_reg=0.0, niter=n_iter, reuse_prev=True, early_stop=False, use_float=use_float,
            nthreads=self.setup.n_threads,
        )  # fmt: skip
        model.fit_unsafe(self._W, self._Ht, *self._X)

    def factors(self) -> tuple[Any, Any]:
        return self._W, self._Ht.T


class Hpfrec(Package):
    """Hierarchical Poisson factorization by variational inference; W and H are posterior means."""

    package = module = "hpfrec"
    problem = BAYES
    start = "own"
    restarts = True

    def advance(self, n_iter: int) -> None:
        from hpfrec import HPF

        lean = dict.fromkeys(("verbose", "keep_data", "produce_dicts", "keep_all_objs"), False)
        self._model = HPF(
            self.setup.k, ncores=self.setup.n_threads, maxiter=n_iter, check_every=n_iter, stop_crit="maxiter",
            use_float=self.setup.X.dtype == np.float32, random_seed=self.setup.seed, **lean,
        ).fit(sparse.coo_matrix(self.setup.X))  # fmt: skip

    def factors(self) -> tuple[Any, Any]:
        return np.asarray(self._model.Theta), np.asarray(self._model.Beta).T


class ExplicitHpf(Package):
    """HPF's updates with an array of nonzeros × components, in float64: filled in parallel, added up by one thread."""

    package = module = "numba"
    problem = BAYES
    start = "own"
    compiling = 1

    def __init__(self, setup: Setup) -> None:
        X, rng, k = setup.X.tocoo(), np.random.default_rng(setup.seed), setup.k
        self._entries = (*(index.astype(np.int64) for index in X.coords), X.data.astype(float))
        self._allocated = np.empty((X.nnz, k))
        self._shapes = [0.3 + 0.01 * rng.random((m, k)) for m in X.shape]
        self._rates = [np.full((m, k), 0.31) for m in X.shape]
        self._activities = [np.full(m, 0.3 + k) for m in X.shape]

    def advance(self, n_iter: int) -> None:
        shapes, rates, k = self._shapes, self._rates, self._allocated.shape[1]
        for _ in range(n_iter):
            logs = [digamma(s) - np.log(r) for s, r in zip(shapes, rates, strict=True)]
            allocate(*self._entries, *logs, self._allocated)
            for side in (0, 1):
                shapes[side][:] = 0.3
                add_up(self._entries[side], self._allocated, shapes[side])
            for side in (0, 1):
                other = (shapes[1 - side] / rates[1 - side]).sum(axis=0)
                rates[side] = ((0.3 + k * 0.3) / self._activities[side])[:, None] + other
                self._activities[side] = 0.3 + (shapes[side] / rates[side]).sum(axis=1)

    def factors(self) -> tuple[Any, Any]:
        W, Ht = (s / r for s, r in zip(self._shapes, self._rates, strict=True))
        return W, Ht.T


@njit(parallel=True)
def allocate(i, j, x, log_w, log_h, out):
    """out[p] = x[p] softmax(log_w[i[p]] + log_h[j[p]])."""
    for p in prange(len(x)):
        total, highest = 0.0, -np.inf
        for k in range(out.shape[1]):
            out[p, k] = log_w[i[p], k] + log_h[j[p], k]
            highest = max(highest, out[p, k])
        for k in range(out.shape[1]):
            out[p, k] = math.exp(out[p, k] - highest)
            total += out[p, k]
        for k in range(out.shape[1]):
            out[p, k] *= x[p] / total


@njit
def add_up(index, allocated, out):
    """out[index[p]] += allocated[p]."""
    for p in range(len(index)):
        for k in range(out.shape[1]):
            out[index[p], k] += allocated[p, k]


class Enstop(Package):
    """PLSI by EM; each call continues the previous one."""

    package = module = "enstop"
    compiling = 1
    rates = False

    def __init__(self, setup: Setup) -> None:
        vars(np).setdefault("float", float)  # enstop uses it, and NumPy has removed it
        X = sparse.csr_matrix(setup.counts)
        if (X.data % 1).any():
            raise ValueError("enstop normalises rows of counts that are not integers, which is another problem")
        X = X.astype(np.int64)
        self._kept = np.diff(X.indptr) > 0  # enstop drops empty rows from the counts, but not from a start
        sums = setup.H.sum(axis=1)
        W = setup.W[self._kept] * sums
        self._X, self._shape = X[self._kept], setup.W.shape
        self._W, self._H = W / W.sum(axis=1, keepdims=True), setup.H / sums[:, None]

    def advance(self, n_iter: int) -> None:
        from enstop import PLSA

        model = PLSA(self._shape[1], init=(self._W, self._H), n_iter=n_iter, tolerance=-1.0)
        self._W, self._H = model.fit_transform(self._X), model.components_

    def factors(self) -> tuple[Any, Any]:
        W = np.zeros(self._shape, self._W.dtype)
        W[self._kept] = self._W
        return W, self._H


PACKAGES: dict[str, type[Package]] = {
    "fastpmf": Fastpmf, "fastpmf-mu": FastpmfMu, "fastpmf-hpf": FastpmfHpf, "sklearn-mu": SklearnMu,
    "sklearn-minibatch": SklearnMinibatch, "sklearn-lda": SklearnLda, "torchnmf": Torchnmf, "poismf": Poismf,
    "hpfrec": Hpfrec, "explicit": ExplicitHpf, "enstop": Enstop,
}  # fmt: skip
DEFAULTS = {
    DIVERGENCE: [name for name in PACKAGES if name not in ("fastpmf-hpf", "explicit")],
    HELD_OUT: ["fastpmf-hpf", "hpfrec", "explicit"],
}


class Point(NamedTuple):
    """A row of the table: a scored point, or the error of a package. `weight` is that of the added component."""

    counts: str
    k: int
    score: str
    package: str
    version: str
    problem: str
    start: str
    threads: int
    cores: float
    dtype: str
    seed: int
    iteration: int
    seconds: float
    value: float
    weight: float
    error: str


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION)
    parser.shared(data=[], components=[20], seed=0, dtype="float32", threads=None, clock="wall")
    parser.option("--score", "score", DIVERGENCE, choices=[DIVERGENCE, HELD_OUT])
    parser.option("--seconds", "for each package", 10.0)
    parser.option("--patience", "seconds without a result, beyond --seconds, after which a package is stopped", 180.0)
    parser.option("--packages", "by default those of --score, see above", [], choices=PACKAGES)
    arguments = parser.parse_args()
    matrices, load = common.read_matrices(parser, arguments.data), common.warning_of_load()
    names = list(dict.fromkeys([DEFAULTS[arguments.score][0], *(arguments.packages or DEFAULTS[arguments.score])]))
    missing = [name for name in names if common.version_of(PACKAGES[name].package) is None]
    names = [name for name in names if name not in missing]
    total = len(matrices) * len(arguments.components) * len(names)
    points = common.collect(measure(matrices, names, arguments), total, arguments, unit="package", counts=matrices)
    if not any(p.value == p.value for p in points):
        parser.error("; ".join(["no package has a finite score", *(f"{p.package}: {p.error}" for p in points)]))
    sentences = verdict(points, missing)
    return common.conclude(arguments, partial(plot, points), [*sentences, *load], (10, 6))


def measure(matrices: dict[str, Any], names: list[str], arguments: argparse.Namespace) -> Iterator[list[Point]]:
    """All packages on all counts."""
    for counts, X in matrices.items():
        for k in arguments.components:
            for name in names:
                package = PACKAGES[name]
                n_threads = (arguments.threads or available_threads()) if package.parallel else 1
                found, error = watch(package, n_threads, X, k, arguments)
                if error:
                    found.append((0, math.nan, math.nan, "", (math.nan, math.nan)))
                fixed = (counts, k, arguments.score, name, common.version_of(package.package), package.problem)
                yield [
                    Point(*fixed, package.start, n_threads, cores, dtype, arguments.seed, n, seconds, *score,
                          error if math.isnan(seconds) else "")
                    for n, seconds, cores, dtype, score in found
                ]  # fmt: skip


def watch(package: type[Package], n_threads: int, X: Any, k: int, arguments: Any) -> tuple[list[tuple], str]:
    """The points that a package reports from a fresh process, and the error that ended it, if any."""
    limits = {f"{name}_NUM_THREADS": str(n_threads) for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")}
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=run, args=(sender, package, n_threads, X, k, arguments), daemon=True)
    with patch.dict(os.environ, limits):  # before the process imports anything
        process.start()
    sender.close()
    points: list[tuple] = []
    patience = arguments.patience + arguments.seconds
    try:
        while receiver.poll(patience):
            message = receiver.recv()
            if isinstance(message, str):
                return points, message
            points.append(message)
        return points, f"no result for {patience:g} s"
    except EOFError:
        process.join()
        return points, f"its process died with exit code {process.exitcode}" if process.exitcode else ""
    finally:
        process.kill()


def run(pipe: Any, package: type[Package], n_threads: int, X: Any, k: int, arguments: Any) -> None:
    """In the fresh process: send each scored point, or the error."""
    warnings.simplefilter("ignore")
    try:
        train, test = X, None
        if arguments.score == HELD_OUT:
            train, test = thin_counts(X, FRACTION, random_state=arguments.seed)
            train = train.to_scipy()
        setup = make_setup(train, k, arguments.seed, arguments.dtype, n_threads, arguments.clock)
        importlib.import_module(package.module)
        if package.compiling:
            compile_first(package, setup)
        clock = [time.perf_counter(), time.process_time()]

        def report(n_iter: int, seconds: float, W: Any, H: Any) -> None:
            cores = (time.process_time() - clock[1]) / (time.perf_counter() - clock[0])
            scored = divergence(train, W, H) if test is None else (held_out(package, train, test, W, H), 0.0)
            if math.isfinite(scored[0]):
                pipe.send((n_iter, seconds, cores, str(np.result_type(W, H)), scored))
            clock[:] = time.perf_counter(), time.process_time()

        package.fit_until(setup, arguments.seconds, report)
    except Exception as error:  # any error is a result
        lines = str(error).strip().splitlines() or [""]
        pipe.send(f"{type(error).__name__}: {lines[0]}")


def compile_first(package: type[Package], setup: Setup) -> None:
    """Compile what the package compiles."""
    if issubclass(package, Fastpmf):
        package.fit(setup, max_iter=package.compiling, tol=0, eval_every=EVERY, dtype=setup.W.dtype)
    else:
        package(setup).advance(package.compiling)


def make_setup(X: Any, k: int, seed: int, dtype: str, n_threads: int, clock: str = "wall") -> Setup:
    """Counts and a random start."""
    return Setup(X, X.tocsr().astype(dtype), *common.random_start(X, k, seed, dtype), seed, n_threads, clock)


def rescaled(X: Any, W: np.ndarray, H: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """W with the best scale of each row and H, negative entries as 0, in float64; and the row sums of X."""
    W, H = (np.maximum(A, 0, dtype=np.float64) for A in (W, H))
    rows, sums = np.asarray(X.sum(axis=1), dtype=float).ravel(), W @ H.sum(axis=1)
    return W * np.divide(rows, sums, out=np.zeros(len(rows)), where=sums > 0)[:, None], H, rows


def divergence(X: Any, W: np.ndarray, H: np.ndarray) -> tuple[float, float]:
    """Divergence at the best scale of each row, and the weight of an added component, 0 if none was needed."""
    W, H, rows = rescaled(X, W, H)
    counts = as_counts(X)
    objective = kl_divergence(counts, W, H)
    if math.isfinite(objective):
        return objective, 0.0
    H = np.vstack([H, np.asarray(X.sum(axis=0), dtype=float).ravel() / counts.total])

    def mixed(log_weight: float) -> float:
        weight = math.exp(log_weight)
        return kl_divergence(counts, np.hstack([(1 - weight) * W, weight * rows[:, None]]), H)

    found = minimize_scalar(mixed, bounds=(math.log(1e-9), 0), method="bounded", options={"xatol": 0.05})
    return min((float(found.fun), math.exp(found.x)), (mixed(0.0), 1.0))  # the search does not evaluate its bounds


def held_out(package: type[Package], train: Any, test: Any, W: np.ndarray, H: np.ndarray) -> float:
    """Minus the log-likelihood of the held-out counts, in nats per count."""
    if not package.rates:
        W, H, _ = rescaled(train, W, H)
    exposure = FRACTION / (1 - FRACTION)
    return -poisson_log_likelihood(test, exposure * np.asarray(W, float), np.asarray(H, float)) / test.total


def reach(points: list[Point], value: float) -> float:
    """Seconds until the score was at most this; infinity if it never was."""
    return min((p.seconds for p in points if p.value <= value), default=math.inf)


def lowest(points: list[Point]) -> Point:
    """The point with the lowest score."""
    return min(points, key=lambda p: p.value)


def verdict(points: list[Point], missing: list[str]) -> list[str]:
    """For each package its lowest score, the time it takes, and the time that fastpmf takes to this score."""
    lines = []
    for (counts, k), own in common.group(points, "counts", "k").items():
        reference, tolerance = own[0].package, TOLERANCE[own[0].score]
        scored = common.group([p for p in own if p.value == p.value], "package")
        unit = "nats" if own[0].score == DIVERGENCE else "negative log-likelihood, nats per held-out count"
        lines.append(f"{counts}, k = {k}, lowest {own[0].score} of each package, {unit}:")
        for (name,), curve in sorted(scored.items(), key=lambda item: lowest(item[1]).value):
            end, first, last = lowest(curve), curve[0], curve[-1]
            target = end.value + tolerance
            its, ours = reach(curve, target), reach(scored.get((reference,), []), target)
            pace = 1e3 * (last.seconds - first.seconds) / max(last.iteration - first.iteration, 1)
            text = f"  {name}{'*' if end.weight else ''} ({end.problem}): {end.value:,.4f} after {its:.3g} s, "
            text += f"{pace:.3g} ms an iteration" if len(curve) > 1 else "one call"
            if name != reference:
                text += f"; {reference} {f'after {ours:.3g} s' if math.isfinite(ours) else 'never'}"
            lines.append(f"{text}.")
        lines += [f"  {p.package} failed or was stopped: {p.error}." for p in own if p.error]
        if any(p.weight > 0 for p in own):
            lines.append("  *: scored with one component more, since it had rates of 0 under positive counts.")
    return [*lines, f"Not installed: {', '.join(missing) or 'none'}."]


def plot(points: list[Point], figure: Any) -> None:
    """Score above the best against seconds; other models are dashed."""
    scored = [p for p in points if p.value == p.value]
    cases = common.group(scored, "counts", "k")
    colors = {name: f"C{i % 10}" for i, (name,) in enumerate(common.group(scored, "package"))}
    panels = common.grid(figure, len(cases), columns=1, size=(7, 4))
    for axes, ((counts, k), own) in zip(panels, cases.items(), strict=True):
        top = lowest(own).value
        for i, ((name,), curve) in enumerate(common.group(own, "package").items()):
            x, y = np.array(sorted((p.seconds, p.value / top - 1) for p in curve)).T
            style = "-" if curve[0].problem == own[0].problem else "--"
            axes.plot(x, np.maximum(y, 1e-5), style, color=colors[name], lw=2.5 if i == 0 else 1.2, marker=".", ms=4,
                      label=name)  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="seconds", ylim=(0.8e-5, None), title=f"{counts}, k = {k}",
                 ylabel="relative gap to the best of all (1e-5 or less)")  # fmt: skip
        axes.legend(fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
