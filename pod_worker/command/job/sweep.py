"""A sweep: one job for each combination of values.

`{name}` in the command stands for the value. A name that is a path (`envs.LR`, `resources.gpu`) sets that field.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

from pod_worker.command.job.document import set_fields, value_of
from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json

MAX_JOBS = 1_000
_RANGE = re.compile(r"(-?\d{1,9})\.\.(-?\d{1,9})", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*", re.ASCII)


def sweep_values(words: Sequence[str]) -> dict[str, list[str]]:
    """Names and values of words such as `lr=1e-4,3e-4` and `seed=0..4`.

    A range includes both ends. Raises RunError(INVALID_INPUT).
    """
    found: dict[str, list[str]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        values = [each.strip() for each in text.split(",")]
        if not equals or not _NAME.fullmatch(name) or not all(values):
            raise _error(f"{word!r:.80} is no sweep: give NAME=VALUE,VALUE or NAME=FIRST..LAST")
        if name in found:
            raise _error(f"the sweep names {name!r} twice: put all its values into one list")
        found[name] = [each for value in values for each in _expanded(value)]
    count = 1
    for values in found.values():
        count *= len(values)
        if count > MAX_JOBS:
            raise _error(f"the sweep has more than {MAX_JOBS} combinations: give fewer values")
    return found


def combinations(sweep: dict[str, list[str]]) -> list[dict[str, str]]:
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def with_values(fields: dict[str, Json], values: dict[str, str]) -> dict[str, Json]:
    """The job's fields with one combination put in.

    Raises RunError(INVALID_INPUT) for a name that the command does not use.
    """
    paths = {name: value_of(value) for name, value in values.items() if "." in name}
    changed = set_fields(fields, paths.items())
    names = {name: value for name, value in values.items() if name not in paths}
    text = repr(fields.get("run") or fields.get("commands"))
    for name in names:
        if f"{{{name}}}" not in text:
            raise _error(
                f"the command does not use {{{name}}}: write {{{name}}} where its value belongs, or sweep "
                f"envs.{name} to set an environment variable"
            )
    for field in ("run", "commands", "name"):
        if field in changed:
            changed[field] = _filled(changed[field], names)
    return changed


def _filled(value: Json, names: dict[str, str]) -> Json:
    if isinstance(value, list):
        return [_filled(each, names) for each in value]
    if isinstance(value, str):
        for name, text in names.items():
            value = value.replace(f"{{{name}}}", text)
    return value


def _expanded(value: str) -> list[str]:
    found = _RANGE.fullmatch(value)
    if not found:
        return [value]
    first, last = int(found[1]), int(found[2])
    if last < first:
        raise _error(f"{value!r} ends before it begins: give FIRST..LAST")
    if last - first >= MAX_JOBS:
        raise _error(f"{value!r} has more than {MAX_JOBS} values: give fewer")
    return [str(number) for number in range(first, last + 1)]


def _error(text: str) -> RunError:
    return RunError(FailureCode.INVALID_INPUT, text)
