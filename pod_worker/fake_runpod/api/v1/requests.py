"""Request bodies of REST v1.

An unknown key, a wrong type or an invalid enum value is a 400 that names it.

Fields and defaults follow RunPod's v1 OpenAPI document, which requires no field of a pod. GPU and data center
ids are checked against the catalogue, because RunPod's actual lists are longer than the document's.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind

Priority = Literal["availability", "custom"]
Number = int | float


class RequestBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PodSettings(RequestBody):
    """Fields of both create and update."""

    name: Annotated[str, Field(max_length=191)] | None = None
    imageName: str | None = None
    containerRegistryAuthId: str | None = None
    containerDiskInGb: int | None = None
    volumeInGb: int | None = None
    volumeMountPath: str | None = None
    env: dict[str, str] | None = None
    ports: list[str] | None = None
    dockerStartCmd: list[str] | None = None
    dockerEntrypoint: list[str] | None = None
    locked: bool | None = None
    globalNetworking: bool | None = None


class CreatePod(PodSettings):
    templateId: str | None = None
    networkVolumeId: str | None = None
    cloudType: Literal["SECURE", "COMMUNITY"] = "SECURE"
    computeType: Literal["GPU", "CPU"] = "GPU"
    gpuTypeIds: list[str] | None = None
    gpuCount: Annotated[int, Field(ge=1)] = 1
    gpuTypePriority: Priority = "availability"
    dataCenterIds: list[str] | None = None
    dataCenterPriority: Priority = "availability"
    cpuFlavorIds: list[str] | None = None
    cpuFlavorPriority: Priority = "availability"
    vcpuCount: int = 2
    interruptible: bool = False
    supportPublicIp: bool | None = None
    minRAMPerGPU: Number | None = None
    minVCPUPerGPU: Number | None = None
    minDownloadMbps: Number | None = None
    minUploadMbps: Number | None = None
    minDiskBandwidthMBps: Number | None = None
    allowedCudaVersions: list[str] | None = None
    countryCodes: list[str] | None = None


class UpdatePod(PodSettings):
    pass


class CreateVolume(RequestBody):
    name: str
    size: Annotated[int, Field(ge=0, le=4000)]
    dataCenterId: str


class UpdateVolume(RequestBody):
    name: str | None = None
    size: Annotated[int, Field(ge=1, le=4000)] | None = None


class TemplateSettings(RequestBody):
    containerDiskInGb: int | None = None
    containerRegistryAuthId: str | None = None
    dockerEntrypoint: list[str] | None = None
    dockerStartCmd: list[str] | None = None
    env: dict[str, str] | None = None
    isPublic: bool | None = None
    ports: list[str] | None = None
    readme: str | None = None
    volumeInGb: int | None = None
    volumeMountPath: str | None = None


class CreateTemplate(TemplateSettings):
    name: str
    imageName: str
    category: Literal["NVIDIA", "AMD", "CPU"] = "NVIDIA"
    isServerless: bool = False


class UpdateTemplate(TemplateSettings):
    name: str | None = None
    imageName: str | None = None


class CreateRegistry(RequestBody):
    name: str
    username: str
    password: str


B = TypeVar("B", bound=BaseModel)


def read_body(model: type[B], raw: bytes) -> B:
    """The body as `model`; an empty one is `{}`. Raises ApiError (INVALID)."""
    try:
        return model.model_validate_json(raw or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            detail = f'key "{where}" not in input schema'
        elif first["type"] == "missing":
            detail = f'missing required key "{where}"'
        else:
            detail = f'invalid value for key "{where}": {first["msg"]}' if where else "invalid JSON body"
        raise ApiError(ApiErrorKind.INVALID, detail) from None
