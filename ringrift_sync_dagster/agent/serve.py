"""Running one agent: what it is made of is put together here, it listens, and it ends within a deadline on SIGTERM.

Nothing here reads settings or the environment; the command line and the demo pass everything in. One agent per scratch
directory: a second one is refused, because two would write the same parts.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from aiohttp import web

from ringrift_sync_dagster.agent.app import Parts, build_app
from ringrift_sync_dagster.agent.artifacts import Catalogue
from ringrift_sync_dagster.agent.aside import logging_aside
from ringrift_sync_dagster.agent.auth import Authenticator, RevokedIds
from ringrift_sync_dagster.agent.calls import Calls
from ringrift_sync_dagster.agent.downloads import Downloads
from ringrift_sync_dagster.agent.events import EventDesk
from ringrift_sync_dagster.agent.forwarding import Forward, Forwarder
from ringrift_sync_dagster.agent.heartbeats import HeartbeatDesk
from ringrift_sync_dagster.agent.incoming import Incoming
from ringrift_sync_dagster.agent.limits import Limits
from ringrift_sync_dagster.agent.listener import LimitedServer
from ringrift_sync_dagster.agent.manifest import Manifest
from ringrift_sync_dagster.agent.merging import Merger
from ringrift_sync_dagster.agent.metrics import Metrics
from ringrift_sync_dagster.agent.own_address import OwnAddress
from ringrift_sync_dagster.agent.pulls import Pulls
from ringrift_sync_dagster.agent.receipts import ReceiptBook
from ringrift_sync_dagster.agent.through import Through
from ringrift_sync_dagster.agent.through_config import WriteThrough
from ringrift_sync_dagster.agent.tls import check_listen, fingerprint_of, plain_only_from, server_context
from ringrift_sync_dagster.agent.uploads import Uploads
from ringrift_sync_dagster.agent.watchdog import watching
from ringrift_sync_dagster.agent.ways import Ways
from ringrift_sync_dagster.core.model import checked_node_name
from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.intake.holding import Holding
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.settings.identity import CoordinatorKey
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.files import make_dirs
from ringrift_sync_dagster.storage.layout import SCRATCH_DIR, Layout
from ringrift_sync_dagster.transports.networks import DEFAULT_TRUSTED, TrustedNetworks

log = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8765
_LINGER_SECONDS: Final = 2.0  # how long the rest of a refused body is read, so that the refusal is read too
_THREADS: Final = 16  # more than the disk needs; a few may hang on a network file system


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What one agent is told.

    Args:
        node_id: Name of this node.
        roots: The node's directories; the first one is its own.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        scratch: Where the agent keeps its own files; by default under the first root.
        incoming: Where pushed artifacts land; by default in scratch.
        public_key_pem: The coordinator's public key; without it loopback only.
        tls: Certificate and key in PEM form; without them loopback and trusted networks only.
        state_url: The shared state database, on the coordinator only: its agent takes events; by default a SQLite file
            in scratch for the agent alone.
        trusted_networks: Where plain HTTP is allowed.
        limits: Bounds of the agent.
        revoked: The file of revoked ids; it may be made later.
        coordinator_key: The coordinator's key pair, for its own agent only: this one renews tokens.
        is_ephemeral: True: this node may vanish, and its receipts say so (``durable``).
        merge_into: The root of the canonical store, on the coordinator only: packs that are pushed are merged into it
            at once. It goes with ``state_url``, and ``incoming`` lies below it. None: passes merge them.
        hosts: The inventory, on the coordinator only: heartbeats are answered with peers from it.
        min_durable_copies: So many persistent nodes with a pack are as good as the coordinator; heartbeats are answered
            by it.
        forward: Where packs of others are brought; None: they wait here until they are asked for.
        write_through: Where finished games are made durable at once; None: nobody watches and nothing is pushed.

    """

    node_id: str
    roots: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    scratch: Path | None = None
    incoming: Path | None = None
    public_key_pem: bytes | None = None
    tls: tuple[Path, Path] | None = None
    state_url: str | None = None
    trusted_networks: tuple[str, ...] = DEFAULT_TRUSTED
    limits: Limits = field(default_factory=Limits)
    revoked: Path | None = None
    coordinator_key: CoordinatorKey | None = None
    is_ephemeral: bool = False
    merge_into: Path | None = None
    hosts: Path | None = None
    min_durable_copies: int = 1
    forward: Forward | None = None
    write_through: WriteThrough | None = None

    @property
    def scratch_dir(self) -> Path:
        """Where the agent keeps its own files."""
        return self.scratch or self.roots[0] / SCRATCH_DIR


def run_agent(  # noqa: PLR0913 - one keyword for each thing that an operator can say
    node_id: str,
    roots: Sequence[Path],
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    *,
    scratch: Path | None = None,
    incoming: Path | None = None,
    public_key_pem: bytes | None = None,
    tls: tuple[Path, Path] | None = None,
    state_url: str | None = None,
    trusted_networks: Sequence[str] = DEFAULT_TRUSTED,
    limits: Limits | None = None,
    revoked: Path | None = None,
    coordinator_key: CoordinatorKey | None = None,
    is_ephemeral: bool = False,
    merge_into: Path | None = None,
    hosts: Path | None = None,
    min_durable_copies: int = 1,
    forward: Forward | None = None,
    write_through: WriteThrough | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Run an agent until SIGTERM or SIGINT.

    All arguments but the last are those of ``AgentConfig``; ``on_ready`` is called with the URL once it answers.

    Raises:
        ConfigError: It may not listen there, a file is not usable, or another agent uses the scratch directory.
        StateError: The state database cannot be opened.
        OSError: The address is taken.

    """
    config = AgentConfig(
        checked_node_name(node_id),
        tuple(path.expanduser().absolute() for path in roots),
        host,
        port,
        scratch,
        incoming,
        public_key_pem,
        tls,
        state_url,
        tuple(str(network) for network in trusted_networks),
        limits or Limits(),
        revoked,
        coordinator_key,
        is_ephemeral=is_ephemeral,
        merge_into=merge_into,
        hosts=hosts,
        min_durable_copies=min_durable_copies,
        forward=forward,
        write_through=write_through,
    )
    with _only_one(make_dirs(config.scratch_dir)), logging_aside():
        asyncio.run(_serve(config, on_ready))


async def _serve(config: AgentConfig, on_ready: Callable[[str], None] | None) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="disk"))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config) as url:
        log.info("agent is up node=%s url=%s", config.node_id, url)
        if on_ready is not None:
            on_ready(url)
        await stop.wait()
        log.info("agent ends node=%s", config.node_id)


@contextlib.asynccontextmanager
async def running(config: AgentConfig) -> AsyncIterator[str]:
    """Run an agent in this event loop while the body runs; gives its URL.

    At the end no new connection is taken, requests under way get ``limits.shutdown_seconds``, then they are cancelled:
    what was received stays in its ``.part``.
    """
    trusted = TrustedNetworks(config.trusted_networks)
    has_tls = config.tls is not None
    check_listen(config.host, trusted, has_key=config.public_key_pem is not None, has_tls=has_tls)
    context = server_context(*config.tls) if config.tls is not None else None
    revoked = None if config.revoked is None else RevokedIds(config.revoked)
    authenticator = Authenticator(
        config.public_key_pem, config.node_id, revoked=revoked, coordinator_key=config.coordinator_key
    )
    parts = await asyncio.to_thread(_build, config)
    through = None
    if config.write_through is not None:
        through = _through(config, config.write_through, parts, trusted)
        parts = replace(parts, through=through)
    runner = web.AppRunner(
        build_app(parts, authenticator, plain_only_from(trusted)),
        access_log=None,
        auto_decompress=False,  # an artifact arrives as it is, and a compressed body could inflate without bound
        keepalive_timeout=config.limits.headers_seconds,
        lingering_time=_LINGER_SECONDS,
        shutdown_timeout=config.limits.shutdown_seconds,
    )
    try:
        await runner.setup()
        server = LimitedServer(runner, parts.metrics, config.limits.connections)
        sock = await server.listen(config.host, config.port, context)
        pin = "" if config.tls is None else fingerprint_of(config.tls[0])
        token_file = None if config.write_through is None else config.write_through.token_file
        own = OwnAddress.of(config.node_id, sock, pin, token_file)
        await asyncio.to_thread(own.write, config.scratch_dir)
        for worker in (parts.merger, parts.forwarder):
            if worker is not None:
                worker.start()
        with watching(parts.metrics):
            if through is not None:
                through.start()
            yield _url(sock, secure=has_tls)
            if through is not None:
                await through.end()
    finally:
        await runner.cleanup()
        await _close(parts)


def _build(config: AgentConfig) -> Parts:
    scratch = make_dirs(config.scratch_dir)
    artifacts = make_dirs(scratch / "artifacts")
    url = config.state_url or f"sqlite:///{scratch / 'agent.db'}"
    store = StateStore.open(url)
    receipts = ReceiptBook(store, config.node_id, durable=not config.is_ephemeral)
    shared = store if config.state_url is not None else None
    limits, metrics = config.limits, Metrics()
    root_names = [str(path) for path in config.roots]
    calls = Calls(root_names, str(scratch), limits, metrics)
    trusted = TrustedNetworks(config.trusted_networks)
    landing = config.incoming or scratch / "incoming"
    incoming = Incoming(landing)
    holding = Holding(config.node_id, store, Layout(config.merge_into or config.roots[0]), landing)
    merges = config.incoming is not None or config.coordinator_key is not None
    merger = _merger(config, metrics)
    forwarder = None if config.forward is None else Forwarder(config.forward, config.node_id, landing, trusted)
    listener = merger or forwarder
    uploads = Uploads(
        incoming, receipts, limits, metrics, taken_in=holding.has_taken_in if merges else None,
        arrived=None if listener is None else listener.arrived,
    )  # fmt: skip
    return Parts(
        node_id=config.node_id,
        root=config.roots[0],
        limits=limits,
        metrics=metrics,
        downloads=Downloads(Catalogue(artifacts, Roots(root_names), landing), limits, metrics),
        uploads=uploads,
        pulls=Pulls(incoming, uploads, receipts, limits, metrics, trusted),
        calls=calls,
        manifest=Manifest(calls, limits, metrics),
        receipts=receipts,
        events=EventDesk(shared, config.node_id, limits),
        heartbeats=HeartbeatDesk(
            shared, config.node_id, limits, metrics, config.hosts, config.min_durable_copies, holding.held
        ),
        merger=merger,
        forwarder=forwarder,
    )


def _merger(config: AgentConfig, metrics: Metrics) -> Merger | None:
    """Give what merges pushed packs, where this agent does."""
    if config.merge_into is None or config.state_url is None:
        return None
    layout = Layout(config.merge_into)
    layout.mkdirs()
    return Merger(config.node_id, StateStore.open(config.state_url), layout, metrics)


def _through(config: AgentConfig, told: WriteThrough, parts: Parts, trusted: TrustedNetworks) -> Through:
    ways = Ways(told.token_file, config.public_key_pem, trusted)
    roots = [str(path) for path in config.roots]
    return Through(
        config.node_id, roots, config.scratch_dir, told, ways, config.limits, parts.metrics,
        is_ephemeral=config.is_ephemeral,
    )  # fmt: skip


async def _close(parts: Parts) -> None:
    if parts.through is not None:
        await parts.through.close()
    await parts.calls.close()
    if parts.merger is not None:
        await asyncio.to_thread(parts.merger.close)
    if parts.forwarder is not None:
        await parts.forwarder.close()
    await parts.manifest.close()
    await parts.downloads.close()
    await parts.receipts.close()


def _url(sock: socket.socket, *, secure: bool) -> str:
    host, port = sock.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if secure else 'http'}://{shown}:{port}"


@contextlib.contextmanager
def _only_one(scratch: Path) -> Iterator[None]:
    """Hold the scratch directory for this process; the kernel lets go of it when the process ends, however it ends."""
    path = scratch / "agent.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            message = "another agent runs on this directory: stop it first, or give this one another scratch directory"
            raise ConfigError([Problem(file=str(path), line=None, host="", key="", message=message)]) from error
        yield
    finally:
        os.close(descriptor)
