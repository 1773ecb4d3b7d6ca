"""The folder that AI-Scientist-v2 runs in: checkout, idea and settings.

A finished experiment survives in it: another attempt writes the paper of it, without experiments.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pod_worker.core.research.idea import read_idea
from pod_worker.core.run import Json
from pod_worker.stages.ai_scientist.checkout import CONFIG, LAUNCHER, Checkout
from pod_worker.stages.ai_scientist.models import SEARCH_STEPS, WRITING_STEPS
from pod_worker.stages.ai_scientist.params import AiScientistParams

IDEAS = "ideas.json"
CODE = "ideas.py"  # --load_code takes the file of the ideas' name
CONTINUATION = "continue_bfts.py"
NAME_LIMIT = 60
_SEARCH_SETTINGS: dict[str, tuple[str, ...]] = {
    "num_workers": ("agent", "num_workers"),
    "stage1_max_iters": ("agent", "stages", "stage1_max_iters"),
    "stage2_max_iters": ("agent", "stages", "stage2_max_iters"),
    "stage3_max_iters": ("agent", "stages", "stage3_max_iters"),
    "stage4_max_iters": ("agent", "stages", "stage4_max_iters"),
    "num_seeds": ("agent", "multi_seed_eval", "num_seeds"),
    "num_drafts": ("agent", "search", "num_drafts"),
    "max_debug_depth": ("agent", "search", "max_debug_depth"),
    "debug_prob": ("agent", "search", "debug_prob"),
    "exec_timeout": ("exec", "timeout"),
}


class ProgramFolder:
    def __init__(self, root: Path) -> None:
        self._root = root
        self.path = root / "program"
        self.experiments = self.path / "experiments"
        self._kept = root / "finished"  # an experiment, while the program around it is made again

    def clear(self) -> None:
        """Forget everything: the run starts from its beginning."""
        shutil.rmtree(self._root, ignore_errors=True)

    def rebuild(self, params: AiScientistParams, checkout: Checkout, kept: str | None) -> None:
        """A fresh copy of the program; the experiment `kept` stays."""
        if kept:
            self._move(self.experiments / kept, self._kept / kept)
        shutil.rmtree(self.path, ignore_errors=True)
        checkout.copy(self.path)
        self.experiments.mkdir()
        if kept:
            self._move(self._kept / kept, self.experiments / kept)
        shutil.rmtree(self._kept, ignore_errors=True)
        (self.path / CONFIG).write_text(yaml.safe_dump(adapted_config(params, checkout.config)))
        (self.path / IDEAS).write_text(json.dumps([idea_of(params)], indent=2))
        if params.code:
            (self.path / CODE).write_text(params.code)
        shutil.copyfile(Path(__file__).with_name("continuation.py"), self.path / CONTINUATION)

    def holds(self, name: str) -> bool:
        """Whether the experiment is here, also after a crash within `rebuild`."""
        if (self._kept / name).is_dir() and not (self.experiments / name).is_dir():
            self._move(self._kept / name, self.experiments / name)
        return (self.experiments / name).is_dir()

    def newest_experiment(self, besides: str | None = None) -> Path | None:
        """The folder of the program's last start; its name begins with the time."""
        found = self.experiments.iterdir() if self.experiments.is_dir() else ()
        folders = [each for each in found if each.is_dir() and not each.is_symlink() and each.name != besides]
        return max(folders, key=lambda each: each.name, default=None)

    def _move(self, source: Path, target: Path) -> None:
        if source.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            source.rename(target)


def idea_of(params: AiScientistParams) -> dict[str, Json]:
    """The idea with a name that can be part of a folder's name."""
    idea = read_idea(params.idea)
    words = re.sub(r"[^A-Za-z0-9]+", "_", idea.name or idea.title).strip("_")
    return {**idea.to_json(), "Name": words[:NAME_LIMIT].strip("_").lower() or "idea"}


def adapted_config(params: AiScientistParams, config: Mapping[str, Any]) -> dict[str, Any]:
    """bfts_config.yaml with this run's settings in their places."""
    adapted: dict[str, Any] = json.loads(json.dumps(config))
    for name, path in _SEARCH_SETTINGS.items():
        if (value := getattr(params, name)) is not None:
            _set(adapted, path, value)
    for step, path in SEARCH_STEPS.items():
        if model := getattr(params, step) or params.model:
            _set(adapted, (*path, "model"), model)
    return adapted


def _set(config: dict[str, Any], path: tuple[str, ...], value: Json) -> None:
    *sections, name = path
    for section in sections:
        inner = config.get(section)
        config[section] = inner if isinstance(inner, dict) else {}
        config = config[section]
    config[name] = value


def launcher_words(params: AiScientistParams, options: Mapping[str, Json], attempt: int) -> list[str]:
    """The arguments of launch_scientist_bfts.py for this run."""
    words = ["--load_ideas", IDEAS, "--idea_idx", "0", "--attempt_id", str(attempt)]
    words += ["--writeup-type", params.writeup_type, "--writeup-retries", str(params.writeup_retries)]
    words += ["--num_cite_rounds", str(params.num_cite_rounds)]
    return [*words, *_model_words(params, options), *_flags(params)]


def _model_words(params: AiScientistParams, options: Mapping[str, Json]) -> Iterator[str]:
    for step in WRITING_STEPS:
        model = getattr(params, step) or params.model
        if model and step in options:
            yield from (f"--{step}", model)


def _flags(params: AiScientistParams) -> Iterator[str]:
    if params.code:
        yield "--load_code"
    if params.skip_writeup:
        yield "--skip_writeup"
    if params.skip_review:
        yield "--skip_review"


def program_words(interpreter: Path, words: list[str], *, is_continued: bool) -> list[str]:
    """The command that starts the program in its folder."""
    return [str(interpreter), CONTINUATION if is_continued else LAUNCHER, *words]
