"""A checkout of AI-Scientist-v2: required files, launcher options, a copy.

The checkout is read and never executed or changed: each attempt runs a copy, beside which the original writes its
`experiments` folder. Python files are parsed, not imported.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pod_worker.core.failure import FailureCode, RunError
from pod_worker.core.run import Json

LAUNCHER = "launch_scientist_bfts.py"
CONFIG = "bfts_config.yaml"
PACKAGE = "ai_scientist"
EXPERIMENTS = f"{PACKAGE}/treesearch/perform_experiments_bfts_with_agentmanager.py"
VISION = f"{PACKAGE}/vlm.py"
REQUIRED = (LAUNCHER, CONFIG, f"{PACKAGE}/llm.py", VISION, EXPERIMENTS)
GIT_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Checkout:
    folder: Path
    commit: str | None  # None where it is no Git repository
    options: Mapping[str, Json]  # option of the launcher without dashes -> default
    config: Mapping[str, Any]  # bfts_config.yaml
    vision_models: frozenset[str]  # that it can show pictures to; empty where it does not list them

    def copy(self, target: Path) -> None:
        """Make `target` a copy of the program, without results and compiled files."""
        target.mkdir(parents=True)
        for file in sorted(self.folder.glob("*.py")):
            shutil.copyfile(file, target / file.name)
        shutil.copyfile(self.folder / CONFIG, target / CONFIG)
        shutil.copytree(
            self.folder / PACKAGE,
            target / PACKAGE,
            ignore=shutil.ignore_patterns("__pycache__", "*.pyc"),
            ignore_dangling_symlinks=True,
        )


def open_checkout(path: str) -> Checkout:
    """Raises RunError(INVALID_INPUT) that names what is missing or cannot be read."""
    folder = Path(path).expanduser()
    try:
        missing = next((name for name in REQUIRED if not (folder / name).is_file()), None)
        if missing:
            raise _refused(path, f"{missing} is missing" if folder.is_dir() else "there is no such folder")
        return Checkout(
            folder.resolve(),
            _commit(folder),
            _launcher_options(_parsed(folder / LAUNCHER)),
            _config(folder / CONFIG),
            _vision_models(_parsed(folder / VISION)),
        )
    except PermissionError as error:
        raise _refused(
            path, f"{error.filename} may not be read by the user of runs; `chmod -R o+rX` opens it"
        ) from error
    except (SyntaxError, ValueError, yaml.YAMLError, OSError) as error:
        raise _refused(path, f"a file cannot be read: {str(error)[:300]}") from error


def _refused(path: str, reason: str) -> RunError:
    return RunError(
        FailureCode.INVALID_INPUT,
        f"{path} is no checkout of AI-Scientist-v2: {reason}. Fix: clone AI-Scientist-v2 on the worker's machine "
        f"and give the folder that holds {LAUNCHER} as `checkout`",
    )


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), path.name)


def _config(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or not isinstance(found.get("agent"), dict):
        raise ValueError(f"{CONFIG} has no section `agent`")
    return found


def _launcher_options(tree: ast.Module) -> dict[str, Json]:
    """The options that `parser.add_argument` names, with their literal defaults."""
    found: dict[str, Json] = {}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr == "add_argument" and node.args and isinstance(node.args[0], ast.Constant):
            default = next((each.value for each in node.keywords if each.arg == "default"), None)
            name = str(node.args[0].value).lstrip("-")
            found[name] = default.value if isinstance(default, ast.Constant) else None
    if "load_ideas" not in found:
        raise ValueError(f"{LAUNCHER} has no option --load_ideas")
    return found


def _vision_models(tree: ast.Module) -> frozenset[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "AVAILABLE_VLMS" for target in node.targets
        ):
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


def _commit(folder: Path) -> str | None:
    if not (folder / ".git").exists():
        return None
    # The checkout may belong to another user, which Git refuses without this setting.
    command = ["git", "-c", f"safe.directory={folder.resolve()}", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        end = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return end.stdout.strip() or None
