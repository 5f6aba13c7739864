"""Copy many files to or from a node in one run of rsync; what goes wrong with one of them is told, the others arrive.

    result = await BatchRsync().sync(
        files=["hex8_2p.npz", "square8_2p.npz"], source_root="/data/training",
        dest="ubuntu@training:/data/training/", host="training-node")

A file of the same length and modification time (to the nanosecond) at the destination is not sent again, unless
``verify_checksum`` finds other bytes in it. Files collect in a private folder
below the destination and get their names one by one, each when it is whole and on the disk, so that no name ever shows
half a file, and a batch that was killed goes on with what it lacks. Databases are refused, one by one: each needs a
snapshot of its own (``coordinated_rsync``). Source: sync guide, "Slow Transfers".
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.escalation import Attempt
from ringrift_sync_dagster.errors import (
    AdmissionRefusedError,
    ConfigError,
    DeadlineExceededError,
    Problem,
    RemoteCallError,
    StateError,
    SyncError,
    TransferCancelledError,
    TransferError,
)
from ringrift_sync_dagster.settings.clock import Deadline, monotonic
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.storage.files import make_dirs
from ringrift_sync_dagster.sync.bandwidth import RunningTransfer
from ringrift_sync_dagster.sync.batch_answers import Looked, Staged, looked_at, staged_at
from ringrift_sync_dagster.sync.copy_ends import End, Here, There, told
from ringrift_sync_dagster.sync.copy_tries import RUNG, breaker_asked, told_in_full, with_tries
from ringrift_sync_dagster.sync.file_copy import (
    Options,
    alone,
    endpoint_to,
    in_thread,
    record_failure,
    refuse_canonical,
    require_room,
    runtime_or_shared,
)
from ringrift_sync_dagster.sync.places import Route, find_route, local_path, parse_place
from ringrift_sync_dagster.sync.rsync_words import FORMAT, blamed, sent
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.base import Fetched
from ringrift_sync_dagster.transports.carriers import Effort
from ringrift_sync_dagster.transports.rsync import RsyncCarrier
from ringrift_sync_dagster.transports.rsync_errors import FULL, complaints, connection_error, local_disk_error
from ringrift_sync_dagster.transports.rsync_run import DOWN, UP, Ended, far_path, run_rsync

TRIGGER: Final = "batch_rsync"
_OPTIONS: Final = (
    "--from0", "--times", "--modify-window=-1", "--no-implied-dirs", "--copy-links", "--whole-file",
    f"--out-format={FORMAT}",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a batch ended.

    Args:
        transferred: Names of the files that arrived.
        unchanged: Names of those that were there already.
        failed: Name of each other file, and why.
        bytes_transferred: Bytes of those that arrived and were sent by this call, as rsync told.
        duration_seconds: From the call to its end, waiting for a turn included.
        error: What stopped the whole batch, for people; empty when nothing did.

    """

    transferred: tuple[str, ...]
    unchanged: tuple[str, ...]
    failed: Mapping[str, str]
    bytes_transferred: int
    duration_seconds: float
    error: str = ""

    @property
    def success(self) -> bool:
        """True when every file is at the destination."""
        return not self.failed and not self.error


class BatchRsync:
    """Copies files in batches; safe in several threads and tasks. One batch at a time goes to one destination.

    Args:
        runtime: What to work with; None: that of this program's settings.

    """

    def __init__(self, runtime: Runtime | None = None) -> None:
        self._runtime = runtime

    async def sync(
        self,
        files: Sequence[str],
        source_root: str,
        dest: str,
        host: str,
        *,
        verify_checksum: bool = False,
        priority: TransferPriority = TransferPriority.NORMAL,
        timeout_seconds: float | None = None,
    ) -> BatchResult:
        """Copy files from below one folder to below another, under the same names.

        One of ``source_root`` and ``dest`` is ``user@host:path``, the other a path on this machine. Cancelling the
        task ends the batch; what has arrived is kept for the next call with the same folders. A batch to where another
        one goes waits for that one.

        Args:
            files: Names below ``source_root``, with ``/`` between folders; no folders themselves.
            source_root: Where they are.
            dest: Where they go; made when it is missing.
            host: The node's name in the inventory.
            verify_checksum: Compare the SHA-256 of each file: of those that are sent before they get their names, of
                the others before it is believed that they need not be sent.
            priority: How important the batch is, unless the host has a priority of its own.
            timeout_seconds: Time for everything, waiting for a turn included; by the files' sizes when None.

        Returns:
            How it ended, file by file.

        Raises:
            ConfigError: An argument makes no sense, such as an address that is not the host's.
            StateError: The state database cannot be used.

        """
        if isinstance(files, str):
            raise ConfigError([Problem("argument", None, "", "files", f"{files!r} is one name; give a list of names")])
        options = Options.of(priority, timeout_seconds, verify=verify_checksum)
        names = list(dict.fromkeys(posixpath.normpath(name) if name else name for name in files))

        def work(cancel: threading.Event) -> BatchResult:
            runtime = runtime_or_shared(self._runtime)
            source, target = parse_place(source_root, "source_root"), parse_place(dest, "dest")
            route = find_route(runtime.inventory, source, target, host)
            refuse_canonical(runtime, route, names)
            return _Batch(runtime, route, options, cancel).result(names)

        return await in_thread(work)


class _Batch:
    """One batch: its steps share what is known so far."""

    def __init__(self, runtime: Runtime, route: Route, options: Options, cancel: threading.Event) -> None:
        self._runtime, self._route, self._options, self._cancel = runtime, route, options, cancel
        self._endpoint = endpoint_to(runtime, route.node)
        here, guard = Here(runtime, route.node.name, cancel), partial(breaker_asked, runtime, route.node.name)
        self._there = There(self._endpoint, cancel, guard)
        self._source: End = here if route.pushes else self._there
        self._target: End = self._there if route.pushes else here
        self._asked = False
        self._attempts: list[Attempt] = []
        self._failed: dict[str, str] = {}
        self._landed: list[str] = []
        self._unchanged: list[str] = []
        self._sent: dict[str, int] = {}

    def result(self, names: Sequence[str]) -> BatchResult:
        """Copy; say how it ended."""
        started, error = monotonic(), ""
        try:
            with ExitStack() as stack:
                stack.callback(self._there.close)
                stack.callback(RsyncCarrier(self._endpoint).close)
                if names:
                    what = f"batch:{self._target.name}"
                    stack.enter_context(
                        alone(self._runtime, what, [self._target_path], self._options.step(), self._cancel)
                    )
                    self._run(names)
        except (ConfigError, StateError):
            raise
        except SyncError as failure:
            error = str(failure)
            if not self._asked:
                record_failure(self._runtime, self._route, None, TRIGGER, failure)
        arrived = {*self._landed, *self._unchanged}
        return BatchResult(
            tuple(self._landed), tuple(self._unchanged),
            {name: self._failed.get(name, error) for name in names if name not in arrived},
            self._arrived_bytes, monotonic() - started, error,
        )  # fmt: skip

    @property
    def _arrived_bytes(self) -> int:
        return sum(self._sent.get(name, 0) for name in self._landed)

    @property
    def _target_path(self) -> str:
        dest = self._route.dest
        return dest.path if dest.address else local_path(dest.path)

    def _run(self, names: Sequence[str]) -> None:
        source = self._route.source
        path = source.path if source.address else local_path(source.path)
        looked = self._inspect(path, names, [], self._options.step())
        if not looked.states:
            return
        staged = self._stage(looked)
        if self._options.verify:
            staged = self._compared(looked, staged)
        try:
            with self._transfer(looked, staged) as (running, deadline):
                self._move(looked, staged, running, deadline)
        except AdmissionRefusedError:
            if not staged.came:
                self._target.clean("land", {"path": staged.dest, "key": self._key, "states": {}})
            raise

    def _move(self, looked: Looked, staged: Staged, running: RunningTransfer, deadline: Deadline) -> None:
        if self._route.pushes:
            require_room(self._runtime, self._route.node.name, staged.disk, running.id)
        started = monotonic()
        stopped = self._carry(looked, staged, running, deadline) if staged.lacking else None
        self._there.asked = stopped is not None
        try:
            self._arrive(looked, staged, deadline, stopped)
        except TransferError as error:
            if stopped is None:
                raise
            raise stopped from error
        if stopped is not None:
            raise stopped
        moved = self._arrived_bytes
        if self._attempts:
            self._attempts[-1] = replace(self._attempts[-1], bytes_moved=moved)
        running.done(Fetched(moved, 0, monotonic() - started, RUNG.value, tuple(self._attempts)))

    def _inspect(self, path: str, names: Sequence[str], hashes: Sequence[str], deadline: Deadline) -> Looked:
        """Look at the files at their source; those that cannot travel have failed."""
        node = self._source.name
        answer = self._source.order("inspect", {"path": path, "files": list(names), "hashes": list(hashes)}, deadline)
        self._refuse(answer, node)
        return looked_at(answer, names, node)

    def _stage(self, looked: Looked) -> Staged:
        """Have the destination make the folder in which the files collect, and say what it lacks."""
        node, states = self._target.name, {name: list(state[:2]) for name, state in looked.states.items()}
        order = {"path": self._target_path, "key": self._key, "states": states}
        answer = self._target.order("stage", order, self._options.step())
        return staged_at(answer, looked, node)

    def _compared(self, looked: Looked, staged: Staged) -> Staged:
        """Have both ends read what seems to be there already; what has other bytes is lacking, too."""
        if not staged.there:
            return staged
        order = {"files": list(staged.there), "hashes": list(staged.there)}
        sent, lies = (
            looked_at(
                end.order("inspect", {"path": root, **order}, self._options.step()), staged.there, end.name
            ).states
            for end, root in ((self._source, looked.root), (self._target, staged.dest))
        )
        same = tuple(name for name in staged.there if name in sent and name in lies and sent[name][4] == lies[name][4])
        other = {name: looked.states[name][0] for name in staged.there if name not in same}
        return replace(staged, there=same, lacking={**staged.lacking, **other})

    @property
    def _key(self) -> str:
        """Names the folder in which files collect; the same for the next batch between the same folders."""
        ends = "\0".join((self._route.node.name, str(self._route.source), str(self._route.dest)))
        return hashlib.sha256(os.fsencode(ends)).hexdigest()[:12]

    @contextmanager
    def _transfer(self, looked: Looked, staged: Staged) -> Iterator[tuple[RunningTransfer, Deadline]]:
        """Wait for a turn and hold it; gives the time that the rest may take, too."""
        pushes, node = self._route.pushes, self._route.node.name
        what = hashlib.sha256(json.dumps(sorted(looked.states.items())).encode()).hexdigest()
        wanted = TransferRequest(
            what, node, "push" if pushes else "fetch", staged.needed_bytes, self._options.priority, trigger=TRIGGER,
            reserved_bytes=staged.needed_bytes, disk=self._target.name, transport=RUNG.value,
        )  # fmt: skip
        disk, self._asked = None if pushes else Path(staged.dest), True
        bandwidth, seconds = self._runtime.bandwidth, self._options.turn_seconds()
        turn = bandwidth.transfer(wanted, disk=disk, cancel=self._cancel, turn_seconds=seconds)
        with turn as running, told_in_full(self._attempts):
            yield running, self._options.moving(staged.needed_bytes, running.pacer.rate)

    def _carry(
        self, looked: Looked, staged: Staged, running: RunningTransfer, deadline: Deadline
    ) -> TransferError | None:
        """Run rsync; give what stopped it, where the files that came before may have their names."""
        effort = Effort(deadline, None, self._cancel, running.pacer)
        folder = self._runtime.layout.scratch / "tmp"
        with tempfile.NamedTemporaryFile(dir=make_dirs(folder), prefix="batch-") as listed:
            listed.write(b"".join(os.fsencode(f"./{name}") + b"\0" for name in staged.lacking))
            listed.flush()
            try:
                with_tries(
                    self._runtime, self._route.node.name,
                    lambda: self._rsync(listed.name, looked, staged, running, effort),
                    self._attempts, deadline, self._cancel,
                )  # fmt: skip
            except (DeadlineExceededError, TransferCancelledError):
                raise
            except TransferError as error:
                return error
        return None

    def _rsync(self, listed: str, looked: Looked, staged: Staged, running: RunningTransfer, effort: Effort) -> None:
        pushes, needed = self._route.pushes, staged.needed_bytes
        root, staging = f"{looked.root.rstrip('/')}/", f"{staged.staging}/"
        paths = (root, far_path(staging)) if pushes else (far_path(root), staging)
        arguments = [*_OPTIONS, f"--files-from={listed}", *paths]
        direction = UP if pushes else DOWN
        ended = run_rsync(
            self._endpoint, arguments, direction, effort, lambda granted: running.progress(min(needed, granted)),
            expected=needed, printing=True,
        )  # fmt: skip
        self._sent.update(sent(ended.stdout))
        self._failed.update(blamed(ended.words, looked.root, staged.lacking))
        error = self._stopped(ended, direction, staged)
        if error is not None:
            raise error

    def _stopped(self, ended: Ended, direction: str, staged: Staged) -> TransferError | None:
        """Give the error that the whole run ended with; None where it came to its end, whatever single files did."""
        if (error := connection_error(self._endpoint, ended, "a batch")) is not None:
            return error
        full = next((one for one in complaints(ended.words, direction) if one.number in FULL), None)
        if full is None:
            return None
        if full.near:
            return local_disk_error(full.number, Path(staged.staging), "write")
        node = self._route.node.name
        return RemoteCallError(node, RUNG.value, f"its disk is full: {full.what}", "no_space", staged.staging)

    def _arrive(self, looked: Looked, staged: Staged, deadline: Deadline, stopped: TransferError | None) -> None:
        """Have the files that came compared and given their names."""
        names, node = list(looked.states), self._target.name
        place = {"path": staged.dest, "key": self._key}
        came = told(self._target.order("staged", {**place, "files": names}, deadline), "files", list, node)
        again = self._inspect(looked.root, names, came if self._options.verify else [], deadline)
        states = {}
        for name, state in again.states.items():
            if state[:3] != looked.states[name][:3]:
                self._failed[name] = "it changed while the batch ran (changed)"
            elif name in came or name in staged.there:
                states[name] = [state[0], state[1], state[3], state[4]]
            else:
                self._failed.setdefault(name, f"{stopped or 'it did not arrive'}")
        answer = self._target.order("land", {**place, "states": states}, deadline)
        self._landed = [name for name in told(answer, "landed", list, node) if name in came and name in states]
        self._unchanged = [name for name in told(answer, "unchanged", list, node) if name in staged.there]
        self._refuse(answer, node)

    def _refuse(self, answer: Mapping[str, Any], node: str) -> None:
        """Take what an end says of files that fail; what rsync said of one before tells more."""
        for name, why in told(answer, "failed", dict, node).items():
            code, text = (*map(str, why), "", "")[:2]
            self._failed.setdefault(str(name), f"{text} ({code})")
