"""All settings in one frozen object, and the only place of the project that reads the environment.

Precedence: default < ``hosts/`` (section ``auto_sync``, and the coordinator's ``ringrift_path``) < environment <
argument. Numbers: sync guide, "Environment Variables"; ports and units: architecture.md, 3 ("bandwidth_limit_mbps" is
10**6 bytes per second).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from ringrift_sync_dagster.core.model import SyncStrategy
from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.inventory import MEGABITS_FROM, Inventory, load_inventory

PREFIX: Final = "RINGRIFT_SYNC_"
# Setting -> variable. The first six are the guide's.
VARIABLES: Final[Mapping[str, str]] = {
    "sync_interval": "RINGRIFT_SYNC_INTERVAL",
    "ephemeral_sync_interval": "RINGRIFT_EPHEMERAL_SYNC_INTERVAL",
    "max_concurrent_syncs": "RINGRIFT_MAX_CONCURRENT_SYNCS",
    "bandwidth_limit": "RINGRIFT_SYNC_BANDWIDTH_LIMIT",
    "strategy": "RINGRIFT_SYNC_STRATEGY",
    "exclude_coordinators": "RINGRIFT_SYNC_EXCLUDE_COORDINATORS",
    "home": "RINGRIFT_SYNC_HOME",
    "hosts": "RINGRIFT_SYNC_HOSTS",
    "coordinator": "RINGRIFT_SYNC_COORDINATOR",
    "root": "RINGRIFT_SYNC_ROOT",
    "state_url": "RINGRIFT_SYNC_STATE_URL",
    "token_file": "RINGRIFT_SYNC_TOKEN_FILE",
    "known_hosts": "RINGRIFT_SYNC_KNOWN_HOSTS",
    "agent_port": "RINGRIFT_SYNC_AGENT_PORT",
    "pack_max_games": "RINGRIFT_SYNC_PACK_MAX_GAMES",
    "pack_max_bytes": "RINGRIFT_SYNC_PACK_MAX_BYTES",
    "short_after_seconds": "RINGRIFT_SYNC_SHORT_AFTER_SECONDS",
    "keep_versions": "RINGRIFT_SYNC_KEEP_VERSIONS",
    "deep_scan_interval": "RINGRIFT_SYNC_DEEP_SCAN_INTERVAL",
    "deep_scan_share": "RINGRIFT_SYNC_DEEP_SCAN_SHARE",
    "max_packs_down": "RINGRIFT_SYNC_MAX_PACKS_DOWN",
    "min_quality_score": "RINGRIFT_SYNC_MIN_QUALITY_SCORE",
    "exclude_nfs_hosts": "RINGRIFT_SYNC_EXCLUDE_NFS_HOSTS",
    "ephemeral_max_data_age": "RINGRIFT_SYNC_EPHEMERAL_MAX_DATA_AGE",
    "ephemeral_priority_boost": "RINGRIFT_SYNC_EPHEMERAL_PRIORITY_BOOST",
    "min_durable_copies": "RINGRIFT_SYNC_MIN_DURABLE_COPIES",
    "archive_dir": "RINGRIFT_SYNC_ARCHIVE_DIR",
    "quota_gb": "RINGRIFT_SYNC_QUOTA_GB",
}
# Setting -> key of the inventory's section auto_sync.
AUTO_SYNC_KEYS: Final[Mapping[str, str]] = {
    "sync_interval": "interval_seconds",
    "max_concurrent_syncs": "max_concurrent_syncs",
    "bandwidth_limit": "bandwidth_limit_mbps",
    "min_durable_copies": "min_durable_copies",
}
QUOTA_GB: Final[Mapping[str, float]] = {"incoming": 50.0, "artifacts": 20.0, "quarantine": 20.0, "versions": 200.0}
"""GB of one class of files where ``quota_gb`` does not say otherwise."""
_DEFAULT_HOSTS: Final = Path("hosts")


def _absolute(path: Path) -> Path:
    """Settings belong to this machine and this directory: a worker started elsewhere must mean the same file."""
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"{path} names a home directory that does not exist") from error


def _database_url(text: str) -> str:
    """A URL may hold a password: it is never repeated in a message."""
    if not re.match(r"[a-z][a-z0-9+]*://", text):
        raise ValueError("it must be a URL such as sqlite:///path/state.db or postgresql+psycopg://user@host/name")
    return text


def _lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _quotas(value: object) -> object:
    """Read ``incoming=50,versions=200``; classes that are not named keep their quota."""
    if not isinstance(value, str):
        return value
    found = dict(QUOTA_GB)
    for part in filter(None, (part.strip() for part in value.split(","))):
        name, _, number = (piece.strip() for piece in part.partition("="))
        try:
            found[name] = float(number)
        except ValueError:
            found[name] = -1.0
        if name not in QUOTA_GB or not 0 < found[name] < float("inf"):
            known = ",".join(f"{key}={quota:g}" for key, quota in QUOTA_GB.items())
            raise ValueError(f"{part!r} is no quota in GB; write it as {known}")
    return found


LocalPath = Annotated[Path, AfterValidator(_absolute)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Environment(PydanticBaseSettingsSource):
    """The variables of the table; an empty one counts as not set."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return os.environ.get(VARIABLES[field_name], "").strip() or None, field_name, False

    def __call__(self) -> dict[str, Any]:
        return _environment()


class Settings(BaseSettings):
    """What can be set; build it with ``load_settings``, which also reads ``hosts/``.

    Args:
        home: Everything written by default lies here: state, keys, tokens, logs, the embedded cluster.
        hosts: The inventory: a directory of YAML files, or one file.
        coordinator: Name of the coordinator's host; only needed where the inventory gives no host that role.
        root: The coordinator's ``ai-service`` directory, with ``data/games`` and the canonical store.
        state_url: SQLAlchemy URL of the state database.
        token_file: The coordinator's own token.
        known_hosts: SSH host keys that are trusted; a node whose key is not in it is refused.
        sync_interval: Seconds between two cycles for persistent nodes.
        ephemeral_sync_interval: Seconds between two cycles for ephemeral nodes.
        max_concurrent_syncs: Nodes that are served at the same time.
        bandwidth_limit: MB/s (10**6 bytes per second) of one host.
        strategy: Default strategy.
        exclude_coordinators: True: coordinators are never a target of distribution.
        pack_max_games: Games in one pack, at most.
        pack_max_bytes: Bytes of rows in one pack before compression, about.
        short_after_seconds: Stillness after which a finished game without all its moves is reported as short.
        max_packs_down: Packs of canonical games that one pass brings to a partition's node, at most.
        deep_scan_interval: Seconds from the end of one slow look at a node's database to the next one.
        deep_scan_share: Which part of one core of the node a slow look may use.
        keep_versions: Replaced versions of an npz (and, on nodes, of a model) that stay and can be put back.
        agent_port: Port of the node service where the inventory says nothing else.
        min_quality_score: Nodes whose score (0 to 1) is lower are no targets; as sources they always count.
        exclude_nfs_hosts: True: what shares the owner's disk, by evidence, is no target.
        ephemeral_max_data_age: Seconds after which finished games that no durable host has are rescued.
        ephemeral_priority_boost: What the weight of an ephemeral node's transfers is multiplied with.
        min_durable_copies: So many persistent nodes with a pack are as good as the coordinator.
        archive_dir: Where Dagster archives the store every week; empty: it does not.
        quota_gb: GB (10**9 bytes) that each class of our own files may take on the coordinator's disk.

    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    home: LocalPath = Path(".ringrift")
    hosts: LocalPath = _DEFAULT_HOSTS
    coordinator: str = ""
    root: LocalPath = Field(default_factory=lambda data: data["home"] / "root")
    state_url: Annotated[str, AfterValidator(_database_url)] = Field(
        default_factory=lambda data: f"sqlite:///{data['home']}/state.db", repr=False
    )
    token_file: LocalPath = Field(default_factory=lambda data: data["home"] / "tokens" / "coordinator.jwt")
    known_hosts: LocalPath = Path("~/.ssh/known_hosts")
    sync_interval: Seconds = 60.0
    ephemeral_sync_interval: Seconds = 5.0
    max_concurrent_syncs: int = Field(default=5, ge=1)
    bandwidth_limit: float = Field(default=50.0, gt=0, allow_inf_nan=False)
    strategy: Annotated[SyncStrategy, BeforeValidator(_lower)] = SyncStrategy.HYBRID
    exclude_coordinators: bool = True
    pack_max_games: int = Field(default=2000, ge=1)
    pack_max_bytes: int = Field(default=32 * 1024 * 1024, ge=1)
    short_after_seconds: Seconds = 600.0
    keep_versions: int = Field(default=3, ge=0)
    max_packs_down: int = Field(default=1000, ge=1)
    deep_scan_interval: Seconds = 6 * 3600.0
    deep_scan_share: float = Field(default=0.05, gt=0, le=1)
    agent_port: int = Field(default=8765, ge=1, le=65535)
    min_quality_score: float = Field(default=0.0, ge=0, le=1)
    exclude_nfs_hosts: bool = True
    ephemeral_max_data_age: Seconds = 300.0
    ephemeral_priority_boost: float = Field(default=2.0, ge=1, le=100)
    min_durable_copies: int = Field(default=1, ge=1, le=16)
    archive_dir: str = ""
    quota_gb: Annotated[Mapping[str, float], BeforeValidator(_quotas)] = Field(default_factory=lambda: dict(QUOTA_GB))

    _warnings: tuple[Problem, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What looks wrong in the environment, such as a misspelt variable; the inventory has warnings of its own."""
        return self._warnings

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings passes it by name
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments first, then the table of variables; no .env file and no other names."""
        return init_settings, _Environment(settings_cls)


def load_settings(**arguments: object) -> Settings:
    """Read the settings from defaults, ``hosts/``, the environment and the arguments; the later wins.

    Where no inventory is named and ``./hosts`` does not exist (on a node), the inventory gives nothing.

    Args:
        arguments: Fields of ``Settings``; None means not given.

    Raises:
        ConfigError: The inventory, a variable or an argument is wrong; every problem found is in it.

    """
    given = {name: value for name, value in arguments.items() if value is not None}
    environment = _environment()
    problems: list[Problem] = []
    from_hosts: dict[str, object] = {}
    try:
        from_hosts = _from_hosts({**environment, **given})
    except ConfigError as error:
        problems.extend(error.problems)
    try:
        settings = Settings(**_typed({**from_hosts, **environment, **given}))
    except ValidationError as error:
        problems.extend(_problem(detail, given, environment) for detail in error.errors())
        raise ConfigError([problem for problem in problems if problem.message]) from error
    if problems:
        raise ConfigError(problems)
    settings._warnings = (*misspelt_variables(os.environ), *_megabits(settings, given, environment))  # noqa: SLF001
    return settings


def misspelt_variables(names: Iterable[str]) -> tuple[Problem, ...]:
    """Give a warning for each variable that looks like one of ours but is none, with the nearest right name."""
    known = {_own_part(variable): variable for variable in VARIABLES.values()}
    warnings = []
    for name in sorted(set(names) - set(known.values())):
        upper = name.upper()
        near = get_close_matches(_own_part(upper), known, n=1, cutoff=0.7)
        if upper.startswith(PREFIX) or (near and upper.startswith("RINGRIFT_") and "SYNC" in upper):
            hint = f"did you mean {known[near[0]]}?" if near else f"known are {', '.join(known.values())}"
            message = f"the variable is not known and has no effect; {hint}"
            warnings.append(Problem("environment", None, "", name, message, "warning"))
    return tuple(warnings)


def _own_part(variable: str) -> str:
    """Cut off what all variables share, or else any two of them would look alike."""
    return variable.removeprefix("RINGRIFT_").removeprefix("SYNC_")


def _environment() -> dict[str, str]:
    values = {field: os.environ.get(variable, "").strip() for field, variable in VARIABLES.items()}
    return {field: value for field, value in values.items() if value}


def _from_hosts(named: Mapping[str, object]) -> dict[str, object]:
    """Give what the inventory sets; nothing when it is not named and not there."""
    path = Path(str(named.get("hosts", _DEFAULT_HOSTS))).expanduser()
    if "hosts" not in named and not path.exists():
        return {}
    inventory = load_inventory(path, coordinator=str(named.get("coordinator", "")))
    values = {field: inventory.auto_sync.get(key) for field, key in AUTO_SYNC_KEYS.items()}
    values["root"] = _root_of(inventory)
    return {field: value for field, value in values.items() if value is not None}


def _root_of(inventory: Inventory) -> str | None:
    return None if inventory.coordinator is None else inventory.coordinator.ringrift_path


def _typed(values: Mapping[str, object]) -> dict[str, Any]:
    return dict(values)


def _problem(detail: Mapping[str, Any], given: Mapping[str, object], environment: Mapping[str, str]) -> Problem:
    """Say where a refused value came from; a default that only waited for another value has no message of its own."""
    field = str(detail["loc"][0]) if detail["loc"] else ""
    file = "argument" if field in given else "environment" if field in environment else "default"
    key = VARIABLES.get(field, field) if file == "environment" else field
    if detail["type"] == "default_factory_not_called":
        return Problem(file, None, "", key, "")
    if detail["type"] == "extra_forbidden":
        near = get_close_matches(field, list(VARIABLES), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(VARIABLES)}"
        return Problem(file, None, "", key, f"there is no such setting; {hint}")
    value = "the value" if field == "state_url" else repr(detail["input"])
    reason = str(detail["msg"]).removeprefix("Value error, ")
    return Problem(file, None, "", key, f"{value} is refused: {reason[:1].lower()}{reason[1:]}")


def _megabits(settings: Settings, given: Mapping[str, object], environment: Mapping[str, str]) -> list[Problem]:
    if settings.bandwidth_limit < MEGABITS_FROM or "bandwidth_limit" not in {**given, **environment}:
        return []
    key = "bandwidth_limit" if "bandwidth_limit" in given else VARIABLES["bandwidth_limit"]
    message = f"{settings.bandwidth_limit:g} looks like megabits; the unit is MB/s (10**6 bytes per second)"
    file = "argument" if "bandwidth_limit" in given else "environment"
    return [Problem(file, None, "", key, message, "warning")]
