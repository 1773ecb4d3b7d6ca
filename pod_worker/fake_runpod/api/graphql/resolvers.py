"""The GraphQL queries and mutations.

One object per request, for the account, one pod, or an unknown caller.

They raise `ApiError`, which `endpoint.py` formats. Arguments are already validated against the schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pod_worker.core.run import Json
from pod_worker.fake_runpod import timestamps
from pod_worker.fake_runpod.api.caller import ApiCaller
from pod_worker.fake_runpod.api.graphql.views import data_center_view, gpu_view, pod_view, template_view, user_view
from pod_worker.fake_runpod.cloud.account import Template
from pod_worker.fake_runpod.cloud.pod import Pod, PodSpec
from pod_worker.fake_runpod.errors import NO_INSTANCES_GRAPHQL, ApiError, ApiErrorKind
from pod_worker.fake_runpod.runtime import SimulatorRuntime

Input = Mapping[str, Json]
Info = Any  # graphql.GraphQLResolveInfo; no operation uses it
DEFAULT_CPU = "cpu3c-2-4"


class Resolvers:
    """Root value of one request: the executor calls the methods by their field names."""

    def __init__(self, runtime: SimulatorRuntime, caller: ApiCaller) -> None:
        self._runtime = runtime
        self._simulator = runtime.simulator
        self._caller = caller

    # queries

    def gpuTypes(self, info: Info, input: Input | None = None) -> list[dict[str, Json]]:
        wanted = {input["id"]} if input and input.get("id") else set(input.get("ids") or ()) if input else set()
        found = self._simulator.catalogue.gpus.values()
        return [gpu_view(gpu, self._simulator) for gpu in found if not wanted or gpu.id in wanted]

    def dataCenters(self, info: Info) -> list[dict[str, Json]]:
        return [data_center_view(dc, self._simulator) for dc in self._simulator.catalogue.data_centers.values()]

    def cpuFlavors(self, info: Info) -> list[dict[str, Json]]:
        return [
            {
                "id": cpu.id,
                "groupName": cpu.group,
                "displayName": cpu.name,
                "minVcpu": 2,
                "maxVcpu": 32,
                "ramMultiplier": cpu.gb_per_vcpu,
            }
            for cpu in self._simulator.catalogue.cpus.values()
        ]

    def myself(self, info: Info) -> dict[str, Json] | None:
        return user_view(self._simulator) if self._caller.is_known and self._caller.pod_id is None else None

    def pod(self, info: Info, input: Input | None = None) -> dict[str, Json] | None:
        pod_id = str((input or {}).get("podId"))
        try:
            return pod_view(self._own_pod(pod_id), self._simulator)
        except ApiError as error:
            if error.kind is ApiErrorKind.NOT_FOUND:
                return None
            raise

    # pods

    def podFindAndDeployOnDemand(self, info: Info, input: Input | None = None) -> dict[str, Json]:
        return self._create(input or {}, interruptible=False)

    def podRentInterruptable(self, info: Info, input: Input) -> dict[str, Json]:
        return self._create(input, interruptible=True)

    def deployCpuPod(self, info: Info, input: Input) -> dict[str, Json]:
        spec = self._container(input)
        flavor, _, size = (input.get("instanceId") or DEFAULT_CPU).partition("-")
        vcpus = size.split("-")[0]
        spec.cpu_id, spec.gpu_count = flavor, 0
        spec.vcpu_count = int(vcpus) if vcpus.isdecimal() else 2
        spec.volume_gb = 0
        return self._place(spec)

    def podStop(self, info: Info, input: Input) -> dict[str, Json]:
        pod = self._own_pod(input["podId"])
        if "stop" in pod.actions:
            self._simulator.act(pod, "stop")
        return pod_view(pod, self._simulator)

    def podResume(self, info: Info, input: Input) -> dict[str, Json]:
        pod = self._own_pod(input["podId"])
        if "start" in pod.actions:
            self._simulator.act(pod, "start")
        return pod_view(pod, self._simulator)

    def podBidResume(self, info: Info, input: Input) -> dict[str, Json]:
        return self.podResume(info, input)

    def podRestart(self, info: Info, input: Input) -> dict[str, Json]:
        pod = self._own_pod(input["podId"])
        self._simulator.act(pod, "restart")
        return pod_view(pod, self._simulator)

    def podTerminate(self, info: Info, input: Input) -> None:
        self._simulator.act(self._own_pod(input["podId"]), "terminate")

    # the account

    def updateUserSettings(self, info: Info, input: Input | None = None) -> dict[str, Json]:
        self._require_account()
        text = (input or {}).get("pubKey") or ""
        self._simulator.account.ssh_keys[:] = [line.strip() for line in text.splitlines() if line.strip()]
        return user_view(self._simulator)

    def createNetworkVolume(self, info: Info, input: Input) -> dict[str, Json]:
        self._require_account()
        made = self._runtime.resources.create_volume(input["name"], input["size"], input["dataCenterId"], None)
        return {"id": made.id, "name": made.name, "size": made.size_gb, "dataCenterId": made.data_center_id}

    def deleteNetworkVolume(self, info: Info, input: Input) -> None:
        self._require_account()
        self._runtime.resources.delete_volume(input["id"])

    def saveTemplate(self, info: Info, input: Input | None = None) -> dict[str, Json]:
        self._require_account()
        sent = input or {}
        template = Template(
            id="",
            name=sent.get("name") or "",
            image=sent.get("imageName") or "",
            args=sent.get("dockerArgs") or "",
            disk_gb=sent.get("containerDiskInGb") or 10,
            volume_gb=sent.get("volumeInGb") or 0,
            mount_path=sent.get("volumeMountPath") or "/workspace",
            env=_env(sent),
            ports=_ports(sent),
            is_serverless=bool(sent.get("isServerless")),
            is_public=bool(sent.get("isPublic")),
        )
        return template_view(self._runtime.resources.add_template(template))

    def saveRegistryAuth(self, info: Info, input: Input) -> dict[str, Json]:
        self._require_account()
        made = self._runtime.resources.create_registry(input["name"])
        return {"id": made.id, "name": made.name}

    def deleteRegistryAuth(self, info: Info, registryAuthId: str | None = None) -> bool:
        self._require_account()
        self._runtime.resources.delete_registry(registryAuthId or "")
        return True

    # internals

    def _require_account(self) -> None:
        if not self._caller.is_known:
            raise ApiError(ApiErrorKind.FORBIDDEN, "Not authorized")
        if self._caller.pod_id is not None:
            raise ApiError(ApiErrorKind.FORBIDDEN, "access denied")

    def _own_pod(self, pod_id: str) -> Pod:
        """A pod that the caller may change: any for the account, itself for a pod."""
        if self._caller.pod_id != pod_id:
            self._require_account()
        return self._simulator.find(pod_id)

    def _create(self, sent: Input, *, interruptible: bool) -> dict[str, Json]:
        spec = self._container(sent)
        wanted = [sent.get("gpuTypeId"), *(sent.get("gpuTypeIdList") or ())]
        spec.gpu_ids = tuple(gpu for gpu in wanted if gpu)
        if not spec.gpu_ids:
            raise ApiError(ApiErrorKind.RULE, "gpuTypeId is required")
        spec.gpu_count = 1 if sent.get("gpuCount") is None else sent["gpuCount"]
        spec.volume_gb = 0 if spec.network_volume_id else sent.get("volumeInGb") or spec.volume_gb
        spec.interruptible = interruptible
        spec.allowed_cuda = tuple(sent.get("allowedCudaVersions") or ())
        spec.min_cuda = None if spec.allowed_cuda else sent.get("minCudaVersion") or None
        return self._place(spec)

    def _place(self, spec: PodSpec) -> dict[str, Json]:
        try:
            return pod_view(self._simulator.create(spec, "graphql"), self._simulator)
        except ApiError as error:
            if error.kind is ApiErrorKind.CAPACITY:
                raise ApiError(ApiErrorKind.CAPACITY, NO_INSTANCES_GRAPHQL) from None
            raise

    def _container(self, sent: Input) -> PodSpec:
        self._require_account()
        template_id = sent.get("templateId") or None
        template = (
            self._runtime.resources.template(template_id) if template_id else Template("", "", "", disk_gb=10)
        )
        image = sent.get("imageName") or template.image
        if not image:
            raise ApiError(ApiErrorKind.RULE, "imageName or templateId is required")
        cloud = sent.get("cloudType") or "SECURE"
        data_center = sent.get("dataCenterId") or None
        return PodSpec(
            name=sent.get("name") or "my pod",
            image=image,
            clouds=("SECURE", "COMMUNITY") if cloud == "ALL" else (cloud,),
            data_center_ids=(data_center,) if data_center else (),
            args=sent.get("dockerArgs") or template.args,
            disk_gb=sent.get("containerDiskInGb") or template.disk_gb,
            volume_gb=template.volume_gb,
            mount_path=sent.get("volumeMountPath") or template.mount_path,
            network_volume_id=sent.get("networkVolumeId") or None,
            env=template.env | _env(sent),
            ports=_ports(sent) or template.ports,
            registry_id=sent.get("containerRegistryAuthId") or template.registry_id,
            template_id=template_id,
            global_networking=bool(sent.get("globalNetwork")),
            start_ssh=bool(sent.get("startSsh")),
            start_jupyter=bool(sent.get("startJupyter")),
            stop_after_ns=_instant(sent, "stopAfter"),
            terminate_after_ns=_instant(sent, "terminateAfter"),
        )


def _env(sent: Input) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in sent.get("env") or ()}


def _ports(sent: Input) -> tuple[str, ...]:
    return tuple(port.strip() for port in (sent.get("ports") or "").split(",") if port.strip())


def _instant(sent: Input, name: str) -> int | None:
    if not sent.get(name):
        return None
    try:
        return timestamps.parse(sent[name])
    except ValueError as error:
        raise ApiError(ApiErrorKind.RULE, f"{name}: {error}") from None
