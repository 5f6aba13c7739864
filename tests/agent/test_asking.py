"""A program asks its own agent whether a game is durable: it finds the agent, and believes one certificate only."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ringrift_sync_dagster.agent import own_address
from ringrift_sync_dagster.agent.asking import write_through
from ringrift_sync_dagster.settings.identity import CoordinatorKey, TlsCertificate, make_tls_certificate
from tests.agent.agents import AgentProcess
from tests.agent.through_parts import DATABASE, SPOT, Field, wait_for

SHA = "0" * 64


class TlsField(Field):
    """A spot node whose agent speaks TLS, and its coordinator; they run for several tests."""

    owner: AgentProcess
    node: AgentProcess
    tls: TlsCertificate

    @property
    def note(self) -> Path:
        return self.node.scratch / own_address.NAME


@pytest.fixture(scope="module")
def field(
    coordinator_key: CoordinatorKey, free_addresses: Iterator[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TlsField]:
    with ExitStack() as stack:

        def start(**settings: Any) -> AgentProcess:  # noqa: ANN401 - fields of AgentProcess
            return stack.enter_context(AgentProcess(host=next(free_addresses), key=coordinator_key, **settings))

        found = TlsField(start, tmp_path_factory.mktemp("asking"))
        found.owner = found.receiver()
        found.tls = make_tls_certificate(found.folder / "keys", SPOT, ["127.0.0.1"], time.time())
        found.node = found.spot(found.owner, tls=found.tls, drain_seconds=1.0)
        found.play("g1")
        wait_for(found.owner, "g1")
        yield found


@pytest.fixture
def elsewhere(field: TlsField) -> Iterator[TlsField]:
    """The same without the note, as where the scratch directory lies elsewhere."""
    away = field.note.with_name("away")
    field.note.rename(away)
    yield field
    away.rename(field.note)


def test_an_agent_with_tls_is_found_with_its_certificate_and_token(field: TlsField) -> None:
    database = field.node.root / DATABASE

    assert write_through("g1", database, 15)
    assert write_through("g1", database, 15, url=field.node.url)
    assert write_through("g1", database, 15, url=field.node.url.replace("https", "http"))
    told = json.loads(field.note.read_text())
    assert (told["url"], told["fingerprint"]) == (field.node.url, field.tls.fingerprint)
    assert Path(told["token_file"]).read_text() not in field.note.read_text()


def test_a_database_is_named_by_its_path_from_here_or_as_manifests_do(
    field: TlsField, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(field.node.root / "data")
    assert write_through("g1", "games/selfplay.db", 15)
    assert write_through("g1", DATABASE, 15)
    assert write_through("g1", "../data/./games/selfplay.db", 15)
    link = field.node.root / "data" / "selfplay"
    link.symlink_to(field.node.root / "data" / "games")
    assert write_through("g1", link / "selfplay.db", 15)
    assert write_through("g1", "data/selfplay/selfplay.db", 15)


def test_who_keeps_things_elsewhere_says_so(elsewhere: TlsField) -> None:
    database, token, url = elsewhere.node.root / DATABASE, elsewhere.folder / SPOT / "token.jwt", elsewhere.node.url
    colons = ":".join(elsewhere.tls.fingerprint[at : at + 2] for at in range(0, 64, 2)).upper()

    assert write_through("g1", database, 15, url=url, token_file=token, fingerprint=colons)
    assert "give its SHA-256" in write_through("g1", database, 1, url=url, token_file=token).reason
    beside = elsewhere.tls.certificate.with_name("token.jwt")
    beside.write_text(token.read_text())
    assert write_through("g1", database, 15, url=url, token_file=beside)


@pytest.mark.parametrize("pin, words", [(SHA, "[Ff]ingerprint"), ("abc", "64 hexadecimal digits")])
def test_another_certificate_is_not_believed_and_gets_no_token(field: TlsField, pin: str, words: str) -> None:
    saved = write_through("g1", field.node.root / DATABASE, 5, fingerprint=pin)

    assert not saved
    assert re.search(words, saved.reason), saved.reason


def test_a_pin_never_goes_with_plain_http(elsewhere: TlsField) -> None:
    plain = elsewhere.node.url.replace("https", "http")
    saved = write_through("g1", elsewhere.node.root / DATABASE, 5, url=plain, fingerprint=elsewhere.tls.fingerprint)
    assert "is asked with https" in saved.reason


def test_the_note_of_a_stranger_leads_no_token_away(field: TlsField) -> None:
    database, token = field.node.root / DATABASE, field.folder / SPOT / "token.jwt"
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(field.note, 12345, -1)
    try:
        assert own_address.find([database], token) is None
        os.chown(token, 12345, -1)
        assert own_address.find([database], token) is not None
    finally:
        os.chown(token, 0, -1)
        os.chown(field.note, 0, -1)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"node": "a", "url": "x", "fingerprint": "", "token_file": ""}'])
def test_a_note_that_says_nothing_is_passed_over(tmp_path: Path, text: str) -> None:
    note = tmp_path / "data" / ".ringrift-sync" / own_address.NAME
    note.parent.mkdir(parents=True)
    note.write_text(text)
    assert own_address.find([tmp_path / DATABASE], None) is None
    assert "cannot be asked" in write_through("g1", tmp_path / DATABASE, 1, url="http://127.0.0.1:9").reason


@pytest.mark.parametrize(
    "game_id, path",
    [("\ud800", DATABASE), ("g1", "\ud800"), ("g1", "a\0b"), ("g1", "/a\0b"), ("g1", "@1/a\0b"), ("g1", "/\ud800")],
)
def test_what_is_no_text_is_refused_by_the_agent_and_by_the_call(field: TlsField, game_id: str, path: str) -> None:
    body = {"game_id": game_id, "db_path": path, "timeout": 0}

    answer = field.node.request("POST", "/v1/write-through", json=body, token=field.node.token("node"))

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
    assert "valid Unicode" in answer.json()["error"]["message"]
    saved = write_through(game_id, path, 1, url=field.node.url, token_file=field.folder / SPOT / "token.jwt")
    assert not saved
    assert "Traceback" not in field.node.log.read_text()


def test_an_id_with_a_nul_is_only_unknown(field: TlsField) -> None:
    assert "does not hold this game" in write_through("a\0b", field.node.root / DATABASE, 0.1).reason
