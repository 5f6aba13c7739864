"""What a deploy refuses, and that one bad node never stops the others; nothing is installed here."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.revoked import set_revoked
from ringrift_sync_dagster.sync.deployment.remote import NAMES
from tests.agent.agents import addresses
from tests.sshd import PROGRAMS, Sshd
from tests.sync.deploying import Target, target

StartNode = Callable[..., Target]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the right name with an agent in it: all that is asked of one before it is brought to a node."""
    path = tmp_path_factory.mktemp("wheel") / "ringrift_sync_dagster-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ringrift_sync_dagster/agent/__main__.py", "")
    return path


@pytest.fixture
def node(tmp_path: Path, wheel: Path) -> Iterator[Target]:
    """A node on which no Python answers, and whose login prints a banner."""
    address = next(addresses())
    sshd = Sshd(tmp_path / "sshd", address, programs=PROGRAMS, banner="Welcome to node-a!")
    for name in NAMES:
        give_python(sshd, name, "exit 1")
    with target(tmp_path, address, wheel, sshd, python=False) as made:
        yield made


def give_python(sshd: Sshd, name: str, does: str) -> None:
    """Put a program of that name there, before any that this machine has."""
    path = sshd.folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)


def test_a_node_without_python_is_told_which_it_needs(node: Target) -> None:
    done = node.deploy()

    assert done.result == "failed"
    assert "the agent needs Python 3.11 or newer with venv and ensurepip" in done.failure
    assert "none of python3, " in done.failure


def test_a_node_with_an_old_or_half_python_is_told_what_it_has(node: Target) -> None:
    give_python(node.sshd, "python3", "echo 3.8.10 nothing")
    give_python(node.sshd, "python3.12", "echo 3.12.3 ensurepip")

    failure = node.deploy().failure

    assert "python3 is 3.8.10;" in failure
    assert "python3.12 is 3.12.3 and lacks ensurepip" in failure
    assert "apt-get install" in failure


def test_a_root_that_is_not_there_is_no_root_to_make(tmp_path: Path, wheel: Path) -> None:
    with target(tmp_path, next(addresses()), wheel) as node:
        node.root.rmdir()
        done = node.deploy()

    assert done.result == "failed"
    assert f"there is no directory {node.root} on the node" in done.failure
    assert not node.root.exists()


def test_a_revoked_node_gets_no_agent_until_it_is_reinstated(node: Target) -> None:
    set_revoked(node.home / "keys" / "revoked", "node-a", revoked=True)

    assert "ringrift-sync token node-a --reinstate" in node.deploy().failure


def test_each_node_has_its_line_and_one_bad_node_never_stops_the_others(node: Target) -> None:
    done = node.cli("closed-1", "hub-1", "node-a", "closed-1", "--wheel", str(node.wheel))

    assert done.returncode == 1
    failures = [line for line in done.stderr.splitlines() if line.startswith("ringrift-sync: ")]
    assert [line.split(":")[1].strip() for line in failures] == ["closed-1", "hub-1", "node-a"]
    assert "is sshd running there" in failures[0]
    assert "it is the coordinator" in failures[1]
    assert "needs Python 3.11" in failures[2]
    assert [line.split()[:2] for line in done.stdout.splitlines()[2:5]] == [
        ["closed-1", "failed"], ["hub-1", "failed"], ["node-a", "failed"],
    ]  # fmt: skip


def test_json_tells_the_same(node: Target) -> None:
    done = node.cli("closed-1", "--wheel", str(node.wheel), "--json")
    told = json.loads(done.stdout)

    assert done.returncode == 1
    assert told["ok"] is False
    assert (told["nodes"][0]["node"], told["nodes"][0]["result"]) == ("closed-1", "failed")


def test_an_unknown_name_stops_before_anything_is_done(node: Target) -> None:
    done = node.cli("node-a", "nobody", "--wheel", str(node.wheel))

    assert done.returncode == 3
    assert "the inventory has no host of this name" in done.stderr
    assert not (node.home / "keys").exists()


@pytest.mark.parametrize("name", ["other-1.0-py3-none-any.whl", "ringrift_sync_dagster-0.1.0-py3-none-any.whl"])
def test_a_file_that_is_not_this_projects_wheel_is_refused(node: Target, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no zip file")

    done = node.cli("node-a", "--wheel", str(tmp_path / name))

    assert done.returncode == 3
    assert name in done.stderr


def test_a_directory_without_wheels_is_refused(node: Target, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    done = node.cli("node-a", "--wheel", str(node.wheel), "--wheels", str(tmp_path / "empty"))

    assert done.returncode == 3
    assert "pip download -r requirements-agent.txt" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["node-a", "--remove", "--port", "8766"], ["node-a", "--port", "0"]])
def test_wrong_usage_is_exit_code_2(node: Target, arguments: list[str]) -> None:
    assert node.cli(*arguments).returncode == 2
