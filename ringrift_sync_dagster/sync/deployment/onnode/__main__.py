"""``python3 -I agent.pyz OP``: one order as JSON on stdin, then the files it names; one JSON answer on stdout.

``python3 -I agent.pyz supervise DIRECTORY`` is the supervisor instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import RefusedError
from .ops import apply, inspect, remove
from .supervise import SUPERVISE, supervise


def main(arguments: list[str]) -> int:
    """Run one operation; give the exit status: 1 when it was refused, and the answer says why."""
    if arguments[:1] == [SUPERVISE]:
        return supervise(Path(arguments[1]))
    try:
        answer = {"ok": True, "result": _operation(arguments[0], json.loads(sys.stdin.buffer.readline()))}
    except RefusedError as error:
        answer = {"ok": False, "error": str(error)}
    except OSError as error:
        answer = {"ok": False, "error": f"{error.filename or 'the disk of the node'}: {error.strerror or error}"}
    sys.stdout.write(json.dumps(answer))
    return 0 if answer["ok"] else 1


def _operation(name: str, request: Mapping[str, Any]) -> dict[str, Any]:
    if name == "inspect":
        return inspect(request)
    if name == "remove":
        return remove(request)
    files = {str(file): sys.stdin.buffer.read(int(size)) for file, size in request["files"]}
    for file, size in request["files"]:
        if Path(file).name != file or len(files[file]) != size:
            raise RefusedError("the order did not arrive whole; nothing was changed")
    return apply(request, files, Path(sys.argv[0]).read_bytes())
