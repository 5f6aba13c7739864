"""A node that lies harms its own partitions only: nothing it says escapes, crashes the pass, or keeps it busy."""

from __future__ import annotations

import time
import zlib
from functools import partial
from itertools import count
from typing import Any

import pytest

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.sync.collect import collect
from ringrift_sync_dagster.sync.mover import Order, Work
from ringrift_sync_dagster.sync.report import Outcome
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.source import SourceCollector, collect_source
from ringrift_sync_dagster.sync.survey import survey
from tests.badinput.conftest import CONFIG, A, Scene
from tests.badinput.liar import (
    LIAR,
    NOWHERE,
    PATH,
    Handler,
    cursor,
    endless,
    entry,
    file_of,
    manifest,
    packed,
    send,
    with_pack,
)
from tests.badinput.packs import good_pack

HUGE = 10**400
DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]

MANIFESTS: dict[str, Any] = {
    "parent": manifest(entry("../../../etc/passwd")),
    "parent inside": manifest(entry("data/games/../../../x.db")),
    "absolute": manifest(entry("/etc/passwd")),
    "nul": manifest(entry("data/games/x\0.db")),
    "empty path": manifest(entry("")),
    "half a character": manifest(entry("data/games/\ud800.db")),
    "endless path": manifest(entry("d/" * 9000)),
    "path of another type": manifest(entry(path=["data"])),  # type: ignore[arg-type]
    "negative size": manifest(entry(bytes=-1)),
    "huge size": manifest(entry(bytes=HUGE)),
    "size past 64 bits": manifest(entry(bytes=1 << 63)),
    "size is no number": manifest(entry(bytes="4096")),
    "size is infinite": manifest(entry(bytes=float("inf"))),
    "time past 64 bits": manifest(entry(mtime_ns=1 << 70)),
    "flag is no flag": manifest(entry(collectable="yes")),
    "games is a list": manifest(entry(games=["hex8_2p"])),
    "games count is text": manifest(entry(games={"hex8_2p": "three"})),
    "games count is negative": manifest(entry(games={"hex8_2p": -3})),
    "error is text": manifest(entry(error="corrupt")),
    "error without code": manifest(entry(error={"message": "x"})),
    "token is an object": manifest(entry(token={})),
    "token of the manifest": manifest(token="\ud800"),
    "entry is null": manifest(None),
    "entry is deep": manifest(DEEP),
    "the same path twice": manifest(entry(), entry()),
    "field missing": manifest({"path": PATH}),
    "removed is garbage": manifest(removed=[{"path": PATH}]),
    "removed is outside": manifest(removed=["../x"]),
    "full is a number": manifest(full=1),
    "entries is an object": manifest(entries={}),
    "a list": [],
    "no json": b"<html>",
    "deep json": b"[" * 100_000,
    "a number of a million digits": b'{"token":' + b"9" * 1_000_000 + b"}",
}


def test_a_manifest_that_makes_no_sense_fails_its_node_only(scene: Scene) -> None:
    scene.play()
    with Runtime.open(scene.field.settings) as runtime:
        for lie, said in MANIFESTS.items():
            scene.liar.manifest = said
            report = collect(runtime, configs=[CONFIG], nodes=[A, LIAR], trigger="test")
            (failure,) = report.failures
            assert failure.partition.node == LIAR, lie
            assert failure.error in ("TransferError", "TransientError", "RungUnusableError"), lie
            assert LIAR in failure.message, lie
        assert runtime.intake.store.games(CONFIG) == 1
    scene.require_confinement()


PACKS: dict[str, Any] = {
    "no artifact field": {},
    "artifact is no digest": packed(artifact="../../../etc/passwd", bytes=1, raw_bytes=1, games=1),
    "artifact is upper case": packed(artifact="A" * 64, bytes=1, raw_bytes=1, games=1),
    "artifact is a number": packed(artifact=7, bytes=1, raw_bytes=1, games=1),
    "games without artifact": packed(games=3, more=True),
    "artifact without games": packed(artifact=NOWHERE, bytes=1, raw_bytes=1),
    "negative size": packed(artifact=NOWHERE, bytes=-1, raw_bytes=1, games=1),
    "no size": packed(artifact=NOWHERE, bytes=0, raw_bytes=1, games=1),
    "declared bomb": packed(artifact=NOWHERE, bytes=1000, raw_bytes=1 << 40, games=1),
    "a terabyte": packed(artifact=NOWHERE, bytes=1 << 40, raw_bytes=1000, games=1),
    "size is text": packed(artifact=NOWHERE, bytes="1", raw_bytes=1, games=1),
    "size is a flag": packed(artifact=NOWHERE, bytes=True, raw_bytes=1, games=1),
    "games is negative": packed(games=-1),
    "games is huge": packed(games=HUGE),
    "no cursor": packed(cursor=None),
    "cursor is text": packed(cursor="3"),
    "cursor without version": packed(cursor={"rowid": 3}),
    "rowid past 64 bits": packed(cursor=cursor(1 << 63)),
    "rowid is a list": packed(cursor=cursor(rowid=[])),  # type: ignore[arg-type]
    "waiting is a list": packed(cursor=cursor(waiting=[1])),
    "waiting is garbage": packed(cursor=cursor(waiting={"g": "abcd"})),
    "waiting is short": packed(cursor=cursor(waiting={"g": [True]})),
    "waiting since never": packed(cursor=cursor(waiting={"g": [True, 1, float("nan"), False]})),
    "waiting for half a character": packed(cursor=cursor(waiting={"\ud800": [True, 1, 1.0, False]})),
    "cursor of tomorrow is deep": packed(cursor={"v": 2, "deep": DEEP}),
    "more is text": packed(more="no"),
    "mode is unknown": packed(mode="everything"),
    "mode is another": packed(mode="ids"),
    "short is text": packed(short="g1"),
    "short has numbers": packed(short=[1]),
    "short has half a character": packed(short=["\udfff"]),
    "left is a number": packed(left=3),
    "waiting count is null": packed(waiting=None),
    "warnings is an object": packed(warnings={}),
    "a list": [],
}


def test_each_answer_about_a_pack_that_makes_no_sense_is_told_with_node_and_file(scene: Scene) -> None:
    paths = {file_of(lie): lie for lie in PACKS}
    scene.liar.manifest = manifest(*map(entry, paths))
    scene.liar.pack = lambda asked: PACKS[paths[asked["path"]]]

    failure = scene.refused()

    assert failure.error in ("TransferError", "TransientError")
    assert [path for path in paths if path not in failure.message] == []


def needs_a_listing(asked: dict[str, Any]) -> dict[str, Any]:
    """Say that the cursor does not fit, and of games by name that there are none."""
    return packed(mode="ids" if asked.get("ids") else "listing_needed", cursor=None)


LISTS: dict[str, Any] = {
    "nothing": {},
    "games is an object": {"games": {}, "cursor": cursor(), "more": False},
    "a game is text": {"games": ["g"], "cursor": cursor(), "more": False},
    "a game has two fields": {"games": [["g", NOWHERE]], "cursor": cursor(), "more": False},
    "an id is a number": {"games": [[1, NOWHERE, 6]], "cursor": cursor(), "more": False},
    "an id is half a character": {"games": [["\ud800", NOWHERE, 6]], "cursor": cursor(), "more": False},
    "an identity is no digest": {"games": [["g", "x", 6]], "cursor": cursor(), "more": False},
    "moves is negative": {"games": [["g", NOWHERE, -6]], "cursor": cursor(), "more": False},
    "no cursor": {"games": [], "cursor": None, "more": False},
    "more than asked": {"games": [[f"g{n}", NOWHERE, 6] for n in range(1001)], "cursor": cursor(), "more": False},
    "the same page for ever": {"games": [["g", NOWHERE, 6]], "cursor": cursor(), "more": True},
}


def test_each_listing_that_makes_no_sense_is_told_with_node_and_file(scene: Scene) -> None:
    paths = {file_of(lie): lie for lie in LISTS}
    scene.liar.manifest = manifest(*map(entry, paths))
    scene.liar.pack = needs_a_listing
    scene.liar.list = lambda asked: LISTS[paths[asked["path"]]]

    failure = scene.failure()

    assert failure is not None
    assert (failure.error, LIAR in failure.message) == ("TransferError", True)
    assert [path for path in paths if path not in failure.message] == []


def test_ids_that_are_never_packed_end_the_listing(scene: Scene) -> None:
    """The node says of the same ids again and again that it did not come to them, or names others."""
    scene.liar.list = {"games": [["g", NOWHERE, 6], ["h", NOWHERE, 6]], "cursor": cursor(), "more": False}
    for left in (["g", "h"], ["i"]):
        scene.liar.pack = partial(never_done, left)
        assert "left names" in scene.refused().message


def never_done(left: list[str], asked: dict[str, Any]) -> dict[str, Any]:
    return {**needs_a_listing(asked), "left": left if asked.get("ids") else []}


def test_more_for_ever_without_games_ends_at_once(scene: Scene) -> None:
    scene.liar.pack = packed(more=True)

    assert scene.failure() is None
    assert scene.liar.asked.count("/v1/call/pack") == 1


def test_a_listing_for_ever_without_games_ends_at_once(scene: Scene) -> None:
    rows = count()
    scene.liar.pack = packed(mode="listing_needed", cursor=None)
    scene.liar.list = lambda _: {"games": [], "cursor": cursor(next(rows)), "more": True}

    assert scene.failure() is None
    assert scene.liar.asked.count("/v1/call/list") == 2  # once for what is new, once by the slow look at old games


def test_games_without_end_leave_the_pass_when_its_time_for_the_partition_is_over(scene: Scene) -> None:
    """Each page is new, so nothing tells this node from one with a great many games: only time does."""
    rows = count()
    scene.liar.pack = needs_a_listing
    scene.liar.list = lambda _: {
        "games": [[f"g{(row := next(rows))}", NOWHERE, 6]], "cursor": cursor(row), "more": True
    }  # fmt: skip
    partition = Partition(CONFIG, LIAR)

    with Runtime.open(scene.field.settings) as runtime:
        node = runtime.inventory.nodes[LIAR]
        transport = runtime.transport_to(node)
        (file,) = survey(runtime, transport, node, [DataType.GAMES]).of(DataType.GAMES, CONFIG)
        order = Order([CONFIG], [node], "test")
        work = Work(runtime, order, transport, node, partition, Outcome(partition), deadline=Deadline.after(0.5))
        collector = SourceCollector(work, file)
        started = time.monotonic()
        assert collect_source(collector) is None
        transport.close()

    assert time.monotonic() - started < 5
    assert [(note.path, note.code) for note in collector.notes] == [(PATH, "unfinished")]


@pytest.mark.parametrize("status", [200, 422, 500])
def test_an_answer_without_end_is_left_at_a_bound(scene: Scene, status: int) -> None:
    piece = b" " * (1 << 20)
    write = endless(b'{"token": "', piece) if status == 200 else _endless_refusal(status, piece)
    scene.liar.raw["/v1/manifest"] = write
    scene.play()
    started = time.monotonic()

    report = scene.collect()

    assert time.monotonic() - started < 30
    by_node = {outcome.partition.node: outcome for outcome in report.outcomes}
    assert by_node[A].games_new == 1
    failure = by_node[LIAR].failure
    assert failure is not None
    assert LIAR in failure.message
    if status == 200:
        assert "longer than 67108864 bytes" in failure.message


def _endless_refusal(status: int, piece: bytes) -> Any:  # noqa: ANN401 - a function that writes
    def write(handler: Handler) -> None:
        handler.send_response(status)
        handler.send_header("Connection", "close")
        handler.end_headers()
        while True:
            handler.wfile.write(piece)

    return write


def test_a_refusal_with_words_that_no_database_takes_is_told_all_the_same(scene: Scene) -> None:
    for message in ("\ud800", "a\0b", "x" * 60_000, {"a": ["b"]}, None):
        body = {"ok": False, "error": {"code": message, "message": message, "path": message}}
        for path in ("/v1/manifest", "/v1/call/pack"):
            scene.liar.raw = {path: partial(send, answer=body, status=422)}
            assert len(scene.refused().message) < 10_000


def test_a_pack_that_comes_again_and_again_ends_the_database(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is a good one; with a new cursor each time and more behind it, only the pack itself tells."""
    scene.play()
    honest = scene.field.collect(CONFIG, nodes=(A,))
    assert honest.outcomes[0].games_new == 1
    data = good_pack(tmp_path_factory.mktemp("made"))
    rows = count(4)
    scene.liar.offer(data)
    scene.liar.pack = lambda _: with_pack(data, cursor=cursor(next(rows)), more=True)

    (outcome,) = scene.field.collect(CONFIG, nodes=(LIAR,)).outcomes

    assert outcome.games_new == 1
    assert outcome.failure is not None
    assert "again and again" in outcome.failure.message
    assert scene.liar.asked.count("/v1/call/pack") == 2


def test_bytes_that_are_not_the_artifact_are_dropped(scene: Scene) -> None:
    scene.liar.offer(zlib.compress(b"a pack"), raw_bytes=6)
    (sha256,) = scene.liar.artifacts
    scene.liar.artifacts[sha256] = bytes(len(scene.liar.artifacts[sha256]))

    failure = scene.refused()

    assert (failure.error, PATH in failure.message, sha256[:12] in failure.message) == ("ChecksumError", True, True)
    assert scene.quarantined() == []


def test_the_liars_failure_stands_beside_what_the_others_brought(scene: Scene) -> None:
    scene.play()
    scene.liar.pack = PACKS["artifact is no digest"]

    report = scene.collect()

    by_node = {outcome.partition.node: outcome for outcome in report.outcomes}
    assert (by_node[A].games_new, by_node[A].failure) == (1, None)
    assert by_node[LIAR].failure is not None
    scene.require_confinement()
