"""Training code in the sandbox: seeds, threads, a data loader with workers."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from pod_worker.core.execution import ExecutionLimits, ExecutionRequest, ExecutionResult
from pod_worker.sandbox.client import SandboxClient
from pod_worker.sandbox.starting import LocalStarter
from tests.sandbox.support import NeverStop, floor, open_python

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("training_libraries")]

TRAINS = """
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    data = TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,)))
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for x, y in DataLoader(data, batch_size=16, shuffle=True, num_workers=WORKERS):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(loss.item(), torch.get_num_threads())
"""


@pytest.fixture(scope="module")
def torch_runner(library_path: dict[str, str]) -> Iterator[SandboxClient]:
    starter = LocalStarter(["numpy", "torch"], python=open_python(), variables=library_path)
    with SandboxClient(starter, floor()) as client:
        yield client


def train(runner: SandboxClient, folder: Path, workers: int, **options: object) -> ExecutionResult:
    (folder / "solution.py").write_text(textwrap.dedent(TRAINS).replace("WORKERS", str(workers)))
    request = ExecutionRequest(
        **{
            "folder": folder,
            "argv": ("solution.py",),
            "limits": ExecutionLimits(wall_seconds=150),
            "environment": {"OMP_NUM_THREADS": "1"},
            **options,
        }
    )
    return runner.execute(request, NeverStop())


def test_training_in_a_fork_follows_its_seed(torch_runner: SandboxClient, folder: Path) -> None:
    first, second, other = (train(torch_runner, folder, 0, seed=seed) for seed in (1, 1, 2))
    assert first.is_ok, first
    assert first.output == second.output != other.output
    assert first.output.split()[1] == "1"


def test_a_data_loader_with_workers_has_unix_sockets(torch_runner: SandboxClient, folder: Path) -> None:
    """Without them its workers cannot send, and it waits until the wall time ends it."""
    result = train(torch_runner, folder, 2, unix_sockets=True)
    assert result.is_ok, result
