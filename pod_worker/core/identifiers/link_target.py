"""Whether a symbolic link leads out of its folder, by its text alone."""

from __future__ import annotations

TARGET_LIMIT_BYTES = 4096  # PATH_MAX of Linux


def is_inside(path: str | bytes, target: str | bytes) -> bool:
    """Whether a link at the relative `path` leads to a place inside its folder.

    ".." counts only at the beginning: behind a name it could follow another link out of the folder.
    """
    try:
        place, raw = (each.encode() if isinstance(each, str) else each for each in (path, target))
    except UnicodeEncodeError:
        return False
    if not raw or raw.startswith(b"/") or b"\0" in raw or len(raw) > TARGET_LIMIT_BYTES:
        return False
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    ups = next((index for index, part in enumerate(parts) if part != b".."), len(parts))
    return ups <= place.count(b"/") and b".." not in parts[ups:]
