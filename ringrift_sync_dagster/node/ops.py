"""The kit's operations: what a node can be asked to do, the same by agent and by SSH.

An agent runs only those of ``REMOTE``; the others are for whoever may start the kit on the machine. Arguments come
from another machine, so each is checked by name and type; what they name must be one of our files. Whatever fails is a
``KitError``; the same call again does no harm and gives the same answer while the source stays as it is.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import stat
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from . import patterns
from .errors import KitError, from_os_error
from .roots import Roots

if TYPE_CHECKING:
    from .scan import Scanner  # each operation loads what it needs: a zip is compiled anew whenever it is started

Arguments = Dict[str, Any]
Result = Dict[str, Any]

_CHUNK_BYTES = 1 << 20
_SQLITE_MAGIC = b"SQLite format 3\0"


class Context(NamedTuple):
    """Where an operation works: the node's roots, the kit's own folder, the node's wall clock (s since 1970)."""

    roots: Roots
    scratch: str
    now: float


class _Argument(NamedTuple):
    """One argument: its JSON types, and whether the call needs it; an optional one may be null."""

    types: Tuple[type, ...]
    required: bool = False
    least: Optional[float] = None


_PATH = _Argument((str,), required=True)
_CONFIG = _Argument((str,), required=True)
_SEVERAL = _Argument((int,), least=1)
_TEXT = _Argument((str,), required=True)
_SIZE = _Argument((int,), required=True, least=0)
_FILES = _Argument((list,), required=True)
_STATES = _Argument((dict,), required=True)
_ARGUMENTS: Dict[str, Dict[str, _Argument]] = {
    "scan": {},
    "disk": {},
    "hash": {"path": _PATH},
    "list": {"path": _PATH, "config": _CONFIG, "after": _Argument((dict,)), "limit": _SEVERAL},
    "pack": {
        "path": _PATH,
        "config": _CONFIG,
        "cursor": _Argument((dict,)),
        "max_games": _SEVERAL,
        "max_bytes": _SEVERAL,
        "ids": _Argument((list,)),
        "aside": _Argument((bool,)),
        "short_after_seconds": _Argument((int, float), least=0),
        "include": _Argument((list,)),
    },
    "digest": {"path": _PATH, "config": _Argument((str,)), "ids": _Argument((list,))},
    "merge": {"pack": _PATH, "into": _PATH, "config": _CONFIG, "artifact": _TEXT, "node": _TEXT},
    "manifest": {"since": _Argument((str,))},
    "locate": {"artifact": _TEXT},
    "forget": {"artifact": _TEXT},
    "received": {"node": _TEXT, "artifact": _TEXT, "bytes": _SIZE},
    "accept": {"node": _TEXT, "artifact": _TEXT, "bytes": _SIZE},
    "snapshot": {"path": _PATH, "token": _TEXT},
    "discard": {"token": _TEXT},
    "place": {"path": _PATH, "name": _TEXT, "artifact": _TEXT, "bytes": _SIZE},
    "withdraw": {"part": _PATH},
    "install": {"part": _PATH, "path": _PATH, "artifact": _Argument((str,)), "bytes": _SIZE},
    "inspect": {"path": _PATH, "files": _FILES, "hashes": _Argument((list,))},
    "stage": {"path": _PATH, "key": _TEXT, "states": _STATES},
    "staged": {"path": _PATH, "key": _TEXT, "files": _FILES},
    "land": {"path": _PATH, "key": _TEXT, "states": _STATES},
}
_ORDERS = ("snapshot", "discard", "place", "withdraw", "install", "inspect", "stage", "staged", "land")
_FORMS = {
    "artifact": re.compile(r"[0-9a-f]{64}"),
    "node": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"),
    "token": re.compile(r"[0-9a-f]{32}"),
}


def _fits(value: object, argument: _Argument) -> bool:
    if isinstance(value, bool) and bool not in argument.types:
        return False
    if not isinstance(value, argument.types):
        return False
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return argument.least is None or (isinstance(value, (int, float)) and value >= argument.least)


def _has_form(name: str, value: object) -> bool:
    return isinstance(value, str) and _FORMS[name].fullmatch(value) is not None


def _checked(op: str, arguments: object) -> Arguments:
    """Give the arguments that are not null, after checking names, types and ranges.

    Raises:
        KitError: ``bad_arguments``, naming every argument that is wrong.

    """
    if not isinstance(arguments, dict):
        raise KitError("bad_arguments", f"{op}: the arguments must be a JSON object")
    known = _ARGUMENTS[op]
    given = {name: value for name, value in arguments.items() if value is not None}
    wrong = [f"{name} is unknown" for name in arguments if name not in known]
    wrong += [f"{name} is missing" for name, argument in known.items() if argument.required and name not in given]
    wrong += [f"{name} has a wrong value" for name in known if name in given and not _fits(given[name], known[name])]
    if given.get("config", patterns.CONFIGS[0]) not in patterns.CONFIGS:
        wrong.append("config is none of the twelve")
    wrong += [f"{name} has another form" for name in _FORMS if name in given and not _has_form(name, given[name])]
    if wrong:
        raise KitError("bad_arguments", f"{op}: {', '.join(sorted(wrong))}")
    return given


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
    from .scan import Scanner  # noqa: PLC0415 - as above

    _checked("scan", arguments)
    key = (*context.roots.paths, context.scratch)
    if key not in _SCANNERS:
        cache = os.path.join(context.scratch, "scan-cache.db")
        _SCANNERS[key] = Scanner(context.roots, cache, context.scratch)
    return {"entries": _SCANNERS[key].scan(context.now)}


def _disk(context: Context, arguments: Arguments) -> Result:
    """Tell of the disk of the first root; what is free is what its user may use."""
    _checked("disk", arguments)
    found = os.statvfs(context.roots.paths[0])
    sizes = {"total_bytes": found.f_blocks, "used_bytes": found.f_blocks - found.f_bfree, "free_bytes": found.f_bavail}
    return {name: blocks * found.f_frsize for name, blocks in sizes.items()}


def _manifest(context: Context, arguments: Arguments) -> Result:
    from . import manifest  # noqa: PLC0415 - as above

    since = _checked("manifest", arguments).get("since")
    return manifest.delta(_scan(context, {})["entries"], os.path.join(context.scratch, "manifests"), since)


def _pack(context: Context, arguments: Arguments) -> Result:
    from . import pack  # noqa: PLC0415 - as above

    given = _checked("pack", arguments)
    path = given.pop("path")
    absolute = _games_database(context, path)
    given["cursor"] = pack.parse(given.get("cursor"))
    for name in ("ids", "include"):
        if name in given:
            given[name] = tuple(given[name])
    return pack.make_pack(absolute, path, context.scratch, pack.Request(**given), context.now)


def _list(context: Context, arguments: Arguments) -> Result:
    from . import cursor, listing  # noqa: PLC0415 - as above

    given = _checked("list", arguments)
    absolute = _games_database(context, given["path"])
    after, limit = cursor.parse(given.get("after")), given.get("limit", listing.PAGE_GAMES)
    return listing.list_games(absolute, given["path"], context.scratch, given["config"], after, limit, context.now)


def _hash(context: Context, arguments: Arguments) -> Result:
    """Hash a file and register it for serving; it stays where it is."""
    from . import packfile  # noqa: PLC0415 - as above

    path = _checked("hash", arguments)["path"]
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

    given = _checked("digest", arguments)
    absolute = _games_database(context, given["path"])
    return local.digest_games(absolute, context.scratch, given.get("config"), given.get("ids"))


def _merge(context: Context, arguments: Arguments) -> Result:
    from . import local  # noqa: PLC0415 - as above

    given = _checked("merge", arguments)
    pack, into = _pack_file(context, given["pack"]), _store(context, given["into"], given["config"])
    order = local.Order(given["config"], given["artifact"], given["node"])
    return local.merge_file(pack, into, context.scratch, order, context.now)


def _locate(context: Context, arguments: Arguments) -> Result:
    from . import keeping  # noqa: PLC0415 - as above

    return keeping.locate(context.roots, context.scratch, _checked("locate", arguments)["artifact"])


def _forget(context: Context, arguments: Arguments) -> Result:
    from . import keeping  # noqa: PLC0415 - as above

    keeping.forget(context.scratch, _checked("forget", arguments)["artifact"])
    return {}


def _received(context: Context, arguments: Arguments) -> Result:
    from . import keeping  # noqa: PLC0415 - as above

    given = _checked("received", arguments)
    return keeping.received(context.scratch, given["node"], given["artifact"], given["bytes"])


def _accept(context: Context, arguments: Arguments) -> Result:
    from . import keeping  # noqa: PLC0415 - as above

    given = _checked("accept", arguments)
    return keeping.accept(context.scratch, given["node"], given["artifact"], given["bytes"], context.now)


def _ordered(name: str) -> Callable[[Context, Arguments], Result]:
    def run(context: Context, arguments: Arguments) -> Result:
        from . import orders  # noqa: PLC0415 - as above

        return orders.ORDERS[name](orders.Order(_checked(name, arguments), context.scratch, context.now))

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
            raise KitError("internal", f"SQLite refused a statement of the kit: {error}", path) from error

    return call


OPS: Dict[str, Callable[[Context, Arguments], Result]] = {
    "scan": _translated(_scan),
    "disk": _translated(_disk),
    "pack": _translated(_pack),
    "list": _translated(_list),
    "hash": _translated(_hash),
    "digest": _translated(_digests),
    "merge": _translated(_merge),
    "manifest": _translated(_manifest),
    "locate": _translated(_locate),
    "forget": _translated(_forget),
    "received": _translated(_received),
    "accept": _translated(_accept),
    **{name: _translated(_ordered(name)) for name in _ORDERS},
}
REMOTE = ("disk", "hash", "list", "pack", "scan")
"""What is run for others; the rest writes, reads without a limit, or is how SSH does what an agent does by HTTP."""


def op_names() -> List[str]:
    """Give the names of all operations."""
    return sorted(OPS)
