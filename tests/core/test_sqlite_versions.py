"""Which versions of SQLite may lose commits when two connections write at once."""

from __future__ import annotations

import pytest

from ringrift_sync_dagster.core.sqlite_versions import has_wal_reset_bug


@pytest.mark.parametrize("version", ["3.7.0", "3.40.1", "3.44.5", "3.45.0", "3.50.6", "3.51", "3.51.2"])
def test_versions_with_the_bug(version: str) -> None:
    assert has_wal_reset_bug(version)


@pytest.mark.parametrize("version", ["3.6.23", "3.44.6", "3.50.7", "3.51.3", "3.52.0", "3.54.1", "4.0"])
def test_versions_without_it(version: str) -> None:
    assert not has_wal_reset_bug(version)


@pytest.mark.parametrize("text", ["", "three", "3.x"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"invalid literal"):
        has_wal_reset_bug(text)
