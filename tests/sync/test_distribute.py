"""What is published reaches every node that is up, over few copies from the owner, and the last one published wins."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.processes import CHECKOUT
from ringrift_sync_dagster.demo.ssh_nodes import WITH_RSYNC
from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.state.changes import recent_changes
from ringrift_sync_dagster.state.placements import placement_of
from ringrift_sync_dagster.state.receipts import has_receipt
from ringrift_sync_dagster.state.transfers import transfer_rows
from ringrift_sync_dagster.sync.report import Failure, Outcome
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.marks import first_of
from tests.sync.distributing import CONFIG, NODES, Owner, promote, write_template

AtPoint = Callable[[str, Callable[[], object]], None]


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    base = tmp_path_factory.mktemp("six")
    with EmbeddedCluster(base / "cluster", template=write_template(base / "hosts.yaml"), nodes=NODES) as cluster:
        yield cluster


@pytest.fixture
def owner(six: EmbeddedCluster, tmp_path: Path) -> Iterator[Owner]:
    """An owner with a root and a state of its own; the nodes are empty again afterwards."""
    shutil.copytree(six.base / "keys", tmp_path / "keys")
    yield Owner(six, settings_of(six, tmp_path))
    for node in six.nodes:
        if node not in six.ssh and not six.processes.is_running(f"agent-{node}"):
            six.start_agent(node)
        root = six.node_root(node)
        shutil.rmtree(root / "models", ignore_errors=True)
        shutil.rmtree(root / "data/training", ignore_errors=True)
        (root / "data/.ringrift-sync/published.json").unlink(missing_ok=True)


def settings_of(cluster: EmbeddedCluster, home: Path) -> Settings:
    return load_settings(
        home=home, hosts=cluster.hosts, root=home / "root", state_url=f"sqlite:///{home}/state.db",
        token_file=cluster.environment["RINGRIFT_SYNC_TOKEN_FILE"], known_hosts=cluster.base / "ssh/known_hosts",
    )  # fmt: skip


def weights(seed: int, size: int = 4_000_000) -> bytes:
    return random.Random(seed).randbytes(size)


def failures(outcomes: Mapping[str, Outcome]) -> dict[str, Failure]:
    return {node: outcome.failure for node, outcome in outcomes.items() if outcome.failure}


def test_all_nodes_get_the_model_and_the_owner_sends_few_copies(owner: Owner) -> None:
    sha = owner.promote(weights(1))
    sent_before, received_before = owner.bytes_between_nodes()

    outcomes = owner.distribute()

    assert failures(outcomes) == {}
    sent, received = owner.bytes_between_nodes()
    by_owner = (received - received_before) - (sent - sent_before)
    assert received - received_before == len(NODES) * 4_000_000
    assert by_owner <= 3 * 4_000_000, "the owner's egress grows with the logarithm of the number of nodes"
    with Runtime.open(owner.settings) as runtime:
        for node in NODES:
            assert owner.model(node).read_bytes() == weights(1)
            assert has_receipt(runtime.state, sha, node)
            placement = placement_of(runtime.state, node, "models", CONFIG)
            assert placement is not None
            assert (placement.content, placement.serial) == (sha, 1)
        changes = recent_changes(runtime.state)
        assert {row.priority for row in transfer_rows(runtime.state)} == {"critical"}
    assert {(change.node, change.direction) for change in changes} == {(node, "down") for node in NODES}
    assert all(change.counts == {"brought": 1} for change in changes)


def test_the_next_pass_brings_nothing(owner: Owner) -> None:
    owner.promote(weights(1, 1000))
    owner.distribute()

    for _ in range(2):
        outcomes = owner.distribute()
        assert failures(outcomes) == {}
        assert not any(outcome.changed for outcome in outcomes.values())


@pytest.mark.cluster
def test_a_link_that_somebody_removed_comes_back(owner: Owner) -> None:
    owner.promote(weights(1, 1000))
    for _ in range(3):
        owner.distribute()
    owner.model(NODES[0]).unlink()

    owner.distribute()

    assert owner.model(NODES[0]).read_bytes() == weights(1, 1000)


@pytest.mark.cluster
def test_an_npz_is_brought_with_its_own_priority(owner: Owner) -> None:
    owner.promote(weights(1, 1000), DataType.NPZ)

    assert failures(owner.distribute(data_type=DataType.NPZ)) == {}

    assert all(owner.export(node).read_bytes() == weights(1, 1000) for node in NODES)
    with Runtime.open(owner.settings) as runtime:
        assert {row.priority for row in transfer_rows(runtime.state)} == {"high"}


@pytest.mark.cluster
def test_an_export_that_nobody_collected_fails_its_partition_and_stays(owner: Owner) -> None:
    owner.promote(weights(1, 1000), DataType.NPZ)
    owner.export(NODES[0]).parent.mkdir(parents=True)
    owner.export(NODES[0]).write_bytes(b"own export")

    outcomes = owner.distribute(data_type=DataType.NPZ)

    assert list(failures(outcomes)) == [NODES[0]]
    assert owner.export(NODES[0]).read_bytes() == b"own export"
    assert owner.export(NODES[1]).read_bytes() == weights(1, 1000)


def test_a_holder_with_other_bytes_is_named_and_mended_by_the_next_pass(owner: Owner) -> None:
    owner.promote(weights(1))
    owner.distribute(NODES[0])
    version = owner.model(NODES[0]).resolve()
    before = version.stat()
    version.chmod(0o644)
    version.write_bytes(weights(2))
    os.utime(version, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if the disk had done it

    outcomes = owner.distribute(NODES[1])

    assert failures(outcomes) == {}
    assert owner.model(NODES[1]).read_bytes() == weights(1)
    assert [(note.node, note.code) for note in owner.notes] == [(NODES[0], "ChecksumError")]
    owner.distribute()
    assert owner.model(NODES[0]).read_bytes() == weights(1)


@pytest.mark.cluster
def test_a_node_that_is_down_fails_alone_and_the_next_pass_catches_it_up_on_the_last_one(owner: Owner) -> None:
    late = NODES[2]
    owner.cluster.kill_agent(late)
    owner.promote(weights(1, 1000))
    assert list(failures(owner.distribute())) == [late]
    owner.promote(weights(2, 1000))
    assert list(failures(owner.distribute())) == [late]
    owner.cluster.start_agent(late)
    with Runtime.open(owner.settings) as runtime, runtime.state.begin() as connection:
        connection.exec_driver_sql("DELETE FROM breakers")  # its minute is over

    assert failures(owner.distribute()) == {}

    assert {owner.model(node).read_bytes() for node in NODES} == {weights(2, 1000)}


def test_promoted_twice_in_two_seconds_all_nodes_end_on_the_last_one(owner: Owner) -> None:
    owner.promote(weights(1))
    done = threading.Event()

    def again() -> None:
        with Runtime.open(owner.settings) as runtime:
            for seed in (2, 3):
                time.sleep(0.3)
                promote(runtime, weights(seed))
        done.set()

    promoting = threading.Thread(target=again)
    promoting.start()
    owner.distribute()
    promoting.join()
    assert done.is_set()

    assert failures(owner.distribute()) == {}

    assert {owner.model(node).read_bytes() for node in NODES} == {weights(3)}


@pytest.fixture
def at_point() -> Iterator[AtPoint]:
    """Do something once, when a point is reached."""

    def install(point: str, work: Callable[[], object]) -> None:
        def hook(name: str) -> None:
            if name == point:
                faults.hook = None
                work()

        faults.hook = hook

    yield install
    faults.hook = None


@pytest.mark.parametrize("point", first_of("bring.published", "bring.delivered"))
def test_a_promotion_while_the_first_one_is_brought_is_brought_in_the_same_pass(
    owner: Owner, at_point: AtPoint, point: str
) -> None:
    owner.promote(weights(1, 1000))
    at_point(point, lambda: owner.promote(weights(2, 1000)))

    assert failures(owner.distribute(NODES[0])) == {}

    assert owner.model(NODES[0]).read_bytes() == weights(2, 1000)


@pytest.mark.cluster
def test_without_the_key_the_owner_pushes_to_every_node(owner: Owner) -> None:
    shutil.rmtree(owner.settings.home / "keys")
    owner.promote(weights(1, 1000))

    assert failures(owner.distribute()) == {}

    assert {owner.model(node).read_bytes() for node in NODES} == {weights(1, 1000)}


@pytest.mark.cluster
def test_a_target_killed_in_the_middle_of_a_pull_is_caught_up(owner: Owner) -> None:
    owner.promote(weights(1, 60_000_000))
    owner.distribute(NODES[0])
    target = NODES[1]
    incoming = owner.cluster.node_root(target) / "data/.ringrift-sync/incoming/hub-1"

    def kill() -> None:
        limit = time.monotonic() + 20
        while not any(part.stat().st_size > 1_000_000 for part in _parts(incoming)):
            assert time.monotonic() < limit
            time.sleep(0.005)
        owner.cluster.kill_agent(target)

    killing = threading.Thread(target=kill)
    killing.start()
    assert list(failures(owner.distribute(target))) == [target]
    killing.join()
    assert not owner.model(target).exists()
    owner.cluster.start_agent(target)
    with Runtime.open(owner.settings) as runtime, runtime.state.begin() as connection:
        connection.exec_driver_sql("DELETE FROM breakers")

    outcomes = owner.distribute(target)

    assert failures(outcomes) == {}
    assert owner.model(target).read_bytes() == weights(1, 60_000_000)
    assert outcomes[target].bytes_moved < 60_000_000, "it went on where it was killed"


def _parts(folder: Path) -> Sequence[Path]:
    return [part for part in folder.glob("*.part") if part.exists()]


def test_a_node_without_an_agent_is_pushed_to_over_ssh(tmp_path: Path) -> None:
    names = NODES[:2]
    template = write_template(tmp_path / "hosts.yaml", names)
    programs = WITH_RSYNC
    with EmbeddedCluster(tmp_path / "c", template=template, nodes=names, ssh={names[1]: programs}) as cluster:
        owner = Owner(cluster, settings_of(cluster, cluster.base))
        owner.promote(weights(1))

        outcomes = owner.distribute()

        assert failures(outcomes) == {}
        assert outcomes[names[1]].transport == "rsync"
        assert owner.model(names[1]).read_bytes() == weights(1)


@pytest.mark.cluster
def test_where_the_state_was_lost_the_serial_catches_up_with_the_nodes(owner: Owner) -> None:
    for seed in (1, 2, 3):
        owner.promote(weights(seed, 1000))
    owner.distribute(NODES[0])
    (owner.settings.home / "state.db").unlink()
    owner.promote(weights(4, 1000))

    assert failures(owner.distribute(NODES[0])) == {}

    assert owner.model(NODES[0]).read_bytes() == weights(4, 1000)


# One pass in a process of its own, which dies as by kill -9 at the point that it is told.
DYING = """
import os, sys
from pathlib import Path
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.node import faults
from ringrift_sync_dagster.settings.settings import load_settings
from tests.sync.distributing import Owner
home, hosts, token, point, node = sys.argv[1:]
faults.hook = lambda name: os.kill(os.getpid(), 9) if name == point else None
settings = load_settings(
    home=Path(home), hosts=Path(hosts), root=Path(home) / "root", state_url=f"sqlite:///{home}/state.db",
    token_file=Path(token),
)
Owner(None, settings).distribute(node)
"""


@pytest.mark.parametrize("point", first_of("bring.published", "bring.delivered"))
def test_killed_at_any_step_the_next_pass_ends_right(owner: Owner, point: str) -> None:
    data = weights(31 + len(point), 1000)  # which no other test has brought to the node
    sha = owner.promote(data)
    settings, node = owner.settings, NODES[0]
    given = [str(settings.home), str(settings.hosts), str(settings.token_file), point, node]
    died = subprocess.run([sys.executable, "-c", DYING, *given], check=False, cwd=CHECKOUT)
    assert died.returncode == -9

    assert failures(owner.distribute(node)) == {}

    assert owner.model(node).read_bytes() == data
    with Runtime.open(settings) as runtime:
        placement = placement_of(runtime.state, node, "models", CONFIG)
        assert has_receipt(runtime.state, sha, node)
        (change,) = recent_changes(runtime.state)
    assert placement is not None
    assert (placement.content, change.counts) == (sha, {"brought": 1})
