"""What is deleted when: the table of rules, and which files of a class go for its age or its quota; values only.

A rule lets a file go when it has served its purpose. A quota is absolute, in bytes, because a share of the disk was
never reached where the disk was large (incident 32); above it the oldest of what may go, goes, down to nine tenths of
the quota, so that the next hour does not begin at the edge (incident 35). What may not be deleted is never deleted for
a quota: then the quota is not met, and that is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
FREE_DOWN_TO: Final = 0.9
"""Share of a quota that is left when something had to go for it."""


class Kind(StrEnum):
    """A class of files of ours; the first four have a quota."""

    INCOMING = "incoming"  # data/incoming: what arrived and is not merged yet
    ARTIFACTS = "artifacts"  # packs made here, waiting to be fetched
    QUARANTINE = "quarantine"  # what was set aside
    VERSIONS = "versions"  # npz and models that are kept
    NODE_PACKS = "node packs"  # packs of others that an agent holds for us


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table.

    Args:
        what: What it is about.
        goes: When it goes, and what stays whatever its age.
        number: How long it stays, in seconds; for ``keep_versions`` how many.
        setting: The setting that decides instead; empty where the number is fixed.

    """

    what: str
    goes: str
    number: float
    setting: str = ""


RUNS: Final = Rule(
    "Dagster runs, with their event files and logs",
    "ended so long ago; the newest materialization of each partition and the newest evaluation of each check stay",
    48 * HOUR,
)
PARTIAL: Final = Rule(
    "partial and unclaimed files in `data/incoming/`", "nobody wrote them for so long, and nothing fetches them", DAY
)
TAKEN_IN: Final = Rule(
    "whole packs in `data/incoming/`",
    "merged, with a receipt, and still there so long after; without receipt: never",
    HOUR,
)
ARTIFACTS: Final = Rule("packs made here for others", "so long after they were made, unless one is being fetched", DAY)
NODE_PACKS: Final = Rule(
    "packs that agents hold in `incoming/`", "so long after the owner's receipt; without receipt: never", DAY
)
QUARANTINE: Final = Rule("quarantine", "so long after it was set aside, and never the sole copy of a game", 30 * DAY)
VERSIONS: Final = Rule(
    "replaced npz versions", "beyond so many, unless published or open; models only for the quota", 3, "keep_versions"
)
TRANSFERS: Final = Rule("rows of ended transfers", "so long after they ended; the newest of each node stays", 7 * DAY)
EVENTS: Final = Rule("events", "so old, and read by every subscriber", 7 * DAY)
CHANGES: Final = Rule("recorded changes", "so old; the newest of each partition, data type and way stays", 30 * DAY)
MARKS: Final = Rule("marks of strategies", "so old", 7 * DAY)
FORECASTS: Final = Rule("forecasts", "so old", 30 * DAY)
RISKS: Final = Rule(
    "what nodes said is on them alone", "no heartbeat for so long, and nothing at risk or given up as lost", 30 * DAY
)

RULES: Final[Mapping[str, Rule]] = {
    "runs": RUNS,
    "partial": PARTIAL,
    "taken in": TAKEN_IN,
    "artifacts": ARTIFACTS,
    "node packs": NODE_PACKS,
    "quarantine": QUARANTINE,
    "versions": VERSIONS,
    "transfers": TRANSFERS,
    "events": EVENTS,
    "changes": CHANGES,
    "marks": MARKS,
    "forecasts": FORECASTS,
    "risks": RISKS,
}
"""Every rule, by the class that the guide's table names."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that may be deleted some day.

    Args:
        kind: Its class.
        name: Its path relative to the root, or what else names it.
        size_bytes: What deleting it frees.
        at: Since when it is there, in seconds since 1970; the oldest goes first.
        due: Why a rule lets it go now; empty while none does.
        spare: True: it may go earlier, when its class is above its quota.
        held: Why it must stay; for people.

    """

    kind: Kind
    name: str
    size_bytes: int
    at: float
    due: str = ""
    spare: bool = False
    held: str = ""


@dataclass(frozen=True, slots=True)
class Deletion:
    """A thing that goes, and why."""

    item: Item
    why: str


@dataclass(frozen=True, slots=True)
class Shortage:
    """A class that stays above its quota, because what is left in it must stay.

    Args:
        kind: The class.
        quota_bytes: Its quota.
        left_bytes: What is left after everything that may go.
        held: Why things stay, with their number, the most frequent first.

    """

    kind: Kind
    quota_bytes: int
    left_bytes: int
    held: str

    def __str__(self) -> str:
        numbers = f"{self.left_bytes / 1e9:.2f} GB, its quota is {self.quota_bytes / 1e9:.2f} GB"
        return f"{self.kind}: {numbers}, and nothing more of it may be deleted: {self.held}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes, in order, and what is short all the same."""

    deletions: tuple[Deletion, ...]
    shortages: tuple[Shortage, ...]


def plan(items: Iterable[Item], quota_bytes: Mapping[Kind, int]) -> Plan:
    """Say what goes: everything that is due, then for each class above its quota the oldest of what may go."""
    by_kind: dict[Kind, list[Item]] = {}
    for item in items:
        by_kind.setdefault(item.kind, []).append(item)
    deletions: list[Deletion] = []
    shortages: list[Shortage] = []
    for kind, found in by_kind.items():
        found.sort(key=lambda one: (one.at, one.name))
        deletions += [Deletion(one, one.due) for one in found if one.due]
        left = sum(one.size_bytes for one in found if not one.due)
        quota = quota_bytes.get(kind)
        if quota is None or left <= quota:
            continue
        for one in found:
            if one.spare and not one.due and left > FREE_DOWN_TO * quota:
                deletions.append(Deletion(one, f"{kind} is above its quota of {quota / 1e9:g} GB"))
                left -= one.size_bytes
        if left > quota:
            stays = [one.held or "it is needed" for one in found if not (one.due or one.spare)]
            reasons = sorted(set(stays), key=lambda why: (-stays.count(why), why))
            told = "; ".join(f"{stays.count(why)} x {why}" for why in reasons)
            shortages.append(Shortage(kind, quota, left, told))
    return Plan(tuple(deletions), tuple(shortages))
