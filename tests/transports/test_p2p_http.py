"""What the HTTP transport makes of servers that lie, stall or refuse, and of keys that do not fit."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import (
    AuthenticationError,
    ChecksumError,
    DeadlineExceededError,
    RemoteCallError,
    RungUnusableError,
    SourceChangedError,
    StallError,
    TransferCancelledError,
    TransferError,
    TransferUnderWayError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import CoordinatorKey, make_tls_certificate
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport
from tests.agent.agents import AgentProcess
from tests.transports.bad_server import Answer, BadServer, closed_port, raw, silent_after, trickle, trickling_head

DATA = random.Random(1).randbytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
ARTIFACT = Artifact(SHA, len(DATA), "games")
OK = f"HTTP/1.1 200 OK\nContent-Length: {len(DATA)}"

Connect = Callable[..., tuple[P2PHttpTransport, BadServer]]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Start a server with the given answers, and a transport to it."""
    with ExitStack() as stack:

        def start(*answers: Answer, stall: float = 15.0) -> tuple[P2PHttpTransport, BadServer]:
            server = stack.enter_context(BadServer(*answers))
            return stack.enter_context(transport_to(server.port, stall=stall)), server

        yield start


def transport_to(port: int, *, stall: float = 15.0, host: str = "127.0.0.1", pin: str = "") -> P2PHttpTransport:
    node = Node(name="bad", ssh_host=host, ringrift_path="", agent_port=port, tls_fingerprint=pin)
    return P2PHttpTransport(node, lambda: "token", stall_seconds=stall)


def refusal(status: int, code: str) -> Answer:
    body = f'{{"ok":false,"error":{{"code":"{code}","message":"because"}}}}'.encode()
    return raw(f"HTTP/1.1 {status} X\nContent-Length: {len(body)}", body)


@pytest.mark.parametrize(
    "answer,error",
    [
        (raw(OK, DATA[:-1]), TransientError),
        (raw(f"HTTP/1.1 200 OK\nContent-Length: {len(DATA) + 1}", DATA + b"x"), ChecksumError),
        (raw(f"HTTP/1.1 200 OK\nContent-Length: {len(DATA) - 1}", DATA[:-1]), ChecksumError),
        (raw("HTTP/1.1 200 OK\nConnection: close", DATA), ChecksumError),
        (raw(f"{OK}\nContent-Encoding: gzip", DATA), ChecksumError),
        (raw(OK, bytes(len(DATA))), ChecksumError),
        (raw(f"HTTP/1.1 206 X\nContent-Range: bytes 5-9/10\nContent-Length: {len(DATA)}", DATA), ChecksumError),
        (raw("this is no HTTP"), TransientError),
        (raw("HTTP/1.1 302 Found\nLocation: http://127.0.0.1:1/\nContent-Length: 0"), RungUnusableError),
        (raw("HTTP/1.1 404 Not Found\nContent-Length: 4", b"<p/>"), RungUnusableError),
        (refusal(401, "token"), AuthenticationError),
        (refusal(403, "scope"), AuthenticationError),
        (refusal(409, "changed"), SourceChangedError),
        (refusal(409, "writing"), TransferUnderWayError),
        (refusal(503, "busy"), TransientError),
        (refusal(500, "internal"), TransientError),
        (refusal(599, "x"), TransientError),
    ],
)
def test_an_answer_that_is_not_the_artifact_becomes_the_error_that_says_what_to_do(
    connect: Connect, tmp_path: Path, answer: Answer, error: type[TransferError]
) -> None:
    transport, _ = connect(answer)
    with pytest.raises(TransferError) as caught:
        transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20))
    assert type(caught.value) is error, caught.value
    assert caught.value.node == "bad"
    assert not (tmp_path / "got").exists()


def test_after_a_broken_connection_the_next_fetch_goes_on_and_nothing_is_tried_twice_by_itself(
    connect: Connect, tmp_path: Path
) -> None:
    half = len(DATA) // 2
    rest = (
        f"HTTP/1.1 206 X\nContent-Range: bytes {half}-{len(DATA) - 1}/{len(DATA)}\nContent-Length: {len(DATA) - half}"
    )
    transport, server = connect(raw(OK, DATA[:half]), raw(rest, DATA[half:]))
    with pytest.raises(TransientError):
        transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20))
    assert len(server.requests) == 1
    fetched = transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20))
    assert (fetched.resumed_from, fetched.bytes_moved) == (half, len(DATA) - half)
    assert fetched.transport == "p2p_http"
    assert f"Range: bytes={half}-".encode() in server.requests[1]
    assert f'If-Range: "{SHA}"'.encode() in server.requests[1]
    transport, server = connect(refusal(503, "busy"))
    with pytest.raises(TransientError):
        transport.fetch(ARTIFACT, tmp_path / "other", deadline=Deadline(20))
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [raw(OK, DATA), raw("HTTP/1.1 416 X\nContent-Length: 0")])
def test_a_server_that_does_not_continue_is_taken_from_the_start(
    connect: Connect, tmp_path: Path, answer: Answer
) -> None:
    (tmp_path / "got.part").write_bytes(DATA[:1000])
    transport, _ = connect(answer, raw(OK, DATA))
    transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20))
    assert (tmp_path / "got").read_bytes() == DATA


def test_a_silence_is_a_stall_and_what_came_before_is_kept(connect: Connect, tmp_path: Path) -> None:
    transport, server = connect(silent_after(OK, DATA[:1000], 1.5), stall=0.3)
    started = time.monotonic()
    with pytest.raises(StallError):
        transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20))
    assert time.monotonic() - started < 3
    assert (tmp_path / "got.part").stat().st_size == 1000
    assert len(server.requests) == 1


def test_a_trickle_ends_at_the_deadline(connect: Connect, tmp_path: Path) -> None:
    transport, _ = connect(trickle(OK, DATA, 0.05))
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(0.6))
    assert time.monotonic() - started < 2
    assert (tmp_path / "got.part").stat().st_size > 0


EVENT = b'{"id": 7}'
EVENT_OK = f"HTTP/1.1 200 OK\nContent-Length: {len(EVENT)}"


@pytest.mark.parametrize(
    "answer", [trickling_head(EVENT_OK, EVENT, 0.1), trickle("HTTP/1.1 200 OK\nContent-Length: 9999", b" " * 99, 0.1)]
)
def test_an_answer_that_trickles_in_holds_nobody_until_the_deadline(connect: Connect, answer: Answer) -> None:
    transport, _ = connect(answer, stall=0.5)
    started = time.monotonic()
    with pytest.raises((StallError, DeadlineExceededError)):
        transport.tell("/v1/receipts", {}, deadline=Deadline(1.5))
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("answer", [trickling_head(EVENT_OK, EVENT, 0.005), trickle(EVENT_OK, EVENT, 0.02)])
def test_an_answer_over_a_slow_link_is_taken(connect: Connect, answer: Answer) -> None:
    transport, _ = connect(answer, stall=1.0)
    assert transport.tell("/v1/receipts", {}, deadline=Deadline(20)) == {"id": 7}


def test_a_long_answer_may_take_longer_than_a_stall(connect: Connect) -> None:
    told = b'{"id": "' + b"x" * 5000 + b'"}'

    def slowly(connection: socket.socket, request: bytes) -> None:
        raw(f"HTTP/1.1 200 OK\nContent-Length: {len(told)}")(connection, request)
        for at in range(0, len(told), 500):
            connection.sendall(told[at : at + 500])
            time.sleep(0.1)

    transport, _ = connect(slowly, stall=0.4)
    assert len(transport.tell("/v1/receipts", {}, deadline=Deadline(20))["id"]) == 5000


def test_a_cancel_ends_a_silence_at_once(connect: Connect, tmp_path: Path) -> None:
    transport, _ = connect(silent_after(OK, DATA[:1000], 1.5))
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(TransferCancelledError):
        transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20), cancel=cancel)
    assert time.monotonic() - started < 1.2


def test_a_closed_port_says_nothing_about_the_machine(tmp_path: Path) -> None:
    with closed_port() as port, transport_to(port) as transport:
        with pytest.raises(UnreachableError):
            transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20))
        probe = transport.probe(Deadline(5))
        assert (probe.reachable, type(probe.cause)) == (False, UnreachableError)


def test_a_name_that_does_not_resolve_and_an_address_that_is_none_are_unusable(tmp_path: Path) -> None:
    for host in ("no-such-host.invalid", "", "a b"):
        with transport_to(8765, host=host, pin="0" * 64) as transport, pytest.raises(RungUnusableError):
            transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20))


def test_another_node_under_the_address_is_not_reachable(connect: Connect) -> None:
    body = b'{"status":"up","version":"1","node_id":"other"}'
    transport, server = connect(raw(f"HTTP/1.1 200 OK\nContent-Length: {len(body)}", body))
    probe = transport.probe(Deadline(5))
    assert (probe.reachable, "other" in probe.detail) == (False, True)
    assert b"Authorization" not in server.requests[0]


@pytest.mark.parametrize("body", [b"[]", b"{", b"null", b'{"result": 5}', b"{}"])
def test_an_answer_to_a_call_that_is_no_result_is_no_success(connect: Connect, body: bytes) -> None:
    transport, _ = connect(raw(f"HTTP/1.1 200 OK\nContent-Length: {len(body)}", body))
    with pytest.raises(TransientError):
        transport.call("scan", {}, deadline=Deadline(10))
    with pytest.raises(TransientError):
        transport.manifest(None, deadline=Deadline(10))


def test_a_full_disk_over_there_is_told_apart_from_ours(connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA)
    transport, _ = connect(refusal(507, "no_space"))
    with pytest.raises(RemoteCallError) as caught:
        transport.push(ARTIFACT, tmp_path / "source", "node-1", deadline=Deadline(10))
    assert caught.value.code == "no_space"


OTHER_RECEIPT = f'{{"receipt":{{"sha256":"{"0" * 64}","node":"n","size_bytes":1,"verified_at":0}}}}'


@pytest.mark.parametrize("receipt", ["{}", '{"receipt":{}}', OTHER_RECEIPT])
def test_an_answer_without_our_receipt_is_no_receipt(connect: Connect, tmp_path: Path, receipt: str) -> None:
    (tmp_path / "source").write_bytes(DATA)
    received = b'{"received":0,"complete":false}'
    answer = raw(f"HTTP/1.1 201 X\nContent-Length: {len(receipt)}\nConnection: close", receipt.encode())
    first = raw(f"HTTP/1.1 200 X\nContent-Length: {len(received)}\nConnection: close", received)
    transport, _ = connect(first, answer)
    with pytest.raises(TransientError, match="keep the copy"):
        transport.push(ARTIFACT, tmp_path / "source", "node-1", deadline=Deadline(10))


def test_proxies_and_netrc_of_the_environment_are_ignored(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("default login somebody password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    transport, server = connect(raw(OK, DATA))
    transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(10))
    assert b"Authorization: Bearer token" in server.requests[0]


def test_a_token_is_not_sent_in_the_clear_outside_the_trusted_networks(tmp_path: Path) -> None:
    with transport_to(8765, host="203.0.113.9") as transport, pytest.raises(AuthenticationError, match="in the clear"):
        transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20))


def test_tls_with_the_right_pin_works_and_with_another_one_nothing_is_sent(
    tmp_path: Path, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> None:
    made = make_tls_certificate(tmp_path / "tls", "node-t", ["127.0.0.1"], time.time())
    tls = (made.certificate, made.key)
    with AgentProcess(
        "node-t", tmp_path / "root", next(free_addresses), coordinator_key, tls, made.fingerprint
    ) as agent:
        artifact = agent.place(DATA)
        with P2PHttpTransport(agent.inventory_node(), agent.token) as transport:
            transport.fetch(artifact, tmp_path / "got", deadline=Deadline(20))
            (tmp_path / "cut.part").write_bytes(DATA[:7])
            assert transport.fetch(artifact, tmp_path / "cut", deadline=Deadline(20)).resumed_from == 7
            transport.push(artifact, tmp_path / "got", "node-t", deadline=Deadline(20))
            large = agent.place(random.Random(2).randbytes(32 << 20))
            with pytest.raises((TransientError, RungUnusableError)):
                transport.fetch(
                    large,
                    tmp_path / "large",
                    deadline=Deadline(20),
                    progress=lambda got: agent.kill() if got > 1 << 20 else None,
                )
            agent.start()
            assert transport.fetch(large, tmp_path / "large", deadline=Deadline(20)).resumed_from > 0
        wrong = transport_to(agent.port, host=agent.host, pin="ab" * 32)
        with wrong, pytest.raises(AuthenticationError, match="agent_tls_fingerprint"):
            wrong.fetch(artifact, tmp_path / "other", deadline=Deadline(20))


def test_a_pin_for_an_agent_that_speaks_no_tls_is_a_way_that_does_not_work(
    tmp_path: Path, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> None:
    with AgentProcess("node-p", tmp_path / "root", next(free_addresses), coordinator_key) as agent:
        transport = transport_to(agent.port, host=agent.host, pin="ab" * 32)
        with transport, pytest.raises(RungUnusableError, match="TLS"):
            transport.fetch(ARTIFACT, tmp_path / "got", deadline=Deadline(20))


def test_requests_in_a_row_share_one_connection(
    tmp_path: Path, coordinator_key: CoordinatorKey, free_addresses: Iterator[str]
) -> None:
    with AgentProcess(
        "node-k", tmp_path / "root", next(free_addresses), coordinator_key, limits={"connections": 1}
    ) as agent:
        artifacts = [agent.place(random.Random(seed).randbytes(100_000)) for seed in range(5)]
        with P2PHttpTransport(agent.inventory_node(), agent.token) as transport:
            for artifact in artifacts:
                transport.fetch(artifact, tmp_path / artifact.sha256, deadline=Deadline(20))
                transport.call("scan", {}, deadline=Deadline(20))
            assert transport.probe(Deadline(5)).reachable
