"""Write-through of one node: the watch, the outbox and the push together, and what others may ask of them.

    POST   /v1/write-through   from this machine only: return when a game is durable, or say why it is not yet
    POST   /v1/drain           coordinator, or this machine: take no more bulk, push all, say what is left;
                               with "resume": true take bulk again

A game that a question ended too early for has lost nothing: it keeps its place in the outbox, or in its database.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler

from ringrift_sync_dagster.agent.answers import Refusal, json_answer, json_object
from ringrift_sync_dagster.agent.auth import claims_of
from ringrift_sync_dagster.agent.calls import Calls
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.agent.outbox import Outbox
from ringrift_sync_dagster.agent.preemption import Notice, Preemption
from ringrift_sync_dagster.agent.pushing import Pusher
from ringrift_sync_dagster.agent.reporting import DrainOrder, Reports, risk
from ringrift_sync_dagster.agent.through_config import WriteThrough
from ringrift_sync_dagster.agent.watching import Watcher
from ringrift_sync_dagster.agent.ways import Ways
from ringrift_sync_dagster.node.roots import is_text
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.identity import Scope
from ringrift_sync_dagster.storage.files import make_dirs
from ringrift_sync_dagster.transports.networks import is_loopback

log = logging.getLogger(__name__)
_T = TypeVar("_T")

MOST_SECONDS: Final = 600.0
_IDS_SHOWN: Final = 1_000
_ASK_AGAIN_SECONDS: Final = 0.25
_TELL_SECONDS: Final = 5.0
_LEAST_TELL_SECONDS: Final = 1.0
_LEAST_LOOK_SECONDS: Final = 2.0  # a question with next to no timeout is still answered from one look
_DATABASES_NAMED: Final = 3
_UNREAD_SECONDS: Final = 5.0  # a heartbeat tells of what was not read for so long; before, it is only the next look
_CUT_OFF: Final = "the time was too short to read all databases"
_LOOKS: Final = "the databases are still being looked at"
_BULK: Final = frozenset({("PUT", "/v1/incoming/{node}/{sha}"), ("POST", "/v1/pull")})


class Through:
    """Write-through of one agent; made and used in its event loop.

    Args:
        node_id: This node.
        roots: The node's roots.
        scratch: The agent's own directory.
        told: Where to, how often, how much.
        ways: How to reach other agents.
        limits: Bounds of the agent.
        metrics: Its numbers.
        is_ephemeral: True: that this process ends may mean that the node does, and others are told so.

    Raises:
        LocalDiskError: The outbox cannot be opened.

    """

    def __init__(
        self,
        node_id: str,
        roots: Sequence[str],
        scratch: Path,
        told: WriteThrough,
        ways: Ways,
        limits: Limits,
        metrics: Metrics,
        *,
        is_ephemeral: bool = False,
    ) -> None:
        self._node_id, self._told, self._ways, self._limits = node_id, told, ways, limits
        self._metrics, self._is_ephemeral, self._said_offline = metrics, is_ephemeral, False
        self._order: DrainOrder | None = None
        self._is_for_notice = False  # nobody but the provider wanted the drain
        self._ended: dict[str, Any] = {}  # how the drain ended that the coordinator wanted last
        own = make_dirs(scratch / "through")
        self._outbox = Outbox(scratch, told.coordinator.name, told.max_bytes, told.min_durable_copies)
        self._calls = Calls(roots, str(own), limits, metrics)
        self._pusher = Pusher(self._outbox, node_id, told, ways, self._note_change, metrics.push_failures.inc)
        self._watcher = Watcher(self._calls, roots, own, self._outbox, told.watch_seconds, self._pusher.wake)
        self._heart = Reports(
            node_id, self._outbox, self._pusher, told, ways, self._note_change, self._of_itself, self._ordered
        )
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[Any]] = []
        self._under_way: set[asyncio.Task[Any]] = set()  # looks that somebody asked for
        self.is_draining = False
        """Whether bulk work of others is refused."""

    def start(self) -> None:
        """Begin to watch, push and report, and to ask for the provider's notice where somebody named its address."""
        work = [self._watcher.run(), self._pusher.run(), self._heart.run()]
        if self._told.preemption_url:
            work.append(Preemption(self._told.preemption_url, self._taken_back, self._stays).run())
        self._tasks = [asyncio.create_task(one) for one in work]

    async def close(self) -> None:
        """Stop at once; what waits is pushed after the next start."""
        ending = [*self._tasks, *self._under_way]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._calls.close()
        self._ways.close()
        await asyncio.to_thread(self._outbox.close)

    async def end(self) -> None:
        """Drain because this process ends; of an ephemeral node the coordinator is told that it goes."""
        await self.drain(self._told.drain_seconds, {"cause": "its agent ends"} if self._is_ephemeral else None)

    async def drain(self, seconds: float, going: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Take no more bulk, look once more at all databases and push what waits; say what is left after the deadline.

        Args:
            seconds: The deadline.
            going: Why this node goes; the coordinator is told so, once. None: it stays.

        Returns:
            ``drained`` and, as in a heartbeat, what is still at risk; ``unread``: why games stayed in their databases,
            or nothing; ``error``: what went wrong last; ``again``: whether bulk was refused already.

        """
        deadline = Deadline.after(seconds)
        again, self.is_draining = self.is_draining, True
        self._pusher.hurry()
        more = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline.remaining()):
                more = await self._watcher.look(thorough=True)
                while more:
                    more = await self._watcher.look()
        async with asyncio.TaskGroup() as group:
            if going is not None and not self._said_offline:
                self._said_offline = True
                group.create_task(self._say_offline(going, deadline))
            while not deadline.expired:
                if not (await asyncio.to_thread(self._outbox.totals)).packs and not self._may_read_more():
                    break
                await self._wait_for_change(deadline)
        left = await asyncio.to_thread(risk, self._outbox, clock.wall())
        left["ids"] = left["ids"][:_IDS_SHOWN]
        unread = self._unread(cut_off=more)
        drained = not left["games"] and not unread
        if not drained:
            log.warning(
                "not saved games=%d packs=%d ids=%s unread=%s cause=%s",
                left["games"], left["outbox_packs"], left["ids"][:20], unread, self._pusher.last_error,
            )  # fmt: skip
        return {"drained": drained, **left, "unread": unread, "error": self._pusher.last_error, "again": again}

    def _unread(self, *, cut_off: bool) -> str:
        """Say why games may lie in databases that nobody else has; empty where all were read."""
        if self._watcher.is_stopped_by:
            return self._watcher.is_stopped_by
        stuck = [f"{one.path}: {one.why}" for one in self._watcher.unread if one.why]
        if len(stuck) > _DATABASES_NAMED:
            stuck[_DATABASES_NAMED:] = [f"and {len(stuck) - _DATABASES_NAMED} more databases"]
        return "; ".join([*stuck, *([_CUT_OFF] if cut_off else [])])

    def _may_read_more(self) -> bool:
        """Whether waiting may help: room may come, or a lock may end, but a damaged file stays what it is."""
        stuck = any(one.why and one.since is not None for one in self._watcher.unread)
        return bool(self._watcher.is_stopped_by) or stuck

    def resume(self) -> bool:
        """Take bulk of others again; say whether it was refused. Idempotent."""
        was, self.is_draining = self.is_draining, False
        self._said_offline = self._is_for_notice = False  # the next end is told again
        if was:
            log.info("takes bulk of others again")
            self._heart.hurry()
        return was

    async def show(self) -> None:
        """Bring the numbers of ``/metrics`` up to date."""
        totals = await asyncio.to_thread(self._outbox.totals)
        oldest = 0.0 if totals.oldest is None else max(0.0, clock.wall() - totals.oldest)
        self._metrics.show_outbox(
            games=totals.games, size=totals.size_bytes, packs=totals.packs, oldest=oldest,
            stopped=bool(self._watcher.is_stopped_by), draining=self.is_draining,
            unread=self._unread_told()["databases"],
        )  # fmt: skip
        self._metrics.show_saved(self._outbox.saved_games)

    async def status(self) -> dict[str, Any]:
        """Say what is watched, what waits, and what is in the way."""
        left = await asyncio.to_thread(risk, self._outbox, clock.wall())
        del left["ids"], left["version"]
        more = {"databases": self._watcher.databases, "stopped_by": self._watcher.is_stopped_by}
        more |= {"unread": self._unread_told()}
        return {**left, **more, "draining": self.is_draining, "error": self._pusher.last_error}

    async def post_write_through(self, request: web.Request) -> web.Response:
        """``POST /v1/write-through``: whether a game is ``durable`` within the ``timeout``, and why not."""
        self._require_local(request)
        body = await json_object(request, self._limits.stall_seconds)
        game_id, path, seconds = body.get("game_id"), body.get("db_path"), body.get("timeout", 60.0)
        if not (isinstance(game_id, str) and game_id and isinstance(path, str) and path):
            raise _bad_request("game_id and db_path must be text")
        if "\0" in path or not (is_text(path) and is_text(game_id)):
            raise _bad_request("game_id and db_path must be valid Unicode, and db_path holds no NUL")
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MOST_SECONDS:
            raise _bad_request(f"timeout must be a number of seconds from 0 to {MOST_SECONDS:.0f}")
        deadline, looks = Deadline.after(float(seconds)), Deadline.after(max(_LEAST_LOOK_SECONDS, float(seconds)))
        name = await self._within(looks, self._watcher.name_of(path))
        if name is None:
            return json_answer({"durable": False, "reason": _LOOKS})
        if not name:
            message = f"{path} is no games database of this node that can be read; /v1/manifest lists them"
            raise Refusal(HTTPStatus.NOT_FOUND, "unknown_database", message)
        reason = await self._made_durable(name, game_id, deadline, looks)
        return json_answer({"durable": not reason, "reason": reason})

    async def post_drain(self, request: web.Request) -> web.Response:
        """``POST /v1/drain`` with ``seconds``: what ``drain`` says; with ``resume`` the node takes bulk again."""
        if Scope.COORDINATOR not in claims_of(request).scopes:
            self._require_local(request)
        body = await json_object(request, self._limits.stall_seconds)
        if body.get("resume") is True:
            return json_answer({"was_draining": self.resume(), "draining": False})
        seconds = body.get("seconds", self._told.drain_seconds)
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MOST_SECONDS:
            raise _bad_request(f"seconds must be a number from 0 to {MOST_SECONDS:.0f}")
        self._is_for_notice = False
        return json_answer(await self.drain(float(seconds)))

    @web.middleware
    async def no_bulk_while_draining(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what others bring while this node is being emptied."""
        resource = request.match_info.route.resource
        if self.is_draining and resource is not None and (request.method, resource.canonical) in _BULK:
            message = f"{self._node_id} is being emptied and takes nothing more; give this to another node"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "draining", message, headers={"Connection": "close"})
        return await handler(request)

    async def _made_durable(self, path: str, game_id: str, deadline: Deadline, looks: Deadline) -> str:
        """Wait until a game is durable; give nothing then, or why it is not."""
        asked = current = False
        while True:
            state = await asyncio.to_thread(self._outbox.state, path, game_id)
            if state == "durable" and not current:
                current = await self._is_current(path, game_id, looks)
                state = await asyncio.to_thread(self._outbox.state, path, game_id)
            if state == "durable" and current:
                return ""
            if not state:
                looked = await self._within(looks, self._watcher.look(path))
                state = await asyncio.to_thread(self._outbox.state, path, game_id)
                if looked is not None and not state and not asked:
                    # Passed by before the memory of durable games began, or not finished: ask for it by its name.
                    asked = bool(await self._within(looks, self._watcher.take_one(path, game_id)))
            if deadline.expired:
                return await self._reason(path, game_id, current=current)
            await self._wait_for_change(deadline)

    async def _is_current(self, path: str, game_id: str, looks: Deadline) -> bool:
        """Say whether what is durable, or waits now, is what the database holds: an id may be another game's by now."""
        identity = await asyncio.to_thread(self._outbox.saved_identity, path, game_id)
        same = await self._within(looks, self._watcher.holds_as(path, game_id, identity))
        return bool(same or await self._within(looks, self._watcher.take_one(path, game_id)))

    async def _reason(self, path: str, game_id: str, *, current: bool) -> str:
        state = await asyncio.to_thread(self._outbox.state, path, game_id)
        if state == "durable":
            unknown = "an earlier game of this id is durable, and what the database holds now could not be read yet"
            return "" if current else self._watcher.is_stopped_by or unknown
        if not state:
            stopped = self._watcher.is_stopped_by or self._watcher.trouble(path) or (_LOOKS if self._under_way else "")
            return stopped or "the database does not hold this game finished and with all its moves (5 at least) yet"
        trouble = await asyncio.to_thread(self._outbox.trouble, path, game_id) or self._pusher.last_error
        return f"it waits in the outbox: {trouble or 'it was not acknowledged in time'}"

    async def _within(self, looks: Deadline, work: Coroutine[Any, Any, _T]) -> _T | None:
        """Give what a look gives, or None when the deadline comes first; the look goes on by itself."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.wait({task}, timeout=looks.remaining())
        return task.result() if task.done() else None

    async def _wait_for_change(self, deadline: Deadline) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline.at_most(_ASK_AGAIN_SECONDS)):
                await self._changed.wait()

    def _note_change(self) -> None:
        """Let go on who waits for something to become durable."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _of_itself(self) -> dict[str, Any]:
        """What a heartbeat tells beside what is at risk."""
        told = {"stopped_by": self._watcher.is_stopped_by, "draining": self.is_draining, "drain": self._ended or None}
        return {**told, "unread": self._unread_told()}

    def _unread_told(self) -> dict[str, Any]:
        """What is not read, as heartbeat and status tell it: games that may be at risk, but cannot be counted."""
        now = clock.monotonic()
        late = [one for one in self._watcher.unread if one.since is None or now - one.since >= _UNREAD_SECONDS]
        oldest = late[0].since if late else None
        return {
            "databases": len(late),
            "oldest_age_seconds": None if oldest is None else now - oldest,
            "why": "; ".join(f"{one.path}: {one.why or _LOOKS}" for one in late[:_DATABASES_NAMED]),
        }

    def _ordered(self, order: DrainOrder | None) -> None:
        """Begin the drain that the coordinator wants, once; take bulk again when it does not want it any more."""
        before, self._order = self._order, order
        if order is None:
            if before is not None:
                self.resume()
        elif before is None or order.id != before.id:
            log.info("the coordinator wants this node emptied")
            self._is_for_notice = False
            self._tasks = [task for task in self._tasks if not task.done()]
            self._tasks.append(asyncio.create_task(self._drain_as_ordered(order)))

    async def _drain_as_ordered(self, order: DrainOrder) -> None:
        found = await self.drain(self._told.drain_seconds if order.seconds is None else order.seconds)
        self._ended = {"id": order.id, **{name: found[name] for name in ("drained", "unread", "error")}}
        if self._order is None:  # taken back meanwhile
            self.resume()
        self._heart.hurry()

    async def _taken_back(self, notice: Notice) -> None:
        """Drain in the time that the provider's notice leaves."""
        going = {"cause": "the provider's notice", "action": notice.action, "at": notice.at}
        self._is_for_notice = self._is_for_notice or not self.is_draining
        await self.drain(notice.seconds(clock.wall()), going)

    def _stays(self) -> None:
        """Take bulk again where nobody but the provider wanted the drain; the next end is told again in any case."""
        self._said_offline = False
        if self._is_for_notice:
            self.resume()

    async def _say_offline(self, going: Mapping[str, Any], deadline: Deadline) -> None:
        pending = (await asyncio.to_thread(self._outbox.totals)).games
        seconds = max(_LEAST_TELL_SECONDS, deadline.at_most(_TELL_SECONDS))
        await self._heart.say_offline(pending, going, Deadline.after(seconds))

    def _require_local(self, request: web.Request) -> None:
        claims, remote = claims_of(request), request.remote or ""
        own = claims.sub == self._node_id or Scope.COORDINATOR in claims.scopes
        here = request.transport.get_extra_info("sockname") if request.transport is not None else None
        if not own or not (is_loopback(remote) or (here and remote == here[0])):
            message = "only programs on this machine, with its own token, may ask this"
            raise Refusal(HTTPStatus.FORBIDDEN, "loopback_only", message)


def _bad_request(message: str) -> Refusal:
    return Refusal(HTTPStatus.BAD_REQUEST, "bad_request", message)
