"""``sync``: collect data from nodes now, without Dagster; the next Dagster run records what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import clean, show_json, show_table, size
from ringrift_sync_dagster.cli.session import Session, verb
from ringrift_sync_dagster.node.patterns import CONFIGS, DATA_TYPES, config_key

if TYPE_CHECKING:
    from ringrift_sync_dagster.sync.report import CollectReport, Failure, Outcome

TRANSPORTS: Final = ("p2p", "rsync", "base64")
"""As the guide names them; ``core.escalation.FORCED`` has the same."""

MOVED: Final = ("games",)
"""The data types that this version moves."""

NAMED_ASIDE: Final = 20
"""Games set aside that are named one by one; `quarantine list` has them all."""

EXAMPLES: Final = """\b
Examples:
  ringrift-sync sync --type games --config hex8_2p
  ringrift-sync sync --config hex8_2p --config square8_2p --node vast-12345
  ringrift-sync sync --node vast-12345 --transport rsync
"""


class ConfigName(click.ParamType[str]):
    """One of the twelve config keys, in any of the spellings that the cluster uses."""

    name = "config"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Give the key as it is written everywhere else."""
        board, _, players = value.strip().rpartition("_")
        key = config_key(board, players.removesuffix("p"))
        if key is None:
            self.fail(f"{value!r} is not a config; the configs are {', '.join(CONFIGS)}", param, ctx)
        return key


@click.command(context_settings=CONTEXT, epilog=EXAMPLES)
@click.option(
    "--type", "data_type", type=click.Choice(DATA_TYPES), default="games", show_default=True, help="What to collect."
)
@click.option(
    "--config",
    "configs",
    type=ConfigName(),
    multiple=True,
    help="Only this config, such as hex8_2p; may be given again.",
)
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only this node; may be given again.")
@click.option("--transport", type=click.Choice(TRANSPORTS), help="Only this transport; by default each in order.")
@verb("hosts", "root", "state-url")
def sync(
    session: Session, data_type: str, configs: tuple[str, ...], nodes: tuple[str, ...], transport: str | None
) -> int:
    """Collect data from nodes now: every partition is tried, and the exit code is 1 when one failed."""
    from ringrift_sync_dagster.sync.collect import collect
    from ringrift_sync_dagster.sync.runtime import Runtime

    if data_type not in MOVED:
        raise click.BadParameter(f"this version moves {', '.join(MOVED)}, not {data_type} yet", param_hint="--type")
    with Runtime.open(session.settings(), transport=transport or "") as runtime:
        for name in nodes:
            runtime.inventory.get(name)
        report = collect(runtime, configs=configs or None, nodes=nodes or None, trigger="cli")
    if session.as_json:
        show_json(_json(data_type, report))
    else:
        _show(data_type, report)
    return 1 if report.failures else 0


def _show(data_type: str, report: CollectReport) -> None:
    columns = (
        "partition",
        "result",
        "new",
        "same",
        "other",
        "aside",
        "waiting",
        "moved",
        "seconds",
        "via",
        "canonical",
    )
    rows = [_row(outcome) for outcome in report.outcomes]
    show_table(data_type, columns, rows, empty="no partition to collect: no node of the inventory is ready")
    for line in aside_lines(report):
        click.echo(clean(line))
    for note in report.notes:
        click.echo(clean(f"note: {note.node}: {note.path}: {note.message} ({note.code})"))
    for line in failure_lines(report.failures):
        click.echo(clean(f"ringrift-sync: {line}"), err=True)
    new = sum(outcome.games_new for outcome in report.outcomes)
    click.echo(f"{len(rows)} partitions, {len(report.failures)} failed, {new} new games, {report.seconds:.1f} s")


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
    result = "failed" if outcome.failure is not None else "changed" if outcome.changed else "unchanged"
    return (
        outcome.partition.key, result, outcome.games_new, outcome.games_same,
        outcome.revised + outcome.renamed + outcome.annotated, len(outcome.set_aside), outcome.waiting,
        size(outcome.bytes_moved), outcome.seconds, outcome.transport, outcome.canonical_games,
    )  # fmt: skip


def _json(data_type: str, report: CollectReport) -> dict[str, object]:
    outcomes = [_outcome_json(outcome) for outcome in report.outcomes]
    notes = [asdict(note) for note in report.notes]
    return {
        "ok": not report.failures,
        "type": data_type,
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
        "games_new": outcome.games_new,
        "games_same": outcome.games_same,
        "revised": outcome.revised,
        "renamed": outcome.renamed,
        "annotated": outcome.annotated,
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
