"""The demo from beginning to end: games are played, an agent dies, a node vanishes, and a verdict says what arrived.

Two nodes have agents. On the other two the agent's port is closed: one is served by rsync over SSH, and one, where a
login finds no rsync, no scp and no sftp, by base64 text. The spot node writes its games through by itself, until it is
lost with all that it has. The collecting is done by the real command, ``dagster job execute``, three times: while the
writers play, after they have ended, when one node does not answer any more, and when the inventory calls it terminated.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console

from ringrift_sync_dagster.core.escalation import Rung
from ringrift_sync_dagster.demo import cargo, cargo_verdict, rungs, scenario, ssh_nodes, tables, vanishing
from ringrift_sync_dagster.demo.cargo import Cargo
from ringrift_sync_dagster.demo.cluster import EmbeddedCluster
from ringrift_sync_dagster.demo.dagster_home import dagster_environment
from ringrift_sync_dagster.demo.interruption import Interruption, interrupt, resumed_from
from ringrift_sync_dagster.demo.ledger import Entry, Plan, read_ledgers
from ringrift_sync_dagster.demo.processes import PYTHON, ChildFailedError
from ringrift_sync_dagster.demo.selfplay import write_bystanders
from ringrift_sync_dagster.demo.vanishing import Vanished
from ringrift_sync_dagster.demo.verdict import Check, judge
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.store import StateStore

BASE: Final = Path(".ringrift/demo")
SEED: Final = 7
GAMES: Final = 2_000
SHORT_AFTER_SECONDS: Final = 2.0
SSH: Final = {scenario.RUNPOD.node: ssh_nodes.WITH_RSYNC, scenario.HETZNER.node: ssh_nodes.BASICS}
RUNGS: Final = {
    scenario.VAST.node: Rung.P2P,
    scenario.RUNPOD.node: Rung.RSYNC,
    scenario.NEBIUS.node: Rung.P2P,
    scenario.HETZNER.node: Rung.BASE64,
}
"""The rung that can serve each node, fastest first."""
SETTINGS: Final = {"RINGRIFT_SYNC_SHORT_AFTER_SECONDS": f"{SHORT_AFTER_SECONDS:g}"}
JOB: Final = "move_data_job"
_WAIT_SECONDS: Final = 90.0
_JOB_SECONDS: Final = 600.0
_BACKLOG_NODE: Final = scenario.NEBIUS.node
_SPOT: Final = scenario.VAST.node


@dataclass(slots=True)
class Story:
    """One demo in its folder; ``tell`` runs it.

    Args:
        console: Where it is told.
        base: Folder of the cluster; what an earlier demo left there is deleted.
        games: Games to be played, at least.
        backlog: Games that one node already has.

    """

    console: Console
    base: Path = BASE
    games: int = GAMES
    backlog: int = scenario.BACKLOG_GAMES
    _started: float = field(default_factory=clock.monotonic)

    def tell(self) -> bool:
        """Run the demo; True when the verdict is good."""
        with EmbeddedCluster(self.base, ssh=SSH, settings=SETTINGS, write_through=True, fresh=True) as cluster:
            for line in who_answers(cluster):
                self._say(line)
            laid = self._lay_out(cluster)
            self._begin_playing(cluster)
            interruption = self._break_a_transfer(cluster)
            self._promote(cluster, 1)
            self._run_job(cluster, "while the writers go on playing")
            last = self._promote_while_a_node_is_down(cluster)
            vanished = self._lose_a_node(cluster)
            self._end_playing(cluster)
            self._run_job(
                cluster, f"now that all writers have ended, and {vanished.node} does not answer", vanished.node
            )
            report = self._give_up(cluster, vanished)
            return self._judge(cluster, interruption, laid, last, vanished, report)

    def _lay_out(self, cluster: EmbeddedCluster) -> Cargo:
        laid = cargo.lay_out({node: cluster.node_root(node) for node in cluster.nodes}, SEED)
        self._say(
            f"exports, candidates, ratings and registries lie on the nodes; {cargo.BAD} exports are bad, "
            f"{cargo.STRANGE_MATCHES} matches are none, and {cargo.CONFLICTS} version is told with two hashes"
        )
        return laid

    def _promote(self, cluster: EmbeddedCluster, number: int) -> Path:
        model = cargo.promoted(cluster.base, SEED, number)
        command = [PYTHON, "-m", "ringrift_sync_dagster.cli", "promote", cargo.CONFIG, str(model.resolve())]
        ended = cluster.run(command, seconds=_WAIT_SECONDS)
        if ended.returncode != 0:
            raise ChildFailedError(f"the promotion failed: {ended.stdout}{ended.stderr}")
        self._say(f"ringrift-sync promote: {ended.stdout.strip()}")
        return model

    def _promote_while_a_node_is_down(self, cluster: EmbeddedCluster) -> Path:
        """Promote twice within 2 s while one node's agent is dead; the nodes that live end on the last model."""
        node = scenario.VAST.node
        cluster.kill_agent(node)
        self._say(f"kill -9: the agent of {node} is dead while two models are promoted")
        started = clock.monotonic()
        self._promote(cluster, 2)
        last = self._promote(cluster, 3)
        self._say(f"both promotions within {clock.monotonic() - started:.1f} s")
        command = [PYTHON, "-m", "ringrift_sync_dagster.cli", "sync", "--type", "models", "--down"]
        cluster.run([*command, "--config", cargo.CONFIG], seconds=_JOB_SECONDS)
        self._say(f"ringrift-sync sync --type models: all but {node} have the last one")
        cluster.start_agent(node)
        limit = clock.monotonic() + _WAIT_SECONDS
        while not _plays_with(cluster, node, last):
            if clock.monotonic() > limit:
                raise ChildFailedError(f"{node} did not get the model that was promoted last")
            cluster.run([*command, "--config", cargo.CONFIG, "--node", node], seconds=_JOB_SECONDS)
        self._say(f"the agent of {node} runs again: it has the last model, and pushes what was finished meanwhile")
        return last

    def _lose_a_node(self, cluster: EmbeddedCluster) -> Vanished:
        """Lose the spot node for good, once everything that was planned for it was played."""
        writer = writer_name(_SPOT)
        cluster.processes.signal(writer, signal.SIGUSR1)
        self._wait(cluster, lambda entries: _planned({_SPOT}) <= _done(entries), f"the planned games of {_SPOT}")
        self._say(f"kill -STOP: the agent of {cluster.coordinator} stands still for a second, so that games wait")
        vanished = vanishing.vanish(
            cluster, _SPOT, ledger_dir(cluster) / f"{_SPOT}.jsonl", writer, cluster.base / "evidence" / _SPOT
        )
        self._say(f"kill -9: writer and agent of {_SPOT} die at one instant, and its directory is removed")
        self._say(f"{vanished}; {len(vanished.receipted)} had a receipt")
        return vanished

    def _give_up(self, cluster: EmbeddedCluster, vanished: Vanished) -> vanishing.Report:
        cluster.write_status(vanished.node, "terminated")
        self._run_job(cluster, f"now that the inventory says that {vanished.node} is terminated")
        self._say(f"{vanished.node} counts as gone once it has been silent for a minute")
        report = vanishing.give_up(cluster, vanished)
        self._say(f"ringrift-sync status: {vanished.node} is gone, {report.games} games of its last heartbeat are lost")
        return report

    def _begin_playing(self, cluster: EmbeddedCluster) -> None:
        write_bystanders(cluster.node_root(scenario.VAST.node), SEED, scenario.VAST.node)
        start_writers(cluster, rate=10.0, backlog=self.backlog)
        self._say(f"self-play runs on every node; {_BACKLOG_NODE} first writes a backlog of {self.backlog} games")
        self._say(
            f"among the games: {scenario.DUPLICATES} played on two nodes, {scenario.REVISIONS} in two versions,"
            f" {scenario.SAME_IDS} ids used for different games, 2 over after"
            f" {scenario.SHORT_MOVES} moves, and some that never end"
        )
        self._wait(cluster, lambda entries: _has_backlog(entries, self.backlog), "the backlog")
        self._say(f"the writers' ledgers hold {_finished(ledgers(cluster))} finished games")

    def _break_a_transfer(self, cluster: EmbeddedCluster) -> Interruption:
        config = scenario.NEBIUS.configs[0]
        self._say(f"collecting {config} from {_BACKLOG_NODE} over a link of 1 MB/s")
        done = interrupt(cluster, _BACKLOG_NODE, config)
        self._say(
            f"kill -9 {done.killed_pid}: the agent of {_BACKLOG_NODE} died with {done.received_bytes:,} of"
            f" {done.size_bytes:,} bytes received; a new one runs as {done.new_pid}"
        )
        return done

    def _run_job(self, cluster: EmbeddedCluster, when: str, gone: str = "") -> None:
        """Run the job; with a node that is gone it must say so of that node's partitions, and of no other."""
        self._say(f"dagster job execute -j {JOB}, {when}")
        before = clock.monotonic()
        ended = cluster.run(
            [PYTHON, "-m", "dagster", "job", "execute", "-m", "ringrift_sync_dagster.definitions", "-j", JOB],
            seconds=_JOB_SECONDS,
            extra=dagster_environment(cluster.base),
        )
        log = cluster.processes.log("dagster")
        with log.open("a") as file:
            file.write(ended.stdout + ended.stderr)
        failed = _failed_nodes(ended.stdout + ended.stderr)
        if failed != {gone} if gone else ended.returncode != 0:
            raise ChildFailedError(f"the Dagster job failed; {log} says:\n{cluster.processes.tail('dagster', 40)}")
        seconds = clock.monotonic() - before
        if gone:
            self._say(f"after {seconds:.1f} s the job names the partitions of {gone}, and has what all others had")
        else:
            self._say(f"the job ended well after {seconds:.1f} s")

    def _end_playing(self, cluster: EmbeddedCluster) -> None:
        for name in writers(cluster):
            cluster.processes.signal(name, signal.SIGUSR1)
        self._wait(cluster, lambda entries: _is_complete(entries, self.games), "the last planned games")
        cluster.processes.stop(writers(cluster))
        entries = ledgers(cluster)
        self._say(
            f"the writers have ended: {_finished(entries)} games finished, {len(entries) - _finished(entries)} not"
        )
        time.sleep(SHORT_AFTER_SECONDS)  # games that are over and too short must stand still so long

    def _judge(
        self,
        cluster: EmbeddedCluster,
        interruption: Interruption,
        laid: Cargo,
        last: Path,
        vanished: Vanished,
        report: vanishing.Report,
    ) -> bool:
        here = vanishing.arrived(cluster.root)
        lost = vanishing.missing(vanished, here)
        gone = {(one.node, one.path, one.game_id) for one in lost}
        entries = ledgers(cluster)
        present = [one for one in entries if (one.node, one.path, one.game_id) not in gone]

        def root_of(node: str) -> Path:
            return vanished.evidence if node == vanished.node else cluster.node_root(node)

        verdict = judge(present, cluster.root, root_of)
        with StateStore.open(cluster.state_url) as state:
            found = rungs.served(state, cluster.nodes)
            checks = (
                *_story_checks(entries, interruption, resumed_from(state, interruption), self.games),
                *rungs.rung_checks(found, RUNGS),
            )
            others = (
                *vanishing.vanishing_checks(vanished, here, report),
                *cargo_verdict.judge_cargo(laid, last, cluster.root, cluster.nodes, root_of),
            )
            self.console.print()
            tables.print_partitions(self.console, tables.lines(entries, verdict, state))
            marked = [f"{file.node}:{file.path}" for file in scenario.FILES if _marker(root_of, file).exists()]
            tables.print_left_alone(self.console, state, marked)
            self.console.print()
            tables.print_data_types(self.console, state)
            self.console.print()
            rungs.print_rungs(self.console, found)
        self.console.print(
            f"\n{len(verdict.finished) + len(lost)} finished games in the ledgers (copies counted), {len(lost)} of them"
            f" gone with {vanished.node};\n{verdict.canonical} in the canonical store, {len(verdict.set_aside)} in"
            f" quarantine, in {clock.monotonic() - self._started:.0f} s:"
        )
        tables.print_verdict(self.console, checks, (*verdict.checks, *others), len(lost))
        self.console.print(
            f"The same data in Dagster's UI: [bold]make dev[/], then http://127.0.0.1:3000 (data: {self.base})"
        )
        return verdict.passed and all(check.passed for check in (*checks, *others))

    def _say(self, text: str) -> None:
        self.console.print(
            f"[dim]{clock.monotonic() - self._started:6.1f} s[/]  {text}", highlight=False, soft_wrap=True
        )

    def _wait(self, cluster: EmbeddedCluster, ready: Callable[[Sequence[Entry]], bool], what: str) -> None:
        limit = clock.monotonic() + _WAIT_SECONDS
        while not ready(ledgers(cluster)):
            ended = [name for name in cluster.processes.ended() if name.startswith("selfplay")]
            dead = [name for name in ended if cluster.node_root(name.removeprefix(writer_name(""))).exists()]
            if dead or clock.monotonic() > limit:
                tails = "\n".join(cluster.processes.tail(name) for name in dead)
                raise ChildFailedError(f"{what} did not come; ended: {', '.join(dead) or 'no writer'}\n{tails}")
            time.sleep(0.25)


def who_answers(cluster: EmbeddedCluster) -> list[str]:
    """Say how the nodes can be reached, in lines for a person."""
    agents = ", ".join(f"{name} {cluster.address(name)}" for name in cluster.agents)
    owner = f"{cluster.coordinator} {cluster.address(cluster.coordinator)}"
    return [f"{len(cluster.agents)} agents answer: {agents}; that of {owner} merges what is pushed to it"] + [
        f"{name} {server.address} has no agent, its port is closed; SSH answers at port {server.port},"
        f" {'with' if 'rsync' in SSH[name] else 'without'} rsync"
        for name, server in cluster.ssh.items()
    ]


def start_writers(cluster: EmbeddedCluster, *, rate: float, backlog: int) -> None:
    """Start the writer of each node; the one with the backlog writes that first."""
    for node in cluster.nodes:
        first = backlog if node == _BACKLOG_NODE else 0
        cluster.processes.start(
            writer_name(node),
            [
                *(PYTHON, "-m", "ringrift_sync_dagster.demo.selfplay", "--node", node),
                *("--root", str(cluster.node_root(node)), "--ledger", str(ledger_dir(cluster) / f"{node}.jsonl")),
                *("--seed", str(SEED), "--rate", str(rate), "--backlog", str(first)),
            ],
        )


def writers(cluster: EmbeddedCluster) -> list[str]:
    """Names of the writers that run."""
    return [name for name in cluster.processes.names() if name.startswith("selfplay")]


def writer_name(node: str) -> str:
    """Name of a node's writer among the processes."""
    return f"selfplay-{node}"


def ledger_dir(cluster: EmbeddedCluster) -> Path:
    """Where the writers' ledgers lie."""
    return cluster.base / "ledgers"


def ledgers(cluster: EmbeddedCluster) -> list[Entry]:
    """All ledgers as they are now."""
    return read_ledgers(ledger_dir(cluster))


def _marker(root_of: Callable[[str], Path], file: scenario.GamesFile) -> Path:
    return root_of(file.node) / f"{file.path}.writing"


def _plays_with(cluster: EmbeddedCluster, node: str, model: Path) -> bool:
    best = cluster.node_root(node) / cargo_verdict.BEST
    return best.exists() and best.read_bytes() == model.read_bytes()


def _failed_nodes(output: str) -> set[str]:
    """The nodes whose partitions a job calls failed."""
    return set(re.findall(r"\b\w+\|([\w-]+)(?=[,:])", output.rpartition("partitions failed")[2]))


def _finished(entries: Sequence[Entry]) -> int:
    return sum(entry.finished for entry in entries)


def _has_backlog(entries: Sequence[Entry], backlog: int) -> bool:
    return sum(entry.node == _BACKLOG_NODE and entry.finished for entry in entries) >= backlog


def _is_complete(entries: Sequence[Entry], games: int) -> bool:
    """Every planned case is on the disk as planned, and enough games are."""
    nodes = {file.node for file in scenario.FILES}
    return _planned(nodes) <= _done(entries) and _finished(entries) >= games


def _planned(nodes: Collection[str]) -> set[tuple[Plan, str, str, str]]:
    cases = [(node, case) for node in nodes for case in scenario.cases_of(SEED, node)]
    return {(case.plan, case.file.path, node, case.game.game_id) for node, case in cases}


def _done(entries: Sequence[Entry]) -> set[tuple[Plan, str, str, str]]:
    return {(e.plan, e.path, e.node, e.game_id) for e in entries if e.finished or e.plan is Plan.UNFINISHED}


def _story_checks(entries: Sequence[Entry], interruption: Interruption, resumed: int, games: int) -> tuple[Check, ...]:
    few = () if _finished(entries) >= games else (f"only {_finished(entries)}",)
    whole = () if 0 < interruption.received_bytes < interruption.size_bytes else ("it was not partly received",)
    anew = () if resumed >= interruption.received_bytes else (f"it went on from byte {resumed:,}",)
    return (
        Check(f"at least {games} games were finished", few, _finished(entries)),
        Check("an agent was killed while its pack was partly received", whole, interruption.received_bytes),
        Check("that pack was continued where it had stopped", anew, resumed),
    )
