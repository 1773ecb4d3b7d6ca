"""pod_worker: multi-hour GPU runs on rented pods. See docs/architecture.md."""

__version__ = "0.1.0"
