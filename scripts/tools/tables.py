"""Make Markdown tables for the documentation from the CSV files that the studies write."""

import argparse
import math
import shlex
import sys
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import common

DESCRIPTION = """\
Print Markdown tables of the CSV files that solvers.py, versus_sklearn.py, packages.py, scaling.py, roofline.py,
models.py, known_truth.py, formats.py and examples/cnmf_pipeline.py write. Files of one study are combined, in the given
order. Each table has the commands that made it, and the machine and versions, which are printed once if they are the
same for all tables.

--into FILE puts the tables between these lines of a document:

    <!-- tables: begin -->
    <!-- tables: end -->
"""
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
FACTS = ("command", "machine", "versions")
LEVEL = 1e-3  # relative gap that solvers are timed to
NEAR = {"divergence": 0.0, "held-out": 0.01}  # scores that count as equal
Row = dict[str, str]
Lines = list[list[str]]


class Kind(NamedTuple):
    """One table of a study: which of its rows, a caption, and a function that makes lines of cells, the head first."""

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
    """A line for each row. A column is one of the study, or computed from the row; heads have spaces instead of _."""
    getters = [column if callable(column) else itemgetter(column) for column in columns.values()]

    def make(rows: list[Row]) -> Lines:
        return [[name.replace("_", " ") for name in columns], *([get(row) for get in getters] for row in rows)]

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
    return " / ".join(dict.fromkeys(f"{float(row[c]):,.1f}" for c in ("objective", "sklearn_objective")))


def sklearn_fits(rows: list[Row]) -> Lines:
    lines = [["counts", "k", "iterations", "fastpmf", "scikit-learn", "ratio"]]
    for (counts, k), own in common.group(rows, "counts", "k").items():
        seconds = [number(middle(own, c), unit=" s") for c in ("seconds", "sklearn_seconds")]
        lines.append([counts, k, f"{middle(own, 'iterations'):.0f}", *seconds, number(middle(own, "ratio"))])
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
    lines = [["counts", "k", "package", "problem", "threads", "dtype", "lowest score", "after", "ms an iteration"]]
    lines[0] += ["fastpmf there after", "ratio"]
    for (counts, k), own in common.group(rows, "counts", "k").items():
        ours = [row for row in own if row["package"] == own[0]["package"]]
        for (name, version), fit in common.group(own, "package", "version").items():
            points = [row for row in fit if row["value"]]
            line = [counts, k, f"{name} ({version})", *(fit[0][column] for column in ("problem", "threads", "dtype"))]
            if points:
                best = min(float(row["value"]) for row in points)
                star = "*" if any(float(row["weight"]) for row in points) else ""
                theirs, mine = (reach(p, "value", best + NEAR[fit[0]["score"]]) for p in (points, ours))
                first, last = ([float(points[i][c]) for c in ("iteration", "seconds")] for i in (0, -1))
                pace = 1e3 * (last[1] - first[1]) / (last[0] - first[0]) if last[0] > first[0] else math.nan
                line += [f"{best:,.0f}{star}" if best > 100 else f"{best:.4f}{star}", number(theirs, unit=" s")]
                line += [number(pace), number(mine, unit=" s"), number(theirs / mine)]
            else:
                line += [f"failed: {fit[-1]['error']}", *["-"] * 4]
            lines.append(line)
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


def recovery(rows: list[Row]) -> Lines:
    lines = [["mean count", "k", "what", "model", "level", "mean over draws", "too narrow by"]]
    for (count, k, what, model, level), own in common.group(rows, "mean_count", "k", "what", "model", "level").items():
        if level in ("", "0.9"):
            narrow = mean(own, "too_narrow")
            lines.append([f"{float(count):g}", k, what, model, level or "-", f"{mean(own, 'value'):.2f}",
                          f"{narrow:.1f}" if narrow == narrow else "-"])  # fmt: skip
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
    Kind("versus_sklearn", "iteration",
         "One multiplicative iteration, from the same start; the objectives after five; and the peak memory of a fit.",
         flat(counts="counts", k="k", dtype="dtype",
              fastpmf=lambda row: number(1e3 * float(row["seconds"]), unit=" ms"),
              sklearn=lambda row: number(1e3 * float(row["sklearn_seconds"]), unit=" ms"),
              ratio=lambda row: number(row["ratio"]), nats=objectives,
              peak_MiB=lambda row: number(row["peak_mib"]), planned=lambda row: number(row["planned_mib"]))),
    Kind("versus_sklearn", "fit",
         "Seconds to where scikit-learn's 200 iterations end, from the same starts; iterations are fastpmf's.",
         sklearn_fits),
    Kind("versus_sklearn", "transform",
         "Seconds to find W for new rows, by `transform` at each tol and by scikit-learn; the objectives of both; and "
         "the gap certified by fastpmf, in nats per 1,000 counts.",
         flat(counts="counts", k="k", rows="rows", tol="tol", fastpmf=lambda row: number(row["seconds"], unit=" s"),
              sklearn=lambda row: number(row["sklearn_seconds"], unit=" s"), ratio=lambda row: number(row["ratio"]),
              nats=objectives, certified_gap=lambda row: number(row["gap_per_1000"]))),
    Kind("solvers", "",
         f"Seconds to within {LEVEL:g} of the lowest objective that any solver found from the same seed, medians over "
         "the seeds; a dash where it was not reached. +x is extrapolated, +r relaxed.", solver_times),
    Kind("solvers", "",
         "Final objectives, in nats, and numbers of iterations, medians over the seeds; with n_init also the seconds, "
         "relative to a single fit.", solver_ends),
    Kind("packages", "divergence",
         "The lowest objective, in nats, that each package reaches in the same time, and when fastpmf is as low; *"
         " where rates were 0 under positive counts, so that one component more was scored.", packages),
    Kind("packages", "held-out",
         "Hierarchical Poisson factorization: minus the log-likelihood of held-out counts, in nats per count, and the "
         f"seconds to within {NEAR['held-out']:g} of it. `explicit` stores the allocation of counts, as scHPF does.",
         packages),
    Kind("scaling", "",
         "Time of an iteration per nonzero, with all threads, and the peak memory of a fit beyond its input.", scaling),
    Kind("roofline", "",
         "Nanoseconds per nonzero of each kernel, the bound of the machine that applies, and the seconds of this bound "
         "over those of the kernel.", kernels),
    Kind("models", "prediction",
         "Log-likelihood of held-out counts, in nats per count, of rates that are 99 % the model's and 1 % without "
         "structure; and whether some of them are impossible under maximum likelihood.", predictions),
    Kind("models", "cost", "Seconds of an iteration of each model over those of maximum likelihood, medians.",
         pivot("counts k solver", "model", lambda own: f"{float(own[0]['ratio']):.2f}")),
    Kind("known_truth", "recovery",
         "Counts drawn from known factors: correlation of matched components with the truth; the share of entries in "
         "HPF's 90 % credible intervals; and by what factor these are too narrow.", recovery),
    Kind("known_truth", "components",
         "Counts drawn with k components: how often `select_n_components` recommends k, exactly / within one; how "
         "often the best prediction is at k; and how often components agree most between splits there.",
         pivot("k", "model", chosen)),
    Kind("formats", "",
         "Reading counts from files in the page cache, and by the library usually used for the format.", formats),
    Kind("examples/cnmf_pipeline", "",
         "cNMF on scikit-learn and on fastpmf: seconds of each step, divergences of its fits in nats per count (mixed: "
         "of rates that are 1 % without structure), and the similarity of programs. The last refit is from the same "
         "usages; `reported` is scikit-learn's own loss.", pipelines),
]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Read the files; print the tables, or write them into a document."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="CSV", help="written by the studies")
    parser.add_argument(
        "--into", type=Path, metavar="FILE", help="replace what is between the markers of this document"
    )
    options = parser.parse_args(arguments)
    try:
        text = section([read(path) for path in options.files])
        if options.into is None:
            print(text, end="")  # noqa: T201
        else:
            document = options.into.read_text(encoding="utf-8")
            options.into.write_text(replaced(document, text, options.into.name), encoding="utf-8")
    except (OSError, ValueError) as error:
        parser.error(str(error))
    return 0


def read(path: str) -> common.Table:
    """A table that has its provenance and rows."""
    try:
        table = common.read_table(path)
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


def replaced(document: str, text: str, name: str) -> str:
    """The document with this text between the markers."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise ValueError(f"{name} must have a line {BEGIN} and after it a line {END}, each once")
    return document[: document.index(BEGIN) + len(BEGIN)] + f"\n{text}" + document[document.index(END) :]


def section(tables: list[common.Table]) -> str:
    """All tables, by kind, with their provenance."""
    places = {place(table) for table in tables}
    paragraphs = [f"Measured on {place(tables[0])}."] if len(places) == 1 else []
    for kind in KINDS:
        own, rows = [table for table in tables if study_of(table) == kind.study], []
        for table in own:
            facts = ((name.removeprefix("counts "), fact) for name, fact in table.facts.items())
            titles = {name: f"{name}, {fact}" for name, fact in facts}
            rows += [row | {"counts": titles.get(row["counts"], row["counts"])} if "counts" in row else row
                     for row in table.rows if kind.part in (row.get("part"), row.get("score"), "")]  # fmt: skip
        if rows:
            where = (f" on {place(table)}" if len(places) > 1 else "" for table in own)
            made = (f"`{table.facts['command']}`{suffix}" for table, suffix in zip(own, where, strict=True))
            paragraphs += [f"{kind.caption} From {', '.join(dict.fromkeys(made))}.".strip(), markdown(kind.make(rows))]
    return "\n\n".join(paragraphs) + "\n"


def place(table: common.Table) -> str:
    """Machine and versions."""
    return f"{table.facts['machine']}; {table.facts['versions']}"


def markdown(lines: Lines) -> str:
    """The head and the rows; a first cell that repeats the one above is left empty."""
    head, *rows = lines
    shown = [["" if above[0] == row[0] else row[0], *row[1:]] for above, row in zip([[""], *rows], rows, strict=False)]
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in shown)]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in cells)


if __name__ == "__main__":
    sys.exit(main())
