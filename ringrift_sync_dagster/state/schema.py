"""The tables of the state database, and the revision that they belong to.

Times (``at``, ``.._at``) are wall-clock seconds since 1970, for display and pruning; nothing is ordered by them. What
decides something (``expires``, ``until``, ``requested`` and so on) is counted in the clock of ``ticks``, and ``epoch``
names what the number belongs to. Text columns that are part of a key are never NULL: "none" is the empty text. A change
here needs a new revision in ``migrations/versions`` and its name in ``REVISION``; a test compares both.
Source: architecture.md, 7 (tables) and 1 rule 4 (a receipt names content, never a path).
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

REVISION: Final = "0005"
"""The newest Alembic revision, which ``metadata.create_all`` is equal to; kept here so that nobody imports Alembic."""

VERSION_TABLE: Final = "state_version"
"""Not Alembic's usual name: on PostgreSQL, Dagster's own tables may share the database."""

metadata: Final = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite counts up by itself only for a column of type INTEGER; PostgreSQL needs BIGINT for more than 2**31 rows.
_ID: Final = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, *, key: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, primary_key=key, nullable=False, server_default=None if key else "")


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _time(name: str, *, nullable: bool = True) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=nullable)


def _number(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=False, server_default="0")


def _tick(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Double)


def _process() -> tuple[sa.Column[Any], ...]:
    """The columns that name a process; see ``holder``."""
    # Clock ticks after boot (/proc/<pid>/stat); NULL where unknown.
    return _text("host"), _count("pid"), sa.Column("pid_started", sa.BigInteger), _text("boot_id")


version: Final = sa.Table(
    VERSION_TABLE,
    metadata,
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name=f"{VERSION_TABLE}_pkc"),
)
"""As Alembic itself would create it; holds one row."""

nodes: Final = sa.Table(
    "nodes",
    metadata,
    _text("name", key=True),
    _text("status"),  # up | down
    _text("transport"),  # the one that worked last
    _text("agent_version"),
    _text("manifest_token"),  # what to send as `since` for the next delta
    _time("manifest_at"),  # when the node last told its files
    _time("last_seen_at"),
    _text("last_error"),
    _time("last_error_at"),
    sa.Column("extra", sa.JSON, nullable=False),
)

node_files: Final = sa.Table(
    "node_files",
    metadata,
    sa.Column("node", sa.Text, sa.ForeignKey("nodes.name", ondelete="CASCADE"), primary_key=True),
    _text("path", key=True),
    _text("config", key=True),  # one row per config of a mixed database; empty when the file belongs to none
    _text("data_type"),
    _text("kind"),
    sa.Column("collectable", sa.Boolean, nullable=False),
    _count("size_bytes"),
    _count("mtime_ns"),
    _text("token"),  # the node's change token of the file: compared for equality only
    sa.Column("games", sa.BigInteger),  # finished games of this config; NULL when the file is not a games database
    _text("error"),  # why the node could not read it
    _time("seen_at", nullable=False),
    sa.Index(None, "config", "data_type"),
)

artifacts: Final = sa.Table(
    "artifacts",
    metadata,
    _text("sha256", key=True),
    _text("kind"),
    _count("size_bytes"),
    _count("raw_bytes"),
    _text("config"),
    _text("origin_node"),
    _time("created_at", nullable=False),
    sa.Index(None, "config"),
)

receipts: Final = sa.Table(
    "receipts",
    metadata,
    sa.Column("id", _ID, primary_key=True),  # counts up; "what is new since" asks by it
    _text("sha256"),
    _text("node"),
    _text("path"),
    _count("size_bytes"),
    _time("verified_at", nullable=False),
    sa.UniqueConstraint("sha256", "node"),
    sa.Index(None, "node", "path"),
    sqlite_autoincrement=True,
)

leases: Final = sa.Table(
    "leases",
    metadata,
    _text("name", key=True),
    _text("holder"),  # empty when free; the row stays, because the fence goes on counting
    *_process(),
    _number("expires"),  # its epoch is that of boot_id
    _count("fence"),
)

transfers: Final = sa.Table(
    "transfers",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    _text("artifact"),
    _text("node"),
    _text("direction"),  # fetch | push
    _text("transport"),
    _text("config"),
    _text("trigger"),
    _count("size_bytes"),
    _count("received_bytes"),
    _count("resumed_from"),
    _text("state"),  # waiting | running | done | failed
    _time("started_at", nullable=False),
    _time("updated_at", nullable=False),
    _time("finished_at"),
    _text("error_class"),
    _text("error"),
    *_process(),  # who runs it: a row of a dead process is not running
    _text("priority"),
    sa.Column("multiplier", sa.Double, nullable=False, server_default="1"),
    _tick("expires"),  # NULL: it takes no part in admission and bandwidth
    _text("epoch"),
    _tick("requested"),  # since when it waited for its turn
    _count("reserved_bytes"),
    _text("disk"),  # whose disk it fills: a node
    _number("rate_granted"),  # bytes per second, the last one
    _number("seconds"),
    sa.Column("rungs", sa.JSON, nullable=False, server_default="[]"),  # what was tried, in order
    sa.Index(None, "state"),
    sa.Index(None, "node", "started_at"),
    sqlite_autoincrement=True,
)

breakers: Final = sa.Table(
    "breakers",
    metadata,
    _text("node", key=True),
    _text("transport", key=True),
    _count("failures"),  # in a row
    _count("opens"),  # in a row
    _tick("open_until"),  # NULL while closed
    _text("epoch"),
    *_process(),  # who has the probe
    _count("thread"),  # and which of its threads, as the system numbers them
    _tick("probe_expires"),  # NULL when nobody has it
    _text("last_error"),
    _time("changed_at", nullable=False),
)

events: Final = sa.Table(
    "events",
    metadata,
    sa.Column("id", _ID, primary_key=True),  # counts up; "what is new since" asks by it
    _time("at", nullable=False),
    _text("type"),
    sa.Column("payload", sa.JSON, nullable=False),
    sqlite_autoincrement=True,
)

rungs: Final = sa.Table(
    "rungs",
    metadata,
    _text("node", key=True),
    _text("transport"),  # the one that worked last
    _number("until"),
    _text("epoch"),
)

host_priorities: Final = sa.Table(
    "host_priorities",
    metadata,
    _text("host", key=True),
    _text("priority"),
)

versions: Final = sa.Table(
    "versions",
    metadata,
    sa.Column("id", _ID, primary_key=True),  # counts up: the order of arrival
    _text("data_type"),
    _text("config"),
    _text("sha256"),
    _text("name"),  # the file's name on the node that brought it
    _text("path"),  # where its owner keeps it, relative to the root; empty where it does not
    _count("size_bytes"),
    _text("origin_node"),
    _text("state"),  # kept | refused | dropped
    _text("reason"),  # why it was refused
    sa.Column("detail", sa.JSON, nullable=False),  # what its bytes say: samples, feature version, ...
    _time("at", nullable=False),
    sa.UniqueConstraint("data_type", "config", "sha256"),
    sa.Index(None, "sha256"),
    sqlite_autoincrement=True,
)

published: Final = sa.Table(
    "published",
    metadata,
    _text("data_type", key=True),
    _text("config", key=True),
    _text("sha256"),
    _count("serial"),  # counts up with each switch: of two orders the larger one is the later
    _text("trigger"),
    _time("at", nullable=False),
)

placements: Final = sa.Table(
    "placements",
    metadata,
    _text("node", key=True),
    _text("data_type", key=True),
    _text("config", key=True),
    _text("content"),  # what the node was brought last: a digest, or the state of a merged database
    _count("serial"),  # of the published version
    sa.Column("detail", sa.JSON, nullable=False),
    _time("at", nullable=False),
)

deep_scans: Final = sa.Table(
    "deep_scans",
    metadata,
    _text("node", key=True),
    _text("path", key=True),
    _text("config", key=True),
    sa.Column("after", sa.JSON, nullable=False),  # how far it got; null at its beginning
    _number("worked_seconds"),  # what the node spent on it
    _time("started_at", nullable=False),
    _time("looked_at", nullable=False),
    _time("finished_at"),
)

changes: Final = sa.Table(
    "changes",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    sa.Column("change_id", sa.Text, nullable=False),  # made by the writer; the same change again has the same one
    _time("at", nullable=False),
    _text("data_type"),
    _text("direction"),
    _text("config"),
    _text("node"),
    _text("artifact"),
    _text("source_path"),
    _count("games_new"),
    _count("games_same"),
    _count("games_revised"),
    _count("games_renamed"),
    _count("games_annotated"),
    _count("set_aside"),
    _count("size_bytes"),
    _number("seconds"),
    _text("transport"),
    sa.Column("canonical_games", sa.BigInteger),
    sa.Column("lag_seconds", sa.Double),
    sa.Column("checks", sa.JSON, nullable=False),
    _text("trigger"),
    _time("recorded_at"),  # NULL until Dagster has it
    _text("recorded_by"),
    sa.Column("counts", sa.JSON, nullable=False, server_default="{}"),  # other numbers than those of games, by name
    sa.UniqueConstraint("change_id"),
    sa.Index(
        "ix_changes_pending",
        "id",
        sqlite_where=sa.text("recorded_at IS NULL"),
        postgresql_where=sa.text("recorded_at IS NULL"),
    ),
    sa.Index(None, "config", "node"),
    sqlite_autoincrement=True,
)

event_cursors: Final = sa.Table(
    "event_cursors",
    metadata,
    _text("subscriber", key=True),
    _count("event_id"),  # the last one that it has dealt with
    _time("at", nullable=False),
)

marks: Final = sa.Table(
    "marks",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    _text("strategy"),
    _text("owner"),
    _time("mark", nullable=False),  # the multiple of the interval that was meant
    _time("began_at", nullable=False),  # when work for it began
    _number("seconds"),  # how long it took
    _count("changes"),  # how many partitions changed
    _text("holder"),  # who did it: a run, or a daemon
    sa.Index(None, "strategy", "id"),
    sqlite_autoincrement=True,
)

forecasts: Final = sa.Table(
    "forecasts",
    metadata,
    sa.Column("id", _ID, primary_key=True),
    _time("at", nullable=False),
    _text("trigger"),
    _text("data_type"),
    _text("config"),
    _text("node"),
    _text("direction"),  # up | down
    _count("predicted_bytes"),
    _number("predicted_seconds"),
    _count("actual_bytes"),
    _number("actual_seconds"),
    sa.Index(None, "node", "data_type"),
    sqlite_autoincrement=True,
)

measures: Final = sa.Table(
    "measures",
    metadata,
    _text("node", key=True),
    _number("bytes_per_second"),  # moving average of what its transfers reached; 0 where nothing was moved
    sa.Column("success", sa.Double, nullable=False, server_default="1"),  # moving average of 1 (done) and 0 (failed)
    sa.Column("rtt_seconds", sa.Double),
    sa.Column("disk_free_bytes", sa.BigInteger),
    sa.Column("disk_total_bytes", sa.BigInteger),
    _text("storage"),  # which disk its data lies on, where a probe told: nodes with the same text share it
    _count("last_transfer"),  # id of the last transfer that the averages contain
    _time("at", nullable=False),
)

exclusions: Final = sa.Table(
    "exclusions",
    metadata,
    _text("node", key=True),
    _text("reason"),
    _number("until"),
    _text("epoch"),
    _time("at", nullable=False),
)

backpressure: Final = sa.Table(
    "backpressure",
    metadata,
    _text("owner", key=True),
    sa.Column("active", sa.Boolean, nullable=False),
    _number("pressure"),  # 0 to 1, at the last look
    sa.Column("signals", sa.JSON, nullable=False),
    _time("since_at"),  # when it was activated or released, for display
    _tick("until"),  # when it ends at the latest (active), or before when it may not begin again (released by hand)
    _text("epoch"),
    _text("source"),  # what activated or released it: measured, a person, the longest pause
    _time("looked_at", nullable=False),
)

risks: Final = sa.Table(
    "risks",
    metadata,
    _text("node", key=True),
    _count("games"),  # finished games that the node says are on it alone
    _count("bytes"),
    sa.Column("ids", sa.JSON, nullable=False, server_default="[]"),
    _time("oldest_at"),  # when the oldest of them ended, by our clock
    *(_count(name) for name in ("outbox_bytes", "outbox_packs")),
    _time("at", nullable=False),
    _time("lost_at"),  # when the node was given up with them
)
