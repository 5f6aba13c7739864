from pathlib import Path

import dagster as dg
import pytest

from ringrift_sync_dagster.definitions import defs
from ringrift_sync_dagster.defs.sensors import inventory_sensor
from tests.marks import first_of

HOST = "  {name}: {{ssh_host: 127.0.0.1, ringrift_path: /srv/{name}, role: {role}, status: {status}}}\n"


def write_hosts(file: Path, *names: str, status: str = "ready") -> None:
    hosts = HOST.format(name="hub", role="coordinator", status="ready")
    hosts += "".join(HOST.format(name=name, role="gpu_selfplay", status=status) for name in names)
    file.write_text(f"hosts:\n{hosts}")


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "hosts.yaml"
    monkeypatch.setenv("RINGRIFT_SYNC_HOSTS", str(file))
    return file


def tick(instance: dg.DagsterInstance) -> str:
    """Evaluate once, do what the daemon does with the requests, and give the reason."""
    context = dg.build_sensor_context(instance=instance, definitions=defs, resources=defs.resources)
    with context:
        data = inventory_sensor.evaluate_tick(context)
    for request in data.dynamic_partitions_requests or ():
        assert isinstance(request, dg.AddDynamicPartitionsRequest)
        instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
    return data.skip_message or ""


def test_a_new_node_becomes_a_partition_and_the_coordinator_does_not(instance: dg.DagsterInstance, hosts: Path) -> None:
    write_hosts(hosts, "vast-1", "vast-2")

    assert tick(instance) == "new nodes: vast-1, vast-2"
    assert instance.get_dynamic_partitions("nodes") == ["vast-1", "vast-2"]
    assert tick(instance) == "all 2 nodes of the inventory are partitions"


def test_a_node_that_is_down_keeps_its_partition(instance: dg.DagsterInstance, hosts: Path) -> None:
    write_hosts(hosts, "vast-1", status="offline")

    tick(instance)

    assert instance.get_dynamic_partitions("nodes") == ["vast-1"]


def test_a_node_that_left_keeps_its_partition_and_is_named(instance: dg.DagsterInstance, hosts: Path) -> None:
    write_hosts(hosts, "vast-1", "vast-2")
    tick(instance)
    write_hosts(hosts, "vast-2")

    reason = tick(instance)

    assert instance.get_dynamic_partitions("nodes") == ["vast-1", "vast-2"]
    assert "1 that left it keep their partitions and their history: vast-1" in reason


@pytest.mark.parametrize("content", first_of("hosts:\n  vast-1: {ssh_host: ", "", "hosts:\n", "hosts: ["))
def test_a_half_written_inventory_deletes_nothing_and_is_named(
    instance: dg.DagsterInstance, hosts: Path, content: str
) -> None:
    write_hosts(hosts, "vast-1")
    tick(instance)
    hosts.write_text(content)

    reason = tick(instance)

    assert instance.get_dynamic_partitions("nodes") == ["vast-1"]
    assert reason.startswith("the inventory cannot be read, so the partitions stay as they are: ")
    assert "hosts.yaml" in reason


def test_a_missing_inventory_deletes_nothing(instance: dg.DagsterInstance, hosts: Path) -> None:
    write_hosts(hosts, "vast-1")
    tick(instance)
    hosts.unlink()

    assert "cannot be read" in tick(instance)
    assert instance.get_dynamic_partitions("nodes") == ["vast-1"]
