"""Artifacts by range: what HTTP clients of every kind get, and what nobody gets."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.settings.identity import make_tls_certificate
from tests.agent.agents import AgentProcess, wait_until

DATA = random.Random(1).randbytes(3 << 20)
MIB = 1 << 20


@pytest.fixture(scope="module", params=["plain", "tls"])
def serving(
    agent: AgentProcess, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentProcess]:
    """An agent of each kind: sendfile, and chunked writes under TLS."""
    if request.param == "plain":
        yield agent
        return
    folder = tmp_path_factory.mktemp("tls")
    made = make_tls_certificate(folder, "node-t", [agent.host], time.time())
    tls = (made.certificate, made.key)
    with AgentProcess("node-t", folder / "root", agent.host, agent.key, tls, made.fingerprint) as secure:
        yield secure


@pytest.fixture
def placed(serving: AgentProcess) -> Artifact:
    return serving.place(DATA)


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def connect(agent: AgentProcess) -> http.client.HTTPConnection:
    if agent.tls:
        return http.client.HTTPSConnection(agent.host, agent.port, timeout=10, context=unverified())
    return http.client.HTTPConnection(agent.host, agent.port, timeout=10)


def ask(
    connection: http.client.HTTPConnection, agent: AgentProcess, sha: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, f"/v1/artifacts/{sha}", headers={"Authorization": f"Bearer {agent.token()}", **sent})
    response = connection.getresponse()
    return response, response.read()


def test_one_connection_serves_whole_files_ranges_heads_and_refusals_in_turn(
    serving: AgentProcess, placed: Artifact
) -> None:
    tag = f'"{placed.sha256}"'
    connection = connect(serving)
    for _ in range(2):
        response, body = ask(connection, serving, placed.sha256)
        assert (response.status, body == DATA, response.headers["ETag"]) == (200, True, tag)
        assert response.headers["Accept-Ranges"] == "bytes"
        response, body = ask(connection, serving, placed.sha256, Range="bytes=100-")
        assert (response.status, body == DATA[100:]) == (206, True)
        assert response.headers["Content-Range"] == f"bytes 100-{len(DATA) - 1}/{len(DATA)}"
        response, body = ask(connection, serving, placed.sha256, "HEAD", Range="bytes=5-")
        assert (response.status, body, response.headers["Content-Length"]) == (200, b"", str(len(DATA)))
        response, body = ask(connection, serving, placed.sha256, Range="bytes=-100", If_Range=tag)
        assert (response.status, body) == (206, DATA[-100:])
        response, body = ask(connection, serving, placed.sha256, Range="bytes=-100", If_Range='"another"')
        assert (response.status, body == DATA) == (200, True)
        response, body = ask(connection, serving, placed.sha256, Range="bytes=0-1,5-6")
        assert (response.status, body == DATA) == (200, True)
        response, body = ask(connection, serving, placed.sha256, Range=f"bytes={len(DATA)}-")
        assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{len(DATA)}")
        response, body = ask(connection, serving, placed.sha256, If_None_Match=tag)
        assert (response.status, body) == (304, b"")
        response, body = ask(connection, serving, placed.sha256, If_Match='"another"')
        assert (response.status, body) == (412, b"")
        response, body = ask(connection, serving, "0" * 64)
        assert (response.status, b'"code":"missing"' in body) == (404, True)
    connection.close()


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 4 * MIB + 1])
def test_any_length_arrives_whole(serving: AgentProcess, size: int) -> None:
    data = random.Random(size).randbytes(size)
    placed = serving.place(data)
    connection = connect(serving)
    response, body = ask(connection, serving, placed.sha256)
    assert (response.status, body == data, response.headers["Content-Length"]) == (200, True, str(size))
    connection.close()


def test_curl_takes_ranges_and_resumes(serving: AgentProcess, placed: Artifact, tmp_path: Path) -> None:
    url = f"{serving.url}/v1/artifacts/{placed.sha256}"
    curl = ["curl", "-sfk", "-H", f"Authorization: Bearer {serving.token()}"]
    for given, expected in (("0-99", DATA[:100]), ("-100", DATA[-100:]), ("100-", DATA[100:])):
        assert subprocess.run([*curl, "-r", given, url], capture_output=True, check=True).stdout == expected
    target = tmp_path / "resumed"
    target.write_bytes(DATA[: MIB + 7])
    subprocess.run([*curl, "-C", "-", "-o", str(target), url], check=True)
    assert target.read_bytes() == DATA
    subprocess.run([*curl[:1], "-sk", *curl[2:], "-C", "-", "-o", str(target), url], check=False)  # all is there: 416
    assert target.read_bytes() == DATA


def test_aria2c_takes_an_artifact_in_parallel_ranges(agent: AgentProcess, tmp_path: Path) -> None:
    data = random.Random(9).randbytes(8 << 20)
    placed = agent.place(data)
    header = f"--header=Authorization: Bearer {agent.token()}"
    url = f"{agent.url}/v1/artifacts/{placed.sha256}"
    subprocess.run(
        [
            "aria2c",
            "-q",
            "-x4",
            "-s4",
            "-k1M",
            header,
            f"--checksum=sha-256={placed.sha256}",
            "-d",
            str(tmp_path),
            "-o",
            "got",
            url,
        ],
        check=True,
    )
    assert (tmp_path / "got").read_bytes() == data


def test_the_block_list_names_each_block_of_4_mib(agent: AgentProcess) -> None:
    data = random.Random(2).randbytes((8 << 20) + 5)
    placed = agent.place(data)
    for _ in range(2):
        answer = agent.request("GET", f"/v1/artifacts/{placed.sha256}/blocks").json()
        blocks = [data[start : start + (4 << 20)] for start in range(0, len(data), 4 << 20)]
        assert answer == {"block_bytes": 4 << 20, "blocks": [hashlib.sha256(block).hexdigest() for block in blocks]}


def test_a_registered_file_is_served_until_it_changes(agent: AgentProcess) -> None:
    path = agent.root / "data" / "training" / "hex8_2p.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    sha = hashlib.sha256(DATA).hexdigest()[::-1]  # a name that no pack has
    agent.register("data/training/hex8_2p.npz", sha)
    assert agent.request("GET", f"/v1/artifacts/{sha}").content == DATA
    os.utime(path, ns=(1, 1))
    answer = agent.request("GET", f"/v1/artifacts/{sha}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "changed")
    agent.register("data/training/hex8_2p.npz", sha)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(DATA)
    fresh.rename(path)
    assert agent.request("GET", f"/v1/artifacts/{sha}").status_code == 409
    path.unlink()
    assert agent.request("GET", f"/v1/artifacts/{sha}").status_code == 404


def test_the_kits_hash_registers_a_file_for_serving(agent: AgentProcess) -> None:
    path = agent.root / "data" / "training" / "square8_2p.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DATA[:-1])
    answer = agent.request("POST", "/v1/call/hash", json={"path": "data/training/square8_2p.npz"}).json()
    assert answer["result"]["artifact"] == hashlib.sha256(DATA[:-1]).hexdigest()
    assert agent.request("GET", f"/v1/artifacts/{answer['result']['artifact']}").content == DATA[:-1]


def link_outside(agent: AgentProcess, tmp_path: Path) -> str:
    (tmp_path / "secret.npz").write_bytes(DATA)
    (agent.root / "data" / "link").unlink(missing_ok=True)
    (agent.root / "data" / "link").symlink_to(tmp_path)
    return "data/link/secret.npz"


def dots(agent: AgentProcess, tmp_path: Path) -> str:
    (agent.root.parent / "secret.npz").write_bytes(DATA)
    return "../secret.npz"


def database(agent: AgentProcess, tmp_path: Path) -> str:
    (agent.root / "games.db").write_bytes(DATA)
    return "games.db"


def fifo(agent: AgentProcess, tmp_path: Path) -> str:
    (agent.root / "pipe").unlink(missing_ok=True)
    os.mkfifo(agent.root / "pipe")
    return "pipe"


@pytest.mark.parametrize("make", [link_outside, dots, database, fifo])
def test_links_out_of_the_roots_databases_and_pipes_are_not_served(
    agent: AgentProcess, tmp_path: Path, make: Callable[[AgentProcess, Path], str]
) -> None:
    sha = hashlib.sha256(make.__name__.encode()).hexdigest()
    agent.register(make(agent, tmp_path), sha)
    assert agent.request("GET", f"/v1/artifacts/{sha}").status_code == 404


@pytest.mark.parametrize("name", ["agent.db", "..%2F..%2Fagent.db", "%2e%2e", "A" * 64, "0" * 63, "0" * 64 + ".json"])
def test_only_a_sha256_names_an_artifact(agent: AgentProcess, name: str) -> None:
    assert agent.request("GET", f"/v1/artifacts/{name}").status_code == 404


def test_a_file_that_changes_while_it_is_sent_breaks_the_connection(serving: AgentProcess) -> None:
    placed = serving.place(random.Random(3).randbytes(96 << 20))
    with socket.create_connection((serving.host, serving.port), timeout=10) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        reader = unverified().wrap_socket(plain) if serving.tls else plain
        request = f"GET /v1/artifacts/{placed.sha256} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {serving.token()}"
        reader.sendall(f"{request}\r\n\r\n".encode())
        received = len(reader.recv(65536))
        with (serving.scratch / "artifacts" / placed.sha256).open("r+b") as stream:
            stream.write(b"changed")
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            while chunk := reader.recv(1 << 20):
                received += len(chunk)
        assert received < placed.size_bytes
        reader.close()
    wait_until(lambda: serving.request("GET", "/v1/status").json()["sending"] == 0)


def test_delete_is_for_the_coordinator_and_never_deletes_a_registered_file(agent: AgentProcess) -> None:
    placed = agent.place(b"a pack")
    path = f"/v1/artifacts/{placed.sha256}"
    assert agent.request("DELETE", path, token=agent.token("node")).status_code == 403
    assert agent.request("GET", path).status_code == 200
    assert [agent.request("DELETE", path).status_code for _ in range(2)] == [204, 204]
    assert agent.request("GET", path).status_code == 404
    (agent.root / "kept.npz").write_bytes(DATA)
    agent.register("kept.npz", "1" * 64)
    assert agent.request("DELETE", f"/v1/artifacts/{'1' * 64}").status_code == 204
    assert agent.request("GET", f"/v1/artifacts/{'1' * 64}").status_code == 404
    assert (agent.root / "kept.npz").read_bytes() == DATA
