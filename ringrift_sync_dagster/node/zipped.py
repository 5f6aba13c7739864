"""Zip the kit into one file that any Python 3.8 or later runs; the same sources always give the same bytes.

Inside, the outer package is empty, so that nothing outside the kit can be imported by mistake. Entries are sorted,
carry one fixed date and are stored uncompressed (compressors differ between machines; the file has some 100 kB).
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import zipfile
from typing import Dict

_PACKAGE = "ringrift_sync_dagster"
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_MAIN = f'''"""Start the node kit."""

import sys

from {_PACKAGE}.node.__main__ import main

sys.exit(main())
'''


def _sources() -> Dict[str, bytes]:
    """Give the content of the zip by name."""
    here = os.path.dirname(os.path.abspath(__file__))
    sources = {"__main__.py": _MAIN.encode(), f"{_PACKAGE}/__init__.py": b""}
    for name in os.listdir(here):
        if name.endswith(".py"):
            with open(os.path.join(here, name), "rb") as source:
                sources[f"{_PACKAGE}/node/{name}"] = source.read()
    return sources


def _zip(sources: Dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3  # Unix, wherever this runs
            info.external_attr = 0o100644 << 16
            archive.writestr(info, sources[name])
    return stream.getvalue()


def kit_bytes() -> bytes:
    """Give the kit as the bytes of its zip."""
    return _zip(_sources())


def build_zip(dest: str) -> str:
    """Write the kit to ``dest``, replacing what is there in one step, and give the SHA-256 of its bytes in hex.

    Raises:
        OSError: The folder is missing or full.

    """
    content = kit_bytes()
    handle, part = tempfile.mkstemp(prefix=".kit-", suffix=".part", dir=os.path.dirname(os.path.abspath(dest)))
    try:
        with os.fdopen(handle, "wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        os.chmod(part, 0o644)
        os.replace(part, dest)
    except BaseException:
        os.unlink(part)
        raise
    return hashlib.sha256(content).hexdigest()
