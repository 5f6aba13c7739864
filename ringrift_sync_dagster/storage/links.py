"""Names that people use for the published files: relative symbolic links, switched in one step, never dangling.

What a link leads to is on the disk before the link is switched (temporary link, rename, fsync of the directory). A
regular file that has the name is first kept as a version, by a hard link, so that nothing is lost by the switch.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.storage.files import disk_errors, fsync_dir, make_dirs

_SHORT: Final = 12  # digits of the SHA-256 in a version's name


@dataclass(frozen=True, slots=True)
class Names:
    """Where the published file of a config lies, relative to the root.

    Args:
        version: The file.
        links: The names that lead to it, in the order in which they are switched: (path, what the link holds).

    """

    version: str
    links: tuple[tuple[str, str], ...]


def names(data_type: str, config: str, sha256: str) -> Names:
    """Say how a published version is named: an npz in the training folder, a model with its two links."""
    short = sha256[:_SHORT]
    if data_type == "npz":
        version = f"{config}.{short}.npz"
        return Names(f"data/training/{version}", ((f"data/training/{config}.npz", version),))
    version = f"versions/canonical_{config}.{short}.pth"
    canonical = f"canonical_{config}.pth"
    links = ((f"models/{canonical}", version), (f"models/ringrift_best_{config}.pth", canonical))
    return Names(f"models/{version}", links)


def switch(link: Path, target: str, root: Path) -> bool:
    """Let the name ``link`` lead to ``target``, which is relative to its folder; False where it did already.

    Args:
        link: The name.
        target: What it shall hold; must exist.
        root: The folder that a link which is replaced must not lead out of.

    Raises:
        LocalDiskError: The target is not there; a folder has the name; a link there leads out of the root, where
            somebody put the file on purpose; or the disk refuses. The name is as it was.

    """
    if not (link.parent / target).exists():
        raise LocalDiskError("", "", f"{link.parent / target} is not there; {link.name} was left as it is")
    found = _lstat(link)
    if found is not None and stat.S_ISLNK(found.st_mode):
        if str(link.readlink()) == target:
            return False
        if not link.resolve().is_relative_to(root.resolve()):
            raise LocalDiskError("", "", f"{link} is a link that leads out of {root}; remove it first")
    elif found is not None and not stat.S_ISREG(found.st_mode):
        raise LocalDiskError("", "", f"{link} is a folder or a device; move it away")
    make_dirs(link.parent)
    part = link.with_name(f".{link.name}.{os.getpid()}.link.part")
    with disk_errors(link, "switch"):
        part.unlink(missing_ok=True)
        part.symlink_to(target)
        reached("links.made")
        part.replace(link)
    reached("links.switched")
    fsync_dir(link.parent)
    return True


def regular(link: Path) -> bool:
    """Tell whether a regular file has the name."""
    found = _lstat(link)
    return found is not None and stat.S_ISREG(found.st_mode)


def keep(path: Path, version: Path) -> None:
    """Give a regular file a second name, the version's, before its own is switched. Idempotent; durable on return.

    Raises:
        LocalDiskError: The disk refuses.

    """
    make_dirs(version.parent)
    with disk_errors(version, "name"), contextlib.suppress(FileExistsError):
        os.link(path, version)
    fsync_dir(version.parent)


def remove_litter(folder: Path) -> None:
    """Remove temporary links of processes that ended; the name of each has the id of its process."""
    for part in folder.glob(".*.link.part"):
        owner = part.name.split(".")[-3]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            part.unlink(missing_ok=True)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
