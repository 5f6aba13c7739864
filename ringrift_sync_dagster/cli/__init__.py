"""The command line, ``ringrift-sync``: what a person does by hand, and what a node's service is started with.

Exit codes: 0 all went well; 1 something failed, and what did is named; 2 the command was written wrongly; 3 the
inventory or the settings are wrong. Results go to stdout, everything else to stderr. ``--help`` imports nothing but
click: each verb's module is imported when the verb runs.
"""

from __future__ import annotations

from ringrift_sync_dagster.cli.main import main

__all__ = ["main"]
