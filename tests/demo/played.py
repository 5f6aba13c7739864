"""Games played and collected in this process, without agents: the writers' own code, then the kit and the intake."""

import shutil
import time
from pathlib import Path

from ringrift_sync_dagster.core.model import Artifact
from ringrift_sync_dagster.demo import scenario
from ringrift_sync_dagster.demo.ledger import Entry, read_ledgers
from ringrift_sync_dagster.demo.selfplay import Writer
from ringrift_sync_dagster.demo.verdict import Verdict, judge
from ringrift_sync_dagster.intake.arrival import Arrival
from ringrift_sync_dagster.intake.games import GamesIntake
from ringrift_sync_dagster.node.pack import Request, make_pack, parse
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.layout import Layout

SEED = 7
NODES = ("vast-900001", "runpod-a1", "hetzner-v1")


class PlayedCluster:
    """Roots of nodes and a coordinator under one folder."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.layout = Layout(base / "hub-1" / "ai-service")
        self.layout.mkdirs()

    def node_root(self, node: str) -> Path:
        return self.base / node / "ai-service"

    def play_all(self) -> None:
        """Let each node play all its cases and a few normal games."""
        for node in NODES:
            self.play(node, 2 * len(scenario.cases_of(SEED, node)) + 6)

    def entries(self) -> list[Entry]:
        return read_ledgers(self.base / "ledgers")

    def play(self, node: str, games: int) -> None:
        """Play at full speed, the late cases included."""
        writer = Writer(node, self.node_root(node), self.base / "ledgers" / f"{node}.jsonl", SEED, rate=1e6)
        writer.ask_for_late_cases()
        writer.run(games)

    def collect(self) -> None:
        """Bring everything that is complete to the coordinator, and what is short to quarantine."""
        with StateStore.open(f"sqlite:///{self.base}/state.db") as state:
            intake = GamesIntake("hub-1", state, self.layout)
            for file in scenario.FILES:
                for config in file.configs:
                    if (self.node_root(file.node) / file.path).exists():
                        self._collect_one(intake, file.node, file.path, config)

    def judge(self) -> Verdict:
        return judge(self.entries(), self.layout.root, self.node_root)

    def _collect_one(self, intake: GamesIntake, node: str, path: str, config: str) -> None:
        scratch = str(self.node_root(node) / "data" / ".ringrift-sync")
        database = str(self.node_root(node) / path)
        request = Request(config)
        later = time.time() + 3600
        for now in (time.time(), later):  # the second look finds what has stood still
            result = make_pack(database, path, scratch, request, now)
            self._accept(intake, node, path, scratch, result)
            request = Request(config, cursor=parse(result["cursor"]))
            if result["short"]:
                aside = Request(config, cursor=parse(result["cursor"]), ids=tuple(result["short"]), aside=True)
                self._accept(intake, node, path, scratch, make_pack(database, path, scratch, aside, now))

    def _accept(self, intake: GamesIntake, node: str, path: str, scratch: str, result: dict[str, object]) -> None:
        if result["artifact"] is None:
            return
        sha256 = str(result["artifact"])
        data = Path(scratch, "artifacts", sha256)
        arrived = self.layout.incoming_artifact(node, sha256)
        arrived.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data, arrived)
        artifact = Artifact(sha256, data.stat().st_size, "games")
        intake.accept(Arrival(artifact, arrived, node, path, result["cursor"]))  # type: ignore[arg-type]
