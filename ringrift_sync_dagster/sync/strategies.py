"""Strategies: what a pass moves, by the guide's names; which of them holds for a node; and how it is all set.

A strategy decides when and between whom, nothing else: it becomes requests, and every request goes down the one path.
AUTO is decided anew for each pass from what the inventory says then. Source: the guide, "Sync Strategies" and
"AutoSyncConfig"; decision 2.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final

from ringrift_sync_dagster.core.flow import strategy_for
from ringrift_sync_dagster.core.model import DataType, SyncStrategy
from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.sync.collect import Request

_EVERYTHING: Final = frozenset(DataType)


class TargetChoice(StrEnum):
    """Which nodes a strategy serves first, or at all."""

    ALL = "all"
    PRIORITY = "priority"  # those of highest score first, and before them the hosts that were named
    QUALITY = "quality"  # down goes only to the best


@dataclass(frozen=True, kw_only=True)
class AutoSyncConfig:
    """How strategies work, by the guide's names; every field is checked.

    Args:
        strategy: Which one; ``"priority"`` and ``"quality"`` are HYBRID with that choice of targets.
        sync_interval_seconds: Seconds between two passes.
        ephemeral_sync_interval_seconds: Seconds between two looks at ephemeral nodes.
        min_quality_score: Nodes below it (0 to 1) are no targets; the only copy of something always comes.
        exclude_nfs_hosts: True: what shares the owner's disk, by evidence, is no target.
        exclude_coordinators: True: coordinators are never a target.
        bandwidth_limit_mbps: MB/s (10**6 bytes per second) of one host.
        max_concurrent_syncs: Nodes that are served at the same time.
        ephemeral_max_data_age_seconds: After so long games that no durable host has are rescued.
        ephemeral_priority_boost: What the weight of an ephemeral node's transfers is multiplied with.
        target_choice: Which nodes come first, or at all.
        priority_hosts: Nodes that come before all others.
        max_targets: How many nodes are served downwards by ``quality``; None: half of them.

    Raises:
        ConfigError: A field is wrong; all that are wrong are named.

    """

    strategy: SyncStrategy = SyncStrategy.HYBRID
    sync_interval_seconds: float = 60
    ephemeral_sync_interval_seconds: float = 5
    min_quality_score: float = 0.0
    exclude_nfs_hosts: bool = True
    exclude_coordinators: bool = True
    bandwidth_limit_mbps: float = 50
    max_concurrent_syncs: int = 5
    ephemeral_max_data_age_seconds: float = 300
    ephemeral_priority_boost: float = 2.0
    target_choice: TargetChoice = TargetChoice.ALL
    priority_hosts: tuple[str, ...] = ()
    max_targets: int | None = None

    def __post_init__(self) -> None:
        problems = [
            Problem("argument", None, "", name, f"{getattr(self, name)!r} is refused: it must be {words}")
            for name, (words, holds) in _RULES.items()
            if not holds(getattr(self, name))
        ]
        if problems:
            raise ConfigError(problems)
        object.__setattr__(self, "strategy", SyncStrategy(self.strategy))
        object.__setattr__(self, "target_choice", TargetChoice(self.target_choice))
        object.__setattr__(self, "priority_hosts", tuple(self.priority_hosts))

    @classmethod
    def of(cls, strategy: str, settings: Settings, **changed: Any) -> AutoSyncConfig:  # noqa: ANN401 - any field
        """Give the configuration of the settings in force, with a strategy and some fields of one's own.

        Args:
            strategy: One of the guide's names, ``priority`` or ``quality``; empty: that of the settings.
            settings: The settings in force.
            changed: Fields of this class.

        Raises:
            ConfigError: There is no such strategy or field, or a value is wrong.

        """
        unknown = sorted(set(changed) - {one.name for one in fields(cls)})
        if unknown:
            known = ", ".join(one.name for one in fields(cls))
            raise ConfigError(
                [Problem("argument", None, "", name, f"there is no such field; known are {known}") for name in unknown]
            )
        given = {theirs: getattr(settings, ours) for theirs, ours in SETTINGS.items()}
        name = (strategy or settings.strategy).strip().lower()
        if name in {TargetChoice.PRIORITY, TargetChoice.QUALITY}:
            given |= {"strategy": SyncStrategy.HYBRID, "target_choice": TargetChoice(name)}
        elif name in set(SyncStrategy):
            given["strategy"] = SyncStrategy(name)
        else:
            message = f"{strategy!r} is no strategy; use one of {', '.join(STRATEGY_NAMES)}"
            raise ConfigError([Problem("argument", None, "", "strategy", message)])
        return cls(**given | changed)

    def settings(self) -> dict[str, object]:
        """Give the settings that this configuration replaces, as arguments of ``load_settings``."""
        return {ours: getattr(self, theirs) for theirs, ours in SETTINGS.items()} | {"strategy": self.strategy}


SETTINGS: Final[Mapping[str, str]] = {
    "sync_interval_seconds": "sync_interval",
    "ephemeral_sync_interval_seconds": "ephemeral_sync_interval",
    "min_quality_score": "min_quality_score",
    "exclude_nfs_hosts": "exclude_nfs_hosts",
    "exclude_coordinators": "exclude_coordinators",
    "bandwidth_limit_mbps": "bandwidth_limit",
    "max_concurrent_syncs": "max_concurrent_syncs",
    "ephemeral_max_data_age_seconds": "ephemeral_max_data_age",
    "ephemeral_priority_boost": "ephemeral_priority_boost",
}
"""Field of ``AutoSyncConfig`` -> setting that says the same."""

STRATEGY_NAMES: Final = (*SyncStrategy, TargetChoice.PRIORITY.value, TargetChoice.QUALITY.value)
"""What ``AutoSyncDaemon(strategy=...)`` takes."""


def _number(least: float, most: float, *, open_below: bool = False) -> Callable[[object], bool]:
    def holds(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (least < value if open_below else least <= value) and value <= most

    return holds


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


_ABOVE_0: Final = _number(0, 1e9, open_below=True)
_RULES: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "strategy": (f"one of {', '.join(SyncStrategy)}", lambda value: value in set(SyncStrategy)),
    "sync_interval_seconds": ("a number of seconds above 0", _ABOVE_0),
    "ephemeral_sync_interval_seconds": ("a number of seconds above 0", _ABOVE_0),
    "min_quality_score": ("a number from 0 to 1", _number(0, 1)),
    "exclude_nfs_hosts": ("True or False", _is_flag),
    "exclude_coordinators": ("True or False", _is_flag),
    "bandwidth_limit_mbps": ("a number of MB/s above 0", _ABOVE_0),
    "max_concurrent_syncs": ("a whole number of at least 1", lambda value: type(value) is int and value >= 1),
    "ephemeral_max_data_age_seconds": ("a number of seconds above 0", _ABOVE_0),
    "ephemeral_priority_boost": ("a number from 1 to 100", _number(1, 100)),
    "target_choice": (f"one of {', '.join(TargetChoice)}", lambda value: value in set(TargetChoice)),
    "priority_hosts": (
        "a list of names of nodes",
        lambda value: not isinstance(value, str) and all(isinstance(name, str) for name in value),
    ),
    "max_targets": ("a whole number of at least 1", lambda value: value is None or (type(value) is int and value >= 1)),
}


@dataclass(frozen=True, slots=True)
class Resolved:
    """Which strategy moves a data type on a node.

    Args:
        strategy: Never AUTO.
        why: By which evidence.

    """

    strategy: SyncStrategy
    why: str


def resolve(node: Node, data_type: DataType, chosen: SyncStrategy = SyncStrategy.AUTO) -> Resolved:
    """Say which strategy moves a data type on a node, and by which evidence: what was chosen, or what the node is."""
    if chosen is not SyncStrategy.AUTO:
        return Resolved(chosen, f"{chosen.value} was chosen")
    if node.is_coordinator:
        return Resolved(SyncStrategy.PULL, "it is the coordinator: the sink of everything, never a target")
    strategy = strategy_for(data_type, ephemeral=node.is_ephemeral)
    return Resolved(strategy, f"{ephemeral_evidence(node)}, and {data_type.value} go by {strategy.value} there")


def ephemeral_evidence(node: Node) -> str:
    """Say in words why a node counts as ephemeral or persistent."""
    if node.is_ephemeral:
        return "it is ephemeral: " + ("provider vast" if node.provider == "vast" else "hosts/ says is_ephemeral")
    role = f", role {node.role}" if node.role else ""
    return f"it is persistent: provider {node.provider or 'unknown'}{role}, and hosts/ does not say is_ephemeral"


@dataclass(frozen=True, slots=True)
class ClusterView:
    """What a strategy knows of the cluster at one moment.

    Args:
        nodes: Those that data is collected from, in the order of the inventory.
        ranked: Their names by score as targets, the best one first; empty where nobody asked the router.
        refused: Nodes that are no targets now, with the reason.

    """

    nodes: Sequence[Node]
    ranked: Sequence[str] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    def in_order(self, first: Collection[str] = ()) -> list[str]:
        """Give the names: the ones that were named, then by score, then as they stand in the inventory."""
        names = [node.name for node in self.nodes]
        wanted = [name for name in (*first, *self.ranked) if name in set(names)]
        return list(dict.fromkeys([*wanted, *names]))


def requests(config: AutoSyncConfig, view: ClusterView, trigger: str = "daemon") -> list[Request]:
    """Give what one pass of a strategy asks for; pure.

    Args:
        config: Which strategy, and its choice of targets.
        view: The cluster now.
        trigger: What starts it, as it is written into changes.

    Returns:
        No request where there is nothing to do, such as no ephemeral node for EPHEMERAL.

    """
    everything = Request(trigger=trigger)
    if not view.nodes:
        return []
    match config.strategy:
        case SyncStrategy.EPHEMERAL:
            return _ephemeral(everything, view)
        case SyncStrategy.BROADCAST:
            return [replace(everything, nodes=_targets(config, view), up=False)]
        case SyncStrategy.PULL:
            return [replace(everything, nodes=view.in_order(config.priority_hosts), down=False)]
        case _:
            return _both_ways(everything, config, view)


def _ephemeral(everything: Request, view: ClusterView) -> list[Request]:
    found = {node.name: ephemeral_types(node) for node in view.nodes}
    types = [data_type for data_type in DataType if any(data_type in kinds for kinds in found.values())]
    names = [name for name, kinds in found.items() if kinds]
    return [replace(everything, data_types=types, nodes=names, down=False)] if names else []


def _both_ways(everything: Request, config: AutoSyncConfig, view: ClusterView) -> list[Request]:
    if config.target_choice is TargetChoice.ALL:
        return [everything]
    names, targets = view.in_order(config.priority_hosts), _targets(config, view)
    if config.target_choice is TargetChoice.PRIORITY:
        return [replace(everything, nodes=names)]
    up = replace(everything, nodes=names, down=False)
    return [up, *([replace(everything, nodes=targets, up=False)] if targets else [])]


def ephemeral_types(node: Node) -> frozenset[DataType]:
    """Give the data types that EPHEMERAL moves on a node; none on a persistent one."""
    if node.is_coordinator or not node.is_ephemeral:
        return frozenset()
    return frozenset(one for one in _EVERYTHING if resolve(node, one).strategy is SyncStrategy.EPHEMERAL)


def _targets(config: AutoSyncConfig, view: ClusterView) -> list[str]:
    """Give the nodes that something is brought to, the best ones first."""
    names = [name for name in view.in_order(config.priority_hosts) if name not in view.refused]
    if config.target_choice is not TargetChoice.QUALITY:
        return names
    most = config.max_targets if config.max_targets is not None else max(1, (len(names) + 1) // 2)
    return names[:most]
