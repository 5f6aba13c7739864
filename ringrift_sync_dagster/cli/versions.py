"""``versions`` and ``promote``: what is kept of npz and models, which one is published, and how to change that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.names import ConfigName
from ringrift_sync_dagster.cli.output import ago, clean, show_json, show_table, size
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    from ringrift_sync_dagster.intake.publishing import Publisher
    from ringrift_sync_dagster.state.versions import Published, Version

_TYPES: Final = click.Choice(["npz", "models"])
_LEAST_DIGITS: Final = 6


@click.group(context_settings=CONTEXT)
def versions() -> None:
    """See the versions of npz and model files, and put one back."""


@versions.command("list")
@click.argument("data_type", type=_TYPES, metavar="npz|models")
@click.argument("config", type=ConfigName())
@verb("hosts", "root", "state-url")
def list_versions(session: Session, data_type: str, config: str) -> int:
    """Show every version of a config: what was kept, refused or dropped, and which one is published."""
    from ringrift_sync_dagster.state.versions import published_version, versions_of

    with _publisher(session) as publisher:
        found = versions_of(publisher.state, data_type, config)
        current = published_version(publisher.state, data_type, config)
    sha256 = current[0].sha256 if current else ""
    if session.as_json:
        show_json({"ok": True, "versions": [_json(version, sha256) for version in found]})
        return 0
    rows = [
        (
            "published" if version.sha256 == sha256 else version.state.value, version.sha256[:12], version.name,
            version.origin_node, size(version.size_bytes), ago(version.at), _detail(version),
        )
        for version in reversed(found)
    ]  # fmt: skip
    columns = ("state", "sha256", "name", "from", "size", "when", "detail")
    show_table(f"{data_type} of {config}", columns, rows, empty=f"no {data_type} of {config} was ever seen")
    return 0


@versions.command("publish")
@click.argument("data_type", type=_TYPES, metavar="npz|models")
@click.argument("config", type=ConfigName())
@click.argument("sha256")
@verb("hosts", "root", "state-url")
def publish(session: Session, data_type: str, config: str, sha256: str) -> int:
    """Put a kept version back: SHA256 as `versions list` shows it, or its first digits."""
    from ringrift_sync_dagster.core.model import DataType
    from ringrift_sync_dagster.state.versions import VersionState, versions_of

    with _publisher(session) as publisher:
        kept = versions_of(publisher.state, data_type, config, VersionState.KEPT)
        matching = [version.sha256 for version in kept if version.sha256.startswith(sha256.lower())]
        if len(sha256) < _LEAST_DIGITS or len(matching) != 1:
            many = "several kept versions begin" if len(matching) > 1 else "no kept version begins"
            raise click.ClickException(f"{many} with {clean(sha256)}; `ringrift-sync versions list` shows them")
        _told(session, publisher.put_back(DataType(data_type), config, matching[0], trigger="cli"))
    return 0


@click.command(context_settings=CONTEXT)
@click.argument("config", type=ConfigName())
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@verb("hosts", "root", "state-url")
def promote(session: Session, config: str, model: Path) -> int:
    """Make MODEL the promoted one of CONFIG; the next pass brings it to every node that plays or trains."""
    with _publisher(session) as publisher:
        _told(session, publisher.promote(config, model, trigger="cli"))
    return 0


def _told(session: Session, now: Published) -> None:
    if session.as_json:
        told = {"data_type": now.data_type, "config": now.config, "sha256": now.sha256, "serial": now.serial}
        show_json({"ok": True, "published": told})
    else:
        click.echo(f"{now.data_type} of {now.config}: {now.sha256[:12]} is published, as number {now.serial}")


@contextmanager
def _publisher(session: Session) -> Iterator[Publisher]:
    """What decides on this owner's disk and state; no node is asked."""
    from ringrift_sync_dagster.sync.runtime import Runtime

    with Runtime.open(session.settings()) as runtime:
        yield runtime.files.publisher


def _detail(version: Version) -> str:
    told = [f"{value} {name.replace('_', ' ')}" for name, value in version.detail.items() if name != "raw_bytes"]
    return clean(version.reason or ", ".join(told))


def _json(version: Version, published: str) -> dict[str, object]:
    from dataclasses import asdict

    from ringrift_sync_dagster.settings import clock

    row = {**asdict(version), "state": version.state.value, "at": clock.utc_iso(version.at)}
    return {**row, "published": version.sha256 == published}
