"""Ranges as RFC 9110 has them."""

from __future__ import annotations

import pytest

from ringrift_sync_dagster.agent.ranges import Slice, UnsatisfiableError, pushed_slice, tag_listed, wanted_slice

TAG = '"abc"'


@pytest.mark.parametrize(
    "header,start,count",
    [
        ("bytes=0-", 0, 1000),
        ("bytes=100-", 100, 900),
        ("bytes=0-0", 0, 1),
        ("bytes=999-", 999, 1),
        ("bytes=0-999", 0, 1000),
        ("bytes=0-5000", 0, 1000),
        ("bytes=-100", 900, 100),
        ("bytes=-1", 999, 1),
        ("bytes=-5000", 0, 1000),
        ("Bytes=10-19", 10, 10),
        ("bytes= 10-19 ", 10, 10),
    ],
)
def test_a_satisfiable_range_gives_its_part_of_the_file(header: str, start: int, count: int) -> None:
    assert wanted_slice(header, None, TAG, 1000) == Slice(start, count)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=a-b",
        "items=0-1",
        "bytes=0-1,5-6",
        "bytes=--1",
        "bytes=0x1-",
        "bytes=\u0661-\u0662",
        "bytes=" + "9" * 30 + "-",
    ],
)
def test_no_range_several_ranges_and_malformed_ones_mean_the_whole_file(header: str | None) -> None:
    assert wanted_slice(header, None, TAG, 1000) is None


@pytest.mark.parametrize(
    "header,size",
    [("bytes=1000-", 1000), ("bytes=2000-3000", 1000), ("bytes=-0", 1000), ("bytes=0-", 0), ("bytes=-5", 0)],
)
def test_a_range_without_any_byte_of_the_file_is_unsatisfiable(header: str, size: int) -> None:
    with pytest.raises(UnsatisfiableError):
        wanted_slice(header, None, TAG, size)


@pytest.mark.parametrize("if_range", ['"other"', 'W/"abc"', "abc", "Mon, 23 Nov 2026 20:50:58 GMT", ""])
def test_if_range_that_is_not_exactly_the_tag_means_the_whole_file(if_range: str) -> None:
    assert wanted_slice("bytes=5-", if_range, TAG, 1000) is None
    assert wanted_slice("bytes=5-", TAG, TAG, 1000) == Slice(5, 995)


def test_if_none_match_compares_weakly_and_if_match_strongly() -> None:
    assert tag_listed('"x", W/"abc"', TAG, weak=True)
    assert not tag_listed('"x", W/"abc"', TAG, weak=False)
    assert tag_listed("*", TAG, weak=False)
    assert not tag_listed(None, TAG, weak=True)


@pytest.mark.parametrize(
    "header,length,part,total",
    [
        (None, 10, Slice(0, 10), 10),
        (None, 0, Slice(0, 0), 0),
        ("bytes 0-9/10", 10, Slice(0, 10), 10),
        ("bytes 5-9/10", None, Slice(5, 5), 10),
        ("bytes */10", None, Slice(10, 0), 10),
        ("bytes */0", 0, Slice(0, 0), 0),
    ],
)
def test_a_put_says_which_part_it_carries(header: str | None, length: int | None, part: Slice, total: int) -> None:
    assert pushed_slice(header, length) == (part, total)


@pytest.mark.parametrize(
    "header,length",
    [
        (None, None),
        ("bytes 0-9/10", 9),
        ("bytes 5-4/10", None),
        ("bytes 6-4/10", None),
        ("bytes 0-10/10", None),
        ("bytes 0-9/*", 10),
        ("0-9/10", 10),
        ("bytes */10", 1),
        ("", 5),
    ],
)
def test_a_put_that_contradicts_itself_is_refused(header: str | None, length: int | None) -> None:
    with pytest.raises(ValueError, match=r"Content-(Range|Length)"):
        pushed_slice(header, length)
