"""The inventory that is shipped, its example of a large cluster, and the README beside them."""

from collections import Counter
from pathlib import Path

from ringrift_sync_dagster.settings.hosts_schema import (
    ACTIVE_STATUSES,
    HOST_KEYS,
    INACTIVE_STATUSES,
    OTHER_SECTIONS,
    PROVIDERS,
    ROLES,
    SECTION_KEYS,
)
from ringrift_sync_dagster.settings.inventory import load_inventory

HOSTS = Path(__file__).parents[2] / "hosts"


def test_the_shipped_inventory_is_the_demo_cluster_without_a_warning() -> None:
    inventory = load_inventory(HOSTS)
    assert inventory.warnings == ()
    assert {name: (node.ssh_host, node.role) for name, node in inventory.nodes.items()} == {
        "hub-1": ("127.77.0.1", "coordinator"),
        "vast-900001": ("127.77.0.11", "gpu_selfplay"),
        "runpod-a1": ("127.77.0.12", "gpu_training_selfplay"),
        "nebius-t1": ("127.77.0.13", "gpu_training_primary"),
        "hetzner-v1": ("127.77.0.14", "cpu_selfplay"),
    }
    for name, node in inventory.nodes.items():
        assert node.ringrift_path == f".ringrift/demo/{name}/ai-service"
        assert inventory.is_trusted(node.address)
    assert inventory.coordinator is inventory.get("hub-1")
    assert [node.name for node in inventory.nodes.values() if node.is_ephemeral] == ["vast-900001"]
    assert inventory.get("nebius-t1").training_enabled


def test_the_example_of_a_large_cluster_loads_without_a_warning() -> None:
    inventory = load_inventory(HOSTS / "examples" / "fleet.yaml")
    assert inventory.warnings == ()
    assert len(inventory.nodes) == 42
    assert len(inventory.active_nodes()) == 32
    assert Counter(node.provider for node in inventory.nodes.values()) == {
        "vast": 14,
        "lambda": 11,
        "runpod": 5,
        "nebius": 4,
        "hetzner": 3,
        "vultr": 2,
        "local": 1,
        "mac": 1,
        "aws": 1,
    }
    assert {node.role for node in inventory.nodes.values()} == set(ROLES)
    assert inventory.coordinator is inventory.get("local-mac-studio")


def test_behind_the_providers_proxies_of_the_example_nothing_but_ssh_is_asked() -> None:
    inventory = load_inventory(HOSTS / "examples" / "fleet.yaml")
    proxied = {node.name for node in inventory.nodes.values() if node.proxied_ssh}
    assert proxied == {name for name, node in inventory.nodes.items() if node.provider == "vast"}
    assert all(inventory.get(name).own_addresses == () for name in proxied)
    assert inventory.get("nebius-h100-1").own_addresses == ("100.64.2.1", "203.0.113.21")
    assert inventory.get("runpod-h100").socks5_port == 1055


def test_the_readme_names_every_key_section_role_status_and_provider() -> None:
    text = (HOSTS / "README.md").read_text()
    for word in (*HOST_KEYS, *SECTION_KEYS, *OTHER_SECTIONS, *ROLES, *PROVIDERS, *ACTIVE_STATUSES, *INACTIVE_STATUSES):
        assert f"`{word}`" in text or word == "hosts", word
