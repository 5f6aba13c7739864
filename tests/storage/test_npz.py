"""What counts as an npz: proved by structure, checksums and headers, in bounded memory, and never loaded."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringrift_sync_dagster.demo.exports import make_export, samples, write_npz
from ringrift_sync_dagster.errors import InvalidFileError
from ringrift_sync_dagster.storage.npz import validate_npz

CONFIG = "hex8_2p"


def test_an_export_tells_its_samples_and_feature_version(tmp_path: Path) -> None:
    facts = validate_npz(make_export(tmp_path / "x.npz", CONFIG, 40, feature_version=3), CONFIG)

    assert (facts.samples, facts.feature_version, facts.board) == (40, 3, "hex8")


@pytest.mark.parametrize("board", ["square8", "square19", "hexagonal"])
def test_every_board_has_its_side(tmp_path: Path, board: str) -> None:
    path = make_export(tmp_path / "x.npz", f"{board}_2p", 3)
    assert validate_npz(path, f"{board}_2p").samples == 3
    with pytest.raises(InvalidFileError, match="fields"):
        validate_npz(path, "hex8_2p")


def test_more_samples_or_a_newer_feature_version_is_better(tmp_path: Path) -> None:
    small = validate_npz(make_export(tmp_path / "a.npz", CONFIG, 10), CONFIG)
    large = validate_npz(make_export(tmp_path / "b.npz", CONFIG, 20), CONFIG)
    newer = validate_npz(make_export(tmp_path / "c.npz", CONFIG, 5, feature_version=3), CONFIG)

    assert small.rank("ff") < large.rank("00") < newer.rank("00")


class _Bomb:
    """An object whose unpickling would be seen."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("unpickled"),))


def test_objects_are_accepted_as_bytes_and_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = samples(CONFIG, 2, "x")
    arrays["policy_indices"] = np.array([_Bomb(), _Bomb()], dtype=object)
    path = write_npz(tmp_path / "x.npz", arrays)

    assert validate_npz(path, CONFIG).samples == 2
    assert not (tmp_path / "unpickled").exists()
    with np.load(path, allow_pickle=True) as loaded:  # the bomb is one
        _ = loaded["policy_indices"]
    assert (tmp_path / "unpickled").exists()


def _changed(**changes: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        arrays = {**samples(CONFIG, 6, "x"), **changes}
        return write_npz(folder / "x.npz", {name: array for name, array in arrays.items() if array is not None})

    return make


def _truncated(folder: Path) -> Path:
    path = make_export(folder / "x.npz", CONFIG, 20)
    path.write_bytes(path.read_bytes()[:-700])
    return path


def _flipped(folder: Path) -> Path:
    path = make_export(folder / "x.npz", CONFIG, 20)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(bytes(data))
    return path


def _member(name: str, data: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = make_export(folder / "x.npz", CONFIG, 3)
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data)
        return path

    return make


def _overlapping(folder: Path) -> Path:
    """Many members are one and the same stretch of the file, as in a zip bomb."""
    path = folder / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(30_000_000))
        for number in range(50):
            twin = copy.copy(archive.filelist[0])
            twin.filename = f"a{number}.npy"
            archive.filelist.append(twin)
    return path


def _lying(folder: Path) -> Path:
    """The central directory says that a member is a thousand times as long as it is."""
    path = make_export(folder / "x.npz", CONFIG, 3)
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (400_000_000).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    "make, words",
    [
        (_truncated, "no whole npz"),
        (_flipped, "CRC|no whole npz|header|bytes"),
        (_lying, "inflate|bytes|no whole"),
        (_changed(values=np.zeros(5, np.float32)), "different numbers of samples"),
        (_changed(features=np.zeros((6, 4, 9, 9), np.int64)), "not floats"),
        (_changed(features=np.zeros((6, 4, 81), np.float32)), "dimensions"),
        (_changed(values_mp=np.zeros((6, 2), np.float32)), "seats"),
        (_changed(policy_values=None), "lacks the arrays policy_values"),
        (_member("../x.npy", b"x"), "no array of an npz"),
        (_member("/etc/x.npy", b"x"), "no array of an npz"),
        (_member("readme.txt", b"x"), "no array of an npz"),
        (_member("extra.npy", b"not an array"), "no header"),
        (_member("extra.npy", b"\x93NUMPY\x01\x00\x10\x00" + b"__import__('os')"), "no header"),
        (_overlapping, "no whole npz|inflate"),
    ],
)
def test_what_is_no_npz_is_refused_with_its_reason(tmp_path: Path, make: Callable[[Path], Path], words: str) -> None:
    with pytest.raises(InvalidFileError, match=words):
        validate_npz(make(tmp_path), CONFIG)


def test_an_empty_file_a_pickle_and_no_samples_are_none(tmp_path: Path) -> None:
    for number, data in enumerate((b"", pickle.dumps({"features": 1}), b"PK\x05\x06" + b"\0" * 18)):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(data)
        with pytest.raises(InvalidFileError):
            validate_npz(path, CONFIG)
    with pytest.raises(InvalidFileError, match="no samples"):
        validate_npz(write_npz(tmp_path / "none.npz", samples(CONFIG, 0, "x")), CONFIG)


def test_memory_stays_flat_whatever_the_arrays_inflate_to(tmp_path: Path) -> None:
    """260 MB of features in a file of a few hundred kB."""
    arrays = samples(CONFIG, 3, "x")
    count = 200_000
    for name, array in list(arrays.items()):
        if array.shape and array.shape[0] == 3:
            arrays[name] = np.zeros((count, *array.shape[1:]), array.dtype if array.dtype != object else np.float32)
    path = write_npz(tmp_path / "x.npz", arrays)
    program = (
        "import resource, sys; from pathlib import Path; from ringrift_sync_dagster.storage.npz import validate_npz\n"
        "import numpy.lib.format\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"assert validate_npz(Path(sys.argv[1]), {CONFIG!r}).samples == {count}\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    grown_kib = int(subprocess.check_output([sys.executable, "-c", program, str(path)]))

    assert grown_kib < 30_000
