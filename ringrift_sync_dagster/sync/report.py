"""What a pass did, as values: one outcome for each partition, and what was noticed on the nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from ringrift_sync_dagster.core.model import DataType, Partition
from ringrift_sync_dagster.errors import CollectFailedError, SyncError
from ringrift_sync_dagster.intake.arrival import Accepted, SetAside


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a partition is not complete; what was merged before stays.

    Args:
        partition: Which one.
        error: Name of the error's class.
        message: Who, which file, what now is true, what to do.

    """

    partition: Partition
    error: str
    message: str

    def __str__(self) -> str:
        return f"{self.partition}: {self.message} ({self.error})"


@dataclass(frozen=True, slots=True)
class Note:
    """Something about a file of a node that a person should know, and that does not fail the pass.

    Args:
        node: Whose file.
        path: The file, relative to the node's root.
        code: One word, such as ``corrupt`` or ``unknown_config``.
        message: The rest.

    """

    node: str
    path: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one pass did for one partition of one data type, both ways; ``bytes_moved`` counts bytes on the wire.

    The numbers by name are those of games; other data types count in ``counts``.

    Args:
        partition: Which one.
        data_type: Of which data type.
        games_new: Games that the canonical store did not have.
        games_same: Games that it had.
        revised: Games that replaced a shorter revision.
        renamed: Games that entered under a second id.
        annotated: Games whose annotation grew.
        set_aside: Games that went to quarantine.
        waiting: Games on the node that are not complete yet.
        packs: Packs taken in.
        bytes_moved: Bytes received.
        seconds: How long it took.
        transport: What carried the bytes; empty when nothing moved.
        canonical_games: Games of the config in the canonical store afterwards.
        failure: Why it is not complete; None when it is.
        changed: True when the canonical store, the quarantine or the node changed.
        counts: What else was counted, by the names that changes carry: ``matches_new``, ``brought`` and so on.
        held: True when something of it was left to a later pass, because the owner is under backpressure.

    """

    partition: Partition
    data_type: DataType = DataType.GAMES
    games_new: int = 0
    games_same: int = 0
    revised: int = 0
    renamed: int = 0
    annotated: int = 0
    set_aside: tuple[SetAside, ...] = ()
    waiting: int = 0
    packs: int = 0
    bytes_moved: int = 0
    seconds: float = 0.0
    transport: str = ""
    canonical_games: int = 0
    failure: Failure | None = None
    changed: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)
    held: bool = False

    def counted(
        self, counts: Mapping[str, int], *, bytes_moved: int = 0, transport: str = "", changed: bool = True
    ) -> Outcome:
        """The outcome after one more thing was merged, installed or brought to the node."""
        names = dict.fromkeys((*self.counts, *counts))
        return replace(
            self,
            counts={name: self.counts.get(name, 0) + counts.get(name, 0) for name in names},
            bytes_moved=self.bytes_moved + bytes_moved,
            transport=transport or self.transport,
            changed=self.changed or changed,
        )

    def with_asides(self, asides: tuple[SetAside, ...]) -> Outcome:
        """The outcome after these things went to quarantine."""
        return replace(self, set_aside=self.set_aside + asides, changed=self.changed or bool(asides))

    def plus(self, accepted: Accepted, *, bytes_moved: int, transport: str) -> Outcome:
        """The outcome after one more pack was taken in."""
        return replace(
            self,
            games_new=self.games_new + accepted.new,
            games_same=self.games_same + accepted.same,
            revised=self.revised + accepted.revised,
            renamed=self.renamed + accepted.renamed,
            annotated=self.annotated + accepted.annotated,
            set_aside=self.set_aside + accepted.set_aside,
            packs=self.packs + 1,
            bytes_moved=self.bytes_moved + bytes_moved,
            transport=transport,
            changed=self.changed or accepted.changed or bool(accepted.set_aside),
        )


@dataclass(frozen=True, slots=True)
class CollectReport:
    """What one pass did.

    Args:
        outcomes: One for each partition that was selected, by config and node.
        notes: What was noticed on the nodes.
        seconds: How long the pass took.

    """

    outcomes: tuple[Outcome, ...]
    notes: tuple[Note, ...] = ()
    seconds: float = 0.0

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Why partitions are not complete."""
        return tuple(outcome.failure for outcome in self.outcomes if outcome.failure is not None)

    @property
    def held(self) -> int:
        """How many partitions were left to a later pass, because the owner is under backpressure."""
        return sum(outcome.held for outcome in self.outcomes)

    def raise_if_failed(self) -> None:
        """Return when every partition is complete.

        Raises:
            CollectFailedError: Some are not; it names them all.

        """
        if self.failures:
            raise CollectFailedError(self.failures)


def failure_of(partition: Partition, errors: Iterable[tuple[str, SyncError]]) -> Failure:
    """One failure from what went wrong with each file; the same words are told once, with the first file."""
    found = list(errors)
    told: dict[str, list[str]] = {}
    for path, error in found:
        told.setdefault(str(error), []).append(path)
    words = [
        (text if paths[0] in text else f"{paths[0]}: {text}") + (f" (and {len(paths) - 1} more)" if paths[1:] else "")
        for text, paths in told.items()
    ]
    return Failure(partition, type(found[0][1]).__name__, "; ".join(words))
