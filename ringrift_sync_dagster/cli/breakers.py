"""``breakers``: which transports of which nodes are left alone now and why, and closing them by hand."""

from __future__ import annotations

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import ago, show_json, show_table
from ringrift_sync_dagster.cli.session import Session, verb
from ringrift_sync_dagster.core.escalation import Rung


@click.group(context_settings=CONTEXT, invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout, where no verb is given.")
@click.pass_context
def breakers(context: click.Context, as_json: bool) -> int | None:  # noqa: FBT001 - a flag
    """Show circuit breakers, or close those of a node; without a verb they are listed."""
    if context.invoked_subcommand is not None:
        return None
    code: int = context.invoke(list_breakers, as_json=as_json, verbose=0, hosts=None, home=None, state_url=None)
    return code


@breakers.command("list", context_settings=CONTEXT)
@verb("hosts", "home", "state-url")
def list_breakers(session: Session) -> int:
    """List every breaker that counted a failure, and the nodes that are excluded as targets; nobody is asked."""
    from dataclasses import asdict

    from ringrift_sync_dagster.state import exclusions
    from ringrift_sync_dagster.state.breakers import breaker_rows
    from ringrift_sync_dagster.state.store import StateStore

    with StateStore.open(session.settings().state_url) as state:
        rows = [row for row in breaker_rows(state) if row.failures]
        excluded = exclusions.current(state)
    if session.as_json:
        told = [asdict(row) for row in rows]
        show_json({"ok": True, "breakers": told, "excluded": [asdict(one) for one in excluded.values()]})
        return 0
    lines = [
        (
            row.node, row.transport, row.state.value, row.failures, f"{row.seconds_left:.0f} s",
            str(row.probe or "-"), ago(row.changed_at), row.last_error,
        )
        for row in rows
    ]  # fmt: skip
    columns = ("node", "transport", "state", "failures", "left", "probed by", "changed", "last error")
    show_table("breakers", columns, lines, empty="all are closed")
    if excluded:
        told_of = [(one.node, f"{one.seconds_left:.0f} s", one.reason) for one in excluded.values()]
        show_table("excluded as targets", ("node", "left", "why"), told_of)
    return 0


@breakers.command(context_settings=CONTEXT)
@click.argument("node")
@click.argument("transport", required=False, type=click.Choice([rung.value for rung in Rung]))
@verb("hosts", "home", "state-url")
def reset(session: Session, node: str, transport: str | None) -> int:
    """Close the breaker of one TRANSPORT of NODE, or all of them and the node's exclusion as a target.

    The next pass then asks the node at once. Exit code 3: neither the inventory nor the state knows the node.
    """
    from ringrift_sync_dagster.settings.inventory import load_inventory
    from ringrift_sync_dagster.state import breakers as state_of_breakers
    from ringrift_sync_dagster.state import exclusions
    from ringrift_sync_dagster.state.store import StateStore

    settings = session.settings()
    inventory = load_inventory(settings.hosts, coordinator=settings.coordinator)
    with StateStore.open(settings.state_url) as state:
        if node not in {row.node for row in state_of_breakers.breaker_rows(state)}:
            inventory.get(node)  # a node that left the inventory may still have breakers
        closed = state_of_breakers.reset(state, node, transport)
        lifted = transport is None and exclusions.lift(state, node)
    if session.as_json:
        show_json({"ok": True, "node": node, "closed": closed, "exclusion_ended": lifted})
        return 0
    words = "no breaker had counted a failure" if not closed else f"{closed} closed"
    click.echo(f"{node}: {words}{'; it is no longer excluded as a target' if lifted else ''}")
    return 0
