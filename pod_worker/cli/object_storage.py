"""Opens the object store of the settings; None when none is configured."""

from __future__ import annotations

import logging

from pod_worker.artifacts.object_store import ObjectStore, ObjectStoreError
from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.config import Settings

log = logging.getLogger(__name__)


def object_store(settings: Settings) -> ObjectStore | None:
    """None, with a warning, when no object store is configured.

    Runs without artifacts still work.
    """
    endpoint, access, secret = settings.minio_endpoint, settings.minio_access_key, settings.minio_secret_key
    if not endpoint:
        log.warning("MINIO_ENDPOINT is not set: artifacts cannot be stored")
        return None
    if not access or not secret:
        raise CommandError("MINIO_ENDPOINT needs MINIO_ACCESS_KEY and MINIO_SECRET_KEY beside it", ExitCode.USAGE)
    store = ObjectStore(
        endpoint,
        access.reveal(),
        secret.reveal(),
        settings.minio_bucket,
        settings.minio_region,
        settings.minio_public_endpoint,
    )
    try:
        store.ensure_bucket()
    except ObjectStoreError as error:
        log.warning("the object store does not answer yet: %s", error)
    return store
