"""Whatever bytes, text or JSON another machine sends, a reader reads it or refuses it: no crash, no escape, no hang.

Each check runs a bounded number of derandomized examples here, and a great many random ones under ``make soak``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
import sqlite3
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringrift_sync_dagster.agent.ranges import Slice, UnsatisfiableError, pushed_slice, tag_listed, wanted_slice
from ringrift_sync_dagster.errors import TransferError
from ringrift_sync_dagster.node import cursor, packfile, patterns
from ringrift_sync_dagster.node.__main__ import main
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.merge import Origin, merge_pack
from ringrift_sync_dagster.node.ops import op_names
from ringrift_sync_dagster.node.schema import TABLES
from ringrift_sync_dagster.sync import answers
from ringrift_sync_dagster.sync.fields import Sender
from tests.badinput.liar import cursor as good_cursor
from tests.badinput.liar import entry, manifest, packed
from tests.badinput.packs import good_pack
from tests.node.merging import CONFIG, game, record

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
Check = Callable[[Any], None]

TEXT = st.text(st.characters(exclude_categories=()), max_size=12)  # halves of characters as well
NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([0, -1, 1 << 63, -(1 << 63) - 1, (1 << 63) - 1, 10**400])
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=12,
)


def replaced(good: Any) -> st.SearchStrategy[Any]:  # noqa: ANN401 - JSON of any shape
    """JSON like ``good``, with anything in the place of some of its parts."""
    if isinstance(good, dict):
        parts = st.fixed_dictionaries({}, optional={key: replaced(value) for key, value in good.items()})
        return st.one_of(parts.map(lambda some: {**good, **some}), parts, JSON)
    if isinstance(good, list):
        return st.one_of(st.tuples(*map(replaced, good)).map(list), JSON)
    return st.one_of(st.just(good), JSON)


@dataclass(frozen=True)
class Place:
    """A node's root with one database, a folder for work, and a good pack; one for the whole run."""

    base: Path
    pack: bytes

    @property
    def root(self) -> Path:
        return self.base / "root"


@functools.lru_cache(maxsize=1)
def place() -> Place:
    base = Path(tempfile.mkdtemp(prefix="fuzz-"))
    (base / "root" / "data" / "games").mkdir(parents=True)
    record(base / "root" / "data" / "games" / "x.db", game("a"), game("b"))
    return Place(base, good_pack(base / "made", "a", "b"))


def check_cursor(value: Any) -> None:  # noqa: ANN401
    with contextlib.suppress(KitError):
        found = cursor.parse(value)
        if found is not None:
            assert cursor.parse(json.loads(json.dumps(found.as_json()))) == found
    with contextlib.suppress(ValueError, TypeError):
        json.dumps(answers.read_cursor(value))
    answers.reached_end_at(answers.usable_cursor(value if isinstance(value, dict) else None))


WAITING = {"g": [True, 3, 1.5, False]}


def check_name(text: str) -> None:
    assert patterns.config_of_name(text) in (None, *patterns.CONFIGS)
    for external in (False, True):
        found = patterns.classify(text, external=external)
        if found is not None:
            assert found.data_type in patterns.DATA_TYPES
            assert ".." not in text.split("/")
            assert not text.startswith("/")


def check_config(pair: tuple[Any, Any]) -> None:
    assert patterns.config_key(*pair) in (None, *patterns.CONFIGS)


def check_range(given_: tuple[str, str, int, int]) -> None:
    header, if_range, size, length = given_
    with contextlib.suppress(UnsatisfiableError):
        found = wanted_slice(header, if_range or None, '"t"', size)
        assert found is None or (found.start >= 0 and found.count > 0 and found.end <= size)
    with contextlib.suppress(ValueError):
        part, total = pushed_slice(header, length)
        assert isinstance(part, Slice)
        assert 0 <= part.start <= part.end <= total
    tag_listed(header, '"t"', weak=True)


def range_headers() -> st.SearchStrategy[str]:
    number = st.one_of(st.just(""), st.integers(-2, 2000).map(str), st.text("0123456789\u0661", max_size=40))
    ranges = st.tuples(st.sampled_from(["bytes=", "bytes ", "Bytes=", ""]), number, st.sampled_from("-/*,"), number)
    pushes = st.tuples(st.just("bytes "), number, st.just("-"), number, st.just("/"), number)
    return st.one_of(ranges.map("".join), pushes.map("".join), TEXT)


SENDER = Sender("n", "t", "w")


def check_answers(value: Any) -> None:  # noqa: ANN401
    for read in (
        lambda: answers.read_pack(value, SENDER, kind="games", ids=None),
        lambda: answers.read_pack(value, SENDER, kind="aside", ids=["a", "b"]),
        lambda: answers.read_list(value, SENDER, limit=2),
        lambda: answers.read_manifest(value, SENDER),
    ):
        try:
            read()
        except TransferError as error:
            str(error).encode("utf-8", "strict")


ANSWERS = st.one_of(
    replaced(packed(artifact="0" * 64, bytes=9, raw_bytes=9, games=1, cursor=good_cursor(waiting=WAITING))),
    replaced({"games": [["a", "0" * 64, 6]], "cursor": good_cursor(), "more": True}),
    replaced(manifest(entry(error={"code": "c", "message": "m"}))),
)


def check_pack(data: bytes) -> None:
    """Read a pack as the intake does, and merge it where it passes."""
    base = place().base
    with tempfile.TemporaryDirectory(dir=base) as name:
        folder = Path(name)
        (folder / "pack").write_bytes(data)
        with contextlib.suppress(KitError):
            packfile.inflate(str(folder / "pack"), str(folder / "pack.db"), 4 << 20)
            with packfile.open_pack(str(folder / "pack.db")) as conn:
                packfile.declared(packfile.read_meta(conn))
            origin = Origin("0" * 64, "n", "c")
            merge_pack(str(folder / "canonical.db"), str(folder / "pack.db"), origin, CONFIG, lambda _: None)
        assert {path.name.partition(".")[0] for path in folder.iterdir()} <= {"pack", "canonical"}


def flipped() -> st.SearchStrategy[bytes]:
    """A good pack with bytes changed, in the stream or in the database inside, or cut, or continued."""
    places = st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4)
    inside = places.map(lambda where: zlib.compress(_flip(zlib.decompress(place().pack), where), 1))
    cut = st.integers(0, 1 << 16).map(lambda end: place().pack[: end % len(place().pack)])
    return st.one_of(inside, inside, places.map(lambda where: _flip(place().pack, where)), cut, st.binary())


def _flip(data: bytes, where: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for offset, mask in where:
        changed[offset % len(changed)] ^= mask
    return bytes(changed)


CELLS = [(table.name, name) for table in TABLES for name in table.names()]
CELLS += [("pack_games", name) for name in ("game_id", "identity", "annotation", "moves")]
CELLS += [("pack_meta", name) for name in ("key", "value")]
VALUES = st.one_of(
    st.none(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(), st.binary(max_size=8), st.text(max_size=8),
    st.sampled_from(["completed", "0" * 64, "b", "2", b"\xff", json.dumps(good_cursor())]),
)  # fmt: skip


def check_cells(changes: list[tuple[tuple[str, str], Any, bool]]) -> None:
    """Change values in a good pack, with or without an honest digest behind them, and merge it."""
    with tempfile.TemporaryDirectory(dir=place().base) as folder:
        path = Path(folder) / "pack.db"
        path.write_bytes(zlib.decompress(place().pack))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
            for (table, column), value, as_text in changes:
                with contextlib.suppress(sqlite3.IntegrityError):
                    marks = "CAST(? AS TEXT)" if as_text else "?"
                    conn.execute(f"UPDATE {table} SET {column} = {marks}", (value,))
        data = zlib.compress(path.read_bytes(), 1)
    check_pack(data)


def check_kit(request: tuple[str, Any]) -> None:
    """Run the kit as a program; it answers in JSON, and whatever it says it did inside its root."""
    op, value = request
    arguments = [op, "--root", str(place().root)]
    answer = run_main(arguments, json.dumps(value).encode())
    assert set(answer) == {"ok", "result" if answer["ok"] else "error"}
    if not answer["ok"]:
        assert answer["error"]["code"] != "internal", answer
    assert {path.name for path in place().base.iterdir()} <= {"root", "made"}


def run_main(arguments: list[str], stdin: bytes) -> dict[str, Any]:
    output, before = io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with contextlib.redirect_stdout(output):
            main(arguments)
    finally:
        sys.stdin = before
    answer: dict[str, Any] = json.loads(output.getvalue())
    return answer


ASKED = {
    "path": "data/games/x.db", "config": CONFIG, "cursor": good_cursor(waiting=WAITING), "after": good_cursor(),
    "limit": 2, "max_games": 2, "max_bytes": 1 << 20, "ids": ["a", "zz"], "aside": True, "short_after_seconds": 0,
    "include": ["history"],
}  # fmt: skip
PATHS = st.sampled_from(["../x.db", "/etc/passwd", "data/games/../../../x.db", "data/games/x\0.db", "@1/x.db", "@0/x"])


@st.composite
def kit_requests(draw: st.DrawFn) -> tuple[str, Any]:
    op = draw(st.sampled_from(op_names()))
    names = {"scan": [], "hash": ["path"], "list": ["path", "config", "after", "limit"]}
    known = {name: ASKED[name] for name in names.get(op, [name for name in ASKED if name not in ("after", "limit")])}
    arguments = draw(replaced(known))
    if isinstance(arguments, dict) and draw(st.booleans()):
        arguments["path"] = draw(PATHS)
    return op, arguments


CHECKS: dict[str, tuple[st.SearchStrategy[Any], Check, int]] = {
    "cursors": (replaced(good_cursor(waiting=WAITING)), check_cursor, 70),
    "names of files": (st.one_of(TEXT, st.lists(st.sampled_from(
        ["data", "games", "models", "..", "", ".", "hex8_2p", "x.db", "sq8", "_3p", "@1", "\0", ".npz", "training"]
    ), max_size=6).map("/".join)), check_name, 150),
    "boards and players": (st.tuples(st.one_of(LEAVES, st.sampled_from(["hex8", " SQ-8 "])), LEAVES), check_config, 99),
    "ranges": (st.tuples(range_headers(), TEXT, st.integers(0, 2000), st.integers(0, 2000)), check_range, 150),
    "answers": (ANSWERS, check_answers, 100),
    "bytes of packs": (flipped(), check_pack, 60),
    "rows of packs": (
        st.lists(st.tuples(st.sampled_from(CELLS), VALUES, st.booleans()), min_size=1, max_size=3), check_cells, 30
    ),
    "arguments of the kit": (kit_requests(), check_kit, 60),
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def removed() -> Iterator[None]:
    yield
    shutil.rmtree(place().base)


@pytest.mark.parametrize("what", CHECKS)
def test_hostile_input_is_read_or_refused(what: str) -> None:
    strategy, check, examples = CHECKS[what]
    quick = settings(derandomize=True, deadline=None, max_examples=examples, database=None, suppress_health_check=QUIET)
    quick(given(strategy)(check))()


@pytest.mark.soak
@pytest.mark.parametrize("what", CHECKS)
def test_a_great_deal_of_hostile_input_is_read_or_refused(what: str) -> None:
    strategy, check, examples = CHECKS[what]
    long = settings(deadline=None, max_examples=200 * examples, database=None, suppress_health_check=QUIET)
    long(given(strategy)(check))()
