"""What a benchmark says: a line of the table for each comparison, and the same figures as rows for programs.

A line compares our figure with one peer's; the ratio is ours divided by the peer's, of the medians. A row is one
figure: ``{"name", "value", "unit", "reach", "holds"}``. Only a figure with something to reach is judged; a value that
could not be measured is None, and then nothing holds or fails.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

OURS: Final = "ours"
NOT_MEASURED: Final = "could not measure"
HEADER: Final = ("what", "ours", "peer", "its figure", "ratio", "to reach", "holds")
RATIO_UNIT: Final = "x"
_DIGITS: Final = 6  # of a value in JSON; the table shows three

Row = dict[str, Any]
Samples = dict[tuple[str, str], list[float]]
"""Every value measured, by (measure, contender)."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a figure must be.

    Args:
        word: ``at most``, ``at least`` or ``below``.
        limit: A number or a fraction as people write it, such as ``1/30``.

    """

    word: str
    limit: str

    def holds(self, value: float) -> bool:
        """Tell whether the value is good enough."""
        limit = float(Fraction(self.limit))
        return {"at most": value <= limit, "at least": value >= limit, "below": value < limit}[self.word]

    def __str__(self) -> str:
        return f"{self.word} {self.limit}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table before it is measured.

    Args:
        what: What is measured, in words; the first column.
        unit: Unit of the figures.
        measure: Name of the samples.
        peer: Whom we are compared with; empty: with nobody, and ``reach`` is about our figure itself.
        reach: What to reach; None: shown only.
        mine: Name of our contender, where we take part in more than one way.

    """

    what: str
    unit: str
    measure: str
    peer: str = ""
    reach: Reach | None = None
    mine: str = OURS


@dataclass(frozen=True, slots=True)
class Result:
    """What one part found out.

    Args:
        samples: Every value measured.
        problems: Why something is missing among them, one line each, with what to install.

    """

    samples: Samples = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measured:
    """One line with its medians; None: could not be measured."""

    line: Line
    ours: float | None
    peer: float | None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's."""
        return rounded(self.ours / self.peer) if self.ours is not None and self.peer else None

    @property
    def judged(self) -> float | None:
        """The value that must reach something."""
        return self.ratio if self.line.peer else self.ours

    @property
    def holds(self) -> bool | None:
        """Whether it reaches that; None where nothing is to reach or nothing was measured."""
        reach, value = self.line.reach, self.judged
        return None if reach is None or value is None else reach.holds(value)

    def cells(self) -> tuple[str, ...]:
        """The line as text, one text for each column of ``HEADER``."""
        line, reach = self.line, self.line.reach
        missing = self.ours is None or bool(line.peer and self.peer is None)
        verdict = {True: "yes", False: "NO", None: "shown"}[self.holds]
        figures = ("", "") if not line.peer else (shown(self.peer, line.unit), shown(self.ratio, RATIO_UNIT))
        to_reach = "" if reach is None else f"{reach} {RATIO_UNIT if line.peer else line.unit}"
        return (
            line.what, shown(self.ours, line.unit), line.peer, *figures, to_reach, NOT_MEASURED if missing else verdict,
        )  # fmt: skip


def measured(lines: Iterable[Line], samples: Mapping[tuple[str, str], Sequence[float]]) -> list[Measured]:
    """Bring lines and samples together."""

    def median(measure: str, contender: str) -> float | None:
        values = samples.get((measure, contender))
        return rounded(statistics.median(values)) if values else None

    return [Measured(line, median(line.measure, line.mine), median(line.measure, line.peer)) for line in lines]


def rows(found: Iterable[Measured]) -> list[Row]:
    """Give the figures of the lines as rows, each figure once."""
    by_name: dict[str, Row] = {}
    for one in found:
        line, reach = one.line, None if one.line.reach is None else str(one.line.reach)
        own: Row = {"name": f"{line.what}: {OURS}", "value": one.ours, "unit": line.unit, "reach": None, "holds": None}
        if not line.peer:
            by_name[own["name"]] = own | {"reach": reach, "holds": one.holds}
            continue
        by_name.setdefault(own["name"], own)
        name = f"{line.what}: {line.peer}"
        by_name[name] = {"name": name, "value": one.peer, "unit": line.unit, "reach": None, "holds": None}
        name = f"{line.what}: ratio to {line.peer}"
        by_name[name] = {"name": name, "value": one.ratio, "unit": RATIO_UNIT, "reach": reach, "holds": one.holds}
    return list(by_name.values())


def shown(value: float | None, unit: str) -> str:
    """Give a value with three digits and its unit; a dash for none."""
    if value is None:
        return "-"
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3 if value >= 0.1 else 4
    return f"{value:.{places}f} {unit}"


def rounded(value: float) -> float:
    """Give the value as JSON keeps it."""
    return float(f"{value:.{_DIGITS}g}")


def text_table(found: Sequence[Measured]) -> str:
    """The table for a terminal."""
    lines = [HEADER, *(one.cells() for one in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def markdown_table(found: Sequence[Measured]) -> str:
    """The table for a document."""
    head = [HEADER, tuple("---" for _ in HEADER), *(one.cells() for one in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in head)
