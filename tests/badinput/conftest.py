"""A coordinator over the shared agents, and one more node that lies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.storage.quarantine import Quarantine, QuarantineEntry
from ringrift_sync_dagster.sync.report import CollectReport, Failure
from tests.badinput.liar import LIAR, Liar
from tests.node.merging import game
from tests.sync.conftest import Field, field_  # noqa: F401 - the fixture is used here under its name

A, B = "vast-900001", "runpod-a1"
CONFIG = "hex8_2p"


@dataclass
class Scene:
    """A pass over an honest node with one game and the liar; what it may leave, and what it must not."""

    field: Field
    liar: Liar

    @property
    def root(self) -> Path:
        return self.field.base / "root"

    def play(self) -> None:
        """Let the honest node finish a game."""
        self.field.play(A, "data/games/honest.db", game("honest", config=CONFIG))

    def collect(self) -> CollectReport:
        return self.field.collect(CONFIG, nodes=(A, LIAR))

    def failure(self) -> Failure | None:
        """Collect from the liar alone, and give what was wrong."""
        (outcome,) = self.field.collect(CONFIG, nodes=(LIAR,)).outcomes
        assert outcome.games_new == 0
        return outcome.failure

    def refused(self) -> Failure:
        """Collect from the liar alone, which must fail by its own fault and publish nothing."""
        failure = self.failure()
        assert failure is not None
        assert LIAR in failure.message
        assert not self.field.canonical(CONFIG).exists()
        self.require_confinement()
        return failure

    def require_confinement(self) -> None:
        """Nothing lies anywhere but where a pass puts things."""
        found = {path.relative_to(self.field.base) for path in self.field.base.rglob("*") if path.is_file()}
        places = ("root/data/quarantine/", "root/data/games/canonical_", "state.db", "hosts/")
        assert [str(path) for path in found if not str(path).startswith(places)] == []

    def quarantined(self) -> list[QuarantineEntry]:
        return quarantined(self.field)


def quarantined(field_: Field) -> list[QuarantineEntry]:  # noqa: F811 - the argument is the fixture's value
    """What stands in the quarantine list."""
    return Quarantine(field_.base / "root" / "data" / "quarantine").entries()


@pytest.fixture
def scene(field_: Field) -> Iterator[Scene]:  # noqa: F811 - the fixture
    with Liar() as liar:
        hosts = field_.base / "hosts"
        hosts.mkdir()
        for file in field_.cluster.hosts.glob("*.yaml"):
            content = yaml.safe_load(file.read_text())
            if "hosts" in content:
                content["hosts"][LIAR] = {
                    "ssh_host": "127.0.0.1", "agent_port": liar.port, "ringrift_path": "/nowhere/ai-service",
                    "status": "ready", "role": "selfplay", "provider": "local",
                }  # fmt: skip
            (hosts / file.name).write_text(yaml.safe_dump(content))
        field_.settings = load_settings(**{**field_.settings.model_dump(), "hosts": hosts})
        yield Scene(field_, liar)
