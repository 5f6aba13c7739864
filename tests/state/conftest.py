"""A fresh state database for each test: SQLite always, PostgreSQL too where it is installed (marker ``cluster``)."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from ringrift_sync_dagster.state.store import StateStore

ROOT = Path(__file__).resolve().parents[2]

StartProgram = Callable[..., "subprocess.Popen[str]"]


def _postgres_tool(name: str) -> str | None:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """Start a PostgreSQL of our own on loopback, as an unprivileged user, in a directory that is removed again."""
    pytest.importorskip("psycopg2")
    initdb, pg_ctl = _postgres_tool("initdb"), _postgres_tool("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="rr-state-pg-"))
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = pwd.getpwnam("nobody").pw_uid
        os.chown(directory, user, -1)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=directory, user=user)

    data, port = directory / "data", _free_port()
    options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={directory} -c port={port} -c fsync=off"
    try:
        run(initdb, "-D", str(data), "-A", "trust", "-U", "state")
        run(pg_ctl, "-D", str(data), "-w", "-l", str(directory / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://state@127.0.0.1:{port}"
        finally:
            run(pg_ctl, "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.cluster)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that nobody opened yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/state.db"
    server = request.getfixturevalue("postgres")
    name = f"t{uuid.uuid4().hex}"
    engine = sa.create_engine(f"{server}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server}/{name}"


@pytest.fixture
def store(url: str) -> Iterator[StateStore]:
    with StateStore.open(url) as opened:
        yield opened


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite database that nobody opened yet, for what PostgreSQL does not have."""
    return f"sqlite:///{tmp_path}/state.db"


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[StateStore]:
    with StateStore.open(sqlite_url) as opened:
        yield opened


@pytest.fixture
def start_program() -> Iterator[StartProgram]:
    """Start Python programs of a few lines as processes of their own; the rest is killed at the end."""
    with contextlib.ExitStack() as stack:

        def start(program: str, *arguments: str) -> subprocess.Popen[str]:
            path = os.pathsep.join([str(ROOT), *sys.path])
            process = subprocess.Popen(
                [sys.executable, "-c", program, *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start
