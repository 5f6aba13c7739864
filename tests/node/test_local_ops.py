"""Digests and merges by the kit alone: what a person at the machine can do without the coordinator."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.ops import OPS, Context
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.node.zipped import build_zip
from tests.node.merging import game, record

SOURCE = "data/games/selfplay_hex8_2p.db"
STORE = "data/games/canonical_hex8_2p.db"
CONFIG = "hex8_2p"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "node"
    (root / "data/games").mkdir(parents=True)
    record(root / SOURCE, game("g1"), game("g2", length=9), game("q1", config="square8_2p"))
    return root


@pytest.fixture
def context(root: Path) -> Context:
    return Context(Roots([str(root)]), str(root / "data/.ringrift-sync"), 2_000_000_000.0)


def packed(context: Context) -> str:
    artifact: str = OPS["pack"](context, {"path": SOURCE, "config": CONFIG})["artifact"]
    return artifact


def merge(context: Context, sha: str, **changes: str | None) -> dict[str, Any]:
    order = {"pack": f"artifacts/{sha}", "into": STORE, "config": CONFIG, "artifact": sha, "node": "vast-1"}
    return OPS["merge"](context, {**order, **changes})


def digest(context: Context, path: str, **more: object) -> list[list[Any]]:
    games: list[list[Any]] = OPS["digest"](context, {"path": path, **more})["games"]
    return games


def test_games_are_digested_by_config_and_by_id(context: Context) -> None:
    everything = digest(context, SOURCE)

    assert [(found[0], len(found[1]), len(found[2]), found[3]) for found in everything] == [
        ("g1", 64, 64, 6), ("g2", 64, 64, 9), ("q1", 64, 64, 6),
    ]  # fmt: skip
    assert digest(context, SOURCE, config=CONFIG) == everything[:2]
    assert digest(context, SOURCE, ids=["q1", "g1", "no such game"]) == [everything[0], everything[2]]
    assert digest(context, SOURCE, ids=[]) == []


def test_more_games_than_a_page_are_digested_once_each(context: Context, root: Path) -> None:
    names = sorted(f"many-{number}" for number in range(501))
    record(root / "data/games/many.db", *(game(name, length=5) for name in names))
    assert [found[0] for found in digest(context, "data/games/many.db")] == names


def test_what_was_merged_has_the_digests_of_what_was_packed_and_again_changes_nothing(context: Context) -> None:
    artifact = packed(context)

    first, again = merge(context, artifact), merge(context, artifact)

    assert (first["new"], first["games"], first["changed"], first["asides"]) == (2, 2, True, [])
    assert (again["new"], again["same"], again["changed"]) == (0, 2, False)
    assert digest(context, STORE) == digest(context, SOURCE, config=CONFIG)


def test_a_game_that_does_not_enter_is_a_file_that_is_a_pack_of_it(context: Context, root: Path) -> None:
    record(root / "data/games/other.db", game("q1", config="square8_2p"))
    artifact = OPS["pack"](context, {"path": "data/games/other.db", "config": "square8_2p"})["artifact"]

    merged = merge(context, artifact)

    ((game_id, _identity, reason, file),) = merged["asides"]
    assert (game_id, reason, merged["new"]) == ("q1", "other_config", 0)
    assert [path.name for path in (root / "data/.ringrift-sync/asides").iterdir()] == [Path(file).name]
    assert list((root / "data/.ringrift-sync/tmp").iterdir()) == []


@pytest.mark.parametrize(
    "changes, code",
    [
        ({"artifact": "x"}, "bad_arguments"),
        ({"node": "a|b"}, "bad_arguments"),
        ({"node": None}, "bad_arguments"),
        ({"config": "square8_2p"}, "bad_arguments"),
        ({"into": SOURCE}, "bad_arguments"),
        ({"into": "data/unified_elo.db"}, "bad_arguments"),
        ({"into": "../x.db"}, "outside"),
        ({"pack": "../../x"}, "outside"),
        ({"pack": "artifacts/none"}, "missing"),
        ({"pack": SOURCE}, "corrupt"),
        ({"artifact": "0" * 64}, "corrupt"),
    ],
)
def test_a_merge_that_makes_no_sense_is_refused_and_leaves_no_database(
    context: Context, root: Path, changes: dict[str, str | None], code: str
) -> None:
    artifact = packed(context)
    with pytest.raises(KitError) as error:
        merge(context, artifact, **changes)
    assert error.value.code == code
    assert not (root / STORE).exists()


def test_a_database_that_we_made_takes_packs_whatever_it_is_called(context: Context, root: Path) -> None:
    artifact = packed(context)
    assert merge(context, artifact, into="data/games/mine.db")["new"] == 2
    assert merge(context, artifact, into="data/games/mine.db")["same"] == 2
    with contextlib.closing(sqlite3.connect(root / SOURCE)) as conn:
        assert conn.execute("SELECT COUNT(*) FROM sqlite_master WHERE name LIKE 'ringrift_%'").fetchone() == (0,)


def test_the_zip_digests_and_merges_by_itself(context: Context, root: Path, tmp_path: Path) -> None:
    build_zip(str(tmp_path / "kit.pyz"))
    artifact = packed(context)

    def run(op: str, **arguments: str) -> dict[str, object]:
        done = subprocess.run(
            [sys.executable, "-S", "-I", str(tmp_path / "kit.pyz"), op, "--root", str(root)],
            input=json.dumps(arguments), capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        result: dict[str, object] = json.loads(done.stdout)["result"]
        return result

    pack = f"data/.ringrift-sync/artifacts/{artifact}"
    assert run("merge", pack=pack, into=STORE, config=CONFIG, artifact=artifact, node="vast-1")["new"] == 2
    assert run("digest", path=STORE)["games"] == digest(context, SOURCE, config=CONFIG)
