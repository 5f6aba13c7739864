"""Where a file is, as people write it for rsync: ``/path`` here, ``user@host:/path`` on a node; and which node that is.

The address in front of the colon must be one of the node that the caller names as ``host``: key, port, limits and the
known host key are that node's, and bytes for one machine must not go to another.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.inventory import Inventory
from ringrift_sync_dagster.settings.nodes import Node

# A colon before any slash ends an address, which stands in brackets when it holds colons itself.
_REMOTE: Final = re.compile(r"(?:(?P<user>[^@/:\[\]]*)@)?(?P<address>\[[^\]/]+\]|[^/:@\[\]]+):(?P<path>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """A file or a folder.

    Args:
        path: Its path; ``~`` and relative paths are those of the login where it is on a node.
        address: The machine; empty for this one.
        user: Whom to log in as; empty: whom the inventory says.

    """

    path: str
    address: str = ""
    user: str = ""

    @property
    def prefix(self) -> str:
        """What stands before the path: empty, or ``user@host:``."""
        if not self.address:
            return ""
        shown = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.user}@{shown}:" if self.user else f"{shown}:"

    @property
    def name(self) -> str:
        """The last part of the path; empty when there is none that can name a file."""
        last = self.path.rstrip("/").rpartition("/")[2]
        return "" if last in {"", ".", "..", "~"} else last

    def __str__(self) -> str:
        return f"{self.prefix}{self.path}"


@dataclass(frozen=True, slots=True)
class Route:
    """From where to where.

    Args:
        source: The one end.
        dest: The other.
        node: The node of the end that is not on this machine.

    """

    source: Place
    dest: Place
    node: Node

    @property
    def pushes(self) -> bool:
        """True when the node receives."""
        return bool(self.dest.address)


def parse_place(text: str, key: str) -> Place:
    """Read ``/path``, ``host:path``, ``user@host:path`` or ``user@[2001:db8::7]:path``.

    Args:
        text: What somebody wrote. A local path with a colon before its first slash begins with ``./``.
        key: Name of the argument, for messages.

    Raises:
        ConfigError: It is empty, holds NUL, or names an rsync daemon.

    """
    if not text or "\0" in text:
        raise _refused(key, f"{text!r} names no place; write /path or user@host:/path")
    found = _REMOTE.fullmatch(text)
    if text.startswith("rsync://") or (found is not None and found["path"].startswith(":")):
        raise _refused(key, f"{text!r} names an rsync daemon; files travel over SSH: write user@host:/path")
    if found is None:
        return Place(text)
    return Place(found["path"] or ".", found["address"].strip("[]"), found["user"] or "")


def local_path(path: str) -> str:
    """Give a path of this machine absolute, with its slash at the end if it has one: the kit works elsewhere."""
    written = Path(path)
    with contextlib.suppress(RuntimeError):  # a name that begins with a tilde and names no user
        written = written.expanduser()
    return str(written.absolute()) + ("/" if path.endswith("/") else "")


def find_route(inventory: Inventory, source: Place, dest: Place, host: str) -> Route:
    """Find the node that a copy concerns.

    Args:
        inventory: The nodes.
        source: Where from.
        dest: Where to; one of the two is on the node, the other on this machine.
        host: Name of the node in the inventory.

    Raises:
        ConfigError: Not exactly one end is on a node; there is no such node; the address is not the node's; or the
            source names no file.

    """
    node = inventory.get(host)
    if bool(source.address) == bool(dest.address):
        where = "are on other machines: run it on one of them" if dest.address else "are on this machine"
        message = f"{source} and {dest} both {where}; one of the two must be user@host:path, the other a path here"
        raise _refused("dest", message)
    if not source.name:
        raise _refused("source", f"{source} names no file")
    far, key = (dest, "dest") if dest.address else (source, "source")
    _require_own_address(inventory, node, far.address, key)
    return Route(source, dest, replace(node, ssh_user=far.user) if far.user else node)


def _require_own_address(inventory: Inventory, node: Node, address: str, key: str) -> None:
    if address.lower() in _addresses(node):
        return
    owners = [other.name for other in inventory.nodes.values() if address.lower() in _addresses(other)]
    whose = f"it is {owners[0]}'s" if owners else "the inventory gives it to nobody"
    own = ", ".join(sorted(_addresses(node)))
    raise _refused(key, f"{address} is no address of {node.name} ({whose}); {node.name} is {own}", node.name)


def _addresses(node: Node) -> set[str]:
    return {known.lower() for known in (node.name, node.ssh_host, node.tailscale_ip) if known}


def _refused(key: str, message: str, host: str = "") -> ConfigError:
    return ConfigError([Problem("argument", None, host, key, message)])
