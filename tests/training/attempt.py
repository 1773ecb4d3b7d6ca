"""One attempt of a training as a process of its own.

`python -m tests.training.attempt ROOT ATTEMPT KILL_AT PARAMS`: when the loss of step KILL_AT has been emitted, it
kills itself with SIGKILL, not politely.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from pod_worker.core.payload import Payload, StageMetric
from pod_worker.stages.finetune import FINETUNE
from tests.training.context import FolderContext


def main() -> None:
    root, attempt, kill_at, params = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])

    def die(payload: Payload) -> None:
        if isinstance(payload, StageMetric) and payload.name == "loss" and payload.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    context = FolderContext(root, params, attempt=attempt, pod=f"pod-{attempt}", on_emit=die)
    print(json.dumps(FINETUNE.run(context)))


if __name__ == "__main__":
    main()
