"""The verdict on npz, models, elo and registry: computed from the plan and from the files as they lie on the disks.

Ratings and unions are computed here anew, from the formula and from the rows that were laid out; no code, counter, log
or report of what is judged has a say.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.demo import cargo
from ringrift_sync_dagster.demo.cargo import CONFIG, Cargo
from ringrift_sync_dagster.demo.findings import quarantined_others
from ringrift_sync_dagster.demo.ratings import ratings_by_hand
from ringrift_sync_dagster.demo.verdict import Check

_NEAR: Final = 1e-6
SET_ASIDE: Final = {"bad_npz": 2, "missing_participant": 1, "mixed_player_counts": 1, "version_conflict": 1}
BEST: Final = f"models/ringrift_best_{CONFIG}.pth"
EXPORT: Final = f"data/training/{CONFIG}.npz"
ELO: Final = "data/unified_elo.db"
REGISTRY: Final = "data/model_registry/registry.db"


def judge_cargo(
    laid: Cargo, promoted: Path, root: Path, nodes: Sequence[str], node_root: Callable[[str], Path]
) -> tuple[Check, ...]:
    """Compare what was laid out with what lies at the owner and on the nodes.

    Args:
        laid: What was laid out.
        promoted: The model that was promoted last.
        root: The coordinator's ``ai-service`` directory.
        nodes: All nodes of the demo; each plays or trains.
        node_root: That of a node.

    """
    roots = {node: node_root(node) for node in nodes}
    return (
        _export(laid, {"the owner": root, **{node: roots[node] for node in cargo.NODES[1:3]}}),
        _model(promoted, {"the owner": root, **roots}),
        _ratings(laid, {"the owner": root, **{node: roots[node] for node in cargo.NODES[:3]}}),
        _registry(laid, {"the owner": root, **{node: roots[node] for node in (cargo.NODES[0], cargo.NODES[2])}}),
        _set_aside(root),
    )


def _set_aside(root: Path) -> Check:
    found = dict(quarantined_others(root / "data/quarantine"))
    wrong = () if found == SET_ASIDE else (f"it holds {found}, not {SET_ASIDE}",)
    return Check("what is no export, match or version is in quarantine with its reason", wrong, sum(SET_ASIDE.values()))


def _export(laid: Cargo, roots: dict[str, Path]) -> Check:
    wanted = hashlib.sha256(laid.best_export).hexdigest()
    wrong = [f"{EXPORT} of {name} is another" for name, root in roots.items() if _digest(root / EXPORT) != wanted]
    square = roots["the owner"] / "data/training/square8_2p.npz"
    wrong += [f"{square.name} is published, and was never valid"] if square.exists() else []
    question = "the published npz is the best valid export, at the owner and where models are trained"
    return Check(question, tuple(wrong), len(roots) + 1)


def _model(promoted: Path, roots: dict[str, Path]) -> Check:
    wanted = _digest(promoted)
    wrong = [f"{BEST} of {name} leads to another" for name, root in roots.items() if _digest(root / BEST) != wanted]
    return Check("every playing node's name leads to the model that was promoted last", tuple(wrong), len(roots))


def _ratings(laid: Cargo, roots: dict[str, Path]) -> Check:
    expected = ratings_by_hand(laid.matches)
    ids = sorted(match.game_id for match in laid.matches)
    wrong = []
    for name, root in roots.items():
        found = [row[0] for row in _rows(root / ELO, "SELECT game_id FROM match_history ORDER BY 1")]
        if name == "the owner" and found != ids:
            wrong.append(f"{name} has {len(found)} matches, not {len(ids)}")
        if not set(ids) <= set(found):
            wrong.append(f"{name} lacks {len(set(ids) - set(found))} matches")
        rated = dict(_rows(root / ELO, "SELECT participant_id, rating FROM elo_ratings WHERE board_type = 'hex8'"))
        for model, (rating, _) in expected.items():
            if abs(float(rated.get(model) or 0) - rating) > _NEAR:
                wrong.append(f"{model} has {rated.get(model)} at {name}, not {rating}")
    return Check("ratings are those of the union of all matches", tuple(wrong), len(expected) * len(roots))


def _registry(laid: Cargo, roots: dict[str, Path]) -> Check:
    wanted = {(one.model, one.version): (one.stage, one.file_hash) for one in laid.versions}
    wrong = []
    for name, root in roots.items():
        query = "SELECT model_id, version, stage, file_hash FROM versions"
        found = {(model, number): (stage, digest) for model, number, stage, digest in _rows(root / REGISTRY, query)}
        wrong += [
            f"{key} is {found.get(key)} at {name}, not {value}"
            for key, value in wanted.items()
            if found.get(key) != value
        ]
    return Check("the registry is the union of all registries", tuple(wrong), len(wanted) * len(roots))


def _rows(database: Path, query: str) -> Iterable[tuple[Any, ...]]:
    if not database.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as conn:
        return conn.execute(query).fetchall()


def _digest(path: Path) -> str:
    """The digest of what a name leads to; empty where it leads nowhere."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
