"""The self-play writer of one node: a process that keeps finishing games into databases, and says so in its ledger.

    python -m ringrift_sync_dagster.demo.selfplay --node vast-900001 --root R --ledger FILE --seed 7 --rate 10

Normal games and the scenario's cases alternate. SIGUSR1 brings on the late cases (those after the first run); SIGTERM
ends it between two transactions and leaves the game at hand unfinished, as a stopped program does. Started again with
the same ledger it goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import sys
import time
from collections import deque
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.demo import scenario
from ringrift_sync_dagster.demo.games import Game
from ringrift_sync_dagster.demo.ledger import Entry, Ledger, Plan, read_ledger
from ringrift_sync_dagster.demo.recorder import MOVES_PER_COMMIT, Recorder, is_finished
from ringrift_sync_dagster.demo.scenario import Case, GamesFile
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.settings import clock

_CASE_EVERY: Final = 2  # every second game is a case, while there are any
_BATCH: Final = 100  # games of the backlog in one transaction
_UNFINISHED_MOVES: Final = 7


class _StopError(Exception):
    """The writer was asked to end."""


class Writer:
    """Plays one node's games; everything it does follows from the seed and its ledger."""

    def __init__(self, node: str, root: Path, ledger: Path, seed: int, rate: float) -> None:
        self._node, self._root, self._seed, self._rate = node, root, seed, rate
        self._files = scenario.files_of(node)
        self._exit = ExitStack()
        _settle_doubts(root, ledger)
        known = read_ledger(ledger)
        self._played = {file.path: sum(e.path == file.path and _is_numbered(e) for e in known) for file in self._files}
        self._ledger = self._exit.enter_context(Ledger(ledger))
        self._recorders = {
            file.path: self._exit.enter_context(Recorder(root / file.path, file.dialect)) for file in self._files
        }
        begun = {(entry.path, entry.game_id) for entry in known}
        # A case that an earlier writer began stays as it left it, finished or not: its id is taken.
        cases = [c for c in scenario.cases_of(seed, node) if (c.file.path, c.game.game_id) not in begun]
        self._soon = deque(case for case in cases if not case.late)
        self._late = [case for case in cases if case.late]
        self._stopping = self._late_wanted = False

    def ask_to_stop(self) -> None:
        """End before the next transaction; safe to call from a signal handler."""
        self._stopping = True

    def ask_for_late_cases(self) -> None:
        """Play the late cases as well from now on; safe to call from a signal handler."""
        self._late_wanted = True

    def play_backlog(self, games: int) -> None:
        """Fill the first database with normal games up to ``games``, in large transactions and at full speed."""
        file = self._files[0]
        while not self._stopping and self._played[file.path] < games:
            first = self._played[file.path]
            batch = [
                scenario.normal_game(self._seed, file, number) for number in range(first, min(games, first + _BATCH))
            ]
            entries = [self._entry(Plan.NORMAL, file, game) for game in batch]
            self._ledger.playing(entries)
            self._recorders[file.path].record_all(batch)
            self._ledger.finished(entries)
            self._played[file.path] += len(batch)

    def run(self, games: int | None) -> None:
        """Play ``games`` games, or until asked to stop; closes its files at the end."""
        with self._exit:
            try:
                number = 0
                while games is None or number < games:
                    began = clock.monotonic()
                    self._next(number)
                    self._rest_until(began + 1 / self._rate)
                    number += 1
            except _StopError:
                pass

    def _next(self, number: int) -> None:
        if self._late_wanted:
            self._soon.extend(self._late)
            self._late = []
        if self._soon and number % _CASE_EVERY == 0:
            self._play_case(self._soon.popleft())
            return
        file = self._files[number // _CASE_EVERY % len(self._files)]
        game = scenario.normal_game(self._seed, file, self._played[file.path])
        self._played[file.path] += 1
        self._play(Plan.NORMAL, file, game)

    def _play_case(self, case: Case) -> None:
        if case.late_half:
            self._complete(case.plan, case.file, case.game, _UNFINISHED_MOVES)
        elif case.plan in (Plan.UNFINISHED, Plan.LATE):
            self._begin(case.plan, case.file, case.game)
        else:
            self._play(case.plan, case.file, case.game)
        if case.plan is Plan.LATE and not case.late_half:
            self._late.append(replace(case, late_half=True))

    def _begin(self, plan: Plan, file: GamesFile, game: Game) -> None:
        """Begin a game and leave it: an unfinished one."""
        recorder = self._recorders[file.path]
        self._ledger.unfinished(self._entry(plan, file, game))
        recorder.begin(game)
        recorder.play(game, 0, _UNFINISHED_MOVES)

    def _play(self, plan: Plan, file: GamesFile, game: Game) -> None:
        self._ledger.unfinished(self._entry(plan, file, game))
        self._recorders[file.path].begin(game)
        self._complete(plan, file, game, 0)

    def _complete(self, plan: Plan, file: GamesFile, game: Game, first: int) -> None:
        """Play the moves from ``first`` on in small transactions and finish the game."""
        recorder = self._recorders[file.path]
        while first < len(game.moves):
            self._check()
            recorder.play(game, first, MOVES_PER_COMMIT)
            first += MOVES_PER_COMMIT
        self._check()
        entry = self._entry(plan, file, game)
        self._ledger.playing([entry])
        recorder.finish(game)
        self._ledger.finished([entry])

    def _check(self) -> None:
        if self._stopping:
            raise _StopError

    def _rest_until(self, moment: float) -> None:
        while (left := moment - clock.monotonic()) > 0:
            self._check()
            time.sleep(min(left, 0.05))
        self._check()

    def _entry(self, plan: Plan, file: GamesFile, game: Game) -> Entry:
        row = game.rows["games"][0]
        seed, created = row["rng_seed"], row["created_at"]
        if not isinstance(seed, int):
            raise TypeError(f"game {game.game_id} has no whole number as its seed: {seed!r}")
        return Entry(
            plan,
            self._node,
            file.path,
            game.config,
            game.game_id,
            game.fingerprint,
            len(game.moves),
            seed,
            str(created),
        )


def _is_numbered(entry: Entry) -> bool:
    """Whether the game took one of the numbers of ``scenario.normal_game``."""
    return entry.plan is Plan.NORMAL


def _settle_doubts(root: Path, ledger: Path) -> None:
    """Look up the games around whose last commit an earlier writer was killed, and write down how they ended."""
    doubts = [entry for entry in read_ledger(ledger) if entry.in_doubt]
    if not doubts:
        return
    with Ledger(ledger) as book:
        for entry in doubts:
            if _is_over(root / entry.path, entry.game_id):
                book.finished([entry])
            else:
                book.unfinished(entry)


def _is_over(path: Path, game_id: str) -> bool:
    """Whether a game was finished; one whose database went with its node was not."""
    if not path.exists():
        return False
    with closing(sqlite3.connect(path)) as conn:
        return is_finished(conn, game_id)


def write_bystanders(root: Path, seed: int, node: str) -> None:
    """Put beside the games what is counted and never collected: evaluation games, JSONL, a ``.writing`` marker."""
    tournament = GamesFile(node, "data/games/tournament_hex8_2p.db", Dialect.V18, ("hex8_2p",))
    evaluation = [scenario.normal_game(seed, tournament, number) for number in range(6)]
    with Recorder(root / tournament.path, tournament.dialect) as recorder:
        recorder.record_all(evaluation)
    lines = root / "data/selfplay/raw/games_000.jsonl"
    lines.parent.mkdir(parents=True, exist_ok=True)
    lines.write_text("".join(json.dumps({"game_id": game.game_id}) + "\n" for game in evaluation))
    (root / f"{scenario.files_of(node)[0].path}.writing").write_text("")


def main(arguments: list[str]) -> int:
    """Run one writer to its end."""
    parser = argparse.ArgumentParser(
        prog="selfplay", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--node", required=True)
    parser.add_argument("--root", type=Path, required=True, help="the node's ai-service directory")
    parser.add_argument("--ledger", type=Path, required=True, help="file to append to")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=float, default=10.0, help="games per second")
    parser.add_argument("--games", type=int, default=None, help="stop after so many games (default: at SIGTERM)")
    parser.add_argument("--backlog", type=int, default=0, help="first fill the first database up to so many games")
    options = parser.parse_args(arguments)
    writer = Writer(options.node, options.root, options.ledger, options.seed, options.rate)
    signal.signal(signal.SIGTERM, lambda *_: writer.ask_to_stop())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the one who started us says when
    signal.signal(signal.SIGUSR1, lambda *_: writer.ask_for_late_cases())
    writer.play_backlog(options.backlog)
    writer.run(options.games)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
