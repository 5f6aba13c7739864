"""Heartbeats at the owner's agent: what is at risk is known, what may be forgotten is said, and peers are named."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.agent.outbox_entries import Packed
from ringrift_sync_dagster.agent.reporting import risk
from ringrift_sync_dagster.settings.identity import CoordinatorKey, issue_token
from ringrift_sync_dagster.state.measures import record_round_trips
from ringrift_sync_dagster.state.node_reports import report_in, trouble_in
from ringrift_sync_dagster.state.nodes import node_row, seen
from ringrift_sync_dagster.state.receipts import Receipt, add_receipt
from ringrift_sync_dagster.state.risks import every, risk_of
from ringrift_sync_dagster.state.store import StateStore
from tests.agent.agents import AgentProcess

HOSTS = """
hosts:
  hub-1: {ssh_host: 10.0.0.1, role: coordinator, ringrift_path: /srv}
  far: {ssh_host: 10.0.0.2, ringrift_path: /srv}
  near: {ssh_host: 10.0.0.3, ringrift_path: /srv, agent_port: 9000}
  silent: {ssh_host: 10.0.0.4, ringrift_path: /srv}
  by-ssh: {ssh_host: 10.0.0.5, ringrift_path: /srv}
  mac-1: {ssh_host: localhost, role: coordinator, ringrift_path: /srv}
  mac-2: {ssh_host: localhost, ringrift_path: /srv}
  mac-3: {ssh_host: localhost, tailscale_ip: 100.64.0.9, ringrift_path: /srv}
  retired: {ssh_host: 10.0.0.6, ringrift_path: /srv, status: retired}
  vast-1: {ssh_host: 10.0.0.7, ringrift_path: /srv, is_ephemeral: true}
  vast-2: {ssh_host: 10.0.0.8, ringrift_path: /srv, is_ephemeral: true}
"""
BEAT = {
    "version": 1, "games": 2, "bytes": 900, "ids": ["a", "b"], "oldest_age_seconds": 40.5, "outbox_bytes": 700,
    "outbox_packs": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def hub(
    coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentProcess]:
    base = tmp_path_factory.mktemp("hub")
    (base / "hosts.yaml").write_text(HOSTS)
    url = f"sqlite:///{base}/state.db"
    with StateStore.open(url) as state:
        for name in ("far", "near", "retired", "vast-2", "mac-1", "mac-2", "mac-3"):
            seen(state, name, at=time.time(), transport="p2p_http")
        seen(state, "silent", at=time.time() - 3600, transport="p2p_http")
        seen(state, "by-ssh", at=time.time(), transport="rsync")
        record_round_trips(state, {"far": 0.3, "near": 0.01, "mac-3": 1.0})
    more = {"hosts": f"Path({str(base / 'hosts.yaml')!r})"}
    with AgentProcess(
        "hub-1", base / "hub-1", next(free_addresses), coordinator_key, state_url=url, more=more
    ) as running:
        yield running


@pytest.fixture
def state(hub: AgentProcess) -> Iterator[StateStore]:
    with StateStore.open(hub.state_url) as store:
        yield store


def beat(hub: AgentProcess, sub: str, *scopes: str, **more: object) -> requests.Response:
    token = hub.token(*(scopes or ("node",)), sub=sub)
    return hub.request("POST", "/v1/heartbeat", token=token, json={**BEAT, **more})


def lie(hub: AgentProcess, sha: str) -> None:
    """Let an artifact of vast-1 lie at the owner."""
    folder = hub.scratch / "incoming" / "vast-1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / sha).touch()


def test_what_a_node_says_is_in_the_shared_database_and_in_the_metrics(hub: AgentProcess, state: StateStore) -> None:
    answer = beat(hub, "vast-1")

    assert answer.status_code == 200, answer.text
    risk = risk_of(state, "vast-1")
    assert risk is not None
    assert (risk.games, risk.bytes, list(risk.ids), risk.outbox_bytes, risk.outbox_packs) == (
        2,
        900,
        ["a", "b"],
        700,
        1,
    )
    assert risk.oldest_at is not None
    assert abs(time.time() - 40.5 - risk.oldest_at) < 10
    numbers = dict(line.rsplit(" ", 1) for line in hub.request("GET", "/metrics").text.splitlines() if line[0] != "#")
    assert numbers['ringrift_agent_risk_games{node="vast-1"}'] == "2.0"
    assert numbers['ringrift_agent_risk_bytes{node="vast-1"}'] == "900.0"
    assert 40 < float(numbers['ringrift_agent_risk_oldest_seconds{node="vast-1"}']) < 60


def test_the_answer_names_what_is_durable_and_nothing_else(hub: AgentProcess, state: StateStore) -> None:
    here, at_peer, at_ephemeral, unknown, gone = ("1" * 64, "2" * 64, "3" * 64, "4" * 64, "5" * 64)
    for sha, holder in ((here, "hub-1"), (at_peer, "near"), (at_ephemeral, "vast-2"), (gone, "hub-1")):
        add_receipt(state, Receipt(sha, holder, f"vast-1/{sha}", 10, time.time()))
    lie(hub, here)

    answer = beat(hub, "vast-1", packs=[unknown, at_ephemeral, at_peer, here, gone]).json()

    assert answer["durable"] == [at_peer, here]
    assert answer["drain"] is False


def test_peers_stay_have_an_agent_that_was_up_lately_and_the_best_is_first(hub: AgentProcess) -> None:
    assert beat(hub, "vast-1").json()["peers"] == [
        {"node": "near", "url": "http://10.0.0.3:9000", "fingerprint": "", "ephemeral": False},
        {"node": "far", "url": "http://10.0.0.2:8765", "fingerprint": "", "ephemeral": False},
        {"node": "mac-3", "url": "http://100.64.0.9:8765", "fingerprint": "", "ephemeral": False},
    ]
    assert [peer["node"] for peer in beat(hub, "near", "node", "relay").json()["peers"]] == ["far", "mac-3"]


@pytest.mark.parametrize(
    "more",
    [
        {"version": 2}, {"games": -1}, {"games": True}, {"games": 1 << 63}, {"bytes": "9"}, {"ids": ["x"] * 10_001},
        {"ids": [7]}, {"ids": ["\x00"]}, {"oldest_age_seconds": -1}, {"oldest_age_seconds": "old"},
        {"packs": ["../x"]}, {"packs": "x"}, {"identities": ["0" * 16]}, {"identities": ["0" * 16, "g" * 16]},
        {"identities": ["0" * 16, 7]}, {"identities": "x"},
    ],
)  # fmt: skip
def test_a_heartbeat_that_makes_no_sense_is_refused_whole(
    hub: AgentProcess, state: StateStore, more: dict[str, Any]
) -> None:
    before = every(state)
    answer = beat(hub, "vast-1", **more)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert every(state) == before


def test_only_a_node_s_own_token_and_only_at_the_coordinator_s_agent(hub: AgentProcess, agent: AgentProcess) -> None:
    assert hub.key is not None
    only_reads = issue_token(hub.key, "vast-1", [], time.time())
    reading = hub.request("POST", "/v1/heartbeat", token=only_reads, json=BEAT)
    assert (reading.status_code, reading.json()["error"]["code"]) == (403, "scope")
    elsewhere = beat(agent, "vast-1")
    assert (elsewhere.status_code, elsewhere.json()["error"]["code"]) == (404, "no_heartbeats_here")


@pytest.mark.cluster
def test_so_many_persistent_copies_are_durable_as_the_owner_was_told(
    coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path: Path
) -> None:
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    url = f"sqlite:///{tmp_path}/state.db"
    at_owner, at_two, at_one = ("5" * 64, "6" * 64, "7" * 64)
    with StateStore.open(url) as state:
        holders = [(at_owner, "hub-1"), (at_two, "far"), (at_two, "near"), (at_one, "far"), (at_one, "vast-2")]
        for sha, holder in holders:
            add_receipt(state, Receipt(sha, holder, f"vast-1/{sha}", 10, time.time()))
    more = {"hosts": f"Path({str(tmp_path / 'hosts.yaml')!r})", "min_durable_copies": "2"}
    host = next(free_addresses)
    with AgentProcess("hub-1", tmp_path / "hub-1", host, coordinator_key, state_url=url, more=more) as running:
        lie(running, at_owner)
        assert beat(running, "vast-1", packs=[at_one, at_two, at_owner]).json()["durable"] == [at_two, at_owner]


def test_what_a_node_says_of_itself_is_checked_and_an_older_one_says_nothing(
    hub: AgentProcess, state: StateStore
) -> None:
    assert beat(hub, "near", "node", stopped_by="the outbox is full", draining=True, drain=None).status_code == 200
    row = node_row(state, "near")
    assert row is not None
    assert trouble_in(row) == (
        "new games stay in their databases: the outbox is full; drained: takes no bulk until --resume"
    )
    wrong: dict[str, Any]
    for wrong in ({"stopped_by": 7}, {"drain": "yes"}, {"drain": {"id": [1]}}):
        assert beat(hub, "near", "node", **wrong).status_code == 400
    assert beat(hub, "near", "node").json()["drain"] is False
    row = node_row(state, "near")
    assert row is not None
    assert trouble_in(row) == ""


def test_a_node_that_comes_back_without_its_outbox_does_not_hide_what_went_with_it(
    hub: AgentProcess, state: StateStore
) -> None:
    def said() -> dict[str, int]:
        return {one.node: one.games for one in every(state) if one.node.startswith("vast-9")}

    assert beat(hub, "vast-9", outbox="one").ok
    assert beat(hub, "vast-9", outbox="one", games=3, ids=["a", "b", "c"]).ok
    assert said() == {"vast-9": 3}
    for _ in range(2):
        assert beat(hub, "vast-9", outbox="two", games=0, ids=[]).ok

    (apart,) = said().keys() - {"vast-9"}
    assert said() == {"vast-9": 0, apart: 3}
    kept = risk_of(state, apart)
    assert kept is not None
    assert kept.ids == ["a", "b", "c"]


def test_what_a_node_cannot_read_is_known_with_its_age(hub: AgentProcess, state: StateStore) -> None:
    unread = {"databases": 2, "oldest_age_seconds": 41.0, "why": "data/games/a.db: database is locked"}
    assert beat(hub, "vast-1", unread=unread).status_code == 200
    row = node_row(state, "vast-1")
    assert row is not None
    assert trouble_in(row) == "2 databases cannot be read: data/games/a.db: database is locked"
    since = report_in(row).unread_since
    assert since is not None
    assert abs(time.time() - 41 - since) < 10

    assert beat(hub, "vast-1", unread={**unread, "oldest_age_seconds": 42.5}).status_code == 200
    row = node_row(state, "vast-1")
    assert row is not None
    assert report_in(row).unread_since == since, "a beat that took its time is no news"
    assert beat(hub, "vast-1", unread=None).status_code == 200
    row = node_row(state, "vast-1")
    assert row is not None
    assert trouble_in(row) == ""


def test_a_report_has_room_for_ids_of_any_letters(tmp_path: Path) -> None:
    with contextlib.closing(Outbox(tmp_path, "hub-1", 10**9)) as outbox:
        games = tuple((f"{number:05d}" + "\U0001f3b2" * 150, "0" * 64) for number in range(10_000))
        pack = tmp_path / "pack"
        pack.write_bytes(b"x")
        outbox.keep([Packed("a.db", "hex8_2p", "0" * 64, 1, pack, games, None)], 1.0)

        told = risk(outbox, 2.0)

    assert told["games"] == 10_000
    assert 500 < len(told["ids"]) < 10_000
    assert len(json.dumps(told)) < Limits().json_bytes / 2
