"""The supervisor as a real process, over agents that are a few lines of Python."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.sync.deployment.onnode import keepers
from ringrift_sync_dagster.sync.deployment.onnode.ops import remove
from ringrift_sync_dagster.sync.deployment.onnode.place import Place
from ringrift_sync_dagster.sync.deployment.onnode.processes import Named, holders, listens, named
from ringrift_sync_dagster.sync.deployment.onnode.supervise import BoundedLog, next_pause
from ringrift_sync_dagster.sync.deployment.program import program
from tests.agent.agents import alive, wait_until
from tests.sync.deploying import command_lines

STEADY = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
WITH_WORKER = "import subprocess, sys; w = subprocess.Popen(['sleep', '600']); print(w.pid, flush=True); w.wait()"
MANY_FILES = 5_000
WRITER = """
import contextlib, os, sys
releases, number = sys.argv[1], int(sys.argv[2])
print("looks", flush=True)
with contextlib.suppress(OSError):
    while len(os.listdir(releases)) == number:
        pass
    os.close(os.open(f"{releases}/../late", os.O_CREAT))
"""


class Supervised:
    """A directory with one release, and its supervisor; ``ready``: False: nothing says yet which release runs."""

    def __init__(self, directory: Path, agent: str, *, ready: bool = True) -> None:
        self.place = Place(directory)
        python = self.place.releases / "1" / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$(cat {directory}/agent)"\n')
        python.chmod(0o755)
        (directory / "agent").write_text(agent)
        if ready:
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


@pytest.mark.parametrize("lost", [("agent.pid",), ("supervisor.lock",), ("supervisor.lock", "agent.pid")])
def test_the_supervisor_is_found_and_ended_whatever_is_left_of_the_files_that_tell_of_it(
    steady: Supervised, lost: tuple[str, ...]
) -> None:
    agent = steady.agent
    for name in lost:
        (steady.place.directory / name).unlink()
    assert keepers.Supervised(steady.place).is_set_up

    keepers.Supervised(steady.place).stop()

    assert not keepers.Supervised(steady.place).is_set_up
    assert steady.process.wait(1) == 0
    assert not alive(agent)


def test_whoever_only_reads_the_lock_is_no_supervisor(steady: Supervised) -> None:
    with subprocess.Popen(["tail", "-f", str(steady.place.supervisor_lock)]) as reader:
        wait_until(lambda: reader.pid in {process.pid for process in holders(steady.place.supervisor_lock)})
        keepers.Supervised(steady.place).stop()
        assert reader.poll() is None
        reader.kill()
    assert steady.process.wait(1) == 0
    assert not keepers.Supervised(steady.place).is_set_up


def test_a_removal_while_a_supervisor_starts_leaves_no_process_and_no_directory(tmp_path: Path) -> None:
    for number in range(5):
        root = tmp_path / str(number)
        made = Supervised(root / "scratch" / "agent", STEADY)
        time.sleep(number * 0.04)
        try:
            assert remove({"node": "made-up", "root": str(root), "scratch": "scratch"})["removed"] is True
            made.process.wait(20)
            assert not made.place.directory.exists()
            assert processes_of(made.place) == []
        finally:
            end_all(made.place)


def test_what_is_written_while_everything_is_removed_is_removed_too(tmp_path: Path) -> None:
    place = Place(tmp_path / "scratch" / "agent")
    place.releases.mkdir(parents=True)
    for number in range(MANY_FILES):
        (place.releases / str(number)).touch()
    command = [sys.executable, "-c", WRITER, str(place.releases), str(MANY_FILES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        assert remove({"node": "made-up", "root": str(tmp_path), "scratch": "scratch"})["removed"] is True
        assert writer.wait(20) == 0
    assert not place.directory.exists()


def processes_of(place: Place) -> list[int]:
    """The supervisors, and the agents, which work in the directory."""
    found = []
    for pid, line in command_lines().items():
        with contextlib.suppress(OSError):
            words = line, os.fsencode(Path(f"/proc/{pid}/cwd").readlink())
            if alive(pid) and any(os.fsencode(place.directory) in word for word in words):
                found.append(pid)
    return found


def end_all(place: Place) -> None:
    for pid in processes_of(place):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_an_agent_that_ends_is_started_again_a_little_later_each_time(tmp_path: Path) -> None:
    made = Supervised(tmp_path, "import sys; sys.exit('no port')")
    try:
        wait_until(lambda: "again in 2 s" in made.log, 20)
    finally:
        made.stop()
    assert made.log.count("no port") == 2
    assert "the agent ended with status 1; again in 1 s" in made.log


def test_an_agent_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    made = Supervised(tmp_path, STEADY, ready=False)
    try:
        wait_until(lambda: "could not be started" in made.log, 20)
        made.place.current.symlink_to("releases/1")
        wait_until(lambda: made.agent != 0, 20)
    finally:
        made.stop()


def test_an_agent_that_cannot_be_written_down_is_kept_and_ended_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "agent.pid").mkdir()
    made = Supervised(tmp_path, STEADY)
    try:
        wait_until(lambda: "up" in made.log, 20)
        made.process.terminate()
        assert made.process.wait(40) == 0
        assert processes_of(made.place) == []
    finally:
        end_all(made.place)


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
