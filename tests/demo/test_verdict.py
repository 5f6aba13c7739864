"""The verdict is good for what the real merge made, and breaks for every way in which a game can get lost or change."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.ledger import Plan
from ringrift_sync_dagster.demo.verdict import Verdict
from tests.demo.played import PlayedCluster


def canonical(cluster: PlayedCluster) -> Path:
    return cluster.layout.canonical("hex8_2p")


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as conn, conn:
        assert conn.execute(statement).rowcount > 0


def failed(verdict: Verdict) -> set[str]:
    return {check.question for check in verdict.checks if not check.passed}


ALL_THERE = "every complete game is in the canonical store"
NOTHING_ELSE = "nothing is there that nobody finished"
UNALTERED = "every canonical game is the game that was played"
DIGESTS = "identity digests are equal at the node, in the store and in its records"
QUARANTINE = "quarantine holds what was planned, each with its reason"
SOURCES = "the nodes' own databases hold what their writers played"
ORPHANS = "no row in the canonical store without its game"
FIRST = "(SELECT MIN(game_id) FROM games WHERE game_id NOT LIKE 'diversity%')"


def test_what_the_real_merge_made_is_good(collected_once: PlayedCluster) -> None:
    verdict = collected_once.judge()

    assert [str(check) for check in verdict.checks if not check.passed] == []
    assert {entry.plan for entry in verdict.finished} == set(Plan) - {Plan.UNFINISHED}
    assert verdict.passed


ROW_ALTERED = {UNALTERED, DIGESTS}
BREAKS = {
    "game deleted": (f"DELETE FROM games WHERE game_id = {FIRST}", {ALL_THERE, ORPHANS}),
    "renamed game deleted": ("DELETE FROM games WHERE game_id LIKE 'diversity%~%'", {ALL_THERE, ORPHANS}),
    "move altered": (
        f"UPDATE game_moves SET move_json = replace(move_json, 'player', 'Player') WHERE game_id = {FIRST}",
        ROW_ALTERED,
    ),
    "move deleted": (f"DELETE FROM game_moves WHERE move_number = 20 AND game_id = {FIRST}", ROW_ALTERED),
    "winner altered": (f"UPDATE games SET winner = 9 WHERE game_id = {FIRST}", ROW_ALTERED),
    "player altered": (f"UPDATE game_players SET ai_difficulty = 99 WHERE game_id = {FIRST}", ROW_ALTERED),
    "initial state": (f"UPDATE game_initial_state SET compressed = 1 WHERE game_id = {FIRST}", ROW_ALTERED),
    "recorded digest": (f"UPDATE ringrift_provenance SET identity = 'f' WHERE game_id = {FIRST}", {DIGESTS}),
    "no record": (f"DELETE FROM ringrift_provenance WHERE game_id = {FIRST}", {DIGESTS}),
    "game invented": (
        "INSERT INTO games (game_id, board_type, num_players, created_at, game_status) VALUES ('x', 'hex8', 2, '', '')",
        {NOTHING_ELSE, DIGESTS},
    ),
}


@pytest.mark.parametrize("how", BREAKS)
def test_the_verdict_breaks_when_a_canonical_row_is_deleted_altered_or_invented(
    collected: PlayedCluster, how: str
) -> None:
    statement, broken = BREAKS[how]
    change(canonical(collected), statement)

    assert failed(collected.judge()) == broken


def _forget(entry: Path) -> None:
    entry.unlink()
    entry.with_name(entry.name.replace(".json", ".bin")).unlink()


def _call_it_something_else(entry: Path) -> None:
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "reason": "other"}))


@pytest.mark.parametrize("breaking", [_forget, _call_it_something_else])
@pytest.mark.parametrize("reason", ["revision", "short"])
def test_the_verdict_breaks_when_a_quarantined_game_is_missing_or_has_another_reason(
    collected: PlayedCluster, breaking: Callable[[Path], None], reason: str
) -> None:
    records = collected.layout.quarantine.glob("*/*.json")
    breaking(next(path for path in records if json.loads(path.read_text())["reason"] == reason))

    assert failed(collected.judge()) == {QUARANTINE}


def test_the_verdict_breaks_when_a_node_lost_what_it_played(collected: PlayedCluster) -> None:
    change(
        collected.node_root("vast-900001") / "data/games/selfplay.db",
        "UPDATE games SET winner = 9 WHERE board_type = 'square8'",
    )

    assert SOURCES in failed(collected.judge())


def test_the_verdict_breaks_when_a_store_is_missing(collected: PlayedCluster) -> None:
    collected.layout.canonical("square8_2p").unlink()

    assert failed(collected.judge()) == {ALL_THERE}


def test_collecting_everything_again_changes_nothing(collected: PlayedCluster) -> None:
    before = collected.judge()
    collected.collect()
    after = collected.judge()

    assert (after.checks, after.canonical) == (before.checks, before.canonical)
