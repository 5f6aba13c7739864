"""Taking pushed artifacts: resumable, bounded in number, size, time and memory, and acknowledged only when durable.

The order is the promise: bytes, SHA-256, fsync of the file, rename, fsync of the directory, receipt in the state
database, answer 201. A sender may forget its copy after the 201 and at no time before. One artifact of one node has one
writer at a time; memory per request is two batches.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar

from aiohttp import web
from aiohttp.client_exceptions import ClientPayloadError
from aiohttp.streams import StreamReader

from ringrift_sync_dagster.agent.answers import Refusal, busy, json_answer
from ringrift_sync_dagster.agent.auth import require_writer
from ringrift_sync_dagster.agent.in_thread import in_thread
from ringrift_sync_dagster.agent.incoming import Incoming, Part, Place, disk_is_full
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.agent.ranges import Slice, pushed_slice
from ringrift_sync_dagster.agent.receipts import ReceiptBook
from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.node.keeping import note_verified
from ringrift_sync_dagster.state.receipts import Receipt
from ringrift_sync_dagster.storage.files import sha256_file

log = logging.getLogger(__name__)

T = TypeVar("T")

_BATCH_BYTES: Final = 1 << 20
_START_SECONDS: Final = 60.0


class Uploads:
    """The handlers that take artifacts; one object per agent, used from its event loop.

    Args:
        incoming: Where they land.
        receipts: Where they are acknowledged.
        limits: Bounds of the agent.
        metrics: Counts what arrives.
        taken_in: Where the owner of the folder merges what arrives and lets the file go: says of a receipt whether that
            is still where it went. None: a receipt holds while the file is there, so that what was applied and removed
            may be pushed again.
        arrived: Is told of each artifact that now lies here, verified; it must not wait.

    """

    def __init__(
        self,
        incoming: Incoming,
        receipts: ReceiptBook,
        limits: Limits,
        metrics: Metrics,
        *,
        taken_in: Callable[[Receipt], bool] | None = None,
        arrived: Callable[[Path], None] | None = None,
    ) -> None:
        self._taken_in = taken_in
        self._arrived = arrived
        self._incoming = incoming
        self._receipts = receipts
        self._limits = limits
        self._metrics = metrics
        self._writing: set[str] = set()

    @property
    def running(self) -> int:
        """How many artifacts are being received now."""
        return len(self._writing)

    async def get(self, request: web.Request) -> web.Response:
        """``GET /v1/incoming/{node}/{sha}``: how much has arrived, and the receipt if all has.

        With ``?size=`` the answer is 507 when the rest would not fit, before a byte is sent. While another request
        writes it is 409: how much has arrived is then not settled.
        """
        place = await self._place(request)
        receipt = await self.receipt(place)
        if receipt is not None:
            answer = {"received": receipt.size_bytes, "complete": True, "receipt": self._receipts.as_json(receipt)}
            return json_answer(answer)
        self._check_free(place)
        received = await _on_disk(asyncio.to_thread(place.received))
        size = request.query.get("size", "")
        if size.isascii() and size.isdigit() and len(size) < 20:  # noqa: PLR2004 - digits of 2**63
            await self.check_room(int(size), received)
        return json_answer({"received": received, "complete": False})

    async def put(self, request: web.Request) -> web.Response:
        """``PUT /v1/incoming/{node}/{sha}``: 202 with how much has arrived, or 201 with the receipt."""
        place = await self._place(request)
        if "Content-Encoding" in request.headers:
            raise _refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "encoding", "send the artifact's own bytes, not encoded")
        try:
            part, total = pushed_slice(request.headers.get("Content-Range"), request.content_length)
        except ValueError as error:
            raise _refusal(HTTPStatus.BAD_REQUEST, "bad_range", str(error)) from error
        with self.turn(place):
            receipt = await self.receipt(place) or await self._take(request, place, part, total)
        if isinstance(receipt, int):
            return json_answer({"received": receipt, "complete": False}, HTTPStatus.ACCEPTED)
        return json_answer({"receipt": self._receipts.as_json(receipt)}, HTTPStatus.CREATED)

    async def delete(self, request: web.Request) -> web.Response:
        """``DELETE /v1/incoming/{node}/{sha}``: for the coordinator, which has a receipt of its own for it. Idempotent.

        The receipt goes first: this node never says that it holds what it does not.
        """
        place = await self._place(request)
        with self.turn(place):
            await self._receipts.drop(place.final.name)
            await _on_disk(asyncio.to_thread(place.remove))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def receipt(self, place: Place) -> Receipt | None:
        """Give the receipt of an artifact that this node holds now, or that its owner has taken in and has still.

        The file is looked for first: whoever takes it in lets it go last of all.
        """
        there = await asyncio.to_thread(place.final.is_file)
        if not there and self._taken_in is None:
            return None
        receipt = await self._receipts.get(place.final.name)
        if there or receipt is None or self._taken_in is None:
            return receipt
        return receipt if await asyncio.to_thread(self._taken_in, receipt) else None

    async def _place(self, request: web.Request) -> Place:
        node, sha = request.match_info["node"], request.match_info["sha"]
        require_writer(request, node)
        try:
            return await asyncio.to_thread(self._incoming.place, node, sha)
        except ValueError as error:
            raise _refusal(HTTPStatus.BAD_REQUEST, "bad_name", str(error)) from error

    @contextlib.contextmanager
    def turn(self, place: Place) -> Iterator[None]:
        """Be the one writer of an artifact while the body runs.

        Raises:
            Refusal: Another request writes it, or too many are under way.

        """
        self._check_free(place)
        if len(self._writing) >= self._limits.uploads:
            raise busy(f"{len(self._writing)} artifacts are being received already")
        self._writing.add(place.path)
        try:
            yield
        finally:
            self._writing.discard(place.path)

    def _check_free(self, place: Place) -> None:
        if place.path in self._writing:
            message = f"{place.path} is being received by another request; ask again where that one ended"
            raise _refusal(HTTPStatus.CONFLICT, "writing", message)

    async def _take(self, request: web.Request, place: Place, part: Slice, total: int) -> Receipt | int:
        """Receive one part; give how much is there, or the receipt when that is all."""
        adopted = await self.adopt(place)
        if adopted is not None:
            return adopted
        received = await _on_disk(asyncio.to_thread(place.received))
        if part.start != received:
            message = f"{received} bytes of {place.path} are here; go on from there"
            raise _refusal(HTTPStatus.CONFLICT, "offset", message, received)
        await self.check_room(total, received)
        opened = await _on_disk(in_thread(Part, place, part.start))
        try:
            await self._fill(request.content, opened, part)
            if opened.end < total:
                return opened.end
            return await self._acknowledge(opened, place, total)
        finally:
            opened.close()

    async def adopt(self, place: Place) -> Receipt | None:
        """Acknowledge a whole file whose receipt is missing: the agent died between the rename and the receipt."""
        if not await asyncio.to_thread(place.final.is_file):
            return None
        if await _on_disk(in_thread(sha256_file, place.final)) != place.final.name:
            message = f"{place.path} lies here with other bytes; move it away"
            raise _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "damaged", message)
        size = (await asyncio.to_thread(place.final.stat)).st_size
        return await self._receipts.add(place.final.name, place.path, size)

    async def note(self, place: Place) -> None:
        """Note the state in which a large artifact was verified; without the note it is only read once more."""
        if self._taken_in is None:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(note_verified, str(place.final))

    async def check_room(self, total: int, received: int) -> None:
        """Do nothing where an artifact of ``total`` bytes fits, of which ``received`` are here.

        Raises:
            Refusal: It is too large for this agent, or the disk has not the room.

        """
        if total > self._limits.upload_bytes:
            message = f"an artifact of {total} bytes is above the limit of {self._limits.upload_bytes}"
            raise _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", message)
        free = await _on_disk(asyncio.to_thread(self._incoming.free_bytes))
        if total - received + self._limits.free_bytes > free:
            kept = self._limits.free_bytes
            message = f"{total - received} more bytes do not fit: {free} are free, {kept} of them are kept free"
            raise _refusal(HTTPStatus.INSUFFICIENT_STORAGE, "no_space", message)

    async def _fill(self, content: StreamReader, opened: Part, part: Slice) -> None:
        seconds = _START_SECONDS + part.count / self._limits.least_bytes_per_second
        try:
            async with asyncio.timeout(seconds):
                await self._copy(content, opened, part)
        except TimeoutError:
            message = f"the sender is too slow or stalled; {opened.end} bytes are here"
            raise _refusal(HTTPStatus.REQUEST_TIMEOUT, "stalled", message, opened.end) from None
        except ClientPayloadError as error:
            message = f"the body broke off: {error}"
            raise _refusal(HTTPStatus.BAD_REQUEST, "short", message, opened.end) from error
        if opened.end != part.end:
            message = f"the body ended early: {opened.end} bytes are here, {part.end} were announced"
            raise _refusal(HTTPStatus.BAD_REQUEST, "short", message, opened.end)

    # The connection breaks when the sender goes away; what it had sent is kept all the same.
    async def _copy(self, content: StreamReader, opened: Part, part: Slice) -> None:
        """Read one batch while the one before is being written; what was read is written, however this ends."""
        left, batch, size = part.count, list[bytes](), 0
        writing: asyncio.Task[None] | None = None
        try:
            while chunk := await self._next(content):
                if len(chunk) > left:
                    raise _refusal(HTTPStatus.BAD_REQUEST, "long", "the body is longer than announced")
                left -= len(chunk)
                size += len(chunk)
                batch.append(chunk)
                if size >= _BATCH_BYTES:
                    await _settled(writing)
                    writing = asyncio.create_task(in_thread(opened.write, batch))
                    self._metrics.bytes_received.inc(size)
                    batch, size = [], 0
        finally:
            await _settled(writing)
            if batch:
                await _on_disk(in_thread(opened.write, batch))
                self._metrics.bytes_received.inc(size)

    async def _next(self, content: StreamReader) -> bytes:
        async with asyncio.timeout(self._limits.stall_seconds):
            return await content.readany()

    async def _acknowledge(self, opened: Part, place: Place, total: int) -> Receipt:
        if not await _on_disk(in_thread(opened.is_artifact)):
            await _on_disk(in_thread(opened.drop))
            message = f"the {total} bytes received are not {place.final.name}; they were removed, send them again"
            raise _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "checksum", message, 0)
        await _on_disk(in_thread(opened.install))
        await self.note(place)
        receipt = await self._receipts.add(place.final.name, place.path, total)
        self._metrics.artifacts_received.inc()
        log.info("received artifact=%s path=%s size_bytes=%d", place.final.name, place.path, total)
        if self._arrived is not None:
            self._arrived(place.final)
        return receipt


async def _settled(writing: asyncio.Task[None] | None) -> None:
    if writing is not None:
        await _on_disk(writing)


async def _on_disk(work: Awaitable[T]) -> T:
    """Await disk work; a full disk is answered 507, any other fault of the disk 500.

    Raises:
        Refusal: The disk failed.

    """
    try:
        return await work
    except LocalDiskError as error:
        if disk_is_full(error):
            raise _refusal(HTTPStatus.INSUFFICIENT_STORAGE, "no_space", error.message) from error
        log.exception("the disk refuses")
        raise _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "disk", error.message) from error


def _refusal(status: HTTPStatus, code: str, message: str, received: int | None = None) -> Refusal:
    """Give a refusal after which the connection closes: the rest of the body would only be thrown away."""
    more = {} if received is None else {"received": received}
    return Refusal(status, code, message, more, {"Connection": "close"})
