"""What goes with a node: only what it said and what never came, told once, and taken back by what comes later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.intake.arrival import Arrival
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.state.events import newest_events
from ringrift_sync_dagster.state.node_reports import NodeReport, take_report
from ringrift_sync_dagster.state.nodes import failed, seen
from ringrift_sync_dagster.state.risks import IDENTITY_CHARS, Risk, every, put, risk_of
from ringrift_sync_dagster.sync.losses import GONE_SECONDS, find_losses, known_losses, lost_ids, too_old
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.agent.packing import pack

HOSTS = """
hosts:
  hub-1: {{ssh_host: 127.0.0.1, role: coordinator, ringrift_path: /srv}}
  vast-1: {{ssh_host: 127.0.0.2, ringrift_path: /srv, is_ephemeral: true, status: {status}}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "hosts.yaml").write_text(HOSTS.format(status="ready"))
    return load_settings(
        home=tmp_path, hosts=tmp_path / "hosts.yaml", root=tmp_path / "root", state_url=f"sqlite:///{tmp_path}/state.db"
    )


@pytest.fixture
def runtime(settings: Settings) -> Iterator[Runtime]:
    with Runtime.open(settings) as opened:
        yield opened


def arrive(runtime: Runtime, folder: Path, *names: str) -> None:
    packed = pack(folder, *names)
    path = runtime.layout.incoming_artifact("vast-1", packed.sha)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed.data)
    runtime.intake.accept(Arrival(Artifact(packed.sha, len(packed.data), "games"), path, "vast-1"))


def say(runtime: Runtime, *ids: str, ago: float = 0.0, games: int = 0) -> None:
    now = clock.wall()
    put(runtime.state, Risk("vast-1", games or len(ids), 100, ids, now - ago - 5, at=now - ago))


def test_after_a_silence_only_what_never_came_is_lost_and_what_comes_later_is_not(
    runtime: Runtime, tmp_path: Path
) -> None:
    say(runtime, "a", "b", "c", ago=GONE_SECONDS + 5)
    arrive(runtime, tmp_path, "a")
    seen(runtime.state, "vast-1", at=1.0)
    assert find_losses(runtime) == []  # it still answers
    failed(runtime.state, "vast-1", "no answer", at=2.0)

    (loss,) = find_losses(runtime)
    assert (loss.risk.node, loss.games, loss.ids) == ("vast-1", 2, ("b", "c"))
    assert find_losses(runtime) == []
    (event,) = newest_events(runtime.state, ["GAMES_LOST"])
    assert (event.payload["node"], event.payload["games"], event.payload["ids"]) == ("vast-1", 2, ["b", "c"])
    assert "it does not answer" in event.payload["reason"]

    arrive(runtime, tmp_path, "b")
    assert [one.ids for one in known_losses(runtime.state, runtime.layout)] == [("c",)]
    say(runtime, "d")
    assert known_losses(runtime.state, runtime.layout) == []
    assert every(runtime.state)[0].lost_at is None


def test_a_game_of_another_node_with_the_same_id_hides_none_that_is_lost(runtime: Runtime, tmp_path: Path) -> None:
    arrive(runtime, tmp_path, "a", "b")
    ((there, *_),) = runtime.intake.store.known("hex8_2p", ["a"]).values()
    aside = runtime.intake.quarantine
    aside.add("vast-2", f"c~{'5' * 64}", b"x", reason="short", detail="", artifact="", at=clock.wall())
    claims = [
        ("a", there[:IDENTITY_CHARS]), ("a", "0" * IDENTITY_CHARS), ("b", ""), ("c", "5" * IDENTITY_CHARS),
        ("c", "6" * IDENTITY_CHARS), ("d", ""),
    ]  # fmt: skip
    ids, identities = [one for one, _ in claims], [identity for _, identity in claims]
    now = clock.wall()
    put(runtime.state, Risk("vast-1", 6, 100, ids, now, at=now, identities=identities))
    risk = risk_of(runtime.state, "vast-1")
    assert risk is not None
    assert risk.claims == claims

    assert lost_ids(runtime.layout, risk) == ("a", "c", "d")
    assert lost_ids(runtime.layout, replace(risk, identities=())) == ("d",)  # an agent that tells ids only


def test_a_node_that_is_retired_is_gone_at_once_but_not_while_it_speaks(settings: Settings) -> None:
    settings.hosts.write_text(HOSTS.format(status="retired"))
    with Runtime.open(settings) as runtime:
        say(runtime, "a", games=3)
        assert find_losses(runtime) == []
        say(runtime, "a", games=3, ago=61)
        (loss,) = find_losses(runtime)

    assert (loss.games, loss.ids, loss.reason) == (3, ("a",), "its status is retired")


def test_a_node_with_nothing_at_risk_loses_nothing_whatever_becomes_of_it(settings: Settings) -> None:
    settings.hosts.write_text(HOSTS.format(status="retired"))
    with Runtime.open(settings) as runtime:
        say(runtime, ago=10_000)
        assert find_losses(runtime) == []
        assert newest_events(runtime.state, ["GAMES_LOST"]) == []


def test_a_game_that_is_too_old_by_the_node_s_own_word_is_to_be_rescued(runtime: Runtime) -> None:
    say(runtime, "a", "b", ago=296)
    (orphans,) = too_old(runtime, clock.wall(), 300)
    assert (orphans.node, orphans.games, orphans.payload()["orphan_paths"]) == ("vast-1", 2, [])
    assert too_old(runtime, clock.wall(), 400) == []


def test_what_went_with_the_node_before_one_of_the_same_name_is_told(runtime: Runtime) -> None:
    say(runtime, "a", "b", ago=120)
    for outbox in ("one", "two"):
        take_report(runtime.state, "vast-1", NodeReport(outbox=outbox), clock.wall())
    say(runtime)

    (loss,) = find_losses(runtime)
    assert (loss.ids, loss.reason) == (("a", "b"), "vast-1 came back without what it had")
    assert find_losses(runtime) == []
