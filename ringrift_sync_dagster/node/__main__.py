"""The kit as a program: ``python3 -S -I kit.pyz OP --root R``, JSON arguments on stdin, one JSON answer on stdout.

Exit status 0 with ``{"ok": true, "result": ...}``, 1 with ``{"ok": false, "error": {"code", "message", "path"}}``.
The only file of the kit that reads the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any, Dict, List, NoReturn, Optional

from .errors import KitError
from .ops import OPS, Context, op_names
from .roots import Roots

_MAX_ARGUMENT_BYTES = 64 << 20  # ids of a whole database fit; a caller's runaway does not


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint goes the way of every other error."""

    def error(self, message: str) -> NoReturn:
        raise KitError("bad_arguments", message)


def _parse(argv: Optional[List[str]]) -> argparse.Namespace:
    parser = _Parser(prog="kit", description="Operations of a RingRift node; JSON arguments on stdin.")
    parser.add_argument("op", choices=op_names())
    parser.add_argument("--root", action="append", required=True, help="the node's directory; again for extra storage")
    parser.add_argument("--scratch", help="the kit's own folder (default: data/.ringrift-sync in the first root)")
    return parser.parse_args(argv)


def _arguments() -> Dict[str, Any]:
    raw = sys.stdin.buffer.read(_MAX_ARGUMENT_BYTES + 1)
    if len(raw) > _MAX_ARGUMENT_BYTES:
        raise KitError("bad_arguments", f"more than {_MAX_ARGUMENT_BYTES} bytes of arguments")
    try:
        value = json.loads(raw.decode("utf-8")) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise KitError("bad_arguments", f"the arguments are no JSON: {error}") from error
    if not isinstance(value, dict):
        raise KitError("bad_arguments", "the arguments must be a JSON object")
    return value


def _answer(argv: Optional[List[str]]) -> Dict[str, Any]:
    try:
        options = _parse(argv)
        roots = Roots(options.root)
        scratch = options.scratch or os.path.join(roots.paths[0], "data", ".ringrift-sync")
        context = Context(roots, os.path.realpath(os.path.expanduser(scratch)), time.time())
        return {"ok": True, "result": OPS[options.op](context, _arguments())}
    except KitError as error:
        return {"ok": False, "error": error.as_json()}
    except Exception as error:  # noqa: BLE001 - whoever called over SSH gets an answer that names the fault
        return {"ok": False, "error": KitError("internal", f"{type(error).__name__}: {error}").as_json()}


def main(argv: Optional[List[str]] = None) -> int:
    """Run one operation; give the exit status."""
    answer = _answer(argv)
    sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
    sys.stdout.flush()
    return 0 if answer["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
