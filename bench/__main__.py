"""``python -m bench``: every program's parts in one run and one table; a new program is added to ``PARTS``."""

from __future__ import annotations

import sys

from bench import datatypes, ephemeral, games, passes, transports
from bench.command import main

PARTS = (*games.PARTS, *transports.PARTS, *datatypes.PARTS, passes.PART, ephemeral.PART)

if __name__ == "__main__":
    sys.exit(main(PARTS, sys.argv[1:]))
