"""Where programs of this machine find its agent: a note that the agent leaves in its scratch directory when it listens.

    {"node": "vast-1", "url": "https://127.0.0.1:8765", "fingerprint": "<SHA-256>", "token_file": "/.../token.jwt"}

It holds no secret: the token's own file says who may read it. Because a token is sent to where the note leads, a note
counts only when it belongs to root, to who reads it, or to the owner of the token.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.storage.files import atomic_write_text
from ringrift_sync_dagster.storage.layout import SCRATCH_DIR
from ringrift_sync_dagster.transports.networks import is_wildcard

log = logging.getLogger(__name__)

NAME: Final = "address.json"
_ROOT: Final = 0


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """How a program of this machine asks its agent.

    Args:
        node: The node.
        url: Of its agent.
        fingerprint: SHA-256 of its certificate; empty where it speaks plain HTTP.
        token_file: The node's own token; empty where the agent knows none.

    """

    node: str
    url: str
    fingerprint: str = ""
    token_file: str = ""

    @classmethod
    def of(cls, node: str, sock: socket.socket, fingerprint: str, token_file: Path | None) -> Self:
        """Give the address of an agent that listens; behind a wildcard it is asked on loopback."""
        host, port = sock.getsockname()[:2]
        if is_wildcard(host):
            host = "::1" if sock.family == socket.AF_INET6 else "127.0.0.1"
        shown = f"[{host}]" if ":" in host else host
        url = f"{'https' if fingerprint else 'http'}://{shown}:{port}"
        return cls(node, url, fingerprint, "" if token_file is None else str(token_file.absolute()))

    def write(self, scratch: Path) -> None:
        """Leave the note; that it could not be written is only logged, because the agent works without it."""
        text = json.dumps(asdict(self), indent=1) + "\n"
        path = scratch / NAME
        with contextlib.suppress(OSError, ValueError):
            if path.read_text(encoding="utf-8") == text:
                return
        try:
            atomic_write_text(path, text)
        except LocalDiskError as error:
            log.warning("programs of this machine must be told the agent's address: no note of it cause=%s", error)


def find(places: Iterable[Path], token_file: Path | None) -> OwnAddress | None:
    """Give the note of the first of these directories, or of one above it, that is the root of a node; None: none is.

    Args:
        places: Files or directories of a node.
        token_file: The token that will be sent; None: the one that the note names.

    """
    for folder in _folders(places):
        path = folder / SCRATCH_DIR / NAME
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            told = json.loads(path.read_text(encoding="utf-8"))
            found = OwnAddress(*(str(told[name]) for name in ("node", "url", "fingerprint", "token_file")))
            token = token_file or (Path(found.token_file) if found.token_file else None)
            if urlsplit(found.url).hostname and path.stat().st_uid in _trusted(token):
                return found
    return None


def _folders(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        for path in dict.fromkeys((place.absolute(), place.resolve())):
            yield from (path, *path.parents)


def _trusted(token: Path | None) -> set[int]:
    return {_ROOT, os.geteuid(), *(() if token is None else (token.stat().st_uid,))}
