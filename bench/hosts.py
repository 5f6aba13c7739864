"""A home for a program that is measured, with an inventory, a token and a state database, and nothing of the user's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ringrift_sync_dagster.settings.settings import Settings, load_settings

_TOKEN: Final = "none"  # noqa: S105 - for nodes that read none
_HUB: Final = {"ssh_host": "127.0.0.1", "ringrift_path": "/nowhere", "role": "coordinator"}


def lay_out(
    home: Path, hosts: Mapping[str, Mapping[str, object]], token: str = _TOKEN, *, exist_ok: bool = False
) -> None:
    """Write the inventory and the token; a coordinator is added to the hosts."""
    home.mkdir(parents=True, exist_ok=exist_ok)
    (home / "hosts.yaml").write_text(json.dumps({"hosts": {"hub-1": _HUB, **hosts}}), encoding="utf-8")
    (home / "token").write_text(token, encoding="ascii")


def settings_of(home: Path, state: Path) -> Settings:
    """Give the settings of a program that runs there, with this state database."""
    return load_settings(
        home=home, hosts=home / "hosts.yaml", root=home / "root", token_file=home / "token",
        known_hosts=home / "known_hosts", state_url=f"sqlite:///{state}", max_concurrent_syncs=5,
    )  # fmt: skip
