"""A writer of one node: finishes games into two databases, and says so, with the time, in a ledger of its own.

    python -m tests.ledger.writer --node spot-0 --root R --ledger FILE --seed 7 --rate 2

The ledger is the demo's (synced before and after each last commit), and lies outside the node's directory.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from ringrift_sync_dagster.demo.games import Game, make_game
from ringrift_sync_dagster.demo.ledger import Entry, Ledger, Plan
from ringrift_sync_dagster.demo.recorder import MOVES_PER_COMMIT, Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.settings import clock

FILES = (
    ("data/games/selfplay.db", Dialect.V18, ("hex8_2p", "square8_2p")),
    ("data/selfplay/p2p/hex8_4p/s1/games.db", Dialect.V12, ("hex8_4p",)),
)


class TimedLedger(Ledger):
    """A ledger that says when a game was finished, too; readers of the demo's ledgers pass that over."""

    def finished(self, entries: list[Entry]) -> None:
        """Say that these games were committed, and when."""
        now = clock.wall()
        self._write([{"event": "finished", "path": one.path, "game_id": one.game_id, "at": now} for one in entries])


def finish_times(ledger: Path) -> dict[str, float]:
    """Give when each game of a ledger was finished, in seconds since 1970; those in doubt are left out."""
    lines = ledger.read_text().split("\n")[:-1] if ledger.exists() else []
    found = (json.loads(line) for line in lines if '"at":' in line)
    return {str(one["game_id"]): float(one["at"]) for one in found}


def play(recorder: Recorder, game: Game) -> None:
    """Write a game but for its last commit."""
    recorder.begin(game)
    for first in range(0, len(game.moves), MOVES_PER_COMMIT):
        recorder.play(game, first, MOVES_PER_COMMIT)


def main(arguments: list[str]) -> int:
    """Play until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    options = parser.parse_args(arguments)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    with ExitStack() as stack:
        ledger = stack.enter_context(TimedLedger(options.ledger))
        recorders = [stack.enter_context(Recorder(options.root / path, dialect)) for path, dialect, _ in FILES]
        number, began = 0, clock.monotonic()
        while not ended:
            turn = number % len(FILES)
            (path, _, configs), recorder = FILES[turn], recorders[turn]
            config = configs[number // len(FILES) % len(configs)]
            game = make_game(f"{options.seed}:{options.node}:{number}", config)
            row, content, moves = game.rows["games"][0], game.fingerprint, len(game.moves)
            seed, created = int(str(row["rng_seed"])), str(row["created_at"])
            entry = Entry(Plan.NORMAL, options.node, path, config, game.game_id, content, moves, seed, created)
            play(recorder, game)
            ledger.playing([entry])
            recorder.finish(game)
            ledger.finished([entry])
            number += 1
            while not ended and (left := began + number / options.rate - clock.monotonic()) > 0:
                time.sleep(min(left, 0.05))
            began = max(began, clock.monotonic() - number / options.rate)  # what was missed is not made up for
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
