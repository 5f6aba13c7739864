"""What went wrong before this program, where no other test holds it; docs/incidents.md has the list."""

from __future__ import annotations

import stat
from pathlib import Path

from ringrift_sync_dagster.storage.canonical import CanonicalStore
from ringrift_sync_dagster.storage.layout import Layout
from tests.node.merging import game
from tests.sync.conftest import Field
from tests.sync.test_collect import A, ids

CONFIG = "square8_2p"


def test_what_a_node_deletes_stays_with_the_owner(field_: Field) -> None:
    path = field_.play(A, "data/games/x.db", game("g1", config=CONFIG))
    field_.one(CONFIG, A)

    for file in path.parent.glob("x.db*"):
        file.unlink()
    gone = field_.one(CONFIG, A)
    field_.play(A, "data/games/x.db", game("g2", config=CONFIG))
    again = field_.one(CONFIG, A)

    assert (gone.failure, gone.canonical_games, again.games_new) == (None, 1, 1)
    assert ids(field_, CONFIG) == ["g1", "g2"]


def test_games_in_every_folder_of_a_node_arrive(field_: Field) -> None:
    folders = (
        "data/games", "data/games/synced/vast-1", "data/games/owc_imports", "data/games/deep/er", "data/selfplay",
        "data/selfplay/square8_2p/run_7",
    )  # fmt: skip
    for number, folder in enumerate(folders):
        field_.play(A, f"{folder}/games.db", game(f"g{number}", config=CONFIG))

    field_.one(CONFIG, A)

    assert ids(field_, CONFIG) == [f"g{number}" for number in range(len(folders))]


def test_training_may_read_what_was_collected(field_: Field) -> None:
    field_.play(A, "data/games/x.db", game("g1", config=CONFIG))
    field_.one(CONFIG, A)

    path: Path = field_.canonical(CONFIG)

    assert path == Layout(field_.base / "root").canonical(CONFIG)
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    assert CanonicalStore(Layout(field_.base / "root")).games(CONFIG) == 1


def test_a_node_that_failed_is_asked_again_by_the_next_pass(field_: Field) -> None:
    field_.play(A, "data/games/x.db", game("g1", config=CONFIG))
    good = field_.settings
    field_.settings = good.model_copy(update={"token_file": field_.base / "none.jwt"})
    failures = [field_.one(CONFIG, A).failure for _ in range(5)]

    field_.settings = good
    after = field_.one(CONFIG, A)

    assert None not in failures
    assert (after.failure, after.games_new) == (None, 1)
