"""What goes wrong under the base64 carrier, and which error says it."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import (
    ArtifactGoneError,
    AuthenticationError,
    DeadlineExceededError,
    HostKeyError,
    RemoteCallError,
    RungUnusableError,
    SourceChangedError,
    StallError,
    TransferCancelledError,
    TransientError,
    UnreachableError,
)
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base64_node import BLOCK_BYTES, TEXT_BLOCK_BYTES
from ringrift_sync_dagster.transports.base64_talk import FRAME_BYTES
from tests import disks
from tests.sshd import PROGRAMS, Sshd, make_key, program
from tests.transports.carrying import Carried, replace_program

DATA = random.Random(65).randbytes(5 * FRAME_BYTES + 11)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    with Sshd(tmp_path / "node", "127.0.64.3", programs=PROGRAMS) as started:
        yield started


@pytest.fixture
def carried(server: Sshd, tmp_path: Path) -> Carried:
    (tmp_path / "remote").write_bytes(DATA)
    return Carried(server, tmp_path)


def damage(server: Sshd, first: int, last: int) -> None:
    """Let the node's base64 give or take other bytes, from its ``first`` to its ``last`` call."""
    calls = server.folder / "calls"
    calls.write_text("")
    swap = f"{program('tr')} ABC BCA"
    replace_program(
        server,
        "base64",
        f"""echo >> {calls}
n=$({program("wc")} -l < {calls})
if [ "$n" -lt {first} ] || [ "$n" -gt {last} ]; then exec {program("base64")} "$@"; fi
if [ "$1" = -d ]; then {swap} | {program("base64")} "$@"; else {program("base64")} "$@" | {swap}; fi""",
    )


# The first call of a fetch asks whether lines can be left unbroken; a push from 0 on makes none but for its frames.
def test_a_damaged_frame_of_a_fetch_is_noticed_and_asked_again(server: Sshd, carried: Carried, tmp_path: Path) -> None:
    damage(server, 3, 3)
    seen: list[int] = []

    moved = carried.fetch(tmp_path / "remote", DATA, progress=seen.append)

    assert moved == len(DATA) + FRAME_BYTES
    assert (tmp_path / "got").read_bytes() == DATA
    assert seen == sorted(set(seen))


def test_a_damaged_frame_of_a_push_is_noticed_and_sent_again(server: Sshd, carried: Carried, tmp_path: Path) -> None:
    damage(server, 2, 3)
    seen: list[int] = []

    moved = carried.push(DATA, tmp_path / "part", progress=seen.append)

    assert moved > len(DATA)
    assert (tmp_path / "part").read_bytes() == DATA
    assert seen == sorted(set(seen))


def test_a_frame_that_is_damaged_each_time_ends_the_fetch_and_what_came_before_stays(
    server: Sshd, carried: Carried, tmp_path: Path
) -> None:
    damage(server, 3, 1000)

    with pytest.raises(TransientError, match="3 times"):
        carried.fetch(tmp_path / "remote", DATA)

    assert carried.part.read_bytes() == DATA[:FRAME_BYTES]


def test_a_frame_that_is_damaged_each_time_ends_the_push_and_what_came_before_stays(
    server: Sshd, carried: Carried, tmp_path: Path
) -> None:
    damage(server, 2, 1000)

    with pytest.raises(TransientError, match="3 times"):
        carried.push(DATA, tmp_path / "part")

    assert (tmp_path / "part").read_bytes() == DATA[:FRAME_BYTES]


def test_a_node_that_never_ends_its_answer_does_not_fill_our_memory(
    server: Sshd, carried: Carried, tmp_path: Path
) -> None:
    replace_program(server, "base64", f"read -r line || exit 0\nexec {program('yes')} QUJD")

    with pytest.raises(TransientError, match="more than"):
        carried.fetch(tmp_path / "remote", DATA)

    assert not [path for path in tmp_path.glob("got*") if path.stat().st_size]


@pytest.mark.parametrize("name", ["base64", "sha256sum", "dd"])
def test_a_program_that_the_node_lacks_is_named(server: Sshd, carried: Carried, tmp_path: Path, name: str) -> None:
    (server.folder / "bin" / name).unlink()

    with pytest.raises(RungUnusableError, match=f"{name} is missing"):
        carried.fetch(tmp_path / "remote", DATA)
    with pytest.raises(RungUnusableError, match=f"{name} is missing"):
        carried.push(DATA, tmp_path / "part")


def test_a_login_that_runs_no_program_cannot_be_used(tmp_path: Path) -> None:
    with Sshd(tmp_path / "node", "127.0.64.3", programs=PROGRAMS, banner="This account is not available.") as server:
        (server.folder / "login").write_text("#!/bin/sh\necho This account is not available.\nexit 1\n")

        with pytest.raises(RungUnusableError, match="does not run our program"):
            Carried(server, tmp_path).fetch(tmp_path / "remote", DATA)


def test_a_file_that_is_gone_or_has_another_length_is_said(carried: Carried, tmp_path: Path) -> None:
    with pytest.raises(ArtifactGoneError, match="nowhere"):
        carried.fetch(tmp_path / "nowhere", DATA)
    with pytest.raises(SourceChangedError, match="longer"):
        carried.fetch(tmp_path / "remote", DATA[:-1])
    with pytest.raises(SourceChangedError, match="shorter"):
        carried.fetch(tmp_path / "remote", DATA + b"more")


def test_what_cannot_be_opened_on_the_node_is_refused(carried: Carried, tmp_path: Path) -> None:
    with pytest.raises(RemoteCallError) as read:
        carried.fetch(tmp_path, DATA)
    with pytest.raises(RemoteCallError) as written:
        carried.push(DATA, tmp_path / "no folder" / "part")

    assert read.value.code == written.value.code == "unreadable"


def test_a_part_that_became_shorter_is_not_filled_with_zeros(carried: Carried, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:10])

    with pytest.raises(TransientError, match="shorter"):
        carried.push(DATA, tmp_path / "part", 11)

    assert (tmp_path / "part").read_bytes() == DATA[:10]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB in memory; mounting one takes root."""
    with disks.small_disk(tmp_path / "small", "4m") as mounted:
        yield mounted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
def test_a_full_disk_of_the_node_is_said_and_the_push_goes_on_when_there_is_room(
    carried: Carried, small_disk: Path
) -> None:
    with pytest.raises(RemoteCallError) as full:
        carried.push(DATA, small_disk / "part")
    there = (small_disk / "part").stat().st_size
    disks.resize(small_disk, "16m")
    carried.push(DATA, small_disk / "part", there)

    assert full.value.code == "no_space"
    assert there == 2 * FRAME_BYTES
    assert (small_disk / "part").read_bytes() == DATA


def hang(server: Sshd) -> None:
    """Let the node fall silent at the first frame: its dd takes none of it, and gives none."""
    whole = f"*count={FRAME_BYTES // BLOCK_BYTES}*|*count={FRAME_BYTES * 4 // 3 // TEXT_BLOCK_BYTES}*"
    replace_program(server, "dd", f'case "$*" in {whole}) exec {program("sleep")} 3 ;; esac\nexec {program("dd")} "$@"')


def test_silence_is_a_stall(server: Sshd, tmp_path: Path) -> None:
    carried = Carried(server, tmp_path, stall_seconds=0.3)
    (tmp_path / "remote").write_bytes(DATA)
    hang(server)

    with pytest.raises(StallError):
        carried.fetch(tmp_path / "remote", DATA)
    with pytest.raises(StallError):
        carried.push(DATA, tmp_path / "part")


@pytest.mark.parametrize("verb", ["fetch", "push"])
def test_cancel_and_deadline_end_a_transfer_that_hangs(
    server: Sshd, carried: Carried, tmp_path: Path, verb: str
) -> None:
    hang(server)
    cancel = threading.Event()
    timer = threading.Timer(0.5, cancel.set)
    timer.start()
    move = carried.fetch if verb == "fetch" else lambda path, data, **more: carried.push(data, path, **more)
    begun = time.monotonic()

    with pytest.raises(TransferCancelledError):
        move(tmp_path / "remote", DATA, cancel=cancel)
    cancelled = time.monotonic() - begun
    with pytest.raises(DeadlineExceededError):
        move(tmp_path / "remote", DATA, deadline=Deadline(0.5))

    assert 0.5 <= cancelled < 1.2
    assert 0.5 <= time.monotonic() - begun - cancelled < 1.2
    timer.join()


class SlowPacer:
    """Lets one piece go each 1.2 s."""

    rate = 1e7

    def take(self, count: int, *, deadline: Deadline, cancel: threading.Event | None = None) -> None:  # noqa: ARG002
        time.sleep(deadline.at_most(1.2))


def test_waiting_for_the_pacer_is_no_stall(server: Sshd, tmp_path: Path) -> None:
    carried = Carried(server, tmp_path, stall_seconds=0.8)
    (tmp_path / "remote").write_bytes(DATA[:1000])

    carried.fetch(tmp_path / "remote", DATA[:1000], pacer=SlowPacer())
    carried.push(DATA[:1000], tmp_path / "part", pacer=SlowPacer())

    assert (tmp_path / "got").read_bytes() == (tmp_path / "part").read_bytes() == DATA[:1000]


def test_what_ssh_itself_says_is_understood(server: Sshd, carried: Carried, tmp_path: Path) -> None:
    known = server.known_hosts.read_text()
    server.known_hosts.write_text("")
    with pytest.raises(HostKeyError, match="ssh-keyscan"):
        carried.fetch(tmp_path / "remote", DATA)
    server.known_hosts.write_text(known)
    make_key(server.key)
    with pytest.raises(AuthenticationError):
        carried.push(DATA, tmp_path / "part")
    server.stop()
    with pytest.raises(UnreachableError):
        Carried(server, tmp_path).fetch(tmp_path / "remote", DATA)


def test_a_connection_that_breaks_is_transient_and_what_came_stays(
    server: Sshd, carried: Carried, tmp_path: Path
) -> None:
    told: list[int] = []

    def kill(offset: int) -> None:
        if not told:
            server.kill()
        told.append(offset)  # a frame that was on the way may still come

    with pytest.raises((TransientError, RungUnusableError)):
        carried.fetch(tmp_path / "remote", DATA, progress=kill)

    assert told[0] == FRAME_BYTES
    assert carried.part.read_bytes() == DATA[: told[-1]]
