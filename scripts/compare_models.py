"""Which model predicts held-out counts: likelihood, posterior modes and HPF, at several numbers of components."""

import argparse
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from provenance import write_table
from studying import (
    add_outputs,
    check_outputs,
    clocked,
    draw,
    others_busy,
    progress,
    read_matrices,
    tell,
)

from fastpmf import HPF, MemoryCounts, PoissonNMF, poisson_log_likelihood, thin_counts

DESCRIPTION = """\
For each file of counts, hold out a share of the counts by binomial thinning, which leaves two parts that are
independent under the model. For each K, fit the rest by

  ml         PoissonNMF(): maximum likelihood
  map        PoissonNMF(prior_W="auto", prior_H="auto"): the mode under weak Gamma priors
  hpf        HPF(): hierarchical Poisson factorization
  hpf-learn  HPF(learn_prior=True): with its hyperparameters fitted too

and score the rates that they predict by the log-likelihood of the held-out counts, per count. Factors with
exact zeros can say that a count is impossible, which makes it -inf. So there is a second score, of rates
99 % of which are the model's and 1 % those of no structure at all, row times column (with half a count more
in each of both): every model gets the same.
"""
MODELS: dict[str, Callable[..., Any]] = {
    "ml": PoissonNMF,
    "map": lambda k, **options: PoissonNMF(k, prior_W="auto", prior_H="auto", **options),
    "hpf": HPF,
    "hpf-learn": lambda k, **options: HPF(k, learn_prior=True, **options),
}
LINE = "{:<28}{:>5} {:<10}{:>14}{:>14}{:>9}{:>7}"
MIXED = 0.01  # share of the structureless rates in the second score


class Score(NamedTuple):
    """A line of the table: log-likelihoods are of held-out counts, per count, in nats."""

    counts: str
    k: int
    model: str
    seed: int
    log_likelihood: float
    mixed_log_likelihood: float
    iterations: int
    seconds: float
    dtype: str


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", metavar="FILE", help=".npz or .mtx[.gz] (default: the words of Python)")
    parser.add_argument(
        "-k", "--components", nargs="+", type=int, default=[10, 20, 50], metavar="K", help="default: 10 20 50"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], metavar="NAME", help="default: all")
    parser.add_argument("--fraction", type=float, default=0.1, help="of the counts held out; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--max-iter", type=int, default=300, metavar="N", help="default: %(default)s")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all this process may use")
    add_outputs(parser, "compare_models")
    arguments = parser.parse_args()
    if min(n for n in (*arguments.components, arguments.max_iter, arguments.threads) if n is not None) < 1:
        parser.error("--components, --max-iter and --threads must be at least 1")
    if not 0 < arguments.fraction < 1:
        parser.error(f"--fraction must be between 0 and 1, got {arguments.fraction}")
    check_outputs(parser, arguments)
    matrices, scores, busy = read_matrices(parser, arguments.data), [], others_busy()
    warnings.filterwarnings("ignore", message=".*(carry no counts|Stopped at max_iter)")
    tell(LINE.format("counts", "k", "model", "per count", "mixed", "seconds", "iter."))
    with progress(len(matrices) * len(arguments.components) * len(arguments.models), "fit") as tick:
        for name, X in matrices.items():
            try:
                train, test = thin_counts(X, arguments.fraction, random_state=arguments.seed)
            except ValueError as error:
                parser.error(f"{name}: {error}")
            for k in arguments.components:
                for model in arguments.models:
                    scores.append(score(name, train, test, k, model, arguments))
                    one = scores[-1]
                    told = (f"{one.log_likelihood:.4f}", f"{one.mixed_log_likelihood:.4f}", f"{one.seconds:.3g}")
                    tell(LINE.format(name, k, model, *told, one.iterations))
                    write_table(arguments.csv, Score._fields, scores, matrices)
                    tick()
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, scores))
    tell()
    for sentence in [*verdict(scores), *busy]:
        tell(sentence)
    return 0


def score(
    name: str, train: MemoryCounts, test: MemoryCounts, k: int, model: str, arguments: argparse.Namespace
) -> Score:
    """A fit, clocked and scored."""
    fit = MODELS[model](
        k, max_iter=arguments.max_iter, random_state=arguments.seed, dtype=arguments.dtype, n_threads=arguments.threads
    )
    W, seconds = clocked(lambda: fit.fit_transform(train))
    exposure = arguments.fraction / (1 - arguments.fraction)
    W, H = exposure * np.asarray(W, float), np.asarray(fit.components_, float)
    plain = poisson_log_likelihood(test, W, H, n_threads=arguments.threads) / test.total
    rows, columns = (train.sums(side) + 0.5 for side in (0, 1))
    rows = exposure * rows / columns.sum()
    mixed = np.column_stack([(1 - MIXED) * W, MIXED * rows]), np.vstack([H, columns])
    value = poisson_log_likelihood(test, *mixed, n_threads=arguments.threads) / test.total
    return Score(name, k, model, arguments.seed, plain, value, fit.n_iter_, seconds, arguments.dtype)


def verdict(scores: list[Score]) -> list[str]:
    """Who predicts best where, in words."""
    lines, won = [], dict.fromkeys((score.model for score in scores), 0)
    for name in dict.fromkeys(score.counts for score in scores):
        own = [score for score in scores if score.counts == name]
        best = max(own, key=lambda score: score.mixed_log_likelihood)
        won[best.model] += 1
        tops = {model: max((s.mixed_log_likelihood, s.k) for s in own if s.model == model) for model in won}
        told = (f"{model} {value:.3f} (k = {k})" for model, (value, k) in sorted(tops.items(), key=lambda t: -t[1][0]))
        lines.append(f"{name}: each model's best, mixed, in nats per count: {', '.join(told)}.")
    impossible = sum(score.log_likelihood == -math.inf for score in scores if score.model == "ml")
    fits = sum(score.model == "ml" for score in scores)
    if fits:
        lines.append(f"Maximum likelihood called held-out counts impossible in {impossible} of {fits} fits.")
    told = (f"{model} {n}" for model, n in sorted(won.items(), key=lambda t: -t[1]))
    lines.append(f"Counts that each model predicts best, at its best k: {', '.join(told)}.")
    return lines


def paint(figure: Any, scores: list[Score]) -> None:
    """A panel for each matrix: mixed log-likelihood against k, a line for each model."""
    names = list(dict.fromkeys(score.counts for score in scores))
    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    figure.set_size_inches(3.6 * columns, 0.6 + 3.2 * rows)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    models = list(dict.fromkeys(score.model for score in scores))
    for axes, name in zip(panels, names, strict=False):
        for i, model in enumerate(models):
            own = sorted((s.k, s.mixed_log_likelihood) for s in scores if (s.counts, s.model) == (name, model))
            label = model if axes is panels[0] else None
            axes.plot(*zip(*own, strict=True), "osD^"[i % 4] + "-", color=f"C{i}", ms=5, label=label)
        axes.set(title=name, xlabel="components", ylabel="held out, nats per count", xscale="log")
        axes.set_xticks(sorted({s.k for s in scores}), [str(k) for k in sorted({s.k for s in scores})])
        axes.minorticks_off()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    figure.legend(loc="outside lower center", ncols=len(models))


if __name__ == "__main__":
    sys.exit(main())
