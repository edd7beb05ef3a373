"""What an iteration of each model costs beside one of maximum likelihood."""

import argparse
import sys
import time
import warnings
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from provenance import write_table
from scipy import sparse
from studying import add_outputs, check_outputs, draw, others_busy, progress, read_matrices, tell

from fastpmf import HPF, as_counts, poisson_nmf

DESCRIPTION = """\
Fit each model by multiplicative updates ("mu") and by coordinate descent ("cd") from one start, and clock its
iterations against those of maximum likelihood on the same counts, turn about: the median over the turns of
the ratio of the seconds from one record of the trace to another, thirty iterations later. So what a fit
begins and ends with is left out; the objectives that are evaluated for the records, one in fifteen
iterations, are in.

  map              Gamma priors on both factors, shapes above 1
  l1               scikit-learn's penalty
  row exposure     with no prior they only scale W
  exposure + map   each row has its own prior then
  background       one known component more
  fixed rows       half of H's rows known
  mask, nonzeros   as many entries not observed, anywhere, as one in a hundred stored counts
  mask, entries    one in a hundred of all entries, most of which are zeros
  hpf              an iteration of HPF, beside "mu"
"""
EVERY, LAST = 15, 45  # coordinate descent begins after ten multiplicative iterations
MODELS = [
    "map", "l1", "row exposure", "exposure + map", "background", "fixed rows", "mask, nonzeros", "mask, entries", "hpf",
]  # fmt: skip


class Line(NamedTuple):
    """A line of the table."""

    counts: str
    k: int
    solver: str
    model: str
    milliseconds: float
    ratio: float
    objective: float
    dtype: str


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", metavar="FILE", help=".npz or .mtx[.gz] (default: the words of Python)")
    parser.add_argument("-k", "--components", nargs="+", type=int, default=[20], metavar="K", help="default: 20")
    parser.add_argument("--solvers", nargs="+", choices=["mu", "cd"], default=["mu", "cd"], help="default: both")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all this process may use")
    add_outputs(parser, "model_costs")
    arguments = parser.parse_args()
    if min(n for n in (*arguments.components, arguments.turns, arguments.threads) if n is not None) < 1:
        parser.error("--components, --turns and --threads must be at least 1")
    check_outputs(parser, arguments)
    warnings.simplefilter("ignore")
    matrices, lines, busy = read_matrices(parser, arguments.data), [], others_busy()
    line = "{:<28}{:>5} {:<7}{:<16}{:>14}{:>8}"
    tell(line.format("counts", "k", "solver", "model", "ms/iteration", "ratio"))
    cases = [(name, k, s) for name in matrices for k in arguments.components for s in arguments.solvers]
    with progress(len(cases) * len(MODELS), "model") as tick:
        for name, k, solver in cases:
            for model in MODELS:
                if (solver, model) != ("cd", "hpf"):
                    lines.append(measure(name, as_counts(matrices[name]), k, solver, model, arguments))
                    tell(line.format(name, k, solver, model, f"{lines[-1].milliseconds:.3g}", f"{lines[-1].ratio:.2f}"))
                    write_table(arguments.csv, Line._fields, lines, matrices)
                tick()
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, lines))
    tell()
    for model in MODELS:
        ratios = sorted(line.ratio for line in lines if line.model == model)
        told = f"{ratios[0]:.2f} to {ratios[-1]:.2f} times maximum likelihood's seconds"
        tell(f"{model}: {told}, median {median(ratios):.2f}.")
    for sentence in busy:
        tell(sentence)
    return 0


def options_of(model: str, counts: Any, k: int) -> dict[str, Any]:
    """What `poisson_nmf` is told."""
    n, p = counts.shape
    rng = np.random.default_rng(0)
    prior = {"prior_W": "auto", "prior_H": "auto"}
    exposure = {"row_exposure": counts.sums(0) + 1.0}
    known = np.full((k, p), np.nan)
    known[: k // 2] = counts.sums(1) * rng.random((k // 2, p)) / counts.total
    size = {"mask, nonzeros": counts.nnz // 100, "mask, entries": n * p // 100}.get(model, 0)
    some = np.unique(rng.integers(0, n * p, size))
    mask = sparse.csr_array((np.ones(len(some), np.uint8), (some // p, some % p)), shape=(n, p))
    return {
        "ml": {}, "map": prior, "l1": {"alpha_W": 1e-5, "l1_ratio": 1.0}, "row exposure": exposure,
        "exposure + map": exposure | prior, "background": {"background": 1e-3 * counts.total / (n * p)},
        "fixed rows": {"fixed_H": known}, "mask, nonzeros": {"mask": mask}, "mask, entries": {"mask": mask},
    }[model]  # fmt: skip


def measure(name: str, counts: Any, k: int, solver: str, model: str, arguments: argparse.Namespace) -> Line:
    """The model and maximum likelihood, turn about."""
    common = {"random_state": 0, "tol": 0, "dtype": arguments.dtype, "n_threads": arguments.threads}

    def fit(which: str, n_iter: int = LAST) -> tuple[float, float]:
        """Seconds per iteration, and the objective at the end."""
        clock = {}

        def watch(record, W, H):
            clock[record.n_iter] = time.perf_counter()

        options = {"max_iter": n_iter, "eval_every": EVERY, "callback": watch} | common
        if which == "hpf":
            objective = HPF(k, **options).fit(counts).objective_
        else:
            told = options_of(which, counts, k)
            objective = poisson_nmf(counts, k, solver=solver, acceleration=None, **options, **told).objective
        return (clock[n_iter] - clock[EVERY]) / max(n_iter - EVERY, 1), objective

    own, ratios = [], []
    fit(model, EVERY), fit("ml", EVERY)  # compiled
    for _ in range(arguments.turns):
        each, objective = fit(model)
        own.append(each)
        ratios.append(each / fit("ml")[0])
    return Line(name, k, solver, model, 1e3 * median(own), median(ratios), objective, arguments.dtype)


def paint(figure: Any, lines: list[Line]) -> None:
    """A bar for each model, in the median over the cases, and a dot for each case."""
    figure.set_size_inches(7, 4)
    axes = figure.subplots()
    for y, model in enumerate(MODELS[::-1]):
        ratios = [line.ratio for line in lines if line.model == model]
        axes.barh(y, median(ratios), color="C0", alpha=0.6)
        axes.plot(ratios, [y] * len(ratios), "k.", ms=5)
    axes.set_yticks(range(len(MODELS)), MODELS[::-1])
    axes.axvline(1, color="0.4", ls=":")
    axes.set(xlabel="seconds per iteration, over maximum likelihood's", title="cost of an iteration")


if __name__ == "__main__":
    sys.exit(main())
