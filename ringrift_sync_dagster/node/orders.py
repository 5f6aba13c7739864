"""The kit's operations on files that an operator names by any path, for whoever may start the kit on both machines.

No agent offers them. They are the two ends of one copy (``snapshot`` and ``discard``; ``place``, ``withdraw`` and
``install``) and of a batch (``inspect``; ``stage``, ``staged`` and ``land``).
"""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple

from . import batch, landing, snapshot

Result = Dict[str, Any]


class Order(NamedTuple):
    """One call: its checked arguments, the kit's own folder, and the wall clock of this machine (s since 1970)."""

    given: Dict[str, Any]
    scratch: str
    now: float


def _freeze(order: Order) -> Result:
    return snapshot.freeze(order.given["path"], order.given["token"], order.scratch, order.now)


def _discard(order: Order) -> Result:
    snapshot.discard(order.given["token"], order.scratch)
    return {}


def _place(order: Order) -> Result:
    given = order.given
    return landing.place(given["path"], given["name"], given["artifact"], given["bytes"], order.now)


def _install(order: Order) -> Result:
    given = order.given
    landing.install(given["part"], given["path"], given.get("artifact", ""), given["bytes"])
    return {}


def _inspect(order: Order) -> Result:
    return batch.inspect(order.given["path"], order.given["files"], order.given.get("hashes", []))


def _withdraw(order: Order) -> Result:
    landing.withdraw(order.given["part"])
    return {}


def _stage(order: Order) -> Result:
    return batch.stage(order.given["path"], order.given["key"], order.given["states"], order.now)


def _staged(order: Order) -> Result:
    return batch.staged(order.given["path"], order.given["key"], order.given["files"])


def _land(order: Order) -> Result:
    return batch.land(order.given["path"], order.given["key"], order.given["states"])


ORDERS: Dict[str, Callable[[Order], Result]] = {
    "snapshot": _freeze,
    "discard": _discard,
    "place": _place,
    "withdraw": _withdraw,
    "install": _install,
    "inspect": _inspect,
    "stage": _stage,
    "staged": _staged,
    "land": _land,
}
