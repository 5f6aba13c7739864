"""The receipts of this node, kept in the agent's state database; every access runs in the one thread that is for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, TypeVar

from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.receipts import Receipt, add_receipt, drop_receipt, receipts_of, receipts_since
from ringrift_sync_dagster.state.store import StateStore

R = TypeVar("R")


class ReceiptBook:
    """What this node holds, verified.

    Args:
        store: The agent's state database; closed by ``close``.
        node_id: This node: the holder that the receipts name.
        durable: False: this node may vanish, so its receipts do not let a sender forget its last copy.

    """

    def __init__(self, store: StateStore, node_id: str, *, durable: bool = True) -> None:
        self._store = store
        self._node_id = node_id
        self._durable = durable
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")

    def as_json(self, receipt: Receipt) -> dict[str, Any]:
        """Give the form that travels."""
        return {**asdict(receipt), "durable": self._durable and receipt.node == self._node_id}

    async def add(self, sha256: str, path: str, size_bytes: int) -> Receipt:
        """Record a copy that is verified and on the disk; the receipt is on the disk when this returns.

        Raises:
            StateError: The database cannot be written: there is no receipt.

        """
        receipt = Receipt(sha256, self._node_id, path, size_bytes, clock.wall())
        return await self._run(lambda: add_receipt(self._store, receipt))

    async def get(self, sha256: str) -> Receipt | None:
        """Give this node's receipt for an artifact, or None."""
        found = await self._run(lambda: receipts_of(self._store, sha256))
        return next((receipt for receipt in found if receipt.node == self._node_id), None)

    async def drop(self, sha256: str) -> None:
        """Take this node's receipt for an artifact back: it is about to be deleted. Idempotent."""
        await self._run(lambda: drop_receipt(self._store, sha256, self._node_id))

    async def since(self, after_id: int, limit: int) -> list[Receipt]:
        """Give receipts with a larger id, oldest first."""
        return await self._run(lambda: receipts_since(self._store, after_id, limit))

    async def close(self) -> None:
        """Wait for what is under way and close the database."""
        await self._run(self._store.close)
        self._thread.shutdown(wait=True)

    async def _run(self, work: Callable[[], R]) -> R:
        # Shielded: a client that goes away must not leave its receipt half asked for.
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, work))
