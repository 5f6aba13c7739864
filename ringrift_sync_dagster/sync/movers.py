"""Which mover moves which data type; a data type moves when it has a line here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Final

from ringrift_sync_dagster.core.model import DataType
from ringrift_sync_dagster.sync.files import make_files_mover
from ringrift_sync_dagster.sync.games import GamesMover
from ringrift_sync_dagster.sync.mover import Mover
from ringrift_sync_dagster.sync.rows import make_rows_mover
from ringrift_sync_dagster.sync.runtime import Runtime

MOVERS: Final[Mapping[DataType, Callable[[Runtime], Mover]]] = {
    DataType.GAMES: lambda _runtime: GamesMover(),
    DataType.NPZ: functools.partial(make_files_mover, DataType.NPZ),
    DataType.MODELS: functools.partial(make_files_mover, DataType.MODELS),
    DataType.ELO: functools.partial(make_rows_mover, DataType.ELO),
    DataType.REGISTRY: functools.partial(make_rows_mover, DataType.REGISTRY),
}
"""Made anew for each pass, in the order of the guide's table."""
