"""The kit's operations: what a node can be asked to do, the same by agent and by SSH.

An agent runs only those of ``REMOTE``; the others are for whoever may start the kit on the machine. Arguments come
from another machine, so each is checked by name and type; what they name must be one of our files. Whatever fails is a
``KitError``; the same call again does no harm and gives the same answer while the source stays as it is.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Tuple

from . import patterns
from .arguments import ORDERS, Arguments, checked
from .errors import KitError, from_os_error
from .roots import Roots

if TYPE_CHECKING:
    from .scan import Scanner  # each operation loads what it needs: a zip is compiled anew whenever it is started

Result = Dict[str, Any]

_CHUNK_BYTES = 1 << 20
_SQLITE_MAGIC = b"SQLite format 3\0"


class Context(NamedTuple):
    """Where an operation works: the node's roots, the kit's own folder, the node's wall clock (s since 1970)."""

    roots: Roots
    scratch: str
    now: float


def _our_file(context: Context, path: str) -> Tuple[str, patterns.FileClass]:
    """Resolve a name to a real path and its class.

    Raises:
        KitError: ``outside``, or ``bad_arguments`` where it is none of the five data types: no other file leaves a
        node.

    """
    index, inner = context.roots.split(path)
    file_class = patterns.classify(inner, external=index > 0)
    if file_class is None:
        raise KitError("bad_arguments", "this file is none of the five data types", path)
    return context.roots.resolve(path), file_class


def _games_database(context: Context, path: str) -> str:
    absolute, file_class = _our_file(context, path)
    if not file_class.is_games_database:
        raise KitError("bad_arguments", "this file is no games database", path)
    return absolute


_SCANNERS: Dict[Tuple[str, ...], Scanner] = {}  # a scan after the first in a process remembers what it classified


def _scan(context: Context, arguments: Arguments) -> Result:
    from . import scan  # noqa: PLC0415 - as above

    busy_seconds = checked("scan", arguments).get("busy_seconds", scan.BUSY_SECONDS)
    key = (*context.roots.paths, context.scratch)
    if key not in _SCANNERS:
        cache = os.path.join(context.scratch, "scan-cache.db")
        _SCANNERS[key] = scan.Scanner(context.roots, cache, context.scratch)
    return {"entries": _SCANNERS[key].scan(context.now, busy_seconds)}


def _disk(context: Context, arguments: Arguments) -> Result:
    """Tell of the disk of the first root; what is free is what its user may use."""
    checked("disk", arguments)
    found = os.statvfs(context.roots.paths[0])
    sizes = {"total_bytes": found.f_blocks, "used_bytes": found.f_blocks - found.f_bfree, "free_bytes": found.f_bavail}
    return {name: blocks * found.f_frsize for name, blocks in sizes.items()}


def _facts(context: Context, arguments: Arguments) -> Result:
    from . import facts  # noqa: PLC0415 - as above

    checked("facts", arguments)
    return facts.facts(context.roots, context.scratch, context.now)


def _storage(context: Context, arguments: Arguments) -> Result:
    from . import storage  # noqa: PLC0415 - as above

    given = checked("storage", arguments)
    look = given.get("look", ())
    return {"found": storage.probe(context.roots.paths[0], given.get("mark"), look, given.get("drop"), context.now)}


def _manifest(context: Context, arguments: Arguments) -> Result:
    from . import manifest  # noqa: PLC0415 - as above

    since = checked("manifest", arguments).get("since")
    return manifest.delta(_scan(context, {})["entries"], os.path.join(context.scratch, "manifests"), since)


def _pack(context: Context, arguments: Arguments) -> Result:
    from . import pack, reader  # noqa: PLC0415 - as above

    given = checked("pack", arguments)
    path = given.pop("path")
    absolute = _games_database(context, path)
    given["cursor"] = pack.parse(given.get("cursor"))
    busy_seconds = given.pop("busy_seconds", reader.BUSY_SECONDS)
    for name in ("ids", "include"):
        if name in given:
            given[name] = tuple(given[name])
    return pack.make_pack(absolute, path, context.scratch, pack.Request(**given), context.now, busy_seconds)


def _list(context: Context, arguments: Arguments) -> Result:
    from . import cursor, listing  # noqa: PLC0415 - as above

    given = checked("list", arguments)
    absolute = _games_database(context, given["path"])
    after, limit = cursor.parse(given.get("after")), given.get("limit", listing.PAGE_GAMES)
    return listing.list_games(absolute, given["path"], context.scratch, given["config"], after, limit, context.now)


def _hash(context: Context, arguments: Arguments) -> Result:
    """Hash a file and register it for serving; it stays where it is."""
    from . import packfile  # noqa: PLC0415 - as above

    path = checked("hash", arguments)["path"]
    absolute, file_class = _our_file(context, path)
    if file_class.is_database:
        raise KitError("bad_arguments", "a database leaves as packs, not as a file", path)
    digest, found = _digest(absolute, path)
    result = {"artifact": digest, "bytes": found.st_size, "mtime_ns": found.st_mtime_ns, "inode": found.st_ino}
    folder = os.path.join(context.scratch, "artifacts")
    os.makedirs(folder, exist_ok=True)
    packfile.write_json(os.path.join(folder, f"{digest}.json"), {"kind": "file", "path": path, **result})
    return result


def _digest(absolute: str, path: str) -> Tuple[str, os.stat_result]:
    """Stream the SHA-256 of a file that stands still.

    Raises:
        KitError: ``changed`` where it did not; ``bad_arguments`` where it is an SQLite database under another name.

    """
    descriptor = os.open(absolute, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # A pipe must not hold us up.
    with os.fdopen(descriptor, "rb", buffering=0) as source:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise KitError("unreadable", "this is no regular file", path)
        digest, first = hashlib.sha256(), True
        for chunk in iter(lambda: source.read(_CHUNK_BYTES), b""):
            if first and chunk.startswith(_SQLITE_MAGIC):
                raise KitError("bad_arguments", "this is an SQLite database: it leaves as packs, not as a file", path)
            first = False
            digest.update(chunk)
        after = [os.fstat(descriptor), os.stat(absolute)]
    if any(_identity(found) != _identity(before) for found in after):
        raise KitError("changed", "the file changed while it was read; ask again later", path)
    return digest.hexdigest(), before


def _identity(found: os.stat_result) -> Tuple[int, int, int]:
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _digests(context: Context, arguments: Arguments) -> Result:
    from . import local  # noqa: PLC0415 - as above

    given = checked("digest", arguments)
    absolute = _games_database(context, given["path"])
    return local.digest_games(absolute, context.scratch, given.get("config"), given.get("ids"))


def _rows(context: Context, arguments: Arguments) -> Result:
    from . import rows  # noqa: PLC0415 - as above

    given = checked("rows", arguments)
    absolute = _records_database(context, given["path"], given["kind"])
    limit = min(given.get("limit", rows.MAX_ROWS), rows.MAX_ROWS)
    wanted = rows.Wanted(given["path"], given["kind"], given.get("config", ""), given.get("cursor"), limit)
    return rows.pack_rows(absolute, context.scratch, wanted, context.now)


def _keys(context: Context, arguments: Arguments) -> Result:
    from . import rows  # noqa: PLC0415 - as above

    given = checked("keys", arguments)
    absolute = _records_database(context, given["path"], given["kind"])
    return rows.list_names(absolute, context.scratch, given["kind"], given.get("config", ""))


def _apply(context: Context, arguments: Arguments) -> Result:
    from . import rows, synced  # noqa: PLC0415 - as above

    given = checked("apply", arguments)
    pack = rows.Arrived(given["node"], given["artifact"])
    if given["kind"] == synced.KIND:
        absolute = synced.database(context.roots, given["path"], given.get("config", ""))
        return synced.apply(absolute, context.scratch, pack, given["config"], context.now)
    absolute = _records_database(context, given["path"], given["kind"])
    return rows.apply(absolute, context.scratch, pack, given["kind"], given.get("config", ""))


def _applied(context: Context, arguments: Arguments) -> Result:
    from . import synced  # noqa: PLC0415 - as above

    given = checked("applied", arguments)
    absolute = synced.database(context.roots, given["path"], given["config"])
    return synced.applied(absolute, given["config"], given["node"], given["source_path"])


def _records_database(context: Context, path: str, kind: str) -> str:
    """Resolve the name of the database that records of a family are read from, or applied to."""
    from . import records  # noqa: PLC0415 - as above

    absolute, file_class = _our_file(context, path)
    if file_class.data_type != records.FAMILIES.get(kind):
        raise KitError("bad_arguments", f"this file has no records of kind {kind[:40]!r}", path)
    return absolute


def _merge(context: Context, arguments: Arguments) -> Result:
    from . import local  # noqa: PLC0415 - as above

    given = checked("merge", arguments)
    pack, into = _pack_file(context, given["pack"]), _store(context, given["into"], given["config"])
    order = local.Order(given["config"], given["artifact"], given["node"])
    return local.merge_file(pack, into, context.scratch, order, context.now)


def _locate(context: Context, arguments: Arguments) -> Result:
    from . import keeping  # noqa: PLC0415 - as above

    return keeping.locate(context.roots, context.scratch, checked("locate", arguments)["artifact"])


def _forget(context: Context, arguments: Arguments) -> Result:
    from . import keeping  # noqa: PLC0415 - as above

    keeping.forget(context.scratch, checked("forget", arguments)["artifact"])
    return {}


def _received(context: Context, arguments: Arguments) -> Result:
    from . import keeping  # noqa: PLC0415 - as above

    given = checked("received", arguments)
    return keeping.received(context.scratch, given["node"], given["artifact"], given["bytes"])


def _accept(context: Context, arguments: Arguments) -> Result:
    from . import keeping  # noqa: PLC0415 - as above

    given = checked("accept", arguments)
    return keeping.accept(context.scratch, given["node"], given["artifact"], given["bytes"], context.now)


def _publish(context: Context, arguments: Arguments) -> Result:
    from . import publish  # noqa: PLC0415 - as above

    given = checked("publish", arguments)
    order = publish.Order(
        node=given["node"],
        sha256=given["artifact"],
        size=given["bytes"],
        data_type=given["data_type"],
        config=given["config"],
        serial=given["serial"],
        keep=given.get("keep", publish.KEEP_VERSIONS),
        known=tuple(given.get("known", ())),
    )
    return publish.publish(context.roots, context.scratch, order, context.now)


def _published(context: Context, arguments: Arguments) -> Result:
    from . import publish  # noqa: PLC0415 - as above

    given = checked("published", arguments)
    return publish.published(context.roots, context.scratch, given.get("data_type"), given.get("config"))


def _ordered(name: str) -> Callable[[Context, Arguments], Result]:
    def run(context: Context, arguments: Arguments) -> Result:
        from . import orders  # noqa: PLC0415 - as above

        return orders.ORDERS[name](orders.Order(checked(name, arguments), context.scratch, context.now))

    return run


def _pack_file(context: Context, name: str) -> str:
    """A file below the scratch folder or, where there is none of that name, below a root."""
    for roots in (Roots([context.scratch]), context.roots):
        path = roots.resolve(name)
        if os.path.isfile(path):
            return path
    raise KitError("missing", "there is no such pack below the scratch folder or a root", name)


def _store(context: Context, name: str, config: str) -> str:
    """A database that packs of the config may be merged into: canonical, marked as ours, or not there yet.

    Raises:
        KitError: ``bad_arguments`` for any other: it is the database of whoever plays games.

    """
    from . import local  # noqa: PLC0415 - as above

    absolute, file_class = _our_file(context, name)
    if not file_class.is_games_database or file_class.config not in (None, config):
        raise KitError("bad_arguments", f"this file is no games database of {config}", name)
    is_new = not os.path.exists(absolute)
    if not (is_new or file_class.kind == "canonical" or local.is_ours(absolute, context.scratch)):
        raise KitError("bad_arguments", "this database is not ours: nothing is merged into it", name)
    return absolute


def _translated(op: Callable[[Context, Arguments], Result]) -> Callable[[Context, Arguments], Result]:
    """Let nothing but ``KitError`` out, with the name that the caller used instead of a path of this machine."""

    def call(context: Context, arguments: Arguments) -> Result:
        name = dict(arguments).get("path", dict(arguments).get("into"))
        path = name if isinstance(name, str) else None
        try:
            return op(context, arguments)
        except KitError as error:
            raise KitError(error.code, error.message, path or error.path) from error
        except OSError as error:
            raise from_os_error(error, path) from error
        except sqlite3.Error as error:
            if "disk is full" in str(error):  # what is read has its own words; this is about what we write
                raise KitError("no_space", f"the disk is full where the kit writes: {error}", path) from error
            raise KitError("internal", f"SQLite refused a statement of the kit: {error}", path) from error

    return call


OPS: Dict[str, Callable[[Context, Arguments], Result]] = {
    "scan": _translated(_scan),
    "disk": _translated(_disk),
    "facts": _translated(_facts),
    "storage": _translated(_storage),
    "pack": _translated(_pack),
    "list": _translated(_list),
    "hash": _translated(_hash),
    "rows": _translated(_rows),
    "keys": _translated(_keys),
    "apply": _translated(_apply),
    "applied": _translated(_applied),
    "digest": _translated(_digests),
    "merge": _translated(_merge),
    "manifest": _translated(_manifest),
    "locate": _translated(_locate),
    "forget": _translated(_forget),
    "received": _translated(_received),
    "accept": _translated(_accept),
    "publish": _translated(_publish),
    "published": _translated(_published),
    **{name: _translated(_ordered(name)) for name in ORDERS},
}
REMOTE = (
    *("applied", "apply", "disk", "facts", "hash", "keys", "list", "pack", "publish", "published", "rows", "scan"),
    "storage",
)
"""What is run for others; the rest writes, reads without a limit, or is how SSH does what an agent does by HTTP."""


def op_names() -> List[str]:
    """Give the names of all operations."""
    return sorted(OPS)
