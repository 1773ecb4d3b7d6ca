"""Sizes and GPUs as people write them. Errors say what to write."""

from __future__ import annotations

import re
from dataclasses import dataclass

GIGABYTES = {"MB": 1 / 1024, "GB": 1.0, "TB": 1024.0}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|GB|TB)?", re.ASCII | re.IGNORECASE)
_VRAM = re.compile(r"(\d+(?:\.\d+)?)GB(?:(\.\.)(?:(\d+(?:\.\d+)?)GB)?)?", re.ASCII | re.IGNORECASE)


class WordError(ValueError):
    """The text cannot be read; the message says what to write."""


def size_gb(value: str | float) -> float:
    """GiB of a number (GB), "500MB", "64GB" or "1TB"."""
    found = _SIZE.fullmatch(str(value).strip())
    if not found or isinstance(value, bool) or float(found[1]) <= 0:
        raise WordError(f'{value!r:.60} is no size: give a text such as "500MB", "64GB" or "1TB"')
    return float(found[1]) * GIGABYTES[(found[2] or "GB").upper()]


@dataclass(frozen=True, slots=True)
class GpuNeed:
    """What the text of `resources.gpu` asks for."""

    model: str | None = None
    count: int = 1
    min_vram_gb: float | None = None
    max_vram_gb: float | None = None


def gpu_need(text: str | int) -> GpuNeed:
    """The need of "H100", "RTX 4090:2", "24GB..48GB:1", "24GB:4" or a count."""
    words = str(text).strip()
    what, _, count_text = words.rpartition(":") if ":" in words else (words, "", "1")
    if words.isdecimal() and words.isascii():
        what, count_text = "", words
    if not (count_text.isdecimal() and count_text.isascii() and 1 <= int(count_text) <= 1024):
        raise WordError(
            f'{words!r:.60} has no count after the colon: give a text such as "H100:2" or "24GB..48GB:1"'
        )
    count = int(count_text)
    what = what.strip()
    if not what:
        return GpuNeed(count=count)
    if memory := _VRAM.fullmatch(what):
        least = float(memory[1])
        most = float(memory[3]) if memory[3] else None
        if most is not None and most < least:
            raise WordError(f"{words!r:.60} asks for at least {least:g} GB and at most {most:g} GB")
        return GpuNeed(None, count, least, most)
    if not what.isprintable() or ".." in what:
        raise WordError(f'{words!r:.60} is no GPU: give a model ("H100", "RTX 4090:2") or memory ("24GB..48GB:1")')
    return GpuNeed(what, count)
