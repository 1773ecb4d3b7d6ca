"""The checks of @runpod/mcp-server 4.0.0 (REST v2), over stdio."""

from __future__ import annotations

import sys
import time
from typing import Any

import drive
from drive import GPU, IMAGE, KEY, URL, fault, raises, step
from mcp_client import McpServer, ToolError

PROGRAM = sys.argv[1]


def server() -> McpServer:
    graphql = f"{URL}/graphql"
    env = {"RUNPOD_PUBLIC_GRAPHQL_URL": graphql, "RUNPOD_AUTHED_GRAPHQL_URL": graphql}
    return McpServer(PROGRAM, {"RUNPOD_API_KEY": KEY, "RUNPOD_API_BASE_URL": URL, **env})


def create(mcp: McpServer) -> dict[str, Any]:
    body = {"name": "p", "image": IMAGE, "gpu": {"id": GPU, "count": 1}, "ports": ["22/tcp"]}
    pod: dict[str, Any] = mcp.tool("create-pod", body=body)
    return pod


def create_and_delete() -> str:
    with server() as mcp:
        pod = create(mcp)
        mcp.tool("delete-pod", id=pod["id"])
    assert [request["status"] for request in drive.asked()] == [201, 204]
    return "201, then 204"


def actions() -> str:
    with server() as mcp:
        pod_id = create(mcp)["id"]
        step(20)
        pod = mcp.tool("get-pod", id=pod_id)
        assert pod["actions"] == ["stop", "restart", "terminate"]
        refused = raises(ToolError, lambda: mcp.tool("pod-action", id=pod_id, body={"action": "start"}))
        assert "409" in str(refused) or "cannot start" in str(refused)
        assert mcp.tool("pod-action", id=pod_id, body={"action": "stop"})["actions"] == ["start", "terminate"]
        mcp.tool("pod-action", id=pod_id, body={"action": "terminate"})
    assert drive.pods() == []
    return "409 for start on RUNNING; actions follow the status"


def waits_and_retries() -> str:
    with server() as mcp:
        fault("too_many_requests", surface="v2", times=1, retry_after=1)
        started = time.monotonic()
        mcp.tool("list-pods")
        fault("too_many_requests", surface="v2", times=1, retry_after=1)
        create(mcp)
        assert time.monotonic() - started >= 2, "it did not wait"
        drive.fake("DELETE", "/requests")
        fault("http_error", surface="v2", method="GET", times=1, status=503)
        mcp.tool("list-pods")
        fault("http_error", surface="v2", method="POST", times=1, status=503)
        raises(ToolError, lambda: create(mcp))
    got = [(request["method"], request["status"]) for request in drive.asked()]
    assert got == [("GET", 503), ("GET", 200), ("POST", 503)], got
    assert len(drive.pods()) == 1
    return "waits on 429 for GET and POST; 503 tried again on GET only"


def logs() -> str:
    with server() as mcp:
        pod_id = create(mcp)["id"]
        drive.fake("POST", f"/pods/{pod_id}/logs", {"lines": ["a", "b", "c", "d"]})
        two = mcp.tool("stream-pod-logs", podId=pod_id, source="container", tail=2, maxWaitMs=3000)
        assert [item["line"] for item in two["items"]] == ["c", "d"]
        since = two["items"][0]["ts"]
        later = mcp.tool("stream-pod-logs", podId=pod_id, source="container", since=since, maxWaitMs=3000)
        assert [item["line"] for item in later["items"]] == ["c", "d"]
    return "tail and since"


def bill() -> str:
    with server() as mcp:
        pod_id = create(mcp)["id"]
        step(7200)
        mcp.tool("delete-pod", id=pod_id)
        billed = mcp.tool("list-pod-billing", podId=pod_id)
    assert billed["metadata"]["uniquePodCount"] == 1
    assert abs(billed["metadata"]["totals"]["gpuAmount"] - 2 * 0.69) < 0.01
    return "list-pod-billing"


def catalogue() -> str:
    with server() as mcp:
        raises(ToolError, lambda: mcp.tool("list-gpu-types", include=["AVAILABILITY"]))
        listed = mcp.tool("list-gpu-types", include=["AVAILABILITY"], product=["POD"])
        stock = {gpu["id"]: gpu["availability"] for gpu in listed["gpus"]}
        assert (len(stock), stock[GPU]) == (49, "HIGH")
        matrix = mcp.tool("get-capacity", gpuTypeIds=[GPU])
        assert matrix["items"][0]["cudaVersions"]["12.8"] == "AVAILABLE"
    return "400 without product, stock with it; get-capacity without a key"


CHECKS = {14: create_and_delete, 17: actions, 19: waits_and_retries, 22: catalogue, 23: logs, 24: bill}

if __name__ == "__main__":
    drive.run("mcp 4.0.0", CHECKS)
