"""Files that are lost or rot after they were verified are found again, and repaired from another verified copy."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.exports import model_bytes, write_model
from ringrift_sync_dagster.demo.games import make_game
from ringrift_sync_dagster.demo.ratings import make_matches, write_matches
from ringrift_sync_dagster.intake.rows import RowsIntake
from ringrift_sync_dagster.node import canonical
from ringrift_sync_dagster.storage.quarantine import Quarantine
from ringrift_sync_dagster.sync import pass_routing
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.verify import Condition, Verified, verify
from tests.sync.conftest import Field
from tests.sync.test_collect import A

CONFIG = "hex8_2p"
OWNER = "hub-1"
BEST = f"models/ringrift_best_{CONFIG}.pth"


def rot(path: Path) -> None:
    """Change one byte in the middle, and nothing that ``stat`` shows."""
    real, before = path.resolve(), path.stat()
    data = bytearray(real.read_bytes())
    data[len(data) // 2] ^= 1
    real.chmod(0o644)
    real.write_bytes(data)
    real.chmod(0o444)
    os.utime(real, ns=(before.st_atime_ns, before.st_mtime_ns))


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def look(field_: Field, *, deep: bool = False, repair: bool = True) -> Verified:
    with Runtime.open(field_.settings) as runtime:
        return verify(runtime, configs=[CONFIG], nodes=field_.nodes, deep=deep, repair=repair)


@pytest.fixture
def best(field_: Field) -> Path:
    """The promoted model at its owner, which one node has too."""
    with Runtime.open(field_.settings) as runtime:
        runtime.files.publisher.promote(CONFIG, write_model(field_.base / "best.pth", "best"), trigger="test")
        request = Request([DataType.MODELS], [CONFIG], [A], "test", to=[A], up=False)
        move(runtime, request)[DataType.MODELS].raise_if_failed()
    return field_.base / "root" / BEST


def test_what_is_sound_is_left_alone(field_: Field, best: Path) -> None:
    before = best.resolve().stat()

    short, deep = look(field_), look(field_, deep=True)

    assert short.findings == deep.findings == ()
    assert short.looked_at == deep.looked_at == 2
    assert (short.hashed_bytes, deep.hashed_bytes) == (0, before.st_size)
    assert best.resolve().stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("lost", ["lost", ""])
def test_a_version_of_the_owner_that_is_lost_or_rotten_comes_back_from_a_node(
    field_: Field, best: Path, lost: str
) -> None:
    version = best.resolve()
    if lost:
        version.unlink()
    else:
        rot(version)

    only_told = look(field_, deep=True, repair=False)
    found = look(field_, deep=not lost)

    assert [one.condition for one in only_told.findings] == [Condition.LOST if lost else Condition.ROTTEN]
    assert [(one.node, one.condition) for one in found.findings] == [(OWNER, Condition.REPAIRED)]
    assert best.read_bytes() == model_bytes("best")
    assert look(field_, deep=True).findings == ()
    kept = [one.reason for one in Quarantine(field_.base / "root/data/quarantine").entries()]
    assert kept == ([] if lost else ["rotten"])


def test_a_rotten_copy_of_a_node_is_brought_again(field_: Field, best: Path) -> None:
    there = field_.cluster.node_root(A) / BEST
    rot(there)

    assert look(field_).findings == ()  # its length and times are as they were: only hashing tells
    found = look(field_, deep=True)

    assert [(one.node, one.condition) for one in found.findings] == [(A, Condition.REPAIRED)]
    assert there.read_bytes() == best.read_bytes() == model_bytes("best")


def test_where_every_copy_rotted_it_is_said_and_nothing_is_thrown_away(field_: Field, best: Path) -> None:
    there = field_.cluster.node_root(A) / BEST
    for path in (there, best):
        rot(path)
    rotten = best.read_bytes()

    found = look(field_, deep=True)

    assert [one.condition for one in found.findings if one.node == OWNER] == [Condition.ROTTEN]
    assert A in found.unrepaired[0].detail
    assert best.read_bytes() == rotten


def test_ratings_that_somebody_changed_and_a_damaged_database_are_found(field_: Field) -> None:
    write_matches(field_.cluster.node_root(A) / "data/unified_elo.db", make_matches("verify", CONFIG, 10))
    with Runtime.open(field_.settings) as runtime:
        move(runtime, Request([DataType.ELO], [CONFIG], [A], "test", down=False))[DataType.ELO].raise_if_failed()
    elo = field_.base / "root/data/unified_elo.db"
    with contextlib.closing(sqlite3.connect(elo)) as conn, conn:
        conn.execute("UPDATE elo_ratings SET rating = rating + 1")

    changed = look(field_, deep=True)
    elo.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    for suffix in ("-wal", "-shm"):
        Path(f"{elo}{suffix}").unlink(missing_ok=True)
    damaged = look(field_)

    assert "the ratings of hex8_2p" in changed.unrepaired[0].detail
    assert "it cannot be read" in damaged.unrepaired[0].detail


def test_a_second_rot_is_set_aside_too_and_bytes_that_rotted_in_incoming_are_not_put_back(
    field_: Field, best: Path
) -> None:
    version = best.resolve()
    for _ in range(2):
        rot(version)
        assert [one.condition for one in look(field_, deep=True).findings] == [Condition.REPAIRED]
    rot(version)
    (arrived := field_.base / "root/data/incoming" / A / sha256_of(model_bytes("best"))).hardlink_to(version)

    found = look(field_, deep=True)

    assert [one.condition for one in found.findings] == [Condition.ROTTEN]
    assert not arrived.exists()
    assert [one.condition for one in look(field_, deep=True).findings] == [Condition.REPAIRED]
    assert best.read_bytes() == model_bytes("best")


def test_a_missing_link_is_found_and_what_is_not_brought_again_is_not_called_repaired(
    field_: Field, best: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = field_.cluster.node_root(A) / BEST
    link.unlink()

    with monkeypatch.context() as patched:
        patched.setattr(pass_routing, "is_target", lambda *_, **__: False)
        refused = [look(field_) for _ in range(2)]
    found = look(field_)

    assert [[one.condition for one in each.unrepaired] for each in refused] == [[Condition.LOST]] * 2
    assert [one.condition for one in found.findings] == [Condition.REPAIRED]
    assert link.read_bytes() == model_bytes("best")


def test_a_lost_store_is_found_and_one_that_is_busy_is_not_called_rotten(
    field_: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonical, "BUSY_MS", 300)  # the patience of half a minute, shortened
    field_.play(A, "data/games/selfplay.db", make_game("verify", CONFIG))
    assert field_.one(CONFIG).games_new == 1
    store = field_.canonical(CONFIG)
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as conn:
        conn.execute("PRAGMA journal_mode=DELETE")
        conn.execute("BEGIN EXCLUSIVE")
        busy = look(field_)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{store}{suffix}").unlink(missing_ok=True)
    lost = look(field_)

    assert [one.condition for one in busy.findings] == [Condition.UNKNOWN]
    assert "move the file away" not in busy.findings[0].detail
    assert [(one.condition, one.path) for one in lost.findings] == [
        (Condition.LOST, f"data/games/canonical_{CONFIG}.db")
    ]


def test_ratings_that_are_due_are_no_fault(field_: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    write_matches(field_.cluster.node_root(A) / "data/unified_elo.db", make_matches("due", CONFIG, 10))
    monkeypatch.setattr(RowsIntake, "settle", lambda *_: None)
    with Runtime.open(field_.settings) as runtime:
        move(runtime, Request([DataType.ELO], [CONFIG], [A], "test", down=False))
        assert runtime.rows.store.due("matches") == {CONFIG: A}

    assert look(field_, deep=True).findings == ()
