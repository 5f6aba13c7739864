"""``python -m bench.pass``: what a pass over many nodes costs when nothing changed; the part itself is ``passes``."""

from __future__ import annotations

import sys

from bench import passes
from bench.command import main

if __name__ == "__main__":
    sys.exit(main((passes.PART,), sys.argv[1:]))
