"""``events``: see what happened, follow it, publish an event, list the types with their fields; no node is asked."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import clean, show_json, show_table
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ringrift_sync_dagster.state.events import Event
    from ringrift_sync_dagster.state.store import StateStore

FOLLOW_SECONDS: Final = 0.5
_BATCH: Final = 500
_QUIET: Final = frozenset({"version", "publisher", "details"})


@click.group(context_settings=CONTEXT)
def events() -> None:
    """See what happened, as it happens, and publish an event."""


@events.command("publish")
@click.argument("event_type", metavar="TYPE")
@click.argument("fields", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--payload", metavar="JSON", help="The payload as one JSON object, instead of KEY=VALUE.")
@verb("home", "state-url")
def publish_event(session: Session, event_type: str, fields: tuple[str, ...], payload: str | None) -> int:
    r"""Publish an event, such as `events publish BACKPRESSURE_RELEASED source=manual`.

    A VALUE is text unless the field wants something else; a list or an object is written as JSON.

    \b
    Exit codes: 0 published    1 refused: there is no such type, or a field is wrong    2 wrong usage
    """
    from ringrift_sync_dagster.state.events import publish

    if payload is not None and fields:
        raise click.UsageError("give either --payload or KEY=VALUE, not both")
    told = _from_fields(fields) if payload is None else _from_json(payload)
    if not isinstance(told, dict):
        raise click.UsageError("the payload is no JSON object: write {...}")
    with _store(session) as store:
        event_id = publish(store, event_type, told)
    if session.as_json:
        show_json({"ok": True, "id": event_id})
    else:
        click.echo(f"event {event_id} is published")
    return 0


@events.command("tail")
@click.option("--follow", "-f", is_flag=True, help="Go on with what happens, until Ctrl-C; JSON is one line for each.")
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only this type; may be given again.")
@click.option("--since", type=click.IntRange(0), metavar="ID", help="Only events after this one, oldest first.")
@click.option(
    "--limit", type=click.IntRange(1), default=20, show_default=True, help="How many; with --follow, how many before."
)
@verb("home", "state-url")
def tail(session: Session, types: tuple[str, ...], since: int | None, limit: int, *, follow: bool) -> int:
    r"""Show the newest events, or those after an id.

    \b
    Exit codes: 0 shown    1 there is no such type, or the state database cannot be read
    """
    from ringrift_sync_dagster.state.events import events_since, last_id, newest_events
    from ringrift_sync_dagster.state.payloads import event_type

    kinds = [event_type(name).value for name in types] or None
    with _store(session) as store:
        last = last_id(store) if since is None else since
        if since is None:
            found = newest_events(store, kinds, limit)
        else:
            found = [] if follow else events_since(store, since, kinds, limit)
        if follow:
            _follow(session, store, kinds, found, last)
            return 0
    if session.as_json:
        show_json({"ok": True, "events": [_json(event) for event in found]})
    elif found:
        for event in found:
            click.echo(_line(event))
    else:
        click.echo("events: none is kept" + (" of these types" if types else ""))
    return 0


@events.command("types")
@verb()
def list_types(session: Session) -> int:
    """Show the types of events and the fields of their payloads; one with a * must be given."""
    from ringrift_sync_dagster.state.payloads import PAYLOADS

    if session.as_json:
        show_json({"ok": True, "types": {kind.value: model.model_json_schema() for kind, model in PAYLOADS.items()}})
        return 0
    rows = [
        (kind.value, ", ".join(name + "*" * field.is_required() for name, field in model.model_fields.items()))
        for kind, model in PAYLOADS.items()
    ]
    show_table("types", ("type", "fields"), rows)
    return 0


def _follow(
    session: Session, store: StateStore, kinds: Collection[str] | None, found: Sequence[Event], last: int
) -> None:
    """Show these events and all after ``last``, until somebody presses Ctrl-C or nobody reads any more."""
    import threading
    from contextlib import suppress

    from ringrift_sync_dagster.state.events import events_since

    pause = threading.Event()
    with suppress(KeyboardInterrupt):
        while True:
            for event in found:
                click.echo(json.dumps(_json(event)) if session.as_json else _line(event))
                last = max(last, event.id)
            if len(found) < _BATCH:
                pause.wait(FOLLOW_SECONDS)
            found = events_since(store, last, kinds, _BATCH)


def _from_fields(fields: Sequence[str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        if not equals or not key:
            raise click.UsageError(f"{clean(field)!r} is not KEY=VALUE")
        told[key] = _from_json(value) if value[:1] in {"{", "["} else value
    return told


def _from_json(text: str) -> Any:  # noqa: ANN401 - whatever JSON says
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"{clean(text[:80])} is not JSON: {error}") from error


def _store(session: Session) -> StateStore:
    from ringrift_sync_dagster.state.store import StateStore

    return StateStore.open(session.settings().state_url)


def _json(event: Event) -> dict[str, object]:
    from ringrift_sync_dagster.settings import clock

    return {"id": event.id, "at": clock.utc_iso(event.at), "type": event.type, "payload": dict(event.payload)}


def _line(event: Event) -> str:
    from ringrift_sync_dagster.settings import clock

    return clean(f"{event.id:6}  {clock.utc_iso(event.at)}  {event.type}  {_words(event.payload)}")


def _words(payload: Mapping[str, Any]) -> str:
    """The fields that say something; all of them, and what others call theirs, are in the JSON."""
    told = {key: value for key, value in payload.items() if key not in _QUIET and value not in ("", None, [], {}, 0)}
    return " ".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in told.items())
