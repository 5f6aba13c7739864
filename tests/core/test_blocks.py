"""Block arithmetic: the cuts cover a file exactly once, and a resumed transfer starts where the bytes end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringrift_sync_dagster.core.blocks import BLOCK_BYTES, block, block_count, blocks, resume_offset, whole_blocks

SIZES = st.one_of(
    st.integers(0, 40 * BLOCK_BYTES),
    st.integers(0, 12).flatmap(lambda n: st.integers(max(0, n * BLOCK_BYTES - 1), n * BLOCK_BYTES + 1)),
)


@given(SIZES)
def test_the_blocks_of_a_file_cover_it_once_without_gaps(size: int) -> None:
    position = 0
    for index, cut in enumerate(blocks(size)):
        assert (cut.index, cut.start) == (index, position)
        assert 0 < cut.size_bytes <= BLOCK_BYTES
        position = cut.end
    assert position == size


@pytest.mark.parametrize(
    "size, count", [(0, 0), (1, 1), (BLOCK_BYTES, 1), (BLOCK_BYTES + 1, 2), (2 * BLOCK_BYTES - 1, 2)]
)
def test_the_last_block_may_be_short_and_an_empty_file_has_none(size: int, count: int) -> None:
    assert block_count(size) == count


@pytest.mark.parametrize("index, size", [(-1, 1), (1, 1), (0, 0), (2, BLOCK_BYTES + 1)])
def test_a_block_that_a_file_does_not_have_is_refused(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        block(index, size)


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot have -1 bytes"):
        block_count(-1)
    with pytest.raises(ValueError, match="cannot resume"):
        resume_offset(-1, 5)
    with pytest.raises(ValueError, match="cannot resume"):
        resume_offset(1, -5)


@given(SIZES, SIZES)
def test_a_transfer_resumes_after_the_bytes_it_has_or_from_the_start_when_they_are_too_many(
    have: int, size: int
) -> None:
    assert resume_offset(have, size) == (have if have <= size else 0)


@given(SIZES, SIZES)
def test_only_blocks_that_are_there_to_the_last_byte_count_as_whole(have: int, size: int) -> None:
    offset = resume_offset(have, size)
    assert whole_blocks(have, size) == sum(cut.end <= offset for cut in blocks(size))
