"""The checks of @runpod/mcp-server 3.4.0, on REST v1 and on v2, over stdio."""

from __future__ import annotations

import sys
from typing import Any

import drive
from drive import GPU, IMAGE, KEY, URL, step
from mcp_client import McpServer

PROGRAM = sys.argv[1]


def server(version: str) -> McpServer:
    return McpServer(
        PROGRAM,
        {
            "RUNPOD_API_KEY": KEY,
            "RUNPOD_REST_VERSION": version,
            "RUNPOD_REST_API_URL": f"{URL}/v1",
            "RUNPOD_REST_V2_API_URL": f"{URL}/v2",
            "RUNPOD_PUBLIC_GRAPHQL_URL": f"{URL}/graphql",
            "RUNPOD_AUTHED_GRAPHQL_URL": f"{URL}/graphql",
        },
    )


def create(mcp: McpServer) -> dict[str, Any]:
    pod: dict[str, Any] = mcp.tool("create-pod", name="p", imageName=IMAGE, gpuTypeIds=[GPU], ports=["22/tcp"])
    return pod


def create_and_delete() -> str:
    for version in ("v1", "v2"):
        with server(version) as mcp:
            pod = create(mcp)
            assert pod["id"], pod
            gone = mcp.tool("delete-pod", podId=pod["id"])
            assert gone == {"success": True, "status": 204}, gone
    statuses = [request["status"] for request in drive.asked()]
    assert statuses == [201, 204, 201, 204]
    return "201, then 204 without body or content type, on v1 and v2"


def lists() -> str:
    for version in ("v1", "v2"):
        with server(version) as mcp:
            made = create(mcp)["id"]
            listed = mcp.tool("list-pods", name="p") if version == "v1" else mcp.tool("list-pods")
            assert made in [pod["id"] for pod in listed["items"]]
    return "bare array on v1, {pods, pagination} on v2"


def bill() -> str:
    with server("v2") as mcp:
        pod_id = create(mcp)["id"]
        step(7200)
        mcp.tool("delete-pod", podId=pod_id)
        billed = mcp.tool("get-billing", scope="pods", lastN=3)
    assert abs(billed["metadata"]["totals"]["gpuAmount"] - 2 * 0.69) < 0.01
    return "get-billing: records and metadata.totals"


CHECKS = {14: create_and_delete, 15: lists, 24: bill}

if __name__ == "__main__":
    drive.run("mcp 3.4.0", CHECKS)
