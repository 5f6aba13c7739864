"""Partition keys, node names and artifacts refuse what could collide, escape a directory, or mean two things."""

import pytest

from ringrift_sync_dagster.core.model import Artifact, DataType, Partition, checked_node_name, is_node_name


@pytest.mark.parametrize("name", ["vast-12345", "hub-1", "A", "node.example_2", "9", "x" * 128])
def test_letters_digits_dot_underscore_and_hyphen_name_a_node(name: str) -> None:
    assert checked_node_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a|b", "a b", "a/b", "..", ".hidden", "-rf", "_x", "a\n", "é", "a\x00", "x" * 129, "~", "a:b"]
)
def test_other_names_are_refused(name: str) -> None:
    assert not is_node_name(name)
    with pytest.raises(ValueError, match="cannot name a node"):
        checked_node_name(name)


def test_a_partition_key_reads_back_as_it_was_written() -> None:
    partition = Partition("hex8_2p", "vast-12345")
    assert partition.key == str(partition) == "hex8_2p|vast-12345"
    assert Partition.parse(partition.key) == partition


@pytest.mark.parametrize("key", ["", "hex8_2p", "|vast-1", "hex8_2p|", "hex8_2p|a|b", "hex8_2p|a b"])
def test_what_is_no_partition_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"partition|cannot name a node"):
        Partition.parse(key)


def test_a_config_never_holds_the_separator() -> None:
    with pytest.raises(ValueError, match="cannot be the config"):
        Partition("a|b", "n")


def test_an_artifact_is_named_by_a_whole_digest() -> None:
    assert Artifact("0" * 64, 0, "games").size_bytes == 0
    for digest in ("", "0" * 63, "A" * 64, "../" + "0" * 61, "0" * 64 + "\n"):
        with pytest.raises(ValueError, match="not a SHA-256"):
            Artifact(digest, 1, "games")


def test_an_artifact_has_no_negative_size() -> None:
    with pytest.raises(ValueError, match="cannot have -1 bytes"):
        Artifact("0" * 64, -1, "games")


def test_the_data_types_are_those_of_the_guide_in_its_order() -> None:
    assert list(DataType) == ["games", "npz", "models", "elo", "registry"]
