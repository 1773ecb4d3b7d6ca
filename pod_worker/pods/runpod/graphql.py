"""RunPod GraphQL, a legacy adapter and the catalogue of REST v1.

Address: `https://api.runpod.io/graphql`. Values are sent as variables, never inside the query text, so that
quotes in env values need no escaping. Queries request only fields that existing clients use. GraphQL has no
billing records and no logs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from datetime import datetime

from pod_worker.pods.catalogue import (
    BillingRecord,
    Catalogue,
    DataCenter,
    GpuOffer,
    LogLine,
    StockLevel,
    Volume,
    stock_of,
)
from pod_worker.pods.errors import (
    InvalidRequestError,
    PodNotFoundError,
    ProviderError,
    RequestRejectedError,
    ServerError,
    UnauthorizedError,
    UnsupportedError,
    is_missing_text,
)
from pod_worker.pods.json_view import JsonObject, UndecodableReplyError
from pod_worker.pods.pod import Cloud, Pod, PodSpec, PodStatus, PortMapping, SshAddress, status_of
from pod_worker.pods.provider import Known, ListResult, ReadResult, Unknown
from pod_worker.pods.read_results import all_named, list_result, read_result
from pod_worker.pods.runpod.legacy_wire import cuda_versions_from, legacy_error
from pod_worker.pods.runpod.transport import Json, Transport

_POD = """id name desiredStatus imageName env gpuCount costPerHr
  runtime { uptimeInSeconds ports { ip isIpPublic privatePort publicPort type } }
  machine { gpuDisplayName location }"""
LIST = f"query pods {{ myself {{ pods {{ {_POD} }} }} }}"
GET = f"query pod($input: PodFilter!) {{ pod(input: $input) {{ {_POD} }} }}"
VOLUMES = "query volumes { myself { networkVolumes { id name size dataCenterId } } }"
GPUS = """query gpus { gpuTypes {
  id displayName memoryInGb secureCloud communityCloud maxGpuCount securePrice communityPrice
  secure: lowestPrice(input: {gpuCount: 1, secureCloud: true}) { stockStatus }
  community: lowestPrice(input: {gpuCount: 1, secureCloud: false}) { stockStatus } } }"""
CENTERS = "query centers { dataCenters { id name location gpuAvailability { gpuTypeId stockStatus } } }"
CREATE = f"""mutation create($input: PodFindAndDeployOnDemandInput!) {{
  podFindAndDeployOnDemand(input: $input) {{ {_POD} }} }}"""
STOP = "mutation stop($input: PodStopInput!) { podStop(input: $input) { id desiredStatus } }"
START = "mutation start($input: PodResumeInput!) { podResume(input: $input) { id desiredStatus } }"
TERMINATE = "mutation terminate($input: PodTerminateInput!) { podTerminate(input: $input) }"


class RunpodGraphQL:
    api = "graphql"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        self._transport.close()

    def list(self) -> ListResult[Pod]:
        return list_result(
            lambda: tuple(map(pod_from, self._query(LIST).document("myself").required_documents("pods")))
        )

    def get(self, pod_id: str) -> ReadResult[Pod]:
        return read_result(lambda: self._pod(pod_id))

    def find_by_name(self, name: str) -> ReadResult[tuple[Pod, ...]]:
        return all_named(name, self.list())

    def create(self, spec: PodSpec) -> Pod:
        data = self._mutate(CREATE, create_input(spec))
        try:
            return pod_from(data.document("podFindAndDeployOnDemand"))
        except UndecodableReplyError as error:
            raise ServerError(f"the create was answered but {error}") from error

    def stop(self, pod_id: str) -> None:
        self._mutate(STOP, {"podId": pod_id})

    def start(self, pod_id: str) -> None:
        """Resume needs the GPU count.

        A host whose GPUs are taken answers with a capacity error.
        """
        self._mutate(START, {"podId": pod_id, "gpuCount": max(1, self._pod(pod_id).gpu_count)})

    def terminate(self, pod_id: str) -> None:
        self._mutate(TERMINATE, {"podId": pod_id})

    def logs(
        self, pod_id: str, *, tail: int = 100, since: str | None = None, follow: bool = False
    ) -> Iterator[LogLine]:
        raise UnsupportedError("GraphQL has no pod logs; set RUNPOD_REST_VERSION=v2, or read them over SSH")

    def catalogue(self) -> Known[Catalogue] | Unknown:
        try:
            return Known(self._catalogue())
        except ProviderError as error:
            return Unknown(error)
        except UndecodableReplyError as error:
            return Unknown(ServerError(str(error)))

    def volumes(self) -> ListResult[Volume]:
        return list_result(
            lambda: tuple(
                Volume(
                    id=item.required_text("id"),
                    name=item.text("name"),
                    size_gb=item.integer("size") or 0,
                    data_center_id=item.text("dataCenterId"),
                )
                for item in self._query(VOLUMES).document("myself").required_documents("networkVolumes")
            )
        )

    def billing(self, *, start: datetime, end: datetime, pod_id: str | None = None) -> ListResult[BillingRecord]:
        return Unknown(UnsupportedError("GraphQL has no billing records; set RUNPOD_REST_VERSION=v2"))

    def _pod(self, pod_id: str) -> Pod:
        data = self._query(GET, {"podId": pod_id})
        if "pod" in data and not data.document("pod"):
            raise PodNotFoundError(f"no pod {pod_id}", status=404)
        return pod_from(data.document("pod"))

    def _catalogue(self) -> Catalogue:
        centers = self._query(CENTERS).required_documents("dataCenters")
        stock: dict[str, dict[str, StockLevel]] = {}
        for center in centers:
            for gpu in center.documents("gpuAvailability"):
                stock.setdefault(gpu.text("gpuTypeId"), {})[center.text("id")] = stock_of(gpu.text("stockStatus"))
        gpus = tuple(_offer_from(item, stock) for item in self._query(GPUS).required_documents("gpuTypes"))
        return Catalogue(
            gpus, tuple(DataCenter(dc.text("id"), dc.text("name"), dc.text("location")) for dc in centers)
        )

    def _query(self, query: str, given: Json | None = None) -> JsonObject:
        return self._post(query, given, repeatable=True)

    def _mutate(self, mutation: str, given: Json) -> JsonObject:
        return self._post(mutation, given, repeatable=False)

    def _post(self, query: str, given: Json | None, *, repeatable: bool) -> JsonObject:
        body: dict[str, object] = {"query": query}
        if given is not None:
            body["variables"] = {"input": given}
        reply = self._transport.call("POST", "/graphql", body=body, repeatable=repeatable)
        answer = JsonObject(reply.body)
        errors = answer.documents("errors")
        if errors:
            raise error_from(errors[0], reply.status)
        if not reply.is_success:
            raise legacy_error(reply.status, reply.text, "graphql")
        if "data" not in answer:
            raise ServerError(f"graphql: answered {reply.status} without data", status=reply.status)
        return answer.document("data")


_INVALID_CODES = ("GRAPHQL_VALIDATION_FAILED", "BAD_USER_INPUT", "GRAPHQL_PARSE_FAILED")
_UNCLEAR_TEXT = re.compile(r"something went wrong|internal (server )?error|time(d )?out|try again", re.IGNORECASE)


def error_from(entry: JsonObject, status: int) -> ProviderError:
    """The error of one entry of `errors`.

    GraphQL errors are HTTP 200; the text or extensions.code tells the kind.
    """
    message = entry.text("message") or "no reason given"
    code = entry.document("extensions").text("code")
    if code == "UNAUTHENTICATED":
        return UnauthorizedError(f"graphql: {message}", status=status)
    if status not in (200, 400):
        return legacy_error(status, message, "graphql")
    known = legacy_error(500, message, "graphql")
    if not isinstance(known, ServerError):
        return known
    if is_missing_text(message):
        return PodNotFoundError(f"graphql: {message}", status=status)
    if status == 400 or code in _INVALID_CODES:
        return InvalidRequestError(f"graphql: {message}", status=status)
    if code == "RUNPOD" and not _UNCLEAR_TEXT.search(message):
        return RequestRejectedError(f"graphql: {message}", status=status)
    return ServerError(f"graphql: {message}", status=status)


def create_input(spec: PodSpec) -> Json:
    given: dict[str, object] = {
        "name": spec.name,
        "cloudType": spec.cloud.value,
        "gpuTypeId": spec.gpu_id,
        "gpuCount": spec.gpu_count,
        "containerDiskInGb": spec.container_disk_gb,
        "volumeInGb": 0 if spec.volume_id else spec.pod_volume_gb,
        "volumeMountPath": spec.mount_path,
        "env": [{"key": key, "value": value} for key, value in spec.env.items()],
        "ports": ",".join(spec.ports),
        "startSsh": "22/tcp" in spec.ports,
        "dockerArgs": shlex.join(spec.start_command),
    }
    optional: Mapping[str, object] = {
        "imageName": spec.image,
        "templateId": spec.template_id,
        "containerRegistryAuthId": spec.registry_id,
        "networkVolumeId": spec.volume_id,
        "dataCenterId": spec.data_center_id,
        "allowedCudaVersions": cuda_versions_from(spec.min_cuda_version) if spec.min_cuda_version else None,
    }
    return {**given, **{key: value for key, value in optional.items() if value}}


def pod_from(item: JsonObject) -> Pod:
    runtime, machine = item.document("runtime"), item.document("machine")
    ports = tuple(
        PortMapping(private, port.integer("publicPort"), port.text("ip") or None, port.text("type") or "tcp")
        for port in runtime.documents("ports")
        if (private := port.integer("privatePort")) is not None and port.boolean("isIpPublic")
    )
    ssh = next((port for port in ports if port.private == 22 and port.ip and port.public), None)
    word = item.text("desiredStatus")
    status = status_of(word)
    if status is PodStatus.RUNNING and not runtime:
        status = PodStatus.STARTING  # the image is being pulled
    return Pod(
        id=item.required_text("id"),
        name=item.text("name"),
        status=status,
        status_word=word,
        image=item.text("imageName"),
        gpu_id=machine.text("gpuDisplayName"),
        gpu_count=item.integer("gpuCount") or 0,
        cost_per_hour=item.number("costPerHr"),
        uptime_seconds=runtime.integer("uptimeInSeconds"),
        ports=ports,
        ssh=SshAddress(ssh.ip, ssh.public) if ssh and ssh.ip and ssh.public else None,
        env=dict(pair.partition("=")[::2] for pair in item.texts("env")),
    )


def _offer_from(item: JsonObject, stock: Mapping[str, Mapping[str, StockLevel]]) -> GpuOffer:
    offered = [cloud for cloud in Cloud if item.boolean(f"{cloud.value.lower()}Cloud")]
    return GpuOffer(
        id=item.required_text("id"),
        name=item.text("displayName"),
        memory_gb=item.integer("memoryInGb") or 0,
        price_per_hour={c: usd for c in offered if (usd := item.number(f"{c.value.lower()}Price")) is not None},
        max_count={c: item.integer("maxGpuCount") or 0 for c in offered},
        stock={c: stock_of(item.document(c.value.lower()).text("stockStatus")) for c in offered},
        stock_by_data_center=stock.get(item.text("id"), {}),
    )
