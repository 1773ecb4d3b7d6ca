"""RunPod REST v2 (`https://api.runpod.io/v2`), the primary adapter.

Retries are in transport.py, wire names in v2_wire.py, created pods are recorded by launch/launcher.py. v2 has no
idempotency key, no spot pods and no server-side fallback to another GPU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

from pod_worker.pods.catalogue import BillingRecord, Catalogue, DataCenter, LogLine, Volume
from pod_worker.pods.errors import ProviderError, ServerError
from pod_worker.pods.json_view import JsonObject, UndecodableReplyError
from pod_worker.pods.pod import Cloud, Pod, PodSpec
from pod_worker.pods.provider import Absent, Known, ListResult, ReadResult, Unknown
from pod_worker.pods.read_results import all_named, list_result, read_result
from pod_worker.pods.runpod.event_stream import events
from pod_worker.pods.runpod.log_tail import follow_log
from pod_worker.pods.runpod.transport import HttpReply, Json, Transport, path_segment
from pod_worker.pods.runpod.v2_wire import billing_from, create_body, error_from, offer_from, pod_from

MAX_PAGES = 1000
FOLLOW_QUIET_SECONDS = 60.0
BACKLOG_QUIET_SECONDS = 2.0
BACKLOG_SECONDS = 10.0
"""The stream of a busy pod is never quiet; without `follow` it ends after this time."""


class RunpodV2:
    api = "v2"

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def close(self) -> None:
        self._transport.close()

    def list(self) -> ListResult[Pod]:
        return list_result(lambda: tuple(map(pod_from, self._pages("/v2/pods", "pods"))))

    def get(self, pod_id: str) -> ReadResult[Pod]:
        return read_result(lambda: pod_from(JsonObject(self._ok("GET", f"/v2/pods/{path_segment(pod_id)}").body)))

    def find_by_name(self, name: str) -> ReadResult[tuple[Pod, ...]]:
        return all_named(name, self.list())

    def create(self, spec: PodSpec) -> Pod:
        reply = self._ok("POST", "/v2/pods", body=create_body(spec))
        try:
            return pod_from(JsonObject(reply.body))
        except UndecodableReplyError as error:
            raise ServerError(f"create answered {reply.status} but {error}", status=reply.status) from error

    def stop(self, pod_id: str) -> None:
        self._ok("POST", f"/v2/pods/{path_segment(pod_id)}/action", body={"action": "stop"})

    def start(self, pod_id: str) -> None:
        self._ok("POST", f"/v2/pods/{path_segment(pod_id)}/action", body={"action": "start"})

    def terminate(self, pod_id: str) -> None:
        self._ok("DELETE", f"/v2/pods/{path_segment(pod_id)}")

    def catalogue(self) -> Known[Catalogue] | Unknown:
        try:
            return Known(self._catalogue())
        except ProviderError as error:
            return Unknown(error)

    def volumes(self) -> ListResult[Volume]:
        return list_result(
            lambda: tuple(
                Volume(
                    id=item.required_text("id"),
                    name=item.text("name"),
                    size_gb=item.integer("size") or 0,
                    data_center_id=item.text("dataCenter"),
                )
                for item in self._pages("/v2/network-volumes", "networkVolumes")
            )
        )

    def billing(self, *, start: datetime, end: datetime, pod_id: str | None = None) -> ListResult[BillingRecord]:
        params: dict[str, object] = {"startTime": _stamp(start), "endTime": _stamp(end), "bucketSize": "hour"}
        if pod_id:
            params["podId"] = pod_id
        return list_result(lambda: tuple(map(billing_from, self._pages("/v2/billing/pods", "records", params))))

    def logs(
        self, pod_id: str, *, tail: int = 100, since: str | None = None, follow: bool = False
    ) -> Iterator[LogLine]:
        return follow_log(
            lambda cursor: self._log_stream(pod_id, tail, cursor, follow),
            should_reopen=(lambda: self._is_alive(pod_id)) if follow else (lambda: False),
            pause=self._transport.pause_before_reconnect,
            since=since or "",
        )

    def _log_stream(self, pod_id: str, tail: int, cursor: str, follow: bool) -> Iterator[LogLine]:
        headers = {"Last-Event-ID": cursor} if cursor else {}
        lines = self._transport.stream(
            f"/v2/pods/{path_segment(pod_id)}/logs",
            params={"tail": tail},
            headers=headers,
            quiet_seconds=FOLLOW_QUIET_SECONDS if follow else BACKLOG_QUIET_SECONDS,
            total_seconds=float("inf") if follow else BACKLOG_SECONDS,
        )
        for event in events(_text_lines(lines)):
            entry = JsonObject(_json(event.data))
            yield LogLine(entry.text("source"), entry.text("line"), entry.text("ts") or event.id)

    def _is_alive(self, pod_id: str) -> bool:
        """Whether to follow further: until the provider reports that the pod is gone."""
        read = self.get(pod_id)
        return not isinstance(read, Absent) and not (isinstance(read, Known) and read.value.status.is_gone)

    def _catalogue(self) -> Catalogue:
        asked = {"include": "AVAILABILITY", "product": "POD"}
        by_cloud = {
            cloud: self._pages("/v2/catalog/gpus", "gpus", {**asked, "cloud": cloud.value}) for cloud in Cloud
        }
        community = {item.text("id"): item for item in by_cloud[Cloud.COMMUNITY]}
        gpus = tuple(offer_from(item, community.get(item.text("id"), item)) for item in by_cloud[Cloud.SECURE])
        centers = self._pages("/v2/catalog/datacenters", "dataCenters")
        return Catalogue(
            gpus, tuple(DataCenter(dc.text("id"), dc.text("name"), dc.text("region")) for dc in centers)
        )

    def _pages(self, path: str, key: str, params: Json | None = None) -> tuple[JsonObject, ...]:
        """All items of a list endpoint, over all pages if the server sends `pagination`."""
        found: tuple[JsonObject, ...] = ()
        asked: dict[str, object] = dict(params or {})
        for _ in range(MAX_PAGES):
            page = JsonObject(self._ok("GET", path, params=asked).body)
            found += page.required_documents(key)
            pagination = page.document("pagination")
            cursor = pagination.text("nextCursor")
            if not pagination.boolean("hasNextPage") or not cursor:
                return found
            asked["cursor"] = cursor
        raise ServerError(f"GET {path}: more than {MAX_PAGES} pages; the cursor does not end")

    def _ok(self, method: str, path: str, *, body: Json | None = None, params: Json | None = None) -> HttpReply:
        reply = self._transport.call(method, path, body=body, params=params)
        if reply.is_success:
            return reply
        raise error_from(reply, f"{method} {path}")


def _text_lines(lines: Iterator[str | HttpReply]) -> Iterator[str]:
    for line in lines:
        if isinstance(line, HttpReply):
            raise error_from(line, "logs")
        yield line


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return {"line": text}


def _stamp(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
