"""``plan``, and ``sync --dry-run``: what a pass would move, in which order, about how many bytes and how long."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.names import config_option, node_option, type_option
from ringrift_sync_dagster.cli.output import show_json, show_table, size
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.settings.settings import Settings
    from ringrift_sync_dagster.sync.planner import Measured, SyncPlan

STRATEGIES = ("hybrid", "ephemeral", "broadcast", "pull", "auto", "priority", "quality")
"""As ``sync.strategies.STRATEGY_NAMES``, which is not imported for the help alone; a test compares them."""


@click.command(context_settings=CONTEXT)
@click.option("--strategy", type=click.Choice(STRATEGIES), default="hybrid", show_default=True, help="Whose pass.")
@type_option
@config_option
@node_option
@verb("hosts", "home", "root", "state-url")
def plan(
    session: Session, strategy: str, data_types: tuple[str, ...], configs: tuple[str, ...], nodes: tuple[str, ...]
) -> int:
    """Show what the next pass of a strategy would move; move nothing, and ask no node."""
    from ringrift_sync_dagster.core.model import DataType
    from ringrift_sync_dagster.sync.collect import Request
    from ringrift_sync_dagster.sync.planner import measured_before
    from ringrift_sync_dagster.sync.runtime import Runtime
    from ringrift_sync_dagster.sync.strategies import AutoSyncConfig
    from ringrift_sync_dagster.sync.strategy_plan import SyncPlanner, within

    settings = session.settings()
    with Runtime.open(settings) as runtime:
        for name in nodes:
            runtime.inventory.get(name)
        chosen = SyncPlanner(runtime).plan(AutoSyncConfig.of(strategy, settings))
        measured = measured_before(runtime.state)
    types = [DataType(name) for name in data_types] or None
    chosen = within([Request(types, configs or None, nodes or None)], chosen)
    return show_plan(session, chosen, settings, measured)


def show_plan(session: Session, chosen: SyncPlan, settings: Settings, measured: Measured) -> int:
    """Show a plan, with how far the forecasts before it were off."""
    from ringrift_sync_dagster.sync.difference import as_json

    seconds = chosen.seconds(settings.max_concurrent_syncs)
    if session.as_json:
        rows = [
            {**as_json(one.missing), "priority": one.priority.name, "predicted_bytes": one.size_bytes,
             "predicted_seconds": one.seconds}
            for one in chosen.transfers
        ]  # fmt: skip
        off = None if measured.errors is None else {"bytes": measured.errors[0], "seconds": measured.errors[1]}
        show_json(
            {"ok": True, "transfers": rows, "unknown_nodes": chosen.unknown_nodes, "seconds": seconds,
             "forecasts_off_by": off}
        )  # fmt: skip
        return 0
    shown = [
        (
            one.priority.name, one.missing.node, one.missing.way, one.missing.data_type.value,
            one.missing.config or "-", one.missing.what, size(one.size_bytes), one.seconds, one.missing.why,
        )
        for one in chosen.transfers
    ]  # fmt: skip
    columns = ("priority", "node", "way", "type", "config", "what", "about", "seconds", "why")
    title = f"{len(shown)} to move, about {size(chosen.size_bytes)} in {seconds:.0f} s"
    empty = (
        "nothing is missing on nodes that told their files" if chosen.unknown_nodes else "nothing is missing anywhere"
    )
    show_table(title, columns, shown, empty=empty)
    if chosen.unknown_nodes:
        click.echo(f"never told their files, a pass asks them: {', '.join(chosen.unknown_nodes)}")
    if measured.errors is not None:
        off_bytes, off_seconds = (f"{100 * one:.0f} %" for one in measured.errors)
        click.echo(f"earlier forecasts were off by {off_bytes} of the bytes and {off_seconds} of the seconds (medians)")
    return 0
