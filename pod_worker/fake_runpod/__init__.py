"""A fake RunPod that real clients cannot tell apart: REST v2 and v1, GraphQL, logs, bills, trouble on demand.

For tests and rehearsals at no cost. It imitates the control plane; what runs inside a pod is a runner's affair.
"""

from pod_worker.fake_runpod.account import DEFAULT_API_KEY, Account
from pod_worker.fake_runpod.faults import FaultKind, Rule
from pod_worker.fake_runpod.physics import Physics
from pod_worker.fake_runpod.rate_limit import Quotas
from pod_worker.fake_runpod.server import DEFAULT_PORT, Options, RunningFake, build_app, build_host, running, serve

__all__ = [
    "DEFAULT_API_KEY",
    "DEFAULT_PORT",
    "Account",
    "FaultKind",
    "Options",
    "Physics",
    "Quotas",
    "Rule",
    "RunningFake",
    "build_app",
    "build_host",
    "running",
    "serve",
]
