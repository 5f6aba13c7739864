"""Many files at once, by an operator's order: what they are at the source, and how they arrive.

They collect in one private folder below the destination. Each gets its name when it is whole, compared and on the disk,
by itself; one bad file holds up no other. A database is never among them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from . import landing
from .errors import KitError, from_os_error
from .patterns import DATABASE_SUFFIXES
from .snapshot import KEEP_SECONDS, SIDECAR, digest_still, is_database, is_sidecar_name, refuse_sidecar

_KEY = re.compile(r"[0-9a-f]{12}")
_PREFIX = ".ringrift-batch-"
_DATABASE = "a database does not travel in a batch: copy it alone, as a snapshot"


def inspect(path: str, files: Sequence[str], hashes: Sequence[str]) -> Dict[str, Any]:
    """Look at files below a folder.

    Args:
        path: The folder.
        files: Names below it.
        hashes: Those of them that are read, and whose SHA-256 is given; it is empty for the others.

    Returns:
        ``root``: the folder's real path; ``files``: for each that may travel
        ``[bytes, mtime_ns, inode, mode, sha256]``; ``failed``: for each other ``[code, text]``.

    Raises:
        KitError: ``missing``: there is no such folder.

    """
    root = os.path.realpath(os.path.expanduser(path))
    if not os.path.isdir(root):
        raise KitError("missing", "there is no such folder")
    read = frozenset(hashes)
    found, failed = _each(files, lambda name: _inspected(root, name, hashes=name in read))
    return {"root": root, "files": found, "failed": failed}


def stage(path: str, key: str, states: Mapping[str, Sequence[Any]], now: float) -> Dict[str, Any]:
    """Make the folder in which files collect; what an earlier run left there of other files is removed.

    So are the folders of other batches in which nothing happened for a day: nobody came back to them.

    Args:
        path: The destination; made when it is missing.
        key: Names the folder: the same for the same batch.
        states: Length and ``mtime_ns`` of each file at its source.
        now: The wall clock of this machine, seconds.

    Returns:
        ``dest`` and ``staging``, absolute; ``there``: names of the files that lie at the destination as they are at
        the source, and ``came``: names of those that an earlier run brought; ``used`` and ``free`` bytes of the disk.

    """
    dest = os.path.abspath(os.path.expanduser(path))
    os.makedirs(dest, exist_ok=True)
    dest = os.path.realpath(dest)
    staging = _staging(dest, key)
    _remove_old(dest, staging, now)
    os.makedirs(staging, exist_ok=True)
    os.chmod(staging, 0o700)  # what collects may be secret
    wanted = {os.path.join(staging, name) for name in states}
    for folder, _, names in os.walk(staging):
        for name in names:
            if os.path.join(folder, name) not in wanted:
                os.unlink(os.path.join(folder, name))
    there = [name for name, state in states.items() if _same(dest, name, state)]
    came = [name for name, state in states.items() if _same(staging, name, state)]
    return {"dest": dest, "staging": staging, "there": there, "came": came, **landing.room(dest)}


def staged(path: str, key: str, files: Sequence[str]) -> Dict[str, Any]:
    """Give the names of those files that have arrived whole, as ``files``."""
    staging = _staging(path, key)
    return {"files": [name for name in files if _regular(os.path.join(staging, name)) is not None]}


def land(path: str, key: str, states: Mapping[str, Sequence[Any]]) -> Dict[str, Any]:
    """Give each file that has arrived its name, durably, and remove the folder in which they collected.

    Args:
        path: The destination, as ``stage`` gave it.
        key: As for ``stage``.
        states: Length, ``mtime_ns``, mode and SHA-256 of each; where the last is empty, it is not compared. What did
            not arrive must lie there already, with the same length and time.

    Returns:
        ``landed`` and ``unchanged``: names; ``failed``: as for ``inspect``.

    """
    staging = _staging(path, key)
    touched: Set[str] = set()
    landed, failed = _each(list(states), lambda name: _landed(path, staging, name, states[name], touched))
    for folder in sorted(touched, reverse=True):
        landing.sync_directory(folder)
    shutil.rmtree(staging, ignore_errors=True)
    return {
        "landed": [name for name, done in landed.items() if done],
        "unchanged": [name for name, done in landed.items() if not done],
        "failed": failed,
    }


def _each(files: Sequence[str], work: Callable[[str], Any]) -> Tuple[Dict[str, Any], Dict[str, List[str]]]:
    """Do the work for each file; what one of them raises is its own."""
    done: Dict[str, Any] = {}
    failed: Dict[str, List[str]] = {}
    for name in files:
        try:
            _require_name(name)
            done[name] = work(name)
        except KitError as error:
            failed[name] = [error.code, error.message]
        except OSError as error:
            known = from_os_error(error)
            failed[name] = [known.code, known.message]
    return done, failed


def _inspected(root: str, name: str, *, hashes: bool) -> List[Any]:
    path = os.path.join(root, name)
    if not os.path.lexists(path):
        raise KitError("missing", "there is no such file")
    _require_inside(root, os.path.realpath(path))
    refuse_sidecar(os.path.realpath(path))
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise KitError("unreadable", "this is no regular file; name the files of a folder one by one")
    if not os.access(path, os.R_OK):
        raise KitError("unreadable", "this user may not read it")
    if is_database(path):
        raise KitError("bad_arguments", _DATABASE)
    digest, found = digest_still(path) if hashes else ("", found)
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_mode, digest]


def _landed(dest: str, staging: str, name: str, state: Sequence[Any], touched: Set[str]) -> bool:
    """Let one file arrive; False where nothing had to come. ``touched`` grows by the folders to be synced."""
    size, mtime_ns, mode, sha256 = state
    arrived, final = os.path.join(staging, name), os.path.join(dest, name)
    refuse_sidecar(final)
    there, before = _regular(arrived), _regular(final)
    if there is None:
        if not _same(dest, name, (size, mtime_ns)):
            raise KitError("missing", "it did not arrive")
        if sha256 and digest_still(final)[0] != sha256:
            raise KitError("checksum", "what lies there has the same length and time, and other bytes")
        return False
    if there.st_size != size or (sha256 and digest_still(arrived)[0] != sha256):
        raise KitError("checksum", "what arrived is another file; it was removed")
    folder = os.path.dirname(final)
    os.makedirs(folder, exist_ok=True)
    _require_inside(dest, os.path.realpath(folder))
    landing.require_replaceable(final, database=False)
    landing.settle(arrived, landing.mode_for(before, mode))
    os.replace(arrived, final)
    while folder not in touched and len(folder) >= len(dest):
        touched.add(folder)
        folder = os.path.dirname(folder)
    return True


def _same(root: str, name: str, state: Sequence[Any]) -> bool:
    found = _regular(os.path.join(root, name))
    return found is not None and [found.st_size, found.st_mtime_ns] == list(state[:2])


def _remove_old(dest: str, staging: str, now: float) -> None:
    for name in os.listdir(dest):
        folder = os.path.join(dest, name)
        if name.startswith(_PREFIX) and folder != staging and now - _newest(folder) > KEEP_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _newest(folder: str) -> float:
    """Give when something last happened below a folder: a whole file has its source's time, its folder the real one."""
    paths = [folder]
    for inner, folders, names in os.walk(folder):
        paths += [os.path.join(inner, name) for name in (*folders, *names)]
    newest = 0.0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            newest = max(newest, os.lstat(path).st_mtime)
    return newest


def _regular(path: str) -> Optional[os.stat_result]:
    """Look at a regular file; None where there is none: a link that came from elsewhere is not followed."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _require_name(name: str) -> None:
    """Refuse what does not lie below the folder by its name, and databases, whoever made a name of one."""
    parts = name.split("/")
    if not name or "\0" in name or name.startswith("/") or ".." in parts:
        raise KitError("outside", "the name leads out of the folder")
    if name.lower().endswith(DATABASE_SUFFIXES):
        raise KitError("bad_arguments", _DATABASE)
    if is_sidecar_name(name):
        raise KitError("bad_arguments", SIDECAR)


def _require_inside(root: str, real: str) -> None:
    if real != root and not real.startswith(root.rstrip("/") + "/"):
        raise KitError("outside", "a symbolic link leads out of the folder")


def _staging(dest: str, key: str) -> str:
    if not _KEY.fullmatch(key):
        raise KitError("bad_arguments", "the key has another form")
    return os.path.join(dest, f"{_PREFIX}{key}")
