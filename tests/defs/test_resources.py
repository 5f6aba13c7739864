"""What is set in the launchpad reaches what a run works with; what is not set is the settings'."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ringrift_sync_dagster.core.escalation import Rung
from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.resources import SyncResource

HOSTS = """
hosts:
  hub-1: {ssh_host: 127.77.0.1, ringrift_path: /r, role: coordinator}
  local-1: {ssh_host: 127.77.0.5, ringrift_path: /r}
"""
SEEN: list[tuple[float, int, tuple[Rung, ...], int, float]] = []


@dg.op
def look(sync: SyncResource) -> None:
    with sync.runtime() as runtime:
        breakers = runtime.ladder.breakers
        SEEN.append(
            (
                runtime.bandwidth.get_host_bandwidth_limit("local-1"),
                runtime.settings.max_concurrent_syncs,
                runtime.ladder.rungs_of(runtime.inventory.get("local-1")),
                breakers.failure_threshold,
                breakers.recovery_timeout_seconds,
            )
        )


@dg.job(resource_defs=dict(defs.resources or {}), executor_def=dg.in_process_executor)
def looking() -> None:
    look()


def launch(home: Path, monkeypatch: pytest.MonkeyPatch, **resources: dict[str, Any]) -> dg.ExecuteInProcessResult:
    (home / "hosts.yaml").write_text(HOSTS)
    for name, value in (("HOSTS", home / "hosts.yaml"), ("HOME", home), ("ROOT", home / "root")):
        monkeypatch.setenv(f"RINGRIFT_SYNC_{name}", str(value))
    config = {"resources": {name: {"config": values} for name, values in resources.items()}}
    return looking.execute_in_process(run_config=config, raise_on_error=False)


def test_without_config_a_run_has_the_guides_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch(tmp_path, monkeypatch).success
    assert SEEN.pop() == (50, 5, (Rung.P2P, Rung.RSYNC, Rung.BASE64), 3, 60)


def test_each_resource_can_be_set_for_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = launch(
        tmp_path,
        monkeypatch,
        bandwidth={"bandwidth_limit_mbps": 7.5, "max_concurrent_syncs": 2},
        breakers={"failure_threshold": 2, "recovery_timeout_seconds": 30.0},
        transports={"transport": "rsync"},
    )
    assert done.success
    assert SEEN.pop() == (7.5, 2, (Rung.RSYNC,), 2, 30)


@pytest.mark.parametrize(
    "resources",
    [{"transports": {"transport": "pigeon"}}, {"breakers": {"recovery_timeout_seconds": 700.0}}],
)
def test_what_cannot_be_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any]
) -> None:
    try:
        done = launch(tmp_path, monkeypatch, **resources)
    except dg.DagsterError as error:
        words = f"{error} {error.__cause__}"
    else:
        assert not done.success
        words = str([event.event_specific_data for event in done.all_events if event.is_failure])
    (value,) = next(iter(resources.values())).values()
    assert str(value) in words
