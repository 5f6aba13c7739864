"""A node trains from the word that it began to the word that it ended, and never for ever."""

from __future__ import annotations

import sqlalchemy as sa

from ringrift_sync_dagster.state.events import publish
from ringrift_sync_dagster.state.schema import events
from ringrift_sync_dagster.state.store import StateStore
from ringrift_sync_dagster.state.training import LASTS_SECONDS, training_now


def test_training_lasts_until_somebody_says_that_it_ended(store: StateStore) -> None:
    for key, node in (("node_id", "a"), ("host", "b"), ("node", "c"), ("model_id", "d")):
        publish(store, "TRAINING_STARTED", {key: node})
    assert training_now(store) == {"a", "b", "c"}
    publish(store, "TRAINING_COMPLETED", {"node_id": "a"})
    publish(store, "HOST_OFFLINE", {"host": "b", "reason": "gone"})
    assert training_now(store) == {"c"}
    publish(store, "TRAINING_STARTED", {"node_id": "a"})
    assert training_now(store) == {"a", "c"}


def test_an_end_that_nobody_told_does_not_count_for_ever(store: StateStore) -> None:
    publish(store, "TRAINING_STARTED", {"node_id": "a"})
    with store.begin() as connection:
        connection.execute(sa.update(events).values(at=events.c.at - LASTS_SECONDS - 1))
    assert training_now(store) == frozenset()
