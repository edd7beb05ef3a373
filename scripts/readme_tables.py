"""The README's tables, from the CSV files that the studies write: none is typed by hand."""

import argparse
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import compare_rivals
import compare_solvers
import time_to_objective
import versus_sklearn
from provenance import Table, read_table

DESCRIPTION = """\
Print Markdown tables of what --csv of versus_sklearn.py, time_to_objective.py, compare_solvers.py and
compare_rivals.py wrote. Each file is known by its header, whatever its name; files of one kind go into one
table, in the order they are given in. Any other study's table is given whole, column by column. Beside
each table stand the commands that made it, and once, where they are the same, machine and versions.

--write puts the tables into the README between the lines

    <!-- tables: begin -->
    <!-- tables: end -->
"""
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
FACTS = ("command", "machine", "versions")
LEVEL = 1e-3  # gap that solvers are timed to
Row = dict[str, str]


class Kind(NamedTuple):
    """Files with this header: what to say above their table, and how to make it."""

    header: list[str]
    caption: str
    make: Callable[[list[Row]], list[list[str]]]


def main(arguments: list[str] | None = None) -> int:
    """Read the files; print, write or check."""
    parser = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="CSV", help="written by the studies")
    parser.add_argument(
        "--name", nargs=2, action="append", default=[], metavar=("COUNTS", "NAME"), help="call these counts so"
    )
    parser.add_argument("--readme", default=Path(__file__).parents[1] / "README.md", type=Path, metavar="FILE")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--write", action="store_true", help="replace what stands between the markers in the README")
    mode.add_argument("--check", action="store_true", help="exit with 1 if --write would change the README")
    options = parser.parse_args(arguments)
    try:
        text = section([read(path) for path in options.files], dict(options.name))
        if not (options.write or options.check):
            print(text, end="")  # noqa: T201
            return 0
        before = options.readme.read_text(encoding="utf-8")
        after = replaced(before, text)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.write and after != before:
        options.readme.write_text(after, encoding="utf-8")
    if options.check and after != before:
        print(f"{options.readme.name} is not what these tables make it; --write mends it")  # noqa: T201
    return int(options.check and after != before)


def read(path: str) -> Table:
    """A table that says how it came about, and has rows."""
    try:
        table = read_table(path)
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a CSV file") from None
    if missing := [fact for fact in FACTS if fact not in table.facts]:
        raise ValueError(f"{path} does not say its {', '.join(missing)}: have the study write it anew with --csv")
    if not table.rows:
        raise ValueError(f"{path} has no rows")
    return table


def replaced(readme: str, text: str) -> str:
    """The README with this text between the markers."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        raise ValueError(f"the README must have a line {BEGIN} and after it a line {END}, each once")
    return readme[: readme.index(BEGIN) + len(BEGIN)] + f"\n{text}" + readme[readme.index(END) :]


def section(tables: list[Table], names: dict[str, str]) -> str:
    """All tables, by kind, and what they were made with."""
    places = {place(table) for table in tables}
    paragraphs = [f"Measured on {place(tables[0])}."] if len(places) == 1 else []
    kinds: dict[tuple[str, ...], tuple[Kind, list[Table]]] = {}
    for table in tables:
        kind = next((kind for kind in KINDS if kind.header == table.columns), as_it_is(table))
        kinds.setdefault(tuple(kind.header), (kind, []))[1].append(table)
    for kind, own in sorted(kinds.values(), key=lambda pair: KINDS.index(pair[0]) if pair[0] in KINDS else len(KINDS)):
        made = [f"`{table.facts['command']}`" + (f" on {place(table)}" if len(places) > 1 else "") for table in own]
        called = {n: f"{names.get(n, n)}, {described}" for table in own for n, described in described_counts(table)}
        rows = [
            {c: called.get(cell, cell) if c == "counts" else cell for c, cell in row.items()}
            for table in own
            for row in table.rows
        ]
        paragraphs += [f"{kind.caption} From {', '.join(dict.fromkeys(made))}.".strip(), markdown(kind.make(rows))]
    return "\n\n".join(paragraphs) + "\n"


def place(table: Table) -> str:
    """Machine and versions."""
    return f"{table.facts['machine']}; {table.facts['versions']}"


def described_counts(table: Table) -> Iterable[tuple[str, str]]:
    """Names of counts, and what they are."""
    return ((name.removeprefix("counts "), fact) for name, fact in table.facts.items() if name.startswith("counts "))


def markdown(lines: list[list[str]]) -> str:
    """The head and the rows; a first cell that repeats the one above is left empty."""
    head, *rows = lines
    shown = [["" if above[0] == row[0] else row[0], *row[1:]] for above, row in zip([[""], *rows], rows, strict=False)]
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in shown)]
    return "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in cells)


def groups(rows: list[Row], *columns: str) -> dict[tuple[str, ...], list[Row]]:
    """Rows by what they have in these columns, in the order they come in."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[column] for column in columns), []).append(row)
    return found


def digits(x: float, n: int = 2) -> str:
    """At least `n` significant digits, and no more behind the point; a dash for what was never reached."""
    return f"{x:,.{max(0, n - 1 - math.floor(math.log10(x)))}f}" if 0 < x < math.inf else "-"


def middle(rows: list[Row], column: str) -> float:
    """Median over the rows."""
    return median(float(row[column]) for row in rows)


def first(rows: list[Row], column: str, at: float) -> float:
    """Seconds of the first point with no more than this in the column."""
    return min((float(row["seconds"]) for row in rows if float(row[column]) <= at), default=math.inf)


def iterations(rows: list[Row]) -> list[list[str]]:
    """versus_sklearn.py."""
    lines = [["counts", "k", "dtype", "fastpmf", "scikit-learn", "ratio", "objectives, nats", "peak MiB (predicted)"]]
    for row in rows:
        objectives = dict.fromkeys(f"{float(row[c]):,.1f}" for c in ("ours, nats", "sklearn, nats"))
        lines.append([row["counts"], row["k"], row["dtype"], f"{digits(float(row['ours, ms']))} ms"])
        lines[-1] += [f"{digits(float(row['sklearn, ms']))} ms", digits(float(row["ratio"])), " / ".join(objectives)]
        lines[-1] += [f"{float(row['peak MiB']):,.1f} ({float(row['predicted']):,.1f})"]
    return lines


def times(rows: list[Row]) -> list[list[str]]:
    """time_to_objective.py."""
    lines = [["counts", "k", "iterations", "fastpmf", "scikit-learn", "ratio"]]
    for (counts, k), own in groups(rows, "counts", "k").items():
        seconds = [f"{digits(middle(own, c))} s" for c in ("ours, s", "sklearn, s")]
        lines.append([counts, k, f"{middle(own, 'iterations'):.0f}", *seconds, digits(middle(own, "ratio"))])
    return lines


def solvers(rows: list[Row]) -> list[list[str]]:
    """compare_solvers.py."""
    names = list(dict.fromkeys(row["solver"] for row in rows))
    lines = [["counts", "k", "seconds each", *names, "lowest end", "mu ends higher by"]]
    for (counts, k), own in groups(rows, "counts", "k").items():
        reached, ends = dict.fromkeys(names, math.inf), {}
        for (name,), points in groups(own, "solver").items():
            fits = groups(points, "seed").values()
            reached[name] = median(first(fit, "gap_to_seed_best", LEVEL) for fit in fits)
            ends[name] = median(float(fit[-1]["objective"]) for fit in fits)
        lowest = min(ends, key=ends.__getitem__)
        told = [f"{digits(s)} s" if s < math.inf else "-" for s in reached.values()]
        higher = f"{ends['mu'] / ends[lowest] - 1:.1e}" if "mu" in ends else "-"
        budget = max(float(row["seconds"]) for row in own)
        lines.append([counts, k, f"{budget:.2g}", *told, f"{ends[lowest]:,.0f}, {lowest}", higher])
    return lines


def rivals(rows: list[Row]) -> list[list[str]]:
    """compare_rivals.py."""
    lines = [["counts", "k", "package", "problem", "threads", "dtype", "lowest objective, nats", "above the best by"]]
    lines[0] += ["after", "fastpmf there after", "ratio"]
    for (counts, k), own in groups(rows, "counts", "k").items():
        fits = groups(own, "rival", "version")
        ours = [row for (name, _), fit in fits.items() for row in fit if name == "fastpmf" and row["objective"]]
        for (name, version), fit in fits.items():
            one, points = fit[0], [row for row in fit if row["objective"]]
            told = [counts, k, f"{name} ({version})", one["problem"], one["threads"], one["dtype"]]
            if points:
                best = min(points, key=lambda row: float(row["objective"]))
                theirs, mine = (first(p, "objective", float(best["objective"])) for p in (points, ours))
                star = "*" if any(float(row["weight"]) for row in points) else ""
                told += [f"{float(best['objective']):,.0f}{star}", f"{float(best['gap']):.1e}", f"{digits(theirs)} s"]
                told += [f"{digits(mine)} s" if mine < math.inf else "never", digits(theirs / mine)]
            else:
                told += [f"failed: {fit[-1]['error']}", *["-"] * 4]
            lines.append(told)
    return lines


def as_it_is(table: Table) -> Kind:
    """Every column."""

    def shown(cell: str) -> str:
        try:
            number = float(cell)
        except ValueError:
            return cell
        return f"{number:,.0f}" if number.is_integer() else f"{number:.3g}"

    def make(rows: list[Row]) -> list[list[str]]:
        return [table.columns, *([shown(row[column]) for column in table.columns] for row in rows)]

    return Kind(table.columns, "", make)


KINDS = [
    Kind(
        versus_sklearn.HEAD,
        "One multiplicative iteration of both factors, from the same start, medians of several turns; the objectives "
        "after five iterations, once where they are the same; and the peak memory of a fit.",
        iterations,
    ),
    Kind(
        time_to_objective.HEAD,
        "Seconds to where scikit-learn's 200 multiplicative iterations end, from the same random starts, medians over "
        "them; iterations are fastpmf's.",
        times,
    ),
    Kind(
        compare_solvers.COLUMNS,
        f"Seconds to within {LEVEL:g} of the lowest objective that any of the solvers found from a start, medians over "
        "the starts, a dash where it did not get there; +x is extrapolated.",
        solvers,
    ),
    Kind(
        compare_rivals.COLUMNS,
        "Where each package comes to in the same time, scored by one objective: its lowest, how far above the best of "
        "all, after how many seconds, and after how many fastpmf is as low. A star marks factors that had rates of 0 "
        "under positive counts and were scored with one component more.",
        rivals,
    ),
]

if __name__ == "__main__":
    sys.exit(main())
