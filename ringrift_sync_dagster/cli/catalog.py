"""``where``: on which nodes the data of a config lies, as far as nodes told and receipts prove; no node is asked."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import ago, show_json, show_table, size
from ringrift_sync_dagster.cli.session import Session, verb
from ringrift_sync_dagster.cli.sync import ConfigName
from ringrift_sync_dagster.node.patterns import DATA_TYPES

if TYPE_CHECKING:
    from ringrift_sync_dagster.state.manifest import DataLocation


@click.command(context_settings=CONTEXT)
@click.argument("config", type=ConfigName())
@click.option("--type", "data_type", type=click.Choice(DATA_TYPES), help="Only this data type.")
@click.option("--node", metavar="NAME", help="Only what this node has.")
@click.option("--hash", "digest", metavar="SHA256", help="Only this content; its first digits are enough.")
@verb("hosts", "state-url")
def where(session: Session, config: str, data_type: str | None, node: str | None, digest: str | None) -> int:
    """Show where the data of CONFIG lies, and how many verified copies there are of each content."""
    from ringrift_sync_dagster.state.manifest import Manifest
    from ringrift_sync_dagster.state.store import StateStore

    with StateStore.open(session.settings().state_url) as state:
        known = Manifest(state).get_data_locations(config, data_type)
    copies = Counter(one.sha256 for one in known if one.sha256)
    found = [one for one in known if _is_meant(one, node, digest)]
    if session.as_json:
        from dataclasses import asdict

        rows = [{**asdict(one), "copies": copies.get(one.sha256 or "", 0)} for one in found]
        show_json({"ok": True, "locations": rows})
        return 0
    columns = ("type", "node", "path", "sha256", "copies", "size", "games", "told", "verified")
    lines = [
        (
            one.data_type, one.node, one.path, (one.sha256 or "-")[:12], copies.get(one.sha256 or "", 0) or "-",
            "-" if one.size_bytes is None else size(one.size_bytes), "-" if one.games is None else one.games,
            ago(one.seen_at), "never" if one.verified_at is None else ago(one.verified_at),
        )
        for one in found
    ]  # fmt: skip
    show_table(config, columns, lines, empty=f"nobody told of any data of {config}")
    return 0


def _is_meant(one: DataLocation, node: str | None, digest: str | None) -> bool:
    return node in (None, one.node) and (digest is None or (one.sha256 or "").startswith(digest.lower()))
