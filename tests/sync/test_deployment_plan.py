"""What is decided about a node, from what is wanted and what was found there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.agent import command
from ringrift_sync_dagster.settings.identity import CoordinatorKey, create_coordinator_key, issue_token
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.sync.deployment.found import Found, read_found
from ringrift_sync_dagster.sync.deployment.parts import UNIT_TEMPLATE, read_parts
from ringrift_sync_dagster.sync.deployment.plan import (
    Listening,
    Order,
    Wanted,
    decide,
    listening,
    outcome_word,
    scopes,
    systemd_word,
)
from ringrift_sync_dagster.sync.deployment.program import program
from tests.sync.deploying import CHECKOUT

NODE = Node(name="node-a", ssh_host="10.0.0.7", ringrift_path="/srv/x", agent_port=8765)
TRUSTED = ("10.0.0.7", "100.64.0.7", "127.0.0.5")
NOW = time.time()
Change = Callable[[Found], Found]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> CoordinatorKey:
    return create_coordinator_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def wanted(key: CoordinatorKey) -> Wanted:
    return Wanted(
        node=NODE, release="1.0-aaa", wheel="x.whl", offline=False, program="p" * 64,
        unit_template=(CHECKOUT / UNIT_TEMPLATE).read_text(), systemd=True,
        listening=listening(NODE, TRUSTED.__contains__), networks=("10.0.0.0/8",),
        public_key=key.public_pem.decode(), revoked="lost-1\n", health_seconds=45.0,
    )  # fmt: skip


def answer(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - what a node may say
    return {
        "root": "/srv/x", "root_exists": True, "storage": ["/mnt/y"], "directory": "/srv/x/agent", "python": "3.11",
        "no_systemd": "there is no systemctl", "unit": None, "config": None, "keys": {}, "pin": "", "program": None,
        "releases": [], "current": None, "pending": False, "kept_by": "", "healthy": False, **more,
    }  # fmt: skip


def ordered(wanted: Wanted, found: Found, key: CoordinatorKey) -> Order | None:
    return decide(wanted, found, lambda: issue_token(key, "node-a", scopes(wanted.node), NOW), NOW)


def after(wanted: Wanted, order: Order, before: Found) -> Found:
    """What is found when the order was carried out."""
    return replace(
        before, keys={**before.keys, **order.keys}, config=order.config, unit=order.unit or None,
        program=wanted.program, releases=(order.release,), current=order.release, kept_by=order.kept_by, healthy=True,
        pin="a" * 64 if order.certificate else before.pin,
    )  # fmt: skip


@pytest.mark.parametrize(
    "node,expected",
    [
        (Node("a", "127.0.0.5", "/x"), Listening("127.0.0.5", "127.0.0.5", tls=False)),
        (Node("a", "10.0.0.7", "/x"), Listening("0.0.0.0", "127.0.0.1", tls=False)),
        (Node("a", "203.0.113.9", "/x"), Listening("0.0.0.0", "127.0.0.1", tls=True)),
        (Node("a", "203.0.113.9", "/x", tailscale_ip="100.64.0.7"), Listening("0.0.0.0", "127.0.0.1", tls=False)),
        (Node("a", "10.0.0.7", "/x", tls_fingerprint="f" * 64), Listening("0.0.0.0", "127.0.0.1", tls=True)),
        (Node("a", "2001:db8::1", "/x"), Listening("", "127.0.0.1", tls=True)),
        (Node("a", "203.0.113.9", "/x", nat_blocked=True), Listening("127.0.0.1", "127.0.0.1", tls=False)),
        (Node("a", "203.0.113.9", "/x", proxied_ssh=True), Listening("127.0.0.1", "127.0.0.1", tls=False)),
    ],
)
def test_an_agent_listens_where_it_is_called_and_with_tls_outside_the_trusted_networks(
    node: Node, expected: Listening
) -> None:
    assert listening(node, TRUSTED.__contains__) == expected


@pytest.mark.parametrize(
    "node,expected",
    [
        (Node("a", "x", "/x"), ("node",)),
        (Node("a", "x", "/x", extra={"relay_capable": True}), ("node", "relay")),
        (Node("a", "x", "/x", extra={"relay_capable": True}, is_ephemeral=True), ("node",)),
        (Node("a", "x", "/x", extra={"relay_capable": "yes"}), ("node",)),
    ],
)
def test_only_a_persistent_node_of_which_the_inventory_says_so_may_relay(node: Node, expected: tuple[str, ...]) -> None:
    assert scopes(node) == expected


def test_a_bare_node_gets_everything(wanted: Wanted, key: CoordinatorKey) -> None:
    found = read_found(answer())
    order = ordered(wanted, found, key)

    assert order is not None
    assert (order.install, order.restart, order.kept_by, order.unit) == (True, True, "supervisor", "")
    assert set(order.keys) == {"coordinator.pub", "revoked", "token.jwt"}
    assert json.loads(order.config)["arguments"][:6] == ["--node", "node-a", "--root", "/srv/x", "--root", "/mnt/y"]
    assert outcome_word(found, order) == "installed"
    assert ordered(wanted, after(wanted, order, found), key) is None


@pytest.mark.parametrize("pin,scheme", [("", "http"), ("ab" * 32, "https")])
def test_an_ephemeral_node_is_told_where_its_finished_games_go(
    wanted: Wanted, key: CoordinatorKey, pin: str, scheme: str
) -> None:
    owner = Node("hub-1", "203.0.113.1", "/srv/x", tailscale_ip="10.0.0.1", agent_port=9000, tls_fingerprint=pin)
    spot = replace(wanted, node=replace(NODE, is_ephemeral=True), owner=owner)
    order = ordered(spot, read_found(answer()), key)

    assert order is not None
    words = json.loads(order.config)["arguments"]
    parser = command._parser()
    told = command._write_through(parser, parser.parse_args(words))
    assert told is not None
    assert (told.coordinator.name, told.coordinator.address, told.coordinator.agent_port) == ("hub-1", "10.0.0.1", 9000)
    assert (told.coordinator.tls_fingerprint, told.token_file) == (pin, Path("/srv/x/agent/keys/token.jwt"))
    assert f"hub-1={scheme}://10.0.0.1:9000" in words
    assert (told.min_durable_copies, told.preemption_url) == (1, "")
    noticed = replace(spot, node=replace(spot.node, extra={"preemption_notice": "aws"}), min_durable_copies=2)
    order = ordered(noticed, read_found(answer()), key)
    assert order is not None
    told = command._write_through(parser, parser.parse_args(json.loads(order.config)["arguments"]))
    assert told is not None
    assert (told.min_durable_copies, told.preemption_url) == (2, "http://169.254.169.254")
    stays = ordered(replace(wanted, owner=owner), read_found(answer()), key)
    assert stays is not None
    assert not {"--write-through-to", "--forward-to"} & set(json.loads(stays.config)["arguments"])


@pytest.mark.parametrize("pin", ["", "ab" * 32])
def test_a_node_that_may_relay_is_told_where_packs_of_others_go(wanted: Wanted, key: CoordinatorKey, pin: str) -> None:
    owner = Node("hub-1", "203.0.113.1", "/srv/x", tailscale_ip="10.0.0.1", agent_port=9000, tls_fingerprint=pin)
    relay = replace(wanted, node=replace(NODE, extra={"relay_capable": True}), owner=owner)
    order = ordered(relay, read_found(answer()), key)

    assert order is not None
    words, parser = json.loads(order.config)["arguments"], command._parser()
    told = command._forward(parser, parser.parse_args(words))
    assert told is not None
    assert (told.owner.name, told.owner.address, told.owner.agent_port) == ("hub-1", "10.0.0.1", 9000)
    assert (told.owner.tls_fingerprint, told.token_file) == (pin, Path("/srv/x/agent/keys/token.jwt"))
    assert not {"--write-through-to", "--ephemeral"} & set(words)
    unreachable = ordered(replace(relay, owner=None), read_found(answer()), key)
    assert unreachable is not None
    assert "--forward-to" not in json.loads(unreachable.config)["arguments"]


@pytest.mark.parametrize(
    "change,word,restart",
    [
        (lambda found: replace(found, current="1.0-old", releases=("1.0-old",)), "upgraded", True),
        (lambda found: replace(found, healthy=False), "repaired", True),
        (lambda found: replace(found, pending=True), "repaired", True),
        (lambda found: replace(found, releases=()), "changed", True),
        (lambda found: replace(found, kept_by=""), "changed", True),
        (lambda found: replace(found, program="0" * 64), "changed", True),
        (lambda found: replace(found, config="{}"), "changed", True),
        (lambda found: replace(found, no_systemd=""), "changed", True),
        (lambda found: replace(found, keys={**found.keys, "coordinator.pub": "another"}), "changed", True),
        (lambda found: replace(found, keys={**found.keys, "revoked": ""}), "changed", False),
        (lambda found: replace(found, keys={**found.keys, "token.jwt": "no token"}), "changed", False),
    ],
)
def test_only_what_is_lacking_is_ordered_and_then_nothing_more(
    wanted: Wanted,
    key: CoordinatorKey,
    change: Change,
    word: str,
    restart: bool,  # noqa: FBT001
) -> None:
    bare = read_found(answer())
    first = ordered(wanted, bare, key)
    assert first is not None
    found = change(after(wanted, first, bare))

    order = ordered(wanted, found, key)

    assert order is not None
    assert (outcome_word(found, order), order.restart) == (word, restart)
    assert order.install == (wanted.release not in found.releases)
    assert ordered(wanted, after(wanted, order, replace(found, pending=False)), key) is None


def test_a_node_that_needs_tls_makes_a_certificate_once(wanted: Wanted, key: CoordinatorKey) -> None:
    public = replace(NODE, ssh_host="203.0.113.9")
    wanted = replace(wanted, node=public, listening=listening(public, TRUSTED.__contains__))
    order = ordered(wanted, read_found(answer()), key)

    assert order is not None
    assert order.certificate == ("203.0.113.9",)
    assert "--tls-key" in json.loads(order.config)["arguments"]
    assert ordered(wanted, after(wanted, order, read_found(answer())), key) is None


def test_an_order_that_is_shown_does_not_show_the_token(wanted: Wanted, key: CoordinatorKey) -> None:
    found = read_found(answer(keys={"token.jwt": "secret-1"}))
    order = ordered(wanted, found, key)

    assert order is not None
    assert order.keys["token.jwt"].strip() not in repr(order)
    assert "secret-1" not in repr(found)


def test_the_unit_is_one_that_systemd_takes_without_a_word(wanted: Wanted, key: CoordinatorKey, tmp_path: Path) -> None:
    directory = tmp_path / "an agent's 100 % $HOME"
    python = directory / "current" / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    order = ordered(wanted, read_found(answer(no_systemd="", directory=str(directory))), key)
    assert order is not None
    assert "@" not in order.unit.partition("[Unit]")[2]
    unit = tmp_path / "ringrift-agent-node-a.service"
    unit.write_text(order.unit)

    command = next(line for line in order.unit.splitlines() if line.startswith("ExecStart="))
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(command.removeprefix("ExecStart="))]
    assert words[:5] == ["/usr/bin/env", str(python), "-I", "-m", "ringrift_sync_dagster.agent"]
    assert words[5:] == json.loads(order.config)["arguments"]
    if (analyze := shutil.which("systemd-analyze")) is not None:
        (tmp_path / "run").mkdir(mode=0o700)
        done = subprocess.run(
            [analyze, "verify", "--user", str(unit)], env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path / "run")},
            check=False, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")


@given(st.text(st.characters(exclude_categories=("C", "Z")), max_size=20))
def test_a_word_of_a_unit_means_itself(text: str) -> None:
    assert shlex.split(systemd_word(text))[0].replace("%%", "%").replace("$$", "$") == text.replace("%%", "%").replace(
        "$$", "$"
    )


@pytest.mark.parametrize(
    "more",
    [
        {"root": None}, {"root_exists": "yes"}, {"storage": "/mnt"}, {"storage": [1]}, {"keys": []}, {"keys": {"a": 1}},
        {"config": 7}, {"current": "x" * 100_000}, {"pending": 0},
    ],
)  # fmt: skip
def test_an_answer_of_another_shape_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="the node's answer has no usable"):
        read_found(answer(**more))


def test_the_same_sources_give_the_same_release_and_each_part_of_it_counts() -> None:
    first, second = read_parts(), read_parts()

    assert first.release("3.11") == second.release("3.11")
    assert first.release("3.11") != first.release("3.12")
    for position in range(len(first.files)):
        name, data = first.files[position]
        files = (*first.files[:position], (name, data + b"\n"), *first.files[position + 1 :])
        assert replace(first, files=files).release("3.11") != first.release("3.11")


def test_the_program_for_the_node_runs_from_its_zip_file_alone(tmp_path: Path) -> None:
    (tmp_path / "agent.pyz").write_bytes(program())
    request = {"node": "node-a", "root": str(tmp_path), "storage": ["~/x"], "scratch": "scratch"}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "agent.pyz", "inspect"], input=json.dumps(request) + "\n", cwd=tmp_path,
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found = read_found(json.loads(done.stdout)["result"])

    assert (found.directory, found.storage) == (str(tmp_path / "scratch" / "agent"), (str(Path.home() / "x"),))
    assert [path.name for path in tmp_path.iterdir()] == ["agent.pyz"], "looking changes nothing"
