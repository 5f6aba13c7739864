"""Revoking and renewing as an operator does it: with the verbs, and with the coordinator's agent as it really runs."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from ringrift_sync_dagster.settings.identity import issue_token, load_coordinator_key, verify_token
from tests.agent.agents import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "ringrift_sync_dagster.cli"]
HOSTS = """
hosts:
  hub-1: {ssh_host: 127.0.0.1, ringrift_path: /srv/x, role: coordinator}
  vast-1: {ssh_host: 127.0.0.2, ringrift_path: /srv/x}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    (tmp_path / "ai-service").mkdir()
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RINGRIFT_")}
    return clean | {
        "PYTHONPATH": str(CHECKOUT),
        "RINGRIFT_SYNC_HOME": str(folder / "home"),
        "RINGRIFT_SYNC_HOSTS": str(folder / "hosts.yaml"),
        "RINGRIFT_SYNC_ROOT": str(folder / "ai-service"),
    }


def token(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [*CLI, "token", *arguments]
    return subprocess.run(
        command, env=environment(folder), cwd=folder, check=False, capture_output=True, text=True, timeout=60
    )  # fmt: skip


@contextlib.contextmanager
def coordinator_agent(folder: Path) -> Iterator[str]:
    command = [*CLI, "agent", "--node", "hub-1", "--port", "0"]
    with subprocess.Popen(command, env=environment(folder), cwd=folder, stderr=subprocess.PIPE, text=True) as agent:
        try:
            assert agent.stderr is not None
            lines = iter(agent.stderr.readline, "")
            url = next(found[1] for line in lines if (found := re.search(r"agent is up.*url=(\S+)", line)))
            yield url
        finally:
            agent.terminate()
            agent.communicate(timeout=30)


def ask(url: str, token: str) -> tuple[int, str]:
    """Give the status of an answer, and the token that it brings."""
    request = Request(f"{url}/v1/status", headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - our own agent
    try:
        with urlopen(request, timeout=10) as answer:  # noqa: S310 - our own agent on loopback
            return answer.status, answer.headers.get("X-RingRift-Token", "")
    except HTTPError as error:
        with error:
            return error.code, error.headers.get("X-RingRift-Token", "")


def test_the_coordinators_agent_renews_refuses_a_revoked_id_and_takes_it_back(folder: Path) -> None:
    assert token(folder, "vast-1").returncode == 0
    key = load_coordinator_key(folder / "home" / "keys")
    old = issue_token(key, "vast-1", ["node"], time.time() - 21 * 24 * 3600)
    fresh = (folder / "home" / "tokens" / "vast-1.jwt").read_text().strip()
    with coordinator_agent(folder) as url:
        assert ask(url, fresh) == (200, "")
        status, renewed = ask(url, old)
        assert status == 200
        assert verify_token(key.public_pem, renewed, time.time()).scopes == {"node"}

        revoked = token(folder, "vast-1", "--revoke")
        assert revoked.stdout.startswith("vast-1 is now revoked: "), revoked.stderr
        wait_until(lambda: ask(url, fresh) == (403, ""))
        assert ask(url, renewed) == (403, "")

        assert token(folder, "vast-1", "--reinstate").stdout.startswith("vast-1 is now not revoked: ")
        wait_until(lambda: ask(url, fresh) == (200, ""))


@pytest.mark.cluster
def test_a_revoked_node_gets_no_new_token_until_it_is_reinstated(folder: Path) -> None:
    first = json.loads(token(folder, "vast-1", "--revoke", "--json").stdout)
    again = json.loads(token(folder, "vast-1", "--revoke", "--json").stdout)
    assert (first["revoked"], first["changed"], again["changed"], first["known"]) == (True, True, False, True)
    assert Path(first["file"]) == folder / "home" / "keys" / "revoked"

    refused = token(folder, "vast-1")
    assert refused.returncode == 2
    assert "--reinstate" in refused.stderr

    assert token(folder, "vast-1", "--reinstate").returncode == 0
    assert token(folder, "vast-1").returncode == 0


def test_a_node_that_left_the_inventory_can_be_revoked_with_a_word_about_the_name(folder: Path) -> None:
    done = token(folder, "gone-7", "--revoke")
    assert done.returncode == 0
    assert "the inventory does not know gone-7" in done.stderr
    assert (folder / "home" / "keys" / "revoked").read_text() == "gone-7\n"


@pytest.mark.parametrize(
    "arguments", [("hub-1", "--revoke"), ("vast-1", "--revoke", "--scope", "node"), ("#", "--revoke")]
)
def test_what_makes_no_sense_is_refused_and_writes_nothing(folder: Path, arguments: tuple[str, ...]) -> None:
    assert token(folder, *arguments).returncode == 2
    assert not (folder / "home" / "keys").exists()
