"""Who is who: the coordinator's Ed25519 key, the tokens it signs, and each agent's own TLS certificate.

A token says: this is node ``sub``, and it may do ``scopes``, until ``exp``. Anybody with the coordinator's public key
can verify it offline. There is no ``iat`` or ``nbf``, because the clocks of nodes differ; ``exp`` has ten minutes of
leeway. Only EdDSA is accepted, whatever a token's header says. Certificates are pinned by fingerprint in the
inventory, so that they need no authority. Source: architecture.md, 2 "Identity".
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from ringrift_sync_dagster.core.model import checked_node_name, is_node_name
from ringrift_sync_dagster.errors import ConfigError, Problem, TokenError

TOKEN_SECONDS: Final = 30 * 24 * 3600
LEEWAY_SECONDS: Final = 600
PRIVATE_NAME: Final = "coordinator.key"
PUBLIC_NAME: Final = "coordinator.pub"
RENEWAL_HEADER: Final = "X-RingRift-Token"
"""Header of a reply by which the coordinator's agent hands out a new token."""
_ALGORITHM: Final = "EdDSA"
_CERTIFICATE_DAYS: Final = 3650
# Longer than any token of ours by far; a longer one is not worth decoding.
_TOKEN_MAX_CHARS: Final = 8192
_TOKEN_SHAPE: Final = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class Scope(StrEnum):
    """What a token allows."""

    COORDINATOR = "coordinator"  # order packs, applies and deletes; read everything
    NODE = "node"  # push under its own id
    RELAY = "relay"  # forward packs of others, kept under the origin's id


@dataclass(frozen=True, slots=True)
class CoordinatorKey:
    """The coordinator's key pair.

    Args:
        private_pem: The private key, PKCS 8; never shown.
        public_pem: The public key, which every agent holds.

    """

    private_pem: bytes = field(repr=False)
    public_pem: bytes


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified token says.

    Args:
        sub: Name of the node.
        scopes: What it may do.
        expires: Wall time in seconds since 1970, without leeway.

    """

    sub: str
    scopes: frozenset[str]
    expires: float

    def renewal_due(self, now: float) -> bool:
        """Say whether two thirds of a token's life are over; the coordinator then sends a new one."""
        return self.expires - now < TOKEN_SECONDS / 3


@dataclass(frozen=True, slots=True)
class TlsCertificate:
    """An agent's certificate on disk.

    Args:
        certificate: PEM file of the certificate.
        key: PEM file of its private key, mode 0600.
        fingerprint: SHA-256 of the certificate's DER bytes in hexadecimal: the pin ``agent_tls_fingerprint``.

    """

    certificate: Path
    key: Path
    fingerprint: str


def create_coordinator_key(directory: Path) -> CoordinatorKey:
    """Give the key pair of a directory and make it first if there is none; idempotent, also when two processes race.

    Raises:
        ConfigError: There is a key, but it cannot be used.

    """
    private = directory / PRIVATE_NAME
    if not private.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        pem = ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write_new(private, pem, 0o600)
    key = load_coordinator_key(directory)
    public = directory / PUBLIC_NAME
    if not public.exists() or public.read_bytes() != key.public_pem:
        public.unlink(missing_ok=True)
        _write_new(public, key.public_pem, 0o644)
    return key


def load_coordinator_key(directory: Path) -> CoordinatorKey:
    """Read the key pair of a directory.

    Raises:
        ConfigError: It is missing, readable by others, or not an Ed25519 key.

    """
    path = directory / PRIVATE_NAME
    try:
        mode, pem = path.stat().st_mode, path.read_bytes()
    except OSError as error:
        raise _key_problem(path, f"cannot be read ({error.strerror}); create it with create_coordinator_key") from error
    if mode & 0o077:
        raise _key_problem(path, f"is open to others (mode {mode & 0o777:o}); run chmod 600 on it")
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise _key_problem(path, "is not a private key in PEM form; restore it from a backup") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _key_problem(path, "is not an Ed25519 key; restore the coordinator's own key")
    public_pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return CoordinatorKey(private_pem=pem, public_pem=public_pem)


def issue_token(
    key: CoordinatorKey, node: str, scopes: Iterable[str], now: float, seconds: float = TOKEN_SECONDS
) -> str:
    """Sign a token for a node.

    Args:
        key: The coordinator's key pair.
        node: Name of the node: the token's ``sub``.
        scopes: One or more of ``Scope``.
        now: Wall time in seconds since 1970.
        seconds: How long the token lives; 30 days.

    Raises:
        ValueError: The name or a scope is not usable.

    """
    granted = sorted({Scope(scope).value for scope in scopes})
    payload = {"sub": checked_node_name(node), "scopes": granted, "exp": int(now + seconds)}
    return jwt.encode(payload, key.private_pem, algorithm=_ALGORITHM)


def verify_token(public_key_pem: bytes | str, token: str, now: float) -> Claims:
    """Read a token and check it: signature by this key, EdDSA, a node's name, not expired.

    Args:
        public_key_pem: The coordinator's public key.
        token: The token as it came, without ``Bearer``.
        now: Our wall time in seconds since 1970.

    Raises:
        TokenError: Any of these does not hold.

    """
    payload = _signed_payload(public_key_pem, token)
    sub, scopes, expires = payload["sub"], payload.get("scopes", []), payload["exp"]
    if not isinstance(sub, str) or not is_node_name(sub):
        raise TokenError("", "", "the token is refused: its sub is not a node's name")
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        raise TokenError(sub, "", "the token is refused: its scopes are not a list of names")
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not math.isfinite(expires):
        raise TokenError(sub, "", "the token is refused: its exp is not a time")
    if now > expires + LEEWAY_SECONDS:
        ago = now - expires
        raise TokenError(sub, "", f"the token expired {ago:.0f} s ago and is refused; ask the coordinator for another")
    return Claims(sub=sub, scopes=frozenset(scopes), expires=float(expires))


def store_token(path: Path, token: str) -> None:
    """Replace a token file, mode 0600: a reader finds the old token or the new one. Idempotent.

    Raises:
        TokenError: The text cannot be a token: empty, too long, or with characters that no token has.
        OSError: The file cannot be written; the old one is still there.

    """
    if len(token) > _TOKEN_MAX_CHARS or _TOKEN_SHAPE.fullmatch(token) is None:
        message = f"what came as a token is not 1 to {_TOKEN_MAX_CHARS} characters of a token; the old one stays"
        raise TokenError("", "", message)
    replace_file(path, f"{token}\n".encode("ascii"), 0o600)


def store_renewed_token(path: Path, token: str, public_key_pem: bytes | str, now: float) -> bool:
    """Store a token that came in a reply, if the coordinator signed it and it only makes ours last longer.

    This is what to give a transport as ``renewed``: anybody who answers us can send the header, and must not be able
    to take our own token from us.

    Args:
        path: The file of our own token.
        token: What came.
        public_key_pem: The coordinator's public key.
        now: Our wall time in seconds since 1970.

    Returns:
        Whether it was stored; not when it expires no later than ours.

    Raises:
        TokenError: It, or the one that we have, is not good, or it is not for the same node and the same scopes.
        OSError: The file cannot be read or written; the old one is still there.

    """
    ours = verify_token(public_key_pem, path.read_text(encoding="ascii", errors="replace").strip(), now)
    theirs = verify_token(public_key_pem, token, now)
    if (theirs.sub, theirs.scopes) != (ours.sub, ours.scopes):
        raise TokenError(theirs.sub, "", f"the renewed token has not the rights of {ours.sub}'s; the old one stays")
    if theirs.expires <= ours.expires:
        return False
    store_token(path, token)
    return True


def replace_file(path: Path, data: bytes, mode: int) -> None:
    """Publish a whole file in the place of the old one, durably: a reader finds the one or the other.

    Raises:
        OSError: It cannot be written; the old one is still there.

    """
    with _temporary(path, data, mode) as temporary:
        temporary.replace(path)
    _fsync_directory(path.parent)


def make_tls_certificate(directory: Path, node: str, addresses: Sequence[str], now: float) -> TlsCertificate:
    """Give the certificate of an agent and make it first if there is none.

    Idempotent: an existing certificate stays, because the inventory pins it; delete both files to get a new one.

    Args:
        directory: Where ``agent.crt`` and ``agent.key`` lie.
        node: Name of the node; the subject, and a name of the certificate.
        addresses: IP addresses and host names under which it is called.
        now: Wall time in seconds since 1970; validity starts a day earlier, as clocks differ.

    Raises:
        ConfigError: There are files, but they cannot be used together.

    """
    certificate_path, key_path = directory / "agent.crt", directory / "agent.key"
    if not key_path.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write_new(key_path, pem, 0o600)
    try:
        key = _elliptic(serialization.load_pem_private_key(key_path.read_bytes(), password=None))
        if not certificate_path.exists():
            built = _self_signed(key, checked_node_name(node), addresses, now)
            _write_new(certificate_path, built.public_bytes(serialization.Encoding.PEM), 0o644)
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    except (OSError, ValueError, TypeError) as error:
        message = f"or agent.crt beside it cannot be used ({error}); delete both to get new ones"
        raise _key_problem(key_path, message) from error
    if certificate.public_key() != key.public_key():
        raise _key_problem(certificate_path, "does not belong to agent.key; delete both to get new ones")
    fingerprint = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()
    return TlsCertificate(certificate_path, key_path, fingerprint)


def _signed_payload(public_key_pem: bytes | str, token: str) -> dict[str, Any]:
    if len(token) > _TOKEN_MAX_CHARS:
        raise TokenError("", "", f"the token is refused: it is longer than {_TOKEN_MAX_CHARS} characters")
    # Expiry is checked by us, against the time that we are given; iat, nbf and aud mean nothing here.
    options: Any = {
        "require": ["exp", "sub"],
        **dict.fromkeys(("verify_exp", "verify_iat", "verify_nbf", "verify_aud", "verify_sub"), False),
    }
    try:
        return jwt.decode(token, public_key_pem, algorithms=[_ALGORITHM], options=options)
    except (jwt.PyJWTError, ValueError) as error:
        raise TokenError("", "", f"the token is refused: {error}") from error


def _elliptic(key: object) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("it is not an elliptic curve key")
    return key


def _self_signed(key: ec.EllipticCurvePrivateKey, node: str, addresses: Sequence[str], now: float) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node[:64])])
    start = datetime.fromtimestamp(now, tz=UTC) - timedelta(days=1)
    names = [_general_name(text) for text in dict.fromkeys([node, *addresses])]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=_CERTIFICATE_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Publish a whole file under a name that is free; when another process was first, its file stays."""
    with _temporary(path, data, mode) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
    _fsync_directory(path.parent)


@contextlib.contextmanager
def _temporary(path: Path, data: bytes, mode: int) -> Iterator[Path]:
    """Write a file beside ``path``, durably; it is gone after the body."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _fsync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _key_problem(path: Path, message: str) -> ConfigError:
    return ConfigError([Problem(file=str(path), line=None, host="", key="", message=f"the file {message}")])
