"""The protections that the interpreter of this process can have on a machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pod_worker.process.folder_access import closed_folder
from pod_worker.sandbox.identity import SANDBOX_UID
from pod_worker.sandbox.layers import DEFAULT_FLOOR


def local_floor() -> tuple[str | None, str | None]:
    """POD_WORKER_SANDBOX_FLOOR for demos of the scripted model, and a note for people.

    None: the default. Root wants programs to have a user of their own, who cannot start an interpreter in a
    closed folder such as root's home.
    """
    if os.geteuid() != 0:
        return None, None
    for python in (Path(sys.executable), Path(os.path.realpath(sys.executable))):
        if closed := closed_folder(python, SANDBOX_UID, (SANDBOX_UID,)):
            note = (
                f"programs keep the worker's user, because other users cannot enter {closed}, where this Python "
                "is. The scripted model's programs are harmless; for other models, install Python elsewhere."
            )
            return ",".join(DEFAULT_FLOOR), note
    return None, None
