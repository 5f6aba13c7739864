"""Every answer that is not a file: JSON; a refusal has one shape, with a code for programs and a message for people.

A handler raises ``Refusal``; the middleware here turns it, aiohttp's own errors and what nobody expected into
``{"ok": false, "error": {"code", "message"}}``. What nobody expected is logged with its traceback and tells the client
nothing about the inside.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

log = logging.getLogger(__name__)

_CODES: Final[Mapping[int, str]] = {
    HTTPStatus.BAD_REQUEST: "bad_request",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.METHOD_NOT_ALLOWED: "method_not_allowed",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "too_large",
}


class Refusal(Exception):  # noqa: N818 - it is an answer, not a fault
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        code: A word for programs.
        message: What now is true and what to do, for people.
        more: Further keys of the answer, next to ``error``.
        headers: Further headers of the answer.

    """

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        message: str,
        more: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.more = dict(more or {})
        self.headers = dict(headers or {})


def busy(what: str) -> Refusal:
    """Give the answer to one request too many; the client tries again after the time named in it."""
    message = f"{what}; try again in a moment"
    return Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "busy", message, headers={"Retry-After": "1"})


def json_answer(
    value: object, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with a value as JSON."""
    text = json.dumps(value, separators=(",", ":"))
    return web.Response(text=text, status=status, content_type="application/json", headers=headers)


def refuse(refusal: Refusal) -> web.Response:
    """Give the answer for a refusal."""
    body = {"ok": False, "error": {"code": refusal.code, "message": refusal.message}, **refusal.more}
    return json_answer(body, refusal.status, refusal.headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into the one shape; a connection that broke is left to aiohttp."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return refuse(refusal)
    except web.HTTPException as error:
        code = _CODES.get(error.status, "http")
        allow = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return refuse(Refusal(HTTPStatus(error.status), code, error.reason, headers=allow))
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("request failed method=%s path=%s", request.method, request.path)
        message = "the agent failed on this request; its log has the cause"
        return refuse(Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", message))


async def json_object(request: web.Request, seconds: float) -> dict[str, Any]:
    """Read the body as a JSON object; an empty body is an empty object.

    Args:
        request: The request; its size is bounded by the application's ``client_max_size``.
        seconds: How long the body may take to arrive.

    Raises:
        Refusal: The body is late (408) or not a JSON object (400).

    """
    try:
        async with asyncio.timeout(seconds):
            body = await request.read()
    except TimeoutError:
        message = f"the body did not arrive within {seconds:.0f} s"
        raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "late", message, headers={"Connection": "close"}) from None
    try:
        value = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, "bad_json", f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, "bad_json", "the body must be a JSON object")
    return value
