"""A writer is a process that can be stopped, killed and started again, and its ledger is right each time."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from ringrift_sync_dagster.demo import scenario
from ringrift_sync_dagster.demo.ledger import Entry, Ledger, Plan, read_ledger
from ringrift_sync_dagster.demo.processes import CHECKOUT
from tests.demo.played import PlayedCluster

NODE = scenario.NEBIUS.node


def start(base: Path, *more: str) -> subprocess.Popen[bytes]:
    arguments = ["--node", NODE, "--root", str(base / "root"), "--ledger", str(base / "ledger.jsonl"), *more]
    return subprocess.Popen([sys.executable, "-m", "ringrift_sync_dagster.demo.selfplay", *arguments], cwd=CHECKOUT)


def wait_until(base: Path, ready: Callable[[list[Entry]], bool]) -> None:
    limit = time.monotonic() + 20
    while not ready(read_ledger(base / "ledger.jsonl")):
        assert time.monotonic() < limit
        time.sleep(0.02)


def statuses(base: Path) -> dict[str, str]:
    with closing(sqlite3.connect(base / "root" / scenario.NEBIUS.path)) as conn:
        return dict(conn.execute("SELECT game_id, game_status FROM games"))


def test_two_writers_with_one_seed_play_the_same_games(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        cluster = PlayedCluster(tmp_path / name)
        cluster.play("hetzner-v1", 40)
        contents.append([(e.path, e.game_id, e.content, e.plan, e.finished) for e in cluster.entries()])

    assert contents[0] == contents[1]


def test_a_stopped_writer_leaves_its_game_unfinished_and_goes_on_with_the_next_number(tmp_path: Path) -> None:
    for _ in range(2):
        writer = start(tmp_path, "--rate", "200")
        before = len(read_ledger(tmp_path / "ledger.jsonl"))
        wait_until(tmp_path, lambda entries, before=before: len(entries) > before + 5)  # type: ignore[misc]
        writer.send_signal(signal.SIGTERM)
        assert writer.wait(10) == 0

    entries, found = read_ledger(tmp_path / "ledger.jsonl"), statuses(tmp_path)
    assert {e.game_id for e in entries if e.finished} == {
        game for game, status in found.items() if status == "completed"
    }
    assert {e.game_id for e in entries} == set(found)
    assert not any(e.in_doubt for e in entries)


def test_after_kill_9_the_next_writer_settles_the_doubt_from_the_database(tmp_path: Path) -> None:
    writer = start(tmp_path, "--rate", "500", "--backlog", "1000")
    wait_until(tmp_path, lambda entries: any(e.in_doubt for e in entries) and len(entries) > 150)
    writer.kill()
    writer.wait()
    doubts = [e for e in read_ledger(tmp_path / "ledger.jsonl") if e.in_doubt]
    assert len(doubts) <= 100  # one transaction

    assert start(tmp_path, "--games", "0").wait(20) == 0
    entries, found = read_ledger(tmp_path / "ledger.jsonl"), statuses(tmp_path)
    assert not any(e.in_doubt for e in entries)
    assert {e.game_id for e in entries if e.finished} == {
        game for game, status in found.items() if status == "completed"
    }


def test_a_doubt_about_a_database_that_went_with_its_node_is_settled_as_unfinished(tmp_path: Path) -> None:
    (case, *_) = scenario.cases_of(7, NODE)
    row = case.game.rows["games"][0]
    entry = Entry(
        Plan.NORMAL, NODE, scenario.NEBIUS.path, case.game.config, case.game.game_id, case.game.fingerprint, 20, 1,
        str(row["created_at"]),
    )  # fmt: skip
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.playing([entry])

    assert start(tmp_path, "--games", "0").wait(20) == 0
    assert [(one.finished, one.in_doubt) for one in read_ledger(tmp_path / "ledger.jsonl")] == [(False, False)]


def test_late_cases_come_when_they_are_called(tmp_path: Path) -> None:
    writer = start(tmp_path, "--rate", "100")
    wait_until(tmp_path, lambda entries: len(entries) > 8)
    assert [e.finished for e in read_ledger(tmp_path / "ledger.jsonl") if e.plan is Plan.LATE] == [False]
    writer.send_signal(signal.SIGUSR1)
    wait_until(tmp_path, lambda entries: any(e.plan is Plan.LATE and e.finished for e in entries))
    writer.send_signal(signal.SIGTERM)
    assert writer.wait(10) == 0


def test_the_scenario_has_every_plan_and_the_same_basename_on_two_nodes() -> None:
    cases = [case for file in {file.node for file in scenario.FILES} for case in scenario.cases_of(7, file)]
    names = [(file.node, Path(file.path).name) for file in scenario.FILES]

    assert {case.plan for case in cases} == set(Plan) - {Plan.NORMAL}
    assert len({node for node, name in names if name == "selfplay.db"}) == 3
    assert any(len(file.configs) > 1 for file in scenario.FILES)
