"""Users and items: recommendations of each model, their accuracy on hidden counts, and their uncertainty."""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import gammaln, xlogy

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from fastpmf import HPF, PoissonNMF, ranking_scores, recommend
from fastpmf.datasets import Dataset, make_poisson_counts

DESCRIPTION = """\
Recommendations from counts of plays, purchases, clicks or stars. For some users a fraction of all items is hidden from
the fit (mask); the predictions of the hidden entries, including zeros, are then compared with the counts. The models
are HPF, and PoissonNMF with weak Gamma priors (MAP). Without --data, counts are drawn from the Poisson model, and the
true rates are scored too: on average no model can be better.

It prints
  - precision, recall and NDCG at N of each model's recommendations among the items without a count in the fit;
    relevant are hidden items with a count. Popularity ranks items by their number of users
  - the log-likelihood of the hidden entries, per count, in nats
  - calibration: hidden entries in ten groups of equal predicted sums, and their mean counts
  - for some users the items recommended by HPF, with 90 % credible intervals of their rates from samples of W and H.
    Mean-field posteriors are too narrow: for drawn counts, it prints how often intervals contain the true rate
"""
COLOURS = {"HPF": "#CC6677", "MAP": "#332288", "popularity": "#DDCC77", "true rates": "#44AA99"}


def main() -> int:
    """Run the example."""
    parser = common.Parser(DESCRIPTION)
    common.name_options(parser, "users", "items")
    parser.shared(components=10, seed=0, threads=None)
    parser.option("-n --top", "items to recommend", 10)
    parser.option("--users", "users with hidden items", 500)
    parser.option("--hidden", "fraction of the items to hide", 0.2, type=common.fraction)
    parser.option("--show", "users to print", 3)
    parser.option("--draw", "numbers of users, items and nonzeros to draw without --data", [1000, 800, 40_000], nargs=3)
    arguments = parser.parse_args()
    truth: list[np.ndarray] = []

    def drawn() -> Dataset:
        n, p, nnz = arguments.draw
        X, *truth[:] = make_poisson_counts(n, p, 8, nnz=nnz, skew=0.5, random_state=arguments.seed)
        return Dataset(X, *(np.array([f"{a} {i + 1}" for i in range(m)]) for a, m in (("user", n), ("item", p))))

    X, users, items = common.read_dataset(parser, arguments, drawn, "user", "item")
    rows, columns, mask = hide(X, arguments)
    hidden = X.multiply(mask).tocsr()
    seen = X - hidden
    observed = np.take_along_axis(X[rows[:, 0]].toarray(), columns, axis=1).astype(float)
    if not observed.any() or not seen.sum():
        parser.error("--hidden and --users must leave counts to fit and to hide")
    common.echo(
        f"{common.describe(X)}. Hidden: {columns.shape[1]:,} items of {len(rows):,} users, {observed.sum():,.0f} counts"
    )

    k, options = arguments.components, {"random_state": arguments.seed, "n_threads": arguments.threads}
    hpf, nmf = HPF(k, **options), PoissonNMF(k, prior_W="auto", prior_H="auto", tol=1e-3, **options)
    _, seconds = common.timed(partial(hpf.fit, X, mask=mask))
    common.echo(f"HPF: {hpf.n_iter_} iterations, {seconds:.1f} s. {hpf.status_}")
    W, seconds = common.timed(partial(nmf.fit_transform, X, mask=mask))
    common.echo(f"MAP: {nmf.n_iter_} iterations, {seconds:.1f} s. {nmf.status_}")
    popularity = np.bincount(seen.nonzero()[1], minlength=len(items)).astype(float)
    models = {
        "HPF": (hpf.W_posterior_.mean, hpf.components_), "MAP": (W, nmf.components_),
        "popularity": (np.ones((len(users), 1)), popularity[None]),
    } | ({"true rates": tuple(truth)} if truth else {})  # fmt: skip
    scores = {name: ranking_scores(hidden, *model, arguments.top, exclude=seen) for name, model in models.items()}
    rates = {name: common.rates_at(*model, rows, columns) for name, model in models.items()}
    print_scores(scores, rates, observed, arguments.top)

    W, H = models["HPF"]
    best = recommend(W[rows[:, 0]], H, arguments.top, exclude=seen[rows[:, 0]]).indices
    low, high = intervals(hpf, rows[:, :1], best, arguments.seed)
    found = np.take_along_axis(X[rows[:, 0]].toarray(), best, axis=1)
    table = [
        (users[rows[u, 0]], r + 1, items[j], W[rows[u, 0]] @ H[:, j], low[u, r], high[u, r], found[u, r])
        for (u, r), j in np.ndenumerate(best)
        if j >= 0
    ]
    for user in dict.fromkeys(row[0] for row in table[: arguments.show * arguments.top]):
        common.echo(f"\n{user}")
        for _, _, item, rate, *ends, count in (row for row in table if row[0] == user):
            interval = f"{rate:8.3g}, 90 % interval {ends[0]:.3g} to {ends[1]:.3g}"
            common.echo(f"  {item[:40]:<40} {interval:<42} count: {count:.0f}")
    if truth:
        true = np.take_along_axis(truth[0][rows[:, 0]] @ truth[1], best, axis=1)
        inside = ((low <= true) & (true <= high)).mean()
        common.echo(f"\nThe true rate is in {inside:.0%} of these 90 % intervals, over all users.")
    names = ["user", "rank", "item", "rate", "low", "high", "held_out"]
    common.write_table(arguments.csv, names, table, {"fitted, and hidden": X})
    return common.conclude(arguments, partial(plot, scores, rates, observed, arguments.top), [], (11, 4.5))


def hide(X: Any, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, sparse.csr_array]:
    """Row and column numbers of the hidden entries, both (n_users, n_hidden), and the same as a mask."""
    rng, (n, p) = np.random.default_rng(arguments.seed), X.shape
    users = np.sort(rng.permutation(np.flatnonzero(np.diff(X.indptr)))[: arguments.users])
    q = min(max(round(arguments.hidden * p), 1), p - 1)
    columns = np.sort([rng.permutation(p)[:q] for _ in users], axis=1)
    rows = np.repeat(users[:, None], q, axis=1)
    return rows, columns, sparse.csr_array((np.ones(rows.size, bool), (rows.ravel(), columns.ravel())), shape=(n, p))


def print_scores(scores: dict[str, Any], rates: dict[str, np.ndarray], observed: np.ndarray, n: int) -> None:
    """Print the scores, the calibration of HPF, and its NDCG relative to popularity."""
    line = "{:<16}" + 3 * "{:>14}" + "{:>18}{:>12}"
    common.echo()
    metrics = [f"{metric}@{n}" for metric in ("precision", "recall", "NDCG")]
    common.echo(line.format(f"{scores['HPF'].n_rows:,} users", *metrics, "nats per count", "sum"))
    for name, score in scores.items():
        mu, own = rates[name], ["", ""]
        if name != "popularity":
            with np.errstate(divide="ignore"):
                log_likelihood = (xlogy(observed, mu) - mu - gammaln(observed + 1)).sum()
            own = [f"{log_likelihood / observed.sum():.4f}", f"{mu.sum():,.0f}"]
        common.echo(line.format(name, *(f"{value:.4f}" for value in (score.precision, score.recall, score.ndcg)), *own))
    common.echo(line.format("counts", "", "", "", "", f"{observed.sum():,.0f}"))
    for name, values in zip(("predicted", "observed"), calibration(rates["HPF"], observed).T, strict=False):
        common.echo(f"HPF, tenths of its counts, {name}: {' '.join(f'{value:.3g}' for value in values)}")
    better = scores["HPF"].ndcg / scores["popularity"].ndcg if scores["popularity"].ndcg else np.inf
    common.echo(f"HPF's NDCG@{n} is {better:.2f} times that of popularity.")


def calibration(rates: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Mean rate, mean count and its standard error in ten groups of equal sums of rates; (groups, 3)."""
    order = np.argsort(rates, axis=None)
    rates, observed = rates.ravel()[order], observed.ravel()[order]
    cuts = np.searchsorted(np.cumsum(rates), np.linspace(0, rates.sum(), 11)[1:-1])
    groups = [g for g in zip(np.split(rates, cuts), np.split(observed, cuts), strict=True) if len(g[0])]
    return np.array([(r.mean(), x.mean(), x.std() / np.sqrt(len(x))) for r, x in groups])


def intervals(model: HPF, rows: np.ndarray, columns: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Central 90 % intervals of (W H)_ij from 500 samples of W_i and H_j for each entry."""
    rng, (low, high) = np.random.default_rng(seed), np.empty((2, *columns.shape))
    for u in range(len(rows)):
        W, H = model.W_posterior_[np.repeat(rows[u], columns.shape[1])], model.H_posterior_.transposed()[columns[u]]
        size = (500, *W.shape.shape)
        low[u], high[u] = np.quantile((W.sample(size, rng) * H.sample(size, rng)).sum(axis=-1), [0.05, 0.95], axis=0)
    return low, high


def plot(scores: dict[str, Any], rates: dict[str, np.ndarray], observed: np.ndarray, n: int, figure: Any) -> None:
    """Ranking scores, and calibration."""
    bars, lines = figure.subplots(1, 2)
    for b, (name, score) in enumerate(scores.items()):
        x = np.arange(3) + 0.2 * (b - (len(scores) - 1) / 2)
        bars.bar(x, [score.precision, score.recall, score.ndcg], 0.19, label=name, color=COLOURS[name])
    bars.set_xticks(range(3), [f"{metric}@{n}" for metric in ("precision", "recall", "NDCG")])
    bars.set(title="recommended items", ylabel=f"mean over {scores['HPF'].n_rows:,} users")
    bars.legend()
    for name, marker in (("HPF", "o"), ("MAP", "s")):
        rate, mean, error = calibration(rates[name], observed).T
        lines.errorbar(rate, mean, 2 * error, color=COLOURS[name], marker=marker, ms=5, lw=1, capsize=2, label=name)
    lines.axline((1, 1), slope=1, color="black", lw=0.8, ls="--", label="as predicted")
    lines.set(xscale="log", yscale="log", title="hidden entries, calibration", xlabel="predicted rate",
              ylabel="mean count ± 2 standard errors")  # fmt: skip
    lines.legend()


if __name__ == "__main__":
    sys.exit(main())
