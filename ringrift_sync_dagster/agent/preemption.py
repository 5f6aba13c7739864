"""A provider's notice that this machine is taken back, asked for at an address that only the machine itself can reach.

AWS's way (instance metadata, version 2): ``PUT /latest/api/token`` gives a token, and with it ``GET
/latest/meta-data/spot/instance-action`` answers 404, or ``{"action": "terminate", "time": "2026-01-31T08:22:00Z"}``.
Off unless somebody names the address. Whatever is there, or is not, the agent goes on: each question has a bound of
time and of bytes, follows no redirect, and never goes through a proxy. Nothing depends on a notice: not every provider
gives one, and none of them promises it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

log = logging.getLogger(__name__)

AWS: Final = "http://169.254.169.254"
POLL_SECONDS: Final = 5.0
MARGIN_SECONDS: Final = 5.0
"""So long before the machine ends the drain is over: its last words must still get out."""
UNKNOWN_SECONDS: Final = 30.0
"""What a notice without a time that can be read leaves: the shortest one that providers give."""
LONGEST_SECONDS: Final = 600.0
_LEAST_SECONDS: Final = 1.0
_DENIALS: Final = 3  # so often in a row there is none any more, before a notice counts as taken back
_ASK_SECONDS: Final = 2.0
_MOST_BYTES: Final = 64 * 1024
_TOKEN_SECONDS: Final = 21_600
_TOKEN: Final = "/latest/api/token"  # noqa: S105 - a path
_ACTION: Final = "/latest/meta-data/spot/instance-action"


@dataclass(frozen=True, slots=True)
class Notice:
    """What the provider says.

    Args:
        action: What it will do, such as ``terminate``.
        at: When, in seconds since 1970; None where it does not say so.

    """

    action: str
    at: float | None

    def seconds(self, now: float) -> float:
        """How long a drain may take that begins now."""
        left = UNKNOWN_SECONDS if self.at is None else self.at - now
        return min(LONGEST_SECONDS, max(_LEAST_SECONDS, left - MARGIN_SECONDS))


def checked_url(text: str) -> str:
    """Give the address to ask: ``aws`` is that of AWS, anything else is a URL without a path.

    Raises:
        ValueError: It is neither.

    """
    url = AWS if text == "aws" else text.rstrip("/")
    try:
        parts = urlsplit(url)
        rest = (parts.path, parts.query, parts.fragment, parts.username)
        good = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and not any(rest)
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"{text!r} is no address of instance metadata; use aws, or a URL such as {AWS}")
    return url


class Preemption:
    """Asks for notices; used from one event loop.

    Args:
        url: Where to ask.
        leave: Called with each new notice; nothing is asked before it returns.
        stay: Called when the provider has taken its notice back.
        poll_seconds: Time between two questions.

    """

    def __init__(
        self,
        url: str,
        leave: Callable[[Notice], Awaitable[object]],
        stay: Callable[[], object],
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._url, self._leave, self._stay, self._seconds = url, leave, stay, poll_seconds
        self._token, self._failures, self._denials = "", 0, 0
        self._known: Notice | None = None

    async def run(self) -> None:
        """Ask again and again until cancelled."""
        # Without trust_env no variable of the environment makes this go through a proxy.
        timeout = aiohttp.ClientTimeout(total=_ASK_SECONDS)
        async with aiohttp.ClientSession(
            timeout=timeout, trust_env=False, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            while True:
                try:
                    notice = await self._ask(session)
                    self._failures = 0
                    self._denials = 0 if notice is not None or self._known is None else self._denials + 1
                except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                    notice, self._denials = None, 0
                    self._failed(error)
                if self._denials == _DENIALS:
                    self._known, self._denials = None, 0
                    log.warning("the notice was taken back: this machine stays")
                    self._stay()
                if notice is not None and notice != self._known:
                    self._known = notice
                    log.warning("this machine is taken back action=%s at=%s", notice.action, notice.at)
                    try:
                        await self._leave(notice)
                    except Exception:  # the agent goes on, and so do the questions
                        log.exception("the drain after a notice failed")
                await asyncio.sleep(self._seconds)

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures & (self._failures - 1) == 0:  # 1, 2, 4, ...: told, and not every five seconds
            cause = str(error) or type(error).__name__
            log.warning("no instance metadata url=%s cause=%s", self._url, cause[:200])

    async def _ask(self, session: aiohttp.ClientSession) -> Notice | None:
        """Ask once; a token that has run out is replaced.

        Raises:
            aiohttp.ClientError, OSError, TimeoutError, ValueError: No answer, or one that makes no sense.

        """
        for renewed in (False, True):
            if not self._token:
                lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
                status, self._token = await self._answer(session, "PUT", _TOKEN, lifetime)
                if status != HTTPStatus.OK or not self._token.isascii() or not self._token.isprintable():
                    self._token = ""
                    raise ValueError(f"PUT {_TOKEN} answers {status}")
            status, text = await self._answer(session, "GET", _ACTION, {"X-aws-ec2-metadata-token": self._token})
            if status == HTTPStatus.NOT_FOUND:
                return None
            if status == HTTPStatus.OK:
                return _notice(text)
            self._token = ""
            if status != HTTPStatus.UNAUTHORIZED or renewed:
                raise ValueError(f"GET {_ACTION} answers {status}")
        return None

    async def _answer(
        self, session: aiohttp.ClientSession, method: str, path: str, headers: dict[str, str]
    ) -> tuple[int, str]:
        async with session.request(method, self._url + path, headers=headers, allow_redirects=False) as answer:
            body = bytearray()
            while chunk := await answer.content.read(_MOST_BYTES):
                body += chunk
                if len(body) > _MOST_BYTES:
                    raise ValueError(f"{method} {path} answers with more than {_MOST_BYTES} bytes")
            return answer.status, body.decode("utf-8", "replace").strip()


def _notice(text: str) -> Notice:
    """Read a notice; one that names no action is none, and a time that cannot be read is one that nobody knows.

    Raises:
        ValueError: It is none.

    """
    try:
        told: Any = json.loads(text)
    except RecursionError as error:
        raise ValueError("the answer is nested too deeply") from error
    if not isinstance(told, dict) or not isinstance(told.get("action"), str) or not told["action"]:
        raise ValueError(f"the answer is no notice: {text[:100]!r}")
    at = None
    try:
        moment = datetime.fromisoformat(told["time"])
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        log.warning("a notice without a time that can be read answer=%.100s", text)
    return Notice(told["action"][:100], at if at is not None and math.isfinite(at) else None)
