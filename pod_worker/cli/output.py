"""How commands print: tables on a terminal, lines in a pipe, JSON when asked.

Lines in a pipe are tab-separated.

Every line goes through `terminal_text`, because documents and events hold text that others wrote. JSON is strict
(RFC 8259): no NaN, and characters that the output's encoding lacks are escaped.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pod_worker.core.run import Json
from pod_worker.core.terminal_text import one_line, terminal_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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
    "created",
    "took",
    "time",
    "size",
    "kind",
    "ok",
    "eta",
    "seen",
    "event",
    "pipeline",
}
WIDE_COLUMNS = 130
# Free text of which the beginning tells enough.
CUT_COLUMNS = {"stage", "content", "metrics", "labels"}
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_ASCII = re.compile(r"[^\x00-\x7e]")


def is_terminal() -> bool:
    return sys.stdout.isatty()


def console() -> Console:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not is_terminal())


def say(message: str) -> None:
    """A message for the person, not data: goes to stderr."""
    click.echo(terminal_text(message), err=True)


def print_line(text: str, color: str | None = None) -> None:
    """One line of data on stdout."""
    shown = terminal_text(text)
    click.echo(click.style(shown, fg=color) if color else shown)


def print_json(value: Json) -> None:
    """One JSON value, indented on a terminal."""
    _print_json(value, indent=2 if is_terminal() else None)


def print_json_line(value: Json) -> None:
    """One JSON value on one line, for streams of values."""
    _print_json(value, indent=None)
    sys.stdout.flush()


def _print_json(value: Json, indent: int | None) -> None:
    text = json.dumps(_encodable(value), ensure_ascii=False, allow_nan=False, indent=indent)
    pattern = _UNSAFE_IN_JSON if is_unicode_output() else _NOT_ASCII
    click.echo(pattern.sub(_escaped, text))


def is_unicode_output() -> bool:
    return (sys.stdout.encoding or "ascii").lower().replace("-", "") in ("utf8", "utf16", "utf32")


def _escaped(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]


def _encodable(value: Json) -> Json:
    """JSON has neither NaN nor dates; a document's `_id` is shown as `id` too."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Mapping):
        named = {"id": value["_id"]} if "_id" in value and "id" not in value else {}
        return {str(name): _encodable(each) for name, each in {**named, **value}.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [_encodable(each) for each in value]
    return str(value)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    styles: dict[str, dict[str, str]] | None = None,
    *,
    cut: Collection[str] = (),
) -> None:
    """A table on a terminal; tab-separated lines with a header in a pipe.

    `styles`: column -> value -> style. `cut`: more columns that end in … where space is short.
    """
    cleaned = [[one_line(cell) for cell in row] for row in rows]
    if not is_terminal():
        click.echo("\t".join(columns))
        for row in cleaned:
            click.echo("\t".join(row))
        return
    if not cleaned:
        return  # the caller says that there is nothing
    table = make_table(columns)
    for row in cleaned:
        cells = zip(columns, row, strict=True)
        table.add_row(
            *(
                cell(column, value, (styles or {}).get(column, {}).get(value, ""), is_cut=column in cut)
                for column, value in cells
            )
        )
    console().print(table)


def make_table(columns: Sequence[str]) -> Table:
    """An empty table for a terminal.

    Where space is short, the columns of CUT_COLUMNS shrink first.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in NO_WRAP_COLUMNS)
    return table


def cell(column: str, value: str, style: str = "", *, is_cut: bool = False) -> Text:
    """Text, not str: what comes out of a database is data, never markup."""
    from rich.text import Text

    is_cut |= column in CUT_COLUMNS
    return Text(value, style=style, no_wrap=is_cut or None, overflow="ellipsis" if is_cut else None)


def print_fields(fields: Iterable[tuple[str, str]], styles: Mapping[str, str] | None = None) -> None:
    """Names and values below each other, values in one column.

    `styles`: name -> style of its value.
    """
    from rich.text import Text

    out, known = console(), styles or {}
    pairs = [(one_line(name), terminal_text(value)) for name, value in fields]
    width = max((len(name) for name, _ in pairs), default=0)
    if is_terminal():
        from rich.table import Table

        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for name, value in pairs:
            table.add_row(Text(name), Text(value, style=known.get(name, "")))
        out.print(table)
        return
    for name, value in pairs:
        text = value.replace("\n", "\n" + " " * (width + 2))
        out.print(Text.assemble((f"{name:<{width}}  ", "dim"), (text, known.get(name, ""))))


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """`3m`, `2h`, `5d`: how long ago."""
    if moment is None:
        return "-"
    return span(((now or datetime.now(UTC)) - moment).total_seconds())


def span(seconds: float) -> str:
    """A length of time in at most two units."""
    total = round(max(seconds, 0))
    days, hours, minutes, rest = total // 86400, total // 3600 % 24, total // 60 % 60, total % 60
    if days:
        return f"{days}d{hours}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    if minutes:
        return f"{minutes}m{rest:02d}s" if minutes < 10 else f"{minutes}m"
    return f"{rest}s"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return "?"


def number(value: Json) -> str:
    """Four significant digits for a float, whole numbers in full."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(fraction: float) -> str:
    """A plain percentage in a pipe, with a bar before it on a terminal."""
    share = min(max(fraction, 0.0), 1.0)
    return f"{bar(share, 8)} {share:4.0%}" if is_terminal() else f"{share:.0%}"


def is_wide() -> bool:
    """Whether there is space for columns that are not always needed; always in a pipe."""
    return not is_terminal() or console().width >= WIDE_COLUMNS


def bar(fraction: float, width: int = 20) -> str:
    done = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * done + "╌" * (width - done)


def clock_time(moment: datetime | None) -> str:
    """Local time with its zone."""
    if moment is None:
        return "-"
    try:
        return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    except OverflowError:  # the first or last day of the calendar
        return moment.isoformat()
