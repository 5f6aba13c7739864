"""Nothing set aside is lost, and no hostile name gets out of the directory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ringrift_sync_dagster.errors import ChecksumError, LocalDiskError
from ringrift_sync_dagster.storage.quarantine import Quarantine, QuarantineEntry, encoded_name

ARTIFACT = "a" * 64


@pytest.fixture
def quarantine(tmp_path: Path) -> Quarantine:
    return Quarantine(tmp_path / "data" / "quarantine")


def _add(
    quarantine: Quarantine, node: str = "vast-1", name: str = "game-1", data: bytes | Path = b"bytes"
) -> QuarantineEntry:
    return quarantine.add(node, name, data, reason="conflict", detail="two games", artifact=ARTIFACT, at=5.0)


def test_what_is_set_aside_comes_back_with_its_record(quarantine: Quarantine) -> None:
    entry = _add(quarantine)
    assert entry == QuarantineEntry(
        "vast-1", "game-1", "conflict", "two games", ARTIFACT, 5.0, 5, hashlib.sha256(b"bytes").hexdigest(),
        quarantine.directory / "vast-1" / "game-1.bin",
    )  # fmt: skip
    assert quarantine.entries() == [entry]
    assert quarantine.get("vast-1", "game-1") == entry
    assert quarantine.read("vast-1", "game-1") == b"bytes"


def test_a_file_is_copied_and_stays(quarantine: Quarantine, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.write_bytes(bytes(3_000_000))
    assert _add(quarantine, data=pack).size_bytes == 3_000_000
    assert pack.exists()
    assert quarantine.read("vast-1", "game-1") == bytes(3_000_000)


def test_the_same_name_again_changes_nothing(quarantine: Quarantine) -> None:
    first = _add(quarantine)
    assert _add(quarantine, data=b"other") == first
    assert quarantine.read("vast-1", "game-1") == b"bytes"
    assert _add(quarantine, node="vast-2", data=b"other").sha256 != first.sha256


def test_an_empty_quarantine_has_no_entries(quarantine: Quarantine) -> None:
    assert quarantine.entries() == []
    assert quarantine.get("vast-1", "x") is None
    with pytest.raises(KeyError, match="has nothing of vast-1 named x"):
        quarantine.read("vast-1", "x")


def test_a_broken_record_is_reported_and_hides_no_other(quarantine: Quarantine) -> None:
    _add(quarantine, name="a")
    _add(quarantine, name="b")
    (quarantine.directory / "vast-1" / "a.json").write_text('{"node": ')
    broken, sound = quarantine.entries()
    assert (broken.node, broken.name, broken.reason, broken.size_bytes) == ("vast-1", "a", "damaged", 5)
    assert broken.problem.startswith("its record a.json cannot be read")
    assert (sound.name, sound.problem) == ("b", "")
    with pytest.raises(ChecksumError, match="the entry a in quarantine is damaged"):
        quarantine.read("vast-1", "a")


@pytest.mark.parametrize("record", ["[]", '"x"', "{}", '{"node": 1}', "\ufffe", "null"])
def test_any_record_that_is_not_ours_is_a_broken_one(quarantine: Quarantine, record: str) -> None:
    _add(quarantine)
    (quarantine.directory / "vast-1" / "game-1.json").write_bytes(record.encode("utf-16"))
    (quarantine.directory / "vast-1" / "other.json").write_text(record)
    assert [bool(entry.problem) for entry in quarantine.entries()] == [True, True]


def test_bytes_without_a_record_are_reported_and_set_aside_again(quarantine: Quarantine) -> None:
    _add(quarantine)
    (quarantine.directory / "vast-1" / "game-1.json").unlink()
    assert [entry.problem for entry in quarantine.entries()] == ["its record was never written"]
    assert _add(quarantine).problem == ""
    assert quarantine.read("vast-1", "game-1") == b"bytes"


def test_a_record_without_its_bytes_is_reported(quarantine: Quarantine) -> None:
    _add(quarantine).path.unlink()
    assert "says 5 bytes, the file has None" in quarantine.entries()[0].problem


def test_changed_bytes_are_not_given_out(quarantine: Quarantine, tmp_path: Path) -> None:
    _add(quarantine).path.write_bytes(b"BYTES")
    with pytest.raises(ChecksumError, match="was set aside"):
        quarantine.read("vast-1", "game-1")
    with pytest.raises(ChecksumError):
        quarantine.restore("vast-1", "game-1", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_restoring_copies_and_keeps_the_entry(quarantine: Quarantine, tmp_path: Path) -> None:
    _add(quarantine)
    quarantine.restore("vast-1", "game-1", tmp_path / "restored")
    quarantine.restore("vast-1", "game-1", tmp_path / "restored")
    assert (tmp_path / "restored").read_bytes() == b"bytes"
    assert len(quarantine.entries()) == 1


def test_part_files_of_a_killed_writer_are_no_entries(quarantine: Quarantine) -> None:
    _add(quarantine)
    (quarantine.directory / "vast-1" / ".x.bin.0123456789abcdef.part").write_bytes(b"half")
    (quarantine.directory / "notes.txt").write_text("a person was here")
    assert [entry.name for entry in quarantine.entries()] == ["game-1"]


def test_a_disk_that_refuses_leaves_no_entry(tmp_path: Path) -> None:
    (tmp_path / "quarantine").write_text("a file in the way")
    quarantine = Quarantine(tmp_path / "quarantine")
    with pytest.raises(LocalDiskError, match="quarantine"):
        _add(quarantine)


HOSTILE = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a\0b",
    ".hidden",
    "a/b",
    "x" * 5000,
    "é" * 200,
    "%2E%2E",
    "a.bin",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_inside_and_come_back_as_they_were(quarantine: Quarantine, name: str) -> None:
    by_node = _add(quarantine, node=name)
    by_name = _add(quarantine, name=name)
    for entry in (by_node, by_name):
        assert entry.path.resolve().is_relative_to(quarantine.directory.resolve())
        assert entry.path.parent.parent == quarantine.directory
    assert {(entry.node, entry.name, entry.problem) for entry in quarantine.entries()} == {
        (name, "game-1", ""), ("vast-1", name, ""),
    }  # fmt: skip
    assert json.loads(by_name.path.with_suffix(".json").read_text())["name"] == name


@given(st.text(max_size=300))
@example("\ud800")
@example("=" * 200)
def test_an_encoded_name_is_one_short_plain_file_name(name: str) -> None:
    encoded = encoded_name(name)
    assert 0 < len(encoded) <= 180
    assert encoded.isascii()
    assert not set(encoded) & set("/\0")
    assert not encoded.startswith(".")


@given(st.text(max_size=200), st.text(max_size=200))
def test_different_names_are_encoded_differently(one: str, other: str) -> None:
    assert (encoded_name(one) == encoded_name(other)) == (one == other)
