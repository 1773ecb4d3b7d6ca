"""What the harness itself did and saw, one JSON line each, with both clocks: the checker's account of causes.

Times are CLOCK_BOOTTIME (`boot`), which the runs' evidence uses too and which no clock fault touches, and the wall
clock (`wall`), which MongoDB's history uses; this process's wall clock is the servers'.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ClockReading:
    boot: float
    wall: float

    @classmethod
    def now(cls) -> ClockReading:
        return cls(time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


@dataclass(frozen=True, slots=True)
class Entry:
    """`what`: strike, heal, worker started, worker ended, …; `target` names a pod or a server."""

    boot: float
    wall: float
    what: str
    kind: str = ""
    target: str = ""
    seconds: float = 0.0
    detail: dict[str, object] = field(default_factory=dict)


class Journal:
    """Thread-safe. `say` shows an entry to the person who watches."""

    def __init__(self, path: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.entries: list[Entry] = []
        self._file = path.open("w")
        self._say = say
        self._lock = threading.Lock()
        self._began = ClockReading.now().boot

    def note(self, what: str, kind: str = "", target: str = "", seconds: float = 0.0, **detail: object) -> Entry:
        now = ClockReading.now()
        entry = Entry(now.boot, now.wall, what, kind, target, seconds, detail)
        with self._lock:
            self.entries.append(entry)
            self._file.write(json.dumps(asdict(entry), default=str) + "\n")
            self._file.flush()
        shown = " ".join(f"{name}={value}" for name, value in detail.items() if value not in (None, "", []))
        length = f"{seconds:.1f} s" if seconds else ""
        self._say(f"{now.boot - self._began:7.2f}  {what:<14} {kind:<24} {target:<10} {length:>7}  {shown}")
        return entry

    def close(self) -> None:
        self._file.close()
