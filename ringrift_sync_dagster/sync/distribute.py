"""Bring the published npz or model of a config to a node: the bytes first, then the order to lead its links to them.

The owner's file was hashed when it was taken in, and is not hashed again. Bytes come from a node that has them already
(``holders``), by an order to the target's agent; where that is not possible or fails, from the owner over the ladder.
The order to publish carries the serial, so that of two the later one wins; the table of what is published is looked at
again after each, so that a pass ends on the last one. A node that cannot be reached fails its own partition alone, and
the next pass finds out what it lacks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from ringrift_sync_dagster.core.bandwidth import data_type_priority
from ringrift_sync_dagster.core.model import Artifact, DataType
from ringrift_sync_dagster.errors import (
    ChecksumError,
    ConfigError,
    RemoteCallError,
    SourceChangedError,
    SyncError,
    TransferError,
)
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import issue_token, load_coordinator_key
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state.admission import TransferRequest
from ringrift_sync_dagster.state.changes import Change
from ringrift_sync_dagster.state.nodes import NodeFile, node_row
from ringrift_sync_dagster.state.placements import Placement, all_placements, placed, placement_of
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt, drop_receipt
from ringrift_sync_dagster.state.versions import (
    Published,
    Version,
    VersionState,
    published_version,
    raise_serial,
    versions_of,
)
from ringrift_sync_dagster.sync.fields import Sender, flag, makes_sense, path_of, whole
from ringrift_sync_dagster.sync.holders import OWNER, Holders
from ringrift_sync_dagster.sync.mover import Work
from ringrift_sync_dagster.sync.report import Note
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.transferring import check_room, disk_of_node, push
from ringrift_sync_dagster.transports import p2p_http
from ringrift_sync_dagster.transports.p2p_http import Pulled

CALL_SECONDS: Final = 300.0
"""How long a node may take to hash a model of 170 MB on a bad disk."""
PULL_SECONDS: Final = 900.0
TOKEN_SECONDS: Final = 900.0
"""How long the token for a source lives; agents give it some minutes more, since clocks differ."""
_LEAST_PULL_SECONDS: Final = 60.0
_SWITCHES: Final = 5
"""How often in one pass a node is led on to a version that was published meanwhile."""
LINKS: Final[Mapping[DataType, int]] = {DataType.MODELS: 2, DataType.NPZ: 1}


class _NotServedError(TransferError):
    """A holder did not serve a node; the next one does, or the owner."""


@dataclass(frozen=True, slots=True)
class _Delivery:
    """How the bytes came: from whom (``OWNER``: the owner), over what, how many, and when they were verified."""

    source: str = OWNER
    transport: str = ""
    bytes_moved: int = 0
    verified_at: float = 0.0


class Distribution:
    """The way down of one data type in one pass; safe in several threads.

    Args:
        runtime: What to work with.
        data_type: ``npz`` or ``models``.
        holders: Who serves whom; another one only in tests.

    """

    def __init__(self, runtime: Runtime, data_type: DataType, holders: Holders | None = None) -> None:
        self._runtime, self._data_type = runtime, data_type
        self._given = holders

    @cached_property
    def holders(self) -> Holders:
        """Who serves whom; read when something is to be brought, for most passes bring nothing."""
        holders = self._given or Holders()
        for placement in all_placements(self._runtime.state):
            if placement.data_type == self._data_type.value and self._may_serve(placement.node):
                holders.add(placement.content, placement.node)
        return holders

    def bring(self, work: Work, files: Sequence[NodeFile]) -> None:
        """Bring the node what is published of the partition's config, unless it has it.

        Args:
            work: The partition.
            files: What the node told of this data type; decides whether it need be asked.

        Raises:
            SyncError: What stopped it; the node's names are as they were, or lead to the new version.

        """
        found = published_version(self._runtime.state, self._data_type.value, work.partition.config)
        if found is None or self._has_it(work, *found, _tokens(files, work.partition.config)):
            return
        for _ in range(_SWITCHES):
            self._publish(work, *found)
            now = published_version(self._runtime.state, self._data_type.value, work.partition.config)
            if now is None or now[0].serial == found[0].serial:
                return
            found = now
        message = f"{work.partition}: another version was published {_SWITCHES} times meanwhile; the next pass goes on"
        raise SyncError(message)

    def _has_it(self, work: Work, published: Published, version: Version, tokens: Mapping[str, str]) -> bool:
        """Whether the node has what is published: as far as we remember, else by its own word, which is remembered."""
        if not work.order.force and self._is_known_to_be_there(work, published, tokens):
            return True
        if not self._is_there(work, published):
            return False
        path = _path_on_node(self._data_type, published)
        if self._was_recorded(work, published):
            self._place(work, published, path, tokens)
        else:  # whoever brought it died before it could say so
            self._record(work, published, version, _Delivery(), path, 0.0)
        self._learn(published.sha256, work.node)
        return True

    def _was_recorded(self, work: Work, published: Published) -> bool:
        before = placement_of(self._runtime.state, work.node.name, self._data_type.value, work.partition.config)
        return before is not None and (before.content, before.serial) == (published.sha256, published.serial)

    def _publish(self, work: Work, published: Published, version: Version) -> None:
        """Order the node to use a version; bring the bytes when it says that it lacks them."""
        started = clock.monotonic()
        delivery = _Delivery(verified_at=clock.wall())
        try:
            answer = self._order(work, published, version)
        except RemoteCallError as error:
            if error.code != "missing":
                raise
            delivery = self._deliver(work, version)
            reached("bring.delivered")
            now = published_version(self._runtime.state, self._data_type.value, work.partition.config)
            if now is not None and now[0].serial != published.serial:
                return  # published anew while the bytes travelled; the caller goes on with that one
            answer = self._order(work, published, version)
        reached("bring.published")
        path = self._path(work, answer, published)
        if not path:
            return
        self._learn(published.sha256, work.node)
        self._record(work, published, version, delivery, path, clock.monotonic() - started)

    def _order(self, work: Work, published: Published, version: Version) -> dict[str, Any]:
        config, data_type = work.partition.config, self._data_type.value
        known = versions_of(self._runtime.state, data_type, config, VersionState.KEPT, VersionState.REFUSED)
        arguments = {
            "node": self._runtime.intake.owner, "artifact": version.sha256, "bytes": version.size_bytes,
            "data_type": data_type, "config": config, "serial": published.serial,
            "known": [one.sha256 for one in known],  # these bytes are here, so the node's copy may lose its name
            "keep": self._runtime.settings.keep_versions,
        }  # fmt: skip
        return work.call("publish", arguments, CALL_SECONDS)

    def _path(self, work: Work, answer: dict[str, Any], published: Published) -> str:
        """Read the answer to an order; the empty path where a later order counts there.

        Our own serial is then raised above it, where it is behind because the state database was lost or restored.
        """
        with makes_sense(Sender(work.node.name, work.transport.name, "publish")):
            if flag(answer, "published"):
                return path_of(answer["path"])
            serial = whole(answer["serial"], "serial")
            if serial < published.serial:
                raise ValueError("it says that a later order came before, and names none")
        now = published_version(self._runtime.state, self._data_type.value, work.partition.config)
        if now is not None and now[0].serial == published.serial:
            raise_serial(self._runtime.state, self._data_type.value, work.partition.config, serial)
        return ""

    def _deliver(self, work: Work, version: Version) -> _Delivery:
        """Get the bytes onto the node, from a holder if one can serve it, else from the owner."""
        artifact = Artifact(version.sha256, version.size_bytes, self._data_type.value)
        if work.transport.name != p2p_http.NAME:  # no agent answers there that could be told to fetch
            return self._push(work, artifact, version)
        while True:
            with self.holders.serving(artifact.sha256, work.node.name) as source:
                if source == OWNER:
                    return self._push(work, artifact, version)
                try:
                    found = self._pull(work, artifact, self._runtime.inventory.get(source))
                except (TransferError, ConfigError) as error:
                    words = f"it was not told to fetch from {source}, the owner pushes: {error}"
                    work.notes.append(Note(work.node.name, "", type(error).__name__, words))
                    break
                if found is not None:
                    return found
                self.holders.drop(artifact.sha256, source)
        return self._push(work, artifact, version)

    def _push(self, work: Work, artifact: Artifact, version: Version) -> _Delivery:
        priority = data_type_priority(self._data_type, "down", promoted=True)
        source = self._runtime.layout.root / version.path
        if not source.exists():
            words = f"{version.path} is gone here; `ringrift-sync verify` repairs it"
            raise SourceChangedError(work.node.name, "", words)
        pushed = push(
            self._runtime, work.transport, artifact, source, work.partition, work.order.trigger, priority=priority
        )
        return _Delivery(OWNER, pushed.transport, pushed.bytes_moved, pushed.receipt.verified_at)

    def _pull(self, work: Work, artifact: Artifact, source: Node) -> _Delivery | None:
        """Let the node fetch from a holder; None where that one did not serve, and a note says why.

        Raises:
            TransferError: The target itself cannot be asked, or has not the room.
            ConfigError: There is no key here to sign a token with.

        """
        pulled = self._order_pull(work, artifact, source)
        for failure in pulled.failures:
            words = f"it did not serve {artifact.sha256[:12]} to {work.node.name}: {failure.get('message', '')}"
            work.notes.append(Note(source.name, "", failure.get("error", ""), words))
            if failure.get("error") == ChecksumError.__name__:
                self._distrust(work, artifact, source)
        if pulled.pushed is None:
            return None
        receipt = pulled.pushed.receipt
        return _Delivery(source.name, p2p_http.NAME, pulled.pushed.bytes_moved, receipt.verified_at)

    def _distrust(self, work: Work, artifact: Artifact, source: Node) -> None:
        """Take back what we believed of a node that served other bytes; the next pass lets it hash its version anew."""
        drop_receipt(self._runtime.state, artifact.sha256, source.name)
        detail = {"distrusted": artifact.sha256}
        config = work.partition.config
        placed(self._runtime.state, Placement(source.name, self._data_type.value, config, "", 0, detail))

    def _order_pull(self, work: Work, artifact: Artifact, source: Node) -> Pulled:
        runtime, partition = self._runtime, work.partition
        key = load_coordinator_key(runtime.settings.home / "keys")
        wanted = TransferRequest(
            artifact.sha256, partition.node, "push", artifact.size_bytes,
            data_type_priority(self._data_type, "down", promoted=True), config=partition.config,
            trigger=work.order.trigger, reserved_bytes=artifact.size_bytes, disk=partition.node,
        )  # fmt: skip
        disk = disk_of_node(self._runtime, work.transport, work.node.name)
        pulled = Pulled(None, "", ())
        with (
            contextlib.suppress(_NotServedError),
            runtime.bandwidth.transfer(wanted, leave_held=True) as transfer,
            runtime.ladder.agent_of(work.node) as agent,
        ):
            check_room(runtime, disk, artifact, partition, transfer.id)
            rate = transfer.pacer.rate
            seconds = min(PULL_SECONDS, _LEAST_PULL_SECONDS + 4 * artifact.size_bytes / rate)
            order = {
                "node": runtime.intake.owner, "artifact": artifact.sha256, "bytes": artifact.size_bytes,
                "sources": [_described(source)], "seconds": seconds, "bytes_per_second": rate,
                "token": issue_token(key, partition.node, [], clock.wall(), TOKEN_SECONDS),
            }  # fmt: skip
            pulled = agent.pull(artifact, order, deadline=clock.Deadline.after(seconds + _LEAST_PULL_SECONDS))
            if pulled.pushed is None:  # so that the transfer's row says that it failed
                why = "; ".join(one.get("message", "") for one in pulled.failures) or "no source served"
                raise _NotServedError(work.node.name, p2p_http.NAME, f"{source.name} did not serve it: {why}")
            transfer.done(pulled.pushed)
        return pulled

    def _is_known_to_be_there(self, work: Work, published: Published, tokens: Mapping[str, str]) -> bool:
        """Say whether the node need not be asked: it had this, and its files are as they were then."""
        before = placement_of(self._runtime.state, work.node.name, self._data_type.value, work.partition.config)
        return before is not None and _is_as_it_was(before, published, tokens)

    def _is_there(self, work: Work, published: Published) -> bool:
        """Ask the node what its links lead to; one that served other bytes must hash first."""
        before = placement_of(self._runtime.state, work.node.name, self._data_type.value, work.partition.config)
        if before is not None and before.detail.get("distrusted"):
            return False
        arguments = {"data_type": self._data_type.value, "config": work.partition.config}
        sender = Sender(work.node.name, work.transport.name, "published")
        answer = work.call("published", arguments, CALL_SECONDS)
        with makes_sense(sender):
            links = answer["links"]
            right = [one for one in links if (one["artifact"], one["regular"]) == (published.sha256, False)]
            same = all(one["serial"] == published.serial for one in right)
            return same and len(links) == len(right) == LINKS[self._data_type]

    def _place(self, work: Work, published: Published, path: str, tokens: Mapping[str, str]) -> None:
        """Renew what is known of a node that has it already; nothing changed there."""
        detail = {"path": path, "tokens": dict(tokens)}
        name, config = work.partition.node, work.partition.config
        placement = Placement(name, self._data_type.value, config, published.sha256, published.serial, detail)
        placed(self._runtime.state, placement)

    def _record(
        self, work: Work, published: Published, version: Version, delivery: _Delivery, path: str, seconds: float
    ) -> None:
        """Write placement, receipt and change in one transaction, then count."""
        name, config, data_type = work.partition.node, work.partition.config, self._data_type.value
        detail = {"path": path, "source": delivery.source or self._runtime.intake.owner}
        receipt = Receipt(version.sha256, name, path, version.size_bytes, delivery.verified_at or clock.wall())
        artifact = ArtifactRow(
            version.sha256, data_type, version.size_bytes, 0, config, version.origin_node, clock.wall()
        )  # fmt: skip
        change = Change(
            f"bring:{data_type}:{config}:{published.serial}:{version.sha256[:12]}:{name}", clock.wall(), data_type,
            "down", config, name, version.sha256, path, size_bytes=delivery.bytes_moved, seconds=seconds,
            transport=delivery.transport, trigger=work.order.trigger, counts={"brought": 1},
            checks={"digest_agrees": True, "links_resolve": True},
        )  # fmt: skip
        placement = Placement(name, data_type, config, version.sha256, published.serial, detail)
        placed(self._runtime.state, placement, receipt=receipt, artifact=artifact, change=change)
        work.outcome = work.outcome.counted(
            {"brought": 1}, bytes_moved=delivery.bytes_moved, transport=delivery.transport
        )  # fmt: skip

    def _learn(self, sha256: str, node: Node) -> None:
        if self._may_serve(node.name):
            self.holders.add(sha256, node.name)

    def _may_serve(self, name: str) -> bool:
        """Say whether other nodes can reach this one's agent; one that we reach over SSH only may have none."""
        node = self._runtime.inventory.nodes.get(name)
        if node is None or not node.collectable or node.nat_blocked or not node.own_addresses:
            return False
        row = node_row(self._runtime.state, name)
        return row is not None and row.transport == p2p_http.NAME


def is_there(before: Placement, config: str, published: Published, files: Sequence[NodeFile]) -> bool:
    """Say whether a node has what is published, by what it was brought, and its files are as they were then."""
    return _is_as_it_was(before, published, _tokens(files, config))


def _is_as_it_was(before: Placement, published: Published, tokens: Mapping[str, str]) -> bool:
    if (before.content, before.serial) != (published.sha256, published.serial):
        return False
    return bool(tokens) and before.detail.get("tokens") == dict(tokens)


def _described(node: Node) -> dict[str, str]:
    """Give a node as the source of an order to pull."""
    host = node.own_addresses[0]
    shown = f"[{host}]" if ":" in host else host
    scheme = "https" if node.tls_fingerprint else "http"
    return {
        "node": node.name, "url": f"{scheme}://{shown}:{node.agent_port}", "fingerprint": node.tls_fingerprint
    }  # fmt: skip


def _tokens(files: Sequence[NodeFile], config: str) -> dict[str, str]:
    """Give the change tokens of what the links of a config lead to, by path."""
    names = (f"canonical_{config}", f"ringrift_best_{config}", config)
    return {
        file.path: file.token for file in files if file.path.rpartition("/")[2].partition(".")[0] in names
    }  # fmt: skip


def _path_on_node(data_type: DataType, published: Published) -> str:
    if data_type is DataType.NPZ:
        return f"data/training/{published.config}.{published.sha256[:12]}.npz"
    return f"models/versions/canonical_{published.config}.{published.sha256[:12]}.pth"
