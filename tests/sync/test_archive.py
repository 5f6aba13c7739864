"""Archives: what is copied, what a later loss or crash leaves of them, and that a check finds every kind of damage."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.exports import model_bytes, write_model
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.ratings import make_matches, write_matches
from ringrift_sync_dagster.errors import ArchiveError
from ringrift_sync_dagster.node.digest import digest_of, renamed_id
from ringrift_sync_dagster.storage.archive import ArchiveDirectory, Paced
from ringrift_sync_dagster.sync import archive as archiving
from ringrift_sync_dagster.sync import audit
from ringrift_sync_dagster.sync.archive import Archived, archive
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.restore_check import RestoreChecked, restore_check
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.marks import first_of
from tests.sync.conftest import Field
from tests.sync.test_collect import A

CONFIG = "hex8_2p"
GAMES = f"data/games/canonical_{CONFIG}.db"

# The command line, killed when it reaches a point of its work.
KILLED = """
import os, signal, sys
from ringrift_sync_dagster.cli.main import main
from ringrift_sync_dagster.node import faults

def die(point):
    if point == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)

faults.hook = die
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def store(field_: Field) -> Path:
    """A store with games, a promoted model and matches; give a place for archives."""
    field_.play(A, "data/games/selfplay.db", *[make_game(f"g-{n}", CONFIG, game_id=f"g-{n}") for n in range(5)])
    write_matches(field_.cluster.node_root(A) / "data" / "unified_elo.db", make_matches("m", CONFIG, 4))
    with Runtime.open(field_.settings) as runtime:
        runtime.files.publisher.promote(CONFIG, write_model(field_.base / "best.pth", "best"), trigger="test")
        kinds = [DataType.GAMES, DataType.ELO]
        for report in move(runtime, Request(kinds, [CONFIG], [A], "test", down=False)).values():
            report.raise_if_failed()
    return field_.base / "archives"


def write(field_: Field, place: Path, *, dry_run: bool = False) -> Archived:
    with Runtime.open(field_.settings) as runtime:
        return archive(runtime, place, configs=[CONFIG], dry_run=dry_run)


def check(field_: Field, place: Path, name: str = "", out: Path | None = None) -> RestoreChecked:
    with Runtime.open(field_.settings) as runtime:
        return restore_check(runtime, place, name=name, seed=1, out=out)


def objects(place: Path) -> set[str]:
    return {path.name for path in (place / "objects").rglob("*") if path.is_file()}


def on_games(field_: Field, statement: str) -> None:
    with sqlite3.connect(field_.canonical(CONFIG)) as connection:
        connection.execute(statement)
    connection.close()


def test_an_archive_holds_the_whole_store_and_the_next_one_of_the_same_costs_nothing(
    field_: Field, store: Path
) -> None:
    first = write(field_, store)
    kept = objects(store)
    second = write(field_, store)

    assert {one.path: one.games for one in first.files if one.games} == {GAMES: 5}
    assert {one.data_type for one in first.files} == {"games", "elo", "models"}
    assert first.copied_bytes > 0
    assert (second.copied_bytes, objects(store)) == (0, kept)
    assert ArchiveDirectory(store).names() == [first.name, second.name]
    assert check(field_, store).troubles == []


@pytest.mark.cluster
def test_what_the_store_loses_and_gains_later_changes_no_archive(field_: Field, store: Path) -> None:
    first = write(field_, store)
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    field_.play(A, "data/games/selfplay.db", make_game("g-late", CONFIG))
    assert field_.one(CONFIG).games_new == 1
    second = write(field_, store)
    for path in (field_.base / "root" / "models").rglob("*.pth"):
        path.unlink()
    third = write(field_, store)

    assert {path: path.read_bytes() for path in before} == before
    assert [sum(one.games or 0 for one in run.files) for run in (first, second, third)] == [5, 6, 6]
    assert third.failures == ()  # the bytes of the lost model are here
    assert check(field_, store, first.name).equal >= 5


@pytest.mark.cluster
def test_a_dry_run_writes_nothing(field_: Field, store: Path) -> None:
    found = write(field_, store, dry_run=True)

    assert {one.path for one, _ in found.sources} >= {GAMES, "data/unified_elo.db"}
    assert not store.exists()


@pytest.mark.parametrize("where", first_of("root/data/archives", "root", "."))
def test_a_directory_within_the_store_or_around_it_is_refused(field_: Field, where: str) -> None:
    with pytest.raises(ArchiveError, match="another disk"):
        write(field_, field_.base / where)


@pytest.mark.cluster
def test_one_process_archives_at_a_time(field_: Field, store: Path) -> None:
    with ArchiveDirectory(store).writing(), pytest.raises(ArchiveError, match="another process"):
        write(field_, store)


@pytest.mark.parametrize("point", first_of("archive.kept", "archive.copied", "archive.folder"))
def test_a_run_that_is_killed_leaves_earlier_archives_good_and_the_next_one_finishes(
    field_: Field, store: Path, point: str
) -> None:
    first = write(field_, store)
    field_.play(A, "data/games/selfplay.db", make_game("g-late", CONFIG))
    field_.one(CONFIG)
    command = [sys.executable, "-c", KILLED, point, "archive", str(store), "--root", str(field_.settings.root)]
    command += ["--hosts", str(field_.settings.hosts), "--state-url", field_.settings.state_url]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert ArchiveDirectory(store).names() == [first.name]
    assert check(field_, store, first.name).troubles == []

    second = write(field_, store)

    assert sum(one.games or 0 for one in second.files) == 6
    assert check(field_, store, second.name).troubles == []
    assert list((store / "tmp").iterdir()) == []


@pytest.mark.cluster
def test_restored_files_are_what_they_were(field_: Field, store: Path) -> None:
    write(field_, store)
    out = field_.base / "restored"

    assert check(field_, store, out=out).troubles == []

    with sqlite3.connect(out / GAMES) as connection:
        assert connection.execute("SELECT COUNT(*) FROM games").fetchone() == (5,)
    connection.close()
    (model,) = (out / "models").rglob("*.pth")
    assert model.read_bytes() == model_bytes("best")


@pytest.mark.parametrize(
    "damage, words",
    [
        pytest.param("lost object", "not in the archive any more", marks=pytest.mark.cluster),
        ("rotten object", "rotted"),
        ("lost game", "1 of 5 rows are not in the store: g-0"),
        pytest.param("other moves", "other in the store than archived: g-", marks=pytest.mark.cluster),
        pytest.param("lost database", "5 of 5 rows are not in the store", marks=pytest.mark.cluster),
    ],
)
def test_a_check_names_what_is_missing_or_different(field_: Field, store: Path, damage: str, words: str) -> None:
    done = write(field_, store)
    (kept,) = [ArchiveDirectory(store).object(one.sha256) for one in done.files if one.path == GAMES]
    if damage == "lost object":
        kept.unlink()
    elif damage == "rotten object":
        data = bytearray(kept.read_bytes())
        data[-1] ^= 1
        kept.chmod(0o644)
        kept.write_bytes(data)
    elif damage == "lost game":
        on_games(field_, "DELETE FROM games WHERE game_id = 'g-0'")
        on_games(field_, "DELETE FROM ringrift_provenance WHERE game_id = 'g-0'")
    elif damage == "other moves":
        on_games(field_, "UPDATE game_moves SET move_json = '{}' WHERE game_id = 'g-1'")
    else:
        field_.canonical(CONFIG).unlink()

    found = check(field_, store)

    assert [one.path for one in found.troubles] == [GAMES]
    assert words in found.troubles[0].message


@pytest.mark.cluster
def test_revised_and_renamed_games_are_no_trouble(field_: Field, store: Path) -> None:
    write(field_, store)
    with sqlite3.connect(field_.canonical(CONFIG)) as connection:
        renamed = renamed_id("g-1", digest_of(connection, "main", "g-1").identity)
    connection.close()
    for table in ("games", "game_moves", "game_players", "game_initial_state"):
        on_games(field_, f"UPDATE {table} SET game_id = '{renamed}' WHERE game_id = 'g-1'")
    on_games(field_, f"UPDATE ringrift_provenance SET game_id = '{renamed}', origin_id = 'g-1' WHERE game_id = 'g-1'")
    on_games(
        field_,
        "INSERT INTO game_moves (game_id, move_number, turn_number, player, phase, move_type, move_json)"
        " SELECT game_id, move_number + 1000, turn_number, player, phase, move_type, move_json FROM game_moves"
        " WHERE game_id = 'g-2' LIMIT 1",
    )
    on_games(field_, "UPDATE ringrift_provenance SET identity = '0' WHERE game_id = 'g-2'")

    found = check(field_, store)

    assert found.troubles == []
    assert (found.renamed, found.revised) == (1, 1)


@pytest.mark.cluster
def test_a_large_database_is_audited_by_a_bounded_sample(
    field_: Field, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SAMPLE_ROWS", 3)
    write(field_, store)

    found = check(field_, store)

    assert found.troubles == []
    assert found.rows == 3 + 3  # games, and matches


@pytest.mark.cluster
def test_a_full_disk_is_told_and_earlier_archives_stay(
    field_: Field, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(field_, store)
    monkeypatch.setattr("ringrift_sync_dagster.core.room.SPARE_BYTES", 1 << 60)
    monkeypatch.setattr("ringrift_sync_dagster.core.room.SPARE_DISK", 2.0)

    with pytest.raises(ArchiveError, match=r"the disk is full.*earlier archives are whole"):
        write(field_, store)

    assert ArchiveDirectory(store).names() == [first.name]


@pytest.mark.cluster
def test_reading_keeps_to_the_rate_of_the_background(
    field_: Field, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def pace(rate: float) -> Paced:
        rates.append(rate)
        return lambda _: None

    monkeypatch.setattr(archiving, "pace", pace)

    write(field_, store)

    assert rates == [field_.settings.bandwidth_limit * 1_000_000 * 0.25]


@pytest.mark.cluster
def test_a_manifest_of_somebody_else_is_refused_with_its_name(field_: Field, store: Path) -> None:
    done = write(field_, store)
    manifest = store / done.name / "manifest.json"
    value = json.loads(manifest.read_text())
    value["files"][0]["path"] = "../../etc/passwd"
    shutil.copytree(store / done.name, store / "20200101T000000Z-1")
    other = store / "20200101T000000Z-1" / "manifest.json"
    other.chmod(0o644)
    other.write_text(json.dumps(value))

    with pytest.raises(ArchiveError, match=r"20200101T000000Z-1/manifest\.json.*impossible"):
        check(field_, store, "20200101T000000Z-1")
    with pytest.raises(ArchiveError, match="the newest are"):
        check(field_, store, "20990101T000000Z-1")
