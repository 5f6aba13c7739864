"""The one resource: where the inventory, the store and the state are; and how our errors become readable failures.

Empty fields mean what the settings say (default < ``hosts/`` < environment), so that a run needs no config at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from ringrift_sync_dagster.errors import CollectFailedError, ConfigError, SyncError
from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.sync.runtime import Runtime


class SyncResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Opens what a run works with. A field that is set wins over the environment.

    Args:
        hosts: The inventory: a directory of YAML files, or one file.
        root: The coordinator's ``ai-service`` directory.
        state_url: SQLAlchemy URL of the state database.
        token_file: The coordinator's own token.

    """

    hosts: str = ""
    root: str = ""
    state_url: str = ""
    token_file: str = ""

    def settings(self) -> Settings:
        """Read the settings.

        Raises:
            ConfigError: Something in them is wrong; every problem found is named.

        """
        given = {"hosts": self.hosts, "root": self.root, "state_url": self.state_url, "token_file": self.token_file}
        return load_settings(**{name: value for name, value in given.items() if value})

    @contextmanager
    def runtime(self) -> Iterator[Runtime]:
        """Open the runtime for one run, and close it afterwards.

        Raises:
            dagster.Failure: Anything that the package raises on purpose; its text says what is wrong and what to do.

        """
        try:
            with Runtime.open(self.settings()) as runtime:
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
