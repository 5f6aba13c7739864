"""From HTTP to our errors: two tables, one for answers and one for connections without an answer."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import requests
import urllib3
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    AuthenticationError,
    ChecksumError,
    RemoteCallError,
    RungUnusableError,
    SourceChangedError,
    StallError,
    TransferError,
    TransferUnderWayError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.transports.legible import legible

# The node is well, and so is the way to it: this one item is refused. With the code to use when the answer has none.
_REFUSED_ITEM: Final[Mapping[int, str]] = {
    HTTPStatus.BAD_REQUEST: "bad_request",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "refused",
    HTTPStatus.INSUFFICIENT_STORAGE: "no_space",
}
_BY_CODE: Final[Mapping[tuple[int, str], type[TransferError]]] = {
    (HTTPStatus.NOT_FOUND, "missing"): ArtifactGoneError,
    (HTTPStatus.CONFLICT, "offset"): TransientError,  # over by the next try, unlike a changed source: where to go on
    (HTTPStatus.CONFLICT, "writing"): TransferUnderWayError,
    (HTTPStatus.UNPROCESSABLE_ENTITY, "checksum"): ChecksumError,
    (HTTPStatus.BAD_REQUEST, "short"): TransientError,
}
# The peer went away without saying goodbye: a broken connection like any other.
_TLS_BROKE: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
# Any other status, a 404 in another form among them: what answers on this port is no agent.
_BY_STATUS: Final[Mapping[int, type[TransferError]]] = {
    HTTPStatus.UNAUTHORIZED: AuthenticationError,
    HTTPStatus.FORBIDDEN: AuthenticationError,
    HTTPStatus.CONFLICT: SourceChangedError,
    HTTPStatus.REQUEST_TIMEOUT: TransientError,
    HTTPStatus.TOO_MANY_REQUESTS: TransientError,
}


def from_status(status: int, error: Mapping[str, Any], node: str, transport: str, what: str) -> TransferError:
    """Give the error for an answer that is not 2xx.

    Args:
        status: HTTP status.
        error: ``error`` of the answer: ``code`` and ``message``; empty when the answer has none.
        node: Who answered.
        transport: Over what.
        what: What was asked.

    """
    code, path = legible(error.get("code") or ""), legible(error.get("path") or "")
    said = legible(error.get("message") or "the answer says no more")
    message = f"{what} was answered {status}: {said}"
    if status in _REFUSED_ITEM and (status, code) not in _BY_CODE:
        return RemoteCallError(node, transport, said, code or _REFUSED_ITEM[status], path)
    otherwise = TransientError if status >= HTTPStatus.INTERNAL_SERVER_ERROR else RungUnusableError
    kind = _BY_CODE.get((status, code)) or _BY_STATUS.get(status, otherwise)
    return kind(node, transport, message)


def from_library(error: Exception, node: str, transport: str, what: str, stall_seconds: float) -> TransferError:
    """Give the error for a request that got no answer, or only a part of one.

    Args:
        error: What requests, urllib3 or the operating system raised.
        node: Who was asked.
        transport: Over what.
        what: What was asked, and where.
        stall_seconds: The longest silence that was waited for.

    """
    causes = list(_causes(error))
    if any(_is_wrong_certificate(cause) for cause in causes):
        message = f"{what}: {causes[-1]}; compare agent_tls_fingerprint with the node's certificate"
        return AuthenticationError(node, transport, message)
    if any(isinstance(cause, ssl.SSLError) and not isinstance(cause, _TLS_BROKE) for cause in causes):
        return RungUnusableError(node, transport, f"{what}: TLS failed: {causes[-1]}; does the agent speak TLS there?")
    if any(isinstance(cause, NewConnectionError | ConnectTimeoutError | NameResolutionError) for cause in causes):
        return UnreachableError(node, transport, f"{what}: no connection: {causes[-1]}; is the agent running there?")
    if any(isinstance(cause, TimeoutError | urllib3.exceptions.ReadTimeoutError) for cause in causes):
        return StallError(node, transport, f"{what}: no byte came for {stall_seconds:.0f} s; what has arrived is kept")
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return RungUnusableError(node, transport, f"{what}: {error}; check the node's address in the inventory")
    return TransientError(node, transport, f"{what}: the connection broke: {causes[-1]}; what has arrived is kept")


def _is_wrong_certificate(error: BaseException) -> bool:
    # urllib3 has no class of its own for a pin that does not fit.
    pinned = isinstance(error, urllib3.exceptions.SSLError) and str(error).startswith("Fingerprint")
    return pinned or isinstance(error, ssl.SSLCertVerificationError)


def _causes(error: BaseException) -> list[BaseException]:
    """Unroll an error: requests wraps urllib3, which wraps the socket's error, each in its own way."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop(0)
        if current is None or current in found:
            continue
        found.append(current)
        inner = [argument for argument in current.args if isinstance(argument, BaseException)]
        waiting += [getattr(current, "reason", None) if _has_error_reason(current) else None, *inner]
        waiting += [current.__cause__, current.__context__]
    return found


def _has_error_reason(error: BaseException) -> bool:
    return isinstance(getattr(error, "reason", None), BaseException)
