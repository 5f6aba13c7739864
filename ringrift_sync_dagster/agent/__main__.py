"""``python -m ringrift_sync_dagster.agent``: an agent on a machine that has neither Dagster nor our other commands.

Imports happen in ``main``: worker processes import this file again (multiprocessing's ``spawn``), and they need the kit
alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run an agent until SIGTERM; give the exit status: 0 ended as asked, 2 it cannot run as it is told to."""
    from ringrift_sync_dagster.agent.command import run  # noqa: PLC0415 - see above

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
