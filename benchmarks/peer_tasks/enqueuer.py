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
        wish = json.loads(line)
        began = {}
        for number in range(wish["count"]):
            key = f"{wish['name']}-{number}"
            began[key] = time.clock_gettime(time.CLOCK_BOOTTIME)
            enqueue(key, wish["seconds"])
            if wish["pause"]:
                time.sleep(wish["pause"] * random.uniform(0.5, 1.5))  # not in step with anybody's poll
        print(json.dumps(began), flush=True)


if __name__ == "__main__":
    main()
