"""Where people say that a file is, and whether the address is the node's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringrift_sync_dagster.errors import ConfigError
from ringrift_sync_dagster.settings.inventory import Inventory, load_inventory
from ringrift_sync_dagster.sync.places import Place, find_route, local_path, parse_place

HOSTS = """
hosts:
  hub-1: {ssh_host: 127.0.0.1, ringrift_path: /r, role: coordinator}
  training-node: {ssh_host: training, tailscale_ip: "fd7a::7", ssh_user: ubuntu, ringrift_path: /r}
  other-1: {ssh_host: 203.0.113.9, ringrift_path: /r}
"""


@pytest.fixture
def inventory(tmp_path: Path) -> Inventory:
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    return load_inventory(tmp_path / "hosts.yaml")


@pytest.mark.parametrize(
    "text,place",
    [
        ("/data/x.db", Place("/data/x.db")),
        ("./a:b", Place("./a:b")),
        ("/a:b", Place("/a:b")),
        ("training:x", Place("x", "training")),
        ("training:", Place(".", "training")),
        ("ubuntu@training:/data/games/", Place("/data/games/", "training", "ubuntu")),
        ("ubuntu@[fd7a::7]:/d", Place("/d", "fd7a::7", "ubuntu")),
        ("[fd7a::7]:~/d:e", Place("~/d:e", "fd7a::7")),
        ("h:/line\nend", Place("/line\nend", "h")),
    ],
)
def test_a_place_is_read_as_rsync_reads_it_and_written_back_as_it_was(text: str, place: Place) -> None:
    assert parse_place(text, "source") == place
    assert str(place) == (text if text != "training:" else "training:.")


@pytest.mark.parametrize("text", ["", "a\0b", "rsync://h/m", "h::module/x"])
def test_what_is_no_place_over_ssh_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="argument"):
        parse_place(text, "source")


@pytest.mark.parametrize(
    "path,name",
    [("/a/b.db", "b.db"), ("b.db", "b.db"), ("/a/b/", "b"), ("/", ""), (".", ""), ("a/..", ""), ("~", "")],
)
def test_the_name_is_the_last_part_that_can_name_a_file(path: str, name: str) -> None:
    assert Place(path).name == name


@pytest.mark.parametrize("address", ["training", "TRAINING", "fd7a::7", "training-node"])
def test_any_address_of_the_node_and_its_name_lead_to_it(inventory: Inventory, address: str) -> None:
    route = find_route(inventory, Place("/x.db"), Place("/d/", address), "training-node")

    assert route.pushes
    assert (route.node.name, route.node.ssh_user) == ("training-node", "ubuntu")


def test_the_user_in_front_of_the_address_is_the_one_who_logs_in(inventory: Inventory) -> None:
    route = find_route(inventory, Place("/x.db", "training", "root"), Place("/d/"), "training-node")

    assert not route.pushes
    assert route.node.ssh_user == "root"


@pytest.mark.parametrize(
    "source,dest,host,words",
    [
        (Place("/x"), Place("/y"), "training-node", "both are on this machine"),
        (Place("/x", "training"), Place("/y", "training"), "training-node", "both are on other machines"),
        (Place("/x"), Place("/y", "203.0.113.9"), "training-node", "no address of training-node .it is other-1's"),
        (Place("/x"), Place("/y", "nowhere"), "training-node", "the inventory gives it to nobody"),
        (Place("/x"), Place("/y", "training"), "trainig-node", "training-node"),
        (Place("/"), Place("/y", "training"), "training-node", "/ names no file"),
    ],
)  # fmt: skip
def test_a_route_that_makes_no_sense_is_refused_and_both_ends_are_named(
    inventory: Inventory, source: Place, dest: Place, host: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        find_route(inventory, source, dest, host)


def test_a_local_path_is_made_absolute_and_keeps_its_slash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ops")

    assert local_path("a/b/") == f"{tmp_path}/a/b/"
    assert local_path("~/x") == "/home/ops/x"
    assert local_path("~nobody-of-that-name/x") == f"{tmp_path}/~nobody-of-that-name/x"
