"""The demo as a newcomer runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.processes import CHECKOUT
from ringrift_sync_dagster.demo.story import RUNGS


@pytest.mark.cluster
def test_the_demo_ends_well_and_tells_how_to_look_at_its_data(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "ringrift_sync_dagster.demo", "--base", str(tmp_path)],
        check=False, capture_output=True, text=True, cwd=CHECKOUT, timeout=600,
    )  # fmt: skip

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Verdict: the ledgers and the canonical store agree" in ended.stdout
    assert "make dev" in ended.stdout
    assert "games were at risk on vast-900001 when it was killed (status said" in ended.stdout
    assert "every game of vast-900001 with a receipt is in the canonical store or in quarantine: yes" in ended.stdout
    for node, rung in RUNGS.items():
        assert f"{node} was served by {rung.value}: yes" in ended.stdout
