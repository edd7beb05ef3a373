"""The commands and their options, all declared here, and the help of each, which begins with examples.

A command is a function of `commands.py` or `plots.py` of its parsed arguments. Options that several commands have are
added by one function each.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from shutil import get_terminal_size
from textwrap import fill, wrap
from typing import Any, NoReturn

from fastpmf import __version__
from fastpmf.analysis.features import ORDERS
from fastpmf.cli import commands, plots
from fastpmf.counts import COUNT_DTYPES
from fastpmf.fitting.problem import SHAPES
from fastpmf.io import FORMATS
from fastpmf.io.concatenate import JOINS
from fastpmf.io.tenx import FEATURE_NAMES
from fastpmf.model.init import GIVEN, INITS
from fastpmf.solvers import SOLVERS
from fastpmf.utils.files import STANDARD_INPUT
from fastpmf.utils.messages import printable, suggestion

try:
    import shtab
except ImportError:
    shtab = None  # type: ignore[assignment]

MAX_WIDTH = 100  # columns of help; fewer in a narrower terminal
_LAST_GROUPS = ("how to read the counts", "other options")  # of all commands, at the end of the help of each
_DTYPES = ["float32", "float64"]
_VALUES = ["counts", "log2", "binary"]
_MISSING = ["unobserved", "zero"]


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """As argparse's, with "-o, --output FILE" in all versions of Python, and without line breaks at hyphens."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        values = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {values}"

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(text, width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """A parser whose help begins with its description, and whose errors are one line.

    The description ends with the usage; its paragraphs are wrapped, and its indented lines are kept.
    """

    def __init__(self, *, description: str, **options: Any) -> None:
        width = min(get_terminal_size().columns, MAX_WIDTH)
        super().__init__(
            description="\n\n".join(
                part if part.startswith(" ") else fill(part, width, break_on_hyphens=False)
                for part in description.split("\n\n")
            ),
            formatter_class=partial(HelpFormatter, width=width, max_help_position=26),
            usage=argparse.SUPPRESS, add_help=False, allow_abbrev=False, **options,
        )  # fmt: skip
        self._groups: dict[str, Any] = {}
        self._flags: list[str] = []
        self._inputs: list[str] = []  # the names of the arguments that are files or folders to read
        self._outputs: list[str] = []  # and to write
        self._commands: Any = None

    def command(self, run: Callable[[argparse.Namespace], None] | None, name: str, summary: str, text: str) -> "Parser":
        """Add a command, with a line in this parser's list of commands; `run` is None if it has commands itself."""
        assert self.description is not None
        if self._commands is None:
            metavar = "NAME" if " " in self.prog else "COMMAND"
            self._commands = self.add_subparsers(metavar=metavar, prog=self.prog, parser_class=Parser)
            self.description += f"\n\n{metavar} is one of\n"
        self.description += f"\n  {name:<20}{summary}"
        parser: Parser = self._commands.add_parser(name, help=summary, description=text)
        parser.set_defaults(run=run, prog=parser.prog)
        return parser

    def option(self, flags: str, text: str, default: Any = None, *, group: str, **options: Any) -> None:
        """Add an option, or an argument, to the group of this title.

        A default that is not None is appended to its text. If `metavar` is that of a file or folder, shells complete
        it, and an output file must differ from all other files; outputs are those in the group "output".
        """
        text = text if default in (None, argparse.SUPPRESS) else f"{text} (default: %(default)s)"
        if flags.startswith("-"):
            options["default"] = default
        action = self._add(flags, group, help=text, **options)
        metavar = options.get("metavar")
        if isinstance(metavar, str) and ("." in metavar or metavar in ("COUNTS", "FILE", "FOLDER", "MODEL")):
            action.complete = shtab and shtab.FILE  # type: ignore[attr-defined]
            (self._outputs if group == "output" else self._inputs).append(action.dest)

    def flag(self, flags: str, text: str, *, group: str) -> None:
        """Add an option without a value to the group of this title."""
        self._add(flags, group, help=text, action="store_true")

    def _add(self, flags: str, group: str, **options: Any) -> argparse.Action:
        if group not in self._groups:
            self._groups[group] = self.add_argument_group(group)
        action: argparse.Action = self._groups[group].add_argument(*flags.split(), **options)
        self._flags += action.option_strings
        return action

    def format_help(self) -> str:
        """As argparse's, with the groups that all commands have at the end; the description has the commands."""
        last = {title: place for place, title in enumerate(_LAST_GROUPS, 1)}
        groups = [group for group in self._action_groups if group is not self._positionals]
        self._action_groups = sorted(groups, key=lambda group: last.get(str(group.title), 0))
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {printable(message)}\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but an error for unknown arguments, or without a command; unknown options come first."""
        args = sys.argv[1:] if args is None else list(args)
        self._check_options(args)
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            hint = "; separate the columns by commas, without spaces" if "--columns" in args else ""
            self.error(f"unknown argument {unknown[0]!r}{hint}")
        if self._commands is not None and getattr(parsed, "run", None) is None:
            self.error(f"expected a {self._commands.metavar}; `{self.prog} --help` lists them")
        self._check_files(parsed)
        return parsed, unknown

    def _check_files(self, parsed: argparse.Namespace) -> None:
        """An error if an output is also an input or another output, or a folder that an input is in."""
        inputs = {os.path.realpath(path): path for name in self._inputs for path in _paths(getattr(parsed, name))}
        for path in (path for name in self._outputs for path in _paths(getattr(parsed, name))):
            target = os.path.realpath(path)
            for known, other in inputs.items():
                if f"{known}{os.sep}".startswith(f"{target}{os.sep}"):
                    self.error(f"every output must be a different file, and none of the inputs, got {path} and {other}")
            inputs[target] = path

    def _check_options(self, args: list[str]) -> None:
        """An error for the first unknown option, with a suggestion; argparse reports required ones before it."""
        for text in args:
            if text == "--" or (self._commands is not None and not text.startswith("-")):
                return  # arguments or the options of a command follow
            option = text.partition("=")[0] if text.startswith("--") else text[:2]
            # As for argparse, "-", negative numbers and texts with spaces are values
            if re.match(r"-[^\d.]", text) and " " not in text and option not in self._flags:
                self.error(f"unknown argument {text!r}{suggestion(text.partition('=')[0], self._flags)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, with the same message in all versions of Python and with a suggestion."""
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            message = f"expected one of {', '.join(choices)}, got {value!r}{suggestion(str(value), choices)}"
            raise argparse.ArgumentError(action, message)


def _paths(value: Any) -> list[str]:
    """The paths in the value of an argument, which may be one, several, none or a number; not standard streams."""
    values = value if isinstance(value, list) else [value]
    return [path for path in values if isinstance(path, str) and path != STANDARD_INPUT]


# ── Types of values ─────────────────────────────────────────────────────────────────────────────────────────────


def number(kind: type[int] | type[float], minimum: float, what: str) -> Callable[[str], Any]:
    """A type of values: numbers >= minimum; `what` describes them in errors."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not minimum <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected {what}, got {text!r}")
        return value

    return parse


positive = number(int, 1, "an integer >= 1")
seed = number(int, 0, "an integer >= 0")
non_negative = number(float, 0, "a number >= 0")
positive_number = number(float, 1e-300, "a number > 0")


def fraction(text: str) -> float:
    """A number between 0 and 1, both excluded."""
    value = non_negative(text) if text else 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return value


def prior(text: str) -> Any:
    """A prior of `PoissonNMF`: None, a name, or shape and rate."""
    if text == "none" or text in SHAPES:
        return text
    try:
        shape, rate = map(float, text.split(","))
    except ValueError:
        names = ", ".join(["none", *SHAPES])
        raise argparse.ArgumentTypeError(f"expected {names} or SHAPE,RATE such as 1.1,0.5, got {text!r}") from None
    return shape, rate


def _number_or_file(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _columns(text: str) -> list[str | int]:
    names = text.split(",")
    if len(names) < 2 or not all(names):
        raise argparse.ArgumentTypeError(
            f"expected names or numbers of columns, separated by commas, without spaces, got {text!r}"
        )
    return [int(column) if column.isdecimal() else column for column in names]


def _feature_types(text: str) -> str | list[str]:
    return text if text == "all" else text.split(",")


def _against(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


# ── Commands ────────────────────────────────────────────────────────────────────────────────────────────────────

_FASTPMF = """\
Poisson matrix factorization (KL-NMF) of large sparse counts.

  fastpmf demo                                 see what it does
  fastpmf info counts.npz                      describe a file
  fastpmf select counts.npz -k 5 10 20 40      compare numbers of components
  fastpmf fit counts.npz -k 20 -o model.npz    fit a model
  fastpmf topics model.npz                     list the features of components

`fastpmf COMMAND --help` explains a command. Counts are read from many formats, with cells, documents
or users as rows and genes, words or items as columns.

Results go to standard output: text for reading in a terminal, tab-separated tables in a pipe, or one
JSON document with --json. Messages and progress go to standard error. Output files appear when they
are complete, and then replace files of the same name. The exit code is 0 for success, 2 for invalid
arguments or files, 1 for other failures, and 130 for Ctrl-C.

usage: fastpmf [--version] [--help] COMMAND ..."""


def make_parser() -> Parser:
    """The parser of the command line; it sets the function of a command as `run` and its full name as `prog`."""
    parser = Parser(prog="fastpmf", description=_FASTPMF)
    for add in (
        _fit, _transform, _select, _consensus, _topics, _recommend, _similar, _differential, _intervals,
        _overdispersion, _evaluate, _split, _plot, _report, _info, _convert, _plan, _warmup, _demo, _versions,
        _completion,
    ):  # fmt: skip
        add(parser)
    version = f"fastpmf {__version__}"
    parser.option("--version", "print the version and exit", group="other options", action="version", version=version)
    _add_help(parser)
    return parser


_FIT = """\
Fit a model to counts and write it to a file, for the other commands and for `PoissonNMF.load` or
`HPF.load` in Python.

  fastpmf fit counts.npz -k 20 -o model.npz
  fastpmf fit cells.h5ad -k 30 --prior auto -o model.npz --report report.html
  fastpmf fit cells.h5ad -k 9 --seed-features s.json --seed-strength 99 -o m.npz
  fastpmf fit ratings.csv --columns 0,1,2 -k 20 --model hpf -o model.npz
  zcat counts.mtx.gz | fastpmf fit - --format mtx -k 20 -o model.npz

Ctrl-C stops the fit and writes the current model. So do --max-iter and --max-time, with exit code 0.

A value that belongs to each row or column, such as --row-exposure, is read from .npy, or from text
with one value a line, or a name and a value separated by a tab or comma, which are matched by name.
Matrices are read from .npy, or from .csv or .tsv with a header; columns of W are components, columns
of H are features and are matched by name.

usage: fastpmf fit COUNTS... -k K -o MODEL.npz [options]"""


def _fit(parser: Parser) -> None:
    fit = parser.command(commands.fit, "fit", "fit a model to counts", _FIT)
    _add_counts(fit)
    group = "output"
    fit.option("-o --output", "the model (required)", group=group, required=True, metavar="MODEL.npz")
    text = "also write W, rows x components, as .npy, .csv or .tsv"
    fit.option("--weights", text, group=group, metavar="W.npy")
    text = "also write W, H and all names for other programs: .npz for NumPy or .h5ad for AnnData"
    fit.option("--factors", text, group=group, metavar="FACTORS.npz")
    text = "also write a report with plots, for a browser; needs matplotlib"
    fit.option("--report", text, group=group, metavar="REPORT.html")
    _add_components(fit, "number of components (required)")
    _add_kind(fit)
    _add_poisson(fit, default_prior="none")
    group = "data beside the counts"
    text = (
        'names of features to expect in components, as JSON: {"T cells": ["CD3D", "CD3E"], ...}; the first '
        "components get these names, and the default of --prior is then auto"
    )
    fit.option("--seed-features", text, group=group, metavar="SEEDS.json")
    text = "counts that the seeds of each component are worth; more counts than these in the data overrule them"
    fit.option("--seed-strength", text, group=group, type=positive_number, metavar="X")
    _add_hpf(fit)
    _add_beside_fit(fit)
    group = "data beside the counts"
    text = "fixed part of W, rows x components; empty or NaN where W is free"
    fit.option("--fixed-W", text, group=group, metavar="W.npy", dest="fixed_W")
    text = "fixed part of H, components x columns, or a model for its H; empty or NaN where H is free"
    fit.option("--fixed-H", text, group=group, metavar="H.npy", dest="fixed_H")
    group = "how to fit"
    _add_how_to_fit(fit)
    text = (
        "stop when held-out counts are no longer predicted better: a fraction of the counts to hold out, such as 0.1, "
        "or a file of counts that has the held-out ones"
    )
    fit.option("--validation", text, group=group, type=_number_or_file, metavar="FILE")
    group = "long fits"
    text = "read the counts from their file in each iteration, with two blocks in memory: npy, h5ad, zarr, 10x-h5"
    fit.flag("--stream", text, group=group)
    fit.option("--checkpoint", "save checkpoints of the fit in this folder", group=group, metavar="FOLDER")
    text = "minutes between checkpoints (default: 10); Ctrl-C writes the model, but no checkpoint"
    fit.option("--checkpoint-minutes", text, group=group, type=non_negative, metavar="M")
    text = "continue from the last checkpoint in this folder, with bitwise the same result, and save checkpoints there"
    fit.option("--resume", text, group=group, metavar="FOLDER")
    _add_common(fit)


_TRANSFORM = """\
Compute the weights W of new rows under a fitted model, with H fixed.

  fastpmf transform model.npz new_counts.npz -o W.npy
  fastpmf transform model.npz new_counts.h5ad -o W.csv
  fastpmf transform model.npz new_counts.npz -o - | ssh elsewhere 'cat > W.npy'

If both have column names, columns are matched by name: columns that were not fitted are left out, and
fitted columns that the counts lack are not observed, or with --missing zero have counts of 0.

usage: fastpmf transform MODEL COUNTS... -o W.npy [options]"""


def _transform(parser: Parser) -> None:
    transform = parser.command(commands.transform, "transform", "weights of new rows under a fitted model", _TRANSFORM)
    _add_model_file(transform)
    _add_counts(transform, missing="unobserved")
    text = "W, rows x components, as .npy, .csv or .tsv; - for .npy on standard output (required)"
    transform.option("-o --output", text, group="output", required=True, metavar="W.npy")
    _add_row_exposure(transform)
    _add_groups_of_rows(transform)
    text = "groups that were not fitted: their effects are 1, or fitted to these rows (default: ignore)"
    transform.option("--new-groups", text, group="data beside the counts", choices=["ignore", "estimate"])
    _add_mask(transform)
    _add_common(transform)


_SELECT = """\
Compare numbers of components by how well they predict held-out counts, and recommend one.

  fastpmf select counts.npz -k 5 10 20 40
  fastpmf select counts.npz -k 10 20 30 --splits 5 --plot k.png
  fastpmf select documents.npz -k 10 20 40 --model hpf --json > k.json

A part of the counts is held out, and each number is fitted to the rest, with the options of
`fastpmf fit`. The default is --prior auto, since maximum likelihood, the default of `fit`, needs
fewer components: choose k with the prior that you will fit with.

A tenth of the rows is held out, and each fifth of their columns is predicted from the others, whatever
the variation of the counts. --holdout counts divides each count by thinning instead, which suits only
counts that vary as Poisson counts do: see `fastpmf overdispersion`. For recommendations from purchases,
hold out entries instead: `fastpmf split --by entries`, then `fit` and `evaluate -n` for each k.
Effects of groups, and other data beside the counts, are left out here.

The table has the log-likelihood of the held-out counts in nats per count, the
standard error of its difference to the best, and the similarity of the components of different
splits. The smallest number within one standard error of the best is recommended. Ctrl-C prints the
table of the completed splits.

The largest number is fitted first, and each other one starts from the fit before, whose most similar
components are merged. --own-starts fits each number from its own start too, in some splits, and uses
the better fit: the excess is how much higher the objective was after merging, in nats per count.

usage: fastpmf select COUNTS... -k K [K ...] [options]"""


def _select(parser: Parser) -> None:
    select = parser.command(commands.select, "select", "compare numbers of components", _SELECT)
    _add_counts(select)
    group = "comparison"
    text = "what to hold out: rows, or parts of single counts"
    select.option("--holdout", text, "rows", group=group, choices=["rows", "counts"])
    select.option("--splits", "number of random splits", 3, group=group, type=positive, metavar="N")
    select.option("--fraction", "share of the rows or counts to hold out", 0.1, group=group, type=fraction, metavar="F")
    text = "number of splits in which each number is fitted from its own start too, to compare"
    select.option("--own-starts", text, 0, group=group, type=number(int, 0, "an integer >= 0"), metavar="N")
    text = (
        "fits of all counts from random starts, 0 or at least 2, for each number of components: the table has their "
        "silhouette too, and the divergence of their consensus"
    )
    replicates = number(int, 0, "an integer >= 0")
    select.option("--replicates", text, 0, group=group, type=replicates, metavar="N")
    _add_table(select)
    text = "also plot the table, as .png, .svg or .pdf; needs matplotlib"
    select.option("--plot", text, group="output", metavar="PLOT.png")
    _add_components(select, "numbers of components (required)", nargs="+")
    _add_kind(select)
    _add_poisson(select, default_prior="auto")
    _add_hpf(select)
    _add_how_to_fit(select)
    _add_common(select)


_CONSENSUS = """\
Fit the counts many times, find what the fits agree on, and how stable each component is.

  fastpmf consensus counts.npz -k 10 -o model.npz
  fastpmf consensus cells.h5ad -k 10 -o model.npz --weights W.csv --plot c.png
  fastpmf consensus counts.npz -k 10 -o model.npz --resample rows

The components of all fits are put into K clusters, with one component of each fit. Those without near
neighbours in the other fits are outliers. The components of the model are the means of the clusters
without outliers, and W is fitted to them; other commands read the model as that of `fastpmf fit`.

The table has, for each component, its stability: the mean similarity of two fits in it, from 0 to 1;
the number of fits whose component is no outlier; and its share of the counts. Ctrl-C makes the
consensus of the completed fits.

usage: fastpmf consensus COUNTS... -k K -o MODEL.npz [options]"""


def _consensus(parser: Parser) -> None:
    consensus = parser.command(commands.consensus, "consensus", "what many fits agree on", _CONSENSUS)
    _add_counts(consensus)
    group = "output"
    text = "the consensus, a model (required)"
    consensus.option("-o --output", text, group=group, required=True, metavar="MODEL.npz")
    text = "also write W, rows x components, as .npy, .csv or .tsv"
    consensus.option("--weights", text, group=group, metavar="W.npy")
    text = "also plot similarities and stabilities, as .png, .svg or .pdf; needs matplotlib"
    consensus.option("--plot", text, group=group, metavar="PLOT.png")
    group = "consensus"
    text = "number of fits, at least 2"
    replicates = number(int, 2, "an integer >= 2")
    consensus.option("--replicates", text, 20, group=group, type=replicates, metavar="N")
    text = (
        "rows: each fit has a bootstrap sample of the rows; counts: a random part of the counts (default: all have X)"
    )
    consensus.option("--resample", text, group=group, choices=["rows", "counts"])
    text = "share of the counts that each fit leaves out, with --resample counts"
    consensus.option("--fraction", text, 0.5, group=group, type=fraction, metavar="F")
    text = (
        "components whose mean distance to their nearest neighbours, between 0 and 1.42, is larger are outliers; 1.5 "
        "keeps all"
    )
    consensus.option("--density-threshold", text, 0.5, group=group, type=positive_number, metavar="D")
    _add_components(consensus, "number of components (required)")
    _add_poisson(consensus, default_prior="none", group="model")
    _add_beside_fit(consensus)
    _add_how_to_fit(consensus, init="random")
    _add_common(consensus)


_TOPICS = """\
List the top features of each component of a fitted model.

  fastpmf topics model.npz
  fastpmf topics model.npz -n 20 --by lift --min-weight 0.001 -o topics.csv
  fastpmf topics model.npz | cut -f 1,3

Components count from 0, as in Python. Features are ordered by weight, which is their share of the
component's counts, or by lift or exclusivity, which favour features that are typical of the component.
Of cells, the same abundant genes have the largest weights in every component: use --by lift with
--min-weight, or `fastpmf differential`, which also needs the counts.
The table has the columns component, rank, feature and score.

usage: fastpmf topics MODEL [options]"""


def _topics(parser: Parser) -> None:
    topics = parser.command(commands.topics, "topics", "top features of each component", _TOPICS)
    _add_model_file(topics)
    _add_top(topics, "number of features")
    _add_order(topics)
    _add_table(topics)
    _add_common(topics, fits=False)


_RECOMMEND = """\
List the columns of highest rate for each row, excluding columns in which the row already has
counts.

  fastpmf recommend model.npz purchases.csv
  fastpmf recommend model.npz purchases.csv --rows ada bob -n 5 -o best.csv
  fastpmf recommend model.npz new.csv --json

The rows may be fitted or new ones: their weights are computed first, as by `fastpmf transform`, whose
help describes how columns are matched. Fitted columns that the counts lack have counts of 0, since
rows that did not choose an item have no entry for it. The table has the columns row, rank, item and
rate, which is the expected count of the item in the row.

usage: fastpmf recommend MODEL COUNTS... [options]"""


def _recommend(parser: Parser) -> None:
    recommend = parser.command(commands.recommend, "recommend", "columns of highest rate for each row", _RECOMMEND)
    _add_model_file(recommend)
    _add_counts(recommend, missing="zero")
    _add_top(recommend, "number of columns")
    group = "what to list"
    text = "only for these rows, by name, or by number from 0 if rows have no names"
    recommend.option("--rows", text, group=group, nargs="+", metavar="ROW")
    text = "only of these columns, by name, or by number from 0 if columns have no names"
    recommend.option("--items", text, group=group, nargs="+", metavar="ITEM")
    recommend.flag("--seen", "include columns that the row has counts of", group=group)
    _add_weights(recommend)
    _add_table(recommend)
    _add_common(recommend)


_SIMILAR = """\
List the columns most similar to given ones, by the cosine of their shares of the components.

  fastpmf similar model.npz tea
  fastpmf similar model.npz tea jam -n 5 -o similar.csv

The table has the columns item, rank, similar and similarity.

usage: fastpmf similar MODEL ITEM... [options]"""


def _similar(parser: Parser) -> None:
    similar = parser.command(commands.similar, "similar", "columns most similar to given ones", _SIMILAR)
    _add_model_file(similar)
    text = "columns, by name, or by number from 0 if the model has no names"
    similar.option("of", text, group="input", nargs="+", metavar="ITEM")
    _add_top(similar, "number of columns")
    _add_table(similar)
    _add_common(similar, fits=False)


_DIFFERENTIAL = """\
List the features whose rate is most increased in each component, with log2 fold changes and their
standard errors.

  fastpmf differential model.npz counts.npz
  fastpmf differential model.npz counts.npz --shrink -n 20 -o markers.csv

Features are ordered by the lower end of a 95 % interval around the log fold change, or with --shrink
by the change itself, which is smaller where it is uncertain. COUNTS are the fitted ones. The table has
the columns component, rank, feature, lower_bound, log2_fold_change, standard_error and against, and
with --shrink false_sign_rate.

usage: fastpmf differential MODEL COUNTS... [options]"""


def _differential(parser: Parser) -> None:
    text = "features whose rate is increased in a component"
    differential = parser.command(commands.differential, "differential", text, _DIFFERENTIAL)
    _add_model_file(differential)
    _add_counts(differential)
    _add_top(differential, "number of features")
    _add_differential(differential)
    _add_weights(differential)
    _add_row_exposure(differential)
    _add_groups_of_rows(differential)
    _add_table(differential)
    _add_common(differential)


_INTERVALS = """\
How certain the components of a fitted model are: intervals of the share of each feature in them.

  fastpmf intervals model.npz counts.npz
  fastpmf intervals model.npz counts.npz --plot i.png --draws-file draws.npz
  fastpmf intervals hpf.npz counts.npz --draws 200 --thin 20

COUNTS are the fitted ones, with all that was given beside them. The methods are

  rows       refits with random weights of rows, for counts of any distribution
  poisson    refits with random weights of single counts, for Poisson counts
  posterior  draws from the posterior, for Poisson counts and models with priors

Rows is the default, and posterior that of HPF. `fastpmf overdispersion` tells whether counts are Poisson:
if they vary more, intervals of poisson and posterior are too narrow.

The table has the features of highest means, with the columns component, rank, feature, mean, low, high
and in_top, the share of the draws in which the feature is among the first N of the component. A terminal
also shows which components are identified, or what the draws of a posterior are worth. Ctrl-C makes
intervals from the draws so far.

usage: fastpmf intervals MODEL COUNTS... [options]"""


def _intervals(parser: Parser) -> None:
    intervals = parser.command(commands.intervals, "intervals", "how certain the components are", _INTERVALS)
    _add_model_file(intervals)
    _add_counts(intervals)
    group = "intervals"
    text = "see above (default: rows, or posterior for hpf)"
    intervals.option("--method", text, group=group, choices=["rows", "poisson", "posterior"])
    draws = number(int, 2, "an integer >= 2")
    text = "number of refits (default: 50) or draws (default: 100)"
    intervals.option("--draws", text, group=group, type=draws, metavar="N")
    text = "sweeps between draws of a posterior (default: 10)"
    intervals.option("--thin", text, group=group, type=positive, metavar="N")
    text = "sweeps before the first draw of a posterior (default: 100)"
    intervals.option("--burn-in", text, group=group, type=seed, metavar="N")
    intervals.option("--level", "level of the intervals", 0.9, group=group, type=fraction, metavar="F")
    intervals.option("--seed", "random seed", 0, group=group, type=seed, metavar="N")
    _add_top(intervals, "number of features of each component")
    _add_row_exposure(intervals)
    _add_groups_of_rows(intervals)
    _add_mask(intervals)
    _add_table(intervals)
    text = "also plot the intervals, as .png, .svg or .pdf; needs matplotlib"
    intervals.option("--plot", text, group="output", metavar="PLOT.png")
    text = "also write all draws of W and H, for `fastpmf plot intervals` and Python"
    intervals.option("--draws-file", text, group="output", metavar="DRAWS.npz")
    _add_common(intervals)


_OVERDISPERSION = """\
Test whether the counts vary more than Poisson counts of the fitted rates, and estimate how much.

  fastpmf overdispersion model.npz counts.npz
  fastpmf overdispersion model.npz counts.npz -n 1000 -o features.csv

A count of rate m has the variance m + d m^2, and the dispersion d is 0 for Poisson counts. COUNTS are
the fitted ones. The table has the features of highest z scores, with the columns feature, mean_rate,
dispersion, standard_error (of the dispersion, if counts are Poisson), variance_ratio, z_score, p_value
and overdispersed (5 % false discoveries). A terminal and --json show all features together too.

If counts vary more, thinned counts are not independent: use `fastpmf select --holdout rows`, the default.

usage: fastpmf overdispersion MODEL COUNTS... [options]"""


def _overdispersion(parser: Parser) -> None:
    text = "whether counts vary more than Poisson counts"
    overdispersion = parser.command(commands.overdispersion, "overdispersion", text, _OVERDISPERSION)
    _add_model_file(overdispersion)
    _add_counts(overdispersion)
    _add_top(overdispersion, "number of features")
    _add_weights(overdispersion)
    _add_row_exposure(overdispersion)
    _add_groups_of_rows(overdispersion)
    _add_table(overdispersion)
    _add_common(overdispersion)


_EVALUATE = """\
Score a fitted model on counts that it was not fitted to.

  fastpmf evaluate model.npz new_rows.npz
  fastpmf evaluate model.npz test --train train
  fastpmf evaluate model.npz test --train train -n 10

Without --train, COUNTS are new rows, and the score is their log-likelihood under their own best
weights. With --train, COUNTS are held-out counts of the rows in TRAIN, as `fastpmf split` writes
them. The weights are computed from TRAIN. The log-likelihood is computed as by `fastpmf select`, and
compared with that of a baseline without components, whose rates are row total x column total / total.
-n adds precision, recall and NDCG of the N columns of highest rate that are not in TRAIN, and those of
popularity, which ranks columns by their totals in TRAIN. Log-likelihoods are in nats per count.

usage: fastpmf evaluate MODEL COUNTS... [options]"""


def _evaluate(parser: Parser) -> None:
    evaluate = parser.command(commands.evaluate, "evaluate", "score a model on held-out counts", _EVALUATE)
    _add_model_file(evaluate)
    _add_counts(evaluate)
    text = "fitted columns that COUNTS lack: not observed, or with counts of 0 (default: unobserved, with --train zero)"
    evaluate.option("--missing", text, group="input", choices=_MISSING)
    _add_train(evaluate)
    _add_row_exposure(evaluate)
    _add_groups_of_rows(evaluate)
    text = "also score recommendations of N columns to each row; needs --train"
    evaluate.option("-n --top", text, group="what to score", type=positive, metavar="N")
    _add_common(evaluate)


_SPLIT = """\
Divide counts into a part to fit and a part to test on, of the same shape and with the same names.

  fastpmf split counts.npz --train train --test test
  fastpmf split purchases.csv --by entries --train train --test test

Thinning divides each count at random, so that both parts are independent if counts are Poisson: use
it for log-likelihoods. --by entries moves whole nonzero entries: use it to score recommendations.
Both parts are written as folders, as by `fastpmf convert`.

usage: fastpmf split COUNTS... --train FOLDER --test FOLDER [options]"""


def _split(parser: Parser) -> None:
    split = parser.command(commands.split, "split", "divide counts into train and test", _SPLIT)
    _add_counts(split)
    group = "output"
    split.option("--train", "the part to fit (required)", group=group, required=True, metavar="FOLDER")
    split.option("--test", "the part to test on (required)", group=group, required=True, metavar="FOLDER")
    group = "how to split"
    text = "what is divided: every count, or the nonzero entries"
    split.option("--by", text, "thinning", group=group, choices=["thinning", "entries"])
    split.option("--fraction", "share of the test part", 0.1, group=group, type=fraction, metavar="F")
    split.option("--seed", "seed of the split", 0, group=group, type=seed, metavar="N")
    _add_common(split, threads=False)


_REPORT = """\
Write a report on a fitted model with plots, one HTML file for a browser.

  fastpmf report model.npz -o report.html
  fastpmf report model.npz counts.npz -o report.html --title "Twenty topics"
  fastpmf report model.npz cells.h5ad --groupby celltype -o report.html

With the fitted counts, it also describes the data and how well they are fitted. Needs matplotlib.

usage: fastpmf report MODEL [COUNTS...] -o REPORT.html [options]"""


def _report(parser: Parser) -> None:
    report = parser.command(commands.report, "report", "a report with plots, for a browser", _REPORT)
    _add_model_file(report)
    _add_counts(report, nargs="*")
    _add_weights(report)
    _add_row_exposure(report)
    _add_groups_of_rows(report)
    _add_mask(report)
    _add_groupby(report)
    report.option("-o --output", "the report (required)", group="output", required=True, metavar="REPORT.html")
    report.option("--title", "heading (default: the model and its size)", group="output", metavar="TEXT")
    _add_top(report, "number of top features of each component")
    _add_common(report)


_INFO = """\
Describe a file of counts in any format, or a fitted model.

  fastpmf info cells.h5ad --layer counts
  fastpmf info model.npz --json

usage: fastpmf info FILE [options]"""


def _info(parser: Parser) -> None:
    info = parser.command(commands.info, "info", "describe a file", _INFO)
    _add_counts(info, nargs=1)
    _add_common(info, fits=False)


_CONVERT = """\
Write counts of any format to a folder, which is memory-mapped when it is read, and can be streamed.

  fastpmf convert filtered_feature_bc_matrix.h5 -o cells
  fastpmf convert january.csv february.csv --join outer -o purchases
  fastpmf convert orders.csv --columns order,item,n --values binary -o orders

The folder has canonical CSR as data.npy, indices.npy and indptr.npy, and the names of rows and columns
if there are any. Later commands read it without --columns and --values, and warnings about the table
are not repeated. A single CSV, TSV, Parquet, HDF5 or zarr file is read a chunk at a time, so it may be
larger than memory, unless names or --values are given.

usage: fastpmf convert COUNTS... -o FOLDER [options]"""


def _convert(parser: Parser) -> None:
    convert = parser.command(commands.convert, "convert", "write counts to a memory-mapped folder", _CONVERT)
    _add_counts(convert)
    text = "the folder; it replaces only another such folder (required)"
    convert.option("-o --output", text, group="output", required=True, metavar="FOLDER")
    _add_common(convert, threads=False)


_PLAN = """\
Estimate the memory of a fit, from a file or from the size of the counts.

  fastpmf plan counts.npz -k 20 50 100
  fastpmf plan --shape 1000000 30000 --nnz 2000000000 -k 50

usage: fastpmf plan [COUNTS...] -k K [K ...] [options]"""


def _plan(parser: Parser) -> None:
    plan = parser.command(commands.plan, "plan", "memory of a fit", _PLAN)
    _add_counts(plan, nargs="*")
    group = "size, instead of COUNTS"
    plan.option("--shape", "number of rows and of columns", group=group, type=positive, nargs=2, metavar=("N", "P"))
    plan.option("--nnz", "number of nonzeros", group=group, type=positive, metavar="N")
    text = "dtype of the counts, which `fastpmf info` prints for a file (default: uint16)"
    plan.option("--counts-dtype", text, group=group, choices=list(map(str, COUNT_DTYPES)))
    group = "fit"
    text = "numbers of components (required)"
    plan.option("-k --components", text, group=group, type=positive, nargs="+", required=True, metavar="K")
    _add_solver(plan, group)
    _add_dtype(plan, group)
    _add_table(plan)
    _add_common(plan, quiet=False)


_WARMUP = """\
Compile the kernels of fits for these numbers of components, and cache them on disk: when an image is
built, or before many processes start.

  fastpmf warmup -k 20
  fastpmf warmup -k 10 20 50 --counts-dtype float32 --dtype float32

The first number takes about four seconds for each dtype of counts, further ones about one second: some
kernels are compiled for each number of 64-byte vectors in a row of a factor (of 8 components in
float64, 16 in float32) from 1 to 16, and once for all wider rows. Counts from files are mostly uint8;
those of AnnData are float32.

usage: fastpmf warmup -k K [K ...] [options]"""


def _warmup(parser: Parser) -> None:
    warmup = parser.command(commands.warmup, "warmup", "compile kernels ahead of time", _WARMUP)
    group = "what to compile"
    text = "numbers of components (required)"
    warmup.option("-k --components", text, group=group, type=positive, nargs="+", required=True, metavar="K")
    text = "dtypes of counts, which `fastpmf info` prints for a file (default: uint8)"
    choices = list(map(str, COUNT_DTYPES))
    warmup.option("--counts-dtype", text, group=group, nargs="+", choices=choices, metavar="T")
    _add_dtype(warmup, group)
    _add_common(warmup, threads=False)


_DEMO = """\
Fit topics to the words of Python's standard library, as installed on this machine, and print them.

  fastpmf demo
  fastpmf demo -k 10 --plot objective.png
  fastpmf demo --save demo

usage: fastpmf demo [options]"""


def _demo(parser: Parser) -> None:
    demo = parser.command(commands.demo, "demo", "topics of Python's standard library", _DEMO)
    demo.option("-k --components", "number of topics", 20, group="fit", type=positive, metavar="K")
    text = "also plot the objective by iteration, as .png, .svg or .pdf; needs matplotlib"
    demo.option("--plot", text, group="output", metavar="PLOT.png")
    text = "also save the counts and the model in this new folder, to try the other commands"
    demo.option("--save", text, group="output", metavar="FOLDER")
    _add_common(demo)


_VERSIONS = """\
Print the versions of fastpmf and its libraries, the CPU and the threads, for a bug report.

  fastpmf versions
  fastpmf versions --json

usage: fastpmf versions [options]"""


def _versions(parser: Parser) -> None:
    versions = parser.command(commands.versions, "versions", "versions for a bug report", _VERSIONS)
    _add_common(versions, fits=False)


_COMPLETION = """\
Print a script that completes commands, options and file names in a shell. Needs shtab:
pip install 'fastpmf[completion]'.

  fastpmf completion bash > ~/.local/share/bash-completion/completions/fastpmf
  fastpmf completion zsh > ~/.zsh/completions/_fastpmf

usage: fastpmf completion SHELL"""


def _completion(parser: Parser) -> None:
    completion = parser.command(commands.completion, "completion", "a script of completions for a shell", _COMPLETION)
    text = "bash, zsh or tcsh"
    completion.option("shell", text, group="input", choices=["bash", "zsh", "tcsh"], metavar="SHELL")
    _add_help(completion)


_PLOT = """\
Draw a plot of a fitted model to a .png, .svg or .pdf file; NAME is that of a function of fastpmf.plot.
Needs matplotlib.

  fastpmf plot structure model.npz counts.npz --groupby groups.txt -o plot.png
  fastpmf plot top-features model.npz -n 15 -o features.pdf
  fastpmf plot structure --help

usage: fastpmf plot NAME ... -o PLOT.png [options]"""
_STRUCTURE = """\
Structure plot: the topic proportions of each row as a stacked bar, rows side by side.

  fastpmf plot structure model.npz counts.npz -o structure.png
  fastpmf plot structure model.npz counts.npz --groupby groups.txt -o plot.png
  fastpmf plot structure model.npz cells.h5ad --groupby celltype -o plot.png

usage: fastpmf plot structure MODEL COUNTS... -o PLOT.png [options]"""
_GROUP_HEATMAP = """\
Heat map of the mean topic proportions of groups of rows.

  fastpmf plot group-heatmap model.npz counts.npz --groupby groups.txt -o a.png

usage: fastpmf plot group-heatmap MODEL COUNTS... --groupby FILE -o PLOT.png [options]"""
_SIMILARITY_HEATMAP = """\
Heat map of the similarity of components, of one model or of two.

  fastpmf plot similarity-heatmap model.npz -o similarity.png
  fastpmf plot similarity-heatmap model.npz other.npz -o similarity.png

usage: fastpmf plot similarity-heatmap MODEL [OTHER] -o PLOT.png [options]"""
_TOP_FEATURES = """\
Bars of the top features of each component.

  fastpmf plot top-features model.npz -o features.png
  fastpmf plot top-features model.npz --by lift --min-weight 0.001 -o lift.png

usage: fastpmf plot top-features MODEL -o PLOT.png [options]"""
_PLOT_DIFFERENTIAL = """\
Volcano plot of one component: log2 fold changes of all features, and their z scores.

  fastpmf plot differential model.npz counts.npz --component 3 -o volcano.png

usage: fastpmf plot differential MODEL COUNTS... --component Z -o PLOT.png [options]"""
_CONVERGENCE = """\
The objective during fits, by time or iterations.

  fastpmf plot convergence model.npz -o convergence.png
  fastpmf plot convergence cd.npz mu.npz --by n_iter -o convergence.png

usage: fastpmf plot convergence MODEL... -o PLOT.png [options]"""
_SELECTION = """\
Scores of numbers of components, from the output of `fastpmf select --json`.

  fastpmf select counts.npz -k 5 10 20 40 --json > k.json
  fastpmf plot selection k.json -o k.png

usage: fastpmf plot selection SELECTION.json -o PLOT.png [options]"""
_COMPONENT_GAINS = """\
What each component contributes to the prediction of held-out counts; near 0
for noise and copies of other components.

  fastpmf plot component-gains model.npz test --train train -o gains.png

usage: fastpmf plot component-gains MODEL COUNTS... --train COUNTS -o PLOT.png [options]"""
_CALIBRATION = """\
Held-out counts against the rates that a model expects, in groups of entries.

  fastpmf plot calibration model.npz test --train train -o calibration.png

usage: fastpmf plot calibration MODEL COUNTS... --train COUNTS -o PLOT.png [options]"""
_PLOT_CONSENSUS = """\
Similarities of the components of all fits of a consensus, and their stability.

  fastpmf plot consensus model.npz -o consensus.png

usage: fastpmf plot consensus MODEL -o PLOT.png [options]"""

_PLOT_INTERVALS = """\
Intervals of the shares of features in components, from the draws of `fastpmf intervals`.

  fastpmf intervals model.npz counts.npz --draws-file draws.npz
  fastpmf plot intervals draws.npz -o intervals.png

usage: fastpmf plot intervals DRAWS -o PLOT.png [options]"""
_RESIDUALS = """\
Heat map of groups of rows and columns: where counts differ from the fit.

  fastpmf plot residuals model.npz counts.npz -o residuals.png
  fastpmf plot residuals model.npz counts.npz --groupby groups.txt -o plot.png

usage: fastpmf plot residuals MODEL COUNTS... -o PLOT.png [options]"""

_PLOT_OVERDISPERSION = """\
Variance of the counts of each feature, relative to that of Poisson counts, by its mean rate.

  fastpmf plot overdispersion model.npz counts.npz -o overdispersion.png

usage: fastpmf plot overdispersion MODEL COUNTS... -o PLOT.png [options]"""


def _plot(parser: Parser) -> None:
    kinds = parser.command(None, "plot", "plots of a fitted model", _PLOT)
    _add_help(kinds)

    structure = kinds.command(plots.structure, "structure", "topic proportions of each row", _STRUCTURE)
    _add_model_file(structure)
    _add_counts(structure, missing="unobserved")
    _add_weights(structure)
    _add_groupby(structure)
    _add_groups(structure)
    group = "what to draw"
    text = (
        "order of the rows in a group: by their largest component and its proportion; by it and the first principal "
        "component; or as in COUNTS"
    )
    structure.option("--order", text, "dominant", group=group, choices=["dominant", "principal", "given"])
    structure.option("--max-rows", "draw a random subset of more rows", 2000, group=group, type=positive, metavar="N")

    groups = kinds.command(plots.group_heatmap, "group-heatmap", "topic proportions of groups of rows", _GROUP_HEATMAP)
    _add_model_file(groups)
    _add_counts(groups, missing="unobserved")
    _add_weights(groups)
    _add_groupby(groups, required=True)
    _add_groups(groups)

    heatmap = kinds.command(
        plots.similarity_heatmap, "similarity-heatmap", "similarity of components", _SIMILARITY_HEATMAP
    )
    _add_model_file(heatmap)
    heatmap.option("other", "another model of the same columns", group="input", nargs="?", metavar="OTHER.npz")

    features = kinds.command(plots.top_features, "top-features", "top features of each component", _TOP_FEATURES)
    _add_model_file(features)
    _add_top(features, "number of features")
    _add_order(features)
    text = "components to draw, in this order (default: all)"
    features.option("--components", text, group="what to list", type=seed, nargs="+", metavar="Z")

    differential = kinds.command(plots.differential, "differential", "volcano plot of a component", _PLOT_DIFFERENTIAL)
    _add_model_file(differential)
    _add_counts(differential)
    _add_weights(differential)
    _add_row_exposure(differential)
    _add_groups_of_rows(differential)
    text = "the component, from 0 (required)"
    differential.option("--component", text, group="what to list", type=seed, required=True, metavar="Z")
    _add_top(differential, "number of features to name")
    _add_differential(differential)

    convergence = kinds.command(plots.convergence, "convergence", "objective during fits", _CONVERGENCE)
    convergence.option("models", "models of the same counts", group="input", nargs="+", metavar="MODEL")
    text = "names of the models (default: those of the files)"
    convergence.option("--names", text, group="what to draw", nargs="+", metavar="NAME")
    convergence.option("--by", "horizontal axis", "seconds", group="what to draw", choices=["seconds", "n_iter"])

    selection = kinds.command(plots.selection, "selection", "scores of numbers of components", _SELECTION)
    text = "output of `fastpmf select --json`"
    selection.option("selection", text, group="input", metavar="SELECTION.json")

    consensus = kinds.command(plots.consensus, "consensus", "similarity and stability of fits", _PLOT_CONSENSUS)
    consensus.option("model", "output of `fastpmf consensus`", group="input", metavar="MODEL")

    intervals = kinds.command(plots.intervals, "intervals", "how certain components are", _PLOT_INTERVALS)
    intervals.option("draws", "output of `fastpmf intervals --draws-file`", group="input", metavar="DRAWS")
    _add_top(intervals, "number of features of each component")
    group = "what to draw"
    intervals.option("--level", "level of the intervals", 0.9, group=group, type=fraction, metavar="F")
    text = "the components, from 0 (default: all)"
    intervals.option("--components", text, group=group, type=seed, nargs="+", metavar="Z")

    gains = kinds.command(
        plots.component_gains, "component-gains", "contributions to the prediction of held-out counts", _COMPONENT_GAINS
    )
    _add_model_file(gains)
    _add_counts(gains)
    gains.set_defaults(missing="zero")
    _add_train(gains, required=True)

    calibration = kinds.command(plots.calibration, "calibration", "held-out counts against rates", _CALIBRATION)
    _add_model_file(calibration)
    _add_counts(calibration)
    calibration.set_defaults(missing="zero")
    _add_train(calibration, required=True)
    _add_row_exposure(calibration)
    _add_groups_of_rows(calibration)
    calibration.option("--bins", "number of groups", 20, group="what to draw", type=positive, metavar="N")

    residuals = kinds.command(plots.residuals, "residuals", "where counts differ from the fit", _RESIDUALS)
    _add_model_file(residuals)
    _add_counts(residuals)
    _add_weights(residuals)
    _add_row_exposure(residuals)
    _add_groups_of_rows(residuals)
    _add_groupby(residuals)
    text = "group of each column, as --groupby for rows; or a column of .var"
    residuals.option("--column-groupby", text, group="what to draw", metavar="FILE")
    text = "number of groups by total count, where no groups are given"
    residuals.option("--bins", text, 20, group="what to draw", type=positive, metavar="N")

    overdispersion = kinds.command(
        plots.overdispersion, "overdispersion", "variation of the counts of each feature", _PLOT_OVERDISPERSION
    )
    _add_model_file(overdispersion)
    _add_counts(overdispersion)
    _add_weights(overdispersion)
    _add_row_exposure(overdispersion)
    _add_groups_of_rows(overdispersion)
    _add_top(overdispersion, "number of features to name")

    for kind in (
        structure,
        groups,
        heatmap,
        features,
        differential,
        convergence,
        selection,
        consensus,
        intervals,
        gains,
        calibration,
        residuals,
        overdispersion,
    ):
        with_threads = structure, groups, differential, gains, calibration, residuals, overdispersion
        text = "the plot, as .png, .svg or .pdf (required)"
        kind.option("-o --output", text, group="output", required=True, metavar="PLOT.png")
        kind.option("--dpi", "resolution of .png, in dots per inch", 150, group="output", type=positive, metavar="N")
        _add_common(kind, threads=kind in with_threads)


# ── Options of several commands ─────────────────────────────────────────────────────────────────────────────────


def _add_model_file(command: Parser) -> None:
    command.option("model", "output of `fastpmf fit`", group="input", metavar="MODEL")


def _add_counts(command: Parser, *, nargs: str | int = "+", missing: str | None = None) -> None:
    """The options of reading counts; `missing` is the default of --missing, None for commands without it."""
    group = "input"
    text = f"files, folders or pipes: {', '.join(FORMATS)}; - for standard input. Rows of several are put together"
    command.option("counts", text, group=group, nargs=nargs, metavar="COUNTS" if nargs != 1 else "FILE")
    if missing is not None:
        text = "fitted columns that the counts lack: not observed, or with counts of 0"
        command.option("--missing", text, missing, group=group, choices=_MISSING)
    group = "how to read the counts"
    text = "format of COUNTS, one of the above (default: according to the name)"
    command.option("--format", text, group=group, choices=FORMATS, metavar="F")
    text = "for csv, tsv and parquet: names, or numbers from 0; needed if there are more than three columns"
    command.option("--columns", text, group=group, type=_columns, metavar="ROW,COLUMN[,COUNT]")
    text = "for csv and tsv: whether the first line is a header (default: if --columns has names or its count is text)"
    command.option("--header", text, group=group, action=argparse.BooleanOptionalAction)
    text = (
        "use the counts x as they are; or log2(1 + x); or binary values, 1 where x > 0. log2 and binary suit counts "
        "with a heavy tail, such as plays and purchases; log2 makes fractions, which can't be held out by thinning"
    )
    command.option("--values", text, "counts", group=group, choices=_VALUES)
    command.option("--layer", "layer of .h5ad or .zarr, or raw; genome of 10x version 2", group=group, metavar="NAME")
    text = "for 10x Genomics: feature types to read, such as 'Antibody Capture', or all (default: Gene Expression)"
    command.option("--feature-types", text, group=group, type=_feature_types, metavar="TYPE[,TYPE]")
    text = (
        "for 10x Genomics: name features by names, which may not be unique, or by ids, which are (default: name); "
        "--column-names gives others"
    )
    command.option("--feature-names", text, group=group, choices=FEATURE_NAMES)
    text = "swap rows and columns; without it, genes of 10x Genomics' files are columns"
    command.flag("--transpose", text, group=group)
    text = "names of the rows, one a line, instead of those in COUNTS"
    command.option("--row-names", text, group=group, metavar="FILE")
    text = "names of the columns, one a line, instead of those in COUNTS"
    command.option("--column-names", text, group=group, metavar="FILE")
    if nargs != 1:
        text = (
            "columns of several files: the same, in any order if they have names; outer: all of them, with counts of 0 "
            "where a file lacks one; inner: those in all files"
        )
        command.option("--join", text, "same", group=group, choices=JOINS)


def _add_components(command: Parser, text: str, **options: Any) -> None:
    command.option("-k --components", text, group="model", type=positive, required=True, metavar="K", **options)


def _add_kind(command: Parser) -> None:
    text = "poisson: PoissonNMF, maximum likelihood or posterior mode; hpf: HPF, posteriors by variational inference"
    command.option("--model", text, "poisson", group="model", dest="kind", choices=["poisson", "hpf"])


def _add_poisson(command: Parser, *, default_prior: str, group: str = "model poisson") -> None:
    """Options of `PoissonNMF`."""
    text = (
        "Gamma prior of W and H. none: maximum likelihood; auto: a weak prior, recommended for topics, cells and "
        "predictions; sparse: L1 penalties, for many components and few counts; or its shape and rate (default: "
        f"{default_prior})"
    )
    command.option("--prior", text, group=group, type=prior, metavar="PRIOR")
    command.option("--prior-W", "of W only", group=group, type=prior, metavar="PRIOR", dest="prior_W")
    command.option("--prior-H", "of H only", group=group, type=prior, metavar="PRIOR", dest="prior_H")
    _add_solver(command, group)


def _add_hpf(command: Parser) -> None:
    group = "model hpf"
    text = "fit the priors too, with a shape for each component; too many components then cost little"
    command.flag("--learn-prior", text, group=group)
    text = "prior shape of W, below 1 for sparse factors (default: 0.3)"
    command.option("--a", text, group=group, type=positive_number, metavar="X")
    command.option("--c", "prior shape of H (default: 0.3)", group=group, type=positive_number, metavar="X")
    text = "shape of the activities of rows; with smaller ones rows may differ more (default: 0.3)"
    command.option("--a-prime", text, group=group, type=positive_number, metavar="X")
    text = "shape of the popularities of columns (default: 0.3)"
    command.option("--c-prime", text, group=group, type=positive_number, metavar="X")
    command.flag("--no-hierarchy", "no activities and popularities: Gamma-Poisson factorization", group=group)


def _add_how_to_fit(command: Parser, *, init: str = "auto") -> None:
    group = "how to fit"
    command.option("--max-iter", "maximum number of iterations", 500, group=group, type=positive, metavar="N")
    text = (
        "poisson: stop when neither another W nor another H can improve the objective by more than T nats per count; "
        "hpf: when an iteration moves at most a share T of the counts"
    )
    command.option("--tol", text, 1e-4, group=group, type=non_negative, metavar="T")
    command.option(
        "--max-time", "stop after S seconds (default: no limit)", group=group, type=non_negative, metavar="S"
    )
    choices = [init for init in INITS if init not in GIVEN]
    command.option("--init", "start; auto is merge with cd and hpf, else random", init, group=group, choices=choices)
    text = "number of random starts, most of which are stopped early"
    command.option("--n-init", text, 1, group=group, type=positive, metavar="N")
    command.option("--seed", "random seed", 0, group=group, type=seed, metavar="N")
    _add_dtype(command, group)


def _add_solver(command: Parser, group: str) -> None:
    text = (
        "cd: extrapolated coordinate descent; em: lowest memory; mu: multiplicative updates; auto: cd (default: auto)"
    )
    command.option("--solver", text, group=group, choices=["auto", *SOLVERS])


def _add_dtype(command: Parser, group: str) -> None:
    text = "dtype of the factors (default: float64 for float64 counts and integers above 2**24, else float32)"
    command.option("--dtype", text, group=group, choices=_DTYPES)


def _add_row_exposure(command: Parser) -> None:
    text = "exposure of each row, such as library sizes or years at risk"
    command.option("--row-exposure", text, group="data beside the counts", type=_number_or_file, metavar="FILE")


def _add_groups_of_rows(command: Parser) -> None:
    text = "group of each row, such as its batch, with its own effect on each column; or a column of .obs, if COUNTS "
    text += "are .h5ad or .zarr"
    command.option("--groups", text, group="data beside the counts", metavar="FILE", dest="row_groups")


def _add_mask(command: Parser) -> None:
    text = "counts whose positive entries are those that were not observed, in any format, matched by names"
    command.option("--mask", text, group="data beside the counts", metavar="FILE")


def _add_beside_fit(command: Parser) -> None:
    """The data beside the counts of a fit, without fixed parts."""
    _add_row_exposure(command)
    _add_groups_of_rows(command)
    group = "data beside the counts"
    text = "prior of the effects of groups, which keeps them near 1 as so many counts would (default: 10)"
    command.option("--prior-groups", text, group=group, type=positive_number, metavar="X")
    text = "exposure of each column"
    command.option("--column-exposure", text, group=group, type=_number_or_file, metavar="FILE")
    text = "a number or file: the rate of each column without any component"
    command.option("--background", text, group=group, type=_number_or_file, metavar="FILE")
    text = "weight of each row in the likelihood"
    command.option("--sample-weight", text, group=group, metavar="FILE")
    _add_mask(command)


def _add_weights(command: Parser) -> None:
    text = "W of these rows as .npy, from fit or transform (default: computed from COUNTS)"
    command.option("--weights", text, group="data beside the counts", metavar="W.npy")


def _add_train(command: Parser, *, required: bool = False) -> None:
    group = "what to score"
    text = f"counts of the same rows that the model was fitted to{' (required)' if required else ''}"
    command.option("--train", text, group=group, required=required, metavar="COUNTS")
    text = (
        "ratio of the rates of COUNTS to those of TRAIN, such as 0.1 / 0.9 after thinning by 0.1 (default: ratio of "
        "their totals)"
    )
    command.option("--exposure", text, group=group, type=non_negative, metavar="R")


def _add_groupby(command: Parser, *, required: bool = False) -> None:
    text = "group of each row: a file with one a line, or row name and group separated by a tab or comma; or a column "
    text += f"of .obs, if COUNTS are .h5ad or .zarr{' (required)' if required else ''}"
    command.option("--groupby", text, group="what to draw", required=required, metavar="FILE")


def _add_groups(command: Parser) -> None:
    text = "groups to draw, in this order (default: all)"
    command.option("--groups", text, group="what to draw", nargs="+", metavar="GROUP")


def _add_top(command: Parser, text: str) -> None:
    command.option("-n --top", text, 10, group="what to list", type=positive, metavar="N")


def _add_order(command: Parser) -> None:
    group = "what to list"
    command.option("--by", "order of the features", "weight", group=group, choices=ORDERS)
    text = "leave out features with a smaller share of the component's counts, such as 0.001 with lift"
    command.option("--min-weight", text, 0.0, group=group, type=non_negative, metavar="P")


def _add_differential(command: Parser) -> None:
    group = "comparison"
    text = "others (the nearest other component), mean, or a component's number"
    command.option("--against", text, "others", group=group, type=_against, metavar="WHAT")
    text = "counts at the mean rate that are added to each component"
    command.option("--pseudocount", text, 1.0, group=group, type=non_negative, metavar="N")
    text = "from the variation of the counts, or valid only for Poisson counts"
    command.option("--standard-errors", text, "robust", group=group, choices=["robust", "model"])
    command.flag("--shrink", "adaptive shrinkage of the changes of each component", group=group)


def _add_table(command: Parser) -> None:
    text = "write the table as .csv or .tsv (default: print it)"
    command.option("-o --output", text, group="output", metavar="TABLE.csv")


def _add_help(command: Parser) -> None:
    command.option("-h --help", "show this help and exit", argparse.SUPPRESS, group="other options", action="help")


def _add_common(command: Parser, *, fits: bool = True, threads: bool = True, quiet: bool = True) -> None:
    """The options of all commands; those that do not fit have no threads and nothing to show while they run."""
    group = "other options"
    if fits and threads:
        text = "number of threads, which does not change the result (default: all that this process may use)"
        command.option("-j --threads", text, group=group, type=positive, metavar="N")
    if fits and quiet:
        command.flag("-q --quiet", "no progress and no message on compilation", group=group)
    command.flag("--json", "print the result as one JSON document", group=group)
    _add_help(command)
