"""What each operation of the kit may be asked: its arguments by name and type, checked before anything is touched."""

from __future__ import annotations

import re
from typing import Any, Dict, NamedTuple, Optional, Tuple

from . import patterns
from .errors import KitError

Arguments = Dict[str, Any]


class _Argument(NamedTuple):
    """One argument: its JSON types, and whether the call needs it; an optional one may be null."""

    types: Tuple[type, ...]
    required: bool = False
    least: Optional[float] = None


_PATH = _Argument((str,), required=True)
_CONFIG = _Argument((str,), required=True)
_SEVERAL = _Argument((int,), least=1)
_TEXT = _Argument((str,), required=True)
_SIZE = _Argument((int,), required=True, least=0)
_FILES = _Argument((list,), required=True)
_STATES = _Argument((dict,), required=True)
_ARGUMENTS: Dict[str, Dict[str, _Argument]] = {
    "scan": {"busy_seconds": _Argument((int, float), least=0)},
    "disk": {},
    "facts": {},
    "storage": {"mark": _Argument((str,)), "look": _Argument((list,)), "drop": _Argument((str,))},
    "hash": {"path": _PATH},
    "list": {"path": _PATH, "config": _CONFIG, "after": _Argument((dict,)), "limit": _SEVERAL},
    "pack": {
        "path": _PATH,
        "config": _CONFIG,
        "cursor": _Argument((dict,)),
        "max_games": _SEVERAL,
        "max_bytes": _SEVERAL,
        "ids": _Argument((list,)),
        "aside": _Argument((bool,)),
        "short_after_seconds": _Argument((int, float), least=0),
        "include": _Argument((list,)),
        "tell": _Argument((bool,)),
        "busy_seconds": _Argument((int, float), least=0),
    },
    "rows": {
        "path": _PATH,
        "kind": _TEXT,
        "config": _Argument((str,)),
        "cursor": _Argument((dict,)),
        "limit": _SEVERAL,
    },
    "keys": {"path": _PATH, "kind": _TEXT, "config": _Argument((str,))},
    "apply": {"path": _PATH, "kind": _TEXT, "config": _Argument((str,)), "node": _TEXT, "artifact": _TEXT},
    "digest": {"path": _PATH, "config": _Argument((str,)), "ids": _Argument((list,))},
    "merge": {"pack": _PATH, "into": _PATH, "config": _CONFIG, "artifact": _TEXT, "node": _TEXT},
    "manifest": {"since": _Argument((str,))},
    "locate": {"artifact": _TEXT},
    "forget": {"artifact": _TEXT},
    "received": {"node": _TEXT, "artifact": _TEXT, "bytes": _SIZE},
    "accept": {"node": _TEXT, "artifact": _TEXT, "bytes": _SIZE},
    "applied": {"path": _PATH, "config": _CONFIG, "node": _TEXT, "source_path": _TEXT},
    "publish": {
        "node": _TEXT,
        "artifact": _TEXT,
        "bytes": _SIZE,
        "data_type": _TEXT,
        "config": _CONFIG,
        "serial": _Argument((int,), required=True, least=1),
        "keep": _Argument((int,), least=0),
        "known": _Argument((list,)),
    },
    "published": {"data_type": _Argument((str,)), "config": _Argument((str,))},
    "snapshot": {"path": _PATH, "token": _TEXT},
    "discard": {"token": _TEXT},
    "place": {"path": _PATH, "name": _TEXT, "artifact": _TEXT, "bytes": _SIZE},
    "withdraw": {"part": _PATH},
    "install": {"part": _PATH, "path": _PATH, "artifact": _Argument((str,)), "bytes": _SIZE},
    "inspect": {"path": _PATH, "files": _FILES, "hashes": _Argument((list,))},
    "stage": {"path": _PATH, "key": _TEXT, "states": _STATES},
    "staged": {"path": _PATH, "key": _TEXT, "files": _FILES},
    "land": {"path": _PATH, "key": _TEXT, "states": _STATES},
}
ORDERS = ("snapshot", "discard", "place", "withdraw", "install", "inspect", "stage", "staged", "land")
_FORMS = {
    "artifact": re.compile(r"[0-9a-f]{64}"),
    "node": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"),
    "token": re.compile(r"[0-9a-f]{32}"),
    "mark": re.compile(r"[0-9a-f]{32}"),
    "drop": re.compile(r"[0-9a-f]{32}"),
    "data_type": re.compile(r"npz|models"),
}


def _fits(value: object, argument: _Argument) -> bool:
    if isinstance(value, bool) and bool not in argument.types:
        return False
    if not isinstance(value, argument.types):
        return False
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return argument.least is None or (isinstance(value, (int, float)) and value >= argument.least)


def _has_form(name: str, value: object) -> bool:
    return isinstance(value, str) and _FORMS[name].fullmatch(value) is not None


def checked(op: str, arguments: object) -> Arguments:
    """Give the arguments that are not null, after checking names, types and ranges.

    Raises:
        KitError: ``bad_arguments``, naming every argument that is wrong.

    """
    if not isinstance(arguments, dict):
        raise KitError("bad_arguments", f"{op}: the arguments must be a JSON object")
    known = _ARGUMENTS[op]
    given = {name: value for name, value in arguments.items() if value is not None}
    wrong = [f"{name} is unknown" for name in arguments if name not in known]
    wrong += [f"{name} is missing" for name, argument in known.items() if argument.required and name not in given]
    wrong += [f"{name} has a wrong value" for name in known if name in given and not _fits(given[name], known[name])]
    if given.get("config", patterns.CONFIGS[0]) not in patterns.CONFIGS:
        wrong.append("config is none of the twelve")
    wrong += [f"{name} has another form" for name in _FORMS if name in given and not _has_form(name, given[name])]
    if wrong:
        raise KitError("bad_arguments", f"{op}: {', '.join(sorted(wrong))}")
    return given
