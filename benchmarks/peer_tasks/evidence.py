"""The task itself: it writes down that it runs, in the form of the synthetic pipeline's evidence, and sleeps.

Standard library only: it runs in every peer's environment. PEER_BEST=1 asks for the settings that rescue the task
of a killed worker soonest; without it everything is as shipped.
"""

from __future__ import annotations

import json
import os
import time

IS_BEST = os.environ.get("PEER_BEST") == "1"


def broker() -> str:
    return os.environ["PEER_BROKER"]


def work(key: str, seconds: float) -> None:
    line = {"run": key, "what": "began", "pid": os.getpid(), "boot": time.clock_gettime(time.CLOCK_BOOTTIME)}
    fd = os.open(os.environ["SYNTHETIC_EVIDENCE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, json.dumps(line).encode() + b"\n")
    os.close(fd)
    if seconds:
        time.sleep(seconds)
