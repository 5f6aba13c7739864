"""``backpressure``: whether transfers that can wait are held now and why, and how a person ends that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import ago, show_json, show_table
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.state.store import StateStore

ACTIONS: Final = ("status", "release")


@click.command(context_settings=CONTEXT)
@click.argument("action", type=click.Choice(ACTIONS), default="status")
@click.option("--reason", metavar="TEXT", help="Why it is released; part of the event.")
@verb("hosts", "home", "root", "state-url")
def backpressure(session: Session, action: str, reason: str | None) -> int:
    """Show whether backpressure holds transfers, or end it.

    status (the default) shows the signals of now and of the last look. release lets everything go on at once, and keeps
    a new pause from beginning for 5 minutes. The exit code is 0 in either state.
    """
    from ringrift_sync_dagster.settings.inventory import load_inventory
    from ringrift_sync_dagster.state.store import StateStore
    from ringrift_sync_dagster.sync.runtime import owner_of

    if reason is not None and action != "release":
        raise click.UsageError("--reason belongs to: ringrift-sync backpressure release")
    settings = session.settings()
    owner = owner_of(settings, load_inventory(settings.hosts, coordinator=settings.coordinator))
    with StateStore.open(settings.state_url) as state:
        if action == "release":
            return _release(session, state, owner, reason or "")
        return _status(session, state, owner)


def _release(session: Session, state: StateStore, owner: str, reason: str) -> int:
    from ringrift_sync_dagster.core.pressure import REST_SECONDS
    from ringrift_sync_dagster.state.backpressure import release

    released = release(state, owner, "manual", reason)
    if session.as_json:
        show_json({"ok": True, "owner": owner, "released": released})
    elif released:
        click.echo(f"released: what was held goes on; no pause begins for {REST_SECONDS:.0f} s")
    else:
        click.echo("nothing was held")
    return 0


def _status(session: Session, state: StateStore, owner: str) -> int:
    from dataclasses import asdict

    from ringrift_sync_dagster.core.pressure import SIGNALS, pressure
    from ringrift_sync_dagster.errors import LocalDiskError
    from ringrift_sync_dagster.state.backpressure import current
    from ringrift_sync_dagster.storage.layout import Layout
    from ringrift_sync_dagster.sync.pressure import measure, shown

    found = current(state, owner)
    try:
        now = measure(state, Layout(session.settings().root))
    except LocalDiskError as error:
        click.echo(f"ringrift-sync: warning: {error}", err=True)
        now = {}
    if session.as_json:
        show_json({"ok": True, **asdict(found), "now": {"signals": now, "pressure": pressure(now)}})
        return 0
    click.echo(f"backpressure of {owner}: {shown(found)}")
    if found.since_at is not None:
        click.echo(f"{'activated' if found.active else 'released'} {ago(found.since_at)} by {found.source}")
    rows = [
        (name, now.get(name), found.signals.get(name), one.low, one.high, one.level(now.get(name, 0.0)), one.meaning)
        for name, one in SIGNALS.items()
    ]
    columns = ("signal", "now", "last look", "low", "high", "level", "meaning")
    show_table(f"signals (last look {ago(found.looked_at)})", columns, rows)
    if found.active:
        click.echo("end it with: ringrift-sync backpressure release --reason TEXT")
    return 0
