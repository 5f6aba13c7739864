"""What all verbs share: ``--json``, ``-v``, the options of the settings, and how an error of ours ends a verb.

Options win over the environment, which wins over ``hosts/``.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import click

from ringrift_sync_dagster.cli.failures import error_json, exit_code, show_failure
from ringrift_sync_dagster.cli.output import show_json

if TYPE_CHECKING:
    from ringrift_sync_dagster.settings.settings import Settings

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Session:
    """What the shared options of one verb say.

    Args:
        as_json: Write JSON instead of tables.
        verbose: How often -v was given: 1 tells what happens, 2 tells everything.
        given: The settings that were given as options.

    """

    as_json: bool
    verbose: int
    given: Mapping[str, str] = field(default_factory=dict)

    def settings(self) -> Settings:
        """Read the settings, and show on stderr what looks wrong in them.

        Raises:
            ConfigError: Something in them is wrong.

        """
        from ringrift_sync_dagster.settings.settings import load_settings

        settings = load_settings(**self.given)
        for warning in settings.warnings:
            click.echo(f"ringrift-sync: warning: {warning}", err=True)
        return settings


def verb(*settings: str) -> Callable[[Callable[Concatenate[Session, P], int | None]], Callable[P, int | None]]:
    """Give a verb its shared options, and call it with a ``Session``; what it returns is the exit code.

    Args:
        settings: Which settings may be given as options: ``hosts``, ``home``, ``root``, ``state-url``.

    """

    def decorate(function: Callable[Concatenate[Session, P], int | None]) -> Callable[P, int | None]:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> int | None:
            given = {name: kwargs.pop(name) for name in (setting.replace("-", "_") for setting in settings)}
            session = Session(bool(kwargs.pop("as_json")), int(str(kwargs.pop("verbose"))), _texts(given))
            _log_to_stderr(session.verbose)
            return _guarded(session, lambda: function(session, *args, **kwargs))

        decorated: Callable[P, int | None] = run
        for option in reversed([*(_SETTINGS[name] for name in settings), _JSON, _VERBOSE]):
            decorated = option(decorated)
        return decorated

    return decorate


def _guarded(session: Session, body: Callable[[], int | None]) -> int | None:
    try:
        return body()
    except (click.ClickException, click.Abort, BrokenPipeError):
        raise
    except Exception as error:  # noqa: BLE001 - a person gets a sentence, and with -v the traceback
        if session.as_json:
            show_json(error_json(error))
        show_failure(error, traceback=session.verbose > 0)
        return exit_code(error)


def _texts(given: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in given.items() if value is not None}


def _log_to_stderr(verbose: int) -> None:
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("ringrift_sync_dagster").setLevel(level)


_JSON = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
_VERBOSE = click.option("-v", "--verbose", count=True, help="Tell more on stderr; -vv tells everything.")
_SETTINGS = {
    "hosts": click.option("--hosts", metavar="PATH", help="The inventory: a directory of YAML files, or one file."),
    "home": click.option("--home", metavar="DIR", help="Where state, keys and tokens lie (default .ringrift)."),
    "root": click.option("--root", metavar="DIR", help="The coordinator's ai-service directory."),
    "state-url": click.option("--state-url", metavar="URL", help="The state database."),
}
