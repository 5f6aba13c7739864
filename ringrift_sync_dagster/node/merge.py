"""Merge a pack into a canonical database: a union by content, in one transaction.

Provenance and the reader's cursor are part of the transaction. A game enters whole or not at all. New games are
inserted in bulk, moves first (upstream's triggers abort the other order); a known id is joined, revised or renamed
(``conflict``, ``join``); what cannot enter is handed to ``set_aside``, which must make it durable before it returns,
because the commit that drops it comes after. Checks look at the rows written; a failed one takes all of it back.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

from . import canonical, packfile, pushed, reader
from .claims import Claim, read_claims
from .conflict import Contender, settle
from .digest import GameDigests, all_digests, digest_of, origin_id
from .errors import KitError
from .faults import reached
from .join import join_game
from .schema import CHILDREN, GAMES, MIN_MOVES
from .single import single_pack

ADOPTED = "adopted"
"""Node, artifact and change of games that were in the canonical database before it was ours."""
ASIDES_NAMED = 100
"""A change names so many of the games that were set aside; the quarantine has them all."""
_SAMPLE = 16  # one new game in so many has its digests recomputed, and at least one of each pack


class Origin(NamedTuple):
    """Where a pack came from.

    This is the SHA-256 of the artifact, the node that made it, and the id of the change that merges it.
    """

    artifact: str
    node: str
    change_id: str


class Aside(NamedTuple):
    """A game that does not enter: which node brought it, a pack with nothing but its rows, and why."""

    node: str
    game_id: str
    identity: str
    reason: str
    detail: str
    pack: bytes


class Merged(NamedTuple):
    """What one merge did, in games; ``asides`` lists what was handed to ``set_aside``."""

    new: int
    same: int
    annotated: int
    revised: int
    renamed: int
    asides: Tuple[Tuple[str, str, str], ...]  # game id, identity, reason
    games: int  # in the canonical database, after
    store_id: str
    generation: int
    changed: bool


SetAside = Callable[[Aside], None]


def merge_pack(
    path: str,
    pack: str,
    origin: Origin,
    config: str,
    set_aside: SetAside,
    cursor: Union[Tuple[str, Dict[str, Any]], packfile.Declared, None] = None,
    note: Optional[Dict[str, Any]] = None,
    before_commit: Callable[[], None] = lambda: None,
) -> Merged:
    """Merge the inflated pack at ``pack`` into the canonical database at ``path``, which is made when there is none.

    Args:
        path: The canonical database of ``config``; the caller holds its lease.
        pack: An inflated pack that ``packfile.open_pack`` has proved.
        origin: Provenance of the rows.
        config: Every game must be of it; others are set aside.
        set_aside: Makes one game that does not enter durable; called before the commit.
        cursor: (path of the source database, cursor) to write in the same transaction, or of a push what it declares.
        note: What else the change shall say.
        before_commit: Called last of all; what it raises takes the transaction back (a lease that was lost).

    Raises:
        KitError: ``corrupt``: the rows written are not those declared; nothing was merged.
        sqlite3.OperationalError: The disk is full or the database locked for too long; nothing was merged.

    """
    with canonical.opened(path) as conn:
        conn.execute("ATTACH DATABASE ? AS pack", (reader.source_uri(pack),))
        with canonical.writing(conn), _rules_of_the_tables(origin):
            canonical.prepare(conn)
            merger = _Merger(conn, origin, config, set_aside)
            merger.run()
            if isinstance(cursor, packfile.Declared):
                cursor = pushed.cursor_to_write(conn, cursor, origin.node, config)
            if cursor is not None:
                canonical.write_cursor(conn, origin.node, cursor[0], config, cursor[1])
            canonical.note_taken(conn, origin.artifact)
            merged = merger.finish(note or {})
            before_commit()
            reached("merge.before_commit")
        reached("merge.after_commit")
    return merged


@contextlib.contextmanager
def _rules_of_the_tables(origin: Origin) -> Iterator[None]:
    """Say of a row that the canonical tables do not take that the pack is bad, and not the database."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        words = f"pack {origin.artifact} from {origin.node} has rows that the tables refuse: {error}; taken back"
        raise KitError("corrupt", words) from error


class _Merger:
    """The steps of one merge inside its transaction, with their counts."""

    def __init__(self, conn: sqlite3.Connection, origin: Origin, config: str, set_aside: SetAside) -> None:
        self.conn, self.origin, self.config, self._put_aside = conn, origin, config, set_aside
        self.new = self.same = self.annotated = self.revised = self.renamed = self.removed = self.refused = 0
        self.asides: List[Tuple[str, str, str]] = []
        self.written: List[str] = []

    def run(self) -> None:
        """Merge every game of the pack."""
        claims = self._sound_claims()
        known = self._known(list(claims))
        truth = self._recomputed(sorted(known) + _sample(sorted(set(claims) - known)))
        if any(found.identity != claims[game_id].identity for game_id, found in truth.items()):
            truth = self._recomputed(sorted(claims))  # one digest lies: trust none of them
        for game_id, found in truth.items():
            if found.identity != claims[game_id].identity:
                self._refuse(
                    claims.pop(game_id), "digest_mismatch", "the pack declares another digest than its rows have"
                )
        self._insert([claim for game_id, claim in claims.items() if game_id not in known])
        for game_id in sorted(known & set(claims)):
            self._meet(truth[game_id])

    def finish(self, note: Dict[str, Any]) -> Merged:
        """Check what was written, update the marker and write down the change."""
        checks = self._checks()
        games = canonical.count(self.conn) + self.new + self.revised + self.renamed - self.removed
        changed = bool(self.new or self.annotated or self.revised or self.renamed or self.asides)
        generation = int(canonical.get(self.conn, "generation") or 0) + int(changed)
        store_id = canonical.get(self.conn, "store_id") or ""
        merged = Merged(
            self.new, self.same, self.annotated, self.revised, self.renamed, tuple(self.asides), games, store_id,
            generation, changed,
        )  # fmt: skip
        if changed:
            canonical.put(self.conn, "games", games)
            canonical.put(self.conn, "generation", generation)
            canonical.add_change(self.conn, self.origin.change_id, {**note, **counts(merged), "checks": checks})
        return merged

    def _sound_claims(self) -> Dict[str, Claim]:
        """The pack's games that can enter; the others are set aside one by one."""
        claims, self.total = {}, 0
        for claim, reason, detail in read_claims(self.conn, "pack", self.config):
            self.total += 1
            if reason:
                self._refuse(claim, reason, detail)
            else:
                claims[claim.game_id] = claim
        return claims

    def _known(self, ids: List[str]) -> Set[str]:
        """Ids that the store has met: as an id, or as the original id of a renamed game."""
        self._list(ids)
        rows = self.conn.execute(
            "SELECT c.game_id FROM temp.claimed c WHERE EXISTS (SELECT 1 FROM main.games g WHERE g.game_id = c.game_id)"
            " OR EXISTS (SELECT 1 FROM main.ringrift_provenance v WHERE v.origin_id = c.game_id)"
        )
        return {row[0] for row in rows}

    def _recomputed(self, ids: List[str]) -> Dict[str, GameDigests]:
        return {found.game_id: found for found in all_digests(self.conn, "pack", ids)} if ids else {}

    def _insert(self, claims: List[Claim]) -> None:
        """Insert games whose ids the store has never met, and prove from what was written that they are whole."""
        self._list([claim.game_id for claim in claims])
        written = {}
        for table in (*CHILDREN, GAMES):
            names = table.names()
            if table is not GAMES:  # rows without a game are no game; the whole one takes their place
                self.conn.execute(f"DELETE FROM main.{table.name} WHERE game_id IN (SELECT game_id FROM temp.claimed)")
            written[table.name] = self.conn.execute(
                f"INSERT INTO main.{table.name} ({', '.join(names)}) SELECT {', '.join(f't.{name}' for name in names)}"
                f" FROM temp.claimed c CROSS JOIN pack.{table.name} t ON t.game_id = c.game_id"
            ).rowcount
        reached("merge.inserted")
        if written["games"] != len(claims) or written["game_moves"] != sum(claim.moves for claim in claims):
            raise KitError(
                "corrupt", f"pack {self.origin.artifact}: {written} rows written for {len(claims)} games; taken back"
            )
        for claim in claims:
            self._provenance(claim.game_id, claim.game_id, claim.identity, claim.annotation)
            self.written.append(claim.game_id)
        self.new += len(claims)

    def _meet(self, found: GameDigests) -> None:
        """A game of the pack meets the games that the store has under its id."""
        stored = self._stored(found.game_id)
        twin = next((game_id for game_id, identity in stored if identity == found.identity), None)
        if twin is not None:
            self.same += 1
            self._join(twin, found)
            return
        contenders = [self._contender(game_id, "main", digest_of(self.conn, "main", game_id)) for game_id, _ in stored]
        mislabelled = next((one for one in contenders if one.identity == found.identity), None)
        if mislabelled is not None:  # a pack that lied about its digest was not in the sample
            self.conn.execute(
                "UPDATE ringrift_provenance SET identity = ? WHERE game_id = ?", (found.identity, mislabelled.stored_id)
            )
            self.same += 1
            self._join(str(mislabelled.stored_id), found)
            return
        before = self._tally()
        self.conn.execute("SAVEPOINT meeting")
        try:
            self._settle(found, contenders)
        except sqlite3.IntegrityError as error:
            self.conn.execute("ROLLBACK TO meeting")
            self.revised, self.renamed, self.removed, self.refused, self.asides, self.written = before
            claim = Claim(found.game_id, found.identity, found.annotation, found.moves)
            self._refuse(claim, "id_taken", f"no id is free for it: {error}")
        self.conn.execute("RELEASE meeting")

    def _tally(self) -> Tuple[int, int, int, int, List[Tuple[str, str, str]], List[str]]:
        return self.revised, self.renamed, self.removed, self.refused, list(self.asides), list(self.written)

    def _settle(self, found: GameDigests, contenders: List[Contender]) -> None:
        """Give every game that came under this id its place, or set it aside."""
        arriving = self._contender(None, "pack", found)
        settlement = settle(found.game_id, [*contenders, arriving])
        for loser in settlement.losers:
            self._lose(loser, found)
        stays = [one for one in contenders if one not in settlement.losers]
        moving = [one for one in stays if one.stored_id != settlement.places[one.identity]]
        # The one that gets the id itself moves last, when it is free.
        for one in sorted(moving, key=lambda game: settlement.places[game.identity] == found.game_id):
            self._rename(str(one.stored_id), settlement.places[one.identity], found.game_id)
        if arriving not in settlement.losers:
            self.revised += bool(settlement.losers)
            self.renamed += not settlement.losers
            self._enter(found, settlement.places[found.identity])

    def _stored(self, game_id: str) -> List[Tuple[str, str]]:
        """Ids and identities of the store's games that came under ``game_id``, whatever they are called now."""
        rows = self.conn.execute(
            "SELECT g.game_id, v.identity FROM main.games g"
            " LEFT JOIN main.ringrift_provenance v ON v.game_id = g.game_id"
            " WHERE g.game_id = ?1 OR g.game_id IN (SELECT game_id FROM main.ringrift_provenance WHERE origin_id = ?1)",
            (game_id,),
        ).fetchall()
        return [(stored_id, identity or self._adopt(stored_id)) for stored_id, identity in rows]

    def _adopt(self, stored_id: str) -> str:
        """Give provenance to a game that came with a database which upstream made."""
        found = digest_of(self.conn, "main", stored_id)
        came_as = origin_id(stored_id, found.identity)
        self._provenance(stored_id, came_as, found.identity, found.annotation, Origin(ADOPTED, ADOPTED, ADOPTED))
        return found.identity

    def _contender(self, stored_id: Optional[str], schema: str, found: GameDigests) -> Contender:
        seed, created = self.conn.execute(
            f"SELECT rng_seed, created_at FROM {schema}.games WHERE game_id = ?",
            (found.game_id,),
        ).fetchone()
        return Contender(found.identity, found.moves, seed, created, stored_id)

    def _join(self, stored_id: str, found: GameDigests) -> None:
        """Bring annotations to a game that the store already has."""
        have = self.conn.execute(
            "SELECT annotation FROM ringrift_provenance WHERE game_id = ?", (stored_id,)
        ).fetchone()
        if have[0] == found.annotation or not join_game(self.conn, stored_id, found.game_id):
            return
        now = digest_of(self.conn, "main", stored_id)
        self.conn.execute(
            "UPDATE ringrift_provenance SET annotation = ? WHERE game_id = ?", (now.annotation, stored_id)
        )
        self.annotated += 1

    def _lose(self, loser: Contender, arriving: GameDigests) -> None:
        """Set a revision aside; one that the store has leaves it in the same transaction."""
        detail = "another revision with the same seed and creation time has more moves, or as many and the lower digest"
        claim = Claim(arriving.game_id, loser.identity, "", loser.moves)
        if loser.stored_id is None:
            self._refuse(claim, "revision", detail)
            return
        self._aside(claim, "revision", detail, "main", loser.stored_id)
        for table in (*CHILDREN, GAMES):
            self.conn.execute(f"DELETE FROM main.{table.name} WHERE game_id = ?", (loser.stored_id,))
        self.conn.execute("DELETE FROM ringrift_provenance WHERE game_id = ?", (loser.stored_id,))
        self.removed += 1

    def _rename(self, old: str, new: str, came_as: str) -> None:
        for table in (*CHILDREN, GAMES):
            self.conn.execute(f"UPDATE main.{table.name} SET game_id = ? WHERE game_id = ?", (new, old))
        came = came_as if new != came_as else None
        self.conn.execute(
            "UPDATE ringrift_provenance SET game_id = ?, origin_id = ? WHERE game_id = ?", (new, came, old)
        )

    def _enter(self, found: GameDigests, stored_id: str) -> None:
        """Insert one game under the id that it was given."""
        for table in (*CHILDREN, GAMES):
            rest = ", ".join(name for name in table.names() if name != "game_id")
            self.conn.execute(
                f"INSERT INTO main.{table.name} (game_id, {rest})"
                f" SELECT ?1, {rest} FROM pack.{table.name} WHERE game_id = ?2",
                (stored_id, found.game_id),
            )
        self._provenance(stored_id, found.game_id, found.identity, found.annotation)
        self.written.append(stored_id)

    def _provenance(
        self, stored_id: str, came_as: str, identity: str, annotation: str, origin: Optional[Origin] = None
    ) -> None:
        other_id = None if came_as == stored_id else came_as
        self.conn.execute(
            "INSERT INTO ringrift_provenance VALUES (?, ?, ?, ?, ?, ?, ?)",
            (stored_id, other_id, identity, annotation, *(origin or self.origin)),
        )

    def _refuse(self, claim: Claim, reason: str, detail: str) -> None:
        """Set a game of the pack aside."""
        self._aside(claim, reason, detail, "pack", claim.game_id)
        self.refused += 1

    def _aside(self, claim: Claim, reason: str, detail: str, schema: str, stored_id: str) -> None:
        """Hand a game out, under the name of the node that brought it."""
        node = self.origin.node
        if schema == "main":
            came = self.conn.execute("SELECT node FROM ringrift_provenance WHERE game_id = ?", (stored_id,)).fetchone()
            node = str(came[0])
        data = single_pack(self.conn, schema, stored_id, claim.game_id, self.config)
        self._put_aside(Aside(node, claim.game_id, claim.identity, reason, detail, data))
        self.asides.append((claim.game_id, claim.identity, reason))

    def _list(self, ids: List[str]) -> None:
        self.conn.execute("CREATE TEMP TABLE IF NOT EXISTS claimed (game_id TEXT PRIMARY KEY) WITHOUT ROWID")
        self.conn.execute("DELETE FROM temp.claimed")
        self.conn.executemany("INSERT INTO temp.claimed VALUES (?)", ((game_id,) for game_id in ids))

    def _checks(self) -> Dict[str, bool]:
        """Look at the rows written and at the counts.

        Raises:
            KitError: ``corrupt`` when one of them does not hold; the transaction is taken back.

        """
        self._list(self.written)
        moveless = self.conn.execute(
            "SELECT COUNT(*) FROM temp.claimed c CROSS JOIN main.games g ON g.game_id = c.game_id"
            " WHERE (SELECT COUNT(*) FROM main.game_moves m WHERE m.game_id = g.game_id)"
            " < MAX(?, CASE TYPEOF(g.total_moves) WHEN 'integer' THEN g.total_moves ELSE 0 END)",
            (MIN_MOVES,),
        ).fetchone()[0]
        met = self.new + self.same + self.revised + self.renamed + self.refused
        checks = {"no_moveless_games": moveless == 0, "counts_reconcile": met == self.total}
        if not all(checks.values()):
            raise KitError("corrupt", f"merge of {self.origin.artifact} does not add up ({checks}); it was taken back")
        return checks


def counts(merged: Merged) -> Dict[str, Any]:
    """The numbers of a merge by the names that changes carry."""
    return {
        "games_new": merged.new, "games_same": merged.same, "games_annotated": merged.annotated,
        "games_revised": merged.revised, "games_renamed": merged.renamed,
        "set_aside": len(merged.asides), "canonical_games": merged.games,
        "asides": [list(entry) for entry in merged.asides[:ASIDES_NAMED]],
    }  # fmt: skip


def _sample(ids: List[str]) -> List[str]:
    """One id in sixteen, and at least one: whose digests are recomputed although the store does not know them."""
    return ids[::_SAMPLE]
