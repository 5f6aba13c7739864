"""The scan: one entry per file of the five data types, and for games databases how many finished games they hold.

A database is opened only when its change token is new, or when the last look came so soon after a write that a second
write could hide behind the same token. A bad file is an entry with an error; it never stops the others.
"""

from __future__ import annotations

import os
import tempfile
from operator import itemgetter
from stat import S_ISREG
from typing import Any, Dict, List, Optional, Set, Tuple

from . import gate, reader
from .counts import Contents, read_contents
from .errors import KitError
from .roots import Roots
from .scan_cache import ScanCache, Seen
from .walk import Found, Walker

Entry = Dict[str, Any]

# A scan waits so long for the first database that is locked, less for others, and not at all for one that was locked
# the last time: the next scan asks again, and whatever else there is must not wait for it.
BUSY_SECONDS = 1.0
_LESS_SECONDS = 0.1
# Errors that are facts about the bytes of a file, and so hold until its token changes; all others are asked again.
_LASTING = frozenset({"not_a_database", "corrupt", "no_games_table"})
_NO_CONTENTS = Contents({}, 0, 0, None, None)


class Scanner:
    """Scans the same roots again and again; a second scan of unchanged files opens nothing. For one thread only.

    Args:
        roots: The node's roots.
        cache_path: File that carries what was learnt to the next process; None keeps it in memory only.
        scratch: Folder for recovered copies; by default the folder of the cache. Without either, a database whose
        writer
            died is copied to the system's folder for temporary files.

    """

    def __init__(self, roots: Roots, cache_path: Optional[str] = None, scratch: Optional[str] = None) -> None:
        self._walker = Walker(roots)
        self._cache = ScanCache(cache_path)
        self._scratch = scratch or (os.path.dirname(cache_path) if cache_path else tempfile.gettempdir())
        self._files: Dict[str, Tuple[os.stat_result, Entry]] = {}
        self._locked: Set[str] = set()
        self._patience = BUSY_SECONDS

    def scan(self, now: float, busy_seconds: float = BUSY_SECONDS) -> List[Entry]:
        """Give all entries in the order of their paths.

        Args:
            now: This node's wall clock, seconds since 1970.
            busy_seconds: How long to wait for the first database that is locked.

        Returns:
            Dicts that JSON can carry, with the keys ``path``, ``data_type``, ``kind``, ``config``, ``collectable``,
            ``bytes``, ``mtime_ns``, ``token`` and ``error``; a games database adds ``games`` (finished games per
            config), ``unfinished``, ``unknown_config``, ``marker`` and ``schema_version``. They are the scanner's own:
            read only.

        Raises:
            KitError: ``missing`` where the node's own root does not exist.

        """
        files: Dict[str, Tuple[os.stat_result, Entry]] = {}
        seen: Dict[str, Seen] = {}
        entries: List[Entry] = []
        self._patience = busy_seconds
        for found in self._walker.walk():
            known = self._files.get(found.path)
            if known is not None and found.stat is not None and _same(known[0], found.stat):
                files[found.path] = known
                entries.append(known[1])
            elif found.stat is None:
                entry = _entry(found, 0, 0, gate.ABSENT, found.error)
                entries.append({**entry, **_facts(_NO_CONTENTS)} if found.file_class.is_games_database else entry)
            elif found.file_class.is_games_database:
                entries.append(self._games_database(found, found.stat, now, seen))
            elif found.file_class.is_database:
                entries.append(_database_entry(found, found.stat))
            else:
                entry = _entry(found, found.stat.st_size, found.stat.st_mtime_ns, gate.file_token(found.stat), None)
                files[found.path] = (found.stat, entry)
                entries.append(entry)
        self._files = files
        self._cache.replace(seen)
        entries.sort(key=itemgetter("path"))
        return entries

    def _games_database(self, found: Found, stat: os.stat_result, now: float, seen: Dict[str, Seen]) -> Entry:
        entry = _database_entry(found, stat)
        known = self._cache.known().get(found.path)
        if known is None or known.token != entry["token"] or not _trusted(known, entry["mtime_ns"]):
            first_seen = now if known is None or known.token != entry["token"] else min(known.first_seen, now)
            known = Seen(entry["token"], first_seen, now, self._inspect(found))
        error = known.facts["error"]
        if error is None or error["code"] in _LASTING:
            seen[found.path] = known
        entry.update(known.facts)
        entry["collectable"] = entry["collectable"] and error is None and known.facts["marker"] is None
        return entry

    def _inspect(self, found: Found) -> Dict[str, Any]:
        """Open the database and count; whatever goes wrong becomes the entry's error."""
        if found.stat is not None and S_ISREG(found.stat.st_mode) and found.stat.st_size == 0:
            return _refused("no_games_table", "the file is empty: no game was written yet")
        busy_seconds = 0.0 if found.path in self._locked else self._patience
        self._locked.discard(found.path)
        try:
            with reader.open_source(found.absolute, self._scratch, busy_seconds) as conn:
                return {**_facts(read_contents(conn)), "error": None}
        except KitError as error:
            if error.code == "locked":
                self._locked.add(found.path)
                self._patience = min(self._patience, _LESS_SECONDS)
            return _refused(error.code, error.message)


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_mtime_ns, one.st_size, one.st_ino) == (other.st_mtime_ns, other.st_size, other.st_ino)


def _trusted(known: Seen, changed_ns: int) -> bool:
    """Tell whether what was learnt cannot have missed a write: the token stood still for 2 s before we looked.

    Either by the files' own times, or by our clock from the first time that this token was seen, so that files
    stamped by a machine whose clock is ahead are trusted too.
    """
    stood = known.inspected - known.first_seen
    return stood > gate.SETTLED_SECONDS or gate.still(changed_ns, known.inspected)


def _facts(contents: Contents) -> Dict[str, Any]:
    return dict(contents._asdict())


def _refused(code: str, message: str) -> Dict[str, Any]:
    return {**_facts(_NO_CONTENTS), "error": {"code": code, "message": message}}


def _entry(found: Found, size: int, mtime_ns: int, token: str, error: Optional[KitError]) -> Entry:
    file_class = found.file_class
    return {
        "path": found.path,
        "data_type": file_class.data_type,
        "kind": file_class.kind,
        "config": file_class.config,
        "collectable": file_class.collectable and error is None,
        "bytes": size,
        "mtime_ns": mtime_ns,
        "token": token,
        "error": None if error is None else {"code": error.code, "message": error.message},
    }


def _database_entry(found: Found, stat: os.stat_result) -> Entry:
    token, changed_ns = gate.look(found.absolute, stat)
    return _entry(found, stat.st_size, changed_ns, token, None)
