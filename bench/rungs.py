"""One artifact of 512 MB over the SSH rungs, beside what a person would type for it, through the same sshd.

In the end the file is on the disk and proved, on both sides: ours verifies and syncs it as it always does, the peers
run ``sync FILE`` and ``sha256sum FILE`` after ``rsync``, or after ``ssh HOST "cat FILE | base64" | base64 -d``. The
peers log in each time; ours has logged in before, as the survey of a pass does; the rsync rung is measured with a
login of its own too. Nothing is there before, and nothing paces. The source is in the page cache, on loopback.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final

from bench import data, peers
from bench.agents import NAME
from bench.harness import Contest, Part, Run, check, note, seconds_of
from bench.lines import Line, Reach, Result
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.base64_ssh import base64_transport
from ringrift_sync_dagster.transports.rsync import rsync_transport
from ringrift_sync_dagster.transports.ssh import SshSettings
from ringrift_sync_dagster.transports.ssh_transport import SshTransport

ARTIFACT_BYTES: Final = 512 << 20
RSYNC_RUNG: Final = "rsync rung"
RSYNC_RUNG_ANEW: Final = "rsync rung with a login"
BASE64_RUNG: Final = "base64 rung"
RSYNC: Final = "rsync; sync; sha256sum"
BASE64: Final = "ssh cat piped into base64; sync; sha256sum"
_FILE: Final = "models/canonical_hex8_2p.pth"
_ARRIVED: Final = "arrived"
_SECONDS: Final = 600.0

LINES: Final = (
    Line("512 MB over the rsync rung", "MB/s", "rate", RSYNC, Reach("at least", "0.9"), mine=RSYNC_RUNG),
    Line("512 MB over the rsync rung, login included", "MB/s", "rate", RSYNC, mine=RSYNC_RUNG_ANEW),
    Line("512 MB over the base64 rung", "MB/s", "rate", BASE64, Reach("at least", "0.5"), mine=BASE64_RUNG),
)

Make = Callable[[Node, SshSettings], SshTransport]


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    note("rungs: writing the file")
    data.random_file(folder / "node" / _FILE, ARTIFACT_BYTES)
    contest = Contest("rungs", runs, warm_up=0)
    with ExitStack() as stack:

        @cache
        def rungs() -> _Rungs:
            return _Rungs(stack, folder)

        contest.enter(RSYNC_RUNG, lambda: rungs().ours(rsync_transport))
        contest.enter(RSYNC, lambda: rungs().rsync())
        contest.enter(RSYNC_RUNG_ANEW, lambda: rungs().rsync_anew())
        contest.enter(BASE64_RUNG, lambda: rungs().ours(base64_transport))
        contest.enter(BASE64, lambda: rungs().base64())
        return contest.run(lambda _: (folder / _ARRIVED).unlink(missing_ok=True))


class _Rungs:
    """One sshd, the file behind it, and the place where it arrives."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.target = folder / _ARRIVED
        self._stack, self._root = stack, folder / "node"
        self._server = stack.enter_context(peers.ssh_server(folder / "ssh"))
        self._node = self._server.node(NAME, self._root)
        self._settings = SshSettings(folder / "known_hosts")
        with rsync_transport(self._node, self._settings) as transport:
            found = transport.call("hash", {"path": _FILE}, deadline=clock.Deadline.after(_SECONDS))
        self._artifact = Artifact(str(found["artifact"]), int(found["bytes"]), "models")

    def ours(self, make: Make) -> Run:
        """A rung that has logged in before."""
        transport = self._stack.enter_context(make(self._node, self._settings))
        probe = transport.probe(clock.Deadline.after(_SECONDS))
        check(probe.reachable, probe.detail)
        return lambda _: self._rate(seconds_of(lambda: self._fetch(transport)))

    def rsync_anew(self) -> Run:
        """The rsync rung, made for this one file and closed after it."""

        def work() -> None:
            with rsync_transport(self._node, self._settings) as transport:
                self._fetch(transport)

        return lambda _: self._rate(seconds_of(work))

    def rsync(self) -> Run:
        """What a person types."""
        source = self._server.remote(self._root / _FILE)
        options = ["-t", "--whole-file", "-e", self._server.client(self._server.port)]
        return self._peer([peers.program("rsync"), *options, source, str(self.target)])

    def base64(self) -> Run:
        """What a person types where there is no rsync."""
        decode, ssh = peers.program("base64"), self._server.client(self._server.port)
        remote = f"cat {shlex.quote(str(self._root / _FILE))} | base64"
        line = shlex.join([ssh, self._server.address, remote])
        return self._peer(["sh", "-c", f"{line} | {decode} -d > {shlex.quote(str(self.target))}"])

    def _peer(self, command: list[str]) -> Run:
        sync, sha256sum = peers.program("sync"), peers.program("sha256sum")

        def work() -> None:
            peers.run(command)
            peers.run([sync, str(self.target)])
            found = peers.run([sha256sum, str(self.target)]).split()[0]
            check(found == self._artifact.sha256, f"other bytes arrived: {found}")

        return lambda _: self._rate(seconds_of(work))

    def _fetch(self, transport: SshTransport) -> None:
        transport.fetch(self._artifact, self.target, deadline=clock.Deadline.after(_SECONDS))

    def _rate(self, seconds: float) -> Mapping[str, float]:
        """Give the rate, and remove what arrived: the next one begins with nothing."""
        size = self.target.stat().st_size
        check(size == ARTIFACT_BYTES, f"{size} bytes arrived instead of {ARTIFACT_BYTES}")
        self.target.unlink()
        return {"rate": size / seconds / data.MB}


PART: Final = Part("rungs", LINES, measure)
