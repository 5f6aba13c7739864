"""Names that a shell completes: nodes of the inventory. It answers fast, and where nothing can be read with nothing."""

from __future__ import annotations

import click


def node_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's form
    """Give the nodes of the inventory whose names begin so; the options of the line count."""
    try:
        from ringrift_sync_dagster.settings.inventory import load_inventory
        from ringrift_sync_dagster.settings.settings import load_settings

        settings = load_settings(hosts=ctx.params.get("hosts"), home=ctx.params.get("home"))
        inventory = load_inventory(settings.hosts, coordinator=settings.coordinator)
    except Exception:  # noqa: BLE001 - a person who presses TAB must not read of our errors
        return []
    return [name for name in inventory.nodes if name.startswith(incomplete)]
