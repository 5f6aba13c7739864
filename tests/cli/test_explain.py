"""``explain`` tells the chain of decisions about a node, and ``breakers`` what is left alone, with what changes it."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringrift_sync_dagster.cli.main import main
from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state import breakers, exclusions
from ringrift_sync_dagster.state.schema import backpressure
from ringrift_sync_dagster.state.store import StateStore

ONE_FAILURE = CircuitBreakerConfig(failure_threshold=1)

Command = Callable[..., "Done"]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(f"sqlite:///{tmp_path}/state.db") as opened:
        yield opened


@dataclass
class Done:
    """What a verb left."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def cli(
    shared_cluster: EmbeddedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command line in this process on the shared cluster, with an owner and a state of its own."""
    environment = {
        **shared_cluster.environment, "RINGRIFT_SYNC_ROOT": str(tmp_path / "owner"),
        "RINGRIFT_SYNC_STATE_URL": f"sqlite:///{tmp_path}/state.db",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str) -> Done:
        code = main(arguments)
        return Done(code, *capsys.readouterr())

    return call


def test_explain_tells_each_decision_with_what_would_change_it(cli: Command, state: StateStore) -> None:
    breakers.failed(state, "vast-900001", "p2p_http", ONE_FAILURE, "UnreachableError: nobody there\x1b[2J")
    exclusions.exclude(state, "vast-900001", "it was silent", 60)
    with state.begin() as connection:
        row = {
            "owner": "hub-1", "active": True, "pressure": 0.9, "signals": {}, "until": clock.boottime() + 60,
            "epoch": clock.boot_id(), "looked_at": 1.0,
        }  # fmt: skip
        connection.execute(backpressure.insert().values(row))
    done = cli("explain", "vast-900001", "npz")
    assert (done.returncode, done.stderr) == (0, "")
    lines = dict(line.partition(": ")[::2] for line in done.stdout.splitlines())
    assert lines["inventory"].startswith("status ready: role")
    assert lines["answers"].startswith("never")
    assert re.match(r"open: another \d+ s, 1 failures in a row", lines["breaker of p2p_http"])
    assert "\x1b" not in done.stdout
    assert "[`ringrift-sync breakers reset vast-900001`]" in lines["excluded as a target"]
    assert lines["strategy for npz"].startswith("ephemeral")
    assert lines["backpressure"].startswith("yes: pressure 0.90")
    assert lines["source of npz"].startswith("yes: score")
    rules = [line.partition(" (")[2].partition(")")[0] for line in done.stdout.splitlines() if "target of npz" in line]
    assert rules == ["flow", "excluded"]


def test_explain_as_json_has_every_part_of_every_score(cli: Command) -> None:
    done = cli("explain", "runpod-a1", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"], told["node"]) == (0, True, "runpod-a1")
    assert set(told["targets"]) == set(told["sources"]) == {kind.value for kind in DataType}
    for route in (*told["targets"].values(), *told["sources"].values()):
        assert route["score"] == pytest.approx(sum(part["value"] for part in route["parts"]))
        assert route["included"] == (not route["refusals"])
    assert all(line["about"] and line["verdict"] for line in told["decisions"])


def test_explain_asks_the_node_when_it_is_told_to(cli: Command) -> None:
    done = cli("explain", "runpod-a1", "elo", "--probe")
    assert done.returncode == 0, done.stderr
    assert "asked over p2p_http: told: agent at" in done.stdout
    assert "shares its disk: with no node" in done.stdout
    assert "disk: not measured" not in done.stdout


def test_the_owner_is_explained_as_one_that_is_brought_nothing(cli: Command) -> None:
    done = cli("explain", "hub-1", "models", "--probe")
    assert done.returncode == 0, done.stderr
    (target,) = [line for line in done.stdout.splitlines() if line.startswith("target of models")]
    assert target.startswith("target of models: no (owner)")
    assert "source of models" not in done.stdout


@pytest.mark.parametrize("verb", [["explain"], ["breakers", "reset"]])
def test_an_unknown_node_is_named_and_is_exit_code_3(cli: Command, verb: list[str]) -> None:
    done = cli(*verb, "runpod-a2")
    assert done.returncode == 3
    assert "runpod-a2" in done.stderr
    assert "did you mean runpod-a1?" in done.stderr


def test_breakers_are_listed_and_closed(cli: Command, state: StateStore) -> None:
    for rung in ("p2p_http", "rsync"):
        breakers.failed(state, "gone-1", rung, ONE_FAILURE, "it broke")
    exclusions.exclude(state, "gone-1", "it was silent", 60)
    told = json.loads(cli("breakers", "list", "--json").stdout)
    assert [(one["node"], one["transport"], one["state"]) for one in told["breakers"]] == [
        ("gone-1", "p2p_http", "open"), ("gone-1", "rsync", "open"),
    ]  # fmt: skip
    assert told["excluded"][0]["reason"] == "it was silent"
    assert "it broke" in cli("breakers").stdout
    assert "1 closed" in cli("breakers", "reset", "gone-1", "rsync").stdout
    again = cli("breakers", "reset", "gone-1").stdout
    assert again == "gone-1: 1 closed; it is no longer excluded as a target\n"
    assert {row.state.value for row in breakers.breaker_rows(state)} == {"closed"}
    assert exclusions.current(state) == {}
    assert cli("breakers").stdout == "breakers: all are closed\n"


def test_breakers_that_cannot_be_read_are_exit_code_1(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGRIFT_SYNC_STATE_URL", "sqlite:////dev/null/state.db")
    assert cli("breakers").returncode == cli("breakers", "list").returncode == 1


@pytest.mark.cluster
def test_explain_ends_although_the_node_is_a_black_hole(cli: Command, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.79.0.9", 0))
        silent.listen(1)
        port = silent.getsockname()[1]
        (tmp_path / "hosts.yaml").write_text(
            "trusted_networks: [127.0.0.0/8]\nhosts:\n"
            f"  hub-1: {{ssh_host: 127.79.0.1, ringrift_path: {tmp_path}/hub, role: coordinator}}\n"
            f"  n-1: {{ssh_host: 127.79.0.9, ssh_port: {port}, agent_port: {port}, ringrift_path: /n}}\n"
        )
        started = time.monotonic()
        done = cli("explain", "n-1", "--probe", "--hosts", str(tmp_path / "hosts.yaml"))
        assert done.returncode == 0, done.stderr
        assert "asked: silent" in done.stdout
        assert time.monotonic() - started < 100
