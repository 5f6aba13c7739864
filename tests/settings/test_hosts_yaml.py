"""Any file at all is either an inventory or a list of problems, never a crash; and keys remember their lines."""

from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.hosts_schema import HOST_KEYS, OTHER_SECTIONS, SECTION_KEYS
from ringrift_sync_dagster.settings.hosts_yaml import read_yaml
from ringrift_sync_dagster.settings.inventory import load_inventory

ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["a", "~/x"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)
SECTION_WORDS = sorted({key for keys in SECTION_KEYS.values() for key in keys})
HOST = st.dictionaries(st.sampled_from(sorted(HOST_KEYS)), ANYTHING, max_size=6)
SECTION = st.one_of(ANYTHING, st.dictionaries(st.sampled_from(SECTION_WORDS), ANYTHING, max_size=4))
FILES = st.fixed_dictionaries(
    {"hosts": st.one_of(ANYTHING, st.dictionaries(st.sampled_from(["vast-1", "hub-1", "a b"]), HOST, max_size=3))},
    optional={name: SECTION for name in [*SECTION_KEYS, *OTHER_SECTIONS] if name != "hosts"},
)
# The directory is shared by all examples on purpose: each one overwrites the file.
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)


def problems_of(path: Path) -> tuple[Problem, ...] | None:
    """Give the problems that refuse an inventory; None when it is read."""
    try:
        load_inventory(path)
    except ConfigError as error:
        return error.problems
    return None


def is_read_or_refused(path: Path) -> bool:
    found = problems_of(path)
    return found is None or (any(problem.severity == "error" for problem in found) and all(map(str, found)))


@SHARED
@given(FILES)
def test_values_of_any_shape_are_read_or_refused(tmp_path: Path, content: dict[str, object]) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    assert is_read_or_refused(tmp_path)


@SHARED
@given(
    st.one_of(st.binary(max_size=200), st.text(alphabet="{}[]:,-&*!|>'\"#%@`\t\n a1<?", max_size=60).map(str.encode))
)
def test_bytes_of_any_kind_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    assert is_read_or_refused(tmp_path)


def test_every_key_remembers_its_line_and_a_merged_key_that_of_its_anchor(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("x: &x\n  a: 1\n  b: 2\ny:\n  <<: *x\n  b: 3\n  c: 4\n")
    top, problems = read_yaml(path, "a.yaml")
    assert problems == []
    assert top is not None
    assert top.lines == {"x": 1, "y": 4}
    assert top["y"] == {"a": 1, "b": 3, "c": 4}
    assert top["y"].lines == {"a": 2, "b": 6, "c": 7}


def test_a_mapping_that_contains_itself_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a\n  b: *a\n")
    top, problems = read_yaml(path, "a.yaml")
    assert problems == []
    assert top is not None
    assert top["a"]["b"] is top["a"]


def test_a_date_stays_the_text_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("note: 2026-02-30\n")
    top, _ = read_yaml(path, "a.yaml")
    assert top == {"note": "2026-02-30"}


def test_a_merge_of_a_merge_is_no_doubled_key(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {k: 1}\nb: &b {<<: *a, k: 2}\nc: {<<: [*b, *a], k: 3}\n")
    top, problems = read_yaml(path, "a.yaml")
    assert problems == []
    assert top is not None
    assert (top["b"], top["c"]) == ({"k": 2}, {"k": 3})
