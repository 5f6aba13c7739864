"""Watching the node's games databases: a game that is finished and committed is in the outbox at the next look.

A look costs a ``stat`` of each database, its sidecars and its directory, and the header of its log; no database is
opened for it. What changed is packed by the kit, in a worker process of the watch's own, from a cursor of its own that
moves in the transaction that takes the pack into the outbox. Which databases there are, and of which configs, the kit's
scan says: it runs when a directory or a database changed, and now and then, for a bounded part of the time.

A hint of the kernel brings the next look forward (``pause``, ``hints``); that it comes is never relied on.

While the outbox is full nothing is packed and no cursor moves: the games stay where they are, in their databases, and
are read when there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.agent.answers import Refusal
from ringrift_sync_dagster.agent.calls import Calls
from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.agent.outbox_entries import Packed
from ringrift_sync_dagster.agent.pause import Pause
from ringrift_sync_dagster.agent.sight import Due, Sight, Unread
from ringrift_sync_dagster.errors import LocalDiskError
from ringrift_sync_dagster.settings import clock

log = logging.getLogger(__name__)

_GROUP: Final = 8  # databases whose packs are committed together
_LONGEST_PAUSE: Final = 60.0
_DOUBLINGS: Final = 10
_LONGEST_LOCK_PAUSE: Final = 2.0
_LOCK_SECONDS: Final = 0.25  # a writer that holds its whole database holds up the looks at all others for so long, ...
_LOCKED_AGAIN_SECONDS: Final = 0.05  # ... and for this while it goes on


class Watcher:
    """The watch of one agent, used from its event loop.

    Args:
        calls: Runs the kit; for the watch alone, because what it leaves in its scratch is removed.
        roots: The node's roots.
        scratch: The scratch directory of ``calls``.
        outbox: Where packs go.
        seconds: Time between two looks.
        found: Called when something was taken into the outbox.

    """

    def __init__(
        self,
        calls: Calls,
        roots: Sequence[str],
        scratch: Path,
        outbox: Outbox,
        seconds: float,
        found: Callable[[], None],
    ) -> None:
        self._calls, self._outbox, self._sight = calls, outbox, Sight(roots, seconds)
        self._artifacts, self._seconds, self._found = scratch / "artifacts", seconds, found
        self._turn = asyncio.Lock()
        self._generation = outbox.read_again
        self._watch_folders: Callable[[Iterable[Path]], None] = _no_hints
        self._was_fruitful = False
        self.is_stopped_by = ""
        """Why nothing is packed now: the outbox or the disk is full."""

    @property
    def databases(self) -> int:
        """How many databases are watched."""
        return len(self._sight.watched)

    @property
    def unread(self) -> list[Unread]:
        """Databases whose newest content was not read, with what is in the way."""
        return self._sight.unread()

    def trouble(self, path: str) -> str:
        """Say what is in the way of reading a database; empty where nothing is."""
        return next((one.why for one in self._sight.unread() if one.path == path), "")

    async def run(self) -> None:
        """Look again and again until cancelled."""
        pause, more = Pause("watch", self._seconds, self._notice), True
        self._watch_folders = pause.watch
        try:
            while True:
                try:
                    noticed = None if more else await pause.over(fruitful=self._was_fruitful)
                    self._was_fruitful = False
                    more = await self.look(noticed=noticed)
                except LocalDiskError as error:
                    more = False
                    log.warning("the look at the games databases failed cause=%s", error)
                except Exception:  # the next look may do better; without one no game would be safe
                    more = False
                    log.exception("the look at the games databases failed")
        finally:
            self._watch_folders = _no_hints
            pause.close()

    def _notice(self) -> list[Due] | None:
        """Look, in the thread of the pause; None while there is nothing to do."""
        due = self._sight.look()
        return due if due or self._sight.scan_is_due or self._generation != self._outbox.read_again else None

    async def look(self, only: str = "", *, thorough: bool = False, noticed: list[Due] | None = None) -> bool:
        """Take what was finished since the last look into the outbox; say whether there is more to take at once.

        Args:
            only: The one database to look at, whether it changed or not.
            thorough: Scan for new databases, however lately that was done.
            noticed: What a look of a moment ago gave; None: look now.

        Raises:
            LocalDiskError: The outbox cannot be read.

        """
        async with self._turn:
            due = await asyncio.to_thread(self._sight.look, only) if noticed is None else noticed
            if thorough:
                self._sight.forget_pauses()
            scanned = (thorough or self._sight.scan_is_due) and await self._scan()
            if self._generation != self._outbox.read_again:
                self._generation = self._outbox.read_again
                scanned = True
                self._sight.read_anew()
            if scanned:  # what was due is due still; the scan may have found more
                due = await asyncio.to_thread(self._sight.look, only)
            due = [one for one in due if one.path in self._sight.watched]  # a look in between may have seen it go
            if not due or not await self._has_room():
                return False
            return await self._take(due)

    async def take_one(self, path: str, game_id: str) -> bool:
        """Take one game that was passed by already into the outbox; say whether the database holds it, complete."""
        async with self._turn:
            watched = self._sight.watched.get(path)
            for config in watched.configs if watched is not None and watched.may_be_read else ():
                result = await self._call({"path": path, "config": config, "ids": [game_id], "tell": True})
                if result is not None and result["games"]:
                    return await self._keep([_packed(self._artifacts, path, config, result, None)])
        return False

    async def holds_as(self, path: str, game_id: str, identity: str) -> bool:
        """Say whether a database, as far as it holds a complete game of this id, holds the one of this identity."""
        async with self._turn:
            watched = self._sight.watched.get(path)
            if watched is not None and not watched.may_be_read:
                return False
            for config in () if watched is None else watched.configs:
                result = await self._call({"path": path, "config": config, "ids": [game_id], "tell": True})
                await asyncio.to_thread(self._clean)
                if result is None or result["games"]:
                    return result is not None and result["told"][0][1] == identity
        return True

    async def name_of(self, path: str) -> str:
        """Give the name of a watched database by a path of this machine, or by its name; empty for any other."""
        if not (name := await asyncio.to_thread(self._sight.name_of, path)):
            await self.look(thorough=True)
            name = await asyncio.to_thread(self._sight.name_of, path)
        return name

    async def _scan(self) -> bool:
        """Ask the kit which databases there are; True."""
        started = clock.monotonic()
        before = await asyncio.to_thread(self._sight.begin_scan)
        try:
            answer = await self._calls.call("scan", {"busy_seconds": _LOCKED_AGAIN_SECONDS})
        except Refusal as refusal:
            answer = {"ok": False, "error": {"message": refusal.message}}
        self._sight.end_scan(started)
        if answer["ok"]:
            self._sight.take_in(answer["result"]["entries"])
            await asyncio.to_thread(self._sight.watch_folders, before)
            await asyncio.to_thread(self._watch_folders, self._sight.folders)
        else:
            log.warning("the scan for games databases failed cause=%s", answer["error"]["message"])
        return True

    async def _has_room(self) -> bool:
        full = await asyncio.to_thread(lambda: self._outbox.is_full)
        if full:
            self._stopped("the outbox is full")
        elif self.is_stopped_by == "the outbox is full":
            log.info("the outbox has room again; the databases are read on")
            self.is_stopped_by = ""
        return not full

    def _stopped(self, why: str) -> None:
        if self.is_stopped_by != why:
            log.warning("new games stay in their databases and are read later cause=%s", why)
        self.is_stopped_by = why

    async def _take(self, due: Sequence[Due]) -> bool:
        more = False
        for start in range(0, len(due), _GROUP):
            group = due[start : start + _GROUP]
            results = await asyncio.gather(*(self._pack_all(path) for path, _, _ in group))
            packs = [pack for found in results if found is not None for pack in found.packs]
            if packs and not await self._keep(packs):
                return False
            for (path, token, still), found in zip(group, results, strict=True):
                if found is not None:
                    watched = self._sight.watched[path]
                    watched.cursors.update(found.cursors)
                    if not found.more:
                        watched.token, watched.sure = token, still
                    more = more or found.more
        return more

    async def _keep(self, packs: Sequence[Packed]) -> bool:
        try:
            await asyncio.to_thread(self._outbox.keep, packs, clock.wall(), self._generation)
        except LocalDiskError as error:
            self._stopped(error.message)
            return False
        finally:
            await asyncio.to_thread(self._clean)
        self.is_stopped_by, self._was_fruitful = "", True
        self._found()
        return True

    def _clean(self) -> None:
        """Remove what the kit keeps for whoever asks again: nobody does."""
        with contextlib.suppress(OSError):
            for path in self._artifacts.iterdir():
                path.unlink(missing_ok=True)

    async def _pack_all(self, path: str) -> _Found | None:
        """Pack what is new in one database, one pack of each config at most; None where it could not be read."""
        watched, found = self._sight.watched[path], _Found()
        for config in watched.configs:
            cursor = watched.cursors.get(config)
            if cursor is None:
                cursor = await asyncio.to_thread(self._outbox.cursor, path, config)
            result = await self._call({"path": path, "config": config, "cursor": cursor, "tell": True})
            if result is not None and result["mode"] == "listing_needed":
                # Rows were moved (VACUUM) or the file is another one: read it anew; a union cannot double anything.
                result = await self._call({"path": path, "config": config, "tell": True})
            if result is None:
                return None
            cursor = _told(result["cursor"], result["short"])
            found.cursors[config] = cursor
            found.more = found.more or bool(result["more"])
            if result["games"]:
                found.packs.append(_packed(self._artifacts, path, config, result, cursor))
        watched.failures = 0
        return found

    async def _call(self, arguments: dict[str, Any]) -> dict[str, Any] | None:
        watched = self._sight.watched[arguments["path"]]
        busy_seconds = _LOCKED_AGAIN_SECONDS if watched.failures else _LOCK_SECONDS
        try:
            answer = await self._calls.call("pack", {**arguments, "busy_seconds": busy_seconds})
        except Refusal as refusal:
            answer = {"ok": False, "error": {"code": refusal.code, "message": refusal.message}}
        if answer["ok"]:
            watched.trouble = ""
            result: dict[str, Any] = answer["result"]
            return result
        watched.failures += 1
        watched.trouble = answer["error"]["message"]
        longest = _LONGEST_LOCK_PAUSE if answer["error"]["code"] == "locked" else _LONGEST_PAUSE
        # At least until the next look: whoever asks for this database meanwhile must not hold up the others.
        pause = min(longest, self._seconds * 2.0 ** min(watched.failures, _DOUBLINGS))
        watched.not_before = clock.monotonic() + max(self._seconds, pause)
        if answer["error"]["code"] == "no_space":
            self._stopped(answer["error"]["message"])
        if watched.failures & (watched.failures - 1) == 0:  # 1, 2, 4, ...: told, and not every half second
            log.warning("cannot read games path=%s cause=%s", arguments["path"], answer["error"]["message"])
        return None


@dataclass(slots=True)
class _Found:
    """What one read of a database gave."""

    packs: list[Packed] = field(default_factory=list)
    cursors: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    more: bool = False


def _packed(artifacts: Path, path: str, config: str, result: Mapping[str, Any], cursor: Any) -> Packed:  # noqa: ANN401
    sha, games = str(result["artifact"]), tuple((str(one[0]), str(one[1])) for one in result["told"])
    return Packed(path, config, sha, int(result["bytes"]), artifacts / sha, games, cursor)


def _no_hints(_folders: Iterable[Path]) -> None:
    """Where nobody waits for hints."""


def _told(cursor: dict[str, Any] | None, short: Sequence[str]) -> dict[str, Any] | None:
    """Mark games as told that are over but not complete: their pass collects them, and they must not fill the list."""
    if cursor is not None:
        for game_id in short:
            cursor["waiting"][game_id][3] = True
    return cursor
