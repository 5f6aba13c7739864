"""npz and models between real agents and an owner: up, published, down, refused, put back, promoted, killed."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.exports import make_export, model_bytes, samples, write_model, write_npz
from ringrift_sync_dagster.errors import InvalidFileError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.state.changes import pending
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.versions import Version, VersionState, versions_of
from ringrift_sync_dagster.storage.quarantine import Quarantine
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.report import CollectReport
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sync.conftest import Field
from tests.sync.test_collect import A, environment, litter
from tests.sync.test_rows import MOVE

CONFIG = "hex8_2p"
NPZ, MODELS = DataType.NPZ, DataType.MODELS


@contextlib.contextmanager
def opened(field_: Field) -> Iterator[Runtime]:
    with Runtime.open(field_.settings) as runtime:
        yield runtime


def passed(
    field_: Field, data_type: DataType, *, force: bool = False, to: tuple[str, ...] = (), nodes: tuple[str, ...] = ()
) -> CollectReport:
    with opened(field_) as runtime:
        request = Request([data_type], [CONFIG], nodes or field_.nodes, "test", to=to, force=force)
        return move(runtime, request)[data_type]


def versions(field_: Field, data_type: DataType, *states: VersionState) -> list[Version]:
    with StateStore.open(field_.settings.state_url) as state:
        return versions_of(state, data_type.value, CONFIG, *states)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def root(field_: Field, node: str = "") -> Path:
    return field_.cluster.node_root(node) if node else field_.base / "root"


def link(field_: Field, name: str, node: str = "") -> Path:
    return root(field_, node) / name


EXPORT = f"data/training/{CONFIG}.npz"
BEST = f"models/ringrift_best_{CONFIG}.pth"
CANONICAL = f"models/canonical_{CONFIG}.pth"
CANDIDATE = f"models/candidate_{CONFIG}.pth"


def test_the_best_export_of_all_nodes_is_published_whatever_comes_last(field_: Field) -> None:
    first, second = field_.nodes
    best = make_export(link(field_, EXPORT, first), CONFIG, 50, "best")
    make_export(link(field_, EXPORT, second), CONFIG, 20, "small")

    report = passed(field_, NPZ)

    assert not report.failures
    published = link(field_, EXPORT)
    assert published.is_symlink()
    assert str(published.readlink()) == f"{CONFIG}.{digest(best)[:12]}.npz"
    assert digest(published) == digest(best)
    assert published.stat().st_mode & 0o777 == 0o444  # training may read it, nobody writes it in place
    assert [version.detail["samples"] for version in versions(field_, NPZ)] in ([50, 20], [20, 50])
    assert litter(field_) == []
    with StateStore.open(field_.settings.state_url) as state:
        assert sum(change.counts.get("files_new", 0) for change in pending(state)) == 2


def test_a_file_that_is_known_is_neither_fetched_nor_hashed_again(field_: Field) -> None:
    make_export(link(field_, EXPORT, A), CONFIG, 5)
    passed(field_, NPZ)
    again = passed(field_, NPZ)

    assert all((outcome.bytes_moved, outcome.changed) == (0, False) for outcome in again.outcomes)


def test_a_worse_export_replaces_nothing_unless_forced_and_the_better_one_is_put_back(field_: Field) -> None:
    path = link(field_, EXPORT, A)
    make_export(path, CONFIG, 50, "good")
    good = digest(path)
    passed(field_, NPZ)
    path.unlink()
    make_export(path, CONFIG, 10, "fresh but small")
    small = digest(path)

    passed(field_, NPZ)
    assert digest(link(field_, EXPORT)) == good
    passed(field_, NPZ, force=True)
    assert digest(link(field_, EXPORT)) == small
    with opened(field_) as runtime:
        back = runtime.files.publisher.put_back(NPZ, CONFIG, good, trigger="test")
        with pytest.raises(InvalidFileError, match="no such version"):
            runtime.files.publisher.put_back(NPZ, CONFIG, "0" * 64, trigger="test")
    assert digest(link(field_, EXPORT)) == good
    assert back.serial > 2


def test_only_so_many_replaced_versions_stay(field_: Field) -> None:
    field_.settings = field_.settings.model_copy(update={"keep_versions": 2})
    path = link(field_, EXPORT, A)
    for count in (5, 6, 7, 8, 9):
        path.unlink(missing_ok=True)
        make_export(path, CONFIG, count, str(count))
        passed(field_, NPZ)

    kept = versions(field_, NPZ, VersionState.KEPT)
    assert sorted(version.detail["samples"] for version in kept) == [7, 8, 9]
    assert len(list((root(field_) / "data/training").glob("*.*.npz"))) == 3
    assert all((root(field_) / version.path).exists() for version in kept)


@pytest.mark.parametrize("what", ["truncated", "flipped", "unequal"])
def test_a_bad_export_is_set_aside_once_and_nothing_published_changes(field_: Field, what: str) -> None:
    good, bad = field_.nodes
    make_export(link(field_, EXPORT, good), CONFIG, 5)
    path = link(field_, EXPORT, bad)
    make_export(path, CONFIG, 500)
    if what == "unequal":
        arrays = samples(CONFIG, 500, "x")
        write_npz(path, {**arrays, "values": arrays["values"][:-1]})
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 255
        path.write_bytes(bytes(data[:-50] if what == "truncated" else data))

    report = passed(field_, NPZ)
    again = passed(field_, NPZ)

    assert digest(link(field_, EXPORT)) == digest(link(field_, EXPORT, good).resolve())
    (entry,) = Quarantine(root(field_) / "data/quarantine").entries()
    assert (entry.node, entry.reason) == (bad, "bad_npz")
    assert [note.code for note in report.notes] == ["refused"]
    assert all(outcome.bytes_moved == 0 for outcome in again.outcomes)  # its digest is remembered
    (refused,) = versions(field_, NPZ, VersionState.REFUSED)
    assert refused.reason
    with StateStore.open(field_.settings.state_url) as state:
        assert [change.checks["structure_valid"] for change in pending(state) if change.set_aside] == [False]


def test_a_file_that_an_exporter_wrote_at_the_owner_is_adopted_and_a_bad_one_is_not(field_: Field) -> None:
    own = make_export(link(field_, EXPORT), CONFIG, 30, "own")
    own_digest = digest(own)
    make_export(link(field_, EXPORT, A), CONFIG, 10)
    passed(field_, NPZ)
    assert (digest(own), own.is_symlink()) == (own_digest, True)

    own.unlink()
    own.write_bytes(b"half an export")
    report = passed(field_, NPZ)

    assert (digest(own), own.is_symlink()) == (own_digest, True)
    assert any("no whole npz" in note.message for note in report.notes)
    assert next(own.parent.glob("*.refused-*")).read_bytes() == b"half an export"


def test_models_of_equal_size_are_different_ones_and_the_last_candidate_has_the_name(field_: Field) -> None:
    for number, node in enumerate(field_.nodes):
        write_model(link(field_, CANDIDATE, node), f"m{number}")
        write_model(link(field_, f"models/checkpoint_{CONFIG}_epoch5.pth", node), f"c{number}")

    report = passed(field_, MODELS)

    assert not report.failures
    found = versions(field_, MODELS, VersionState.KEPT)
    assert {version.sha256 for version in found} == {
        hashlib.sha256(model_bytes(seed)).hexdigest() for seed in ("m0", "m1", "c0", "c1")
    }
    for version in found:
        sidecar = (root(field_) / f"{version.path}.sha256").read_text()
        assert sidecar.startswith(version.sha256)
    assert digest(link(field_, CANDIDATE)) in {hashlib.sha256(model_bytes(seed)).hexdigest() for seed in ("m0", "m1")}


def test_a_promoted_model_is_under_both_names_of_every_node_that_plays(field_: Field, tmp_path: Path) -> None:
    model = write_model(tmp_path / "new.pth", "new")
    with opened(field_) as runtime:
        first = runtime.files.publisher.promote(CONFIG, model, trigger="test")
        same = runtime.files.publisher.promote(CONFIG, model, trigger="test")
    report = passed(field_, MODELS, to=field_.nodes)

    assert not report.failures
    assert first == same
    for node in ("", *field_.nodes):
        assert digest(link(field_, BEST, node)) == digest(model)
        assert str(link(field_, BEST, node).readlink()) == f"canonical_{CONFIG}.pth"
        assert str(link(field_, CANONICAL, node).readlink()) == f"versions/canonical_{CONFIG}.{digest(model)[:12]}.pth"
    with StateStore.open(field_.settings.state_url) as state:
        assert [(c.node, c.counts) for c in pending(state) if c.direction == "down"] == [
            (node, {"brought": 1}) for node in sorted(field_.nodes, key=[c.node for c in pending(state)].index)
        ]
    again = passed(field_, MODELS, to=field_.nodes)
    assert all((outcome.bytes_moved, outcome.changed) == (0, False) for outcome in again.outcomes)


def test_a_second_promotion_wins_everywhere_and_the_first_one_stays_as_a_version(field_: Field, tmp_path: Path) -> None:
    for seed in ("first", "second"):
        with opened(field_) as runtime:
            runtime.files.publisher.promote(CONFIG, write_model(tmp_path / f"{seed}.pth", seed), trigger="test")
        if seed == "first":
            passed(field_, MODELS, to=field_.nodes)
    passed(field_, MODELS, to=field_.nodes)

    for node in ("", *field_.nodes):
        assert link(field_, BEST, node).read_bytes() == model_bytes("second")
        assert len(list((root(field_, node) / "models/versions").glob("canonical_*.pth"))) == 2


def test_an_order_that_comes_late_changes_nothing(field_: Field, tmp_path: Path) -> None:
    with opened(field_) as runtime:
        runtime.files.publisher.promote(CONFIG, write_model(tmp_path / "1.pth", "1"), trigger="test")
        runtime.files.publisher.promote(CONFIG, write_model(tmp_path / "2.pth", "2"), trigger="test")
    passed(field_, MODELS, to=(A,), nodes=(A,))
    late = {
        "node": "coordinator", "artifact": hashlib.sha256(model_bytes("1")).hexdigest(), "bytes": len(model_bytes("1")),
        "data_type": "models", "config": CONFIG, "serial": 1,
    }  # fmt: skip
    with opened(field_) as runtime:
        transport = runtime.transport_to(runtime.inventory.nodes[A])
        answer = transport.call("publish", late, deadline=Deadline.after(20))
        transport.close()

    assert answer["published"] is False
    assert answer["serial"] >= 2
    assert link(field_, BEST, A).read_bytes() == model_bytes("2")


def test_upstream_s_own_promotion_at_the_owner_is_taken_over(field_: Field) -> None:
    write_model(link(field_, CANONICAL), "upstream")
    passed(field_, MODELS, to=field_.nodes)

    assert link(field_, CANONICAL).is_symlink()
    for node in field_.nodes:
        assert link(field_, BEST, node).read_bytes() == model_bytes("upstream")
    link(field_, CANONICAL).unlink()
    write_model(link(field_, CANONICAL), "upstream again")
    passed(field_, MODELS, to=field_.nodes)
    for node in field_.nodes:
        assert link(field_, BEST, node).read_bytes() == model_bytes("upstream again")


def test_a_model_that_is_not_what_its_sidecar_says_is_not_promoted(field_: Field, tmp_path: Path) -> None:
    model = write_model(tmp_path / "new.pth", "new")
    (tmp_path / "new.pth.sha256").write_text(f"{'0' * 64}  new.pth\n")
    with opened(field_) as runtime, pytest.raises(InvalidFileError, match="says 000000000000"):
        runtime.files.publisher.promote(CONFIG, model, trigger="test")
    assert not link(field_, CANONICAL).exists()


def test_names_on_a_node_that_lead_out_of_it_are_left_alone_and_dangling_ones_are_mended(
    field_: Field, tmp_path: Path
) -> None:
    outside = write_model(tmp_path / "elsewhere.pth", "theirs")
    first, second = field_.nodes
    for node, target in ((first, str(outside)), (second, "gone.pth")):
        link(field_, CANONICAL, node).parent.mkdir(parents=True, exist_ok=True)
        link(field_, CANONICAL, node).symlink_to(target)
    with opened(field_) as runtime:
        runtime.files.publisher.promote(CONFIG, write_model(tmp_path / "new.pth", "new"), trigger="test")
    report = passed(field_, MODELS, to=field_.nodes)

    (failure,) = report.failures
    assert (failure.partition.node, "leads out" in failure.message) == (first, True)
    assert outside.read_bytes() == model_bytes("theirs")
    assert link(field_, BEST, second).read_bytes() == model_bytes("new")


def test_a_node_s_own_export_that_was_not_collected_keeps_its_name(field_: Field) -> None:
    first, second = field_.nodes
    make_export(link(field_, EXPORT, first), CONFIG, 50, "best")
    passed(field_, NPZ, nodes=(first,))
    own = make_export(link(field_, EXPORT, second), CONFIG, 10, "own")
    own_digest = digest(own)
    with opened(field_) as runtime:
        request = Request([NPZ], [CONFIG], [second], "test", up=False, to=(second,))
        report = move(runtime, request)[NPZ]
    assert ([note.code for note in report.notes], digest(own)) == (["uncollected"], own_digest)

    passed(field_, NPZ, nodes=(second,), to=(second,))  # collected first, then replaced, and kept as a version
    assert digest(own) == digest(link(field_, EXPORT))
    kept = root(field_, second) / f"data/training/{CONFIG}.{own_digest[:12]}.npz"
    assert digest(kept) == own_digest


def test_a_reader_of_the_name_always_finds_a_whole_model(field_: Field, tmp_path: Path) -> None:
    known = {hashlib.sha256(model_bytes(str(number))).hexdigest() for number in range(6)}
    seen, problems, over = set[str](), list[str](), threading.Event()

    def read() -> None:
        while not over.is_set():
            for node in ("", A):
                try:
                    seen.add(digest(link(field_, BEST, node)))
                except FileNotFoundError as error:
                    problems.append(str(error))

    def promote(number: int) -> None:
        with opened(field_) as runtime:
            model = write_model(tmp_path / f"{number}.pth", str(number))
            runtime.files.publisher.promote(CONFIG, model, trigger="test")
        passed(field_, MODELS, nodes=(A,), to=(A,))

    promote(0)
    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 6):
        promote(number)
    over.set()
    reader.join()

    assert problems == []
    assert len(seen) > 1
    assert seen <= known


def test_nodes_follow_an_owner_whose_state_database_was_lost(field_: Field, tmp_path: Path) -> None:
    """Its serials begin anew; those that nodes have seen are larger."""
    for seed in ("1", "2", "3"):
        with opened(field_) as runtime:
            runtime.files.publisher.promote(CONFIG, write_model(tmp_path / f"{seed}.pth", seed), trigger="test")
        passed(field_, MODELS, to=field_.nodes)
    for path in tmp_path.glob("state.db*"):
        path.unlink()
    with opened(field_) as runtime:
        runtime.files.publisher.promote(CONFIG, write_model(tmp_path / "4.pth", "4"), trigger="test")
    report = passed(field_, MODELS, to=field_.nodes)

    assert not report.failures
    for node in field_.nodes:
        assert link(field_, BEST, node).read_bytes() == model_bytes("4")


POINTS = [
    pytest.param("install.renamed", marks=pytest.mark.cluster),
    pytest.param("collect.fetched", marks=pytest.mark.cluster),
    pytest.param("files.named", marks=pytest.mark.cluster),
    pytest.param("files.kept", marks=pytest.mark.cluster),
    "files.recorded",
    pytest.param("publish.recorded", marks=pytest.mark.cluster),
    pytest.param("links.made", marks=pytest.mark.cluster),
    pytest.param("links.switched", marks=pytest.mark.cluster),
    pytest.param("publish.switched", marks=pytest.mark.cluster),
    pytest.param("files.removed", marks=pytest.mark.cluster),
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_of_publishing_the_next_pass_ends_exact(field_: Field, point: str) -> None:
    make_export(link(field_, EXPORT, A), CONFIG, 10, "old")
    passed(field_, NPZ, nodes=(A,))
    before = digest(link(field_, EXPORT))
    link(field_, EXPORT, A).unlink()
    make_export(link(field_, EXPORT, A), CONFIG, 20, "new")
    new = digest(link(field_, EXPORT, A))

    command = [sys.executable, "-c", MOVE, "npz", CONFIG, A, point]
    killed = subprocess.run(command, env=environment(field_), check=False)
    between = digest(link(field_, EXPORT))
    passed(field_, NPZ, nodes=(A,))

    assert killed.returncode == -signal.SIGKILL
    assert between in {before, new}
    assert digest(link(field_, EXPORT)) == new
    assert litter(field_) == []
    assert not list((root(field_) / "data/training").glob(".*"))
    with StateStore.open(field_.settings.state_url) as state:
        changes = pending(state)
        assert sum(change.counts.get("files_new", 0) for change in changes) == 2
        assert len({change.change_id for change in changes}) == len(changes)
