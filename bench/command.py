"""The command line that all benchmark programs share.

The exit status says only whether everything could be measured (0) or not (1), never whether a figure is good.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw

from bench.harness import LEAST_RUNS, Part, note, temporary_folder
from bench.lines import OURS, Measured, Row, markdown_table, measured, rows, text_table
from ringrift_sync_dagster.settings import clock

BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"


def main(parts: Sequence[Part], arguments: Sequence[str]) -> int:
    """Measure the parts that are asked for, print the table, and write the files that are asked for."""
    options = _options(parts, arguments)
    found: list[Measured] = []
    problems: list[str] = []
    for part in parts:
        if options.only and part.name not in options.only:
            continue
        with temporary_folder() as folder:
            result = part.measure(folder, options.runs)
        found += measured(part.lines, result.samples)
        problems += result.problems
    print(f"{machine()}\nMedians of {options.runs} interleaved runs.\n")
    print(text_table(found))
    for problem in dict.fromkeys(problems):
        print(f"could not measure: {problem}")
    if options.json:
        found = with_kept(parts, found, _rows_of(options.json))
        options.json.write_text(json.dumps(rows(found), indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        write_markdown(options.markdown, found, options.runs)
    return 1 if problems or any(one.cells()[-1] == "could not measure" for one in found) else 0


def with_kept(parts: Sequence[Part], found: Sequence[Measured], kept: Sequence[Row]) -> list[Measured]:
    """Give all lines in their order: those that were measured now, and of the others what the file still holds.

    A part is measured as a whole, ours beside its peers, so parts may be measured one after the other.
    """
    by_line = {(one.line.what, one.line.peer): one for one in found}
    values = {row["name"]: row["value"] for row in kept}
    lines = [line for part in parts for line in part.lines]
    given = []
    for line in lines:
        own, peer = f"{line.what}: {OURS}", f"{line.what}: {line.peer}"
        if (line.what, line.peer) in by_line:
            given.append(by_line[line.what, line.peer])
        elif own in values and (not line.peer or peer in values):
            given.append(Measured(line, values[own], values.get(peer)))
    return given


def _rows_of(file: Path) -> list[Row]:
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


def machine() -> str:
    """Date, processors, system and the versions that matter."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    return (
        f"{clock.utc_iso()[:10]}, {len(models)} x {model}, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}, apsw {apsw.apsw_version()}"
    )


def write_markdown(path: Path, found: Sequence[Measured], runs: int) -> None:
    """Replace what stands between the two marks of a document by this table, its date and machine."""
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    table = f"{machine()}. Medians of {runs} interleaved runs.\n\n{markdown_table(found)}"
    path.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def _options(parts: Sequence[Part], arguments: Sequence[str]) -> argparse.Namespace:
    names = [part.name for part in parts]
    parser = argparse.ArgumentParser(prog="bench", description="Measures this program beside its peers.")
    parser.add_argument("--only", action="append", choices=names, metavar="PART", help=f"one of {', '.join(names)}")
    parser.add_argument("--runs", type=_runs, default=LEAST_RUNS, help="rounds that count (default %(default)s)")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the figures there; those of parts that are not measured now stay",
    )
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="put the table between the marks of this file")
    options = parser.parse_args(arguments)
    if options.markdown and BEGIN not in options.markdown.read_text(encoding="utf-8"):
        parser.error(f"{options.markdown} has no line {BEGIN}")
    if options.runs < LEAST_RUNS:
        note(f"{options.runs} runs show whether the program works; figures need {LEAST_RUNS}")
    return options


def _runs(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least one run")
    return value
