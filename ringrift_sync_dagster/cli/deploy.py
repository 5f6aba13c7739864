"""``deploy``: put the agent on nodes over SSH, upgrade it in place, or remove it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.names import node_names
from ringrift_sync_dagster.cli.output import clean, show_json, show_table
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ringrift_sync_dagster.sync.deploy import Deployed

EXAMPLES: Final = """\b
Examples:
  ringrift-sync deploy vast-12345 nebius-t1
  ringrift-sync deploy vast-12345 --remove
"""


@click.command(context_settings=CONTEXT, epilog=EXAMPLES)
@click.argument("nodes", shell_complete=node_names, nargs=-1, required=True, metavar="NODE...")
@click.option(
    "--remove", "is_removal", is_flag=True, help="Stop the agent and remove what deploy put there; data stays."
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the agent.  [default: the inventory's, or 8765]")
@click.option(
    "--wheel",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="The project's wheel.  [default: built from this checkout]",
)
@click.option(
    "--wheels",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Wheels of the requirements, for nodes that reach no package index.",
)
@click.option("--no-systemd", is_flag=True, help="Use our own supervisor also where systemd user units work.")
@verb("hosts", "home")
def deploy(
    session: Session,
    nodes: tuple[str, ...],
    is_removal: bool,  # noqa: FBT001 - click passes it by name
    port: int | None,
    wheel: Path | None,
    wheels: Path | None,
    no_systemd: bool,  # noqa: FBT001 - click passes it by name
) -> int:
    """Put the agent on each NODE over SSH and have it kept running; the exit code is 1 when one failed.

    A node gets a virtual environment of its own, the agent, the coordinator's public key, a token, and outside the
    trusted networks a TLS certificate. Run it again to upgrade or repair; where all is well it changes nothing. The
    node needs Python 3.11 and its own way to a package index (or --wheels).
    """
    from ringrift_sync_dagster.settings.inventory import load_inventory
    from ringrift_sync_dagster.sync import deploy as use_case

    if is_removal and (port is not None or wheel is not None or wheels is not None or no_systemd):
        raise click.UsageError("--remove takes everything away, so it goes without the other options")
    settings = session.settings()
    inventory = load_inventory(settings.hosts, coordinator=settings.coordinator)
    if is_removal:
        done = use_case.remove(settings, inventory, nodes)
    else:
        options = use_case.DeployOptions(port, wheel, wheels, systemd=not no_systemd)
        done = use_case.deploy(settings, inventory, nodes, options)
    failed = sum(1 for one in done if one.failure)
    if session.as_json:
        show_json({"ok": not failed, "nodes": [asdict(one) for one in done]})
    else:
        _show(done, failed)
    return 1 if failed else 0


def _show(done: Sequence[Deployed], failed: int) -> None:
    rows = [
        (one.node, one.result, one.release or None, one.kept_by or None, one.agent or None, one.seconds) for one in done
    ]
    show_table("deploy", ("node", "result", "release", "kept by", "from here", "seconds"), rows)
    for one in done:
        for note in one.notes:
            click.echo(clean(f"{one.node}: {note}"))
        if one.failure:
            click.echo(clean(f"ringrift-sync: {one.node}: {one.failure}"), err=True)
    click.echo(f"{len(done)} nodes, {failed} failed")
