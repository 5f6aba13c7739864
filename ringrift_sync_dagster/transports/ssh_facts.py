"""What a login finds on a node: where its roots are, and which programs there are; asked once per connection."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ringrift_sync_dagster.errors import RemoteCallError, TransientError
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports.legible import is_path, legible
from ringrift_sync_dagster.transports.ssh_link import SshLink

PROGRAMS: Final = ("rsync", "base64", "dd", "head", "tail", "sha256sum", "stat", "sync", "cat", "mv", "mkdir", "rm")
SCRATCH: Final = "data/.ringrift-sync"
"""The kit's own folder below the first root; the agent's is the same."""

_SHOWN_CHARS: Final = 80
_USER: Final = re.compile(r"~[A-Za-z0-9._-]*")
_RSYNC_VERSION: Final = re.compile(r"rsync\s+version\s+v?(\S+)")
# The kit needs 3.8; a node may have an old python3 and a newer one beside it.
_PYTHONS: Final = " ".join(("python3", *(f"python3.{minor}" for minor in range(14, 7, -1))))
_PYTHON_TEST: Final = """import hashlib, sqlite3, sys
try:
    kit = hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()
except OSError:
    kit = "none"
if sys.version_info >= (3, 8):
    print("%d.%d.%d" % sys.version_info[:3], kit)
"""
_ROOT: Final = """r={word}
case $r in /*) ;; *) r=$HOME/$r ;; esac
[ -d "$r" ] && d=yes || d=no
printf '%s\\0%s\\0' "$r" "$d"
[ -n "$top" ] || top=$r
"""
_PROGRAMS: Final = f"""p=; v=
for c in {_PYTHONS}; do
  v=$("$c" -S -I -c {shlex.quote(_PYTHON_TEST)} "$top/$kit" 2>/dev/null) && [ -n "$v" ] && p=$(command -v "$c") && break
  v=
done
printf '%s\\0%s\\0%s\\0' "$p" "$v" "$(rsync --version 2>/dev/null)"
for c in {" ".join(PROGRAMS)}; do command -v "$c" >/dev/null 2>&1 && printf '%s ' "$c"; done
printf '\\0'
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """A node as a login sees it.

    Args:
        roots: Absolute paths of its roots, its own first.
        programs: Which of ``PROGRAMS`` are there.
        python: Path of a Python that runs the kit; empty when there is none.
        python_version: Its version, such as ``3.11.2``.
        rsync_version: Version of its rsync; empty when there is none.
        kit_sha256: SHA-256 of what lies where our kit belongs; empty when nothing does.

    """

    roots: tuple[str, ...]
    programs: frozenset[str]
    python: str = ""
    python_version: str = ""
    rsync_version: str = ""
    kit_sha256: str = ""

    @property
    def scratch(self) -> str:
        """The kit's own folder."""
        return f"{self.roots[0]}/{SCRATCH}"


def ask(link: SshLink, kit: str, deadline: Deadline) -> Facts:
    """Find out about a node.

    Args:
        link: A login there.
        kit: Name of our kit in the kit's own folder.
        deadline: When to give up.

    Raises:
        RemoteCallError: ``missing``: its own root does not exist there.
        TransferError: By what to do next.

    """
    node = link.endpoint.node
    paths = (node.ringrift_path, *node.storage_paths)
    roots = "".join(_ROOT.format(word=_word(path)) for path in paths)
    answer = link.run(f"top=; kit={SCRATCH}/{kit}\n{roots}{_PROGRAMS}", deadline=deadline)
    fields = answer.stdout.decode("utf-8", "surrogateescape").split("\0")
    if len(fields) != 2 * len(paths) + 5:
        raise TransientError(node.name, link.endpoint.transport, f"the node told too little of itself: {answer.stderr}")
    if not all(is_path(root) for root in fields[: 2 * len(paths) : 2]):
        raise TransientError(node.name, link.endpoint.transport, "the node told of roots that are no paths")
    if fields[1] != "yes":
        message = "there is no such folder on the node; check ringrift_path"
        raise RemoteCallError(node.name, link.endpoint.transport, message, "missing", legible(fields[0]))
    return _facts(tuple(fields[: 2 * len(paths) : 2]), *fields[2 * len(paths) : -1])


def _facts(roots: tuple[str, ...], python: str, told: str, rsync: str, programs: str) -> Facts:
    version, _, kit_sha256 = told.partition(" ")
    found = _RSYNC_VERSION.search(rsync)
    rsync_version = legible(found[1], _SHOWN_CHARS) if found else ""
    return Facts(roots, frozenset(programs.split()), python, legible(version, _SHOWN_CHARS), rsync_version, kit_sha256)


def missing(facts: Facts, programs: Sequence[str]) -> list[str]:
    """Give those of the programs that are not on the node."""
    return [name for name in programs if name not in facts.programs]


def _word(path: str) -> str:
    """Write a path of the inventory so that the node's shell expands its tilde and nothing else."""
    user, slash, rest = path.partition("/")
    if not _USER.fullmatch(user):
        return shlex.quote(path)
    return f"{user}{slash}{shlex.quote(rest)}" if rest else user
