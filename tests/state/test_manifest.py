"""Where the data of a config lies, in the guide's words."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.state import manifest as manifest_module
from ringrift_sync_dagster.state.changes import Change, add_changes
from ringrift_sync_dagster.state.manifest import DataLocation, Manifest, get_manifest
from ringrift_sync_dagster.state.nodes import apply_manifest
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt, add_receipt
from ringrift_sync_dagster.state.store import StateStore

SHA = hashlib.sha256(b"pack").hexdigest()


def _entry(path: str, **changes: object) -> dict[str, Any]:
    return {
        "path": path, "data_type": "games", "kind": "selfplay", "config": "hex8_2p", "collectable": True,
        "bytes": 100, "mtime_ns": 1, "token": "t", "games": {"hex8_2p": 3}, "error": None, **changes,
    }  # fmt: skip


def _tell(store: StateStore, node: str, *entries: dict[str, Any], at: float = 5.0) -> None:
    manifest = {"token": f"T{at}", "full": True, "entries": list(entries), "removed": []}
    apply_manifest(store, node, manifest, since="", at=at)


def test_locations_come_by_data_type_node_and_path(store: StateStore) -> None:
    elo = _entry("data/unified_elo.db", data_type="elo", kind="elo", games=None)
    npz = _entry("data/training/hex8_2p.npz", data_type="npz", kind="export", games=None)
    _tell(store, "vast-2", _entry("b.db"), _entry("a.db"), elo)
    _tell(store, "vast-1", _entry("z.db"), npz, _entry("other.db", config="square8_2p", games={"square8_2p": 1}))

    found = Manifest(store).get_data_locations("hex8_2p")
    assert [(location.data_type, location.node, location.path) for location in found] == [
        ("games", "vast-1", "z.db"),
        ("games", "vast-2", "a.db"),
        ("games", "vast-2", "b.db"),
        ("npz", "vast-1", "data/training/hex8_2p.npz"),
        ("elo", "vast-2", "data/unified_elo.db"),
    ]
    assert Manifest(store).get_data_locations("hex8_2p", "npz") == [
        DataLocation("hex8_2p", "npz", "vast-1", "data/training/hex8_2p.npz", None, 100, None, 5.0, None)
    ]


def test_a_location_was_seen_when_the_node_last_told_its_files(store: StateStore) -> None:
    _tell(store, "vast-1", _entry("a.db"), at=5.0)
    _tell(store, "vast-1", _entry("a.db"), at=9.0)
    assert Manifest(store).get_data_locations("hex8_2p")[0].seen_at == 9.0


def test_a_file_is_verified_only_at_the_size_that_was_verified(store: StateStore) -> None:
    _tell(store, "vast-1", _entry("same.npz", data_type="npz"), _entry("grown.npz", data_type="npz", bytes=101))
    other = hashlib.sha256(b"other").hexdigest()
    add_receipt(store, Receipt(SHA, "vast-1", "same.npz", 100, 7.0))
    add_receipt(store, Receipt(other, "vast-1", "grown.npz", 100, 7.0))
    found = {location.path: (location.sha256, location.verified_at) for location in _npz(store)}
    assert found == {"same.npz": (SHA, 7.0), "grown.npz": (None, None)}


def _npz(store: StateStore) -> list[DataLocation]:
    return Manifest(store).get_data_locations("hex8_2p", "npz")


def test_two_contents_verified_at_one_place_give_the_later_one(store: StateStore) -> None:
    _tell(store, "vast-1", _entry("same.npz", data_type="npz"))
    later = hashlib.sha256(b"later").hexdigest()
    add_receipt(store, Receipt(later, "vast-1", "same.npz", 100, 8.0))
    add_receipt(store, Receipt(SHA, "vast-1", "same.npz", 100, 7.0))
    assert [location.sha256 for location in _npz(store)] == [later]


@pytest.mark.parametrize("kind", ["games", "aside"])
def test_a_received_pack_is_a_place_of_its_games(store: StateStore, kind: str) -> None:
    artifact = ArtifactRow(SHA, kind, 50, 200, "hex8_2p", "vast-1", 6.0)
    add_receipt(store, Receipt(SHA, "coordinator", f"data/incoming/vast-1/{SHA}", 50, 7.0), artifact)
    assert Manifest(store).get_data_locations("hex8_2p", "games") == [
        DataLocation("hex8_2p", "games", "coordinator", f"data/incoming/vast-1/{SHA}", SHA, 50, None, 7.0, 7.0)
    ]
    assert Manifest(store).get_data_locations("square8_2p") == []


CANONICAL = "data/games/canonical_hex8_2p.db"


def _merged(store: StateStore, content: bytes, config: str, games: int, at: float) -> None:
    """What the intake leaves after one merge: a receipt at the canonical database's path, and a change."""
    sha = hashlib.sha256(content).hexdigest()
    path = f"data/games/canonical_{config}.db"
    artifact = ArtifactRow(sha, "games", len(content), 200, config, "vast-1", at)
    add_receipt(store, Receipt(sha, "hub-1", path, len(content), at), artifact)
    change = Change(f"{config} {at}", at, "games", "up", config, "vast-1", sha, canonical_games=games)
    add_changes(store, [change])


def test_the_canonical_database_is_no_pack_and_has_the_games_of_the_latest_change(store: StateStore) -> None:
    _merged(store, b"first pack", "hex8_2p", 3, at=7.0)
    _merged(store, b"second", "hex8_2p", 5, at=8.0)
    _merged(store, b"another config", "hex8_3p", 9, at=9.0)
    assert Manifest(store).get_data_locations("hex8_2p") == [
        DataLocation("hex8_2p", "games", "hub-1", CANONICAL, None, None, 5, 8.0, None)
    ]


def test_the_canonical_database_has_the_size_that_its_node_told_and_still_no_pack(store: StateStore) -> None:
    _merged(store, b"x" * 100, "hex8_2p", 5, at=8.0)
    _tell(store, "hub-1", _entry(CANONICAL, kind="canonical", bytes=4096))
    _tell(store, "vast-1", _entry(CANONICAL, kind="canonical"))
    assert Manifest(store).get_data_locations("hex8_2p") == [
        DataLocation("hex8_2p", "games", "hub-1", CANONICAL, None, 4096, 5, 8.0, None),
        DataLocation("hex8_2p", "games", "vast-1", CANONICAL, None, 100, 3, 5.0, None),
    ]


def test_an_unknown_data_type_is_refused_with_the_known_ones(store: StateStore) -> None:
    with pytest.raises(ValueError, match="'game' is not a data type: use one of games, npz, models, elo, registry"):
        Manifest(store).get_data_locations("hex8_2p", "game")


def test_get_manifest_opens_the_state_database_of_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/state.db"
    with StateStore.open(url) as store:
        _tell(store, "vast-1", _entry("a.db"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINGRIFT_SYNC_STATE_URL", url)
    try:
        assert [location.path for location in get_manifest().get_data_locations("hex8_2p")] == ["a.db"]
        assert get_manifest().store is get_manifest().store
    finally:
        get_manifest().store.close()
        manifest_module._store.cache_clear()
