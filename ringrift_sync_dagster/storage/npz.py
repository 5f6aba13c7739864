"""What an npz file holds, proved without loading it: structure, checksums, headers, shapes. Nothing is ever unpickled.

An npz is a zip of ``.npy`` members. Each member is inflated once, in steps, for its CRC and its length; only its header
is read. Arrays of objects (ragged policies, names) are accepted as bytes: to load them means to run what they say, and
nobody here does. Inflation is bounded, because 1.2 GB of zip can hold 73 GB, or a bomb. Source: domain facts, 3.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ringrift_sync_dagster.errors import InvalidFileError
from ringrift_sync_dagster.storage.files import CHUNK_BYTES, disk_errors

REQUIRED: Final = ("features", "globals", "values", "policy_indices", "policy_values")
"""Arrays without which nothing can be trained."""
PER_SAMPLE: Final = (
    *REQUIRED, "values_mp", "num_players", "move_numbers", "total_game_moves", "phases", "victory_types",
    "engine_modes", "move_types", "opponent_types", "opponent_elo", "generator_elo", "quality_score", "heuristics",
    "sample_weights", "timestamps",
)  # fmt: skip
"""Arrays with one entry for each sample, where they are there."""
FLOATS: Final = frozenset({"features", "globals", "values", "values_mp", "heuristics"})
SIDES: Final[Mapping[str, int]] = {"square8": 8, "square19": 19, "hex8": 9, "hexagonal": 25}
_RANKS: Final = {"features": 4, "globals": 2, "values": 1, "values_mp": 2, "policy_indices": 1, "policy_values": 1}
_SEATS: Final = 4
MEMBERS: Final = 100
RAW_LIMIT_BYTES: Final = 400 << 30
RATIO_LIMIT: Final = 1100.0
"""Deflate cannot do better than 1032:1; a member that claims more is no deflate stream."""
_HEADER_BYTES: Final = 64 << 10
_SCALAR_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class NpzFacts:
    """What an npz says of itself.

    Args:
        samples: Number of samples.
        feature_version: Version of the features; 0 where it does not say.
        board: The board, from the shape of the features (or as it says itself); empty where neither tells.
        raw_bytes: What its members inflate to.

    """

    samples: int
    feature_version: int
    board: str
    raw_bytes: int

    def rank(self, sha256: str) -> tuple[int, int, str]:
        """Its place in the order of versions: the larger the better, and never two equal ones."""
        return self.feature_version, self.samples, sha256


@dataclass(frozen=True, slots=True)
class _Array:
    """One member: its shape, the type of its entries as numpy writes it, and the value of a small scalar."""

    shape: tuple[int, ...]
    dtype: str
    raw_bytes: int
    scalar: Any = None


def validate_npz(path: Path, config: str) -> NpzFacts:
    """Prove that a file is an npz that can train the config; memory does not grow with its size.

    Raises:
        InvalidFileError: It is none, and what is wrong with it.
        LocalDiskError: It cannot be read.

    """
    try:
        with disk_errors(path, "read"), zipfile.ZipFile(path) as archive:
            arrays = dict(_arrays(archive, path.stat().st_size))
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InvalidFileError(path, f"it is no whole npz: {error}") from error
    except ValueError as error:
        raise InvalidFileError(path, str(error)) from error
    try:
        return _facts(arrays, config)
    except ValueError as error:
        raise InvalidFileError(path, str(error)) from error


def _arrays(archive: zipfile.ZipFile, size_bytes: int) -> Iterator[tuple[str, _Array]]:
    """Read each member through, and give its name and header."""
    members = archive.infolist()
    if len(members) > MEMBERS:
        raise ValueError(f"it has {len(members)} members; an export has at most {MEMBERS}")
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise ValueError("two of its members have one name")
    declared = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if packed > size_bytes or declared > min(RAW_LIMIT_BYTES, RATIO_LIMIT * size_bytes):
        raise ValueError(f"it says that its {size_bytes} bytes inflate to {declared}: no export does that")
    for member in members:
        name = member.filename
        if not name.endswith(".npy") or "/" in name or "\\" in name or ".." in name:
            raise ValueError(f"its member {name[:100]!r} is no array of an npz")
        yield name.removesuffix(".npy"), _array(archive, member)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Array:
    """Inflate one member in steps, which checks its CRC, and read its header."""
    with archive.open(member) as stream:
        head = stream.read(min(_HEADER_BYTES, member.file_size))
        count = len(head)
        while chunk := stream.read(CHUNK_BYTES):
            count += len(chunk)
            if count > member.file_size:
                raise ValueError(f"its member {member.filename} is longer than it says")
    if count != member.file_size:
        raise ValueError(f"its member {member.filename} has {count} of {member.file_size} bytes")
    shape, dtype, data = _header(member.filename, head)
    return _Array(shape, dtype, count, _scalar(shape, dtype, head[data:]))


def _header(name: str, head: bytes) -> tuple[tuple[int, ...], str, int]:
    """Read an ``.npy`` header; numpy's own reader evaluates literals only."""
    from numpy.lib import format as npy  # noqa: PLC0415 - only what validates an npz pays for numpy

    stream = io.BytesIO(head)
    try:
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, _, dtype = read(stream)
    except (ValueError, KeyError, TypeError, EOFError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"its member {name} has no header of an array: {error}") from error
    if any(length < 0 for length in shape):
        raise ValueError(f"its member {name} has the shape {shape}")
    return tuple(shape), "object" if dtype.hasobject else str(dtype), stream.tell()


def _scalar(shape: tuple[int, ...], dtype: str, data: bytes) -> Any:  # noqa: ANN401 - a number or a text
    """The value of a scalar that is no object; None for everything else."""
    if shape not in ((), (1,)) or dtype == "object" or len(data) > _SCALAR_BYTES:
        return None
    import numpy as np  # noqa: PLC0415 - as above

    try:
        return np.frombuffer(data, dtype=dtype, count=1)[0].item()
    except (ValueError, TypeError):
        return None


def _facts(arrays: Mapping[str, _Array], config: str) -> NpzFacts:
    lacking = [name for name in REQUIRED if name not in arrays]
    if lacking:
        raise ValueError(f"it lacks the arrays {', '.join(lacking)}")
    samples = _samples(arrays)
    for name, rank in _RANKS.items():
        if name in arrays and len(arrays[name].shape) != rank:
            raise ValueError(
                f"its array {name} has the shape {arrays[name].shape}; it has {rank} dimensions in an export"
            )
    for name in FLOATS & arrays.keys():
        if not arrays[name].dtype.startswith("float"):
            raise ValueError(f"its array {name} holds {arrays[name].dtype}, not floats")
    if "values_mp" in arrays and arrays["values_mp"].shape[1] != _SEATS:
        raise ValueError(f"its array values_mp has {arrays['values_mp'].shape[1]} seats, not {_SEATS}")
    board = _board(arrays["features"].shape, config)
    version = arrays["feature_version"].scalar if "feature_version" in arrays else 0
    if isinstance(version, bool) or not isinstance(version, (int, float)) or version != int(version):
        version = 0
    return NpzFacts(samples, int(version), board, sum(array.raw_bytes for array in arrays.values()))


def _samples(arrays: Mapping[str, _Array]) -> int:
    lengths = {name: arrays[name].shape[0] for name in PER_SAMPLE if name in arrays and arrays[name].shape}
    counts = set(lengths.values())
    if len(counts) != 1:
        told = ", ".join(f"{name} {length}" for name, length in sorted(lengths.items()))
        raise ValueError(f"its arrays have different numbers of samples: {told}")
    (samples,) = counts
    if samples == 0:
        raise ValueError("it has no samples")
    return samples


def _board(shape: tuple[int, ...], config: str) -> str:
    """The board whose side the features have; it must be the config's."""
    board = config.rpartition("_")[0]
    side = SIDES.get(board)
    if side is not None and tuple(shape[2:]) != (side, side):
        raise ValueError(f"its features are of {shape[2]} x {shape[3]} fields; those of {board} are {side} x {side}")
    return board
