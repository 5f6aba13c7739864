"""Calling the kit: two worker processes, a bound on how many wait, a limit on how long one runs, equal calls once.

Each worker is an executor of its own ("lane"), so that a call which kills its process or is ended for taking too long
takes no other call with it. Ending is done by closing the lane's lifeline (``worker.py``); the next call on the lane
starts a fresh process, and so does every ``calls_per_worker``-th one, which bounds what a leak can cost.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from http import HTTPStatus
from typing import Any, Final

from ringrift_sync_dagster.agent import worker
from ringrift_sync_dagster.agent.answers import Refusal, busy
from ringrift_sync_dagster.agent.in_thread import in_thread
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.agent.single_flight import SingleFlight
from ringrift_sync_dagster.node.ops import REMOTE
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.clock import Deadline

log = logging.getLogger(__name__)

LANES: Final = 2
_CLOSE_SECONDS: Final = 5.0
_SPAWN: Final = multiprocessing.get_context("spawn")


class Lane:
    """One worker process, started when it is needed; used from the event loop, which it never holds up.

    Args:
        calls_per_process: After so many calls the process is replaced.

    """

    def __init__(self, calls_per_process: int) -> None:
        self._calls_per_process = calls_per_process
        self._calls = 0
        self._executor: ProcessPoolExecutor | None = None
        self._lifeline: Any = None
        self._ending: list[threading.Thread] = []

    async def run(self, *args: Any) -> dict[str, Any]:  # noqa: ANN401 - the arguments of worker.run
        """Run one call in the process; a process that has died meanwhile is replaced once.

        Raises:
            BrokenProcessPool: The call itself ends its process.

        """
        try:
            return await self._once(args)
        except BrokenProcessPool:
            log.warning("worker died op=%s; starting another one", args[0])
            self.end()
            return await self._once(args)

    def end(self) -> None:
        """End the process, whatever it does now; what waits for its end is a thread. Idempotent."""
        if self._executor is None:
            return
        self._lifeline.close()
        # The executor's locks may be held until the process is gone, and one that waits for a disk may take its time.
        ending = threading.Thread(target=self._executor.shutdown, name="worker ends", daemon=True)
        ending.start()
        self._ending = [*(thread for thread in self._ending if thread.is_alive()), ending]
        self._executor = None

    def wait(self, seconds: float) -> bool:
        """Wait for the processes that were ended; blocks. Say whether all are gone."""
        deadline = Deadline.after(seconds)
        for thread in self._ending:
            thread.join(deadline.remaining())
        return not any(thread.is_alive() for thread in self._ending)

    async def _once(self, args: Sequence[Any]) -> dict[str, Any]:
        if self._calls >= self._calls_per_process:
            self.end()
        if self._executor is None:
            await in_thread(self._start)
        assert self._executor is not None  # noqa: S101 - for the type checker
        self._calls += 1
        return await asyncio.wrap_future(self._executor.submit(worker.run, *args))

    def _start(self) -> None:
        """Start a process: a program is loaded from the disk, so this belongs into a thread."""
        watched, lifeline = _SPAWN.Pipe(duplex=False)
        executor = ProcessPoolExecutor(1, _SPAWN, initializer=worker.begin, initargs=(watched, os.getpid()))
        executor.submit(worker.ready)
        self._calls, self._lifeline, self._executor = 0, lifeline, executor


class Calls:
    """The kit operations of one agent, used from its event loop.

    Args:
        roots: The node's roots.
        scratch: Where the kit keeps its own files.
        limits: Bounds of the agent.
        metrics: Counts the calls.

    """

    def __init__(self, roots: Sequence[str], scratch: str, limits: Limits, metrics: Metrics) -> None:
        self._roots = tuple(roots)
        self._scratch = scratch
        self._limits = limits
        self._metrics = metrics
        self._lanes = [Lane(limits.calls_per_worker) for _ in range(LANES)]
        self._free: asyncio.LifoQueue[Lane] = asyncio.LifoQueue()
        for lane in self._lanes:
            self._free.put_nowait(lane)
        self._flights: SingleFlight[dict[str, Any]] = SingleFlight()

    @property
    def running(self) -> int:
        """How many different calls are under way, those that wait for a worker included."""
        return len(self._flights)

    async def call(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        """Run an operation, or join an equal one that is under way.

        Returns:
            What ``worker.run`` returns: the result, or the kit's refusal.

        Raises:
            Refusal: 503: too many wait, it took too long, or it ends every process that runs it.

        """
        key = (op, json.dumps(args, sort_keys=True))
        return await self._flights.do(key, lambda: self._timed(op, args))

    async def close(self) -> None:
        """End all workers; calls under way fail."""
        for lane in self._lanes:
            lane.end()
        await self._flights.close()
        gone = await asyncio.gather(*(asyncio.to_thread(lane.wait, _CLOSE_SECONDS) for lane in self._lanes))
        if not all(gone):
            log.warning("a worker process did not end within %.0f s", _CLOSE_SECONDS)

    async def _timed(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        if len(self._flights) > self._limits.calls_waiting + LANES:
            raise busy(f"{len(self._flights)} operations are waiting already")
        seconds, started = self._limits.call_seconds, clock.monotonic()
        try:
            async with asyncio.timeout(seconds):
                answer = await self._on_a_lane(op, args)
        except TimeoutError:
            self._metrics.call_failures.labels(op, "timeout").inc()
            message = f"{op} did not end within {seconds:.0f} s and was stopped; ask for less, or try again later"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "timeout", message) from None
        except BrokenProcessPool:
            self._metrics.call_failures.labels(op, "died").inc()
            message = f"{op} ended its worker process twice; the agent's log and the kernel's (out of memory?) say more"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "died", message) from None
        self._count(op, answer, clock.monotonic() - started)
        return answer

    async def _on_a_lane(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        lane = await self._free.get()
        try:
            return await lane.run(op, args, self._roots, self._scratch, clock.wall())
        except (asyncio.CancelledError, BrokenProcessPool):
            lane.end()  # nobody waits for it any more, or the process is gone
            raise
        finally:
            self._free.put_nowait(lane)

    def _count(self, op: str, answer: dict[str, Any], seconds: float) -> None:
        # An unknown name came from the client: as a label it would grow without bound.
        known = op if op in REMOTE else "unknown"
        self._metrics.call_seconds.labels(known).observe(seconds)
        if not answer["ok"]:
            self._metrics.call_failures.labels(known, str(answer["error"]["code"])).inc()
