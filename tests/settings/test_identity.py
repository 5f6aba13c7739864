"""Tokens and certificates: only the coordinator's signature counts, whatever else a token says about itself."""

import base64
import hashlib
import hmac
import json
import ssl
import threading
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ringrift_sync_dagster.errors import AuthenticationError, ConfigError, TokenError
from ringrift_sync_dagster.settings.identity import (
    LEEWAY_SECONDS,
    TOKEN_SECONDS,
    CoordinatorKey,
    Scope,
    create_coordinator_key,
    issue_token,
    load_coordinator_key,
    make_tls_certificate,
    store_renewed_token,
    store_token,
    verify_token,
)
from ringrift_sync_dagster.settings.revoked import read_revoked, set_revoked

NOW = 1_900_000_000.0


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> CoordinatorKey:
    return create_coordinator_key(tmp_path_factory.mktemp("keys"))


def forged(header: dict[str, object], payload: dict[str, object], secret: bytes = b"") -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    signature = hmac.new(secret, b".".join(parts), hashlib.sha256).digest() if secret else b""
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


def signed(key: CoordinatorKey, payload: dict[str, object]) -> str:
    return jwt.encode(payload, key.private_pem, algorithm="EdDSA")


def test_the_private_key_is_readable_by_its_owner_only_and_the_public_key_lies_beside_it(tmp_path: Path) -> None:
    made = create_coordinator_key(tmp_path / "keys")
    assert (tmp_path / "keys" / "coordinator.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "keys" / "coordinator.pub").read_bytes() == made.public_pem
    assert "PRIVATE" not in repr(made)


def test_the_key_is_made_once(tmp_path: Path) -> None:
    assert create_coordinator_key(tmp_path) == create_coordinator_key(tmp_path)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["coordinator.key", "coordinator.pub"]


def test_makers_that_race_end_with_one_key(tmp_path: Path) -> None:
    made: list[CoordinatorKey] = []
    start = threading.Barrier(8)

    def make() -> None:
        start.wait()
        made.append(create_coordinator_key(tmp_path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len({one.private_pem for one in made}) == 1
    assert (tmp_path / "coordinator.pub").read_bytes() == made[0].public_pem


def test_a_lost_public_key_is_written_again(tmp_path: Path) -> None:
    made = create_coordinator_key(tmp_path)
    (tmp_path / "coordinator.pub").write_bytes(b"something else")
    assert create_coordinator_key(tmp_path) == made
    assert (tmp_path / "coordinator.pub").read_bytes() == made.public_pem


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    create_coordinator_key(tmp_path)
    (tmp_path / "coordinator.key").chmod(0o640)
    with pytest.raises(ConfigError, match=r"coordinator\.key: the file is open to others \(mode 640\); run chmod 600"):
        load_coordinator_key(tmp_path)


def test_a_missing_or_foreign_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"coordinator\.key: the file cannot be read"):
        load_coordinator_key(tmp_path)
    path = tmp_path / "coordinator.key"
    path.touch(mode=0o600)
    with pytest.raises(ConfigError, match="is not a private key in PEM form"):
        load_coordinator_key(tmp_path)
    path.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(ConfigError, match="is not an Ed25519 key"):
        load_coordinator_key(tmp_path)


def test_a_token_says_who_may_do_what_until_when(key: CoordinatorKey) -> None:
    claims = verify_token(key.public_pem, issue_token(key, "vast-1", [Scope.NODE, "relay"], NOW), NOW)
    assert (claims.sub, claims.expires) == ("vast-1", NOW + TOKEN_SECONDS)
    assert claims.scopes == {"node", "relay"}


def test_a_token_has_no_issue_time_because_clocks_differ(key: CoordinatorKey) -> None:
    payload = jwt.decode(issue_token(key, "vast-1", ["node"], NOW), options={"verify_signature": False})
    assert sorted(payload) == ["exp", "scopes", "sub"]


def test_a_token_from_a_clock_that_is_ahead_is_good(key: CoordinatorKey) -> None:
    token = signed(key, {"sub": "vast-1", "exp": NOW + 9, "iat": NOW + 10**6, "nbf": NOW + 10**6, "aud": "x"})
    assert verify_token(key.public_pem, token, NOW).scopes == frozenset()


def test_a_token_lives_30_days_and_ten_minutes_of_leeway(key: CoordinatorKey) -> None:
    token = issue_token(key, "vast-1", ["node"], NOW)
    end = NOW + 30 * 24 * 3600 + 600
    assert verify_token(key.public_pem, token, end).sub == "vast-1"
    with pytest.raises(TokenError, match="vast-1: the token expired 601 s ago"):
        verify_token(key.public_pem, token, end + 1)


def test_a_token_is_renewed_after_two_thirds_of_its_life(key: CoordinatorKey) -> None:
    claims = verify_token(key.public_pem, issue_token(key, "vast-1", ["node"], NOW), NOW)
    assert not claims.renewal_due(NOW + TOKEN_SECONDS * 2 / 3 - 1)
    assert claims.renewal_due(NOW + TOKEN_SECONDS * 2 / 3 + 1)


def test_a_token_of_another_key_is_refused(key: CoordinatorKey, tmp_path: Path) -> None:
    other = create_coordinator_key(tmp_path)
    with pytest.raises(TokenError, match="refused"):
        verify_token(key.public_pem, issue_token(other, "vast-1", ["coordinator"], NOW), NOW)


def test_a_changed_token_is_refused(key: CoordinatorKey) -> None:
    head, body, signature = issue_token(key, "vast-1", ["node"], NOW).split(".")
    payload = json.loads(base64.urlsafe_b64decode(body + "=="))
    payload["scopes"] = ["coordinator"]
    body = base64.urlsafe_b64encode(json.dumps(payload).encode()).rstrip(b"=").decode()
    with pytest.raises(TokenError, match="refused"):
        verify_token(key.public_pem, f"{head}.{body}.{signature}", NOW)


def test_a_token_without_signature_is_refused(key: CoordinatorKey) -> None:
    for algorithm in ("none", "None", "NONE"):
        token = forged({"alg": algorithm, "typ": "JWT"}, {"sub": "vast-1", "scopes": ["coordinator"], "exp": NOW + 9})
        with pytest.raises(TokenError, match="refused"):
            verify_token(key.public_pem, token, NOW)


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "RS256", "ES256"])
def test_a_token_signed_with_the_public_key_as_a_password_is_refused(key: CoordinatorKey, algorithm: str) -> None:
    payload: dict[str, object] = {"sub": "vast-1", "scopes": ["coordinator"], "exp": NOW + 9}
    token = forged({"alg": algorithm, "typ": "JWT"}, payload, secret=key.public_pem)
    with pytest.raises(TokenError, match="refused"):
        verify_token(key.public_pem, token, NOW)


@pytest.mark.parametrize(
    "payload",
    [
        {"exp": NOW + 9},
        {"sub": "vast-1"},
        {"sub": 7, "exp": NOW + 9},
        {"sub": "a|b", "exp": NOW + 9},
        {"sub": "../x", "exp": NOW + 9},
        {"sub": "vast-1", "exp": "tomorrow"},
        {"sub": "vast-1", "exp": True},
        {"sub": "vast-1", "exp": None},
        {"sub": "vast-1", "exp": float("inf")},
        {"sub": "vast-1", "exp": float("nan")},
        {"sub": "vast-1", "exp": NOW + 9, "scopes": "coordinator"},
        {"sub": "vast-1", "exp": NOW + 9, "scopes": [1]},
        {"sub": "vast-1", "exp": NOW - LEEWAY_SECONDS - 1},
    ],
)
def test_a_token_that_is_signed_but_says_too_little_or_nonsense_is_refused(
    key: CoordinatorKey, payload: dict[str, object]
) -> None:
    with pytest.raises(TokenError, match="token"):
        verify_token(key.public_pem, signed(key, payload), NOW)


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "é", "\x00", "x" * 100_000, "eyJhbGciOiJFZERTQSJ9..", "{}"])
def test_what_is_no_token_is_refused_as_an_authentication_error(key: CoordinatorKey, token: str) -> None:
    with pytest.raises(AuthenticationError, match="refused"):
        verify_token(key.public_pem, token, NOW)


def test_a_token_for_a_bad_name_or_an_unknown_scope_is_never_issued(key: CoordinatorKey) -> None:
    with pytest.raises(ValueError, match="cannot name a node"):
        issue_token(key, "a|b", ["node"], NOW)
    with pytest.raises(ValueError, match="admin"):
        issue_token(key, "vast-1", ["admin"], NOW)


def test_a_certificate_names_the_node_and_its_addresses_and_is_pinned_by_its_digest(tmp_path: Path) -> None:
    made = make_tls_certificate(tmp_path, "vast-1", ["127.77.0.11", "host.example", "fd00::1"], NOW)
    certificate = x509.load_pem_x509_certificate(made.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["vast-1", "host.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.77.0.11", "fd00::1"]
    der = ssl.PEM_cert_to_DER_cert(made.certificate.read_text())
    assert made.fingerprint == hashlib.sha256(der).hexdigest()
    assert made.key.stat().st_mode & 0o777 == 0o600


def test_a_certificate_can_be_served(tmp_path: Path) -> None:
    made = make_tls_certificate(tmp_path, "vast-1", ["127.0.0.1"], NOW)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made.certificate, made.key)


def test_a_certificate_that_is_pinned_somewhere_stays(tmp_path: Path) -> None:
    first = make_tls_certificate(tmp_path, "vast-1", ["127.0.0.1"], NOW)
    assert make_tls_certificate(tmp_path, "vast-1", ["127.0.0.2"], NOW + 10**6) == first


def test_a_certificate_interrupted_after_its_key_is_finished(tmp_path: Path) -> None:
    first = make_tls_certificate(tmp_path, "vast-1", [], NOW)
    first.certificate.unlink()
    assert make_tls_certificate(tmp_path, "vast-1", [], NOW).fingerprint != first.fingerprint


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    here, there = tmp_path / "a", tmp_path / "b"
    first, second = (make_tls_certificate(directory, "vast-1", [], NOW) for directory in (here, there))
    first.certificate.write_bytes(second.certificate.read_bytes())
    with pytest.raises(ConfigError, match=r"does not belong to agent\.key"):
        make_tls_certificate(here, "vast-1", [], NOW)
    first.certificate.write_text("nonsense")
    with pytest.raises(ConfigError, match="delete both to get new ones"):
        make_tls_certificate(here, "vast-1", [], NOW)
    first.key.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(ConfigError, match="not an elliptic curve key"):
        make_tls_certificate(here, "vast-1", [], NOW)


def test_a_stored_token_replaces_the_old_one_and_only_its_owner_can_read_it(
    key: CoordinatorKey, tmp_path: Path
) -> None:
    path, token = tmp_path / "vast-1.jwt", issue_token(key, "vast-1", ["node"], NOW)
    path.write_text("old")
    path.chmod(0o644)
    store_token(path, token)
    assert path.read_text() == f"{token}\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("token", ["", " ", "a b", "a.b.c\n", "é.b.c", "a\x00b", "٣.b.c", "x" * 8193])
def test_what_cannot_be_a_token_is_never_stored(tmp_path: Path, token: str) -> None:
    path = tmp_path / "vast-1.jwt"
    path.write_text("old")
    with pytest.raises(TokenError, match="the old one stays"):
        store_token(path, token)
    assert path.read_text() == "old"


def test_a_renewed_token_is_stored_only_when_it_gives_the_same_rights_for_longer(
    key: CoordinatorKey, tmp_path: Path
) -> None:
    path, old = tmp_path / "vast-1.jwt", issue_token(key, "vast-1", ["node"], NOW)
    store_token(path, old)
    stranger = create_coordinator_key(tmp_path / "stranger")
    for bad in (
        issue_token(stranger, "vast-1", ["node"], NOW + 9),
        issue_token(key, "vast-2", ["node"], NOW + 9),
        issue_token(key, "vast-1", ["node", "relay"], NOW + 9),
        issue_token(key, "vast-1", [], NOW + 9),
        "rubbish",
    ):
        with pytest.raises(TokenError):
            store_renewed_token(path, bad, key.public_pem, NOW)
    assert not store_renewed_token(path, issue_token(key, "vast-1", ["node"], NOW - 9), key.public_pem, NOW)
    assert path.read_text().strip() == old
    assert store_renewed_token(path, issue_token(key, "vast-1", ["node"], NOW + 9), key.public_pem, NOW)
    assert verify_token(key.public_pem, path.read_text().strip(), NOW).expires == NOW + 9 + TOKEN_SECONDS


def test_revoking_and_reinstating_leave_comments_and_other_ids_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "revoked"
    assert read_revoked(path) == frozenset()
    assert not set_revoked(path, "vast-1", revoked=False)
    assert not path.exists()
    path.write_bytes(b"# why: \xff\nvast-9   # stolen\nvast-10")
    assert set_revoked(path, "vast-1", revoked=True)
    assert not set_revoked(path, "vast-1", revoked=True)
    assert read_revoked(path) == {"vast-1", "vast-9", "vast-10"}
    assert set_revoked(path, "vast-9", revoked=False)
    assert path.read_bytes() == b"# why: \xff\nvast-10\nvast-1\n"
    with pytest.raises(ValueError, match="cannot name a node"):
        set_revoked(path, "# all", revoked=True)


def test_people_who_revoke_at_the_same_time_do_not_undo_each_other(tmp_path: Path) -> None:
    path, names = tmp_path / "revoked", [f"vast-{number}" for number in range(12)]
    threads = [threading.Thread(target=set_revoked, args=(path, name), kwargs={"revoked": True}) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_revoked(path) == set(names)
