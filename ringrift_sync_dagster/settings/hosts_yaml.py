"""Reading one YAML file of the inventory so that every key remembers its line, and no key is lost without a word.

Plain YAML would drop the first of two equal keys, read ``2026-02-30`` as a date and fail, and forget where a value
stood. Anchors and merge keys (``<<``) work as usual; a merged key has the line of the anchor.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import yaml

from ringrift_sync_dagster.errors import Problem

_MERGE_TAG: Final = "tag:yaml.org,2002:merge"
_MAP_TAG: Final = "tag:yaml.org,2002:map"
_TIMESTAMP_TAG: Final = "tag:yaml.org,2002:timestamp"


class Section(dict[str, Any]):
    """A YAML mapping that knows its own line and the line of each key, counted from 1."""

    def __init__(self, line: int | None = None) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with ``Section`` for mappings and dates left as the text they are."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name for its table
        first: [(tag, pattern) for tag, pattern in rules if tag != _TIMESTAMP_TAG]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_section(self, node: yaml.MappingNode) -> Iterator[Section]:
        """Build a mapping in two steps, as PyYAML wants it, so that an anchor may refer to its own mapping."""
        section = Section(node.start_mark.line + 1)
        yield section
        # A key that is no text stays as it is: the inventory names it and says to put it in quotes.
        section.update(cast("dict[str, Any]", self.construct_mapping(node)))
        # construct_mapping has resolved the merge keys: merged pairs come first, the mapping's own pairs last.
        for key, _ in node.value:
            section.lines[str(self.construct_object(key))] = key.start_mark.line + 1


_Loader.add_constructor(_MAP_TAG, _Loader.construct_section)


def read_yaml(path: Path, name: str) -> tuple[Section | None, list[Problem]]:
    """Read the mapping of one file.

    Args:
        path: The file.
        name: How problems call the file.

    Returns:
        The mapping, or None when the file cannot be used at all, and every problem found.

    """
    try:
        loader = _Loader(path.read_bytes())
        root = loader.get_single_node()
        if root is None:
            return None, [_problem(name, None, "", "the file is empty; describe hosts in it, or delete it")]
        problems = [
            _problem(name, line, key, f"the key is written twice (first in line {first}); remove one of them")
            for key, first, line in _doubled_keys(root)
        ]
        value = loader.construct_document(root)
    except OSError as error:
        return None, [_problem(name, None, "", f"the file cannot be read: {error.strerror}")]
    except yaml.YAMLError as error:
        return None, [_syntax_problem(name, error)]
    except (ValueError, RecursionError) as error:
        cause = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return None, [_problem(name, None, "", f"the file is not usable YAML: {cause}")]
    if not isinstance(value, Section):
        kind = "a list" if isinstance(value, list) else "a single value"
        message = f"the file holds {kind}; it must be a mapping with the key hosts, and each host's name below it"
        return None, [*problems, _problem(name, root.start_mark.line + 1, "", message)]
    return value, problems


def _doubled_keys(root: yaml.Node) -> Iterator[tuple[str, int, int]]:
    """Give (key, line of the first, line of the second) for each key that one mapping has twice."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting.extend(node.value)
        if isinstance(node, yaml.MappingNode):
            first: dict[Hashable, int] = {}
            for key, value in node.value:
                waiting.append(value)
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE_TAG and key.value in first:
                    yield key.value, first[key.value], line
                elif isinstance(key, yaml.ScalarNode):
                    first[key.value] = line


def _syntax_problem(name: str, error: yaml.YAMLError) -> Problem:
    line, what = None, str(error).splitlines()[0]
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        what = " ".join(part for part in (error.context, error.problem) if part)
    advice = "indent with spaces, not with tabs" if "\\t" in what else "correct the YAML in this line or the one above"
    return _problem(name, line, "", f"the file is not valid YAML: {what}; {advice}")


def _problem(name: str, line: int | None, key: str, message: str) -> Problem:
    return Problem(file=name, line=line, host="", key=key, message=message)
