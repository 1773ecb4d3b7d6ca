"""A job that saves its state after each step. Its result depends on the number of steps alone.

Run by killed_command.py as the user's program: standard library only. A checkpoint is a folder that gets its name
when it is whole. At its start the job examines every checkpoint that was restored.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

WEIGHTS_BYTES = 1024 * 1024 + 100  # two chunks of a snapshot
KEPT = 2
PAUSES = (0.0, 0.0, 0.01, 0.2)  # seconds: only a folder that rests is copied


def next_state(state: str, step: int) -> str:
    return hashlib.sha256(f"{state} {step}".encode()).hexdigest()


def weights(state: str) -> bytes:
    return random.Random(state).randbytes(WEIGHTS_BYTES)


def result(steps: int) -> str:
    """Of a job that was never interrupted."""
    state = ""
    for step in range(steps):
        state = next_state(state, step)
    return state


def restored(folder: Path) -> tuple[int, str]:
    """(next step, state). Raises AssertionError, OSError or ValueError for a half checkpoint."""
    found = sorted(path for path in folder.glob("step-*") if not path.name.endswith((".new", ".old")))
    last = (0, "")
    for path in found:
        saved = json.loads((path / "state.json").read_text())
        assert path.name == f"step-{saved['step']:05d}", path
        assert (path / "weights").read_bytes() == weights(saved["state"]), path
        last = (saved["step"] + 1, saved["state"])
    return last


def save(folder: Path, step: int, state: str) -> None:
    new = folder / f"step-{step:05d}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    (new / "weights").write_bytes(weights(state))
    (new / "state.json").write_text(json.dumps({"step": step, "state": state}))
    new.rename(folder / f"step-{step:05d}")
    for old in sorted(folder.glob("step-?????"))[:-KEPT]:
        aside = old.with_suffix(".old")
        old.rename(aside)
        shutil.rmtree(aside)


def main(steps: int, evidence: Path) -> None:
    folder = Path(os.environ["CHECKPOINT_DIR"])

    def note(word: str) -> None:
        with open(evidence, "a") as file:
            file.write(f"{word}\n")

    try:
        step, state = restored(folder)
    except (AssertionError, OSError, ValueError, KeyError) as error:
        note(f"half {error!r}")
        raise
    if os.environ["RESUME"] == "1":
        note(f"resumed {step}")
    while step < steps:
        state = next_state(state, step)
        save(folder, step, state)
        with open(os.environ["POD_WORKER_EVENTS"], "a") as events:
            events.write('{"checkpoint": true}\n')
        step += 1
        time.sleep(random.Random(state).choice(PAUSES))
    (Path(os.environ["OUTPUT_DIR"]) / "result").write_text(state)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
