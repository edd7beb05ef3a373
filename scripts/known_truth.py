"""Recovery of known factors and effects, coverage of intervals, and the number of components."""

import argparse
import itertools
import math
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import common
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from fastpmf import HPF, PoissonNMF, bootstrap, differential_expression, select_n_components
from fastpmf.datasets import make_poisson_counts

DESCRIPTION = """\
Draw counts from known factors, several times, and fit them.

  recovery    W_ik ~ Gamma(a, b), H_kj ~ Gamma(c, d), fitted by maximum likelihood, as the posterior mode, and by HPF
              with the true hyperparameters. Components are matched to the true ones. "recovered" is the correlation of
              matched columns of W, or rows of H, with the true ones; "covered" is how often central intervals of
              entries contain the true ones: those of HPF's mean-field posterior, which treats dependent entries as
              independent; those of draws from the posterior (HPF.sample_posterior); and those of both kinds of
              bootstrap of the maximum likelihood fit, of expected counts and of probabilities of features. "too narrow"
              is the factor by which the half widths of the intervals, on a logarithmic scale, would have to be
              multiplied for the nominal coverage; none if an interval begins at 0
  components  counts are drawn with --components of them, and select_n_components compares numbers around the true one.
              Counted is how often the true number is recommended, has the best held-out log-likelihood, and has the
              components that agree best between splits. With --dispersions above 0 counts are negative binomial, with
              the same rates m and variances m + dispersion m^2; those for recovery too
  groups      rows are mostly of one of --components kinds, and of one of four groups, in which kinds are not equally
              frequent. Profiles of kinds differ by log-normal factors with a standard deviation of 0.7, and effects of
              groups on features are log-normal with the standard deviations --effects. Fitted with and without groups:
              correlation of matched rows of H with the true ones, and of logarithms of effects with the true ones where
              the group has 10 counts of the feature or more; adjusted Rand index of the largest component of each row
              with its kind (1 is the same) and with its group (0 is chance)
  dispersion  counts of --mean-counts and --dispersions, as for recovery, fitted by maximum likelihood, as the posterior
              mode, and by HPF. "rejected" is the share of features that the test of fastpmf.overdispersion at 5 % calls
              overdispersed; "z score" and "dispersion" are those of all features together. "covered" is how often 95 %
              intervals of log fold changes contain the true ones, by model and by robust standard errors, with the true
              W, where both components have 10 counts of the feature or more
"""
PARTS = ("recovery", "components", "groups", "dispersion")
N_GROUPS = 4
LEVEL = 0.9  # of the intervals
SHAPE = 0.5  # of both Gamma distributions
HOLDOUTS = ("rows", "counts")
RULES = ("recommended", "best", "most similar")


class Row(NamedTuple):
    """A row of the table. In the part components, `value` is the chosen number and `model` the rule.

    `effects` is the standard deviation of logarithms of effects, for the part groups; `what` is what was held out, for
    the part components.
    """

    part: str
    k: int
    mean_count: float
    seed: int
    what: str
    model: str
    value: float
    too_narrow: float = math.nan
    effects: float = math.nan
    dispersion: float = math.nan


def main() -> int:
    """Run the study."""
    parser = common.Parser(DESCRIPTION)
    parser.shared(components=[10], seeds=[0, 1, 2], max_iter=1000, threads=None)
    parser.option("--parts", "parts", [*PARTS], choices=PARTS)
    parser.option("--shape", "rows and columns of the counts", [1000, 500], nargs=2)
    parser.option("--mean-counts", "mean counts of an entry, for recovery and dispersion", [0.1, 1.0, 10.0])
    parser.option("--draws", "draws from the posterior", 100)
    parser.option("--thin", "sweeps between draws", 10)
    parser.option("--replicates", "replicates of the bootstrap", 50)
    parser.option("--nnz", "nonzeros of the counts for components", 100_000)
    text = "dispersions of the counts, for all parts but groups"
    parser.option("--dispersions", text, [0.0], type=common.number(float, 0))
    parser.option("--holdout", "what select_n_components holds out", ["rows"], choices=HOLDOUTS)
    parser.option("--effects", "standard deviations of log effects, for groups", [0.0, 0.25, 0.5, 1.0])
    parser.option("--around", "numbers compared on either side of the true one", 4)
    parser.option("--splits", "splits of select_n_components", 3)
    arguments = parser.parse_args()
    n, p = arguments.shape
    if arguments.nnz >= n * p:
        parser.error(f"--nnz must be below {n * p}, the number of entries, got {arguments.nnz}")
    warnings.filterwarnings("ignore", message=".*(carry no counts|Stopped at max_iter|increase thin)")
    todo = plan(arguments)
    rows = common.collect((draw() for draw in todo), len(todo), arguments, unit="draw")
    return common.conclude(arguments, partial(plot, rows), verdict(rows), (12, 4))


def plan(arguments: argparse.Namespace) -> list[Callable[[], list[Row]]]:
    """Every draw of every part."""
    parts: dict[str, tuple[Callable[..., list[Row]], *tuple[list[Any], ...]]] = {
        "recovery": (recovery, arguments.mean_counts, arguments.dispersions),
        "components": (components, arguments.dispersions, arguments.holdout),
        "groups": (groups, arguments.effects),
        "dispersion": (dispersion, arguments.mean_counts, arguments.dispersions),
    }
    return [
        partial(study, *case, arguments)
        for study, *options in map(parts.get, arguments.parts)
        for case in itertools.product(arguments.components, *options, arguments.seeds)
    ]


def recovery(k: int, mean: float, phi: float, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """One draw: the correlations of every model, and the coverage of intervals."""
    W, H, rate, rng = factors(k, mean, seed, arguments)
    X = overdispersed(W @ H, phi, rng)
    options = {"max_iter": arguments.max_iter, "random_state": seed, "n_threads": arguments.threads}
    fits = {
        "ml": PoissonNMF(k, **options),
        "map": PoissonNMF(k, prior_W="auto", prior_H="auto", **options),
        "hpf": HPF(k, a=SHAPE, b_prime=rate, c=SHAPE, d_prime=rate, hierarchy=False, tol=1e-4, **options),
    }
    rows = []
    for model, fit in fits.items():
        W_fit = fit.fit_transform(X)
        order = match(W, H, W_fit, fit.components_)
        pairs = {"W recovered": (W.T, W_fit[:, order].T), "H recovered": (H, fit.components_[order])}
        for what, (truth, found) in pairs.items():
            value = np.mean([correlation(a, b) for a, b in zip(truth, found, strict=True)])
            rows.append(Row("recovery", k, mean, seed, what, model, value, dispersion=phi))
    sample = fit.sample_posterior(X, arguments.draws, thin=arguments.thin, random_state=seed)
    truths = {"W covered": W, "H covered": H}
    for model, found in {
        "hpf, mean field": (fit.W_posterior_, fit.H_posterior_),
        "hpf, sampled": (sample.W, sample.H),
    }.items():
        rows += coverage(k, mean, phi, seed, model, truths, [posterior.interval for posterior in found], order)
    ml, size = fits["ml"], H.sum(axis=1)
    truths = {"W covered": W * size, "H covered": H / size[:, None]}  # the scale that replicates have
    for kind in ("rows", "poisson"):
        replicates = bootstrap(ml, X, n_replicates=arguments.replicates, kind=kind, random_state=seed)
        shares, own = replicates.feature_shares, ml.components_.sum(axis=1)
        order = match(*truths.values(), replicates.W.mean * own, shares.mean)
        intervals = [partial(scaled_interval, replicates.W, own), shares.interval]
        rows += coverage(k, mean, phi, seed, f"ml, bootstrap of {kind}", truths, intervals, order)
    return rows


def scaled_interval(draws: Any, scale: np.ndarray, level: float) -> list[np.ndarray]:
    """The interval of draws times a scale of each component."""
    return [end * scale for end in draws.interval(level)]


def coverage(
    k: int, mean: float, phi: float, seed: int, model: str, truths: dict[str, np.ndarray], intervals: list[Any],
    order: np.ndarray,
) -> list[Row]:  # fmt: skip
    """How often intervals of W and H contain the true entries, and by which factor they are too narrow."""
    rows = []
    for (what, truth), interval in zip(truths.items(), intervals, strict=True):
        low, high = (A[:, order] if what.startswith("W") else A[order] for A in interval(LEVEL))
        inside, factor = np.mean((low <= truth) & (truth <= high)), math.nan
        if (low > 0).all():
            # How far the truth is from the interval's middle, in half widths, in the logarithm
            middle, half = 0.5 * (np.log(low) + np.log(high)), 0.5 * (np.log(high) - np.log(low))
            factor = np.quantile(np.abs(np.log(truth) - middle) / half, LEVEL)
        rows.append(Row("recovery", k, mean, seed, what, model, inside, factor, dispersion=phi))
    return rows


def factors(k: int, mean: float, seed: int, arguments: argparse.Namespace) -> tuple[Any, Any, float, Any]:
    """W and H of counts with this mean, the rate of their Gamma distribution, and the generator that drew them."""
    rng, (n, p) = np.random.default_rng(seed), arguments.shape
    rate = SHAPE * np.sqrt(k / mean)  # both factors have prior mean SHAPE / rate, so that counts have this mean
    return rng.gamma(SHAPE, 1 / rate, (n, k)), rng.gamma(SHAPE, 1 / rate, (k, p)), rate, rng


def match(W: np.ndarray, H: np.ndarray, W_fit: np.ndarray, H_fit: np.ndarray) -> np.ndarray:
    """The fitted component for each true one, by the largest total correlation of both factors."""
    k = range(len(H))
    alike = [[correlation(W[:, i], W_fit[:, j]) + correlation(H[i], H_fit[j]) for j in k] for i in k]
    return linear_sum_assignment(-np.array(alike))[1]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation; 0 if a vector is constant."""
    a, b = a - a.mean(), np.asarray(b, float) - b.mean()
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size > 0 else 0.0


def dispersion(k: int, mean: float, phi: float, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """One draw: the test for overdispersion of every model, and the coverage of intervals of log fold changes."""
    W, H, _, rng = factors(k, mean, seed, arguments)
    X = overdispersed(W @ H, phi, rng)
    options = {"max_iter": arguments.max_iter, "random_state": seed, "n_threads": arguments.threads}
    fits = {
        "ml": PoissonNMF(k, **options), "map": PoissonNMF(k, prior_W="auto", prior_H="auto", **options),
        "hpf": HPF(k, **options),
    }  # fmt: skip
    found: dict[tuple[str, str], float] = {}
    for model, fit in fits.items():
        result = fit.overdispersion(X, fit.fit_transform(X))
        found["rejected", model] = np.mean(result.p_value < 0.05)
        found["z score", model], found["dispersion", model] = result.overall_z_score, result.overall_dispersion
    counted = W.sum(axis=0)[:, None] * H >= 10
    counted[1:] &= counted[0]
    shares = H / H.sum(axis=1, keepdims=True)
    for errors in ("model", "robust"):
        changes = differential_expression(X, W, H, against=0, standard_errors=errors, n_threads=arguments.threads)
        inside = np.abs(changes.log2_fold_change - np.log2(shares / shares[0])) <= 1.96 * changes.standard_error
        found["covered", errors] = np.mean(inside[1:][counted[1:]]) if counted[1:].any() else math.nan
    return [Row("dispersion", k, mean, seed, what, model, value, dispersion=phi)
            for (what, model), value in found.items()]  # fmt: skip


def overdispersed(rates: np.ndarray, dispersion: float, rng: np.random.Generator) -> np.ndarray:
    """Counts of these means: negative binomial of this dispersion, or Poisson if it is 0."""
    rates = rates if dispersion == 0 else rates * rng.gamma(1 / dispersion, dispersion, rates.shape)
    return rng.poisson(rates).astype(np.float32)


def components(k: int, dispersion: float, holdout: str, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """One draw: the number that each rule chooses."""
    data = make_poisson_counts(*arguments.shape, k, nnz=arguments.nnz, random_state=seed)
    X = data.X
    if dispersion > 0:
        X = overdispersed(data.W @ data.H, dispersion, np.random.default_rng(seed))
    model = PoissonNMF(1, prior_W="auto", prior_H="auto", max_iter=300, dtype="float32")
    tried = range(max(1, k - arguments.around), k + arguments.around + 1)
    found = select_n_components(X, tried, estimator=model, holdout=holdout, n_splits=arguments.splits,
                                random_state=seed, n_threads=arguments.threads)  # fmt: skip
    # A single component is nearly the same in every split
    alike = np.where(found.n_components > 1, np.nan_to_num(found.similarity), 0.0)
    chosen = (found.recommended, found.best, int(found.n_components[alike.argmax()]))
    return [Row("components", k, math.nan, seed, holdout, rule, n, dispersion=dispersion)
            for rule, n in zip(RULES, chosen, strict=True)]  # fmt: skip


def groups(k: int, spread: float, seed: int, arguments: argparse.Namespace) -> list[Row]:
    """One draw of rows in groups: recovery of H and of the effects, and what the components follow."""
    rng, (n, p) = np.random.default_rng(seed), arguments.shape
    H = rng.gamma(0.5, 1.0, p) * np.exp(0.7 * rng.standard_normal((k, p)))
    H /= H.sum(axis=1, keepdims=True)
    group, frequencies = rng.integers(N_GROUPS, size=n), rng.dirichlet(np.full(k, 2.0), N_GROUPS)
    kind = np.array([rng.choice(k, p=frequencies[g]) for g in group])
    shares = 0.8 * np.eye(k)[kind] + 0.2 * rng.dirichlet(np.full(k, 0.5), n)
    effects = np.exp(spread * rng.standard_normal((N_GROUPS, p)))
    effects /= effects.mean(axis=0)
    W = shares * rng.gamma(5.0, p / 10, (n, 1))  # about half a count in each entry
    X = rng.poisson((W @ H) * effects[group]).astype(np.float32)
    options = {"max_iter": arguments.max_iter, "random_state": seed, "n_threads": arguments.threads}
    fits = {"ml": PoissonNMF(k, **options), "hpf": HPF(k, tol=1e-3, **options)}
    seen = np.array([X[group == g].sum(axis=0) >= 10 for g in range(N_GROUPS)])
    rows = []
    for (name, fit), given in itertools.product(fits.items(), (group, None)):
        W_fit, found = fit.fit_transform(X, groups=given), fit.components_
        order = match(W, H, W_fit, found)
        largest = (W_fit * found.sum(axis=1)).argmax(axis=1)
        values = {
            "H recovered": np.mean([correlation(a, b) for a, b in zip(H, found[order], strict=True)]),
            "agreement with kinds": adjusted_rand_score(kind, largest),
            "agreement with groups": adjusted_rand_score(group, largest),
        }
        if given is not None and spread > 0:
            values["effects recovered"] = correlation(np.log(effects[seen]), np.log(fit.group_effects_[seen]))
        model = f"{name} {'without' if given is None else 'with groups'}"
        rows += [Row("groups", k, math.nan, seed, what, model, value, effects=spread)
                 for what, value in values.items()]  # fmt: skip
    return rows


def verdict(rows: list[Row]) -> list[str]:
    """Recovery, coverage, and how often the number is found."""
    lines, parts = [], common.group(rows, "part")
    case = "k", "mean_count", "dispersion"
    for (k, mean, phi), own in common.group(parts.get(("recovery",), []), *case).items():
        drawn = f"k = {k}, mean count {mean:g}" + (f", dispersion {phi:g}" if phi > 0 else "")
        text = [
            f"{what} by {model} {np.mean([row.value for row in subset]):.2f}"
            for (what, model), subset in common.group(
                [r for r in own if "recovered" in r.what], "what", "model"
            ).items()
        ]
        lines.append(f"{drawn}, correlation with the truth: {', '.join(text)}.")
        for (model,), covered in common.group([r for r in own if " covered" in r.what], "model").items():
            inside, narrow = np.mean([(row.value, row.too_narrow) for row in covered], axis=0)
            widths = "" if math.isnan(narrow) else f"; widths would have to be {narrow:.1f} times these"
            lines.append(f"{drawn}: 90 % intervals of {model}, contain {inside:.0%} of the true entries{widths}.")
    columns = "k", "dispersion", "what", "model"
    for (k, dispersion, holdout, rule), own in common.group(parts.get(("components",), []), *columns).items():
        off = [abs(row.value - k) for row in own]
        lines.append(f"k = {k}, dispersion {dispersion:g}, {holdout} held out, {len(own)} draws: {rule} is right in "
                     f"{off.count(0)}, and at most one off in {sum(o <= 1 for o in off)}.")  # fmt: skip
    for (k, mean, phi, what), own in common.group(parts.get(("dispersion",), []), *case, "what").items():
        means = {model: np.mean([row.value for row in same]) for (model,), same in common.group(own, "model").items()}
        text = ", ".join(f"{value:.3g} by {model}" for model, value in means.items())
        lines.append(f"k = {k}, mean count {mean:g}, dispersion {phi:g}: {what} {text}.")
    for (k, spread, what), own in common.group(parts.get(("groups",), []), "k", "effects", "what").items():
        means = {model: np.mean([row.value for row in same]) for (model,), same in common.group(own, "model").items()}
        text = ", ".join(f"{model} {mean:.2f}" for model, mean in means.items())
        lines.append(f"k = {k}, effects of {spread:g}, {what}: {text}.")
    return lines


def plot(rows: list[Row], figure: Any) -> None:
    """Correlation by mean count, coverage by level, and the numbers chosen."""
    chosen, grouped = ([row for row in rows if row.part == part] for part in ("components", "groups"))
    left, middle, *right = figure.subplots(1, 2 + bool(chosen) + bool(grouped))
    if grouped:
        plot_groups(grouped, right.pop())
    recovered, covered = (
        [row for row in rows if row.part == "recovery" and what in row.what] for what in (" recovered", " covered")
    )
    middle.axhline(LEVEL, linestyle=":", color="0.5", label="as claimed")
    for axes, drawn in ((left, recovered), (middle, covered)):
        colors = {model: f"C{i}" for i, (model,) in enumerate(common.group(drawn, "model"))}
        for (model, phi), own in common.group(drawn, "model", "dispersion").items():
            means = list(dict.fromkeys(row.mean_count for row in own))
            y = [np.mean([row.value for row in own if row.mean_count == mean]) for mean in means]
            label = model if phi == drawn[0].dispersion else None  # others are dashed
            axes.plot(means, y, "o-" if label else "s--", color=colors[model], label=label)
    for i, ((dispersion, holdout, rule), own) in enumerate(common.group(chosen, "dispersion", "what", "model").items()):
        label = f"{rule}, {holdout}, dispersion {dispersion:g}"
        x, y = [r.k + 0.1 * i for r in own], [r.value - r.k for r in own]
        right[0].plot(x, y, "os^"[i % 3], color=f"C{i // 3 % 10}", alpha=0.5, label=label)
    left.set(xscale="log", xlabel="mean count", ylabel="correlation with the truth", title="recovery")
    middle.set(
        ylim=(0, 1), xscale="log", xlabel="mean count", ylabel="share that contains the truth", title="90 % intervals"
    )
    for axes in right:
        axes.set(xlabel="true number of components", ylabel="chosen less true", title="components")
    for axes in filter(lambda axes: axes.lines, (left, middle, *right)):
        axes.legend(fontsize="small")


def plot_groups(rows: list[Row], axes: Any) -> None:
    """What the largest components follow, by the size of the effects."""
    kinds = [row for row in rows if row.what.startswith("agreement")]
    for i, ((model, what), own) in enumerate(common.group(kinds, "model", "what").items()):
        sizes = list(dict.fromkeys(row.effects for row in own))
        y = [np.mean([row.value for row in own if row.effects == size]) for size in sizes]
        line = "-" if what.endswith("kinds") else ":"
        axes.plot(sizes, y, line, marker="o", color=f"C{i // 2}", label=f"{model}, {what.split()[-1]}")
    axes.set(xlabel="standard deviation of log effects", ylabel="adjusted Rand index", title="groups")
    axes.legend(fontsize="small")


if __name__ == "__main__":
    sys.exit(main())
