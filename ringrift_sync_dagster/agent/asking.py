"""For self-play programs on a node: wait until a finished game is durable elsewhere; needs the agent's port and token.

    from ringrift_sync_dagster import write_through

    saved = write_through(game_id, "data/games/selfplay.db", timeout=10)
    if not saved:
        print("not safe yet:", saved.reason)

Nothing depends on the call: the agent notices finished games by itself, and goes on after the call has given up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests

from ringrift_sync_dagster.settings.nodes import AGENT_PORT

_SLACK_SECONDS: Final = 5.0  # what the agent may take beyond the time that it was given


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


def write_through(
    game_id: str,
    db_path: str | Path,
    timeout: float = 60.0,
    *,
    url: str = f"http://127.0.0.1:{AGENT_PORT}",
    token_file: str | Path | None = None,
) -> Saved:
    """Return when a game is durable, or after the timeout with the reason why it is not; it keeps its place.

    Args:
        game_id: The game; it should be committed.
        db_path: The database that it was written to, by its path here or as manifests name it.
        timeout: Seconds, at most 600.
        url: This node's own agent.
        token_file: This node's token; none where no agent has a key.

    """
    headers = {}
    try:
        if token_file is not None:
            headers["Authorization"] = f"Bearer {Path(token_file).read_text(encoding='ascii').strip()}"
        body = {"game_id": game_id, "db_path": str(db_path), "timeout": timeout}
        with requests.Session() as session:
            session.trust_env = False  # neither a proxy nor .netrc stands between a program and its own machine
            patience = (_SLACK_SECONDS, timeout + _SLACK_SECONDS)
            answer = session.post(f"{url}/v1/write-through", json=body, headers=headers, timeout=patience)
            found: Any = answer.json()
    except (OSError, ValueError) as error:  # those of requests are OSErrors
        return Saved(durable=False, reason=f"the agent at {url} cannot be asked: {error}")
    if answer.status_code == requests.codes.ok:
        return Saved(durable=found.get("durable") is True, reason=str(found.get("reason", "")))
    told = found.get("error") or {}
    if answer.status_code == requests.codes.not_found and told.get("code") != "unknown_database":
        return Saved(durable=False, reason=f"write-through is off in the agent at {url}")
    return Saved(durable=False, reason=str(told.get("message") or f"the agent answered {answer.status_code}"))
