"""Reads parameters of a run into a struct and names every problem at once."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, get_args

import msgspec
from msgspec import Meta

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json

ParamsT = TypeVar("ParamsT", bound=msgspec.Struct)


def read_params(
    kind: type[ParamsT],
    params: Mapping[str, Json],
    pipeline: str,
    other_names: Mapping[str, str] | None = None,
    more_problems: Callable[[Mapping[str, Json]], Iterable[str]] = lambda _params: (),
) -> ParamsT:
    """Raises RunError(INVALID_INPUT) that lists every problem.

    `other_names` are names that other systems use for a parameter.
    """
    fields = {each.name: each for each in msgspec.structs.fields(kind)}
    problems = [*_unknown(params, fields, other_names or {}), *_missing(params, fields), *_wrong(params, fields)]
    problems += more_problems(params)
    if problems:
        raise RunError(FailureCode.INVALID_INPUT, f"{pipeline}: {'; '.join(problems)}")
    return msgspec.convert(dict(params), kind)


def _unknown(
    params: Mapping[str, Json], fields: Mapping[str, Any], other_names: Mapping[str, str]
) -> Iterator[str]:
    for name in params:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1, cutoff=0.6)
            meant = other_names.get(str(name)) or (near[0] if near else None)
            yield f"{name!r} is unknown, " + (
                f"did you mean {meant!r} ({describe(fields[meant])})?"
                if meant
                else f"known are {', '.join(fields)}"
            )


def _missing(params: Mapping[str, Json], fields: Mapping[str, Any]) -> Iterator[str]:
    for name, field in fields.items():
        if field.required and name not in params:
            yield f"{name!r} is missing: give {describe(field)}"


def _wrong(params: Mapping[str, Json], fields: Mapping[str, Any]) -> Iterator[str]:
    for name, field in fields.items():
        if name not in params:
            continue
        value = params[name]
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{name!r} is {value}: give {describe(field)}"
            continue
        try:
            msgspec.convert(value, field.type)
        except msgspec.ValidationError as error:
            yield f"{name!r} is {value!r:.80} ({str(error).lower()}): give {describe(field)}"


def describe(field: Any) -> str:
    """The sentence that says what a field takes."""
    metas = (part for part in get_args(field.type)[1:] if isinstance(part, Meta))
    return next((meta.description for meta in metas if meta.description), "another value")
