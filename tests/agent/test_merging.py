"""What is pushed to the owner's agent is merged at once, once, and beside nobody."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Partition
from ringrift_sync_dagster.intake.games import GamesIntake, collecting
from ringrift_sync_dagster.intake.rows import RowsIntake
from ringrift_sync_dagster.intake.sweep import sweep
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from ringrift_sync_dagster.state.changes import pending
from ringrift_sync_dagster.state.events import newest_events
from ringrift_sync_dagster.state.leases import hold
from ringrift_sync_dagster.state.receipts import has_receipt
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout
from tests.agent.agents import AgentProcess, wait_until
from tests.agent.packing import Packed, merged, pack
from tests.node.merging import CONFIG

NODE = "vast-1"


@pytest.fixture
def owner(coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path: Path) -> AgentProcess:
    """The coordinator's agent, not started."""
    root = tmp_path / "root"
    more = {"incoming": repr(str(root / "data/incoming")), "merge_into": repr(str(root))}
    more = {name: f"Path({value})" for name, value in more.items()}
    return AgentProcess(
        "hub-1", root, next(free_addresses), coordinator_key, state_url=f"sqlite:///{tmp_path}/state.db", more=more
    )


@pytest.fixture
def state(owner: AgentProcess) -> Iterator[StateStore]:
    with StateStore.open(owner.state_url) as store:
        yield store


def push(owner: AgentProcess, packed: Packed) -> None:
    answer = owner.request(
        "PUT", f"/v1/incoming/{NODE}/{packed.sha}", data=packed.data, token=owner.token("node", sub=NODE)
    )
    assert answer.status_code == 201, answer.text


def told(state: StateStore) -> int:
    return sum(event.payload["new_games"] for event in newest_events(state, ["NEW_GAMES_AVAILABLE"]))


def lying(owner: AgentProcess) -> list[str]:
    return sorted(path.name for path in (owner.root / "data/incoming" / NODE).glob("*"))


def test_pushed_games_are_canonical_at_once_with_one_change_each_and_told_once(
    owner: AgentProcess, state: StateStore, tmp_path: Path
) -> None:
    first, second = pack(tmp_path, "a", "b"), pack(tmp_path, "c")
    with owner:
        push(owner, first)
        wait_until(lambda: merged(owner.root) == {"a", "b"}, 5)
        push(owner, first)  # the receipt holds
        push(owner, second)
        wait_until(lambda: merged(owner.root) == {"a", "b", "c"} and lying(owner) == [], 5)
        wait_until(lambda: told(state) == 3)  # in one event, or in one for each merge
        numbers = owner.request("GET", "/metrics").text

    assert 'ringrift_agent_merges_total{outcome="merged"} 2.0' in numbers
    assert [(change.node, change.games_new, change.trigger) for change in pending(state)] == [
        (NODE, 2, "push"), (NODE, 1, "push"),
    ]  # fmt: skip
    assert all(has_receipt(state, one.sha, "hub-1") for one in (first, second))


@pytest.mark.cluster
def test_what_lay_there_is_merged_at_the_start_and_a_file_that_is_no_pack_stays(
    owner: AgentProcess, state: StateStore, tmp_path: Path
) -> None:
    before, archive = pack(tmp_path, "a"), b"PK\x03\x04 an archive"
    folder = owner.root / "data/incoming" / NODE
    folder.mkdir(parents=True)
    (folder / before.sha).write_bytes(before.data)
    (folder / ("0" * 64)).write_bytes(archive)
    (folder / f"{'1' * 64}.part").write_bytes(b"half")
    with owner:
        wait_until(lambda: merged(owner.root) == {"a"} and before.sha not in lying(owner), 10)

    assert lying(owner) == ["0" * 64, f"{'1' * 64}.part"]
    assert [change.games_new for change in pending(state)] == [1]


@pytest.mark.cluster
def test_while_a_pass_has_the_lease_the_pack_is_left_and_taken_in_once_by_whoever_is_first(
    owner: AgentProcess, state: StateStore, tmp_path: Path
) -> None:
    packed = pack(tmp_path, "a")
    layout = Layout(owner.root)
    with owner:
        with hold(state, collecting(Partition(CONFIG, NODE))):
            push(owner, packed)
            wait_until(lambda: 'merges_total{outcome="later"}' in owner.request("GET", "/metrics").text)
            assert merged(owner.root) == set()
        sweep(GamesIntake("hub-1", state, layout), RowsIntake("hub-1", state, layout), "pass")
        wait_until(lambda: lying(owner) == [], 5)

    assert merged(owner.root) == {"a"}
    assert len(pending(state)) == 1


@pytest.mark.cluster
def test_a_bad_pack_goes_to_quarantine_and_the_next_one_is_merged(owner: AgentProcess, tmp_path: Path) -> None:
    bad = Packed("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", b"a", ())
    with owner:
        push(owner, bad)
        push(owner, pack(tmp_path, "a"))
        wait_until(lambda: merged(owner.root) == {"a"} and lying(owner) == [], 5)

    assert list((owner.root / "data/quarantine" / NODE).glob(f"*{bad.sha[:12]}*"))


@pytest.mark.cluster
def test_what_is_left_over_has_its_turn_while_others_push_without_a_pause(
    owner: AgentProcess, state: StateStore, tmp_path: Path
) -> None:
    left, others = pack(tmp_path, "left"), iter([pack(tmp_path, f"o{n}", config="square8_3p") for n in range(40)])

    def is_merged_while_another_comes() -> bool:
        push(owner, next(others))
        time.sleep(0.3)
        return merged(owner.root) == {"left"}

    with owner:
        with hold(state, collecting(Partition(CONFIG, NODE))):
            push(owner, left)
            wait_until(lambda: 'merges_total{outcome="later"}' in owner.request("GET", "/metrics").text)
        wait_until(is_merged_while_another_comes, 10)


@pytest.mark.cluster
def test_packs_of_a_config_that_another_process_merges_hold_no_other_config_up(
    owner: AgentProcess, state: StateStore, tmp_path: Path
) -> None:
    held, other = [pack(tmp_path, f"h{n}") for n in range(12)], pack(tmp_path, "other", config="square8_3p")
    with owner:
        with hold(state, f"canonical:{CONFIG}"):
            for one in (*held, other):
                push(owner, one)
            wait_until(lambda: merged(owner.root, "square8_3p") == {"other"}, 6)
        wait_until(lambda: len(merged(owner.root)) == len(held), 15)
