"""The way to the program on a node: find a Python there that can make virtual environments, and run the program in it.

Everything travels over exec channels of one SSH connection, on stdin: nothing of it is an argument, so nothing secret
is in any process list.
"""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ringrift_sync_dagster.errors import RemoteCallError, RungUnusableError, TransferError, TransientError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.sync.deployment.program import BOOTSTRAP, program
from ringrift_sync_dagster.transports.ssh_link import SshLink

LEAST_PYTHON: Final = (3, 11)
_REFUSAL_MAX_CHARS: Final = 2000
NAMES: Final = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
_LOOK: Final = (
    "import sys\n"
    "try:\n"
    "    import venv, ensurepip\n"
    "    lacks = 'nothing'\n"
    "except ImportError as error:\n"
    "    lacks = str(error).split()[-1]\n"
    "print('%d.%d.%d %s' % (sys.version_info[:3] + (lacks,)))\n"
)
# A login without a terminal has a short PATH; the other places are where pip, uv, conda and pyenv put a Python.
_FIND: Final = f"""
PATH="$PATH:/usr/local/bin:$HOME/.local/bin:/opt/conda/bin:$HOME/miniconda3/bin:$HOME/.pyenv/shims"
for name in {" ".join(NAMES)}; do
    path=$(command -v "$name") || continue
    told=$("$path" -I -c {shlex.quote(_LOOK)} 2>/dev/null) || continue
    printf '%s\\t%s\\n' "$path" "$told"
done
"""


class Remote:
    """The program on one node.

    Args:
        link: The login.
        cancel: Ends the waiting.

    """

    def __init__(self, link: SshLink, cancel: threading.Event | None = None) -> None:
        self._link = link
        self._cancel = cancel
        self._python = ""

    def call(
        self, operation: str, request: Mapping[str, Any], deadline: Deadline, files: Sequence[tuple[str, bytes]] = ()
    ) -> dict[str, Any]:
        """Run one operation; give its result.

        Raises:
            RungUnusableError: The node has no usable Python; the message says what it has.
            RemoteCallError: The program refused what was asked; the message says why, and what now is true.
            TransferError: The node cannot be reached, or does not answer in time.

        """
        python = self._python or self._find(deadline)
        code, whole = program(), {**request, "files": [(name, len(data)) for name, data in files]}
        sent = [f"{len(code)}\n".encode(), code, json.dumps(whole).encode(), b"\n", *(data for _, data in files)]
        command = f"{shlex.quote(python)} -I -c {shlex.quote(BOOTSTRAP)} {operation}"
        answer = self._link.run(
            command, stdin=b"".join(sent), deadline=deadline, cancel=self._cancel, patient=True
        )  # fmt: skip
        try:
            told = json.loads(answer.stdout)
            ok, result = bool(told["ok"]), told["result"] if told["ok"] else str(told["error"])
        except (ValueError, KeyError, TypeError) as error:
            cause = " ".join(answer.stderr.split())[-300:] or f"status {answer.status}"
            raise self._error(TransientError, f"{operation} failed on the node: {cause}") from error
        if not ok or not isinstance(result, dict):
            raise self._error(RemoteCallError, str(result)[:_REFUSAL_MAX_CHARS])
        return result

    def _find(self, deadline: Deadline) -> str:
        answer = self._link.run(_FIND, deadline=deadline, cancel=self._cancel, patient=True)
        seen = []
        for line in answer.text.splitlines():
            path, _, told = line.partition("\t")
            version, _, lacks = told.partition(" ")
            numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
            if numbers >= LEAST_PYTHON and lacks == "nothing":
                self._python = path
                return path
            seen.append(f"{path} is {version}" + ("" if numbers < LEAST_PYTHON else f" and lacks {lacks}"))
        raise self._error(RungUnusableError, _no_python(seen))

    def _error(self, kind: type[TransferError], message: str) -> TransferError:
        endpoint = self._link.endpoint
        return kind(endpoint.node.name, endpoint.transport, message)


def _no_python(seen: Sequence[str]) -> str:
    least = ".".join(map(str, LEAST_PYTHON))
    found = "; ".join(seen) or f"none of {', '.join(NAMES)} answers"
    advice = "on Debian and Ubuntu: apt-get install python3.11 python3.11-venv"
    return f"the agent needs Python {least} or newer with venv and ensurepip: {found}. Install it ({advice})"
