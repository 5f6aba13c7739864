"""The verbs of an operator: backpressure, doctor, status --watch and completion; as a program sees them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_sync_dagster.cli.completion import SHELLS
from ringrift_sync_dagster.cli.doctor import TIMEOUT
from ringrift_sync_dagster.cli.main import VERBS, main
from ringrift_sync_dagster.core.daemons import DaemonType
from ringrift_sync_dagster.core.pressure import SIGNALS
from ringrift_sync_dagster.node.patterns import CONFIGS, DATA_TYPES
from ringrift_sync_dagster.state.backpressure import is_active, look
from ringrift_sync_dagster.state.events import events_since
from ringrift_sync_dagster.state.risks import Risk, give_up, put
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.sync.doctor.nodes import NODE_SECONDS

CHECKOUT = Path(__file__).resolve().parents[2]
PROGRAM = [sys.executable, "-m", "ringrift_sync_dagster.cli"]
HOSTS = """
hosts:
  hub-1: {ssh_host: 127.77.0.1, ringrift_path: /srv/x, role: coordinator, agent_port: 1}
  vast-1: {ssh_host: 127.77.0.2, ssh_port: 1, ringrift_path: /srv/x, agent_port: 1}
  vast-2: {ssh_host: 127.77.0.3, ssh_port: 1, ringrift_path: /srv/x, agent_port: 1, status: offline}
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    (tmp_path / "root").mkdir()
    for name in [name for name in os.environ if name.startswith("RINGRIFT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RINGRIFT_SYNC_HOME", str(tmp_path))
    monkeypatch.setenv("RINGRIFT_SYNC_HOSTS", str(tmp_path / "hosts.yaml"))
    monkeypatch.setenv("RINGRIFT_SYNC_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    return tmp_path


@pytest.fixture
def run(home: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def called(*arguments: str) -> tuple[int, str]:
        code = main(list(arguments))
        return code, capsys.readouterr().out

    return called


def store(home: Path) -> StateStore:
    return StateStore.open(f"sqlite:///{home}/state.db")


def test_backpressure_shows_every_signal_and_release_ends_it_once(home: Path, run: Run) -> None:
    code, text = run("backpressure")
    assert code == 0
    assert text.startswith("backpressure of hub-1: not active: ")
    assert all(name in text for name in SIGNALS)

    with store(home) as state:
        assert look(state, "hub-1", {name: one.high for name, one in SIGNALS.items()}).active
        assert "end it with: ringrift-sync backpressure release" in run("backpressure", "status")[1]
        found = json.loads(run("backpressure", "--json")[1])
        assert (found["ok"], found["active"], found["now"]["signals"].keys()) == (True, True, SIGNALS.keys())

        assert run("backpressure", "release", "--reason", "models must go") == (
            0, "released: what was held goes on; no pause begins for 300 s\n",
        )  # fmt: skip
        assert not is_active(state, "hub-1")
        assert events_since(state)[-1].payload["reason"] == "models must go"
        assert run("backpressure", "release")[1] == "nothing was held\n"
        assert json.loads(run("backpressure", "release", "--json")[1])["released"] is False


def test_a_reason_without_a_release_is_wrong_usage(run: Run) -> None:
    assert run("backpressure", "--reason", "x")[0] == 2


def test_doctor_names_each_fault_with_its_fix_and_fails(run: Run) -> None:
    code, text = run("doctor", "--timeout", "2")
    lines = text.splitlines()
    assert code == 1
    assert all(re.match(r"(error|warning): [\w-]+: [\w ]+: .* \| fix: .+", line) for line in lines[:-1]), text
    assert any(line.startswith("error: vast-1: ") for line in lines)
    assert not any("vast-2" in line for line in lines)
    assert re.fullmatch(r"\d+ errors, \d+ warnings, \d+ things are well \(--all lists them\)", lines[-1])

    code, text = run("doctor", "--json", "--timeout", "2", "vast-1")
    found = json.loads(text)
    assert (code, found["ok"]) == (1, False)
    assert {"where", "check", "level", "detail", "fix"} == set(found["findings"][0])


def test_doctor_says_what_is_wrong_with_an_inventory(home: Path, run: Run) -> None:
    (home / "hosts.yaml").write_text("hosts: [")
    code, text = run("doctor")
    assert code == 1
    assert text.startswith("error: coordinator: settings: ")
    assert NODE_SECONDS == TIMEOUT


def test_status_shows_what_is_at_risk_and_what_is_lost(run: Run, home: Path) -> None:
    assert "no node sent a heartbeat yet" in run("status")[1]
    with StateStore.open(f"sqlite:///{home}/state.db") as state:
        put(state, Risk("vast-1", 3, 2_000_000, ["a", "b", "c"], time.time() - 600, 1_000_000, 1, at=time.time()))
        gone = Risk("vast-2", 2, 100, ["d", "e"], time.time() - 600, at=time.time() - 600)
        put(state, gone)
        assert give_up(state, gone, time.time())

    text = run("status")[1]
    assert "at risk" in next(line for line in text.splitlines() if "vast-1" in line)
    assert "gone, 2 games are lost" in next(line for line in text.splitlines() if "vast-2" in line)
    risks = json.loads(run("status", "--json")[1])["risks"]
    assert [(one["node"], one["games"], one["lost_games"]) for one in risks] == [("vast-1", 3, 0), ("vast-2", 2, 2)]


def test_status_shows_the_daemons_by_the_guides_names(run: Run) -> None:
    code, text = run("status")
    assert code == 0
    assert all(re.search(rf"^  {kind.value} +(active|not running|unknown) ", text, re.MULTILINE) for kind in DaemonType)
    assert re.search(r"EVENT_ROUTER +active", text)
    found = json.loads(run("status", "--json")[1])
    assert [one["type"] for one in found["daemons"]] == [kind.value for kind in DaemonType]


@pytest.mark.parametrize("options", [[], pytest.param(["--json"], marks=pytest.mark.cluster)])
def test_status_watch_in_a_pipe_repeats_whole_blocks_until_it_is_interrupted(home: Path, options: list[str]) -> None:
    command = [*PROGRAM, "status", "--watch", "0.5", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        head = "{" if options else "--- "
        blocks = 0
        while blocks < 2:
            line = process.stdout.readline()
            assert line
            blocks += line.startswith(head)
            assert not options or json.loads(line)["look"]["daemons"]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(10) == 0
    assert "Traceback" not in rest


def test_status_watch_on_a_terminal_draws_and_ctrl_c_ends_it_well(home: Path) -> None:
    leader, follower = pty.openpty()
    command = [*PROGRAM, "status", "--watch"]
    with subprocess.Popen(command, stdout=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "160"}) as process:
        os.close(follower)
        text, limit = b"", time.monotonic() + 20
        while b"EVENT_ROUTER" not in text and time.monotonic() < limit:
            text += os.read(leader, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    os.close(leader)
    assert b"Ctrl-C ends" in text


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_prints_the_script_of_a_shell(run: Run, shell: str) -> None:
    code, text = run("completion", shell)
    assert code == 0
    assert "_RINGRIFT_SYNC_COMPLETE" in text
    assert "ringrift-sync" in text
    assert json.loads(run("completion", shell, "--json")[1])["script"] in text


def test_completion_of_an_unknown_shell_is_wrong_usage(run: Run) -> None:
    assert run("completion", "tcsh")[0] == 2


@pytest.mark.parametrize(
    "words,expected",
    [
        (("",), list(VERBS)),
        (("back",), ["backpressure"]),
        (("sync", "--config", ""), list(CONFIGS)),
        (("where", "square8"), [config for config in CONFIGS if config.startswith("square8")]),
        (("sync", "--type", ""), list(DATA_TYPES)),
        (("sync", "--node", "v"), ["vast-1", "vast-2"]),
        (("sync", "--to", "h"), ["hub-1"]),
        (("diff", ""), ["hub-1", "vast-1", "vast-2"]),
        (("doctor", "vast-1", "vast-"), ["vast-1", "vast-2"]),
        (("token", "vast-2"), ["vast-2"]),
    ],
)
def test_names_are_completed(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    expected: list[str],
) -> None:
    assert suggestions(capsys, monkeypatch, *words) == expected


def test_completion_never_fails(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "hosts.yaml").write_text("hosts: [")
    assert not any(suggestions(capsys, monkeypatch, "diff", ""))


def suggestions(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    """What a shell is offered for the last word."""
    monkeypatch.setenv("_RINGRIFT_SYNC_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["ringrift-sync", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    monkeypatch.setattr(sys, "argv", ["ringrift-sync"])
    with pytest.raises(SystemExit):
        main()
    found = capsys.readouterr()
    assert not found.err
    return [line.partition(",")[2] for line in found.out.splitlines()]
