"""``quarantine``: what was set aside, why, and how to take it back; nothing here deletes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import ago, clean, show_json, show_table, size
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.storage.quarantine import Quarantine, QuarantineEntry


@click.group(context_settings=CONTEXT)
def quarantine() -> None:
    """See and take back what was set aside."""


@quarantine.command("list")
@click.option("--node", metavar="NAME", help="Only what came from this node.")
@verb("hosts", "root")
def list_entries(session: Session, node: str | None) -> int:
    """Show everything that was set aside, and why."""
    entries = [entry for entry in _quarantine(session).entries() if node in {None, entry.node}]
    if session.as_json:
        show_json({"ok": True, "entries": [_json(entry) for entry in entries]})
        return 0
    rows = [
        (entry.node, entry.name, entry.problem or entry.reason, size(entry.size_bytes), ago(entry.at), entry.detail)
        for entry in entries
    ]
    show_table("quarantine", ("node", "name", "reason", "size", "when", "detail"), rows, empty="nothing is set aside")
    return 0


@quarantine.command()
@click.argument("node")
@click.argument("name")
@verb("hosts", "root")
def show(session: Session, node: str, name: str) -> int:
    """Show one entry: NODE and NAME as `list` writes them."""
    entry = _entry(_quarantine(session), node, name)
    if session.as_json:
        show_json({"ok": True, "entry": _json(entry)})
        return 0
    for field, value in _json(entry).items():
        click.echo(f"{field:12} {clean(value)}")
    return 0


@quarantine.command()
@click.argument("node")
@click.argument("name")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@verb("hosts", "root")
def restore(session: Session, node: str, name: str, out: Path) -> int:
    """Copy the bytes of one entry to a file, verified; the entry stays."""
    if out.exists():
        raise click.BadParameter(f"{out} exists; name a new file", param_hint="--out")
    found = _quarantine(session)
    entry = _entry(found, node, name)
    found.restore(node, name, out)
    if session.as_json:
        show_json({"ok": True, "file": str(out), "sha256": entry.sha256, "size_bytes": entry.size_bytes})
    else:
        click.echo(f"{out}: {size(entry.size_bytes)} of {node}, SHA-256 {entry.sha256}")
    return 0


def _quarantine(session: Session) -> Quarantine:
    from ringrift_sync_dagster.storage.layout import Layout
    from ringrift_sync_dagster.storage.quarantine import Quarantine

    return Quarantine(Layout(session.settings().root).quarantine)


def _entry(found: Quarantine, node: str, name: str) -> QuarantineEntry:
    entry = found.get(node, name)
    if entry is None:
        raise click.ClickException(
            f"nothing of {node} named {name} is set aside; `ringrift-sync quarantine list` shows all"
        )
    return entry


def _json(entry: QuarantineEntry) -> dict[str, object]:
    from dataclasses import asdict

    from ringrift_sync_dagster.settings import clock

    return {**asdict(entry), "at": clock.utc_iso(entry.at), "path": str(entry.path)}
