"""Where the demo's Dagster keeps its history: in the checkout for the usual folder, else beside the cluster's files.

A history belongs to the cluster whose changes it tells: two clusters in two folders must not share one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ringrift_sync_dagster.demo.processes import CHECKOUT

USUAL_BASE: Final = CHECKOUT / ".ringrift" / "demo"
_USUAL_HISTORY: Final = ".ringrift/dagster"


def dagster_environment(base: Path) -> dict[str, str]:
    """Give the variables under which Dagster keeps the history of the cluster in ``base``; writes its configuration."""
    home = CHECKOUT
    if base.absolute() != USUAL_BASE:
        home = base.absolute() / "dagster"
        home.mkdir(parents=True, exist_ok=True)
        shipped = (CHECKOUT / "dagster.yaml").read_text()
        (home / "dagster.yaml").write_text(shipped.replace(f": {_USUAL_HISTORY}", f": {home}"))
    return {"DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}
