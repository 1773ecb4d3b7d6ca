"""Makes the synthetic stage give its whole environment away; on the PYTHONPATH of one test's worker, nowhere else."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def leak(context: Any, number: int) -> dict[str, Any]:
    """Print, log, checkpoint, return or raise every variable that the run has."""
    found = dict(os.environ)
    print(found, json.dumps(found), flush=True)
    os.write(2, repr(found).encode() + b"\n")
    context.log(f"environment: {found}", environment=found, nested=json.dumps(found))
    context.checkpoint({"environment": found})
    with open(os.environ["PYTHON_LEAK_EVIDENCE"], "w") as file:
        json.dump(found, file)
    context.stop.wait(float(context.run.params.get("seconds", 0)))
    if context.run.params.get("fail_at"):
        raise ValueError(f"no access with {found} {sorted(found.values())!r}")
    return {"environment": found}


if "pod_worker.worker.child" in sys.orig_argv and "POD_WORKER_ATTEMPT_TAG" in os.environ:
    from pod_worker.stages import synthetic

    synthetic.run_synthetic = leak
