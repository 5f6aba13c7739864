import ast
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.settings.identity import verify_token
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.storage.quarantine import Quarantine

CHECKOUT = Path(__file__).resolve().parents[2]
VERBS = [
    "up",
    "daemon",
    "sync",
    "plan",
    "pull",
    "promote",
    "versions",
    "where",
    "diff",
    "explain",
    "breakers",
    "verify",
    "archive",
    "restore-check",
    "gc",
    "report",
    "status",
    "events",
    "backpressure",
    "doctor",
    "hosts",
    "token",
    "agent",
    "drain",
    "deploy",
    "quarantine",
    "completion",
]
HEAVY = ("aiohttp", "dagster", "paramiko", "pydantic", "rich", "sqlalchemy", "yaml")

Command = Callable[..., "subprocess.CompletedProcess[str]"]


def call(arguments: Sequence[str], environment: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "ringrift_sync_dagster.cli", *arguments],
        env={**environment, "PYTHONPATH": str(CHECKOUT)}, cwd=folder, check=False, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


@pytest.fixture
def cli(tmp_path: Path) -> Command:
    """Run the command line in an empty directory, as a person without a cluster does."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RINGRIFT_")}
    return lambda *arguments, **extra: call(arguments, clean | extra, tmp_path)


@pytest.fixture
def cluster_cli(shared_cluster: EmbeddedCluster, tmp_path: Path) -> Command:
    """Run the command line on the shared cluster, with an owner and a state of its own."""
    environment = dict(os.environ) | shared_cluster.environment | {
        "RINGRIFT_SYNC_ROOT": str(tmp_path / "owner"),
        "RINGRIFT_SYNC_STATE_URL": f"sqlite:///{tmp_path}/state.db",
    }  # fmt: skip
    return lambda *arguments: call(arguments, environment, tmp_path)


@pytest.fixture
def three_games(shared_cluster: EmbeddedCluster) -> None:
    path = shared_cluster.node_root("vast-900001") / "data" / "games" / "selfplay_square8_4p.db"
    if not path.exists():
        with Recorder(path, Dialect.V18) as recorder:
            recorder.record_all([make_game(f"cli-{number}", "square8_4p") for number in range(3)])


def heavy_modules(folder: Path, *arguments: str) -> list[str]:
    """Run a verb and give the heavy packages that it imported."""
    script = (
        "import sys; from ringrift_sync_dagster.cli import main; main(sys.argv[2:]);"
        "print([name for name in sys.argv[1].split() if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, " ".join(HEAVY), *arguments],
        env=os.environ | {"PYTHONPATH": str(CHECKOUT), "RINGRIFT_SYNC_HOME": str(folder / "home")},
        cwd=folder, check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    found: list[str] = ast.literal_eval(done.stdout.splitlines()[-1])
    return found


def test_help_names_every_verb_and_imports_nothing_heavy(cli: Command, tmp_path: Path) -> None:
    done = cli("--help")

    assert done.returncode == 0
    assert re.findall(r"^  (\w[\w-]*)  ", done.stdout, re.MULTILINE) == VERBS
    assert heavy_modules(tmp_path, "--help") == []


def test_status_in_a_pipe_imports_neither_dagster_nor_rich(tmp_path: Path) -> None:
    assert not {"dagster", "rich", "aiohttp"} & set(heavy_modules(tmp_path, "status"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["sync", "--config", "hex9_2p"],
        ["sync", "--type", "chess"],
        ["sync", "--type", "games", "--nonsense"],
        ["token"],
    ],
)
def test_wrong_usage_is_exit_code_2(cli: Command, arguments: list[str]) -> None:
    done = cli(*arguments)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not done.stdout


@pytest.mark.parametrize("verb", [["sync"], ["hosts", "check"], ["status"]])
def test_a_missing_inventory_is_exit_code_3_and_one_clear_line(cli: Command, verb: list[str]) -> None:
    done = cli(*verb, "--hosts", "nowhere")

    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert re.match(r"ringrift-sync: error: .*nowhere.*RINGRIFT_SYNC_HOSTS", done.stderr)


def test_an_error_is_json_too_when_json_is_asked_for(cli: Command) -> None:
    done = cli("hosts", "check", "--hosts", "nowhere", "--json")

    assert done.returncode == 3
    assert json.loads(done.stdout)["error"]["type"] == "ConfigError"


def test_v_shows_where_an_error_came_from(cli: Command) -> None:
    assert "Traceback" in cli("hosts", "check", "--hosts", "nowhere", "-v").stderr


def test_hosts_check_tells_every_problem_with_its_place(cli: Command, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(
        "hosts:\n  hub: {ssh_host: 127.0.0.1, role: coordinator, ssh_port: no}\n  a|b: {ssh_host: 127.0.0.1}\n"
    )

    done = cli("hosts", "check", "--hosts", str(hosts))

    assert done.returncode == 3
    assert "hosts.yaml:2" in done.stderr
    assert "hosts.yaml:3" in done.stderr


def test_hosts_check_of_the_shipped_inventory_passes(cli: Command) -> None:
    done = cli("hosts", "check", "--hosts", str(CHECKOUT / "hosts"), "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["coordinator"] == "hub-1"


def test_token_makes_the_key_once_and_a_token_that_its_public_key_verifies(cli: Command, tmp_path: Path) -> None:
    first = json.loads(cli("token", "vast-1", "--scope", "node", "--scope", "relay", "--json").stdout)
    second = json.loads(cli("token", "vast-2", "--json").stdout)

    assert (first["new_key"], second["new_key"]) == (True, False)
    file = Path(first["token_file"])
    assert file == tmp_path / ".ringrift" / "tokens" / "vast-1.jwt"
    assert file.stat().st_mode & 0o777 == 0o600
    claims = verify_token(Path(first["public_key"]).read_bytes(), file.read_text().strip(), time.time())
    assert claims.sub == "vast-1"
    assert claims.scopes == {"node", "relay"}


def test_the_coordinators_own_token_goes_where_its_programs_look(cli: Command, tmp_path: Path) -> None:
    made = json.loads(cli("token", "hub-1", "--hosts", str(CHECKOUT / "hosts"), "--json").stdout)

    assert made["scopes"] == ["coordinator"]
    assert Path(made["token_file"]) == tmp_path / ".ringrift" / "tokens" / "coordinator.jwt"


def test_a_token_for_an_unknown_host_is_refused_with_the_nearest_name(cli: Command) -> None:
    done = cli("token", "vast-90000", "--hosts", str(CHECKOUT / "hosts"))

    assert done.returncode == 3
    assert "vast-900001" in done.stderr


def test_sync_collects_and_tells_what_arrived(cluster_cli: Command, three_games: None) -> None:
    done = cluster_cli("sync", "--type", "games", "--config", "sq8_4p", "--node", "vast-900001", "--json")

    assert done.returncode == 0, done.stderr
    (partition,) = json.loads(done.stdout)["partitions"]
    assert (partition["partition"], partition["games_new"], partition["canonical_games"]) == (
        "square8_4p|vast-900001",
        3,
        3,
    )


def test_sync_goes_on_when_a_node_is_down_and_exits_with_1(cluster_cli: Command, three_games: None) -> None:
    done = cluster_cli("sync", "--config", "square8_4p")

    assert done.returncode == 1
    assert re.search(r"square8_4p\|vast-900001 +changed +3", done.stdout)
    assert "ringrift-sync: square8_4p|nebius-t1: " in done.stderr
    assert "Traceback" not in done.stderr


def test_sync_of_an_unknown_node_is_exit_code_3(cluster_cli: Command) -> None:
    done = cluster_cli("sync", "--node", "vast-90001")

    assert done.returncode == 3
    assert "vast-900001" in done.stderr


def test_status_shows_what_a_sync_left_without_asking_anybody(cluster_cli: Command, three_games: None) -> None:
    cluster_cli("sync", "--config", "square8_4p", "--node", "vast-900001")

    found = json.loads(cluster_cli("status", "--json").stdout)
    (partition,) = found["partitions"]
    assert (partition["config"], partition["canonical_games"], partition["pending"]) == ("square8_4p", 3, 1)
    assert [(node["name"], node["status"]) for node in found["nodes"]] == [("vast-900001", "up")]
    assert found["changes_to_record"] == 1
    assert "1 changes wait to be recorded" in cluster_cli("status").stdout


def test_what_was_set_aside_is_listed_shown_and_given_back(cli: Command, tmp_path: Path) -> None:
    root = tmp_path / "owner"
    quarantine = Quarantine(Layout(root).quarantine)
    quarantine.add("vast-1", "game|1", b"bytes", reason="short", detail="3 moves of 40", artifact="", at=1000.0)
    where = ["--root", str(root)]

    (entry,) = json.loads(cli("quarantine", "list", *where, "--json").stdout)["entries"]
    shown = cli("quarantine", "show", "vast-1", "game|1", *where)
    restored = cli("quarantine", "restore", "vast-1", "game|1", "--out", "game.bin", *where)
    again = cli("quarantine", "restore", "vast-1", "game|1", "--out", "game.bin", *where)

    assert (entry["node"], entry["name"], entry["reason"]) == ("vast-1", "game|1", "short")
    assert "3 moves of 40" in shown.stdout
    assert restored.returncode == 0
    assert (tmp_path / "game.bin").read_bytes() == b"bytes"
    assert again.returncode == 2


def test_an_entry_that_is_not_there_is_exit_code_1(cli: Command, tmp_path: Path) -> None:
    done = cli("quarantine", "show", "vast-1", "nothing", "--root", str(tmp_path))

    assert done.returncode == 1
    assert "quarantine list" in done.stderr


def test_names_from_a_node_cannot_move_the_cursor_of_a_terminal(cli: Command, tmp_path: Path) -> None:
    root = tmp_path / "owner"
    Quarantine(Layout(root).quarantine).add(
        "vast-1", "g\x1b[2J1", b"", reason="short", detail="a\nb", artifact="", at=1000.0
    )

    done = cli("quarantine", "list", "--root", str(root))

    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 3


def test_output_into_a_pipe_that_closes_early_is_no_traceback(cli: Command, tmp_path: Path) -> None:
    command = f"{sys.executable} -m ringrift_sync_dagster.cli hosts check --hosts {CHECKOUT / 'hosts'} | true"
    done = subprocess.run(
        ["bash", "-c", command], check=False, capture_output=True, text=True, cwd=tmp_path, timeout=60,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip

    assert "Traceback" not in done.stderr


def test_an_agent_without_inventory_says_what_it_needs(cli: Command) -> None:
    done = cli("agent", "--node", "vast-1")

    assert done.returncode == 2
    assert "--root" in done.stderr
