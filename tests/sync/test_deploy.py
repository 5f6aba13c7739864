"""One node from nothing to removal: a real sshd, a real virtual environment, pip, the agent and its supervisor."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.identity import issue_token, load_coordinator_key, verify_token
from ringrift_sync_dagster.sync.deploy import Deployed
from tests.agent.agents import addresses, alive, wait_until
from tests.sync.deploying import (
    BROKEN_AGENT,
    Target,
    changed_wheel,
    give_pip_settings,
    target,
    watched_command_lines,
    write_wheel,
)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("deploy")
    with target(folder, next(addresses()), write_wheel(folder)) as made:
        give_pip_settings(made.sshd.home)
        yield made


@dataclass(frozen=True)
class FirstDeploy:
    """What was done, the token that was brought, and every command line that was seen meanwhile on this machine."""

    done: Deployed
    token: str
    command_lines: set[bytes]


@pytest.fixture(scope="module")
def first_deploy(node: Target) -> FirstDeploy:
    with watched_command_lines() as seen:
        done = node.deploy()
    return FirstDeploy(done, (node.directory / "keys" / "token.jwt").read_text().strip(), seen)


@pytest.fixture(scope="module")
def first(first_deploy: FirstDeploy) -> Deployed:
    return first_deploy.done


def test_a_first_deploy_installs_the_agent_starts_it_and_sees_it_answer(node: Target, first: Deployed) -> None:
    assert (first.failure, first.result, first.kept_by) == ("", "installed", "supervisor")
    assert first.agent == f"agent at http://{node.sshd.address}:{node.agent_port}"
    assert node.answers()
    assert not (node.directory / "pending").exists()


def test_a_node_gets_its_own_token_and_the_public_key_and_nobody_else_may_read_them(
    node: Target, first: Deployed
) -> None:
    key = load_coordinator_key(node.home / "keys")
    token = (node.directory / "keys" / "token.jwt").read_text().strip()
    claims = verify_token(key.public_pem, token, time.time())

    assert (claims.sub, claims.scopes) == ("node-a", frozenset({"node"}))
    assert (node.directory / "keys" / "coordinator.pub").read_bytes() == key.public_pem
    assert (node.directory / "keys" / "token.jwt").stat().st_mode & 0o777 == 0o600
    assert node.directory.stat().st_mode & 0o777 == 0o700
    assert (node.directory / "keys").stat().st_mode & 0o777 == 0o700


def test_no_secret_is_in_an_argument_while_the_agent_is_installed(first_deploy: FirstDeploy) -> None:
    everything = b"\n".join(first_deploy.command_lines)

    for word in (b"runpy.run_path", b"\0install\0", b"\0supervise\0"):
        assert word in everything, "the order on its way, pip and the supervisor were all seen"
    assert first_deploy.token.encode() not in everything


def test_no_secret_is_in_a_log_or_what_a_person_sees(node: Target, first_deploy: FirstDeploy) -> None:
    path = node.directory / "keys" / "token.jwt"
    path.unlink()
    shown = node.cli("node-a", "--wheel", str(node.wheel), "-vv")
    tokens = first_deploy.token, path.read_text().strip()

    assert "changed" in shown.stdout, "a token was brought"
    logs = node.sshd.log, (node.directory / "agent.log").read_text()
    for text in (shown.stdout, shown.stderr, *logs, repr(first_deploy.done)):
        assert not any(token in text for token in tokens)


def test_a_second_deploy_writes_nothing_and_restarts_nothing(node: Target, first: Deployed) -> None:
    before, pids = node.written(), (node.pid(), node.pid("supervisor"))

    again = node.deploy()

    assert (again.failure, again.result, again.release) == ("", "unchanged", first.release)
    assert node.written() == before
    assert (node.pid(), node.pid("supervisor")) == pids


def test_a_killed_agent_is_back_within_seconds(node: Target, first: Deployed) -> None:
    old = node.pid()
    os.kill(old, signal.SIGKILL)

    wait_until(lambda: node.pid() not in {0, old} and node.answers(), 15)
    assert "ended with status -9" in (node.directory / "agent.log").read_text()


@pytest.mark.parametrize("is_damaged", [False, True])
def test_an_agent_whose_supervisor_was_killed_serves_on_and_the_next_deploy_repairs_it(
    node: Target, first: Deployed, *, is_damaged: bool
) -> None:
    supervisor, agent = node.pid("supervisor"), node.pid()
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: node.pid("supervisor") == 0)
    assert node.answers()
    if is_damaged:
        (node.directory / "agent.pid").write_text("damaged")

    assert node.deploy().result == "repaired"
    assert node.pid("supervisor") not in {0, supervisor}
    assert node.pid() not in {0, agent}
    assert not alive(agent)
    assert node.answers()


def test_a_token_near_its_end_is_replaced_without_a_restart(node: Target, first: Deployed) -> None:
    key, pid = load_coordinator_key(node.home / "keys"), node.pid()
    path = node.directory / "keys" / "token.jwt"
    path.write_text(issue_token(key, "node-a", ["node"], time.time() - 21 * 24 * 3600))

    assert node.deploy().result == "changed"
    assert not verify_token(key.public_pem, path.read_text().strip(), time.time()).renewal_due(time.time())
    assert node.pid() == pid
    assert node.deploy().result == "unchanged"


def test_a_release_that_does_not_answer_is_taken_back(node: Target, first: Deployed, tmp_path: Path) -> None:
    changes = {"agent/__main__.py": BROKEN_AGENT}
    wheel = changed_wheel(node.wheel, tmp_path, changes)
    broken = node.place_release(node.directory / "current" / "venv", wheel, changes)

    done = node.deploy(wheel=wheel)

    assert done.result == "failed"
    assert f"{broken} was started and did not answer" in done.failure
    assert f"{first.release} runs again as before" in done.failure
    assert "this agent is broken" in done.failure
    assert node.answers()
    assert not (node.directory / "releases" / broken).exists()
    assert node.deploy().result == "unchanged"


def test_removing_takes_away_what_was_put_there_and_nothing_else(node: Target, first: Deployed) -> None:
    kept = node.scratch / "incoming" / "node-b" / ("0" * 64)
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"a pack that another node pushed")
    (node.directory / "agent.pid").write_text("damaged")
    assert node.processes("supervise")

    done = node.remove()

    assert (done.failure, done.result) == ("", "removed")
    assert any("stay in data/.ringrift-sync" in note for note in done.notes)
    assert not node.directory.exists()
    assert not node.answers()
    assert node.processes() == []
    assert kept.exists()
    assert (node.scratch / "agent.db").exists()
    assert node.remove().result == "absent"
