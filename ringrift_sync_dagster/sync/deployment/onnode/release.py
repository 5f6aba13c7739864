"""A release: a virtual environment with the agent's packages and the project's wheel; complete, or not there.

It is built beside the one that runs and is never changed afterwards. What was left half built is removed first. The
release of before is kept, so that going back to it takes no installation.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from .files import RefusedError, sync_directory, write_whole
from .place import Place, python_of
from .processes import Ran, run

_INSTALL_SECONDS = 300.0
_TRY_SECONDS = 60.0
_MAKE_CERTIFICATE = """
import sys, time
from pathlib import Path
from ringrift_sync_dagster.settings.identity import make_tls_certificate
make_tls_certificate(Path(sys.argv[1]), sys.argv[2], sys.argv[3:], time.time())
"""


def build(place: Place, name: str, files: Mapping[str, bytes], *, wheel: str, offline: bool) -> None:
    """Make a release that is not there.

    Args:
        place: Where the agent lies.
        name: Name of the release.
        files: What it is made from, by file name: the wheel, requirements-agent.txt, constraints.txt, more wheels.
        wheel: Which of them is the project's own.
        offline: Install from these files alone.

    Raises:
        RefusedError: A step failed; nothing is left of the release.

    """
    release = place.releases / name
    shutil.rmtree(release, ignore_errors=True)
    wheels = release / "wheels"
    wheels.mkdir(parents=True)
    try:
        for file, data in files.items():
            write_whole((wheels if file.endswith(".whl") else release) / file, data, 0o644)
        _install(release, wheels / wheel, offline=offline)
        write_whole(release / "complete", b"", 0o644)
        sync_directory(place.releases)
    except BaseException:
        shutil.rmtree(release, ignore_errors=True)
        raise


def _install(release: Path, wheel: Path, *, offline: bool) -> None:
    python = str(python_of(release))
    pip = [python, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q", "--no-compile"]
    only_ours = ["--no-index", "-f", "wheels"] if offline else []
    _step("python -m venv", run([sys.executable, "-I", "-m", "venv", "venv"], _INSTALL_SECONDS, cwd=release))
    requirements = [*pip, *only_ours, "-r", "requirements-agent.txt"]
    _step("pip install -r requirements-agent.txt", run(requirements, _INSTALL_SECONDS, cwd=release))
    own = [*pip, "--no-deps", "--no-index", str(wheel)]
    _step(f"pip install {wheel.name}", run(own, _INSTALL_SECONDS, cwd=release))
    # This compiles what the agent imports, and no more: all of it would take longer than everything else.
    agent = [python, "-I", "-m", "ringrift_sync_dagster.agent", "--help"]
    _step("the agent of this wheel", run(agent, _TRY_SECONDS, cwd=release))


def make_certificate(place: Place, release: str, node: str, addresses: list[str]) -> None:
    """Make the agent's TLS certificate if there is none; its private key never leaves the node.

    Raises:
        RefusedError: It cannot be made.

    """
    python = str(python_of(place.releases / release))
    arguments = [python, "-I", "-c", _MAKE_CERTIFICATE, str(place.keys), node, *addresses]
    _step("making a TLS certificate", run(arguments, _TRY_SECONDS))


def prune(place: Place, *kept: str | None) -> None:
    """Remove all releases but these."""
    for release in place.releases.iterdir():
        if release.name not in kept:
            shutil.rmtree(release, ignore_errors=True)


def _step(what: str, ran: Ran) -> None:
    if ran.status != 0:
        raise RefusedError(f"{what} failed on the node: {ran.last_words}")
