"""Every name, number, variable, command and snippet of upstream's guide has its place here, and the place exists."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

import ringrift_sync_dagster
from ringrift_sync_dagster.cli.main import VERBS
from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.settings.settings import VARIABLES, load_settings
from ringrift_sync_dagster.sync.strategies import SETTINGS, STRATEGY_NAMES, AutoSyncConfig
from tests.upstream.extraction import named

DOCS = Path(__file__).resolve().parent.parent / "docs"
GUIDE = DOCS / "guide.md"


def rows(heading: str) -> list[list[str]]:
    text = GUIDE.read_text().partition(f"# {heading}\n")[2]
    lines = text[text.index("| ") :].partition("\n\n")[0].splitlines()
    cells = [re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|")) for line in lines[2:]]
    return [[cell.strip().replace("\\|", "|") for cell in line] for line in cells]


WHOLE = rows("The guide, whole")
PLACES = sorted({place for _, here in WHOLE for place in re.findall(r"`([^`]+)`", here)})
LINKS = sorted({link for _, here in WHOLE for link in re.findall(r"\]\(([^)]+)\)", here)})
DAGSTER = {
    *(job.name for job in defs.resolve_all_job_defs()),
    *(schedule.name for schedule in defs.schedules or ()),
    *(sensor.name for sensor in defs.sensors or ()),
    *(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()),
}


def test_the_guide_is_extracted_as_a_person_reads_it() -> None:
    found = named()
    assert {"AutoSyncConfig(ephemeral_priority_boost=2.0)", "SSH/rsync · 10s · 300s · 3", "HALF_OPEN"} <= set(found)
    assert {"python scripts/master_loop.py", "DaemonType.EVENT_ROUTER", "caps.ssh_available"} <= set(found)
    assert len(found) > 150


def test_the_table_lists_everything_that_the_guide_names_and_nothing_else() -> None:
    assert [key.strip("`") for key, _ in WHOLE] == named()
    assert all(here for _, here in WHOLE)


@pytest.mark.parametrize("place", PLACES)
def test_each_place_exists(place: str) -> None:
    assert any(
        (
            is_public(place),
            place in DAGSTER,
            place in VARIABLES.values(),
            place.startswith("ringrift-sync ") and place.split()[1] in VERBS,
            place.startswith("hosts/") and (DOCS.parent / place).exists(),
            place in {'strategy="priority"', 'strategy="quality"'} and place[10:-1] in STRATEGY_NAMES,
            place in {"priority_hosts=", "ssh_port", "tail -f .ringrift/logs/auto_sync.log"},
        )
    )


def is_public(place: str) -> bool:
    name, *attributes = place.split(".")
    if name not in ringrift_sync_dagster.__all__:
        return False
    value = getattr(ringrift_sync_dagster, name)
    for attribute in attributes:
        fields = {one.name for one in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
        if attribute not in fields and not hasattr(value, attribute):
            return False
    return True


@pytest.mark.parametrize("link", LINKS)
def test_each_link_leads_somewhere(link: str) -> None:
    file, _, anchor = link.partition("#")
    page = DOCS / (file or "guide.md")
    lines = [line for line in page.read_text().splitlines() if line.startswith("#")]
    headings = [re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-") for line in lines]
    assert page.exists()
    assert not anchor or anchor in headings


def test_the_tables_of_strategies_and_of_their_configuration_are_the_codes() -> None:
    assert [row[0].strip("`") for row in rows("Strategies")] == list(STRATEGY_NAMES)
    fields = {one.name: one.default for one in dataclasses.fields(AutoSyncConfig)}
    text = GUIDE.read_text().partition("| Field | Default |")[2]
    lines = [line.split("|") for line in text.partition("\n\n")[0].splitlines()[2:]]
    told = {cells[1].strip(" `"): (cells[2].strip(" `"), cells[3].strip(" `")) for cells in lines}
    assert told == {name: (str(fields[name]), VARIABLES[SETTINGS.get(name, name)]) for name in ("strategy", *SETTINGS)}
    defaults = AutoSyncConfig.of("", load_settings(hosts=DOCS.parent / "hosts"))
    assert {name: getattr(defaults, name) for name in SETTINGS} == {name: fields[name] for name in SETTINGS}


def test_the_public_names_are_those_of_their_modules() -> None:
    for name, module in ringrift_sync_dagster._MODULES.items():
        assert hasattr(importlib.import_module(f"ringrift_sync_dagster.{module}"), name)
