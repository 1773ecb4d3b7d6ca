"""Where the control plane is, and the key for it."""

from __future__ import annotations

from dataclasses import dataclass

from pod_worker.content.upload_client import RETRY_SECONDS, ContentClient
from pod_worker.core.credentials.secret import Secret, revealed


@dataclass(frozen=True, slots=True)
class ControlPlaneAddress:
    """`token` is CONTROL_PLANE_TOKEN; None on an open loopback stack."""

    url: str
    token: Secret | None

    @property
    def revealed_token(self) -> str | None:
        return revealed(self.token)

    def content_client(self, retry_seconds: float = RETRY_SECONDS) -> ContentClient:
        return ContentClient(self.url, self.revealed_token, retry_seconds=retry_seconds)
