"""The program that runs on the node, as one zip file; the same sources always give the same bytes."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from importlib import resources
from typing import Final

_NAME: Final = "onnode"
_DATE: Final = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_MAIN: Final = f'''"""Start the program."""

import sys

from {_NAME}.__main__ import main

sys.exit(main(sys.argv[1:]))
'''

BOOTSTRAP: Final = (
    "import runpy, sys, tempfile\n"
    "size = int(sys.stdin.buffer.readline())\n"
    "with tempfile.NamedTemporaryFile(suffix='.pyz') as file:\n"
    "    file.write(sys.stdin.buffer.read(size))\n"
    "    file.flush()\n"
    "    sys.argv = [file.name, *sys.argv[1:]]\n"
    "    runpy.run_path(file.name, run_name='__main__')\n"
)
"""Python that reads the program from stdin (its length on a line, then its bytes) and runs it; nothing stays behind."""


@cache
def program() -> bytes:
    """Give the zip file."""
    sources = {"__main__.py": _MAIN.encode()}
    for entry in resources.files(__package__).joinpath(_NAME).iterdir():
        if entry.name.endswith(".py"):
            sources[f"{_NAME}/{entry.name}"] = entry.read_bytes()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            info = zipfile.ZipInfo(name, _DATE)
            info.create_system = 3  # Unix, wherever this runs
            info.external_attr = 0o100644 << 16
            archive.writestr(info, sources[name])
    return stream.getvalue()
