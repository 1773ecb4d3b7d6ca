"""The foreign clients' own environments: a virtual environment or a node folder for each, made once and kept.

They live in a cache folder outside the project's own environment, because their dependencies are not ours.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SDKS = {"runpod==1.12.0": "sdk-1.12.0", "runpod==2.0.0rc2": "sdk-2.0.0rc2"}
SERVERS = {"@runpod/mcp-server@3.4.0": "mcp-3.4.0", "@runpod/mcp-server@4.0.0": "mcp-4.0.0"}
NODE_AT_LEAST = 20


class MissingClientError(Exception):
    """A client cannot be had here; the text says why and what would help."""


def python_of(package: str, cache: Path) -> Path:
    """The Python of a virtual environment that has the package. Raises MissingClientError."""
    folder = cache / SDKS[package]
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", package])
        (folder / ".ready").touch()
    return folder / "bin" / "python"


def program_of(package: str, cache: Path) -> Path:
    """The stdio program of an MCP server. Raises MissingClientError."""
    _check_node()
    folder = cache / SERVERS[package]
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "package.json").write_text("{}")
        _run(["npm", "install", "--silent", "--no-fund", "--no-audit", package], folder)
        (folder / ".ready").touch()
    return folder / "node_modules" / "@runpod" / "mcp-server" / "dist" / "stdio.mjs"


def _check_node() -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise MissingClientError(f"node and npm are not installed: install Node {NODE_AT_LEAST} or later")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.strip().lstrip("v").split(".")[0]) < NODE_AT_LEAST:
        raise MissingClientError(
            f"node {version.strip()} is too old: the MCP servers need {NODE_AT_LEAST} or later"
        )


def _run(command: list[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise MissingClientError(
            f"{' '.join(command[:4])} … failed: {(done.stderr or done.stdout).strip()[-300:]}"
        )
