"""How commands show things: tables on a terminal, plain lines in a pipe, JSON when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pod_worker.core.run import Json

if TYPE_CHECKING:
    from rich.console import Console

STATUS_STYLE = {
    "QUEUED": "cyan",
    "SCHEDULED": "blue",
    "RUNNING": "bold green",
    "AUTO_VALIDATING": "green",
    "AWAITING_HUMAN": "magenta",
    "HUMAN_VALIDATED": "green",
    "HUMAN_REJECTED": "red",
    "COMPLETED": "green",
    "FAILED": "bold red",
    "CANCELED": "yellow",
}


# Columns that are useless when they are broken into pieces: people copy ids, and bars must be one line.
NO_WRAP_COLUMNS = {
    "id",
    "run",
    "status",
    "progress",
    "attempt",
    "age",
    "size",
    "time",
    "kind",
    "ok",
    "took",
    "eta",
}


def is_terminal() -> bool:
    return sys.stdout.isatty()


def console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not is_terminal())


def say(message: str) -> None:
    """A message for the person, not data."""
    click.echo(message, err=True)


def print_json(value: Json) -> None:
    click.echo(json.dumps(value, default=_plain, ensure_ascii=False, indent=2 if is_terminal() else None))


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], styles: dict[str, dict[str, str]] | None = None
) -> None:
    """A table on a terminal; tab-separated lines with a header in a pipe. `styles`: column -> value -> style."""
    if not is_terminal():
        click.echo("\t".join(columns))
        for row in rows:
            click.echo("\t".join(row))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in NO_WRAP_COLUMNS)
    for row in rows:
        # Text, not str: what comes out of a database is data, never markup.
        cells = [
            Text(value, style=(styles or {}).get(column, {}).get(value, ""))
            for column, value in zip(columns, row, strict=True)
        ]
        table.add_row(*cells)
    console().print(table)


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """`3m`, `2h`, `5d`: how long ago."""
    if moment is None:
        return "-"
    return span(((now or datetime.now(UTC)) - moment).total_seconds())


def span(seconds: float) -> str:
    """A length of time in at most two units."""
    seconds = max(seconds, 0)
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m{seconds % 60:02.0f}s" if seconds < 600 else f"{seconds // 60:.0f}m"
    if seconds < 86400:
        return f"{seconds // 3600:.0f}h{seconds % 3600 // 60:02.0f}m"
    return f"{seconds // 86400:.0f}d{seconds % 86400 // 3600:.0f}h"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return "?"


def bar(fraction: float, width: int = 20) -> str:
    done = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * done + "╌" * (width - done)


def clock_time(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else "-"


def _plain(value: object) -> Json:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return str(value)
