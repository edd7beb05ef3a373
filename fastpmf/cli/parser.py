"""Commands, their options and their help, which shows examples."""

import argparse
from collections.abc import Callable
from typing import Any

from fastpmf import __version__
from fastpmf.analysis.features import ORDERS
from fastpmf.cli import commands
from fastpmf.counts import COUNT_DTYPES
from fastpmf.fitting.problem import SHAPES
from fastpmf.io import FORMATS
from fastpmf.io.tenx import FEATURE_NAMES
from fastpmf.model.init import INITS
from fastpmf.solvers import SOLVERS

_DTYPES = ["float32", "float64"]

_HELP = """\
Poisson matrix factorization (KL-NMF) of large sparse counts.

  fastpmf demo                                          topics of Python's standard library
  fastpmf info counts.npz                               describe a file
  fastpmf select counts.npz -k 5 10 20 40               compare numbers of components
  fastpmf fit counts.npz -k 20 -o model.npz             fit a model
  fastpmf topics model.npz                              list the first features of each component
  fastpmf recommend model.npz counts.npz -n 10          list new columns for each row
"""
_FIT = """\
Fit a Poisson factorization (KL-NMF) to a sparse matrix of counts. Rows are cells, documents or users,
columns genes, words or items. The model is written to a .npz file, for the other commands and for
PoissonNMF.load in Python. Ctrl-C stops the fit and writes the current model.

  fastpmf fit counts.npz -k 20 -o model.npz
  fastpmf fit filtered_feature_bc_matrix.h5 -k 50 --dtype float32 --weights W.npy -o model.npz
  fastpmf fit cells.h5ad --layer counts -k 30 --prior auto --factors factors.h5ad -o model.npz
  fastpmf fit ratings.csv --columns userId,movieId,rating -k 20 -o model.npz
  zcat counts.mtx.gz | fastpmf fit - --format mtx -k 20 -o model.npz
  fastpmf fit folder/ --stream -k 50 --dtype float32 --checkpoint saved/ -o model.npz
  fastpmf fit folder/ --stream -k 50 --dtype float32 --resume saved/ -o model.npz
"""
_TRANSFORM = """\
Compute the weights W of new rows under a fitted model, with H fixed. If both have column names, columns are
aligned by them: columns that were not fitted are left out, and fitted columns that the file lacks are treated
as not observed, or with --missing zero as counts of 0, as for a list of purchases.

  fastpmf transform model.npz new_counts.npz -o W.npy
  fastpmf transform model.npz new_counts.npz -o - | ssh elsewhere 'cat > W.npy'
"""
_SELECT = """\
Compare numbers of components: hold out a tenth of the counts by thinning, fit each number to the rest, and
print the log-likelihood of the held-out counts (nats per count), the standard error of its difference to the
best, and the similarity of the components of different splits. The smallest number within one standard error
of the best is recommended. Ctrl-C prints the table of the completed splits.

  fastpmf select counts.npz -k 5 10 20 40
  fastpmf select cells.h5ad --layer counts -k 10 20 30 --splits 5 --dtype float32 --plot k.png
"""
_TOPICS = """\
Print the first features of each component of a fitted model. Components count from 0, as in Python.
Features are ordered by weight (their share of the component's counts), or by lift or exclusivity, which
favour features that are typical of the component, among those with a share of at least --min-weight.

  fastpmf topics model.npz
  fastpmf topics model.npz -n 20 --by lift --min-weight 0.001 -o topics.csv
"""
_RECOMMEND = """\
Print the columns of highest rate for each row of a file of counts, without those whose count is positive.
The rows may be fitted or new ones; their weights are computed first, as by `fastpmf transform`; see its help
for columns that the file lacks. The table has the columns row, rank, item and rate.

  fastpmf recommend model.npz purchases.csv -n 10
  fastpmf recommend model.npz purchases.csv --rows ada bob --seen -o for_ada_and_bob.csv
"""
_INFO = """\
Describe a file of counts in any format, or a fitted model.

  fastpmf info cells.h5ad --layer counts
  fastpmf info model.npz --json
"""
_CONVERT = """\
Write counts of any format to a folder that is memory-mapped when it is read: canonical CSR as data.npy,
indices.npy and indptr.npy, and the names of rows and columns, if there are any. CSV, TSV, Parquet, HDF5 and
zarr are read a chunk at a time, so they may be larger than memory.

  fastpmf convert filtered_feature_bc_matrix.h5 -o cells
  fastpmf convert purchases.csv --columns customer,product,n -o purchases
  fastpmf fit purchases -k 20 -o model.npz
"""
_WARMUP = """\
Compile the kernels of fit, transform and score for these numbers of components, and cache them on disk, for
instance when an image is built, or before many processes start. The first number takes about four seconds
for each dtype of counts, further ones about one second: some kernels are compiled for each number of 64-byte
vectors in a row of a factor (of 8 components in float64, 16 in float32) from 1 to 16, and once for all wider
rows. Counts from files are mostly uint8; those of AnnData are float32.

  fastpmf warmup -k 20
  fastpmf warmup -k 10 20 50 --counts uint8 float32 --dtype float32
"""
_DEMO = """\
Fit 20 topics to the words of Python's standard library, as installed on this machine, and print them.
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose description keeps its line breaks, and whose help states the defaults."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def option(self, flags: str, text: str, default: Any = None, **options: Any) -> None:
        """Add an option with this help text, to which the default is appended if it is not None."""
        text = text if default is None else f"{text} (default: %(default)s)"
        self.add_argument(*flags.split(), default=default, help=text, **options)


def at_least(minimum: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """An argparse type: numbers >= minimum."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not value >= minimum:
            raise argparse.ArgumentTypeError(f"must be >= {minimum}, got {text}")
        return value

    parse.__name__ = kind.__name__  # in argparse's message for text that is not a number
    return parse


def _columns(text: str) -> list[str | int]:
    return [int(column) if column.isdecimal() else column for column in text.split(",")]


def _feature_types(text: str) -> str | list[str]:
    return text if text == "all" else text.split(",")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line; it sets the command's function as `run`."""
    parser = _Parser(prog="fastpmf", description=_HELP)
    parser.add_argument("--version", action="version", version=f"fastpmf {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    positive, seed, fraction = at_least(1), at_least(0), at_least(0, float)

    def command(run: Callable[[argparse.Namespace], None], summary: str, text: str) -> _Parser:
        new = subparsers.add_parser(run.__name__, help=summary, description=text)
        new.set_defaults(run=run)
        return new

    demo = command(commands.demo, "20 topics of Python's standard library", _DEMO)
    demo.option("-k --components", "number of topics", 20, type=positive, metavar="K")
    demo.option("--plot", "plot of the objective, if matplotlib is installed", "fastpmf-demo.png", metavar="PNG")

    fit = command(commands.fit, "fit a model to a file of counts", _FIT)
    _add_fit_options(fit)
    transform = command(commands.transform, "weights of new rows under a fitted model", _TRANSFORM)
    text = "output file of W, rows x components; - for standard output"
    transform.option("-o --output", text, required=True, metavar="W.npy")

    select = command(commands.select, "compare numbers of components by held-out counts", _SELECT)
    select.option("-k --components", "numbers of components", type=positive, nargs="+", required=True, metavar="K")
    select.option("--splits", "number of random splits", 3, type=positive, metavar="N")
    select.option("--seed", "seed of splits and starts", 0, type=seed)
    select.option("--prior", "as in `fastpmf fit`, whose default is none", "auto", choices=["none", *SHAPES])
    select.option("--dtype", "dtype of the factors (default: as in `fastpmf fit`)", choices=_DTYPES)
    select.option("--plot", "also plot the table; needs matplotlib", metavar="PNG")

    topics = command(commands.topics, "the first features of each component of a fitted model", _TOPICS)
    topics.option("-n --top", "number of features", 10, type=positive, metavar="N")
    topics.option("--by", "order of the features", "weight", choices=ORDERS)
    topics.option("--min-weight", "minimum share of the component's counts", 0.0, type=fraction, metavar="P")
    topics.option("-o --output", "output table of component, rank, feature and score", metavar="TOPICS.csv")

    recommend = command(commands.recommend, "columns of highest rate for each row", _RECOMMEND)
    recommend.option("-n --top", "number of columns", 10, type=positive, metavar="N")
    text = "only these rows, by name, or by number from 0 if rows have no names"
    recommend.option("--rows", text, nargs="+", metavar="ROW")
    recommend.add_argument("--seen", action="store_true", help="include columns whose count is positive")
    recommend.option("-o --output", "output table (default: standard output)", metavar="TABLE.csv")

    info = command(commands.info, "describe a file", _INFO)
    convert = command(commands.convert, "write counts of any format to a memory-mapped folder", _CONVERT)
    convert.option("-o --output", "output folder", required=True, metavar="FOLDER")

    warm = command(commands.warmup, "compile kernels ahead of time", _WARMUP)
    warm.option("-k --components", "numbers of components", type=positive, nargs="+", required=True, metavar="K")
    text = "dtypes of counts, of %(choices)s (default: uint8); `fastpmf info` prints the dtype of a file"
    warm.add_argument(
        "--counts", dest="counts_dtypes", nargs="+", choices=list(map(str, COUNT_DTYPES)), default=["uint8"],
        metavar="T", help=text,
    )  # fmt: skip
    warm.option("--dtype", "dtype of the factors (default: as in `fastpmf fit`)", choices=_DTYPES)
    versions = command(commands.versions, "versions for a bug report", "Print versions, CPU and threads.")

    for each in (transform, topics, recommend):
        each.add_argument("model", metavar="MODEL.npz", help="output of `fastpmf fit`")
    for each in (fit, transform, select, recommend, info, convert):
        _add_counts_options(each)
    for each in (transform, recommend):
        text = "treatment of fitted columns that the counts lack"
        each.option("--missing", text, "unobserved", choices=["unobserved", "zero"])
    for each in (demo, fit, transform, select, recommend, convert):
        each.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no message on compilation")
    for each in (demo, fit, transform, select, recommend):
        text = "number of threads, which does not change the result (default: all that this process may use)"
        each.option("-j --threads", text, type=positive, metavar="N")
    for each in (fit, transform, select, topics, recommend, info, convert, warm, versions):
        each.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _add_fit_options(fit: _Parser) -> None:
    positive, seconds = at_least(1), at_least(0, float)
    fit.option("-k --components", "number of components", type=positive, required=True, metavar="K")
    fit.option("-o --output", "output file of the model", required=True, metavar="MODEL.npz")
    fit.option("--weights", "also write W, rows x components", metavar="W.npy")
    text = "also write W, H and all names for other programs: .npz for NumPy or .h5ad for AnnData"
    fit.option("--factors", text, metavar="FILE")
    text = "cd, used by auto: extrapolated coordinate descent; em: lowest memory; mu: multiplicative updates"
    fit.option("--solver", text, "auto", choices=["auto", *SOLVERS])
    text = (
        "none: maximum likelihood; auto: posterior mode under weak Gamma priors, which predicts better; sparse: L1 "
        "penalties, for many components and few counts"
    )
    fit.option("--prior", text, "none", choices=["none", *SHAPES])
    choices = [init for init in INITS if init != "custom"]
    fit.option("--init", "initialization; auto is random", "auto", choices=choices)
    fit.option("--n-init", "number of random starts, most of which are stopped early", 1, type=positive, metavar="N")
    fit.option("--max-iter", "maximum number of iterations", 500, type=positive, metavar="N")
    text = "stop when neither another W nor another H can improve the objective by more than T nats per count"
    fit.option("--tol", text, 1e-4, type=seconds, metavar="T")
    text = "stop after S seconds, with exit code 0, as after --max-iter (default: no limit)"
    fit.option("--max-time", text, type=seconds, metavar="S")
    text = "read the counts from their file in each iteration, with two blocks in memory: npy, h5ad, zarr, 10x-h5"
    fit.add_argument("--stream", action="store_true", help=text)
    fit.option("--checkpoint", "save checkpoints of the fit in this folder", metavar="FOLDER")
    text = "minutes between checkpoints; Ctrl-C writes the model, but no checkpoint"
    fit.option("--checkpoint-minutes", text, 10.0, type=seconds, metavar="M")
    text = "continue from the last checkpoint in this folder, with bitwise the same result, and save checkpoints there"
    fit.option("--resume", text, metavar="FOLDER")
    fit.option("--seed", "seed of the random start", 0, type=at_least(0))
    fit.option("--dtype", "dtype of the factors (default: float32 for float32 counts, else float64)", choices=_DTYPES)


def _add_counts_options(command: _Parser) -> None:
    text = f"file, folder or pipe: {', '.join(FORMATS)}; - for standard input"
    command.add_argument("counts", metavar="COUNTS", help=text)
    text = "format of COUNTS, one of the above (default: according to the name)"
    command.option("--format", text, choices=FORMATS, metavar="F")
    text = "for 10x Genomics: feature types to read, such as 'Antibody Capture', or all (default: Gene Expression)"
    command.option("--feature-types", text, type=_feature_types, metavar="TYPE[,TYPE]")
    text = "for 10x Genomics: name features by names, which may not be unique, or by ids (default: name)"
    command.option("--feature-names", text, choices=FEATURE_NAMES)
    command.option("--layer", "layer of .h5ad or .zarr, or raw; genome of 10x version 2", metavar="NAME")
    text = "for csv, tsv and parquet: names, or numbers from 0; needed if there are more than three columns"
    command.option("--columns", text, type=_columns, metavar="ROW,COLUMN[,COUNT]")
    text = "for csv and tsv: whether the first line is a header (default: if --columns has names or its count is text)"
    command.option("--header", text, action=argparse.BooleanOptionalAction)
    text = "swap rows and columns; without it, genes of 10x Genomics' files are columns"
    command.add_argument("--transpose", action="store_true", help=text)
