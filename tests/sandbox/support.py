"""What the sandbox's tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from pod_worker.process.folder_access import closed_folder
from pod_worker.sandbox.identity import SANDBOX_UID
from pod_worker.sandbox.layers import DEFAULT_FLOOR

ROOT = Path(__file__).resolve().parents[2]
VERSION = "import sys; print(*sys.version_info[:2])"


class NeverStop:
    def check(self) -> None:
        pass

    def is_set(self) -> bool:
        return False


@cache
def open_python() -> str:
    """An interpreter of this version that the sandbox's user may start; ours where there is none."""
    if os.geteuid() != 0 or is_open(Path(sys.executable)):
        return sys.executable
    other = shutil.which("python3", path=os.defpath)
    if other and is_open(Path(other)):
        found = subprocess.run([other, "-c", VERSION], capture_output=True, text=True, check=False).stdout
        if found.split() == [str(part) for part in sys.version_info[:2]]:
            return other
    return sys.executable


def has_own_user() -> bool:
    return os.geteuid() == 0 and is_open(Path(open_python())) and is_open(Path(__file__))


def floor() -> tuple[str, ...] | None:
    """The default; without `uid` where root finds no interpreter that another user could start."""
    return None if os.geteuid() != 0 or has_own_user() else DEFAULT_FLOOR


def is_open(python: Path) -> bool:
    places = (python, Path(os.path.realpath(python)))
    return not any(closed_folder(place, SANDBOX_UID, (SANDBOX_UID,)) for place in places)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
