"""Benchmarks of the games path: bytes and time end to end, merging, transport, manifest, and recording in Dagster.

python bench/games.py [--only end_to_end|merge|artifact|manifest|record] [--runs N] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import sys
from typing import Final

from bench import collecting, fetching, merging, recording, scanning
from bench.command import main
from bench.harness import Part

PARTS: Final[tuple[Part, ...]] = (collecting.PART, merging.PART, fetching.PART, scanning.PART, recording.PART)

if __name__ == "__main__":
    sys.exit(main(PARTS, sys.argv[1:]))
