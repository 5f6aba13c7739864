"""Pushed artifacts: resumable, acknowledged when durable, each under its own node's name."""

from __future__ import annotations

import concurrent.futures
import hashlib
import random
import socket
import sqlite3

import pytest

from tests.agent.agents import AgentProcess, wait_until
from tests.agent.conftest import StartAgent


def artifact(size: int, seed: int = 0) -> tuple[bytes, str]:
    data = random.Random(f"{size} {seed}").randbytes(size)
    return data, hashlib.sha256(data).hexdigest()


def path_of(sha: str, node: str = "node-a") -> str:
    return f"/v1/incoming/{node}/{sha}"


def span(first: int, last: int, total: int) -> dict[str, str]:
    return {"Content-Range": f"bytes {first}-{last}/{total}"}


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_a_whole_artifact_is_on_the_disk_and_has_its_receipt_when_201_arrives(agent: AgentProcess, size: int) -> None:
    data, sha = artifact(size)
    answer = agent.request("PUT", path_of(sha), data=data)
    assert answer.status_code == 201, answer.text
    receipt = answer.json()["receipt"]
    assert (receipt["sha256"], receipt["node"], receipt["size_bytes"]) == (sha, "node-a", size)
    assert (agent.scratch / "incoming" / "node-a" / sha).read_bytes() == data
    with sqlite3.connect(f"file:{agent.scratch}/agent.db?mode=ro", uri=True) as database:
        rows = database.execute("SELECT node, path FROM receipts WHERE sha256 = ?", (sha,)).fetchall()
    database.close()
    assert rows == [("node-a", f"node-a/{sha}")]
    assert agent.request("GET", path_of(sha)).json() == {"received": size, "complete": True, "receipt": receipt}
    again = agent.request("PUT", path_of(sha), data=data)
    assert (again.status_code, again.json()["receipt"]) == (201, receipt)


@pytest.mark.parametrize("is_ephemeral", [False, True])
def test_a_receipt_says_whether_its_node_stays(start_agent: StartAgent, *, is_ephemeral: bool) -> None:
    data, sha = artifact(1000, 9)
    running = start_agent(more={"is_ephemeral": str(is_ephemeral)})
    pushed = running.request("PUT", path_of(sha), data=data)

    assert pushed.json()["receipt"]["durable"] is not is_ephemeral
    assert running.request("GET", path_of(sha)).json()["receipt"]["durable"] is not is_ephemeral
    [listed] = running.request("GET", "/v1/receipts").json()["receipts"]
    assert listed["durable"] is not is_ephemeral


def test_parts_go_on_where_the_last_one_ended_and_nowhere_else(agent: AgentProcess) -> None:
    data, sha = artifact(3_000_000)
    first = agent.request("PUT", path_of(sha), data=data[:1_000_000], headers=span(0, 999_999, 3_000_000))
    assert (first.status_code, first.json()["received"]) == (202, 1_000_000)
    assert agent.request("GET", path_of(sha)).json() == {"received": 1_000_000, "complete": False}
    for start in (0, 500_000, 1_500_000):
        wrong = agent.request("PUT", path_of(sha), data=data[start:], headers=span(start, 2_999_999, 3_000_000))
        assert (wrong.status_code, wrong.json()["received"]) == (409, 1_000_000)
    last = agent.request("PUT", path_of(sha), data=data[1_000_000:], headers=span(1_000_000, 2_999_999, 3_000_000))
    assert last.status_code == 201
    assert (agent.scratch / "incoming" / "node-a" / sha).read_bytes() == data


def test_wrong_bytes_are_removed_and_get_no_receipt(agent: AgentProcess) -> None:
    data, sha = artifact(100_000)
    answer = agent.request("PUT", path_of(sha), data=bytes(100_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "checksum")
    assert list((agent.scratch / "incoming" / "node-a").glob(f"{sha}*")) == []
    assert agent.request("PUT", path_of(sha), data=data).status_code == 201


def test_a_part_that_rotted_is_found_out_at_the_end(agent: AgentProcess) -> None:
    data, sha = artifact(200_000)
    agent.request("PUT", path_of(sha), data=data[:100_000], headers=span(0, 99_999, 200_000))
    (agent.scratch / "incoming" / "node-a" / f"{sha}.part").write_bytes(bytes(100_000))
    answer = agent.request("PUT", path_of(sha), data=data[100_000:], headers=span(100_000, 199_999, 200_000))
    assert answer.status_code == 422
    assert agent.request("GET", path_of(sha)).json() == {"received": 0, "complete": False}


def test_what_a_vanished_sender_had_sent_is_kept(agent: AgentProcess) -> None:
    data, sha = artifact(4_000_000)
    head = (
        f"PUT {path_of(sha)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {agent.token()}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((agent.host, agent.port)) as sender:
        sender.sendall(head.encode() + data[:2_500_000])
    part = agent.scratch / "incoming" / "node-a" / f"{sha}.part"
    wait_until(lambda: part.exists() and agent.request("GET", "/v1/status").json()["receiving"] == 0)
    kept = agent.request("GET", path_of(sha)).json()["received"]
    assert 1_500_000 < kept <= 2_500_000  # but for what the connection itself had still buffered
    answer = agent.request("PUT", path_of(sha), data=data[kept:], headers=span(kept, 3_999_999, 4_000_000))
    assert answer.status_code == 201


@pytest.mark.parametrize("length", [99_999, 100_001])
def test_a_chunked_body_of_another_length_than_announced_is_refused(agent: AgentProcess, length: int) -> None:
    data, sha = artifact(100_000, length)
    body = (data + b"more")[:length]
    pieces = (body[start : start + 10_000] for start in range(0, length, 10_000))
    answer = agent.request("PUT", path_of(sha), data=pieces, headers=span(0, 99_999, 100_000))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "short" if length < 100_000 else "long")
    assert not (agent.scratch / "incoming" / "node-a" / sha).exists()


def test_one_artifact_has_one_writer_at_a_time(agent: AgentProcess) -> None:
    data, sha = artifact(1_000_000, 5)
    head = (
        f"PUT {path_of(sha)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {agent.token()}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((agent.host, agent.port)) as first:
        first.sendall(head.encode())
        wait_until(lambda: agent.request("GET", "/v1/status").json()["receiving"] == 1)
        assert agent.request("PUT", path_of(sha), data=data).json()["error"]["code"] == "writing"
        first.sendall(data)
        assert first.recv(100).startswith(b"HTTP/1.1 201")


def test_a_node_may_push_under_its_own_name_only(agent: AgentProcess) -> None:
    data, sha = artifact(10, 7)
    own, relay = agent.token("node", sub="node-x"), agent.token("relay", sub="node-y")
    assert agent.request("PUT", path_of(sha, "node-z"), data=data, token=own).status_code == 403
    assert agent.request("GET", path_of(sha, "node-z"), token=own).status_code == 403
    assert agent.request("PUT", path_of(sha, "node-x"), data=data, token=own).status_code == 201
    data, sha = artifact(10, 8)
    assert agent.request("PUT", path_of(sha, "node-z"), data=data, token=relay).status_code == 201


@pytest.mark.parametrize("node", ["..", "%2e%2e", ".hidden", "a%2Fb", "a|b", "a%00b", "x" * 200])
def test_a_name_that_cannot_be_a_node_is_refused(agent: AgentProcess, node: str) -> None:
    assert agent.request("PUT", path_of("0" * 64, node), data=b"").status_code in {400, 404}


def test_a_link_in_the_incoming_directory_leads_nowhere(
    agent: AgentProcess, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    incoming = agent.scratch / "incoming"
    (incoming / "node-l").mkdir(parents=True)
    data, sha = artifact(10, 9)
    (incoming / "node-m").symlink_to(outside)
    assert agent.request("PUT", path_of(sha, "node-m"), data=data).status_code == 400
    (incoming / "node-l" / f"{sha}.part").symlink_to(outside / "victim")
    assert agent.request("PUT", path_of(sha, "node-l"), data=data).status_code >= 400
    assert list(outside.iterdir()) == []


def test_an_encoded_body_is_refused_instead_of_inflated(agent: AgentProcess) -> None:
    answer = agent.request("PUT", path_of("1" * 64), data=b"x", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def test_what_would_not_fit_is_refused_before_and_at_the_push(agent: AgentProcess) -> None:
    size = 1 << 50
    assert agent.request("GET", f"{path_of('2' * 64)}?size={1 << 35}").status_code == 200
    assert agent.request("GET", f"{path_of('2' * 64)}?size={size}").status_code == 413
    answer = agent.request("PUT", path_of("2" * 64), data=b"x", headers=span(0, 0, size))
    assert answer.status_code == 413


def test_a_full_disk_is_507_and_says_so(start_agent: StartAgent) -> None:
    full = start_agent(limits={"free_bytes": 1 << 60})
    for answer in (
        full.request("GET", f"{path_of('2' * 64)}?size=10"),
        full.request("PUT", path_of("2" * 64), data=b"x" * 10),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "no_space")


def test_receipts_are_listed_by_their_number(agent: AgentProcess) -> None:
    before = agent.request("GET", "/v1/receipts").json()["receipts"]
    last = before[-1]["id"] if before else 0
    made = [artifact(5, seed) for seed in range(100, 103)]
    for data, sha in made:
        agent.request("PUT", path_of(sha), data=data)
    fresh = agent.request("GET", f"/v1/receipts?since={last}").json()["receipts"]
    assert [receipt["sha256"] for receipt in fresh] == [sha for _, sha in made]
    assert agent.request("GET", "/v1/receipts?since=x").status_code == 400


def test_a_file_whose_receipt_was_lost_is_verified_and_acknowledged(agent: AgentProcess) -> None:
    data, sha = artifact(50_000, 77)
    folder = agent.scratch / "incoming" / "node-a"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / sha).write_bytes(data)
    answer = agent.request("PUT", path_of(sha), data=b"", headers={"Content-Range": "bytes */50000"})
    assert (answer.status_code, answer.json()["receipt"]["size_bytes"]) == (201, 50_000)


def test_many_pushes_at_once_all_arrive(agent: AgentProcess) -> None:
    made = [artifact(300_000, seed) for seed in range(200, 212)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda one: agent.request("PUT", path_of(one[1]), data=one[0]).status_code, made))
    assert answers == [201] * len(made)
