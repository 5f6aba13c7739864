"""Agents that change in place: upgrades by real pip, cut deploys, TLS, systemd; each node's venv is linked from one."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.revoked import set_revoked
from tests.agent.agents import addresses, wait_until
from tests.sshd import PROGRAMS, Sshd
from tests.sync.deploying import (
    AGENT_PORT,
    BROKEN_AGENT,
    CHECKOUT,
    Target,
    changed_wheel,
    give_pip_settings,
    target,
    write_wheel,
)
from tests.sync.small_systemd import install_small_systemd

pytestmark = pytest.mark.cluster

NewNode = Callable[[], Target]
VERSIONED_AGENT = "VERSION = 2\n"
SLOW_AGENT = """
import sys, time
if "--help" not in sys.argv:
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A node on which pip installed the agent; tests on it leave the first release running."""
    folder = tmp_path_factory.mktemp("installed")
    with target(folder, next(addresses()), write_wheel(folder)) as made:
        give_pip_settings(made.sshd.home)
        assert made.deploy().failure == ""
        yield made


@pytest.fixture
def node(installed: Target, tmp_path: Path) -> Iterator[Target]:
    """A node of its own, which has the release and no agent yet."""
    with target(tmp_path, next(addresses()), installed.wheel) as made:
        made.place_release(installed.directory / "current" / "venv", made.wheel, {})
        assert made.deploy().result == "installed"
        yield made


def test_an_upgrade_is_built_beside_the_old_release_and_takes_its_place(installed: Target, tmp_path: Path) -> None:
    old = installed.deploy()
    pid = installed.pid()
    wheel = changed_wheel(installed.wheel, tmp_path, {"node/faults.py": _source("node/faults.py") + VERSIONED_AGENT})

    done = installed.deploy(wheel=wheel)

    assert (done.failure, done.result) == ("", "upgraded")
    assert installed.pid() not in {0, pid}
    assert installed.answers()
    releases = installed.directory / "releases"
    assert {path.name for path in releases.iterdir()} == {old.release, done.release}
    assert installed.deploy(wheel=wheel).result == "unchanged"

    back = installed.deploy()
    assert (back.result, back.release) == ("upgraded", old.release)
    assert back.seconds < done.seconds / 2, "the release of before is still there"


@pytest.mark.parametrize(
    "changes,words",
    [({"agent/__main__.py": "import nothing_like_it"}, "nothing_like_it"), ({"agent/__main__.py": "raise"}, "agent")],
)
def test_a_wheel_whose_agent_does_not_even_start_never_stops_the_old_one(
    installed: Target, tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    pid, before = installed.pid(), installed.written()

    done = installed.deploy(wheel=changed_wheel(installed.wheel, tmp_path, changes))

    assert done.result == "failed"
    assert "the agent of this wheel failed on the node" in done.failure
    assert words in done.failure
    assert (installed.pid(), installed.written()) == (pid, before)


def test_requirements_that_pip_cannot_install_leave_the_old_agent_alone(installed: Target, tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "nothing-1-py3-none-any.whl").write_bytes(b"")
    pid, before = installed.pid(), installed.written()

    done = installed.deploy(wheels=tmp_path / "wheels")

    assert "pip install -r requirements-agent.txt failed on the node: " in done.failure
    assert (installed.pid(), installed.written()) == (pid, before)


def test_a_node_without_a_package_index_installs_from_the_wheels_that_are_brought(
    installed: Target, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    command = [sys.executable, "-m", "pip", "download", "-q", "-r", "requirements-agent.txt", "-d", str(wheels)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, timeout=300)
    with target(tmp_path / "node", next(addresses()), installed.wheel) as node:
        done = node.deploy(wheels=wheels)

        assert (done.failure, done.result) == ("", "installed")
        assert node.answers()
        assert node.deploy(wheels=wheels).result == "unchanged"


def test_an_agent_that_hangs_is_taken_back_when_its_time_is_over(node: Target, tmp_path: Path) -> None:
    changes = {"agent/__main__.py": SLOW_AGENT}
    wheel = changed_wheel(node.wheel, tmp_path / "wheel", changes)
    node.place_release(node.directory / "current" / "venv", wheel, changes)

    done = node.deploy(wheel=wheel, health_seconds=6.0)

    assert "did not answer (waited 6 s at most)" in done.failure
    assert node.answers()


def test_where_nothing_ran_before_a_broken_agent_is_stopped_and_a_good_one_follows(
    installed: Target, tmp_path: Path
) -> None:
    changes = {"agent/__main__.py": BROKEN_AGENT}
    venv = installed.directory / "current" / "venv"
    with target(tmp_path, next(addresses()), installed.wheel) as node:
        broken = changed_wheel(node.wheel, tmp_path / "wheel", changes)
        node.place_release(venv, broken, changes)
        done = node.deploy(wheel=broken)

        assert "it was stopped, and nothing runs" in done.failure
        assert (node.pid(), node.pid("supervisor")) == (0, 0)

        node.place_release(venv, node.wheel, {})
        assert node.deploy().result == "installed"
        assert node.answers()


def test_a_port_that_somebody_else_has_is_found_out_and_the_old_port_comes_back(node: Target) -> None:
    with socket.create_server((node.sshd.address, AGENT_PORT + 1)):
        done = node.deploy(port=AGENT_PORT + 1)

    assert "address already in use" in done.failure
    assert node.answers()
    assert node.deploy().result == "unchanged"


def test_another_port_is_taken_and_the_line_for_the_inventory_is_told(node: Target) -> None:
    done = node.deploy(port=AGENT_PORT + 1)

    assert (done.failure, done.result) == ("", "changed")
    assert node.answers(AGENT_PORT + 1)
    assert f"put this into the inventory, below node-a: agent_port: {AGENT_PORT + 1}" in done.notes


def test_a_change_that_was_cut_off_is_done_again(node: Target) -> None:
    pid = node.pid()
    (node.directory / "pending").touch()

    assert node.deploy().result == "repaired"
    assert node.pid() not in {0, pid}
    assert not (node.directory / "pending").exists()


def test_a_release_whose_python_has_gone_is_built_again(node: Target) -> None:
    give_pip_settings(node.sshd.home)
    python = node.directory / "current" / "venv" / "bin" / "python"
    python.unlink()

    assert node.deploy().failure == ""
    assert python.exists()
    assert node.answers()
    assert node.deploy().result == "unchanged"


def test_two_deploys_at_once_end_well_with_one_agent(node: Target) -> None:
    (node.directory / "pending").touch()
    with ThreadPoolExecutor(2) as pool:
        done = [future.result() for future in [pool.submit(node.deploy) for _ in range(2)]]

    assert [one.failure for one in done] == ["", ""]
    assert node.answers()
    assert node.deploy().result == "unchanged"


def test_revoked_ids_reach_the_agent_without_a_restart(node: Target) -> None:
    pid = node.pid()
    set_revoked(node.home / "keys" / "revoked", "lost-1", revoked=True)

    assert node.deploy().result == "changed"
    assert (node.directory / "keys" / "revoked").read_text() == "lost-1\n"
    assert node.pid() == pid


def test_with_tls_the_key_stays_on_the_node_and_the_pin_is_told_and_kept(node: Target) -> None:
    node.more = f"agent_tls_fingerprint: {'ab' * 32}"
    done = node.deploy()

    assert (done.failure, done.result) == ("", "changed")
    assert f"put this into the inventory, below node-a: agent_tls_fingerprint: {done.pin}" in done.notes
    assert (node.home / "pins" / "node-a").read_text() == f"{done.pin}\n"
    assert done.agent == f"agent at https://{node.sshd.address}:{AGENT_PORT}"
    key = node.directory / "keys" / "agent.key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert not any("PRIVATE" in path.read_text(errors="replace") for path in node.home.rglob("*.crt"))

    node.more = f"agent_tls_fingerprint: {done.pin}"
    again = node.deploy()
    assert (again.result, again.notes, again.pin) == ("unchanged", (), done.pin)

    assert "take agent_tls_fingerprint out of the inventory" in " ".join(node.remove().notes)
    assert not (node.home / "pins" / "node-a").exists()


@pytest.fixture
def with_systemd(installed: Target, tmp_path: Path) -> Iterator[Target]:
    address = next(addresses())
    sshd = Sshd(tmp_path / "sshd", address, programs=(*PROGRAMS, "mktemp"))
    install_small_systemd(tmp_path / "sshd" / "bin")
    with target(tmp_path, address, installed.wheel, sshd) as made:
        made.place_release(installed.directory / "current" / "venv", made.wheel, {})
        yield made
        made.remove()


def test_where_user_units_work_the_agent_is_one(with_systemd: Target) -> None:
    node = with_systemd
    unit = node.sshd.home / ".config" / "systemd" / "user" / "ringrift-agent-node-a.service"
    done = node.deploy()

    assert (done.failure, done.result, done.kept_by, done.notes) == ("", "installed", "systemd", ())
    assert "Restart=always" in unit.read_text()
    assert node.answers()
    assert node.pid("supervisor") == 0
    assert node.deploy().result == "unchanged"

    changed = node.deploy(systemd=False)
    assert (changed.result, changed.kept_by) == ("changed", "supervisor")
    assert not unit.exists()
    assert node.answers()

    assert node.deploy().kept_by == "systemd"
    assert node.pid("supervisor") == 0
    assert node.answers()

    assert node.remove().result == "removed"
    assert not unit.exists()
    wait_until(lambda: not node.answers())


def test_a_unit_that_does_not_answer_is_taken_back_too(with_systemd: Target, tmp_path: Path) -> None:
    node = with_systemd
    good = node.deploy()
    changes = {"agent/__main__.py": SLOW_AGENT}
    wheel = changed_wheel(node.wheel, tmp_path / "wheel", changes)
    node.place_release(node.directory / "current" / "venv", wheel, changes)

    done = node.deploy(wheel=wheel, health_seconds=4.0)

    assert f"{good.release} runs again as before" in done.failure
    assert node.answers()
    assert node.deploy().result == "unchanged"


def _source(file: str) -> str:
    return (CHECKOUT / "ringrift_sync_dagster" / file).read_text()
