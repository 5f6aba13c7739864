import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

CHECKOUT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "ringrift_sync_dagster.cli"]


def environment(folder: Path) -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(CHECKOUT), "RINGRIFT_SYNC_HOME": str(folder / "home"), "COLUMNS": "70"}


def test_the_agent_serves_until_sigterm_and_ends_well(tmp_path: Path) -> None:
    root = tmp_path / "ai-service"
    root.mkdir()
    command = [*CLI, "agent", "--node", "vast-1", "--root", str(root), "--port", "0"]
    with subprocess.Popen(command, env=environment(tmp_path), cwd=tmp_path, stderr=subprocess.PIPE, text=True) as agent:
        assert agent.stderr is not None
        line = next(line for line in agent.stderr if "agent is up" in line)
        url = re.search(r"url=(\S+)", line)
        assert url is not None
        with urlopen(f"{url[1]}/health", timeout=10) as answer:  # noqa: S310 - our own agent on loopback
            health = json.load(answer)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0

    assert health["node_id"] == "vast-1"


def test_a_terminal_gets_whole_names_however_narrow_it_is(tmp_path: Path) -> None:
    name = "vast-with-a-name-that-is-longer-than-its-column-could-ever-be-here"
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(f"hosts:\n  {name}: {{ssh_host: 127.0.0.1, ringrift_path: /srv/x}}\n")
    terminal, side = pty.openpty()
    command = [*CLI, "hosts", "check", "--hosts", str(hosts)]

    subprocess.run(command, env=environment(tmp_path), cwd=tmp_path, check=True, stdout=side, timeout=60)
    os.close(side)
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)

    assert "┃" in shown
    assert "…" not in shown
