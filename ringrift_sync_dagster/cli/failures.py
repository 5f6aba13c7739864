"""What an error becomes for a person: lines on stderr that say what is wrong, and the exit code."""

from __future__ import annotations

from typing import Final

import click

from ringrift_sync_dagster.errors import ConfigError, SyncError

EXIT_FAILED: Final = 1
EXIT_CONFIGURATION: Final = 3


def exit_code(error: BaseException) -> int:
    """Give 3 for the configuration, 1 for everything else."""
    return EXIT_CONFIGURATION if isinstance(error, ConfigError) else EXIT_FAILED


def error_lines(error: BaseException) -> list[str]:
    """Give the lines for a person: each problem of a configuration is one, every other error is one."""
    if isinstance(error, ConfigError):
        return [f"{problem.severity}: {problem}" for problem in error.problems]
    if isinstance(error, SyncError):
        return str(error).splitlines() or [type(error).__name__]
    return [f"unexpected {type(error).__name__}: {' '.join(str(error).split())} (-v shows where)"]


def show_failure(error: BaseException, *, traceback: bool = False) -> None:
    """Write the error to stderr; with its traceback when a person asked for more."""
    if traceback:
        from traceback import print_exception

        print_exception(error)
    for line in error_lines(error):
        click.echo(f"ringrift-sync: {line}", err=True)


def error_json(error: BaseException) -> dict[str, object]:
    """Give the error as JSON, for ``--json``."""
    return {"ok": False, "error": {"type": type(error).__name__, "message": str(error)}}
