"""RunPod REST v1, a legacy adapter for accounts that still have it.

Address: `https://rest.runpod.io/v1`. v1's RUNNING is the desired status: a pod without a mapped SSH port is
STARTING here. v1 has no logs (UnsupportedError) and no catalogue; `catalogue_source` (GraphQL) provides the
catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from pod_worker.pods.catalogue import BillingRecord, Catalogue, LogLine, Volume
from pod_worker.pods.errors import ServerError, UnsupportedError
from pod_worker.pods.json_view import JsonObject, UndecodableReplyError, documents
from pod_worker.pods.pod import Cloud, Pod, PodSpec, PodStatus, PortMapping, SshAddress, status_of
from pod_worker.pods.provider import Known, ListResult, PodProvider, ReadResult, Unknown
from pod_worker.pods.read_results import all_named, list_result, read_result
from pod_worker.pods.runpod.legacy_wire import cuda_versions_from, legacy_error
from pod_worker.pods.runpod.transport import HttpReply, Json, Transport, path_segment

_INCLUDE: Json = {"includeMachine": "true", "includeNetworkVolume": "true"}


class RunpodV1:
    api = "v1"

    def __init__(self, transport: Transport, *, catalogue_source: PodProvider | None = None) -> None:
        self._transport = transport
        self._catalogue_source = catalogue_source

    def close(self) -> None:
        self._transport.close()
        if self._catalogue_source is not None:
            self._catalogue_source.close()

    def list(self) -> ListResult[Pod]:
        return list_result(lambda: tuple(map(pod_from, self._array("/v1/pods", _INCLUDE))))

    def get(self, pod_id: str) -> ReadResult[Pod]:
        return read_result(
            lambda: pod_from(JsonObject(self._ok("GET", f"/v1/pods/{path_segment(pod_id)}", params=_INCLUDE).body))
        )

    def find_by_name(self, name: str) -> ReadResult[tuple[Pod, ...]]:
        return all_named(name, self.list())

    def create(self, spec: PodSpec) -> Pod:
        reply = self._ok("POST", "/v1/pods", body=create_body(spec))
        try:
            return pod_from(JsonObject(reply.body))
        except UndecodableReplyError as error:
            raise ServerError(f"create answered {reply.status} but {error}", status=reply.status) from error

    def stop(self, pod_id: str) -> None:
        self._ok("POST", f"/v1/pods/{path_segment(pod_id)}/stop")

    def start(self, pod_id: str) -> None:
        self._ok("POST", f"/v1/pods/{path_segment(pod_id)}/start")

    def terminate(self, pod_id: str) -> None:
        self._ok("DELETE", f"/v1/pods/{path_segment(pod_id)}")

    def logs(
        self, pod_id: str, *, tail: int = 100, since: str | None = None, follow: bool = False
    ) -> Iterator[LogLine]:
        raise UnsupportedError("REST v1 has no pod logs; set RUNPOD_REST_VERSION=v2, or read them over SSH")

    def catalogue(self) -> Known[Catalogue] | Unknown:
        if self._catalogue_source is None:
            return Unknown(UnsupportedError("REST v1 has no GPU catalogue; set RUNPOD_REST_VERSION=v2"))
        return self._catalogue_source.catalogue()

    def volumes(self) -> ListResult[Volume]:
        return list_result(
            lambda: tuple(
                Volume(
                    id=item.required_text("id"),
                    name=item.text("name"),
                    size_gb=item.integer("size") or 0,
                    data_center_id=item.text("dataCenterId"),
                )
                for item in self._array("/v1/networkvolumes")
            )
        )

    def billing(self, *, start: datetime, end: datetime, pod_id: str | None = None) -> ListResult[BillingRecord]:
        params: dict[str, object] = {
            "startTime": start.isoformat().replace("+00:00", "Z"),
            "endTime": end.isoformat().replace("+00:00", "Z"),
            "bucketSize": "hour",
            "grouping": "podId",  # the default groups by GPU type and hides which pod cost what
        }
        if pod_id:
            params["podId"] = pod_id
        return list_result(lambda: tuple(map(_billing_from, self._array("/v1/billing/pods", params))))

    def _array(self, path: str, params: Json | None = None) -> tuple[JsonObject, ...]:
        body = self._ok("GET", path, params=params).body
        if not isinstance(body, list):
            raise UndecodableReplyError(
                f"GET {path}: the reply is not a list; is {self._transport.base_url} RunPod v1?"
            )
        return documents(body)

    def _ok(self, method: str, path: str, *, body: Json | None = None, params: Json | None = None) -> HttpReply:
        reply = self._transport.call(method, path, body=body, params=params)
        if reply.is_success:
            return reply
        message = JsonObject(reply.body).text("error", "message") or reply.text
        raise legacy_error(reply.status, message, f"{method} {path}")


def create_body(spec: PodSpec) -> Json:
    body: dict[str, object] = {
        "name": spec.name,
        "computeType": "GPU",
        "cloudType": spec.cloud.value,
        "gpuTypeIds": [spec.gpu_id],
        "gpuCount": spec.gpu_count,
        "containerDiskInGb": spec.container_disk_gb,
        "volumeInGb": 0 if spec.volume_id else spec.pod_volume_gb,
        "volumeMountPath": spec.mount_path,
        "env": dict(spec.env),
        "ports": list(spec.ports),
    }
    optional: dict[str, object] = {
        "imageName": spec.image,
        "templateId": spec.template_id,
        "containerRegistryAuthId": spec.registry_id,
        "networkVolumeId": spec.volume_id,
        "dataCenterIds": [spec.data_center_id] if spec.data_center_id else None,
        "dockerStartCmd": list(spec.start_command),
        "allowedCudaVersions": cuda_versions_from(spec.min_cuda_version) if spec.min_cuda_version else None,
    }
    return {**body, **{key: value for key, value in optional.items() if value}}


def pod_from(item: JsonObject) -> Pod:
    gpu, machine = item.document("gpu"), item.document("machine")
    mappings = _mappings(item)
    volume = item.document("networkVolume")
    ssh = next((m for m in mappings if m.private == 22 and m.public and m.ip), None)
    word = item.text("desiredStatus")
    status = status_of(word)
    if status is PodStatus.RUNNING and "22/tcp" in item.texts("ports") and ssh is None:
        status = PodStatus.STARTING
    return Pod(
        id=item.required_text("id"),
        name=item.text("name"),
        status=status,
        status_word=word,
        image=item.text("image", "imageName"),
        gpu_id=machine.text("gpuTypeId") or gpu.text("id", "displayName"),
        gpu_count=gpu.integer("count") or item.integer("gpuCount") or 0,
        cloud=_cloud(machine),
        data_center_id=machine.text("dataCenterId") or None,
        volume_id=volume.text("id") or item.text("networkVolumeId") or None,
        cost_per_hour=item.number("costPerHr", "adjustedCostPerHr"),
        created_at=item.timestamp("createdAt"),
        started_at=item.timestamp("lastStartedAt"),
        ports=mappings,
        ssh=SshAddress(ssh.ip, ssh.public) if ssh and ssh.ip and ssh.public else None,
        env=dict(item.document("env").pairs()),
    )


def _mappings(item: JsonObject) -> tuple[PortMapping, ...]:
    """The mapped ports; none for an exited pod or an empty publicIp.

    An exited pod still shows its old ports.
    """
    ip = item.text("publicIp") or None
    if item.text("desiredStatus") != "RUNNING" or ip is None:
        return ()
    return tuple(
        PortMapping(int(private), int(public), ip)
        for private, public in item.document("portMappings").pairs()
        if private.isdigit() and public.isdigit() and int(public) > 0
    )


def _cloud(machine: JsonObject) -> Cloud | None:
    if "secureCloud" not in machine:
        return None
    return Cloud.SECURE if machine.boolean("secureCloud") else Cloud.COMMUNITY


def _billing_from(item: JsonObject) -> BillingRecord:
    return BillingRecord(item.text("podId"), item.timestamp("time"), item.money("amount"))
