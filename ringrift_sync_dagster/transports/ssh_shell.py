"""A node without Python: what the kit does with immutable files, done by a shell and the programs that every Unix has.

The answers, the refusals and the files are the kit's own (``node.keeping``, and ``hash`` of ``node.ops``), so that a
node may get Python later, or an agent. What reads databases cannot be done without Python.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any, Final

from ringrift_sync_dagster.core.model import SHA256, is_node_name
from ringrift_sync_dagster.errors import RungUnusableError, TransientError
from ringrift_sync_dagster.node import patterns
from ringrift_sync_dagster.node.errors import KitError
from ringrift_sync_dagster.node.roots import Roots
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.transports import ssh_facts
from ringrift_sync_dagster.transports.legible import legible
from ringrift_sync_dagster.transports.ssh_facts import Facts
from ringrift_sync_dagster.transports.ssh_link import SshLink

_NEEDED: Final = ("cat", "head", "mkdir", "mv", "rm", "sha256sum", "stat", "sync")
_REFUSED: Final = 9
_STATE: Final = "%i %s %Y %y"  # inode, length, seconds; and the time as text, for what is below the second
_SQLITE_NAMES: Final = (".db", ".db3", ".sqlite", ".sqlite3", "-wal", "-shm", "-journal")
_DISK: Final = re.compile(r"\s([0-9]{1,15})\s+([0-9]{1,15})\s+([0-9]{1,15})\s+(?:[0-9]+%|-)\s")
_PRELUDE: Final = f"""umask 022
refuse() {{ printf '%s\\0%s' "$1" "$2"; exit {_REFUSED}; }}
digest() {{ d=$(sha256sum < "$1") || refuse unreadable "it cannot be read"; d=${{d%% *}}; }}
state() {{ s=$(stat -c '{_STATE}' "./$1") || refuse unreadable "it cannot be looked at"; }}
"""
_ENTER: Final = """cd -P -- {root} 2>/dev/null || refuse missing "the folder is missing"
top=$(pwd -P)
cd -P -- ./{folder} 2>/dev/null || refuse missing "the file is missing"
case $(pwd -P)/ in "$top"/*) ;; *) refuse outside "a symbolic link leads out of this node's roots" ;; esac
[ ! -L ./{name} ] || refuse outside "without Python a symbolic link is not followed"
[ -e ./{name} ] || refuse missing "the file is missing"
[ -f ./{name} ] || refuse unreadable "this is no regular file"
"""
_ARRIVING: Final = """mkdir -p {folder} && cd -P -- {scratch} || refuse no_space "the folder cannot be made"
top=$(pwd -P)
cd -P -- {folder} && [ "$(pwd -P)" = "$top/incoming/"{node} ] || refuse outside "the folder leads elsewhere"
[ ! -L {part} ] || refuse unreadable "the part is a symbolic link"
told() {{
  digest {sha}
  [ "$d" = {sha} ] && [ "$(stat -c %s {sha})" = {size} ] || refuse corrupt "the file has other bytes than its name says"
  sync . 2>/dev/null || sync
  printf 'all\\0%s\\0' "$(stat -c %Y {sha})"
}}
"""


class Shell:
    """A shell on one node that has no Python.

    Args:
        link: A login there.
        facts: What that login found.

    """

    def __init__(self, link: SshLink, facts: Facts) -> None:
        self._link = link
        self._facts = facts
        self._roots = Roots(facts.roots)
        self._place = (link.endpoint.node.name, link.endpoint.transport)
        self._ops: dict[str, Callable[[dict[str, Any], Deadline], dict[str, Any]]] = {
            "disk": self._disk,
            "hash": self._hash,
            "locate": self._locate,
            "forget": self._forget,
            "received": self._received,
            "accept": self._accept,
        }

    def run(self, op: str, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Run one operation; give its result.

        Raises:
            KitError: It is refused, with the kit's own codes; ``no_python`` where only the kit can do it.
            RungUnusableError: It takes a program that the node has not.
            TransferError: By what to do next.

        """
        if op not in self._ops:
            message = f"{op} needs python3 on the node, and a login does not find it; install it there"
            raise KitError("no_python", message)
        lacking = ssh_facts.missing(self._facts, _NEEDED)
        if lacking:
            message = f"{op} needs {', '.join(lacking)} on the node, and a login does not find it; install it there"
            raise RungUnusableError(*self._place, message)
        try:
            return self._ops[op](args, deadline)
        except (ValueError, IndexError) as error:  # where a number should stand there is none
            raise TransientError(*self._place, f"{op}: the node's shell gave an answer that makes no sense") from error

    def _disk(self, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        if args:
            raise KitError("bad_arguments", f"disk: {', '.join(sorted(args))} is unknown")
        root = shlex.quote(self._facts.roots[0])
        script = f"""o=$(df -Pk -- {root}) || refuse unreadable "the disk cannot be looked at"
printf '%s\\0' "$o"
"""
        # Below the headline one line; the name of a file system may hold blanks, and so may that of its folder.
        line = self._told(script, deadline, "", fields=1)[0].splitlines()[-1]
        numbers = _DISK.search(line)
        if numbers is None:
            raise KitError("unreadable", f"df says of the disk: {line[:200]}")
        total, used, free = (int(number) * 1024 for number in numbers.groups())
        return {"total_bytes": total, "used_bytes": used, "free_bytes": free}

    def _hash(self, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        """Hash a file and register it for serving."""
        path = args.get("path")
        if not isinstance(path, str):
            raise KitError("bad_arguments", "hash: path is missing")
        index, inner = self._roots.split(path)
        found = patterns.classify(inner, external=index > 0)
        if found is None or found.is_database:
            raise KitError("bad_arguments", "this file is none that leaves a node as a file", path)
        script = self._entering(index, inner) + (
            f"[ \"$(head -c 15 {_name(inner)})\" != 'SQLite format 3' ] || refuse bad_arguments 'this is a database'\n"
            f"state {_name(inner)}; b=$s; digest {_name(inner)}; state {_name(inner)}\n"
            '[ "$b" = "$s" ] || refuse changed "the file changed while it was read"\n'
            'printf \'%s\\0%s\\0\' "$d" "$s"\n'
        )
        digest, state = self._told(script, deadline, path, fields=2)
        inode, size, mtime_ns = _state(state)
        result = {"artifact": digest, "bytes": size, "mtime_ns": mtime_ns, "inode": inode}
        self._register({"kind": "file", "path": path, **result}, deadline)
        return result

    def _register(self, note: dict[str, Any], deadline: Deadline) -> None:
        folder = shlex.quote(f"{self._facts.scratch}/artifacts")
        name = f"{note['artifact']}.json"
        script = f"""p={name}.$$.part
mkdir -p {folder} && cd -P -- {folder} && cat > "$p" && {{ sync "$p" 2>/dev/null || sync; }} && mv -f "$p" {name} ||
  refuse no_space "the note cannot be written"
"""
        self._told(script, deadline, note["path"], fields=0, stdin=json.dumps(note).encode())

    def _locate(self, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        sha = _checked_sha(args)
        folder = f"{self._facts.scratch}/artifacts"
        script = f"""cd -P -- {shlex.quote(folder)} 2>/dev/null || refuse missing "nothing is kept here"
if [ -f {sha} ] && [ ! -L {sha} ]; then printf 'pack\\0%s\\0' "$(stat -c %s {sha})"
elif [ -f {sha}.json ]; then printf 'note\\0%s\\0' "$(cat {sha}.json)"
else refuse missing "the artifact is not here any more; order it again"; fi
"""
        kind, told = self._told(script, deadline, sha, fields=2)
        if kind == "pack":
            return {"path": f"{folder}/{sha}", "bytes": int(told)}
        return self._registered(sha, told, deadline)

    def _registered(self, sha: str, text: str, deadline: Deadline) -> dict[str, Any]:
        try:
            note = json.loads(text)
            path, noted = note["path"], (note["inode"], note["bytes"], note["mtime_ns"])
            index, inner = self._roots.split(path)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise KitError("missing", "its note makes no sense; order it again", sha) from error
        if inner.endswith(_SQLITE_NAMES):
            raise KitError("missing", "this is no file that may be served", sha)
        script = self._entering(index, inner) + f'state {_name(inner)}; printf \'%s\\0%s\\0\' "$s" "$(pwd -P)"\n'
        state, folder = self._told(script, deadline, sha, fields=2)
        if _state(state) != noted:
            raise KitError("changed", f"{path} changed since it was hashed; order it again", sha)
        return {"path": f"{folder.rstrip('/')}/{inner.rpartition('/')[2]}", "bytes": noted[1]}

    def _forget(self, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        sha = _checked_sha(args)
        folder = shlex.quote(f"{self._facts.scratch}/artifacts")
        script = f'rm -f -- {folder}/{sha} {folder}/{sha}.json || refuse unreadable "it cannot be removed"\n'
        self._told(script, deadline, sha, fields=0)
        return {}

    def _received(self, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        sha, size = _checked_sha(args), int(args["bytes"])
        script = (
            self._arriving(args)
            + f"""if [ -e {sha} ]; then told; exit 0; fi
: >> {sha}.part || refuse no_space "the part cannot be made"
n=$(stat -c %s {sha}.part)
if [ "$n" -gt {size} ]; then : > {sha}.part; n=0; fi
printf 'part\\0%s\\0' "$n"
"""
        )
        kind, told = self._told(script, deadline, sha, fields=2)
        if kind == "all":
            return {"complete": True, "receipt": _receipt(args, told)}
        return {"complete": False, "bytes": int(told), "path": f"{self._incoming(args)}/{sha}.part"}

    def _accept(self, args: dict[str, Any], deadline: Deadline) -> dict[str, Any]:
        sha, size = _checked_sha(args), int(args["bytes"])
        script = (
            self._arriving(args)
            + f"""if [ -f {sha}.part ]; then
  n=$(stat -c %s {sha}.part)
  [ "$n" -ge {size} ] || refuse short "$n of {size} bytes have arrived"
  digest {sha}.part
  if [ "$d" != {sha} ] || [ "$n" != {size} ]; then
    rm -f {sha}.part
    refuse checksum "another artifact arrived; it was removed"
  fi
  {{ sync {sha}.part 2>/dev/null || sync; }} && mv -f {sha}.part {sha} || [ -e {sha} ] ||
    refuse no_space "the disk refuses"
fi
[ -e {sha} ] || refuse missing "nothing has arrived"
told
"""
        )
        told = self._told(script, deadline, sha, fields=2)[1]
        return {"receipt": _receipt(args, told)}

    def _arriving(self, args: dict[str, Any]) -> str:
        sha = _checked_sha(args)
        return _ARRIVING.format(
            folder=shlex.quote(self._incoming(args)), scratch=shlex.quote(self._facts.scratch),
            node=shlex.quote(args["node"]), part=f"{sha}.part", sha=sha, size=int(args["bytes"]),
        )  # fmt: skip

    def _incoming(self, args: dict[str, Any]) -> str:
        node = args.get("node")
        if not isinstance(node, str) or not is_node_name(node):
            raise KitError("bad_arguments", "node has another form")
        return f"{self._facts.scratch}/incoming/{node}"

    def _entering(self, index: int, inner: str) -> str:
        folder = inner.rpartition("/")[0] or "."
        return _ENTER.format(root=shlex.quote(self._facts.roots[index]), folder=shlex.quote(folder), name=_name(inner))

    def _told(self, script: str, deadline: Deadline, path: str, *, fields: int, stdin: bytes = b"") -> tuple[str, ...]:
        """Run a script; give the texts that it printed, each ended by NUL."""
        answer = self._link.run(_PRELUDE + script, deadline=deadline, stdin=stdin, patient=True)
        texts = answer.stdout.decode("utf-8", "surrogateescape").split("\0")
        if answer.status == _REFUSED and len(texts) > 1:
            full = "No space left" in answer.stderr
            code = "no_space" if full else legible(texts[0])
            raise KitError(code, f"{texts[1]} {answer.stderr}".strip(), path)
        if answer.status != 0 or len(texts) != fields + 1:
            raise TransientError(*self._place, f"the node's shell ended with status {answer.status}: {answer.stderr}")
        return tuple(texts[:-1])


def _name(inner: str) -> str:
    return shlex.quote(inner.rpartition("/")[2])


def _checked_sha(args: dict[str, Any]) -> str:
    sha = args.get("artifact")
    if not isinstance(sha, str) or not SHA256.fullmatch(sha):
        raise KitError("bad_arguments", "artifact has another form")
    return sha


def _receipt(args: dict[str, Any], told: str) -> dict[str, Any]:
    return {"sha256": args["artifact"], "size_bytes": args["bytes"], "verified_at": float(told)}


def _state(text: str) -> tuple[int, int, int]:
    """Give inode, length and time in nanoseconds; 0 below the second where the node's stat does not tell that."""
    inode, size, seconds, *shown = text.split()
    fraction = shown[1].partition(".")[2] if len(shown) > 1 else ""
    return int(inode), int(size), int(seconds) * 10**9 + int(fraction[:9].ljust(9, "0") or 0)
