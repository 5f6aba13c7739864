"""``token``: sign a token for a node; the coordinator's key is made when it is first needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import show_json
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.settings.settings import Settings

SCOPES = ("node", "relay", "coordinator")


@click.command(context_settings=CONTEXT)
@click.argument("node")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    help="What it allows; may be given again. Default: node.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write; by default <home>/tokens/NODE.jwt.",
)
@verb("hosts", "home")
def token(session: Session, node: str, scopes: tuple[str, ...], out: Path | None) -> int:
    """Sign a token for NODE, good for 30 days, and write it to a file that only you can read.

    The name of the coordinator itself gets scope coordinator, and its token goes where its own programs look for it.
    """
    from ringrift_sync_dagster.core.model import checked_node_name
    from ringrift_sync_dagster.settings import clock
    from ringrift_sync_dagster.settings.identity import TOKEN_SECONDS, create_coordinator_key, issue_token
    from ringrift_sync_dagster.storage.files import atomic_write_text, make_dirs

    settings = session.settings()
    try:
        checked_node_name(node)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NODE") from error
    is_coordinator = _is_coordinator(settings, node)
    keys = settings.home / "keys"
    new_key = not (keys / "coordinator.key").exists()
    signed_at = clock.wall()
    granted = scopes or (("coordinator",) if is_coordinator else ("node",))
    text = issue_token(create_coordinator_key(keys), node, granted, signed_at)
    path = out or (settings.token_file if is_coordinator else settings.home / "tokens" / f"{node}.jwt")
    make_dirs(path.absolute().parent)
    atomic_write_text(path, text + "\n", 0o600)
    expires = clock.utc_iso(signed_at + TOKEN_SECONDS)
    if session.as_json:
        show_json(
            {
                "ok": True,
                "node": node,
                "scopes": list(granted),
                "token_file": str(path),
                "expires": expires,
                "public_key": str(keys / "coordinator.pub"),
                "new_key": new_key,
            }
        )
        return 0
    if new_key:
        click.echo(
            f"made the coordinator's key: {keys / 'coordinator.key'} (keep it; tokens of another key are refused)"
        )
    click.echo(f"token of {node} ({', '.join(granted)}), good until {expires}: {path}")
    click.echo(f"its agent also needs the public key: {keys / 'coordinator.pub'}")
    return 0


def _is_coordinator(settings: Settings, node: str) -> bool:
    """Look the node up; a name that the inventory does not know is refused, because it would be a typing error."""
    from ringrift_sync_dagster.settings.inventory import load_inventory

    if not settings.hosts.exists():
        return False
    return load_inventory(settings.hosts, coordinator=settings.coordinator).get(node).is_coordinator
