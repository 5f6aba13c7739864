"""Put a verified npz or model in place on a node, and lead the names that people open to it by symbolic links.

    models/versions/canonical_hex8_2p.<sha12>.pth     never changes; a .sha256 sidecar beside it
    models/canonical_hex8_2p.pth                      -> versions/canonical_hex8_2p.<sha12>.pth
    models/ringrift_best_hex8_2p.pth                  -> canonical_hex8_2p.pth
    data/training/hex8_2p.npz                         -> hex8_2p.<sha12>.npz

Bytes first: a link is switched, by a rename, only when what it leads to is whole and on the disk, so that whoever opens
the name gets the old or the new content at any instant. Orders carry a serial; one that is older than the last is
ignored, whatever arrives first. Each step may be the last one of this process: the same order again finishes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from . import durable, keeping, packfile
from .errors import KitError
from .faults import reached
from .landing import opened_by, sync_directory
from .patterns import CONFIGS, VERSIONS_FOLDER
from .roots import Roots

KEEP_VERSIONS = 3
"""How many replaced versions stay on a node, besides the published one."""
GRACE_SECONDS = 600.0
"""How long a replaced version stays in any case: somebody may be about to open it, or another node to fetch it."""

Result = Dict[str, Any]


class Order(NamedTuple):
    """One version that a node is to have and to use.

    Args:
        node: Under whose name the bytes arrived.
        sha256: What they must be.
        size: Their length.
        data_type: ``npz`` or ``models``.
        config: The config whose names lead to it.
        serial: Of two orders the larger one counts.
        keep: How many replaced versions stay.
        known: Digests that the owner has: a file of this node with one of them may make room.

    """

    node: str
    sha256: str
    size: int
    data_type: str
    config: str
    serial: int
    keep: int = KEEP_VERSIONS
    known: Tuple[str, ...] = ()


class _Names(NamedTuple):
    """Where the versions of one config lie, and its links: each with what it leads to."""

    folder: str
    version: str
    links: Tuple[Tuple[str, str], ...]


def publish(roots: Roots, scratch: str, order: Order, now: float) -> Result:
    """Install the version, then switch the links to it. Idempotent.

    Returns:
        ``published``; ``serial``, the last one that counted here; ``path`` of the version; ``kept``: files that had a
        link's name, each with ``path`` and ``artifact``; ``removed``: old versions. An order that comes too late gives
        ``published`` False and does nothing.

    Raises:
        KitError: ``missing`` where the bytes are not here; ``checksum`` where they are others; ``uncollected`` where
            an export of this node, which the owner does not have, would be replaced; ``outside`` where a link leads
            out of its folder; ``unreadable`` where a folder or a device has a link's name.

    """
    with _only_one(scratch):
        records = _Records(scratch)
        record = records.of(order.data_type, order.config)
        last = record.get("serial", 0)
        if order.serial < last or (order.serial == last and record.get("sha256") != order.sha256):
            return {"published": False, "serial": last}
        names = _names(roots, order.data_type, order.config, order.sha256)
        kept = _keep_what_is_there(names, order)
        found = _install(names.version, scratch, order)
        _register(roots, scratch, names.version, order.sha256, found)
        _remember(record, order, found, names.version, now)
        reached("publish.before_record")
        records.write()
        for link, target in names.links:
            reached(f"publish.before_link.{os.path.basename(link)}")
            _switch(link, target)
        for suffix in ("", ".verified"):
            durable.unlink(_incoming(scratch, order) + suffix)
        removed = _remove_old(names, record, order.keep, now)
        if removed:
            records.write()
    path = roots.relative(names.version)
    return {"published": True, "serial": order.serial, "path": path, "kept": kept, "removed": removed}


def published(roots: Roots, scratch: str, data_type: Optional[str], config: Optional[str]) -> Result:
    """Tell what the links lead to; cheap: nothing is hashed.

    Returns:
        ``links``: for each that is there ``path``, ``data_type``, ``config``, ``target``, ``artifact`` (None where the
        file is not the one that was published here), ``dangling``, ``regular`` and ``serial``.

    """
    records = _Records(scratch)
    links: List[Result] = []
    for kind in [data_type] if data_type else ["npz", "models"]:
        for one in [config] if config else CONFIGS:
            record = records.of(kind, one)
            try:
                names = _names(roots, kind, one, record.get("sha256", ""))
            except KitError:
                continue  # its folder leads elsewhere: nothing there is ours to tell of
            links += [told for link, _ in names.links for told in _state(roots, link, kind, one, record)]
    return {"links": links}


def _state(roots: Roots, link: str, data_type: str, config: str, record: Result) -> Iterator[Result]:
    there = durable.lstat(link)
    if there is None:
        return
    regular = not stat.S_ISLNK(there.st_mode)
    try:
        found: Optional[os.stat_result] = os.stat(link)
    except OSError:
        found = None
    same = found is not None and durable.identity(found) == record.get("identity")
    yield {
        "path": roots.relative(os.path.dirname(link)) + "/" + os.path.basename(link),
        "data_type": data_type,
        "config": config,
        "target": None if regular else os.readlink(link),
        "artifact": record["sha256"] if same else None,
        "dangling": found is None,
        "regular": regular,
        "serial": record.get("serial", 0),
    }


def _names(roots: Roots, data_type: str, config: str, sha256: str) -> _Names:
    if data_type == "npz":
        folder = roots.resolve("data/training")
        version = f"{config}.{sha256[:12]}.npz"
        return _Names(folder, os.path.join(folder, version), ((os.path.join(folder, f"{config}.npz"), version),))
    folder = roots.resolve("models")
    versions = roots.resolve(f"models/{VERSIONS_FOLDER}")
    name = f"canonical_{config}.{sha256[:12]}.pth"
    canonical = f"canonical_{config}.pth"
    links = (
        (os.path.join(folder, canonical), f"{VERSIONS_FOLDER}/{name}"),
        (os.path.join(folder, f"ringrift_best_{config}.pth"), canonical),
    )
    return _Names(folder, os.path.join(versions, name), links)


def _keep_what_is_there(names: _Names, order: Order) -> List[Result]:
    """Refuse what may not be replaced, before anything is touched; then keep regular files as versions."""
    found = [(link, durable.lstat(link)) for link, _ in names.links]
    regular = [link for link, there in found if there is not None and not stat.S_ISLNK(there.st_mode)]
    for link, there in found:
        if there is not None and stat.S_ISLNK(there.st_mode):
            real = os.path.realpath(link)
            if not real.startswith(names.folder + os.sep):
                message = f"the link {os.path.basename(link)} leads out of its folder; look at it, and move it away"
                raise KitError("outside", message)
    digests = {link: durable.digest_of(link) for link in regular}
    for link, sha256 in digests.items():
        if order.data_type == "npz" and sha256 not in (order.sha256, *order.known):
            message = f"{os.path.basename(link)} is an export that its owner does not have; it is to be collected first"
            raise KitError("uncollected", message)
    return [_keep(link, sha256, names) for link, sha256 in digests.items()]


def _keep(link: str, sha256: str, names: _Names) -> Result:
    """Give a file a second name, that of a version; it stays under the first until the link takes that one."""
    stem, suffix = os.path.splitext(os.path.basename(link))
    version = os.path.join(os.path.dirname(names.version), f"{stem}.{sha256[:12]}{suffix}")
    os.makedirs(os.path.dirname(version), exist_ok=True)
    reached("publish.before_keep")
    with contextlib.suppress(FileExistsError):
        os.link(link, version)
    if durable.digest_of(version) != sha256:
        raise KitError("changed", f"{os.path.basename(link)} changed while it was kept; ask again later")
    sync_directory(os.path.dirname(version))
    return {"path": os.path.basename(version), "artifact": sha256}


def _install(version: str, scratch: str, order: Order) -> os.stat_result:
    """Let the version lie whole and durably under its name; give its state."""
    folder = os.path.dirname(version)
    os.makedirs(folder, exist_ok=True)
    incoming = _incoming(scratch, order)
    if durable.lstat(version) is None or durable.digest_of(version) != order.sha256:
        _require(incoming, order)
        part = os.path.join(folder, f".{os.path.basename(version)}.part")
        durable.unlink(part)
        try:
            os.link(incoming, part)
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(incoming, part)
            if durable.digest_of(part) != order.sha256:
                raise KitError("changed", "the artifact changed while it was copied; ask again later") from None
        durable.settle_read_only(part)
        reached("publish.before_version")
        os.replace(part, version)
        durable.unlink(part)  # a rename onto another name of the same file leaves both
    sidecar = f"{version}.sha256"
    line = f"{order.sha256}  {os.path.basename(version)}\n".encode()
    if order.data_type == "models" and durable.content(sidecar) != line:
        reached("publish.before_sidecar")
        durable.write(sidecar, line)
    durable.settle_read_only(version)
    sync_directory(folder)
    return os.stat(version)


def _require(incoming: str, order: Order) -> None:
    found = durable.lstat(incoming)
    if found is None:
        raise KitError("missing", "the artifact is not on this node; push it first", order.sha256)
    known = keeping.is_verified(incoming)
    if found.st_size != order.size or not (known or durable.digest_of(incoming) == order.sha256):
        durable.unlink(incoming)
        raise KitError("checksum", "what lies under the artifact's name is another file; it was removed", order.sha256)


def _switch(link: str, target: str) -> None:
    there = durable.lstat(link)
    if there is not None and stat.S_ISLNK(there.st_mode) and os.readlink(link) == target:
        return
    new = os.path.join(os.path.dirname(link), f".{os.path.basename(link)}.link")
    durable.unlink(new)
    os.symlink(target, new)
    there = durable.lstat(link)
    if there is not None and not stat.S_ISLNK(there.st_mode) and there.st_nlink == 1:  # newer than the one we kept
        durable.unlink(new)
        raise KitError("changed", f"{os.path.basename(link)} was written meanwhile; ask again later")
    os.replace(new, link)
    sync_directory(os.path.dirname(link))


def _register(roots: Roots, scratch: str, version: str, sha256: str, found: os.stat_result) -> None:
    """Write the note by which this node's agent serves the version to others."""
    folder = os.path.join(scratch, "artifacts")
    os.makedirs(folder, exist_ok=True)
    note = {
        "kind": "file", "path": roots.relative(version), "artifact": sha256, "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns, "inode": found.st_ino,
    }  # fmt: skip
    packfile.write_json(os.path.join(folder, f"{sha256}.json"), note)


def _remember(record: Result, order: Order, found: os.stat_result, version: str, now: float) -> None:
    """Note the order, and since when the version before it is one of the old ones."""
    old: Dict[str, float] = record.setdefault("old", {})
    before = record.get("file")
    if before is not None and before != os.path.basename(version):
        old[before] = now
    old.pop(os.path.basename(version), None)
    record.update(
        serial=order.serial, sha256=order.sha256, file=os.path.basename(version), identity=durable.identity(found)
    )  # fmt: skip


def _remove_old(names: _Names, record: Result, keep: int, now: float) -> List[str]:
    """Remove the oldest versions that were installed here; never one in use, nor a file that this node made itself."""
    old: Dict[str, float] = record["old"]
    removed = []
    for name in sorted(old, key=lambda one: (old[one], one), reverse=True)[keep:]:
        path = os.path.join(os.path.dirname(names.version), name)
        if 0 <= now - old[name] < GRACE_SECONDS or opened_by(path):
            continue
        reached("publish.before_removal")
        for one in (path, f"{path}.sha256"):
            durable.unlink(one)
        del old[name]
        removed.append(name)
    return removed


class _Records:
    """What was ordered last for each data type and config: a small file in the kit's own folder, durable."""

    def __init__(self, scratch: str) -> None:
        self._path = os.path.join(scratch, "published.json")
        try:
            found = json.loads(durable.content(self._path) or b"{}")
        except (ValueError, RecursionError):
            found = {}
        self._all: Dict[str, Result] = found if isinstance(found, dict) else {}

    def of(self, data_type: str, config: str) -> Result:
        """Give what is known; what is changed in it is written with the rest."""
        return self._all.setdefault(f"{data_type}:{config}", {})

    def write(self) -> None:
        """Write all of it; durable on return."""
        durable.write(self._path, json.dumps(self._all, sort_keys=True).encode())


@contextlib.contextmanager
def _only_one(scratch: str) -> Iterator[None]:
    """One order at a time on this node, whichever way it came; the kernel lets go when the process ends."""
    os.makedirs(scratch, exist_ok=True)
    descriptor = os.open(os.path.join(scratch, "publish.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _incoming(scratch: str, order: Order) -> str:
    return os.path.join(scratch, "incoming", order.node, order.sha256)
