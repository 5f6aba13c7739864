"""The rules of the house that no linter holds: sizes, pins, imports of the kit and of defs, what is not committed."""

import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ringrift_sync_dagster"
MAX_FILE_LINES = 400
MAX_README_LINES = 100

NOT_COMMITTED = {".git", ".venv", ".ringrift", "__pycache__", "build", "dist", "logs", ".logs_queue", ".hypothesis"}
# Hosts and options of package registries, and paths of the machine on which something was written.
FOREIGN = re.compile(
    r"pypi\.org|pythonhosted|(?:extra-)?index-url|find-links|trusted-host|--hash=|/opt/(?:pypi|wheels)|(?<![\w.])/work/"
)

PACKAGE_FILES = sorted(PACKAGE.rglob("*.py"))
PYTHON_FILES = [*PACKAGE_FILES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]
KIT_FILES = sorted((PACKAGE / "node").rglob("*.py"))
DEFS_FILES = [PACKAGE / "definitions.py", *sorted((PACKAGE / "defs").rglob("*.py"))]
# Files for which ruff lifts all bans at once, because they may start processes: clocks stay with settings.clock.
PROCESS_FILES = [
    path
    for path in PACKAGE_FILES
    if path.relative_to(PACKAGE).parts[0] in {"demo", "cli", "cli.py"} or path == PACKAGE / "transports" / "process.py"
]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def committed_files() -> Iterator[Path]:
    """Every file that git would take, wherever the tree was copied to."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in NOT_COMMITTED and not f.endswith(("_cache", ".egg-info"))]
        yield from (Path(folder) / file for file in files)


def imported(path: Path) -> Iterator[str]:
    """Top-level names of what a file imports; relative imports are left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(line.split("==")[0]): line for line in lines}


def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return table


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_no_file_of_the_package_its_tests_or_benchmarks_is_over_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES, "split it by idea, never into a part 2"


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=name)
def test_every_file_of_the_package_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", KIT_FILES, ids=name)
def test_the_kit_imports_the_standard_library_and_itself_only(path: Path) -> None:
    kit = "ringrift_sync_dagster.node"
    strangers = {
        module
        for module in imported(path)
        if module.split(".")[0] not in sys.stdlib_module_names and module != kit and not module.startswith(kit + ".")
    }
    assert not strangers


@pytest.mark.parametrize("path", DEFS_FILES, ids=name)
def test_what_dagster_loads_keeps_its_annotations_for_run_time(path: Path) -> None:
    assert "__future__" not in set(imported(path)), "Dagster refuses a `context` whose annotation is a string"


@pytest.mark.parametrize("path", PROCESS_FILES, ids=name)
def test_files_that_may_start_processes_leave_clock_and_environment_alone(path: Path) -> None:
    asked = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not asked & {"time.time", "time.monotonic", "time.time_ns", "datetime.now", "datetime.utcnow", "os.getenv"}


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!]+", line), line


def test_every_dependency_is_pinned_within_its_range() -> None:
    wanted = [*project()["dependencies"], *project()["optional-dependencies"]["dev"], "hatchling>=1.27"]
    for requirement in map(Requirement, wanted):
        line = pins().get(canonicalize_name(requirement.name), "")
        assert line, f"{requirement.name} is missing in constraints.txt"
        assert requirement.specifier.contains(line.split("==")[1]), f"{line} is outside {requirement}"


def test_the_agent_needs_a_pinned_part_of_the_dependencies_and_no_dagster() -> None:
    lines = (ROOT / "requirements-agent.txt").read_text().splitlines()
    names = {canonicalize_name(Requirement(line).name) for line in lines if line and line[0] not in "#-"}
    everything = {canonicalize_name(Requirement(line).name) for line in project()["dependencies"]}

    assert "-c constraints.txt" in lines
    assert names <= everything
    assert names <= set(pins())
    assert not names & {"dagster", "dagster-webserver", "alembic", "pandas", "paramiko", "rich"}


def test_no_package_registry_and_no_path_of_this_machine_is_committed() -> None:
    foreign = re.compile(f"{FOREIGN.pattern}|{re.escape(str(ROOT))}/")
    found = [
        f"{name(path)}: {match[0]}"
        for path in committed_files()
        if path != Path(__file__).resolve() and (match := foreign.search(path.read_text(errors="replace")))
    ]
    assert not found


def test_the_readme_has_at_most_100_lines() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_README_LINES


def test_the_makefile_has_the_verbs_that_people_and_ci_use() -> None:
    rules = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))

    assert {"setup", "check", "test", "demo", "dev", "cluster", "bench", "soak", "mutants", "clean", "help"} <= rules


def test_relative_links_in_the_documents_lead_somewhere() -> None:
    dead = [
        f"{name(path)}: {target}"
        for path in committed_files()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text())
        if "://" not in target and not (path.parent / target).exists()
    ]
    assert not dead
