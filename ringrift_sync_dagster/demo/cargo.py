"""The other four data types of the demo: what lies on each node, and what must come of it.

Exports, candidates, ratings and registries are made from the seed, good ones and bad ones. What must be published, and
what the union of all matches and registry rows is, follows from the same plan, never from the product's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.demo import scenario
from ringrift_sync_dagster.demo.exports import make_export, samples, write_model, write_npz
from ringrift_sync_dagster.demo.ratings import MatchDialect, PlayedMatch, make_matches, write_matches
from ringrift_sync_dagster.demo.registry_rows import RegisteredVersion, write_registry

CONFIG: Final = "hex8_2p"
BAD: Final = 2
"""Files that must end in quarantine: an export cut short, and one whose arrays do not agree."""
CONFLICTS: Final = 1
"""Registered versions that two nodes tell with two hashes."""
STRANGE_MATCHES: Final = 2
"""Rows that are no match: one lacks a participant, one mixes player counts."""

NODES: Final = tuple(file.node for file in (scenario.VAST, scenario.RUNPOD, scenario.NEBIUS, scenario.HETZNER))
_SAMPLES: Final[Mapping[str, int]] = {NODES[0]: 60, NODES[1]: 240, NODES[2]: 120}
_BEST: Final = NODES[1]
_DIALECTS: Final[Mapping[str, MatchDialect]] = {
    NODES[0]: MatchDialect.PARTICIPANT,
    NODES[1]: MatchDialect.MODEL,
    NODES[2]: MatchDialect.MODEL_ID,
}
_MATCHES: Final = 90


@dataclass(frozen=True, slots=True)
class Cargo:
    """What was laid on the nodes.

    Args:
        best_export: The export that must be published.
        matches: The union of all good matches, each once.
        versions: The union of all registered versions but the one with two hashes, of which the first to come stays.

    """

    best_export: bytes
    matches: tuple[PlayedMatch, ...]
    versions: tuple[RegisteredVersion, ...]


def lay_out(root_of: Mapping[str, Path], seed: int) -> Cargo:
    """Write the files of every node; the same seed gives the same ones."""
    for node, count in _SAMPLES.items():
        make_export(root_of[node] / f"data/training/{CONFIG}.npz", CONFIG, count, f"{seed}/{node}")
    _write_bad_exports(root_of, seed)
    for node in NODES[1:3]:
        write_model(root_of[node] / f"models/candidate_{CONFIG}.pth", f"{seed}/candidate/{node}", 200_000)
    best = root_of[_BEST] / f"data/training/{CONFIG}.npz"
    return Cargo(best.read_bytes(), _write_ratings(root_of, seed), _write_registries(root_of, seed))


def promoted(folder: Path, seed: int, number: int) -> Path:
    """A model to promote; those of different numbers have one length and different bytes."""
    return write_model(folder / f"promoted_{number}.pth", f"{seed}/promoted/{number}", 2_000_000)


def _write_bad_exports(root_of: Mapping[str, Path], seed: int) -> None:
    """An export that was cut short, larger than all others, and one whose values lack a sample."""
    cut = make_export(root_of[NODES[3]] / f"data/training/{CONFIG}.npz", CONFIG, 900, f"{seed}/cut")
    cut.write_bytes(cut.read_bytes()[:-2_000])
    arrays = samples("square8_2p", 50, f"{seed}/unequal")
    write_npz(root_of[NODES[3]] / "data/training/square8_2p.npz", {**arrays, "values": arrays["values"][:-1]})


def _write_ratings(root_of: Mapping[str, Path], seed: int) -> tuple[PlayedMatch, ...]:
    """Three nodes in three dialects; their row ids collide, and each match was seen by two of them."""
    matches = make_matches(str(seed), CONFIG, _MATCHES)
    for place, (node, dialect) in enumerate(_DIALECTS.items()):
        seen = {place, (place + 1) % len(_DIALECTS)}
        mine = [match for number, match in enumerate(matches) if number % len(_DIALECTS) in seen]
        write_matches(root_of[node] / "data/unified_elo.db", mine, dialect)
    board, players = CONFIG.rpartition("_")[0], 2
    strange = [
        PlayedMatch(f"{seed}-lonely", board, players, ("only-one", ""), (0, 1), 1.0),
        PlayedMatch(f"{seed}-mixed", board, players, ("canonical_hex8_2p", "canonical_hex8_4p"), (0, 1), 2.0),
    ]
    write_matches(root_of[NODES[0]] / "data/unified_elo.db", strange, MatchDialect.PARTICIPANT)
    return tuple(matches)


def _write_registries(root_of: Mapping[str, Path], seed: int) -> tuple[RegisteredVersion, ...]:
    """Two registries that share a version; a third version is told with two hashes."""
    model = f"canonical_{CONFIG}"
    shared = RegisteredVersion(model, 1, f"{seed}/1", (("staging", "2026-01-01"), ("production", "2026-01-03")))
    one, other = (RegisteredVersion(model, 9, f"{seed}/{text}") for text in ("one", "another"))
    first = RegisteredVersion(model, 2, f"{seed}/2", (("staging", "2026-01-04"),))
    second = RegisteredVersion(model, 3, f"{seed}/3", (("rejected", "2026-01-05"),))
    write_registry(root_of[NODES[0]] / "data/model_registry/registry.db", [shared, first, one])
    write_registry(root_of[NODES[2]] / "data/model_registry/registry.db", [shared, second])
    write_registry(root_of[NODES[1]] / "data/model_registry/registry.db", [other])
    return shared, first, second
