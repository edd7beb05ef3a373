"""What fits recover of known factors, and how often HPF's credible intervals hold the truth."""

import argparse
import sys
import warnings
from typing import Any, NamedTuple

import numpy as np
from provenance import write_table
from scipy.optimize import linear_sum_assignment
from studying import add_outputs, check_outputs, draw, progress, tell

from fastpmf import HPF, PoissonNMF

DESCRIPTION = """\
Draw W, H and counts from the model of HPF without its hierarchy, W_ik ~ Gamma(a, b), H_kj ~ Gamma(c, d), fit
maximum likelihood, posterior modes and HPF with the true hyperparameters, match their components to the true
ones, and print, over several draws,

  recovery   the correlation of matched columns of W, and of rows of H, with the true ones
  coverage   how often HPF's central credible intervals of W's and H's entries hold the true ones, and what
             share of the model's own predictive intervals of the rates do

Mean-field posteriors take entries for independent that trade off against each other, and so are too narrow:
the last column says by what factor an interval's half width, in the logarithm, would have to be multiplied to
hold as often as it says.
"""
LEVELS = (0.5, 0.8, 0.9, 0.95)
A = 0.5  # shape of both factors


class Line(NamedTuple):
    """A line of the table."""

    mean_count: float
    seed: int
    what: str
    model: str
    level: float
    value: float
    factor: float


def main() -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=2, type=int, default=[1000, 500], metavar=("N", "P"), help="default: 1000 500")
    parser.add_argument("-k", "--components", type=int, default=10, metavar="K", help="default: %(default)s")
    parser.add_argument(
        "--mean-counts", nargs="+", type=float, default=[0.1, 1.0, 10.0], metavar="M", help="default: 0.1 1 10"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="S", help="default: 0 1 2")
    parser.add_argument("--max-iter", type=int, default=1000, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all this process may use")
    add_outputs(parser, "recovery")
    arguments = parser.parse_args()
    if min(*arguments.shape, arguments.components, arguments.max_iter) < 1 or min(arguments.mean_counts) <= 0:
        parser.error("--shape, --components, --max-iter and --mean-counts must be positive")
    check_outputs(parser, arguments)
    warnings.filterwarnings("ignore", message=".*(carry no counts|Stopped at max_iter)")
    lines: list[Line] = []
    with progress(len(arguments.mean_counts) * len(arguments.seeds), "draw") as tick:
        for mean in arguments.mean_counts:
            for seed in arguments.seeds:
                lines += study(mean, seed, arguments)
                tick()
            own = [line for line in lines if line.mean_count == mean]
            for what, model, level in dict.fromkeys((x.what, x.model, x.level) for x in own):
                some = [x for x in own if (x.what, x.model, x.level) == (what, model, level)]
                value, factor = (np.mean([getattr(x, name) for x in some]) for name in ("value", "factor"))
                at = "" if np.isnan(level) else f" of {100 * level:.0f} % intervals"
                wider = "" if np.isnan(factor) else f", {factor:.1f} times too narrow"
                tell(f"mean count {mean:g}: {what}{at}, {model}: {value:.3f}{wider}")
    write_table(arguments.csv, Line._fields, lines, {})
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, lines))
    tell()
    tell(verdict(lines))
    return 0


def study(mean: float, seed: int, arguments: argparse.Namespace) -> list[Line]:
    """One draw: every model's recovery, and HPF's coverage."""
    rng, (n, p), k = np.random.default_rng(seed), arguments.shape, arguments.components
    rate = A * np.sqrt(k / mean)  # both factors' prior means are A / rate, so that rates have this mean
    W, H = rng.gamma(A, 1 / rate, (n, k)), rng.gamma(A, 1 / rate, (k, p))
    X = rng.poisson(W @ H).astype(float)
    options = {"max_iter": arguments.max_iter, "random_state": seed, "n_threads": arguments.threads}
    fits = {
        "ml": PoissonNMF(k, **options),
        "map": PoissonNMF(k, prior_W="auto", prior_H="auto", **options),
        "hpf": HPF(k, a=A, b_prime=rate, c=A, d_prime=rate, hierarchy=False, tol=1e-4, **options),
    }
    lines = []
    for model, fit in fits.items():
        W_ = fit.fit_transform(X)
        order = matched(W, H, W_, fit.components_)
        for what, truth, found in (("W recovered", W, W_[:, order]), ("H recovered", H.T, fit.components_[order].T)):
            value = np.mean([correlation(a, b) for a, b in zip(truth.T, found.T, strict=True)])
            lines.append(Line(mean, seed, what, model, np.nan, value, np.nan))
    for what, truth, posterior in (
        ("W covered", W, fit.W_posterior_[:, order]),
        ("H covered", H, fit.H_posterior_[order]),
    ):
        for level in LEVELS:
            low, high = posterior.interval(level)
            inside = np.mean((low <= truth) & (truth <= high))
            # In the logarithm, about the interval's middle: how far the truth is, in half widths
            middle, half = 0.5 * np.log(low * high), 0.5 * np.log(high / low)
            factor = np.quantile(np.abs(np.log(truth) - middle) / half, level)
            lines.append(Line(mean, seed, what, "hpf", level, inside, factor))
    return lines


def matched(W: np.ndarray, H: np.ndarray, W_: np.ndarray, H_: np.ndarray) -> np.ndarray:
    """Which found component is each true one's: those with the largest total correlation of both factors."""
    k = W.shape[1]
    alike = np.array([
        [correlation(W[:, i], W_[:, j]) + correlation(H[i], H_[j]) for j in range(k)] for i in range(k)
    ])  # fmt: skip
    return linear_sum_assignment(-alike)[1]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's; 0 where one is constant."""
    a, b = a - a.mean(), np.asarray(b, float) - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else 0.0


def verdict(lines: list[Line]) -> str:
    """Coverage in a sentence."""
    told = []
    for mean in dict.fromkeys(line.mean_count for line in lines):
        inside = [x.value for x in lines if x.mean_count == mean and x.level == 0.9]
        factor = [x.factor for x in lines if x.mean_count == mean and x.level == 0.9]
        told.append(
            f"{100 * np.mean(inside):.0f} % at a mean count of {mean:g} ({np.mean(factor):.1f} times too narrow)"
        )
    return f"HPF's 90 % intervals of entries hold the truth in {', '.join(told)}."


def paint(figure: Any, lines: list[Line]) -> None:
    """Recovery by model, and coverage against the level that intervals claim."""
    figure.set_size_inches(10, 4)
    left, right = figure.subplots(1, 2)
    means = list(dict.fromkeys(line.mean_count for line in lines))
    for i, model in enumerate(("ml", "map", "hpf")):
        for what, style in (("W recovered", "o-"), ("H recovered", "s--")):
            y = [
                np.mean([x.value for x in lines if (x.mean_count, x.what, x.model) == (m, what, model)]) for m in means
            ]
            left.plot(means, y, style, color=f"C{i}", label=f"{model}, {what[0]}")
    left.set(xscale="log", xlabel="mean count", ylabel="correlation with the truth", title="recovery")
    left.legend()
    right.plot([0.4, 1], [0.4, 1], ":", color="0.5", label="as claimed")
    for i, mean in enumerate(means):
        for what, style in (("W covered", "o-"), ("H covered", "s--")):
            y = [
                np.mean([x.value for x in lines if (x.mean_count, x.what, x.level) == (mean, what, level)])
                for level in LEVELS
            ]
            right.plot(LEVELS, y, style, color=f"C{i}", label=f"mean count {mean:g}, {what[0]}")
    right.set(xlabel="credible level", ylabel="share that holds the truth", title="HPF's intervals")
    right.legend()


if __name__ == "__main__":
    sys.exit(main())
