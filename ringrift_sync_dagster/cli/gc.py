"""``gc``: delete what the retention rules let go, or show what would go, and why."""

from __future__ import annotations

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import clean, show_json, show_table, size
from ringrift_sync_dagster.cli.session import Session, verb


@click.command(context_settings=CONTEXT)
@click.option("--dry-run", is_flag=True, help="Delete nothing; show what would go, and why.")
@verb("hosts", "home", "root", "state-url")
def gc(session: Session, dry_run: bool) -> int:  # noqa: FBT001 - a flag
    """Delete what the retention rules let go: files here, packs that agents hold for us, rows of the state database.

    What somebody uses now stays for the next time. The exit code is 1 when a class stays above its quota.
    """
    from dataclasses import asdict

    from ringrift_sync_dagster.sync.retention import keep
    from ringrift_sync_dagster.sync.runtime import Runtime

    with Runtime.open(session.settings()) as runtime:
        done = keep(runtime, dry_run=dry_run)
    if session.as_json:
        show_json(
            {
                "ok": not done.plan.shortages,
                "dry_run": dry_run,
                "deleted": [
                    {"class": one.item.kind.value, "name": one.item.name, "bytes": one.item.size_bytes, "why": one.why}
                    for one in done.deleted
                ],
                "freed_bytes": done.freed_bytes,
                "skipped": [{"name": name, "why": why} for name, why in done.skipped],
                "rows": dict(done.rows),
                "shortages": [asdict(one) for one in done.plan.shortages],
                "notes": list(done.notes),
            }
        )
        return 1 if done.plan.shortages else 0
    rows = [(one.item.kind.value, one.item.name, size(one.item.size_bytes), one.why) for one in done.deleted]
    title = "would go" if dry_run else "gone"
    show_table(title, ("class", "what", "size", "why"), rows, empty="nothing")
    counted = ", ".join(f"{count} {name}" for name, count in done.rows.items() if count) or "no"
    for name, why in done.skipped:
        click.echo(clean(f"stays for now: {name}: {why}"))
    for note in done.notes:
        click.echo(clean(f"note: {note}"))
    for short in done.plan.shortages:
        click.echo(clean(f"ringrift-sync: above its quota: {short}"), err=True)
    click.echo(f"{len(rows)} files, {size(done.freed_bytes)}; {counted} rows of the state database")
    return 1 if done.plan.shortages else 0
