"""The manifest as a delta for whoever comes over SSH: only what changed since the token that the asker sends back.

A token names a state of all entries by their content. The last few states are remembered in the scratch folder, each
as a digest per path, so that it does not matter which process asks, or on which connection. A token that is not
remembered gets everything. It is a cache: whatever is wrong with a file of it, the answer is full instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from typing import Any, Dict, List, Optional

Entry = Dict[str, Any]

_KEPT = 4
_TOKEN = re.compile(r"[0-9a-f]{64}")
_DIGEST_CHARS = 16  # of each entry; two states of one path are compared, never two paths


def delta(entries: List[Entry], folder: str, since: Optional[str]) -> Dict[str, Any]:
    """Give ``token``, ``full``, ``entries`` and ``removed``: what is different from the state named ``since``.

    Args:
        entries: All entries of the node, each with a ``path`` of its own.
        folder: Where states are remembered; made when it is missing.
        since: The token of an earlier answer; None for everything.

    """
    state = {str(entry["path"]): _digest(entry) for entry in entries}
    token = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    known = state if since == token else _remembered(folder, since)
    _remember(folder, token, state)
    if known is None:
        return {"token": token, "full": True, "entries": entries, "removed": []}
    changed = [entry for entry in entries if known.get(str(entry["path"])) != state[str(entry["path"])]]
    removed = sorted(path for path in known if path not in state)
    return {"token": token, "full": False, "entries": changed, "removed": removed}


def _digest(entry: Entry) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:_DIGEST_CHARS]


def _remembered(folder: str, token: Optional[str]) -> Optional[Dict[str, str]]:
    if token is None or not _TOKEN.fullmatch(token):
        return None
    try:
        with open(os.path.join(folder, f"{token}.json"), encoding="utf-8") as stream:
            value = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _remember(folder: str, token: str, state: Dict[str, str]) -> None:
    """Keep this state and the few before it; a disk that takes nothing costs only the next delta."""
    with contextlib.suppress(OSError):
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{token}.json")
        if os.path.exists(path):
            os.utime(path)  # a state that comes back is young again
        else:
            part = f"{path}.{os.getpid()}.part"
            with open(part, "w", encoding="utf-8") as stream:
                json.dump(state, stream)
            os.replace(part, path)
        names = [os.path.join(folder, name) for name in os.listdir(folder)]
        for old in sorted(names, key=os.path.getmtime)[:-_KEPT]:
            os.unlink(old)
