"""The examination of nodes: each of its ways, and what it tells of itself over the first that works.

Nodes are examined in parallel, each within its own deadline, so that a black-holed one holds up nobody. Breakers are
neither asked nor told: a person who asks wants to know now. Nothing is written on a node but the kit, over SSH.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, Final

from ringrift_sync_dagster import __version__
from ringrift_sync_dagster.core.escalation import Rung
from ringrift_sync_dagster.core.room import DiskLimits
from ringrift_sync_dagster.errors import (
    AuthenticationError,
    HostKeyError,
    LocalToolError,
    RemoteCallError,
    RungUnusableError,
    SyncError,
    TransferError,
    UnreachableError,
)
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import LEEWAY_SECONDS
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.sync.doctor.findings import Finding, Findings, disk_finding, sqlite_finding
from ringrift_sync_dagster.sync.ladder import Ladder
from ringrift_sync_dagster.transports.base import Probe, Transport

NODE_SECONDS: Final = 20.0
"""How long the examination of one node takes at most."""
AT_ONCE: Final = 64
"""Nodes that are examined at the same time."""
SKEW_SECONDS: Final = 30.0
"""Above this a clock is worth a warning; above the leeway of tokens it is an error."""
_SPARE_SECONDS: Final = 2.0
_SHOWN_CHARS: Final = 100


def examine_nodes(
    ladder: Ladder, nodes: Sequence[Node], limits: DiskLimits, *, seconds: float = NODE_SECONDS
) -> list[Finding]:
    """Examine nodes; give their findings in the order of the nodes.

    Args:
        ladder: The ways to nodes.
        nodes: Which nodes.
        limits: What the inventory allows on a disk.
        seconds: How long one node may take; all of them take that long for each 64 of them.

    """
    places = [Findings(node.name, []) for node in nodes]
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="doctor")
    try:
        rounds = -(-len(nodes) // AT_ONCE)
        jobs = [
            pool.submit(_examine, ladder, node, limits, place, seconds)
            for node, place in zip(nodes, places, strict=True)
        ]
        done, _ = wait(jobs, timeout=rounds * (seconds + _SPARE_SECONDS))
        for job, place in zip(jobs, places, strict=True):
            if job not in done:
                place.error("reach", f"no answer within {seconds:g} s", "look at the node; or give more --timeout")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [finding for place in places for finding in list(place.found)]


def _examine(ladder: Ladder, node: Node, limits: DiskLimits, found: Findings, seconds: float) -> None:
    deadline = clock.Deadline.after(seconds)
    ways = ladder.each(node)
    try:
        if not ways:
            found.error("reach", "it has no address", "give it ssh_host or tailscale_ip in the inventory")
            return
        probes = _probe_all(ways, deadline)
        _reach(found, node, probes)
        for rung, probe in probes.items():
            if probe.reachable and _told_of_itself(found, node, ways[rung], rung, limits, deadline):
                return
    except SyncError as error:
        found.error("reach", f"{type(error).__name__}: {error}", "see the message")
    finally:
        for way in ways.values():
            way.close()


def _probe_all(ways: Mapping[Rung, Transport], deadline: clock.Deadline) -> dict[Rung, Probe]:
    """Probe the ways at the same time, within a part of the time: then some is left for one more question."""
    share = clock.Deadline.after(deadline.remaining() * 0.6)
    with ThreadPoolExecutor(len(ways), thread_name_prefix="doctor-way") as pool:
        return dict(zip(ways, pool.map(lambda way: way.probe(share), ways.values()), strict=True))


def _reach(found: Findings, node: Node, probes: Mapping[Rung, Probe]) -> None:
    any_works = any(probe.reachable for probe in probes.values())
    keys = [probe.cause for probe in probes.values() if isinstance(probe.cause, HostKeyError)]
    for rung, probe in probes.items():
        if probe.reachable:
            version = f", version {probe.version}" if probe.version else ""
            found.ok(f"way {rung.value}", f"{probe.detail}{version}, {probe.rtt_seconds * 1000:.0f} ms")
            if rung is Rung.P2P and probe.version != __version__:
                words = f"its agent is {probe.version[:_SHOWN_CHARS] or 'of no version'}, ours is {__version__}"
                found.warning("agent", words, f"ringrift-sync deploy {node.name}")
        elif isinstance(probe.cause, HostKeyError):
            continue
        elif any_works:
            found.warning(f"way {rung.value}", probe.detail, _fix(node, rung, probe))
        else:
            found.error(f"way {rung.value}", probe.detail, _fix(node, rung, probe))
    if keys:
        fix = "compare the fingerprint with the provider's console, then run the command in the message"
        found.error("host key", str(keys[0]), fix)
    elif any(probes[rung].reachable for rung in (Rung.RSYNC, Rung.BASE64) if rung in probes):
        found.ok("host key", "known, and the node has it")


def _fix(node: Node, rung: Rung, probe: Probe) -> str:
    """Say what to run or to change where a way does not work."""
    login = f"{node.ssh_user + '@' if node.ssh_user else ''}{node.ssh_host}"
    ssh = f"ssh -p {node.ssh_port}{f' -i {node.ssh_key}' if node.ssh_key else ''} -o ConnectTimeout=5 {login}"
    if isinstance(probe.cause, AuthenticationError):
        return f"ringrift-sync token {node.name}" if rung is Rung.P2P else f"check ssh_user and ssh_key: {ssh} true"
    if rung is Rung.P2P:
        return f"ringrift-sync deploy {node.name}" if node.ssh_addresses else f"start the agent on {node.name}"
    if isinstance(probe.cause, RungUnusableError) and not isinstance(probe.cause, UnreachableError):
        program = "rsync" if rung is Rung.RSYNC else "python3"
        return f"{ssh} 'command -v {program} || apt-get install -y {program}'"
    return f"check ssh_host and ssh_port: {ssh} 'echo ok'"


def _told_of_itself(
    found: Findings, node: Node, way: Transport, rung: Rung, limits: DiskLimits, deadline: clock.Deadline
) -> bool:
    """Ask the node for its facts over one way, and judge them; False when that did not work."""
    before = clock.wall()
    try:
        told = way.call("facts", {}, deadline=deadline)
        after = clock.wall()
        _judge(found, node, told, (before + after) / 2, limits)
    except RemoteCallError as error:
        if "no operation" in error.message:
            words = f"its agent is too old to tell of itself: {error.message}"
            found.warning("agent", words, f"ringrift-sync deploy {node.name}")
            return True
        found.error("facts", str(error), f"check ringrift_path of {node.name} in the inventory: {node.ringrift_path}")
        return True
    except TransferError as error:
        again = f"see the message; then: ringrift-sync sync --node {node.name} --transport {_forced(rung)}"
        fix = "see the message" if isinstance(error, LocalToolError) else again
        found.warning("facts", f"{type(error).__name__}: {error}", fix)
        return False
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = f"what it tells of itself makes no sense: {type(error).__name__}: {error}"[:_SHOWN_CHARS]
        found.error("facts", words, f"ringrift-sync deploy {node.name}")
        return True
    return True


def _forced(rung: Rung) -> str:
    return {Rung.P2P: "p2p", Rung.RSYNC: "rsync", Rung.BASE64: "base64"}[rung]


def _judge(found: Findings, node: Node, told: Mapping[str, Any], at: float, limits: DiskLimits) -> None:
    skew = float(told["now"]) - at
    words = f"its clock is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) > LEEWAY_SECONDS:
        refused = f"{words}: tokens are refused above {LEEWAY_SECONDS} s"
        found.error("clock", refused, f"on {node.name}: sudo timedatectl set-ntp true")
    elif abs(skew) > SKEW_SECONDS:
        found.warning("clock", words, f"on {node.name}: sudo timedatectl set-ntp true")
    else:
        found.ok("clock", words)
    python = _word(told["python"])
    found.ok("python", f"Python {python}")
    sqlite_finding(found, _word(told["sqlite"]), "its Python")
    if told["programs"]["rsync"]:
        found.ok("rsync", f"rsync is {_word(told['programs']['rsync'])}")
    else:
        fix = f"on {node.name}: sudo apt-get install -y rsync"
        found.warning("rsync", "it has no rsync: files travel by P2P or base64 only", fix)
    user = _word(told["user"])
    for folder in (*told["roots"], told["data"]):
        _folder(found, node, folder, user)
    first = told["roots"][0]
    if "free_bytes" in first:
        free, total = int(first["free_bytes"]), int(first["total_bytes"])
        disk_finding(found, _word(first["path"]), free, total, limits)


def _folder(found: Findings, node: Node, folder: Mapping[str, Any], user: str) -> None:
    path = _word(folder["path"])
    if not folder["exists"]:
        fix = f"on {node.name}: mkdir -p {path}; or correct ringrift_path / storage_paths in the inventory"
        found.error("folders", f"{path} is not there", fix)
    elif not (folder["readable"] and folder["writable"]):
        lacks = "read" if not folder["readable"] else "written"
        found.error("folders", f"{path} cannot be {lacks} by {user}", f"on {node.name}: sudo chown -R {user} {path}")
    else:
        found.ok("folders", f"{path} can be read and written by {user}")


def _word(value: object) -> str:
    """Give a text that came from a node, short and on one line."""
    if not isinstance(value, str):
        raise TypeError(f"a text was expected, not {value!r:.40}")
    return "".join(one if one.isprintable() else "?" for one in value)[:_SHOWN_CHARS]
