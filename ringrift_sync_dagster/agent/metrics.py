"""What one agent counts, in the format of Prometheus; each agent has its own registry: several fit into one process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from ringrift_sync_dagster.state.risks import Risk

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_CALL_BUCKETS: Final = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300)


class Metrics:
    """The numbers of one agent; names start with ``ringrift_agent_``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = self._counter("requests", "Requests answered.", "method", "route", "status")
        self.bytes_sent = self._counter("sent_bytes", "Bytes of artifacts sent.")
        self.bytes_received = self._counter("received_bytes", "Bytes of artifacts received.")
        self.artifacts_received = self._counter("received_artifacts", "Artifacts received and verified.")
        self.refused_connections = self._counter("refused_connections", "Connections closed: there were too many.")
        self.loop_stalls = self._counter("loop_stalls", "Times that the event loop stood still; the log says where.")
        self.call_failures = self._counter("call_failures", "Kit operations that failed.", "op", "code")
        name = "ringrift_agent_call_seconds"
        self.call_seconds = Histogram(
            name, "Time of kit operations.", ["op"], buckets=_CALL_BUCKETS, registry=self.registry
        )
        self.merges = self._counter("merges", "Packs that were pushed: merged at once, or left for later.", "outcome")
        self.files = self._gauge("files", "Files in the last scan.")
        self.sending = self._gauge("sending", "Artifacts being sent now.")
        self.receiving = self._gauge("receiving", "Artifacts being received now.")
        self._risk = (
            self._gauge("risk_games", "Games that a node said are on it alone.", "node"),
            self._gauge("risk_bytes", "What they take.", "node"),
            self._gauge("risk_oldest_seconds", "Age of the oldest of them.", "node"),
            self._gauge("risk_lost", "1 where the node was given up with them.", "node"),
        )
        self.push_failures = self._counter("outbox_push_failures", "Pushes of a pack that did not make it durable.")
        self._saved = self._counter("outbox_saved_games", "Games that left the outbox, durable elsewhere.")
        self._saved_shown = 0
        self._outbox = (
            self._gauge("outbox_games", "Finished games of this node that wait to be durable elsewhere."),
            self._gauge("outbox_bytes", "What their packs take."),
            self._gauge("outbox_packs", "How many packs that are."),
            self._gauge("outbox_oldest_seconds", "Since when the oldest waits."),
            self._gauge("outbox_stopped", "1 while new games stay in their databases: the outbox or the disk is full."),
            self._gauge("draining", "1 while bulk of others is refused."),
            self._gauge("unread_databases", "Databases whose newest content the watch could not read."),
        )

    def show_risks(self, risks: Iterable[Risk], now: float) -> None:
        """Show what each node said last is on it alone; a node that was given up is shown as lost."""
        for gauge in self._risk:
            gauge.clear()
        games, size, age, lost = self._risk
        for risk in risks:
            games.labels(risk.node).set(risk.games)
            size.labels(risk.node).set(risk.bytes)
            age.labels(risk.node).set(risk.age(now) or 0.0)
            lost.labels(risk.node).set(risk.lost_at is not None)

    def show_outbox(
        self, *, games: int, size: int, packs: int, oldest: float, stopped: bool, draining: bool, unread: int
    ) -> None:
        """Show what waits in this node's outbox, and what could not come into it."""
        for gauge, value in zip(self._outbox, (games, size, packs, oldest, stopped, draining, unread), strict=True):
            gauge.set(value)

    def show_saved(self, games: int) -> None:
        """Show how many games left the outbox since the start."""
        self._saved.inc(max(0, games - self._saved_shown))
        self._saved_shown = max(games, self._saved_shown)

    def text(self) -> bytes:
        """Give all numbers in the text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ringrift_agent_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"ringrift_agent_{name}", text, labels, registry=self.registry)
