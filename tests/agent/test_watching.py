"""The watch finds games soon, however slowly it began."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from ringrift_sync_dagster.agent.calls import Calls
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.agent.watching import Watcher
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from tests.agent.through_parts import CONFIG, DATABASE
from tests.node.merging import game

_SLOW_SECONDS = 1.0  # of the first scan, on a machine that starts many programs; ten times that was waited
_SOON_SECONDS = 4.0


class SlowAtFirst(Calls):
    """The kit on a machine that is busy while the agent starts."""

    started = False

    async def call(self, op: str, args: dict[str, Any]) -> dict[str, Any]:
        if not self.started:
            self.started = True
            await asyncio.sleep(_SLOW_SECONDS)
        return await super().call(op, args)


def test_a_database_that_appears_after_a_slow_start_is_found_soon(tmp_path: Path) -> None:
    root, scratch = tmp_path / "node", tmp_path / "scratch"
    (root / DATABASE).parent.mkdir(parents=True)
    scratch.mkdir()

    async def seconds_until_found() -> float:
        calls, outbox = SlowAtFirst([str(root)], str(scratch), Limits(), Metrics()), Outbox(scratch, "owner", 10**9)
        watcher = Watcher(calls, [str(root)], scratch, outbox, 0.1, lambda: None)
        try:
            await watcher.look()
            with Recorder(root / DATABASE, Dialect.V18) as recorder:
                recorder.record_all([game("first", config=CONFIG)])
            began = time.monotonic()
            while not outbox.totals().games and time.monotonic() - began < 3 * _SOON_SECONDS:
                await watcher.look()
                await asyncio.sleep(0.1)
            return time.monotonic() - began
        finally:
            await calls.close()
            outbox.close()

    assert asyncio.run(seconds_until_found()) < _SOON_SECONDS
