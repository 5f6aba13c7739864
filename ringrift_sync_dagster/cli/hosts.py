"""``hosts``: the inventory. ``check`` reads it as every program does, and tells all its problems at once."""

from __future__ import annotations

from typing import Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import show_json, show_table
from ringrift_sync_dagster.cli.session import Session, verb

_SHOWN: Final = ("name", "role", "status", "provider", "is_ephemeral", "address", "agent_port", "collectable")


@click.group(context_settings=CONTEXT)
def hosts() -> None:
    """Look after the inventory (hosts/*.yaml)."""


@hosts.command()
@verb("hosts")
def check(session: Session) -> int:
    """Read the inventory and tell every problem: file, line, host, key and what to do.

    Warnings alone leave the exit code at 0; an error makes it 3.
    """
    from ringrift_sync_dagster.settings.inventory import load_inventory

    settings = session.settings()
    inventory = load_inventory(settings.hosts, coordinator=settings.coordinator)
    nodes = list(inventory.nodes.values())
    if session.as_json:
        show_json(
            {
                "ok": True,
                "hosts": str(settings.hosts),
                "coordinator": inventory.coordinator.name if inventory.coordinator else None,
                "nodes": [{name: getattr(node, name) for name in _SHOWN} for node in nodes],
                "warnings": [str(problem) for problem in inventory.warnings],
            }
        )
        return 0
    rows = [
        (node.name, node.role, node.status, node.provider, "ephemeral" if node.is_ephemeral else "persistent",
         node.address, "yes" if node.collectable else "no")
        for node in nodes
    ]  # fmt: skip
    show_table("hosts", ("host", "role", "status", "provider", "kind", "address", "collected"), rows)
    for problem in inventory.warnings:
        click.echo(f"ringrift-sync: {problem.severity}: {problem}", err=True)
    click.echo(f"{len(nodes)} hosts in {settings.hosts}, {len(inventory.warnings)} warnings, no error")
    return 0
