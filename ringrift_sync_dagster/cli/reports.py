"""``report``: tables of where data lies, of transfers, games, lag and ratings, for a person or for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ringrift_sync_dagster.cli.lazy import CONTEXT
from ringrift_sync_dagster.cli.output import show_json, show_table
from ringrift_sync_dagster.cli.session import Session, verb

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 20
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings=CONTEXT)
@click.option("--csv", "csv", type=_FOLDER, metavar="DIR", help="Write each table as DIR/<name>.csv.")
@click.option("--parquet", type=_FOLDER, metavar="DIR", help="Write each table as DIR/<name>.parquet.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write one page.")
@verb("hosts", "root", "state-url")
def report(session: Session, csv: Path | None, parquet: Path | None, html: Path | None) -> int:
    """Show what moved and what lies where: throughput by hour, games by day, lag, ratings."""
    from ringrift_sync_dagster.state.frames import report as tables
    from ringrift_sync_dagster.state.manifest import Manifest
    from ringrift_sync_dagster.state.store import StateStore
    from ringrift_sync_dagster.storage.layout import Layout

    settings = session.settings()
    with StateStore.open(settings.state_url) as state:
        found = {"locations": Manifest(state).frame(), **tables(state, Layout(settings.root).elo)}
    written: list[Path] = []
    for folder, suffix in ((csv, "csv"), (parquet, "parquet")):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            written += [_write(frame, folder / f"{name}.{suffix}") for name, frame in found.items()]
    if html is not None:
        html.write_text(_page(found), encoding="utf-8")
        written.append(html)
    if session.as_json:
        rows = {name: frame.to_json(orient="records", date_format="iso") for name, frame in found.items()}
        show_json({"ok": True, "written": written, "tables": {name: _parsed(text) for name, text in rows.items()}})
    elif written:
        for path in written:
            click.echo(str(path))
    else:
        for name, frame in found.items():
            _show(name, frame)
    return 0


def _write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return path


def _page(found: dict[str, pd.DataFrame]) -> str:
    body = "\n".join(
        f"<h2>{name}</h2>\n{frame.to_html(index=False, border=0, na_rep='')}" for name, frame in found.items()
    )
    style = "body{font:14px sans-serif}td,th{padding:2px 10px;text-align:left}tr:nth-child(even){background:#f4f4f4}"
    return f"<!doctype html>\n<meta charset=utf-8><title>RingRift sync</title><style>{style}</style>\n{body}\n"


def _show(name: str, frame: pd.DataFrame) -> None:
    rows = frame.head(_SHOWN).astype(object).where(frame.head(_SHOWN).notna(), None)
    title = name if len(frame) <= _SHOWN else f"{name} (the first {_SHOWN} of {len(frame)})"
    cells = [tuple(map(_cell, row)) for row in rows.itertuples(index=False)]
    show_table(title, list(frame.columns), cells, empty="nothing yet")


def _cell(value: object) -> object:
    return value if isinstance(value, int | float | None) else str(value)


def _parsed(text: str) -> object:
    import json

    return json.loads(text)
