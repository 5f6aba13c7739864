"""gc: what goes and what stays on a real disk; nothing that is used, needed, or the only copy of a game."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.core.retention import DAY, HOUR
from ringrift_sync_dagster.demo.exports import make_export, write_model
from ringrift_sync_dagster.errors import LeaseHeldError
from ringrift_sync_dagster.intake.games import collecting
from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.events import events_since
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.receipts import ArtifactRow, Receipt, add_receipt, receipts_of
from ringrift_sync_dagster.state.transfers import finish, start_transfer
from ringrift_sync_dagster.state.versions import VersionState, all_published, versions_of
from ringrift_sync_dagster.storage.quarantine import Quarantine
from ringrift_sync_dagster.sync.retention import Kept, keep
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sync.conftest import Field
from tests.sync.test_collect import A, B
from tests.sync.test_games_ways import CONFIG, passed, some

OWNER = "hub-1"
NODE = "hetzner-v1"


@pytest.fixture
def runtime(field_: Field) -> Iterator[Runtime]:
    with Runtime.open(field_.settings) as found:
        yield found


def run(runtime: Runtime, *, dry_run: bool = False, **quota_gb: float) -> Kept:
    """One run that asks no node."""
    quotas = {**runtime.settings.quota_gb, **quota_gb}
    settings = runtime.settings.model_copy(update={"quota_gb": quotas})
    return keep(replace(runtime, settings=settings), dry_run=dry_run, nodes=[])


def gone(done: Kept) -> list[str]:
    return sorted(Path(one.item.name).name for one in done.deleted)


def arrive(runtime: Runtime, name: str, *, age: float, node: str = NODE, part: bool = False, size: int = 10) -> Path:
    """Put a file into ``incoming/`` that was written some time ago."""
    data = name.encode().ljust(size, b".")
    path = runtime.layout.incoming_artifact(node, hashlib.sha256(data).hexdigest())
    path = path.with_name(f"{path.name}.part") if part else path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (clock.wall() - age, clock.wall() - age))
    return path


def merged(runtime: Runtime, path: Path) -> Path:
    """Let the owner have merged what lies there."""
    store = runtime.intake.store
    store.add_change(CONFIG, path.parent.name, f"change-{path.name}", {"artifact": path.name}, None)
    store.mark_sent(CONFIG, 1 << 40)
    row = ArtifactRow(path.name, "games", 10, 10, CONFIG, path.parent.name, clock.wall())
    where = runtime.layout.relative(store.path(CONFIG))
    add_receipt(runtime.state, Receipt(path.name, OWNER, where, 10, clock.wall()), row)
    return path


def received(runtime: Runtime, path: Path) -> Path:
    """Say that the owner's agent has received what lies there; nobody has merged it yet."""
    add_receipt(runtime.state, Receipt(path.name, OWNER, f"{path.parent.name}/{path.name}", 10, clock.wall()))
    return path


def set_aside(runtime: Runtime, name: str, *, days: float, reason: str = "short", size: int = 4) -> None:
    Quarantine(runtime.layout.quarantine).add(
        NODE, name, b"x" * size, reason=reason, detail="", artifact="", at=clock.wall() - days * DAY
    )


def entries(runtime: Runtime) -> set[str]:
    return {one.name for one in Quarantine(runtime.layout.quarantine).entries()}


def test_incoming_keeps_what_is_not_merged_and_what_somebody_is_still_writing(runtime: Runtime) -> None:
    stays = [
        arrive(runtime, "no receipt", age=40 * DAY),
        received(runtime, arrive(runtime, "not merged", age=40 * DAY)),
        merged(runtime, arrive(runtime, "just merged", age=60)),
        arrive(runtime, "young part", age=HOUR, part=True),
    ]
    moving = arrive(runtime, "moving", age=2 * DAY, part=True)
    transfer = start_transfer(
        runtime.state, artifact=moving.stem, node=NODE, direction="fetch", transport="x", size_bytes=99
    )
    going = [
        merged(runtime, arrive(runtime, "merged", age=2 * HOUR)),
        arrive(runtime, "old part", age=2 * DAY, part=True),
    ]

    planned, done = run(runtime, dry_run=True), run(runtime)

    assert gone(planned) == gone(done) == sorted(path.name for path in going)
    assert [path.exists() for path in (*stays, moving, *going)] == [True] * 5 + [False] * 2
    finish(runtime.state, transfer)
    assert gone(run(runtime)) == [moving.name]
    assert gone(run(runtime)) == []


def test_a_file_under_a_live_lease_stays_for_the_next_time(runtime: Runtime) -> None:
    path = merged(runtime, arrive(runtime, "merged", age=2 * HOUR))

    with hold(runtime.state, collecting(Partition(CONFIG, NODE))):
        done = run(runtime)

    assert [name for name, _ in done.skipped] == [runtime.layout.relative(path)]
    assert done.deleted == ()
    assert path.exists()
    assert gone(run(runtime)) == [path.name]


@pytest.mark.cluster
def test_one_process_deletes_at_a_time_and_a_dry_run_is_always_possible(runtime: Runtime) -> None:
    with hold(runtime.state, "retention"):
        run(runtime, dry_run=True)
        with pytest.raises(LeaseHeldError, match="retention"):
            run(runtime)


def test_quarantine_keeps_the_only_copy_of_a_game_for_ever(field_: Field, runtime: Runtime) -> None:
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("known", 1))
    passed(field_, A)
    with sqlite3.connect(field_.canonical(CONFIG)) as connection:
        ((identity,),) = connection.execute("SELECT identity FROM ringrift_provenance")
    connection.close()
    set_aside(runtime, f"known0~{identity}", days=31)
    set_aside(runtime, f"known0~{'0' * 64}", days=400)
    set_aside(runtime, f"lost~{identity}", days=400)
    set_aside(runtime, "pack-" + "1" * 64, days=400, reason="refused_pack")
    set_aside(runtime, "file-" + "2" * 64, days=31, reason="bad_npz")
    set_aside(runtime, "file-" + "3" * 64, days=29, reason="bad_npz")
    set_aside(runtime, "row-match-x-1", days=31, reason="no_result")

    done = run(runtime)

    assert len(done.deleted) == 3
    assert entries(runtime) == {
        f"known0~{'0' * 64}",
        f"lost~{identity}",
        "pack-" + "1" * 64,
        "file-" + "3" * 64,
    }


@pytest.mark.parametrize("point", ["quarantine.gone"])
def test_a_removal_that_was_cut_short_is_finished_and_no_damaged_entry_is_left(
    runtime: Runtime, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_aside(runtime, "file-" + "2" * 64, days=31, reason="bad_npz")

    def die(reached: str) -> None:
        if reached == point:
            raise KeyboardInterrupt

    monkeypatch.setattr(faults, "hook", die)
    with pytest.raises(KeyboardInterrupt):
        run(runtime)
    monkeypatch.setattr(faults, "hook", None)

    run(runtime)

    assert entries(runtime) == set()
    assert [path for path in runtime.layout.quarantine.rglob("*") if path.is_file()] == []


def publish_exports(field_: Field, runtime: Runtime, count: int) -> list[str]:
    """Let the owner publish exports, each better than the one before; give their digests."""
    found = []
    for number in range(count):
        make_export(runtime.layout.training / f"{CONFIG}.npz", CONFIG, 10 + number, str(number))
        runtime.files.publisher.adopt(DataType.NPZ, "test")
        ((line, _),) = all_published(runtime.state, DataType.NPZ.value, CONFIG)
        found.append(line.sha256)
        (runtime.layout.training / f"{CONFIG}.npz").unlink()
    runtime.files.publisher.settle(DataType.NPZ)
    return found


@pytest.mark.cluster
def test_replaced_versions_go_beyond_keep_versions_but_not_while_somebody_reads_them(
    field_: Field, runtime: Runtime
) -> None:
    digests = publish_exports(field_, runtime, 5)
    publisher = replace(runtime.files.publisher, keep_versions=2)
    kept = versions_of(runtime.state, "npz", CONFIG, VersionState.KEPT)
    assert len(kept) == 4  # the published one and three replaced ones; the first went when the last was published
    fewer = replace(runtime, files=replace(runtime.files, keep_versions=2))
    assert fewer.files.publisher == publisher
    oldest = next(one for one in kept if one.sha256 == digests[1])

    with (runtime.layout.root / oldest.path).open("rb") as stream:
        reader = subprocess.Popen(["sleep", "60"], stdin=stream)
    try:
        first = run(fewer)
    finally:
        reader.kill()
        reader.wait()
    second = run(fewer)

    assert [one.item.name for one in second.deleted] == [oldest.path]
    assert [name for name, _ in first.skipped] == [oldest.path]
    states = {one.sha256: one.state for one in versions_of(runtime.state, "npz", CONFIG)}
    assert [states[digest] for digest in digests] == [VersionState.DROPPED] * 2 + [VersionState.KEPT] * 3
    assert (runtime.layout.training / f"{CONFIG}.npz").resolve().exists()


def test_the_quota_of_versions_takes_only_what_a_lasting_node_has_and_no_name_leads_to(
    field_: Field, runtime: Runtime
) -> None:
    models = [write_model(field_.base / f"m{number}.pth", f"m{number}") for number in range(4)]
    digests = [runtime.files.publisher.promote(CONFIG, path, trigger="test").sha256 for path in models]
    size = models[0].stat().st_size
    for digest, node in ((digests[1], B), (digests[3], B), (digests[2], A)):  # A may vanish, and counts for nothing
        add_receipt(runtime.state, Receipt(digest, node, "models/x", size, clock.wall()))

    done = run(runtime, versions=1e-6)  # 1 kB

    kept = {one.sha256 for one in versions_of(runtime.state, "models", CONFIG, VersionState.KEPT)}
    assert kept == {digests[0], digests[2], digests[3]}
    (short,) = done.plan.shortages
    assert short.held == "2 x no node that lasts has a verified copy; 1 x it is published"
    (event,) = events_since(runtime.state, types=["DISK_SPACE_LOW"])
    assert (event.payload["node"], event.payload["details"]["kind"]) == (OWNER, "versions")
    assert [one.node for one in receipts_of(runtime.state, digests[1])] == [B]


def test_the_quota_of_incoming_takes_partial_files_but_nothing_that_is_not_merged(runtime: Runtime) -> None:
    parts = [arrive(runtime, f"part {n}", age=HOUR * (9 - n), part=True, size=1000) for n in range(4)]
    whole = arrive(runtime, "whole", age=20 * HOUR, size=1000)

    done = run(runtime, incoming=3500e-9)

    assert gone(done) == sorted(path.name for path in parts[:2])  # down to 90 % of the quota
    assert whole.exists()
    assert done.plan.shortages == ()


@pytest.mark.cluster
def test_a_dry_run_tells_why_and_deletes_nothing(field_: Field, runtime: Runtime) -> None:
    path = merged(runtime, arrive(runtime, "merged", age=2 * HOUR))
    command = [sys.executable, "-m", "ringrift_sync_dagster.cli", "gc", "--dry-run", "--root", str(runtime.layout.root)]
    command += ["--hosts", str(field_.settings.hosts), "--state-url", field_.settings.state_url]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert "it is merged, and has its receipt" in done.stdout
    assert path.exists()
