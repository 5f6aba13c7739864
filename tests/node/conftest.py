"""Fixtures of the tests of the node kit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.node.merging import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)
