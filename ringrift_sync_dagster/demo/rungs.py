"""Which rung of the ladder served each node, and why the others did not: read from the rows that the product wrote.

A transfer's row tells what was tried for it. A rung that failed before the first transfer (the node was asked what it
has, and from then on the rung that worked was tried first) is told by its breaker.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console
from rich.table import Table

from ringrift_sync_dagster.core.escalation import LADDER, SKIPPED, Rung
from ringrift_sync_dagster.demo.verdict import Check
from ringrift_sync_dagster.state.breakers import BreakerRow, breaker_rows
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import Transfer, TransferState, transfer_rows

_MEGABYTE: Final = 1_000_000
_ALL: Final = 100_000  # rows; a demo writes some dozens
_SHOWN: Final = 150  # characters of a reason
_HASH: Final = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
_CLASS: Final = re.compile(r"(?P<kind>[A-Z]\w*Error): (?P<text>.*)", re.DOTALL)
_COLUMNS: Final = (
    ("node", "left"),
    ("rung", "left"),
    ("transfers", "right"),
    ("MB", "right"),
    ("seconds", "right"),
    ("MB/s granted", "right"),
    ("reached", "right"),
    ("what failed before, and why", "left"),
)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a rung failed.

    Args:
        kind: Name of the error's class; empty where the product did not write it down.
        text: Its message.

    """

    kind: str
    text: str

    def __str__(self) -> str:
        words = ": ".join(part for part in (self.kind, self.text) if part)
        return textwrap.shorten(_HASH.sub(r"\1", words), _SHOWN, placeholder=" ...")


@dataclass(slots=True)
class Served:
    """How the artifacts of one node came.

    Args:
        node: Its name.
        rungs: Transfers that ended well, by the rung that brought the last byte.
        moved_bytes: What travelled for them.
        seconds: How long that took.
        granted: Bytes per second that the last of them might use.
        failed: Each rung that failed, with the reason of its last failure.
        unexplained: Tries of transfers that failed without a class or without a text.

    """

    node: str
    rungs: Counter[str] = field(default_factory=Counter)
    moved_bytes: int = 0
    seconds: float = 0.0
    granted: float = 0.0
    failed: dict[str, Reason] = field(default_factory=dict)
    unexplained: list[str] = field(default_factory=list)

    def add_breaker(self, row: BreakerRow) -> None:
        """Remember the last error that counted against a rung."""
        found = _CLASS.fullmatch(row.last_error)
        kind, text = (found["kind"], found["text"]) if found else ("", row.last_error)
        self.failed[row.transport] = Reason(kind, self._without_place(row.transport, text))

    def add_transfer(self, row: Transfer) -> None:
        """Count one transfer; rows come in the order in which they were started."""
        if row.state is TransferState.DONE:
            self.rungs[row.transport] += 1
            self.moved_bytes += sum(int(attempt["bytes_moved"]) for attempt in row.rungs)
            self.seconds += row.seconds
            self.granted = row.rate_granted
        for attempt in row.rungs:
            self._add_attempt(str(attempt["rung"]), str(attempt["error"]), str(attempt["message"]))

    def cells(self) -> list[str]:
        """The node's line of the table."""
        reached = self.moved_bytes / self.seconds / _MEGABYTE if self.seconds else 0.0
        why = [f"{rung}: {self.failed[rung]}" for rung in LADDER if rung in self.failed]
        return [
            self.node, ", ".join(self.rungs) or "none", str(self.rungs.total()),
            f"{self.moved_bytes / _MEGABYTE:.2f}", f"{self.seconds:.2f}",
            f"{self.granted / _MEGABYTE:.0f}", f"{reached:.1f}", "\n".join(why) or "-",
        ]  # fmt: skip

    def _add_attempt(self, rung: str, kind: str, text: str) -> None:
        """Remember why a rung failed. One that was not even tried has the reason of another one."""
        if kind == SKIPPED or not (kind or text):
            return
        self.failed[rung] = Reason(kind, self._without_place(rung, text))
        if not (kind and text):
            self.unexplained.append(f"{rung}: {kind or 'no class'}: {text or 'no text'}")

    def _without_place(self, rung: str, text: str) -> str:
        return text.removeprefix(f"{self.node} over {rung}: ")


def served(state: StateStore, nodes: Sequence[str]) -> dict[str, Served]:
    """Read what the product wrote down of each node."""
    found = {node: Served(node) for node in nodes}
    for breaker in breaker_rows(state):
        if breaker.node in found:
            found[breaker.node].add_breaker(breaker)
    for row in reversed(transfer_rows(state, limit=_ALL)):
        if row.node in found:
            found[row.node].add_transfer(row)
    return found


def print_rungs(console: Console, found: Mapping[str, Served]) -> None:
    """Print the table."""
    table = Table(title="Which rung of the ladder served each node, and why others did not")
    for title, justify in _COLUMNS:
        table.add_column(title, justify="right" if justify == "right" else "left", overflow="fold")
    for one in found.values():
        table.add_row(*one.cells(), end_section=True)
    console.print(table, markup=False)


def rung_checks(found: Mapping[str, Served], expected: Mapping[str, Rung]) -> tuple[Check, ...]:
    """Judge whether each node was served by its rung alone, and whether every failure says why.

    Args:
        found: What the product wrote down.
        expected: The fastest rung that can serve each node.

    """
    by_rung = tuple(_served_by(found[node], rung) for node, rung in expected.items())
    silent = [
        f"{node}: nothing is said of {faster.value}"
        for node, rung in expected.items()
        for faster in _faster(rung)
        if faster not in found[node].failed
    ]
    unexplained = [f"{node}: {words}" for node, one in found.items() for words in one.unexplained]
    failures = sum(len(one.failed) for one in found.values())
    question = "every failed try has a class and a text, and every rung that was left out a reason"
    return (*by_rung, Check(question, (*silent, *unexplained), failures))


def _served_by(one: Served, rung: Rung) -> Check:
    others = tuple(f"{count} over {name}" for name, count in one.rungs.items() if name != rung)
    nothing = () if one.rungs[rung] else ("no transfer",)
    return Check(f"{one.node} was served by {rung.value}", (*others, *nothing), one.rungs[rung])


def _faster(rung: Rung) -> list[Rung]:
    order = list(LADDER)
    return order[: order.index(rung)]
