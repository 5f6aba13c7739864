"""What a deploy does to one node: a pure decision from what is wanted and what was found there.

The agent listens where the node is called: on a loopback address itself, else on all addresses, because it is also
called through ``ssh -L`` (and Tailscale in user space leads to loopback). Without a certificate it refuses whoever
comes from outside the trusted networks; a node that is called at an address outside of them gets a certificate. A node
that only SSH leads to is called on loopback.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ringrift_sync_dagster.errors import TokenError
from ringrift_sync_dagster.settings.identity import Scope, verify_token
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.sync.deployment.found import Found
from ringrift_sync_dagster.transports.networks import is_loopback

SYSTEMD: Final = "systemd"
SUPERVISOR: Final = "supervisor"
LOOPBACK: Final = "127.0.0.1"
PUBLIC_KEY: Final = "coordinator.pub"
TOKEN: Final = "token.jwt"  # noqa: S105 - the name of a file
REVOKED: Final = "revoked"


@dataclass(frozen=True, slots=True)
class Listening:
    """Where an agent listens.

    Args:
        host: The address for ``--host``; empty: all addresses.
        ask: The address at which it then answers on its own machine.
        tls: True: it needs a certificate.

    """

    host: str
    ask: str
    tls: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a node shall have.

    Args:
        node: The node; ``agent_port`` is the port that the agent shall have.
        release: Name of the release.
        wheel: Name of the project's wheel in it.
        offline: True: it is installed from the files that are brought alone.
        program: SHA-256 of the program that runs on the node.
        unit_template: The systemd unit with its placeholders.
        systemd: True: a unit where the node can have one.
        listening: Where the agent listens.
        networks: Where it may speak plain HTTP.
        public_key: The coordinator's public key.
        revoked: The file of revoked ids.
        health_seconds: How long the agent may take to answer after its start.
        owner: The coordinator: ephemeral nodes push finished games to it, and one that may relay brings it packs of
            others. None: they do not.
        min_durable_copies: So many persistent nodes with a pack are as good as the coordinator.

    """

    node: Node
    release: str
    wheel: str
    offline: bool
    program: str
    unit_template: str
    systemd: bool
    listening: Listening
    networks: tuple[str, ...]
    public_key: str
    revoked: str
    health_seconds: float
    owner: Node | None = None
    min_durable_copies: int = 1


@dataclass(frozen=True, slots=True)
class Order:
    """What the program on the node shall do.

    Args:
        node: Name of the node.
        directory: Where the agent lies.
        release: The release that shall run.
        install: True: its files are brought, because it is not there.
        wheel: Name of the project's wheel.
        offline: True: install from the brought files alone.
        certificate: Names and addresses for a certificate that is to be made; empty: none is.
        keys: The files of ``keys/`` that are written.
        config: The whole ``agent.json``.
        kept_by: What keeps the agent running.
        unit: The whole unit; empty with the supervisor.
        restart: True: the agent is stopped and started.
        health_seconds: How long it may take to answer.

    """

    node: str
    directory: str
    release: str
    install: bool
    wheel: str
    offline: bool
    certificate: tuple[str, ...]
    keys: Mapping[str, str] = field(repr=False)
    config: str
    kept_by: str
    unit: str
    restart: bool
    health_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Give it as the program reads it."""
        return asdict(self)


def listening(node: Node, is_trusted: Callable[[str], bool]) -> Listening:
    """Decide where the agent of a node listens.

    Args:
        node: The node.
        is_trusted: Says whether plain HTTP is allowed to an address.

    """
    own = node.own_addresses
    if not own:
        return Listening(LOOPBACK, LOOPBACK, tls=False)
    tls = bool(node.tls_fingerprint) or not is_trusted(own[0])
    if is_loopback(own[0]):
        return Listening(own[0], own[0], tls)
    everywhere = "" if ":" in own[0] else "0.0.0.0"  # noqa: S104 - see above; a token is asked for
    return Listening(everywhere, LOOPBACK, tls)


def scopes(node: Node) -> tuple[str, ...]:
    """Give what a node's token allows: a persistent node that may relay forwards what others push."""
    relays = node.extra.get("relay_capable") is True and not node.is_ephemeral
    return (Scope.NODE.value, Scope.RELAY.value) if relays else (Scope.NODE.value,)


def is_token_good(token: str, node: Node, public_key: str, now: float) -> bool:
    """Say whether a node's token may stay: ours, for this node and what it may do, and not near its end."""
    try:
        claims = verify_token(public_key, token.strip(), now)
    except TokenError:
        return False
    return claims.sub == node.name and claims.scopes == set(scopes(node)) and not claims.renewal_due(now)


def decide(wanted: Wanted, found: Found, new_token: Callable[[], str], now: float) -> Order | None:
    """Decide what is to be done; None when all is as it shall be.

    Args:
        wanted: What the node shall have.
        found: What it has.
        new_token: Signs a token; called only when one is needed.
        now: Wall time in seconds since 1970.

    """
    node = wanted.node
    kept_by = SYSTEMD if wanted.systemd and not found.no_systemd else SUPERVISOR
    command = agent_arguments(wanted, found)
    config = _config(wanted, command)
    unit = _unit(wanted, found, command) if kept_by == SYSTEMD else ""
    keys = {PUBLIC_KEY: wanted.public_key, REVOKED: wanted.revoked}
    changed = {name: text for name, text in keys.items() if found.keys.get(name) != text}
    if not is_token_good(found.keys.get(TOKEN, ""), node, wanted.public_key, now):
        changed[TOKEN] = f"{new_token()}\n"
    certificate = (*node.own_addresses,) if wanted.listening.tls and not found.pin else ()
    restart = (
        (found.current, found.config, found.kept_by) != (wanted.release, config, kept_by)
        or wanted.release not in found.releases
        or not found.healthy
        or found.pending
        or bool(certificate)
        or PUBLIC_KEY in changed
        or (kept_by == SYSTEMD and found.unit != unit)
        or (kept_by == SUPERVISOR and found.program != wanted.program)
    )
    if not restart and not changed:
        return None
    return Order(
        node.name, found.directory, wanted.release, wanted.release not in found.releases, wanted.wheel, wanted.offline,
        certificate, changed, config, kept_by, unit, restart, wanted.health_seconds,
    )  # fmt: skip


def outcome_word(found: Found, order: Order | None) -> str:
    """Say in a word what an order that was carried out did."""
    if order is None:
        return "unchanged"
    if found.current is None:
        return "installed"
    if found.current != order.release:
        return "upgraded"
    return "changed" if found.healthy and not found.pending else "repaired"


def agent_arguments(wanted: Wanted, found: Found) -> list[str]:
    """Give the arguments of ``python -m ringrift_sync_dagster.agent``."""
    keys, listens = f"{found.directory}/keys", wanted.listening
    tls = ["--tls-cert", f"{keys}/agent.crt", "--tls-key", f"{keys}/agent.key"] if listens.tls else []
    pairs = [("--root", path) for path in (found.root, *found.storage)]
    pairs += [("--host", listens.host), ("--port", str(wanted.node.agent_port))]
    pairs += [("--public-key", f"{keys}/{PUBLIC_KEY}"), ("--revoked", f"{keys}/{REVOKED}")]
    pairs += [("--trusted-network", network) for network in wanted.networks]
    token = f"{keys}/{TOKEN}"
    more = ["--ephemeral", *_write_through(wanted, token)] if wanted.node.is_ephemeral else []
    if Scope.RELAY.value in scopes(wanted.node):
        more = _to_owner("forward", wanted.owner, token)
    return ["--node", wanted.node.name, *(word for pair in pairs for word in pair), *tls, *more]


def _write_through(wanted: Wanted, token: str) -> list[str]:
    """Give the arguments by which a node pushes finished games to the coordinator, if that can be reached."""
    notice, copies = wanted.node.extra.get("preemption_notice"), wanted.min_durable_copies
    if not (words := _to_owner("write-through", wanted.owner, token)):
        return []
    more = ["--min-durable-copies", str(copies)] if copies > 1 else []
    more += ["--preemption-notice", str(notice)] if notice else []
    return [*words, *more]


def _to_owner(what: str, owner: Node | None, token: str) -> list[str]:
    """Give the arguments by which finished games, or packs of others, go to the coordinator, if it can be reached."""
    if owner is None or not owner.own_addresses:
        return []
    address, pin = owner.own_addresses[0], owner.tls_fingerprint
    shown = f"[{address}]" if ":" in address else address
    url = f"{'https' if pin else 'http'}://{shown}:{owner.agent_port}"
    pinned = [f"--{what}-fingerprint", pin] if pin else []
    return [f"--{what}-to", f"{owner.name}={url}", *pinned, "--token", token]


def systemd_word(text: str) -> str:
    """Write one argument for ``ExecStart``, whatever is in it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _config(wanted: Wanted, arguments: Sequence[str]) -> str:
    listens = wanted.listening
    told = {"arguments": list(arguments), "host": listens.ask, "port": wanted.node.agent_port, "tls": listens.tls}
    return json.dumps({"node": wanted.node.name, **told}, indent=1) + "\n"


def _unit(wanted: Wanted, found: Found, arguments: Sequence[str]) -> str:
    python = f"{found.directory}/current/venv/bin/python"
    # By way of env: systemd refuses a program whose own path has a quote or a dollar sign in it.
    words = ["/usr/bin/env", python, "-I", "-m", "ringrift_sync_dagster.agent", *arguments]
    command = " ".join(map(systemd_word, words))
    return wanted.unit_template.replace("@NODE@", wanted.node.name).replace("@COMMAND@", command)
