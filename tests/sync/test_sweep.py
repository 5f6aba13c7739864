"""What lies in ``incoming/`` belongs to several processes at once."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ringrift_sync_dagster.intake import sweep
from ringrift_sync_dagster.sync.collect import settle
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sync.conftest import Field


@pytest.mark.parametrize("name", ["0" * 64, f"{'0' * 64}.part"])
def test_a_file_that_its_transfer_takes_away_during_a_sweep_is_nothing_to_warn_of(
    field_: Field, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = field_.settings.root / "data" / "incoming" / field_.nodes[0] / name
    looked = list[Path]()

    def seen_a_moment_ago(_: object) -> list[Path]:
        looked.append(path)
        return [path]

    monkeypatch.setattr(sweep, "_files", seen_a_moment_ago)
    with Runtime.open(field_.settings) as runtime, caplog.at_level(logging.WARNING):
        settle(runtime, "test")

    assert looked == [path]
    assert "incoming=" not in caplog.text
