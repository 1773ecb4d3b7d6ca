"""The demo's material at its smallest, built once, and one thread: the machine is shared and sums must repeat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("torch") is None:
    pytest.fail("torch is not installed, and tests/training needs it. Fix: make train", pytrace=False)

from pod_worker.core.run import Json
from pod_worker.training.data.demo_data import DemoData, ModelShape, build

TINY = ModelShape(hidden=64, layers=2, heads=2, key_value_heads=1, intermediate=128, positions=256)


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> DemoData:
    return build(tmp_path_factory.mktemp("material"), rows=120, shape=TINY)


@pytest.fixture
def params(material: DemoData) -> Callable[..., dict[str, Json]]:
    """Parameters of a training of about a second, with changes."""

    def make(**changes: Json) -> dict[str, Json]:
        fixed: dict[str, Json] = {
            "model": str(material.model),
            "dataset": str(material.dataset),
            "eval_fraction": 0.1,
            "max_length": 128,
            "batch_size": 4,
            "max_steps": 12,
            "rank": 4,
            "lr": 1e-2,
            "warmup": 2,
            "dropout": 0.1,
            "log_every": 3,
            "threads": 1,
            "checkpoint_every_minutes": 0,
        }
        return fixed | changes

    return make


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test may reach the real hub, whatever it does."""
    point_hub_at("http://127.0.0.1:9", tmp_path / "hub", monkeypatch)


def point_hub_at(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
