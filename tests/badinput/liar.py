"""A node that lies: a real HTTP server which answers the questions of a pass with whatever a test wants."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

LIAR = "liar-1"
PATH = "data/games/x.db"
NOWHERE = "0" * 64

Handler = BaseHTTPRequestHandler
Answer = Callable[[dict[str, Any]], Any]


def entry(path: str = PATH, **other: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON of any shape
    """An entry of a manifest that makes sense, but for what ``other`` says."""
    return {
        "path": path, "data_type": "games", "kind": "selfplay", "config": None, "collectable": True, "bytes": 4096,
        "mtime_ns": 1, "token": "t", "error": None, "games": {"hex8_2p": 3}, **other,
    }  # fmt: skip


def manifest(*entries: Any, **other: Any) -> dict[str, Any]:  # noqa: ANN401
    """A full manifest that makes sense, but for what ``other`` says."""
    return {"token": "m1", "full": True, "entries": list(entries or (entry(),)), "removed": [], **other}


def cursor(rowid: int = 3, **other: Any) -> dict[str, Any]:  # noqa: ANN401
    """A cursor that makes sense, but for what ``other`` says."""
    position = {"v": 1, "inode": 1, "rowid": rowid, "game_id": "g", "digest": None, "token": "", "waiting": {}}
    return {**position, **other}


def packed(**other: Any) -> dict[str, Any]:  # noqa: ANN401
    """A result of ``pack`` that has nothing to pack, but for what ``other`` says."""
    return {
        "artifact": None, "bytes": 0, "raw_bytes": 0, "games": 0, "cursor": cursor(), "more": False,
        "mode": "incremental", "waiting": 0, "short": [], "left": [], "warnings": [], **other,
    }  # fmt: skip


def with_pack(data: bytes, **other: Any) -> dict[str, Any]:  # noqa: ANN401
    """A result of ``pack`` that names the artifact ``data``, and says truly what it inflates to, but for a bomb."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        raw_bytes = len(zlib.decompressobj().decompress(data, 1 << 20))
    except zlib.error:
        raw_bytes = 1
    return packed(**{"artifact": sha256, "bytes": len(data), "raw_bytes": raw_bytes, "games": 1, **other})


def file_of(lie: str) -> str:
    """One database for each lie, so that one pass meets them all."""
    return f"data/games/{lie.replace(' ', '_')}.db"


class Liar:
    """The server. ``manifest``, ``pack``, ``list`` and ``artifacts`` are what it says; ``asked`` is what it was asked.

    ``manifest``, ``pack`` and ``list`` are JSON, or a function that makes it from the arguments; ``raw`` replaces the
    answer to a path by a function that writes it.
    """

    def __init__(self) -> None:
        self.manifest: Any = manifest()
        self.pack: Any = packed()
        self.list: Any = {"games": [], "cursor": cursor(), "more": False}
        self.artifacts: dict[str, bytes] = {}
        self.raw: dict[str, Callable[[Handler], None]] = {}
        self.asked: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def offer(self, data: bytes, **other: Any) -> None:  # noqa: ANN401
        """Give ``data`` as the pack."""
        self.offer_each({PATH: data}, **other)

    def offer_each(self, packs: dict[str, bytes], **other: Any) -> None:  # noqa: ANN401
        """Have one database for each path, and give its pack."""
        self.artifacts = {hashlib.sha256(data).hexdigest(): data for data in packs.values()}
        self.manifest = manifest(*map(entry, packs))
        self.pack = lambda asked: with_pack(packs[asked["path"]], **other)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[Handler]:
        liar = self

        class Handled(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                liar._answer(self)

            def do_POST(self) -> None:
                liar._answer(self)

            def do_DELETE(self) -> None:
                liar._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        return Handled

    def _answer(self, handler: Handler) -> None:
        path = handler.path.partition("?")[0]
        self.asked.append(path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with contextlib.suppress(ConnectionError):
            if path in self.raw:
                handler.close_connection = True
                self.raw[path](handler)
            elif path == "/health":
                send(handler, {"status": "up", "version": "1", "node_id": LIAR})
            elif path == "/v1/manifest":
                send(handler, self._said(self.manifest, {}))
            elif path.startswith("/v1/call/"):
                op = path.rpartition("/")[2]
                send(handler, {"ok": True, "result": self._said(getattr(self, op), json.loads(body))})
            else:
                send(handler, self.artifacts.get(path.rpartition("/")[2], {}))

    @staticmethod
    def _said(answer: Any, arguments: dict[str, Any]) -> Any:  # noqa: ANN401
        return answer(arguments) if callable(answer) else answer


def send(handler: Handler, answer: Any, status: int = 200) -> None:  # noqa: ANN401
    """Send JSON, or bytes as they are."""
    data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def endless(head: bytes, piece: bytes) -> Callable[[Handler], None]:
    """Answer with a body that never ends."""

    def write(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + head)
        while True:
            handler.wfile.write(piece)

    return write
