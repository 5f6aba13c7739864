"""What runs inside a worker process of the agent: one operation of the node kit at a time.

This module and the kit are all that such a process imports: the standard library only, no event loop, no server, no
database of ours. Kit operations open SQLite databases of others; in their own process they cannot take locks away from
the agent, cannot hold its interpreter, and can be ended at any moment. A worker ends itself as soon as its lifeline (a
pipe whose other end only the agent holds) closes, so it never outlives the agent, whatever killed that.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.ops import OPS, REMOTE, Context
from ringrift_sync_dagster.node.roots import Roots

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 5.0
_NICENESS: Final = 5  # self-play on the node comes first


def begin(lifeline: Connection, parent: int) -> None:
    """Prepare a fresh worker process.

    Args:
        lifeline: Nothing is ever sent through it; its end is the end of this process.
        parent: Process id of the agent.

    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the agent, which then lets go of the lifeline
    os.nice(_NICENESS)
    threading.Thread(target=_end_with_agent, args=(lifeline, parent), name="lifeline", daemon=True).start()


def _end_with_agent(lifeline: Connection, parent: int) -> None:
    # The parent is looked at as well: a process forked from the agent could hold the pipe open.
    while not lifeline.poll(_LOOK_SECONDS) and os.getppid() == parent:
        pass
    os._exit(1)


def ready() -> None:
    """Do nothing: whoever asks for this has a process started."""


def run(op: str, args: dict[str, Any], roots: Sequence[str], scratch: str, now: float) -> dict[str, Any]:
    """Run one operation.

    Args:
        op: Its name; only those of ``REMOTE`` are run.
        args: Its arguments, as they came in JSON.
        roots: The node's roots.
        scratch: Where the kit keeps its own files.
        now: Wall time in seconds since 1970.

    Returns:
        ``{"ok": True, "result": ...}`` or ``{"ok": False, "error": {"code", "message", "path"}}``; the same as the
        kit's own command line prints.

    """
    if op not in REMOTE:
        message = f"there is no operation {op[:40]!r}; there are {', '.join(REMOTE)}"
        return {"ok": False, "error": {"code": "bad_arguments", "message": message, "path": None}}
    try:
        return {"ok": True, "result": OPS[op](Context(roots=Roots(roots), scratch=scratch, now=now), args)}
    except KitError as error:
        return {"ok": False, "error": error.as_json()}
    except Exception as error:
        log.exception("operation failed op=%s", op)
        message = f"{type(error).__name__}: {error}"
        return {"ok": False, "error": {"code": "internal", "message": message, "path": None}}
