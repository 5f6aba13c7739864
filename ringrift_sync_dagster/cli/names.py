"""Names on the command line: config keys in any spelling, and nodes; a shell completes them, fast, or with nothing."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from ringrift_sync_dagster.node.patterns import CONFIGS, DATA_TYPES, config_key


def node_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001 - click's form
    """Give the nodes of the inventory whose names begin so; the options of the line count."""
    try:
        from ringrift_sync_dagster.settings.inventory import load_inventory
        from ringrift_sync_dagster.settings.settings import load_settings

        settings = load_settings(hosts=ctx.params.get("hosts"), home=ctx.params.get("home"))
        inventory = load_inventory(settings.hosts, coordinator=settings.coordinator)
    except Exception:  # noqa: BLE001 - a person who presses TAB must not read of our errors
        return []
    return [name for name in inventory.nodes if name.startswith(incomplete)]


class ConfigName(click.ParamType[str]):
    """One of the twelve config keys, in any of the spellings that the cluster uses."""

    name = "config"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Give the key as it is written everywhere else."""
        board, _, players = value.strip().rpartition("_")
        key = config_key(board, players.removesuffix("p"))
        if key is None:
            self.fail(f"{value!r} is not a config; the configs are {', '.join(CONFIGS)}", param, ctx)
        return key

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's form
        """Give the keys that begin so."""
        return [CompletionItem(config) for config in CONFIGS if config.startswith(incomplete)]


type_option = click.option(
    "--type", "data_types", type=click.Choice(DATA_TYPES), multiple=True,
    help="Only this data type; may be given again. By default all five.",
)  # fmt: skip
config_option = click.option(
    "--config", "configs", type=ConfigName(), multiple=True,
    help="Only this config, such as hex8_2p; may be given again.",
)  # fmt: skip
node_option = click.option(
    "--node", "nodes", multiple=True, shell_complete=node_names, metavar="NAME",
    help="Only this node; may be given again.",
)  # fmt: skip
