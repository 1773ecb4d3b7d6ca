"""Which strings may be the id of a run.

Ids that this package creates are ULIDs. Other programs may choose theirs, but an id becomes part of URLs, object
keys, file names and terminal output, so some forms are refused: at enqueue, and at claim for documents that
another program inserted.
"""

from __future__ import annotations

RUN_ID_LIMIT = 200
UNREADABLE = "\ufffd"  # what a decoder puts in place of invalid UTF-8
_FORBIDDEN = "/\\"


def run_id_fault(run_id: object) -> str | None:
    """What makes this id unusable, as the end of a sentence; None for a usable id."""
    if not isinstance(run_id, str):
        return f"is of type {type(run_id).__name__}, not a string"
    if not run_id:
        return "is empty"
    if run_id.startswith("."):
        return "begins with a dot"
    if len(run_id) > RUN_ID_LIMIT:
        return f"has {len(run_id)} characters; at most {RUN_ID_LIMIT} are allowed"
    if run_id != run_id.strip():
        return "begins or ends with white space"
    if any(character in _FORBIDDEN for character in run_id):
        return "contains a slash or a backslash"
    if not run_id.isprintable() or UNREADABLE in run_id:
        return "contains a character that cannot be printed"
    return None
