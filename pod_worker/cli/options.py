"""Options and argument forms that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import click

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.core.duration import DurationError, duration_seconds
from pod_worker.core.run import Json, RunStatus
from pod_worker.core.terminal_text import terminal_text

INT64_MAX = 2**63 - 1

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


class Int64(click.ParamType[int]):
    """A whole number within bounds.

    Without bounds, the limits are what MongoDB can store (BSON int64).
    """

    name = "integer"

    def __init__(self, least: int = -INT64_MAX, most: int = INT64_MAX) -> None:
        self._least, self._most = least, most

    def convert(self, value: Json, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{str(value)[:30]!r} is not a whole number.", param, ctx)
        if number < self._least:
            self.fail(f"{str(value)[:30]!r} is too small: give at least {self._least}.", param, ctx)
        if number > self._most:
            self.fail(f"{str(value)[:30]!r} is too large: give at most {self._most}.", param, ctx)
        return number


class Number(click.ParamType[float]):
    """A finite number within bounds."""

    name = "number"

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def convert(self, value: Json, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = float(value)
        except (ValueError, OverflowError):
            self.fail(f"{str(value)[:30]!r} is not a number.", param, ctx)
        if not self._least <= number <= self._most:  # false for nan
            self.fail(f"{str(value)[:30]!r} is out of range: give {self._least:g} to {self._most:g}.", param, ctx)
        return number


class DurationText(click.ParamType[float]):
    """Seconds of a number, "90m", "1h30m" or "2d"; above zero."""

    name = "time"

    def convert(self, value: Json, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = duration_seconds(value)
        except DurationError as error:
            self.fail(f"{error}.", param, ctx)
        if seconds <= 0:
            self.fail(f"{str(value)[:30]!r} is no time above zero.", param, ctx)
        return seconds


class GpuIndices(click.ParamType[tuple[int, ...]]):
    """GPU numbers of a pod with commas, such as `0,1`."""

    name = "list"

    def convert(self, value: Json, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        words = [word.strip() for word in str(value).split(",")]
        if not all(word.isascii() and word.isdigit() for word in words):
            self.fail(f"{str(value)[:30]!r} is not a list of GPU numbers: write 0,1.", param, ctx)
        numbers = tuple(map(int, words))
        if len(set(numbers)) < len(numbers):
            self.fail(f"{str(value)[:30]!r} names a GPU twice: name each once.", param, ctx)
        return numbers


def parse_pair(text: str) -> tuple[str, str]:
    """`NAME=VALUE` as a pair. Raises CommandError."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise CommandError(f"{text!r} is not NAME=VALUE", ExitCode.USAGE)
    return name, value


def parse_statuses(words: tuple[str, ...]) -> tuple[str, ...]:
    """Statuses, also several in one word with commas. Raises CommandError."""
    known = [status.value for status in RunStatus]
    chosen = [word.strip().upper() for each in words for word in each.split(",") if word.strip()]
    if wrong := [word for word in chosen if word not in known]:
        raise CommandError(f"{wrong[0]!r} is not a status. There are: {', '.join(known)}.", ExitCode.USAGE)
    return tuple(chosen)


def parse_duration(text: str) -> timedelta:
    """`30s`, `10m`, `1h30m`, `30d`; not a bare number. Raises CommandError."""
    try:
        return timedelta(seconds=duration_seconds(text, needs_unit=True))
    except DurationError as error:
        raise CommandError(f"{error}.", ExitCode.USAGE) from None


def parse_time(text: str | None) -> datetime | None:
    """A duration before now, or an ISO 8601 time.

    It is local time where it has no zone. Raises CommandError.
    """
    if text is None:
        return None
    try:
        return datetime.now(UTC) - parse_duration(text)
    except CommandError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise CommandError(
            f"{text!r} is not a time. Write a duration before now (30s, 1h30m, 30d) or a time such as "
            "2026-01-31T18:00 (local time) or 2026-01-31T18:00:00Z.",
            ExitCode.USAGE,
        ) from None


def limit_option(what: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    return click.option(
        "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, metavar="N", help=what
    )


def time_option(name: str, what: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    return click.option(name, metavar="TIME", help=f"{what}: 10m, 2h, 3d, or 2026-01-31T18:00 (local time).")


yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation.")


def confirm(question: str, is_confirmed: bool) -> None:
    """Ask on a terminal; elsewhere `--yes` is required.

    Raises CommandError and click.Abort.
    """
    if is_confirmed:
        return
    if not sys.stdin.isatty():
        raise CommandError("stdin is not a terminal, so the command cannot ask. Pass --yes.", ExitCode.USAGE)
    click.confirm(terminal_text(question), abort=True, err=True)
