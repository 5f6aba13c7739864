"""``status``: what the state database knows; nobody is asked, so it answers while nodes are down and a sync runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import ago, show_json, show_table, size
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.state.nodes import NodeRow
    from ringrift_sync_dagster.state.store import StateStore
    from ringrift_sync_dagster.state.transfers import Transfer


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


@click.command(context_settings=CONTEXT)
@verb("hosts", "home", "state-url")
def status(session: Session) -> int:
    """Show nodes, partitions, running transfers and what waits to be recorded in Dagster."""
    from ringrift_sync_dagster.state.nodes import node_rows
    from ringrift_sync_dagster.state.store import StateStore
    from ringrift_sync_dagster.state.transfers import transfer_rows

    with StateStore.open(session.settings().state_url) as state:
        nodes, partitions = node_rows(state), partition_rows(state)
        transfers = transfer_rows(state, running=True)
        name = state.name
    if session.as_json:
        show_json(_json(name, nodes, partitions, transfers))
    else:
        _show(nodes, partitions, transfers)
    return 0


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


def _show(nodes: Sequence[NodeRow], partitions: Sequence[PartitionRow], transfers: Sequence[Transfer]) -> None:
    show_table(
        "nodes",
        ("node", "status", "last seen", "via", "last error"),
        [(node.name, node.status, ago(node.last_seen_at), node.transport, _error(node)) for node in nodes],
        empty="none was ever asked; `ringrift-sync sync` asks those of the inventory",
    )
    show_table(
        "partitions",
        ("type", "partition", "new games", "canonical", "last change", "to record"),
        [
            (
                row.data_type,
                f"{row.config}|{row.node}",
                row.games_new,
                row.canonical_games,
                ago(row.changed_at),
                row.pending,
            )
            for row in partitions
        ],
        empty="nothing has changed yet",
    )
    show_table(
        "transfers",
        ("artifact", "node", "direction", "via", "received", "of", "state", "started"),
        [
            (row.artifact[:12], row.node, row.direction, row.transport, size(row.received_bytes), size(row.size_bytes),
             row.state.value, ago(row.started_at))
            for row in transfers
        ],
        empty="none is running",
    )  # fmt: skip
    waiting = sum(row.pending for row in partitions)
    if waiting:
        click.echo(f"{waiting} changes wait to be recorded; the next Dagster run does it")


def _error(node: NodeRow) -> str:
    return f"{ago(node.last_error_at)}: {node.last_error}" if node.last_error else ""


def _json(
    state: str, nodes: Sequence[NodeRow], partitions: Sequence[PartitionRow], transfers: Sequence[Transfer]
) -> dict[str, object]:
    from dataclasses import asdict

    return {
        "state": state,
        "nodes": [asdict(node) for node in nodes],
        "partitions": [asdict(row) for row in partitions],
        "transfers": [asdict(row) for row in transfers],
        "changes_to_record": sum(row.pending for row in partitions),
    }
