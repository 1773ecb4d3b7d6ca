"""Trust on first use, per pod: the first host key is pinned.

A different key later is rejected. Pods are short-lived, so a global known_hosts would collect conflicts;
accepting any key would send secrets to any server that answers. A pod that was stopped and started has new keys:
its pin must be removed then.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Protocol


class HostKeyChangedError(Exception):
    def __init__(self, pod_id: str, pinned: str, offered: str) -> None:
        super().__init__(
            f"pod {pod_id} now shows host key {offered}, but {pinned} was pinned at the first connection; "
            "another server may be answering. If the pod was stopped and started since, run "
            f"`pod-worker pods ssh {pod_id} --forget-host-key`"
        )


class HostKeyPins(Protocol):
    def check(self, pod_id: str, offered: str) -> None:
        """Pin at first use. Raises HostKeyChangedError for any other key afterwards."""

    def forget(self, pod_id: str) -> None: ...


def fingerprint(key_type: str, key: bytes) -> str:
    """As `ssh-keygen -l` prints it."""
    digest = base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
    return f"{key_type} SHA256:{digest}"


class PinFolder:
    """One small file per pod."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self, pod_id: str, offered: str) -> None:
        pinned = self._pin(pod_id, offered)
        if pinned != offered:
            raise HostKeyChangedError(pod_id, pinned, offered)

    def forget(self, pod_id: str) -> None:
        self._path(pod_id).unlink(missing_ok=True)

    def _pin(self, pod_id: str, offered: str) -> str:
        """The pinned key.

        A hard link makes the first use atomic: one of two first connections wins.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".new") as fresh:
            fresh.write(offered)
            fresh.flush()
            try:
                os.link(fresh.name, self._path(pod_id))
            except FileExistsError:
                return self._path(pod_id).read_text()
        return offered

    def _path(self, pod_id: str) -> Path:
        return self._folder / f"{re.sub(r'[^A-Za-z0-9_-]', '_', pod_id)}.pin"
