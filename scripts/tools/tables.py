"""Make Markdown tables for the documentation from the CSV files that the studies write."""

import argparse
import importlib
import math
import re
import shlex
import sys
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "benchmarks" / "results"
DESCRIPTION = """\
Write the tables of the documentation from CSV files of the studies: solvers.py, versus_sklearn.py, packages.py,
scaling.py, roofline.py, models.py, known_truth.py, formats.py and examples/cnmf_pipeline.py.

Without arguments, all tables in README.md and docs/benchmarks/*.md are written from docs/benchmarks/results/*.csv. A
table is between two lines of a document, and files of one study are combined:

    <!-- fit: begin -->
    <!-- fit: end -->

With CSV files as arguments, their tables are printed.
"""
MARKED = re.compile(r"<!-- ([\w-]+): begin -->\n.*?<!-- \1: end -->", re.DOTALL)
FACTS = ("command", "machine", "versions")
SPEED = [("fit", "sc_pbmc_facs"), ("fit", "text_20newsgroups"), ("fit", "rec_online_retail_baskets"),
         ("first", "sc_10x_v3_tiny")]  # fmt: skip  # rows of the README's table: part and counts
SOURCES = "Commands, load and versions: [scikit-learn](docs/benchmarks/sklearn.md)."
LEVEL = 1e-2  # relative gap that solvers are timed to; local optima differ by less than this
NEAR = {"divergence": 0.0, "held-out": 0.01}  # scores that count as equal
Row = dict[str, str]
Lines = list[list[str]]


class Kind(NamedTuple):
    """A table: which rows of a study, a caption, and a function that makes lines of cells, the head first."""

    name: str
    study: str
    part: str
    caption: str
    make: Callable[[list[Row]], Lines]


def number(x: float | str, digits: int = 2, unit: str = "") -> str:
    """At least `digits` significant digits, without unnecessary decimals; a dash for a missing or infinite value."""
    x = float(x or "nan")
    return f"{x:,.{max(0, digits - 1 - math.floor(math.log10(x)))}f}{unit}" if 0 < x < math.inf else "-"


def memory(cell: str) -> str:
    """Bytes in MiB or GiB."""
    mib = float(cell or "nan") / 2**20
    return number(mib / 2**10, unit=" GiB") if mib >= 2**10 else number(mib, unit=" MiB")


def middle(rows: list[Row], column: str) -> float:
    """Median over the rows."""
    return median(float(row[column]) for row in rows)


def reach(rows: list[Row], column: str, value: float) -> float:
    """Seconds of the first point with at most this value."""
    return min((float(row["seconds"]) for row in rows if row[column] and float(row[column]) <= value), default=math.inf)


def flat(**columns: str | Callable[[Row], str]) -> Callable[[list[Row]], Lines]:
    """A line for each row; columns are those of the study, or computed. In heads "__" becomes "-", and "_" a space."""
    getters = [column if callable(column) else itemgetter(column) for column in columns.values()]

    def make(rows: list[Row]) -> Lines:
        return [
            [name.replace("__", "-").replace("_", " ") for name in columns],
            *([get(row) for get in getters] for row in rows),
        ]

    return make


def pivot(index: str, column: str, cell: Callable[[list[Row]], str]) -> Callable[[list[Row]], Lines]:
    """A line for each value of the columns `index`, a column for each value of `column`, and a cell from their rows."""

    def make(rows: list[Row]) -> Lines:
        names = list(dict.fromkeys(row[column] for row in rows))
        lines = [[*(name.replace("_", " ") for name in index.split()), *names]]
        for key, own in common.group(rows, *index.split()).items():
            found = common.group(own, column)
            lines.append([*key, *(cell(found[name,]) if (name,) in found else "-" for name in names)])
        return lines

    return make


def mean(rows: list[Row], column: str) -> float:
    """Mean over the rows that have a value."""
    values = [float(row[column]) for row in rows if row[column]]
    return sum(values) / len(values) if values else math.nan


def objectives(row: Row) -> str:
    """Objectives of fastpmf and scikit-learn, or one if they look the same."""
    both = [float(row[column]) for column in ("objective", "sklearn_objective")]
    return " / ".join(dict.fromkeys(f"{x:,.{0 if x > 1e5 else 1}f}" for x in both))


def speed(rows: list[Row]) -> Lines:
    lines = [["counts", "k", "objective, nats", "scikit-learn", "fastpmf", "ratio"]]
    for part, name in SPEED:
        for row in rows:
            if row["part"] == part and row["counts"].split(",")[0] == name:
                what = row["counts"] + (" (first fit on a machine, with compilation)" if part == "first" else "")
                objective = f"{float(row['sklearn_objective']):,.0f}"
                seconds = [number(row[column], unit=" s") for column in ("sklearn_seconds", "seconds")]
                lines.append([what, row["k"], objective, *seconds, number(row["ratio"])])
    return lines


def sklearn_fits(rows: list[Row]) -> Lines:
    lines = [["counts", "k", "iterations", "fastpmf", "scikit-learn", "ratio", "objective"]]
    for (counts, k), own in common.group(rows, "counts", "k").items():
        seconds = [number(middle(own, c), unit=" s") for c in ("seconds", "sklearn_seconds")]
        row = own[len(own) // 2]
        lines.append([counts, k, f"{middle(own, 'iterations'):.0f}", *seconds, number(middle(own, "ratio")),
                      f"{float(row['sklearn_objective']):,.0f}"])  # fmt: skip
    return lines


def solver_times(rows: list[Row]) -> Lines:
    single = [row for row in rows if row["n_init"] == "1"]
    for fits in common.group(single, "counts", "k", "init", "seed").values():
        target = (1 + LEVEL) * min(float(row["objective"]) for row in fits)
        for fit in common.group(fits, "solver").values():
            for row in fit:
                row["reached"] = str(reach(fit, "objective", target))

    def cell(own: list[Row]) -> str:
        return number(median(float(fit[0]["reached"]) for fit in common.group(own, "seed").values()), unit=" s")

    return pivot("counts k init", "solver", cell)(single)


def solver_ends(rows: list[Row]) -> Lines:
    fits = [points[-1] for points in common.group(rows, "counts", "k", "init", "solver", "n_init", "seed").values()]
    single = {
        (*(fit[c] for c in ("counts", "k", "init", "solver", "seed")),): fit for fit in fits if fit["n_init"] == "1"
    }
    for fit in fits:
        one = single[(*(fit[c] for c in ("counts", "k", "init", "solver", "seed")),)]
        fit["ratio"] = str(float(fit["seconds"]) / float(one["seconds"]))
        fit["name"] = fit["solver"] if fit is one else f"{fit['solver']}, n_init={fit['n_init']}"

    def cell(own: list[Row]) -> str:
        end = f"{middle(own, 'objective'):,.0f} ({middle(own, 'iteration'):.0f})"
        return end if own[0]["n_init"] == "1" else f"{end}, {number(middle(own, 'ratio'))} fits"

    return pivot("counts k init", "name", cell)(fits)


def packages(rows: list[Row]) -> Lines:
    lines = [["counts", "package", "lowest score", "after", "fastpmf after", "ratio", "problem"]]
    for (counts, k), own in common.group(rows, "counts", "k").items():
        ours = [row for row in own if row["package"] == own[0]["package"]]
        for (name, version), fit in common.group(own, "package", "version").items():
            points = [row for row in fit if row["value"]]
            line = [f"{counts}, k = {k}", f"{name} ({version})"]
            if points:
                best = min(float(row["value"]) for row in points)
                star = "*" if any(float(row["weight"]) for row in points) else ""
                theirs, mine = (reach(p, "value", best + NEAR[fit[0]["score"]]) for p in (points, ours))
                line += [f"{best:,.0f}{star}" if best > 100 else f"{best:.4f}{star}", number(theirs, unit=" s")]
                line += [number(mine, unit=" s"), number(theirs / mine)]
            else:
                line += [f"failed: {fit[-1]['error']}", *["-"] * 3]
            lines.append([*line, fit[0]["problem"]])
    return lines


def scaling(rows: list[Row]) -> Lines:
    varies = {"weak": "threads", "streamed": "nnz", "workers": "threads"}
    for row in rows:
        column, nnz = varies.get(row["study"], row["study"]), common.format_size(int(row["nnz"]))
        row["value"] = nnz if column == "nnz" else f"{float(row[column]):.3g}"
        row["shape"], row["nonzeros"] = f"{int(row['n_rows']):,} × {int(row['n_columns']):,}", nnz
        sizes = [memory(row[c]) for c in ("peak_bytes", "planned_bytes")]
        row["peak_(planned)"] = "-" if sizes == ["-", "-"] else "{} ({})".format(*sizes)
    index = "study value shape nonzeros k threads peak_(planned)"
    return pivot(index, "solver", lambda own: f"{number(own[0]['ns_per_nonzero'])} ns")(rows)


def kernels(rows: list[Row]) -> Lines:
    own = [row for rows in common.group(rows, "name").values() for row in rows if row["kind"] == "kernel"]
    columns = {"kernel": "name", "side": "side", "k": "k", "dtype": "dtype", "threads": "threads"}
    return flat(**columns, ns=lambda row: number(row["ns_per_nonzero"]), bound="bound",
                fraction_of_it=lambda row: f"{float(row['fraction']):.2f}")(own)  # fmt: skip


def predictions(rows: list[Row]) -> Lines:
    for own in common.group(rows, "counts", "k").values():
        best = max(own, key=lambda row: float(row["mixed_log_likelihood"]))
        for row in own:
            cell = f"{float(row['mixed_log_likelihood']):.4f}"
            row["cell"] = f"**{cell}**" if row is best else cell
            impossible = any(r["model"] == "ml" and float(r["log_likelihood"]) == -math.inf for r in own)
            row["some_impossible_under_ml"] = "yes" if impossible else "no"
    return pivot("counts k some_impossible_under_ml", "model", lambda own: own[0]["cell"])(rows)


def of_factors(own: list[Row]) -> str:
    """Means of the values of W and of H."""
    return " / ".join(f"{mean([row for row in own if row['what'].startswith(name)], 'value'):.2f}" for name in "WH")


def known_truth(word: str) -> Callable[[list[Row]], Lines]:
    """A column for each model, of the rows about W and H with this word."""
    make = pivot("dispersion mean_count k", "model", of_factors)
    return lambda rows: make([row for row in rows if word in row["what"]])


def dispersions(rows: list[Row]) -> Lines:
    columns = {"features rejected": ("rejected", "ml"), "estimate": ("dispersion", "ml"),
               "covered by `model`": ("covered", "model"), "covered by `robust`": ("covered", "robust")}  # fmt: skip
    lines = [["dispersion", "mean count", "k", *columns]]
    for case, own in common.group(rows, "dispersion", "mean_count", "k").items():
        found = common.group(own, "what", "model")
        cells = [mean(found[key], "value") for key in columns.values()]
        lines.append([*case, f"{cells[0]:.1%}", f"{cells[1]:.3f}", *(f"{x:.2f}" for x in cells[2:])])
    return lines


def chosen(own: list[Row]) -> str:
    off = [abs(float(row["value"]) - int(row["k"])) for row in own]
    return f"{off.count(0)} / {sum(x <= 1 for x in off)} of {len(off)}"


def formats(rows: list[Row]) -> Lines:
    sizes = {name: (lambda row, c=c: f"{float(row[c]):,.0f}" if row[c] else "-") for name, c in (
        ("MiB", "file_mib"), ("peak_MiB", "peak_mib"), ("its_peak_MiB", "library_peak_mib"))}  # fmt: skip
    return flat(counts="counts", format="format", library=lambda row: row["library"].replace("_", r"\_"),
                as_fast=lambda row: f"{float(row['ratio']):.2f}×" if row["ratio"] else "-", **sizes)(rows)  # fmt: skip


def pipelines(rows: list[Row]) -> Lines:
    rows = [row for row in rows if not row["what"].startswith("replicate ")]
    base = {
        (row["counts"], row["k"], row["what"]): float(row["value"]) for row in rows[::-1] if row["measure"] == "seconds"
    }

    def cell(own: list[Row]) -> str:
        row, value = own[0], float(own[0]["value"])
        if row["measure"] != "seconds":
            return f"{value:.4f}".rstrip("0").rstrip(".")
        ratio = base[row["counts"], row["k"], row["what"]] / value
        return f"{number(value)} s" + (f", {number(ratio)}×" if row["run"] != rows[0]["run"] else "")

    return pivot("counts k what measure", "run", cell)(rows)


KINDS = [
    Kind("speed", "versus_sklearn", "fit first",
         "Processor seconds, with one thread, to the objective that scikit-learn's `NMF(solver=\"mu\")` has after its "
         "default of 200 iterations. scikit-learn's `mu` is the fastest of the [other "
         "packages](docs/benchmarks/packages.md) that we compared. The last row is a loss: the first fit on a machine "
         "compiles for some seconds.", speed),
    Kind("iteration", "versus_sklearn", "iteration",
         "One multiplicative iteration of both factors from the same start: time, objectives after five iterations "
         "(one number if they agree), and fastpmf's peak memory, measured and predicted by `plan`.",
         flat(counts="counts", k="k",
              fastpmf=lambda row: number(1e3 * float(row["seconds"]), unit=" ms"),
              scikit__learn=lambda row: number(1e3 * float(row["sklearn_seconds"]), unit=" ms"),
              ratio=lambda row: number(row["ratio"]), objective=objectives,
              peak_MiB=lambda row: number(row["peak_mib"]), predicted=lambda row: number(row["planned_mib"]))),
    Kind("fit", "versus_sklearn", "fit",
         "Time to the objective that scikit-learn has after its default of 200 iterations, from the same start, and "
         "the number of iterations that fastpmf's default solver needs for it.", sklearn_fits),
    Kind("first", "versus_sklearn", "first",
         "The same, for the first fit on a machine: fastpmf's time includes the compilation of its kernels.",
         sklearn_fits),
    Kind("transform", "versus_sklearn", "transform",
         "Time to find W for new rows by `transform`, for several `tol`, and by scikit-learn; the objectives of both; "
         "and fastpmf's certified optimality gap in nats per 1,000 counts.",
         flat(counts="counts", k="k", rows="rows", tol="tol", fastpmf=lambda row: number(row["seconds"], unit=" s"),
              scikit__learn=lambda row: number(row["sklearn_seconds"], unit=" s"),
              ratio=lambda row: number(row["ratio"]), objective=objectives,
              certified_gap=lambda row: number(row["gap_per_1000"]))),
    Kind("solver-times", "solvers", "",
         f"Seconds to a relative gap of {LEVEL:g} to the lowest objective that any solver found from the same seed "
         "(median over the seeds). A dash means that it was not reached.", solver_times),
    Kind("solver-ends", "solvers", "",
         "Final objective in nats, and the number of iterations in parentheses (medians over the seeds).", solver_ends),
    Kind("packages", "packages", "divergence",
         "The lowest objective (nats) of each package within the time limit, the time to reach it, and the time at "
         "which fastpmf's default solver has reached the same objective. The ratio is the package's time over that of "
         "fastpmf. Where a package has rates of 0 under positive counts, one component was added for the score (*).",
         packages),
    Kind("held-out", "packages", "held-out",
         "Hierarchical Poisson factorization: negative log-likelihood of held-out counts, in nats per count, and "
         f"the time until it is within {NEAR['held-out']:g} of the lowest of the package. `explicit` stores the "
         "allocation of each count to the components, as scHPF does.", packages),
    Kind("scaling", "scaling", "",
         "Time of an iteration per nonzero, and peak memory of a fit beyond its input, measured and predicted by "
         "`plan`.", scaling),
    Kind("roofline", "roofline", "",
         "Time of each kernel per nonzero, the bound of the machine that applies to it, and the share of this bound "
         "that the kernel reaches.", kernels),
    Kind("prediction", "models", "prediction",
         "Log-likelihood of held-out counts in nats per count (higher is better; the best is bold). The rates are 99 % "
         "the model's and 1 % row sum times column sum, because exact zeros can make a held-out count impossible; the "
         "third column says whether this happens under maximum likelihood.", predictions),
    Kind("cost", "models", "cost", "Time of an iteration relative to maximum likelihood (medians).",
         pivot("counts k model", "solver", lambda own: f"{float(own[0]['ratio']):.2f}")),
    Kind("recovery", "known_truth", "recovery",
         "Correlation of the columns of W / the rows of H with the true ones. Means over the draws.",
         known_truth(" recovered")),
    Kind("coverage", "known_truth", "recovery",
         "Share of true entries of W / of H inside 90 % intervals. Means over the draws.", known_truth(" covered")),
    Kind("dispersion", "known_truth", "dispersion",
         "Share of the features that the test of `overdispersion` rejects at 5 %, and its estimate of the dispersion, "
         "after fits by maximum likelihood; share of true log fold changes inside 95 % intervals, by "
         "`standard_errors`. Means over the draws.", dispersions),
    Kind("components", "known_truth", "components",
         "How often `select_n_components` finds the true k (exactly / within one), by three criteria: its "
         "recommendation, the best held-out score, and the best agreement of components between splits; by what is "
         "held out.", pivot("dispersion what k", "model", chosen)),
    Kind("formats", "formats", "",
         "Time to read a file relative to the library usually used for the format (2× means that fastpmf takes half as "
         "long), size of the file, and peak memory of both.", formats),
    Kind("cnmf", "examples/cnmf_pipeline", "",
         "cNMF on scikit-learn and on fastpmf: seconds of each step, divergences of its fits in nats per count (mixed: "
         "rates that are 1 % row sum times column sum), and the similarity of programs. `reported` is scikit-learn's "
         "own loss.", pipelines),
]  # fmt: skip
VERDICTS = {"versus_sklearn": "Row", "solvers": "Point", "scaling": "Row", "roofline": "Row", "models": "Row",
            "known_truth": "Row", "formats": "Row"}  # fmt: skip  # studies, and their named tuples


def main(arguments: list[str] | None = None) -> int:
    """Write the tables into the documents, or print those of the given files."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="CSV", help="print the tables of these files")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a document would change")
    options = parser.parse_args(arguments)
    try:
        if options.files:
            print("\n\n".join(blocks([read(path) for path in options.files]).values()))  # noqa: T201
            return 0
        made = blocks([read(path) for path in sorted(RESULTS.glob("*.csv"))])
        changed = [path for path in documents() if fill(path, made, write=not options.check)]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.check and changed:
        names = ", ".join(path.name for path in changed)
        parser.error(f"tables of {names} are not those of the CSV files: run python scripts/tools/tables.py")
    return 0


def documents() -> list[Path]:
    """The documents that have tables."""
    return [ROOT / "README.md", *sorted(RESULTS.parent.glob("*.md"))]


def fill(path: Path, made: dict[str, str], *, write: bool) -> bool:
    """Replace the text between the markers of a document; whether it differs."""
    document = path.read_text(encoding="utf-8")

    def block(found: re.Match) -> str:
        name = found[1]
        if name not in made:
            raise ValueError(f"{path.name} has a place for the table {name!r}, which no CSV file has")
        return f"<!-- {name}: begin -->\n{made[name]}\n<!-- {name}: end -->"

    text = MARKED.sub(block, document)
    if write and text != document:
        path.write_text(text, encoding="utf-8")
    return text != document


def read(path: str | Path) -> common.Table:
    """A table that has its provenance and rows."""
    try:
        table = common.read_table(str(path))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a CSV file") from None
    if missing := [fact for fact in FACTS if fact not in table.facts]:
        raise ValueError(f"{path} has no line for its {', '.join(missing)}: run the study again")
    if not table.rows:
        raise ValueError(f"{path} has no rows")
    if study_of(table) not in {kind.study for kind in KINDS}:
        raise ValueError(f"{path} is of {study_of(table)}.py, which has no table in the documentation")
    return table


def study_of(table: common.Table) -> str:
    """Name of the script that wrote a table, with its folder in scripts."""
    return shlex.split(table.facts["command"])[1].removeprefix("scripts/").removesuffix(".py")


def select(tables: list[common.Table], study: str, part: str = "") -> list[common.Table]:
    """The tables of one part of a study, or of several, with the rows of these parts alone."""
    found = []
    for table in tables:
        if study_of(table) == study:
            rows = [row for row in table.rows if not part or row.get("part", row.get("score")) in part.split()]
            found += [table._replace(rows=rows)] if rows else []
    return found


def blocks(tables: list[common.Table]) -> dict[str, str]:
    """Every table in Markdown, and the verdict of every study, by name."""
    made = {}
    for kind in KINDS:
        if own := select(tables, kind.study, kind.part):
            lines = [":::{dropdown} How this was measured", *measured(own), ":::"]
            if kind.name == "speed":  # the README is short, and read without Sphinx
                machines = dict.fromkeys(table.facts["machine"] for table in own)
                lines = [f"{'; '.join(machines)}, shared with other programs. {SOURCES}"]
            made[kind.name] = "\n\n".join(
                [kind.caption, markdown(kind.make(described(own, sizes=kind.name == "speed"))), "\n".join(lines)]
            )
    for study, rows in VERDICTS.items():
        if own := select(tables, study):
            module = importlib.import_module(study)
            found = [row for table in own for row in common.typed_rows(table, getattr(module, rows))]
            made[f"{study}-verdict"] = "\n".join(f"- {line}" for line in module.verdict(found))
    return made


def described(tables: list[common.Table], *, sizes: bool) -> list[Row]:
    """The rows of all tables; with the sizes of the counts beside their names if the table is to have them."""
    rows = []
    for table in tables:
        facts = ((name.removeprefix("counts "), fact) for name, fact in table.facts.items())
        titles = {name: f"{name}, {fact}" for name, fact in facts} if sizes else {}
        rows += [row | {"counts": titles.get(row["counts"], row["counts"])} if "counts" in row else dict(row)
                 for row in table.rows]  # fmt: skip
    return rows


def measured(tables: list[common.Table]) -> list[str]:
    """For each table its command, the machine, the load by other processes, and versions."""
    lines = []
    for table in tables:
        command = re.sub(r" --(csv|png) \S+", "", table.facts["command"])
        facts = (table.facts.get(fact) for fact in ("machine", "load", "versions"))
        lines.append(f"- `{command}`: {'; '.join(fact for fact in facts if fact)}.")
    return lines


def markdown(lines: Lines) -> str:
    """The head and the rows; a first cell that repeats the one above is left empty."""
    head, *rows = lines
    shown = [["" if above[0] == row[0] else row[0], *row[1:]] for above, row in zip([[""], *rows], rows, strict=False)]
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in shown)]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in cells)


if __name__ == "__main__":
    sys.exit(main())
