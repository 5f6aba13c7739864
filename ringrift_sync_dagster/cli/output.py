"""How results are shown: a drawn table on a terminal (rich), aligned lines in a pipe, JSON for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from ringrift_sync_dagster.settings import clock

if TYPE_CHECKING:
    from rich.table import Table

_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86400


def show_json(value: object) -> None:
    """Write one JSON document to stdout."""
    click.echo(json.dumps(value, indent=2, sort_keys=False, default=str))


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str = "none") -> None:
    """Write a table to stdout; ``empty`` is shown instead when it has no rows. Numbers stand to the right."""
    if not rows:
        click.echo(f"{title}: {empty}")
        return
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(rich_table(title, columns, rows))
    else:
        click.echo(f"{title}:")
        for line in aligned(columns, rows):
            click.echo(f"  {line}")


@dataclass(frozen=True, slots=True)
class Listing:
    """A table that is to be shown; see ``show_table``."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    empty: str = "none"

    def show(self) -> None:
        """Write it to stdout."""
        show_table(self.title, self.columns, self.rows, empty=self.empty)


def aligned(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Give the lines of a table without any drawing: two spaces between columns, numbers to the right."""
    cells = [list(columns), *([_text(cell) for cell in row] for row in rows)]
    widths = [max(len(line[number]) for line in cells) for number in range(len(columns))]
    right = [_is_number_column(rows, number) for number in range(len(columns))]
    return [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    ]


def ago(at: float | None) -> str:
    """Say how long ago a wall time was, in a person's words."""
    if at is None:
        return "never"
    seconds = max(0.0, clock.wall() - at)
    for unit, size in (("d", _DAY), ("h", _HOUR), ("min", _MINUTE)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def size(count: float) -> str:
    """Write a number of bytes for a person, in powers of ten."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def clean(value: object) -> str:
    """Write on one line, with nothing in it that moves the cursor, whatever a node wrote."""
    return "".join(character if character.isprintable() else " " for character in str(value))


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Draw a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):  # a name that is cut short cannot be typed again: fold it
        table.add_column(column, justify="right" if _is_number_column(rows, number) else "left", overflow="fold")
    for row in rows:
        # Text, not markup: what comes from a node may hold brackets.
        table.add_row(*(Text(_text(cell)) for cell in row))
    return table


def _is_number_column(rows: Sequence[Sequence[object]], number: int) -> bool:
    return all(row[number] is None or isinstance(row[number], int | float) for row in rows)


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.1f}"
    return clean(cell)
