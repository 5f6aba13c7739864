"""Whether a model file is whole, by its structure alone: a model is a pickle, and nobody here unpickles one.

A ``.pth`` or ``.pt`` is a zip with a ``data.pkl`` (torch since 1.6), each member read through for its CRC, or the
older form, which begins with torch's own magic number. ``.onnx`` and ``.nnue`` have no checksum of their own: they must
not be empty. A ``<file>.sha256`` beside a model, as ``sha256sum`` writes it, is believed more than its bytes.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.errors import InvalidFileError
from ringrift_sync_dagster.storage.files import CHUNK_BYTES, atomic_write_text, disk_errors

SUFFIXES: Final = (".pth", ".pt", ".onnx", ".nnue")
_ZIPPED: Final = (".pth", ".pt")
_MEMBERS: Final = 100_000
_LEGACY: Final = re.compile(rb"\x80[\x02-\x05](?:\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19", re.DOTALL)
"""A pickle of torch's magic number 0x1950a86a20f9469cfc6c, protocols 2 to 5."""
_SIDECAR: Final = re.compile(r"\s*([0-9a-fA-F]{64})\b")
_HEAD_BYTES: Final = 64


def validate_model(path: Path, name: str) -> None:
    """Prove that a file is a whole model; memory does not grow with its size.

    Args:
        path: The file.
        name: Its name on the node that it came from; the suffix says what it must be.

    Raises:
        InvalidFileError: It is none, and what is wrong with it.
        LocalDiskError: It cannot be read.

    """
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidFileError(path, f"{name} is no model by its name: {', '.join(SUFFIXES)}")
    with disk_errors(path, "read"), path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head:
        raise InvalidFileError(path, "it is empty")
    if suffix in _ZIPPED and not _LEGACY.match(head):
        _validate_zip(path)


def _validate_zip(path: Path) -> None:
    """Read every member of torch's zip, which checks its CRC; members are stored, so nothing grows."""
    try:
        with disk_errors(path, "read"), zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if (
                len(members) > _MEMBERS
                or sum(member.file_size for member in members) > 2 * path.stat().st_size + CHUNK_BYTES
            ):
                raise InvalidFileError(path, "its members are larger than it is; torch does not compress them")
            if not any(member.filename.endswith("/data.pkl") for member in members):
                raise InvalidFileError(path, "it is a zip without data.pkl, which torch writes into every model")
            for member in members:
                if member.filename.startswith("/") or ".." in member.filename.split("/"):
                    raise InvalidFileError(path, f"its member {member.filename[:100]!r} leads out of it")
                with archive.open(member) as stream:
                    while stream.read(CHUNK_BYTES):
                        pass
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InvalidFileError(path, f"it is no whole model: {error}") from error


def read_sidecar(text: str) -> str:
    """Give the digest that a ``.sha256`` file names, in lower case; empty where it names none."""
    found = _SIDECAR.match(text)
    return found.group(1).lower() if found else ""


def write_sidecar(model: Path, sha256: str) -> None:
    """Write ``<model>.sha256`` as ``sha256sum`` does; durable on return.

    Raises:
        LocalDiskError: The disk refuses.

    """
    atomic_write_text(model.with_name(f"{model.name}.sha256"), f"{sha256}  {model.name}\n")
