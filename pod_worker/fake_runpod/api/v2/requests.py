"""Request bodies of REST v2, parsed strictly.

An unknown key or a wrong type is a 422 that names it. Field names and bounds follow RunPod's v2 OpenAPI document
of August 2026; cross-field rules are in `cloud/validation.py` and `v2/pods.py`. The error texts imitate RunPod's
JSON-schema validator.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind

Text = Annotated[str, Field(min_length=1)]
CudaVersion = Annotated[str, Field(pattern=r"^\d+\.\d+$")]
Positive = Annotated[int, Field(ge=1)]
SshKey = Annotated[str, Field(pattern=r"^(ssh|ecdsa|sk)-[^\s]+ [^\s]+([ \t][^\n\r]*)?$")]


class RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PersistentMount(RequestBody):
    size: Annotated[int, Field(ge=10)]
    path: str


class NetworkMount(RequestBody):
    volumeId: str
    path: str


class Mounts(RequestBody):
    persistent: PersistentMount | None = None
    network: Annotated[list[NetworkMount], Field(max_length=1)] | None = None


class TemplateMounts(RequestBody):
    persistent: PersistentMount | None = None


class GpuRequest(RequestBody):
    id: str
    count: Positive | None = None
    allowedCudaVersions: list[CudaVersion] | None = None
    minCudaVersion: CudaVersion | None = None
    minRamPerGpu: Positive | None = None
    minVcpuCountPerGpu: Positive | None = None


class Cpu(RequestBody):
    id: Text
    vcpuCount: Annotated[int, Field(ge=2)]


class Container(RequestBody):
    image: str | None = None
    args: str | None = None
    disk: Positive | None = None
    env: dict[str, str] | None = None
    ports: list[str] | None = None
    registry: str | None = None


class CreatePod(Container):
    name: Text
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    gpu: GpuRequest | None = None
    cpu: Cpu | None = None
    dataCenterIds: list[str] = []
    mounts: Mounts | None = None
    startSsh: bool = False
    startJupyter: bool = False
    globalNetworking: bool = False
    templateId: Text | None = None


class UpdatePod(Container):
    name: Text | None = None
    mounts: Mounts | None = None
    locked: bool | None = None
    globalNetworking: bool | None = None
    templateId: str | None = None


class Action(RequestBody):
    action: Literal["start", "stop", "restart", "terminate"]


class CreateVolume(RequestBody):
    name: Text
    size: Annotated[int, Field(ge=10, le=4096)]
    dataCenter: Text
    type: Literal["STANDARD", "HIGH_PERFORMANCE"] | None = None


class UpdateVolume(RequestBody):
    name: Text | None = None
    size: Annotated[int, Field(ge=10, le=4096)] | None = None


class TemplateSettings(Container):
    category: Literal["CPU", "NVIDIA", "AMD"] | None = None
    public: bool | None = None
    serverless: bool | None = None
    startSsh: bool | None = None
    startJupyter: bool | None = None
    allowedCudaVersions: list[CudaVersion] | None = None
    mounts: TemplateMounts | None = None


class CreateTemplate(TemplateSettings):
    name: Text
    image: Text


class UpdateTemplate(TemplateSettings):
    name: Text | None = None


class CreateRegistry(RequestBody):
    name: Text
    username: Text
    password: Text


class SshKeys(RequestBody):
    keys: list[SshKey]


B = TypeVar("B", bound=BaseModel)
_TYPE_WORDS = {"int": "integer", "str": "string", "bool": "boolean", "dict": "object", "list": "array"}


def read_body(model: type[B], raw: bytes) -> B:
    """The body as `model`.

    Raises ApiError: RULE for invalid JSON, INVALID with one line per violation.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        violations = error.errors(include_url=False, include_input=False)
        if violations[0]["type"] == "json_invalid":
            raise ApiError(ApiErrorKind.RULE, "request body is not valid JSON") from None
        lines = tuple(_violation(item["type"], item["loc"], item["msg"]) for item in violations)
        raise ApiError(ApiErrorKind.INVALID, "Request validation failed.", lines) from None


def _violation(kind: str, where: tuple[int | str, ...], message: str) -> str:
    *parents, last = where or ("$",)
    if kind == "extra_forbidden":
        return f"{_path(parents)}: additional properties '{last}' not allowed"
    if kind == "missing":
        return f"{_path(parents)}: missing property '{last}'"
    if kind.endswith("_type"):
        word = kind.removesuffix("_type")
        message = f"wrong type, want {_TYPE_WORDS.get(word, word)}"
    return f"{_path(where)}: {message}"


def _path(where: tuple[int | str, ...] | list[int | str]) -> str:
    return ".".join(["$", *(str(part) for part in where)])
