"""The state of every random generator as tensors, so that no pickle is read."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy
import torch
from torch import Tensor


def capture() -> dict[str, Tensor]:
    """python, numpy, torch and every CUDA device."""
    _, words, gauss = random.getstate()
    # The legacy generator is the one that libraries share; numpy's newer ones have owners of their own.
    legacy = numpy.random.get_state(legacy=False)
    keys, place = legacy["state"]["key"], legacy["state"]["pos"]
    has_gauss, cached = legacy["has_gauss"], legacy["gauss"]
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(keys.astype(numpy.int64)),
        "numpy_place": torch.tensor([place, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state |= {f"cuda.{device}": each for device, each in enumerate(torch.cuda.get_rng_state_all())}
    return state


def restore(state: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(state["torch"])
    gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss[0] if gauss else None))
    place, has_gauss = state["numpy_place"].tolist()
    keys = state["numpy"].numpy().astype(numpy.uint32)
    numpy.random.set_state(("MT19937", keys, place, has_gauss, state["numpy_gauss"].item()))
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            # A checkpoint from a machine with fewer GPUs, or none, has nothing to say about this one.
            if f"cuda.{device}" in state:
                torch.cuda.set_rng_state(state[f"cuda.{device}"], device)


def seed_all(seed: int) -> None:
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
