"""Artifacts on this node, for whoever comes over SSH: where one lies that can be served, and how a pushed one arrives.

    <scratch>/artifacts/<sha256>             a pack
    <scratch>/artifacts/<sha256>.json        the note of a registered file: its path, inode, size and mtime
    <scratch>/incoming/<node>/<sha256>.part  what has arrived so far; its length is all that is known of it
    <scratch>/incoming/<node>/<sha256>       whole, verified and durable
    <scratch>/incoming/<node>/<sha256>.verified  of a large one: the inode, size and mtime that it had then

It is the agent's layout, so that the bytes of one transport serve the next. A database is never served as a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from typing import Any, Dict, Optional

from . import packfile
from .errors import KitError
from .roots import Roots

_CHUNK_BYTES = 1 << 20
NOTED_BYTES = 1 << 20
"""Smaller artifacts are read again in no time, and most are packs, which leave no note behind."""
_NOTE_MAX_BYTES = 4 << 20
_SQLITE_NAMES = (".db", ".db3", ".sqlite", ".sqlite3", "-wal", "-shm", "-journal")
# O_NONBLOCK: a FIFO under the name must not hold whoever opens it.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def locate(roots: Roots, scratch: str, sha256: str) -> Dict[str, Any]:
    """Give ``path``, absolute, and ``bytes`` of an artifact that is as it was when it was hashed.

    Raises:
        KitError: ``missing`` where there is none, or none that may be served; ``changed`` where the registered file is
            another one now.

    """
    pack = os.path.join(scratch, "artifacts", sha256)
    found = _stat(pack)
    if found is not None:
        return _served(pack, found, sha256)
    note = _note(f"{pack}.json")
    name = note.get("path")
    if note.get("kind") != "file" or not isinstance(name, str):
        raise KitError("missing", "the artifact is not here any more; order it again", sha256)
    real = roots.resolve(name)
    found = _stat(real)
    if found is None:
        raise KitError("missing", f"{name} is gone; order it again", sha256)
    if [note.get("inode"), note.get("bytes"), note.get("mtime_ns")] != [found.st_ino, found.st_size, found.st_mtime_ns]:
        raise KitError("changed", f"{name} changed since it was hashed; order it again", sha256)
    return _served(real, found, sha256)


def forget(scratch: str, sha256: str) -> None:
    """Delete a pack and its note, or the note of a registered file, never that file itself. Idempotent."""
    for name in (sha256, f"{sha256}.json"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(scratch, "artifacts", name))


def received(scratch: str, node: str, sha256: str, size: int) -> Dict[str, Any]:
    """Tell how much of a pushed artifact has arrived, and make the place for the rest.

    Returns:
        ``{"complete": false, "bytes", "path"}`` with the absolute path of the part, which exists; or ``{"complete":
        true, "receipt"}`` when all is here, verified once more and durable.

    Raises:
        KitError: ``no_space`` where the rest would not fit; ``corrupt`` where other bytes have the final name;
            ``outside`` where the node's folder leads elsewhere.

    """
    final = os.path.join(_folder(scratch, node), sha256)
    receipt = _receipt(final, sha256, size)
    if receipt is not None:
        return {"complete": True, "receipt": receipt}
    part = final + ".part"
    descriptor = os.open(part, _CREATE, 0o644)
    try:
        there = _regular(descriptor, part).st_size
        if there > size:  # of other content: nothing of it can be used
            os.ftruncate(descriptor, 0)
            there = 0
    finally:
        os.close(descriptor)
    disk = os.statvfs(part)
    if size - there > disk.f_bavail * disk.f_frsize:
        raise KitError("no_space", f"{size - there} more bytes do not fit on the disk of {part}", sha256)
    return {"complete": False, "bytes": there, "path": part}


def accept(scratch: str, node: str, sha256: str, size: int, now: float) -> Dict[str, Any]:
    """Verify what has arrived, make it durable under its final name, and give the receipt. Idempotent.

    Raises:
        KitError: ``checksum`` where it is not the artifact: it was removed; ``short`` where some of it is missing;
            ``missing`` where nothing is there.

    """
    final = os.path.join(_folder(scratch, node), sha256)
    part = final + ".part"
    try:
        descriptor = os.open(part, _READ)
    except FileNotFoundError:
        receipt = _receipt(final, sha256, size)
        if receipt is None:
            raise
        return {"receipt": receipt}
    try:
        there = _regular(descriptor, part).st_size
        if there < size:
            raise KitError("short", f"{there} of {size} bytes have arrived", sha256)
        if there > size or _digest(descriptor) != sha256:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)
            raise KitError(
                "checksum", f"the {there} bytes that arrived are another artifact; they were removed", sha256
            )
        os.fchmod(descriptor, 0o644)
        os.utime(descriptor, (now, now))  # so that the receipt says the same whenever it is asked for
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with contextlib.suppress(FileNotFoundError):  # another push of the same bytes was faster
        os.replace(part, final)
    receipt = _receipt(final, sha256, size)
    if receipt is not None:
        note_verified(final)
    if receipt is None:
        raise KitError("missing", "the artifact vanished when it had just arrived", sha256)
    return {"receipt": receipt}


def note_verified(final: str) -> None:
    """Note the state in which a large artifact was verified, so that whoever installs it need not read it again."""
    found = os.lstat(final)
    if found.st_size >= NOTED_BYTES:
        packfile.write_json(f"{final}.verified", {"state": [found.st_ino, found.st_size, found.st_mtime_ns]})


def is_verified(final: str) -> bool:
    """Say whether an artifact is as it was when it was verified; False where that was not noted."""
    found = _stat(final)
    return found is not None and _note(f"{final}.verified").get("state") == [
        found.st_ino, found.st_size, found.st_mtime_ns,
    ]  # fmt: skip


def _receipt(final: str, sha256: str, size: int) -> Optional[Dict[str, Any]]:
    """The receipt of a file under its final name; None where there is no such file."""
    try:
        descriptor = os.open(final, _READ)
    except FileNotFoundError:
        return None
    try:
        found = _regular(descriptor, final)
        if found.st_size != size or _digest(descriptor) != sha256:
            raise KitError("corrupt", f"{final} has other bytes than its name says; move it away", sha256)
    finally:
        os.close(descriptor)
    _sync_directory(os.path.dirname(final))
    return {"sha256": sha256, "size_bytes": found.st_size, "verified_at": found.st_mtime}


def _folder(scratch: str, node: str) -> str:
    folder = os.path.join(scratch, "incoming", node)
    os.makedirs(folder, exist_ok=True)
    if os.path.realpath(folder) != os.path.join(os.path.realpath(scratch), "incoming", node):
        raise KitError("outside", "a symbolic link leads out of the folder for what arrives", node)
    return folder


def _served(path: str, found: os.stat_result, sha256: str) -> Dict[str, Any]:
    if not stat.S_ISREG(found.st_mode) or path.endswith(_SQLITE_NAMES):
        raise KitError("missing", "what has the artifact's name is no file that may be served", sha256)
    return {"path": path, "bytes": found.st_size}


def _stat(path: str) -> Optional[os.stat_result]:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _regular(descriptor: int, path: str) -> os.stat_result:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise KitError("unreadable", f"{path} is no regular file; move it away")
    return found


def _digest(descriptor: int) -> str:
    digest = hashlib.sha256()
    with open(descriptor, "rb", buffering=0, closefd=False) as source:
        for chunk in iter(lambda: source.read(_CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_directory(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _note(path: str) -> Dict[str, Any]:
    try:
        with open(path, "rb") as stream:
            value = json.loads(stream.read(_NOTE_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
