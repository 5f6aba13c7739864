"""``sync``: move data between nodes and their owner now, without Dagster; the next Dagster run records what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.names import config_option, node_names, node_option, type_option
from ringrift_sync_dagster.cli.output import clean, show_json, show_table, size
from ringrift_sync_dagster.cli.progress import shown_progress
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.sync.collect import Request
    from ringrift_sync_dagster.sync.report import CollectReport, Failure, Outcome

TRANSPORTS: Final = ("p2p", "rsync", "base64")
"""As the guide names them; ``core.escalation.FORCED`` has the same."""

NAMED_ASIDE: Final = 20
"""Games set aside that are named one by one; `quarantine list` has them all."""

EXAMPLES: Final = """\b
Examples:
  ringrift-sync sync --type games --config hex8_2p
  ringrift-sync sync --config hex8_2p --config square8_2p --node vast-12345
  ringrift-sync sync --type npz --type models --up
  ringrift-sync sync --type models --to vast-12345
  ringrift-sync sync --node vast-12345 --transport rsync
"""


@click.command(context_settings=CONTEXT, epilog=EXAMPLES)
@type_option
@config_option
@node_option
@click.option("--up", "up", is_flag=True, help="Only bring data from nodes.")
@click.option("--down", "down", is_flag=True, help="Only bring data to nodes.")
@click.option(
    "--to",
    "to",
    multiple=True,
    shell_complete=node_names,
    metavar="NAME",
    help="Bring this node everything, whatever it does.",
)
@click.option("--recover", is_flag=True, help="Also collect what was brought to nodes, and their own canonical files.")
@click.option("--force", is_flag=True, help="Also let a worse npz replace a better one.")
@click.option("--transport", type=click.Choice(TRANSPORTS), help="Only this transport; by default each in order.")
@click.option("--dry-run", is_flag=True, help="Show what would move, by what nodes told last; move nothing.")
@verb("hosts", "home", "root", "state-url")
def sync(session: Session, /, transport: str | None, dry_run: bool, **chosen: Any) -> int:  # noqa: ANN401, FBT001 - what click gives
    """Move data between nodes and their owner now.

    Every partition is tried, and the exit code is 1 when one failed. Without --up and --down data goes both ways.
    """
    from ringrift_sync_dagster.core.model import DataType
    from ringrift_sync_dagster.sync.collect import Request

    types = [DataType(name) for name in chosen["data_types"]] or None
    both = chosen["up"] == chosen["down"]
    request = Request(
        types, chosen["configs"] or None, chosen["nodes"] or None, "cli", up=both or chosen["up"],
        down=both or chosen["down"], to=chosen["to"], recover=chosen["recover"], force=chosen["force"],
    )  # fmt: skip
    if dry_run:
        return _show_plan(session, request)
    return _run(session, request, transport)


@click.command(context_settings=CONTEXT)
@type_option
@config_option
@node_option
@click.option("--recover", is_flag=True, help="Also ask for what was once brought to nodes, after a loss here.")
@click.option("--transport", type=click.Choice(TRANSPORTS), help="Only this transport; by default each in order.")
@verb("hosts", "root", "state-url")
def pull(session: Session, /, transport: str | None, **chosen: Any) -> int:  # noqa: ANN401 - what click gives
    """Bring data from nodes now; nothing goes down to them.

    With --recover everything is asked for that nodes hold, also the copies that were brought to them: what to do when
    the canonical store or the state database was lost.
    """
    from ringrift_sync_dagster.core.model import DataType
    from ringrift_sync_dagster.sync.collect import Request

    types = [DataType(name) for name in chosen["data_types"]] or None
    request = Request(
        types, chosen["configs"] or None, chosen["nodes"] or None, "cli", down=False, recover=chosen["recover"]
    )  # fmt: skip
    return _run(session, request, transport)


def _show_plan(session: Session, request: Request) -> int:
    from ringrift_sync_dagster.cli.plans import show_plan
    from ringrift_sync_dagster.sync.planner import measured_before
    from ringrift_sync_dagster.sync.runtime import Runtime
    from ringrift_sync_dagster.sync.strategy_plan import SyncPlanner

    settings = session.settings()
    with Runtime.open(settings) as runtime:
        chosen = SyncPlanner(runtime).plan_request(request)
        return show_plan(session, chosen, settings, measured_before(runtime.state))


def _run(session: Session, request: Request, transport: str | None) -> int:
    """Do the pass and show what it did."""
    from ringrift_sync_dagster.sync.collect import move
    from ringrift_sync_dagster.sync.runtime import Runtime

    with Runtime.open(session.settings(), transport=transport or "") as runtime:
        for name in (*(request.nodes or ()), *request.to):
            runtime.inventory.get(name)
        with shown_progress(session, runtime.state):
            reports = move(runtime, request)
    if session.as_json:
        told = [_json(data_type.value, report) for data_type, report in reports.items()]
        show_json(told[0] if len(told) == 1 else {"ok": all(one["ok"] for one in told), "types": told})
    else:
        for data_type, report in reports.items():
            _show(data_type.value, report)
    return 1 if any(report.failures for report in reports.values()) else 0


def _show(data_type: str, report: CollectReport) -> None:
    games = data_type == "games"
    counted = ("new", "same", "other", "aside", "waiting") if games else ("what", "aside")
    columns = ("partition", "result", *counted, "moved", "seconds", "via", *(("canonical",) if games else ()))
    rows = [_row(outcome) if games else _counted_row(outcome) for outcome in report.outcomes]
    show_table(data_type, columns, rows, empty="no partition to move: no node of the inventory is ready")
    for line in aside_lines(report):
        click.echo(clean(line))
    for note in report.notes:
        click.echo(clean(f"note: {note.node}: {note.path}: {note.message} ({note.code})"))
    for line in failure_lines(report.failures):
        click.echo(clean(f"ringrift-sync: {line}"), err=True)
    new = sum(outcome.games_new for outcome in report.outcomes)
    changed = sum(outcome.changed for outcome in report.outcomes)
    told = f"{new} new games" if games else f"{changed} changed"
    click.echo(f"{len(rows)} partitions, {len(report.failures)} failed, {told}, {report.seconds:.1f} s")


def aside_lines(report: CollectReport) -> list[str]:
    """Name the first games that were set aside, and say how many more there are."""
    things = [(outcome.partition, thing) for outcome in report.outcomes for thing in outcome.set_aside]
    named = [f"set aside: {partition}: {thing.reason}: {thing.game_id}" for partition, thing in things[:NAMED_ASIDE]]
    more = len(things) - len(named)
    return [*named, f"set aside: and {more} more; `ringrift-sync quarantine list` shows all"] if more else named


def failure_lines(failures: Sequence[Failure]) -> list[str]:
    """One line for each thing that is wrong: what one node said for several configs is said once."""
    groups: dict[tuple[str, str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.partition.node, failure.error, failure.message), []).append(failure)
    return [
        _one_line(same[0] if len(same) == 1 else f"{len(same)} configs of {node}: {message} ({error})")
        for (node, error, message), same in groups.items()
    ]


def _row(outcome: Outcome) -> tuple[object, ...]:
    result = _result(outcome)
    return (
        outcome.partition.key, result, outcome.games_new, outcome.games_same,
        outcome.revised + outcome.renamed + outcome.annotated, len(outcome.set_aside), outcome.waiting,
        size(outcome.bytes_moved), outcome.seconds, outcome.transport, outcome.canonical_games,
    )  # fmt: skip


def _result(outcome: Outcome) -> str:
    if outcome.failure is not None:
        return "failed"
    return "changed" if outcome.changed else "held" if outcome.held else "unchanged"


def _counted_row(outcome: Outcome) -> tuple[object, ...]:
    """A row of a data type whose numbers have names: only those that are not 0 are told."""
    result = _result(outcome)
    what = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in outcome.counts.items() if count)
    return (
        outcome.partition.key, result, what, len(outcome.set_aside), size(outcome.bytes_moved), outcome.seconds,
        outcome.transport,
    )  # fmt: skip


def _json(data_type: str, report: CollectReport) -> dict[str, object]:
    outcomes = [_outcome_json(outcome) for outcome in report.outcomes]
    notes = [asdict(note) for note in report.notes]
    return {
        "ok": not report.failures,
        "type": data_type,
        "held": report.held,
        "seconds": report.seconds,
        "partitions": outcomes,
        "notes": notes,
    }


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    return {
        "partition": outcome.partition.key,
        "config": outcome.partition.config,
        "node": outcome.partition.node,
        "changed": outcome.changed,
        "held": outcome.held,
        "games_new": outcome.games_new,
        "games_same": outcome.games_same,
        "revised": outcome.revised,
        "renamed": outcome.renamed,
        "annotated": outcome.annotated,
        "counts": dict(outcome.counts),
        "set_aside": [asdict(thing) for thing in outcome.set_aside],
        "waiting": outcome.waiting,
        "bytes_moved": outcome.bytes_moved,
        "seconds": outcome.seconds,
        "transport": outcome.transport,
        "canonical_games": outcome.canonical_games,
        "failure": None if outcome.failure is None else _one_line(outcome.failure),
    }


def _one_line(failure: object) -> str:
    return " ".join(str(failure).split())
