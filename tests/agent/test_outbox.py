"""The outbox: nothing leaves it but what is durable elsewhere, and a kill at any step costs no entry and no file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.agent.outbox_entries import Packed
from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.node import faults
from tests.agent.outbox_parts import OWNER, made, names

DAY = 24 * 3600.0


def die_at(point: str, scratch: Path, shas: list[str]) -> int:
    """Take in two packs and let the first one go, in a process that dies as by kill -9 at a point; give its status."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        faults.hook = lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == point else None
        outbox = Outbox(scratch, OWNER, 10**9)
        games = [((f"g{n}", "i"),) for n in range(len(shas))]
        packs = [Packed(f"{n}.db", "hex8_2p", sha, 4, scratch / sha, games[n], {"n": n}) for n, sha in enumerate(shas)]
        outbox.keep(packs, 1.0)
        outbox.acknowledge(shas[0], {OWNER: True}, 2.0)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    found = Outbox(tmp_path, OWNER, 1000)
    yield found
    found.close()


def test_a_pack_is_kept_with_its_games_and_the_cursor_behind_it(outbox: Outbox, tmp_path: Path) -> None:
    pack = made(tmp_path, 1)

    outbox.keep([pack], 7.0)

    [entry] = outbox.entries()
    assert (entry.sha256, entry.games, entry.size_bytes, entry.created) == (pack.sha256, 1, 100, 7.0)
    assert outbox.file(pack.sha256).read_bytes() == b"1".ljust(100)
    assert (outbox.cursor("1.db", "hex8_2p"), outbox.cursor("2.db", "hex8_2p")) == ({"n": 1}, None)
    assert (outbox.state("1.db", "g1"), outbox.state("2.db", "g1"), outbox.ids(10)) == ("waits", "", ["g1"])


def test_identities_are_those_of_the_games_that_wait_also_where_two_have_one_id(outbox: Outbox, tmp_path: Path) -> None:
    packs = [made(tmp_path, number) for number in range(3)]
    same = replace(packs[2], games=(("g0", "identity-2"), ("g1", "identity-3")))
    outbox.keep([*packs[:2], same], 7.0)

    told = outbox.identities(["g0", "g1", "g0", "gone", "g1", "g1"])

    assert (sorted(told[0:3:2]), sorted([told[1], *told[4:]])) == (
        ["identity-0", "identity-2"], ["", "identity-1", "identity-3"],
    )  # fmt: skip
    assert (told[3], outbox.identities([])) == ("", [])


def test_the_copy_of_the_coordinator_lets_an_entry_go(outbox: Outbox, tmp_path: Path) -> None:
    pack = made(tmp_path, 1)
    outbox.keep([pack], 7.0)

    assert outbox.acknowledge(pack.sha256, {OWNER: True}, 8.0)

    assert (outbox.entries(), list((tmp_path / "outbox").iterdir())) == ([], [])
    assert outbox.state("1.db", "g1") == "durable"
    assert outbox.cursor("1.db", "hex8_2p") == {"n": 1}


def test_upstream_bug_11_the_copy_of_an_ephemeral_node_makes_nothing_durable(outbox: Outbox, tmp_path: Path) -> None:
    pack = made(tmp_path, 1)
    outbox.keep([pack], 7.0)

    assert not outbox.acknowledge(pack.sha256, {"spot-1": False, "spot-2": False, OWNER: False}, 8.0)

    assert outbox.entries()[0].copies == {"spot-1": False, "spot-2": False, OWNER: False}
    assert outbox.file(pack.sha256).exists()


def test_as_many_persistent_nodes_as_are_asked_for_are_as_good_as_the_coordinator(tmp_path: Path) -> None:
    outbox, pack = Outbox(tmp_path, OWNER, 1000, min_durable_copies=2), made(tmp_path, 1)
    outbox.keep([pack], 7.0)

    assert not outbox.acknowledge(pack.sha256, {"p1": True, "spot-1": False}, 8.0)
    assert outbox.acknowledge(pack.sha256, {"p2": True}, 8.0)


def test_upstream_bug_1_one_of_two_databases_arrived_and_the_other_one_stays(outbox: Outbox, tmp_path: Path) -> None:
    packs = [made(tmp_path, 1), made(tmp_path, 2)]
    outbox.keep(packs, 7.0)

    outbox.acknowledge(packs[0].sha256, {OWNER: True}, 8.0)
    outbox.failed(packs[1].sha256, "no route")

    [entry] = outbox.entries()
    assert (entry.sha256, entry.tries, entry.error) == (packs[1].sha256, 1, "no route")
    assert (outbox.state("2.db", "g2"), outbox.trouble("2.db", "g2")) == ("waits", "no route")


def test_upstream_bug_8_neither_age_nor_tries_drop_an_entry(tmp_path: Path) -> None:
    pack, outbox = made(tmp_path, 1), Outbox(tmp_path, OWNER, 1000)
    outbox.keep([pack], 7.0)
    for _ in range(20):
        outbox.failed(pack.sha256, "again")
    outbox.acknowledge("0" * 64, {OWNER: True}, 30 * DAY)
    outbox.close()

    assert [entry.tries for entry in Outbox(tmp_path, OWNER, 1000).entries()] == [20]


def test_an_acknowledgement_counts_for_the_pack_that_it_names_alone(outbox: Outbox, tmp_path: Path) -> None:
    pack = made(tmp_path, 1)
    outbox.keep([pack], 7.0)

    assert not outbox.acknowledge("f" * 64, {OWNER: True}, 8.0)
    assert outbox.let_go(["f" * 64, "'; DROP TABLE entries", ""], 8.0) == 0

    assert names(outbox) == [pack.sha256]


def test_what_nobody_else_has_comes_first_then_the_oldest(outbox: Outbox, tmp_path: Path) -> None:
    packs = [made(tmp_path, number) for number in range(3)]
    strict = Outbox(tmp_path / "strict", OWNER, 1000, min_durable_copies=2)
    for number, pack in enumerate(packs):
        strict.keep([pack], 10.0 - number)
    strict.acknowledge(packs[2].sha256, {"p1": True}, 20.0)

    assert names(strict) == [packs[1].sha256, packs[0].sha256, packs[2].sha256]
    skipped = [entry.sha256 for entry in strict.entries(skip=[packs[1].sha256])]
    assert skipped == [packs[0].sha256, packs[2].sha256]


def test_a_full_outbox_refuses_and_no_cursor_moves(outbox: Outbox, tmp_path: Path) -> None:
    outbox.keep([made(tmp_path, 1, 800)], 7.0)

    with pytest.raises(LocalDiskError, match="outbox is full: 800 bytes wait, 300 more pass the limit of 1000"):
        outbox.keep([made(tmp_path, 2, 300)], 8.0)

    assert (len(outbox.entries()), outbox.cursor("2.db", "hex8_2p")) == (1, None)
    assert outbox.totals().size_bytes == 800


def test_an_empty_outbox_takes_a_pack_of_any_size(outbox: Outbox, tmp_path: Path) -> None:
    outbox.keep([made(tmp_path, 1, 5000)], 7.0)

    assert outbox.is_full
    assert outbox.acknowledge(names(outbox)[0], {OWNER: True}, 8.0)
    assert not outbox.is_full


def test_when_the_disk_refuses_nothing_is_half_kept(outbox: Outbox, tmp_path: Path) -> None:
    good, gone = made(tmp_path, 1), made(tmp_path, 2)
    gone.file.unlink()

    with pytest.raises(LocalDiskError):
        outbox.keep([good, gone], 7.0)

    assert (outbox.entries(), list((tmp_path / "outbox").iterdir())) == ([], [])
    assert outbox.cursor("1.db", "hex8_2p") is None


def test_files_without_a_row_are_swept_and_rows_without_a_file_are_read_again(outbox: Outbox, tmp_path: Path) -> None:
    packs = [made(tmp_path, number) for number in (1, 2, 3)]
    outbox.keep(packs, 7.0)
    outbox.close()
    folder = tmp_path / "outbox"
    (folder / ("a" * 64)).write_bytes(b"orphan")
    outbox.file(packs[0].sha256).unlink()
    outbox.file(packs[1].sha256).write_bytes(b"cut")

    again = Outbox(tmp_path, OWNER, 1000)

    assert names(again) == [packs[2].sha256]
    assert [path.name for path in folder.iterdir()] == [packs[2].sha256]
    assert [again.cursor(f"{n}.db", "hex8_2p") for n in (1, 2, 3)] == [None, None, {"n": 3}]


def test_a_database_that_is_none_any_more_is_set_aside_and_all_is_read_again(outbox: Outbox, tmp_path: Path) -> None:
    outbox.keep([made(tmp_path, 1)], 7.0)
    outbox.close()
    (tmp_path / "outbox.db").write_bytes(b"rubbish" * 1000)

    again = Outbox(tmp_path, OWNER, 1000)

    assert (again.entries(), again.cursor("1.db", "hex8_2p")) == ([], None)
    assert (tmp_path / "outbox.db.damaged").exists()


def test_commits_wait_for_the_disk(outbox: Outbox) -> None:
    assert outbox._file.conn.execute("PRAGMA synchronous").fetchone() == (2,)


POINTS = ("install.synced", "install.renamed", "outbox.placed", "outbox.before_commit", "outbox.committed",
          "outbox.before_let_go", "outbox.let_go", "")  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_no_entry_is_lost_and_no_file_stays_for_ever(tmp_path: Path, point: str) -> None:
    shas = [hashlib.sha256(data).hexdigest() for data in (b"one1", b"two2")]
    for sha, data in zip(shas, (b"one1", b"two2"), strict=True):
        (tmp_path / sha).write_bytes(data)

    status = die_at(point, tmp_path, shas)

    assert status == (-signal.SIGKILL if point else 0)
    outbox = Outbox(tmp_path, OWNER, 1000)
    kept = names(outbox)
    assert sorted(path.name for path in (tmp_path / "outbox").iterdir()) == sorted(kept)
    for number, sha in enumerate(shas):
        # A game waits, is durable, or its database is read again from before it.
        known = outbox.state(f"{number}.db", f"g{number}")
        assert (known != "") == (outbox.cursor(f"{number}.db", "hex8_2p") is not None)
        assert (known == "waits") == (sha in kept)
    if point in {"outbox.let_go", ""}:
        assert kept == [shas[1]]
    outbox.close()


def test_the_memory_of_saved_games_is_bounded(outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringrift_sync_dagster.agent.outbox.SAVED_KEPT", 2)
    monkeypatch.setattr("ringrift_sync_dagster.agent.outbox._PRUNE_EVERY", 1)
    for number in range(4):
        outbox.keep([made(tmp_path, number)], 7.0)
        outbox.acknowledge(names(outbox)[0], {OWNER: True}, 8.0)

    assert [outbox.state(f"{n}.db", f"g{n}") for n in range(4)] == ["", "", "durable", "durable"]


def test_a_note_is_there_after_a_restart(outbox: Outbox, tmp_path: Path) -> None:
    outbox.note("peers", "[]")
    outbox.close()

    assert Outbox(tmp_path, OWNER, 1000).note("peers") == "[]"


def test_the_database_is_one_that_sqlite_itself_can_read(outbox: Outbox, tmp_path: Path) -> None:
    outbox.keep([made(tmp_path, 1)], 7.0)

    with sqlite3.connect(tmp_path / "outbox.db") as conn:
        assert conn.execute("SELECT COUNT(*) FROM entries").fetchone() == (1,)
    conn.close()


def test_an_outbox_has_one_name_as_long_as_it_is_there(tmp_path: Path) -> None:
    names = []
    for folder in ("a", "a", "b"):
        (tmp_path / folder).mkdir(exist_ok=True)
        with contextlib.closing(Outbox(tmp_path / folder, OWNER, 1000)) as outbox:
            names += [outbox.identity(), outbox.identity()]

    assert len(set(names[:4])) == 1
    assert names[4] != names[0]
