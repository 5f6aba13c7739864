"""docs/incidents.md tells of every incident once, and each test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INCIDENTS = 57
LINE = re.compile(r"^\| (?P<number>\d+) \| (?P<happened>[^|]+) \| (?P<held>[^|]+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(?P<file>tests/[\w/]+\.py)::(?P<test>\w+)`")
SAID = re.compile(r"Later: \w+|Cannot arise[\w ]*: \w+")


def table() -> list[re.Match[str]]:
    return list(LINE.finditer((ROOT / "docs" / "incidents.md").read_text()))


def names_in(file: Path) -> set[str]:
    """Names of the test functions of a file; a parametrized one has one name. None in a file that is not there."""
    if not file.exists():
        return set()
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_incident_stands_in_the_table_once() -> None:
    assert [int(line["number"]) for line in table()] == list(range(1, INCIDENTS + 1))


def test_every_incident_has_a_test_or_says_why_not() -> None:
    silent = [line["number"] for line in table() if not (NAMED.search(line["held"]) or SAID.search(line["held"]))]
    assert silent == []


def test_every_test_that_an_incident_names_exists() -> None:
    text = (ROOT / "docs" / "incidents.md").read_text()
    files = {file: names_in(ROOT / file) for file in {named["file"] for named in NAMED.finditer(text)}}
    missing = [named[0] for named in NAMED.finditer(text) if named["test"] not in files[named["file"]]]
    assert missing == []
    assert text.count("::test_") == len(list(NAMED.finditer(text))), "a test is named in another way"
