"""Who may move bytes now, and how fast: one answer for all processes, whatever starts a transfer.

A transfer asks, waits for its turn (priority first, nobody for ever), and holds its row in the state database while it
runs; a thread renews the rows of this process every second and gives each transfer the rate that its row is worth.
Numbers: sync guide, "Bandwidth Limits" and "Transfer Priorities"; architecture.md, 7.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.bandwidth import BYTES_PER_MB, TransferPriority, host_limit
from ringrift_sync_dagster.core.escalation import SKIPPED, Attempt
from ringrift_sync_dagster.core.pressure import may_be_held
from ringrift_sync_dagster.core.room import DiskLimits, disk_refusal, memory_refusal
from ringrift_sync_dagster.errors import (
    AdmissionRefusedError,
    BackpressureError,
    StateError,
    SyncError,
    TransferCancelledError,
)
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.settings.inventory import Inventory
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state import admission, shares, transfers
from ringrift_sync_dagster.state import host_priorities as priorities
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.liveness import HEARTBEAT_SECONDS
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage import room
from ringrift_sync_dagster.sync.pressure import PressureGauge
from ringrift_sync_dagster.transports.base import Fetched, Pushed
from ringrift_sync_dagster.transports.pacing import BucketPacer

TURN_SECONDS: Final = 1800.0
"""How long a transfer waits for its turn: longer than the longest that runs, so that its age is not lost."""
_FIRST_LOOK_SECONDS: Final = 0.05
_SETTLED_SECONDS: Final = 5.0  # after so long a transfer has taken the memory that it needs, and the kernel counts it
_LOOK_SECONDS: Final = 0.5

_LOG: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class RunningTransfer:
    """A transfer that has its turn; the ``with`` that gave it ends its row.

    Args:
        id: Of its row.
        pacer: Keeps it within its share.
        cancel: Set when the transfer must stop: the caller asked, or its row was given up for lost.

    """

    id: int
    pacer: BucketPacer
    cancel: threading.Event
    received: int = 0
    started: float = field(default_factory=monotonic)
    ending: transfers.Ending = field(default_factory=transfers.Ending)

    def progress(self, there: int) -> None:
        """Take the number of bytes that are there; it is written with the next renewal."""
        self.received = there

    def done(self, moved: Fetched | Pushed) -> None:
        """Say how it ended well."""
        self.ending = transfers.Ending(
            seconds=moved.seconds, resumed_from=moved.resumed_from, transport=moved.transport,
            rungs=[asdict(attempt) for attempt in moved.attempts], rate_granted=self.pacer.rate,
        )  # fmt: skip

    def failed(self, error: BaseException) -> None:
        """Say how it ended otherwise."""
        tried = [attempt for attempt in getattr(error, "attempts", ()) if isinstance(attempt, Attempt)]
        asked = [attempt.rung for attempt in tried if attempt.error != SKIPPED]
        self.ending = transfers.Ending(
            seconds=monotonic() - self.started, rungs=[asdict(attempt) for attempt in tried],
            rate_granted=self.pacer.rate, transport=asked[-1] if asked else "",
        )  # fmt: skip


class BandwidthManager:
    """Limits, priorities and turns; safe in several threads. Close it when no transfer runs any more.

    Args:
        settings: ``bandwidth_limit`` for hosts with no other, and ``max_concurrent_syncs``.
        inventory: The hosts and their own limits.
        state: What all processes share.
        pressure: Says when transfers that can wait are held; None: never.

    """

    def __init__(
        self, settings: Settings, inventory: Inventory, state: StateStore, pressure: PressureGauge | None = None
    ) -> None:
        self._settings, self._inventory, self._state = settings, inventory, state
        self.pressure = pressure
        self._running: dict[int, RunningTransfer] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._keeper: threading.Thread | None = None

    def get_host_bandwidth_limit(self, host: str) -> float:
        """Give the limit of a host in MB/s (10**6 bytes per second), before priorities.

        Its own ``bandwidth_mbps`` counts, else an override by name or glob, else its provider's default, else the
        setting ``bandwidth_limit_mbps``. A host that the inventory does not know has the last of them.
        """
        node = self._inventory.nodes.get(host)
        provider, own = (node.provider, node.bandwidth_mbps) if node else ("", None)
        return host_limit(host, provider, own, self._overrides(), self._settings.bandwidth_limit)

    def set_host_priority(self, host: str, priority: TransferPriority | None) -> None:
        """Give a host's transfers that start from now on this priority, in every process; None ends it.

        Raises:
            ValueError: There is no such priority.

        """
        if host not in self._inventory.nodes:
            _LOG.warning("host=%s priority=%s unknown=the inventory has no host of this name", host, priority)
        priority = None if priority is None else TransferPriority(priority)
        priorities.set_host_priority(self._state, host, priority)

    def host_priority(self, host: str) -> TransferPriority | None:
        """Give the priority that was set for a host; None when none is."""
        return priorities.host_priority(self._state, host)

    def look(self) -> None:
        """See how loaded the coordinator is, where the last look of this process is 10 s old."""
        if self.pressure is not None:
            self.pressure.current()

    def holds(self, host: str, priority: TransferPriority, *, last_copy: bool, trigger: str = "") -> bool:
        """Say whether backpressure holds a transfer with a host now.

        Args:
            host: The host; its own priority, where one is set, replaces ``priority``.
            priority: How important the transfer is by itself.
            last_copy: True: what moves may be on no other host that lasts.
            trigger: What started it.

        """
        if self.pressure is None or last_copy or not self.pressure.is_active():
            return False
        return may_be_held(self.host_priority(host) or priority, last_copy=last_copy, trigger=trigger)

    def wait_while_held(self, priority: TransferPriority, *, cancel: threading.Event | None = None) -> float:
        """Wait while backpressure holds work of the owner alone, such as an archive's; give the seconds waited.

        Args:
            priority: How important the work is.
            cancel: Ends the waiting; without it the longest pause does.

        """
        started, ended = monotonic(), cancel or threading.Event()
        while self.pressure is not None and may_be_held(priority, last_copy=False) and self.pressure.is_active():
            if ended.wait(_LOOK_SECONDS):
                break
        return monotonic() - started

    @property
    def disk_limits(self) -> DiskLimits:
        """What the inventory allows on a disk."""
        section = self._inventory.sections.get("sync_routing")
        values = section if isinstance(section, Mapping) else {}
        return DiskLimits(_number(values.get("max_disk_usage_percent")), _number(values.get("min_free_disk_percent")))

    @contextmanager
    def transfer(
        self,
        wanted: TransferRequest,
        *,
        disk: Path | None = None,
        rescue: bool = False,
        cancel: threading.Event | None = None,
        turn_seconds: float | None = None,
        leave_held: bool = False,
    ) -> Iterator[RunningTransfer]:
        """Wait for a turn, and hold it while the body runs; the row says how the body ended.

        Under backpressure a push that is neither urgent nor of high priority waits for its end first. What is fetched
        may be the only copy that there is, and is never held here.

        Args:
            wanted: What is to move. A host's own priority replaces its priority; what comes from an ephemeral node
                has its turn earlier (``ephemeral_priority_boost``).
            disk: The directory on this machine that is filled; None when it is another machine's.
            rescue: True: what moves has no other copy; only the physical room counts.
            cancel: Ends the waiting.
            turn_seconds: How long to wait for a turn; 1,800 s when None.
            leave_held: True: what backpressure holds is left, and does not wait here.

        Raises:
            AdmissionRefusedError: The disk or the memory would pass its limit, or no turn came in time.
            BackpressureError: It is held, and was to be left; or it still was when ``turn_seconds`` were over.
            TransferCancelledError: ``cancel`` was set while it waited.
            StateError: The state database cannot be used.

        """
        priority = self.host_priority(wanted.node)
        wanted = self._boosted(wanted if priority is None else replace(wanted, priority=priority))
        turn = Deadline.after(TURN_SECONDS if turn_seconds is None else turn_seconds)
        # Without a row: what waits here is no load, and must not keep the pressure up.
        self._wait_while_held(wanted, cancel, Deadline.after(0) if leave_held else turn, rescue=rescue)
        transfer_id, admitted = admission.request_and_admit(self._state, wanted, max_running=self._most)
        pacer = BucketPacer(self._bytes_per_second(wanted.node)[0])
        running = RunningTransfer(transfer_id, pacer, cancel or threading.Event())
        try:
            self._check_room(wanted, transfer_id, disk, rescue=rescue)
            if not admitted:
                self._wait_for_turn(wanted, transfer_id, cancel, turn)
            self._join(running)
            yield running
        except BaseException as error:
            running.failed(error)
            self._leave(running)
            self._end(running, error)
            raise
        self._leave(running)
        self._end(running, None)

    def close(self) -> None:
        """End the thread. Idempotent."""
        self._ended.set()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.join()

    def _boosted(self, wanted: TransferRequest) -> TransferRequest:
        """Let what comes from an ephemeral node have its turn earlier, with the same share of the bandwidth."""
        node = self._inventory.nodes.get(wanted.node)
        if wanted.direction != "fetch" or node is None or not node.is_ephemeral:
            return wanted
        return replace(wanted, boost=self._settings.ephemeral_priority_boost)

    @property
    def _most(self) -> int:
        return self._settings.max_concurrent_syncs

    def _overrides(self) -> Mapping[str, float]:
        written = self._inventory.auto_sync.get("host_bandwidth_overrides")
        pairs = written.items() if isinstance(written, Mapping) else ()
        return {str(name): float(str(limit)) for name, limit in pairs}

    def _bytes_per_second(self, host: str) -> tuple[float, bool]:
        node = self._inventory.nodes.get(host)
        return self.get_host_bandwidth_limit(host) * BYTES_PER_MB, node is not None and node.hard_limit

    def _check_room(self, wanted: TransferRequest, transfer_id: int, disk: Path | None, *, rescue: bool) -> None:
        total, available = room.memory()
        beginning = max(1, admission.begun(self._state, _SETTLED_SECONDS))  # this one too
        why = memory_refusal(total, available, waiting_to_use=beginning)
        if not why and disk is not None:
            reserved = admission.reserved(self._state, wanted.disk, up_to=transfer_id)
            refusal = disk_refusal(room.disk_of(disk), self.disk_limits, reserved_bytes=reserved, rescue=rescue)
            why = f"the disk of {disk}: {refusal}" if refusal else ""
        if why:
            message = f"artifact {wanted.artifact[:12]} is not moved: {why}"
            raise AdmissionRefusedError(wanted.node, "", message)

    def _wait_while_held(
        self, wanted: TransferRequest, cancel: threading.Event | None, deadline: Deadline, *, rescue: bool
    ) -> None:
        last_copy = rescue or wanted.direction == "fetch"
        while self.holds(wanted.node, wanted.priority, last_copy=last_copy, trigger=wanted.trigger):
            if deadline.expired:
                message = (
                    f"artifact {wanted.artifact[:12]} is held: the coordinator is under backpressure; it can move "
                    "later, or end the pause with: ringrift-sync backpressure release"
                )
                raise BackpressureError(wanted.node, "", message)
            if (cancel or threading.Event()).wait(deadline.at_most(_LOOK_SECONDS)):
                message = f"artifact {wanted.artifact[:12]}: waiting was stopped because we were asked to"
                raise TransferCancelledError(wanted.node, "", message)

    def _wait_for_turn(
        self, wanted: TransferRequest, transfer_id: int, cancel: threading.Event | None, deadline: Deadline
    ) -> None:
        pause = _FIRST_LOOK_SECONDS
        while not admission.try_admit(self._state, transfer_id, max_running=self._most):
            if deadline.expired:
                message = (
                    f"artifact {wanted.artifact[:12]}: no turn came within {deadline.seconds:.0f} s: {self._most} "
                    "transfers run at a time over all processes; raise max_concurrent_syncs"
                )
                raise AdmissionRefusedError(wanted.node, "", message)
            # Not all at the same moment: each look is a read of the same rows.
            if (cancel or threading.Event()).wait(pause * random.uniform(0.8, 1.2)):  # noqa: S311
                message = f"artifact {wanted.artifact[:12]}: waiting was stopped because we were asked to"
                raise TransferCancelledError(wanted.node, "", message)
            pause = min(_LOOK_SECONDS, pause * 1.5)

    def _join(self, running: RunningTransfer) -> None:
        running.started = monotonic()
        with self._lock:
            self._running[running.id] = running
            ids = set(self._running)
            if self._keeper is None:
                self._ended.clear()
                self._keeper = threading.Thread(target=self._keep, name="bandwidth", daemon=True)
                self._keeper.start()
        # Until the first renewal the newcomer takes its share, and those of this process give way at once.
        self._give(shares.rates(self._state, ids, self._bytes_per_second))

    def _leave(self, running: RunningTransfer) -> None:
        with self._lock:
            self._running.pop(running.id, None)

    def _end(self, running: RunningTransfer, error: BaseException | None) -> None:
        """Write how it ended; a database that cannot be written must not hide what happened."""
        try:
            if error is None:
                transfers.finish(self._state, running.id, **running.ending)
            else:
                transfers.fail(self._state, running.id, error, **running.ending)
        except StateError as trouble:
            if error is None:
                raise
            _LOG.warning("transfer=%d end=unrecorded cause=%s", running.id, trouble)

    def _keep(self) -> None:
        """Renew what runs in this process until the manager is closed."""
        while not self._ended.wait(HEARTBEAT_SECONDS):
            with self._lock:
                received = {one.id: one.received for one in self._running.values()}
            try:
                self._keep_going(received)
            except SyncError as error:
                _LOG.warning("bandwidth=not_renewed transfers=%d cause=%s", len(received), error)

    def _keep_going(self, received: Mapping[int, int]) -> None:
        """Renew the rows; stop a transfer whose row was given up, because it moves outside of every limit now."""
        rates = shares.renew(self._state, set(received), self._bytes_per_second, received=received)
        self._give(rates)
        with self._lock:
            lost = [one for one in self._running.values() if one.id in received and one.id not in rates]
        for one in lost:
            _LOG.warning("transfer=%d lost=its row was given up; it is stopped and done again", one.id)
            one.cancel.set()

    def _give(self, rates: Mapping[int, float]) -> None:
        with self._lock:
            for transfer_id, rate in rates.items():
                if transfer_id in self._running:
                    self._running[transfer_id].pacer.set_rate(rate)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
