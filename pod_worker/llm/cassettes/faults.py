"""Faults that the replay server shows on request, by schedule.

A rule names a fault and the requests it strikes: of an operation or of all, from the n-th one on, so many times.
`rate_limit@2` strikes the second request, `truncated_json:node.draft@1x3` the first three of an operation.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

FAULT_FORM = "KIND[:OPERATION][@FIRST[xCOUNT]][=SECONDS]"
_RULE = re.compile(
    r"(?P<kind>\w+)(:(?P<operation>[\w.-]+))?(@(?P<first>[1-9]\d*)(x(?P<count>[1-9]\d*))?)?(=(?P<value>[\d.]+))?"
)


class ModelFaultKind(StrEnum):
    RATE_LIMIT = "rate_limit"  # 429 with Retry-After (value: its seconds, default 0)
    SERVER_ERROR = "server_error"  # 500
    AUTH = "auth"  # 401
    HANG = "hang"  # no answer (value: seconds until the server gives up, default 3600)
    RESET = "reset"  # the connection is reset
    NOT_JSON = "not_json"  # 200 with a page of HTML
    TRUNCATED_JSON = "truncated_json"  # the JSON stops in the middle, and the finish reason does not say so
    LENGTH = "length"  # the JSON stops in the middle, at the token limit
    PROSE = "prose"  # prose and a fence around the JSON
    NO_TOOL_CALL = "no_tool_call"
    WRONG_SCHEMA = "wrong_schema"
    EMPTY_CODE = "empty_code"  # an empty text in `code`
    EMPTY_REPLY = "empty_reply"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    NO_USAGE = "no_usage"


class ModelFaultError(ValueError):
    """A rule in words cannot be read; the message says how they are written."""


@dataclass(frozen=True, slots=True)
class ModelFault:
    kind: ModelFaultKind
    operation: str | None = None
    first: int = 1
    count: int = 1  # 0: all from the first one on
    value: float | None = None

    def strikes(self, number: int) -> bool:
        """Whether it strikes request `number`, counted from 1 in its operation."""
        return number >= self.first and (self.count == 0 or number < self.first + self.count)


def read_fault(text: str) -> ModelFault:
    """Read KIND[:OPERATION][@FIRST[xCOUNT]][=VALUE].

    Without @, every request. Raises ModelFaultError.
    """
    found = _RULE.fullmatch(text.strip())
    kinds = ", ".join(ModelFaultKind)
    if found is None or found["kind"] not in tuple(ModelFaultKind):
        raise ModelFaultError(f"{text!r} is no fault. Write {FAULT_FORM}; kinds are {kinds}.")
    first = int(found["first"] or 1)
    count = int(found["count"] or 1) if found["first"] else 0
    value = None if found["value"] is None else float(found["value"])
    return ModelFault(ModelFaultKind(found["kind"]), found["operation"], first, count, value)


class ModelFaultPlan:
    """Chooses the fault of each request. Safe for several threads."""

    def __init__(self, rules: Iterable[ModelFault] = ()) -> None:
        self._lock = threading.Lock()
        self.replace(rules)

    def replace(self, rules: Iterable[ModelFault]) -> None:
        """New rules; counting starts again."""
        with self._lock:
            self._rules = list(rules)
            self._seen: Counter[str | None] = Counter()

    def choose(self, operation: str) -> ModelFault | None:
        """The first rule that strikes this request."""
        with self._lock:
            self._seen[operation] += 1
            self._seen[None] += 1
            for rule in self._rules:
                if rule.operation in (None, operation) and rule.strikes(self._seen[rule.operation]):
                    return rule
        return None
