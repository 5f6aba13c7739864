"""What tests of several layers share: one embedded cluster and one Dagster webserver for the whole test run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from xdist.scheduler import LoadScopeScheduling

from ringrift_sync_dagster.demo.cluster import EmbeddedCluster, agent_name

CHECKOUT = Path(__file__).resolve().parents[1]
AGENTS = ("vast-900001", "runpod-a1")
READY_SECONDS = 90.0
LOG_LINES = 40
SHARED: list[EmbeddedCluster] = []  # what `agents` started; a report has no fixtures any more

# Files whose tests share something dear, each group in one process; every other test runs wherever there is time.
TOGETHER = {
    "tests/defs/test_webserver.py": "webserver",  # one webserver for the whole test run
    "tests/defs/test_three_ways.py": "webserver",
    "tests/sync/test_deploy.py": "deploy",  # one installation for all of them
    "tests/sync/test_deploy_in_place.py": "deploy in place",
    "tests/transports/test_namespaces.py": "namespaces",  # one network of its own
    "tests/demo/test_cargo.py": "cargo",  # one cluster that was moved
    "tests/demo/test_verdict.py": "verdict",  # one cluster that was collected from
    "tests/sync/test_distribute.py": "distribute",  # one cluster of its own
    "tests/defs/test_real_ticks.py": "real ticks",  # one cluster with a daemon of its own
    "tests/cli/test_transport.py": "cli transport",  # one node with an sshd
}

Ask = Callable[..., dict[str, Any]]


class Together(LoadScopeScheduling):  # type: ignore[misc]  # xdist ships no types
    """What ``xdist_group`` would do; with pytest 9.2 xdist 3.8 does not see that marker."""

    def _split_scope(self, nodeid: str) -> str:
        return TOGETHER.get(nodeid.partition("::")[0], nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let a soak be tried for a shorter time than its own."""
    parser.addoption("--soak-seconds", type=float, default=None, help="how long the soak leaves everything alone")
    parser.addoption("--ledger-seed", type=int, default=None, help="the seed of the long ledger harness's faults")


def pytest_configure() -> None:
    """Take Ctrl-C as a terminal gives it: a shell starts `make test &` with SIGINT ignored.

    Dagster lets SIGTERM do in a process what SIGINT does there, and what is ignored, children inherit.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:  # noqa: ANN401 - xdist's own class
    return Together(config, log)


@pytest.fixture(scope="session")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedCluster]:
    """Agents of two nodes, for the whole test run."""
    with EmbeddedCluster(tmp_path_factory.mktemp("cluster"), nodes=AGENTS) as cluster:
        SHARED.append(cluster)
        yield cluster
        SHARED.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the shared agents said last when one of their tests fails."""
    report = yield
    if report.failed and "agents" in getattr(item, "fixturenames", ()):
        for cluster in SHARED:
            for name in map(agent_name, cluster.agents):
                title = f"log of {name}, which {'runs' if cluster.processes.is_running(name) else 'HAS ENDED'}"
                report.sections.append((title, cluster.processes.tail(name, LOG_LINES)))
    return report


@pytest.fixture
def shared_cluster(agents: EmbeddedCluster) -> Iterator[EmbeddedCluster]:
    """The agents of the test run, with nothing on their nodes; give the test a coordinator's root and a state."""
    yield agents
    for node in AGENTS:
        root = agents.node_root(node)
        for path in (*(root / "data").iterdir(), *root.glob("models")):
            if path.is_dir() and not path.name.startswith("."):
                shutil.rmtree(path)
            elif path.is_file():
                path.unlink(missing_ok=True)  # SQLite itself removes a log when the last user of a database ends


@pytest.fixture(scope="session")
def webserver_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coordinator's root of what the webserver launches."""
    return tmp_path_factory.mktemp("owner")


@pytest.fixture(scope="session")
def graphql(agents: EmbeddedCluster, webserver_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Ask a real webserver with the project's definitions: ``graphql(query, name=value)`` gives the data.

    Launched runs start at once, because no daemon empties a queue here.
    """
    home, root = tmp_path_factory.mktemp("dagster"), webserver_root
    (home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_coordinator: {module: dagster._core.run_coordinator, class: DefaultRunCoordinator}\n"
    )
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTHONDONTWRITE")},
        **agents.environment,
        "RINGRIFT_SYNC_ROOT": str(root),
        "RINGRIFT_SYNC_STATE_URL": f"sqlite:///{root}/state.db",
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port)]
    command += ["-m", "ringrift_sync_dagster.definitions"]
    log = home / "webserver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=CHECKOUT, stdout=output, stderr=output)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(process, url, log)
        yield lambda query, **variables: _ask(url, query, variables)
    finally:
        process.terminate()
        process.wait(30)


def _ask(url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    answer = requests.post(f"{url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
    assert "errors" not in answer, answer
    data: dict[str, Any] = answer["data"]
    return data


def _wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    limit = time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(requests.RequestException):
            if requests.get(f"{url}/server_info", timeout=5).ok:
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.1)
