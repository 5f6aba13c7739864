"""The manifest: everything once, then only what changed."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ringrift_sync_dagster.agent.manifest import Journal
from tests.agent.agents import AgentProcess


def entry(path: str, size: int = 1) -> dict[str, Any]:
    return {"path": path, "bytes": size}


def told(journal: Journal, token: str | None) -> tuple[bool, list[str], list[str]]:
    answer = json.loads(journal.since(token))
    return answer["full"], sorted(value["path"] for value in answer["entries"]), sorted(answer["removed"])


def test_a_token_gets_what_changed_since_and_what_was_removed() -> None:
    journal = Journal("one")
    journal.update([entry("a"), entry("b")])
    first = journal.token
    assert told(journal, None) == (True, ["a", "b"], [])
    assert told(journal, first) == (False, [], [])
    journal.update([entry("a", 2), entry("c")])
    assert told(journal, first) == (False, ["a", "c"], ["b"])
    second = journal.token
    journal.update([entry("a", 2), entry("b"), entry("c")])
    assert told(journal, first) == (False, ["a", "b", "c"], [])
    assert told(journal, second) == (False, ["b"], [])


def test_a_scan_that_finds_nothing_new_keeps_the_token() -> None:
    journal = Journal("one")
    journal.update([entry("a")])
    token = journal.token
    journal.update([entry("a")])
    assert journal.token == token


@pytest.mark.parametrize(
    "token", ["two:1", "one:99", "one:", "one", ":", "one:-1", "one:x", "one:" + "9" * 100_000, "one:\u0661", ""]
)
def test_an_unknown_token_gets_everything(token: str) -> None:
    journal = Journal("one")
    journal.update([entry("a")])
    assert told(journal, token) == (True, ["a"], [])


def test_a_token_older_than_the_memory_of_removed_files_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringrift_sync_dagster.agent.manifest._REMOVED_KEPT", 1)
    journal = Journal("one")
    journal.update([entry("a"), entry("b"), entry("c")])
    first = journal.token
    journal.update([entry("b"), entry("c")])
    second = journal.token
    journal.update([entry("c")])
    assert told(journal, first) == (True, ["c"], [])
    assert told(journal, second) == (False, ["c"][:0], ["b"])


def test_16000_files_are_compared_and_told_in_well_under_a_second() -> None:
    files = [
        {
            "path": f"data/games/selfplay_{number}.db",
            "data_type": "games",
            "kind": "selfplay",
            "config": "hex8_2p",
            "collectable": True,
            "bytes": number,
            "mtime_ns": number,
            "token": "x" * 60,
            "games": {"hex8_2p": number},
            "unfinished": 0,
            "unknown_config": 0,
            "marker": None,
            "error": None,
        }
        for number in range(16_000)
    ]
    journal = Journal("one")
    started = time.monotonic()
    journal.update(files)
    token = journal.token
    assert len(json.loads(journal.since(None))["entries"]) == 16_000
    files[7] = {**files[7], "bytes": 0}
    journal.update(files)
    assert told(journal, token) == (False, ["data/games/selfplay_7.db"], [])
    assert time.monotonic() - started < 3


def test_the_agent_tells_files_as_they_come_and_go(agent: AgentProcess) -> None:
    folder = agent.root / "data" / "training"
    folder.mkdir(parents=True)
    (folder / "hex8_2p.npz").write_bytes(b"one")
    first = agent.request("GET", "/v1/manifest").json()
    assert [value["path"] for value in first["entries"]] == ["data/training/hex8_2p.npz"]
    (folder / "hex8_3p.npz").write_bytes(b"two")
    (folder / "hex8_2p.npz").unlink()
    time.sleep(1.1)  # a scan that has just ended is used again
    second = agent.request("GET", "/v1/manifest", params={"since": first["token"]}).json()
    assert (second["full"], second["removed"]) == (False, ["data/training/hex8_2p.npz"])
    assert [value["path"] for value in second["entries"]] == ["data/training/hex8_3p.npz"]


def test_a_large_manifest_is_compressed_for_those_who_can_take_it(agent: AgentProcess) -> None:
    folder = agent.root / "data" / "training"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(100):
        (folder / f"hex8_2p_v{number}.npz").write_bytes(b"x")
    time.sleep(1.1)
    packed = agent.request("GET", "/v1/manifest")
    assert packed.headers["Content-Encoding"] == "gzip"
    plain = agent.request("GET", "/v1/manifest", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.json() == packed.json()
