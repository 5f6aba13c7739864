"""Events that come through the coordinator's agent: whose they are, what they may say, how many and how large."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from ringrift_sync_dagster.settings.identity import CoordinatorKey, create_coordinator_key, issue_token
from ringrift_sync_dagster.state.events import Event, events_since, last_id
from ringrift_sync_dagster.state.store import StateStore
from tests.agent.agents import AgentProcess


@pytest.fixture(scope="module")
def hub(
    coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentProcess]:
    """The agent of a coordinator, with the state database that everybody there uses."""
    base = tmp_path_factory.mktemp("hub")
    url = f"sqlite:///{base}/state.db"
    limits = {"events_at_once": 12, "events_per_second": 0.01}
    with AgentProcess(
        "hub-1", base / "hub-1", next(free_addresses), coordinator_key, state_url=url, limits=limits
    ) as one:
        yield one


@pytest.fixture
def state(hub: AgentProcess) -> Iterator[StateStore]:
    with StateStore.open(hub.state_url) as store:
        yield store


def send(hub: AgentProcess, sub: str, kind: object, payload: object, *scopes: str) -> requests.Response:
    token = hub.token(*(scopes or ("node",)), sub=sub)
    return hub.request("POST", "/v1/events", token=token, json={"type": kind, "payload": payload})


def message(answer: requests.Response) -> str:
    text: str = answer.json()["error"]["message"]
    return text


def stored(state: StateStore, answer: requests.Response) -> Event:
    assert answer.status_code == 200, answer.text
    (event,) = events_since(state, answer.json()["id"] - 1, limit=1)
    return event


def test_a_nodes_event_is_in_the_shared_database_under_its_name(hub: AgentProcess, state: StateStore) -> None:
    named = stored(state, send(hub, "vast-1", "ORPHAN_GAMES_DETECTED", {"host": "vast-1", "orphan_count": 4}))
    unnamed = stored(state, send(hub, "vast-1", "TRAINING_STARTED", {"config_key": "sq8_2p"}))
    promoted = stored(state, send(hub, "vast-1", "MODEL_PROMOTED", {"config": "hex8_2p", "model_id": "v7"}))

    assert (named.payload["node"], named.payload["games"], named.payload["publisher"]) == ("vast-1", 4, "vast-1")
    assert (unnamed.payload["node"], unnamed.payload["config"]) == ("vast-1", "square8_2p")
    assert (promoted.type, promoted.payload["publisher"]) == ("MODEL_PROMOTED", "vast-1")


@pytest.mark.parametrize(
    "kind, payload, words",
    [
        ("HOST_OFFLINE", {"host": "vast-2"}, "vast-2-a may not publish about vast-2 (field node)"),
        ("MODEL_PROMOTED", {"config": "hex8_2p", "publisher": "hub-1"}, "about hub-1 (field publisher)"),
        ("DATA_SYNC_COMPLETED", {}, "vast-2-a may not publish DATA_SYNC_COMPLETED: only the owner knows it"),
    ],
)
def test_a_node_speaks_for_itself_alone(
    hub: AgentProcess, state: StateStore, kind: str, payload: dict[str, Any], words: str
) -> None:
    before = last_id(state)
    answer = send(hub, "vast-2-a", kind, payload)
    assert answer.status_code == 403
    assert words in message(answer)
    assert last_id(state) == before


def test_the_coordinators_token_speaks_for_any_node(hub: AgentProcess, state: StateStore) -> None:
    event = stored(state, send(hub, "controller", "HOST_OFFLINE", {"host": "vast-2"}, "coordinator"))
    assert (event.payload["node"], event.payload["publisher"]) == ("vast-2", "controller")


def test_without_a_valid_token_nothing_is_taken(hub: AgentProcess, tmp_path: Path) -> None:
    stranger = issue_token(create_coordinator_key(tmp_path), "vast-1", ["node"], 0)
    body = {"type": "HOST_ONLINE", "payload": {}}
    assert hub.request("POST", "/v1/events", token=stranger, json=body).status_code == 401
    assert hub.key is not None
    reads = issue_token(hub.key, "vast-1", [], time.time())
    reader = hub.request("POST", "/v1/events", token=reads, json=body)
    assert (reader.status_code, "its token only reads" in message(reader)) == (403, True)


@pytest.mark.parametrize(
    "kind, payload, status, words",
    [
        ("SYNC_STARTED", {}, 422, "event SYNC_STARTED: there is no such type"),
        ("NEW_GAMES_AVAILABLE", {"config": "x"}, 422, "event NEW_GAMES_AVAILABLE: field config"),
        ("HOST_ONLINE", {"node": ["vast-3"]}, 403, "a node speaks for itself"),
        ("HOST_ONLINE", [1], 400, "an event is"),
        (7, {}, 400, "an event is"),
        ("TRAINING_STARTED", {"x": "y" * 70_000}, 413, "an event has at most 65536 bytes"),
    ],
)
def test_what_is_no_event_is_refused_and_named(
    hub: AgentProcess, state: StateStore, kind: object, payload: object, status: int, words: str
) -> None:
    before = last_id(state)
    answer = send(hub, "vast-3", kind, payload)
    assert (answer.status_code, words in message(answer)) == (status, True), answer.text
    assert last_id(state) == before


def test_a_body_of_unknown_length_is_refused(hub: AgentProcess) -> None:
    body = iter([b'{"type": "HOST_ONLINE"}'])
    assert hub.request("POST", "/v1/events", token=hub.token("node", sub="vast-5"), data=body).status_code == 413


def test_a_node_that_floods_is_held_back_and_the_others_are_not(hub: AgentProcess) -> None:
    answers = [send(hub, "vast-4", "HOST_ONLINE", {}) for _ in range(13)]
    assert [answer.status_code for answer in answers] == [200] * 12 + [429]
    assert int(answers[-1].headers["Retry-After"]) >= 1
    assert "vast-4 sends more than 0.01 events per second" in message(answers[-1])
    assert send(hub, "vast-6", "HOST_ONLINE", {}).status_code == 200


def test_the_agent_of_another_node_says_where_events_go(agent: AgentProcess) -> None:
    answer = agent.request("POST", "/v1/events", token=agent.token("node"), json={"type": "HOST_ONLINE"})
    assert answer.status_code == 404
    assert message(answer) == "node-a keeps no events: send them to the agent of the coordinator"
