"""Parameters of a run from the command line: `-p NAME=VALUE`, a JSON file, and another run's parameters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import INT64_MAX, parse_pair
from pod_worker.core.run import Json


def param_options(command: Callable[..., object]) -> Callable[..., object]:
    pair = click.option(
        "--param", "-p", "pairs", multiple=True, metavar="NAME=VALUE", help="One parameter; VALUE may be JSON."
    )
    file = click.option(
        "--params", "params_file", metavar="FILE", help="Parameters as a JSON object in a file; - reads stdin."
    )
    return pair(file(command))


def read_params(
    pipeline: str, base: Mapping[str, Json], pairs: tuple[str, ...], file: str | None
) -> dict[str, Json]:
    """`base`, overridden by the file, overridden by the pairs; checked and complete. Raises CommandError."""
    from pod_worker.pipelines import find_pipeline

    found = find_pipeline(pipeline)
    given = dict(base) | (_read_file(file) if file else {}) | _read_pairs(pairs)
    _check_size(given)
    return found.check_params(given)


def _read_file(name: str) -> dict[str, Json]:
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text("utf-8-sig")
        params = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise CommandError(f"--params {name}: {error}", ExitCode.USAGE) from None
    if not isinstance(params, dict):
        raise CommandError(
            f'--params {name} is not a JSON object. Write one like {{"seconds": 3}}.', ExitCode.USAGE
        )
    return params


def _read_pairs(pairs: tuple[str, ...]) -> dict[str, Json]:
    return {name: _value(text) for name, text in map(parse_pair, pairs)}


def _value(text: str) -> Json:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # a bare word is a string


def _check_size(params: Mapping[str, Json]) -> None:
    """MongoDB stores integers of 64 bits (BSON int64)."""
    for name, value in params.items():
        if (large := _first_large(value)) is not None:
            shown = str(large)[:20] + ("…" if len(str(large)) > 20 else "")
            raise CommandError(
                f"parameter {name!r} holds {shown}, which is outside the 64-bit range. Give a smaller number.",
                ExitCode.USAGE,
            )


def _first_large(value: Json) -> int | None:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return next((found for each in inner if (found := _first_large(each)) is not None), None)
    is_large = isinstance(value, int) and not -INT64_MAX - 1 <= value <= INT64_MAX
    return value if is_large else None
