"""Exports and models as upstream's programs write them, made up: an npz of samples, a model in torch's zip form.

No torch is needed for a model: what is looked at is its structure. Models of one config have one length and different
bytes, as those of one architecture have.
"""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path
from typing import Any, Final

SIDES: Final = {"square8": 8, "square19": 19, "hex8": 9, "hexagonal": 25}
CHANNELS: Final = 4
"""Upstream has 40 to 64; the demo's files stay small."""


def samples(config: str, count: int, seed: str, *, feature_version: int = 2) -> dict[str, Any]:
    """Make up the arrays of an export with ``count`` samples."""
    import numpy as np  # noqa: PLC0415 - only whoever makes exports needs it

    board, _, players = config.rpartition("_")
    side, chance = SIDES[board], np.random.default_rng(list(f"{seed}/{config}".encode()))
    ragged = np.empty(count, dtype=object)
    weights = np.empty(count, dtype=object)
    for place in range(count):
        length = int(chance.integers(1, 6))
        ragged[place] = chance.integers(0, 4500, length, dtype=np.int32)
        weights[place] = np.full(length, 1 / length, dtype=np.float32)
    return {
        "features": chance.random((count, CHANNELS, side, side), dtype=np.float32),
        "globals": chance.random((count, 8), dtype=np.float32),
        "values": chance.random(count, dtype=np.float32),
        "values_mp": chance.random((count, 4), dtype=np.float32),
        "num_players": np.full(count, int(players[:-1]), dtype=np.int32),
        "policy_indices": ragged,
        "policy_values": weights,
        "phases": np.array(["placement"] * count, dtype=object),
        "board_type": np.array(board),
        "feature_version": np.array(feature_version, dtype=np.int32),
    }


def write_npz(path: Path, arrays: dict[str, Any]) -> Path:
    """Write an export as ``numpy.savez_compressed`` does."""
    import numpy as np  # noqa: PLC0415 - as above

    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def make_export(path: Path, config: str, count: int, seed: str = "", *, feature_version: int = 2) -> Path:
    """Write an export with ``count`` samples; the same arguments give the same samples."""
    return write_npz(path, samples(config, count, seed or path.name, feature_version=feature_version))


def model_bytes(seed: str, size_bytes: int = 20_000) -> bytes:
    """Give a model in torch's zip form: members stored, ``archive/data.pkl`` first; all of one size have one length."""
    stream = io.BytesIO()
    weights = random.Random(seed).randbytes(size_bytes)
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, data in (
            ("archive/data.pkl", b"\x80\x02}q\x00."),
            ("archive/data/0", weights),
            ("archive/version", b"3\n"),
        ):
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)
    return stream.getvalue()


def write_model(path: Path, seed: str, size_bytes: int = 20_000) -> Path:
    """Write a model as upstream does: a temporary file, then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp")
    part.write_bytes(model_bytes(seed, size_bytes))
    part.replace(path)
    return path
