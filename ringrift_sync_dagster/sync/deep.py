"""The slow look at a node's database: annotations that came after a game was collected, found page by page.

A pass reads new games only, so what is found out about an old one later (parity, quality, an opponent's name) would
stay on the node. The look goes through all games once in a while, at most ``deep_scan_share`` of one core of the node,
and goes on where the last pass stopped. What differs is ordered by id and merged; an annotation that was merged and
still differs from ours (ours knows more) is remembered and not ordered again. Source: architecture, "Cursor".
"""

from __future__ import annotations

from dataclasses import replace

from ringrift_sync_dagster.errors import RemoteCallError
from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.state.deep_scans import DeepScan, deep_scan, remember
from ringrift_sync_dagster.sync.source import SourceCollector


def look_deeper(collector: SourceCollector) -> None:
    """Go on with the look at the collector's database, as far as its share of time allows.

    Raises:
        SyncError: What stopped it; the next pass goes on from the same page.

    """
    scan = _current(collector)
    if scan is None:
        return
    settings, now = collector.runtime.settings, clock.wall()
    # The first page is free; after it, what the node has spent must fit into its share of the time since the start.
    while scan.worked_seconds <= settings.deep_scan_share * max(0.0, now - scan.started_at):
        scan = _page(collector, scan)
        remember(collector.runtime.state, scan)
        if scan.finished_at is not None or collector.work.deadline.expired:
            return
        now = clock.wall()


def _current(collector: SourceCollector) -> DeepScan | None:
    """The look that goes on, or a new one; None when the last one ended a short while ago.

    A look that began or ended in the future shows that somebody set the clock back.
    """
    partition, path, now = collector.partition, collector.file.path, clock.wall()
    last = deep_scan(collector.runtime.state, partition.node, path, partition.config)
    if last is not None and last.finished_at is None:
        return replace(last, started_at=min(last.started_at, now))
    if last is not None and 0 <= now - (last.finished_at or 0.0) < collector.runtime.settings.deep_scan_interval:
        return None
    return DeepScan(partition.node, path, partition.config, {}, 0.0, now, now)


def _page(collector: SourceCollector, scan: DeepScan) -> DeepScan:
    """Read one page, order what differs, and say how far the look has come."""
    started = clock.monotonic()
    try:
        page = collector.page(scan.after or None)
    except RemoteCallError as error:
        if error.code != "changed":
            raise
        return replace(scan, after={}, looked_at=clock.wall())  # rows moved meanwhile: from the beginning
    store, config, node = collector.store, collector.partition.config, collector.partition.node
    worked = scan.worked_seconds + clock.monotonic() - started
    wanted = store.differing(config, node, page.annotations)
    if wanted:
        collector.order_by_id(wanted)
        store.looked(config, node, {game_id: page.annotations[game_id] for game_id in wanted})
    now, more = clock.wall(), page.more and bool(page.games)
    return replace(
        scan, after=page.cursor if more else {}, worked_seconds=worked, looked_at=now,
        finished_at=None if more else now,
    )  # fmt: skip
