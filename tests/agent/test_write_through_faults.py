"""Write-through when things go wrong: kills at every step, nobody who takes games, databases that cannot be read."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from ringrift_sync_dagster.agent.asking import write_through
from tests.agent.agents import AgentProcess, children, wait_until
from tests.agent.conftest import StartAgent
from tests.agent.through_parts import DATABASE, SPOT, Field, arrived, outbox_of, status, wait_for, wait_until_empty

pytestmark = pytest.mark.cluster

POINTS = (
    "install.synced", "install.renamed", "outbox.placed", "outbox.before_commit", "outbox.committed",
    "pushing.pushed", "pushing.before_acknowledge", "outbox.before_let_go", "outbox.let_go",
)  # fmt: skip


@pytest.fixture
def field(start_agent: StartAgent, tmp_path: Path) -> Field:
    return Field(start_agent, tmp_path)


def alive(agent: AgentProcess) -> bool:
    return agent.process is not None and agent.process.poll() is None


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_no_finished_game_is_lost(field: Field, point: str) -> None:
    owner = field.receiver()
    spot = field.spot(owner, kill_at=point)
    field.play("g1")
    field.play("g2", database="data/games/other.db")
    wait_until(lambda: not alive(spot), 20)
    spot.kill()

    spot.more = {**spot.more, "write_through": spot.more["write_through"].replace(f"name == {point!r}", "False")}
    spot.start()

    wait_for(owner, "g1", "g2")
    wait_until_empty(spot)
    spot.stop()
    with outbox_of(spot) as outbox:
        assert (outbox.entries(), list((spot.scratch / "outbox").iterdir())) == ([], [])
        assert (outbox.state(DATABASE, "g1"), outbox.state("data/games/other.db", "g2")) == ("durable", "durable")


def test_while_the_coordinator_is_away_two_persistent_peers_take_the_games(field: Field) -> None:
    owner, spot_2 = field.receiver(), field.receiver("spot-2", ephemeral=True)
    peers = [field.receiver(f"stays-{number}") for number in range(3)]
    owner.stop()
    spot = field.spot(owner, spot_2, *peers, min_durable_copies=2)

    field.play("g1")

    wait_for(peers[1], "g1")
    wait_until_empty(spot)
    assert [arrived(peer) for peer in peers] == [["g1"], ["g1"], []]
    owner.start()
    wait_until(lambda: _plays_until_it_arrives(field, owner), 20)


def _plays_until_it_arrives(field: Field, owner: AgentProcess) -> bool:
    """Play one game more; say whether the coordinator has one again."""
    field.play(f"more-{time.monotonic()}")
    time.sleep(0.5)
    return any(game_id.startswith("more-") for game_id in arrived(owner))


def test_a_coordinator_that_hangs_keeps_no_games_waiting_that_peers_can_take(field: Field) -> None:
    owner, peer = field.receiver(), field.receiver("stays-1")
    spot = field.spot(owner, peer)
    field.play("warm")
    wait_for(owner, "warm")
    os.kill(owner.pid, signal.SIGSTOP)
    try:
        field.play("first")
        wait_for(peer, "first", seconds=25)
        wait_until_empty(spot)
        started = time.monotonic()
        field.play("g1")
        wait_for(peer, "g1")
        print(f"finished to durable beside a coordinator that hangs: {time.monotonic() - started:.2f} s")
    finally:
        os.kill(owner.pid, signal.SIGCONT)
    wait_until(lambda: _plays_until_it_arrives(field, owner), 20)


def test_without_enough_persistent_peers_a_game_waits_for_the_coordinator(field: Field) -> None:
    owner, peer = field.receiver(), field.receiver("stays-1")
    owner.stop()
    spot = field.spot(owner, peer, min_durable_copies=2)
    field.play("g1")
    wait_for(peer, "g1")
    time.sleep(1)
    assert status(spot)["games"] == 1

    owner.start()

    wait_for(owner, "g1")
    wait_until_empty(spot)


def test_upstream_bug_1_of_two_databases_one_that_cannot_be_read_holds_the_other_not_up(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner)
    field.play("g1", database="data/games/good.db")
    broken = spot.root / "data/games/broken.db"
    field.play("b1", database="data/games/broken.db")
    wait_for(owner, "g1", "b1")
    whole = broken.read_bytes()
    broken.write_bytes(whole[:5000] + bytes(len(whole) - 5000))
    field.play("g2", database="data/games/good.db")

    wait_for(owner, "g2")

    broken.write_bytes(whole)
    field.play("b2", database="data/games/broken.db")
    wait_for(owner, "b2")
    assert arrived(owner) == ["b1", "b2", "g1", "g2"]


def test_upstream_bug_5_two_nodes_with_a_database_of_the_same_name_do_not_clobber_each_other(
    field: Field, start_agent: StartAgent, tmp_path: Path
) -> None:
    owner = field.receiver()
    field.spot(owner)
    other = Field(start_agent, tmp_path / "second")
    other.folder.mkdir()
    field.play("g1")
    wait_for(owner, "g1")

    receiver = other.receiver()
    other.spot(receiver)
    other.play("g1", "g2")

    wait_for(receiver, "g1", "g2")
    assert arrived(owner) == ["g1"]


def test_upstream_bug_3_a_question_that_ends_early_costs_no_game_its_place(field: Field) -> None:
    owner = field.receiver()
    owner.stop()
    spot = field.spot(owner, drain_seconds=0.2)
    field.play("g1", "g2")
    wait_until(lambda: status(spot)["games"] == 2)
    for game_id in ("g1", "g2"):
        body = {"game_id": game_id, "db_path": DATABASE, "timeout": 0.2}
        answer = spot.request("POST", "/v1/write-through", token=spot.token("node"), json=body).json()
        assert (answer["durable"], answer["reason"].startswith("it waits in the outbox")) == (False, True)

    owner.start()

    wait_for(owner, "g1", "g2")
    wait_until_empty(spot)


def test_a_question_ends_in_time_while_a_look_hangs_and_the_game_keeps_its_place(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner)
    field.play("g1")
    wait_for(owner, "g1")
    workers = children(spot.pid)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        field.play("g2")
        started = time.monotonic()
        path = str(field.folder / SPOT / DATABASE)
        saved = write_through("g2", path, 1.0, url=spot.url, token_file=field.folder / SPOT / "token.jwt")
        assert 0.9 < time.monotonic() - started < 4
        assert (bool(saved), saved.reason) == (False, "the databases are still being looked at")
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
    saved = write_through("g2", path, 15.0, url=spot.url, token_file=field.folder / SPOT / "token.jwt")
    assert (bool(saved), saved.reason) == (True, "")
    assert arrived(owner) == ["g1", "g2"]


def test_upstream_bug_4_games_that_finish_while_the_outbox_is_emptied_stay_in_it(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner, watch_seconds=0.05)
    games = [f"g{number}" for number in range(60)]

    for game_id in games:
        field.play(game_id)
        time.sleep(0.02)

    wait_for(owner, *games)
    wait_until_empty(spot)
    assert arrived(owner) == sorted(games)


def test_a_full_outbox_says_so_and_the_games_are_read_later(field: Field) -> None:
    owner = field.receiver()
    owner.stop()
    spot = field.spot(owner, max_bytes=1)
    field.play("g1")
    wait_until(lambda: status(spot)["games"] == 1)
    field.play("g2")
    field.play("g3", database="data/games/other.db")

    wait_until(lambda: status(spot)["stopped_by"] == "the outbox is full")
    assert status(spot)["games"] == 1
    assert "new games stay in their databases" in spot.log.read_text()
    owner.start()

    wait_for(owner, "g1", "g2", "g3")
    wait_until(lambda: status(spot)["stopped_by"] == "")
    assert arrived(owner) == ["g1", "g2", "g3"]


def test_a_damaged_pack_is_read_again_from_its_database(field: Field) -> None:
    owner = field.receiver()
    owner.stop()
    spot = field.spot(owner)
    field.play("g1")
    wait_until(lambda: status(spot)["games"] == 1)
    [pack] = (spot.scratch / "outbox").iterdir()
    pack.write_bytes(b"x" * pack.stat().st_size)
    owner.start()

    wait_for(owner, "g1")
    wait_until_empty(spot)
    assert "is damaged; its database is read again" in spot.log.read_text()


@pytest.mark.parametrize("name", ["outbox", "."])
def test_what_is_removed_of_the_outbox_while_it_is_in_use_is_made_again(field: Field, name: str) -> None:
    """Its directory, or all of the agent's own: what waited there is read again, and no restart is needed."""
    owner = field.receiver()
    spot = field.spot(owner)
    field.play("saved")
    wait_for(owner, "saved")
    wait_until_empty(spot)
    owner.stop()
    field.play("waits")
    wait_until(lambda: status(spot)["games"] == 1)
    shutil.rmtree(spot.scratch / name)
    field.play("next")
    owner.start()

    wait_for(owner, "saved", "waits", "next")
    wait_until_empty(spot)
    wait_until(lambda: status(spot)["stopped_by"] == "")
    assert "was removed" in spot.log.read_text()
    spot.stop()
    with outbox_of(spot) as outbox:
        assert [outbox.state(DATABASE, key) for key in ("saved", "waits", "next")] == ["durable"] * 3


def test_sigterm_saves_what_was_finished_a_moment_ago(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner, watch_seconds=30.0)
    wait_until((spot.scratch / "through").exists)
    time.sleep(1)
    field.play("last")

    assert spot.stop() == 0

    assert arrived(owner) == ["last"]


def test_sigterm_ends_within_the_deadline_and_says_what_was_not_saved(field: Field) -> None:
    owner = field.receiver()
    owner.stop()
    spot = field.spot(owner, drain_seconds=1.0)
    field.play("lost-1")
    wait_until(lambda: status(spot)["games"] == 1)

    started = time.monotonic()
    spot.stop()

    assert time.monotonic() - started < 10
    assert "not saved games=1 packs=1 ids=['lost-1']" in spot.log.read_text()


def test_drain_takes_no_more_bulk_and_tells_what_is_left(field: Field) -> None:
    owner = field.receiver()
    owner.stop()
    spot = field.spot(owner, drain_seconds=0.2)
    field.play("g1")
    wait_until(lambda: status(spot)["games"] == 1)

    left = spot.request("POST", "/v1/drain", json={"seconds": 0.5}).json()

    assert (left["drained"], left["games"], left["ids"]) == (False, 1, ["g1"])
    refused = spot.request("PUT", f"/v1/incoming/other/{'0' * 64}", data=b"x")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    owner.start()
    saved = spot.request("POST", "/v1/drain", json={"seconds": 10}).json()
    assert (saved["drained"], saved["games"], arrived(owner)) == (True, 0, ["g1"])


def test_a_vacuumed_database_is_read_anew_and_nothing_is_lost(field: Field) -> None:
    owner = field.receiver()
    field.spot(owner)
    field.play("g1", "g2", "g3")
    wait_for(owner, "g1", "g2", "g3")
    with contextlib.closing(sqlite3.connect(field.folder / "spot-1" / DATABASE)) as conn:
        conn.execute("DELETE FROM games WHERE game_id = 'g1'")
        conn.commit()
        conn.execute("VACUUM")
    field.play("g4")

    wait_for(owner, "g4")


def test_a_burst_of_two_writers_arrives_whole(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner)

    def write(name: str) -> None:
        for number in range(20):
            field.play(f"{name}-{number}", database=f"data/games/{name}.db")

    writers = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    wait_for(owner, *(f"{name}-{number}" for name in "ab" for number in range(20)))
    wait_until_empty(spot)
    assert len(arrived(owner)) == 40


def test_peers_that_the_coordinator_named_are_remembered_over_a_restart(field: Field) -> None:
    owner, peer = field.receiver(), field.receiver("stays-1")
    owner.stop()
    spot = field.spot(owner)
    spot.stop()
    with outbox_of(spot) as outbox:
        told = [{"node": peer.node, "url": peer.url, "fingerprint": "", "ephemeral": False}]
        outbox.note("peers", json.dumps(told))
    spot.start()

    field.play("g1")

    wait_for(peer, "g1")
    wait_until_empty(spot)


def test_what_an_idle_watch_of_50_databases_costs_is_printed(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner, watch_seconds=0.5)
    for number in range(50):
        field.play(f"g{number}", database=f"data/games/selfplay-{number}.db")
    wait_for(owner, *(f"g{number}" for number in range(50)), seconds=60)
    wait_until_empty(spot)
    time.sleep(4)

    before, seconds = used(spot), 20.0
    time.sleep(seconds)
    agent, workers = (after - one for after, one in zip(used(spot), before, strict=True))

    print(f"idle: agent {100 * agent / seconds:.2f} %, workers {100 * workers / seconds:.2f} % of a core")


def used(agent: AgentProcess) -> tuple[float, float]:
    """Give the seconds of CPU time that an agent and its workers have used so far."""

    def seconds(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    return seconds(agent.pid), sum(map(seconds, children(agent.pid)))


def test_upstream_bug_10_the_interval_that_is_set_is_the_one_that_runs(field: Field) -> None:
    owner = field.receiver()
    spot = field.spot(owner, watch_seconds=3.0, drain_seconds=0.1)
    field.play("warm")
    wait_for(owner, "warm")
    started = time.monotonic()
    field.play("slow")
    wait_for(owner, "slow")
    slow = time.monotonic() - started
    spot.stop()

    field.spot(owner, watch_seconds=0.1)
    field.play("warm-2")
    wait_for(owner, "warm-2")
    started = time.monotonic()
    field.play("fast")
    wait_for(owner, "fast")

    assert time.monotonic() - started < slow
