"""Which GPUs the programs of a search use: one each, without importing torch."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping


def visible_gpus(env: Mapping[str, str] = os.environ, devices: str = "/dev/nvidia[0-9]*") -> tuple[int, ...]:
    """Indexes of the GPUs that this process may use.

    UUIDs in CUDA_VISIBLE_DEVICES count by position: CUDA numbers what it shows from 0.
    """
    shown = env.get("CUDA_VISIBLE_DEVICES")
    if shown is None:
        return tuple(range(len(glob.glob(devices))))
    names = [name.strip() for name in shown.split(",") if name.strip() and name.strip() != "-1"]
    return tuple(int(name) if name.isdigit() else position for position, name in enumerate(names))


def slots_of(wanted: int, gpus: tuple[int, ...]) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """How many programs run at once, and the GPUs of each slot.

    `wanted` 0: one for each GPU, or one without a GPU. More slots than GPUs share them.
    """
    count = wanted or max(len(gpus), 1)
    return count, tuple((gpus[slot % len(gpus)],) for slot in range(count)) if gpus else ()
