"""Who may do what: a token signed by the coordinator, checked offline against its public key.

Open to all is ``/health`` alone. Reading needs any valid token (an artifact is asked for by its content; peers read
from each other). Pushing needs the node's own token, or scope ``relay`` or ``coordinator``. Kit operations and deletes
need scope ``coordinator``. Without a public key the agent serves loopback only, and whoever reaches it there may do
everything; a page in a browser may not, which is why the Host header must name loopback too.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from ringrift_sync_dagster.agent.answers import Refusal
from ringrift_sync_dagster.errors import TokenError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import Claims, Scope, verify_token
from ringrift_sync_dagster.transports.networks import is_loopback

log = logging.getLogger(__name__)

OPEN_PATHS: Final = frozenset({"/health"})
_CLAIMS: Final = web.RequestKey("claims", Claims)
_TOKEN_MAX_CHARS: Final = 8192


class Authenticator:
    """Checks the token of each request.

    Args:
        public_key_pem: The coordinator's public key; None on loopback without identities.
        node_id: This node.

    """

    def __init__(self, public_key_pem: bytes | None, node_id: str) -> None:
        self._public_key_pem = public_key_pem
        self._node_id = node_id

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request through with its claims, or refuse it with 401 or 403."""
        if request.path not in OPEN_PATHS:
            request[_CLAIMS] = self._claims(request)
        return await handler(request)

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


def _unauthorized(message: str) -> Refusal:
    return Refusal(HTTPStatus.UNAUTHORIZED, "token", message, headers={"WWW-Authenticate": "Bearer"})
