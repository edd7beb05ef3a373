"""Small tables for people: a result as text in a terminal, as HTML in a notebook, and as a data frame.

Names come from the user's data: they are escaped, shortened, and printed on one line. The HTML is a table with inline
styles that fit light and dark pages, without scripts, which notebooks show as it is.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from fastpmf.utils.extras import import_optional
from fastpmf.utils.messages import printable

MAX_ROWS = 100  # rows of a table that are shown
MAX_NAME_LENGTH = 32
_TEXT_WIDTH = 120  # characters of a line of text
_CELL = "padding:0.25em 0.8em;border-bottom:1px solid rgba(128,128,128,0.3);vertical-align:top"
_MUTED = "opacity:0.65"

T = TypeVar("T")


@dataclass(frozen=True)
class Weighted:
    """Names with a number each, such as the top features of a component with their weights; text has names only."""

    names: Sequence[str]
    values: Sequence[float]


@dataclass(frozen=True)
class Table:
    """A table to show.

    Attributes
    ----------
    title : str
        One line above the table; none if it is empty.
    columns : mapping of str to sequence
        Cells by header: str, numbers, None (shown as an empty cell) or `Weighted`.
    facts : mapping of str to str
        Facts about the whole result, shown between title and columns, such as {"status": "Converged."}.
    note : str
        A sentence below the table.
    n_rows : int, optional
        Number of rows of the whole table if `columns` has the first ones only.
    """

    title: str
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    n_rows: int | None = None

    @property
    def _notes(self) -> list[str]:
        """The note, and how many rows are not shown."""
        n_given = len(next(iter(self.columns.values()), ()))
        n_rows = n_given if self.n_rows is None else self.n_rows
        hidden = n_rows - min(n_given, MAX_ROWS)
        more = [f"{hidden:,} more rows are not shown; to_frame() has all."] if hidden else []
        return [*more, self.note] if self.note else more

    def to_text(self) -> str:
        """Lines of text, with columns aligned."""
        lines = [printable(self.title)] if self.title else []
        width = max(map(len, self.facts), default=0)
        lines += [f"  {name:<{width}}  {printable(value)}" for name, value in self.facts.items()]
        if self.columns:
            columns = [
                (header, [_as_text(cell) for cell in cells[:MAX_ROWS]], _is_numeric(cells[:MAX_ROWS]))
                for header, cells in self.columns.items()
            ]
            widths = [max(len(text) for text in (header, *cells)) for header, cells, _ in columns]
            table = zip(*((header, *cells) for header, cells, _ in columns), strict=True)
            for row in table:
                parts = (
                    text.rjust(width) if right else text.ljust(width)
                    for text, width, (_, _, right) in zip(row, widths, columns, strict=True)
                )
                line = "  ".join(parts).rstrip()
                lines.append(line if len(line) <= _TEXT_WIDTH else f"{line[: _TEXT_WIDTH - 1]}…")
        return "\n".join(lines + self._notes)

    def to_html(self) -> str:
        """A `<div>` with title, facts, table and notes."""
        parts = [f'<div style="font-weight:600;margin-bottom:0.3em">{escape(self.title)}</div>'] if self.title else []
        if self.facts:
            rows = (
                f'<tr><th style="{_CELL};text-align:left;font-weight:500">{escape(name)}</th>'
                f'<td style="{_CELL};text-align:left">{escape(value)}</td></tr>'
                for name, value in self.facts.items()
            )
            parts.append(f'<table style="border-collapse:collapse">{"".join(rows)}</table>')
        if self.columns:
            parts.append(html_table(self.columns))
        parts += [f'<div style="{_MUTED};margin-top:0.3em">{escape(note)}</div>' for note in self._notes]
        return f'<div style="overflow-x:auto">{"".join(parts)}</div>'


def shown_as_table(cls: type[T]) -> type[T]:
    """Class decorator: `repr`, `str` and notebooks show the `Table` that the method `_table` returns.

    A `__str__` that the class defines itself is kept.
    """
    shown = cast(Any, cls)
    shown.__repr__ = lambda self: self._table().to_text()
    shown._repr_html_ = lambda self: self._table().to_html()
    if "__str__" not in vars(cls):
        shown.__str__ = shown.__repr__
    return cls


def html_table(columns: Mapping[str, Sequence[Any]]) -> str:
    """The first `MAX_ROWS` rows of columns of cells as an HTML table; cells are those of `Table`."""
    align = ["right" if _is_numeric(cells[:MAX_ROWS]) else "left" for cells in columns.values()]
    head = "".join(
        f'<th style="{_CELL};text-align:{side}">{escape(header)}</th>'
        for header, side in zip(columns, align, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_CELL};text-align:{side}">{_as_html(cell)}</td>'
            for cell, side in zip(row, align, strict=True)
        )
        + "</tr>"
        for row in zip(*(cells[:MAX_ROWS] for cells in columns.values()), strict=True)
    )
    return f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def escape(text: object) -> str:
    """Text for HTML: on one line, printable, with special characters escaped."""
    return html.escape(printable(text))


def short_name(name: object) -> str:
    """A printable name, without its middle if it is long."""
    text = printable(name)
    return text if len(text) <= MAX_NAME_LENGTH else f"{text[: MAX_NAME_LENGTH - 9]}…{text[-8:]}"


def number(value: Any) -> str:
    """A number in a table: integers in full, others with four digits."""
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def weight(value: float) -> str:
    """The number beside a name: two digits, or an integer."""
    return f"{value:.2g}" if abs(value) < 100 else f"{value:,.0f}"


def top_weighted(names: np.ndarray, scores: np.ndarray, valid: np.ndarray, n: int) -> list[Weighted]:
    """The first n valid names of each row of a ranking, with their scores; all arrays have one shape."""
    return [
        Weighted(row[ok][:n].tolist(), own[ok][:n].tolist())
        for row, own, ok in zip(names[:MAX_ROWS], scores[:MAX_ROWS], valid[:MAX_ROWS], strict=True)
    ]


def data_frame(columns: Any, index: Any = None, index_name: str | None = None) -> Any:
    """A pandas DataFrame; an ImportError if pandas is not installed."""
    pandas = import_optional("pandas", "tables", "to_frame")
    frame = pandas.DataFrame(columns, index=index)
    frame.index.name = index_name
    return frame


def _is_numeric(cells: Iterable[Any]) -> bool:
    """Whether all cells are numbers, or texts of numbers such as "12.5%"."""
    return all(re.fullmatch(r"|nan|-?inf|-?[\d,.]+(e[-+]\d+)?%?", _as_text(cell)) for cell in cells)


def _as_text(cell: Any) -> str:
    if isinstance(cell, Weighted):
        return ", ".join(map(short_name, cell.names))
    if isinstance(cell, int | float | np.number):
        return number(cell)
    return "" if cell is None else short_name(cell)


def _as_html(cell: Any) -> str:
    if isinstance(cell, Weighted):
        return ", ".join(
            f'{html.escape(short_name(name))}&nbsp;<span style="{_MUTED};font-size:0.85em">{weight(value)}</span>'
            for name, value in zip(cell.names, cell.values, strict=True)
        )
    return html.escape(_as_text(cell))
