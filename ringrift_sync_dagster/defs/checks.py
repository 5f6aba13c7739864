"""The asset checks: the merge refuses what is not sound, the check shows it; the verdicts come with the changes.

A check is not partitioned (Dagster's partitioned checks are a preview). So that a good write on one node does not hide
a bad one on another, a verdict is taken over the *latest* change of every partition: a check passes again when each
partition that failed it has written something sound. Declared here, recorded by assets and loops alike.
Source: architecture.md, 4 "Merge" and 7 "Record".
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
import sqlalchemy as sa

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.defs.freshness import freshness, freshness_spec
from ringrift_sync_dagster.defs.risks import MAX_AGE_SECONDS, risk_evaluation, risk_spec
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.schema import changes
from ringrift_sync_dagster.state.store import StateStore

TABLE_ROWS: Final = 200
"""Rows of a table in metadata; Dagster keeps a table whole in each event."""

_IDS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Rule:
    """One check of one data type.

    Args:
        name: Its name in Dagster.
        description: What is promised, in a sentence.
        flags: Results that the merge wrote into the change; a false one is an error, because the rows are there.
        refused: Reasons for which the merge sets a thing aside; one is a warning, because nothing of it was written.
        lenient: A false flag is a warning only: what it tells may become true later.

    """

    name: str
    description: str
    flags: tuple[str, ...]
    refused: frozenset[str] = frozenset()
    lenient: bool = False


_STRUCTURE: Final = Rule(
    "structure_is_valid",
    "Every file that arrived was proved without loading it: archive, checksums, headers; a bad one is in quarantine.",
    ("structure_valid",),
    lenient=True,
)
_DIGEST: Final = Rule(
    "digests_agree_with_receipts",
    "What was brought to a node hashes there to what its owner's receipt says.",
    ("digest_agrees",),
)

RULES: Final[Mapping[DataType, tuple[Rule, ...]]] = {
    DataType.GAMES: (
        Rule(
            "written_games_are_sound",
            "What was written are finished games of the right config, each with the rows that its pack declared.",
            ("no_moveless_games", "counts_reconcile"),
            frozenset({"not_finished", "other_config"}),
        ),
        Rule(
            "no_moveless_games",
            "No finished game without all its moves was written; a node that has such games is named.",
            ("no_moveless_games",),
            frozenset({"short"}),
        ),
        Rule(
            "counts_reconcile",
            "New, same, revised, renamed and refused games add up to what each pack held.",
            ("counts_reconcile",),
        ),
    ),
    DataType.NPZ: (_STRUCTURE, _DIGEST),
    DataType.MODELS: (
        _STRUCTURE,
        _DIGEST,
        Rule(
            "links_resolve",
            "On every node that was brought a model, its names lead to the verified file.",
            ("links_resolve",),
        ),
    ),
    DataType.ELO: (
        Rule(
            "ratings_equal_recomputation",
            "Ratings that were written are those that all matches give, computed from the first one on.",
            ("ratings_equal_recomputation",),
        ),
        Rule(
            "matches_are_sound",
            "Every match that was read has its participants, a result and a time; others are in quarantine.",
            (),
            frozenset(
                {
                    "missing_participant",
                    "bad_participants",
                    "mixed_player_counts",
                    "no_result",
                    "bad_timestamp",
                    "same_id_other_match",
                }
            ),
        ),
    ),
    DataType.REGISTRY: (
        Rule(
            "no_version_conflicts",
            "No version of a model was told with two different hashes.",
            ("no_version_conflicts",),
        ),
        Rule(
            "registry_hashes_exist",
            "Every model file that a registry names was verified by somebody.",
            ("registry_hashes_exist",),
            lenient=True,
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the latest change of one partition says about one check.

    Args:
        partition: The partition.
        broken: Flags that are false: what was written is wrong.
        refused: Ids of the games that the merge set aside for one of the rule's reasons.
        change_id: The change.

    """

    partition: Partition
    broken: tuple[str, ...]
    refused: tuple[str, ...]
    change_id: str

    @property
    def passed(self) -> bool:
        """True when nothing was wrong and nothing was refused."""
        return not self.broken and not self.refused

    def __str__(self) -> str:
        shown = ", ".join(self.refused[:_IDS_SHOWN]) + (" and more" if len(self.refused) > _IDS_SHOWN else "")
        parts = [f"{flag} does not hold" for flag in self.broken]
        parts += [f"{len(self.refused)} set aside: {shown}"] if self.refused else []
        return "; ".join(parts) or "sound"


def check_specs(data_types: Iterable[DataType]) -> list[dg.AssetCheckSpec]:
    """Give the specs of all checks of the data types."""
    wanted = list(data_types)
    rules = [
        dg.AssetCheckSpec(rule.name, asset=data_type.value, description=rule.description)
        for data_type in wanted
        for rule in RULES.get(data_type, ())
    ]
    risks = [risk_spec()] if DataType.GAMES in wanted else []
    return rules + [freshness_spec(data_type) for data_type in wanted] + risks


def evaluations(
    state: StateStore, data_types: Iterable[DataType], max_age_seconds: float = MAX_AGE_SECONDS
) -> Iterator[dg.AssetCheckEvaluation]:
    """Give one evaluation for each check of the data types: over the latest change of each partition, and as of now.

    ``max_age_seconds`` is the setting ``ephemeral_max_data_age``, for the check of the oldest unsaved game.
    """
    for data_type in data_types:
        latest = _latest_changes(state, data_type)
        for rule in RULES.get(data_type, ()):
            yield _evaluation(data_type, rule, [_verdict(row, rule) for row in latest])
        yield freshness(state, data_type, clock.wall())
        if data_type is DataType.GAMES:
            yield risk_evaluation(state, clock.wall(), max_age_seconds)


def _latest_changes(state: StateStore, data_type: DataType) -> list[Any]:
    """Give the newest change of each partition and direction that carries verdicts; the id orders, not the clock."""
    newest = (
        sa.select(sa.func.max(changes.c.id).label("id"))
        .where(changes.c.data_type == data_type.value, sa.cast(changes.c.checks, sa.Text) != "{}")
        .group_by(changes.c.config, changes.c.node, changes.c.direction)
        .subquery()
    )
    query = sa.select(changes.c.config, changes.c.node, changes.c.checks, changes.c.change_id).join(
        newest, changes.c.id == newest.c.id
    )
    with state.read() as connection:
        return list(connection.execute(query.order_by(changes.c.config, changes.c.node, changes.c.direction)))


def _verdict(row: Any, rule: Rule) -> Verdict:  # noqa: ANN401 - a row of SQLAlchemy
    broken = tuple(flag for flag in rule.flags if not row.checks.get(flag, True))
    refused = tuple(game_id for game_id, _, reason in row.checks.get("asides", ()) if reason in rule.refused)
    return Verdict(Partition(row.config, row.node), broken, refused, row.change_id)


def _evaluation(data_type: DataType, rule: Rule, verdicts: list[Verdict]) -> dg.AssetCheckEvaluation:
    failed = [verdict for verdict in verdicts if not verdict.passed]
    broken = any(verdict.broken for verdict in failed) and not rule.lenient
    metadata: dict[str, dg.MetadataValue] = {
        "partitions_looked_at": dg.MetadataValue.int(len(verdicts)),
        "partitions_failed": dg.MetadataValue.int(len(failed)),
    }
    text = rule.description
    if failed:
        metadata["failed"] = _table(failed)
        text = f"{len(failed)} of {len(verdicts)} partitions, such as {failed[0].partition}: {failed[0]}"
    return dg.AssetCheckEvaluation(
        asset_key=dg.AssetKey(data_type.value),
        check_name=rule.name,
        passed=not failed,
        metadata=metadata,
        severity=dg.AssetCheckSeverity.ERROR if broken else dg.AssetCheckSeverity.WARN,
        description=text,
    )


def _table(verdicts: list[Verdict]) -> dg.MetadataValue:
    return dg.MetadataValue.table(
        [
            dg.TableRecord({"partition": verdict.partition.key, "verdict": str(verdict), "change": verdict.change_id})
            for verdict in verdicts[:TABLE_ROWS]
        ]
    )
