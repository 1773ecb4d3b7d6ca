"""Settings of the environment, else of the local stack that runs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from pod_worker.config import SettingOrigin, Settings, load_with_origins
from pod_worker.local.description import StackDescription, read_description, read_keys

LOCAL_DATA = "~/.pod_worker/local"


def local_data_dir(given: Path | None = None) -> Path:
    """The folder of the local stack: given, POD_WORKER_DATA, or in the home folder."""
    return (given or Path(os.environ.get("POD_WORKER_DATA") or LOCAL_DATA)).expanduser().resolve()


def load_settings() -> Settings:
    """Settings of the environment.

    Without MONGODB_URL they are those of the running local stack.
    """
    return load_settings_with_origins()[0]


def load_settings_with_origins() -> tuple[Settings, list[SettingOrigin]]:
    settings, origins = load_with_origins()
    if settings.mongodb_url:
        return settings, origins
    folder = local_data_dir()
    stack = read_description(folder)
    if stack is None:
        return settings, origins
    filled_in = {name: value for name, value in _stack_variables(stack).items() if not os.environ.get(name)}
    settings, origins = load_with_origins({**os.environ, **filled_in})
    source = f"local stack {folder}"
    return settings, [replace(each, source=source) if each.name in filled_in else each for each in origins]


def _stack_variables(stack: StackDescription) -> dict[str, str]:
    """The settings with which commands reach a local stack."""
    values = {
        "MONGODB_URL": stack.mongodb_url,
        "CONTROL_PLANE_URL": stack.control_plane_url,
        "CONTROL_PLANE_TOKEN": stack.token,
    }
    if keys := read_keys(stack.s3_keys_file):
        access, secret = keys
        values |= {"MINIO_ENDPOINT": stack.s3_url, "MINIO_BUCKET": stack.s3_bucket}
        values |= {"MINIO_ACCESS_KEY": access, "MINIO_SECRET_KEY": secret}
    return {name: value for name, value in values.items() if value}
