"""The deterministic id of a row of a run: `<run id>:<part>:…`.

It is the same on every repetition.
"""

from __future__ import annotations


def row_id(*parts: str) -> str:
    """The parts joined by colons; different parts give different ids.

    Colons and percent signs are percent-encoded in every part but the last, so run `a` with part `b:c` and run
    `a:b` with part `c` stay apart.
    """
    *first, last = parts
    return ":".join([*(part.replace("%", "%25").replace(":", "%3A") for part in first), last])
