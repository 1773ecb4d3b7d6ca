"""Seals the secrets of a job for the control plane."""

from __future__ import annotations

from collections.abc import Mapping

import requests

from pod_worker.cli.composition import load_settings
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.config import Settings
from pod_worker.core.credentials.bearer import BearerAuth
from pod_worker.core.credentials.secret import revealed
from pod_worker.sealing import SealError, seal

TIMEOUT_SECONDS = 10.0


def sealed_values(secrets: Mapping[str, str]) -> dict[str, str]:
    """Sealed texts by name. Raises CommandError."""
    if not secrets:
        return {}
    public = _public_key(load_settings())
    try:
        return {name: seal(public, name, value) for name, value in secrets.items()}
    except SealError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None


def _public_key(settings: Settings) -> str:
    url = settings.control_plane_url.rstrip("/")
    code = ExitCode.TEMPORARY
    auth = BearerAuth(revealed(settings.control_plane_token))
    try:
        answer = requests.get(
            f"{url}/api/secrets/public-key", auth=auth, timeout=TIMEOUT_SECONDS, allow_redirects=False
        )
        code = ExitCode.AUTH if answer.status_code in (401, 403) else ExitCode.FAILED
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
    raise CommandError(f"the secrets cannot be sealed: {detail}", code)
