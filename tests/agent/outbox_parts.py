"""Packs for an outbox."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.agent.outbox_entries import Packed

OWNER = "owner"


def made(scratch: Path, number: int, size: int = 100) -> Packed:
    data = f"{number}".encode().ljust(size)
    sha = hashlib.sha256(data).hexdigest()
    (scratch / sha).write_bytes(data)
    games = ((f"g{number}", f"identity-{number}"),)
    return Packed(f"{number}.db", "hex8_2p", sha, size, scratch / sha, games, {"n": number})


def names(outbox: Outbox) -> list[str]:
    return [entry.sha256 for entry in outbox.entries()]
