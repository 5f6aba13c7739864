"""Blocking work that uses a resource of its coroutine (a descriptor): the coroutine never ends before the work does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run ``work`` in a thread. When the caller is cancelled, wait for ``work`` to end before saying so.

    ``asyncio.to_thread`` would return at once and leave the thread running, and the descriptor that it reads from
    would be closed under it, and perhaps given to another file.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # whatever it was, the cancellation counts
        raise
