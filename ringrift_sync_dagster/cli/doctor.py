"""``doctor``: whether the coordinator and its nodes are fit, and the exact fix for what is not."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.names import node_names
from ringrift_sync_dagster.cli.output import clean, show_json, show_table
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ringrift_sync_dagster.sync.doctor.findings import Finding

TIMEOUT: Final = 20.0
"""As ``sync.doctor.nodes.NODE_SECONDS``, which would import what ``--help`` does not need."""


@click.command(context_settings=CONTEXT)
@click.argument("nodes", nargs=-1, metavar="[NODE]...", shell_complete=node_names)
@click.option(
    "--timeout",
    type=click.FloatRange(1, 600),
    default=TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="How long one node may take; 64 are asked at a time.",
)
@click.option("--all", "everything", is_flag=True, help="Also list what is well.")
@verb("hosts", "home", "root", "state-url")
def doctor(session: Session, nodes: tuple[str, ...], timeout: float, everything: bool) -> int:  # noqa: FBT001 - a flag
    """Examine the coordinator and every active node, or those named, and say how to mend what is wrong.

    Nothing is changed. Exit code 1: something does not work. Warnings leave it at 0.
    """
    from ringrift_sync_dagster.sync.doctor.examination import examine

    found = examine(session.settings, nodes, seconds=timeout)
    counts = Counter(finding.level.value for finding in found)
    if session.as_json:
        show_json({"ok": not counts["error"], "counts": dict(counts), "findings": [asdict(one) for one in found]})
    else:
        _show(found, counts, everything=everything)
    return 1 if counts["error"] else 0


def _show(found: Sequence[Finding], counts: Counter[str], *, everything: bool) -> None:
    shown = [one for one in found if everything or one.level.value != "ok"]
    if sys.stdout.isatty():
        rows = [(one.level.value, one.where, one.check, clean(one.detail), clean(one.fix)) for one in shown]
        show_table("findings", ("level", "where", "check", "what", "fix"), rows, empty="nothing is wrong")
    else:  # whole sentences in columns would be too wide for lines
        for one in shown:
            fix = f" | fix: {one.fix}" if one.fix else ""
            click.echo(clean(f"{one.level.value}: {one.where}: {one.check}: {one.detail}{fix}"))
    words = f"{counts['error']} errors, {counts['warning']} warnings, {counts['ok']} things are well"
    click.echo(words if everything or not counts["ok"] else f"{words} (--all lists them)")
