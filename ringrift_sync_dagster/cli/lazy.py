"""Groups of verbs whose modules are imported when a verb runs, so that ``--help`` and completion answer at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import click
from click.shell_completion import CompletionItem


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb is, and its line in the help.

    Args:
        module: Module in this package.
        name: The command's variable in that module.
        help: One sentence, shown by the group's ``--help``.

    """

    module: str
    name: str
    help: str


class LazyGroup(click.Group):
    """A group that knows its verbs by name and help alone.

    Args:
        name: How the group is called.
        verbs: The verbs by name, in the order of the help.
        help_text: What the group is for.

    """

    def __init__(self, name: str, verbs: Mapping[str, Verb], help_text: str) -> None:
        super().__init__(name, help=help_text, no_args_is_help=True, context_settings=CONTEXT)
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Give the names in the order of the table."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the verb's module and give its command; None when there is no such verb."""
        verb = self.verbs.get(cmd_name)
        if verb is None:
            return None
        command = getattr(import_module(f"{__package__}.{verb.module}"), verb.name)
        return command if isinstance(command, click.Command) else None

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a verb from the table, without importing one."""
        options = super(click.Group, self).shell_complete(ctx, incomplete)
        verbs = [
            CompletionItem(name, help=verb.help) for name, verb in self.verbs.items() if name.startswith(incomplete)
        ]
        return [*verbs, *options]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the help lines from the table, without importing a verb."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in self.verbs.items()])


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
