"""What a pass tells as events: that it has work, what it moved, which nodes failed; and nothing where nothing happened.

A pass that a person or program asked for is told from its beginning to its end. One of a background strategy is told
from its first partition that changed, because most find everything as it was: at one pass a minute the table would hold
nothing else. For the same reason a node's failure is told by a background pass only when its kind is new within an
hour; that a node is down is told once by ``state/nodes.py``. Source: domain facts, 6.1 (false DATA_SYNC_COMPLETED).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.event_fields import MAX_NAMES
from ringrift_sync_dagster.state.events import last_failures, publish
from ringrift_sync_dagster.state.new_games import tell_new_games
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.versions import all_published
from ringrift_sync_dagster.sync.report import Failure, Outcome

MAX_FAILED: Final = 100
"""Nodes whose failure is told of one pass."""
REPEAT_SECONDS: Final = 3600.0
"""How long a background pass does not repeat that a node fails in the same way."""
_ASKED_FOR: Final = frozenset({"api", "backfill", "cli", "dagster"})


def is_asked_for(trigger: str) -> bool:
    """Say whether somebody waits for a pass with this trigger, rather than a strategy doing it again and again."""
    return trigger in _ASKED_FOR or trigger.startswith("priority:")


class Announcer:
    """Tells one pass; called by the pass' own thread.

    Args:
        state: Where the events go.
        trigger: What started the pass.
        data_types: What it moves.
        configs: Of which configs.
        nodes: On how many nodes.
        targets: The nodes that it brings models to.
        asked_for: Whether somebody waits for it.

    """

    def __init__(
        self,
        state: StateStore,
        trigger: str,
        data_types: Collection[DataType],
        configs: Collection[str],
        nodes: int,
        targets: Sequence[str],
        *,
        asked_for: bool,
    ) -> None:
        self._state, self._trigger = state, trigger
        self._types = [data_type.value for data_type in data_types]
        self._configs, self._nodes, self._targets = configs, nodes, targets
        self._asked_for = asked_for
        self._started = self._brings = False
        self._collected: dict[Partition, int] = {}

    def begin(self) -> None:
        """Say that the pass begins, where somebody asked for it."""
        if self._asked_for:
            self._start()

    def moved(self, outcome: Outcome) -> None:
        """Hear what was done for a partition; the first one that changed is the first work of the pass."""
        if _has_changed(outcome):
            self._start()
        if outcome.data_type is DataType.MODELS and not _brought(outcome):
            self._collected[outcome.partition] = outcome.bytes_moved  # up goes first: these bytes are not distribution
        elif _brought(outcome) and not self._brings:
            self._brings = True
            published = [one.config for one, _ in all_published(self._state, DataType.MODELS.value)]
            configs = [config for config in published if config in self._configs]
            told = {"configs": configs, "target_hosts": self._targets[:MAX_NAMES]}
            self._tell(DataEventType.MODEL_DISTRIBUTION_STARTED, {"total_models": len(configs), **told})

    def done(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Say what the pass did, in ``seconds``."""
        changed = [outcome for outcome in outcomes if _has_changed(outcome)]
        failed = _by_node(outcomes)
        looked_at = [outcome for outcome in outcomes if outcome.failure is None]
        if changed or (self._asked_for and looked_at):
            self._tell(DataEventType.DATA_SYNC_COMPLETED, _totals(outcomes, changed, seconds, len(failed)))
        self._tell_failed(failed)
        self._tell_models(outcomes, seconds)
        tell_new_games(self._state)

    def _start(self) -> None:
        if not self._started:
            self._started = True
            told = {"data_types": self._types, "configs": len(self._configs), "nodes": self._nodes}
            self._tell(DataEventType.DATA_SYNC_STARTED, told)

    def _tell_failed(self, failed: dict[str, list[Outcome]]) -> None:
        if not failed:
            return
        known = {} if self._asked_for else last_failures(self._state, clock.wall() - REPEAT_SECONDS)
        for node, outcomes in sorted(failed.items())[:MAX_FAILED]:
            first, failure = outcomes[0], _failure(outcomes[0])
            if known.get(node) == failure.error:
                continue
            told = {
                "node": node, "config": first.partition.config, "data_type": first.data_type.value,
                "error": failure.error, "message": failure.message[:1000], "partitions": len(outcomes),
            }  # fmt: skip
            self._tell(DataEventType.DATA_SYNC_FAILED, told)

    def _tell_models(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        brought = [outcome for outcome in outcomes if _brought(outcome)]
        of_models = [
            one for one in outcomes if one.data_type is DataType.MODELS and one.partition.node in self._targets
        ]
        failed = [outcome for outcome in of_models if outcome.failure is not None]
        if brought:
            told = {
                **_models(brought), "total_models": len({one.partition.config for one in brought}),
                "bytes_transferred": sum(one.bytes_moved - self._collected.get(one.partition, 0) for one in brought),
                "duration_seconds": round(seconds, 3),
            }  # fmt: skip
            self._tell(DataEventType.MODEL_DISTRIBUTION_COMPLETE, told)
        is_broadcast = self._types == [DataType.MODELS.value] and (self._asked_for or self._trigger == "sensor")
        if failed and (brought or is_broadcast):
            failure = _failure(failed[0])
            why = {"error": failure.error, "message": failure.message[:1000]}
            self._tell(DataEventType.MODEL_DISTRIBUTION_FAILED, {**_models(failed), **why})

    def _tell(self, event_type: DataEventType, told: dict[str, Any]) -> None:
        publish(self._state, event_type, {**told, "trigger": self._trigger})


def _has_changed(outcome: Outcome) -> bool:
    return outcome.changed or outcome.bytes_moved > 0


def _brought(outcome: Outcome) -> bool:
    return outcome.data_type is DataType.MODELS and outcome.counts.get("brought", 0) > 0


def _failure(outcome: Outcome) -> Failure:
    return outcome.failure or Failure(outcome.partition, "", "")


def _by_node(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.failure is not None:
            found.setdefault(outcome.partition.node, []).append(outcome)
    return found


def _models(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    nodes = sorted({outcome.partition.node for outcome in outcomes})
    return {"hosts": nodes[:MAX_NAMES], "configs": sorted({outcome.partition.config for outcome in outcomes})}


def _totals(
    outcomes: Sequence[Outcome], changed: Sequence[Outcome], seconds: float, failed_nodes: int
) -> dict[str, Any]:
    by_type: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        if outcome.failure is None or _has_changed(outcome):
            totals = by_type.setdefault(
                outcome.data_type.value, {"partitions": 0, "changed": 0, "games_synced": 0, "bytes_transferred": 0}
            )
            totals["partitions"] += 1
            totals["changed"] += _has_changed(outcome)
            totals["games_synced"] += outcome.games_new
            totals["bytes_transferred"] += outcome.bytes_moved
    return {
        "data_types": list(by_type),
        "games_synced": sum(outcome.games_new for outcome in outcomes),
        "bytes_transferred": sum(outcome.bytes_moved for outcome in outcomes),
        "duration_seconds": round(seconds, 3),
        "partitions": sum(totals["partitions"] for totals in by_type.values()),
        "changed_partitions": len(changed),
        "changed": [f"{one.data_type.value} {one.partition}" for one in changed[:MAX_NAMES]],
        "failed_nodes": failed_nodes,
        "by_type": by_type,
    }
