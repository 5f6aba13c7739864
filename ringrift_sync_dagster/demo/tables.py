"""What the demo prints at its end: a table with a line for each partition, and the verdict in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from ringrift_sync_dagster.demo.ledger import Entry
from ringrift_sync_dagster.demo.verdict import Check, Verdict
from ringrift_sync_dagster.state import schema
from ringrift_sync_dagster.state.store import StateStore

_MEGABYTE: Final = 1_000_000
_COLUMNS: Final = (
    ("partition", "left"),
    ("finished", "right"),
    ("collected", "right"),
    ("had already", "right"),
    ("quarantined", "left"),
    ("unfinished", "right"),
    ("MB", "right"),
    ("seconds", "right"),
    ("checks", "left"),
)


@dataclass(slots=True)
class Line:
    """One partition's numbers; ``collected`` to ``checks`` are the product's own record of what it did."""

    finished: int = 0
    unfinished: int = 0
    collected: int = 0
    same: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    checks: Counter[bool] = field(default_factory=Counter)
    quarantined: Counter[str] = field(default_factory=Counter)

    def cells(self, name: str) -> list[str]:
        """The line as it is printed."""
        quarantined = ", ".join(f"{count} {reason}" for reason, count in sorted(self.quarantined.items()))
        checks = "-" if not self.checks else "failed" if self.checks[False] else f"{self.checks[True]} passed"
        return [
            name, str(self.finished), str(self.collected), str(self.same), quarantined or "-", str(self.unfinished),
            f"{self.size_bytes / _MEGABYTE:.2f}", f"{self.seconds:.2f}", checks,
        ]  # fmt: skip


def lines(entries: Iterable[Entry], verdict: Verdict, state: StateStore) -> dict[str, Line]:
    """Put ledgers, quarantine and the recorded changes together, by partition key."""
    found: dict[str, Line] = {}
    for entry in entries:
        line = found.setdefault(f"{entry.config}|{entry.node}", Line())
        line.finished += entry.finished
        line.unfinished += not entry.finished
    for one in verdict.set_aside:
        found.setdefault(f"{one.config}|{one.node}", Line()).quarantined[one.reason] += 1
    with state.read() as connection:
        for row in connection.execute(sa.select(schema.changes)):
            line = found.setdefault(f"{row.config}|{row.node}", Line())
            line.collected += row.games_new + row.games_revised + row.games_renamed
            line.same += row.games_same
            line.size_bytes += row.size_bytes
            line.seconds += row.seconds
            line.checks.update(passed for passed in row.checks.values() if isinstance(passed, bool))
    return dict(sorted(found.items()))


def print_partitions(console: Console, found: dict[str, Line]) -> None:
    """Print the table, with a last line of sums."""
    table = Table(title="What became of the games, by partition (config|node)", show_footer=False)
    for title, justify in _COLUMNS:
        table.add_column(title, justify="right" if justify == "right" else "left", overflow="fold")
    total = Line()
    for name, line in found.items():
        table.add_row(*line.cells(name), end_section=name == list(found)[-1])
        total.finished += line.finished
        total.unfinished += line.unfinished
        total.collected += line.collected
        total.same += line.same
        total.size_bytes += line.size_bytes
        total.seconds += line.seconds
        total.checks += line.checks
        total.quarantined += line.quarantined
    table.add_row(*total.cells("all"))
    console.print(table)


def print_data_types(console: Console, state: StateStore) -> None:
    """Print what moved of the other data types, up and down, by node: the product's own record of it."""
    table = Table(title="The other data types, by node")
    for title in ("data type", "node", "up", "down", "quarantined", "MB"):
        table.add_column(title, justify="right" if title in {"quarantined", "MB"} else "left", overflow="fold")
    sums: dict[tuple[str, str], dict[str, Counter[str]]] = {}
    with state.read() as connection:
        rows = connection.execute(sa.select(schema.changes).where(schema.changes.c.data_type != "games")).all()
    for row in rows:
        ways = sums.setdefault((row.data_type, row.node), {"up": Counter(), "down": Counter(), "": Counter()})
        ways[row.direction].update(row.counts)
        ways[""].update({"aside": row.set_aside, "bytes": row.size_bytes})
    for (data_type, node), ways in sorted(sums.items()):
        told = [
            ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in ways[way].items() if count) or "-"
            for way in ("up", "down")
        ]
        table.add_row(data_type, node, *told, str(ways[""]["aside"]), f"{ways['']['bytes'] / _MEGABYTE:.2f}")
    console.print(table)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count) or "-"


def print_left_alone(console: Console, state: StateStore, markers: Iterable[str]) -> None:
    """Say what was seen and, by rule, not collected; ``markers`` are databases with a ``.writing`` beside them."""
    files = schema.node_files
    with state.read() as connection:
        left = (files.c.data_type == "games") & (files.c.kind != "eval") & sa.not_(files.c.collectable)
        rows = connection.execute(sa.select(files).where(left))
        kinds = Counter((row.kind, row.path, row.node) for row in rows)
    for kind, path, node in sorted(kinds):
        console.print(f"  seen and left alone: {node}:{path} ({kind})")
    for path in markers:
        console.print(f"  {path} has a fresh .writing marker: its finished games were collected, the marker was not")


def print_verdict(console: Console, story: Sequence[Check], games: Sequence[Check], lost: int = 0) -> None:
    """Print every check, and the verdict as the last word.

    Args:
        console: Where.
        story: Whether everything happened as the demo tells it.
        games: Whether every game is where it belongs.
        lost: So many went with a node before anybody else had them.

    """
    for check in (*story, *games):
        console.print(f"  {'[green]ok[/]' if check.passed else '[red]NO[/]'}  ", end="")
        console.print(str(check), markup=False, highlight=False, soft_wrap=True)
    if all(check.passed for check in games):
        but = f" but the {lost} that went with the node that vanished" if lost else ""
        console.print(
            f"\n[bold green]Verdict: the ledgers and the canonical store agree.[/] Every finished game is there{but}.",
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print("\n[bold red]Verdict: the ledgers and the canonical store do not agree.[/]")
    if not all(check.passed for check in story):
        console.print("[bold red]But not everything happened as the demo tells it:[/] see NO above.")
