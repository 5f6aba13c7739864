"""The base64 carrier against a real sshd whose node has sh, base64, dd, sha256sum and nothing to copy files with."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import RemoteCallError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.base64_ssh import base64_transport
from ringrift_sync_dagster.transports.base64_talk import FRAME_BYTES
from tests.sshd import PROGRAMS, Sshd, program
from tests.transports.carrying import Carried, named, of_user, replace_program, text_bytes, until

MIB = 1 << 20
SIZES = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 12 * MIB + 3]
NAMES = ["with blank", "new\nline", "quo'te\"s $HOME `id` \\", "-rf", "ünï", "\udcff"]
DATA = random.Random(64).randbytes(12 * MIB + 3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("node"), "127.0.64.1", programs=PROGRAMS) as started:
        yield started


@pytest.fixture
def carried(server: Sshd, tmp_path: Path) -> Carried:
    return Carried(server, tmp_path)


class RecordingPacer:
    """Lets everything go, and remembers how much."""

    rate = 1e9

    def __init__(self) -> None:
        self.taken = 0

    def take(self, count: int, *, deadline: Deadline, cancel: threading.Event | None = None) -> None:  # noqa: ARG002
        self.taken += count


@pytest.mark.parametrize("size", SIZES)
def test_a_fetched_file_is_whole_and_told_of_frame_by_frame(carried: Carried, tmp_path: Path, size: int) -> None:
    (tmp_path / "remote").write_bytes(DATA[:size])
    seen: list[int] = []

    assert carried.fetch(tmp_path / "remote", DATA[:size], progress=seen.append) == size

    assert (tmp_path / "got").read_bytes() == DATA[:size]
    assert seen == [*range(FRAME_BYTES, size, FRAME_BYTES), *([size] if size else [])]


@pytest.mark.parametrize("size", SIZES)
def test_a_pushed_file_is_whole_and_told_of_frame_by_frame(carried: Carried, tmp_path: Path, size: int) -> None:
    seen: list[int] = []

    assert carried.push(DATA[:size], tmp_path / "remote.part", progress=seen.append) == size

    assert (tmp_path / "remote.part").read_bytes() == DATA[:size]
    assert seen == [*range(FRAME_BYTES, size, FRAME_BYTES), *([size] if size else [])]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_taken_as_it_is(carried: Carried, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(DATA[:1000])

    carried.fetch(tmp_path / name, DATA[:1000])
    carried.push(DATA[:1000], tmp_path / f"{name}.part")

    assert (tmp_path / "got").read_bytes() == DATA[:1000]
    assert (tmp_path / f"{name}.part").read_bytes() == DATA[:1000]


@pytest.mark.parametrize("there", [1, FRAME_BYTES, 3 * MIB + 7])
def test_a_fetch_goes_on_at_the_exact_byte(carried: Carried, tmp_path: Path, there: int) -> None:
    (tmp_path / "remote").write_bytes(DATA)
    carried.part.write_bytes(DATA[:there])

    assert carried.fetch(tmp_path / "remote", DATA) == len(DATA) - there

    assert (tmp_path / "got").read_bytes() == DATA


@pytest.mark.parametrize("there", [1, FRAME_BYTES, 3 * MIB + 7])
def test_a_push_goes_on_at_the_exact_byte_and_writes_over_what_is_behind_it(
    carried: Carried, tmp_path: Path, there: int
) -> None:
    (tmp_path / "remote.part").write_bytes(DATA[:there] + b"of another connection")

    assert carried.push(DATA, tmp_path / "remote.part", there) == len(DATA) - there

    assert (tmp_path / "remote.part").read_bytes() == DATA


def test_the_pacer_is_asked_for_the_text_and_not_for_the_bytes(carried: Carried, tmp_path: Path) -> None:
    (tmp_path / "remote").write_bytes(DATA)
    down, up = RecordingPacer(), RecordingPacer()

    carried.fetch(tmp_path / "remote", DATA, pacer=down)
    carried.push(DATA, tmp_path / "remote.part", pacer=up)

    for pacer in (down, up):
        assert text_bytes(len(DATA)) <= pacer.taken <= text_bytes(len(DATA)) * 1.05


POOR_DD = 'case "$*" in *fullblock*) exit 1 ;; esac\nexec {dd} "$@"'
GREEDY_HEAD = 'exec {tail} -c +1 | {head} "$@" && {cat} >/dev/null'
NODES = {
    "bash": {},
    "base64 that breaks lines": {"base64": 'case "$*" in *w0*) exit 1 ;; esac\nexec {base64} "$@"'},
    "dd that cannot fill a block": {"dd": POOR_DD},
    "head that takes more than it is told": {"dd": POOR_DD, "head": GREEDY_HEAD},
}


@pytest.mark.parametrize("kind", NODES)
def test_a_node_with_other_programs_of_these_names_is_served_too(tmp_path: Path, kind: str) -> None:
    server = Sshd(tmp_path / "node", "127.0.64.2", programs=PROGRAMS)
    shell = server.folder / "bin" / "sh"
    shell.parent.mkdir()
    shell.symlink_to(program("bash" if kind == "bash" else "sh"))
    data = DATA[: 300_001 if "head" in kind else 2 * FRAME_BYTES + 1]
    (tmp_path / "remote").write_bytes(data)
    carried = Carried(server, tmp_path)
    with server:
        for name, script in NODES[kind].items():
            real = {known: program(known) for known in ("base64", "dd", "head", "tail", "cat")}
            replace_program(server, name, script.format_map(real))

        carried.fetch(tmp_path / "remote", data)
        carried.push(data, tmp_path / "remote.part")

    assert (tmp_path / "got").read_bytes() == data
    assert (tmp_path / "remote.part").read_bytes() == data


def test_what_a_login_prints_before_is_passed_over(tmp_path: Path) -> None:
    banner = "Welcome!\n#0123456789ab ready\n" + "Mind the gap. " * 20_000
    (tmp_path / "remote").write_bytes(DATA)
    with Sshd(tmp_path / "node", "127.0.64.2", programs=PROGRAMS, banner=banner) as server:
        carried = Carried(server, tmp_path)

        carried.fetch(tmp_path / "remote", DATA)
        carried.push(DATA, tmp_path / "remote.part")

    assert (tmp_path / "got").read_bytes() == (tmp_path / "remote.part").read_bytes() == DATA


def test_a_node_without_python_gives_and_takes_immutable_files(server: Sshd, tmp_path: Path) -> None:
    artifact, root, origin = named(DATA), tmp_path / "root", "node-o"
    kept = root / "data/.ringrift-sync/artifacts" / artifact.sha256
    kept.parent.mkdir(parents=True)
    kept.write_bytes(DATA)
    deadline = Deadline(60)

    with base64_transport(server.node("node-b", root), server.settings) as transport:
        fetched = transport.fetch(artifact, tmp_path / "got", deadline=deadline)
        pushed = transport.push(artifact, tmp_path / "got", origin, deadline=deadline)
        transport.forget(artifact, deadline=deadline)
        with pytest.raises(RemoteCallError, match="ython"):
            transport.call("scan", {}, deadline=deadline)

    assert (fetched.bytes_moved, fetched.transport) == (len(DATA), "base64")
    assert (pushed.receipt.sha256, pushed.receipt.size_bytes) == (artifact.sha256, len(DATA))
    assert (tmp_path / "got").read_bytes() == DATA
    assert (root / "data/.ringrift-sync/incoming" / origin / artifact.sha256).read_bytes() == DATA
    assert not kept.exists()


def test_64_mb_take_little_memory_on_either_side(server: Sshd, carried: Carried, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(64 * MIB)
    (tmp_path / "remote").write_bytes(data)
    shell = replace_program(server, "sh", f'ulimit -v 20000\nexec {program("sh")} "$@"')
    try:
        fetched = carried.apart("fetch", tmp_path / "remote", data)
        pushed = carried.apart("push", tmp_path / "remote.part", data)
    finally:
        shell.unlink()
        shell.symlink_to(program("sh"))

    for done in (fetched, pushed):
        assert done.returncode == 0, done.stderr
        assert int(done.stdout) < 64 << 10, "KiB resident at most"
    assert (tmp_path / "got").read_bytes() == data
    assert (tmp_path / "remote.part").read_bytes() == data


@pytest.mark.parametrize("verb", ["fetch", "push"])
def test_a_killed_process_leaves_nothing_running_and_a_part_to_go_on_with(
    carried: Carried, tmp_path: Path, verb: str
) -> None:
    remote, part = tmp_path / "remote", carried.part if verb == "fetch" else tmp_path / "remote"
    if verb == "fetch":
        remote.write_bytes(DATA)

    killed = carried.apart(verb, remote, DATA, kill_at=3 * FRAME_BYTES)
    gone = until(lambda: not of_user(["sh -c", str(remote)]))
    there = part.stat().st_size

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert gone, of_user(["sh -c", str(remote)])
    assert 3 * FRAME_BYTES <= there < len(DATA)
    assert part.read_bytes() == DATA[:there]
    if verb == "fetch":
        assert carried.fetch(remote, DATA) == len(DATA) - there
    else:
        assert carried.push(DATA, remote, there) == len(DATA) - there
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        {"remote", "got" if verb == "fetch" else "source"}
    )
