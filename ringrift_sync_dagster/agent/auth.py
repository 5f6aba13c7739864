"""Who may do what: a token signed by the coordinator, checked offline against its public key.

Open to all is ``/health`` alone. Reading needs any valid token (an artifact is asked for by its content; peers read
from each other). Pushing needs the node's own token, or scope ``relay`` or ``coordinator``; so do events, and what a
node's token may say is in ``events``. Kit operations and deletes need scope ``coordinator``. Without a public key the
agent serves loopback only, and whoever reaches it there may do everything; a page in a browser may not, which is why
the Host header must name loopback too.

A revoked id gets 403 ``revoked``; the file of revoked ids is looked at again at most once a second, so an agent need
not be restarted. The agent that has the private key answers a token past two thirds of its life with a new one of the
same rights, in the header ``X-RingRift-Token``.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from pathlib import Path
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from ringrift_sync_dagster.agent.answers import Refusal
from ringrift_sync_dagster.errors import ConfigError, Problem, TokenError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import (
    RENEWAL_HEADER,
    Claims,
    CoordinatorKey,
    Scope,
    issue_token,
    verify_token,
)
from ringrift_sync_dagster.settings.revoked import read_revoked
from ringrift_sync_dagster.transports.networks import is_loopback

log = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset({"/health"})
_CLAIMS: Final = web.RequestKey("claims", Claims)
_TOKEN_MAX_CHARS: Final = 8192
_LOOK_SECONDS: Final = 1.0


class RevokedIds:
    """The file of revoked ids, read again after it changed.

    Args:
        path: The file; it may come and go.

    Raises:
        ConfigError: It is there and cannot be read. Later that only leaves what was read last in force.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._look_at = clock.monotonic() + _LOOK_SECONDS
        try:
            self._state = self._stat()
            self._ids = read_revoked(path)
        except OSError as error:
            message = f"the revoked ids cannot be read: {error.strerror or error}"
            raise ConfigError([Problem(file=str(path), line=None, host="", key="", message=message)]) from error

    def __contains__(self, node: object) -> bool:
        """Say whether an id is revoked; costs one ``stat`` a second at most."""
        now = clock.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            self._look()
        return node in self._ids

    def _look(self) -> None:
        try:
            # First the state, then the content: a change between the two is seen at the next look.
            state = self._stat()
            if state != self._state:
                self._ids, self._state = read_revoked(self._path), state
                log.info("revoked ids were read again file=%s ids=%d", self._path, len(self._ids))
        except OSError as error:
            log.warning("the revoked ids cannot be read, so those read last hold file=%s cause=%s", self._path, error)

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_ino, found.st_size


class Authenticator:
    """Checks the token of each request.

    Args:
        public_key_pem: The coordinator's public key; None on loopback without identities.
        node_id: This node.
        revoked: Ids that are refused.
        coordinator_key: The private key, on the coordinator; with it tokens are renewed.

    Raises:
        ConfigError: The private key is not that of the public key; nobody would take what it signs.

    """

    def __init__(
        self,
        public_key_pem: bytes | None,
        node_id: str,
        *,
        revoked: RevokedIds | None = None,
        coordinator_key: CoordinatorKey | None = None,
    ) -> None:
        self._public_key_pem = public_key_pem
        self._node_id = node_id
        self._revoked = revoked
        self._coordinator_key = coordinator_key
        if public_key_pem is not None and coordinator_key is not None:
            _check_pair(public_key_pem, coordinator_key, node_id)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request through with its claims, or refuse it with 401 or 403."""
        if request.path not in OPEN_PATHS:
            claims = self._claims(request)
            self._refuse_revoked(request, claims)
            request[_CLAIMS] = claims
        return await handler(request)

    async def renew(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add a new token to the headers of a reply when the request's own is past two thirds of its life."""
        claims, now = request.get(_CLAIMS), clock.wall()
        if self._coordinator_key is None or claims is None or not claims.renewal_due(now):
            return
        try:
            response.headers[RENEWAL_HEADER] = issue_token(self._coordinator_key, claims.sub, claims.scopes, now)
        except ValueError as error:  # a scope that this version does not know; a person signs the next token
            log.warning("did not renew a token node=%s cause=%s", claims.sub, error)
            return
        log.info("renewed a token node=%s", claims.sub)

    def _refuse_revoked(self, request: web.Request, claims: Claims) -> None:
        if self._public_key_pem is None or self._revoked is None or claims.sub not in self._revoked:
            return
        log.warning("refused a revoked id node=%s peer=%s", claims.sub, request.remote)
        message = f"{claims.sub} is revoked; whoever runs the coordinator can reinstate it"
        raise Refusal(HTTPStatus.FORBIDDEN, "revoked", message, headers={"Connection": "close"})

    def _claims(self, request: web.Request) -> Claims:
        if self._public_key_pem is None:
            return self._claims_without_key(request)
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > _TOKEN_MAX_CHARS:
            raise _unauthorized("this needs Authorization: Bearer <token>; the coordinator issues tokens")
        try:
            return verify_token(self._public_key_pem, token.strip(), clock.wall())
        except TokenError as error:
            log.warning("refused token peer=%s cause=%s", request.remote, error.message)
            raise _unauthorized(error.message) from error

    def _claims_without_key(self, request: web.Request) -> Claims:
        if not (is_loopback(request.remote or "") and is_loopback(request.url.host or "")):
            raise Refusal(HTTPStatus.FORBIDDEN, "loopback_only", "this agent has no key and serves loopback only")
        return Claims(sub=self._node_id, scopes=frozenset({Scope.COORDINATOR.value}), expires=float("inf"))


def claims_of(request: web.Request) -> Claims:
    """Give what the token of a request says; it was checked."""
    return request[_CLAIMS]


def require_coordinator(request: web.Request) -> None:
    """Do nothing for the coordinator.

    Raises:
        Refusal: 403 for anybody else.

    """
    claims = request[_CLAIMS]
    if Scope.COORDINATOR not in claims.scopes:
        raise Refusal(HTTPStatus.FORBIDDEN, "scope", f"{claims.sub} may not do this: it needs scope coordinator")


def require_writer(request: web.Request, node: str) -> None:
    """Do nothing for somebody who may push under the name of ``node``.

    Raises:
        Refusal: 403 for anybody else.

    """
    claims = request[_CLAIMS]
    own = claims.sub == node and Scope.NODE in claims.scopes
    if not own and claims.scopes.isdisjoint({Scope.COORDINATOR, Scope.RELAY}):
        message = f"{claims.sub} may not push under the name {node}: it needs scope node and that name, or scope relay"
        raise Refusal(HTTPStatus.FORBIDDEN, "scope", message, headers={"Connection": "close"})


def _check_pair(public_key_pem: bytes, key: CoordinatorKey, node_id: str) -> None:
    try:
        verify_token(public_key_pem, issue_token(key, node_id, [], 0), 0)
    except TokenError as error:
        message = "the coordinator's private key is not that of the public key: give the agent the public key beside it"
        raise ConfigError([Problem(file="argument", line=None, host="", key="public-key", message=message)]) from error


def _unauthorized(message: str) -> Refusal:
    return Refusal(HTTPStatus.UNAUTHORIZED, "token", message, headers={"WWW-Authenticate": "Bearer"})
