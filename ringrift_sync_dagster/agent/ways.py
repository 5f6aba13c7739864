"""The ways from a node's agent to other agents: outbound HTTP with the node's own token, and a pause after failures."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import AuthenticationError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.identity import store_renewed_token
from ringrift_sync_dagster.settings.nodes import Node
from ringrift_sync_dagster.transports.networks import TrustedNetworks
from ringrift_sync_dagster.transports.p2p_http import P2PHttpTransport

_FIRST_PAUSE: Final = 0.5
_DOUBLINGS: Final = 10
_STALL_SECONDS: Final = 5.0  # a receiver that hangs keeps games waiting that another one could take


def pause_seconds(failures: int, longest: float, first: float = _FIRST_PAUSE) -> float:
    """Give how long to wait after so many failures in a row: growing, bounded, and never the same for all who wait."""
    return min(longest, first * 2.0 ** min(failures - 1, _DOUBLINGS)) * random.uniform(0.5, 1.0)  # noqa: S311


class Target:
    """One receiver, and when it may be asked again.

    Args:
        node: The node.
        longest_pause: The longest pause after failures.

    """

    def __init__(self, node: Node, longest_pause: float) -> None:
        self.node = node
        self.failures = 0
        self.not_before = 0.0
        self._longest_pause = longest_pause

    @property
    def name(self) -> str:
        """Name of the node."""
        return self.node.name

    def due(self) -> bool:
        """Whether it may be asked now."""
        return clock.monotonic() >= self.not_before

    def failed(self) -> None:
        """It did not answer, or not as it should."""
        self.failures += 1
        self.not_before = clock.monotonic() + pause_seconds(self.failures, self._longest_pause)

    def answered(self) -> bool:
        """It did; say whether it had failed before."""
        again, self.failures, self.not_before = self.failures > 0, 0, 0.0
        return again


class Ways:
    """Open transports by node; safe in several threads.

    Args:
        token_file: This node's token; None where no agent has a key.
        public_key_pem: The coordinator's public key; with it, renewed tokens are kept.
        trusted: Where plain HTTP is allowed.

    """

    def __init__(self, token_file: Path | None, public_key_pem: bytes | None, trusted: TrustedNetworks) -> None:
        self._token_file, self._public_key_pem, self._trusted = token_file, public_key_pem, trusted
        self._open: dict[Node, P2PHttpTransport] = {}

    def to(self, node: Node) -> P2PHttpTransport:
        """Give the way to a node.

        Raises:
            AuthenticationError: It would lead in the clear through networks that are not trusted.

        """
        if node not in self._open:
            if not node.tls_fingerprint and not any(map(self._trusted.holds_host, node.own_addresses)):
                message = f"{node.address} is outside the trusted networks, and no certificate is pinned for it"
                raise AuthenticationError(node.name, "p2p_http", message)
            networks = self._trusted.networks
            self._open[node] = P2PHttpTransport(
                node, self._token, trusted_networks=networks, stall_seconds=_STALL_SECONDS, renewed=self._renewed()
            )
        return self._open[node]

    def keep_only(self, nodes: Iterable[Node]) -> None:
        """Close the ways to all others."""
        wanted = set(nodes)
        for node in [node for node in list(self._open) if node not in wanted]:  # another thread may open one
            self._open.pop(node).close()

    def close(self) -> None:
        """Close all. Idempotent."""
        self.keep_only(())

    def _token(self) -> str:
        return "" if self._token_file is None else self._token_file.read_text(encoding="ascii").strip()

    def _renewed(self) -> Callable[[str], None] | None:
        path, key = self._token_file, self._public_key_pem
        if path is None or key is None:
            return None

        def keep(token: str) -> None:
            store_renewed_token(path, token, key, clock.wall())

        return keep
