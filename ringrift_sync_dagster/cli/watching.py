"""Looking again and again: a picture that is redrawn on a terminal, blocks in a pipe, lines of JSON for a program."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from ringrift_sync_dagster.cli.output import Listing, clean, rich_table
from ringrift_sync_dagster.errors import StateError
from ringrift_sync_dagster.settings import clock

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True, slots=True)
class Picture:
    """What one look shows.

    Args:
        listings: Its tables.
        lines: What stands below them.
        value: The same as JSON values.

    """

    listings: Sequence[Listing] = ()
    lines: Sequence[str] = ()
    value: object = field(default_factory=dict)


def watch(look: Callable[[], Picture], seconds: float, *, as_json: bool) -> None:
    """Show a look every ``seconds`` until Ctrl-C; a database that cannot be read now is told, and asked again.

    Args:
        look: Takes one look.
        seconds: How long to wait between two.
        as_json: Write a line of JSON for each.

    """
    try:
        if sys.stdout.isatty() and not as_json:
            _redraw(look, seconds)
        else:
            while True:
                _write(_safe(look), as_json=as_json)
                _pause(seconds)
    except KeyboardInterrupt:
        return


def _redraw(look: Callable[[], Picture], seconds: float) -> None:
    from rich.live import Live

    with Live(_drawn(_safe(look), seconds), auto_refresh=False, screen=True, vertical_overflow="crop") as live:
        while True:
            _pause(seconds)
            live.update(_drawn(_safe(look), seconds), refresh=True)


def _drawn(picture: Picture, seconds: float) -> Group:
    from rich.console import Group
    from rich.text import Text

    head = Text(f"{clock.utc_iso()}, every {seconds:g} s; Ctrl-C ends")
    parts = [
        rich_table(one.title, one.columns, one.rows) if one.rows else Text(f"{one.title}: {one.empty}")
        for one in picture.listings
    ]
    return Group(head, *(Text(clean(line)) for line in picture.lines), *parts)


def _write(picture: Picture, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"at": clock.utc_iso(), "look": picture.value}, default=str))
        return
    click.echo(f"--- {clock.utc_iso()}")
    for one in picture.listings:
        one.show()
    for line in picture.lines:
        click.echo(clean(line))
    sys.stdout.flush()


def _safe(look: Callable[[], Picture]) -> Picture:
    try:
        return look()
    except StateError as error:
        return Picture(lines=[f"no look: {error}"], value={"error": str(error)})


def _pause(seconds: float) -> None:
    """Sleep in a way that Ctrl-C ends at once."""
    threading.Event().wait(seconds)
