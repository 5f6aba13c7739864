"""One collection in a process of its own, as any program would run it: the demo breaks its connection half way.

python -m ringrift_sync_dagster.demo.collecting --config hex8_4p --node nebius-t1
"""

from __future__ import annotations

import argparse
import sys

from ringrift_sync_dagster.errors import CollectFailedError
from ringrift_sync_dagster.settings.settings import load_settings
from ringrift_sync_dagster.sync.collect import collect
from ringrift_sync_dagster.sync.runtime import Runtime


def main(arguments: list[str]) -> int:
    """Collect one partition; 1 when it failed."""
    parser = argparse.ArgumentParser(prog="collecting")
    parser.add_argument("--config", required=True)
    parser.add_argument("--node", required=True)
    options = parser.parse_args(arguments)
    with Runtime.open(load_settings()) as runtime:
        report = collect(runtime, configs=[options.config], nodes=[options.node], trigger="demo")
    try:
        report.raise_if_failed()
    except CollectFailedError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
