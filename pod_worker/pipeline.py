"""A pipeline as data: name, parameters, stages, and what its runs may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from pod_worker.core.run import Json
from pod_worker.core.stage import Stage


def _never(params: Mapping[str, Json]) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Pipeline:
    name: str
    summary: str  # one sentence for `pod-worker pipelines list`
    check_params: Callable[[dict[str, Json]], dict[str, Json]]
    stages: Callable[[dict[str, Json]], tuple[Stage, ...]]
    params: type[msgspec.Struct]  # the fields with types, defaults and descriptions
    units: Mapping[str, str] = field(default_factory=dict)  # parameter -> unit
    paths: tuple[str, ...] = ()  # parameters that may name a file or folder of the worker's machine
    asks_models: bool = False  # its child receives the keys of language models
    executes_user_code: bool = False  # its child's memory is closed to the program that it starts
    needs_sandbox: Callable[[Mapping[str, Json]], bool] = _never  # by parameters: stages open the sandbox
    sandbox_modules: tuple[str, ...] = ()  # that its programs find imported; empty: those of experiments
    ends_in_review: bool = False  # a finished run waits for a person's verdict
    modes: tuple[str, ...] = ("all",)  # of a plugin: the worker modes that claim its runs
