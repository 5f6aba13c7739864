"""Where everything of the agent lies on this node: below one directory, so that removing it removes nothing else.

It lies in the node's own root, beside the data that it serves, and not in the home: providers keep the volume with the
root when they start a container anew, several nodes may share one login, and no scan looks into it.

agent/
  agent.json               what the supervisor starts: the agent's arguments, and where it then answers
  agent.pyz                this program, which the supervisor runs
  current -> releases/ID   the release that runs
  releases/ID/             a virtual environment, what it was made from, and ``complete`` at the end
  keys/                    coordinator.pub, revoked, token.jwt, and with TLS agent.crt and agent.key
  pending                  there while a change is not yet known to work
  agent.log, agent.log.1   what the supervised agent wrote
  agent.pid, *.lock        who runs, who works here
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MODES = {"token.jwt": 0o600, "coordinator.pub": 0o644, "revoked": 0o644}
"""The files of ``keys/`` that are brought, and who may read them."""


@dataclass(frozen=True, slots=True)
class Place:
    """The paths of one agent.

    Args:
        directory: The agent's directory.

    """

    directory: Path

    @property
    def config(self) -> Path:
        """What the supervisor starts."""
        return self.directory / "agent.json"

    @property
    def program(self) -> Path:
        """This program."""
        return self.directory / "agent.pyz"

    @property
    def current(self) -> Path:
        """The link to the release that runs."""
        return self.directory / "current"

    @property
    def releases(self) -> Path:
        """The releases."""
        return self.directory / "releases"

    @property
    def keys(self) -> Path:
        """Keys and token."""
        return self.directory / "keys"

    @property
    def pending(self) -> Path:
        """The mark of a change that is not yet known to work."""
        return self.directory / "pending"

    @property
    def log(self) -> Path:
        """What the supervised agent wrote."""
        return self.directory / "agent.log"

    @property
    def agent_pid(self) -> Path:
        """Which process the supervised agent is."""
        return self.directory / "agent.pid"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor; who holds it is the supervisor."""
        return self.directory / "supervisor.lock"

    @property
    def deploy_lock(self) -> Path:
        """Held by whoever changes something here."""
        return self.directory / "deploy.lock"

    def complete(self) -> list[str]:
        """Names of the releases that can run."""
        return sorted(found.parent.name for found in self.releases.glob("*/complete") if _can_run(found.parent))

    def running_release(self) -> str | None:
        """Name of the release that ``current`` leads to; None when there is none."""
        return self.current.readlink().name if self.current.is_symlink() else None


def python_of(release: Path) -> Path:
    """The interpreter of a release."""
    return release / "venv" / "bin" / "python"


def _can_run(release: Path) -> bool:
    return python_of(release).exists()  # False when the Python that it was made from has gone
