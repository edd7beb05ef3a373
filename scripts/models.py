"""Prediction of held-out counts by each model, and the cost of its iterations."""

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import common
import numpy as np
from scipy import sparse

from fastpmf import HPF, PoissonNMF, as_counts, poisson_log_likelihood, poisson_nmf, thin_counts

DESCRIPTION = """\
  prediction  hold out a share of the counts by binomial thinning, fit the rest, and score the predicted rates by the
              log-likelihood of the held-out counts, in nats per count:
                ml         PoissonNMF(): maximum likelihood
                map        PoissonNMF(prior_W="auto", prior_H="auto"): the mode under weak Gamma priors
                hpf        HPF(): hierarchical Poisson factorization
                hpf-learn  HPF(learn_prior=True): its hyperparameters are fitted too
              Exact zeros in factors can make a held-out count impossible, and the likelihood 0. A second score
              is therefore that of rates that are 99 % the model's and 1 % row times column, without structure ("mixed")
  cost        seconds of an iteration over those of maximum likelihood, on the same counts, interleaved: medians over
              --repeats of iterations 16 to 45, including the objective, which is evaluated every 15 iterations
                map              Gamma priors on both factors, shapes above 1
                l1               scikit-learn's penalty
                row exposure     without priors it only scales W
                exposure + map   each row then has its own prior
                background       one more component, which is known
                fixed rows       half of the rows of H are fixed
                mask, nonzeros   random entries masked, 1 % of the number of nonzeros
                mask, entries    1 % of all entries masked, most of which are zeros
                hpf              HPF, relative to multiplicative updates
"""
PREDICTORS: dict[str, Callable[..., Any]] = {
    "ml": PoissonNMF,
    "map": partial(PoissonNMF, prior_W="auto", prior_H="auto"),
    "hpf": HPF,
    "hpf-learn": partial(HPF, learn_prior=True),
}
VARIANTS = ("map", "l1", "row exposure", "exposure + map", "background", "fixed rows", "mask, nonzeros",
            "mask, entries", "hpf")  # fmt: skip
PARTS = ("prediction", "cost")
MIXED = 0.01  # share of the rates without structure
EVERY, LAST = 15, 45  # coordinate descent begins after ten multiplicative iterations
SHOWN = "counts k model solver log_likelihood mixed_log_likelihood seconds ratio iterations"


class Row(NamedTuple):
    """A row of the table. Log-likelihoods are per held-out count, in nats; cells that do not apply are empty."""

    part: str
    counts: str
    k: int
    model: str
    solver: str
    seed: int
    dtype: str
    log_likelihood: float
    mixed_log_likelihood: float
    iterations: int
    seconds: float  # of the fit; of an iteration
    ratio: float
    objective: float


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION)
    parser.shared(data=[], components=[20], seed=0, max_iter=300, repeats=5, dtype="float32", threads=None)
    parser.option("--parts", "parts", [*PARTS], choices=PARTS)
    parser.option("--models", "models of the part prediction", [*PREDICTORS], choices=PREDICTORS)
    parser.option("--fraction", "fraction of the counts to hold out", 0.1, type=common.fraction)
    parser.option("--solvers", "solvers of the part cost", ["mu", "cd"], choices=["mu", "cd"])
    arguments = parser.parse_args()
    matrices, load = common.read_matrices(parser, arguments.data), common.warning_of_load()
    warnings.simplefilter("ignore")
    predictions = len(arguments.models) if "prediction" in arguments.parts else 0
    costs = len(VARIANTS) * len(arguments.solvers) if "cost" in arguments.parts else 0
    total = len(matrices) * len(arguments.components) * (predictions + costs)
    rows = common.collect(measure(matrices, arguments), total, arguments, counts=matrices, show=SHOWN)
    return common.conclude(arguments, partial(plot, rows), [*verdict(rows), *load])


def measure(matrices: dict[str, Any], arguments: argparse.Namespace) -> Iterator[list[Row]]:
    """Every model of every case."""
    for name, X in matrices.items():
        train, test = thin_counts(X, arguments.fraction, random_state=arguments.seed)
        for k in arguments.components:
            if "prediction" in arguments.parts:
                for model in arguments.models:
                    yield [predict(train, test, k, model, arguments)._replace(counts=name)]
            if "cost" in arguments.parts:
                counts = as_counts(X)
                for solver in arguments.solvers:
                    for model in VARIANTS:
                        if (solver, model) == ("cd", "hpf"):
                            yield []
                        else:
                            yield [cost(counts, X, k, solver, model, arguments)._replace(counts=name)]


def predict(train: Any, test: Any, k: int, model: str, arguments: argparse.Namespace) -> Row:
    """A fit, timed and scored."""
    fit = PREDICTORS[model](
        k, max_iter=arguments.max_iter, random_state=arguments.seed, dtype=arguments.dtype, n_threads=arguments.threads
    )
    W, seconds = common.timed(lambda: fit.fit_transform(train))
    exposure = arguments.fraction / (1 - arguments.fraction)
    W, H = exposure * np.asarray(W, float), np.asarray(fit.components_, float)
    plain = poisson_log_likelihood(test, W, H) / test.total
    X = train.to_scipy()  # rates without structure have half a count more in each row and column
    rows, columns = (np.asarray(X.sum(axis=axis), dtype=float).ravel() + 0.5 for axis in (1, 0))
    mixed = np.column_stack([(1 - MIXED) * W, MIXED * exposure * rows / columns.sum()]), np.vstack([H, columns])
    value = poisson_log_likelihood(test, *mixed) / test.total
    return Row("prediction", "", k, model, "", arguments.seed, arguments.dtype, plain, value, fit.n_iter_, seconds,
               math.nan, math.nan)  # fmt: skip


def options_of(model: str, X: Any, k: int) -> dict[str, Any]:
    """Options of `poisson_nmf`."""
    (n, p), rng, total = X.shape, np.random.default_rng(0), float(X.sum())
    prior = {"prior_W": "auto", "prior_H": "auto"}
    exposure = {"row_exposure": np.asarray(X.sum(axis=1), dtype=float).ravel() + 1.0}
    known = np.full((k, p), np.nan)
    known[: k // 2] = np.asarray(X.sum(axis=0), dtype=float).ravel() * rng.random((k // 2, p)) / total
    size = {"mask, nonzeros": X.nnz // 100, "mask, entries": n * p // 100}.get(model, 0)
    cells = np.unique(rng.integers(0, n * p, size))
    mask = sparse.csr_array((np.ones(len(cells), np.uint8), (cells // p, cells % p)), shape=(n, p))
    return {
        "ml": {}, "map": prior, "l1": {"alpha_W": 1e-5, "l1_ratio": 1.0}, "row exposure": exposure,
        "exposure + map": exposure | prior, "background": {"background": 1e-3 * total / (n * p)},
        "fixed rows": {"fixed_H": known}, "mask, nonzeros": {"mask": mask}, "mask, entries": {"mask": mask},
    }[model]  # fmt: skip


def cost(counts: Any, X: Any, k: int, solver: str, model: str, arguments: argparse.Namespace) -> Row:
    """Iterations of the model and of maximum likelihood, interleaved."""
    options = {"random_state": 0, "tol": 0, "dtype": arguments.dtype, "n_threads": arguments.threads,
               "eval_every": EVERY, "max_iter": LAST + 1}  # fmt: skip

    def fit(which: str) -> tuple[float, float]:
        """Seconds of an iteration, and the objective at the end."""
        if which == "hpf":
            hpf = HPF(k, **options).fit(counts)
            return common.seconds_per_iteration(hpf.trace_, EVERY, LAST), hpf.objective_
        solution = poisson_nmf(counts, k, solver=solver, acceleration=None, **options, **options_of(which, X, k))
        return common.seconds_per_iteration(solution.trace, EVERY, LAST), solution.objective

    own, ratios = [], []
    fit(model), fit("ml")  # compile
    for _ in range(arguments.repeats):
        seconds, objective = fit(model)
        own.append(seconds)
        ratios.append(seconds / fit("ml")[0])
    return Row("cost", "", k, model, solver, 0, arguments.dtype, math.nan, math.nan, LAST - EVERY, median(own),
               median(ratios), objective)  # fmt: skip


def verdict(rows: list[Row]) -> list[str]:
    """The best predictions of each model, and the cost of its iterations."""
    lines, predictions = [], [row for row in rows if row.part == "prediction"]
    for (name,), own in common.group(predictions, "counts").items():
        best = {
            m: max((r.mixed_log_likelihood, r.k) for r in subset) for (m,), subset in common.group(own, "model").items()
        }
        order = sorted(best, key=lambda model: -best[model][0])
        text = ", ".join(f"{model} {best[model][0]:.3f} (k = {best[model][1]})" for model in order)
        lines.append(f"{name}: the best of each model, mixed, in nats per held-out count: {text}.")
    fits = [row.log_likelihood for row in predictions if row.model == "ml"]
    if fits:
        lines.append(
            f"Held-out counts are impossible under maximum likelihood in {fits.count(-math.inf)} of {len(fits)} fits."
        )
    for (model,), own in common.group([row for row in rows if row.part == "cost"], "model").items():
        ratios = [row.ratio for row in own]
        ends = common.format_range(ratios, ".2f")
        lines.append(
            f"{model}: an iteration takes {ends} times that of maximum likelihood, median {median(ratios):.2f}."
        )
    return lines


def plot(rows: list[Row], figure: Any) -> None:
    """Held-out log-likelihood against k for each matrix, and the costs."""
    predictions, costs = ([row for row in rows if row.part == part] for part in PARTS)
    panels = common.group(predictions, "counts")
    axes = common.grid(figure, len(panels) + bool(costs))
    for panel, ((name,), own) in zip(axes, panels.items(), strict=False):
        for i, ((model,), subset) in enumerate(common.group(own, "model").items()):
            x, y = zip(*sorted((row.k, row.mixed_log_likelihood) for row in subset), strict=True)
            panel.plot(x, y, "osD^"[i] + "-", color=f"C{i}", ms=5, label=model)
        panel.set(title=name, xlabel="components", ylabel="nats per held-out count")
        panel.legend(fontsize="small")
    for y, ((model,), own) in enumerate(common.group(costs, "model").items()):
        axes[-1].barh(y, median(row.ratio for row in own), color="C0", alpha=0.6)
        axes[-1].plot([row.ratio for row in own], [y] * len(own), "k.", ms=5)
        axes[-1].text(0, y, f" {model}", va="center", fontsize="small")
    if costs:
        axes[-1].set(yticks=[], xlabel="seconds of an iteration / of maximum likelihood")


if __name__ == "__main__":
    sys.exit(main())
