"""Parameters of a run from the command line: pairs, a file, another run.

`-p NAME=VALUE`, a JSON file, and another run's parameters.
"""

from __future__ import annotations

import copy
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from pod_worker.cli.completion import complete_params
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import INT64_MAX, parse_pair
from pod_worker.cli.output import say
from pod_worker.core.run import Json

if TYPE_CHECKING:
    from pod_worker.pipeline import Pipeline


_KEY = re.compile(r"runs/[^/]+/[0-9]+/|data/[0-9a-f]{16}/", re.ASCII)  # of artifacts and data sets


def param_options(command: Callable[..., object]) -> Callable[..., object]:
    pair = click.option(
        "--param",
        "-p",
        "pairs",
        multiple=True,
        metavar="NAME=VALUE",
        shell_complete=complete_params,
        help="One parameter; VALUE may be JSON.",
    )
    file = click.option(
        "--params", "params_file", metavar="FILE", help="Parameters as a JSON object in a file; - reads stdin."
    )
    return pair(file(command))


def read_params(
    pipeline: str, base: Mapping[str, Json], pairs: tuple[str, ...], file: str | None
) -> dict[str, Json]:
    """`base`, overridden by the file, overridden by the pairs; checked and complete.

    Raises CommandError.
    """
    from pod_worker.pipelines import find_pipeline

    return find_pipeline(pipeline).check_params(dict(base) | read_given_params(pipeline, pairs, file))


def read_given_params(pipeline: str, pairs: tuple[str, ...], file: str | None) -> dict[str, Json]:
    """What the line gives, with absolute paths; neither complete nor checked.

    Raises CommandError.
    """
    from pod_worker.pipelines import find_pipeline

    found = find_pipeline(pipeline)
    given = (_read_file(file) if file else {}) | _read_pairs(pairs, found)
    _check_numbers(given)
    for name in found.paths:
        if isinstance(value := given.get(name), str):
            given[name] = _absolute(name, value)
    return given


def _absolute(name: str, value: str) -> str:
    """A relative path of an existing file or folder as an absolute one.

    A worker has another current folder.
    """
    path = Path(value)
    if value and not path.exists() and _is_file_name(value):
        say(f"note: {name}: there is no {value} on this machine; the worker needs it at this path")
    if not value or path.is_absolute() or not path.exists():
        return value
    absolute = str(path.resolve())
    say(f"{name}: {absolute} (the worker needs it at this path)")
    return absolute


def _is_file_name(value: str) -> bool:
    """Whether a text can only mean a file or folder, and not a model of a hub."""
    is_key = _KEY.match(value) is not None
    return not is_key and (value.startswith(("/", "./", "../", "~")) or bool(Path(value).suffix))


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


def _read_pairs(pairs: tuple[str, ...], pipeline: Pipeline) -> dict[str, Json]:
    types = {each.name: each.type for each in msgspec.structs.fields(pipeline.params)}
    return {name: _value(text, types.get(name)) for name, text in map(parse_pair, pairs)}


def _value(text: str, kind: object) -> Json:
    """JSON where it is JSON, else text.

    Also text where the parameter takes text only (`revision=1234567`).
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if not _accepts(kind, value) and _accepts(kind, text) else value


def _accepts(kind: object, value: Json) -> bool:
    if kind is None:
        return False
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def set_paths(pipeline: str, params: Mapping[str, Json], settings: tuple[str, ...]) -> dict[str, Json]:
    """A copy of the parameters with each `PATH=VALUE` set.

    A path is `envs.LR` or `outputs.0.glob`. VALUE is JSON where it is JSON and the parameter accepts it, else
    text. Raises CommandError.
    """
    from pod_worker.pipelines import find_pipeline

    types = {each.name: each.type for each in msgspec.structs.fields(find_pipeline(pipeline).params)}
    changed = dict(params)
    for path, text in map(parse_pair, settings):
        kind, name = types.get(path.split(".")[0]), path.split(".")[0]
        as_text = _with_path(changed, path, text)
        try:
            as_json = _with_path(changed, path, json.loads(text))
        except (ValueError, RecursionError):
            as_json = as_text
        prefers_text = not _accepts(kind, as_json[name]) and _accepts(kind, as_text[name])
        changed = as_text if prefers_text else as_json
    _check_numbers(changed)
    return changed


def _with_path(params: Mapping[str, Json], path: str, value: Json) -> dict[str, Json]:
    changed: dict[str, Json] = copy.deepcopy(dict(params))
    *parents, last = path.split(".")
    target: Json = changed
    for part in parents:
        target = _step(path, target, part)
    if isinstance(target, list) and last.isdecimal() and int(last) < len(target):
        target[int(last)] = value
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise _no_path(path, last)
    return changed


def _step(path: str, target: Json, part: str) -> Json:
    """The object or list below `part`; an absent one of an object is made."""
    if isinstance(target, dict):
        return target.setdefault(part, {})
    if isinstance(target, list) and part.isdecimal() and int(part) < len(target):
        return target[int(part)]
    raise _no_path(path, part)


def _no_path(path: str, part: str) -> CommandError:
    return CommandError(f"--set {path}: there is no {part!r} to set there. See `runs show RUN`.", ExitCode.USAGE)


def _check_numbers(params: Mapping[str, Json]) -> None:
    """Raises CommandError for numbers that cannot be stored.

    MongoDB stores integers of 64 bits (BSON int64); JSON has neither NaN nor infinity.
    """
    for name, value in params.items():
        for number in _numbers(value):
            if isinstance(number, int) and not -INT64_MAX - 1 <= number <= INT64_MAX:
                reason = "is outside the 64-bit range"
            elif isinstance(number, float) and not math.isfinite(number):
                reason = "is not a finite number"
            else:
                continue
            raise CommandError(f"parameter {name!r}: {str(number)[:30]} {reason}. Give another.", ExitCode.USAGE)


def _numbers(value: Json) -> Iterator[int | float]:
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _numbers(each)
    elif isinstance(value, int | float):
        yield value
