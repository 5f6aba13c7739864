"""``drain``: let a node take no more, push what only it has, and say what it could not save; and end that again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import clean, show_json, size
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ringrift_sync_dagster.sync.draining import Answer

_IDS_SHOWN = 20


@click.command(context_settings=CONTEXT)
@click.argument("node")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 600),
    default=60.0,
    show_default=True,
    help="How long the node may push; with --resume, how long its heartbeat is waited for.",
)
@click.option("--resume", "is_resumed", is_flag=True, help="Let it take bulk again.")
@verb("hosts", "home", "state-url")
def drain(session: Session, node: str, seconds: float, is_resumed: bool) -> int:  # noqa: FBT001 - a flag
    """Empty NODE before it goes: it takes no more bulk and pushes all games that only it has.

    Until --resume, or until its agent is started again, it takes nothing from others; its own games are pushed as
    before. A node that cannot be reached, such as one behind NAT, is asked with the answer to its next heartbeat; then
    it is drained until --resume. The exit code is 1 when something could not be saved within the time, or the node
    cannot be asked; the ids of the games are told.
    """
    from ringrift_sync_dagster.sync import draining
    from ringrift_sync_dagster.sync.runtime import Runtime

    def notice(words: str) -> None:
        click.echo(clean(words), err=True)

    with Runtime.open(session.settings()) as runtime:
        known = runtime.inventory.get(node)
        do = draining.resume if is_resumed else draining.drain
        answer = do(runtime, known, seconds, notice)
    if session.as_json:
        way = "heartbeat" if answer.by_heartbeat else "agent"
        show_json({"ok": answer.ok, "node": node, "by": way, **answer.told})
    elif is_resumed:
        _show_resumed(node, answer)
    else:
        _show_drained(node, answer)
    return 0 if answer.ok else 1


def _show_resumed(node: str, answer: Answer) -> None:
    if not answer.ok:
        click.echo(clean(f"{node}: {answer.told.get('error')}"))
        return
    before = "" if answer.told.get("was_draining") else "; it did before, too"
    click.echo(f"{node}: takes bulk again{before}")


def _show_drained(node: str, answer: Answer) -> None:
    found = answer.told
    if found.get("again") is True:
        click.echo(f"{node}: it was drained before; it pushed once more", err=True)
    if answer.ok:
        until = "--resume" if answer.by_heartbeat else "--resume, or a restart of its agent,"
        click.echo(f"{node}: all of its games are durable elsewhere; until {until} it takes no bulk")
        return
    ids = found.get("ids")
    named = [str(one) for one in ids] if isinstance(ids, list) else []
    shown = ", ".join(named[:_IDS_SHOWN] + ["..."] * (len(named) > _IDS_SHOWN))
    waiting = f"{found.get('games')} games ({_bytes(found)}): {shown}" if found.get("games") else ""
    unknown = "what lies in databases that were not read" if found.get("unread") else ""
    click.echo(clean(f"{node}: not saved: {'; and '.join(part for part in (waiting, unknown) if part) or 'unknown'}"))
    for why in (found.get("unread"), found.get("error")):
        if why:
            click.echo(clean(f"{node}: {why}"), err=True)


def _bytes(found: Mapping[str, Any]) -> str:
    waiting = found.get("bytes")
    return size(waiting) if isinstance(waiting, int) else "size unknown"
