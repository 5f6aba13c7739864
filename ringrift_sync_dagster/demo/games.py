"""Games made up from a seed: rows for every column that upstream's programs fill, of plausible shape and size.

The same key gives the same game on every machine, so two nodes can play "the same game" without talking to each other,
and a longer version of a game starts with the very moves of the shorter one. Nothing here follows RingRift's rules;
sizes and columns do.
Source: upstream's games schema; 20 to 90 moves a game.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ringrift_sync_dagster.demo.content import Row, Rows, Value, fingerprint

SHORTEST, LONGEST = 20, 90  # moves of a made-up game
EPOCH: Final = datetime(2026, 3, 1, tzinfo=UTC)  # games are dated by their key, not by a clock
_BOARD_SIDE: Final = {"hex8": 9, "square8": 8, "square19": 19, "hexagonal": 25}
_FEATURE_BYTES: Final = 96
_PHASES: Final = (
    ("ring_placement", "place_ring"),
    ("movement", "move_stack"),
    ("capture", "overtaking_capture"),
    ("line_processing", "process_line"),
    ("territory_processing", "choose_territory_option"),
)
_ENDINGS: Final = ("ring_elimination", "territory_control", "last_player_standing", "trapped_players_stalemate")


@dataclass(frozen=True, slots=True)
class Game:
    """One finished game: its id, its config, and its rows by table under the column names of version 18."""

    game_id: str
    config: str
    rows: Rows

    @property
    def moves(self) -> list[Row]:
        """Rows of ``game_moves`` in order."""
        return self.rows["game_moves"]

    @property
    def fingerprint(self) -> str:
        """The demo's own fingerprint of what was played."""
        return fingerprint(self.rows)


def make_game(key: str, config: str, *, game_id: str = "", length: int = 0) -> Game:
    """Make up one finished game.

    Args:
        key: Source of all chance; the same key gives the same game.
        config: Config key such as ``hex8_2p``.
        game_id: Its id; without one, a version-4 UUID drawn from the key.
        length: Number of moves; without one, 20 to 90 drawn from the key.

    """
    rng = random.Random(key)
    drawn_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    drawn_length = rng.randint(SHORTEST, LONGEST)
    maker = _Maker(rng, config, game_id or drawn_id, length or drawn_length)
    return Game(maker.game_id, config, maker.rows())


class _Maker:
    """Draws one game; the order of the draws keeps a game's beginning independent of its length."""

    def __init__(self, rng: random.Random, config: str, game_id: str, length: int) -> None:
        self.game_id = game_id
        self._length = length
        self._board, players = config.rsplit("_", 1)
        self._players = int(players[0])
        self._side = _BOARD_SIDE[self._board]
        self._seed = rng.getrandbits(31)
        self._start = EPOCH + timedelta(milliseconds=rng.randrange(60 * 86_400_000))
        self._level = rng.randint(3, 9)
        self._rich = rng.random() < 0.08  # noqa: PLR2004 - one game in twelve keeps its search data, as upstream's gumbel runs do
        self._deep = rng.random() < 0.02  # noqa: PLR2004 - and one in fifty its full history and feature cache
        self._rng = rng

    def rows(self) -> Rows:
        """All rows of the finished game."""
        moves = [self._move(number) for number in range(1, self._length + 1)]
        return {
            "games": [self._game(moves)],
            "game_moves": moves,
            "game_players": [self._player(number) for number in range(1, self._players + 1)],
            "game_initial_state": [{"game_id": self.game_id, "initial_state_json": self._initial(), "compressed": 0}],
            "game_choices": [self._choice(move) for move in moves if move["move_type"] == "process_line"],
            "game_state_snapshots": self._each(moves[::20], self._snapshot) if self._rich else [],
            "game_history_entries": self._each(moves[:3], self._history) if self._deep else [],
            "game_nnue_features": self._each(moves[:3], self._features) if self._deep else [],
        }

    def _each(self, moves: list[Row], make: Callable[[Row], Row]) -> list[Row]:
        return [make(move) for move in moves]

    def _at(self, number: int) -> str:
        """Time of a move; upstream writes ISO 8601 with microseconds and offset."""
        return (self._start + timedelta(milliseconds=700 * number)).isoformat(timespec="microseconds")

    def _cell(self) -> dict[str, int]:
        x, y = self._rng.randrange(self._side), self._rng.randrange(self._side)
        return {"x": x, "y": y, "z": -x - y} if self._board.startswith("hex") else {"x": x, "y": y}

    def _move(self, number: int) -> Row:
        rng = self._rng
        player = (number - 1) % self._players + 1
        phase, move_type = _PHASES[0] if number <= 2 * self._players else rng.choices(_PHASES, (1, 10, 4, 1, 1))[0]
        at, think = self._at(number), rng.randrange(8, 900)
        text = {
            "id": f"{rng.getrandbits(48):012x}", "type": move_type, "player": player,
            "from": self._cell(), "to": self._cell(), "placementCount": rng.randint(1, 3),
            "timestamp": at, "thinkTime": think, "moveNumber": number,
        }  # fmt: skip
        row: Row = {
            "game_id": self.game_id, "move_number": number, "turn_number": (number + 1) // 2, "player": player,
            "phase": phase, "move_type": move_type, "move_json": json.dumps(text, separators=(",", ":")),
            "timestamp": at, "think_time_ms": think, "time_remaining_ms": max(0, 600_000 - number * 700),
        }  # fmt: skip
        if rng.random() < 0.3:  # noqa: PLR2004 - about a third of the moves carry the engine's view
            row |= self._engine()
        if self._rich:
            row |= self._search()
        return row

    def _engine(self) -> Row:
        rng = self._rng
        return {
            "engine_eval": round(rng.uniform(-1, 1), 4), "engine_eval_type": "heuristic",
            "engine_depth": rng.randint(2, 12), "engine_nodes": rng.randrange(200, 60_000),
            "engine_pv": f"{rng.getrandbits(24):06x}", "engine_time_ms": rng.randrange(5, 400),
        }  # fmt: skip

    def _search(self) -> Row:
        rng = self._rng
        probs = {f"{self._side * i + rng.randrange(self._side)}": round(rng.random(), 5) for i in range(8)}
        stats = {"visits": rng.randrange(16, 800), "q": round(rng.uniform(-1, 1), 5), "candidates": rng.randint(4, 16)}
        return {
            "move_probs": json.dumps(probs), "search_stats_json": json.dumps(stats),
            "heuristic_features": rng.randbytes(_FEATURE_BYTES),
        }  # fmt: skip

    def _game(self, moves: list[Row]) -> Row:
        rng, length = self._rng, len(moves)
        quality = round(rng.uniform(0.3, 0.98), 4)
        checked = rng.random() < 0.5  # noqa: PLR2004 - half of the games have been replayed by the parity check
        return {
            "game_id": self.game_id, "board_type": self._board, "num_players": self._players, "rng_seed": self._seed,
            "created_at": self._at(0), "completed_at": self._at(length + 1), "game_status": "completed",
            "winner": rng.randint(1, self._players), "termination_reason": rng.choice(_ENDINGS), "total_moves": length,
            "total_turns": (length + 1) // 2, "duration_ms": 700 * length, "source": "selfplay", "schema_version": 18,
            "time_control_type": "rapid", "initial_time_ms": 600_000, "time_increment_ms": 0,
            "metadata_json": json.dumps({"host_seed": self._seed, "engine": "descent", "difficulty": self._level}),
            "quality_score": quality, "quality_category": "high" if quality > 0.7 else "medium",  # noqa: PLR2004
            "engine_mode": rng.choice(("gumbel-mcts", "descent-only", "mixed")),
            "parity_status": "passed" if checked else "pending", "parity_divergence_move": None,
            "parity_checked_at": self._at(length + 60) if checked else None, "opponent_type": "selfplay",
            "opponent_model_id": f"canonical_{self._board}",
        }  # fmt: skip

    def _player(self, number: int) -> Row:
        rng = self._rng
        return {
            "game_id": self.game_id, "player_number": number, "player_type": "ai",
            "ai_type": rng.choice(("gumbel", "descent")), "ai_difficulty": self._level,
            "ai_profile_id": f"profile_{rng.randrange(40)}", "final_eliminated_rings": rng.randrange(19),
            "final_territory_spaces": rng.randrange(33), "final_rings_in_hand": rng.randrange(6),
        }  # fmt: skip

    def _initial(self) -> str:
        """The initial state: an empty board and the players' stocks (2 to 4 kB)."""
        cells = {f"{x},{y}": None for x in range(self._side) for y in range(self._side)}
        stocks = [{"playerNumber": n, "ringsInHand": 18, "eliminatedRings": 0} for n in range(1, self._players + 1)]
        board = {"type": self._board, "size": self._side, "cells": cells, "collapsedSpaces": {}}
        return json.dumps({"id": self.game_id, "board": board, "players": stocks, "rngSeed": self._seed})

    def _choice(self, move: Row) -> Row:
        options = ["collapse_all", "minimum_collapse"]
        return {
            "game_id": self.game_id, "move_number": move["move_number"], "choice_type": "line_reward_option",
            "player": move["player"], "options_json": json.dumps(options),
            "selected_option_json": json.dumps(self._rng.choice(options)), "ai_reasoning": None,
        }  # fmt: skip

    def _snapshot(self, move: Row) -> Row:
        state = json.dumps({"moveNumber": move["move_number"], "stacks": [self._cell() for _ in range(12)]})
        return {
            "game_id": self.game_id, "move_number": move["move_number"], "state_json": state, "compressed": 0,
            "state_hash": f"{self._rng.getrandbits(64):016x}",
        }  # fmt: skip

    def _history(self, move: Row) -> Row:
        hashes: tuple[Value, Value] = (f"{self._rng.getrandbits(64):016x}", f"{self._rng.getrandbits(64):016x}")
        progress = json.dumps({"markers": self._rng.randrange(9), "collapsed": 0, "eliminated": 0})
        summary = json.dumps({"stacks": self._rng.randrange(20), "markers": self._rng.randrange(20)})
        return {
            "game_id": self.game_id, "move_number": move["move_number"], "player": move["player"],
            "phase_before": move["phase"], "phase_after": "movement", "status_before": "active",
            "status_after": "active", "progress_before_json": progress, "progress_after_json": progress,
            "state_hash_before": hashes[0], "state_hash_after": hashes[1],
            "board_summary_before_json": summary, "board_summary_after_json": summary, "state_before_json": "{}",
            "state_after_json": "{}", "compressed_states": 0, "available_moves_json": "[]",
            "available_moves_count": self._rng.randint(1, 200), "engine_eval": None, "engine_depth": None,
            "fsm_valid": 1, "fsm_error_code": None,
        }  # fmt: skip

    def _features(self, move: Row) -> Row:
        return {
            "game_id": self.game_id, "move_number": move["move_number"], "player_perspective": move["player"],
            "features": self._rng.randbytes(_FEATURE_BYTES), "value": float(self._rng.choice((-1, 0, 1))),
            "board_type": self._board, "feature_dim": 2138,
        }  # fmt: skip
