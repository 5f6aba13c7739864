"""A game that is finished on a node that may vanish is soon on one that stays, and leaves the outbox only then."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from ringrift_sync_dagster.agent.asking import Saved, write_through
from ringrift_sync_dagster.demo.recorder import Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.conftest import StartAgent
from tests.agent.through_parts import DATABASE, SPOT, Field, arrived, outbox_of, status, wait_for, wait_until_empty
from tests.node.merging import game, give_up

Ask = Callable[..., Saved]


@pytest.fixture
def field(start_agent: StartAgent, tmp_path: Path) -> Field:
    return Field(start_agent, tmp_path)


class Shared(Field):
    """A field whose agents run for several tests; each test plays games of its own."""

    owner: AgentProcess
    node: AgentProcess

    def saved(self, game_id: str, database: str | Path = DATABASE, **more: Any) -> Saved:  # noqa: ANN401
        token = self.folder / SPOT / "token.jwt"
        return write_through(game_id, database, **{"timeout": 15, "url": self.node.url, "token_file": token, **more})


@pytest.fixture(scope="module")
def shared(
    coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    with ExitStack() as stack:

        def start(**settings: Any) -> AgentProcess:  # noqa: ANN401 - fields of AgentProcess
            return stack.enter_context(AgentProcess(host=next(free_addresses), key=coordinator_key, **settings))

        found = Shared(start, tmp_path_factory.mktemp("through"))
        found.owner = found.receiver()
        found.node = found.spot(found.owner, drain_seconds=2.0)
        yield found


def test_a_finished_game_is_at_the_coordinator_about_a_second_later(shared: Shared) -> None:
    shared.play("warm")
    wait_for(shared.owner, "warm")

    started = time.monotonic()
    shared.play("g1")
    saved = shared.saved("g1")

    print(f"finished to durable: {time.monotonic() - started:.2f} s")
    assert (bool(saved), saved.reason) == (True, "")
    assert arrived(shared.owner).count("g1") == 1
    assert shared.saved("g1", shared.node.root / DATABASE, timeout=0)


@pytest.mark.cluster
def test_a_new_database_and_a_first_game_of_another_config_are_found(shared: Shared) -> None:
    shared.play("n1", database="data/games/new.db")
    wait_for(shared.owner, "n1")

    shared.play("n2", database="data/games/new.db", config="square8_3p")

    wait_for(shared.owner, "n2")


def test_games_that_self_play_gives_up_cost_no_game_a_second_journey(shared: Shared) -> None:
    """Their rows are deleted, and the next game takes the rowid of the newest: nothing else is read again for it."""
    database = shared.node.root / DATABASE
    shared.play("before giving up")
    for number in range(3):
        with Recorder(database, Dialect.V18) as recorder:
            recorder.begin(game(f"given up {number}"))
        assert not shared.saved(f"given up {number}", timeout=0.1)  # it was looked at
        give_up(database, f"given up {number}")
        shared.play(f"after {number}")
        assert shared.saved(f"after {number}")

    found = arrived(shared.owner)
    assert [found.count(key) for key in ("before giving up", "after 0", "after 1", "after 2")] == [1, 1, 1, 1]


def test_a_game_that_is_not_over_stays_until_it_is(shared: Shared) -> None:
    open_game = game("open")
    with Recorder(shared.node.root / DATABASE, Dialect.V18) as recorder:
        recorder.begin(open_game)
        recorder.play(open_game, 0, 3)
        shared.play("after")
        wait_for(shared.owner, "after")

        not_yet = shared.saved("open", timeout=0.3)
        assert (not_yet.durable, "finished" in not_yet.reason) == (False, True)
        assert "open" not in arrived(shared.owner)

        recorder.play(open_game, 3, len(open_game.moves) - 3)
        recorder.finish(open_game)
    assert shared.saved("open")
    assert "open" in arrived(shared.owner)


def test_upstream_bug_9_one_game_more_costs_the_bytes_of_one_game(shared: Shared) -> None:
    shared.play(*(f"many-{number}" for number in range(60)), database="data/games/large.db")
    wait_for(shared.owner, "many-59")
    before = {path.name: path.stat().st_size for path in (shared.owner.scratch / "incoming" / SPOT).iterdir()}

    shared.play("one-more", database="data/games/large.db")
    wait_for(shared.owner, "one-more")

    new = [path for path in (shared.owner.scratch / "incoming" / SPOT).iterdir() if path.name not in before]
    assert [len(arrived(shared.owner)), len(new)] == [len(set(arrived(shared.owner))), 1]
    assert new[0].stat().st_size < max(before.values()) / 4


def test_a_question_that_makes_no_sense_is_answered_and_a_game_of_no_database_too(shared: Shared) -> None:
    shared.play("here")
    wait_for(shared.owner, "here")

    assert "is no games database of this node" in shared.saved("g1", "data/games/none.db").reason
    assert "is no games database of this node" in shared.saved("g1", "/etc/passwd").reason
    assert "timeout must be" in shared.saved("g1", timeout=-1).reason
    assert "game_id and db_path must be text" in shared.saved("").reason
    assert "does not hold this game" in shared.saved("nobody", timeout=0.2).reason


def test_only_a_program_with_the_nodes_own_token_may_ask(shared: Shared) -> None:
    body = {"game_id": "g1", "db_path": DATABASE, "timeout": 0}

    for token in (shared.node.token("node", sub="spot-2"), shared.node.token("relay", sub="spot-2")):
        answer = shared.node.request("POST", "/v1/write-through", token=token, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "loopback_only")
        assert shared.node.request("POST", "/v1/drain", token=token, json={}).status_code == 403
    assert requests.post(f"{shared.node.url}/v1/write-through", json=body, timeout=5).status_code == 401


def test_an_agent_without_write_through_says_so_and_so_does_one_that_is_away(shared: Shared) -> None:
    assert "write-through is off" in shared.saved("g1", url=shared.owner.url).reason
    assert "cannot be asked" in shared.saved("g1", url="http://127.0.0.1:9").reason


def test_the_databases_are_not_changed_by_the_watch(shared: Shared) -> None:
    shared.play("quiet", database="data/games/quiet.db")
    wait_for(shared.owner, "quiet")
    path = shared.node.root / "data/games/quiet.db"
    before = path.read_bytes()
    time.sleep(0.5)

    assert path.read_bytes() == before
    with sqlite3.connect(path) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    conn.close()


def test_status_says_what_is_at_risk(shared: Shared) -> None:
    shared.play("there")
    wait_for(shared.owner, "there")
    wait_until_empty(shared.node)

    found = status(shared.node)

    assert (found["games"], found["bytes"], found["oldest_age_seconds"], found["draining"]) == (0, 0, None, False)
    assert found["databases"] >= 1


@pytest.mark.cluster
def test_upstream_bug_7_an_error_while_verifying_makes_nothing_durable(field: Field) -> None:
    broken = field.folder / "broken"
    broken.touch()
    faults = "__import__('importlib').import_module('ringrift_sync_dagster.node.faults')"
    fails = f"lambda name: name == 'incoming.verify' and Path({str(broken)!r}).exists() and (_ for _ in ()).throw({{}})"
    hook = fails.format("OSError(5, 'Input/output error')")
    owner = field.start(
        node="owner", root=field.folder / "owner", trusted=("127.0.0.0/8",),
        more={"is_ephemeral": f"bool(setattr({faults}, 'hook', {hook}))"},
    )  # fmt: skip
    spot = field.spot(owner, drain_seconds=0.5)
    field.play("g1")
    wait_until(lambda: "Input/output error" in status(spot)["error"])

    assert (arrived(owner), status(spot)["games"]) == ([], 1)
    assert "Input/output error" in write_through(
        "g1", spot.root / DATABASE, 0.2, url=spot.url, token_file=spot.root / "token.jwt"
    ).reason  # fmt: skip

    broken.unlink()
    wait_for(owner, "g1")
    wait_until_empty(spot)


@pytest.mark.cluster
def test_upstream_bug_11_without_a_word_that_it_stays_no_copy_counts(field: Field) -> None:
    owner, other = field.receiver(ephemeral=True), field.receiver("spot-2", ephemeral=True)
    spot = field.spot(owner, other, drain_seconds=0.5)
    field.play("g1")
    wait_for(owner, "g1")

    time.sleep(1.0)

    found = status(spot)
    assert (found["games"], found["outbox_packs"]) == (1, 1)
    assert "does not say that it stays" in found["error"]
    spot.stop()
    with outbox_of(spot) as outbox:
        assert outbox.ids(10) == ["g1"]
        assert outbox.entries()[0].copies[owner.node] is False


@pytest.mark.cluster
def test_upstream_bug_6_and_2_what_waited_is_pushed_after_a_restart_without_another_game(field: Field) -> None:
    owner = field.receiver()
    owner.stop()
    spot = field.spot(owner, drain_seconds=0.2)
    field.play("g1", "g2")
    wait_until(lambda: status(spot)["games"] == 2)
    spot.kill()
    owner.start()

    spot.start()

    wait_for(owner, "g1", "g2")
    wait_until_empty(spot)
    assert arrived(owner) == ["g1", "g2"]
