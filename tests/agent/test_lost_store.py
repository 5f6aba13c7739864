"""What the owner's agent says it has is what is in place now, not what a receipt says that was there once."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.identity import CoordinatorKey
from ringrift_sync_dagster.state.receipts import has_receipt
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.packing import Packed, merged, pack
from tests.node.merging import CONFIG

NODE = "vast-1"


@pytest.fixture
def owner(coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path: Path) -> AgentProcess:
    """The coordinator's agent, not started."""
    root = tmp_path / "root"
    more = {"incoming": f"Path({str(root / 'data/incoming')!r})", "merge_into": f"Path({str(root)!r})"}
    return AgentProcess(
        "hub-1", root, next(free_addresses), coordinator_key, state_url=f"sqlite:///{tmp_path}/state.db", more=more
    )


def push(owner: AgentProcess, packed: Packed) -> None:
    answer = owner.request(
        "PUT", f"/v1/incoming/{NODE}/{packed.sha}", data=packed.data, token=owner.token("node", sub=NODE)
    )
    assert answer.status_code == 201, answer.text


def complete(owner: AgentProcess, *packs: Packed) -> list[bool]:
    """What the owner answers to a sender that asks about each pack."""
    token = owner.token("node", sub=NODE)
    return [
        owner.request("GET", f"/v1/incoming/{NODE}/{one.sha}", token=token).json()["complete"] is True for one in packs
    ]


def durable(owner: AgentProcess, *packs: Packed) -> list[bool]:
    """What the answer to a heartbeat lets the node forget."""
    said = {"version": 1, "games": 1, "packs": [one.sha for one in packs]}
    answer = owner.request("POST", "/v1/heartbeat", json=said, token=owner.token("node", sub=NODE))
    return [one.sha in answer.json()["durable"] for one in packs]


def lose(database: Path) -> None:
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()


def settled(owner: AgentProcess, *names: str) -> None:
    """Wait until these games are merged, and nothing lies there any more."""
    folder = owner.root / "data/incoming" / NODE
    wait_until(lambda: merged(owner.root) == set(names) and not any(folder.glob("*")), 10)


def test_what_went_with_a_lost_database_is_taken_again_and_a_restored_one_lacks_what_came_after_it(
    owner: AgentProcess, tmp_path: Path
) -> None:
    first, second = pack(tmp_path, "a", "b"), pack(tmp_path, "c")
    database, yesterday = Layout(owner.root).canonical(CONFIG), tmp_path / "yesterday.db"
    with owner:
        push(owner, first)
        settled(owner, "a", "b")
        with contextlib.closing(sqlite3.connect(database)) as conn:
            conn.execute("VACUUM INTO ?", (str(yesterday),))
        push(owner, second)
        settled(owner, "a", "b", "c")
        assert (complete(owner, first, second), durable(owner, first, second)) == ([True] * 2, [True] * 2)

        lose(database)
        assert (complete(owner, first, second), durable(owner, first, second)) == ([False] * 2, [False] * 2)
        push(owner, first)
        settled(owner, "a", "b")
        assert complete(owner, first, second) == durable(owner, first, second) == [True, False]

        lose(database)
        shutil.copy(yesterday, database)
        assert complete(owner, first, second) == durable(owner, first, second) == [True, False]
        push(owner, second)
        settled(owner, "a", "b", "c")

        database.write_bytes(b"no database")  # nobody knows what was in it
        assert complete(owner, first, second) == durable(owner, first, second) == [False] * 2


def test_what_lies_there_or_is_set_aside_whole_counts_while_it_is_there(owner: AgentProcess, tmp_path: Path) -> None:
    waits, bad = (
        pack(tmp_path, "a"),
        Packed("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", b"a", ()),
    )
    lying, aside = owner.root / "data/incoming" / NODE, owner.root / "data/quarantine" / NODE
    Layout(owner.root).canonical(CONFIG).mkdir(parents=True)  # nothing can be merged
    with owner:
        push(owner, bad)
        wait_until(lambda: (aside / f"pack-{bad.sha}.json").exists() and not (lying / bad.sha).exists(), 10)
        push(owner, waits)
        assert complete(owner, waits, bad) == durable(owner, waits, bad) == [True, True]
        (lying / waits.sha).unlink()
        shutil.rmtree(aside)
        assert complete(owner, waits, bad) == durable(owner, waits, bad) == [False, False]

    with StateStore.open(owner.state_url) as state:
        assert has_receipt(state, waits.sha, "hub-1")  # what was true once
