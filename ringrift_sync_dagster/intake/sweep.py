"""What lies in ``incoming/`` at the start of a pass: packs of a process that was killed, and packs that nodes pushed.

A whole pack is taken in as if it had just arrived. A partial artifact, and a whole file that is no pack (whoever
fetches it next finds it there), stay for the transfer that needs them, and go when nobody came for a day.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.core.model import SHA256, Artifact, is_node_name
from ringrift_sync_dagster.errors import LeaseHeldError, SyncError
from ringrift_sync_dagster.intake.arrival import Accepted, Arrival
from ringrift_sync_dagster.intake.files import restoring
from ringrift_sync_dagster.intake.games import GamesIntake
from ringrift_sync_dagster.intake.rows import RowsAccepted, RowsIntake
from ringrift_sync_dagster.node.packfile import holds_records
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.versions import known_contents
from ringrift_sync_dagster.storage.files import sha256_file

PARTIAL_KEEP_SECONDS: Final = 24 * 3600.0
_FILES: Final = (b"PK\x03\x04", b"\x80")

_LOG: Final = logging.getLogger(__name__)


def sweep(intake: GamesIntake, rows: RowsIntake, trigger: str) -> list[Accepted | RowsAccepted]:
    """Take in every whole artifact in ``incoming/``; what fails is logged and stays, and never stops the others."""
    accepted: list[Accepted | RowsAccepted] = []
    for path in list(_files(intake)):
        try:
            if path.suffix == ".part":
                _drop_old(path)
            elif SHA256.fullmatch(path.name) and _is_file(path):
                _drop_known(intake, path)
            elif SHA256.fullmatch(path.name):
                taken = take_in(intake, rows, path, trigger)
                accepted += [taken] if taken else []
        except (LeaseHeldError, FileNotFoundError):
            continue  # another process is about to take it in, or just has
        except (SyncError, OSError) as error:
            _LOG.warning("incoming=%s node=%s error=%s", path.name, path.parent.name, error)
    remove_scratch(intake.layout.scratch / "tmp")
    return accepted


def waiting(intake: GamesIntake) -> list[Path]:
    """Give every whole artifact that lies in ``incoming/``, by node and name."""
    return [path for path in _files(intake) if SHA256.fullmatch(path.name)]


def _is_file(path: Path) -> bool:
    """Say by its first bytes whether this is an archive (npz, pth) or a pickle (old pth); all else is a pack."""
    with path.open("rb") as stream:
        return stream.read(4).startswith(_FILES)


def remove_scratch(folder: Path) -> None:
    """Remove work in progress of processes that ended; such a file's name begins with the id of its process."""
    for path in folder.glob("*.merge.tmp*"):
        owner = path.name.split("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            path.unlink(missing_ok=True)


def _files(intake: GamesIntake) -> Iterator[Path]:
    for folder in sorted((intake.layout.root / "data" / "incoming").glob("*")):
        if folder.is_dir() and is_node_name(folder.name):
            yield from sorted(path for path in folder.iterdir() if path.is_file())


def take_in(intake: GamesIntake, rows: RowsIntake, path: Path, trigger: str) -> Accepted | RowsAccepted | None:
    """Take in one whole artifact that lies in ``incoming/``; None where it is a file, for whoever fetches it.

    Raises:
        LeaseHeldError: A process that collects this partition is about to, or another one merges.
        SyncError: As in ``GamesIntake.accept`` and ``RowsIntake.accept``.
        OSError: It cannot be read, or is not what its name says.

    """
    if _is_file(path):
        return None
    if sha256_file(path) != path.name:
        path.rename(path.with_suffix(".part"))  # not what it claims to be: the transfer that resumes it will find out
        raise OSError(f"{path} does not hash to its name; it was put back as a partial file")
    arrival = Arrival(Artifact(path.name, path.stat().st_size, "games"), path, path.parent.name, trigger=trigger)
    if holds_records(str(path)):
        family, _ = rows.describe(arrival)
        with hold(intake.state, f"sweep:{family}:{path.name}"):
            return rows.accept(arrival) if path.exists() else None
    return intake.accept_unasked(arrival)


def _drop_known(intake: GamesIntake, path: Path) -> None:
    """Remove a file whose content was taken in already: its process died before it could.

    Raises:
        LeaseHeldError: Somebody has just fetched it, to put it back in the place of a version that was lost.

    """
    if known_contents(intake.state, path.name):
        with hold(intake.state, restoring(path.name)):
            path.unlink(missing_ok=True)
    else:
        _drop_old(path)


def _drop_old(path: Path) -> None:
    if clock.wall() - path.stat().st_mtime > PARTIAL_KEEP_SECONDS:
        path.unlink(missing_ok=True)
