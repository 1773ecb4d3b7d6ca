"""Reads a job file (YAML) and applies changes of single fields by their path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json

FILE_LIMIT_BYTES = 1024 * 1024


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which YAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is written twice", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_job_file(path: Path) -> dict[str, Json]:
    """The fields of the file.

    Raises RunError(INVALID_INPUT) with the line and the fix.
    """
    try:
        if path.stat().st_size > FILE_LIMIT_BYTES:
            raise RunError(FailureCode.INVALID_INPUT, f"{path} is larger than 1 MiB: it is no job file")
        text = path.read_text()
    except UnicodeDecodeError:
        raise RunError(FailureCode.INVALID_INPUT, f"{path} is not UTF-8: save it as UTF-8") from None
    except OSError as error:
        raise RunError(FailureCode.INVALID_INPUT, f"{path} cannot be read: {error.strerror}") from None
    try:
        found = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RunError(FailureCode.INVALID_INPUT, f"{path} is no YAML: {_where(error)}") from None
    if not isinstance(found, dict):
        raise RunError(FailureCode.INVALID_INPUT, f"{path} holds no fields: write `run: COMMAND`, for example")
    return found


def set_fields(fields: dict[str, Json], changes: Iterable[tuple[str, Json]]) -> dict[str, Json]:
    """The fields with others set by path: ("envs.LR", "1e-4").

    Raises RunError(INVALID_INPUT) for a path that leads through a value.
    """
    changed: dict[str, Json] = _copied(fields)
    for path, value in changes:
        *parents, last = (
            path.split(".", 1) if path.startswith(("envs.", "labels.", "secrets.")) else path.split(".")
        )
        target = changed
        for parent in parents:
            inner = target.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise RunError(
                    FailureCode.INVALID_INPUT, f"{path!r} cannot be set: {parent!r} is {inner!r:.60}, not a group"
                )
            target = inner
        target[last] = value
    return changed


def value_of(text: str) -> Json:
    """A value as a person types it: a text, a number, true, null, a list."""
    try:
        found: Json = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(found, str | int | float | bool | list | dict) or found is None:
        return found
    return text  # a date


def _copied(value: Json) -> Json:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    return f"line {mark.line + 1}: {problem}" if mark else problem
