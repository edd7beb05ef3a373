"""Users and items: what each model recommends, against counts hidden from the fit, and how sure it is."""

import argparse
import sys
from functools import partial
from typing import Any

import numpy as np
from examples import example_parser, parse, rates_at, read_dataset, shortened, top
from provenance import describe, write_table
from scipy import sparse
from scipy.special import gammaln, xlogy
from studying import clocked, draw, tell

from fastpmf import HPF, PoissonNMF
from fastpmf.datasets import Dataset, make_poisson_counts

DESCRIPTION = """\
Recommendations from counts: plays, purchases, clicks, stars. Of each of some users, a random share of all items is
hidden from the fit, whether the user had them or not (mask): what the models then say of the hidden entries, zeros
included, can be held against what was there. Fitted are HPF, posteriors of the hierarchical model, and PoissonNMF
with a small Gamma prior (MAP; prior_W="auto", prior_H="auto"). Without --data, counts are drawn from the Poisson
model, with popular items and active users, and the rates that they came from take part too: no model can be
expected to do better.

Told, and drawn, are
  - precision, recall and NDCG at N, of each user's hidden items ranked by their rates, relevant being those that the
    user had; means over the users that had any. Popularity ranks items by how many users have them, alike for all.
    Hidden items alone are ranked, which is easier than ranking all that there are;
  - the log-likelihood of the hidden counts, where a model has rates: per count, in nats, zeros included;
  - calibration: hidden entries in ten bins of equal predicted sums, and the mean count that was there;
  - for some users, the hidden items recommended by HPF, with 90 % credible intervals of their rates by sampling from
    the posteriors of W and H. Mean-field posteriors are too narrow: where the counts were drawn, it is told how
    often the intervals hold the true rate.
"""
METRICS = ("precision", "recall", "NDCG")
COLOURS = {"HPF": "#CC6677", "MAP": "#332288", "popularity": "#DDCC77", "true rates": "#44AA99"}


def main() -> int:
    """Run the example."""
    parser = example_parser("example_recommender", DESCRIPTION, 10, "users", "items")
    parser.add_argument("-n", "--top", type=int, default=10, metavar="N", help="items to recommend; default: 10")
    parser.add_argument("--users", type=int, default=500, metavar="U", help="with hidden items; default: %(default)s")
    parser.add_argument("--hidden", type=float, default=0.2, metavar="SHARE", help="of items; default: %(default)s")
    parser.add_argument("--show", type=int, default=3, metavar="N", help="users to print; default: %(default)s")
    parser.add_argument(
        "--draw", type=int, nargs=3, default=[1000, 800, 40_000], metavar=("USERS", "ITEMS", "NONZEROS"),
        help="without --data; default: 1000 800 40000",
    )  # fmt: skip
    arguments = parse(parser, ["top", "users", "show"], ["hidden"])
    truth: list[np.ndarray] = []

    def drawn() -> Dataset:
        n, p, nnz = arguments.draw
        X, *truth[:] = make_poisson_counts(n, p, 8, nnz=nnz, skew=0.5, random_state=arguments.seed)
        return Dataset(X, *(np.array([f"{a} {i + 1}" for i in range(m)]) for a, m in (("user", n), ("item", p))))

    X, users, items = read_dataset(parser, arguments, drawn, "user", "item")
    rows, columns, mask = hide(X, arguments)
    seen, held = X - X.multiply(mask), np.take_along_axis(X[rows[:, 0]].toarray(), columns, axis=1)
    if not held.any() or not seen.sum():
        parser.error("--hidden and --users must leave counts on either side, hidden and seen")
    tell(f"{describe(X)}. Hidden: {columns.shape[1]:,} items of {len(rows):,} users, with {held.sum():,.0f} counts")

    k, common = arguments.components, {"random_state": arguments.seed, "n_threads": arguments.threads}
    hpf, nmf = HPF(k, **common), PoissonNMF(k, prior_W="auto", prior_H="auto", tol=1e-3, **common)
    _, seconds = clocked(partial(hpf.fit, X, mask=mask))
    tell(f"HPF: {hpf.n_iter_} iterations, {seconds:.1f} s. {hpf.status_}")
    W, seconds = clocked(partial(nmf.fit_transform, X, mask=mask))
    tell(f"PoissonNMF, MAP: {nmf.n_iter_} iterations, {seconds:.1f} s. {nmf.status_}")
    predicted = {
        "HPF": hpf.predictive_mean(rows, columns),
        "MAP": rates_at(W, nmf.components_, rows, columns),
        "popularity": np.bincount(seen.nonzero()[1], minlength=len(items))[columns].astype(float),
    }
    if truth:
        predicted["true rates"] = rates_at(truth[0], truth[1], rows, columns)
    scores = {name: ranked(rates, held, arguments.top) for name, rates in predicted.items()}
    tell_scores(scores, predicted, held, arguments.top)

    order = np.argsort(-predicted["HPF"], axis=1, kind="stable")[:, : arguments.top]
    i, j, found, rates = (
        np.take_along_axis(values, order, axis=1) for values in (rows, columns, held, predicted["HPF"])
    )
    low, high = intervals(hpf, i, j, arguments.seed)
    for u in np.flatnonzero((held > 0).any(axis=1))[: arguments.show]:
        had = seen[[i[u, 0]]]
        most = [shortened(items[had.indices[p]], 30) for p in top(had.data, 3)] or ["nothing that is seen"]
        more = f" and {had.nnz - len(most):,} more" if had.nnz > len(most) else ""
        tell(f"\n{users[i[u, 0]]}, who has {', '.join(most)}{more}")
        for item, rate, *ends, count in zip(items[j[u]], rates[u], low[u], high[u], found[u], strict=True):
            told = f"{rate:8.3g}, 90 % interval {ends[0]:.3g} to {ends[1]:.3g}"
            tell(f"  {shortened(item, 40):<40} {told:<42} was there: {count:.0f}")
    if truth:
        # As many hidden items of each user as they come, which are not chosen for high rates
        some = intervals(hpf, i, columns[:, : i.shape[1]], arguments.seed)
        true = np.take_along_axis(predicted["true rates"], order, axis=1), predicted["true rates"][:, : i.shape[1]]
        shares = [((a <= rate) & (rate <= b)).mean() for rate, (a, b) in zip(true, ((low, high), some), strict=True)]
        tell(
            f"\nThe true rate is in {shares[0]:.0%} of such 90 % intervals, over all users, and in {shares[1]:.0%} of "
            "those of hidden items that are not chosen for high rates."
        )
    names = ["user", "rank", "item", "rate", "low", "high", "held_out"]
    table = ([users[i[u, r]], r + 1, items[j[u, r]], rates[u, r], low[u, r], high[u, r], found[u, r]]
             for u, r in np.ndindex(i.shape))  # fmt: skip
    write_table(arguments.csv, names, table, {"fitted, and hidden": X})
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, scores, predicted, held, arguments.top))
    return 0


def hide(X: sparse.csr_array, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, sparse.csr_array]:
    """Numbers of the users and of the items of hidden entries, both (m, q), and the same as a mask."""
    rng, (n, p) = np.random.default_rng(arguments.seed), X.shape
    users = np.sort(rng.permutation(np.flatnonzero(np.diff(X.indptr)))[: arguments.users])
    q = min(max(round(arguments.hidden * p), 1), p - 1)
    columns = np.sort([rng.permutation(p)[:q] for _ in users], axis=1)
    rows = np.repeat(users[:, None], q, axis=1)
    return rows, columns, sparse.csr_array((np.ones(rows.size, bool), (rows.ravel(), columns.ravel())), shape=(n, p))


def ranked(rates: np.ndarray, held: np.ndarray, n: int) -> np.ndarray:
    """Precision, recall and NDCG at n of each user that has anything relevant; (users, 3)."""
    relevant = (held > 0).sum(axis=1)
    some = relevant > 0
    order = np.argsort(-rates[some], axis=1, kind="stable")[:, :n]
    hits = np.take_along_axis(held[some] > 0, order, axis=1)
    discount = 1 / np.log2(np.arange(2, order.shape[1] + 2))
    ideal = np.cumsum(discount)[np.minimum(relevant[some], order.shape[1]) - 1]
    return np.column_stack([hits.mean(axis=1), hits.sum(axis=1) / relevant[some], hits @ discount / ideal])


def tell_scores(scores: dict[str, np.ndarray], predicted: dict[str, np.ndarray], held: np.ndarray, n: int) -> None:
    """The table, and whether HPF is ahead of popularity."""
    line = "{:<16}" + 3 * "{:>14}" + "{:>18}{:>12}"
    tell()
    head = [f"{metric}@{n}" for metric in METRICS]
    tell(line.format(f"{len(scores['HPF']):,} users", *head, "nats per count", "sum"))
    for name, values in scores.items():
        rates, told = predicted[name], ["", ""]
        if name != "popularity":
            with np.errstate(divide="ignore"):
                log_likelihood = (xlogy(held, rates) - rates - gammaln(held + 1.0)).sum()
            told = [f"{log_likelihood / held.sum():.4f}", f"{rates.sum():,.0f}"]
        tell(line.format(name, *(f"{value:.4f}" for value in values.mean(axis=0)), *told))
    tell(line.format("was there", "", "", "", "", f"{held.sum():,.0f}"))
    for name, values in zip(("predicted", "was there"), calibration(predicted["HPF"], held).T, strict=False):
        tell(f"HPF, tenths of its counts, {name}: " + " ".join(f"{value:.3g}" for value in values))
    more = (scores["HPF"] - scores["popularity"])[:, 2]
    error = more.std() / np.sqrt(len(more))
    verdict = "ahead of" if more.mean() > 2 * error else "behind" if more.mean() < -2 * error else "level with"
    tell(
        f"HPF is {verdict} popularity: its NDCG@{n} is {more.mean():+.4f} on it, with a standard error of {error:.4f}."
    )


def intervals(model: HPF, rows: np.ndarray, columns: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Central 90 % intervals of (W H)_ij by 500 draws of W_i and H_j, entry by entry."""
    rng, (low, high) = np.random.default_rng(seed), np.empty((2, *rows.shape))
    for u in range(len(rows)):
        W, H = model.W_posterior_[rows[u]], model.H_posterior_.transposed()[columns[u]]
        size = (500, *W.shape.shape)
        low[u], high[u] = np.quantile((W.sample(size, rng) * H.sample(size, rng)).sum(axis=-1), [0.05, 0.95], axis=0)
    return low, high


def calibration(rates: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Mean rate, mean count and its standard error in ten bins of equal sums of rates; (bins, 3)."""
    order = np.argsort(rates, axis=None)
    rates, held = rates.ravel()[order], held.ravel()[order]
    cuts = np.searchsorted(np.cumsum(rates), np.linspace(0, rates.sum(), 11)[1:-1])
    bins = [b for b in zip(np.split(rates, cuts), np.split(held, cuts), strict=True) if len(b[0])]
    return np.array([(r.mean(), x.mean(), x.std() / np.sqrt(len(x))) for r, x in bins])


def paint(
    figure: Any, scores: dict[str, np.ndarray], predicted: dict[str, np.ndarray], held: np.ndarray, n: int
) -> None:
    """Metrics with their standard errors, and calibration."""
    figure.set_size_inches(11, 4.5)
    bars, lines = figure.subplots(1, 2)
    width = 0.8 / len(scores)
    for b, (name, values) in enumerate(scores.items()):
        bars.bar(np.arange(3) + (b - (len(scores) - 1) / 2) * width, values.mean(axis=0), 0.95 * width, label=name,
                 yerr=values.std(axis=0) / np.sqrt(len(values)), color=COLOURS[name], error_kw={"lw": 1})  # fmt: skip
    bars.set_xticks(range(3), [f"{metric}@{n}" for metric in METRICS])
    bars.set(title="hidden items, ranked", ylabel=f"mean over {len(scores['HPF']):,} users ± its error")
    bars.legend(frameon=False, fontsize=9)
    for name, marker in (("HPF", "o"), ("MAP", "s")):
        rate, mean, error = calibration(predicted[name], held).T
        lines.errorbar(rate, mean, 2 * error, color=COLOURS[name], marker=marker, ms=5, lw=1, capsize=2, label=name)
    lines.axline((1, 1), slope=1, color="black", lw=0.8, ls="--", label="as predicted")
    lines.set(xscale="log", yscale="log", title="hidden entries, calibration",
              xlabel="predicted rate", ylabel="mean count ± 2 standard errors")  # fmt: skip
    lines.legend(frameon=False, fontsize=9)


if __name__ == "__main__":
    sys.exit(main())
