"""Nodes: when each was last heard of, and the files that it last told us about.

A node tells its files as a manifest: all of them (``full``), or what changed since a token. A delta is applied only to
the state that it was made from; the token is written with the files, in one transaction. Only rows that differ are
written, so a full manifest of 16,000 files in which nothing changed writes one row. Absence here deletes nothing
anywhere: this is what a node says, not what we hold. That a node stops answering, or answers again, is told once, as an
event. Source: domain.md, 10 (53, 55); architecture.md, 1 rule 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.model import checked_node_name
from ringrift_sync_dagster.errors import storable
from ringrift_sync_dagster.state import events
from ringrift_sync_dagster.state.schema import node_files, nodes
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.upsert import insert_new, insert_or_update

UP: Final = "up"
DOWN: Final = "down"

_KEY: Final = ("node", "path", "config")
_TOLD: Final = ("data_type", "kind", "collectable", "size_bytes", "mtime_ns", "token", "games", "error")
_CHUNK: Final = 500
"""Paths per statement; a delta with more than this reads all files of the node instead."""

_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodeRow:
    """What is known of a node.

    Args:
        name: Its name in the inventory.
        status: ``up`` or ``down``; empty when it was never reached.
        transport: What reached it last.
        agent_version: Version of its agent; empty without one.
        manifest_token: What to send as ``since`` for the next delta; empty asks for everything.
        manifest_at: When it last told its files, in seconds since 1970; None when never.
        last_seen_at: When it last answered.
        last_error: What went wrong last; it stays after the node is up again.
        last_error_at: When that was.
        extra: Further facts, such as data at risk; JSON values.

    """

    name: str
    status: str
    transport: str
    agent_version: str
    manifest_token: str
    manifest_at: float | None
    last_seen_at: float | None
    last_error: str
    last_error_at: float | None
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NodeFile:
    """One file of a node; a database with games of several configs has one for each.

    Args:
        node: The node.
        path: Relative to the node's root.
        config: The config; empty when the file belongs to none.
        data_type: One of the five data types.
        kind: Which kind of file, as ``node.patterns`` says.
        collectable: False for files that we wrote, and those that only recovery reads.
        size_bytes: Its length.
        mtime_ns: Its modification time by the node's clock; compared for equality only.
        token: The node's change token; equal tokens mean an unchanged file.
        games: Finished games of this config; None when it is no games database.
        error: Why the node could not read it; empty when it could.
        seen_at: When this was first told, in seconds since 1970.

    """

    node: str
    path: str
    config: str
    data_type: str
    kind: str
    collectable: bool
    size_bytes: int
    mtime_ns: int
    token: str
    games: int | None
    error: str
    seen_at: float


@dataclass(frozen=True, slots=True)
class Applied:
    """What a manifest changed here.

    Args:
        accepted: False when the delta was made from another token than ours: nothing was written, ask for everything.
        written: Rows that are new or differ.
        removed: Rows that are gone.

    """

    accepted: bool
    written: int = 0
    removed: int = 0


def seen(
    store: StateStore,
    node: str,
    *,
    at: float,
    transport: str = "",
    agent_version: str = "",
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Record that the node answered. Empty arguments leave what was known. Idempotent.

    Raises:
        ValueError: The name cannot name a node.

    """
    with store.begin() as connection:
        _answered(connection, node, at, transport=transport, agent_version=agent_version, extra=extra)


def seen_all(store: StateStore, names: Iterable[str], *, at: float) -> None:
    """Record that nodes answered that nothing of theirs has changed, in one transaction. Idempotent."""
    told = [{"node_name": name} for name in names]
    if told:
        statement = sa.update(nodes).where(nodes.c.name == sa.bindparam("node_name"))
        with store.begin() as connection:
            connection.execute(statement.values(last_seen_at=at, manifest_at=at), told)


def failed(store: StateStore, node: str, error: str, *, at: float) -> None:
    """Record that the node could not be reached, and why; its files stay as they were told. Idempotent.

    SYNC_NODE_UNREACHABLE is told when it was not down before.

    Raises:
        ValueError: The name cannot name a node.

    """
    with store.begin() as connection:
        before = _locked(connection, node)
        _update(connection, node, {"status": DOWN, "last_error": error, "last_error_at": at})
        if before["status"] != DOWN:
            told = {"node": node, "error": storable(error), "last_seen_at": before["last_seen_at"]}
            events.publish(connection, DataEventType.SYNC_NODE_UNREACHABLE, told)


def apply_manifest(
    store: StateStore, node: str, manifest: Mapping[str, Any], *, since: str, at: float, transport: str = ""
) -> Applied:
    """Take over what a node tells of its files, in one transaction; the node counts as seen.

    Args:
        store: The shared database.
        node: Its name.
        manifest: ``token``, ``full``, ``entries`` (as ``node.scan`` makes them) and ``removed`` (paths).
        since: The token that was sent with the question; a delta on top of another one is not accepted.
        at: When the node answered, in seconds since 1970.
        transport: What carried the answer.

    Raises:
        ValueError: The name cannot name a node, or an entry is not usable (it lacks a field, or repeats a path).

    """
    told = _told(node, manifest["entries"], at)
    with store.begin() as connection:
        # The first write also locks the row on PostgreSQL, so that two answers are applied one after the other.
        _answered(connection, node, at, transport=transport)
        known_token = connection.execute(sa.select(nodes.c.manifest_token).where(nodes.c.name == node)).scalar_one()
        if not manifest["full"] and known_token != since:
            return Applied(accepted=False)
        token = {"manifest_token": str(manifest["token"]), "manifest_at": at}
        connection.execute(sa.update(nodes).where(nodes.c.name == node).values(token))
        gone = {str(path) for path in manifest.get("removed", ())}
        known = _known(connection, node, None if manifest["full"] else {path for path, _ in told} | gone)
        return _write_difference(connection, node, known, told)


def node_rows(store: StateStore) -> list[NodeRow]:
    """Give all nodes that were ever tried, by name."""
    with store.read() as connection:
        return [NodeRow(**row) for row in connection.execute(sa.select(nodes).order_by(nodes.c.name)).mappings()]


def node_row(store: StateStore, node: str) -> NodeRow | None:
    """Give one node; None when it was never tried."""
    with store.read() as connection:
        row = connection.execute(sa.select(nodes).where(nodes.c.name == node)).mappings().first()
    return None if row is None else NodeRow(**row)


def put_fact(connection: sa.Connection, node: str, name: str, value: object) -> None:
    """Write one of the further facts of a node; None takes it away. The others stay. Idempotent.

    Raises:
        ValueError: The name cannot name a node.

    """
    extra = {key: known for key, known in _locked(connection, node)["extra"].items() if key != name}
    _update(connection, node, {"extra": extra if value is None else {**extra, name: value}})


def files_of(store: StateStore, node: str, data_type: str | None = None) -> list[NodeFile]:
    """Give the files that the node last told, by path and config."""
    statement = sa.select(node_files).where(node_files.c.node == node)
    if data_type is not None:
        statement = statement.where(node_files.c.data_type == data_type)
    with store.read() as connection:
        rows = connection.execute(statement.order_by(node_files.c.path, node_files.c.config)).mappings()
        return [NodeFile(**row) for row in rows]


def all_files(store: StateStore) -> list[NodeFile]:
    """Give the files that all nodes last told, by node, path and config."""
    columns = [node_files.c[name] for name in NodeFile.__dataclass_fields__]
    statement = sa.select(*columns).order_by(node_files.c.node, node_files.c.path, node_files.c.config)
    with store.read() as connection:
        return [NodeFile(*row) for row in connection.execute(statement)]


def _answered(
    connection: sa.Connection,
    node: str,
    at: float,
    *,
    transport: str,
    agent_version: str = "",
    extra: Mapping[str, Any] | None = None,
) -> None:
    given = {"transport": transport, "agent_version": agent_version, "extra": None if extra is None else dict(extra)}
    known = {column: value for column, value in given.items() if value not in ("", None)}
    before = _locked(connection, node)
    _update(connection, node, {"status": UP, "last_seen_at": at, **known})
    if before["status"] == DOWN:
        told = {"node": node, "transport": transport, "down_since": before["last_error_at"]}
        events.publish(connection, DataEventType.NODE_RECOVERED, told)


def _locked(connection: sa.Connection, node: str) -> _Row:
    """Give what is known of a node, which nobody else changes until the transaction ends."""
    insert_new(connection, nodes, [{"name": checked_node_name(node), "extra": {}}], ("name",))
    statement = sa.select(nodes).where(nodes.c.name == node).with_for_update()
    return dict(connection.execute(statement).mappings().one())


def _update(connection: sa.Connection, node: str, values: Mapping[str, Any]) -> None:
    connection.execute(sa.update(nodes).where(nodes.c.name == node).values(dict(values)))


def _told(node: str, entries: Iterable[Mapping[str, Any]], at: float) -> dict[tuple[str, str], _Row]:
    """Give the rows of the entries by path and config."""
    rows: dict[tuple[str, str], _Row] = {}
    for entry in entries:
        try:
            made = _rows(node, entry, at)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{node}: an entry of its manifest is not usable: {error!r} in {entry!r:.200}") from error
        for row in made:
            key = (row["path"], row["config"])
            if key in rows:
                raise ValueError(f"{node}: its manifest names {row['path']} more than once")
            rows[key] = row
    return rows


def _rows(node: str, entry: Mapping[str, Any], at: float) -> list[_Row]:
    error = entry.get("error")
    common = {
        "node": node,
        "path": str(entry["path"]),
        "data_type": str(entry["data_type"]),
        "kind": str(entry["kind"]),
        "collectable": bool(entry["collectable"]),
        "size_bytes": int(entry["bytes"]),
        "mtime_ns": int(entry["mtime_ns"]),
        "token": str(entry["token"]),
        "error": f"{error['code']}: {error['message']}" if error else "",
        "seen_at": at,
    }
    games = entry.get("games") or {}
    if games:
        return [{**common, "config": str(config), "games": int(count)} for config, count in sorted(games.items())]
    return [{**common, "config": str(entry.get("config") or ""), "games": None if entry.get("games") is None else 0}]


def _known(connection: sa.Connection, node: str, paths: set[str] | None) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Give what is recorded of these paths (None: of all), by path and config."""
    columns = [node_files.c.path, node_files.c.config, *(node_files.c[name] for name in _TOLD)]
    statement = sa.select(*columns).where(node_files.c.node == node)
    if paths is not None and len(paths) <= _CHUNK:
        statement = statement.where(node_files.c.path.in_(sorted(paths)))
    rows = connection.execute(statement).all()
    return {(row[0], row[1]): tuple(row[2:]) for row in rows if paths is None or row[0] in paths}


def _write_difference(
    connection: sa.Connection,
    node: str,
    known: Mapping[tuple[str, str], tuple[Any, ...]],
    told: Mapping[tuple[str, str], _Row],
) -> Applied:
    different = [row for key, row in told.items() if known.get(key) != tuple(row[name] for name in _TOLD)]
    insert_or_update(connection, node_files, different, _KEY, (*_TOLD, "seen_at"))
    gone: Sequence[tuple[str, str]] = [key for key in known if key not in told]
    if gone:
        statement = sa.delete(node_files).where(
            (node_files.c.node == node)
            & (node_files.c.path == sa.bindparam("gone_path"))
            & (node_files.c.config == sa.bindparam("gone_config"))
        )
        connection.execute(statement, [{"gone_path": path, "gone_config": config} for path, config in gone])
    return Applied(accepted=True, written=len(different), removed=len(gone))
