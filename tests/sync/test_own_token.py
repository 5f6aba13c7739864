"""The coordinator's own token never runs out while its programs run."""

from __future__ import annotations

import time
from pathlib import Path

from ringrift_sync_dagster.settings.identity import TOKEN_SECONDS, create_coordinator_key, issue_token, verify_token
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.runtime import Runtime

HOSTS = "hosts: {hub-1: {ssh_host: 127.0.0.1, role: coordinator, ringrift_path: x}}"


def expiry_after_opening(tmp_path: Path, age_seconds: float) -> tuple[float, float]:
    """When the token expires before and after a runtime was opened; the token is so old."""
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    key = create_coordinator_key(tmp_path / "keys")
    token = tmp_path / "hub-1.jwt"
    token.write_text(issue_token(key, "hub-1", ["coordinator"], time.time() - age_seconds))
    before = verify_token(key.public_pem, token.read_text(), time.time()).expires
    settings = load_settings(home=tmp_path, hosts=tmp_path / "hosts.yaml", root=tmp_path / "root", token_file=token)

    with Runtime.open(settings):
        pass

    claims = verify_token(key.public_pem, token.read_text().strip(), time.time())
    assert (claims.sub, set(claims.scopes)) == ("hub-1", {"coordinator"})
    return before, claims.expires


def test_an_old_token_is_renewed_at_two_thirds_of_its_life(tmp_path: Path) -> None:
    before, after = expiry_after_opening(tmp_path, 0.7 * TOKEN_SECONDS)
    assert after > before + 0.6 * TOKEN_SECONDS


def test_a_young_token_stays(tmp_path: Path) -> None:
    before, after = expiry_after_opening(tmp_path, 0.5 * TOKEN_SECONDS)
    assert after == before
