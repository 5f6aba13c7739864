from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from ringrift_sync_dagster.node.errors import CODES, KitError, from_os_error
from ringrift_sync_dagster.node.roots import Roots, display


@pytest.fixture
def two(tmp_path: Path) -> Roots:
    (tmp_path / "own" / "data").mkdir(parents=True)
    (tmp_path / "extra").mkdir()
    return Roots([str(tmp_path / "own"), str(tmp_path / "extra")])


def test_a_name_and_its_place_are_each_others_inverse(two: Roots) -> None:
    for name in ("data/games/x.db", "@1/games/x.db", "data/games/a b?#%\n.db"):
        assert two.relative(two.resolve(name)) == name


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "data/../../x",
        "data/x\0y",
        "@2/x",
        "@0/x",
        "@1/../x",
        "@1//etc/passwd",
        "@x/y",
        "@1/",
        "@1",
    ],
)
def test_a_name_that_could_leave_the_roots_is_refused(two: Roots, path: str) -> None:
    with pytest.raises(KitError) as refused:
        two.resolve(path)

    assert refused.value.code == "outside"


@pytest.mark.parametrize("path", ["", f"data/{chr(0xDCFF)}.db", f"data/{chr(0xD800)}.db"])
def test_a_name_that_is_no_text_is_refused(two: Roots, path: str) -> None:
    with pytest.raises(KitError) as refused:
        two.resolve(path)

    assert refused.value.code == "bad_arguments"
    json.dumps(refused.value.as_json()).encode("utf-8")


def test_a_link_may_lead_from_root_to_root_but_not_out(two: Roots, tmp_path: Path) -> None:
    (tmp_path / "own/data/across").symlink_to(tmp_path / "extra")
    (tmp_path / "own/data/up").symlink_to(tmp_path)
    (tmp_path / "own/data/loop").symlink_to(tmp_path / "own/data/loop")

    assert two.resolve("data/across/x.db") == str(tmp_path / "extra/x.db")
    assert two.relative(str(tmp_path / "own/data/across/x.db")) == "data/across/x.db"
    with pytest.raises(KitError, match="out of this node's roots"):
        two.resolve("data/up/secret.db")
    assert not Path(two.resolve("data/loop")).is_file()


def test_a_neighbour_whose_name_begins_like_a_root_is_outside(two: Roots, tmp_path: Path) -> None:
    (tmp_path / "own-secret").mkdir()
    (tmp_path / "own/data/near").symlink_to(tmp_path / "own-secret")

    with pytest.raises(KitError, match="out of this node's roots"):
        two.resolve("data/near/x.db")
    with pytest.raises(KitError, match="does not lie under a root"):
        two.relative(str(tmp_path / "own-secret/x.db"))


def test_a_root_that_is_itself_a_link_is_fine(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    roots = Roots([str(tmp_path / "root")])

    assert roots.resolve("data/x.db") == str(tmp_path / "disk/data/x.db")
    assert roots.relative(str(tmp_path / "root/data/x.db")) == "data/x.db"


def test_the_whole_file_system_can_be_a_root() -> None:
    assert Roots(["/"]).resolve("no/such.db") == "/no/such.db"


@pytest.mark.parametrize("paths", [[], [""], ["a\0b"]])
def test_roots_need_a_path(paths: list[str]) -> None:
    with pytest.raises(KitError) as refused:
        Roots(paths)

    assert refused.value.code == "bad_arguments"


def test_any_bytes_can_be_shown() -> None:
    assert display("data/\udcff é.db") == "data/\\xff é.db"


def test_an_error_survives_the_way_out_of_a_worker_process() -> None:
    error = KitError("locked", "somebody holds it", "data/x.db")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert str(copy) == "somebody holds it"
    assert copy.as_json() == {"code": "locked", "message": "somebody holds it", "path": "data/x.db"}


def test_errors_of_the_system_get_codes() -> None:
    codes = [from_os_error(OSError(number, "words")).code for number in (2, 28, 13, 5)]

    assert codes == ["missing", "no_space", "unreadable", "unreadable"]
    assert set(codes) <= set(CODES)
