"""``status``: what the state database knows; no node is asked, so it answers while nodes are down and a sync runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import Listing, ago, show_json, size
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.settings.inventory import Inventory
    from ringrift_sync_dagster.settings.settings import Settings
    from ringrift_sync_dagster.state.nodes import NodeRow
    from ringrift_sync_dagster.state.risks import Risk
    from ringrift_sync_dagster.state.store import StateStore
    from ringrift_sync_dagster.state.transfers import Transfer
    from ringrift_sync_dagster.sync.daemons import Daemon


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """What the changes tell of one partition.

    Args:
        data_type: One of the five data types.
        config: The config.
        node: The node.
        changed_at: When it last changed, in seconds since 1970.
        games_new: New games, summed over the changes that are kept.
        canonical_games: Games of the config in the canonical store now, whichever node the last ones came from.
        pending: Changes that Dagster does not have yet.

    """

    data_type: str
    config: str
    node: str
    changed_at: float
    games_new: int
    canonical_games: int | None
    pending: int


WATCH_SECONDS: Final = 5.0
"""How often ``--watch`` looks where no number is given."""

EXAMPLES: Final = """\b
Examples:
  ringrift-sync status
  ringrift-sync status --watch
  ringrift-sync status --watch 30 >> status.log
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that one look shows.

    Args:
        state: The state database, as a person calls it.
        daemons: The long-running parts.
        pressure: Whether transfers are held, in a sentence.
        nodes: What is known of each node.
        partitions: What changed.
        transfers: What runs or waits.
        risks: What nodes say is on them alone.
        lost: How many games went with each node that is gone.
        trouble: What is in the way of each node whose outbox or disk is full, or that is being emptied.

    """

    state: str
    daemons: Sequence[Daemon]
    pressure: str
    nodes: Sequence[NodeRow]
    partitions: Sequence[PartitionRow]
    transfers: Sequence[Transfer]
    risks: Sequence[Risk]
    lost: Mapping[str, int]
    trouble: Mapping[str, str]


class Seconds(click.FloatRange):
    """A number of seconds between two bounds; what is no number is refused too."""

    def convert(self, value: float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Give the number."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds


@click.command(context_settings=CONTEXT, epilog=EXAMPLES)
@click.option(
    "--watch", is_flag=False, flag_value=WATCH_SECONDS, type=Seconds(0.5, 86400), metavar="[SECONDS]",
    help=f"Look again every SECONDS ({WATCH_SECONDS:g}) until Ctrl-C; in a pipe block after block.",
)  # fmt: skip
@verb("hosts", "home", "state-url")
def status(session: Session, watch: float | None) -> int:
    """Show what runs, nodes, partitions, running transfers and what waits to be recorded in Dagster.

    The daemons are those of the guide's `launch_daemons.py --status`. Of nodes nobody is asked. Ctrl-C ends --watch
    with exit code 0.
    """
    from ringrift_sync_dagster.cli.watching import Picture
    from ringrift_sync_dagster.cli.watching import watch as repeat
    from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory
    from ringrift_sync_dagster.state.store import StateStore

    settings = session.settings()
    inventory = Inventory({}, {}, (), (), None)
    if settings.hosts.exists():
        inventory = load_inventory(settings.hosts, coordinator=settings.coordinator)

    def picture() -> Picture:
        found = look(settings, inventory, state)
        return Picture(listings(found), last_lines(found), as_json(found))

    with StateStore.open(settings.state_url) as state:
        if watch is not None:
            repeat(picture, watch, as_json=session.as_json)
            return 0
        found = picture()
    if session.as_json:
        show_json(found.value)
        return 0
    for part in found.listings:
        part.show()
    for line in found.lines:
        click.echo(line)
    return 0


def look(settings: Settings, inventory: Inventory, state: StateStore) -> Snapshot:
    """Take one look.

    Raises:
        StateError: The state database cannot be read.

    """
    from ringrift_sync_dagster.state.backpressure import current
    from ringrift_sync_dagster.state.node_reports import trouble_in
    from ringrift_sync_dagster.state.nodes import node_rows
    from ringrift_sync_dagster.state.risks import every
    from ringrift_sync_dagster.state.transfers import transfer_rows
    from ringrift_sync_dagster.storage.layout import Layout
    from ringrift_sync_dagster.sync.daemons import daemons
    from ringrift_sync_dagster.sync.losses import known_losses
    from ringrift_sync_dagster.sync.pressure import shown
    from ringrift_sync_dagster.sync.runtime import owner_of

    rows = node_rows(state)
    return Snapshot(
        state.name, daemons(settings, inventory, state), shown(current(state, owner_of(settings, inventory))),
        rows, partition_rows(state), transfer_rows(state, running=True), every(state),
        {loss.risk.node: loss.games for loss in known_losses(state, Layout(settings.root))},
        {row.name: words for row in rows if (words := trouble_in(row))},
    )  # fmt: skip


def partition_rows(state: StateStore) -> list[PartitionRow]:
    """Give one row for each partition that ever changed, by data type, config and node."""
    import sqlalchemy as sa

    from ringrift_sync_dagster.state.schema import changes

    pending = sa.func.sum(sa.case((changes.c.recorded_at.is_(None), 1), else_=0))
    groups = (
        sa.select(
            changes.c.data_type, changes.c.config, changes.c.node, sa.func.max(changes.c.id).label("last"),
            sa.func.sum(changes.c.games_new).label("games_new"), pending.label("pending"),
        )
        .group_by(changes.c.data_type, changes.c.config, changes.c.node)
        .subquery()
    )  # fmt: skip
    counted = (
        sa.select(changes.c.data_type, changes.c.config, sa.func.max(changes.c.id).label("last"))
        .where(changes.c.canonical_games.is_not(None))
        .group_by(changes.c.data_type, changes.c.config)
        .subquery()
    )
    last, count = changes.alias("newest"), changes.alias("counted")
    query = (
        sa.select(groups, last.c.at, count.c.canonical_games)
        .join(last, last.c.id == groups.c.last)
        .outerjoin(counted, (counted.c.data_type == groups.c.data_type) & (counted.c.config == groups.c.config))
        .outerjoin(count, count.c.id == counted.c.last)
        .order_by(groups.c.data_type, groups.c.config, groups.c.node)
    )
    with state.read() as connection:
        return [_partition(row) for row in connection.execute(query)]


def _partition(row: Any) -> PartitionRow:  # noqa: ANN401 - a row of SQLAlchemy
    return PartitionRow(
        row.data_type, row.config, row.node, row.at, int(row.games_new), row.canonical_games, int(row.pending)
    )


def listings(found: Snapshot) -> list[Listing]:
    """Give the tables of a look, in the order in which they are shown."""
    return [
        Listing(
            "daemons",
            ("daemon", "state", "since", "how that is known"),
            [
                (one.type.value, one.state.value, "-" if one.since_at is None else ago(one.since_at), one.evidence)
                for one in found.daemons
            ],
        ),
        Listing(
            "nodes",
            ("node", "status", "last seen", "via", "last error"),
            [(node.name, node.status, ago(node.last_seen_at), node.transport, _error(node)) for node in found.nodes],
            empty="none was ever asked; `ringrift-sync sync` asks those of the inventory",
        ),
        Listing(
            "at risk",
            ("node", "games", "size", "oldest", "in outbox", "heartbeat", "state"),
            [
                (risk.node, risk.games, size(risk.bytes), "-" if risk.oldest_at is None else ago(risk.oldest_at),
                 size(risk.outbox_bytes), ago(risk.at), _fate(risk, found.lost, found.trouble.get(risk.node, "")))
                for risk in found.risks if risk.games or risk.lost_at is not None or risk.node in found.trouble
            ],
            empty="no node says that a game is on it alone" if found.risks else "no node sent a heartbeat yet",
        ),
        Listing(
            "partitions",
            ("type", "partition", "new games", "canonical", "last change", "to record"),
            [
                (row.data_type, f"{row.config}|{row.node}", row.games_new, row.canonical_games, ago(row.changed_at),
                 row.pending)
                for row in found.partitions
            ],
            empty="nothing has changed yet",
        ),
        Listing(
            "transfers",
            ("artifact", "node", "direction", "via", "received", "of", "state", "started"),
            [
                (row.artifact[:12], row.node, row.direction, row.transport, size(row.received_bytes),
                 size(row.size_bytes), row.state.value, ago(row.started_at))
                for row in found.transfers
            ],
            empty="none is running",
        ),
    ]  # fmt: skip


def last_lines(found: Snapshot) -> list[str]:
    """Give what stands below the tables."""
    lines = [f"backpressure: {found.pressure}"]
    waiting = sum(row.pending for row in found.partitions)
    return [*lines, f"{waiting} changes wait to be recorded; the next Dagster run does it"] if waiting else lines


def _fate(risk: Risk, lost: Mapping[str, int], trouble: str) -> str:
    if risk.lost_at is None:
        return "; ".join(part for part in ("at risk" if risk.games else "", trouble) if part)
    count = lost.get(risk.node, 0)
    return f"gone, {count} games are lost" if count else "gone, and everything that it had has come"


def _error(node: NodeRow) -> str:
    return f"{ago(node.last_error_at)}: {node.last_error}" if node.last_error else ""


def as_json(found: Snapshot) -> dict[str, object]:
    """Give a look as JSON values."""
    from dataclasses import asdict

    return {
        "state": found.state,
        "daemons": [asdict(one) for one in found.daemons],
        "backpressure": found.pressure,
        "nodes": [asdict(node) for node in found.nodes],
        "partitions": [asdict(row) for row in found.partitions],
        "transfers": [asdict(row) for row in found.transfers],
        "risks": [
            {**asdict(risk), "lost_games": found.lost.get(risk.node, 0), "trouble": found.trouble.get(risk.node, "")}
            for risk in found.risks
        ],
        "changes_to_record": sum(row.pending for row in found.partitions),
    }
