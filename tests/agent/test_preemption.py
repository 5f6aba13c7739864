"""A provider's notice: asked for as AWS does it, from a real small HTTP server; whatever that does, we go on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.agent.preemption import AWS, MARGIN_SECONDS, UNKNOWN_SECONDS, Notice, Preemption, checked_url
from ringrift_sync_dagster.cli.main import main
from ringrift_sync_dagster.state.events import newest_events
from ringrift_sync_dagster.state.store import StateStore
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.conftest import StartAgent
from tests.agent.through_parts import OWNER, SPOT, Field, arrived, status
from tests.threaded_server import ThreadedServer


class Metadata(ThreadedServer):
    """Instance metadata of a machine; ``notice`` is what it answers, None: 404."""

    notice: bytes | None = None
    token = "token-1"
    hangs = False
    floods = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines[1:] if line}
            method, path, _ = lines[0].split(" ")
            self.asked.append((method, path))
            if self.hangs:
                await asyncio.sleep(30)
            status, body = self._answer(method, path, headers)
            length = 10**9 if self.floods else len(body)
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n".encode() + body)
            while self.floods:
                writer.write(b"x" * 100_000)
                await writer.drain()
            await writer.drain()

    def _answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        if (method, path) == ("PUT", "/latest/api/token"):
            return (200, self.token.encode()) if headers.get("x-aws-ec2-metadata-token-ttl-seconds") else (400, b"")
        if headers.get("x-aws-ec2-metadata-token") != self.token:
            return 401, b""
        if path != "/latest/meta-data/spot/instance-action" or self.notice is None:
            return 404, b"no"
        return 200, self.notice


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata() as running:
        yield running


@pytest.fixture
def field(start_agent: StartAgent, tmp_path: Path) -> Field:
    return Field(start_agent, tmp_path)


def at(seconds: float) -> str:
    return datetime.fromtimestamp(time.time() + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


STAYS = Notice("it was taken back", None)


def noticed(url: str, seconds: float = 1.0, steps: Any = None) -> list[Notice]:  # noqa: ANN401 - a coroutine function
    """Ask for a while; give the notices that came."""
    found: list[Notice] = []

    async def leave(notice: Notice) -> None:
        found.append(notice)

    def stayed() -> None:
        found.append(STAYS)

    async def ask() -> None:
        task = asyncio.create_task(Preemption(url, leave, stayed, poll_seconds=0.05).run())
        if steps is not None:
            await steps(found)
        else:
            await asyncio.sleep(seconds)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(ask())
    return found


def test_a_notice_is_told_once_and_another_one_again_and_a_token_that_ran_out_is_renewed(metadata: Metadata) -> None:
    async def steps(found: list[Notice]) -> None:
        await asyncio.sleep(0.3)
        assert found == []
        metadata.token = "token-2"
        metadata.notice = b'{"action": "terminate", "time": "2026-01-31T08:22:00Z"}'
        await asyncio.sleep(0.4)
        metadata.notice = b'{"action": "stop"}'
        await asyncio.sleep(0.4)

    found = noticed(metadata.url, steps=steps)

    assert found == [Notice("terminate", 1769847720.0), Notice("stop", None)]
    assert [one for one in metadata.asked if one[0] == "PUT"] == [("PUT", "/latest/api/token")] * 2


def test_a_notice_that_is_gone_was_taken_back_and_one_that_nobody_can_read_was_not(metadata: Metadata) -> None:
    terminate = b'{"action": "terminate"}'

    async def steps(found: list[Notice]) -> None:
        metadata.notice = terminate
        await asyncio.sleep(0.3)
        metadata.notice = b"<html>"  # no notice, and not the word that there is none
        await asyncio.sleep(0.4)
        assert found == [Notice("terminate", None)]
        metadata.notice = None
        await asyncio.sleep(0.5)
        assert found[1:] == [STAYS]
        metadata.notice = terminate
        await asyncio.sleep(0.3)

    assert noticed(metadata.url, steps=steps) == [Notice("terminate", None), STAYS, Notice("terminate", None)]


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"action": 7}', b"<html>", b"[" * 100_00])
def test_an_answer_that_makes_no_sense_is_no_notice(metadata: Metadata, answer: bytes) -> None:
    metadata.notice = answer
    assert noticed(metadata.url, 0.2) == []


def test_an_endpoint_that_floods_hangs_or_is_dead_costs_nothing_but_the_notice(
    metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # a proxy is never asked
    metadata.floods = True
    assert noticed(metadata.url, 0.3) == []
    metadata.floods, metadata.hangs = False, True
    assert noticed(metadata.url, 0.3) == []
    assert noticed("http://127.0.0.1:1", 0.3) == []
    metadata.hangs, metadata.notice = False, b'{"action": "terminate"}'
    assert noticed(metadata.url, 0.4) == [Notice("terminate", None)]


def test_a_drain_ends_a_margin_before_the_machine_does() -> None:
    assert Notice("terminate", 1000.0).seconds(900.0) == 100.0 - MARGIN_SECONDS
    assert Notice("terminate", None).seconds(900.0) == UNKNOWN_SECONDS - MARGIN_SECONDS
    assert Notice("terminate", 1000.0).seconds(2000.0) == 1.0
    assert Notice("terminate", 1e15).seconds(0.0) == 600.0


def test_the_address_is_aws_or_a_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (checked_url("aws"), checked_url("http://10.0.0.1:80/")) == (AWS, "http://10.0.0.1:80")
    for wrong in ("", "gcp", "ftp://x", "http://", "http://x/path", "http://u:p@x", "http://x:99999"):
        with pytest.raises(ValueError, match="no address of instance metadata; use aws"):
            checked_url(wrong)
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(f"hosts:\n  hub-1: {{ssh_host: 127.0.0.1, ringrift_path: {tmp_path}, role: coordinator}}\n")
    places = ["--root", str(tmp_path), "--home", str(tmp_path), "--hosts", str(hosts)]
    assert main(["agent", "--node", "hub-1", "--preemption-notice", "aws", *places]) == 2
    assert "needs write-through" in capsys.readouterr().err


def owner_with_events(field: Field) -> tuple[AgentProcess, StateStore]:
    url = f"sqlite:///{field.folder}/state.db"
    store = StateStore.open(url)
    owner = field.start(node=OWNER, root=field.folder / OWNER, trusted=("127.0.0.0/8",), state_url=url)
    return owner, store


def told_offline(store: StateStore) -> list[tuple[str, str, Any]]:
    events = newest_events(store, ["HOST_OFFLINE"])
    return [(one.payload["node"], one.payload["reason"], one.payload["details"].get("cause")) for one in events]


@pytest.mark.cluster
def test_a_notice_drains_the_node_in_time_and_everybody_is_told(field: Field, metadata: Metadata) -> None:
    owner, store = owner_with_events(field)
    owner.stop()
    spot = field.spot(owner, preemption_url=metadata.url)
    field.play("g1")
    wait_until(lambda: status(spot)["games"] == 1)
    owner.start()
    metadata.notice = json.dumps({"action": "terminate", "time": at(60)}).encode()

    wait_until(lambda: status(spot)["draining"], 20)
    wait_until(lambda: arrived(owner) == ["g1"], 20)
    wait_until(lambda: bool(told_offline(store)), 20)
    (told,) = newest_events(store, ["HOST_OFFLINE"])
    assert (told.payload["node"], told.payload["publisher"]) == (SPOT, SPOT)
    assert told.payload["reason"].startswith("ephemeral_termination:pending_games=")
    assert told.payload["details"]["action"] == "terminate"
    assert "this machine is taken back action=terminate" in spot.log.read_text()
    spot.stop()
    assert len(told_offline(store)) == 1  # once is enough
    store.close()


@pytest.mark.cluster
def test_after_a_false_notice_the_next_end_is_told_again(field: Field, metadata: Metadata) -> None:
    owner, store = owner_with_events(field)
    metadata.notice = b'{"action": "terminate"}'
    spot = field.spot(owner, preemption_url=metadata.url, drain_seconds=2.0)
    wait_until(lambda: len(told_offline(store)) == 1)

    assert spot.request("POST", "/v1/drain", json={"resume": True}).json()["was_draining"] is True
    spot.stop()

    assert [cause for _, _, cause in told_offline(store)] == ["the provider's notice", "its agent ends"]
    store.close()


@pytest.mark.cluster
@pytest.mark.parametrize("is_wanted, is_draining", [(False, False), (True, True)])
def test_when_a_notice_is_taken_back_the_node_takes_bulk_again_unless_somebody_else_drains_it(
    field: Field, metadata: Metadata, *, is_wanted: bool, is_draining: bool
) -> None:
    owner, store = owner_with_events(field)
    metadata.notice = b'{"action": "terminate"}'
    spot = field.spot(owner, preemption_url=metadata.url, drain_seconds=2.0)
    wait_until(lambda: bool(status(spot)["draining"]))
    if is_wanted:
        assert spot.request("POST", "/v1/drain", json={"seconds": 1}).json()["again"] is True

    metadata.notice = None
    wait_until(lambda: "the notice was taken back" in spot.log.read_text(), 30)

    assert status(spot)["draining"] is is_draining
    spot.stop()
    assert [cause for _, _, cause in told_offline(store)] == ["the provider's notice", "its agent ends"]
    store.close()


@pytest.mark.cluster
def test_sigterm_says_with_how_many_games_the_node_goes(field: Field) -> None:
    owner, store = owner_with_events(field)
    spot = field.spot(owner, watch_seconds=30.0, drain_seconds=2.0)
    wait_until((spot.scratch / "through").exists)
    field.play("g1", "g2")
    # Packs are refused from now on, events are not.
    incoming = owner.scratch / "incoming" / SPOT
    incoming.parent.mkdir(parents=True, exist_ok=True)
    incoming.write_text("in the way of packs")

    spot.stop()

    assert told_offline(store) == [(SPOT, "ephemeral_termination:pending_games=2", "its agent ends")]
    assert "not saved games=2" in spot.log.read_text()
    store.close()
