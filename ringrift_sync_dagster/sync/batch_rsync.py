"""Copy many files to or from a node in one run of rsync; what goes wrong with one of them is told, the others arrive.

    result = await BatchRsync().sync(
        files=["hex8_2p.npz", "square8_2p.npz"], source_root="/data/training",
        dest="ubuntu@training:/data/training/", host="training-node")

A file of the same length and modification time at the destination is not sent again. Files collect in a private folder
below the destination and get their names one by one, each when it is whole and on the disk, so that no name ever shows
half a file, and a batch that was killed goes on with what it lacks. Databases are refused, one by one: each needs a
snapshot of its own (``coordinated_rsync``). Source: sync guide, "Slow Transfers".
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.escalation import Attempt
from ringrift_sync_dagster.core.room import Disk
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
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.storage.files import make_dirs
from ringrift_sync_dagster.sync.bandwidth import RunningTransfer
from ringrift_sync_dagster.sync.copy_ends import ORDER_SECONDS, End, Here, There, disk_of, told
from ringrift_sync_dagster.sync.file_copy import (
    RUNG,
    endpoint_to,
    in_thread,
    record_failure,
    require_room,
    runtime_or_shared,
    transfer_seconds,
    with_tries,
)
from ringrift_sync_dagster.sync.places import Route, find_route, local_path, parse_place
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.base import Fetched
from ringrift_sync_dagster.transports.carriers import Effort
from ringrift_sync_dagster.transports.rsync import RsyncCarrier
from ringrift_sync_dagster.transports.rsync_errors import FULL, complaints, connection_error, local_disk_error
from ringrift_sync_dagster.transports.rsync_run import DOWN, UP, Ended, far_path, run_rsync

TRIGGER: Final = "batch_rsync"
# What was done, the file's length, and its name, in which rsync writes odd bytes as \\#ooo.
_FORMAT: Final = "%i %l %n"
_OPTIONS: Final = (
    "--from0", "--times", "--no-implied-dirs", "--copy-links", "--whole-file", f"--out-format={_FORMAT}",
)  # fmt: skip
_SENT: Final = re.compile(rb"[<>]f\S* (?P<bytes>\d+) (?P<name>.*)")
_BLAMED: Final = re.compile(r'"(?P<path>.*)"(?: failed: (?P<why>.*))?$')
_ODD: Final = re.compile(rb"\\#([0-7]{3})")


@dataclass(frozen=True, slots=True)
class BatchResult:
    """How a batch ended.

    Args:
        transferred: Names of the files that arrived.
        unchanged: Names of those that were there already.
        failed: Name of each other file, and why.
        bytes_transferred: Bytes of files that travelled, as rsync told.
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
        task ends the batch; what has arrived is kept for the next call with the same folders.

        Args:
            files: Names below ``source_root``, with ``/`` between folders; no folders themselves.
            source_root: Where they are.
            dest: Where they go; made when it is missing.
            host: The node's name in the inventory.
            verify_checksum: Compare the SHA-256 of each file that was sent, before it gets its name.
            priority: How important the batch is, unless the host has a priority of its own.
            timeout_seconds: Time for the transfer, and for what comes before it; by the files' sizes when None.

        Returns:
            How it ended, file by file.

        Raises:
            ConfigError: An argument makes no sense, such as an address that is not the host's.
            StateError: The state database cannot be used.

        """
        if isinstance(files, str):
            raise ConfigError([Problem("argument", None, "", "files", f"{files!r} is one name; give a list of names")])
        options = BatchOptions(verify_checksum, priority, timeout_seconds)

        def work(cancel: threading.Event) -> BatchResult:
            runtime = runtime_or_shared(self._runtime)
            source, target = parse_place(source_root, "source_root"), parse_place(dest, "dest")
            route = find_route(runtime.inventory, source, target, host)
            return _Batch(runtime, route, options, cancel).result(files)

        return await in_thread(work)


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """What the caller may choose; see ``BatchRsync.sync``."""

    verify: bool
    priority: TransferPriority
    timeout_seconds: float | None


@dataclass(frozen=True, slots=True)
class _Looked:
    """What the source says of the files: its folder, and for each of them length, ``mtime_ns``, inode and SHA-256."""

    root: str
    states: Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class _Staged:
    """What the destination says: its folder, the one in which files collect, the bytes that it lacks, and its disk."""

    dest: str
    staging: str
    needed_bytes: int
    disk: Disk


class _Batch:
    """One batch: its steps share what is known so far."""

    def __init__(self, runtime: Runtime, route: Route, options: BatchOptions, cancel: threading.Event) -> None:
        self._runtime, self._route, self._options, self._cancel = runtime, route, options, cancel
        self._endpoint = endpoint_to(runtime, route.node)
        here, self._there = Here(runtime, route.node.name, cancel), There(self._endpoint, cancel)
        self._source: End = here if route.pushes else self._there
        self._target: End = self._there if route.pushes else here
        self._before = Deadline.after(options.timeout_seconds or ORDER_SECONDS)
        self._asked = False
        self._failed: dict[str, str] = {}
        self._landed: list[str] = []
        self._unchanged: list[str] = []
        self._sent: dict[str, int] = {}

    def result(self, files: Sequence[str]) -> BatchResult:
        """Copy; say how it ended."""
        started, error = monotonic(), ""
        names = list(dict.fromkeys(posixpath.normpath(name) if name else name for name in files))
        try:
            with ExitStack() as stack:
                stack.callback(self._there.close)
                stack.callback(RsyncCarrier(self._endpoint).close)
                if names:
                    stack.enter_context(hold(self._runtime.state, f"batch:{self._route.node.name}:{self._route.dest}"))
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
            sum(self._sent.values()), monotonic() - started, error,
        )  # fmt: skip

    def _run(self, names: list[str]) -> None:
        source = self._route.source
        looked = self._inspect(source.path if source.address else local_path(source.path), names, [], self._before)
        if not looked.states:
            return
        staged = self._stage(looked)
        try:
            with self._transfer(looked, staged) as (running, deadline):
                self._move(looked, staged, running, deadline)
        except AdmissionRefusedError:
            self._target.clean("land", {"path": staged.dest, "key": self._key, "states": {}})
            raise

    def _move(self, looked: _Looked, staged: _Staged, running: RunningTransfer, deadline: Deadline) -> None:
        if self._route.pushes:
            require_room(self._runtime, self._route.node.name, staged.disk, running.id)
        started, attempts = monotonic(), list[Attempt]()
        stopped = self._carry(looked, staged, running, deadline, attempts)
        try:
            self._arrive(looked, staged, deadline)
        except TransferError as error:
            if stopped is None:
                raise
            raise stopped from error
        if stopped is not None:
            raise stopped
        moved = sum(self._sent.values())
        running.done(Fetched(moved, 0, monotonic() - started, RUNG.value, tuple(attempts)))

    def _inspect(self, path: str, names: Sequence[str], hashes: Sequence[str], deadline: Deadline) -> _Looked:
        """Look at the files at their source; those that cannot travel have failed."""
        node = self._source.name
        answer = self._source.order("inspect", {"path": path, "files": list(names), "hashes": list(hashes)}, deadline)
        self._refuse(answer, node)
        found = told(answer, "files", dict, node)
        states = {name: found[name] for name in names if isinstance(found.get(name), list) and len(found[name]) == 4}  # noqa: PLR2004 - see _Looked
        return _Looked(told(answer, "root", str, node), states)

    def _stage(self, looked: _Looked) -> _Staged:
        """Have the destination make the folder in which the files collect, and say how much it lacks."""
        dest, node = self._route.dest, self._target.name
        states = {name: list(state[:2]) for name, state in looked.states.items()}
        path = dest.path if dest.address else local_path(dest.path)
        answer = self._target.order("stage", {"path": path, "key": self._key, "states": states}, self._before)
        return _Staged(
            told(answer, "dest", str, node), told(answer, "staging", str, node), told(answer, "needed", int, node),
            disk_of(answer, node),
        )  # fmt: skip

    @property
    def _key(self) -> str:
        """Names the folder in which files collect; the same for the next batch between the same folders."""
        ends = "\0".join((self._route.node.name, str(self._route.source), str(self._route.dest)))
        return hashlib.sha256(os.fsencode(ends)).hexdigest()[:12]

    @contextmanager
    def _transfer(self, looked: _Looked, staged: _Staged) -> Iterator[tuple[RunningTransfer, Deadline]]:
        """Wait for a turn and hold it; gives the time that the rest may take, too."""
        pushes, node = self._route.pushes, self._route.node.name
        what = hashlib.sha256(json.dumps(sorted(looked.states.items())).encode()).hexdigest()
        wanted = TransferRequest(
            what, node, "push" if pushes else "fetch", staged.needed_bytes, self._options.priority, trigger=TRIGGER,
            reserved_bytes=staged.needed_bytes, disk=self._target.name, transport=RUNG.value,
        )  # fmt: skip
        disk, self._asked = None if pushes else Path(staged.dest), True
        with self._runtime.bandwidth.transfer(wanted, disk=disk, cancel=self._cancel) as running:
            seconds = self._options.timeout_seconds or transfer_seconds(staged.needed_bytes, running.pacer.rate)
            yield running, Deadline.after(seconds)

    def _carry(
        self, looked: _Looked, staged: _Staged, running: RunningTransfer, deadline: Deadline, attempts: list[Attempt]
    ) -> TransferError | None:
        """Run rsync; give what stopped it, where the files that came before may have their names."""
        effort = Effort(deadline, None, self._cancel, running.pacer)
        folder = self._runtime.layout.scratch / "tmp"
        with tempfile.NamedTemporaryFile(dir=make_dirs(folder), prefix="batch-") as listed:
            listed.write(b"".join(os.fsencode(f"./{name}") + b"\0" for name in looked.states))
            listed.flush()
            try:
                with_tries(
                    lambda: self._rsync(listed.name, looked, staged, running, effort), attempts, deadline, self._cancel
                )
            except (DeadlineExceededError, TransferCancelledError):
                raise
            except TransferError as error:
                return error
        return None

    def _rsync(self, listed: str, looked: _Looked, staged: _Staged, running: RunningTransfer, effort: Effort) -> None:
        pushes, needed = self._route.pushes, staged.needed_bytes
        root, staging = f"{looked.root.rstrip('/')}/", f"{staged.staging}/"
        paths = (root, far_path(staging)) if pushes else (far_path(root), staging)
        arguments = [*_OPTIONS, f"--files-from={listed}", f"--compare-dest={staged.dest}", *paths]
        direction = UP if pushes else DOWN
        ended = run_rsync(
            self._endpoint, arguments, direction, effort, lambda granted: running.progress(min(needed, granted)),
            expected=needed, printing=True,
        )  # fmt: skip
        self._sent.update(_sent(ended.stdout))
        self._failed.update(_blamed(ended.words, looked))
        error = self._stopped(ended, direction, staged)
        if error is not None:
            raise error

    def _stopped(self, ended: Ended, direction: str, staged: _Staged) -> TransferError | None:
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

    def _arrive(self, looked: _Looked, staged: _Staged, deadline: Deadline) -> None:
        """Have the files that came compared and given their names."""
        names, node = list(looked.states), self._target.name
        place = {"path": staged.dest, "key": self._key}
        came = told(self._target.order("staged", {**place, "files": names}, deadline), "files", list, node)
        again = self._inspect(looked.root, names, came if self._options.verify else [], deadline)
        states = {}
        for name, state in again.states.items():
            if state[:3] == looked.states[name][:3]:
                states[name] = [state[0], state[3]]
            else:
                self._failed[name] = "it changed while the batch ran (changed)"
        answer = self._target.order("land", {**place, "states": states}, deadline)
        self._landed = [name for name in told(answer, "landed", list, node) if name in states]
        self._unchanged = [name for name in told(answer, "unchanged", list, node) if name in states]
        self._refuse(answer, node)

    def _refuse(self, answer: Mapping[str, Any], node: str) -> None:
        """Take what an end says of files that fail; what rsync said of one before tells more."""
        for name, why in told(answer, "failed", dict, node).items():
            code, text = (*map(str, why), "", "")[:2]
            self._failed.setdefault(str(name), f"{text} ({code})")


def _sent(printed: bytes) -> dict[str, int]:
    """Read rsync's own list of the files that it sent, and the bytes of each."""
    found = (_SENT.fullmatch(line) for line in printed.splitlines())
    return {_name(one["name"]): int(one["bytes"]) for one in found if one is not None}


def _blamed(words: str, looked: _Looked) -> dict[str, str]:
    """Read what rsync says of single files at their source: their names, and why they cannot be read."""
    found = {}
    for line in words.splitlines():
        one = _BLAMED.search(line)
        name = "" if one is None else _name(os.fsencode(one["path"])).removeprefix(f"{looked.root.rstrip('/')}/")
        if one is not None and name in looked.states:
            found[name] = one["why"] or "it vanished while the batch ran"
    return found


def _name(printed: bytes) -> str:
    return os.fsdecode(_ODD.sub(lambda odd: bytes([int(odd[1], 8)]), printed)).removeprefix("./")
