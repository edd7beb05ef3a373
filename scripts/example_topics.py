"""Documents and words: topics by maximum likelihood, which is PLSI, and how well they predict words held out."""

import sys
from functools import partial
from typing import Any

import numpy as np
from examples import (
    example_parser,
    lift,
    paint_memberships,
    paint_tops,
    parse,
    rates_at,
    read_dataset,
    shortened,
    top,
)
from provenance import describe, write_table
from scipy.special import gammaln, xlogy
from studying import clocked, draw, tell

from fastpmf import MemoryCounts, PoissonNMF, Topics, poisson_log_likelihood, thin_counts, to_topics
from fastpmf.counts import Side
from fastpmf.datasets import load_stdlib

DESCRIPTION = """\
Topics of documents. Of the counts, each single word is held out with a small probability (thin_counts); the rest
is fitted by PoissonNMF, and to_topics reads the factors as probabilities. Without --data the documents are the
modules of the running Python's own library.

Told, and drawn, are
  - the Poisson log-likelihood, and the sum of its two parts: the multinomial log-likelihood of the words given
    the documents' lengths, which is what PLSI maximises, and the Poisson log-likelihood of the lengths. One
    number, computed twice;
  - topics by weight: their likeliest words, the words of the highest lift, P(word|topic) / P(word), as if each
    word had ten counts more (examples.py says why), and the documents that have most of a topic, P(document|topic);
  - mixtures, P(topic|document), of some documents; those of all are in the table;
  - multinomial log-likelihood and perplexity of the words held out, of three models: maximum likelihood; the same
    under a small Gamma prior on both factors (prior_W="auto", prior_H="auto"); and one topic for all, under it.
    Maximum likelihood can say that a word cannot be. If it then is, its perplexity is infinite: so the second
    perplexity leaves the words out that it takes for impossible, for all models, which is in its favour.

Documents of one name, as given by --rows, are taken together in what is told. In the picture they stand together, or
documents of one dominant topic do, where all names differ or there are 50 or more.
"""


def main() -> int:
    """Run the example."""
    parser = example_parser("example_topics", DESCRIPTION, 10, "documents", "words")
    parser.add_argument("--held-out", type=float, default=0.1, metavar="SHARE", help="default: %(default)s")
    parser.add_argument("--show", type=int, default=5, metavar="N", help="documents to print; default: %(default)s")
    parser.add_argument(
        "--bars", choices=["probability", "lift"], default="probability", help="in the picture; default: %(default)s"
    )
    arguments = parse(parser, ["show"], ["held_out"])
    X, documents, words = read_dataset(parser, arguments, load_stdlib, "document", "word")
    train, test = thin_counts(X, arguments.held_out, random_state=arguments.seed)
    if not train.total or not test.total:
        parser.error(f"--held-out must leave counts on either side, of {X.sum():,.0f} it does not")
    tell(f"{describe(X)}: {X.sum():,.0f} words in documents, of which {test.total:,.0f} are held out\n")

    k, common = arguments.components, {"tol": 1e-3, "random_state": arguments.seed, "n_threads": arguments.threads}
    model = PoissonNMF(k, **common)
    W, seconds = clocked(partial(model.fit_transform, train))
    tell(f"{spelt(k)}: {model.n_iter_} iterations, {seconds:.1f} s. {model.status_}")
    order = to_topics(W, model.components_).order  # so that topic 1 is the heaviest
    W, H = W[:, order], model.components_[order]
    topics = to_topics(W, H)
    tell_identity(topics, train, poisson_log_likelihood(train, W, H))
    tell_topics(topics, words)
    names, number = np.unique(documents, return_inverse=True)
    of_names = np.zeros((len(names), k))
    np.add.at(of_names, number, W)
    tell_documents(to_topics(of_names, H), names, arguments.show)

    models = {f"{spelt(k)}, maximum likelihood": topics}
    for n in (k, 1):
        smoothed = PoissonNMF(n, prior_W="auto", prior_H="auto", **common)
        W = smoothed.fit_transform(train)
        models[f"{spelt(n)}, with the prior"] = to_topics(W, smoothed.components_)
    tell_held_out(models, test)

    called = [f"topic {z + 1}" for z in range(k)]
    table = ([name, *mixture] for name, mixture in zip(documents, topics.mixtures, strict=True))
    write_table(arguments.csv, ["document", *called], table, {"fitted, and held out": X})
    tell(f"\ntable: {arguments.csv}")
    draw(arguments.png, lambda figure: paint(figure, topics, documents, words, called, arguments.bars))
    return 0


def spelt(n: int) -> str:
    """How many topics."""
    return f"{n} topic{'' if n == 1 else 's'}"


def tell_identity(topics: Topics, counts: MemoryCounts, poisson: float) -> None:
    """One likelihood, whole and in its two parts."""
    lengths, expected = counts.sums(Side.ROWS), topics.row_totals
    given, of_lengths = (
        topics.conditional_log_likelihood(counts),
        (xlogy(lengths, expected) - expected - gammaln(lengths + 1)).sum(),
    )
    tell(f"\nPoisson log-likelihood                    {poisson:>24,.6f} nats")
    tell(f"multinomial given lengths, {given:,.1f}, and Poisson of lengths, {of_lengths:,.1f}:")
    tell(f"their sum                                 {given + of_lengths:>24,.6f} nats")


def tell_topics(topics: Topics, words: np.ndarray) -> None:
    """What each is about."""
    lifts = lift(topics)
    for z, weight in enumerate(topics.weights):
        tell(f"\ntopic {z + 1}, {weight:.1%} of the words")
        tell(f"  likeliest  {', '.join(words[j] for j in top(topics.columns[z], 8))}")
        tell(f"  lift       {', '.join(f'{words[j]} {lifts[z, j]:.1f}' for j in top(lifts[z], 8))}")


def tell_documents(topics: Topics, names: np.ndarray, n: int) -> None:
    """The documents that have most of each topic, and the mixtures of some."""
    tell("\nshares of the topics' words that are in the documents that have most")
    for z, shares in enumerate(topics.rows.T):
        tell(f"  topic {z + 1:<3} {', '.join(f'{shortened(names[i], 40)} {shares[i]:.1%}' for i in top(shares, 4))}")
    tell("\nmixtures of some documents, topics of at least 5 %")
    for i in np.unique(np.linspace(0, len(names) - 1, n).astype(int)):
        own = topics.mixtures[i]
        most = [f"{own[z]:.0%} topic {z + 1}" for z in top(own, len(own)) if own[z] >= 0.05]
        tell(f"  {shortened(names[i], 30):<30} {', '.join(most)}")


def tell_held_out(models: dict[str, Topics], test: MemoryCounts) -> None:
    """Log-likelihood of the words held out given how many each document has, and perplexity, exp of minus its mean."""
    entries = test.to_scipy().tocoo()
    i, j = entries.coords
    possible, line = None, "{:<34}{:>18}{:>16}{:>14}{:>20}"
    tell()
    tell(
        line.format(f"{test.total:,.0f} words held out", "log-likelihood", "impossible", "perplexity", "without those")
    )
    for name, topics in models.items():
        probability = rates_at(topics.mixtures, topics.columns, i, j)
        if possible is None:
            possible = probability > 0
        with np.errstate(divide="ignore"):
            logs = np.log(probability)
        told = [
            f"{topics.conditional_log_likelihood(test):,.1f}",
            f"{entries.data[probability == 0].sum():,.0f}",
            f"{np.exp(-(entries.data @ logs) / test.total):,.1f}",
            f"{np.exp(-(entries.data[possible] @ logs[possible]) / entries.data[possible].sum()):,.1f}",
        ]
        tell(line.format(name, *told))
    tell(f"A guess at random, each of {test.shape[1]:,} words alike, has perplexity {test.shape[1]:,}.")


def paint(figure: Any, topics: Topics, documents: np.ndarray, words: np.ndarray, called: list[str], by: str) -> None:
    """Words above, mixtures below."""
    figure.set_size_inches(12, 8.5)
    above, below = figure.subfigures(2, 1, height_ratios=[2, 1.2])
    scores, label = (topics.columns, "P(word | topic)") if by == "probability" else (lift(topics), "lift")
    paint_tops(above, topics.weights, scores, words, called, label)
    own_names = len(set(documents)) < min(50, len(documents))
    groups = documents if own_names else np.array(called)[topics.mixtures.argmax(axis=1)]
    label = "documents, by name" if own_names else "documents, by dominant topic"
    paint_memberships(below.subplots(), topics.mixtures, groups, called, label)


if __name__ == "__main__":
    sys.exit(main())
