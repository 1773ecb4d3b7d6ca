"""The control plane: ingest, projections, read API and live view in one app."""
