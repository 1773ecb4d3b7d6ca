"""The process that runs rows, for the runner: `python -m benchmarks.gpu_check.child FOLDER FD cpu|cuda ROW...`.

Writes one JSON line a row to the file descriptor FD; stdout and stderr are for the libraries.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from benchmarks.gpu_check.checks import CHECKS, CheckContext, MachineCheck, SkippedCheckError
from benchmarks.gpu_check.runner import Status


def main(folder: Path, handle: int, device: str, names: list[str]) -> None:
    checks = {each.name: each for each in CHECKS}
    for number, name in enumerate(names):
        place = folder / str(number)
        place.mkdir()
        status, figure = _outcome(checks[name], CheckContext(device, place))
        os.write(handle, json.dumps({"status": status.value, "figure": figure}).encode() + b"\n")


def _outcome(check: MachineCheck, context: CheckContext) -> tuple[Status, str]:
    try:
        return Status.OK, check.run(context)
    except SkippedCheckError as reason:
        return Status.SKIPPED, str(reason)
    except Exception as error:  # whatever a library raises here is what the row has found
        first = (str(error).strip().splitlines() or ["no message"])[0]
        return Status.FAILED, f"{type(error).__name__}: {first[:300]}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
