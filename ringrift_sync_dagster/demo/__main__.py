"""``python -m ringrift_sync_dagster.demo`` ends by itself; ``... dev`` is the same cluster with Dagster's UI."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from ringrift_sync_dagster.demo.addresses import NoAddressError
from ringrift_sync_dagster.demo.cluster import FolderInUseError
from ringrift_sync_dagster.demo.dev import PORT, develop
from ringrift_sync_dagster.demo.interruption import NotInterruptedError
from ringrift_sync_dagster.demo.processes import ChildFailedError
from ringrift_sync_dagster.demo.ssh_nodes import MissingProgramError
from ringrift_sync_dagster.demo.story import BASE, Story

_WIDTH = 132  # of the table, where the output is no terminal


def main(arguments: list[str]) -> int:
    """Run the demo or the UI; 0 when everything went well."""
    parser = argparse.ArgumentParser(prog="python -m ringrift_sync_dagster.demo", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("run", "dev"), default="run")
    parser.add_argument("--base", type=Path, default=BASE, help="folder for everything; `run` empties it first")
    parser.add_argument("--port", type=int, default=PORT, help="port of the UI (dev)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts `... &` with Ctrl-C ignored
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH)
    try:
        if options.what == "dev":
            return develop(console, options.base, options.port)
        return 0 if Story(console, options.base).tell() else 1
    except (ChildFailedError, FolderInUseError, MissingProgramError, NoAddressError, NotInterruptedError) as error:
        console.print(str(error), markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130


def _terminated(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - as signal calls it
    """End as after an error, so that every process of the cluster is ended."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
