"""Whether two nodes share a disk is found out by what they read back, whatever provider they have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.identity import create_coordinator_key
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.state.measures import all_measures, sharing
from ringrift_sync_dagster.sync.router import SyncRouter
from ringrift_sync_dagster.sync.runtime import Runtime
from ringrift_sync_dagster.sync.shared_storage import probe_storage
from tests.agent.agents import AgentProcess, addresses

NODES = ("lambda-a", "lambda-b", "lambda-c")


def hosts(base: Path, agents: dict[str, AgentProcess]) -> str:
    lines = ["hosts:", f"  hub-1: {{ssh_host: 127.77.0.1, ringrift_path: {base}/hub, role: coordinator}}"]
    for name, agent in agents.items():
        place = f"ssh_host: {agent.host}, agent_port: {agent.port}, ringrift_path: {agent.root}"
        lines.append(f"  {name}: {{{place}, provider: lambda, training_enabled: true}}")
    return "\n".join(lines)


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[Runtime]:
    """Three nodes of one provider: lambda-a works on the owner's own disk, the others on another one together."""
    free, key = addresses(), create_coordinator_key(tmp_path / "keys")
    (tmp_path / "shared").mkdir()
    (tmp_path / "a").symlink_to(tmp_path / "shared")
    roots = {"lambda-a": tmp_path / "a", "lambda-b": tmp_path / "b", "lambda-c": tmp_path / "b"}
    agents = {
        name: AgentProcess(name, root, next(free), key, own_scratch=tmp_path / "scratch" / name)
        for name, root in roots.items()
    }  # fmt: skip
    with ExitStack() as stack:
        for agent in agents.values():
            stack.enter_context(agent)
        (tmp_path / "token").write_text(agents["lambda-a"].token())
        (tmp_path / "hosts.yaml").write_text(hosts(tmp_path, agents))
        settings = load_settings(
            home=tmp_path, hosts=tmp_path / "hosts.yaml", root=tmp_path / "shared", token_file=tmp_path / "token",
            state_url=f"sqlite:///{tmp_path}/state.db",
        )  # fmt: skip
        yield stack.enter_context(Runtime.open(settings))


def test_nodes_share_a_disk_that_both_read_and_those_of_one_provider_share_none(runtime: Runtime) -> None:
    nodes = [runtime.inventory.nodes[name] for name in NODES]
    found = probe_storage(runtime, nodes)
    assert found.failed == {}
    assert found.groups == (("hub-1", "lambda-a"), ("lambda-b", "lambda-c"))
    shared = sharing(all_measures(runtime.state).values())
    assert shared["lambda-a"] == {"hub-1"}
    assert (*shared["lambda-b"], *shared["lambda-c"]) == ("lambda-c", "lambda-b")

    router = SyncRouter(runtime)
    assert [str(one) for one in router.get_sync_targets("npz")] == ["lambda-b", "lambda-c"]
    assert len(router.get_sync_targets("npz", exclude_nfs_hosts=False)) == 3
    (left_out,) = [one for one in router.judge_targets("npz") if one.node == "lambda-a"]
    assert [refusal.rule for refusal in left_out.refusals] == ["shared_storage"]

    before = {name: one.storage for name, one in all_measures(runtime.state).items()}
    probe_storage(runtime, nodes[:1])  # the others keep what was known of them
    assert {name: one.storage for name, one in all_measures(runtime.state).items()} == before
    assert not list(runtime.layout.scratch.glob("storage/*"))


@pytest.mark.cluster
def test_a_node_that_is_silent_proves_nothing(runtime: Runtime, tmp_path: Path) -> None:
    nodes = [runtime.inventory.nodes[name] for name in NODES]
    (tmp_path / "token").write_text("no token at all")
    found = probe_storage(runtime, nodes)
    assert set(found.failed) == set(NODES)
    assert found.groups == (("hub-1",),)
