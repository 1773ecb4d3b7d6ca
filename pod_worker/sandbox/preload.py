"""What the warm server imports before it forks, and the random state of a fork.

torch is only reached by its name: the package works without it. Never CUDA: a process that has initialized it
cannot fork children that use it (pytorch #68861).
"""

from __future__ import annotations

import gc
import hashlib
import importlib
import random
import sys
import weakref
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

# Also what scripts of experiments import first. Modules that are not installed are left out.
DEFAULT_MODULES = (
    "numpy", "torch", "matplotlib.pyplot", "sklearn.linear_model", "sklearn.ensemble", "sklearn.metrics",
    "sklearn.model_selection", "sklearn.pipeline", "sklearn.preprocessing", "json", "csv", "traceback",
    "linecache", "multiprocessing.pool",
)  # fmt: skip


def preload(names: Sequence[str]) -> tuple[str, ...]:
    """Import what is installed; returns the names of those modules."""
    found = [name for name in names if find_spec(name.partition(".")[0]) is not None]
    for name in found:
        if name.startswith("matplotlib"):
            importlib.import_module("matplotlib").use("Agg")
        importlib.import_module(name)
    if torch := sys.modules.get("torch"):
        _warm_up_torch(torch)
    seed_all(0)  # imports the generators
    _forget_finalizers()
    gc.collect()
    gc.freeze()  # a collection in a child must not copy the pages of every object
    return tuple(found)


def _warm_up_torch(torch: Any) -> None:
    """The first optimizer imports torch._dynamo for a second and more.

    No parallel region and no backward pass: their threads would not exist in a fork.
    """
    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    torch.optim.Adam([parameter]).step()
    if torch.cuda.is_initialized():
        raise RuntimeError("the import of torch initialized CUDA; no child of this process could use a GPU")


def _forget_finalizers() -> None:
    """At its exit a program runs its own finalizers only.

    torch has hundreds for objects that die with the process; they take longer than a short program.
    """
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False


def set_threads(threads: int) -> None:
    """The threads of torch in a fork."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def seed_all(seed: int) -> str:
    """Seed random, numpy and torch.

    Returns a digest of the first numbers of each; they are drawn again afterwards.
    """
    _seed(seed)
    proof = hashlib.sha256(repr(_draw()).encode()).hexdigest()
    _seed(seed)
    return proof


def _seed(seed: int) -> None:
    random.seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)  # of the GPUs as well, when they are initialized


def _draw() -> list[Any]:
    numbers: list[Any] = [random.random() for _ in range(4)]
    if numpy := sys.modules.get("numpy"):
        numbers += numpy.random.random(4).tolist()
    if torch := sys.modules.get("torch"):
        numbers += torch.rand(4).tolist()
    return numbers
