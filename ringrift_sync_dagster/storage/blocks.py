"""The block list of a file: the SHA-256 of each 4 MiB block, on which resume and blame for a bad block rest.

The size of a block is ``core.blocks.BLOCK_BYTES``; the last block is shorter, and an empty file has no block.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

from ringrift_sync_dagster.core.blocks import BLOCK_BYTES
from ringrift_sync_dagster.storage.files import CHUNK_BYTES, check_cancel, disk_errors


def block_list(path: Path, cancel: threading.Event | None = None) -> list[str]:
    """Give the SHA-256 of each block in order, in lower-case hexadecimal.

    Args:
        path: The file; read once, in steps of 1 MiB.
        cancel: When set by another thread, the reading stops.

    Raises:
        LocalDiskError: The file cannot be read.
        TransferCancelledError: ``cancel`` was set.

    """
    blocks: list[str] = []
    digest, filled = hashlib.sha256(), 0
    with disk_errors(path, "read"), path.open("rb", buffering=0) as stream:
        while chunk := stream.read(min(CHUNK_BYTES, BLOCK_BYTES - filled)):
            check_cancel(cancel, path)
            digest.update(chunk)
            filled += len(chunk)
            if filled == BLOCK_BYTES:
                blocks.append(digest.hexdigest())
                digest, filled = hashlib.sha256(), 0
    if filled:
        blocks.append(digest.hexdigest())
    return blocks
