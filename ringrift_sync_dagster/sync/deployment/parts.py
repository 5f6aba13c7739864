"""What a release is made from: the project's wheel and the pinned requirements; its name says what is in it.

A deploy starts from a checkout, because there the requirements, the pins and the sources of the wheel belong together.
"""

from __future__ import annotations

import hashlib
import re
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ringrift_sync_dagster
from ringrift_sync_dagster.errors import ConfigError, Problem
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports import process

BUILD_SECONDS: Final = 120.0
REQUIREMENTS: Final = ("requirements-agent.txt", "constraints.txt")
UNIT_TEMPLATE: Final = "deploy/ringrift-agent.service"
_WHEEL_NAME: Final = re.compile(r"ringrift_sync_dagster-([0-9][A-Za-z0-9.!+_]*)-(?:\d[A-Za-z0-9_]*-)?py3-none-any\.whl")
_AGENT: Final = "ringrift_sync_dagster/agent/__main__.py"


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of a release.

    Args:
        files: Name and content: the project's wheel first, then requirements, then wheels of an offline installation.
        version: The version that the wheel has.
        offline: True: nothing else is needed for the installation.
        unit_template: The systemd unit, with its placeholders.

    """

    files: tuple[tuple[str, bytes], ...]
    version: str
    offline: bool
    unit_template: str

    @property
    def wheel(self) -> str:
        """Name of the project's own wheel."""
        return self.files[0][0]

    def release(self, python: str) -> str:
        """Name the release that these files make with a Python: its version and a digest of everything in it.

        Args:
            python: Version of the node's Python, such as ``3.11``.

        """
        digest = hashlib.sha256(f"{python} {self.offline}\n".encode())
        for name, data in sorted(self.files):
            digest.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
        return f"{self.version}-{digest.hexdigest()[:12]}"


def read_parts(wheel: Path | None = None, wheels: Path | None = None) -> Parts:
    """Read everything that a release needs; build the wheel when none is given.

    Args:
        wheel: The project's wheel; None: build it from this checkout.
        wheels: Directory with the wheels of all requirements, for nodes that reach no package index.

    Raises:
        ConfigError: This is no checkout, the wheel cannot be built, or a file is not what it must be.

    """
    checkout = _checkout()
    own = _built(checkout) if wheel is None else _given(wheel)
    matched = _WHEEL_NAME.fullmatch(own[0])
    if matched is None:
        raise _problem(own[0], "this is no wheel of ringrift_sync_dagster for any Python 3; build one from a checkout")
    texts = [(name, (checkout / name).read_bytes()) for name in REQUIREMENTS]
    others = [] if wheels is None else _offline(wheels)
    template = (checkout / UNIT_TEMPLATE).read_text(encoding="utf-8")
    return Parts((own, *texts, *others), matched[1], wheels is not None, template)


def _checkout() -> Path:
    found = Path(ringrift_sync_dagster.__file__).resolve().parents[1]
    missing = [name for name in ("pyproject.toml", UNIT_TEMPLATE, *REQUIREMENTS) if not (found / name).is_file()]
    if missing:
        message = f"{', '.join(missing)} is not here: run deploy from a checkout of the project (make setup)"
        raise _problem(str(found), message)
    return found


def _built(checkout: Path) -> tuple[str, bytes]:
    """Build with the pinned backend of this environment; the same sources give the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "--no-index",
            "--no-build-isolation", "--no-cache-dir", "-w", folder, str(checkout),
        ]  # fmt: skip
        ended = process.run(command, deadline=Deadline.after(BUILD_SECONDS))
        found = sorted(Path(folder).glob("*.whl"))
        if ended.status != 0 or len(found) != 1:
            cause = " ".join(ended.stderr.split())[-400:] or f"status {ended.status}"
            raise _problem(str(checkout), f"the wheel cannot be built: {cause}; run make setup, or give --wheel FILE")
        return found[0].name, found[0].read_bytes()


def _given(wheel: Path) -> tuple[str, bytes]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            has_agent = _AGENT in archive.namelist()
        data = wheel.read_bytes()
    except (OSError, zipfile.BadZipFile) as error:
        raise _problem(str(wheel), f"the wheel cannot be read: {error}") from error
    if not has_agent:
        raise _problem(str(wheel), f"the wheel has no {_AGENT}, so it is not this project's")
    return wheel.name, data


def _offline(wheels: Path) -> Sequence[tuple[str, bytes]]:
    found = [path for path in sorted(wheels.glob("*.whl")) if _WHEEL_NAME.fullmatch(path.name) is None]
    if not found:
        message = "there is no wheel; fill it with: pip download -r requirements-agent.txt -d DIR"
        raise _problem(str(wheels), message)
    return [(path.name, path.read_bytes()) for path in found]


def _problem(file: str, message: str) -> ConfigError:
    return ConfigError([Problem(file, None, "", "", message)])
