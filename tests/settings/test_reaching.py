"""What the inventory says of the ways to a host: its own addresses, providers' proxies, SOCKS, host keys, limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory

HUB = "  hub-1: {ssh_host: 10.0.0.1, ringrift_path: /rr/ai-service, role: coordinator}\n"


def load(directory: Path, text: str) -> Inventory:
    (directory / "a.yaml").write_text(text)
    return load_inventory(directory)


def hosts(text: str) -> str:
    return f"hosts:\n{HUB}{text}"


def test_a_host_that_says_nothing_of_limits_proxies_and_host_keys_has_the_strict_defaults(tmp_path: Path) -> None:
    node = load(tmp_path, hosts("  vast-1: {ssh_host: h.example, ringrift_path: r}\n")).get("vast-1")
    assert (node.bandwidth_mbps, node.hard_limit, node.socks5_port) == (None, False, 0)
    assert (node.host_key_checking, node.proxied_ssh) == ("strict", False)
    assert node.own_addresses == ("h.example",)


@pytest.mark.parametrize("address", ["ssh4.vast.ai", "SSH.RunPod.io.", "root@100-ab.proxy.runpod.net"])
def test_a_providers_ssh_proxy_is_not_the_node(tmp_path: Path, address: str) -> None:
    entry = f"{{ssh_host: {address}, ssh_port: 41022, tailscale_ip: 100.64.0.9, ringrift_path: r}}"
    node = load(tmp_path, hosts(f"  box-1: {entry}\n")).get("box-1")
    assert node.proxied_ssh
    assert node.own_addresses == ("100.64.0.9",)
    assert node.ssh_addresses == (("100.64.0.9", 22), (node.ssh_host, 41022))


@pytest.mark.parametrize("address", ["vast.ai.example", "notvast.ai", "203.0.113.9"])
def test_a_name_that_only_looks_like_a_providers_is_the_nodes_own(tmp_path: Path, address: str) -> None:
    node = load(tmp_path, hosts(f"  box-1: {{ssh_host: {address}, ringrift_path: r}}\n")).get("box-1")
    assert (node.proxied_ssh, node.own_addresses) == (False, (address,))


def test_hosts_that_share_an_address_and_differ_in_the_ssh_port_are_behind_a_proxy(tmp_path: Path) -> None:
    entry = "{{ssh_host: {}, ssh_port: {}, ringrift_path: r}}"
    shared = [
        entry.format("sshX.example", 41022),
        entry.format("sshx.example", 41023),
        entry.format("other.example", 1),
    ]
    inventory = load(tmp_path, hosts("".join(f"  vast-{i}: {line}\n" for i, line in enumerate(shared))))
    assert [inventory.get(f"vast-{i}").proxied_ssh for i in range(3)] == [True, True, False]
    assert inventory.get("vast-1").own_addresses == ()


def test_containers_of_one_host_with_an_agent_port_each_are_reached_there(tmp_path: Path) -> None:
    entry = "{{ssh_host: 10.0.0.5, ssh_port: {}, agent_port: {}, ringrift_path: r}}"
    text = f"  box-1: {entry.format(2201, 9001)}\n  box-2: {entry.format(2202, 9002)}\n"
    inventory = load(tmp_path, hosts(text))
    assert [inventory.get(name).own_addresses for name in ("box-1", "box-2")] == [("10.0.0.5",)] * 2


def test_a_forced_relay_and_a_blocking_nat_leave_only_the_private_network(tmp_path: Path) -> None:
    for key in ("force_relay_mode", "nat_blocked"):
        text = f"  box-1: {{ssh_host: h.example, ringrift_path: r, {key}: true}}\n"
        assert load(tmp_path, hosts(text)).get("box-1").own_addresses == ()
        text = f"  box-1: {{ssh_host: h.example, tailscale_ip: 100.64.0.9, ringrift_path: r, {key}: true}}\n"
        assert load(tmp_path, hosts(text)).get("box-1").own_addresses == ("100.64.0.9",)
