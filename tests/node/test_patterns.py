from __future__ import annotations

import pytest

from ringrift_sync_dagster.node.patterns import (
    CONFIGS,
    classify,
    config_key,
    config_of_name,
    folder_class,
    may_hold_ours,
)


def test_there_are_twelve_configs_in_the_order_of_the_domain() -> None:
    assert CONFIGS == (
        "hex8_2p", "hex8_3p", "hex8_4p", "square8_2p", "square8_3p", "square8_4p",
        "square19_2p", "square19_3p", "square19_4p", "hexagonal_2p", "hexagonal_3p", "hexagonal_4p",
    )  # fmt: skip


@pytest.mark.parametrize(
    "board, players, expected",
    [
        ("hex8", 2, "hex8_2p"),
        (" Hex8 ", "3", "hex8_3p"),
        ("sq8", 4, "square8_4p"),
        ("SQ19", 2, "square19_2p"),
        ("hex", 2, "hexagonal_2p"),
        ("full_hex", 3, "hexagonal_3p"),
        ("Full Hexagonal", 4, "hexagonal_4p"),
        ("full-hex", 2, "hexagonal_2p"),
        ("hex8", 5, None),
        ("hex8", 1, None),
        ("hex8", True, None),
        ("hex8", None, None),
        ("hex8", "two", None),
        ("hex9", 2, None),
        (None, 2, None),
        (b"hex8", 2, None),
    ],
)
def test_a_row_names_its_config_by_board_and_players(board: object, players: object, expected: str | None) -> None:
    assert config_key(board, players) == expected


@pytest.mark.parametrize(
    "name, expected",
    [
        ("canonical_hex8_2p.db", "hex8_2p"),
        ("gumbel_hexagonal_4p.db", "hexagonal_4p"),
        ("selfplay_square19_3p.db", "square19_3p"),
        ("full_hex_2p.db", "hexagonal_2p"),
        ("hex_2p", "hexagonal_2p"),
        ("sq19_4p_run7", "square19_4p"),
        ("2p_hex8", "hex8_2p"),
        ("selfplay_4p_sq8.db", "square8_4p"),
        ("hex8_2.db", "hex8_2p"),
        ("selfplay_square8_3_old.db", "square8_3p"),
        ("HEX8_2P.npz", "hex8_2p"),
        ("hex8_2p_20260101.npz", "hex8_2p"),
        ("checkpoint_hex8_3p_epoch4.pth", "hex8_3p"),
        ("hex8_20260101.npz", None),
        ("p2p_hybrid", None),
        ("p2p_hex8", None),
        ("myhex8_2p.db", None),
        ("hex8_5p.db", None),
        ("hex8_2player.db", None),
        ("jsonl_aggregated.db", None),
        ("", None),
    ],
)
def test_a_file_name_tells_its_config(name: str, expected: str | None) -> None:
    assert config_of_name(name) == expected


@pytest.mark.parametrize(
    "path, kind, config",
    [
        ("data/games/canonical_hex8_2p.db", "canonical", "hex8_2p"),
        ("data/games/selfplay.db", "selfplay", None),
        ("data/games/selfplay_hex8_2p.db", "selfplay", "hex8_2p"),
        ("data/games/gumbel_square8_3p.db", "selfplay", "square8_3p"),
        ("data/games/hexagonal_4p.db", "selfplay", "hexagonal_4p"),
        ("data/games/jsonl_aggregated.db", "selfplay", None),
        ("data/games/square19_2p.sqlite", "selfplay", "square19_2p"),
        ("data/games/square19_2p.sqlite3", "selfplay", "square19_2p"),
        ("data/games/2p_hex8.DB", "selfplay", "hex8_2p"),
        ("data/games/tournament_hex8_2p.db", "eval", "hex8_2p"),
        ("data/games/gauntlet_hex8_2p.db", "eval", "hex8_2p"),
        ("data/games/baseline_calibration_hex8_2p.db", "eval", "hex8_2p"),
        ("data/games/eval_hex8_2p.db", "eval", "hex8_2p"),
        ("data/games/synced/tournament_hex8_2p.db", "eval", "hex8_2p"),
        ("data/games/synced/vast-1/selfplay_hex8_2p.db", "received", "hex8_2p"),
        ("data/games/pulled/canonical_hex8_2p.db", "received", "hex8_2p"),
        ("data/games/owc_imports/x_hex8_3p.db", "imported", "hex8_3p"),
        ("data/games/elsewhere/x.db", "deep", None),
        ("data/selfplay/unified_3/games.db", "deep", None),
        ("data/selfplay/p2p/hex8_2p/s1/games.db", "deep", "hex8_2p"),
        ("data/selfplay/p2p_hybrid/hex8_3p_night/s1/games.db", "deep", "hex8_3p"),
        ("data/selfplay/p2p_gpu/square8_2p/s1/games.db", "deep", "square8_2p"),
        ("data/selfplay/gumbel/hexagonal_2p/7/games.db", "deep", "hexagonal_2p"),
        ("data/selfplay/slurm_12/unexpected.db", "deep", None),
        ("data/training/run_4/harvested_games.db", "deep", None),
        ("data/selfplay/p2p/hex8_2p/games_1.jsonl", "jsonl", "hex8_2p"),
        ("data/games/games_1.jsonl", "jsonl", None),
    ],
)
def test_every_games_path_of_the_cluster_is_known(path: str, kind: str, config: str | None) -> None:
    found = classify(path)

    assert found is not None
    assert (found.data_type, found.kind, found.config) == ("games", kind, config)
    assert found.collectable is (kind in {"selfplay", "deep", "received", "imported"})
    assert found.is_games_database is (kind != "jsonl")


@pytest.mark.parametrize(
    "path, data_type, kind, config, collectable",
    [
        ("data/training/hex8_2p.npz", "npz", "export", "hex8_2p", True),
        ("data/training/hex8_2p_20260101.npz", "npz", "export", "hex8_2p", True),
        ("data/training/hex8_2p.archived_20260101_101010.npz", "npz", "archived", "hex8_2p", False),
        ("models/canonical_hex8_2p.pth", "models", "canonical", "hex8_2p", False),
        ("models/candidate_hex8_2p.pth", "models", "candidate", "hex8_2p", True),
        ("models/ringrift_best_hex8_2p.pth", "models", "best", "hex8_2p", False),
        ("models/checkpoint_hex8_2p_epoch12.pth", "models", "checkpoint", "hex8_2p", True),
        ("models/checkpoints/hex8_2p/e1.pth", "models", "checkpoint", "hex8_2p", True),
        ("models/nnue/hex8_2p.pt", "models", "nnue", "hex8_2p", True),
        ("models/archive/canonical_hex8_2p.pth", "models", "model", "hex8_2p", False),
        ("data/unified_elo.db", "elo", "elo", None, True),
        ("data/model_registry/registry.db", "registry", "registry", None, True),
        ("data/registry.db", "registry", "registry", None, True),
        ("models/registry.db", "registry", "registry", None, True),
    ],
)
def test_every_other_path_of_the_cluster_is_known(
    path: str, data_type: str, kind: str, config: str | None, collectable: object
) -> None:
    assert classify(path) == (data_type, kind, config, collectable)


@pytest.mark.parametrize(
    "path",
    [
        "data/games/.failed_orphans.db",
        "data/games/.hidden/hex8_2p.db",
        "data/games/cluster_manifest.db",
        "data/games/Schema_backup.db",
        "data/games/hex8_2p.db-wal",
        "data/games/hex8_2p.db-shm",
        "data/games/hex8_2p.db-journal",
        "data/games/hex8_2p.db.writing",
        "data/games/hex8_2p.db.tmp",
        "data/games/hex8_2p.db.part",
        "data/games/.rsync-partial/hex8_2p.db",
        "data/games/quarantine/hex8_2p.db.1700000000",
        "data/games/quarantine/hex8_2p.db",
        "data/quarantine/games/hex8_2p.db",
        "data/incoming/vast-1/abc.db",
        "data/.ringrift-sync/agent.db",
        "data/registry_backups/7/registry.db",
        "data/sync/registry.db",
        "data/sync_wal.db",
        "data/games/readme.txt",
        "data/training/notes.jsonl",
        "data",
        "models/canonical_hex8_2p.pth.sha256",
        "src/hex8_2p.db",
        "data/games/../games/hex8_2p.db",
        "data//games/hex8_2p.db",
        "",
    ],
)
def test_what_is_not_ours_is_ignored(path: str) -> None:
    assert classify(path) is None


@pytest.mark.parametrize(
    "path, expected",
    [
        ("repository/hex8_2p/games.db", ("games", "deep", "hex8_2p", True)),
        ("hex8_2p.db", ("games", "deep", "hex8_2p", True)),
        ("gauntlet_hex8_2p.db", ("games", "eval", "hex8_2p", False)),
        ("exports/hex8_2p.npz", ("npz", "export", "hex8_2p", True)),
        ("old/candidate_hex8_2p.pth", ("models", "candidate", "hex8_2p", True)),
        ("data/games/canonical_hex8_2p.db", ("games", "canonical", "hex8_2p", False)),
        ("games_1.jsonl", ("games", "jsonl", None, False)),
        ("unified_elo.db", None),
        ("old/registry.db", None),
        ("quarantine/hex8_2p.db", None),
        ("incoming/vast-1/hex8_2p.db", None),
    ],
)
def test_extra_storage_may_have_any_layout(path: str, expected: object) -> None:
    assert classify(path, external=True) == expected


@pytest.mark.parametrize(
    "folder, internal, external",
    [
        ("data", True, True),
        ("models/nnue", True, True),
        ("data/selfplay/p2p/hex8_2p", True, True),
        ("data/model_registry", True, True),
        ("data/model_registry/deeper", False, False),
        ("data/incoming", False, False),
        ("data/games/quarantine", False, False),
        ("data/.ringrift-sync", False, False),
        ("venv", False, True),
        (".git", False, False),
    ],
)
def test_only_folders_that_can_hold_data_are_walked(folder: str, internal: object, external: object) -> None:
    assert may_hold_ours(folder) is internal
    assert may_hold_ours(folder, external=True) is external


def test_trouble_with_a_folder_is_told_under_its_data_type() -> None:
    assert [folder_class(folder).data_type for folder in ("models/x", "data/training", "data/selfplay/x")] == [
        "models",
        "npz",
        "games",
    ]
