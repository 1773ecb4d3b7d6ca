"""A client of MCP servers over stdio: JSON-RPC lines to a child process and back. Standard library only."""

from __future__ import annotations

import json
import os
import subprocess
from types import TracebackType
from typing import Any


class McpServer:
    def __init__(self, program: str, env: dict[str, str]) -> None:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._process = subprocess.Popen(
            ["node", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=kept | env,
            text=True,
        )
        self._next_id = 0
        info = {"name": "conformance", "version": "1"}
        self.request("initialize", {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": info})
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def __enter__(self) -> McpServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.terminate()
        self._process.wait(10)

    def tool(self, name: str, /, **arguments: Any) -> Any:
        """What the tool answers, decoded. Raises ToolError when it says that it failed."""
        answer = self.request("tools/call", {"name": name, "arguments": arguments})
        text = answer["content"][0]["text"]
        try:
            decoded = json.loads(text)
        except ValueError:
            decoded = text
        if answer.get("isError"):
            raise ToolError(text)
        return decoded

    def request(self, method: str, params: dict[str, Any]) -> Any:
        self._next_id += 1
        self._send({"jsonrpc": "2.0", "id": self._next_id, "method": method, "params": params})
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if message.get("id") == self._next_id:
                if "error" in message:
                    raise ToolError(json.dumps(message["error"]))
                return message["result"]
        raise ToolError("the MCP server ended")

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()


class ToolError(Exception):
    pass
