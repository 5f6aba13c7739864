"""``explain``: the chain of decisions about a node, one line each, with the command or key that would change it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import clean, show_json
from ringrift_sync_dagster.cli.session import Session, verb
from ringrift_sync_dagster.node.patterns import DATA_TYPES

if TYPE_CHECKING:
    from ringrift_sync_dagster.sync.explain import Explanation
    from ringrift_sync_dagster.sync.router import Route


@click.command(context_settings=CONTEXT)
@click.argument("node")
@click.argument("data_type", metavar="[TYPE]", required=False, type=click.Choice(DATA_TYPES))
@click.option("--probe", is_flag=True, help="Ask the node too: over each transport, for its disk and what it shares.")
@verb("hosts", "home", "root", "state-url")
def explain(session: Session, node: str, data_type: str | None, probe: bool) -> int:  # noqa: FBT001 - a flag
    """Show why NODE gets and gives what it does, of one data TYPE or of all.

    Without --probe nobody is asked, and it ends within a second; with it within two minutes although the node is
    silent. Exit codes: 0 it was told; 1 something failed; 2 wrong usage; 3 the inventory has no such node.
    """
    from ringrift_sync_dagster.core.model import DataType
    from ringrift_sync_dagster.sync.explain import explain as explained
    from ringrift_sync_dagster.sync.runtime import Runtime

    kinds = tuple(DataType) if data_type is None else (DataType(data_type),)
    with Runtime.open(session.settings()) as runtime:
        found = explained(runtime, node, kinds, probe=probe)
    if session.as_json:
        show_json(_json(found))
        return 0
    for one in found.decisions:
        told = ": ".join(part for part in (one.verdict, one.why) if part)
        click.echo(clean(f"{one.about}: {told}" + (f"  [{one.fix}]" if one.fix else "")))
    return 0


def _json(found: Explanation) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "ok": True,
        "node": found.node,
        "decisions": [asdict(one) for one in found.decisions],
        "targets": {route.data_type.value: _route(route) for route in found.targets},
        "sources": {route.data_type.value: _route(route) for route in found.sources},
    }


def _route(route: Route) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "included": not route.refusals,
        "score": route.score,
        "quality": route.quality,
        "parts": [asdict(part) for part in route.parts],
        "refusals": [asdict(refusal) for refusal in route.refusals],
    }
