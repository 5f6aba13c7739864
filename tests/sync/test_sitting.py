"""Several packs in one sitting: one lease for all, changes copied at its end, and whatever ends it, nothing is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import LeaseHeldError
from ringrift_sync_dagster.intake.games import GamesIntake
from ringrift_sync_dagster.intake.rows import RowsIntake
from ringrift_sync_dagster.intake.sitting import sitting
from ringrift_sync_dagster.intake.sweep import sweep, take_in
from ringrift_sync_dagster.state.changes import pending
from ringrift_sync_dagster.state.leases import hold, lease_rows
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout
from tests.agent.packing import Packed, merged, pack
from tests.node.merging import CONFIG

NODE = "vast-1"
CANONICAL = f"canonical:{CONFIG}"


class Owner:
    """The disk and the state of an owner, without an agent."""

    def __init__(self, folder: Path, state: StateStore) -> None:
        self.folder, self.state, self.layout = folder, state, Layout(folder / "owner")
        self.layout.mkdirs()
        self.games = GamesIntake("hub-1", state, self.layout, lease_wait_seconds=0.2)
        self.rows = RowsIntake("hub-1", state, self.layout)

    def lay(self, *packs: Packed) -> list[Path]:
        """Put packs where nodes push them."""
        folder = self.layout.root / "data/incoming" / NODE
        folder.mkdir(parents=True, exist_ok=True)
        for one in packs:
            (folder / one.sha).write_bytes(one.data)
        return [folder / one.sha for one in packs]

    def held(self) -> list[str]:
        """Names of the leases that somebody holds."""
        return [row.name for row in lease_rows(self.state)]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    with StateStore.open(f"sqlite:///{tmp_path}/state.db") as state:
        yield Owner(tmp_path, state)


def test_leases_are_kept_and_changes_are_copied_at_the_end(owner: Owner, tmp_path: Path) -> None:
    first, second = owner.lay(pack(tmp_path, "a"), pack(tmp_path, "b"))
    with sitting(owner.state):
        take_in(owner.games, owner.rows, first, "push")
        assert owner.held() == [CANONICAL, f"collect:{CONFIG}|{NODE}"]
        take_in(owner.games, owner.rows, second, "push")
        assert merged(owner.layout.root) == {"a", "b"}
        assert pending(owner.state) == []

    assert [change.games_new for change in pending(owner.state)] == [1, 1]
    assert owner.held() == []


def test_what_ends_a_sitting_early_takes_nothing_back_and_keeps_nobody_out(owner: Owner, tmp_path: Path) -> None:
    (path,) = owner.lay(pack(tmp_path, "a"))

    def ended_early() -> None:
        with sitting(owner.state):
            take_in(owner.games, owner.rows, path, "push")
            raise KeyError

    with pytest.raises(KeyError):
        ended_early()

    assert [change.games_new for change in pending(owner.state)] == [1]
    assert owner.held() == []


def test_a_lease_of_another_process_costs_the_packs_that_need_it_and_no_others(owner: Owner, tmp_path: Path) -> None:
    blocked, free = owner.lay(pack(tmp_path, "a"), pack(tmp_path, "b", config="hex8_4p"))
    with hold(owner.state, CANONICAL):
        with sitting(owner.state):
            with pytest.raises(LeaseHeldError):
                take_in(owner.games, owner.rows, blocked, "push")
            take_in(owner.games, owner.rows, free, "push")
        assert owner.held() == [CANONICAL]
    assert merged(owner.layout.root, "hex8_4p") == {"b"}

    sweep(owner.games, owner.rows, "pass")
    assert merged(owner.layout.root) == {"a"}
