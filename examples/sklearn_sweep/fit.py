"""Fits one support-vector machine and writes its score; a sweep runs it once for each setting."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

parser = argparse.ArgumentParser()
parser.add_argument("--c", type=float, default=1.0)
parser.add_argument("--gamma", type=float, default=0.001)
options = parser.parse_args()

x, y = load_digits(return_X_y=True)
score = float(cross_val_score(SVC(C=options.c, gamma=options.gamma), x[:600], y[:600], cv=3).mean())

outputs = Path(os.environ.get("OUTPUT_DIR", "."))
(outputs / "score.json").write_text(json.dumps({"c": options.c, "gamma": options.gamma, "accuracy": score}))
if events := os.environ.get("POD_WORKER_EVENTS"):
    with open(events, "a") as file:
        file.write(json.dumps({"metric": "accuracy", "value": score}) + "\n")
print(f"C={options.c} gamma={options.gamma}: accuracy {score:.4f}")
