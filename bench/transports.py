"""Benchmarks of the transports: shared bandwidth, the rungs over SSH, dead hosts, and what the shared limits cost.

python bench/transports.py [--only bandwidth|rungs|dead_host|deadlines|limits] [--runs N] [--json FILE] [--markdown F]
"""

from __future__ import annotations

import sys
from typing import Final

from bench import dead_host, deadlines, limits, rungs, sharing
from bench.command import main
from bench.harness import Part

PARTS: Final[tuple[Part, ...]] = (sharing.PART, rungs.PART, dead_host.PART, deadlines.PART, limits.PART)

if __name__ == "__main__":
    sys.exit(main(PARTS, sys.argv[1:]))
