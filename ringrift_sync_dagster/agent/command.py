"""The agent's own command line; the verb ``ringrift-sync agent`` calls ``run_agent`` too."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ringrift_sync_dagster.agent.forwarding import Forward
from ringrift_sync_dagster.agent.preemption import checked_url
from ringrift_sync_dagster.agent.serve import DEFAULT_PORT, run_agent
from ringrift_sync_dagster.agent.through_config import WriteThrough
from ringrift_sync_dagster.core.model import is_node_name
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.networks import DEFAULT_TRUSTED

_CANNOT_RUN = 2


def run(arguments: Sequence[str] | None) -> int:
    """Run an agent as the arguments say; give the exit status: 0 ended as asked, 2 it cannot run as told."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if (args.tls_cert is None) != (args.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        run_agent(
            args.node,
            args.root,
            args.host,
            args.port,
            scratch=args.scratch,
            incoming=args.incoming,
            public_key_pem=None if args.public_key is None else args.public_key.read_bytes(),
            tls=None if args.tls_cert is None else (args.tls_cert, args.tls_key),
            state_url=args.state_url,
            trusted_networks=args.trusted_network or DEFAULT_TRUSTED,
            revoked=args.revoked,
            is_ephemeral=args.ephemeral,
            min_durable_copies=args.min_durable_copies,
            forward=_forward(parser, args),
            write_through=_write_through(parser, args),
        )
    except (SyncError, ValueError, OSError) as error:
        sys.stderr.write(f"the agent cannot run: {error}\n")
        return _CANNOT_RUN
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ringrift_sync_dagster.agent", description="The node's service.")
    parser.add_argument("--node", required=True, help="name of this node, as in the inventory")
    parser.add_argument("--root", required=True, type=Path, action="append", help="a data directory; first its own")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", default=DEFAULT_PORT, type=int, help="port to listen on; 0 takes a free one")
    parser.add_argument("--public-key", type=Path, help="the coordinator's public key (coordinator.pub)")
    parser.add_argument("--revoked", type=Path, help="file of revoked node ids, one per line; it may change")
    parser.add_argument("--tls-cert", type=Path, help="this node's certificate in PEM form")
    parser.add_argument("--tls-key", type=Path, help="its private key in PEM form")
    parser.add_argument("--trusted-network", action="append", help="where plain HTTP is allowed; repeatable")
    parser.add_argument("--scratch", type=Path, help="the agent's own files; by default under the first root")
    parser.add_argument("--incoming", type=Path, help="where pushed artifacts land; by default in scratch")
    parser.add_argument("--state-url", help="the agent's state database; by default a SQLite file in scratch")
    parser.add_argument("--ephemeral", action="store_true", help="this node may vanish; its receipts say so")
    parser.add_argument("--forward-to", metavar="NAME=URL", help="the coordinator's agent, for packs of others")
    parser.add_argument("--forward-fingerprint", default="", help="SHA-256 of its certificate, with https")
    parser.add_argument("--write-through-to", metavar="NAME=URL", help="the coordinator's agent, for finished games")
    parser.add_argument("--write-through-fingerprint", default="", help="SHA-256 of its certificate, with https")
    parser.add_argument("--min-durable-copies", type=int, default=1, help="persistent nodes as good as the coordinator")
    parser.add_argument(
        "--preemption-notice", metavar="URL|aws", help="where the provider's notice is asked for; by default nowhere"
    )
    parser.add_argument("--token", type=Path, help="this node's token; to forward packs of others, with scope relay")
    return parser


def _forward(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Forward | None:
    if args.forward_to is None:
        return None
    owner = _owner(parser, "--forward", args.forward_to, args.forward_fingerprint)
    if args.token is None:
        parser.error("--forward-to needs --token")
    return Forward(owner, args.token)


def _write_through(parser: argparse.ArgumentParser, args: argparse.Namespace) -> WriteThrough | None:
    if args.write_through_to is None:
        if args.preemption_notice is not None:
            parser.error("--preemption-notice goes with --write-through-to: it drains what write-through has")
        return None
    owner = _owner(parser, "--write-through", args.write_through_to, args.write_through_fingerprint)
    if args.token is None and args.public_key is not None:
        parser.error("--write-through-to needs --token where agents have a key")
    url = "" if args.preemption_notice is None else checked_url(args.preemption_notice)
    return WriteThrough(owner, args.token, min_durable_copies=args.min_durable_copies, preemption_url=url)


def _owner(parser: argparse.ArgumentParser, option: str, told: str, fingerprint: str) -> Node:
    """Read where the coordinator's agent is."""
    name, _, url = told.partition("=")
    parts = urlsplit(url)
    if not (is_node_name(name) and parts.scheme in {"http", "https"} and parts.hostname and parts.port):
        parser.error(f"{option}-to is NAME=http(s)://address:port of the coordinator's agent")
    if (parts.scheme == "https") != bool(fingerprint):
        parser.error(f"{option}-to with https goes with {option}-fingerprint")
    return Node(name, "", "", tailscale_ip=parts.hostname, agent_port=parts.port, tls_fingerprint=fingerprint)
