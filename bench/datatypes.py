"""``python -m bench.datatypes``: what npz, models, elo and registry cost; a new part is added to ``PARTS``."""

from __future__ import annotations

import sys
from typing import Final

from bench import catalog, matches, models_fanout
from bench.command import main
from bench.harness import Part

PARTS: Final[tuple[Part, ...]] = (models_fanout.PART, matches.PART, catalog.PART)

if __name__ == "__main__":
    sys.exit(main(PARTS, sys.argv[1:]))
