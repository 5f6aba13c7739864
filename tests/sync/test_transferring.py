"""A push to a node: with a receipt and a row, and never past what the inventory allows on that node's disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.bandwidth import TransferPriority
from ringrift_sync_dagster.core.model import Artifact, Partition
from ringrift_sync_dagster.errors import AdmissionRefusedError
from ringrift_sync_dagster.state.transfers import TransferState, transfer_rows
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.transferring import push
from ringrift_sync_dagster.transports.base import Pushed
from tests.sync.conftest import Field

DATA = b"weights" * 10_000


def pushed(runtime: Runtime, node: str, source: Path) -> Pushed:
    source.write_bytes(DATA)
    artifact = Artifact(hashlib.sha256(DATA).hexdigest(), len(DATA), "models")
    transport = runtime.transport_to(runtime.inventory.get(node))
    try:
        return push(
            runtime, transport, artifact, source, Partition("hex8_2p", node), "test", priority=TransferPriority.CRITICAL
        )
    finally:
        transport.close()


def test_a_push_ends_with_the_nodes_receipt_and_a_row_that_says_how(field_: Field, tmp_path: Path) -> None:
    with Runtime.open(field_.settings) as runtime:
        done = pushed(runtime, field_.nodes[0], tmp_path / "source")
        (row,) = transfer_rows(runtime.state)
    assert (done.receipt.node, done.receipt.sha256) == (field_.nodes[0], hashlib.sha256(DATA).hexdigest())
    assert (row.direction, row.state, row.transport, row.priority) == ("push", "done", "p2p_http", "critical")
    assert (row.disk, row.bytes_moved) == (field_.nodes[0], len(DATA))


def test_a_push_that_would_pass_the_limit_of_the_nodes_disk_is_refused(field_: Field, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.mkdir()
    for file in field_.settings.hosts.iterdir():
        text = file.read_text().replace("max_disk_usage_percent: 100", "max_disk_usage_percent: 0.001")
        (hosts / file.name).write_text(text)
    with Runtime.open(field_.settings.model_copy(update={"hosts": hosts})) as runtime:
        with pytest.raises(AdmissionRefusedError, match=r"max_disk_usage_percent is 0\.001"):
            pushed(runtime, field_.nodes[0], tmp_path / "source")
        (row,) = transfer_rows(runtime.state)
    assert (row.state, row.error_class) == (TransferState.FAILED, "AdmissionRefusedError")
