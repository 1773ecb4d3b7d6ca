"""A read-only, typed view of one decoded JSON object.

The wire codecs of the adapters use it. Providers add, drop and misspell fields, so accessors return a default
instead of raising. `required_text` raises; it is for fields that identify a pod.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation


class UndecodableReplyError(Exception):
    """The reply does not have the documented shape."""


class JsonObject:
    __slots__ = ("_fields",)

    def __init__(self, value: object) -> None:
        """Anything that is not a JSON object reads as an empty one."""
        self._fields: dict[str, object] = value if isinstance(value, dict) else {}

    def __bool__(self) -> bool:
        return bool(self._fields)

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def required_text(self, key: str) -> str:
        value = self._fields.get(key)
        if not isinstance(value, str) or not value:
            raise UndecodableReplyError(f"the reply has no usable {key!r}")
        return value

    def text(self, *keys: str) -> str:
        """The first non-empty string among `keys`, else an empty one."""
        for key in keys:
            value = self._fields.get(key)
            if isinstance(value, str) and value:
                return value
        return ""

    def number(self, *keys: str) -> float | None:
        """Numbers also arrive as strings (REST v1's costPerHr)."""
        for key in keys:
            value = self._fields.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                continue
            try:
                return float(value)
            except ValueError:
                continue
        return None

    def integer(self, *keys: str) -> int | None:
        value = self.number(*keys)
        return None if value is None or value != value else int(value)

    def money(self, *keys: str) -> Decimal:
        for key in keys:
            value = self._fields.get(key)
            if value is None or isinstance(value, bool):
                continue
            try:
                return Decimal(str(value))
            except InvalidOperation:
                continue
        return Decimal(0)

    def boolean(self, key: str) -> bool:
        return self._fields.get(key) is True

    def timestamp(self, key: str) -> datetime | None:
        return parse_time(self.text(key))

    def document(self, key: str) -> JsonObject:
        return JsonObject(self._fields.get(key))

    def documents(self, key: str) -> tuple[JsonObject, ...]:
        return documents(self._fields.get(key))

    def required_documents(self, key: str) -> tuple[JsonObject, ...]:
        """For listings: a missing or malformed list must not count as an empty one."""
        if not isinstance(self._fields.get(key), list):
            raise UndecodableReplyError(f"the reply has no list {key!r}")
        return self.documents(key)

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._fields.get(key)
        return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()

    def pairs(self) -> Iterator[tuple[str, str]]:
        """The members with a scalar value, as text: the form of env and portMappings."""
        for key, value in self._fields.items():
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                yield key, str(value)


def documents(value: object) -> tuple[JsonObject, ...]:
    """The objects of a JSON array.

    An element that is not an object becomes an empty one, so that a codec that needs its id raises instead of
    skipping it.
    """
    return tuple(JsonObject(item) for item in value) if isinstance(value, list) else ()


_GO_TIME = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d+)?) ([+-]\d{4})(?: [A-Z]+)?\Z")


def parse_time(text: str) -> datetime | None:
    """RFC 3339, or the Go form "2026-01-02 03:04:05.678 +0000 UTC" that REST v1 sends.

    It is None when it has neither form.
    """
    go = _GO_TIME.match(text)
    if go:
        text = f"{go[1]}T{go[2]}{go[3]}"
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
