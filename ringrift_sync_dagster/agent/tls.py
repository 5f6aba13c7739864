"""When the agent may listen, and how it speaks TLS; the rules are architecture.md, 2 "Identity".

With a certificate the port speaks TLS only. Without one it listens on loopback and trusted networks only, and behind a
wildcard address it refuses every connection that comes from elsewhere.
"""

from __future__ import annotations

import ssl
from http import HTTPStatus
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ringrift_sync_dagster.agent.answers import Refusal
from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.transports.networks import TrustedNetworks, is_loopback, is_wildcard


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Give the TLS context of the agent: TLS 1.2 or newer.

    Raises:
        ConfigError: The files cannot be read, or do not belong together.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        message = f"cannot be used with {key.name} as a TLS certificate: {error.strerror or error}"
        raise _problem(str(certificate), "", message) from error
    return context


def fingerprint_of(certificate: Path) -> str:
    """Give the SHA-256 of a certificate, by which others pin it.

    Raises:
        ConfigError: The file cannot be read.

    """
    try:
        first = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise _problem(str(certificate), "", f"cannot be used as a TLS certificate: {error}") from error
    return first.fingerprint(hashes.SHA256()).hex()


def check_listen(host: str, trusted: TrustedNetworks, *, has_key: bool, has_tls: bool) -> None:
    """Do nothing where the agent may listen.

    Args:
        host: The address to listen on.
        trusted: Where plain HTTP is allowed.
        has_key: The coordinator's public key is there, so requests can be checked.
        has_tls: A certificate is there.

    Raises:
        ConfigError: It may not; the message says what is missing.

    """
    if not has_key and not is_loopback(host):
        shown = host or "all addresses"
        message = f"the agent listens on {shown} only with the coordinator's public key (--public-key)"
        raise _problem("argument", "host", message)
    if not has_tls and not is_wildcard(host) and not trusted.holds_host(host):
        message = (
            f"{host} is neither loopback nor in a trusted network: give the agent a certificate "
            "(--tls-cert, --tls-key), or name its network in the inventory's trusted_networks"
        )
        raise _problem("argument", "host", message)


def plain_only_from(trusted: TrustedNetworks) -> Middleware:
    """Give the middleware that refuses plain HTTP from outside the trusted networks."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.secure and not trusted.holds(request.remote or ""):
            message = "this address is outside the trusted networks: the agent speaks TLS there, and refuses plain HTTP"
            raise Refusal(HTTPStatus.FORBIDDEN, "plain_http", message, headers={"Connection": "close"})
        return await handler(request)

    return middleware


def _problem(file: str, key: str, message: str) -> ConfigError:
    return ConfigError([Problem(file=file, line=None, host="", key=key, message=message)])
