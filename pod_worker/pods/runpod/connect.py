"""The adapter of each API; a setting chooses one, because accounts differ.

v2 is the default. The others are for accounts whose tools still need them; they raise `ApiRetiredError` once
RunPod has retired them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from pod_worker.core.clock import Clock
from pod_worker.pods.provider import PodProvider
from pod_worker.pods.runpod.graphql import RunpodGraphQL
from pod_worker.pods.runpod.transport import DEFAULT_RETRY_POLICY, HttpRetryPolicy, Transport
from pod_worker.pods.runpod.v1 import RunpodV1
from pod_worker.pods.runpod.v2 import RunpodV2

DEFAULT_API = "v2"
API_ROOTS: Mapping[str, str] = {
    "v2": "https://api.runpod.io",
    "v1": "https://rest.runpod.io",
    "graphql": "https://api.runpod.io",
}


def connect(
    api: str,
    api_key: str,
    *,
    root: str | None = None,
    clock: Clock,
    sleep: Callable[[float], None],
    rng: random.Random,
    retry_policy: HttpRetryPolicy = DEFAULT_RETRY_POLICY,
) -> PodProvider:
    """A provider for `api` (v2, v1 or graphql).

    `root` replaces the host, without any version in its path.

    Sends nothing yet. Raises ValueError for an unknown api or an empty key.
    """

    def transport(of: str) -> Transport:
        return Transport(
            root or API_ROOTS[of], api_key, clock=clock, sleep=sleep, rng=rng, retry_policy=retry_policy
        )

    match api:
        case "v2":
            return RunpodV2(transport("v2"))
        case "v1":
            return RunpodV1(transport("v1"), catalogue_source=RunpodGraphQL(transport("graphql")))
        case "graphql":
            return RunpodGraphQL(transport("graphql"))
    raise ValueError(f"unknown RunPod API {api!r}; use one of {', '.join(API_ROOTS)} (RUNPOD_REST_VERSION)")
