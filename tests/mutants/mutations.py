"""The breaks: one replacement in one file, and the test that must fail for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PACKAGE: Final = "ringrift_sync_dagster"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One break.

    Args:
        name: What the broken build does.
        file: The file to change, relative to the checkout.
        old: Text that stands there exactly once.
        new: What takes its place.
        test: The test that must fail, as pytest names it.
        needs_root: Where the test would be skipped, the break is left out.

    """

    name: str
    file: str
    old: str
    new: str
    test: str
    needs_root: bool = False


LEDGER: Final = (
    "tests/ledger/test_ledger.py::test_a_quarter_of_a_minute_with_a_fault_every_second_and_a_half_ends_exact"
)

MUTATIONS: Final = (
    Mutation(
        "acknowledge before fsync",
        f"{PACKAGE}/agent/uploads.py",
        """        await _on_disk(in_thread(opened.install))
        await self.note(place)
        receipt = await self._receipts.add(place.final.name, place.path, total)
""",
        """        receipt = await self._receipts.add(place.final.name, place.path, total)
        place.part.rename(place.final)
""",
        "tests/durability/test_order_of_syncs.py"
        "::test_an_agent_answers_a_push_after_file_directory_and_receipt_are_on_the_disk",
    ),
    Mutation(
        "acknowledge before fsync, shown by a power cut",
        f"{PACKAGE}/agent/uploads.py",
        """        await _on_disk(in_thread(opened.install))
        await self.note(place)
        receipt = await self._receipts.add(place.final.name, place.path, total)
""",
        """        receipt = await self._receipts.add(place.final.name, place.path, total)
        place.part.rename(place.final)
""",
        "tests/live/test_write_through_alone.py"
        "::test_what_had_a_receipt_survives_a_power_cut_of_the_coordinator_and_the_end_of_its_node",
        needs_root=True,
    ),
    Mutation(
        "clear the outbox on partial success",
        f"{PACKAGE}/agent/outbox.py",
        """            return self.let_go([sha256], now) > 0
""",
        """            return self.let_go([entry.sha256 for entry in self.entries(1000)], now) > 0
""",
        f"{LEDGER}[1]",
    ),
    Mutation(
        "accept an ephemeral peer's receipt",
        f"{PACKAGE}/agent/outbox.py",
        """        kept = [node for node, durable in copies.items() if durable]
""",
        """        kept = list(copies)
""",
        "tests/ledger/test_ledger.py::test_games_that_only_an_ephemeral_node_could_take_are_not_called_safe",
    ),
    Mutation(
        "merge without a transaction",
        f"{PACKAGE}/node/canonical.py",
        """    conn.execute("BEGIN IMMEDIATE")
    try:
        conn.execute("PRAGMA defer_foreign_keys=ON")
        yield
        conn.execute("COMMIT")
""",
        """    conn.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
""",
        "tests/node/test_merge.py::test_a_merge_that_is_killed_is_wholly_there_or_not_at_all",
    ),
    Mutation(
        "pack without a read transaction",
        f"{PACKAGE}/node/source.py",
        """            conn.execute("BEGIN")
            yield Source(conn, path)
            conn.execute("COMMIT")
""",
        """            yield Source(conn, path)
""",
        "tests/node/test_pack.py::test_a_pack_sees_one_moment_although_the_writer_goes_on",
    ),
    Mutation(
        "cursor outside the merge",
        f"{PACKAGE}/node/merge.py",
        """            if cursor is not None:
                canonical.write_cursor(conn, origin.node, cursor[0], config, cursor[1])
            canonical.note_taken(conn, origin.artifact)
            merged = merger.finish(note or {})
            before_commit()
            reached("merge.before_commit")
        reached("merge.after_commit")
""",
        """            canonical.note_taken(conn, origin.artifact)
            merged = merger.finish(note or {})
            before_commit()
            reached("merge.before_commit")
        reached("merge.after_commit")
        if cursor is not None:
            with canonical.writing(conn):
                canonical.write_cursor(conn, origin.node, cursor[0], config, cursor[1])
""",
        "tests/node/test_merge.py::test_a_merge_that_is_killed_is_wholly_there_or_not_at_all",
    ),
    Mutation(
        "digest over SELECT *",
        f"{PACKAGE}/node/digest.py",
        """    names = ", ".join(f"t.{name}" for name in table.names())
""",
        """    names = "t.*"
""",
        "tests/node/test_merge.py::test_the_order_of_columns_in_a_canonical_database_means_nothing",
    ),
)
