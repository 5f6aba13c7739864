"""``agent``: run a node's service in the foreground; what no option says, the inventory says."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.agent.forwarding import Forward
    from ringrift_sync_dagster.agent.through_config import WriteThrough
    from ringrift_sync_dagster.settings.identity import CoordinatorKey
    from ringrift_sync_dagster.settings.inventory import Inventory, Node
    from ringrift_sync_dagster.settings.settings import Settings

log = logging.getLogger(__name__)

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_DIRECTORY = click.Path(path_type=Path, file_okay=False)


class _OwnerOptions(TypedDict, total=False):
    """Options of ``run_agent`` that only the coordinator needs."""

    incoming: Path
    state_url: str
    merge_into: Path
    hosts: Path
    coordinator_key: CoordinatorKey


@click.command(context_settings=CONTEXT)
@click.option("--node", "name", required=True, metavar="NAME", help="Name of this node, as in the inventory.")
@click.option(
    "--root",
    "roots",
    type=_DIRECTORY,
    multiple=True,
    help="An ai-service directory; may be given again. Default: what the inventory says.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 takes a free one.  [default: the inventory's, or 8765]",
)
@click.option("--public-key", type=_FILE, help="The coordinator's public key.  [default: <home>/keys/coordinator.pub]")
@click.option(
    "--revoked",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Ids to refuse, one per line; it may change at any time.  [default: <home>/keys/revoked]",
)
@click.option("--tls-cert", type=_FILE, help="This node's certificate in PEM form.")
@click.option("--tls-key", type=_FILE, help="Its private key in PEM form.")
@click.option(
    "--write-through/--no-write-through",
    default=None,
    help="Make finished games durable on the coordinator at once.  [default: on a node that is_ephemeral]",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="This node's own token, for write-through.  [default: <home>/tokens/NAME.jwt]",
)
@click.option(
    "--min-durable-copies",
    type=click.IntRange(1, 16),
    help="So many persistent nodes with a pack are as good as the coordinator.  [default: the setting, 1]",
)
@click.option(
    "--preemption-notice",
    metavar="URL|aws",
    help="Ask there whether the provider takes this machine back.  [default: preemption_notice of the node, or off]",
)
@verb("hosts", "home")
def agent(  # noqa: PLR0913, PLR0917 - one for each option
    session: Session,
    name: str,
    roots: tuple[Path, ...],
    host: str,
    port: int | None,
    public_key: Path | None,
    revoked: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    write_through: bool | None,  # noqa: FBT001 - a flag
    token_file: Path | None,
    min_durable_copies: int | None,
    preemption_notice: str | None,
) -> int:
    """Run the service of a node until SIGTERM or Ctrl-C.

    Outside loopback it needs the coordinator's public key, and outside the inventory's trusted_networks a certificate
    too. On the coordinator it renews the nodes' tokens, with the key in <home>/keys. With write-through it watches the
    node's games databases, and at the end it pushes what waits, for 15 s at most; with --preemption-notice it drains
    when the provider says that it takes the machine back, in the time that is left.
    """
    from ringrift_sync_dagster.agent.serve import run_agent
    from ringrift_sync_dagster.settings.revoked import REVOKED_NAME
    from ringrift_sync_dagster.transports.networks import DEFAULT_TRUSTED

    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together")
    settings = session.settings()
    inventory = _inventory(settings)
    node = inventory.get(name) if inventory is not None else None
    logging.getLogger("ringrift_sync_dagster").setLevel(logging.DEBUG if session.verbose > 1 else logging.INFO)
    public_key_pem = _public_key(public_key or settings.home / "keys" / "coordinator.pub")
    token_file = token_file or settings.home / "tokens" / f"{name}.jwt"
    copies = settings.min_durable_copies if min_durable_copies is None else min_durable_copies
    writes = _write_through(write_through, name, inventory, None if public_key_pem is None else token_file)
    url = _preemption_url(preemption_notice, node, is_on=writes is not None)
    run_agent(
        name,
        list(roots) or _roots(settings, node),
        host,
        port if port is not None else (node.agent_port if node is not None else settings.agent_port),
        public_key_pem=public_key_pem,
        tls=None if tls_cert is None or tls_key is None else (tls_cert, tls_key),
        trusted_networks=DEFAULT_TRUSTED if inventory is None else [str(net) for net in inventory.trusted_networks],
        revoked=revoked or settings.home / "keys" / REVOKED_NAME,
        # Of a node that no inventory knows nobody can promise that it stays.
        is_ephemeral=node is None or node.is_ephemeral,
        forward=_forward(settings, inventory, node),
        min_durable_copies=copies,
        write_through=writes and replace(writes, min_durable_copies=copies, preemption_url=url),
        **_as_owner(settings, node),
    )
    return 0


def _write_through(
    asked: bool | None,  # noqa: FBT001 - what the option says
    name: str,
    inventory: Inventory | None,
    token_file: Path | None,
) -> WriteThrough | None:
    """Say where write-through goes, or None where it is off; the inventory decides unless somebody asked for it."""
    from ringrift_sync_dagster.agent.through_config import WriteThrough
    from ringrift_sync_dagster.transports.networks import as_called_by_others

    node = inventory.nodes.get(name) if inventory is not None else None
    owner = _owner(inventory)
    if not (asked if asked is not None else node is not None and node.is_ephemeral):
        return None
    if inventory is None or owner is None or owner.name == name or not owner.own_addresses:
        why = "write-through needs an inventory that names another node, with an address, as the coordinator"
        if asked:
            raise click.UsageError(why)
        log.warning("write-through is off node=%s cause=%s", name, why)
        return None
    if token_file is not None and not token_file.is_file():
        why = f"there is no token of this node at {token_file}; ringrift-sync token {name} makes one"
        if asked:
            raise click.UsageError(why)
        log.warning("write-through is off node=%s cause=%s", name, why)
        return None
    called = [as_called_by_others(one, inventory.nodes.values()) for one in inventory.active_nodes()]
    stay = [one for one in called if not (one.is_ephemeral or one.nat_blocked or one.is_coordinator)]
    peers = tuple(one for one in stay if one.own_addresses and one.name not in {name, owner.name})
    return WriteThrough(owner, token_file, peers)


def _preemption_url(asked: str | None, node: Node | None, *, is_on: bool) -> str:
    """Say where notices are asked for; nowhere where write-through is off, because there is nothing to drain."""
    from ringrift_sync_dagster.agent.preemption import checked_url

    if asked is not None and not is_on:
        raise click.UsageError("--preemption-notice needs write-through, which is off: it drains what that has")
    told = asked if asked is not None else node is not None and node.extra.get("preemption_notice")
    if not (told and is_on):
        return ""
    try:
        return checked_url(str(told))
    except ValueError as error:
        raise click.UsageError(f"preemption notice: {error}") from error


def _inventory(settings: Settings) -> Inventory | None:
    """Read the inventory if there is one; a node needs none when its options say everything."""
    from ringrift_sync_dagster.settings.inventory import load_inventory

    if not settings.hosts.exists():
        return None
    return load_inventory(settings.hosts, coordinator=settings.coordinator)


def _as_owner(settings: Settings, node: Node | None) -> _OwnerOptions:
    """On the coordinator, what nodes push is merged at once, and its receipts are in the shared state.

    Its key is there as well once a token was signed; then its agent renews tokens.
    """
    from ringrift_sync_dagster.settings.identity import PRIVATE_NAME, load_coordinator_key

    if node is None or not node.is_coordinator:
        return {}
    owner: _OwnerOptions = {
        "incoming": settings.root / "data" / "incoming", "state_url": settings.state_url, "merge_into": settings.root,
        "hosts": settings.hosts,
    }  # fmt: skip
    if (settings.home / "keys" / PRIVATE_NAME).is_file():
        owner["coordinator_key"] = load_coordinator_key(settings.home / "keys")
    return owner


def _forward(settings: Settings, inventory: Inventory | None, node: Node | None) -> Forward | None:
    """A node that stays brings packs of others to the coordinator, once it has a token."""
    from ringrift_sync_dagster.agent.forwarding import Forward

    owner = _owner(inventory)
    if owner is None or node is None or node.is_coordinator or node.is_ephemeral or not owner.own_addresses:
        return None
    return Forward(owner, settings.token_file) if settings.token_file.is_file() else None


def _owner(inventory: Inventory | None) -> Node | None:
    """Give the coordinator as other nodes call it."""
    from ringrift_sync_dagster.transports.networks import as_called_by_others

    if inventory is None or inventory.coordinator is None:
        return None
    return as_called_by_others(inventory.coordinator, inventory.nodes.values())


def _roots(settings: Settings, node: Node | None) -> list[Path]:
    if node is None:
        raise click.UsageError("there is no inventory here, so say where the data is: --root DIR")
    return [settings.root if node.is_coordinator else Path(node.ringrift_path), *map(Path, node.storage_paths)]


def _public_key(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None
