"""The verbs of events, as a person and as a program uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringrift_sync_dagster.cli import main
from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.state.events import events_since, publish
from ringrift_sync_dagster.state.store import StateStore

CHECKOUT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "ringrift_sync_dagster.cli", "events"]

Run = Callable[..., "Done"]


@dataclass
class Done:
    """How a verb ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    url = f"sqlite:///{tmp_path}/state.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGRIFT_SYNC_STATE_URL", url)
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


@pytest.fixture
def run(environment: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Run:
    def verb(*arguments: str) -> Done:
        code = main(["events", *arguments])
        return Done(code, *capsys.readouterr())

    return verb


@pytest.fixture
def state(environment: dict[str, str]) -> StateStore:
    return StateStore.open(environment["RINGRIFT_SYNC_STATE_URL"])


def test_publish_takes_fields_or_json_and_names_what_is_wrong(run: Run, state: StateStore) -> None:
    fields = run("publish", "BACKPRESSURE_RELEASED", "source=manual", 'signals={"disk": 0.5}', "pressure=0.25")
    as_json = run("publish", "MODEL_PROMOTED", "--payload", '{"config": "hex8_2p", "elo": 1700}', "--json")
    bad = run("publish", "MODEL_PROMOTED", "model_id=x", "--json")
    usage = [
        run("publish", "HOST_ONLINE", *words) for words in (["x"], ["a=1", "--payload", "{}"], ["--payload", "[]"])
    ]

    assert (fields.returncode, fields.stdout) == (0, "event 1 is published\n")
    assert json.loads(as_json.stdout) == {"ok": True, "id": 2}
    first, second = events_since(state)
    assert (first.payload["source"], first.payload["signals"], first.payload["pressure"]) == (
        "manual", {"disk": 0.5}, 0.25,
    )  # fmt: skip
    assert (second.payload["config"], second.payload["elo"]) == ("hex8_2p", 1700)
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["error"] == {
        "type": "EventError", "message": "event MODEL_PROMOTED: field config: it is missing",
    }  # fmt: skip
    assert [done.returncode for done in usage] == [2, 2, 2]


def test_tail_shows_the_newest_or_those_after_an_id(run: Run, state: StateStore) -> None:
    empty = run("tail")
    for number in range(3):
        publish(state, DataEventType.HOST_ONLINE, {"node": f"vast-{number}"})
        publish(state, DataEventType.HOST_OFFLINE, {"node": f"vast-{number}", "reason": "a\nb"})
    newest = run("tail", "--limit", "2")
    after = run("tail", "--since", "2", "--type", "HOST_ONLINE", "--limit", "1", "--json")
    unknown = run("tail", "--type", "X")

    assert empty.stdout == "events: none is kept\n"
    lines = newest.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["5", "6"]
    assert lines[1].endswith("HOST_OFFLINE  node=vast-2 reason=a b")
    (event,) = json.loads(after.stdout)["events"]
    assert (event["id"], event["type"], event["payload"]["node"]) == (3, "HOST_ONLINE", "vast-1")
    assert (unknown.returncode, "event X: there is no such type" in unknown.stderr) == (1, True)


def test_follow_goes_on_with_json_lines_until_its_reader_goes(
    environment: dict[str, str], tmp_path: Path, state: StateStore
) -> None:
    publish(state, DataEventType.HOST_ONLINE, {"node": "vast-1"})
    with subprocess.Popen(
        [*COMMAND, "tail", "--follow", "--json", "--type", "HOST_ONLINE"], env=environment, cwd=tmp_path,
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        got = [json.loads(process.stdout.readline())["id"]]
        publish(state, DataEventType.HOST_OFFLINE, {"node": "vast-1"})
        publish(state, DataEventType.HOST_ONLINE, {"node": "vast-1"})
        got.append(json.loads(process.stdout.readline())["id"])
        process.send_signal(2)
        assert process.wait(10) == 0
    assert got == [1, 3]


def test_types_lists_them_all_with_their_fields(run: Run) -> None:
    table, schemas = run("types"), run("types", "--json")
    assert [line.split()[0] for line in table.stdout.splitlines()[2:]] == list(DataEventType)
    assert "config*, new_games*, total_games" in table.stdout
    assert set(json.loads(schemas.stdout)["types"]) == set(DataEventType)
