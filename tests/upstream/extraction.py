"""What upstream's guide names: extracted from its text, so that nothing of it can be forgotten by hand."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

GUIDE = Path(__file__).with_name("sync_strategy_guide.md")
_FENCE = re.compile(r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```", re.MULTILINE | re.DOTALL)
_IN_DRAWINGS = re.compile(r"[\w/*]+\.py|\b(?:Sync|Auto|Batch)[A-Z]\w+|\([^()\n]*\d[^()\n]*\)|CLOSED|HALF_OPEN|\bOPEN")


def named() -> list[str]:
    """Give everything, in the order of the guide, each once: code, bold names, rows of tables, calls, commands."""
    return list(dict.fromkeys(_all(GUIDE.read_text())))


def _all(text: str) -> Iterator[str]:
    end = 0
    for fence in _FENCE.finditer(text):
        yield from _prose(text[end : fence.start()])
        code, end = textwrap.dedent(fence["code"]), fence.end()
        if fence["language"] == "python":
            yield from _python(code)
        elif fence["language"] == "bash":
            yield from (line.strip() for line in code.splitlines() if line.strip() and not line.startswith("#"))
        else:
            yield from _IN_DRAWINGS.findall(code)
    yield from _prose(text[end:])


def _prose(text: str) -> Iterator[str]:
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|"):
            cells = [cell.strip().strip("`*") for cell in line.strip().strip("|").split("|")]
            is_head = set(lines[number + 1 :][0] if lines[number + 1 :] else "") <= set("|- ") and lines[number + 1 :]
            if not set(line) <= set("|- ") and not (is_head and lines[number + 1].startswith("|")):
                yield " · ".join(cells)
        elif line.startswith("### "):
            yield line.removeprefix("### ")
        else:
            yield from re.findall(r"`([^`]+)`", line)
            yield from re.findall(r"\*\*([^*]+)\*\*", line)


def _python(code: str) -> Iterator[str]:
    tree = compile(code, "snippet", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    called = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            yield from () if name == "print" else (f"{name}()",)
            yield from (f"{name}({keyword.arg}={ast.unparse(keyword.value)})" for keyword in node.keywords)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) not in called:
            yield ast.unparse(node)
    yield from (comment for comment in re.findall(r"# (.*\d+(?:s| failures).*)$", code, re.MULTILINE))
