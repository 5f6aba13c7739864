"""The bounds of one agent: how much, how many and how long, so that no client can make it grow or hang.

Nothing here is a promise of speed. The times are far above what a healthy peer needs: a transfer at the lowest share
of the guide's limits (2.5 MB/s) is a hundred times faster than what is cut off here. Tests pass smaller numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an agent.

    Args:
        connections: Open connections; one more is closed at once.
        downloads: Artifacts that are sent at the same time; one more is answered 503.
        uploads: Artifacts that are received at the same time; one more is answered 503.
        pulls: Artifacts that are fetched from other agents at the same time; one more is answered 503.
        json_bytes: Largest JSON body of a request.
        event_bytes: Largest body of an event.
        events_per_second: How many events of one token's name are taken in the long run; one more is answered 429.
        events_at_once: How many of them may come at once.
        upload_bytes: Largest artifact that may be pushed.
        headers_seconds: A connection that has sent no whole request for this long is closed (slow headers, keep-alive).
        stall_seconds: A body of which no byte has come for this long is given up.
        least_bytes_per_second: A body that is slower than this over its whole length is given up.
        window_bytes: What is sent between two checks of the source file.
        window_seconds: A receiver that has not taken one window after this long is dropped.
        free_bytes: What a push must leave free on the disk.
        call_seconds: Longest run of one kit operation, waiting for a free worker included.
        calls_waiting: Kit operations that may wait for a worker; one more is answered 503.
        calls_per_worker: After so many operations a worker process is replaced by a fresh one.
        shutdown_seconds: What requests under way may still take after SIGTERM.

    """

    connections: int = 512
    downloads: int = 64
    uploads: int = 16
    pulls: int = 4
    json_bytes: int = 4 * MIB
    event_bytes: int = MIB // 16
    events_per_second: float = 2.0
    events_at_once: int = 50
    upload_bytes: int = 64 * 1024 * MIB
    headers_seconds: float = 30.0
    stall_seconds: float = 30.0
    least_bytes_per_second: float = 16 * 1024.0
    window_bytes: int = MIB
    window_seconds: float = 60.0
    free_bytes: int = 256 * MIB
    call_seconds: float = 300.0
    calls_waiting: int = 64
    calls_per_worker: int = 200
    shutdown_seconds: float = 10.0
