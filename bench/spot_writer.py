"""Self-play on several nodes from one program: games that take their time, with a note of each commit.

    python -m bench.spot_writer SEED RATE SECONDS [--apart] [--at-once] DATABASE=LOG ...

Each database gets ``RATE`` games a second, begun, played in small commits and finished as upstream's self-play does,
spread over the time that a game has; with ``--at-once`` they come one right after the other at its end, as from a
program that stores a game when it is over. The log has a line for each game, ``id wall-time``, written after the commit
that finishes it, and one for the length of each commit in ``<log>.commits``. With ``--apart`` each database has a
process of its own, and ``name pid`` is printed for it. ``ready`` is printed when the first game begins.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.data import CONFIG
from ringrift_sync_dagster.demo.games import Game, make_game
from ringrift_sync_dagster.demo.recorder import MOVES_PER_COMMIT, Recorder
from ringrift_sync_dagster.demo.schemas import Dialect
from ringrift_sync_dagster.settings import clock

_SHARE: Final = 0.9  # of the time between two games is played

Step = tuple[float, Callable[[], None]]
"""When to do something, in seconds after the beginning, and what."""


class _Player:
    """The self-play of one node."""

    def __init__(self, database: Path, log: Path, seed: str, *, at_once: bool) -> None:
        self._recorder = Recorder(database, Dialect.V18)
        self._log, self._commits = (file.open("a", encoding="ascii") for file in (log, Path(f"{log}.commits")))
        self._seed, self._share = seed, 0.0 if at_once else _SHARE

    def steps(self, rate: float, seconds: float, offset: float) -> Iterator[Step]:
        """Give what to do when, in order of time."""
        for number in range(int(rate * seconds)):
            began = (number + offset) / rate
            game = make_game(f"{self._seed}-{number}", CONFIG)
            firsts = range(0, len(game.moves), MOVES_PER_COMMIT)
            gap = self._share / rate / (len(firsts) + 1)
            yield began, lambda game=game: self._timed(lambda: self._recorder.begin(game))  # type: ignore[misc]
            for index, first in enumerate(firsts):
                play = lambda game=game, first=first: self._recorder.play(game, first, MOVES_PER_COMMIT)  # noqa: E731
                yield began + (index + 1) * gap, lambda play=play: self._timed(play)  # type: ignore[misc]
            yield began + (len(firsts) + 1) * gap, lambda game=game: self._finish(game)  # type: ignore[misc]

    def _finish(self, game: Game) -> None:
        self._timed(lambda: self._recorder.finish(game))
        self._log.write(f"{game.game_id} {clock.wall():.6f}\n")
        self._log.flush()

    def _timed(self, commit: Callable[[], None]) -> None:
        began = time.perf_counter()
        commit()
        self._commits.write(f"{time.perf_counter() - began:.6f}\n")

    def close(self) -> None:
        for file in (self._log, self._commits):
            file.close()
        self._recorder.__exit__(None, None, None)


def _play(players: list[_Player], rate: float, seconds: float) -> None:
    """Do what is due, of the player who is furthest behind first."""
    ways = [player.steps(rate, seconds, index / len(players)) for index, player in enumerate(players)]
    heads = {index: step for index, way in enumerate(ways) if (step := next(way, None)) is not None}
    began = clock.monotonic()
    while heads:
        index = min(heads, key=lambda one: heads[one][0])
        at, work = heads.pop(index)
        time.sleep(max(0.0, began + at - clock.monotonic()))
        work()
        if (step := next(ways[index], None)) is not None:
            heads[index] = step


def main(arguments: list[str]) -> int:
    """Play to the end."""
    apart, at_once = "--apart" in arguments, "--at-once" in arguments
    seed, rate, seconds, *places = (one for one in arguments if not one.startswith("--"))
    pairs = [place.split("=") for place in places]
    children = list[int]()
    if apart:
        for number, pair in enumerate(pairs):
            if not (child := os.fork()):
                time.sleep(number / len(pairs) / float(rate))  # nodes do not begin together
                pairs, children = [pair], []
                break
            print(Path(pair[0]).parents[2].name, child, flush=True)
            children.append(child)
    if not apart or not children:
        with ExitStack() as stack:
            players = []
            for database, log in pairs:
                players.append(
                    _Player(Path(database), Path(log), f"{seed}-{Path(database).parents[2].name}", at_once=at_once)
                )
                stack.callback(players[-1].close)
            if not apart:
                print("ready", flush=True)
            _play(players, float(rate), float(seconds))
        return 0
    print("ready", flush=True)
    for child in children:
        os.waitpid(child, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
