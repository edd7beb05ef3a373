"""HPF's iterations against hpfrec's and against an explicit allotment of counts, and time to the same prediction."""

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from provenance import write_table
from scipy import sparse
from scipy.special import digamma
from studying import add_outputs, check_outputs, clocked, draw, others_busy, progress, read_matrices, tell

from fastpmf import HPF, MemoryCounts, PoissonNMF, poisson_log_likelihood, thin_counts
from fastpmf.kernels._jit import threads

DESCRIPTION = """\
Hierarchical Poisson factorization three ways, with the same priors (0.3 and 1), on the same counts and threads:

  fastpmf   HPF
  hpfrec    if it is installed, with all its tests for stopping turned off, and the dtype that is asked for
  explicit  the same updates as most packages write them, scHPF among them: how each count is allotted to the
            components is computed and stored, K numbers for each count, by all threads, and then added up by
            one thread, since additions to shared rows can't be shared out. Numba; float64

and fastpmf's multiplicative updates beside them. First seconds per iteration: the difference of a fit of 2
iterations and one of more, medians of several turns of all, turn about; more is 8, or 82 for fastpmf, whose
iterations are too short to time a few of. Then how long each takes to predict
counts that were held out by thinning nearly as well as hpfrec does at its best: fits of 1, 2, 4 and so on
iterations are scored by the log-likelihood per held-out count at the posterior means. Kernels are compiled,
and counts transposed, before any clock runs.
"""
FEW, MORE = 2, 8
OWN = 82  # of fastpmf's, whose iterations are short beside what a fit begins with
NEAR = 0.01  # nats per count: from start to start the end differs by as much
LINE = "{:<28}{:>5} {:<10}{:>12}{:>16}"


class Line(NamedTuple):
    """A line of the table: one measurement; an objective where there is one, in nats per held-out count."""

    counts: str
    k: int
    what: str
    method: str
    iterations: int
    seconds: float
    held_out: float
    dtype: str


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", metavar="FILE", help=".npz or .mtx[.gz] (default: the words of Python)")
    parser.add_argument("-k", "--components", nargs="+", type=int, default=[20], metavar="K", help="default: 20")
    parser.add_argument("--turns", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--most", type=int, default=128, metavar="N", help="iterations of a fit, a power of two; "
                        "fastpmf takes up to 8 times as many where need be; default: %(default)s")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all this process may use")
    add_outputs(parser, "versus_hpf")
    arguments = parser.parse_args()
    if min(n for n in (*arguments.components, arguments.turns, arguments.most, arguments.threads) if n is not None) < 1:
        parser.error("--components, --turns, --most and --threads must be at least 1")
    check_outputs(parser, arguments)
    warnings.simplefilter("ignore")
    methods: dict[str, Callable] = {"fastpmf": fastpmf, "explicit": explicit, "mu": multiplicative}
    try:
        import hpfrec  # noqa: F401
    except ImportError:
        tell("hpfrec is not installed: without it")
    else:
        methods["hpfrec"] = hpfrec_
    matrices, lines, busy = read_matrices(parser, arguments.data), [], others_busy()
    tell(LINE.format("counts", "k", "method", "ms/iteration", "nats per count"))
    with threads(arguments.threads) as n_threads, progress(len(matrices) * len(arguments.components), "case") as tick:
        for name, X in matrices.items():
            train, test = thin_counts(X, 0.1, random_state=arguments.seed)
            for k in arguments.components:
                setup = Setup(train, k, arguments.seed, np.dtype(arguments.dtype), n_threads)
                lines += case(name, setup, test, methods, arguments)
                write_table(arguments.csv, Line._fields, lines, matrices)
                tick()
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, lines))
    tell()
    for sentence in [*verdict(lines), *busy]:
        tell(sentence)
    return 0


class Setup(NamedTuple):
    """What every fit is given."""

    counts: MemoryCounts
    k: int
    seed: int
    dtype: np.dtype
    n_threads: int


def case(name: str, setup: Setup, test: MemoryCounts, methods: dict, arguments: argparse.Namespace) -> list[Line]:
    """Seconds per iteration of every method, then the way of each to hpfrec's best prediction."""
    lines, few, last = [], {m: [] for m in methods}, {m: [] for m in methods}
    more = {m: OWN if m in ("fastpmf", "mu") else MORE for m in methods}
    for method in methods.values():
        method(setup, 1)  # compiled, and the counts transposed
    for _ in range(arguments.turns):
        for label, method in methods.items():
            for n, found in ((FEW, few), (more[label], last)):
                found[label].append(method(setup, n)[2])
    for label in methods:
        n = more[label]
        each = (median(last[label]) - median(few[label])) / (n - FEW)
        score = held_out(test, *methods[label](setup, n)[:2])
        lines.append(Line(name, setup.k, "iteration", label, n, each, score, str(setup.dtype)))
        tell(LINE.format(name, setup.k, label, f"{1e3 * each:.3g}", f"{score:.4f} @{n}"))
    best = -math.inf
    for label in [m for m in ("hpfrec", "fastpmf") if m in methods]:
        n, most = 1, arguments.most
        while n <= most:
            W, H, seconds = methods[label](setup, n)
            lines.append(Line(name, setup.k, "way", label, n, seconds, held_out(test, W, H), str(setup.dtype)))
            if label == "hpfrec":
                best = max(best, lines[-1].held_out)
            elif n == most < 8 * arguments.most and lines[-1].held_out < best - NEAR:
                most *= 2  # its iterations are short: it may take more of them
            n *= 2
    return lines


def held_out(test: MemoryCounts, W: np.ndarray, H: np.ndarray) -> float:
    """Log-likelihood per held-out count, a ninth of those fitted, in nats."""
    return poisson_log_likelihood(test, np.asarray(W, float) / 9, np.asarray(H, float)) / test.total


def fastpmf(setup: Setup, n_iter: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Ours: posterior means and seconds."""
    model = HPF(
        setup.k, max_iter=n_iter, tol=0, eval_every=n_iter + 1, random_state=setup.seed, dtype=setup.dtype,
        n_threads=setup.n_threads,
    )  # fmt: skip
    W, seconds = clocked(lambda: model.fit_transform(setup.counts))
    return W, model.components_, seconds


def multiplicative(setup: Setup, n_iter: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Our multiplicative updates."""
    model = PoissonNMF(
        setup.k, solver="mu", max_iter=n_iter, tol=0, eval_every=n_iter + 1, random_state=setup.seed,
        dtype=setup.dtype, n_threads=setup.n_threads,
    )  # fmt: skip
    W, seconds = clocked(lambda: model.fit_transform(setup.counts))
    return W, model.components_, seconds


def hpfrec_(setup: Setup, n_iter: int) -> tuple[np.ndarray, np.ndarray, float]:
    """hpfrec's HPF."""
    import hpfrec

    lean = dict.fromkeys(("verbose", "keep_data", "produce_dicts", "keep_all_objs"), False)
    model = hpfrec.HPF(
        setup.k, ncores=setup.n_threads, maxiter=n_iter, check_every=n_iter, stop_crit="maxiter",
        use_float=setup.dtype == np.float32, random_seed=setup.seed, **lean,
    )  # fmt: skip
    X = sparse.coo_matrix(setup.counts.to_scipy())
    _, seconds = clocked(lambda: model.fit(X))
    return model.Theta, np.asarray(model.Beta).T, seconds


def explicit(setup: Setup, n_iter: int) -> tuple[np.ndarray, np.ndarray, float]:
    """The updates with allotments that are stored."""
    X = setup.counts.to_scipy().tocoo()
    rng, (n, p), k = np.random.default_rng(setup.seed), X.shape, setup.k
    i, j, x = X.row.astype(np.int64), X.col.astype(np.int64), X.data.astype(float)
    allotted = np.empty((len(x), k))

    def run() -> tuple[np.ndarray, np.ndarray]:
        shapes = [0.3 + 0.01 * rng.random((m, k)) for m in (n, p)]
        rates = [np.full((m, k), 0.3 + 0.01) for m in (n, p)]
        activities = [np.full(m, 0.3 + k) for m in (n, p)]
        for _ in range(n_iter):
            logs = [digamma(s) - np.log(r) for s, r in zip(shapes, rates, strict=True)]
            allot(i, j, x, logs[0], logs[1], allotted)
            for side, index in enumerate((i, j)):
                shapes[side][:] = 0.3
                add_up(index, allotted, shapes[side])
            for side in (0, 1):
                other = shapes[1 - side] / rates[1 - side]
                rates[side] = ((0.3 + k * 0.3) / activities[side])[:, None] + other.sum(axis=0)
                activities[side] = 0.3 + (shapes[side] / rates[side]).sum(axis=1)
        return shapes[0] / rates[0], (shapes[1] / rates[1]).T

    (W, H), seconds = clocked(run)
    return W, H, seconds


@njit(parallel=True, cache=False)
def allot(i, j, x, log_w, log_h, out):
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
def add_up(index, allotted, out):
    """out[index[p]] += allotted[p]."""
    for p in range(len(index)):
        for k in range(out.shape[1]):
            out[index[p], k] += allotted[p, k]


def verdict(lines: list[Line]) -> list[str]:
    """Ratios in words."""
    told = []
    for name, k in dict.fromkeys((line.counts, line.k) for line in lines):
        own = [line for line in lines if (line.counts, line.k) == (name, k)]
        each = {line.method: line.seconds for line in own if line.what == "iteration"}
        faster = (
            f"{each[m] / each['fastpmf']:.1f} times as fast as {m}'s" for m in ("hpfrec", "explicit") if m in each
        )
        told.append(
            f"{name}, k = {k}: an iteration of fastpmf's HPF is {' and '.join(faster)}, and takes "
            f"{each['fastpmf'] / each['mu']:.2f} times as long as a multiplicative one."
        )
        ways = {m: [x for x in own if (x.what, x.method) == ("way", m)] for m in ("hpfrec", "fastpmf")}
        if ways["hpfrec"]:
            goal = max(line.held_out for line in ways["hpfrec"]) - NEAR
            there = {m: next((line for line in way if line.held_out >= goal), None) for m, way in ways.items()}
            theirs, ours = there["hpfrec"], there["fastpmf"]
            sooner = f"{theirs.seconds / ours.seconds:.1f} times sooner" if ours else "never"
            told.append(
                f"To within {NEAR} of hpfrec's best held-out log-likelihood ({goal + NEAR:.4f} nats per count) hpfrec "
                f"comes in {theirs.iterations} iterations and {theirs.seconds:.2g} s, fastpmf {sooner}."
            )
    return told


def paint(figure: Any, lines: list[Line]) -> None:
    """Held-out log-likelihood against seconds, a panel for each case."""
    cases = list(dict.fromkeys((line.counts, line.k) for line in lines))
    columns = min(3, len(cases))
    rows = math.ceil(len(cases) / columns)
    figure.set_size_inches(4.5 * columns, 0.5 + 3.5 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axes, (name, k) in zip(panels, cases, strict=False):
        for i, method in enumerate(("fastpmf", "hpfrec")):
            own = [x for x in lines if (x.counts, x.k, x.what, x.method) == (name, k, "way", method)]
            if own:
                y = [x.held_out for x in own]
                axes.plot([x.seconds for x in own], y, "os"[i] + "-", color=f"C{i}", ms=4, label=method)
        axes.set(xscale="log", xlabel="seconds", ylabel="held out, nats per count", title=f"{name}, k = {k}")
    panels[0].legend()
    for axes in panels[len(cases) :]:
        axes.set_axis_off()


if __name__ == "__main__":
    sys.exit(main())
