"""Seals the secrets of a job for the control plane."""

from __future__ import annotations

from collections.abc import Mapping

import requests

from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.sealing import SealError, seal
from pod_worker.submission.address import ControlPlaneAddress
from pod_worker.submission.errors import (
    JobInputError,
    SubmissionAccessError,
    SubmissionError,
    SubmissionOutageError,
)

TIMEOUT_SECONDS = 10.0


def sealed_values(secrets: Mapping[str, str], address: ControlPlaneAddress) -> dict[str, str]:
    """Sealed texts by name. Raises SubmissionError."""
    if not secrets:
        return {}
    public = _public_key(address)
    try:
        return {name: seal(public, name, value) for name, value in secrets.items()}
    except SealError as error:
        raise JobInputError(str(error)) from None


def _public_key(address: ControlPlaneAddress) -> str:
    url = address.url.rstrip("/")
    kind: type[SubmissionError] = SubmissionOutageError
    auth = BearerAuth(address.revealed_token)
    try:
        answer = requests.get(
            f"{url}/api/secrets/public-key", auth=auth, timeout=TIMEOUT_SECONDS, allow_redirects=False
        )
        kind = SubmissionAccessError if answer.status_code in (401, 403) else SubmissionError
        found = answer.json()
        if answer.status_code == 200:
            return str(found["public_key"])
        detail = str(found["detail"])[:500]
    except requests.JSONDecodeError:
        detail = f"the answer {answer.status_code} is not the control plane's: check CONTROL_PLANE_URL"
    except requests.RequestException as error:
        detail = (
            f"no answer from {url} ({type(error).__name__}): start the control plane with `pod-worker up`, or set "
            "CONTROL_PLANE_URL"
        )
    except (KeyError, TypeError):
        detail = f"{url} is no control plane of this version: check CONTROL_PLANE_URL"
    raise kind(f"the secrets cannot be sealed: {detail}")
