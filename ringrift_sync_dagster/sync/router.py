"""Where data goes first and where it comes from, and what is known of a node; no node is asked but for its abilities.

Names: sync guide, "priority", "quality-based (via SyncRouter)", "Slow Transfers" and "Transfer Failures".
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Concatenate, Final, Generic, ParamSpec, TypeVar

from ringrift_sync_dagster.core.breaker import CircuitState
from ringrift_sync_dagster.core.escalation import LADDER, Rung
from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.core.routing import (
    Facts,
    Part,
    Refusal,
    Rules,
    Score,
    quality,
    source_refusals,
    source_score,
    target_refusals,
    target_score,
)
from ringrift_sync_dagster.errors import ConfigError, Problem, RungUnusableError, UnreachableError
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.findings import did_you_mean
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.state import backpressure, breakers
from ringrift_sync_dagster.state.nodes import node_row
from ringrift_sync_dagster.sync.holdings import Holding, holdings
from ringrift_sync_dagster.sync.node_facts import load_facts
from ringrift_sync_dagster.sync.process_runtime import shared_runtime
from ringrift_sync_dagster.sync.runtime import Runtime

PROBE_SECONDS: Final = 15.0
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Route:
    """A node as a target or a source of a data type; ``str`` gives its name.

    Args:
        node: Its name.
        data_type: What goes there, or comes from there.
        parts: The parts of its score, most points first.
        quality: How well it is connected, 0 to 1.
        refusals: What keeps it out, or would but for the only copy that it holds.

    """

    node: str
    data_type: DataType
    parts: tuple[Part, ...]
    quality: float
    refusals: tuple[Refusal, ...] = ()

    @property
    def score(self) -> float:
        """The sum of the parts; only compared with that of other nodes."""
        return Score(self.parts).value

    @property
    def reasons(self) -> tuple[str, ...]:
        """A sentence for each refusal and each part."""
        return (*(str(one) for one in self.refusals), *(f"{part}: {part.why}" for part in self.parts))

    def __str__(self) -> str:
        return self.node

    def __repr__(self) -> str:
        told = [str(part) for part in self.parts] + [refusal.why for refusal in self.refusals]
        return f"<{self.node} {self.score:.1f}: {', '.join(told)}>"


class _ForAll(Generic[P, R]):
    """A method that may also be called on the class, and then works with the router of the program's own runtime."""

    def __init__(self, function: Callable[Concatenate[SyncRouter, P], R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, router: SyncRouter | None, owner: type[SyncRouter]) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return self._function(owner(shared_runtime()) if router is None else router, *args, **kwargs)

        call.__doc__ = self.__doc__
        return call


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as the shared state knows it; nobody is asked.

    Args:
        name: The node.
        circuit_state: OPEN when every usable rung is open, HALF_OPEN when the best one may be probed, else CLOSED.
        rungs: State of the breaker of each usable rung.
        status: ``up``, ``down``, or empty when it was never reached.
        transport: The rung that reached it last.
        last_seen_at: When it last answered, in seconds since 1970; None when never.
        last_error: What went wrong last.

    """

    name: str
    circuit_state: CircuitState
    rungs: Mapping[str, CircuitState]
    status: str = ""
    transport: str = ""
    last_seen_at: float | None = None
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class NodeCapabilities:
    """How a node can be reached at this moment.

    Args:
        name: The node.
        p2p_available: Its agent answers, directly or through SSH.
        ssh_available: A login works and its shell runs our commands; rsync may still be missing.
        details: For each rung, what answered, or why nothing did.

    """

    name: str
    p2p_available: bool
    ssh_available: bool
    details: Mapping[str, str]


class SyncRouter:
    """Answers questions about nodes; safe in several threads.

    Args:
        runtime: What a sync works with.

    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def get_node_status(self, node: str) -> NodeStatus:
        """Give what the shared state knows of a node.

        Raises:
            ConfigError: The inventory has no node of this name.
            StateError: The state database cannot be read.

        """
        host, state = self._runtime.inventory.get(node), self._runtime.state
        names = [rung.value for rung in self._runtime.ladder.rungs_of(host)]
        rungs = {name: breakers.circuit_state(state, node, [name]) for name in names}
        circuit, row = breakers.circuit_state(state, node, names), node_row(state, node)
        if row is None:
            return NodeStatus(node, circuit, MappingProxyType(rungs))
        return NodeStatus(
            node, circuit, MappingProxyType(rungs), row.status, row.transport, row.last_seen_at, row.last_error
        )

    def is_under_backpressure(self) -> bool:
        """Say whether transfers that can wait are held now, because the coordinator is overloaded.

        Raises:
            StateError: The state database cannot be read.

        """
        return backpressure.is_active(self._runtime.state, self._runtime.intake.owner)

    def get_node_capabilities(self, node: str) -> NodeCapabilities:
        """Ask the node over each of its rungs; within 15 s for each.

        Raises:
            ConfigError: The inventory has no node of this name.

        """
        host = self._runtime.inventory.get(node)
        details: dict[str, str] = {}
        available: set[Rung] = set()
        silent: set[str] = set()
        for rung, transport in self._runtime.ladder.each(host).items():
            if LADDER[rung].endpoint in silent:
                details[rung.value] = f"not asked: nothing answers for {LADDER[rung].endpoint}"
                continue
            try:
                found = transport.probe(Deadline.after(PROBE_SECONDS))
            finally:
                transport.close()
            details[rung.value] = found.detail
            if found.reachable:
                available.add(rung)
            elif not isinstance(found.cause, RungUnusableError) or isinstance(found.cause, UnreachableError):
                silent.add(LADDER[rung].endpoint)
        ssh = bool(available & {Rung.RSYNC, Rung.BASE64})
        return NodeCapabilities(node, Rung.P2P in available, ssh, MappingProxyType(details))

    @_ForAll
    def get_sync_targets(
        self,
        data_type: str = "games",
        config_key: str | None = None,
        max_targets: int | None = None,
        priority_hosts: Collection[str] = (),
        *,
        min_quality_score: float | None = None,
        exclude_nfs_hosts: bool | None = None,
        exclude_coordinators: bool | None = None,
    ) -> list[Route]:
        """Give the nodes that this data goes to, the first first; may be called on the class, too.

        Args:
            data_type: One of the five data types.
            config_key: How long ago a node was brought something counts for this config; for any when None.
            max_targets: How many at most; all when None.
            priority_hosts: These come before all others, if they may receive it at all.
            min_quality_score: Nodes of a lower quality are skipped, 0 to 1; what the settings say when None.
            exclude_nfs_hosts: True: nodes that share their storage with the owner are skipped; None: as above.
            exclude_coordinators: True: coordinators are skipped; None: as above.

        Raises:
            ConfigError: There is no such data type, config or host, or a number is outside its range.
            StateError: The state database cannot be read.

        """
        self._check_targets(config_key, max_targets, priority_hosts, min_quality_score)
        rules = self.rules(
            min_quality_score=min_quality_score, exclude_nfs_hosts=exclude_nfs_hosts,
            exclude_coordinators=exclude_coordinators,
        )  # fmt: skip
        found = self.judge_targets(data_type, config_key or "", priority_hosts, rules)
        return [route for route in found if not route.refusals][:max_targets]

    @_ForAll
    def get_sync_sources(self, data_type: str, target_node: str, max_sources: int | None = None) -> list[Route]:
        """Give the nodes that this data comes from, the first first; may be called on the class, too.

        For a coordinator these are the nodes that hold such data, for any other node the owner and, of npz and models,
        the nodes that could serve it. One that holds the only copy of something is always among them, and first.

        Args:
            data_type: One of the five data types.
            target_node: Who wants the data.
            max_sources: How many at most; all when None.

        Raises:
            ConfigError: There is no such data type or host, or the number is below 1.
            StateError: The state database cannot be read.

        """
        kind, target = _data_type(data_type), self._runtime.inventory.get(target_node)
        _check_count("max_sources", max_sources)
        held = holdings(self._runtime, kind, target)
        nodes = self._runtime.inventory.nodes
        facts = load_facts(self._runtime, [nodes[name] for name in held if name in nodes])
        collecting = target.is_coordinator
        routes = [self._source(known, kind, held[name], collecting=collecting) for name, known in facts.items()]
        return _ranked([one for one in routes if not one.refusals or held[one.node].only_copy])[:max_sources]

    def judge_targets(
        self,
        data_type: str,
        config_key: str = "",
        priority_hosts: Collection[str] = (),
        rules: Rules | None = None,
        *,
        nodes: Collection[Node] | None = None,
    ) -> list[Route]:
        """Give every node (or these) as a target, those left out with the reasons; in the order of their scores.

        Raises:
            ConfigError: There is no such data type.
            StateError: The state database cannot be read.

        """
        kind, given = _data_type(data_type), rules or self.rules()
        judged = self._runtime.inventory.nodes.values() if nodes is None else nodes
        facts = load_facts(self._runtime, judged, named_first=frozenset(priority_hosts), config=config_key)
        return _ranked([_target(known, kind, given) for known in facts.values()], tuple(priority_hosts))

    def rules(
        self,
        *,
        min_quality_score: float | None = None,
        exclude_nfs_hosts: bool | None = None,
        exclude_coordinators: bool | None = None,
    ) -> Rules:
        """Give the rules for targets of what the owner has; what is not given comes from the settings."""
        settings = self._runtime.settings
        return Rules(
            self._runtime.intake.owner,
            settings.min_quality_score if min_quality_score is None else min_quality_score,
            settings.exclude_nfs_hosts if exclude_nfs_hosts is None else exclude_nfs_hosts,
            settings.exclude_coordinators if exclude_coordinators is None else exclude_coordinators,
            self._runtime.bandwidth.disk_limits,
        )

    def judge_source(self, data_type: str, node: Node) -> Route:
        """Give a node as a source for the owner, with what would keep it out.

        Raises:
            ConfigError: There is no such data type.
            StateError: The state database cannot be read.

        """
        kind, coordinator = _data_type(data_type), self._runtime.inventory.coordinator
        held = holdings(self._runtime, kind, coordinator, [node]).get(node.name, Holding())
        return self._source(load_facts(self._runtime, [node])[node.name], kind, held, collecting=True)

    def _source(self, facts: Facts, kind: DataType, held: Holding, *, collecting: bool) -> Route:
        score = source_score(facts, kind, collecting=collecting, only_copy=held.only_copy)
        return Route(facts.node, kind, score.parts, quality(facts), source_refusals(facts, holds=held.holds))

    def _check_targets(
        self, config: str | None, most: int | None, priority_hosts: Collection[str], least_quality: float | None
    ) -> None:
        _check_count("max_targets", most)
        if isinstance(priority_hosts, str):
            raise _wrong("priority_hosts", f"{priority_hosts!r} is one name; write it as [{priority_hosts!r}]")
        known = self._runtime.inventory.nodes
        problems = [
            Problem("argument", None, "", "priority_hosts", f"no host has the name {name}{did_you_mean(name, known)}")
            for name in priority_hosts
            if name not in known
        ]
        if problems:
            raise ConfigError(problems)
        if config is not None and config not in CONFIGS:
            raise _wrong("config_key", f"{config!r} is no config{did_you_mean(config, CONFIGS)}")
        if least_quality is not None and not 0 <= least_quality <= 1:
            raise _wrong("min_quality_score", f"{least_quality!r} is not from 0 to 1")


def _target(facts: Facts, kind: DataType, rules: Rules) -> Route:
    refusals = target_refusals(facts, kind, rules)
    return Route(facts.node, kind, target_score(facts, kind).parts, quality(facts), refusals)


def _ranked(routes: list[Route], named: tuple[str, ...] = ()) -> list[Route]:
    """Order by score; those that are equal as the caller named them, then by name, so that it is always the same."""
    place = {name: number for number, name in enumerate(named)}
    return sorted(routes, key=lambda route: (-route.score, place.get(route.node, len(place)), route.node))


def _data_type(word: str) -> DataType:
    try:
        return DataType(word)
    except ValueError:
        known = [kind.value for kind in DataType]
        hint = did_you_mean(str(word), known) or f"; use one of {', '.join(known)}"
        raise _wrong("data_type", f"{word!r} is no data type{hint}") from None


def _check_count(key: str, most: int | None) -> None:
    if most is not None and most < 1:
        raise _wrong(key, f"{most!r} is below 1; leave it out for all")


def _wrong(key: str, message: str) -> ConfigError:
    return ConfigError([Problem("argument", None, "", key, message)])
