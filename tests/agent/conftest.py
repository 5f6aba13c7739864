"""One key, one free network of addresses, and one agent for the tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.settings.identity import CoordinatorKey, create_coordinator_key
from tests.agent.agents import AgentProcess, addresses

StartAgent = Callable[..., AgentProcess]


@pytest.fixture(scope="session")
def coordinator_key(tmp_path_factory: pytest.TempPathFactory) -> CoordinatorKey:
    return create_coordinator_key(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def free_addresses() -> Iterator[str]:
    return addresses()


@pytest.fixture(scope="module")
def agent(
    coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AgentProcess]:
    root = tmp_path_factory.mktemp("agent") / "root"
    with AgentProcess("node-a", root, next(free_addresses), coordinator_key) as running:
        yield running


@pytest.fixture
def start_agent(coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path: Path) -> Iterator[StartAgent]:
    """Start an agent with settings of the test's own."""
    with ExitStack() as stack:

        def start(**settings: Any) -> AgentProcess:  # noqa: ANN401 - fields of AgentProcess
            given = {"node": "node-b", "root": tmp_path / "root", "host": next(free_addresses), "key": coordinator_key}
            return stack.enter_context(AgentProcess(**{**given, **settings}))

        yield start
