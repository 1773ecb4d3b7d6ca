"""`pod-worker pipelines list|show`: pipelines, and every parameter's meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

import click
import msgspec
from msgspec import Meta

from pod_worker.cli.completion import complete_pipelines
from pod_worker.cli.options import json_option
from pod_worker.cli.output import print_fields, print_json, print_line, print_table, say
from pod_worker.core.run import Json
from pod_worker.pipeline import Pipeline
from pod_worker.pipelines import MODES, PIPELINES, PLUGIN_FAULTS, find_pipeline

_TYPE_NAMES = {int: "integer", float: "number", str: "text", bool: "true/false", NoneType: "null", list: "list"}


@dataclass(frozen=True, slots=True)
class ParamDescription:
    name: str
    type: str
    unit: str | None
    is_required: bool
    default: Json
    meaning: str

    @property
    def shown_default(self) -> str:
        if self.is_required:
            return "required"
        if self.default is None:
            return "-"
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)


@click.group()
def pipelines() -> None:
    """List pipelines and their parameters."""


@pipelines.command("list")
@json_option
def list_pipelines(as_json: bool) -> None:
    """List the pipelines that workers can execute.

    Packages with an entry point in the group `pod_worker.pipelines` add theirs.
    """
    for fault in PLUGIN_FAULTS:
        say(f"warning: {fault.message}")
    if as_json:
        print_json([_pipeline_json(pipeline) for pipeline in PIPELINES.values()])
        return
    rows = [[each.name, " ".join(_modes(each.name)), each.summary] for each in PIPELINES.values()]
    print_table(["pipeline", "worker modes", "description"], rows)
    say("parameters: pod-worker pipelines show PIPELINE")


@pipelines.command()
@click.argument("name", metavar="PIPELINE", shell_complete=complete_pipelines)
@json_option
def show(name: str, as_json: bool) -> None:
    """Show every parameter of a pipeline."""
    pipeline = find_pipeline(name)
    if as_json:
        print_json(_pipeline_json(pipeline))
        return
    found = list(describe_params(pipeline))
    print_line(pipeline.summary)
    print_line("")
    required = " ".join(f"-p {each.name}=…" for each in found if each.is_required)
    example = f"pod-worker runs submit {name} {required}".rstrip()
    print_fields([("worker modes", " ".join(_modes(name))), ("example", example)])
    rows = [[each.name, each.type, each.unit or "-", each.shown_default, each.meaning] for each in found]
    print_table(["parameter", "type", "unit", "default", "meaning"], rows, {"default": {"required": "bold"}})


def _modes(name: str) -> list[str]:
    return [mode for mode, queues in MODES.items() if name in queues]


def _pipeline_json(pipeline: Pipeline) -> dict[str, Json]:
    return {
        "id": pipeline.name,
        "description": pipeline.summary,
        "modes": _modes(pipeline.name),
        "parameters": [
            {
                "name": each.name,
                "type": each.type,
                "unit": each.unit,
                "required": each.is_required,
                "default": each.default,
                "meaning": each.meaning,
            }
            for each in describe_params(pipeline)
        ],
    }


def describe_params(pipeline: Pipeline) -> Iterator[ParamDescription]:
    for each in msgspec.structs.fields(pipeline.params):
        metas = [part for part in get_args(each.type)[1:] if isinstance(part, Meta)]
        meaning = next((meta.description for meta in metas if meta.description), "")
        default = None if each.required else _default(each)
        yield ParamDescription(
            each.name, type_name(each.type), pipeline.units.get(each.name), each.required, default, meaning
        )


def type_name(kind: object) -> str:
    """`integer`, `number or null`, `one of lora, qlora`: what a parameter accepts."""
    if get_origin(kind) is Annotated:
        return type_name(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(dict.fromkeys(type_name(each) for each in get_args(kind)))
    if get_origin(kind) is list:
        return f"list of {type_name(get_args(kind)[0])}"
    return _TYPE_NAMES.get(kind, getattr(kind, "__name__", str(kind)))  # type: ignore[call-overload, no-any-return]


def _default(field: msgspec.structs.FieldInfo) -> Json:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
