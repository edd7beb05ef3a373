"""What the examples share: options, counts with names, a prior that smooths, lift, rates at entries, two pictures."""

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from studying import add_outputs, check_outputs

from fastpmf import Topics, as_counts
from fastpmf.datasets import Dataset
from fastpmf.io import read_counts

# Paul Tol's "muted", which colour-blind eyes tell apart too; the grey is for all the rest
COLOURS = ["#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499"]
GREY = "#DDDDDD"


def example_parser(name: str, description: str, components: int, rows: str, columns: str) -> argparse.ArgumentParser:
    """The options that all examples have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help=f"counts, {rows} x {columns}: .npz or .mtx[.gz]")
    parser.add_argument("--rows", metavar="FILE", help=f"names of the {rows}, one a line (after its last tab, if any)")
    parser.add_argument("--columns", metavar="FILE", help=f"names of the {columns}, likewise")
    parser.add_argument("-k", "--components", type=int, default=components, metavar="K", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--pseudo-counts", type=float, default=0.1, metavar="A",
        help="counts that the Gamma prior adds to each entry of W and of H; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, metavar="N", help="default: all this process may use")
    add_outputs(parser, name)
    return parser


def parse(parser: argparse.ArgumentParser, at_least_one: Sequence[str] = (), shares: Sequence[str] = ()) -> Any:
    """The arguments; turn away what can't be, before anything is read."""
    arguments = parser.parse_args()
    for name in ("components", "threads", *at_least_one):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    for name in shares:
        if not 0 < getattr(arguments, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be above 0 and below 1, got {getattr(arguments, name):g}")
    if not 0 <= arguments.seed < 2**32:
        parser.error(f"--seed must be from 0 to 2**32 - 1, got {arguments.seed}")
    if not 0 < arguments.pseudo_counts < math.inf:
        parser.error(f"--pseudo-counts must be positive, got {arguments.pseudo_counts:g}")
    check_outputs(parser, arguments)
    if arguments.data is None and (arguments.rows or arguments.columns):
        parser.error("--rows and --columns are names for the counts of --data")
    return arguments


def read_dataset(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, default: Callable[[], Dataset], row: str, column: str
) -> Dataset:
    """Counts and names from files, or the default; turn away what is no counts, and names that are too few or many."""
    try:
        if arguments.data is None:
            return default()
        X = as_counts(read_counts(arguments.data), name=arguments.data).to_scipy()
        if X.nnz == 0 or (X.data % 1).any():
            raise ValueError(f"{arguments.data} must hold whole counts, and not only zeros")
        names = [
            read_names(file, n) if file else np.array([f"{noun} {i + 1}" for i in range(n)])
            for file, noun, n in zip((arguments.rows, arguments.columns), (row, column), X.shape, strict=True)
        ]
        return Dataset(X, *names)
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))


def read_names(file: str, n: int) -> np.ndarray:
    """The last field of each line, of which there must be `n`."""
    with open(file, encoding="utf-8") as lines:
        names = [line.rstrip("\n").split("\t")[-1].strip() for line in lines]
    if len(names) != n:
        raise ValueError(f"{file} must have a line for each of {n:,}, got {len(names):,}")
    return np.array(names)


def smoothing(pseudo_counts: float, mean_rate: float, n_components: int) -> tuple[float, float]:
    """A Gamma prior for both factors, (shape, rate), which smooths as Dirichlet priors do in topic models.

    A half-step gives W_ik v_sum_k = (counts that fall to it) + shape - 1 - rate W_ik: the shape adds pseudo-counts,
    whatever the factors' scale. The rate is such that the prior's modes, (shape - 1) / rate, have the counts' mean rate
    when multiplied out over the components; then it takes away what the shape adds, and all rates sum to the counts.
    """
    return 1 + pseudo_counts, pseudo_counts / math.sqrt(mean_rate / n_components)


def lift(topics: Topics, pseudo_counts: float = 10) -> np.ndarray:
    """P(j|z) / P(j): how much more frequent column j is in component z than in all; (k, p).

    Rare columns would always come first. So each is taken to have ten more counts, spread over the components as all
    counts are, which draws the lift of rare ones to 1.
    """
    counts = topics.total * topics.weights[:, None] * topics.columns
    added = pseudo_counts * topics.weights[:, None]
    with np.errstate(invalid="ignore"):  # a component without any counts has no lift
        return (counts + added) / (counts.sum(axis=0) + pseudo_counts) / topics.weights[:, None]


def top(values: np.ndarray, n: int) -> np.ndarray:
    """Numbers of the largest, the largest first; of equals the first first."""
    return np.argsort(-values, kind="stable")[:n]


def rates_at(W: np.ndarray, H: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(W H)_ij at some entries alone."""
    rates = np.zeros(len(rows))
    for w, h in zip(W.T, H, strict=True):
        rates += w[rows] * h[columns]
    return rates


def paint_tops(
    figure: Any, topics: Topics, scores: np.ndarray, names: np.ndarray, called: list[str], label: str
) -> None:
    """A panel for each of the heaviest components: bars for the columns with the highest scores."""
    shown = min(len(scores), len(COLOURS))
    across = min(shown, 5)
    panels = figure.subplots(-(-shown // across), across, squeeze=False).ravel()
    for axes in panels[shown:]:
        axes.set_axis_off()
    for z, axes in enumerate(panels[:shown]):
        best = top(scores[z], 8)[::-1]
        axes.barh(range(len(best)), scores[z, best], color=COLOURS[z])
        axes.set_yticks(range(len(best)), [shortened(names[j], 18) for j in best], fontsize=8)
        axes.set_title(f"{called[z]}: {topics.weights[z]:.0%}", fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(label, fontsize=9)


def paint_memberships(axes: Any, mixtures: np.ndarray, groups: np.ndarray, called: list[str], label: str) -> None:
    """Stacked memberships, a row of the matrix beside the other, by groups; what is beyond the colours is grey."""
    shown = mixtures[:, : len(COLOURS)]
    if mixtures.shape[1] > shown.shape[1]:
        shown = np.column_stack([shown, mixtures[:, len(COLOURS) :].sum(axis=1)])
        called = [*called[: len(COLOURS)], f"{len(called) - len(COLOURS)} others"]
    named, sizes = np.unique(groups, return_counts=True)
    named = sorted(named, key=lambda name: (np.argmax(shown[groups == name].mean(axis=0)), name))
    gap, start, middles = 0.006 * len(mixtures), 0.0, []
    for name in named:
        own = shown[groups == name]
        dominant = own.argmax(axis=1)
        own = own[np.lexsort((-own.max(axis=1), dominant))]
        x = start + np.arange(len(own) + 1)
        axes.stackplot(x, *np.vstack([own, own[-1:]]).T, colors=[*COLOURS, GREY], step="post", lw=0)
        middles.append(start + len(own) / 2)
        start = x[-1] + gap
    upright = len(named) > 8 or max(map(len, named)) > 120 // len(named)
    axes.set_xticks(middles, [shortened(name, 24) for name in named], rotation=45 if upright else 0,
                    ha="right" if upright else "center", rotation_mode="anchor", fontsize=8)  # fmt: skip
    axes.set(xlim=(0, start - gap), ylim=(0, 1), ylabel="membership", xlabel=label)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    handles = [axes.fill_between([], [], color=colour) for colour in [*COLOURS, GREY][: len(called)]]
    axes.legend(handles, called, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)


def shortened(name: str, length: int) -> str:
    """A name that fits beside a bar."""
    return name if len(name) <= length else f"{name[: length - 1]}…"
