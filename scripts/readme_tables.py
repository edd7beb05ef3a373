"""The README's tables, from the CSV files that the studies write: none is typed by hand."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from provenance import Table, read_table
from readme_kinds import KINDS as STUDIES
from readme_kinds import Kind, as_it_is
from readme_models import KINDS as MODELS
from readme_uses import KINDS as USES

DESCRIPTION = """\
Print Markdown tables of what --csv of versus_sklearn.py, time_to_objective.py, compare_solvers.py,
compare_starts.py, transform_speed.py, compare_rivals.py, scaling_study.py, roofline.py, compare_models.py,
versus_hpf.py, recovery.py, model_costs.py, find_components.py, read_times.py and cnmf_pipeline.py wrote. Each
file is known by its header, whatever its name; files of one kind go into one table, in the order they are given in.
Any other study's table is given whole, column by column. Beside each table stand the commands that made it,
and once, where they are the same, machine and versions.

--write puts the tables into the README between the lines

    <!-- tables: begin -->
    <!-- tables: end -->
"""
KINDS = [*STUDIES, *MODELS, *USES]
BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
FACTS = ("command", "machine", "versions")


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


if __name__ == "__main__":
    sys.exit(main())
