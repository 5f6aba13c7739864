"""docs/guide.md: what it says of deleting is what the code does."""

from __future__ import annotations

import pytest

from ringrift_sync_dagster.core.retention import DAY, HOUR, RULES, Kind
from ringrift_sync_dagster.settings.settings import QUOTA_GB, VARIABLES, Settings, load_settings
from tests.test_guide import GUIDE, table_after

UNITS = {"h": HOUR, "days": DAY, "versions": 1}


def seconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * UNITS[unit]


def test_the_table_of_what_is_deleted_when_is_the_code_s() -> None:
    told = {
        name: (what, goes, seconds(after), setting.strip("`-"))
        for name, what, goes, after, setting in table_after("What is deleted when")
    }

    assert told == {name: (rule.what, rule.goes, rule.number, rule.setting) for name, rule in RULES.items()}


def test_a_rule_s_setting_exists_and_has_the_table_s_number() -> None:
    for rule in RULES.values():
        assert not rule.setting or Settings.model_fields[rule.setting].default == rule.number


def test_the_quotas_are_the_code_s() -> None:
    text = GUIDE.read_text().partition("| Quota of |")[2].partition("\n\n")[0]
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()[2:]]

    assert {name: float(quota) for name, quota, _ in lines} == dict(QUOTA_GB)
    assert set(QUOTA_GB) == {kind.value for kind in Kind} - {Kind.NODE_PACKS.value}


def test_a_quota_is_set_by_its_variable_and_a_wrong_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES["quota_gb"], "incoming=7, versions=1.5")
    assert load_settings(hosts="hosts").quota_gb == {**QUOTA_GB, "incoming": 7.0, "versions": 1.5}

    for wrong in ("incoming", "incoming=-1", "incoming=nan", "other=3", "incoming=inf"):
        monkeypatch.setenv(VARIABLES["quota_gb"], wrong)
        with pytest.raises(Exception, match="is no quota in GB"):
            load_settings(hosts="hosts")
