"""``up`` and ``daemon``: all automation in the foreground, with Dagster or without, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import show_json
from ringrift_sync_dagster.cli.plans import STRATEGIES
from ringrift_sync_dagster.cli.session import Session, verb
from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.clock import monotonic

END_SECONDS = 15.0
"""How long a part may take to end before it is killed."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0
"""Pauses before a part that ended by itself is started again; they double while it ends within the longest one."""


@click.command(context_settings=CONTEXT)
@click.option("--strategy", type=click.Choice(STRATEGIES), help="Which one.  [default: RINGRIFT_SYNC_STRATEGY, hybrid]")
@verb("hosts", "home", "root", "state-url")
def daemon(session: Session, strategy: str | None) -> int:
    """Move data in the background without Dagster; stands by while somebody else acts for the strategy.

    It logs to <home>/logs/auto_sync.log. What it moved, the next Dagster run records.
    """
    from ringrift_sync_dagster.sync.daemon import AutoSyncDaemon

    settings = session.settings()
    running = AutoSyncDaemon(strategy, settings=settings)
    click.echo(f"strategy {running.config.strategy.value}; log: {running.log}; ends with Ctrl-C or SIGTERM", err=True)
    asyncio.run(_until_signal(running.start, running.stop))
    if session.as_json:
        status = running.status()
        marks = {one.strategy.value: one.marks for one in status.rhythms}
        show_json({"ok": True, "strategy": status.strategy.value, "marks": marks, "log": str(status.log)})
    return 0


async def _until_signal(start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await start()
    await ended.wait()
    await stop()


@click.command(context_settings=CONTEXT)
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True, help="Port of Dagster's UI.")
@click.option("--no-agent", is_flag=True, help="The coordinator's agent runs elsewhere, such as under systemd.")
@click.option("--no-dagster", is_flag=True, help="Run the AUTO daemon in the place of Dagster.")
@click.option(
    "--dagster-home", type=click.Path(path_type=Path, file_okay=False), default=Path(), envvar="DAGSTER_HOME",
    show_envvar=True, help="Directory with dagster.yaml; the current one by default.",
)  # fmt: skip
@verb("hosts", "home")
def up(session: Session, port: int, no_agent: bool, no_dagster: bool, dagster_home: Path) -> int:  # noqa: FBT001 - flags
    """Run everything that a coordinator runs: its agent, and Dagster with all schedules and sensors.

    Dagster's UI is on 127.0.0.1. Parts that end by themselves are started again, with growing pauses. The instance is
    that of DAGSTER_HOME, else of the dagster.yaml in this directory.
    """
    from ringrift_sync_dagster.settings.inventory import load_inventory

    settings = session.settings()
    coordinator = load_inventory(settings.hosts, coordinator=settings.coordinator).coordinator
    parts: list[_Part] = []
    this = [sys.executable, "-m", "ringrift_sync_dagster.cli"]
    given = [word for name, value in session.given.items() for word in (f"--{name.replace('_', '-')}", value)]
    if not no_agent:
        if coordinator is None:
            message = "no host has role coordinator, so there is no agent to run; name one, or use --no-agent"
            raise ConfigError([Problem(str(settings.hosts), None, "", "role", message)])
        parts.append(_Part("agent", [*this, "agent", "--node", coordinator.name, *given]))
    if no_dagster:
        parts.append(_Part("daemon", [*this, "daemon", "--strategy", "auto", *given]))
    else:
        home = _checked(dagster_home.expanduser().absolute())
        dagster = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)]
        dagster += ["-m", "ringrift_sync_dagster.definitions"]
        variables = {
            "DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1",
            "RINGRIFT_SYNC_HOME": str(settings.home), "RINGRIFT_SYNC_HOSTS": str(settings.hosts),
        }  # fmt: skip
        parts.append(_Part("dagster", dagster, variables, home, signal.SIGINT))  # at SIGTERM it leaves its servers
        click.echo(f"Dagster's UI: http://127.0.0.1:{port}", err=True)
    return _run(parts)


def _checked(home: Path) -> Path:
    if not (home / "dagster.yaml").exists():
        message = "it has no dagster.yaml; start in the checkout, or name a directory that has one"
        raise ConfigError([Problem(str(home), None, "", "DAGSTER_HOME", message)])
    return home


@dataclass
class _Part:
    """One process that is kept running."""

    name: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    stop_signal: int = signal.SIGTERM
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = FIRST_PAUSE_SECONDS
    again_at: float = 0.0

    def keep(self) -> None:
        """Start it, or again when it has ended and its pause is over."""
        now = monotonic()
        if self.process is not None and self.process.poll() is not None:
            click.echo(f"{self.name} ended with {self.process.returncode}; again in {self.pause:.0f} s", err=True)
            lived = now - self.started
            self.again_at = now + self.pause
            short = lived < LONGEST_PAUSE_SECONDS
            self.pause = min(2 * self.pause, LONGEST_PAUSE_SECONDS) if short else FIRST_PAUSE_SECONDS
            self.process = None
        if self.process is None and now >= self.again_at:
            # `env` replaces itself with the program, so the pid is the program's.
            command = ["env", *(f"{name}={value}" for name, value in self.variables.items()), *self.command]
            self.process = subprocess.Popen(
                command, cwd=self.directory, stdin=subprocess.DEVNULL, start_new_session=True
            )
            self.started = now

    def stop(self) -> None:
        """Ask it to end, and kill what is left of its session after a while. Idempotent."""
        if self.process is None:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            click.echo(f"{self.name} did not end within {END_SECONDS:.0f} s and is killed", err=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None


def _run(parts: Sequence[_Part]) -> int:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        while not ended.is_set():
            for part in parts:
                part.keep()
            ended.wait(0.5)
    finally:
        for part in reversed(parts):
            part.stop()
    return 0
