"""Giving up what went with a node, in a process of its own: what Dagster's orphan sensor does every five seconds.

python -m ringrift_sync_dagster.demo.losing --node vast-900001 --seconds 90
"""

from __future__ import annotations

import argparse
import sys
import time

from ringrift_sync_dagster.settings import clock
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.losses import find_losses
from ringrift_sync_dagster.sync.runtime import Runtime


def main(arguments: list[str]) -> int:
    """Look until the node is given up, and say what went with it; 1 when it was not in time."""
    parser = argparse.ArgumentParser(prog="losing")
    parser.add_argument("--node", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args(arguments)
    limit = clock.monotonic() + options.seconds
    with Runtime.open(load_settings()) as runtime:
        while clock.monotonic() < limit:
            for loss in find_losses(runtime):
                if loss.risk.node == options.node:
                    print(f"{loss.risk.node} is gone with {loss.games} games: {loss.reason}")
                    return 0
            time.sleep(0.5)
    print(f"{options.node} was not given up within {options.seconds:.0f} s")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
