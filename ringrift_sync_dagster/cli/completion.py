"""``completion``: the script that teaches a shell the verbs, options, config keys, data types and node names."""

from __future__ import annotations

from typing import Final

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT

SHELLS: Final = ("bash", "zsh", "fish")

EXAMPLES: Final = """\b
Examples:
  ringrift-sync completion bash > ~/.local/share/bash-completion/completions/ringrift-sync
  source <(ringrift-sync completion zsh)
  ringrift-sync completion fish > ~/.config/fish/completions/ringrift-sync.fish
"""


@click.command(context_settings=CONTEXT, epilog=EXAMPLES)
@click.argument("shell", type=click.Choice(SHELLS))
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
def completion(shell: str, as_json: bool) -> int:  # noqa: FBT001 - a flag
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from ringrift_sync_dagster.cli.main import COMPLETE_VARIABLE, PROGRAM, cli
    from ringrift_sync_dagster.cli.output import show_json

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"this version of click does not know {shell}")
    # Not source(): for bash it starts one to look at its version, which may be another one than the person's.
    asked = made(cli, {}, PROGRAM, COMPLETE_VARIABLE)
    script = asked.source_template % asked.source_vars()
    if as_json:
        show_json({"ok": True, "shell": shell, "script": script})
    else:
        click.echo(script)
    return 0
