"""Known secrets out of events: in emitted data and in lines that leave the spool.

An event without a secret costs one search of its bytes. One with a secret is decoded, so that only texts change.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pod_worker.core.credentials.secret import Redactor

# What ingest routes and orders by; an event with other values would be another event.
_ATTRIBUTES = frozenset({"specversion", "type", "subject", "time", "seq", "attempt", "datacontenttype"})


def redact_data(redactor: Redactor, data: bytes) -> bytes:
    """The encoded `data` of an event.

    The run id stays: it must agree with the subject.
    """
    return msgspec.json.encode(_redacted(redactor, msgspec.json.decode(data))) if redactor.is_in(data) else data


def redact_line(redactor: Redactor, line: bytes) -> bytes:
    """A line of the spool, whatever wrote it.

    A line that is not JSON is redacted as bytes.
    """
    if not redactor.is_in(line):
        return line
    try:
        event = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return redactor.redact_bytes(line)
    if not isinstance(event, dict):
        return redactor.redact_bytes(line)
    shown = {name: value if name in _ATTRIBUTES else _redacted(redactor, value) for name, value in event.items()}
    return msgspec.json.encode(shown) + b"\n"


def _redacted(redactor: Redactor, value: Any) -> Any:
    redacted = redactor.redact_json(value)
    if isinstance(value, dict) and "run_id" in value:
        redacted["run_id"] = value["run_id"]
    return redacted
