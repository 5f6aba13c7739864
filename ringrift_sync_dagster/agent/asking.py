"""For self-play programs on a node: wait until a finished game is durable elsewhere.

    from ringrift_sync_dagster import write_through

    saved = write_through(game_id, "data/games/selfplay.db", timeout=10)
    if not saved:
        print("not safe yet:", saved.reason)

Nothing depends on the call: the agent notices finished games by itself, and goes on after the call has given up. Where
the agent listens, the certificate that it must show, and the node's token are in the agent's note (``own_address``),
which is found from where the database or the token lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import requests

from ringrift_sync_dagster.agent.own_address import OwnAddress, find
from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.node.roots import is_text
from ringrift_sync_dagster.settings.clock import Deadline
from ringrift_sync_dagster.settings.hosts_schema import is_fingerprint, normal_fingerprint
from ringrift_sync_dagster.settings.nodes import AGENT_PORT
from ringrift_sync_dagster.transports.http_session import new_session

_SLACK_SECONDS: Final = 5.0  # what the agent may take beyond the time that it was given
_CERTIFICATE: Final = "agent.crt"  # a deploy puts it beside the token


@dataclass(frozen=True, slots=True)
class Saved:
    """What came of a question; true when the game is durable.

    Args:
        durable: A node that stays has the game.
        reason: Why not yet, for people; empty when it is durable.

    """

    durable: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.durable


@dataclass(frozen=True, slots=True)
class _Way:
    """Where to ask, with what certificate and token."""

    url: str
    fingerprint: str
    token: str


def write_through(
    game_id: str,
    db_path: str | Path,
    timeout: float = 60.0,
    *,
    url: str = "",
    token_file: str | Path | None = None,
    fingerprint: str = "",
) -> Saved:
    """Return when a game is durable, or after the timeout with the reason why it is not; it keeps its place.

    Args:
        game_id: The game; it should be committed.
        db_path: The database that it was written to, by its path here or as manifests name it.
        timeout: Seconds, at most 600.
        url: This node's own agent; by default where its note says, else port 8765 of loopback.
        token_file: This node's token; by default the one that the note names. None is needed where no agent has a key.
        fingerprint: SHA-256 of the agent's certificate; by default that of the note, or of ``agent.crt`` beside the
            token. An agent that speaks TLS must show this certificate.

    """
    shown, deadline, saved = url or "this node", Deadline.after(timeout), Saved(durable=False)
    try:
        _check(db_path)
        way = _way(Path(db_path), url, None if token_file is None else Path(token_file), fingerprint)
        shown = way.url
        for name in _names(db_path):
            saved, is_unknown = _ask(way, {"game_id": game_id, "db_path": name}, deadline)
            if not is_unknown:
                break
    except (ConfigError, OSError, ValueError) as error:  # those of requests are OSErrors
        return Saved(durable=False, reason=f"the agent at {shown} cannot be asked: {error}")
    return saved


def _ask(way: _Way, body: dict[str, Any], deadline: Deadline) -> tuple[Saved, bool]:
    """Ask once; give the answer, and whether it is that the agent knows no such database."""
    headers = {"Authorization": f"Bearer {way.token}"} if way.token else {}
    left = deadline.remaining() if deadline.seconds > 0 else deadline.seconds
    with new_session(way.fingerprint) as session:
        patience = (_SLACK_SECONDS, max(0.0, left) + _SLACK_SECONDS)
        asked = {**body, "timeout": left}
        place = f"{way.url}/v1/write-through"
        answer = session.post(place, json=asked, headers=headers, timeout=patience, allow_redirects=False)
        found: Any = answer.json()
    if not isinstance(found, dict):
        raise ValueError("what answers there is no agent")  # noqa: TRY004 - it is no type of ours
    if answer.status_code == requests.codes.ok:
        return Saved(durable=found.get("durable") is True, reason=str(found.get("reason", ""))), False
    told = error if isinstance(error := found.get("error"), dict) else {}
    is_unknown = told.get("code") == "unknown_database"
    if answer.status_code == requests.codes.not_found and not is_unknown:
        return Saved(durable=False, reason=f"write-through is off in the agent at {way.url}"), False
    reason = str(told.get("message") or f"the agent answered {answer.status_code}")
    return Saved(durable=False, reason=reason), is_unknown


def _names(db_path: str | Path) -> list[str]:
    """Give how to name the database, in order: by where it is on this machine, and as it was written."""
    here = [str(Path(db_path).absolute())] if Path(db_path).exists() else []
    return list(dict.fromkeys([*here, str(db_path)]))


def _check(db_path: str | Path) -> None:
    if "\0" in str(db_path) or not is_text(str(db_path)):
        raise ValueError("db_path must be valid Unicode without NUL")


def _way(database: Path, url: str, token_file: Path | None, fingerprint: str) -> _Way:
    """Find the agent.

    Raises:
        ValueError: TLS is spoken, and nothing says with which certificate.
        OSError: The token cannot be read.
        ConfigError: The certificate cannot be read.

    """
    note = find([database, *([] if token_file is None else [token_file])], token_file)
    if note is not None and (not url or _same_place(url, note)):
        url, token_file = note.url, token_file or (Path(note.token_file) if note.token_file else None)
    pin = normal_fingerprint(fingerprint)
    if pin and not is_fingerprint(pin):
        raise ValueError("fingerprint must be the SHA-256 of the agent's certificate, 64 hexadecimal digits")
    if not url:
        pin = pin or _beside(token_file)
        url = f"{'https' if pin else 'http'}://127.0.0.1:{AGENT_PORT}"
    if urlsplit(url).scheme == "https":
        pin = pin or (note.fingerprint if note is not None else "") or _beside(token_file)
        if not pin:
            raise ValueError("nothing here says which certificate it must show; give its SHA-256 as fingerprint=")
    elif pin:
        raise ValueError("an agent with a certificate is asked with https")
    token = "" if token_file is None else token_file.read_text(encoding="ascii").strip()
    return _Way(url.rstrip("/"), pin, token)


def _same_place(url: str, note: OwnAddress) -> bool:
    """Say whether a URL is the noted one but for its scheme: who writes http to an agent that got TLS means that."""
    return _place(url) == _place(note.url)


def _place(url: str) -> tuple[str | None, int | None]:
    parts = urlsplit(url)
    return "127.0.0.1" if parts.hostname == "localhost" else parts.hostname, parts.port


def _beside(token_file: Path | None) -> str:
    """Give the fingerprint of the certificate that lies beside the token; empty where none does."""
    if token_file is None or not (path := token_file.with_name(_CERTIFICATE)).is_file():
        return ""
    from ringrift_sync_dagster.agent.tls import fingerprint_of  # noqa: PLC0415 - a game program needs no server for http

    return fingerprint_of(path)
