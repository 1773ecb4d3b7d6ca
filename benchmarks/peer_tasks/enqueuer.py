"""Enqueues on demand in a peer's environment: one line on stdin (count, pause, seconds) → one line of JSON.

`python -m benchmarks.peer_tasks.enqueuer MODULE`; the answer is when each enqueue began, by the boot clock.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import time


def main() -> None:
    enqueue = importlib.import_module(f"benchmarks.peer_tasks.{sys.argv[1]}").enqueue
    for line in sys.stdin:
        request = json.loads(line)
        began = {}
        for number in range(request["count"]):
            key = f"{request['name']}-{number}"
            began[key] = time.clock_gettime(time.CLOCK_BOOTTIME)
            enqueue(key, request["seconds"])
            if request["pause"]:
                time.sleep(request["pause"] * random.uniform(0.5, 1.5))  # not in step with a poll
        print(json.dumps(began), flush=True)


if __name__ == "__main__":
    main()
