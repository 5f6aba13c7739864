"""Bars are drawn on a terminal while transfers run, and nowhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, time
from ringrift_sync_dagster.cli.progress import shown_progress
from ringrift_sync_dagster.cli.session import Session
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import progress, start_transfer
with StateStore.open(sys.argv[1]) as state:
    artifact = {"artifact": "ab" * 32, "size_bytes": 4_000_000}
    one = start_transfer(state, node="vast-1", direction="fetch", transport="p2p", **artifact)
    progress(state, one, 1_000_000)
    with shown_progress(Session(as_json="--json" in sys.argv, verbose=0), state):
        time.sleep(1.3)
print("done")
"""


def on_a_terminal(tmp_path: Path, *arguments: str) -> str:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path}/state.db", *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stdout=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        told = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            told += piece
    os.close(ours)
    assert process.returncode == 0, told
    return told.decode(errors="replace")


def test_a_bar_tells_node_bytes_and_how_many_there_are(tmp_path: Path) -> None:
    told = on_a_terminal(tmp_path)
    assert "fetch vast-1" in told
    assert "1.0/4.0 MB" in told
    assert "1 transfers" in told


def test_neither_json_nor_a_pipe_has_bars(tmp_path: Path) -> None:
    assert on_a_terminal(tmp_path, "--json").strip() == "done"
    command = [sys.executable, "-c", PROGRAM, f"sqlite:///{tmp_path}/state.db"]
    assert subprocess.check_output(command, text=True) == "done\n"
