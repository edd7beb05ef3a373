"""Documents and words: topics by maximum likelihood, which is PLSI, and how well they predict held-out words."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import gammaln, xlogy

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

from fastpmf import PoissonNMF, Topics, poisson_log_likelihood, thin_counts, to_topics, top_features
from fastpmf.datasets import load_stdlib

DESCRIPTION = """\
Topics of documents. A fraction of the words is held out at random (thin_counts), the rest is fitted by PoissonNMF, and
to_topics reads the factors as probabilities. Without --data the documents are the modules of Python's standard library.

It prints
  - the Poisson log-likelihood, and its two parts: the multinomial log-likelihood of the words given the documents'
    lengths, which PLSI maximises, and the Poisson log-likelihood of the lengths; their sum is the same number
  - for each topic its share of the words, its most probable words, the words of the highest lift, P(word|topic) over
    its mean over topics, among words of at least 1e-3 of the topic, and the documents with its largest shares
  - multinomial log-likelihood and perplexity of the held-out words, of maximum likelihood, of the posterior mode under
    weak Gamma priors, and of one topic under them. Maximum likelihood can make a word impossible, and its perplexity
    infinite: the second perplexity excludes such words, for all models

The table has the mixture P(topic|document) of each document; the plot has the words of the topics, and the mixtures.
"""


def main() -> int:
    """Run the example."""
    parser = common.Parser(DESCRIPTION)
    common.name_options(parser, "documents", "words")
    parser.shared(components=10, seed=0, threads=None)
    parser.option("--held-out", "fraction of the words to hold out", 0.1, type=common.fraction)
    parser.option("--words", "words to print for each topic", 8)
    arguments = parser.parse_args()
    X, documents, words = common.read_dataset(parser, arguments, load_stdlib, "document", "word")
    train, test = thin_counts(X, arguments.held_out, random_state=arguments.seed)
    if not train.total or not test.total:
        parser.error(f"--held-out must leave words to fit and to hold out, of {X.sum():,.0f} words it does not")
    common.echo(f"{common.describe(X)}: {X.sum():,.0f} words, of which {test.total:,.0f} are held out\n")

    k, options = arguments.components, {"tol": 1e-3, "random_state": arguments.seed, "n_threads": arguments.threads}
    model = PoissonNMF(k, **options)
    W, seconds = common.timed(partial(model.fit_transform, train))
    common.echo(f"{k} topics: {model.n_iter_} iterations, {seconds:.1f} s. {model.status_}")
    order = to_topics(W, model.components_).order  # topic 1 is the largest
    W, H = W[:, order], model.components_[order]
    topics = to_topics(W, H)

    lengths, expected = np.asarray(train.to_scipy().sum(axis=1), dtype=float).ravel(), topics.row_totals
    of_words = topics.conditional_log_likelihood(train)
    of_lengths = (xlogy(lengths, expected) - expected - gammaln(lengths + 1)).sum()
    common.echo(f"\nPoisson log-likelihood        {poisson_log_likelihood(train, W, H):>24,.6f} nats")
    common.echo(f"words given lengths + lengths {of_words + of_lengths:>24,.6f} nats")

    likely, lift = (
        top_features(H, arguments.words, by=by, min_weight=min_weight, names=words).names
        for by, min_weight in (("weight", 0.0), ("lift", 1e-3))
    )
    for z, weight in enumerate(topics.weights):
        most = np.argsort(-topics.rows[:, z])[:4]
        common.echo(f"\ntopic {z + 1}, {weight:.1%} of the words")
        common.echo(f"  likely     {', '.join(likely[z])}")
        common.echo(f"  lift       {', '.join(filter(None, lift[z]))}")
        common.echo(f"  documents  {', '.join(f'{documents[i]} {topics.rows[i, z]:.1%}' for i in most)}")

    models = {f"{k} topics, maximum likelihood": topics}
    for n in (k, 1):
        smoothed = PoissonNMF(n, prior_W="auto", prior_H="auto", **options)
        models[f"{n} topics, with priors"] = to_topics(smoothed.fit_transform(train), smoothed.components_)
    print_held_out(models, test)

    names = [f"topic {z + 1}" for z in range(k)]
    rows = ([name, *mixture] for name, mixture in zip(documents, topics.mixtures, strict=True))
    common.write_table(arguments.csv, ["document", *names], rows, {"fitted, and held out": X})
    return common.conclude(arguments, partial(plot, W, H, words, names, arguments.words), [], (12, 9))


def print_held_out(models: dict[str, Topics], test: Any) -> None:
    """Log-likelihood of the held-out words given the documents' lengths, and perplexity, exp of minus its mean."""
    entries = test.to_scipy().tocoo()
    line = "{:<34}{:>18}{:>16}{:>14}{:>20}"
    common.echo()
    common.echo(
        line.format(f"{test.total:,.0f} held-out words", "log-likelihood", "impossible", "perplexity", "without those")
    )
    possible = None
    for name, topics in models.items():
        probability = common.rates_at(topics.mixtures, topics.columns, *entries.coords)
        possible = probability > 0 if possible is None else possible
        with np.errstate(divide="ignore"):
            logs = np.log(probability)
        counts = entries.data[possible]
        common.echo(line.format(
            name, f"{topics.conditional_log_likelihood(test):,.1f}", f"{entries.data[probability == 0].sum():,.0f}",
            f"{np.exp(-(entries.data @ logs) / test.total):,.1f}",
            f"{np.exp(-(counts @ logs[possible]) / counts.sum()):,.1f}",
        ))  # fmt: skip
    common.echo(f"A uniform guess among {test.shape[1]:,} words has perplexity {test.shape[1]:,}.")


def plot(W: np.ndarray, H: np.ndarray, words: np.ndarray, names: list[str], n: int, figure: Any) -> None:
    """Words of the topics, and mixtures of the documents."""
    import fastpmf.plot

    above, below = figure.subfigures(2, 1, height_ratios=[2, 1])
    axes = common.grid(above, len(H), columns=5, size=None)
    fastpmf.plot.top_features(H, n, names=words, labels=names, ax=axes)
    fastpmf.plot.structure(W, H, labels=names, ax=below.subplots())


if __name__ == "__main__":
    sys.exit(main())
