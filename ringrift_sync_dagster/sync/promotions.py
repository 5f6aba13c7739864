"""Which published models to broadcast now: those that changed, and those of which a promotion was told from outside.

An event only asks; what is broadcast is what the owner has published. Upstream's controller, say, may tell of a model
before its file has come here: then the event is remembered until the owner publishes that model, or a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, Self

from ringrift_sync_dagster.core.events import DataEventType
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.state.events import Event, events_since, last_id
from ringrift_sync_dagster.state.payloads import ModelPromoted
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.versions import Published, Version, VersionState, all_published, version_of

COOLDOWN_SECONDS: Final = 900.0
"""Upstream promotes no two models of a config within this: one published so shortly before an event is its model."""
_BATCH: Final = 1000
_MODELS: Final = DataType.MODELS.value


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen at the last look.

    Args:
        published: What was published of each config, as ``describe`` writes it.
        event: The last event that was read.
        waiting: The last promotion of each config whose model is not published here yet, with its event's id and time.

    """

    published: Mapping[str, str]
    event: int
    waiting: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, memory: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` wrote; before there were events, it was ``published`` alone."""
        if "published" not in memory:
            return cls(dict(memory), 0, {})
        return cls(dict(memory["published"]), int(memory["event"]), dict(memory["waiting"]))

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON values."""
        waiting = {config: dict(told) for config, told in self.waiting.items()}
        return {"published": dict(self.published), "event": self.event, "waiting": waiting}


@dataclass(frozen=True, slots=True)
class Look:
    """What to do now.

    Args:
        broadcast: The configs whose published models are to be broadcast, each with what is published.
        events: The events that asked for some of them.
        words: What is waited for, and what is not waited for any more; for people.
        seen: What to remember.

    """

    broadcast: Mapping[str, str]
    events: tuple[int, ...]
    words: tuple[str, ...]
    seen: Seen


def look(state: StateStore, before: Seen) -> Look:
    """See what is new since the last look.

    Raises:
        StateError: The state database cannot be read.

    """
    newest = last_id(state)
    after = 0 if 0 < newest < before.event else before.event  # ids that went back are those of another database
    told = events_since(state, after, [DataEventType.MODEL_PROMOTED.value], _BATCH)
    read_to = told[-1].id if len(told) == _BATCH else max([after, newest, *(event.id for event in told)])
    published = {one.config: (one, version) for one, version in all_published(state, _MODELS)}
    now = {config: describe(one) for config, (one, _) in published.items()}
    waiting = dict(before.waiting) | {event.payload["config"]: _asked(event) for event in told if not _is_ours(event)}
    asked: dict[str, int] = {}
    words: list[str] = []
    for config, wish in sorted(waiting.items()):
        current = published.get(config)
        if current is not None and _is_meant(wish, *current):
            asked[config] = int(wish["event"])
        elif current is not None and current[0].at > wish["at"]:
            words.append(f"{config}: another model was published after event {wish['event']}; it is not waited for")
        else:
            words.append(_waits(state, config, wish))
            continue
        del waiting[config]
    changed = {config for config, version in now.items() if before.published.get(config) != version}
    broadcast = {config: now[config] for config in sorted(changed | asked.keys())}
    seen = Seen(now, read_to, waiting)
    return Look(broadcast, tuple(sorted(asked.values())), tuple(words), seen)


def describe(published: Published) -> str:
    """Name what is published, so that any switch gives another name."""
    return f"{published.serial}:{published.sha256[:12]}:{published.at:.3f}"


def _is_ours(event: Event) -> bool:
    """Whether our own publishing told it: the table says it already."""
    return event.payload.get("serial", 0) > 0 and not event.payload.get("publisher")


def _asked(event: Event) -> dict[str, Any]:
    read = ModelPromoted.model_validate(event.payload)
    names = {"model_id": read.model_id, "model_path": read.model_path, "sha256": read.sha256}
    return {"event": event.id, "at": event.at, "publisher": read.publisher, **names}


def _is_meant(wish: Mapping[str, Any], published: Published, version: Version) -> bool:
    """Whether the published model is the one that the event tells of, as far as it tells."""
    if wish["sha256"]:
        return bool(published.sha256 == wish["sha256"])
    stem = PurePosixPath(version.name).stem
    generic = {f"{prefix}_{published.config}" for prefix in ("canonical", "candidate", "ringrift_best")}
    names = {wish["model_id"], PurePosixPath(wish["model_path"]).stem}
    return (stem in names and stem not in generic) or bool(published.at >= wish["at"] - COOLDOWN_SECONDS)


def _waits(state: StateStore, config: str, wish: Mapping[str, Any]) -> str:
    model = wish["model_id"] or wish["model_path"] or wish["sha256"][:12] or "a model"
    kept = version_of(state, _MODELS, config, wish["sha256"]) if wish["sha256"] else None
    if kept is not None and kept.state is VersionState.KEPT:
        why = f"it is here but not published: ringrift-sync versions publish models {config} {kept.sha256[:12]}"
    else:
        why = f"its file has not come here yet: ringrift-sync promote {config} FILE publishes it"
    source = f" from {wish['publisher']}" if wish["publisher"] else ""
    return f"{config}: waits for {model} (event {wish['event']}{source}); {why}"
