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
print the log likelihood of the held-out counts (nats per count), its standard error against the best, and
the similarity of the components of different splits. The smallest number that is not clearly worse than the
best is recommended. Ctrl-C prints the table of the completed splits.

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
The rows may be fitted or new ones; their weights are computed first, as by `fastpmf transform`, which also
explains the treatment of fitted columns that the file lacks. The table has row, rank, item and rate.

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
Compile the kernels of fit, transform and score for these numbers of components and keep them on disk, for
instance when an image is built, or before many processes start. The first number takes some four seconds
for each dtype of counts, a further one about a second: some kernels are compiled for the number of 64-byte
vectors in a row of a factor (8 components each in float64, 16 in float32), 1 to 16, and once for all wider
rows. Counts from files are mostly uint8; those of AnnData are float32.

  fastpmf warmup -k 20
  fastpmf warmup -k 10 20 50 --counts uint8 float32 --dtype float32
"""
_DEMO = """\
Fit 20 topics to the words of Python's standard library, as installed on this machine, and print them.
"""


def at_least(minimum: float, kind: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """An argparse type: numbers >= minimum."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not value >= minimum:
            raise argparse.ArgumentTypeError(f"must be >= {minimum}, got {text}")
        return value

    parse.__name__ = kind.__name__  # for messages on text that is no number
    return parse


def _columns(text: str) -> list[str | int]:
    return [int(column) if column.isdecimal() else column for column in text.split(",")]


def _feature_types(text: str) -> str | list[str]:
    return text if text == "all" else text.split(",")


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line; it sets the command's function as `run`."""
    parser = argparse.ArgumentParser(
        prog="fastpmf", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"fastpmf {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], None], summary: str, text: str) -> argparse.ArgumentParser:
        new = subparsers.add_parser(
            run.__name__, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        new.set_defaults(run=run)
        return new

    demo = command(commands.demo, "20 topics of Python's standard library", _DEMO)
    demo.add_argument("-k", "--components", type=at_least(1), default=20, metavar="K", help="number of topics "
                      "(default: %(default)s)")  # fmt: skip
    demo.add_argument("--plot", default="fastpmf-demo.png", metavar="PNG", help="plot of the objective, if matplotlib "
                      "is installed (default: %(default)s)")  # fmt: skip

    fit = command(commands.fit, "fit a model to a file of counts", _FIT)
    _add_fit_options(fit)
    transform = command(commands.transform, "weights of new rows under a fitted model", _TRANSFORM)
    transform.add_argument("-o", "--output", required=True, metavar="W.npy", help="output file of W, rows x "
                           "components; - for standard output")  # fmt: skip

    select = command(commands.select, "compare numbers of components by held-out counts", _SELECT)
    select.add_argument("-k", "--components", type=at_least(1), nargs="+", required=True, metavar="K", help="numbers "
                        "of components")  # fmt: skip
    select.add_argument("--splits", type=at_least(1), default=3, metavar="N", help="random splits (default: "
                        "%(default)s)")  # fmt: skip
    select.add_argument("--seed", type=at_least(0), default=0, help="seed of splits and starts (default: %(default)s)")
    select.add_argument("--prior", choices=["none", *SHAPES], default="auto", help="as in fastpmf fit (default: "
                        "%(default)s; the default of fastpmf fit is none)")  # fmt: skip
    select.add_argument("--dtype", choices=_DTYPES, help="dtype of the factors")
    select.add_argument("--plot", metavar="PNG", help="also plot the table; needs matplotlib")

    topics = command(commands.topics, "the first features of each component of a fitted model", _TOPICS)
    topics.add_argument("-n", "--top", type=at_least(1), default=10, metavar="N", help="number of features (default: "
                        "%(default)s)")  # fmt: skip
    topics.add_argument("--by", choices=ORDERS, default="weight", help="order (default: weight)")
    topics.add_argument("--min-weight", type=at_least(0, float), default=0.0, metavar="P", help="minimum share of the "
                        "component (default: %(default)s)")  # fmt: skip
    topics.add_argument("-o", "--output", metavar="TOPICS.csv", help="output table of component, rank, feature and "
                        "score")  # fmt: skip

    recommend = command(commands.recommend, "columns of highest rate for each row", _RECOMMEND)
    recommend.add_argument("-n", "--top", type=at_least(1), default=10, metavar="N", help="number of columns (default: "
                           "%(default)s)")  # fmt: skip
    recommend.add_argument("--rows", nargs="+", metavar="ROW", help="only these rows, by name, or by number from 0 if "
                           "there are no names")  # fmt: skip
    recommend.add_argument("--seen", action="store_true", help="include columns whose count is positive")
    recommend.add_argument("-o", "--output", metavar="TABLE.csv", help="output table (default: standard output)")

    info = command(commands.info, "describe a file", _INFO)
    convert = command(commands.convert, "write counts of any format to a memory-mapped folder", _CONVERT)
    convert.add_argument("-o", "--output", required=True, metavar="FOLDER", help="output folder")

    warm = command(commands.warmup, "compile kernels ahead of time", _WARMUP)
    warm.add_argument("-k", "--components", type=at_least(1), nargs="+", required=True, metavar="K", help="numbers of "
                      "components")  # fmt: skip
    warm.add_argument("--counts", dest="counts_dtypes", nargs="+", choices=list(map(str, COUNT_DTYPES)),
                      default=["uint8"], metavar="T", help="dtypes of counts, of %(choices)s (default: uint8); "
                      "`fastpmf info` prints the dtype of a file")  # fmt: skip
    warm.add_argument("--dtype", choices=_DTYPES, help="dtype of the factors (default: as in a fit)")
    versions = command(commands.versions, "versions for a bug report", "Print versions, CPU and threads.")

    for each in (transform, topics, recommend):
        each.add_argument("model", metavar="MODEL.npz", help="output of `fastpmf fit`")
    for each in (fit, transform, select, recommend, info, convert):
        _add_counts_options(each)
    for each in (transform, recommend):
        each.add_argument("--missing", choices=["unobserved", "zero"], default="unobserved", help="how to treat "
                          "fitted columns that the counts lack (default: %(default)s)")  # fmt: skip
    for each in (demo, fit, transform, select, recommend, convert):
        each.add_argument("-q", "--quiet", action="store_true", help="no progress bar, no message on compilation")
    for each in (demo, fit, transform, select, recommend):
        each.add_argument("-j", "--threads", type=at_least(1), metavar="N", help="number of threads (default: all that "
                          "this process may use); it does not change the result")  # fmt: skip
    for each in (fit, transform, select, topics, recommend, info, convert, warm, versions):
        each.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _add_fit_options(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("-k", "--components", type=at_least(1), required=True, metavar="K", help="number of components")
    fit.add_argument("-o", "--output", required=True, metavar="MODEL.npz", help="output file of the model")
    fit.add_argument("--weights", metavar="W.npy", help="also write W, rows x components")
    fit.add_argument("--factors", metavar="FILE", help="also write W, H and all names for other programs: .npz for "
                     "NumPy or .h5ad for AnnData")  # fmt: skip
    fit.add_argument("--solver", choices=["auto", *SOLVERS], default="auto", help="cd: extrapolated coordinate "
                     "descent, used by auto; em: least memory; mu: multiplicative updates, for reference")  # fmt: skip
    fit.add_argument("--prior", choices=["none", *SHAPES], default="none", help="auto: posterior mode under weak Gamma "
                     "priors, which predicts better; sparse: L1 penalties, for many components and few counts "
                     "(default: %(default)s: maximum likelihood)")  # fmt: skip
    fit.add_argument("--init", choices=[i for i in INITS if i != "custom"], default="auto", help="initialization "
                     "(default: %(default)s, which is random)")  # fmt: skip
    fit.add_argument("--n-init", type=at_least(1), default=1, metavar="N", help="number of random starts, most of "
                     "which are stopped early (default: %(default)s)")  # fmt: skip
    fit.add_argument("--max-iter", type=at_least(1), default=500, metavar="N", help="maximum number of iterations "
                     "(default: %(default)s)")  # fmt: skip
    fit.add_argument("--tol", type=at_least(0, float), default=1e-4, metavar="T", help="stop when no other W, and no "
                     "other H, is better by more than T nats per count (default: %(default)s)")  # fmt: skip
    fit.add_argument("--max-time", type=at_least(0, float), metavar="S", help="stop after S seconds (default: no "
                     "limit); the exit code is 0, as after --max-iter, and the output states how far the fit is from "
                     "converging")  # fmt: skip
    fit.add_argument("--stream", action="store_true", help="read the counts from their file in each iteration, with "
                     "two blocks in memory: npy, h5ad, zarr, 10x-h5")  # fmt: skip
    fit.add_argument("--checkpoint", metavar="FOLDER", help="save the fit there from time to time")
    fit.add_argument("--checkpoint-minutes", type=at_least(0, float), default=10.0, metavar="M", help="minutes between "
                     "checkpoints (default: %(default)s); Ctrl-C writes the model, but no checkpoint")  # fmt: skip
    fit.add_argument("--resume", metavar="FOLDER", help="continue from the last checkpoint there, with bitwise the "
                     "same result, and save there")  # fmt: skip
    fit.add_argument("--seed", type=at_least(0), default=0, help="seed of the random start (default: %(default)s)")
    fit.add_argument("--dtype", choices=_DTYPES, help="dtype of the factors (default: float32 for float32 counts, else "
                     "float64)")  # fmt: skip


def _add_counts_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("counts", metavar="COUNTS", help=f"file, folder or pipe: {', '.join(FORMATS)}; - for "
                         "standard input")  # fmt: skip
    command.add_argument("--format", choices=FORMATS, metavar="F", help="one of these (default: according to the name)")
    command.add_argument("--feature-types", type=_feature_types, metavar="TYPE[,TYPE]", help="for 10x Genomics' files: "
                         "types of features to read, such as 'Antibody Capture', or all (default: Gene "
                         "Expression)")  # fmt: skip
    command.add_argument("--feature-names", choices=FEATURE_NAMES, help="for 10x Genomics' files: name features by "
                         "names, which may not be unique, or ids (default: name)")  # fmt: skip
    command.add_argument("--layer", metavar="NAME", help="layer of .h5ad or .zarr, or raw; genome of 10x version 2")
    command.add_argument("--columns", type=_columns, metavar="ROW,COLUMN[,COUNT]", help="for csv, tsv and parquet: "
                         "names in the header, or numbers from 0; needed if there are more than three "
                         "columns")  # fmt: skip
    command.add_argument("--header", action=argparse.BooleanOptionalAction, help="for csv and tsv: whether the first "
                         "line is a header (default: if --columns has names, or its count is text)")  # fmt: skip
    command.add_argument("--transpose", action="store_true", help="swap rows and columns; genes of 10x Genomics' files "
                         "are columns before")  # fmt: skip
