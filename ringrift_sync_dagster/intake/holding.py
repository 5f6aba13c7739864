"""What the owner holds now: a receipt says what it had once, and counts only while the thing itself is in its place.

A receipt lies in the state database and outlives what it tells of: a merged database may be lost, or put back from a
backup, and a file may be removed. A merged database therefore remembers in itself which artifacts went into it, in the
transaction that merged them: an older copy knows exactly what it has. Where it cannot be read now, it is not asked to
be believed: what is sent once more is merged as a union.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ringrift_sync_dagster.core.model import is_node_name
from ringrift_sync_dagster.errors import SyncError
from ringrift_sync_dagster.node.patterns import CONFIGS
from ringrift_sync_dagster.node.records import FAMILIES
from ringrift_sync_dagster.state.receipts import Receipt, receipts_at
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.storage.canonical import CanonicalStore
from ringrift_sync_dagster.storage.layout import Layout
from ringrift_sync_dagster.storage.quarantine import Quarantine
from ringrift_sync_dagster.storage.records import RecordsStore

_LOG = logging.getLogger(__name__)

_Look = Callable[[Sequence[str]], set[str]]


@dataclass(frozen=True, slots=True)
class Holding:
    """What one owner holds; safe for threads and processes.

    Args:
        owner: The node whose disk this is.
        state: Where its receipts are.
        layout: Its disk.
        incoming: Where artifacts land, in a folder for each node; None: where the layout says.

    """

    owner: str
    state: StateStore
    layout: Layout
    incoming: Path | None = None

    def held(self, artifacts: Sequence[str]) -> set[str]:
        """Of these artifacts, those that are safe here: taken in, or lying whole in ``incoming/``, with a receipt.

        Raises:
            StateError: The state database cannot be read.

        """
        receipts = receipts_at(self.state, self.owner, artifacts)
        lying = {one.sha256 for one in receipts if self._lies(one)}  # first: a merge removes the file last of all
        return lying | self.taken_in([one.sha256 for one in receipts if one.sha256 not in lying])

    def taken_in(self, artifacts: Sequence[str]) -> set[str]:
        """Of these artifacts, those that are where they belong, with a receipt.

        They went into a merged database that has them still, or are kept as a version, or are set aside whole.

        Raises:
            StateError: The state database cannot be read.

        """
        return self._confirmed(receipts_at(self.state, self.owner, artifacts))

    def has_taken_in(self, receipt: Receipt) -> bool:
        """Do as ``taken_in`` for a receipt of the owner at hand, without the state database."""
        return bool(self._confirmed([receipt]))

    def _confirmed(self, receipts: Sequence[Receipt]) -> set[str]:
        databases = {where for where, _ in self._databases()}
        kept = {one.sha256 for one in receipts if one.path not in databases and self._is_kept(one)}
        left = [one for one in receipts if one.sha256 not in kept]
        return kept | self.merged([one.sha256 for one in left], first={one.path for one in left})

    def merged(self, artifacts: Sequence[str], first: Collection[str] = ()) -> set[str]:
        """Of these artifacts, those that a merged database has taken in, as it is in its place now.

        Args:
            artifacts: Their SHA-256.
            first: Where they probably are, relative to the root; it is only quicker.

        """
        found: set[str] = set()
        for where, look in sorted(self._databases(), key=lambda one: one[0] not in first):
            left = [one for one in artifacts if one not in found]
            if not left:
                break
            try:
                found |= look(left)
            except SyncError as error:
                _LOG.warning("what went into %s is not known, and counts as not there cause=%s", where, error)
        return found

    def _databases(self) -> Iterator[tuple[str, _Look]]:
        """Every database that artifacts are merged into: where it is, and what asks it."""
        for store in (CanonicalStore(self.layout), CanonicalStore(self.layout, evaluation=True)):
            for config in CONFIGS:
                yield self.layout.relative(store.path(config)), partial(store.taken, config)
        rows = RecordsStore(self.layout)
        for family in FAMILIES:
            yield self.layout.relative(rows.path(family)), partial(rows.taken, family)

    def _lies(self, receipt: Receipt) -> bool:
        folder = self.incoming or self.layout.root / "data" / "incoming"
        node = _origin(receipt)
        return bool(node) and (folder / node / receipt.sha256).is_file()

    def _is_kept(self, receipt: Receipt) -> bool:
        """Whether it is a version in its place, or was set aside whole because it could not be merged."""
        node = _origin(receipt)
        if not node:
            return (self.layout.root / receipt.path).is_file()
        aside = Quarantine(self.layout.quarantine).get(node, f"pack-{receipt.sha256}")
        return aside is not None and not aside.problem


def _origin(receipt: Receipt) -> str:
    """The node below whose folder an artifact landed, where the receipt is still that of its landing."""
    node, _, name = receipt.path.rpartition("/")
    return node if name == receipt.sha256 and is_node_name(node) else ""
