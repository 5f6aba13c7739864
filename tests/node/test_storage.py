"""A mark is found on the disk that it was written to and on no other, and goes away again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.ops import OPS, REMOTE, Context
from ringrift_sync_dagster.node.roots import Roots

MARK, OTHER = "a" * 32, "b" * 32
NOW = 1_800_000_000.0


def ask(root: Path, scratch: Path, **arguments: Any) -> list[str]:  # noqa: ANN401 - whatever a caller sends
    root.mkdir(exist_ok=True)
    answer = OPS["storage"](Context(Roots([str(root)]), str(scratch), NOW), arguments)
    found: list[str] = answer["found"]
    return found


def test_a_mark_is_found_where_it_was_written_and_nowhere_else(tmp_path: Path) -> None:
    assert "storage" in REMOTE
    one, other = tmp_path / "one", tmp_path / "other"
    ask(one, tmp_path / "s1", mark=MARK)
    assert ask(one, tmp_path / "s2", look=[MARK, OTHER]) == [MARK]  # the kit's own folder does not matter
    assert ask(other, tmp_path / "s3", look=[MARK, OTHER]) == []
    ask(one, tmp_path / "s2", drop=MARK)
    ask(one, tmp_path / "s2", drop=MARK)
    assert ask(one, tmp_path / "s1", look=[MARK]) == []


def test_a_file_of_that_name_with_other_bytes_is_no_mark(tmp_path: Path) -> None:
    ask(tmp_path / "one", tmp_path, mark=MARK)
    (tmp_path / "one/data/.ringrift-sync/storage" / MARK).write_bytes(b"x" * 32)
    assert ask(tmp_path / "one", tmp_path, look=[MARK]) == []


def test_marks_that_a_killed_probe_left_go_with_the_next_one(tmp_path: Path) -> None:
    ask(tmp_path / "one", tmp_path, mark=MARK)
    left = tmp_path / "one/data/.ringrift-sync/storage" / MARK
    os.utime(left, (NOW - 4000, NOW - 4000))
    ask(tmp_path / "one", tmp_path, mark=OTHER)
    assert not left.exists()


@pytest.mark.parametrize(
    "arguments", [{"mark": "../../x"}, {"mark": "A" * 32}, {"drop": "x"}, {"look": [1]}, {"look": "x"}, {"path": "x"}]
)
def test_what_is_no_token_is_refused(tmp_path: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(KitError) as refused:
        ask(tmp_path / "one", tmp_path, **arguments)
    assert refused.value.code == "bad_arguments"


def test_a_name_that_leads_out_of_the_folder_is_not_looked_at(tmp_path: Path) -> None:
    assert ask(tmp_path / "one", tmp_path, look=["../../../../etc/passwd", ""]) == []
