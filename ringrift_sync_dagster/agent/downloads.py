"""Sending artifacts: sendfile on plain HTTP, chunked writes under TLS, and the source looked at before every window.

aiohttp's own FileResponse is not used: under TLS it is eight times slower than plain writes, it ignores an entity tag
in ``If-Range``, makes its own, and opens the path again (field_notes.md, 5). Memory per request is one window.
"""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from aiohttp import web

from ringrift_sync_dagster.agent.answers import Refusal, busy, json_answer
from ringrift_sync_dagster.agent.artifacts import ArtifactChangedError, ArtifactMissingError, Catalogue, OpenArtifact
from ringrift_sync_dagster.agent.in_thread import in_thread
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.agent.ranges import Slice, UnsatisfiableError, entity_tag, tag_listed, wanted_slice
from ringrift_sync_dagster.agent.single_flight import SingleFlight
from ringrift_sync_dagster.core.blocks import BLOCK_BYTES

log = logging.getLogger(__name__)

_TLS_WRITE_BYTES = 256 * 1024
_BLOCK_LISTS_KEPT = 64


class Downloads:
    """The handlers that serve artifacts; one object per agent, used from its event loop.

    Args:
        catalogue: What can be served.
        limits: Bounds of the agent.
        metrics: Counts what is sent.

    """

    def __init__(self, catalogue: Catalogue, limits: Limits, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._metrics = metrics
        self._running = 0
        self._block_lists: dict[str, list[str]] = {}
        self._flights: SingleFlight[list[str]] = SingleFlight()

    @property
    def running(self) -> int:
        """How many artifacts are being sent now."""
        return self._running

    async def get(self, request: web.Request) -> web.StreamResponse:
        """``GET`` and ``HEAD /v1/artifacts/{sha}``: 200, 206, 304, 404, 409, 412, 416, 503."""
        if self._running >= self._limits.downloads:
            raise busy(f"{self._running} artifacts are being sent already")
        self._running += 1
        try:
            with await self._open(request.match_info["sha"]) as artifact:
                return await self._answer(request, artifact)
        finally:
            self._running -= 1

    async def blocks(self, request: web.Request) -> web.Response:
        """``GET /v1/artifacts/{sha}/blocks``: the block list; computed once while it is remembered."""
        sha = request.match_info["sha"]
        blocks = self._block_lists.get(sha)
        if blocks is None:
            blocks = await self._flights.do(sha, lambda: self._block_list(sha))
        return json_answer({"block_bytes": BLOCK_BYTES, "blocks": blocks})

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /v1/artifacts/{sha}``: the pack may go, or the note of a registered file. Idempotent."""
        sha = request.match_info["sha"]
        self._block_lists.pop(sha, None)
        await asyncio.to_thread(self._catalogue.forget, sha)
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def close(self) -> None:
        """Stop the work under way."""
        await self._flights.close()

    async def _open(self, sha: str) -> OpenArtifact:
        try:
            return await asyncio.to_thread(self._catalogue.open, sha)
        except ArtifactMissingError as error:
            raise Refusal(HTTPStatus.NOT_FOUND, "missing", str(error)) from error
        except ArtifactChangedError as error:
            raise Refusal(HTTPStatus.CONFLICT, "changed", str(error)) from error

    async def _block_list(self, sha: str) -> list[str]:
        with await self._open(sha) as artifact:
            try:
                blocks = await in_thread(artifact.block_list)
            except ArtifactChangedError as error:
                raise Refusal(HTTPStatus.CONFLICT, "changed", str(error)) from error
        while len(self._block_lists) >= _BLOCK_LISTS_KEPT:
            self._block_lists.pop(next(iter(self._block_lists)))
        self._block_lists[sha] = blocks
        return blocks

    async def _answer(self, request: web.Request, artifact: OpenArtifact) -> web.StreamResponse:
        tag = entity_tag(artifact.sha256)
        headers = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-transform"}
        if "If-Match" in request.headers and not tag_listed(request.headers["If-Match"], tag, weak=False):
            return web.Response(status=HTTPStatus.PRECONDITION_FAILED, headers=headers)
        if tag_listed(request.headers.get("If-None-Match"), tag, weak=True):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        # RFC 9110 14.2: a range means something for GET only.
        asked = request.headers.get("Range") if request.method == "GET" else None
        try:
            part = wanted_slice(asked, request.headers.get("If-Range"), tag, artifact.size_bytes)
        except UnsatisfiableError:
            more = {**headers, "Content-Range": f"bytes */{artifact.size_bytes}"}
            message = f"the artifact has {artifact.size_bytes} bytes; the range lies behind its end"
            raise Refusal(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "range", message, headers=more) from None
        status = HTTPStatus.OK
        if part is not None:
            status = HTTPStatus.PARTIAL_CONTENT
            headers["Content-Range"] = f"bytes {part.start}-{part.end - 1}/{artifact.size_bytes}"
        return await self._send(request, artifact, part or Slice(0, artifact.size_bytes), status, headers)

    async def _send(
        self, request: web.Request, artifact: OpenArtifact, part: Slice, status: HTTPStatus, headers: dict[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = part.count
        response.content_type = "application/octet-stream"
        await response.prepare(request)
        if request.method != "HEAD":
            try:
                await self._send_body(request, response, artifact, part)
            except (ArtifactChangedError, TimeoutError) as error:
                # The headers are out: all that is left is to break the connection, and the client sees a short body.
                log.warning("sending stopped artifact=%s cause=%s", artifact.sha256, repr(error))
                response.force_close()
                if request.transport is not None:
                    request.transport.abort()
                return response
        await response.write_eof()
        return response

    async def _send_body(
        self, request: web.Request, response: web.StreamResponse, artifact: OpenArtifact, part: Slice
    ) -> None:
        secure = request.transport is not None and request.transport.get_extra_info("sslcontext") is not None
        step = _TLS_WRITE_BYTES if secure else self._limits.window_bytes
        for offset in range(part.start, part.end, step):
            count = min(step, part.end - offset)
            async with asyncio.timeout(self._limits.window_seconds):
                if secure:
                    await response.write(await in_thread(artifact.read, offset, count))
                else:
                    await self._sendfile(request, artifact, offset, count)
            self._metrics.bytes_sent.inc(count)

    async def _sendfile(self, request: web.Request, artifact: OpenArtifact, offset: int, count: int) -> None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the receiver is gone")
        if not artifact.is_cached(offset, count):  # sendfile would wait for the disk inside the event loop
            await in_thread(artifact.bring_in, offset, count)
        artifact.check()
        sent = await asyncio.get_running_loop().sendfile(transport, artifact.file, offset, count, fallback=False)
        if sent != count:
            raise ArtifactChangedError(f"the file of artifact {artifact.sha256} got shorter while it was read")
