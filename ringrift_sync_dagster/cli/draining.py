"""``drain``: let a node take no more, push what only it has, and say what it could not save."""

from __future__ import annotations

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import clean, show_json, size
from ringrift_sync_dagster.cli.session import Session, verb

_SLACK_SECONDS = 20.0  # what connecting, and an answer after the node's own deadline, may take
_IDS_SHOWN = 20


@click.command(context_settings=CONTEXT)
@click.argument("node")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 600),
    default=60.0,
    show_default=True,
    help="How long the node may push.",
)
@verb("hosts", "home", "state-url")
def drain(session: Session, node: str, seconds: float) -> int:
    """Empty NODE before it goes: it takes no more bulk and pushes all games that only it has.

    Until its agent is started again it takes nothing from others; its own games are pushed as before. The exit code is
    1 when something could not be saved within the time, or the node cannot be asked; the ids of the games are told.
    """
    from ringrift_sync_dagster.settings.clock import Deadline
    from ringrift_sync_dagster.sync.runtime import Runtime

    with Runtime.open(session.settings()) as runtime:
        known = runtime.inventory.get(node)
        with runtime.ladder.agent_of(known) as way:
            found = way.tell("/v1/drain", {"seconds": seconds}, deadline=Deadline.after(seconds + _SLACK_SECONDS))
    drained = found.get("drained") is True
    if session.as_json:
        show_json({"ok": drained, "node": node, **found})
        return 0 if drained else 1
    if drained:
        click.echo(f"{node}: all of its games are durable elsewhere; until its agent is restarted it takes no bulk")
        return 0
    ids = found.get("ids")
    named = [str(one) for one in ids] if isinstance(ids, list) else []
    shown = ", ".join(named[:_IDS_SHOWN] + ["..."] * (len(named) > _IDS_SHOWN))
    click.echo(clean(f"{node}: not saved: {found.get('games')} games ({_bytes(found)}): {shown}"))
    for why in (found.get("unread"), found.get("error")):
        if why:
            click.echo(clean(f"{node}: {why}"), err=True)
    return 1


def _bytes(found: dict[str, object]) -> str:
    waiting = found.get("bytes")
    return size(waiting) if isinstance(waiting, int) else "size unknown"
