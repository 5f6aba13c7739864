"""What the two ends of a batch say of its files, checked: what came over a login may have any shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ringrift_sync_dagster.core.room import Disk
from ringrift_sync_dagster.sync.copy_ends import disk_of, told

_STATE: Final = (int, int, int, int, str)


@dataclass(frozen=True, slots=True)
class Looked:
    """What the source says of the files: its folder, and of each length, ``mtime_ns``, inode, mode and SHA-256."""

    root: str
    states: Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Staged:
    """What the destination says.

    Args:
        dest: Its folder.
        staging: The one in which files collect.
        there: Names of the files that lie at the destination already.
        came: Names of those that an earlier call brought into ``staging``.
        lacking: Names of the others, and their lengths.
        disk: Its disk.

    """

    dest: str
    staging: str
    there: tuple[str, ...]
    came: tuple[str, ...]
    lacking: Mapping[str, int]
    disk: Disk

    @property
    def needed_bytes(self) -> int:
        """How much must travel."""
        return sum(self.lacking.values())


def looked_at(answer: Mapping[str, Any], names: Sequence[str], node: str) -> Looked:
    """Read the answer to ``inspect``; a file of which it says nothing that makes sense is left out.

    Raises:
        TransientError: The answer as a whole makes no sense.

    """
    found = told(answer, "files", dict, node)
    return Looked(told(answer, "root", str, node), {name: found[name] for name in names if _is_state(found.get(name))})


def staged_at(answer: Mapping[str, Any], looked: Looked, node: str) -> Staged:
    """Read the answer to ``stage``.

    Args:
        answer: The answer.
        looked: What was asked for.
        node: Whose answer it is, for messages.

    Raises:
        TransientError: It makes no sense.

    """
    there, came = (set(map(str, told(answer, key, list, node))) for key in ("there", "came"))
    return Staged(
        told(answer, "dest", str, node), told(answer, "staging", str, node),
        tuple(name for name in looked.states if name in there), tuple(name for name in looked.states if name in came),
        {name: state[0] for name, state in looked.states.items() if name not in there | came}, disk_of(answer, node),
    )  # fmt: skip


def _is_state(found: object) -> bool:
    """Tell whether an end told of a file in the way that ``Looked`` keeps."""
    if not isinstance(found, list) or len(found) != len(_STATE):
        return False
    return all(isinstance(value, kind) for value, kind in zip(found, _STATE, strict=True))
