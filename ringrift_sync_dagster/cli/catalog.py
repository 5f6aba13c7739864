"""``where``, ``diff`` and ``verify``: what lies where, what is missing where, and whether it still is what it was.

The first two ask no node: they tell what nodes told last, and what receipts prove.
"""

from __future__ import annotations

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.names import ConfigName, config_option, node_names, node_option
from ringrift_sync_dagster.cli.output import ago, show_json, show_table, size
from ringrift_sync_dagster.cli.session import Session, verb
from ringrift_sync_dagster.node.patterns import DATA_TYPES


@click.command(context_settings=CONTEXT)
@click.argument("config", type=ConfigName())
@click.option("--type", "data_type", type=click.Choice(DATA_TYPES), help="Only this data type.")
@click.option("--node", shell_complete=node_names, metavar="NAME", help="Only what this node has.")
@click.option("--hash", "digest", metavar="SHA256", help="Only this content; its first digits are enough.")
@verb("hosts", "state-url")
def where(session: Session, config: str, data_type: str | None, node: str | None, digest: str | None) -> int:
    """Show where the data of CONFIG lies, and how many verified copies there are of each content."""
    from ringrift_sync_dagster.state.manifest import Manifest
    from ringrift_sync_dagster.state.store import StateStore

    with StateStore.open(session.settings().state_url) as state:
        manifest = Manifest(state)
        found = manifest.locations(config=config, data_type=data_type, node=node or "", sha256=digest or "")
        copies = manifest.copies(config)
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


@click.command(context_settings=CONTEXT)
@click.argument("node", shell_complete=node_names)
@click.option("--all", "asked", is_flag=True, help="As if the node had been named with --to: it is brought everything.")
@verb("hosts", "home", "root", "state-url")
def diff(session: Session, node: str, asked: bool) -> int:  # noqa: FBT001 - a flag
    """Show what NODE and the coordinator lack of each other, and why; what a pass would work on."""
    from ringrift_sync_dagster.sync.difference import as_json, difference
    from ringrift_sync_dagster.sync.owner_state import OwnerState
    from ringrift_sync_dagster.sync.runtime import Runtime

    with Runtime.open(session.settings()) as runtime:
        found = difference(OwnerState(runtime), runtime.nodes([node])[0], asked=asked)
    told = found.known.manifest_at if found.known else None
    if session.as_json:
        show_json({"ok": True, "node": node, "told_at": told, "missing": [as_json(one) for one in found.missing]})
        return 0
    lines = [
        (
            one.way, one.data_type.value, one.config or "-", one.what, "-" if one.count is None else one.count,
            "-" if one.size_bytes is None else size(one.size_bytes), one.why,
        )
        for one in found.missing
    ]  # fmt: skip
    title = f"{node} (told its files {ago(told)})"
    nothing = "nobody knows: it never told its files, a pass asks it" if told is None else "nothing is missing"
    show_table(title, ("way", "type", "config", "what", "count", "size", "why"), lines, empty=nothing)
    return 0


@click.command(context_settings=CONTEXT)
@click.option("--deep", is_flag=True, help="Hash every file again, on nodes too, and read databases to the end.")
@click.option("--no-repair", is_flag=True, help="Only look.")
@config_option
@node_option
@verb("hosts", "home", "root", "state-url")
def verify(session: Session, deep: bool, no_repair: bool, configs: tuple[str, ...], nodes: tuple[str, ...]) -> int:  # noqa: FBT001 - flags
    """Look again at what was verified once, and repair from another verified copy what was lost or rotted."""
    from dataclasses import asdict

    from ringrift_sync_dagster.sync.runtime import Runtime
    from ringrift_sync_dagster.sync.verify import verify as look

    with Runtime.open(session.settings()) as runtime:
        found = look(runtime, configs=configs or None, nodes=nodes or None, deep=deep, repair=not no_repair)
    if session.as_json:
        rows = [asdict(one) for one in found.findings]
        show_json({"ok": not found.unrepaired, "looked_at": found.looked_at, "findings": rows})
    else:
        lines = [(one.node, one.data_type, one.path, one.condition.value, one.detail) for one in found.findings]
        title = f"{found.looked_at} files and databases looked at"
        show_table(title, ("node", "type", "path", "condition", "detail"), lines, empty="all as they were verified")
    return 1 if found.unrepaired else 0
