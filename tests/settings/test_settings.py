"""Settings: default < hosts < environment < argument, and every mistake is named with its place."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.settings.settings import VARIABLES, Settings, load_settings, misspelt_variables

HOSTS = """
auto_sync: {interval_seconds: 45, max_concurrent_syncs: 3, bandwidth_limit_mbps: 80}
hosts:
  hub-1: {ssh_host: 10.0.0.1, ringrift_path: data/hub/ai-service, role: coordinator}
  vast-1: {ssh_host: 10.0.0.2, ringrift_path: ~/ringrift/ai-service, role: gpu_selfplay}
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current directory, and none of our variables set."""
    for name in os.environ:
        if name.startswith("RINGRIFT_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hosts(directory: Path) -> Path:
    (directory / "hosts").mkdir()
    (directory / "hosts" / "all.yaml").write_text(HOSTS)
    return directory / "hosts"


def problems_of(**arguments: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        load_settings(**arguments)
    return {f"{problem.file} {problem.key}": problem.message for problem in caught.value.problems}


def test_the_defaults_are_the_guides(directory: Path) -> None:
    settings = load_settings()
    assert (settings.sync_interval, settings.ephemeral_sync_interval) == (60, 5)
    assert (settings.max_concurrent_syncs, settings.bandwidth_limit) == (5, 50)
    assert (settings.strategy, settings.exclude_coordinators) == ("hybrid", True)
    assert settings.home == directory / ".ringrift"
    assert settings.root == directory / ".ringrift" / "root"
    assert settings.token_file == directory / ".ringrift" / "tokens" / "coordinator.jwt"
    assert settings.state_url == f"sqlite:///{directory}/.ringrift/state.db"
    assert settings.warnings == ()


def test_the_variables_are_the_guides_and_each_has_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGRIFT_SYNC_INTERVAL", "30")
    monkeypatch.setenv("RINGRIFT_EPHEMERAL_SYNC_INTERVAL", "2.5")
    monkeypatch.setenv("RINGRIFT_MAX_CONCURRENT_SYNCS", "7")
    monkeypatch.setenv("RINGRIFT_SYNC_BANDWIDTH_LIMIT", "12.5")
    monkeypatch.setenv("RINGRIFT_SYNC_STRATEGY", "BROADCAST")
    monkeypatch.setenv("RINGRIFT_SYNC_EXCLUDE_COORDINATORS", "false")
    settings = load_settings()
    assert (settings.sync_interval, settings.ephemeral_sync_interval) == (30, 2.5)
    assert (settings.max_concurrent_syncs, settings.bandwidth_limit) == (7, 12.5)
    assert (settings.strategy, settings.exclude_coordinators) == ("broadcast", False)


def test_every_setting_has_a_variable() -> None:
    assert sorted(VARIABLES) == sorted(Settings.model_fields)


def test_hosts_win_over_defaults(hosts: Path) -> None:
    settings = load_settings()
    assert (settings.sync_interval, settings.max_concurrent_syncs, settings.bandwidth_limit) == (45, 3, 80)
    assert settings.root == hosts.parent / "data" / "hub" / "ai-service"


def test_the_environment_wins_over_hosts_and_an_argument_over_both(
    hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RINGRIFT_SYNC_INTERVAL", "30")
    monkeypatch.setenv("RINGRIFT_MAX_CONCURRENT_SYNCS", "7")
    monkeypatch.setenv("RINGRIFT_SYNC_ROOT", "elsewhere")
    settings = load_settings(sync_interval=10)
    assert (settings.sync_interval, settings.max_concurrent_syncs, settings.bandwidth_limit) == (10, 7, 80)
    assert settings.root == hosts.parent / "elsewhere"


def test_an_empty_variable_and_an_argument_of_none_count_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGRIFT_SYNC_INTERVAL", "  ")
    assert load_settings(sync_interval=None, home=None).sync_interval == 60


def test_another_home_moves_everything_that_is_written_by_default(directory: Path) -> None:
    settings = load_settings(home="there")
    assert settings.root == directory / "there" / "root"
    assert settings.state_url == f"sqlite:///{directory}/there/state.db"
    assert settings.token_file.is_relative_to(directory / "there")


def test_a_tilde_is_the_home_directory_of_this_machine(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(directory / "me"))
    assert load_settings(root="~/rr").root == directory / "me" / "rr"


def test_the_inventory_may_be_one_file_somewhere_else(directory: Path) -> None:
    (directory / "other.yaml").write_text(HOSTS)
    assert load_settings(hosts="other.yaml").sync_interval == 45


def test_a_named_inventory_that_does_not_exist_is_an_error_and_a_missing_default_is_none(directory: Path) -> None:
    assert "there is no such file or directory" in problems_of(hosts="nowhere")["nowhere "]
    assert load_settings().hosts == directory / "hosts"


def test_the_settings_may_name_the_coordinator(hosts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (hosts / "all.yaml").write_text(HOSTS.replace("role: coordinator", "role: backbone"))
    assert load_settings().root == hosts.parent / ".ringrift" / "root"
    monkeypatch.setenv("RINGRIFT_SYNC_COORDINATOR", "hub-1")
    assert load_settings().root == hosts.parent / "data" / "hub" / "ai-service"


@pytest.mark.parametrize(
    "variable, value",
    [
        ("RINGRIFT_SYNC_INTERVAL", "soon"),
        ("RINGRIFT_SYNC_INTERVAL", "0"),
        ("RINGRIFT_SYNC_INTERVAL", "nan"),
        ("RINGRIFT_EPHEMERAL_SYNC_INTERVAL", "-5"),
        ("RINGRIFT_MAX_CONCURRENT_SYNCS", "2.5"),
        ("RINGRIFT_MAX_CONCURRENT_SYNCS", "0"),
        ("RINGRIFT_SYNC_BANDWIDTH_LIMIT", "inf"),
        ("RINGRIFT_SYNC_STRATEGY", "hibrid"),
        ("RINGRIFT_SYNC_EXCLUDE_COORDINATORS", "maybe"),
        ("RINGRIFT_SYNC_AGENT_PORT", "70000"),
        ("RINGRIFT_SYNC_HOME", "~nobody-of-that-name/x"),
    ],
)
def test_a_bad_value_is_refused_with_the_name_of_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    assert problems_of() == {f"environment {variable}": problems_of()[f"environment {variable}"]}
    assert problems_of()[f"environment {variable}"].startswith(f"{value!r} is refused: ")


def test_all_mistakes_of_hosts_environment_and_arguments_are_named_at_once(
    hosts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (hosts / "all.yaml").write_text(HOSTS.replace("45", "never"))
    monkeypatch.setenv("RINGRIFT_MAX_CONCURRENT_SYNCS", "many")
    found = problems_of(strategy="best", agent_prt=1)
    assert sorted(found) == [
        "argument agent_prt",
        "argument strategy",
        "environment RINGRIFT_MAX_CONCURRENT_SYNCS",
        "hosts/all.yaml auto_sync.interval_seconds",
    ]
    assert found["argument agent_prt"] == "there is no such setting; did you mean agent_port?"


def test_a_password_in_the_state_url_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGRIFT_SYNC_STATE_URL", "user:secret@host")
    assert "secret" not in str(problems_of())
    monkeypatch.setenv("RINGRIFT_SYNC_STATE_URL", "postgresql+psycopg://user:secret@host/db")
    assert "secret" not in repr(load_settings())


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().sync_interval = 1.0


@pytest.mark.parametrize(
    "name, meant",
    [
        ("RINGRIFT_SYNC_INTERVALL", "RINGRIFT_SYNC_INTERVAL"),
        ("RINGRIFT_SYNC_STATEURL", "RINGRIFT_SYNC_STATE_URL"),
        ("RINGRIFT_SYNC_MAX_CONCURRENT_SYNCS", "RINGRIFT_MAX_CONCURRENT_SYNCS"),
        ("RINGRIFT_MAX_CONCURENT_SYNCS", "RINGRIFT_MAX_CONCURRENT_SYNCS"),
        ("RINGRIFT_EPHEMERAL_SYNC_INTERVL", "RINGRIFT_EPHEMERAL_SYNC_INTERVAL"),
        ("ringrift_sync_root", "RINGRIFT_SYNC_ROOT"),
    ],
)
def test_a_misspelt_variable_is_a_warning_with_the_right_name(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "7")
    (warning,) = load_settings().warnings
    assert (warning.file, warning.key, warning.severity) == ("environment", name, "warning")
    assert warning.message.endswith(f"did you mean {meant}?")


def test_a_variable_of_ours_that_resembles_nothing_is_a_warning_and_foreign_ones_are_none() -> None:
    (warning,) = misspelt_variables(
        ["RINGRIFT_SYNC_QQQ", "RINGRIFT_P2P_PORT", "RINGRIFT_ELO_DB", "PATH", *VARIABLES.values()]
    )
    assert warning.key == "RINGRIFT_SYNC_QQQ"
    assert "RINGRIFT_SYNC_INTERVAL" in warning.message


def test_a_limit_that_looks_like_megabits_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGRIFT_SYNC_BANDWIDTH_LIMIT", "1000")
    (warning,) = load_settings().warnings
    assert (warning.key, warning.severity) == ("RINGRIFT_SYNC_BANDWIDTH_LIMIT", "warning")
    assert [w.file for w in load_settings(bandwidth_limit=2000).warnings] == ["argument"]
    assert load_settings(bandwidth_limit=999).warnings == ()


def test_copies_that_make_a_game_durable_are_set_and_a_wrong_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hosts, host = (
        tmp_path / "hosts.yaml",
        "hosts: {hub-1: {ssh_host: 10.0.0.1, ringrift_path: /r, role: coordinator}}\n",
    )
    hosts.write_text(f"auto_sync: {{min_durable_copies: 3}}\n{host}")
    assert load_settings(hosts=hosts).min_durable_copies == 3
    monkeypatch.setenv("RINGRIFT_SYNC_MIN_DURABLE_COPIES", "2")
    assert load_settings(hosts=hosts).min_durable_copies == 2
    monkeypatch.setenv("RINGRIFT_SYNC_MIN_DURABLE_COPIES", "0")
    with pytest.raises(ConfigError, match=r"RINGRIFT_SYNC_MIN_DURABLE_COPIES: '0' is refused: .* equal to 1"):
        load_settings(hosts=hosts)
    hosts.write_text(f"auto_sync: {{min_durable_copies: none}}\n{host}")
    with pytest.raises(ConfigError, match="min_durable_copies: 'none' is not a whole number from 1"):
        load_settings(hosts=hosts)
