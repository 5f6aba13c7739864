"""What somebody removes of an outbox while it is in use is made again, and no game is passed by."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.errors import LocalDiskError
from tests.agent.outbox_parts import OWNER, made, names


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    found = Outbox(tmp_path, OWNER, 1000)
    yield found
    found.close()


def test_a_directory_that_was_removed_is_made_again_and_what_waited_in_it_is_read_again(
    outbox: Outbox, tmp_path: Path
) -> None:
    outbox.keep([made(tmp_path, 1)], 7.0)
    generation = outbox.read_again
    shutil.rmtree(tmp_path / "outbox")

    with pytest.raises(LocalDiskError, match="its games are read again"):
        outbox.keep([made(tmp_path, 2)], 8.0, generation)

    assert (outbox.entries(), outbox.cursor("1.db", "hex8_2p"), outbox.cursor("2.db", "hex8_2p")) == ([], None, None)
    outbox.keep([pack := made(tmp_path, 1)], 9.0, outbox.read_again)
    assert (names(outbox), outbox.file(pack.sha256).exists()) == ([pack.sha256], True)


def test_packs_whose_cursor_was_taken_back_meanwhile_are_not_kept(outbox: Outbox, tmp_path: Path) -> None:
    """The cursor behind them would pass by the games that the damaged pack held."""
    first = made(tmp_path, 1)
    outbox.keep([first], 7.0)
    generation, next_one = outbox.read_again, replace(made(tmp_path, 2), path="1.db")
    outbox.give_back(first.sha256)

    with pytest.raises(LocalDiskError, match="its games are read again"):
        outbox.keep([next_one], 8.0, generation)

    assert (outbox.entries(), outbox.cursor("1.db", "hex8_2p")) == ([], None)
    assert list((tmp_path / "outbox").iterdir()) == []


def test_a_database_that_was_removed_is_written_again_from_what_is_open(outbox: Outbox, tmp_path: Path) -> None:
    packs = [made(tmp_path, number) for number in (1, 2)]
    outbox.keep(packs, 7.0)
    outbox.acknowledge(packs[0].sha256, {OWNER: True}, 8.0)
    identity, generation = outbox.identity(), outbox.read_again
    for path in tmp_path.glob("outbox.db*"):
        path.unlink()

    assert names(outbox) == [packs[1].sha256]
    assert (outbox.identity(), outbox.read_again) == (identity, generation + 1)
    outbox.keep([made(tmp_path, 3)], 9.0)
    outbox.close()

    again = Outbox(tmp_path, OWNER, 1000)
    assert (again.state("1.db", "g1"), again.state("2.db", "g2"), again.state("3.db", "g3")) == (
        "durable", "waits", "waits"
    )  # fmt: skip
    assert (again.identity(), again.cursor("3.db", "hex8_2p")) == (identity, {"n": 3})
    again.close()


def test_another_database_in_its_place_is_set_aside(outbox: Outbox, tmp_path: Path) -> None:
    outbox.keep([made(tmp_path, 1)], 7.0)
    (tmp_path / "other").mkdir()
    Outbox(tmp_path / "other", OWNER, 1000).close()
    (tmp_path / "other" / "outbox.db").replace(tmp_path / "outbox.db")

    assert (outbox.ids(10), outbox.cursor("1.db", "hex8_2p")) == (["g1"], {"n": 1})
    assert (tmp_path / "outbox.db.foreign").exists()


def test_with_its_directory_all_that_waited_is_read_again(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    outbox = Outbox(scratch, OWNER, 1000)
    packs = [made(scratch, number) for number in (1, 2)]
    outbox.keep(packs, 7.0)
    outbox.acknowledge(packs[0].sha256, {OWNER: True}, 8.0)
    shutil.rmtree(scratch)

    assert (outbox.entries(), outbox.state("1.db", "g1"), outbox.state("2.db", "g2")) == ([], "durable", "")
    assert [outbox.cursor(f"{n}.db", "hex8_2p") for n in (1, 2)] == [{"n": 1}, None]
    outbox.keep([made(scratch, 2)], 9.0)
    assert outbox.ids(10) == ["g2"]
    outbox.close()


def test_rows_that_cannot_be_read_any_more_are_begun_anew(outbox: Outbox, tmp_path: Path) -> None:
    outbox.keep([made(tmp_path, 1)], 7.0)
    identity, generation = outbox.identity(), outbox.read_again
    for path in (tmp_path / "outbox.db", tmp_path / "outbox.db-wal"):
        with path.open("r+b") as file:
            file.write(os.urandom(path.stat().st_size))
        path.unlink()
    outbox._file.conn.execute("PRAGMA shrink_memory")  # no page is remembered

    assert (outbox.entries(), outbox.cursor("1.db", "hex8_2p"), outbox.read_again) == ([], None, generation + 1)
    assert list((tmp_path / "outbox").iterdir()) == []  # its game is read again
    assert outbox.identity() != identity


def test_a_disk_that_refuses_the_new_file_loses_no_row(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    outbox = Outbox(scratch, OWNER, 1000)
    outbox.keep([made(scratch, 1)], 7.0)
    scratch.rename(tmp_path / "moved")
    scratch.write_text("in the way")
    with pytest.raises(LocalDiskError, match="scratch"):
        outbox.totals()
    scratch.unlink()
    (tmp_path / "moved").rename(scratch)
    assert outbox.ids(10) == ["g1"]  # it was there all the time

    (scratch / "outbox.db").unlink()
    (scratch / "outbox.db").write_text("another file")
    (scratch / "outbox.db.foreign" / "in the way").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises(LocalDiskError, match=r"cannot make anew .*outbox\.db"):
            outbox.totals()
    shutil.rmtree(scratch / "outbox.db.foreign")
    assert outbox.ids(10) == ["g1"]
    outbox.close()


def test_a_closed_outbox_makes_no_file(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    outbox = Outbox(scratch, OWNER, 1000)
    outbox.close()
    shutil.rmtree(scratch)

    with pytest.raises(LocalDiskError):
        outbox.totals()

    assert not scratch.exists()
