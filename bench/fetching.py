"""One artifact of 512 MB from a node's agent, beside curl from nginx and rsync over SSH.

What arrives is on the disk in the end: ours verifies and syncs the file and its directory as it always does, after curl
the file is synced. rsync is measured as it is and with a sync. Nothing is there before. The source is in the page
cache, on loopback.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Final

from bench import data, peers
from bench.agents import NAME, Agent, agent
from bench.harness import Contest, Part, Run, check, note, seconds_of
from bench.lines import OURS, Line, Reach, Result
from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import TlsCertificate, make_tls_certificate

ARTIFACT_BYTES: Final = 512 << 20
OURS_TLS: Final = "ours with TLS"
CURL: Final = "curl from nginx, fsync"
CURL_TLS: Final = "curl from nginx with TLS, fsync"
RSYNC: Final = "rsync over SSH"
RSYNC_SYNCED: Final = "rsync over SSH, fsync"
_NAME: Final = "models/canonical_hex8_2p.pth"
_SECONDS: Final = 600.0

_WHAT, _WHAT_TLS = "512 MB artifact", "512 MB artifact with TLS"
LINES: Final = (
    Line(_WHAT, "MB/s", "rate", CURL, Reach("at least", "0.6")),
    Line(_WHAT, "MB/s", "rate", RSYNC, Reach("at least", "2.5")),
    Line(_WHAT, "MB/s", "rate", RSYNC_SYNCED),
    Line(_WHAT_TLS, "MB/s", "rate", CURL_TLS, Reach("at least", "0.5"), mine=OURS_TLS),
)


def measure(folder: Path, runs: int) -> Result:
    """Measure in a folder of its own."""
    root, target = folder / "node", folder / "arrived"
    note("artifact: writing the file")
    data.random_file(root / _NAME, ARTIFACT_BYTES)
    certificate = make_tls_certificate(folder / "tls", NAME, [peers.AGENT_ADDRESS, peers.NGINX_ADDRESS], clock.wall())
    contest = Contest("artifact", runs)
    with ExitStack() as stack:

        @cache
        def web() -> peers.WebServer:
            return stack.enter_context(peers.web_server(folder / "nginx", root, certificate))

        @cache
        def ssh() -> peers.SshServer:
            return stack.enter_context(peers.ssh_server(folder / "ssh"))

        contest.enter(OURS, lambda: _ours(stack, folder / "agent", root, target, None))
        contest.enter(OURS_TLS, lambda: _ours(stack, folder / "agent-tls", root, target, certificate))
        contest.enter(CURL, lambda: _curl(web().plain, target))
        contest.enter(CURL_TLS, lambda: _curl(web().secure, target))
        contest.enter(RSYNC, lambda: _rsync(ssh(), root, target, synced=False))
        contest.enter(RSYNC_SYNCED, lambda: _rsync(ssh(), root, target, synced=True))
        return contest.run(lambda _: target.unlink(missing_ok=True))


def _ours(stack: ExitStack, folder: Path, root: Path, target: Path, certificate: TlsCertificate | None) -> Run:
    # Each agent has a root of its own, which shows the same file: one agent per scratch directory.
    own = folder / "root"
    (own / _NAME).parent.mkdir(parents=True)
    (own / _NAME).hardlink_to(root / _NAME)
    running: Agent = stack.enter_context(agent(folder, own, certificate))
    transport = stack.enter_context(running.transport())
    found = transport.call("hash", {"path": _NAME}, deadline=clock.Deadline.after(_SECONDS))
    artifact = Artifact(str(found["artifact"]), int(found["bytes"]), "models")

    def run(_: int) -> Mapping[str, float]:
        seconds = seconds_of(lambda: transport.fetch(artifact, target, deadline=clock.Deadline.after(_SECONDS)))
        return _rate(seconds, target)

    return run


def _curl(url: str, target: Path) -> Run:
    command = [peers.program("curl"), "-sS", "--fail", "--insecure", "-o", str(target), f"{url}/{_NAME}"]

    def work() -> None:
        peers.run(command)
        peers.fsync(target)

    return lambda _: _rate(seconds_of(work), target)


def _rsync(server: peers.SshServer, root: Path, target: Path, *, synced: bool) -> Run:
    ssh, source = server.client(server.port), server.remote(root / _NAME)
    command = [peers.program("rsync"), "-t", "--whole-file", "-e", ssh, source, str(target)]

    def work() -> None:
        peers.run(command)
        if synced:
            peers.fsync(target)

    return lambda _: _rate(seconds_of(work), target)


def _rate(seconds: float, target: Path) -> Mapping[str, float]:
    """Give the rate, and remove what arrived: the next one begins with nothing."""
    size = target.stat().st_size
    check(size == ARTIFACT_BYTES, f"{size} bytes arrived instead of {ARTIFACT_BYTES}")
    target.unlink()
    return {"rate": size / seconds / data.MB}


PART: Final = Part("artifact", LINES, measure)
