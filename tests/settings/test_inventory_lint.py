"""Warnings: an inventory that loads, and still cannot be meant so."""

from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import Problem
from ringrift_sync_dagster.settings.inventory import load_inventory

HUB = "  hub-1: {ssh_host: 10.0.0.1, ringrift_path: /rr/ai-service, role: coordinator}\n"


def warnings(tmp_path: Path, text: str) -> list[Problem]:
    (tmp_path / "a.yaml").write_text(text)
    return list(load_inventory(tmp_path).warnings)


def only(tmp_path: Path, text: str) -> Problem:
    (warning,) = warnings(tmp_path, text)
    assert warning.severity == "warning"
    return warning


def host(name: str, entry: str) -> str:
    return f"  {name}: {{ringrift_path: /rr/ai-service, {entry}}}\n"


@pytest.mark.parametrize(
    "key, meant", [("ssh_prot", "ssh_port"), ("ringrift_paths", "ringrift_path"), ("is_ephemral", "is_ephemeral")]
)
def test_an_unknown_key_is_kept_with_the_nearest_known_one_named(tmp_path: Path, key: str, meant: str) -> None:
    text = f"hosts:\n{HUB}{host('vast-1', f'ssh_host: a, {key}: 7')}"
    warning = only(tmp_path, text)
    assert (warning.line, warning.host, warning.key) == (3, "vast-1", key)
    assert warning.message.endswith(f"did you mean {meant}?")
    assert load_inventory(tmp_path).get("vast-1").extra == {key: 7}


def test_numbers_that_providers_give_are_no_unknown_keys(tmp_path: Path) -> None:
    text = host("vast-1", "ssh_host: a, vast_instance_id: 5, runpod_id: x, aws_instance_id: i, cloudflare_tunnel: t")
    assert warnings(tmp_path, f"hosts:\n{HUB}{text}") == []


def test_unknown_sections_and_keys_of_sections_are_warnings(tmp_path: Path) -> None:
    found = warnings(tmp_path, f"auto_snyc: {{}}\nauto_sync: {{interval_secs: 5}}\nhosts:\n{HUB}")
    assert [(w.line, w.key) for w in found] == [(1, "auto_snyc"), (2, "auto_sync.interval_secs")]
    assert "did you mean auto_sync?" in found[0].message
    assert "did you mean interval_seconds?" in found[1].message


def test_a_host_beside_the_key_hosts_is_a_warning(tmp_path: Path) -> None:
    assert "indent it below" in only(tmp_path, f"vast-1: {{ssh_host: a}}\nhosts:\n{HUB}").message


@pytest.mark.parametrize(
    "entry, key, part",
    [
        ("role: gpu_selfplai", "role", "did you mean gpu_selfplay?"),
        ("status: redy", "status", "counts as ready; did you mean ready?"),
        ("provider: vsat", "provider", "did you mean vast?"),
    ],
)
def test_an_unknown_word_is_a_warning_and_the_host_is_still_served(
    tmp_path: Path, entry: str, key: str, part: str
) -> None:
    warning = only(tmp_path, f"hosts:\n{HUB}{host('x-1', f'ssh_host: a, {entry}')}")
    assert warning.key == key
    assert part in warning.message
    assert load_inventory(tmp_path).get("x-1").collectable


def test_a_missing_path_is_a_warning_that_names_the_one_used(tmp_path: Path) -> None:
    found = warnings(tmp_path, f"hosts:\n{HUB}  runpod-1: {{ssh_host: a}}\n  vultr-1: {{ssh_host: b}}\n")
    assert [(w.host, w.key) for w in found] == [("runpod-1", "ringrift_path"), ("vultr-1", "ringrift_path")]
    assert "/workspace/ringrift/ai-service is used" in found[0].message
    assert "~/ringrift/ai-service is used" in found[1].message


@pytest.mark.parametrize(
    "first, second",
    [
        ("ssh_host: 10.0.0.9", "ssh_host: 10.0.0.9"),
        ("ssh_host: 127.0.0.1", "ssh_host: localhost"),
        ("ssh_host: '::1'", "ssh_host: 127.0.0.1"),
        ("ssh_host: Host.example", "ssh_host: me@host.example."),
        ("ssh_host: a, tailscale_ip: 100.64.0.9", "ssh_host: b, tailscale_ip: 100.64.0.9"),
        ("ssh_host: a, tailscale_ip: 100.64.0.9", "ssh_host: 100.64.0.9"),
        ("ssh_host: a, ssh_port: 4022", "ssh_host: a, ssh_port: 4022"),
    ],
)
def test_two_names_for_one_address_are_a_warning(tmp_path: Path, first: str, second: str) -> None:
    warning = only(tmp_path, f"hosts:\n{HUB}{host('vast-1', first)}{host('vast-2', second)}")
    assert (warning.host, warning.line) == ("vast-2", 4)
    assert "is also the address of vast-1" in warning.message


@pytest.mark.parametrize(
    "first, second",
    [
        ("ssh_host: proxy, ssh_port: 4022", "ssh_host: proxy, ssh_port: 4023"),
        ("ssh_host: 127.0.0.1, agent_port: 9001", "ssh_host: 127.0.0.1, agent_port: 9002"),
        ("ssh_host: 127.77.0.1", "ssh_host: 127.77.0.2"),
        ("ssh_host: a, status: retired", "ssh_host: a"),
        ("ssh_host: a, status: terminated", "ssh_host: a"),
    ],
)
def test_hosts_behind_one_proxy_or_after_one_another_are_two_machines(tmp_path: Path, first: str, second: str) -> None:
    assert warnings(tmp_path, f"hosts:\n{HUB}{host('vast-1', first)}{host('vast-2', second)}") == []


def test_names_that_differ_in_case_only_are_a_warning(tmp_path: Path) -> None:
    warning = only(tmp_path, f"hosts:\n{HUB}{host('vast-1', 'ssh_host: a')}{host('Vast-1', 'ssh_host: b')}")
    assert (warning.host, warning.line) == ("Vast-1", 4)


@pytest.mark.parametrize(
    "excluding", ["sync_routing: {excluded_hosts: [%s], %s}", "auto_sync: {exclude_hosts: [%s]}\nsync_routing: {%s}"]
)
@pytest.mark.parametrize(
    "choosing, name",
    [
        ("allowed_external_storage: [{host: hub-1, path: /x}]", "sync_routing.allowed_external_storage"),
        ("priority_hosts: [hub-1]", "sync_routing.priority_hosts"),
        ("s3: {push_enabled_hosts: [hub-1]}", "sync_routing.s3.push_enabled_hosts"),
    ],
)
@pytest.mark.parametrize("pattern", ["hub-1", '"hub-*"'])
def test_a_host_that_is_excluded_and_chosen_is_a_warning(
    tmp_path: Path, excluding: str, choosing: str, name: str, pattern: str
) -> None:
    warning = only(tmp_path, f"hosts:\n{HUB}{excluding % (pattern, choosing)}\n")
    assert warning.line == 3
    assert warning.message == f"hub-1 is excluded here and named in {name}; remove it from one of them"


def test_lists_in_two_files_contradict_each_other_too(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("sync_routing: {priority_hosts: [hub-1]}\n")
    assert "priority_hosts" in only(tmp_path, f"hosts:\n{HUB}sync_routing: {{excluded_hosts: [hub-1]}}\n").message


def test_a_list_that_names_nobody_is_a_warning(tmp_path: Path) -> None:
    text = f"hosts:\n{HUB}auto_sync: {{exclude_hosts: [hub-11]}}\nelo_sync: {{coordinator: hub-2}}\n"
    found = warnings(tmp_path, text)
    assert [w.key for w in found] == ["auto_sync.exclude_hosts", "elo_sync.coordinator"]
    assert all(w.message.endswith("did you mean hub-1?") for w in found)


@pytest.mark.parametrize(
    "entry, key",
    [
        ("ringrift_path: ~/ringrift/ai-service/ai-service", "ringrift_path"),
        ("ringrift_path: /rr, storage_paths: [/mnt/mnt/x]", "storage_paths"),
        ("ringrift_path: /rr, external_storage_path: /a/v/v", "external_storage_path"),
    ],
)
def test_a_doubled_path_segment_is_a_warning(tmp_path: Path, entry: str, key: str) -> None:
    warning = only(tmp_path, f"hosts:\n{HUB}  x-1: {{ssh_host: a, {entry}}}\n")
    assert (warning.host, warning.key) == ("x-1", key)
    assert "repeats a segment; did you mean" in warning.message


@pytest.mark.parametrize(
    "text, key",
    [
        (f"auto_sync: {{bandwidth_limit_mbps: 1000}}\nhosts:\n{HUB}", "auto_sync.bandwidth_limit_mbps"),
        (
            f"auto_sync: {{host_bandwidth_overrides: {{'hub-*': 1000}}}}\nhosts:\n{HUB}",
            "auto_sync.host_bandwidth_overrides.hub-*",
        ),
        (f"hosts:\n{HUB}{host('x-1', 'ssh_host: a, bandwidth_mbps: 1000')}", "bandwidth_mbps"),
    ],
)
def test_a_limit_that_looks_like_megabits_is_a_warning(tmp_path: Path, text: str, key: str) -> None:
    warning = only(tmp_path, text)
    assert warning.key == key
    assert "write 125" in warning.message
    assert warnings(tmp_path, text.replace("1000", "999")) == []


def test_a_cleanup_that_stops_where_it_starts_is_a_warning(tmp_path: Path) -> None:
    text = f"sync_routing: {{max_disk_usage_percent: 70, target_disk_usage_percent: 70}}\nhosts:\n{HUB}"
    assert only(tmp_path, text).key == "sync_routing.target_disk_usage_percent"


def test_no_coordinator_is_a_warning_unless_the_settings_name_it(tmp_path: Path) -> None:
    assert "no host has the role coordinator" in only(tmp_path, f"hosts:\n{host('x-1', 'ssh_host: a')}").message
    assert load_inventory(tmp_path, coordinator="x-1").warnings == ()


def test_of_two_coordinators_one_is_taken_with_a_warning(tmp_path: Path) -> None:
    text = f"hosts:\n{HUB}{host('x-1', 'ssh_host: a, role: coordinator')}"
    warning = only(tmp_path, text)
    assert (warning.host, "x-1" in warning.message) == ("hub-1", True)
    found = warnings(tmp_path, f"{text}elo_sync: {{coordinator: x-1}}\n")
    assert [w.host for w in found] == ["x-1"]


def test_an_inactive_coordinator_gives_way_to_an_active_one(tmp_path: Path) -> None:
    off = host("a-1", "ssh_host: a, role: coordinator, status: offline")
    assert [w.host for w in warnings(tmp_path, f"hosts:\n{off}{HUB}")] == ["hub-1"]


@pytest.mark.parametrize("name", ["mac-studio", "localhost", "local-mac", "my-coordinator", "macbook-2"])
def test_a_name_that_sounds_like_a_coordinator_is_only_a_warning(tmp_path: Path, name: str) -> None:
    warning = only(tmp_path, f"hosts:\n{HUB}{host(name, 'ssh_host: a')}")
    assert (warning.host, warning.key) == (name, "role")
    assert load_inventory(tmp_path).get(name).collectable
    assert warnings(tmp_path, f"hosts:\n{HUB}{host(name, 'ssh_host: a, is_coordinator: false')}") == []


def test_a_flag_that_denies_the_role_is_a_warning_and_the_role_counts(tmp_path: Path) -> None:
    text = "hosts:\n  x-1: {ssh_host: a, ringrift_path: r, role: coordinator, is_coordinator: false}\n"
    assert only(tmp_path, text).key == "is_coordinator"
    assert load_inventory(tmp_path).get("x-1").is_coordinator
