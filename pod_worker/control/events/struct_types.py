"""msgspec structs with the fields of core's dataclasses, for the ingest path.

`core` uses the standard library only, and msgspec decodes a struct in a third of the time of a dataclass. Fields,
defaults, properties and class variables are the dataclass's own, so nothing is declared twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType, NoneType
from typing import Annotated, Any, TypeVar, cast, get_args, get_type_hints

import msgspec
from msgspec import Meta

T = TypeVar("T")


def struct_of(
    kind: type[T], rename: dict[str, str] | None = None, limits: Mapping[str, Meta] = MappingProxyType({})
) -> type[T]:
    """A struct that can stand wherever an instance of the dataclass is only read.

    `isinstance` distinguishes them.

    `rename` maps fields to their names on the wire, `limits` narrows what a field takes there.
    """
    hints = get_type_hints(kind, include_extras=True)
    fields: list[Any] = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]  # any dataclass
        limited = _limited(hints[field.name], limits.get(field.name))
        is_required = field.default is dataclasses.MISSING
        fields.append((field.name, limited) if is_required else (field.name, limited, field.default))
    struct = msgspec.defstruct(
        kind.__name__,
        sorted(fields, key=len),  # what has a default comes last
        rename=rename,
        namespace=_attributes(kind, {name for name, *_ in fields}),
        module=kind.__module__,
        gc=False,  # read from JSON, so there are no cycles to look for
    )
    return cast(type[T], struct)


def _limited(hint: Any, limit: Meta | None) -> Any:
    """The hint with the limit on its value; None stays allowed."""
    if limit is None:
        return hint
    if NoneType in get_args(hint):
        (value,) = [each for each in get_args(hint) if each is not NoneType]
        return Annotated[value, limit] | None
    return Annotated[hint, limit]


def _attributes(kind: type, fields: set[str]) -> dict[str, Any]:
    """Properties and class variables that are no fields."""
    names = {name for each in kind.__mro__[:-1] for name in vars(each) if not name.startswith("_")}
    return {name: getattr(kind, name) for name in names - fields}
