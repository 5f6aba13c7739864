"""Many nodes with the same few files, served by one process: ``python -m bench.scripted_nodes ROOT PORT FIRST COUNT``.

Each node has an address of its own and answers as its agent would: ``/health``, the manifest as a delta, kit operations
and artifacts. What a node says of its files is made once, so that the peer takes little of the machine while a pass
over all of them is measured. The operations are the kit's own, on the one root that all these nodes share.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import sys
import time
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.ops import OPS, Context
from ringrift_sync_dagster.node.roots import Roots

TOKEN: Final = "scripted:1"  # noqa: S105 - a change token


class Nodes:
    """The handlers; ``root`` is what all nodes have."""

    def __init__(self, root: Path) -> None:
        self._root, self._scratch = root, root / ".scratch"
        self._scratch.mkdir(exist_ok=True)
        self._entries: list[dict[str, Any]] = self._run("scan", {})["entries"]
        paths = [root / str(entry["path"]) for entry in self._entries]
        self._files = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in paths}

    def _run(self, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return OPS[op](Context(Roots([str(self._root)]), str(self._scratch), time.time()), arguments)

    async def health(self, request: web.Request) -> web.Response:
        """Answer under the name that belongs to the address that was called."""
        assert request.transport is not None
        name = name_of(request.transport.get_extra_info("sockname")[0])
        return web.json_response({"status": "up", "version": "bench", "node_id": name})

    async def manifest(self, request: web.Request) -> web.Response:
        """Give everything once, and nothing to whoever has it."""
        known = request.query.get("since") == TOKEN
        entries = [] if known else self._entries
        return web.json_response({"token": TOKEN, "full": not known, "entries": entries, "removed": []})

    async def call(self, request: web.Request) -> web.Response:
        """Run a kit operation."""
        try:
            result = await asyncio.to_thread(self._run, request.match_info["op"], await request.json())
        except KitError as error:
            return web.json_response({"ok": False, "error": error.as_json()}, status=422)
        return web.json_response({"ok": True, "result": result})

    async def artifact(self, request: web.Request) -> web.StreamResponse:
        """Give a pack, or a file of the root that has this content."""
        sha256 = request.match_info["sha"]
        path = self._files.get(sha256, self._scratch / "artifacts" / sha256)
        return web.FileResponse(path, headers={"ETag": f'"{sha256}"'})


def name_of(address: str) -> str:
    """Give the name of the node at an address."""
    return "node-" + address.replace(".", "-")


def addresses(first: str, count: int) -> list[str]:
    """Give so many addresses from the first one on."""
    start = ipaddress.IPv4Address(first)
    return [str(start + number) for number in range(count)]


async def serve(root: Path, port: int, where: list[str]) -> None:
    """Answer until the standard input ends; a line on standard output says that it begins."""
    nodes = Nodes(root)
    app = web.Application()
    app.add_routes(
        [
            web.get("/health", nodes.health),
            web.get("/v1/manifest", nodes.manifest),
            web.post("/v1/call/{op}", nodes.call),
            web.get("/v1/artifacts/{sha}", nodes.artifact),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    for address in where:
        await web.TCPSite(runner, address, port).start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2]), addresses(sys.argv[3], int(sys.argv[4]))))
