"""What is set aside and never thrown away: the bytes as they came, and a record of whose they are and why.

    <directory>/<node>/<name>.bin     the bytes
    <directory>/<node>/<name>.json    the record, written second: with the record there, the bytes are whole

Node and game ids come from outside, so each is written as one harmless file name (``encoded_name``); the record keeps
the original. Only ``remove`` removes an entry, and only retention calls it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from ringrift_sync_dagster.errors import ChecksumError
from ringrift_sync_dagster.node.faults import reached
from ringrift_sync_dagster.storage.files import (
    CHUNK_BYTES,
    atomic_write_text,
    disk_errors,
    fsync_dir,
    install,
    make_dirs,
    new_part,
    sha256_file,
)

NAME_LIMIT: Final = 180
"""Longest encoded name in bytes; file systems allow 255, and a suffix and the name of a part file must fit too."""


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """One thing set aside.

    Args:
        node: Whose bytes they are; the origin, not a relay.
        name: What they are, such as a game id with a digest; unique for the node.
        reason: One word for the rule that they broke, for counting.
        detail: The rest for a person.
        artifact: SHA-256 of the artifact that brought them; empty when unknown.
        at: When, in seconds since 1970 (this machine's clock, for display).
        size_bytes: Length of the bytes.
        sha256: SHA-256 of the bytes.
        path: Where the bytes lie.
        problem: What is wrong with the entry itself; empty when the entry is sound.

    """

    node: str
    name: str
    reason: str
    detail: str
    artifact: str
    at: float
    size_bytes: int
    sha256: str
    path: Path
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The directory of things set aside; safe for threads and processes.

    Args:
        directory: Created with the first entry.

    """

    directory: Path

    def add(
        self, node: str, name: str, data: bytes | Path, *, reason: str, detail: str, artifact: str, at: float
    ) -> QuarantineEntry:
        """Set the bytes aside and give the entry; when it returns, they are on the disk.

        Idempotent: an entry with this node and name is given back as it is, and nothing is written. A file is copied;
        the caller still has it, and may remove it afterwards.

        Raises:
            LocalDiskError: The disk is full or not writable; there is no entry then.

        """
        base = self._base(node, name)
        existing = _read_entry(base)
        if existing is not None and not existing.problem:
            return existing
        make_dirs(base.parent)
        sha256, size_bytes = _write_data(_with(base, ".bin"), data)
        reached("quarantine.data")
        record = {
            "node": node, "name": name, "reason": reason, "detail": detail, "artifact": artifact, "at": at,
            "size": size_bytes, "sha256": sha256,
        }  # fmt: skip
        atomic_write_text(_with(base, ".json"), json.dumps(record, indent=2) + "\n")
        return QuarantineEntry(node, name, reason, detail, artifact, at, size_bytes, sha256, _with(base, ".bin"))

    def get(self, node: str, name: str) -> QuarantineEntry | None:
        """Give the entry, or None; a damaged one has ``problem``."""
        return _read_entry(self._base(node, name))

    def entries(self) -> list[QuarantineEntry]:
        """Give all entries, by node and name.

        A broken record, bytes without a record and a record without bytes are given as entries with ``problem``, so
        that nothing hides.

        Raises:
            LocalDiskError: A directory cannot be read.

        """
        found = [entry for base in self._bases() if (entry := _read_entry(base)) is not None]
        return sorted(found, key=lambda entry: (entry.node, entry.name))

    def read(self, node: str, name: str) -> bytes:
        """Give the bytes, verified.

        Raises:
            KeyError: There is no such entry.
            ChecksumError: The bytes are not those that were set aside.
            LocalDiskError: They cannot be read.

        """
        entry = self._sound(node, name)
        with disk_errors(entry.path, "read"):
            data = entry.path.read_bytes()
        _check(entry, hashlib.sha256(data).hexdigest())
        return data

    def restore(self, node: str, name: str, destination: Path) -> None:
        """Copy the bytes to ``destination``, verified and durable; the entry stays. Idempotent.

        Raises:
            KeyError: There is no such entry.
            ChecksumError: The bytes are not those that were set aside; ``destination`` is untouched.
            LocalDiskError: They cannot be read, or the destination cannot be written.

        """
        entry = self._sound(node, name)
        _check(entry, sha256_file(entry.path))
        _write_data(destination, entry.path)

    def remove(self, node: str, name: str) -> None:
        """Remove an entry, durably. Idempotent.

        The record becomes a tombstone before the bytes go, so that a removal that was cut short is finished by
        ``finish_removals``, and nobody takes the bytes that are left for a damaged entry.

        Raises:
            LocalDiskError: The disk refuses.

        """
        base = self._base(node, name)
        with disk_errors(base, "remove"):
            if _with(base, ".json").exists():
                _with(base, ".json").rename(_with(base, ".gone"))
        reached("quarantine.gone")
        self._finish(base)

    def finish_removals(self) -> None:
        """Finish the removals of processes that were killed.

        Raises:
            LocalDiskError: The disk refuses.

        """
        for tombstone in list(self.directory.glob("*/*.gone")):
            self._finish(tombstone.with_suffix(""))

    @staticmethod
    def _finish(base: Path) -> None:
        with disk_errors(base, "remove"):
            if not _with(base, ".json").exists():  # else the same was set aside anew
                _with(base, ".bin").unlink(missing_ok=True)
            _with(base, ".gone").unlink(missing_ok=True)
        if base.parent.is_dir():
            fsync_dir(base.parent)

    def _base(self, node: str, name: str) -> Path:
        return self.directory / encoded_name(node) / encoded_name(name)

    def _bases(self) -> Iterator[Path]:
        with disk_errors(self.directory, "list"):
            if not self.directory.is_dir():
                return
            files = [path for node in self.directory.iterdir() if node.is_dir() for path in node.iterdir()]
        yield from {path.with_suffix("") for path in files if path.suffix in {".bin", ".json"}}

    def _sound(self, node: str, name: str) -> QuarantineEntry:
        entry = self.get(node, name)
        if entry is None:
            raise KeyError(f"quarantine {self.directory} has nothing of {node} named {name}")
        if entry.problem:
            raise ChecksumError(node, "", f"the entry {name} in quarantine is damaged: {entry.problem}")
        return entry


def encoded_name(name: str) -> str:
    """Give one harmless file name for any text; different texts give different names.

    Letters, digits, ``_``, ``-``, ``~`` and inner dots stay; the rest is percent-encoded. A long name keeps its
    beginning and gets ``=`` and the SHA-256 of the whole (``=`` itself is always encoded, so nothing collides).
    """
    text = quote(name.encode("utf-8", "surrogatepass"), safe="~")
    if text.startswith(".") or not text:
        text = f"%2E{text[1:]}" if text else "%"
    if len(text) <= NAME_LIMIT:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[: NAME_LIMIT - 65]}={digest}"


def _with(base: Path, suffix: str) -> Path:
    # Not Path.with_suffix: a name may hold dots of its own.
    return base.with_name(base.name + suffix)


def _write_data(target: Path, data: bytes | Path) -> tuple[str, int]:
    """Write the bytes durably under the target's name; give their SHA-256 and length."""
    digest, size_bytes = hashlib.sha256(), 0
    with new_part(target) as (part, stream):
        for chunk in _chunks(data):
            digest.update(chunk)
            size_bytes += len(chunk)
            with disk_errors(target, "write"):
                stream.write(chunk)
        with disk_errors(target, "write"):
            stream.close()
        install(part, target)
    return digest.hexdigest(), size_bytes


def _chunks(data: bytes | Path) -> Iterator[bytes]:
    if isinstance(data, bytes):
        yield data
        return
    with disk_errors(data, "read"), data.open("rb") as stream:
        yield from iter(lambda: stream.read(CHUNK_BYTES), b"")


def _check(entry: QuarantineEntry, sha256: str) -> None:
    if sha256 != entry.sha256:
        raise ChecksumError(
            entry.node, "", f"{entry.path} has SHA-256 {sha256[:12]}, but {entry.sha256[:12]} was set aside"
        )


def _read_entry(base: Path) -> QuarantineEntry | None:
    data, record_path = _with(base, ".bin"), _with(base, ".json")
    size_bytes = _size(data)
    try:
        record = json.loads(record_path.read_bytes())
        entry = QuarantineEntry(
            str(record["node"]), str(record["name"]), str(record["reason"]), str(record["detail"]),
            str(record["artifact"]), float(record["at"]), int(record["size"]), str(record["sha256"]), data,
        )  # fmt: skip
    except FileNotFoundError:
        return None if size_bytes is None else _damaged(base, size_bytes, "its record was never written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _damaged(base, size_bytes or 0, f"its record {record_path.name} cannot be read: {error!r}")
    if size_bytes != entry.size_bytes:
        return _damaged(base, size_bytes or 0, f"its record says {entry.size_bytes} bytes, the file has {size_bytes}")
    return entry


def _damaged(base: Path, size_bytes: int, problem: str) -> QuarantineEntry:
    # The names are the best guess from the file names: exact unless the name was long.
    node, name = unquote(base.parent.name), unquote(base.name)
    return QuarantineEntry(node, name, "damaged", "", "", 0.0, size_bytes, "", _with(base, ".bin"), problem)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
