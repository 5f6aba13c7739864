"""Packs that agents hold of other nodes: they come back after a loss, and go once the owner has them."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact, DataType
from ringrift_sync_dagster.core.retention import DAY, Kind
from ringrift_sync_dagster.node.pack import Request as PackRequest
from ringrift_sync_dagster.node.pack import make_pack
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.state.receipts import Receipt, add_receipt, has_receipt, receipts_of
from ringrift_sync_dagster.sync.collect import Request, move
from ringrift_sync_dagster.sync.held import bring_held, held_by
from ringrift_sync_dagster.sync.retention import keep
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.node.merging import game
from tests.sync.conftest import Field
from tests.sync.test_collect import A, B
from tests.sync.test_games_ways import CONFIG, games, passed, some

DEAD = "hetzner-v1"
OWNER = "hub-1"


def hand_over(field_: Field, holder: str, origin: str, *names: str) -> Artifact:
    """Let a node hand a pack of these games to another one's agent, as it does when its owner is out of reach."""
    database = field_.play(
        A, f"data/games/selfplay_{CONFIG}_{origin}.db", *[game(name, config=CONFIG) for name in names]
    )
    scratch = field_.base / f"scratch-{names[0]}"  # the kit remembers what it packed of an inode
    made = make_pack(str(database), "data/games/selfplay.db", str(scratch), PackRequest(CONFIG), clock.wall())
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()
    artifact = Artifact(made["artifact"], made["bytes"], "games")
    with (
        Runtime.open(field_.settings) as runtime,
        contextlib.closing(runtime.ladder.agent_of(runtime.nodes([holder])[0])) as agent,
    ):
        agent.push(artifact, scratch / "artifacts" / artifact.sha256, origin, deadline=Deadline.after(30))
    return artifact


def held(field_: Field, holder: str) -> dict[str, str]:
    with (
        Runtime.open(field_.settings) as runtime,
        contextlib.closing(runtime.ladder.agent_of(runtime.nodes([holder])[0])) as agent,
    ):
        return {one.sha256: one.origin for one in held_by(agent)}


@pytest.fixture(autouse=True)
def nothing_left(field_: Field) -> None:
    """What other tests left in the agents' ``incoming/`` is none of ours."""
    with Runtime.open(field_.settings) as runtime:
        for name in (A, B):
            with contextlib.closing(runtime.ladder.agent_of(runtime.nodes([name])[0])) as agent:
                for one in list(held_by(agent)):
                    agent.let_go(one, deadline=Deadline.after(10))


def lose_everything(field_: Field) -> None:
    """Delete the owner's state database and all that is below its root."""
    shutil.rmtree(field_.base / "root")
    for path in field_.base.glob("state.db*"):
        path.unlink()


def test_after_a_loss_everything_comes_back_with_what_another_agent_holds_of_a_dead_node(field_: Field) -> None:
    field_.play(A, f"data/games/selfplay_{CONFIG}.db", *some("alive", 3))
    pack = hand_over(field_, B, DEAD, "last-1", "last-2")
    passed(field_, A)
    before = games(field_.canonical(CONFIG))
    lose_everything(field_)
    assert held(field_, B)[pack.sha256] == DEAD

    report = passed(field_, A, B, recover=True)
    again = passed(field_, A, B, recover=True)

    assert set(games(field_.canonical(CONFIG))) == {*before, "last-1", "last-2"}
    assert [(note.node, note.code) for note in report.notes] == [(B, "held")]
    assert report.failures == again.failures == ()
    assert again.notes == ()
    with Runtime.open(field_.settings) as runtime:
        assert has_receipt(runtime.state, pack.sha256, OWNER)
        with runtime.intake.store._read(CONFIG) as connection:
            assert connection is not None
            told = connection.execute("SELECT DISTINCT node FROM ringrift_provenance WHERE game_id LIKE 'last-%'")
            assert told.fetchall() == [(DEAD,)]


@pytest.mark.cluster
def test_without_recovery_nobody_is_asked_for_what_it_holds(field_: Field) -> None:
    hand_over(field_, B, DEAD, "held-1")

    passed(field_, A, B)

    assert games(field_.canonical(CONFIG)) == {}


@pytest.mark.cluster
def test_while_a_node_is_silent_nodes_that_stay_are_asked_for_what_they_hold_of_it(field_: Field) -> None:
    stays = next(node for node in (A, B) if not field_.cluster.inventory.nodes[node].is_ephemeral)
    hand_over(field_, stays, DEAD, "kept-1", "kept-2")
    passed(field_, stays)  # it is known to have an agent
    with Runtime.open(field_.settings) as runtime:
        reports = [
            move(runtime, Request([DataType.GAMES], [CONFIG], [DEAD], "test", down=False))[DataType.GAMES]
            for _ in range(2)
        ]

    assert set(games(field_.canonical(CONFIG))) == {"kept-1", "kept-2"}
    assert [[(note.node, note.code) for note in report.notes] for report in reports] == [[(stays, "held")], []]


@pytest.mark.cluster
def test_a_node_without_an_agent_is_noted_and_fails_nothing(field_: Field) -> None:
    with Runtime.open(field_.settings) as runtime:
        (brought,) = bring_held(runtime, [runtime.inventory.nodes[DEAD]], "test")

    assert brought.error is None
    assert [note.code for note in brought.notes] == ["no_agent"]


def test_an_agent_lets_go_of_a_pack_a_day_after_the_owner_s_receipt_and_never_without(field_: Field) -> None:
    kept, old, young, lost = (hand_over(field_, B, DEAD, name) for name in ("no-receipt", "old", "young", "lost"))
    with Runtime.open(field_.settings) as runtime:
        where = runtime.layout.relative(runtime.intake.store.path(CONFIG))
        for pack, age in ((old, 2 * DAY), (young, DAY / 2), (lost, 2 * DAY)):
            add_receipt(runtime.state, Receipt(pack.sha256, OWNER, where, pack.size_bytes, clock.wall() - age))
            if pack is not lost:  # as a database that was put back from a backup knows nothing of it
                runtime.intake.store.add_change(CONFIG, DEAD, pack.sha256, {"artifact": pack.sha256}, None)
        runtime.intake.store.mark_sent(CONFIG, 1 << 40)
        nodes = runtime.nodes([A, B])
        planned = keep(runtime, dry_run=True, nodes=nodes)
        assert set(held(field_, B)) == {kept.sha256, old.sha256, young.sha256, lost.sha256}
        done, again = keep(runtime, nodes=nodes), keep(runtime, nodes=nodes)
        assert [one.node for one in receipts_of(runtime.state, old.sha256)] == [OWNER]

    names = [
        [one.item.name for one in run.deleted if one.item.kind is Kind.NODE_PACKS] for run in (planned, done, again)
    ]
    assert names == [[f"{B}:incoming/{DEAD}/{old.sha256}"]] * 2 + [[]]
    assert set(held(field_, B)) == {kept.sha256, young.sha256, lost.sha256}
    incoming = field_.cluster.node_root(B) / "data/.ringrift-sync/incoming" / DEAD
    assert {path.name for path in incoming.iterdir() if path.suffix == ""} == {kept.sha256, young.sha256, lost.sha256}


@pytest.mark.cluster
def test_only_the_coordinator_may_let_an_agent_delete(field_: Field) -> None:
    pack = hand_over(field_, B, DEAD, "mine")
    token = field_.cluster.token_file(A)
    settings = field_.settings.model_copy(update={"token_file": Path(token)})
    with Runtime.open(settings) as runtime, contextlib.closing(runtime.ladder.agent_of(runtime.nodes([B])[0])) as agent:
        (one,) = [one for one in held_by(agent) if one.sha256 == pack.sha256]
        with pytest.raises(Exception, match=r"403|coordinator"):
            agent.let_go(one, deadline=Deadline.after(10))

    assert pack.sha256 in held(field_, B)
