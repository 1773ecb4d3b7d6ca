"""Any identifier as one segment of a file path.

Identifiers come from outside: a run's id may be "..", "", "/etc" or 10 000 characters long. Every place that
builds a path from an identifier uses `path_segment`, so no identifier can name another folder.
"""

from __future__ import annotations

import hashlib
import string
from urllib.parse import unquote

SEGMENT_LIMIT = 120  # leaves room for a prefix and a suffix within the 255 bytes of a file name
_HASHED = "%sha256-"  # no percent-encoded name has a letter s after a percent sign
_PLAIN = frozenset(string.ascii_letters + string.digits + "_-~.")


def path_segment(identifier: str) -> str:
    """A file name for the identifier; different identifiers have different names.

    Ordinary identifiers stay as they are. Other characters are percent-encoded, as is a leading dot, so the
    result is never empty, ".", ".." or hidden, and holds no separator. A long identifier becomes its SHA-256.
    """
    encoded = "".join(_encoded(character) for character in identifier)
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) > SEGMENT_LIMIT:
        digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()
        return f"{_HASHED}{digest}"
    return encoded or "%"


def identifier_of(segment: str) -> str | None:
    """The identifier that `path_segment` made the name from; None for a hashed one."""
    if segment.startswith(_HASHED):
        return None
    return "" if segment == "%" else unquote(segment, errors="surrogatepass")


def _encoded(character: str) -> str:
    if character in _PLAIN:
        return character
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
