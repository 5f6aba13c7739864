"""docs/benchmarks.md shows the figures of docs/benchmarks.json, every one of them, and no others."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

from bench.command import BEGIN, END
from bench.lines import HEADER, NOT_MEASURED, OURS, RATIO_UNIT, shown

DOCS = Path(__file__).resolve().parent.parent / "docs"


def rows() -> dict[str, dict[str, Any]]:
    found = json.loads((DOCS / "benchmarks.json").read_text())
    return {row["name"]: row for row in found}


def table() -> list[dict[str, str]]:
    text = (DOCS / "benchmarks.md").read_text()
    inside = text.partition(BEGIN)[2].partition(END)[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in inside.splitlines() if line.startswith("|")]
    assert len(lines) > 2, "the table is empty; make bench fills it"
    return [dict(zip(HEADER, line, strict=True)) for line in lines[2:]]


def test_every_line_of_the_table_says_what_was_measured() -> None:
    found = rows()
    for line in table():
        own = found[f"{line['what']}: {OURS}"]
        assert line["ours"] == shown(own["value"], own["unit"]), line
        if line["peer"]:
            peer, ratio = found[f"{line['what']}: {line['peer']}"], found[f"{line['what']}: ratio to {line['peer']}"]
            assert line["its figure"] == shown(peer["value"], peer["unit"]), line
            assert line["ratio"] == shown(ratio["value"], RATIO_UNIT), line


def test_every_measured_figure_stands_in_the_table() -> None:
    lines = {(line["what"], line["peer"]) for line in table()}
    for name in rows():
        what, _, part = name.rpartition(": ")
        peer = part.removeprefix("ratio to ")
        assert any(line_what == what and peer in {OURS, line_peer} for line_what, line_peer in lines), name


def test_what_holds_is_what_the_figures_say() -> None:
    found = rows()
    for line in table():
        row = found[f"{line['what']}: ratio to {line['peer']}" if line["peer"] else f"{line['what']}: {OURS}"]
        if row["reach"] is None or row["value"] is None:
            assert line["holds"] in {"shown", NOT_MEASURED}, line
            continue
        word, _, limit = row["reach"].rpartition(" ")
        reached = {"at most": row["value"] <= Fraction(limit), "at least": row["value"] >= Fraction(limit)}
        reached["below"] = row["value"] < Fraction(limit)
        assert line["holds"] == ("yes" if reached[word] else "NO"), line
        assert row["holds"] is reached[word], row
