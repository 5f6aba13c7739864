"""A coordinator without a good token is told so by name, and nothing changes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ringrift_sync_dagster.settings.identity import CoordinatorKey, create_coordinator_key, issue_token
from ringrift_sync_dagster.settings.settings import load_settings
from tests.badinput.conftest import CONFIG, A, quarantined
from tests.node.merging import game
from tests.sync.conftest import Field

DAY = 24 * 3600.0
Tokens = Callable[[CoordinatorKey, Path], str]


def expired(key: CoordinatorKey, _: Path) -> str:
    return issue_token(key, "hub-1", ["coordinator"], time.time() - 31 * DAY)


def forged(_: CoordinatorKey, folder: Path) -> str:
    return issue_token(create_coordinator_key(folder), "hub-1", ["coordinator"], time.time())


def other_nodes(key: CoordinatorKey, _: Path) -> str:
    return issue_token(key, "runpod-a1", ["node"], time.time())


def changed(key: CoordinatorKey, _: Path) -> str:
    head, payload, signature = issue_token(key, "hub-1", ["coordinator"], time.time()).split(".")
    return f"{head}.{payload}.{signature[::-1]}"


def with_a_line_break(key: CoordinatorKey, _: Path) -> str:
    return issue_token(key, "hub-1", ["coordinator"], time.time()) + "\r\nX-More: header"


BAD: dict[Tokens, str] = {
    expired: "expired",
    forged: "Signature verification failed",
    changed: "refused",
    other_nodes: "runpod-a1 may not do this",
    with_a_line_break: "this is no token",
}


def test_a_token_that_is_not_ours_collects_nothing_and_says_why(
    field_: Field, tmp_path_factory: pytest.TempPathFactory
) -> None:
    field_.play(A, "data/games/x.db", game("g1", config=CONFIG))
    key = create_coordinator_key(field_.cluster.base / "keys")
    token = tmp_path_factory.mktemp("token") / "bad.jwt"
    good = field_.settings
    for make, words in BAD.items():
        token.write_text(make(key, token.parent / "keys"))
        field_.settings = load_settings(**{**good.model_dump(), "token_file": token})
        refused = field_.one(CONFIG, A)
        assert refused.failure is not None, words
        assert refused.failure.error in ("AuthenticationError", "LocalToolError")
        assert (A in str(refused.failure), words in refused.failure.message) == (True, True)
        assert (refused.games_new, refused.canonical_games, quarantined(field_)) == (0, 0, [])

    field_.settings = good
    accepted = field_.one(CONFIG, A)

    assert (accepted.games_new, accepted.failure) == (1, None)
