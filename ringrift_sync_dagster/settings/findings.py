"""Everything wrong with an inventory, collected while it is read, so that one load names all of it.

A place is a mapping in a file, with the host that it describes; problems get their file, line and host from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches

from ringrift_sync_dagster.errors import Problem
from ringrift_sync_dagster.settings.hosts_yaml import Section


@dataclass(frozen=True, slots=True)
class Place:
    """Where something is written.

    Args:
        file: Name of the file as problems show it.
        section: The mapping.
        host: Name of the host that the mapping describes; empty for another section.
        prefix: What stands before a key in problems, such as ``auto_sync.``.

    """

    file: str
    section: Section
    host: str = ""
    prefix: str = ""

    def line(self, key: str = "") -> int | None:
        """Give the line of a key, or of the mapping itself when the key is not written there."""
        return self.section.lines.get(key, self.section.line)


@dataclass(slots=True)
class Findings:
    """The problems found so far.

    Args:
        problems: In the order of finding.

    """

    problems: list[Problem] = field(default_factory=list)

    def error(self, place: Place, key: str, message: str) -> None:
        """Note something that makes the inventory unusable."""
        self.problems.append(Problem(place.file, place.line(key), place.host, _name(place, key), message))

    def warning(self, place: Place, key: str, message: str) -> None:
        """Note something that is probably not meant."""
        self.problems.append(Problem(place.file, place.line(key), place.host, _name(place, key), message, "warning"))

    @property
    def failed(self) -> bool:
        """True when there is an error."""
        return any(problem.severity == "error" for problem in self.problems)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is no error."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Give ``; did you mean x?`` for the nearest known word, or nothing when none is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


def _name(place: Place, key: str) -> str:
    return f"{place.prefix}{key}" if key else place.prefix.rstrip(".")
