"""Loopback addresses for a cluster on one machine: each node has its own 127.x address, so that all use the real port.

The range is claimed by listening on its last address for as long as the cluster lives, so two clusters on one machine
(two test runs, say) never share one. Linux answers on all of 127.0.0.0/8 without any set-up.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PREFERRED: Final = "127.77.0"
_RANGES: Final = (PREFERRED, *(f"127.77.{number}" for number in range(1, 256)))
_CLAIM: Final = 254  # the last octet of the address that says "taken"


class NoAddressError(Exception):
    """No 127.77.x.0/24 range is free on this machine."""


@dataclass(frozen=True, slots=True)
class AddressRange:
    """A range that is ours until ``release``.

    Args:
        prefix: Its first three octets, such as ``127.77.0``.
        claim: The listening socket that holds it.

    """

    prefix: str
    claim: socket.socket

    def address(self, last: int) -> str:
        """The address with this last octet."""
        return f"{self.prefix}.{last}"

    def release(self) -> None:
        """Give the range back. Idempotent."""
        self.claim.close()


def claim_range(port: int, octets: Sequence[int]) -> AddressRange:
    """Claim the first range in which ``port`` is free on all these addresses.

    Raises:
        NoAddressError: There is none.

    """
    for prefix in _RANGES:
        claim = _listen(f"{prefix}.{_CLAIM}", port)
        if claim is None:
            continue
        if all(_is_free(f"{prefix}.{octet}", port) for octet in octets):
            return AddressRange(prefix, claim)
        claim.close()
    raise NoAddressError(
        f"port {port} is taken in every range from 127.77.0.0/24 to 127.77.255.0/24, or this system answers on"
        " 127.0.0.1 only; stop the other clusters, or run the demo on Linux"
    )


def _is_free(address: str, port: int) -> bool:
    probe = _listen(address, port)
    if probe is None:
        return False
    probe.close()
    return True


def _listen(address: str, port: int) -> socket.socket | None:
    """A listening socket, or None when somebody else listens there; remains of closed connections do not count."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1)
    except OSError:
        listener.close()
        return None
    return listener
