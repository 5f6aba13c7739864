"""The entry point: the table of verbs, and what an error becomes: one clear line and an exit code, never a traceback.

A verb is added by a line in ``VERBS``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from ringrift_sync_dagster import __version__
from ringrift_sync_dagster.cli.lazy import LazyGroup, Verb

EXIT_FAILED: Final = 1
PROGRAM: Final = "ringrift-sync"
COMPLETE_VARIABLE: Final = "_RINGRIFT_SYNC_COMPLETE"
"""What a shell sets when it asks for completions; click's form for this program, however it was started."""

VERBS: Final = {
    "up": Verb("running", "up", "Run everything that a coordinator runs: its agent, and Dagster."),
    "daemon": Verb("running", "daemon", "Move data in the background, without Dagster."),
    "sync": Verb("sync", "sync", "Move data between nodes and their owner now."),
    "plan": Verb("plans", "plan", "Show what the next pass would move; move nothing."),
    "pull": Verb("sync", "pull", "Bring data from nodes now, after a loss everything that they hold."),
    "promote": Verb("versions", "promote", "Make a model the promoted one of its config."),
    "versions": Verb("versions", "versions", "See versions of npz and models, and put one back."),
    "where": Verb("catalog", "where", "Show on which nodes the data of a config lies."),
    "diff": Verb("catalog", "diff", "Show what a node and the coordinator lack of each other."),
    "explain": Verb("explain", "explain", "Show why a node gets and gives what it does, and what would change it."),
    "breakers": Verb("breakers", "breakers", "Show circuit breakers and exclusions, and close those of a node."),
    "verify": Verb("catalog", "verify", "Look again at what was verified once, and repair it."),
    "archive": Verb("archive", "archive", "Write a dated, verified copy of the whole store."),
    "restore-check": Verb("archive", "restore_check", "Prove that an archive can be restored, and audit its rows."),
    "gc": Verb("gc", "gc", "Delete what the retention rules let go, or show it."),
    "report": Verb("reports", "report", "Show or write tables: throughput, games by day, lag, ratings."),
    "status": Verb("status", "status", "Show nodes, partitions, running transfers and what waits to be recorded."),
    "events": Verb("events", "events", "See what happened, as it happens, and publish an event."),
    "backpressure": Verb("backpressure", "backpressure", "Show whether transfers are held, and let them go on."),
    "doctor": Verb("doctor", "doctor", "Examine the coordinator and its nodes, with the fix for what is wrong."),
    "hosts": Verb("hosts", "hosts", "Look after the inventory (hosts/*.yaml)."),
    "token": Verb("tokens", "token", "Sign a token for a node."),
    "agent": Verb("agents", "agent", "Run a node's service in the foreground."),
    "drain": Verb("draining", "drain", "Let a node that is about to vanish save what only it has."),
    "deploy": Verb("deploy", "deploy", "Put the agent on nodes over SSH, upgrade it, or remove it."),
    "quarantine": Verb("quarantine", "quarantine", "See and take back what was set aside."),
    "completion": Verb("completion", "completion", "Print the completion script of a shell."),
}

HELP: Final = """Move RingRift training data between the coordinator and its nodes.

\b
Exit codes: 0 all went well          1 something failed, and is named
            2 wrong usage            3 the inventory or the settings are wrong
"""

cli = LazyGroup(PROGRAM, VERBS, HELP)
click.version_option(__version__, "--version", prog_name=PROGRAM, message="%(prog)s %(version)s")(cli)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; ``arguments`` are those of the process unless given."""
    try:
        given = None if arguments is None else list(arguments)
        code = cli.main(given, prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _say("interrupted; what was written is complete, and the next run goes on from there")
    except BrokenPipeError:
        return _closed_pipe()
    return code if isinstance(code, int) else 0


def _say(message: str) -> int:
    click.echo(f"{PROGRAM}: {message}", err=True)
    return EXIT_FAILED


def _closed_pipe() -> int:
    """Stop quietly when the reader of our output has gone (``head``); Python must not flush into it at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_FAILED
