"""An older version number for the installed torch, as an image with its own torch has."""

from __future__ import annotations

from pathlib import Path


def make_old_torch(folder: Path, version: str = "2.4.0") -> Path:
    """A folder for PYTHONPATH; importlib.metadata, which transformers asks, finds the version in it first."""
    info = folder / f"torch-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return folder
