"""Whether the agent works: its own process listens, answers ``/health`` as this node, and shows its certificate."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

from .keepers import Keeper
from .place import Place
from .processes import listens

_ANSWER_SECONDS = 5.0
_LOOK_SECONDS = 0.2
_MAX_STARTS = 4  # of an agent that does not answer: it never will
_MAX_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Address:
    """Where the agent answers on the node itself.

    Args:
        host: An address of this machine.
        port: The port.
        node: Name of the node, as the agent must give it.
        pin: SHA-256 of its certificate; empty where it speaks plain HTTP.

    """

    host: str
    port: int
    node: str
    pin: str = ""


def address_of(place: Place) -> Address | None:
    """Give where the agent answers according to its ``agent.json``; None when that says nothing."""
    try:
        told = json.loads(place.config.read_bytes())
        pin = pin_of(place.keys / "agent.crt") if told["tls"] else ""
        return Address(str(told["host"]), int(told["port"]), str(told["node"]), pin)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pin_of(certificate: Path) -> str:
    """Give the SHA-256 of a certificate's DER bytes; empty when there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text(encoding="ascii"))).hexdigest()
    return ""


def is_healthy(keeper: Keeper, address: Address | None) -> bool:
    """Say whether the kept process itself answers now."""
    agent = keeper.agent()
    if agent is None or address is None or not listens(agent.pid, address.port):
        return False
    return _answers(address) and agent.alive


def becomes_healthy(keeper: Keeper, address: Address | None, seconds: float) -> bool:
    """Wait until it answers; give up early when it ends again and again."""
    limit = time.monotonic() + seconds  # noqa: TID251 - this runs on the node, where settings.clock is not
    seen: set[str] = set()
    while time.monotonic() < limit and len(seen) < _MAX_STARTS:  # noqa: TID251 - as above
        if is_healthy(keeper, address):
            return True
        seen.add(keeper.start_mark())
        time.sleep(_LOOK_SECONDS)
    return False


def _answers(address: Address) -> bool:
    connection = _connection(address)
    try:
        connection.connect()
        if address.pin and not _is_pinned(connection, address.pin):
            return False
        connection.request("GET", "/health")
        told = json.loads(connection.getresponse().read(_MAX_BYTES))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return isinstance(told, dict) and told.get("node_id") == address.node


def _connection(address: Address) -> http.client.HTTPConnection:
    if not address.pin:
        return http.client.HTTPConnection(address.host, address.port, timeout=_ANSWER_SECONDS)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the pin is stricter: this one certificate
    return http.client.HTTPSConnection(address.host, address.port, timeout=_ANSWER_SECONDS, context=context)


def _is_pinned(connection: http.client.HTTPConnection, pin: str) -> bool:
    shown = connection.sock.getpeercert(binary_form=True) if isinstance(connection.sock, ssl.SSLSocket) else None
    return shown is not None and hashlib.sha256(shown).hexdigest() == pin
