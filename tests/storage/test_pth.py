"""What counts as a whole model, without unpickling any."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from pathlib import Path

import pytest

from ringrift_sync_dagster.demo.exports import model_bytes, write_model
from ringrift_sync_dagster.errors import InvalidFileError
from ringrift_sync_dagster.storage.pth import read_sidecar, validate_model, write_sidecar

LEGACY = 0x1950A86A20F9469CFC6C


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_both_forms_of_torch_are_models(tmp_path: Path, protocol: int) -> None:
    validate_model(write_model(tmp_path / "new.pth", "a"), "new.pth")
    old = tmp_path / "old.pth"
    old.write_bytes(pickle.dumps(LEGACY, protocol) + b"more")
    validate_model(old, "old.pth")


def test_models_of_one_size_have_different_bytes() -> None:
    one, other = model_bytes("a"), model_bytes("b")
    assert (len(one), one == other) == (len(other), False)


def test_a_truncated_or_flipped_model_is_none(tmp_path: Path) -> None:
    whole = model_bytes("a")
    flipped = bytearray(whole)
    flipped[5000] ^= 1
    for data in (whole[:-1], whole[: len(whole) // 2], bytes(flipped), b"", pickle.dumps({"a": 1}), b"PK\x03\x04"):
        path = tmp_path / "x.pth"
        path.write_bytes(data)
        with pytest.raises(InvalidFileError):
            validate_model(path, path.name)


@pytest.mark.parametrize("member", ["../archive/data.pkl", "/archive/data.pkl"])
def test_a_member_that_leads_out_of_a_model_is_none(tmp_path: Path, member: str) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"x")
    with pytest.raises(InvalidFileError, match="leads out"):
        validate_model(path, path.name)


def test_a_zip_without_a_pickle_and_a_bomb_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/readme", b"x")
    with pytest.raises(InvalidFileError, match=r"data\.pkl"):
        validate_model(path, path.name)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(InvalidFileError, match="larger"):
        validate_model(path, path.name)


def test_sidecars_are_those_of_sha256sum(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.pth", "a")
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    write_sidecar(model, digest)

    text = (tmp_path / "m.pth.sha256").read_text()
    assert text == f"{digest}  m.pth\n"
    assert read_sidecar(text) == digest
    assert read_sidecar(f"{digest.upper()} *m.pth") == digest
    assert read_sidecar("nothing") == ""
