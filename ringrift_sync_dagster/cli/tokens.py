"""``token``: sign a token for a node, or refuse all of its tokens; the coordinator's key is made when first needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.names import node_names
from ringrift_sync_dagster.cli.output import show_json
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.settings.settings import Settings

SCOPES = ("node", "relay", "coordinator")


@click.command(context_settings=CONTEXT)
@click.argument("node", shell_complete=node_names)
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
@click.option("--revoke", "revoked", flag_value="revoke", help="Sign nothing: from now on refuse NODE's tokens.")
@click.option("--reinstate", "revoked", flag_value="reinstate", help="Sign nothing: take NODE's tokens again.")
@verb("hosts", "home")
def token(session: Session, node: str, scopes: tuple[str, ...], out: Path | None, revoked: str | None) -> int:
    """Sign a token for NODE, good for 30 days, and write it to a file that only you can read.

    The name of the coordinator itself gets scope coordinator, and its token goes where its own programs look for it.

    --revoke holds for all tokens of NODE, also for those that it renewed, within a second on the coordinator and on
    each agent that has the file <home>/keys/revoked. --reinstate makes the same tokens good again.
    """
    from ringrift_sync_dagster.core.model import checked_node_name

    settings = session.settings()
    try:
        checked_node_name(node)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NODE") from error
    if revoked is None:
        return _sign(session, settings, node, scopes, out)
    if scopes or out is not None:
        raise click.UsageError(f"--{revoked} signs nothing, so it goes without --scope and --out")
    return _set_revoked(session, settings, node, revoked=revoked == "revoke")


def _sign(session: Session, settings: Settings, node: str, scopes: tuple[str, ...], out: Path | None) -> int:
    from ringrift_sync_dagster.settings import clock
    from ringrift_sync_dagster.settings.identity import TOKEN_SECONDS, create_coordinator_key, issue_token
    from ringrift_sync_dagster.settings.revoked import REVOKED_NAME, read_revoked
    from ringrift_sync_dagster.storage.files import atomic_write_text, make_dirs

    is_coordinator = _is_coordinator(settings, node)
    if node in read_revoked(settings.home / "keys" / REVOKED_NAME):
        raise click.UsageError(f"{node} is revoked, so its tokens are refused; take it back first with --reinstate")
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


def _set_revoked(session: Session, settings: Settings, node: str, *, revoked: bool) -> int:
    from ringrift_sync_dagster.settings.revoked import REVOKED_NAME, set_revoked

    known = _in_inventory(settings, node, revoked=revoked)
    path = settings.home / "keys" / REVOKED_NAME
    changed = set_revoked(path, node, revoked=revoked)
    if session.as_json:
        show_json({"ok": True, "node": node, "revoked": revoked, "changed": changed, "file": str(path), "known": known})
        return 0
    if not known:
        click.echo(f"ringrift-sync: warning: the inventory does not know {node}; check the name", err=True)
    state = "revoked" if revoked else "not revoked"
    click.echo(f"{node} is {'now' if changed else 'already'} {state}: {path}")
    click.echo("agents on other machines need this file too (ringrift-sync agent --revoked FILE)")
    return 0


def _in_inventory(settings: Settings, node: str, *, revoked: bool) -> bool:
    """Say whether the inventory knows the node; it need not, for a lost node is taken out of it first.

    Raises:
        UsageError: It is the coordinator, and revoking it would stop everything.

    """
    from ringrift_sync_dagster.settings.inventory import load_inventory

    if not settings.hosts.exists():
        return False
    found = load_inventory(settings.hosts, coordinator=settings.coordinator).nodes.get(node)
    if found is not None and found.is_coordinator and revoked:
        raise click.UsageError(f"{node} is the coordinator: without it nothing is collected, so it cannot be revoked")
    return found is not None


def _is_coordinator(settings: Settings, node: str) -> bool:
    """Look the node up; a name that the inventory does not know is refused, because it would be a typing error."""
    from ringrift_sync_dagster.settings.inventory import load_inventory

    if not settings.hosts.exists():
        return False
    return load_inventory(settings.hosts, coordinator=settings.coordinator).get(node).is_coordinator
