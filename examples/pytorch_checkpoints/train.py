"""Trains a small network on scikit-learn's digits with PyTorch and continues from its last checkpoint.

Run it with `pod-worker run job.yaml`, or alone with `python train.py`: it needs nothing of pod_worker.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from sklearn.datasets import load_digits

CHECKPOINTS = Path(os.environ.get("CHECKPOINT_DIR", "checkpoints"))
OUTPUTS = Path(os.environ.get("OUTPUT_DIR", "outputs"))
EVENTS = os.environ.get("POD_WORKER_EVENTS")


def report(**line: float | str) -> None:
    """One JSON line; pod_worker shows it as a metric or as progress."""
    if EVENTS:
        with open(EVENTS, "a") as file:
            file.write(json.dumps(line) + "\n")


def save(path: Path, state: dict[str, object]) -> None:
    """Never leaves a half-written file under the name."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=float(os.environ.get("LR", "0.05")))
    parser.add_argument("--epochs", type=int, default=int(os.environ.get("EPOCHS", "20")))
    options = parser.parse_args()
    torch.manual_seed(0)
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32) / 16
    y = torch.tensor(data.target)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=options.lr, momentum=0.9)
    CHECKPOINTS.mkdir(exist_ok=True)
    OUTPUTS.mkdir(exist_ok=True)
    newest = CHECKPOINTS / "state.pt"
    first = 0
    if newest.exists():
        state = torch.load(newest)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"]
        print(f"continuing after epoch {first}", flush=True)
    loss = torch.tensor(0.0)
    for epoch in range(first, options.epochs):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch))
        for rows in order.split(64):
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save(newest, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1})
        report(metric="loss", value=float(loss), step=epoch + 1)
        report(progress=(epoch + 1) / options.epochs)
        print(f"epoch {epoch + 1}: loss {float(loss):.4f}", flush=True)
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).float().mean())
    torch.save(model.state_dict(), OUTPUTS / "model.pt")
    (OUTPUTS / "result.json").write_text(json.dumps({"accuracy": round(accuracy, 6), "epochs": options.epochs}))
    print(f"accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
