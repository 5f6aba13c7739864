"""The node kit over a login: copied once, named and checked by its hash, and called with JSON on its standard input."""

from __future__ import annotations

import hashlib
import json
import shlex
from functools import lru_cache
from typing import Any, Final

from ringrift_sync_dagster.errors import RemoteCallError, RungUnusableError, TransientError
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.zipped import kit_bytes
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.legible import legible
from ringrift_sync_dagster.transports.ssh_facts import Facts
from ringrift_sync_dagster.transports.ssh_link import Answer, SshLink

_HASH: Final = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
_NOT_STARTED: Final = (126, 127)  # a shell's words for a program that cannot be run, or is not there
_SHOWN_CHARS: Final = 300


@lru_cache(maxsize=1)
def kit() -> tuple[bytes, str]:
    """Give the kit and its SHA-256 in hexadecimal."""
    content = kit_bytes()
    return content, hashlib.sha256(content).hexdigest()


def kit_name() -> str:
    """Give the kit's name in the kit's own folder on a node."""
    return f"kit/{kit()[1]}.pyz"


class Kit:
    """The kit on one node.

    Args:
        link: A login there.
        facts: What that login found; it has Python.

    """

    def __init__(self, link: SshLink, facts: Facts) -> None:
        self._link = link
        self._facts = facts
        self._place = (link.endpoint.node.name, link.endpoint.transport)
        self._path = f"{facts.scratch}/{kit_name()}"
        self._placed = facts.kit_sha256 == kit()[1]

    def run(self, op: str, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Run one operation; give its result.

        Raises:
            KitError: The kit refused.
            TransferError: By what to do next.

        """
        if not self._placed:
            self._place_kit(deadline)
        roots = [word for root in self._facts.roots for word in ("--root", root)]
        command = shlex.join([self._facts.python, "-S", "-I", self._path, op, *roots])
        answer = self._link.run(command, deadline=deadline, stdin=json.dumps(args).encode(), patient=True)
        try:
            told = json.loads(answer.stdout)
            if told["ok"]:
                return dict(told["result"])
            error = told["error"]
            refusal = KitError(legible(error["code"]), error["message"], error["path"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise self._no_answer(op, answer) from error
        raise refusal

    def _place_kit(self, deadline: Deadline) -> None:
        """Copy the kit to the node, whole or not at all."""
        content, sha256 = kit()
        path, folder = shlex.quote(self._path), shlex.quote(f"{self._facts.scratch}/kit")
        command = shlex.join([self._facts.python, "-S", "-I", "-c", _HASH])
        script = f"""umask 022; part={path}.$$.part
mkdir -p {folder} && cat > "$part" && [ "$({command} "$part")" = {sha256} ] && mv -f "$part" {path} && exit
rm -f "$part"; exit 1"""
        answer = self._link.run(script, deadline=deadline, stdin=content)
        if answer.status != 0:
            raise self._refused(answer)
        self._placed = True

    def _refused(self, answer: Answer) -> RemoteCallError:
        words = legible(answer.stderr, _SHOWN_CHARS)
        code = "no_space" if "No space left" in words or "quota" in words else "unreadable"
        return RemoteCallError(
            *self._place, f"the kit cannot be copied to the node: {words}", code, legible(self._path)
        )

    def _no_answer(self, op: str, answer: Answer) -> RungUnusableError | TransientError:
        self._placed = False  # it may be gone or damaged
        words = legible(answer.stderr or answer.text, _SHOWN_CHARS)
        if answer.status in _NOT_STARTED:
            message = f"{legible(self._facts.python)} does not start on the node any more: {words}"
            return RungUnusableError(*self._place, message)
        return TransientError(*self._place, f"{op}: the kit ended with status {answer.status}: {words or 'no output'}")
