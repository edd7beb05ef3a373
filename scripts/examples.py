"""What the examples share: options, counts with names, lift, rates at entries, two pictures."""

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse
from studying import add_outputs, check_outputs

from fastpmf import Topics, as_counts
from fastpmf.datasets import Dataset
from fastpmf.io import read_counts

# Paul Tol's "muted", which colour-blind eyes tell apart too; the last, grey, is for all the rest where there are more
COLOURS = ["#332288", "#88CCEE", "#44AA99", "#117733", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499", "#BBBBBB"]


def example_parser(name: str, description: str, components: int, rows: str, columns: str) -> argparse.ArgumentParser:
    """The options that all examples have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help=f"counts, {rows} x {columns}: .npz or .mtx[.gz]")
    parser.add_argument("--rows", metavar="FILE", help=f"names of the {rows}, one a line (after its last tab, if any)")
    parser.add_argument("--columns", metavar="FILE", help=f"names of the {columns}, likewise")
    parser.add_argument(
        "-k", "--components", type=int, default=components, metavar="K", help="to fit; default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")
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
    check_outputs(parser, arguments)
    if arguments.data is None and (arguments.rows or arguments.columns):
        parser.error("--rows and --columns are names for the counts of --data")
    return arguments


def read_dataset(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    default: Callable[[], Dataset],
    row: str,
    column: str,
) -> Dataset:
    """Counts and names from files, or the default; turn away what can't be fitted, and names too few or too many."""
    try:
        found = default() if arguments.data is None else from_files(arguments, row, column)
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))
    if not found.X.sum() or (found.X.data % 1).any():
        parser.error(f"{arguments.data or '--draw'} must hold whole counts, and not only zeros")
    if arguments.components > min(found.X.shape):
        parser.error(
            f"--components must be at most {min(found.X.shape):,}, got {arguments.components:,}: more can fit all"
        )
    return found


def from_files(arguments: argparse.Namespace, row: str, column: str) -> Dataset:
    """Counts, and names, which are numbers where there is no file."""
    X = sparse.csr_array(read_counts(arguments.data).X)
    as_counts(X, name=arguments.data)  # or say what is wrong with them
    names = [
        read_names(file, n) if file else np.array([f"{noun} {i + 1}" for i in range(n)])
        for file, noun, n in zip((arguments.rows, arguments.columns), (row, column), X.shape, strict=True)
    ]
    return Dataset(X, *names)


def read_names(file: str, n: int) -> np.ndarray:
    """The last field of each line, of which there must be `n`."""
    with open(file, encoding="utf-8") as lines:
        names = [line.rstrip("\n").split("\t")[-1].strip() for line in lines]
    if len(names) != n:
        raise ValueError(f"{file} must have a line for each of {n:,}, got {len(names):,}")
    return np.array(names)


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
    rates = np.zeros(rows.shape)
    for w, h in zip(W.T, H, strict=True):
        rates += w[rows] * h[columns]
    return rates


def paint_tops(figure: Any, weights: np.ndarray, scores: np.ndarray, names: Any, called: list[str], label: str) -> None:
    """A panel for each component that has a colour of its own: bars for the columns with the highest scores."""
    shown = own_colours(len(scores))
    down = -(-shown // 5)
    panels = figure.subplots(down, -(-shown // down), squeeze=False).ravel()
    for axes in panels[shown:]:
        axes.set_axis_off()
    for z, axes in enumerate(panels[:shown]):
        best = top(scores[z], 8)[::-1]
        axes.barh(range(len(best)), scores[z, best], color=COLOURS[z])
        axes.set_yticks(range(len(best)), [shortened(names[j], 18) for j in best], fontsize=8)
        axes.set_title(f"{called[z]}: {weights[z]:.0%}", fontsize=9)
        axes.locator_params(axis="x", nbins=3)
        axes.tick_params(axis="x", labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(label, fontsize=9)


def paint_memberships(axes: Any, mixtures: np.ndarray, groups: np.ndarray, called: list[str], label: str) -> None:
    """Stacked memberships, one row of the matrix beside the other, in groups; components without a colour as one."""
    n = own_colours(mixtures.shape[1])
    if n < mixtures.shape[1]:
        mixtures = np.column_stack([mixtures[:, :n], mixtures[:, n:].sum(axis=1)])
        called = [*called[:n], f"{len(called) - n} others"]
    names = in_order(mixtures, groups)
    gap, start, middles = 0.006 * len(mixtures), 0.0, []
    for name in names:
        own = mixtures[groups == name]
        main = own.mean(axis=0).argmax()
        # By the share of the group's main component; where that is small, by what is there instead
        own = own[np.lexsort((-own[:, main], np.where(own[:, main] > 0.25, -1, own.argmax(axis=1))))]
        x = start + np.arange(len(own) + 1)
        axes.stackplot(x, *np.vstack([own, own[-1:]]).T, colors=COLOURS, step="post", lw=0)
        middles.append(start + len(own) / 2)
        start = x[-1] + gap
    names = [shortened(name, 24) for name in names]
    # About 140 letters side by side are as wide as the picture
    free = np.diff(middles) * 140 / start - [(len(a) + len(b)) / 2 + 1 for a, b in pairwise(names)]
    slant = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if (free < 0).any() else {}
    axes.set_xticks(middles, names, fontsize=8, **slant)
    axes.set(xlim=(0, start - gap), ylim=(0, 1), ylabel="membership", xlabel=label)
    axes.tick_params(axis="x", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    handles = [axes.fill_between([], [], color=colour) for colour in COLOURS[: len(called)]]
    axes.legend(handles, called, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)


def in_order(mixtures: np.ndarray, groups: np.ndarray) -> list[str]:
    """Names of groups, by the component that each has most of."""
    return sorted(set(groups), key=lambda name: (mixtures[groups == name].mean(axis=0).argmax(), name))


def own_colours(n_components: int) -> int:
    """How many components have a colour of their own."""
    return n_components if n_components <= len(COLOURS) else len(COLOURS) - 1


def shortened(name: str, length: int) -> str:
    """A name that fits beside a bar."""
    return name if len(name) <= length else f"{name[: length - 1]}…"
