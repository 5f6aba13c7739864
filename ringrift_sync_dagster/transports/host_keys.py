"""Host keys as paramiko knows them: read from the file as OpenSSH reads it, and what happens with an unknown one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import paramiko

from ringrift_sync_dagster.storage.files import disk_errors
from ringrift_sync_dagster.transports.known_hosts import add_known_host
from ringrift_sync_dagster.transports.ssh import SshEndpoint

log = logging.getLogger(__name__)

_TOLD_MOST: Final = 1000
_told: Final[set[tuple[Path, int, bytes]]] = set()


def read_known_hosts(file: Path, into: paramiko.HostKeys) -> None:
    """Add the keys of a file; a line that is none is skipped, as OpenSSH does, and logged once per process.

    Args:
        file: The file; nothing happens when there is none.
        into: Gets the keys; the first one of a host and a type counts.

    Raises:
        LocalDiskError: It cannot be read.

    """
    with disk_errors(file, "read"):
        try:
            lines = file.read_bytes().splitlines()
        except FileNotFoundError:
            return
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        entry = _entry(line)
        if entry is None:
            _tell(file, number, line)
            continue
        for host in entry.hostnames:
            if (known := into.lookup(host)) is None or entry.key.get_name() not in known:
                into.add(host, entry.key.get_name(), entry.key)


def written(key: paramiko.PKey) -> str:
    """Give a key as it stands in a file of known ones."""
    return f"{key.get_name()} {key.get_base64()}"


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """What happens with a host key that is not known: refused, or taken once where the inventory allows it.

    Args:
        endpoint: The way to the node.

    """

    def __init__(self, endpoint: SshEndpoint) -> None:
        self._endpoint = endpoint

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Take the key, durably, or refuse it."""
        if self._endpoint.node.host_key_checking != "accept-new":
            raise self._endpoint.host_key_error("unknown", key.fingerprint, written(key))
        add_known_host(self._endpoint.settings.known_hosts, f"{hostname} {written(key)}")
        client.get_host_keys().add(hostname, key.get_name(), key)


def _entry(line: bytes) -> paramiko.hostkeys.HostKeyEntry | None:
    try:
        return paramiko.hostkeys.HostKeyEntry.from_line(" ".join(line.decode("utf-8", "replace").split()[:3]))
    except Exception:  # noqa: BLE001 - paramiko raises a dozen classes for what is no key; none of them is ours
        return None


def _tell(file: Path, number: int, line: bytes) -> None:
    if (file, number, line) not in _told and len(_told) < _TOLD_MOST:
        _told.add((file, number, line))
        log.warning("no host key, skipped file=%s line=%d", file, number)
