"""Ask a node what it has: its manifest goes into the state database, its files become work by data type and config.

Only what changed since the last answer travels. The state database's copy is as good as the node's own list, because
a delta is only accepted on top of the very token that it was made from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.errors import RungUnusableError, TransferError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import nodes as node_state
from ringrift_sync_dagster.state.nodes import NodeFile
from ringrift_sync_dagster.sync.answers import read_manifest
from ringrift_sync_dagster.sync.damaged import DAMAGED, list_damaged
from ringrift_sync_dagster.sync.fields import Sender
from ringrift_sync_dagster.sync.report import Note
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.transports.base import Transport

PROBE_SECONDS: Final = 30.0
"""For all rungs together; one that refuses or is left alone by its breaker costs nothing."""
MANIFEST_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What a node has.

    Args:
        files: Its files by data type and config; under the empty config those that belong to none or to all. One that
            the node cannot read has an error and is not collectable.
        notes: Files that a person should know of, each with its data type.
        unchanged: True: the node answered that nothing of its files changed; that it was seen is not written yet.
        rtt_seconds: How long the node took to answer at all.

    """

    files: Mapping[tuple[DataType, str], tuple[NodeFile, ...]]
    notes: tuple[tuple[DataType, Note], ...]
    unchanged: bool = False
    rtt_seconds: float = 0.0

    def of(self, data_type: DataType, config: str) -> tuple[NodeFile, ...]:
        """The files that may hold data of the config."""
        return self.files.get((data_type, config), ()) + self.files.get((data_type, ""), ())


def survey(
    runtime: Runtime,
    transport: Transport,
    node: Node,
    data_types: Collection[DataType],
    files: Sequence[NodeFile] | None = None,
) -> Survey:
    """Ask for what changed, take it over, and sort the files of the data types.

    Args:
        runtime: What to work with.
        transport: The way to the node.
        node: The node.
        data_types: Which.
        files: What the node told last, for one that says that nothing changed; the state database is asked when None.

    Raises:
        TransferError: The node cannot be asked, or its answer makes no sense.

    """
    unchanged, rtt_seconds = _update(runtime, transport, node)
    known = files if unchanged and files is not None else node_state.files_of(runtime.state, node.name)
    told: dict[str, list[NodeFile]] = {}
    for file in known:
        told.setdefault(file.data_type, []).append(file)
    by_config: dict[tuple[DataType, str], list[NodeFile]] = {}
    notes: list[tuple[DataType, Note]] = []
    for data_type in data_types:
        for file in told.get(data_type.value, ()):
            if file.error:
                notes.append((data_type, _note(runtime, file)))
            by_config.setdefault((data_type, file.config), []).append(file)
    return Survey({key: tuple(found) for key, found in by_config.items()}, tuple(notes), unchanged, rtt_seconds)


def _update(runtime: Runtime, transport: Transport, node: Node) -> tuple[bool, float]:
    """Bring the state database's copy of the manifest up to date.

    Returns:
        True where nothing had to be written, and the seconds of a round trip.

    """
    probe = transport.probe(clock.Deadline.after(PROBE_SECONDS))
    if not probe.reachable:  # said at once, where the manifest of a large node may take its time
        raise probe.cause or RungUnusableError(node.name, transport.name, f"the node does not answer: {probe.detail}")
    known = node_state.node_row(runtime.state, node.name)
    since = known.manifest_token if known else ""
    for token in (since, ""):
        answer = transport.manifest(token or None, deadline=clock.Deadline.after(MANIFEST_SECONDS))
        manifest = read_manifest(answer, Sender(node.name, transport.name, "its manifest"))
        if known is not None and known.status == node_state.UP and _is_empty(manifest, token):
            return True, probe.rtt_seconds
        try:
            applied = node_state.apply_manifest(
                runtime.state, node.name, manifest, since=token, at=clock.wall(), transport=transport.name
            )
        except ValueError as error:  # it names a file more than once
            raise TransferError(node.name, transport.name, f"its manifest makes no sense: {error}") from error
        if applied.accepted:
            return False, probe.rtt_seconds
    raise TransferError(node.name, transport.name, "it answers a question for everything with a part; is it upgrading?")


def _is_empty(manifest: Mapping[str, Any], since: str) -> bool:
    """Whether an answer says that nothing changed since the token that was sent."""
    changed = manifest["full"] or manifest["entries"] or manifest.get("removed")
    return bool(since) and manifest["token"] == since and not changed


def _note(runtime: Runtime, file: NodeFile) -> Note:
    """What is wrong with a database; a damaged one is listed in the quarantine too."""
    code, _, message = file.error.partition(": ")
    if code in DAMAGED:
        list_damaged(runtime, file, code, message)
    return Note(file.node, file.path, code, message)
