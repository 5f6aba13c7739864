"""The examination of the coordinator: settings, keys, ports, programs, SQLite, disk and state database.

Nothing is changed but what opening the state database does. One thing that is wrong hides no other.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Final

import requests

from ringrift_sync_dagster.core.room import DiskLimits
from ringrift_sync_dagster.errors import ConfigError, StateError, TokenError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import load_coordinator_key, verify_token
from ringrift_sync_dagster.settings.inventory import Inventory
from ringrift_sync_dagster.settings.settings import Settings
from ringrift_sync_dagster.state.node_reports import report_in, wish_in
from ringrift_sync_dagster.state.nodes import node_rows
from ringrift_sync_dagster.state.schema import REVISION
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage import room
from ringrift_sync_dagster.sync.doctor.findings import Findings, disk_finding, sqlite_finding
from ringrift_sync_dagster.sync.runtime import owner_of

ASK_SECONDS: Final = 2.0
"""How long a service on this machine may take to say who it is."""
UI_PORT: Final = 3000
_DAY: Final = 86400.0
_PROGRAMS: Final = {
    "ssh": "apt-get install openssh-client",
    "ssh-keygen": "apt-get install openssh-client",
    "rsync": "apt-get install rsync",
}


def examine_coordinator(settings: Settings, inventory: Inventory, limits: DiskLimits) -> Findings:
    """Examine this machine as the coordinator; within a few seconds.

    Args:
        settings: The settings in force.
        inventory: The nodes.
        limits: What the inventory allows on a disk.

    """
    owner = owner_of(settings, inventory)
    found = Findings(owner, [])
    _settings(found, settings, inventory)
    _identity(found, settings, owner)
    _known_hosts(found, settings)
    _ports(found, settings, inventory, owner)
    _programs(found)
    sqlite_finding(found, sqlite3.sqlite_version, "this Python")
    _root(found, settings, limits)
    _state(found, settings)
    return found


def _settings(found: Findings, settings: Settings, inventory: Inventory) -> None:
    for warning in settings.warnings:
        found.warning("settings", str(warning), f"change or unset {warning.key}")
    if not settings.warnings:
        found.ok("settings", f"read; everything of this program lies in {settings.home}")
    for problem in inventory.warnings:
        found.warning("hosts", str(problem), f"change {problem.key or 'it'} in {settings.hosts}")
    if inventory.coordinator is None:
        found.warning(
            "hosts",
            "no host has the role coordinator",
            f"give this machine's host in {settings.hosts} role: coordinator",
        )
    active = sum(node.collectable for node in inventory.nodes.values())
    words = f"{len(inventory.nodes)} hosts in {settings.hosts}, of which {active} are collected from"
    if active:
        found.ok("hosts", words)
    else:
        found.warning("hosts", words, f"add hosts with status: ready to {settings.hosts}")


def _identity(found: Findings, settings: Settings, owner: str) -> None:
    make = f"ringrift-sync token {owner}"
    try:
        key = load_coordinator_key(settings.home / "keys")
    except ConfigError as error:
        private = settings.home / "keys" / "coordinator.key"
        fix = f"chmod 600 {private}" if private.exists() else make
        found.error("key", str(error), fix)
        return
    found.ok("key", f"{settings.home / 'keys'} holds the coordinator's key, readable by its owner alone")
    path = settings.token_file
    if not path.exists():
        found.error("token", f"{path} is not there: no agent answers the coordinator", make)
        return
    if path.stat().st_mode & 0o077:
        found.error("token", f"{path} is open to others (mode {path.stat().st_mode & 0o777:o})", f"chmod 600 {path}")
    try:
        claims = verify_token(key.public_pem, path.read_text(encoding="ascii").strip(), clock.wall())
    except (TokenError, OSError, UnicodeDecodeError) as error:
        found.error("token", f"{path}: {error}", make)
        return
    days = (claims.expires - clock.wall()) / _DAY
    if "coordinator" not in claims.scopes:
        found.error("token", f"{path} is a token of {claims.sub} without the scope coordinator", make)
    elif days < 1:
        found.warning("token", f"{path} is good for {days * 24:.0f} h", make)
    else:
        found.ok("token", f"{path} is good for {days:.0f} days and renewed by every pass")


def _known_hosts(found: Findings, settings: Settings) -> None:
    path = settings.known_hosts
    try:
        count = sum(bool(line.strip()) and not line.startswith(b"#") for line in path.read_bytes().splitlines())
    except FileNotFoundError:
        fix = f"for each node: ssh-keyscan -p PORT HOST, compare the fingerprint, append the line to {path}"
        found.warning("known_hosts", f"{path} is not there: no node is reached over SSH", fix)
    except OSError as error:
        found.error("known_hosts", f"{path} cannot be read: {error.strerror}", f"chmod 600 {path}")
    else:
        found.ok("known_hosts", f"{path} has {count} host keys")


def _ports(found: Findings, settings: Settings, inventory: Inventory, owner: str) -> None:
    here = inventory.coordinator
    port = here.agent_port if here is not None else settings.agent_port
    addresses = dict.fromkeys(["127.0.0.1", *(here.own_addresses if here is not None else ())])
    told = {address: _told(f"http://{address}:{port}/health") for address in addresses}
    ours = [address for address, answer in told.items() if isinstance(answer, dict) and answer.get("node_id") == owner]
    other = [address for address, answer in told.items() if answer is not None and address not in ours]
    if ours:
        found.ok("agent port", f"the agent of {owner} answers at {ours[0]}:{port}")
    elif other:
        fix = f"find it: ss -ltnp 'sport = :{port}'; end it, or give {owner} another agent_port in {settings.hosts}"
        found.error("agent port", f"something else than the agent of {owner} has {other[0]}:{port}", fix)
    else:
        fix = f"ringrift-sync agent --node {owner} --host {next(reversed(addresses))}"
        found.warning("agent port", f"port {port} is free: no agent of {owner} takes what nodes push", fix)
    answer = _told(f"http://127.0.0.1:{UI_PORT}/server_info")
    if answer is None:
        found.ok("UI port", f"port {UI_PORT} is free; `make dev` or `dagster dev` serves the UI there")
    elif isinstance(answer, dict) and "dagster_webserver_version" in answer:
        found.ok("UI port", f"Dagster {answer['dagster_webserver_version']} serves the UI at port {UI_PORT}")
    else:
        fix = f"find it: ss -ltnp 'sport = :{UI_PORT}'; or start the UI with: dagster-webserver --port N"
        found.warning("UI port", f"something else than Dagster has port {UI_PORT}", fix)


def _told(url: str) -> object:
    """Ask a service for JSON; None where nothing listens, a word where what answers is something else."""
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy lies between us and this machine
            return session.get(url, timeout=ASK_SECONDS).json()
    except requests.ConnectionError as error:
        return None if "refused" in str(error).lower() or "timed out" in str(error).lower() else "no HTTP"
    except (requests.RequestException, ValueError):
        return "no JSON"


def _programs(found: Findings) -> None:
    for name, fix in _PROGRAMS.items():
        path = shutil.which(name)
        if path is None:
            found.error("programs", f"{name} is not on the PATH: nodes without an agent cannot be served", fix)
        else:
            found.ok("programs", f"{name} is {path}")
    if shutil.which("sqlite3") is None:
        found.ok("programs", "sqlite3, which only a person needs, is not on the PATH (apt-get install sqlite3)")


def _root(found: Findings, settings: Settings, limits: DiskLimits) -> None:
    with found.guarded("root", f"mkdir -p {settings.root} && chown -R $(id -un) {settings.root}"):
        place = next(path for path in (settings.root, *settings.root.parents) if path.exists())
        folders = [place, *(path for path in (place / "data", place / "data" / "incoming") if path.is_dir())]
        for folder in folders:
            with tempfile.TemporaryFile(dir=folder):
                pass
        words = "" if place == settings.root else f" (it will be made: {settings.root})"
        found.ok("root", f"{place} can be written{words}")
        disk = room.disk_of(place)
        disk_finding(found, str(place), disk.free_bytes, disk.used_bytes + disk.free_bytes, limits)


def _state(found: Findings, settings: Settings) -> None:
    try:
        with StateStore.open(settings.state_url) as state:
            with state.begin():
                pass
            found.ok("state", f"{state.name} can be written and has revision {REVISION}")
            _state_file(found, state)
            _agents(found, state)
    except StateError as error:
        found.error("state", str(error), "see the message; after a loss of the file: ringrift-sync pull --recover")


def _agents(found: Findings, state: StateStore) -> None:
    """Tell of nodes whose games stay where they are, by the word of their own agents."""
    for row in node_rows(state):
        report = report_in(row)
        if report.stopped_by:
            words = f"{row.name}: new games stay in their databases: {report.stopped_by}"
            found.warning("outbox", words, f"free room on the disk of {row.name}, or find out why nothing leaves it")
        if report.unread:
            words = f"{row.name}: {report.unread} databases hold what cannot be read: {report.unread_why}"
            found.warning(
                "unread", words, f"on {row.name}: end what holds the database, or see what is wrong with the file"
            )
        if report.draining or wish_in(row) is not None:
            words = f"{row.name}: it is drained, and takes nothing from others"
            found.warning("drain", words, f"ringrift-sync drain {row.name} --resume")


def _state_file(found: Findings, state: StateStore) -> None:
    if state.is_local and (mode := Path(str(state.url.database)).stat().st_mode) & 0o002:
        words = f"{state.name} can be changed by anybody (mode {mode & 0o777:o})"
        found.warning("state", words, f"chmod o-w {state.name}")
