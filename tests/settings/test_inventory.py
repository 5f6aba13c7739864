"""Reading the inventory: what upstream's files hold is understood, and every mistake has file, line, host and key."""

from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory

HUB = "  hub-1: {ssh_host: 10.0.0.1, ringrift_path: /rr/ai-service, role: coordinator}\n"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts").mkdir()
    return tmp_path / "hosts"


def load(directory: Path, text: str, *, coordinator: str = "") -> Inventory:
    (directory / "a.yaml").write_text(text)
    return load_inventory(directory, coordinator=coordinator)


def hosts(text: str) -> str:
    return f"hosts:\n{HUB}{text}"


def errors(directory: Path, text: str = "") -> list[Problem]:
    if text:
        (directory / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_inventory(directory)
    return [problem for problem in caught.value.problems if problem.severity == "error"]


def places(problems: list[Problem]) -> list[tuple[str, int | None, str, str]]:
    return [(problem.file, problem.line, problem.host, problem.key) for problem in problems]


def test_a_host_is_read_with_all_that_it_says(directory: Path) -> None:
    text = """
  nebius-t1:
    ssh_host: 198.51.100.7
    ssh_user: ubuntu
    ssh_port: 41022
    ssh_key: ~/.ssh/id_lab
    tailscale_ip: 100.64.0.7
    ringrift_path: ~/ringrift/ai-service/
    role: GPU_training_primary
    status: Ready
    nat_blocked: true
    skip_sync_receive: true
    selfplay_enabled: true
    agent_port: 9001
    agent_tls_fingerprint: "AB:CDCD:{rest}"
    storage_paths: [/mnt/a, ~/b]
    gpu: H100
    bandwidth_mbps: 100
    hard_limit: true
    socks5_port: 1055
    ssh_host_key_checking: accept-new
    nebius_id: computeinstance-x
""".replace("{rest}", "cd" * 29)
    inventory = load(directory, hosts(text))
    node = inventory.get("nebius-t1")
    assert inventory.warnings == ()
    assert (node.ssh_host, node.ssh_user, node.ssh_port, node.ssh_key) == (
        "198.51.100.7",
        "ubuntu",
        41022,
        "~/.ssh/id_lab",
    )
    assert (node.tailscale_ip, node.address, node.agent_port) == ("100.64.0.7", "100.64.0.7", 9001)
    assert (node.ringrift_path, node.storage_paths) == ("~/ringrift/ai-service", ("/mnt/a", "~/b"))
    assert (node.role, node.status, node.provider) == ("gpu_training_primary", "ready", "nebius")
    assert (node.nat_blocked, node.skip_sync_receive, node.is_ephemeral) == (True, True, False)
    assert (node.training_enabled, node.selfplay_enabled) == (True, True)
    assert node.tls_fingerprint == "ab" + "cd" * 31
    assert (node.bandwidth_mbps, node.hard_limit) == (100.0, True)
    assert (node.socks5_port, node.host_key_checking) == (1055, "accept-new")
    assert node.extra == {"gpu": "H100", "nebius_id": "computeinstance-x"}


def test_a_user_in_ssh_host_is_taken_off_and_used(directory: Path) -> None:
    node = load(directory, hosts("  vultr-1: {ssh_host: root@203.0.113.9, ringrift_path: r}\n")).get("vultr-1")
    assert (node.ssh_user, node.ssh_host, node.address) == ("root", "203.0.113.9", "203.0.113.9")


def test_two_different_users_are_a_warning_and_the_key_wins(directory: Path) -> None:
    inventory = load(directory, hosts("  vultr-1: {ssh_host: root@203.0.113.9, ssh_user: me, ringrift_path: r}\n"))
    assert inventory.get("vultr-1").ssh_user == "me"
    assert [warning.key for warning in inventory.warnings] == ["ssh_user"]


@pytest.mark.parametrize(
    "name, provider",
    [
        *(("vast-1", "vast"), ("lambda-gh200-a", "lambda"), ("runpod-h100", "runpod"), ("nebius-1", "nebius")),
        *(("hetzner-cpu1", "hetzner"), ("vultr-a100", "vultr"), ("local-mac", "local"), ("mac-studio", "mac")),
        *(("macbook-air", "mac"), ("aws-proxy", "aws"), ("hub-9", ""), ("vastly", "")),
    ],
)
def test_the_provider_is_what_the_name_begins_with_unless_it_is_written(
    directory: Path, name: str, provider: str
) -> None:
    entry = "{ssh_host: h.example, ringrift_path: r, role: backbone%s}"
    assert load(directory, hosts(f"  {name}: {entry % ''}\n")).get(name).provider == provider
    written = load(directory, hosts(f"  {name}: {entry % ', provider: Vast.ai'}\n")).get(name)
    assert (written.provider, written.is_ephemeral) == ("vast", True)


def test_a_vast_host_is_ephemeral_unless_it_says_otherwise(directory: Path) -> None:
    text = "  vast-1: {ssh_host: a, ringrift_path: r}\n  vast-2: {ssh_host: b, ringrift_path: r, is_ephemeral: false}\n"
    inventory = load(directory, hosts(text))
    assert [inventory.get(name).is_ephemeral for name in ("vast-1", "vast-2")] == [True, False]


@pytest.mark.parametrize("status", ["ready", "active", "online", "unstable", "Ready"])
def test_hosts_that_are_up_are_asked_for_data(directory: Path, status: str) -> None:
    node = load(directory, hosts(f"  vast-1: {{ssh_host: a, ringrift_path: r, status: {status}}}\n")).get("vast-1")
    assert node.active
    assert node.collectable


@pytest.mark.parametrize(
    "status", ["offline", "retired", "proxy_only", "stopped", "disabled", "setup", "terminated", "maintenance"]
)
def test_hosts_that_are_not_up_are_left_alone_and_may_lack_an_address(directory: Path, status: str) -> None:
    inventory = load(directory, hosts(f"  vast-1: {{ssh_host: null, ringrift_path: r, status: {status}}}\n"))
    assert inventory.warnings == ()
    assert [node.name for node in inventory.active_nodes()] == ["hub-1"]
    assert inventory.collectable_nodes() == ()


def test_several_files_are_one_inventory(directory: Path) -> None:
    (directory / "hub.yaml").write_text(f"auto_sync: {{interval_seconds: 30}}\np2p_voters: [hub-1]\nhosts:\n{HUB}")
    (directory / "vast.yml").write_text(
        "auto_sync: {max_concurrent_syncs: 2}\np2p_voters: [vast-1]\n"
        "hosts:\n  vast-1: {ssh_host: a, ringrift_path: r}\n"
    )
    (directory / ".hidden.yaml").write_text("{{{")
    (directory / "README.md").write_text("{{{")
    (directory / "examples").mkdir()
    (directory / "examples" / "x.yaml").write_text("{{{")
    inventory = load_inventory(directory)
    assert list(inventory.nodes) == ["hub-1", "vast-1"]
    assert inventory.auto_sync == {"interval_seconds": 30, "max_concurrent_syncs": 2}
    assert inventory.sections["p2p_voters"] == ["hub-1", "vast-1"]


def test_a_host_named_twice_is_an_error_that_names_both_places(directory: Path) -> None:
    (directory / "b.yaml").write_text("hosts:\n\n  hub-1: {ssh_host: z, ringrift_path: r}\n")
    (problem,) = errors(directory, hosts(""))
    assert places([problem]) == [("hosts/b.yaml", 3, "hub-1", "")]
    assert "first in hosts/a.yaml:2" in problem.message


def test_a_key_written_twice_is_an_error_that_names_both_lines(directory: Path) -> None:
    text = "hosts:\n  hub-1:\n    ssh_host: a\n    role: coordinator\n    ssh_host: b\n  hub-1: {ssh_host: c}\n"
    found = errors(directory, text)
    assert sorted((problem.line, problem.key) for problem in found) == [(5, "ssh_host"), (6, "hub-1")]
    assert "first in line 3" in str(found)


def test_a_section_key_with_two_values_is_an_error_that_names_both_places(directory: Path) -> None:
    (directory / "b.yaml").write_text("auto_sync:\n  interval_seconds: 5\n  enabled: true\n")
    (problem,) = errors(directory, f"auto_sync:\n  enabled: true\n  interval_seconds: 60\nhosts:\n{HUB}")
    assert places([problem]) == [("hosts/b.yaml", 2, "", "auto_sync.interval_seconds")]
    assert "another value in hosts/a.yaml:3" in problem.message


def test_anchors_and_merge_keys_work_and_an_own_key_wins(directory: Path) -> None:
    text = """
x-defaults: &defaults {ssh_user: ubuntu, ringrift_path: /rr/ai-service, ssh_port: 22}
hosts:
  hub-1: {<<: *defaults, ssh_host: a, role: coordinator}
  vast-1:
    <<: *defaults
    ssh_host: b
    ssh_port: 4022
"""
    inventory = load(directory, text)
    assert inventory.warnings == ()
    assert inventory.get("vast-1").ssh_port == 4022
    assert inventory.get("hub-1").ssh_user == inventory.get("vast-1").ssh_user == "ubuntu"


@pytest.mark.parametrize(
    "entry, key, part",
    [
        ("ssh_port: 22abc", "ssh_port", "'22abc' is not a whole number from 1 to 65535"),
        ("ssh_port: '22'", "ssh_port", "without quotes"),
        ("ssh_port: -1", "ssh_port", "-1 is not a whole number"),
        ("ssh_port: 0", "ssh_port", "0 is not"),
        ("ssh_port: 65536", "ssh_port", "65536 is not"),
        ("ssh_port: 22.5", "ssh_port", "22.5 is not"),
        ("ssh_port: true", "ssh_port", "true is not"),
        ("is_ephemeral: 'true'", "is_ephemeral", "'true' is not true or false, without quotes"),
        ("nat_blocked: 1", "nat_blocked", "1 is not true or false"),
        ("status: off", "status", "so put the text in quotes"),
        ("role: [a]", "role", "['a'] is not text"),
        ("role: 7", "role", "put it in quotes"),
        ("ssh_user: -oProxyCommand=x", "ssh_user", "is not the name of a user"),
        ("ringrift_path: 5", "ringrift_path", "5 is not a path"),
        ('ringrift_path: "a\\0b"', "ringrift_path", "is not a path"),
        ("ringrift_path: -x", "ringrift_path", "'-x' is not a path"),
        ("tailscale_ip: not an ip", "tailscale_ip", "is not a host name or an IP address"),
        ("storage_paths: [1]", "storage_paths", "[1] is not a list of paths"),
        ("storage_paths: /mnt/a", "storage_paths", "write it as [/mnt/a]"),
        ("bandwidth_mbps: 0", "bandwidth_mbps", "0 is not a number above 0, in MB/s"),
        ("bandwidth_mbps: .nan", "bandwidth_mbps", "is not a number above 0"),
        ("socks5_port: 0", "socks5_port", "0 is not a whole number from 1 to 65535"),
        ("force_relay_mode: 1", "force_relay_mode", "1 is not true or false"),
        ("hard_limit: 'no'", "hard_limit", "'no' is not true or false"),
        ("ssh_host_key_checking: no", "ssh_host_key_checking", "false is not strict or accept-new"),
        ("ssh_host_key_checking: [strict]", "ssh_host_key_checking", "is not strict or accept-new"),
        ("agent_tls_fingerprint: abc", "agent_tls_fingerprint", "64 hexadecimal digits"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_with_file_line_host_and_key(
    directory: Path, entry: str, key: str, part: str
) -> None:
    (problem,) = errors(directory, hosts(f"  vast-1:\n    ssh_host: a\n    {entry}\n"))
    assert places([problem]) == [("hosts/a.yaml", 5, "vast-1", key)]
    assert part in problem.message


@pytest.mark.parametrize(
    "address, part",
    [
        ("10.0.0.1:22", "a port belongs into ssh_port"),
        ("-oProxyCommand=touch", "is not"),
        ("a b", "is not"),
        ("user@", "is not"),
        ("-l@host", "is not"),
        ("http://host", "is not"),
        ("22", "22 is not"),
        ("[]", "[] is not"),
    ],
)
def test_an_ssh_host_that_is_none_is_an_error(directory: Path, address: str, part: str) -> None:
    (problem,) = errors(directory, hosts(f"  vast-1: {{ssh_host: {address!s}, ringrift_path: r}}\n"))
    assert problem.key == "ssh_host"
    assert part in problem.message


def test_an_ipv6_address_may_have_brackets(directory: Path) -> None:
    text = '  vast-1: {ssh_host: "root@[2001:db8::1]", ringrift_path: r}\n'
    assert load(directory, hosts(text)).get("vast-1").address == "2001:db8::1"


@pytest.mark.parametrize("name", ["'a|b'", "'a b'", "../x", "-rf", "'a:b'", "a/b"])
def test_a_name_that_could_not_name_a_partition_or_a_directory_is_an_error(directory: Path, name: str) -> None:
    (problem,) = errors(directory, hosts(f"  {name}: {{ssh_host: a, ringrift_path: r}}\n"))
    assert "cannot name a host" in problem.message
    assert problem.file == "hosts/a.yaml"
    assert problem.line == 3


def test_names_and_keys_that_are_no_text_are_errors(directory: Path) -> None:
    found = errors(directory, hosts("  123: {ssh_host: a}\n  on: {ssh_host: a}\n  vast-1: {ssh_host: a, 5: x}\n"))
    assert [(problem.line, problem.host) for problem in found] == [(3, "123"), (4, "True"), (5, "vast-1")]
    assert all("in quotes" in problem.message for problem in found)


def test_a_host_without_keys_or_without_an_address_is_an_error(directory: Path) -> None:
    found = errors(directory, hosts("  vast-1:\n  vast-2: {ringrift_path: r}\n  vast-3: [a]\n"))
    assert sorted(places(found)) == [
        ("hosts/a.yaml", 3, "vast-1", ""),
        ("hosts/a.yaml", 4, "vast-2", "ssh_host"),
        ("hosts/a.yaml", 5, "vast-3", ""),
    ]


def test_a_private_address_is_enough(directory: Path) -> None:
    node = load(directory, hosts("  vast-1: {tailscale_ip: 100.64.0.1, ringrift_path: r}\n")).get("vast-1")
    assert (node.ssh_host, node.address) == ("", "100.64.0.1")


@pytest.mark.parametrize(
    "text, line, part",
    [
        ("", None, "the file is empty"),
        ("# nothing\n", None, "the file is empty"),
        ("- a\n- b\n", 1, "holds a list"),
        ("hello\n", 1, "holds a single value"),
        ("hosts:\n\thub-1:\n", 2, "indent with spaces, not with tabs"),
        ("hosts:\n  a: {ssh_host: b\n", 3, "not valid YAML"),
        ("hosts:\n  a: 'b\n", 3, "not valid YAML"),
        ("hosts: {a: *b}\n", 1, "undefined alias"),
        ("a: 1\n---\nb: 2\n", 2, "single document"),
        ("a: !!python/object/apply:os.system [true]\n", 1, "not valid YAML"),
        ("a: 0b_\n", None, "not usable YAML"),
        ("[" * 5000, None, "nested too deeply"),
        ("{[1]: 2}", 1, "not valid YAML"),
        ("hosts: [hub-1]\n", 1, "must be a mapping: each host's name"),
        ("hosts: hub-1\n", 1, "must be a mapping: each host's name"),
        ("hosts:\nauto_sync: {}\n", None, "no host is described"),
        ("auto_sync: [1]\nhosts: {}\n", 1, "must be a mapping: one key"),
        ("p2p_voters: hub-1\n", 1, "write it as [hub-1]"),
        ("p2p_voters: {a: 1}\n", 1, "it must be a list"),
        ("trusted_networks: [10.0.0.1/8]\n", 1, "write a network such as"),
    ],
)
def test_a_file_that_cannot_be_meant_is_an_error_with_its_line(
    directory: Path, text: str, line: int | None, part: str
) -> None:
    found = errors(directory, text) if text else errors_of_empty(directory)
    assert part in found[0].message
    assert found[0].line == line
    assert found[0].file.startswith("hosts")


def errors_of_empty(directory: Path) -> list[Problem]:
    (directory / "a.yaml").touch()
    return errors(directory)


def test_bytes_that_are_no_text_are_an_error(directory: Path) -> None:
    (directory / "a.yaml").write_bytes(b"hosts: \xff\xfe\x00")
    (problem,) = errors(directory)
    assert problem.file == "hosts/a.yaml"


def test_a_missing_or_empty_directory_is_an_error_that_says_what_to_do(directory: Path) -> None:
    (problem,) = errors(directory)
    assert problem.message == "the directory has no *.yaml file; describe the hosts in one"
    directory.rmdir()
    (problem,) = errors(directory)
    assert problem.file == "hosts"
    assert "RINGRIFT_SYNC_HOSTS" in problem.message


def test_all_problems_of_all_files_come_at_once(directory: Path) -> None:
    (directory / "b.yaml").write_text("hosts:\n  vast-2: {ssh_host: b, ssh_port: x}\n\tc\n")
    (directory / "c.yaml").write_text("hosts:\n  vast-3: {ssh_host: b, ssh_port: x, nat_blocked: 3}\n")
    found = errors(directory, hosts("  vast-1: {ssh_host: 'a b'}\n") + "auto_sync: {interval_seconds: 0}\n")
    assert {(problem.file, problem.key) for problem in found} == {
        ("hosts/a.yaml", "ssh_host"),
        ("hosts/a.yaml", "auto_sync.interval_seconds"),
        ("hosts/b.yaml", ""),
        ("hosts/c.yaml", "ssh_port"),
        ("hosts/c.yaml", "nat_blocked"),
    }


@pytest.mark.parametrize(
    "entry, key",
    [
        ("interval_seconds: 0", "interval_seconds"),
        ("interval_seconds: '60'", "interval_seconds"),
        ("max_concurrent_syncs: 0", "max_concurrent_syncs"),
        ("bandwidth_limit_mbps: -1", "bandwidth_limit_mbps"),
        ("exclude_hosts: hub-1", "exclude_hosts"),
        ("min_games_to_sync: -1", "min_games_to_sync"),
        ("enabled: 'yes'", "enabled"),
        ("host_bandwidth_overrides: [1]", "host_bandwidth_overrides"),
        ("host_bandwidth_overrides: {'vast-*': fast}", "host_bandwidth_overrides.vast-*"),
    ],
)
def test_a_wrong_value_in_auto_sync_is_an_error(directory: Path, entry: str, key: str) -> None:
    (problem,) = errors(directory, f"{hosts('')}auto_sync:\n  {entry}\n")
    assert places([problem]) == [("hosts/a.yaml", 4, "", f"auto_sync.{key}")]


def test_the_coordinator_is_known_by_role_by_flag_or_by_the_settings(directory: Path) -> None:
    for entry, named in (("role: coordinator", ""), ("is_coordinator: true", ""), ("role: backbone", "x-1")):
        text = f"hosts:\n  x-1: {{ssh_host: a, ringrift_path: r, {entry}}}\n"
        inventory = load(directory, text, coordinator=named)
        assert inventory.warnings == ()
        assert inventory.coordinator is inventory.get("x-1")
        assert not inventory.get("x-1").collectable


def test_a_coordinator_of_the_settings_must_be_a_host(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"host hub-2: the settings name this coordinator.*did you mean hub-1\?"):
        load(directory, hosts(""), coordinator="hub-2")


def test_asking_for_a_host_that_is_not_there_names_the_nearest(directory: Path) -> None:
    with pytest.raises(ConfigError, match=r"host hub-11: the inventory has no host of this name; did you mean hub-1\?"):
        load(directory, hosts("")).get("hub-11")


def test_private_networks_are_trusted_unless_the_inventory_says_which(directory: Path) -> None:
    inventory = load(directory, hosts(""))
    for address in ("127.0.0.1", "10.9.9.9", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd00::1"):
        assert inventory.is_trusted(address)
    for address in ("8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "host.example", ""):
        assert not inventory.is_trusted(address)
    inventory = load(directory, f"trusted_networks: [198.51.100.0/24]\n{hosts('')}")
    assert inventory.is_trusted("198.51.100.1")
    assert not inventory.is_trusted("10.9.9.9")


def test_a_mapping_of_purpose_to_path_gives_the_paths(directory: Path) -> None:
    text = "  vast-1: {ssh_host: a, ringrift_path: r, storage_paths: {games: /mnt/g, npz: /mnt/n, keep: true}}\n"
    assert load(directory, hosts(text)).get("vast-1").storage_paths == ("/mnt/g", "/mnt/n")
