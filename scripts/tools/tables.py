"""Make Markdown tables for the documentation from the CSV files that the studies write."""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import Table, group, read_table, rounded

DESCRIPTION = """\
Print Markdown tables of the CSV files that solvers.py, versus_sklearn.py, packages.py, scaling.py, roofline.py,
models.py, known_truth.py, formats.py and examples/cnmf_pipeline.py write. Files of one study are combined, in the order
in which they are given; any other study's table is printed column by column. Above each table are the commands that
made it, and once, where they are the same, machine and versions.

--write puts the tables between these lines of the file of --into:

    <!-- tables: begin -->
    <!-- tables: end -->
"""
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
FACTS = ("command", "machine", "versions")
LEVEL = 1e-3  # relative gap that solvers are timed to
NEAR = {"divergence": 0.0, "held-out": 0.01}  # scores that count as equal
CNMF_AGAIN = "TPM spectra, same usages"
Row = dict[str, str]
Lines = list[list[str]]


class Kind(NamedTuple):
    """One table of a study: which of its rows are in it, its caption, and how it is made; its first line is the head."""

    study: str
    part: str
    caption: str
    make: Callable[[list[Row]], Lines]


def number(x: float | str, digits: int = 2, unit: str = "") -> str:
    """At least so many significant digits and no further decimals; a dash for what is missing or was never reached."""
    x = float(x or "nan")
    return f"{x:,.{max(0, digits - 1 - math.floor(math.log10(x)))}f}{unit}" if 0 < x < math.inf else "-"


def middle(rows: list[Row], column: str) -> float:
    """Median over the rows."""
    return median(float(row[column]) for row in rows)


def reach(rows: list[Row], column: str, value: float) -> float:
    """Seconds of the first point with at most this value."""
    return min((float(row["seconds"]) for row in rows if row[column] and float(row[column]) <= value), default=math.inf)


def sklearn_iterations(rows: list[Row]) -> Lines:
    lines = [["counts", "k", "dtype", "fastpmf", "scikit-learn", "ratio", "objectives, nats", "peak MiB (planned)"]]
    for row in rows:
        ours, theirs = (number(1e3 * float(row[c]), unit=" ms") for c in ("seconds", "sklearn_seconds"))
        objectives = dict.fromkeys(f"{float(row[c]):,.1f}" for c in ("objective", "sklearn_objective"))
        memory = f"{float(row['peak_mib'] or 'nan'):,.1f} ({float(row['planned_mib']):,.1f})"
        lines.append([row["counts"], row["k"], row["dtype"], ours, theirs, number(row["ratio"]), " / ".join(objectives),
                      memory])  # fmt: skip
    return lines


def sklearn_fits(rows: list[Row]) -> Lines:
    lines = [["counts", "k", "iterations", "fastpmf", "scikit-learn", "ratio"]]
    for (counts, k), own in group(rows, "counts", "k").items():
        seconds = [number(middle(own, c), unit=" s") for c in ("seconds", "sklearn_seconds")]
        lines.append([counts, k, f"{middle(own, 'iterations'):.0f}", *seconds, number(middle(own, "ratio"))])
    return lines


def sklearn_transform(rows: list[Row]) -> Lines:
    lines = [["counts", "k", "rows", "tol", "fastpmf", "scikit-learn", "ratio", "objectives, nats", "certified gap"]]
    for row in rows:
        seconds = [number(row[c], unit=" s") for c in ("seconds", "sklearn_seconds")]
        objectives = " / ".join(f"{float(row[c]):,.1f}" for c in ("objective", "sklearn_objective"))
        lines.append([row["counts"], row["k"], f"{int(row['rows']):,}", f"{float(row['tol']):g}", *seconds,
                      number(row["ratio"]), objectives, number(row["gap_per_1000"])])  # fmt: skip
    return lines


def solver_times(rows: list[Row]) -> Lines:
    single = [row for row in rows if row["n_init"] == "1"]
    names = list(dict.fromkeys(row["solver"] for row in single))
    lines = [["counts", "k", "start", "seconds each", *names]]
    for (counts, k, init), own in group(single, "counts", "k", "init").items():
        times: dict[str, list[float]] = {name: [] for name in names}
        for fits in group(own, "seed").values():
            target = (1 + LEVEL) * min(float(row["objective"]) for row in fits)
            for (name,), fit in group(fits, "solver").items():
                times[name].append(reach(fit, "objective", target))
        budget = max(float(row["seconds"]) for row in own)
        lines.append([counts, k, init, f"{budget:.2g}", *(number(median(s), unit=" s") if s else "-" for s in times.values())])
    return lines


def solver_ends(rows: list[Row]) -> Lines:
    fits = [points[-1] for points in group(rows, "counts", "k", "init", "solver", "n_init", "seed").values()]
    columns = group(fits, "solver", "n_init")
    lines = [["counts", "k", "start", *(solver if n == "1" else f"{solver}, n_init={n}" for solver, n in columns)]]
    for (counts, k, init), own in group(fits, "counts", "k", "init").items():
        found, cells = group(own, "solver", "n_init"), []
        for solver, n in columns:
            some = found.get((solver, n), [])
            cell = f"{middle(some, 'objective'):,.0f} ({middle(some, 'iteration'):.0f})" if some else "-"
            if some and n != "1":
                single = {row["seed"]: float(row["seconds"]) for row in found[solver, "1"]}
                cell += f", {number(median(float(row['seconds']) / single[row['seed']] for row in some))} fits"
            cells.append(cell)
        lines.append([counts, k, init, *cells])
    return lines


def packages(rows: list[Row]) -> Lines:
    lines = [["counts", "k", "package", "problem", "threads", "dtype", "lowest score", "after", "ms an iteration"]]
    lines[0] += ["fastpmf there after", "ratio"]
    for (counts, k), own in group(rows, "counts", "k").items():
        ours = [row for row in own if row["package"] == own[0]["package"]]
        for (name, version), fit in group(own, "package", "version").items():
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
    lines = [["study", "value", "shape", "nonzeros", "k", "threads", "mu, ns", "cd, ns", "peak (planned)"]]
    for (study, n, p, nnz, k, _, t), own in group(rows, "study", "n_rows", "n_columns", "nnz", "k", "skew", "threads").items():
        column, row = varies.get(study, study), own[0]
        value = rounded(int(nnz)) if column == "nnz" else f"{float(row[column]):.3g}"
        pace = {r["solver"]: number(r["ns_per_nonzero"]) for r in own}
        peak, planned = (memory(row[c]) for c in ("peak_bytes", "planned_bytes"))
        lines.append([study, value, f"{int(n):,} × {int(p):,}", rounded(int(nnz)), k, t, pace.get("mu", "-"),
                      pace.get("cd", "-"), peak if peak == planned == "-" else f"{peak} ({planned})"])  # fmt: skip
    return lines


def memory(cell: str) -> str:
    """Bytes in MiB or GiB."""
    mib = float(cell or "nan") / 2**20
    return number(mib / 2**10, unit=" GiB") if mib >= 2**10 else number(mib, unit=" MiB")


def kernels(rows: list[Row]) -> Lines:
    columns = ("name", "side", "k", "dtype", "threads")
    lines = [["kernel", "side", "k", "dtype", "threads", "ns", "bound", "fraction of it"]]
    for own in group([row for row in rows if row["kind"] == "kernel"], "name").values():
        for row in own:
            fraction = f"{float(row['fraction']):.2f}"
            lines.append([*(row[c] for c in columns), number(row["ns_per_nonzero"]), row["bound"], fraction])
    return lines


def predictions(rows: list[Row]) -> Lines:
    names = list(dict.fromkeys(row["model"] for row in rows))
    lines = [["counts", "k", *names, "ml calls some impossible"]]
    for (counts, k), own in group(rows, "counts", "k").items():
        found = {row["model"]: float(row["mixed_log_likelihood"]) for row in own}
        best = max(found, key=found.__getitem__)
        cells = [f"{found[name]:.4f}" if name in found else "-" for name in names]
        cells = [f"**{cell}**" if name == best else cell for name, cell in zip(names, cells, strict=True)]
        plain = {row["model"]: float(row["log_likelihood"]) for row in own}
        lines.append([counts, k, *cells, "yes" if plain.get("ml", 0.0) == -math.inf else "no"])
    return lines


def costs(rows: list[Row]) -> Lines:
    names = list(dict.fromkeys(row["model"] for row in rows))
    lines = [["counts", "k", "solver", *names]]
    for (counts, k, solver), own in group(rows, "counts", "k", "solver").items():
        found = {row["model"]: f"{float(row['ratio']):.2f}" for row in own}
        lines.append([counts, k, solver, *(found.get(name, "-") for name in names)])
    return lines


def recovery(rows: list[Row]) -> Lines:
    lines = [["mean count", "k", "what", "model", "level", "mean over draws", "too narrow by"]]
    for (mean, k, what, model, level), own in group(rows, "mean_count", "k", "what", "model", "level").items():
        factors = [float(row["too_narrow"]) for row in own if row["too_narrow"]]
        narrow = f"{sum(factors) / len(factors):.1f}" if factors else "-"
        if level in ("", "0.9"):
            value = sum(float(row["value"]) for row in own) / len(own)
            lines.append([f"{float(mean):g}", k, what, model, level or "-", f"{value:.2f}", narrow])
    return lines


def chosen(rows: list[Row]) -> Lines:
    rules = list(dict.fromkeys(row["model"] for row in rows))
    lines = [["true k", "draws", *(f"{rule}, exactly / within one" for rule in rules)]]
    for (k,), own in group(rows, "k").items():
        off = [[abs(float(row["value"]) - int(k)) for row in own if row["model"] == rule] for rule in rules]
        lines.append([k, str(len(off[0])), *(f"{o.count(0)} / {sum(x <= 1 for x in o)}" for o in off)])
    return lines


def formats(rows: list[Row]) -> Lines:
    lines = [["counts", "format", "MiB", "beside", "as fast", "peak MiB", "its peak MiB"]]
    for row in rows:
        ratio = f"{float(row['ratio']):.2f}×" if row["ratio"] else "-"
        sizes = [f"{float(row[c]):,.0f}" if row[c] else "-" for c in ("file_mib", "peak_mib", "library_peak_mib")]
        library = row["library"].replace("_", r"\_")
        lines.append([row["counts"], row["format"], sizes[0], library, ratio, *sizes[1:]])
    return lines


def pipelines(rows: list[Row]) -> Lines:
    runs = list(dict.fromkeys(row["run"] for row in rows if row["what"] != CNMF_AGAIN))
    runs += list(dict.fromkeys(row["run"] for row in rows if row["run"] not in runs))
    lines = [["counts", "k", "what", "measure", *runs]]
    for (counts, k, what, measure), own in group(rows, "counts", "k", "what", "measure").items():
        found = {row["run"]: float(row["value"]) for row in own}
        if measure == "seconds":
            ratio = {run: f", {number(found[runs[0]] / found[run])}×" for run in found if run != runs[0]}
            cells = [f"{number(found[run])} s{ratio.get(run, '')}" if run in found else "-" for run in runs]
        else:
            cells = [f"{found[run]:.4f}".rstrip("0").rstrip(".") if run in found else "-" for run in runs]
        if not what.startswith("replicate "):
            lines.append([counts, k, what, measure, *cells])
    return lines


def every_column(table: Table) -> Kind:
    """The table of a study that is not known here."""

    def shown(cell: str) -> str:
        try:
            value = float(cell)
        except ValueError:
            return cell
        return f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"

    def make(rows: list[Row]) -> Lines:
        return [table.columns, *([shown(row[column]) for column in table.columns] for row in rows)]

    return Kind(study_of(table), "", "", make)


KINDS = [
    Kind("versus_sklearn", "iteration", "One multiplicative iteration of both factors, from the same start, medians; the "
         "objectives after five iterations, once where they are the same; and the peak memory of a fit.", sklearn_iterations),
    Kind("versus_sklearn", "fit", "Seconds to where scikit-learn's 200 multiplicative iterations end, from the same random "
         "starts, medians; iterations are fastpmf's.", sklearn_fits),
    Kind("versus_sklearn", "transform", "Seconds to find W for rows that were not fitted, H fixed: `transform` at each tol, "
         "in nats per count, and scikit-learn with its defaults, medians; the objectives of both, and the certified gap of "
         "fastpmf's, in nats per 1,000 counts.", sklearn_transform),
    Kind("solvers", "", f"Seconds to within {LEVEL:g} of the lowest objective that any solver found from the same seed, "
         "medians over the seeds; a dash where it was not reached. +x is extrapolated, +r relaxed.", solver_times),
    Kind("solvers", "", "Where each solver ends, in nats, and after how many iterations, medians over the seeds; with "
         "n_init also the seconds, in those of a single fit.", solver_ends),
    Kind("packages", "divergence", "The lowest objective, in nats, that each package reaches in the same time, after how many "
         "seconds, and when fastpmf is as low. A star marks factors with rates of 0 under positive counts, which were scored "
         "with one component more.", packages),
    Kind("packages", "held-out", "Hierarchical Poisson factorization: minus the log-likelihood of held-out counts, in nats "
         f"per count, the seconds to within {NEAR['held-out']:g} of the lowest of each package, and those of fastpmf to the "
         "same. `explicit` stores the allocation of each count, as scHPF does.", packages),
    Kind("scaling", "", "Nanoseconds per nonzero of one iteration, of all threads together, and the peak memory of a fit "
         "beyond its input, beside what `fastpmf.plan` predicts, with the most threads.", scaling),
    Kind("roofline", "", "Nanoseconds per nonzero of each kernel, the bound of the machine that applies to it, and the least "
         "seconds that this bound allows, as a fraction of the kernel's.", kernels),
    Kind("models", "prediction", "Log-likelihood of counts held out by thinning, in nats per count, of rates that are 99 % "
         "the model's and 1 % without structure; and whether maximum likelihood alone calls some of them impossible.",
         predictions),
    Kind("models", "cost", "Seconds of an iteration of each model over those of maximum likelihood, medians.", costs),
    Kind("known_truth", "recovery", "Counts drawn from known factors: correlation of matched components with the truth, and "
         "the share of entries whose 90 % credible interval of HPF contains the true one; by what factor such intervals are "
         "too narrow.", recovery),
    Kind("known_truth", "components", "Counts drawn with a known number of components: in how many draws "
         "`select_n_components` recommends it, how often the best prediction alone is right, and the number whose components "
         "agree most between splits.", chosen),
    Kind("formats", "", "Reading counts from files: how many times as fast as the library usually used for the format, both "
         "from the system's memory, medians; and the peak memory of both.", formats),
    Kind("examples/cnmf_pipeline", "", "cNMF's pipeline with the Kullback-Leibler loss, on scikit-learn and on fastpmf: "
         "seconds of each step, how near its fits come, in nats per count (mixed: of rates that are 1 % without structure), "
         "and how similar programs are. The same usages are given to the last refit; `reported` is scikit-learn's own loss.",
         pipelines),
]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Read the files; print, write or check."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    add, mode = parser.add_argument, parser.add_mutually_exclusive_group()
    add("files", nargs="+", metavar="CSV", help="written by the studies")
    add("--name", nargs=2, action="append", default=[], metavar=("COUNTS", "NAME"), help="another name for these counts")
    add("--into", default=Path(__file__).parents[2] / "README.md", type=Path, metavar="FILE", help="default: README.md")
    mode.add_argument("--write", action="store_true", help="replace what is between the markers")
    mode.add_argument("--check", action="store_true", help="exit with 1 if --write would change the file")
    options = parser.parse_args(arguments)
    try:
        text = section([read(path) for path in options.files], dict(options.name))
        if not (options.write or options.check):
            print(text, end="")  # noqa: T201
            return 0
        before = options.into.read_text(encoding="utf-8")
        after = replaced(before, text, options.into.name)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.write and after != before:
        options.into.write_text(after, encoding="utf-8")
    if options.check and after != before:
        print(f"the tables of {options.into.name} are not those of these files; use --write")  # noqa: T201
    return int(options.check and after != before)


def read(path: str) -> Table:
    """A table that has its provenance and rows."""
    try:
        table = read_table(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a CSV file") from None
    if missing := [fact for fact in FACTS if fact not in table.facts]:
        raise ValueError(f"{path} has no line for its {', '.join(missing)}: run the study again")
    if not table.rows:
        raise ValueError(f"{path} has no rows")
    return table


def study_of(table: Table) -> str:
    """Name of the script that wrote a table, with its folder in scripts."""
    return shlex.split(table.facts["command"])[1].removeprefix("scripts/").removesuffix(".py")


def replaced(document: str, text: str, name: str) -> str:
    """The document with this text between the markers."""
    if document.count(BEGIN) != 1 or document.count(END) != 1 or document.index(BEGIN) > document.index(END):
        raise ValueError(f"{name} must have a line {BEGIN} and after it a line {END}, each once")
    return document[: document.index(BEGIN) + len(BEGIN)] + f"\n{text}" + document[document.index(END) :]


def section(tables: list[Table], names: dict[str, str]) -> str:
    """All tables, by kind, with their provenance."""
    places = {place(table) for table in tables}
    paragraphs = [f"Measured on {place(tables[0])}."] if len(places) == 1 else []
    known = {kind.study for kind in KINDS}
    others = {study_of(table): every_column(table) for table in tables if study_of(table) not in known}
    for kind in [*KINDS, *others.values()]:
        own, rows = [table for table in tables if study_of(table) == kind.study], []
        for table in own:
            titles = {name: f"{names.get(name, name)}, {fact}" for name, fact in counts_of(table)}
            rows += [row | {"counts": titles.get(row["counts"], row["counts"])} if "counts" in row else row
                     for row in table.rows if kind.part in (row.get("part"), row.get("score"), "")]  # fmt: skip
        if rows:
            where = (f" on {place(table)}" if len(places) > 1 else "" for table in own)
            made = (f"`{table.facts['command']}`{suffix}" for table, suffix in zip(own, where, strict=True))
            paragraphs += [f"{kind.caption} From {', '.join(dict.fromkeys(made))}.".strip(), markdown(kind.make(rows))]
    return "\n\n".join(paragraphs) + "\n"


def place(table: Table) -> str:
    """Machine and versions."""
    return f"{table.facts['machine']}; {table.facts['versions']}"


def counts_of(table: Table) -> Iterable[tuple[str, str]]:
    """Names of counts, and their shapes."""
    return ((name.removeprefix("counts "), fact) for name, fact in table.facts.items() if name.startswith("counts "))


def markdown(lines: Lines) -> str:
    """The head and the rows; a first cell that repeats the one above is left empty."""
    head, *rows = lines
    shown = [["" if above[0] == row[0] else row[0], *row[1:]] for above, row in zip([[""], *rows], rows, strict=False)]
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in shown)]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in cells)


if __name__ == "__main__":
    sys.exit(main())
