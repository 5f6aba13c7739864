"""Programs that we start end when they should, with all that they started, and cannot fill our memory."""

from __future__ import annotations

import resource
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from ringrift_sync_dagster.errors import DeadlineExceededError, LocalToolError, TransferCancelledError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports import process
from tests.agent.agents import wait_until


def test_a_program_tells_its_status_and_both_outputs() -> None:
    script = "import sys; print(sys.stdin.read().upper()); print('oh', file=sys.stderr); sys.exit(3)"
    ended = process.run([sys.executable, "-c", script], deadline=Deadline(20), stdin=b"hello")
    assert (ended.status, ended.stdout, ended.stderr) == (3, b"HELLO\n", "oh")


def test_a_program_that_does_not_read_what_we_send_ends_all_the_same() -> None:
    assert process.run(["true"], deadline=Deadline(20), stdin=bytes(1 << 20)).status == 0


def test_a_program_that_is_not_installed_here_is_our_own_fault() -> None:
    with pytest.raises(LocalToolError, match=r"no-such-program cannot be started here.*installed"):
        process.run(["no-such-program"], deadline=Deadline(20))


def test_a_machine_that_has_no_descriptor_left_is_our_own_fault() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) - 1, before[1]))
    try:
        with pytest.raises(
            LocalToolError, match="true cannot be started here: Too many open files; look at the limits"
        ):
            process.run(["true"], deadline=Deadline(20))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_arguments_are_never_read_by_a_shell() -> None:
    assert process.run(["printf", "%s", "$(id); *"], deadline=Deadline(20)).stdout == b"$(id); *"


def test_a_deadline_and_a_cancel_end_a_program_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        process.run(["sleep", "60"], deadline=Deadline(0.3))
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(TransferCancelledError):
        process.run(["sleep", "60"], deadline=Deadline(20), cancel=cancel)
    assert time.monotonic() - started < 3


def test_what_a_program_started_ends_with_it() -> None:
    script = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    with process.started([sys.executable, "-c", script], stdout=process.PIPE) as child:
        grandchild = int(child.stdout.readline())
        assert child.status is None
    wait_until(lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie")
    assert not psutil.pid_exists(child.pid)


def test_a_flood_of_words_is_bounded_and_its_end_is_kept() -> None:
    script = "import sys; sys.stderr.write('x' * 1_000_000 + 'the end'); sys.stdout.write('y' * 20_000_000)"
    ended = process.run([sys.executable, "-c", script], deadline=Deadline(20))
    assert (len(ended.stdout), len(ended.stderr)) == (process.OUTPUT_MAX_BYTES, 64 << 10)
    assert ended.stderr.endswith("the end")
