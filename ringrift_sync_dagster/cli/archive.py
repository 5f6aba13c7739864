"""``archive`` and ``restore-check``: dated, verified copies of the store, and the proof that they can be restored."""

from __future__ import annotations

from pathlib import Path

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.names import config_option
from ringrift_sync_dagster.cli.output import ago, clean, show_json, show_table, size
from ringrift_sync_dagster.cli.session import Session, verb

_DIRECTORY = click.argument("directory", required=False, metavar="[DIR]", type=click.Path(path_type=Path))


@click.command(context_settings=CONTEXT)
@_DIRECTORY
@config_option
@click.option("--dry-run", is_flag=True, help="Only show what there is to archive.")
@click.option("--list", "listing", is_flag=True, help="Show the archives of DIR.")
@verb("hosts", "root", "state-url")
def archive(session: Session, directory: Path | None, configs: tuple[str, ...], dry_run: bool, listing: bool) -> int:  # noqa: FBT001 - flags
    """Write a verified copy of the whole store into DIR (default: RINGRIFT_SYNC_ARCHIVE_DIR).

    What did not change since the last archive takes no room. Nothing in DIR is ever replaced or deleted. The exit code
    is 1 when a file could not be archived; the others are.
    """
    from dataclasses import asdict

    from ringrift_sync_dagster.sync.archive import archive as write
    from ringrift_sync_dagster.sync.runtime import Runtime

    settings = session.settings()
    place = _chosen(directory, settings.archive_dir)
    if listing:
        return _list(session, place)
    with Runtime.open(settings) as runtime:
        done = write(runtime, place, configs=configs or None, dry_run=dry_run)
    if session.as_json:
        files = [asdict(one) for one in done.files]
        sources = [{**asdict(one), "kept": kept} for one, kept in done.sources]
        failures = [{"path": path, "message": str(error)} for path, error in done.failures]
        told = {"archive": done.name, "copied_bytes": done.copied_bytes, "files": files, "failures": failures}
        show_json({"ok": not done.failures, **told, "sources": sources})
        return 1 if done.failures else 0
    if dry_run:
        rows = [
            (one.data_type.value, one.path, size(one.size_bytes), "kept already" if kept else "is copied")
            for one, kept in done.sources
        ]
        show_table("to archive", ("type", "path", "size", "result"), rows, empty="nothing")
        return 0
    lines = [
        (one.data_type, one.path, one.sha256[:12], size(one.size_bytes), "-" if one.games is None else one.games)
        for one in done.files
    ]
    show_table(done.name, ("type", "path", "sha256", "size", "games"), lines, empty="the store is empty")
    for path, error in done.failures:
        click.echo(clean(f"ringrift-sync: not archived: {path}: {error}"), err=True)
    click.echo(f"{place / done.name}: {len(done.files)} files, {size(done.copied_bytes)} copied")
    return 1 if done.failures else 0


@click.command(name="restore-check", context_settings=CONTEXT)
@_DIRECTORY
@click.option("--archive", "name", metavar="NAME", default="", help="This archive; by default one by chance.")
@click.option("--seed", type=int, help="Decides which archive and which rows; by default others each time.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Leave the restored files in this new folder."
)
@verb("hosts", "root", "state-url")
def restore_check(session: Session, directory: Path | None, name: str, seed: int | None, out: Path | None) -> int:
    """Restore an archive of DIR to scratch, look into all of it, and audit its rows by the store.

    The exit code is 1 when anything is missing or different; each thing is named.
    """
    from dataclasses import asdict

    from ringrift_sync_dagster.sync.restore_check import restore_check as check
    from ringrift_sync_dagster.sync.runtime import Runtime

    settings = session.settings()
    with Runtime.open(settings) as runtime:
        found = check(runtime, _chosen(directory, settings.archive_dir), name=name, seed=seed, out=out)
    if session.as_json:
        show_json({"ok": not found.troubles, **asdict(found)})
        return 1 if found.troubles else 0
    rows = [(one.path, one.message) for one in found.troubles]
    looked = f"{found.files} files ({size(found.bytes)}), {found.databases} databases, {found.rows} rows"
    show_table(f"{found.archive}: {looked}", ("path", "problem"), rows, empty="all is there, and as it was")
    if found.renamed or found.revised:
        click.echo(f"{found.renamed} games have another id now, {found.revised} a longer revision: as merges do it")
    return 1 if found.troubles else 0


def _list(session: Session, place: Path) -> int:
    """Show the archives of a directory."""
    from ringrift_sync_dagster.settings import clock
    from ringrift_sync_dagster.storage.archive import ArchiveDirectory

    store = ArchiveDirectory(place)
    found = [store.read(name) for name in store.names()]
    games = [sum(file.games or 0 for file in one.files) for one in found]
    if session.as_json:
        rows = [
            {
                "name": one.name,
                "at": clock.utc_iso(one.at),
                "files": len(one.files),
                "bytes": one.size_bytes,
                "games": count,
            }
            for one, count in zip(found, games, strict=True)
        ]
        show_json({"ok": True, "archives": rows})
        return 0
    lines = [
        (one.name, ago(one.at), len(one.files), size(one.size_bytes), count)
        for one, count in zip(found, games, strict=True)
    ]
    show_table(str(place), ("archive", "when", "files", "size", "games"), lines, empty="there is no archive in it")
    return 0


def _chosen(directory: Path | None, default: str) -> Path:
    if directory is None and not default:
        raise click.UsageError("name the archive directory, or set RINGRIFT_SYNC_ARCHIVE_DIR")
    return (directory or Path(default)).expanduser().absolute()
