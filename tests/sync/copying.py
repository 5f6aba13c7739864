"""A coordinator and one node with a real sshd, to copy files to and from; every test has folders of its own on both."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import random
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringrift_sync_dagster.settings.settings import Settings, load_settings
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.transfers import Transfer, transfer_rows
from ringrift_sync_dagster.sync.batch_rsync import BatchResult, BatchRsync
from ringrift_sync_dagster.sync.coordinated_rsync import BandwidthCoordinatedRsync, SyncResult
from ringrift_sync_dagster.sync.runtime import Runtime
from tests.sshd import Sshd, program

HOST = "training-node"
MB = 1_000_000
# The guide's address is a name that leads nowhere here; the private network's address comes first anyway.
HOSTS = """
hosts:
  hub-1: {{ssh_host: 127.0.0.1, ringrift_path: {home}, role: coordinator}}
  other-1: {{ssh_host: 203.0.113.9, ringrift_path: /r}}
  training-node:
    ssh_host: training
    tailscale_ip: {address}
    ssh_port: {port}
    ssh_user: {user}
    ssh_key: {key}
    ringrift_path: {root}
    bandwidth_mbps: {limit}
{more}
"""

SPOILING_RSYNC = """#!/bin/sh
{rsync} "$@"
status=$?
for file in {folder}/.*.part {folder}/.ringrift-batch-*/*; do
  [ -s "$file" ] && printf 'X' | dd of="$file" conv=notrunc 2>/dev/null
done
exit $status
"""


@dataclass
class Site:
    """Both machines, as one test sees them."""

    base: Path
    sshd: Sshd

    @property
    def near(self) -> Path:
        """Files here."""
        return self.base / "near"

    @property
    def far(self) -> Path:
        """Files on the node."""
        return self.base / "far"

    @property
    def root(self) -> Path:
        """The node's ai-service directory."""
        return self.base / "node"

    @property
    def at(self) -> str:
        """How people write the node's folder."""
        return f"{getpass.getuser()}@training:{self.far}"

    @property
    def environment(self) -> dict[str, str]:
        """The same settings for a program of its own."""
        return {
            "RINGRIFT_SYNC_HOME": str(self.base / "home"), "RINGRIFT_SYNC_HOSTS": str(self.base / "hosts.yaml"),
            "RINGRIFT_SYNC_ROOT": str(self.base / "hub"), "RINGRIFT_SYNC_KNOWN_HOSTS": str(self.sshd.known_hosts),
        }  # fmt: skip

    @property
    def settings(self) -> Settings:
        return load_settings(
            home=self.base / "home", hosts=self.base / "hosts.yaml", root=self.base / "hub",
            known_hosts=self.sshd.known_hosts,
        )  # fmt: skip

    def copy(self, source: object, dest: object, host: str = HOST, **options: object) -> SyncResult:
        """One copy in a runtime of its own."""
        with Runtime.open(self.settings) as runtime:
            rsync = BandwidthCoordinatedRsync(runtime)
            return asyncio.run(rsync.sync_with_checksum(str(source), str(dest), host, **options))  # type: ignore[arg-type]

    def batch(self, files: list[str], source_root: object, dest: object, **options: object) -> BatchResult:
        """One batch in a runtime of its own."""
        with Runtime.open(self.settings) as runtime:
            batch = BatchRsync(runtime)
            return asyncio.run(batch.sync(files, str(source_root), str(dest), HOST, **options))  # type: ignore[arg-type]

    def rows(self) -> list[Transfer]:
        """The transfers that were recorded, oldest first."""
        with StateStore.open(self.settings.state_url) as state:
            return transfer_rows(state)[::-1]

    def leftovers(self) -> list[str]:
        """What lies about on either side but should not."""
        places = (self.near, self.far, self.base / "hub/data/.ringrift-sync/tmp", self.root / "data/.ringrift-sync/tmp")
        found = (path for place in places for path in place.rglob("*"))
        return [path.name for path in found if path.name.startswith((".", "snapshot-")) and path.is_file()]


def made_site(base: Path, sshd: Sshd, limit: float = 2000.0, more: str = "") -> Site:
    """Make both machines; ``limit`` is the node's in MB/s, ``more`` a section of the inventory."""
    site = Site(base, sshd)
    for folder in (site.near, site.far, site.root):
        folder.mkdir(parents=True)
    hosts = HOSTS.format(
        home=base / "hub", address=sshd.address, port=sshd.port, user=getpass.getuser(), key=sshd.key, root=site.root,
        limit=limit, more=more,
    )  # fmt: skip
    (base / "hosts.yaml").write_text(hosts)
    return site


@contextmanager
def spoiling_site(base: Path, address: str) -> Iterator[Site]:
    """A site whose node has a bad disk: what its rsync received has another first byte afterwards."""
    with Sshd(base / "sshd", address, programs=("sh", "dd", "printf", "rm", "mkdir", "mv", "cat")) as sshd:
        site = made_site(base / "site", sshd)
        own = sshd.folder / "bin"
        (own / "python3").symlink_to(Path(sys.executable).resolve())
        (own / "rsync").write_text(SPOILING_RSYNC.format(rsync=program("rsync"), folder=site.far))
        (own / "rsync").chmod(0o755)
        yield site


def part_of(folder: Path) -> Path:
    """The one part in a folder."""
    (part,) = folder.glob(".*.part")
    return part


def grown(folder: Path, size: int) -> Path:
    """The part in a folder, once it has so many bytes."""
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        for part in folder.glob(".*.part"):
            if part.stat().st_size >= size:
                return part
        time.sleep(0.01)
    raise AssertionError(sorted(folder.iterdir()))


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


def make_database(path: Path, rows: int = 200, *, wal: bool = False) -> Path:
    """Make a database of about 1 kB a row, and leave it closed."""
    with contextlib.closing(sqlite3.connect(path)) as conn:
        if wal:
            conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, body BLOB)")
        conn.executemany("INSERT INTO t VALUES (?, ?)", ((n, noise(1000, n)) for n in range(rows)))
        conn.commit()
    return path


def rows_of(path: Path) -> int:
    """How many rows a copied database has, when SQLite finds nothing wrong with it."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(conn.execute("SELECT COUNT(*) FROM t").fetchone()[0])


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Somebody who uses a database: a connection with a read transaction, as a training process has."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("BEGIN")
        conn.execute("SELECT COUNT(*) FROM t").fetchone()
        yield conn
