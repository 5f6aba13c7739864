"""Receipts name content, and what was acknowledged is there after a kill."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable

import pytest

from ringrift_sync_dagster.state.receipts import (
    ArtifactRow,
    Receipt,
    add_receipt,
    get_artifact,
    has_receipt,
    receipts_of,
    receipts_since,
)
from ringrift_sync_dagster.state.store import StateStore

StartProgram = Callable[..., "subprocess.Popen[str]"]

ACKNOWLEDGE = """
import hashlib, sys
from ringrift_sync_dagster.state.receipts import Receipt, add_receipt
from ringrift_sync_dagster.state.store import StateStore
with StateStore.open(sys.argv[1]) as store:
    for i in range(100_000):
        sha = hashlib.sha256(str(i).encode()).hexdigest()
        add_receipt(store, Receipt(sha, "vast-1", f"incoming/{sha}", i, 1.0))
        print(sha, flush=True)
"""


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _receipt(text: str = "a", node: str = "vast-1", path: str = "x", at: float = 5.0) -> Receipt:
    return Receipt(_sha(text), node, path, 10, at)


def test_a_receipt_is_found_by_content_and_node_only(store: StateStore) -> None:
    add_receipt(store, _receipt("a", path="data/games/selfplay.db"))
    assert has_receipt(store, _sha("a"), "vast-1")
    assert not has_receipt(store, _sha("a, grown"), "vast-1")
    assert not has_receipt(store, _sha("a"), "vast-2")


def test_a_second_receipt_renews_the_first_and_keeps_its_id(store: StateStore) -> None:
    first = add_receipt(store, _receipt(at=5.0))
    second = add_receipt(store, _receipt(at=9.0, path="y"))
    assert second == Receipt(first.sha256, "vast-1", "y", 10, 9.0, first.id)
    assert receipts_of(store, first.sha256) == [second]


def test_receipts_since_an_id_come_in_order_and_none_is_missed(store: StateStore) -> None:
    added = [add_receipt(store, _receipt(str(i), at=100.0 - i)) for i in range(5)]
    assert receipts_since(store, limit=2) == added[:2]
    assert receipts_since(store, added[1].id) == added[2:]
    assert receipts_since(store, added[-1].id) == []


def test_copies_of_an_artifact_are_listed_by_node(store: StateStore) -> None:
    for node in ("b", "a"):
        add_receipt(store, _receipt(node=node))
    assert [receipt.node for receipt in receipts_of(store, _sha("a"))] == ["a", "b"]


def test_what_an_artifact_is_stays_as_first_recorded(store: StateStore) -> None:
    artifact = ArtifactRow(_sha("a"), "games", 10, 40, "hex8_2p", "vast-1", 3.0)
    add_receipt(store, _receipt(), artifact)
    add_receipt(store, _receipt(node="lambda-1"), ArtifactRow(_sha("a"), "games", 10, 40, "hex8_2p", "other", 9.0))
    assert get_artifact(store, _sha("a")) == artifact
    assert get_artifact(store, _sha("b")) is None


@pytest.mark.parametrize("sha256, node", [("abc", "vast-1"), (_sha("a").upper(), "vast-1"), (_sha("a"), "../etc")])
def test_a_receipt_of_nothing_or_nobody_cannot_be_made(sha256: str, node: str) -> None:
    with pytest.raises(ValueError, match=r"SHA-256|cannot name a node"):
        Receipt(sha256, node, "x", 1, 1.0)


def test_a_receipt_and_its_artifact_must_be_about_the_same_bytes(store: StateStore) -> None:
    with pytest.raises(ValueError, match="the artifact is"):
        add_receipt(store, _receipt("a"), ArtifactRow(_sha("b"), "games", 1, 1, "hex8_2p", "vast-1", 1.0))
    assert receipts_since(store) == []


def test_every_acknowledged_receipt_is_there_after_kill_9(
    store: StateStore, url: str, start_program: StartProgram
) -> None:
    process = start_program(ACKNOWLEDGE, url)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(50)]
    process.kill()
    acknowledged += process.stdout.read().split()
    process.wait()
    known = {receipt.sha256 for receipt in receipts_since(store, limit=1_000_000)}
    assert set(acknowledged) <= known
    assert 0 <= len(known) - len(acknowledged) <= 1
