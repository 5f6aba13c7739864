"""An agent fetches an artifact from another one by the coordinator's order, and trusts neither it nor the order."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from tests.agent.agents import AgentProcess
from tests.agent.conftest import StartAgent

DATA = b"weights" * 300_000


@pytest.fixture
def target(start_agent: StartAgent, tmp_path: Path) -> AgentProcess:
    return start_agent(node="target", root=tmp_path / "target")


@pytest.fixture
def source(start_agent: StartAgent, tmp_path: Path) -> AgentProcess:
    return start_agent(node="source", root=tmp_path / "source")


@dataclass(frozen=True)
class Pair:
    """A target and a source that the tests of refusals leave as they were."""

    target: AgentProcess
    source: AgentProcess


@pytest.fixture(scope="module")
def pair(
    coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    base = tmp_path_factory.mktemp("pair")
    with ExitStack() as stack:
        target, source = (
            stack.enter_context(AgentProcess(name, base / name, next(free_addresses), coordinator_key))
            for name in ("target", "source")
        )
        yield Pair(target, source)


def told(agent: AgentProcess, name: str = "") -> dict[str, str]:
    return {"node": name or agent.node, "url": agent.url}


def order(target: AgentProcess, artifact: Artifact, *sources: dict[str, str], **more: object) -> dict[str, Any]:
    token = target.token("node")
    common = {"node": "owner", "artifact": artifact.sha256, "bytes": artifact.size_bytes, "token": token}
    return {**common, "sources": list(sources), **more}


def pull(target: AgentProcess, artifact: Artifact, *sources: dict[str, str], **more: object) -> requests.Response:
    return target.request("POST", "/v1/pull", json=order(target, artifact, *sources, **more))


def arrived(target: AgentProcess, artifact: Artifact) -> Path:
    return target.scratch / "incoming/owner" / artifact.sha256


def test_an_artifact_comes_from_another_agent_with_a_receipt(target: AgentProcess, source: AgentProcess) -> None:
    artifact = source.place(DATA)

    answer = pull(target, artifact, told(source))

    assert answer.status_code == 200
    found = answer.json()
    assert (found["source"], found["bytes_moved"], found["failures"]) == ("source", len(DATA), [])
    assert (found["receipt"]["node"], found["receipt"]["sha256"]) == ("target", artifact.sha256)
    assert arrived(target, artifact).read_bytes() == DATA


@pytest.mark.cluster
def test_what_is_there_already_is_not_fetched_again(target: AgentProcess, source: AgentProcess) -> None:
    artifact = source.place(DATA)
    pull(target, artifact, told(source))
    source.kill()

    found = pull(target, artifact, told(source)).json()

    assert (found["receipt"]["sha256"], found["bytes_moved"]) == (artifact.sha256, 0)


def test_a_source_with_other_bytes_is_named_and_the_next_one_serves(
    target: AgentProcess, source: AgentProcess, start_agent: StartAgent, tmp_path: Path
) -> None:
    artifact = source.place(DATA)
    liar = start_agent(node="liar", root=tmp_path / "liar")
    liar.place(DATA[:-1] + b"!", name=artifact.sha256)

    found = pull(target, artifact, told(liar), told(source)).json()

    assert [(one["node"], one["error"]) for one in found["failures"]] == [("liar", "ChecksumError")]
    assert found["source"] == "source"
    assert arrived(target, artifact).read_bytes() == DATA


def test_where_no_source_serves_there_is_no_receipt_and_no_file(pair: Pair) -> None:
    target, source = pair.target, pair.source
    artifact = Artifact(hashlib.sha256(b"nowhere").hexdigest(), 7, "models")

    found = pull(target, artifact, told(source)).json()

    assert (found["receipt"], found["failures"][0]["error"]) == (None, "ArtifactGoneError")
    assert not arrived(target, artifact).exists()


def test_who_answers_as_another_node_gets_no_token(pair: Pair) -> None:
    target, source = pair.target, pair.source
    artifact = source.place(DATA)

    found = pull(target, artifact, told(source, "somebody")).json()

    assert (found["receipt"], found["failures"][0]["error"]) == (None, "RungUnusableError")


def test_only_the_coordinator_orders(pair: Pair) -> None:
    target, source = pair.target, pair.source
    sent = order(target, source.place(DATA), told(source))

    for scope in ("node", "relay"):
        answer = target.request("POST", "/v1/pull", token=target.token(scope), json=sent)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "scope")


BAD_ADDRESSES = (
    "file:///etc/passwd", "http://127.0.0.1", "http://127.0.0.1:8765/admin", "http://u:p@127.0.0.1:8765",
    "http://127.0.0.1:8765?x=1", "https://127.0.0.1:8765", "127.0.0.1:8765", "http://127.0.0.1:99999",
    "http://\ud800:8765", "http://a\0b:8765",
)  # fmt: skip


def test_a_source_is_the_bare_address_of_an_agent(pair: Pair) -> None:
    target = pair.target
    artifact = Artifact(hashlib.sha256(DATA).hexdigest(), len(DATA), "models")

    for url in BAD_ADDRESSES:
        answer = pull(target, artifact, {"node": "source", "url": url})
        assert (url, answer.status_code, answer.json()["error"]["code"]) == (url, 400, "bad_request")


BAD_ORDERS: tuple[dict[str, object], ...] = (
    {"node": "../x"}, {"artifact": "x"}, {"bytes": -1}, {"bytes": True}, {"token": ""}, {"token": "a\nb"},
    {"sources": []}, {"sources": "x"}, {"sources": [7]}, {"bytes_per_second": 0}, {"seconds": "x"},
)  # fmt: skip


def test_an_order_that_makes_no_sense_is_refused(pair: Pair) -> None:
    target, source = pair.target, pair.source
    good = order(target, source.place(DATA), told(source))

    for change in BAD_ORDERS:
        answer = target.request("POST", "/v1/pull", json={**good, **change})
        assert (change, answer.status_code) == (change, 400)


def test_a_source_outside_the_trusted_networks_needs_a_pinned_certificate(pair: Pair) -> None:
    target = pair.target
    artifact = Artifact(hashlib.sha256(DATA).hexdigest(), len(DATA), "models")

    found = pull(target, artifact, {"node": "source", "url": "http://192.0.2.1:8765"}).json()

    assert found["failures"][0]["error"] == "AuthenticationError"


@pytest.mark.cluster
def test_an_artifact_above_the_limit_is_not_begun(
    start_agent: StartAgent, source: AgentProcess, tmp_path: Path
) -> None:
    target = start_agent(node="target", root=tmp_path / "target", limits={"upload_bytes": 1000})

    assert pull(target, source.place(DATA), told(source)).status_code == 413


@pytest.mark.cluster
def test_one_pull_too_many_is_answered_busy(start_agent: StartAgent, source: AgentProcess, tmp_path: Path) -> None:
    target = start_agent(node="target", root=tmp_path / "target", limits={"pulls": 1})
    first, second = source.place(DATA), source.place(DATA + b"2")
    running = threading.Thread(target=pull, args=(target, first, told(source)), kwargs={"bytes_per_second": 1_000_000})
    running.start()
    _wait_for(arrived(target, first).with_suffix(".part"))

    assert pull(target, second, told(source)).status_code == 503
    running.join()
    assert pull(target, second, told(source)).json()["receipt"]["sha256"] == second.sha256


def test_killed_in_the_middle_the_next_pull_goes_on_where_it_ended(target: AgentProcess, source: AgentProcess) -> None:
    artifact = source.place(DATA)
    part = arrived(target, artifact).with_suffix(".part")

    def broken() -> None:
        with pytest.raises(requests.RequestException):
            pull(target, artifact, told(source), bytes_per_second=500_000)

    pulling = threading.Thread(target=broken)
    pulling.start()
    _wait_for(part, 200_000)
    target.kill()
    pulling.join()
    there = part.stat().st_size
    assert 0 < there < len(DATA)
    target.start()

    found = pull(target, artifact, told(source)).json()

    assert found["bytes_moved"] == len(DATA) - there
    assert arrived(target, artifact).read_bytes() == DATA


def _wait_for(part: Path, size: int = 1) -> None:
    limit = time.monotonic() + 15
    while not (part.exists() and part.stat().st_size >= size):
        assert time.monotonic() < limit, f"{part} does not grow"
        time.sleep(0.01)
