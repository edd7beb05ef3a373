"""Commands, their options and the help that teaches them by example."""

import argparse
from collections.abc import Callable

from fastpmf import __version__
from fastpmf.analysis.features import ORDERS
from fastpmf.cli import commands
from fastpmf.cli.demo import demo as run_demo
from fastpmf.counts.dtypes import COUNT_DTYPES
from fastpmf.fitting.problem import SHAPES
from fastpmf.io import FORMATS
from fastpmf.io.tenx import FEATURE_NAMES
from fastpmf.model.init import INITS
from fastpmf.solvers import SOLVERS

_DTYPES = ["float32", "float64"]

_HELP = """\
Poisson matrix factorization (KL-NMF) of large sparse counts.

  fastpmf demo                                          topics of a text that every machine has
  fastpmf info counts.npz                               what a file holds
  fastpmf select counts.npz -k 5 10 20 40               how many components
  fastpmf fit counts.npz -k 20 -o model.npz             fit them
  fastpmf topics model.npz                              what they are
  fastpmf recommend model.npz counts.npz -n 10          what each row has yet to see
"""
_FIT = """\
Fit a Poisson factorization (KL-NMF) to a sparse matrix of counts: rows are cells, documents or
users, columns genes, words or items. The model goes to one .npz file, for the other commands and
for PoissonNMF.load in Python. Ctrl-C stops the fit and writes what there is.

  fastpmf fit counts.npz -k 20 -o model.npz
  fastpmf fit filtered_feature_bc_matrix.h5 -k 50 --dtype float32 --weights W.npy -o model.npz
  fastpmf fit cells.h5ad --layer counts -k 30 --prior auto --factors factors.h5ad -o model.npz
  fastpmf fit ratings.csv --columns userId,movieId,rating -k 20 -o model.npz
  zcat counts.mtx.gz | fastpmf fit - --format mtx -k 20 -o model.npz
  fastpmf fit folder/ --stream -k 50 --dtype float32 --checkpoint saved/ -o model.npz
  fastpmf fit folder/ --stream -k 50 --dtype float32 --resume saved/ -o model.npz
"""
_TRANSFORM = """\
Explain new rows by a fitted model: the weights W of each row, H staying as it is. Columns are known by
their names where both have names: others are left out, and fitted ones that the file lacks are taken as
not observed, or with --missing zero as counts of 0, as for a list of purchases, which lacks items that
nobody bought.

  fastpmf transform model.npz new_counts.npz -o W.npy
  fastpmf transform model.npz new_counts.npz -o - | ssh elsewhere 'cat > W.npy'
"""
_SELECT = """\
How many components: hold out a tenth of the counts by thinning, fit each number to the rest, and print
a table of what it predicts, per held-out count in nats, with its standard error against the best, and
how alike the components are that different splits find. Recommended is the smallest that is not clearly
worse than the best. Ctrl-C prints the table of the splits that are done.

  fastpmf select counts.npz -k 5 10 20 40
  fastpmf select cells.h5ad --layer counts -k 10 20 30 --splits 5 --dtype float32 --plot k.png
"""
_TOPICS = """\
Print the first features of each component of a fitted model; components count from 0, as in Python. By
weight, those that its counts are; by lift or exclusivity, those that are typical of it, among those that
carry at least --least of it.

  fastpmf topics model.npz
  fastpmf topics model.npz -n 20 --by lift --least 0.001 -o topics.csv
"""
_RECOMMEND = """\
The columns of highest rate for each row of a file of counts, users that were fitted or new ones: their
weights are found first, as `fastpmf transform` does. A table of row, rank, item and rate, best first, of
what a row does not hold yet. For fitted columns that the file lacks, see `fastpmf transform`.

  fastpmf recommend model.npz purchases.csv -n 10
  fastpmf recommend model.npz purchases.csv --rows ada bob --seen -o for_ada_and_bob.csv
"""
_INFO = """\
Say what a file holds, of counts in any format or of a fitted model.

  fastpmf info cells.h5ad --layer counts
  fastpmf info model.npz --json
"""
_CONVERT = """\
Read counts of any format into a folder that later reads map from the disk in no time: canonical CSR as
data.npy, indices.npy and indptr.npy, with the names of rows and columns beside them, where the file has
any. All formats are read a chunk at a time, so that memory is needed for little more than that; only .npz
is read whole.

  fastpmf convert filtered_feature_bc_matrix.h5 -o cells
  fastpmf convert purchases.csv --columns customer,product,n -o purchases
  fastpmf fit purchases -k 20 -o model.npz
"""
_WARMUP = """\
Compile the kernels that fits, transform and score need for these numbers of components, and keep them on
disk: when an image is built, or once before many processes start. The first number takes some four seconds
for each dtype of counts, a further one about a second: some kernels are compiled for the number of 64-byte
vectors in a row of a factor (8 components each in float64, 16 in float32), 1 to 16, and once for all wider
rows. Counts in files are mostly uint8; AnnData's are float32.

  fastpmf warmup -k 20
  fastpmf warmup -k 10 20 50 --counts uint8 float32 --dtype float32
"""
_DEMO = """\
Fit 20 topics to the words of Python's own standard library, as it lies on this machine, and print
them: the main job on real input, with nothing to download.
"""


def parser_of_commands() -> argparse.ArgumentParser:
    """The parser; what it parses has the command's function as `run`."""
    parser = argparse.ArgumentParser(
        prog="fastpmf", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"fastpmf {__version__}")
    made = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], None], summary: str, text: str
    ) -> argparse.ArgumentParser:
        new = made.add_parser(
            name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        new.set_defaults(run=run)
        return new

    demo = command("demo", run_demo, "20 topics of Python's standard library", _DEMO)
    demo.add_argument("-k", "--components", type=int, default=20, metavar="K", help="topics (default: %(default)s)")
    demo.add_argument("--plot", default="fastpmf-demo.png", metavar="PNG", help="picture of the objective, where "
                      "matplotlib is installed (default: %(default)s)")  # fmt: skip

    fit = command("fit", commands.fit, "fit a model to a file of counts", _FIT)
    _fit_options(fit)
    transform = command("transform", commands.transform, "weights of new rows under a fitted model", _TRANSFORM)
    transform.add_argument("-o", "--output", required=True, metavar="W.npy", help="where W goes, rows x components; - "
                           "for standard output")  # fmt: skip

    select = command("select", commands.select, "how many components, from held-out counts", _SELECT)
    select.add_argument("-k", "--components", type=int, nargs="+", required=True, metavar="K", help="numbers to try")
    select.add_argument("--splits", type=int, default=3, metavar="N", help="random splits (default: %(default)s)")
    select.add_argument("--seed", type=int, default=0, help="seed of splits and starts (default: %(default)s)")
    select.add_argument("--prior", choices=["none", *SHAPES], default="auto", help="of the model to fit, as in "
                        "fastpmf fit (default: %(default)s; that of fastpmf fit is none)")  # fmt: skip
    select.add_argument("--dtype", choices=_DTYPES, help="floats to work in")
    select.add_argument("--plot", metavar="PNG", help="also draw the table, which needs matplotlib")

    topics = command("topics", commands.topics, "the first features of each component of a fitted model", _TOPICS)
    topics.add_argument("-n", "--top", type=int, default=10, metavar="N", help="features (default: %(default)s)")
    topics.add_argument("--by", choices=ORDERS, default="weight", help="what they are ordered by (default: weight)")
    topics.add_argument("--least", type=float, default=0.0, metavar="P", help="share of a component that a feature "
                        "must carry (default: %(default)s)")  # fmt: skip
    topics.add_argument("-o", "--output", metavar="TOPICS.csv", help="component, rank, feature and score, as a table")

    recommend = command("recommend", commands.recommend, "what each row has yet to see", _RECOMMEND)
    recommend.add_argument("-n", "--top", type=int, default=10, metavar="N", help="columns (default: %(default)s)")
    recommend.add_argument("--rows", nargs="+", metavar="ROW", help="of these rows, by name, or by number from 0 where "
                           "they have no names (default: of all)")  # fmt: skip
    recommend.add_argument("--seen", action="store_true", help="recommend what a row holds too")
    recommend.add_argument("-o", "--output", metavar="TABLE.csv", help="where the table goes (default: standard "
                           "output)")  # fmt: skip

    info = command("info", commands.info, "what a file holds", _INFO)
    convert = command("convert", commands.convert, "counts of any format into a folder that is mapped", _CONVERT)
    convert.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the counts go")

    warm = command("warmup", commands.warmup, "compile ahead what fits will need", _WARMUP)
    warm.add_argument(
        "-k", "--components", type=int, nargs="+", required=True, metavar="K", help="numbers of components"
    )
    warm.add_argument("--counts", dest="counts_dtypes", nargs="+", choices=list(map(str, COUNT_DTYPES)),
                      default=["uint8"], metavar="T", help="what counts are kept as: %(choices)s (default: uint8); "
                      "`fastpmf info` says it of a file")  # fmt: skip
    warm.add_argument("--dtype", choices=_DTYPES, help="floats to work in (default: as a fit would choose)")
    versions = command(
        "versions", commands.versions, "what a bug report should say", "Print versions, CPU and threads."
    )

    for each in (transform, topics, recommend):
        each.add_argument("model", metavar="MODEL.npz", help="as `fastpmf fit` wrote it")
    for each in (fit, transform, select, recommend, info, convert):
        _counts_options(each)
    for each in (transform, recommend):
        each.add_argument("--missing", choices=["unobserved", "zero"], default="unobserved", help="how to take "
                          "fitted features that the counts lack (default: %(default)s)")  # fmt: skip
    for each in (demo, fit, transform, select, recommend, convert):
        each.add_argument("-q", "--quiet", action="store_true", help="no progress bar, and no line on compilation")
    for each in (demo, fit, transform, select, recommend):
        each.add_argument("-j", "--threads", type=int, metavar="N", help="threads (default: all this process may "
                          "use); the result does not depend on it")  # fmt: skip
    for each in (fit, transform, select, topics, recommend, info, convert, warm, versions):
        each.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _fit_options(fit: argparse.ArgumentParser) -> None:
    fit.add_argument("-k", "--components", type=int, required=True, metavar="K", help="number of components")
    fit.add_argument("-o", "--output", required=True, metavar="MODEL.npz", help="where the model goes")
    fit.add_argument("--weights", metavar="W.npy", help="also write W, rows x components")
    fit.add_argument("--factors", metavar="FILE", help="also write W, H and all names for other programs, as .npz for "
                     "NumPy or .h5ad for AnnData")  # fmt: skip
    fit.add_argument("--solver", choices=["auto", *SOLVERS], default="auto", help="cd: coordinate descent, "
                     "extrapolated, which is what auto chooses; em: least memory; mu: the reference")  # fmt: skip
    fit.add_argument("--prior", choices=["none", *SHAPES], default="none", help="auto: the posterior mode under weak "
                     "Gamma priors, which predicts better; sparse: L1 penalties, where components are many and counts "
                     "are few (default: %(default)s: maximum likelihood)")  # fmt: skip
    fit.add_argument("--init", choices=[i for i in INITS if i != "custom"], default="auto", help="start (default: "
                     "%(default)s, which is random)")  # fmt: skip
    fit.add_argument("--n-init", type=int, default=1, metavar="N", help="random starts, most of them dropped early "
                     "(default: %(default)s)")  # fmt: skip
    fit.add_argument("--max-iter", type=int, default=500, metavar="N", help="most iterations (default: %(default)s)")
    fit.add_argument("--tol", type=float, default=1e-4, metavar="T", help="converged when no other W, nor any other "
                     "H, is better by more than T nats per count (default: %(default)s)")  # fmt: skip
    fit.add_argument("--max-time", type=float, metavar="S", help="stop after S seconds (default: no limit); the "
                     "exit code is 0, as after --max-iter, and the output says how far the fit got")  # fmt: skip
    fit.add_argument("--stream", action="store_true", help="read the counts from their file in each iteration, and "
                     "hold two blocks of them: npy, h5ad, zarr, 10x-h5")  # fmt: skip
    fit.add_argument("--checkpoint", metavar="FOLDER", help="save the fit there now and then")
    fit.add_argument("--checkpoint-minutes", type=float, default=10.0, metavar="M", help="how often (default: "
                     "%(default)s); Ctrl-C writes the model, and no checkpoint")  # fmt: skip
    fit.add_argument("--resume", metavar="FOLDER", help="go on from the last checkpoint there, to the same bits; and "
                     "save there")  # fmt: skip
    fit.add_argument("--seed", type=int, default=0, help="seed of the random start (default: %(default)s)")
    fit.add_argument("--dtype", choices=_DTYPES, help="floats to work in (default: float32 for float32 counts, else "
                     "float64)")  # fmt: skip


def _counts_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("counts", metavar="COUNTS", help=f"file, folder or pipe: {', '.join(FORMATS)}; - for "
                         "standard input")  # fmt: skip
    command.add_argument("--format", choices=FORMATS, metavar="F", help="one of these (default: by the name)")
    command.add_argument("--feature-types", metavar="TYPE[,TYPE]", help="of 10x Genomics' files: types of features to "
                         "read, such as 'Antibody Capture', or all (default: Gene Expression)")  # fmt: skip
    command.add_argument("--feature-names", choices=FEATURE_NAMES, help="of 10x Genomics' files: call "
                         "features by names, which may occur twice, or by ids (default: %(default)s)")  # fmt: skip
    command.add_argument("--layer", metavar="NAME", help="layer of .h5ad or .zarr, or raw; genome of 10x version 2")
    command.add_argument("--columns", metavar="ROW,COLUMN[,COUNT]", help="of csv, tsv and parquet, by the names of "
                         "a header, or by number from 0; needed where there are more than three")  # fmt: skip
    command.add_argument("--header", action=argparse.BooleanOptionalAction, help="of csv and tsv: whether the first "
                         "line is a header (default: where --columns has names, or a count is text)")  # fmt: skip
    command.add_argument("--transpose", action="store_true", help="swap rows and columns; 10x Genomics' genes are "
                         "columns before")  # fmt: skip
