"""A node does the same over a login whether it has Python or not: the same answers, refusals and files."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    ChecksumError,
    RemoteCallError,
    RungUnusableError,
    SourceChangedError,
    TransientError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports import ssh_facts
from ringrift_sync_dagster.transports.ssh import SshEndpoint
from ringrift_sync_dagster.transports.ssh_link import SshLink
from ringrift_sync_dagster.transports.ssh_node import SshNode
from tests.sshd import PROGRAMS, Sshd
from tests.transports.ssh_nodes import WITHOUT_PYTHON, SshHost

DATA = b"positions" * 1000
ARTIFACT = Artifact(hashlib.sha256(DATA).hexdigest(), len(DATA), "models")
MODEL = "models/a b'c.pth"


@dataclass
class Place:
    """A node and a login on it."""

    host: SshHost
    node: SshNode


@pytest.fixture(scope="module", params=["python", "shell"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, free_addresses: Iterator[str]
) -> Iterator[Place]:
    programs = None if request.param == "python" else WITHOUT_PYTHON
    with SshHost(tmp_path_factory.mktemp(request.param) / "host", next(free_addresses), programs=programs) as host:
        (host.folder / "more").mkdir()
        described = host.node(storage_paths=(str(host.folder / "more"),))
        with SshLink(SshEndpoint(described, host.settings, "rsync")) as link:
            yield Place(host, SshNode(link))


@pytest.fixture
def deadline() -> Deadline:
    return Deadline(20)


def hashed(place: Place, path: str) -> Artifact:
    found = place.node.call("hash", {"path": path}, deadline=Deadline(20))
    state = place.host.root.joinpath(path).stat()
    assert (found["bytes"], found["mtime_ns"], found["inode"]) == (state.st_size, state.st_mtime_ns, state.st_ino)
    note = json.loads((place.host.scratch / f"artifacts/{found['artifact']}.json").read_text())
    assert note == {"kind": "file", "path": path, **found}
    return Artifact(found["artifact"], found["bytes"], "models")


def refused(place: Place, path: object) -> str:
    with pytest.raises(RemoteCallError) as error:
        place.node.call("hash", {"path": path}, deadline=Deadline(20))
    return error.value.code


def test_a_file_is_hashed_registered_located_and_forgotten(place: Place, deadline: Deadline) -> None:
    path = place.host.write(MODEL, DATA)
    artifact = hashed(place, MODEL)

    assert artifact.sha256 == ARTIFACT.sha256
    found = place.node.locate(artifact, deadline=deadline)
    assert (found.path, found.size_bytes) == (str(path.resolve()), len(DATA))
    place.node.forget(artifact, deadline=deadline)
    place.node.forget(artifact, deadline=deadline)
    with pytest.raises(ArtifactGoneError):
        place.node.locate(artifact, deadline=deadline)
    assert path.read_bytes() == DATA


def test_a_file_of_extra_storage_has_a_name_of_its_own(place: Place, deadline: Deadline) -> None:
    (place.host.folder / "more/x.pth").write_bytes(DATA + b"x")
    found = place.node.call("hash", {"path": "@1/x.pth"}, deadline=deadline)
    located = place.node.locate(Artifact(found["artifact"], found["bytes"], "models"), deadline=deadline)
    assert located.path == str((place.host.folder / "more/x.pth").resolve())


@pytest.mark.parametrize("change", ["touched", "gone", "replaced"])
def test_a_registered_file_that_is_another_one_now_is_not_located(
    place: Place, deadline: Deadline, change: str
) -> None:
    path = place.host.write(f"models/{change}.pth", DATA + change.encode())
    artifact = hashed(place, f"models/{change}.pth")
    if change == "touched":
        os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    elif change == "gone":
        path.unlink()
    else:
        state = path.stat()
        path.with_suffix(".new").write_bytes(path.read_bytes())
        path.with_suffix(".new").replace(path)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    with pytest.raises(ArtifactGoneError if change == "gone" else SourceChangedError):
        place.node.locate(artifact, deadline=deadline)


def test_what_is_no_file_of_ours_is_refused(place: Place) -> None:
    root = place.host.root
    place.host.write("data/games/hex8_2p.db", b"SQLite format 3\0" + bytes(100))
    place.host.write("models/disguised.pth", b"SQLite format 3\0" + bytes(100))
    place.host.write("secrets.txt", b"secret")
    (root / "models/folder.pth").mkdir(parents=True, exist_ok=True)
    os.mkfifo(root / "models/pipe.pth")
    (root / "models/away").symlink_to(place.host.folder)
    (place.host.folder / "x.pth").write_bytes(b"outside")

    codes = {
        path: refused(place, path)
        for path in (
            "data/games/hex8_2p.db", "models/disguised.pth", "secrets.txt", "models/folder.pth", "models/pipe.pth",
            "models/none.pth", "../x.pth", "/etc/passwd", "models/away/x.pth", 7,
        )
    }  # fmt: skip

    assert codes == {
        "data/games/hex8_2p.db": "bad_arguments",
        "models/disguised.pth": "bad_arguments",
        "secrets.txt": "bad_arguments",
        "models/folder.pth": "unreadable",
        "models/pipe.pth": "unreadable",
        "models/none.pth": "missing",
        "../x.pth": "outside",
        "/etc/passwd": "outside",
        "models/away/x.pth": "outside",
        7: "bad_arguments",
    }


def test_what_was_pushed_is_verified_and_acknowledged_once_and_for_all(place: Place, deadline: Deadline) -> None:
    arrival = place.node.received(ARTIFACT, "vast-1", deadline=deadline)
    assert arrival.part is not None
    part = Path(arrival.part.path)
    part.write_bytes(DATA[:5])
    again = place.node.received(ARTIFACT, "vast-1", deadline=deadline)
    assert (again.part, part.stat().st_mode & 0o777) == (type(arrival.part)(str(part), 5), 0o644)
    with pytest.raises(TransientError, match="5 of 9000 bytes"):
        place.node.accept(ARTIFACT, "vast-1", deadline=deadline)
    part.write_bytes(DATA)

    receipt = place.node.accept(ARTIFACT, "vast-1", deadline=deadline)

    final = part.with_suffix("")
    assert (receipt.sha256, receipt.node, receipt.size_bytes) == (ARTIFACT.sha256, "node-s", len(DATA))
    assert (final.read_bytes(), part.exists()) == (DATA, False)
    assert place.node.accept(ARTIFACT, "vast-1", deadline=deadline) == receipt
    assert place.node.received(ARTIFACT, "vast-1", deadline=deadline).receipt == receipt
    final.write_bytes(b"x" * len(DATA))
    with pytest.raises(RemoteCallError) as damaged:
        place.node.received(ARTIFACT, "vast-1", deadline=deadline)
    assert damaged.value.code == "corrupt"


def test_other_bytes_are_removed_and_never_acknowledged(place: Place, deadline: Deadline) -> None:
    for wrong in (b"x" * len(DATA), DATA + b"x"):
        arrival = place.node.received(ARTIFACT, "vast-2", deadline=deadline)
        assert arrival.part is not None
        Path(arrival.part.path).write_bytes(wrong)
        with pytest.raises(ChecksumError):
            place.node.accept(ARTIFACT, "vast-2", deadline=deadline)
        assert not Path(arrival.part.path).exists()
    with pytest.raises(TransientError):
        place.node.accept(ARTIFACT, "vast-2", deadline=deadline)


def test_a_part_that_is_too_long_begins_anew_and_nothing_is_written_through_a_link(
    place: Place, deadline: Deadline, tmp_path: Path
) -> None:
    folder = place.host.scratch / "incoming/vast-3"
    folder.mkdir(parents=True)
    part = folder / f"{ARTIFACT.sha256}.part"
    part.write_bytes(DATA + b"x")
    arrival = place.node.received(ARTIFACT, "vast-3", deadline=deadline)
    assert arrival.part is not None
    assert (arrival.part.size_bytes, part.stat().st_size) == (0, 0)
    part.unlink()
    part.symlink_to(tmp_path / "victim")
    (folder.parent / "vast-4").symlink_to(tmp_path)
    for origin, code in (("vast-3", "unreadable"), ("vast-4", "outside"), ("..", "bad_arguments")):
        with pytest.raises(RemoteCallError) as error:
            place.node.received(ARTIFACT, origin, deadline=deadline)
        assert error.value.code == code
    assert list(tmp_path.iterdir()) == []


def test_facts_are_asked_once_per_connection(place: Place, deadline: Deadline) -> None:
    before = place.node.facts(deadline)
    assert place.node.facts(deadline) is before
    assert before.roots == (str(place.host.root), str(place.host.folder / "more"))
    place.host.sshd.kill()
    place.host.sshd.start()
    place.node.greet(deadline)
    again = place.node.facts(deadline)
    assert (again is before, again.roots) == (False, before.roots)


def test_commands_side_by_side_wait_for_one_of_the_few_sessions(tmp_path: Path, free_addresses: Iterator[str]) -> None:
    answers: list[str] = []
    with Sshd(tmp_path / "sshd", next(free_addresses), options=["MaxSessions 3"]) as sshd:
        with SshLink(SshEndpoint(sshd.node("node-s", tmp_path), sshd.settings, "rsync")) as link:
            command = lambda: answers.append(link.run("sleep 0.05; echo there", deadline=Deadline(20)).text)  # noqa: E731
            threads = [threading.Thread(target=command) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sshd.log.count("Accepted publickey") == 1
    assert answers == ["there"] * 16


def test_programs_that_are_missing_are_named(tmp_path: Path, free_addresses: Iterator[str]) -> None:
    lacking = [name for name in PROGRAMS if name != "sha256sum"]
    with SshHost(tmp_path / "host", next(free_addresses), programs=lacking) as host:
        host.write(MODEL, DATA)
        with SshLink(SshEndpoint(host.node(), host.settings, "base64")) as link:
            node = SshNode(link)
            with pytest.raises(RungUnusableError, match="sha256sum"):
                node.call("hash", {"path": MODEL}, deadline=Deadline(20))
            assert ssh_facts.missing(node.facts(Deadline(20)), ("rsync", "cat", "sha256sum")) == ["rsync", "sha256sum"]
