"""The supervisor as a real process, over agents that are a few lines of Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.sync.deployment.onnode.place import Place
from ringrift_sync_dagster.sync.deployment.onnode.processes import Named, listens, named
from ringrift_sync_dagster.sync.deployment.onnode.supervise import BoundedLog, next_pause
from ringrift_sync_dagster.sync.deployment.program import program
from tests.agent.agents import alive, wait_until

STEADY = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
WITH_WORKER = "import subprocess, sys; w = subprocess.Popen(['sleep', '600']); print(w.pid, flush=True); w.wait()"


class Supervised:
    """A directory with one release, and its supervisor."""

    def __init__(self, directory: Path, agent: str) -> None:
        self.place = Place(directory)
        python = self.place.releases / "1" / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$(cat {directory}/agent)"\n')
        python.chmod(0o755)
        (directory / "agent").write_text(agent)
        self.place.current.symlink_to("releases/1")
        self.place.config.write_text(json.dumps({"arguments": []}))
        self.place.program.write_bytes(program())
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", str(self.place.program), "supervise", str(self.place.directory)]
        return subprocess.Popen(command, start_new_session=True)

    @property
    def log(self) -> str:
        return self.place.log.read_text() if self.place.log.exists() else ""

    @property
    def agent(self) -> int:
        """The agent's process when it has said something; 0 before."""
        if not self.place.agent_pid.exists() or not self.log:
            return 0
        pid = int(json.loads(self.place.agent_pid.read_text())["pid"])
        return pid if alive(pid) else 0

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(40)
        if self.agent:
            os.killpg(self.agent, signal.SIGKILL)
        return status


@pytest.fixture
def steady(tmp_path: Path) -> Iterator[Supervised]:
    made = Supervised(tmp_path, STEADY)
    wait_until(lambda: made.agent != 0)
    yield made
    made.stop()


def test_sigterm_ends_the_agent_first_and_then_the_supervisor(steady: Supervised) -> None:
    agent = steady.agent

    assert steady.stop() == 0
    assert not alive(agent)


def test_a_second_supervisor_of_a_directory_leaves_at_once(steady: Supervised) -> None:
    agent = steady.agent

    assert steady.start().wait(20) == 3
    assert steady.agent == agent


def test_an_agent_that_ends_is_started_again_a_little_later_each_time(tmp_path: Path) -> None:
    made = Supervised(tmp_path, "import sys; sys.exit('no port')")
    try:
        wait_until(lambda: "again in 2 s" in made.log, 20)
    finally:
        made.stop()
    assert made.log.count("no port") == 2
    assert "the agent ended with status 1; again in 1 s" in made.log


def test_an_agent_that_cannot_be_started_is_tried_again(steady: Supervised) -> None:
    steady.place.current.unlink()
    os.kill(steady.agent, signal.SIGKILL)
    wait_until(lambda: "could not be started" in steady.log, 20)

    steady.place.current.symlink_to("releases/1")
    wait_until(lambda: steady.agent != 0, 20)


def test_the_workers_of_a_killed_agent_are_ended_with_it(tmp_path: Path) -> None:
    made = Supervised(tmp_path, WITH_WORKER)
    try:
        wait_until(lambda: made.agent != 0)
        worker = int(made.log.split()[0])
        os.kill(made.agent, signal.SIGKILL)
        wait_until(lambda: not alive(worker))
    finally:
        made.stop()


def test_the_pause_before_a_start_grows_to_a_minute() -> None:
    pauses = [0.0]
    for _ in range(9):
        pauses.append(next_pause(pauses[-1]))

    assert pauses[1:] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_log_and_its_predecessor_have_twice_the_limit_at_most(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "agent.log", max_bytes=1000)
    for number in range(1000):
        log.write(f"line {number:4}\n".encode())

    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert max(sizes) <= 1000
    assert log_lines(tmp_path / "agent.log")[-1] == "line  999"
    before = log_lines(tmp_path / "agent.log.1")[-1]
    assert int(before.split()[1]) + 1 == int(log_lines(tmp_path / "agent.log")[0].split()[1]), "no line is lost between"


def log_lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_a_log_that_cannot_be_written_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    BoundedLog(tmp_path / "no such directory" / "agent.log").write(b"x\n")


def test_a_process_is_itself_and_no_other_that_has_its_number() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        found = named(process.pid)
        assert found is not None
        assert found.alive
        assert not Named(found.pid, found.started + 1, found.boot).alive
        assert not Named(found.pid, found.started, "another boot").alive
        process.kill()
        wait_until(lambda: not found.alive)  # a zombie until the end of the block


def test_only_the_process_that_listens_itself_is_said_to_listen() -> None:
    script = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    command = [sys.executable, "-c", f"{script}; time.sleep(600)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        try:
            assert listens(process.pid, port)
            assert not listens(process.pid, port + 1)
            assert not listens(os.getpid(), port)
        finally:
            process.kill()
    assert not listens(process.pid, port)


@pytest.mark.cluster
def test_a_supervisor_whose_directory_was_removed_ends_with_its_agent(tmp_path: Path) -> None:
    made = Supervised(tmp_path / "agent", STEADY)
    wait_until(lambda: made.agent != 0)
    agent = made.agent
    (tmp_path / "agent").rename(tmp_path / "moved away")

    assert made.process.wait(20) == 0
    assert not alive(agent)


@pytest.mark.cluster
def test_an_agent_that_does_not_obey_is_killed_in_the_end(tmp_path: Path) -> None:
    made = Supervised(tmp_path, STUBBORN)
    wait_until(lambda: made.agent != 0)
    agent, started = made.agent, time.monotonic()

    assert made.stop() == 0
    assert not alive(agent)
    assert time.monotonic() - started < 30
