"""The name of every collection, once."""

from __future__ import annotations

RUNS = "runs"
QUEUES = "queues"
WORKERS = "workers"
EVENTS = "events"
DEAD_LETTERS = "events_dead"
STAGES = "stages"
METRICS = "metrics"
VALIDATIONS = "validations"
ARTIFACTS = "artifacts"
ARTIFACT_KEYS = "artifact_keys"
HYPOTHESES = "hypotheses"
IDEATION_REQUESTS = "ideation_requests"
POD_INTENTS = "pod_intents"
PENDING_PROJECTIONS = "pending_projections"
