"""The resources: where the inventory, the store and the state are, and the limits under which bytes move.

Empty fields mean what the settings say (default < ``hosts/`` < environment), so that a run needs no config at all;
the launchpad may set any of them for one run. They only hand values on: the objects behind them are those that the
command line and the Python API use. Here too our errors become readable failures.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from ringrift_sync_dagster.core.breaker import CircuitBreakerConfig
from ringrift_sync_dagster.errors import CollectFailedError, ConfigError, SyncError
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.sync.runtime import Runtime


class BandwidthResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """How much may move: sync guide, "Bandwidth Limits"."""

    bandwidth_limit_mbps: float = Field(
        default=0.0, ge=0, description="MB/s (10^6 bytes) of a host with no other limit; 0: the settings' number."
    )
    max_concurrent_syncs: int = Field(
        default=0, ge=0, description="Transfers at the same time, over all processes; 0: the settings' number."
    )

    def settings(self) -> dict[str, object]:
        """The settings that are set here."""
        given = {"bandwidth_limit": self.bandwidth_limit_mbps, "max_concurrent_syncs": self.max_concurrent_syncs}
        return {name: value for name, value in given.items() if value}


class CircuitBreakerResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """When a node's transport is left alone: sync guide, "Circuit Breaker"."""

    failure_threshold: int = Field(default=3, ge=1, description="Failures in a row that open a breaker.")
    recovery_timeout_seconds: float = Field(default=60.0, gt=0, le=600, description="How long it stays open at first.")

    def config(self) -> CircuitBreakerConfig:
        """The breakers' numbers."""
        return CircuitBreakerConfig(
            failure_threshold=self.failure_threshold, recovery_timeout_seconds=self.recovery_timeout_seconds
        )


class TransportResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Over what bytes travel: sync guide, "Transport Escalation"."""

    transport: str = Field(
        default="",
        description="The only transport to use: p2p, rsync or base64; empty: P2P HTTP, else rsync, else base64.",
    )


class SyncResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Opens what a run works with. A field that is set wins over the environment.

    Args:
        hosts: The inventory: a directory of YAML files, or one file.
        root: The coordinator's ``ai-service`` directory.
        state_url: SQLAlchemy URL of the state database.
        token_file: The coordinator's own token.
        bandwidth: Limits.
        breakers: Circuit breakers.
        transports: The ladder of transports.

    """

    hosts: str = ""
    root: str = ""
    state_url: str = ""
    token_file: str = ""
    bandwidth: BandwidthResource
    breakers: CircuitBreakerResource
    transports: TransportResource

    def settings(self) -> Settings:
        """Read the settings.

        Raises:
            ConfigError: Something in them is wrong; every problem found is named.

        """
        given = {"hosts": self.hosts, "root": self.root, "state_url": self.state_url, "token_file": self.token_file}
        return load_settings(**{name: value for name, value in given.items() if value}, **self.bandwidth.settings())

    @contextmanager
    def runtime(self) -> Iterator[Runtime]:
        """Open the runtime for one run, and close it afterwards.

        Raises:
            dagster.Failure: Anything that the package raises on purpose; its text says what is wrong and what to do.

        """
        try:
            opened = Runtime.open(self.settings(), transport=self.transports.transport, breakers=self.breakers.config())
            with opened as runtime:
                yield runtime
        except SyncError as error:
            raise as_failure(error) from error


def as_failure(error: SyncError) -> dg.Failure:
    """Give the failure that Dagster shows: the error's own words, and one row for each problem or failed partition."""
    metadata: dict[str, dg.MetadataValue] = {"error": dg.MetadataValue.text(type(error).__name__)}
    if isinstance(error, ConfigError):
        metadata["problems"] = _list(error.problems)
    if isinstance(error, CollectFailedError):
        metadata["failed"] = _list(error.failures)
    return dg.Failure(description=str(error), metadata=metadata)


def _list(items: tuple[object, ...]) -> dg.MetadataValue:
    return dg.MetadataValue.md("\n".join(f"- {item}" for item in items))
