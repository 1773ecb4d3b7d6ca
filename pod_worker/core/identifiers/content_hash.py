"""The form of a SHA-256 in keys and messages."""

from __future__ import annotations

_HEX = frozenset("0123456789abcdef")


def is_sha256(text: str) -> bool:
    """64 lower-case hexadecimal digits and nothing else."""
    return len(text) == 64 and _HEX.issuperset(text)
