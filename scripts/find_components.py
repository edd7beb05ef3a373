"""How often `select_n_components` finds the number of components that counts were drawn with."""

import argparse
import sys
from typing import Any, NamedTuple

import numpy as np
from provenance import write_table
from studying import add_outputs, check_outputs, draw, progress, tell, whole_number

from fastpmf import PoissonNMF, select_n_components
from fastpmf.datasets import make_poisson_counts

DESCRIPTION = """\
Draw counts with a known number of components, have `select_n_components` choose among the numbers from
some below to some above it, and tell how often it recommends the true one, and one that is at most one off;
the best of held-out log-likelihood alone, and the number whose components agree most between splits, beside
it. Counts are `make_poisson_counts`': factors of Gamma(0.3) entries.
"""


class Line(NamedTuple):
    """A line of the table."""

    true_k: int
    seed: int
    recommended: int
    best: int
    most_similar: int
    nats_per_count: float
    error: float


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=2, type=int, default=[1000, 500], metavar=("N", "P"), help="default: 1000 500")
    parser.add_argument("--nnz", type=whole_number, default=100_000, metavar="N", help="nonzeros; default: %(default)s")
    parser.add_argument("-k", "--components", nargs="+", type=int, default=[5, 10, 20], metavar="K", help="true "
                        "numbers; default: 5 10 20")  # fmt: skip
    parser.add_argument("--around", type=int, default=4, metavar="N", help="numbers tried to either side of the true "
                        "one; default: %(default)s")  # fmt: skip
    parser.add_argument("--draws", type=int, default=10, metavar="N", help="of each number; default: %(default)s")
    parser.add_argument("--splits", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all this process may use")
    add_outputs(parser, "find_components")
    arguments = parser.parse_args()
    if min(*arguments.shape, *arguments.components, arguments.around, arguments.draws, arguments.splits) < 1:
        parser.error("--shape, --components, --around, --draws and --splits must be positive")
    if not 0 < arguments.nnz < arguments.shape[0] * arguments.shape[1]:
        parser.error(f"--nnz must be below {arguments.shape[0] * arguments.shape[1]}, the entries, got {arguments.nnz}")
    check_outputs(parser, arguments)
    lines: list[Line] = []
    with progress(len(arguments.components) * arguments.draws, "draw") as tick:
        for k in arguments.components:
            for seed in range(arguments.draws):
                lines.append(study(k, seed, arguments))
                tick()
            tell(verdict(k, [line for line in lines if line.true_k == k]))
    write_table(arguments.csv, Line._fields, lines, {})
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, lines))
    return 0


def study(k: int, seed: int, arguments: argparse.Namespace) -> Line:
    """One draw."""
    n, p = arguments.shape
    X = make_poisson_counts(n, p, k, nnz=arguments.nnz, random_state=seed).X
    tried = range(max(1, k - arguments.around), k + arguments.around + 1)
    model = PoissonNMF(1, prior_W="auto", prior_H="auto", max_iter=300, dtype="float32")
    found = select_n_components(
        X, tried, estimator=model, n_splits=arguments.splits, random_state=seed, n_threads=arguments.threads
    )
    at = list(found.n_components).index(found.recommended)
    # one component is nearly the same in every split
    alike = np.where(found.n_components > 1, np.nan_to_num(found.similarity), 0.0)
    return Line(k, seed, found.recommended, found.best, int(found.n_components[alike.argmax()]), found.mean[at],
                found.error[at])  # fmt: skip


def verdict(k: int, lines: list[Line]) -> str:
    """How often each rule is right, in a sentence."""
    told = []
    for rule in ("recommended", "best", "most_similar"):
        off = [abs(getattr(line, rule) - k) for line in lines]
        told.append(f"{rule.replace('_', ' ')} {off.count(0)} exactly, {sum(o <= 1 for o in off)} within one")
    return f"k = {k}, {len(lines)} draws: {'; '.join(told)}"


def paint(figure: Any, lines: list[Line]) -> None:
    """What each draw was found to have, against what it has."""
    axes = figure.add_subplot(
        xlabel="true number of components", ylabel="found less true", title="recommended and best"
    )
    names = {"recommended": (-0.15, "o"), "best": (0.15, "s")}
    ks = list(dict.fromkeys(line.true_k for line in lines))
    for i, (rule, (shift, marker)) in enumerate(names.items()):
        for a, k in enumerate(ks):
            off = np.array([getattr(line, rule) - k for line in lines if line.true_k == k])
            at = a + shift + np.linspace(-0.1, 0.1, len(off))
            axes.plot(at, off, marker, color=f"C{i}", label=rule if a == 0 else None, alpha=0.7)
    axes.axhspan(-1, 1, color="0.9", zorder=0)
    axes.set_xticks(range(len(ks)), list(map(str, ks)))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend()


if __name__ == "__main__":
    sys.exit(main())
